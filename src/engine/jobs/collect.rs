//! Collection: chunks that nothing needs are let go.
//!
//! ```text
//!   mark     what every recipe of a superversion refers to (L8)
//!   condemn  the packs that it has not met, in whole or in part: writers store their chunks anew from now on
//!   mark     again: what writers hold, and then every recipe of a superversion taken after that (L9)
//!   for each group of packs, those of which least is needed first:
//!     copy   what the mark has met in them
//!     edit   packs − and +, places +
//! ```

use std::sync::{Arc, atomic::Ordering};

use super::{
    garbage::{SMALL, are_small_many, rest},
    recipes::each_recipe,
};
use crate::{
    base::{Error, FileNumber, Result},
    chunk::pack::PackMeta,
    engine::{
        Engine,
        files::{
            NewFiles,
            chunks::{NamedPlace, PackHandle, damage, sort_places, write_places},
            copies::{PACK_BYTES, PackCopies},
            superversion::SuperVersion,
        },
        read::{Records, References},
        watch::Watch,
    },
    manifest::{Change, Edit},
    segment::SegmentMeta,
};

/// Packs that one edit replaces.
const PACKS_MAX: usize = 1024;

/// Packs that a collection lets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Those of which nothing is needed: no byte is copied.
    Dead,
    /// Those of which a quarter is not needed, and small ones if there are many. Rests in between.
    Worth,
    /// Those of which anything is not needed, and small ones if there are many.
    All,
}

/// Lets go of chunks that nothing needs; returns the packs that stay because something that is needed of them cannot be
/// read.
///
/// # Errors
/// If a recipe or a node cannot be read: nobody knows what it refers to, so that everything stays.
pub(super) fn collect(engine: &Engine, extent: Extent, watch: &mut Watch<'_>) -> Result<Vec<FileNumber>> {
    // One at a time: each condemns packs, and takes back those that stay.
    let waiting = engine.jobs.garbage.wait();
    let _one = engine.jobs.collecting.lock();
    drop(waiting);
    let first = engine.files.current();
    if first.version.packs.is_empty() {
        return Ok(Vec::new());
    }
    watch.begin_part(first.version.packs.values().map(|pack| pack.file_len).sum());
    let marked = mark(engine, &first, watch)?;
    marked.check_complete()?;
    let merges = are_small_many(&first.version);
    let packs = first.version.packs.values();
    let (wasteful, others): (Vec<&PackMeta>, Vec<&PackMeta>) =
        packs.partition(|pack| wastes(pack, &marked, extent, merges));
    let condemned: Vec<FileNumber> = wasteful.iter().map(|pack| pack.number).collect();
    let live = |packs: &[&PackMeta]| packs.iter().map(|pack| needed_bytes(pack, &marked)).sum::<u64>();
    let left: u64 = others.iter().map(|pack| pack.stored_bytes).sum();
    engine.jobs.garbage.record_found(live(&wasteful) + live(&others), left - live(&others));
    drop((wasteful, others));
    drop((marked, first));
    let collected = if condemned.is_empty() {
        watch.end_part().map(|()| Vec::new())
    } else {
        engine.ctx.pass("collect: marked, then condemned");
        engine.store.condemn(condemned.iter().copied());
        engine.ctx.pass("collect: condemned, then marked again");
        collect_condemned(engine, &condemned, extent, merges, watch)
    };
    // If the outcome of an edit is in doubt, both old and new packs stay (L10), and so does what is condemned.
    let is_certain = !engine.files.edit().manifest().in_doubt() && engine.health.check_writable().is_ok();
    if is_certain {
        engine.store.pardon_all();
    }
    collected
}

/// Lets go of what nothing needs in condemned packs.
fn collect_condemned(
    engine: &Engine,
    condemned: &[FileNumber],
    extent: Extent,
    merges: bool,
    watch: &mut Watch<'_>,
) -> Result<Vec<FileNumber>> {
    // Taken before the superversion: what a writer commits in between is in that. No recipe comes to need a condemned
    // pack afterwards, so that one mark serves for all edits.
    let frontiers = engine.store.frontiers();
    engine.ctx.pass("collect: writers, then files");
    let files = engine.files.current();
    let mut marked = mark(engine, &files, watch)?;
    for frontier in &frontiers {
        marked.add_frontier(&files.chunks, frontier, &|| check_not_stopping(engine))?;
    }
    marked.check_complete()?;
    // What the first mark has not met and this one has may make a pack needed as it is.
    let packs = condemned.iter().filter_map(|number| files.version.packs.get(number));
    let packs = packs.filter(|pack| wastes(pack, &marked, extent, merges));
    let packs: Vec<_> = packs.map(|pack| (needed_bytes(pack, &marked), pack.number)).collect();
    // The files of packs that are gone are removed with their last reader.
    drop(files);
    let (all, mut done, mut kept) = (packs.len() as u64, 0, Vec::new());
    for group in groups(packs, PACK_BYTES, PACKS_MAX) {
        let began = engine.ctx.monotonic();
        kept.extend(replace_group(engine, &group, &marked)?);
        done += group.len() as u64;
        watch.step(done, all)?;
        if extent == Extent::Worth && done < all && !rest(engine, began) {
            // Whoever waits collects the rest, unless that is cancelled.
            engine.jobs.garbage.record_unknown();
            break;
        }
    }
    watch.end_part()?;
    Ok(kept)
}

/// Returns whether a pack is to be replaced; `merges` says that small ones are put together.
fn wastes(pack: &PackMeta, marked: &References, extent: Extent, merges: bool) -> bool {
    let Some(needed) = marked.of(pack.number) else { return true };
    let wastes = match extent {
        Extent::Dead => return false,
        Extent::Worth => needed_bytes(pack, marked) <= pack.stored_bytes / 4 * 3,
        Extent::All => needed.count() < pack.records,
    };
    wastes || merges && pack.stored_bytes < SMALL
}

/// Returns how many bytes of a pack are needed.
fn needed_bytes(pack: &PackMeta, marked: &References) -> u64 {
    marked.of(pack.number).map_or(0, Records::bytes).min(pack.stored_bytes)
}

/// Divides packs, each with what is needed of it, into groups to be replaced together. Those of which nothing is needed
/// go first, those of which most is needed last: on a full disk the former make room for copies of the latter. A group
/// of several needs at most `bytes_max`.
fn groups(mut packs: Vec<(u64, FileNumber)>, bytes_max: u64, packs_max: usize) -> Vec<Vec<FileNumber>> {
    packs.sort_unstable();
    let mut groups: Vec<Vec<FileNumber>> = Vec::new();
    let mut bytes = 0u64;
    for (needed, number) in packs {
        // The first that needs something is not in one group with those that need nothing.
        let begins = bytes == 0 && needed > 0;
        bytes = bytes.saturating_add(needed);
        match groups.last_mut() {
            Some(group) if !begins && bytes <= bytes_max && group.len() < packs_max => group.push(number),
            _ => {
                groups.push(vec![number]);
                bytes = needed;
            }
        }
    }
    groups
}

/// Fails once a long call should give up: closing waits for it.
pub(in crate::engine) fn check_going_on(engine: &Engine) -> Result<()> {
    check_not_stopping(engine)?;
    engine.health.check_writable()
}

/// Fails once the database is being closed.
pub(super) fn check_not_stopping(engine: &Engine) -> Result<()> {
    if engine.health.is_stopping() { Err(Error::Closed) } else { engine.check_open() }
}

/// Replaces packs by what is needed of them: together, or one by one where the disk has no room for all. Returns those
/// that stay.
fn replace_group(engine: &Engine, group: &[FileNumber], marked: &References) -> Result<Vec<FileNumber>> {
    match replace(engine, group, marked) {
        Err(Error::DiskFull) if group.len() > 1 => {
            let mut kept = Vec::new();
            for pack in group.chunks(1) {
                kept.extend(replace(engine, pack, marked)?);
            }
            Ok(kept)
        }
        replaced => replaced,
    }
}

/// Replaces packs by what is needed of them, in one edit; returns those that stay.
fn replace(engine: &Engine, dead: &[FileNumber], marked: &References) -> Result<Vec<FileNumber>> {
    check_going_on(engine)?;
    let files = engine.files.current();
    let known: Vec<&Arc<PackHandle>> = dead.iter().filter_map(|pack| files.chunks.packs.get(pack)).collect();
    let mut made = NewFiles::default();
    let copied = copy_needed(engine, &files, marked, &known, &mut made);
    let Moved { gone, packs, places } = copied.inspect_err(|_| engine.files.discard(&made))?;
    let numbers = known.iter().map(|handle| handle.meta.number);
    let kept: Vec<FileNumber> = numbers.filter(|number| !gone.contains(number)).collect();
    if gone.is_empty() && packs.is_empty() {
        return Ok(kept);
    }
    engine.ctx.pass("collect: copied, then placed");
    // Only one at a time writes places (L6); flushes wait for no copy.
    let _one = engine.jobs.flushing.lock();
    let places = place(engine, places, &mut made).inspect_err(|_| engine.files.discard(&made))?;
    engine.ctx.pass("collect under the right to flush: written, then installed");
    let mut editing = engine.files.edit();
    let mut edit = Edit::new(gone.iter().map(|pack| Change::RemovePack { number: *pack }));
    let copied: u64 = packs.iter().map(|pack| pack.stored_bytes).sum();
    engine.store.counts.copied_bytes.fetch_add(copied, Ordering::Relaxed);
    edit.changes.extend(packs.into_iter().map(|pack| Change::AddPack { pack }));
    edit.changes.extend(places.map(|segment| Change::Add { level: 0, segment }));
    edit.push(engine.files.numbers_taken());
    let version = editing.commit(&edit, &made)?;
    editing.install(&version, None, None);
    drop(editing);
    drop(files);
    engine.files.reclaim();
    Ok(kept)
}

/// What takes the place of packs.
struct Moved {
    gone: Vec<FileNumber>,
    packs: Vec<PackMeta>,
    places: Vec<NamedPlace>,
}

/// Copies what is needed of some packs into others. A pack of which something needed cannot be read stays, without
/// what was copied of it.
fn copy_needed(
    engine: &Engine,
    files: &SuperVersion,
    marked: &References,
    dead: &[&Arc<PackHandle>],
    made: &mut NewFiles,
) -> Result<Moved> {
    let mut gone = Vec::new();
    let mut copies = PackCopies::new(&engine.ctx, &*engine.ctx.dir);
    for handle in dead {
        let is_copied = match marked.of(handle.meta.number) {
            // What is nowhere may be here, if the pack cannot tell what it holds.
            None => !marked.misses_chunks() || handle.lines().is_ok(),
            Some(needed) => copy_records(engine, files, handle, needed, &mut copies, made)?,
        };
        if is_copied {
            gone.push(handle.meta.number);
        }
    }
    let (packs, places) = copies.finish()?;
    if !packs.is_empty() {
        engine.files.sync_pack_names()?;
    }
    Ok(Moved { gone, packs, places })
}

/// Writes the places of copies.
fn place(engine: &Engine, mut places: Vec<NamedPlace>, made: &mut NewFiles) -> Result<Option<SegmentMeta>> {
    if places.is_empty() {
        return Ok(None);
    }
    let seqno = engine.log.take_seqno(&mut engine.log.lock())?;
    let number = engine.files.take_number();
    made.segments.push(number);
    sort_places(&mut places);
    let segment = write_places(&engine.ctx, &*engine.ctx.dir, number, seqno, &places)?;
    engine.files.sync_names()?;
    Ok(segment)
}

/// Copies records of a pack, in the order of their offsets; returns whether all could be read.
fn copy_records(
    engine: &Engine,
    files: &SuperVersion,
    handle: &PackHandle,
    needed: &Records,
    copies: &mut PackCopies<'_>,
    made: &mut NewFiles,
) -> Result<bool> {
    let lines = match handle.lines() {
        Err(error) if damage(&error).is_some() => return Ok(false),
        lines => lines?,
    };
    let mut needed = match needed.of(&lines, &files.chunks) {
        Err(error) if damage(&error).is_some() => return Ok(false),
        needed => needed?,
    };
    needed.sort_unstable_by_key(|line| line.offset);
    let (mut all, mut room) = (true, Vec::new());
    for line in needed {
        check_going_on(engine)?;
        let chunk = match handle.pack()?.reader().stored(&line.into(), &mut room) {
            Err(error) if damage(&error).is_some() => {
                all = false;
                continue;
            }
            chunk => chunk?,
        };
        copies.append(&chunk, || made.take_pack(&engine.files))?;
    }
    Ok(all)
}

/// Returns what the recipes of a superversion refer to.
fn mark(engine: &Engine, files: &Arc<SuperVersion>, watch: &mut Watch<'_>) -> Result<References> {
    let mut marked = References::default();
    let go_on = || check_not_stopping(engine);
    each_recipe(engine, files, watch, |keyspace, key, recipe| {
        marked.add(&files.chunks, (keyspace, key), recipe, &go_on)
    })?;
    Ok(marked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_packs_go_first_and_no_group_of_several_needs_more_than_its_bound() {
        let packs = [50, 0, 60, 10, 0, 500, 40, 0].into_iter().zip(1..).map(|(needed, n)| (needed, FileNumber(n)));
        let grouped = |packs_max| -> Vec<Vec<u64>> {
            let groups = groups(packs.clone().collect(), 100, packs_max);
            groups.iter().map(|group| group.iter().map(|number| number.0).collect()).collect()
        };
        assert_eq!(grouped(9), [vec![2, 5, 8], vec![4, 7, 1], vec![3], vec![6]]);
        assert_eq!(grouped(2), [vec![2, 5], vec![8], vec![4, 7], vec![1], vec![3], vec![6]]);
        assert!(groups(Vec::new(), 100, 9).is_empty());
    }
}
