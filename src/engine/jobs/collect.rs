//! Collection: chunks that nothing needs are let go.
//!
//! ```text
//!   mark     what every recipe of a superversion refers to (L8)
//!   condemn  the packs that it has not met: writers that begin from now on store their chunks anew
//!   wait     for the writers that began before: what they have found is in a memtable then, or given up
//!   mark     again, over a superversion taken after that (L9)
//!   copy     what this has met in the condemned packs
//!   edit     packs − and +, places +
//! ```

use std::{sync::Arc, time::Duration};

use crate::{
    base::{Error, FileNumber, Kind, Micros, Result, Seqno},
    chunk::{
        pack::{PackMeta, PackWriter},
        record::EncodedChunk,
    },
    engine::{
        Engine, KeyspaceRef,
        files::{
            NewFiles,
            chunks::{NamedPlace, PackHandle, damage, sort_places, write_places},
            superversion::SuperVersion,
        },
        read::References,
    },
    manifest::{Change, Edit},
    memtable::MemCursor,
    merge::{Direction, Source},
    segment::{SegmentCursor, SegmentMeta, VersionCursor},
};

/// Packs that one edit replaces: what is needed of them is in memory as places.
const PACKS_MAX: usize = 64;

/// Longest time that a collection waits for writers, in microseconds, and interval at which it looks.
const WAIT: Micros = Micros(1_000_000);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Bytes after which a pack of copies is ended.
const PACK_BYTES: u64 = 64 << 20;

/// Lets go of every chunk that nothing needs. A pack to which a writer under way may still refer stays for now.
pub(super) fn collect(engine: &Engine) -> Result<()> {
    let first = engine.files.current();
    if first.version.packs.is_empty() {
        return Ok(());
    }
    let marked = mark(engine, &first)?;
    if marked.is_incomplete() {
        return Ok(());
    }
    let wastes = |pack: &&PackMeta| marked.of(pack.number).is_none_or(|needed| needed.count() < pack.records);
    let condemned: Vec<FileNumber> = first.version.packs.values().filter(wastes).map(|pack| pack.number).collect();
    engine.store.condemn(condemned.iter().copied());
    let all = condemned.clone();
    drop((marked, first));
    engine.ctx.pass("collect: condemned, then marked again");
    let condemned = wait_for_writers(engine, condemned);
    let mut collected = Ok(());
    for dead in condemned.chunks(PACKS_MAX) {
        collected = engine.health.check_writable().and_then(|()| replace(engine, dead));
        if collected.is_err() {
            break;
        }
    }
    // If the outcome of an edit is in doubt, both old and new packs stay (L10), and so does what is condemned.
    if collected.is_ok() {
        engine.store.pardon(all);
    }
    collected
}

/// Waits a while for the writers that began before packs were condemned; returns the packs to which none of them may
/// refer any more. A stream may go on for hours: then its packs are left to a later collection.
fn wait_for_writers(engine: &Engine, condemned: Vec<FileNumber>) -> Vec<FileNumber> {
    let began = engine.ctx.monotonic();
    loop {
        let free = engine.store.unwritten();
        let waited = engine.ctx.monotonic().saturating_sub(began) >= WAIT;
        let all = condemned.iter().all(|pack| free.contains(pack));
        if all || waited || engine.ctx.runs_inline() || engine.health.is_stopping() {
            return condemned.into_iter().filter(|pack| free.contains(pack)).collect();
        }
        engine.store.wait_for_writers(LOOK_AGAIN);
    }
}

/// Replaces packs by what is needed of them, in one edit.
fn replace(engine: &Engine, dead: &[FileNumber]) -> Result<()> {
    // Only one at a time writes places (L6).
    let _one = engine.jobs.flushing.lock();
    // Another collection may have taken some of them back in the meantime.
    let still = engine.store.unwritten();
    let dead: Vec<FileNumber> = dead.iter().copied().filter(|pack| still.contains(pack)).collect();
    // Taken after the writers were asked for: what they have committed is in it.
    let files = engine.files.current();
    let marked = mark(engine, &files)?;
    let known: Vec<&Arc<PackHandle>> = dead.iter().filter_map(|pack| files.chunks.packs.get(pack)).collect();
    if marked.is_incomplete() || known.is_empty() {
        return Ok(());
    }
    let mut made = NewFiles::default();
    let moved = copy_needed(engine, &files, &marked, &known, &mut made);
    let Moved { gone, packs, places } = moved.inspect_err(|_| engine.files.discard(&made))?;
    engine.ctx.pass("collect under the right to flush: written, then installed");
    let mut editing = engine.files.edit();
    let mut edit = Edit::new(gone.iter().map(|pack| Change::RemovePack { number: *pack }));
    edit.changes.extend(packs.into_iter().map(|pack| Change::AddPack { pack }));
    edit.changes.extend(places.map(|segment| Change::Add { level: 0, segment }));
    edit.push(engine.files.numbers_taken());
    let version = editing.commit(&edit, &made)?;
    editing.install(&version, None, None);
    drop(editing);
    engine.store.record_gone(gone);
    engine.files.reclaim();
    Ok(())
}

/// What takes the place of packs.
struct Moved {
    gone: Vec<FileNumber>,
    packs: Vec<PackMeta>,
    places: Option<SegmentMeta>,
}

/// Copies what is needed of some packs into others. A pack of which something needed cannot be read stays as it is.
fn copy_needed(
    engine: &Engine,
    files: &SuperVersion,
    marked: &References,
    dead: &[&Arc<PackHandle>],
    made: &mut NewFiles,
) -> Result<Moved> {
    let (mut gone, mut writers, mut room) = (Vec::new(), Vec::<PackWriter>::new(), Vec::new());
    for handle in dead {
        if engine.health.is_stopping() {
            return Err(Error::Closed);
        }
        let number = handle.meta.number;
        let needed = match marked.of(number) {
            None => Vec::new(),
            // Needed as it is, after all.
            Some(needed) if needed.count() >= handle.meta.records => continue,
            Some(needed) => {
                let mut read = || -> Result<Vec<EncodedChunk>> {
                    let pack = handle.pack()?;
                    let lines = pack.lines()?;
                    let needed = needed.of(&lines, &files.chunks)?;
                    needed.into_iter().map(|line| pack.reader().stored(&line.into(), &mut room)).collect()
                };
                match read() {
                    Err(error) if damage(&error).is_some() => continue,
                    read => read?,
                }
            }
        };
        for chunk in needed {
            if writers.last().is_none_or(|pack| !pack.has_room(&chunk) || pack.end() >= PACK_BYTES) {
                let number = engine.files.take_number();
                made.packs.push(number);
                writers.push(PackWriter::create(&*engine.ctx.dir, number, engine.ctx.env.entropy())?);
            }
            if let Some(pack) = writers.last_mut() {
                pack.append(&chunk)?;
            }
        }
        gone.push(number);
    }
    let (mut packs, mut places) = (Vec::new(), Vec::new());
    for mut pack in writers {
        let meta = pack.seal()?;
        pack.sync()?;
        let mut lines = pack.lines().to_vec();
        lines.sort_unstable_by_key(|line| line.id);
        places.extend(NamedPlace::of(meta.number, &lines));
        packs.push(meta);
    }
    let mut segment = None;
    if !packs.is_empty() {
        engine.files.sync_pack_names()?;
        let seqno = engine.log.take_seqno(&mut engine.log.lock())?;
        let number = engine.files.take_number();
        made.segments.push(number);
        sort_places(&mut places);
        segment = write_places(&engine.ctx, &*engine.ctx.dir, number, seqno, &places)?;
        engine.files.sync_names()?;
    }
    Ok(Moved { gone, packs, places: segment })
}

/// Returns what the recipes of a superversion refer to: of every keyspace, dropped ones too, in both tiers and all
/// memtables.
fn mark(engine: &Engine, files: &Arc<SuperVersion>) -> Result<References> {
    let mut marked = References::default();
    for (id, tree) in files.trees.iter() {
        let Some(keyspace) = files.version.keyspaces.get(id).filter(|keyspace| !keyspace.is_hidden()) else {
            continue;
        };
        // Of a strategy that this process was not given: it combines values, which are never cut.
        let Ok(keyspace) = engine.catalogue.keyspace_ref(keyspace) else { continue };
        for memtable in files.memtables(Seqno::MAX) {
            add(engine, files, &keyspace, MemCursor::new(memtable, *id, Direction::Forward), &mut marked)?;
        }
        for handle in tree.segments().filter(|handle| handle.meta.summary.recipes) {
            let segment = Arc::clone(handle.segment()?);
            if handle.meta.summary.history.is_some() {
                add(engine, files, &keyspace, VersionCursor::new(segment), &mut marked)?;
            } else {
                add(engine, files, &keyspace, SegmentCursor::new(segment, Direction::Forward), &mut marked)?;
            }
        }
    }
    Ok(marked)
}

fn add(
    engine: &Engine,
    files: &SuperVersion,
    keyspace: &KeyspaceRef,
    mut source: impl Source,
    marked: &mut References,
) -> Result<()> {
    source.seek(Some(&[]))?;
    while let Some(entry) = source.entry() {
        if entry.kind == Kind::Recipe {
            engine.health.check_writable()?;
            let key = entry.key.to_vec();
            marked.add(&files.chunks, keyspace, &key, &source.value())?;
        }
        source.advance()?;
    }
    Ok(())
}
