//! Flush: the oldest sealed memtable becomes one segment for each keyspace, in one edit (E2), which also names the
//! packs of its chunks and a segment of their places (L2).
//!
//! ```text
//!   chunks of its epoch       table and tail on their pack, synced      ┐
//!   chunks of a recovery      copied into packs of this flush (L4)      ├ packs and places ┐
//!   entries                   segments, one for each keyspace           ┘                  ├ one edit
//!   commits                   a segment of the timeline                                    ┘
//! ```

use std::sync::{Arc, atomic::Ordering};

use super::{Outputs, retention};
use crate::{
    base::{FileNumber, KeyspaceId, Result, Seqno},
    chunk::pack::PackMeta,
    compaction::{Job, Outcome, run},
    engine::{
        Engine,
        files::{
            JobInputs, NewFiles,
            chunks::{ChunkSet, NamedPlace, RecoveredChunks, damage, sort_places, write_places},
            copies::PackCopies,
            superversion::SuperVersion,
        },
        timeline::write_stamps,
    },
    manifest::{Change, Edit},
    memtable::{MemCursor, Memtable},
    merge::Direction,
    segment::{SegmentMeta, SegmentWriter},
};

/// Seals the active memtable and flushes everything that is sealed by then. Does not wait for later writes.
pub(crate) fn flush(engine: &Engine) -> Result<()> {
    engine.health.check_writable()?;
    let newest = {
        let mut commit = engine.log.lock();
        engine.health.check_writable()?;
        engine.log.rotate(&mut commit, &engine.files)?;
        engine.files.with_current(|now| now.sealed.first().map(|newest| newest.log()))
    };
    engine.ctx.pass("flush: sealed, then flushed");
    newest.map_or(Ok(()), |newest| flush_upto(engine, newest))?;
    engine.work.record_flush(None);
    engine.ctx.check_there()
}

/// Flushes what the packs of a recovery hold, so that a new recipe may refer to it: after an unclean close nothing says
/// that those packs are on the disk, and no batch says how far they reached (L4).
pub(in crate::engine) fn flush_recovered_chunks(engine: &Engine) -> Result<()> {
    if engine.log.syncing.recovered().is_none() {
        return Ok(());
    }
    let recovered = engine.files.with_current(|now| now.chunks.recovered.as_ref().map(|recovered| recovered.log));
    recovered.map_or(Ok(()), |log| flush_upto(engine, log))
}

/// Flushes what was recovered after an unclean close. The log was read from pages that may be clean in memory and old
/// on the disk, so what it held is written to new files before any sync of a log is taken as proof.
pub(in crate::engine) fn flush_recovered(engine: &Engine) -> Result<()> {
    if let Some(newest) = engine.log.syncing.recovered() {
        flush_upto(engine, newest)?;
        engine.log.syncing.recovered_is_flushed();
    }
    Ok(())
}

/// Flushes the sealed memtables up to that of log `newest`.
fn flush_upto(engine: &Engine, newest: FileNumber) -> Result<()> {
    let is_due = || engine.files.with_current(|now| now.sealed.last().is_some_and(|oldest| oldest.log() <= newest));
    while is_due() && flush_oldest(engine)? {}
    Ok(())
}

/// Flushes the oldest sealed memtable; returns `false` if there is none.
pub(super) fn flush_oldest(engine: &Engine) -> Result<bool> {
    let _one = engine.jobs.flushing.lock();
    if engine.files.with_current(|now| now.sealed.is_empty()) {
        return Ok(false);
    }
    engine.health.contain("a flush", || {
        let inputs = engine.files.job_inputs("flush: files, then list");
        let Some(memtable) = inputs.files.sealed.last() else { return Ok(false) };
        engine.health.check_writable()?;
        let mut made = NewFiles::default();
        let written = write(engine, &inputs, memtable, &mut made).inspect_err(|_| engine.files.discard(&made))?;
        engine.ctx.pass("flush: written, then installed");
        install(engine, &inputs, memtable, written, &made)?;
        Ok(true)
    })
}

/// Outcome of a flush: for each keyspace, for the timeline, and for chunks.
struct Written {
    outcomes: Vec<(KeyspaceId, Outcome)>,
    stamps: Option<SegmentMeta>,
    packs: Vec<PackMeta>,
    places: Option<SegmentMeta>,
}

/// Writes what the edit of a memtable's flush names, and makes it durable with its names.
fn write(engine: &Engine, inputs: &JobInputs, memtable: &Arc<Memtable>, made: &mut NewFiles) -> Result<Written> {
    let current = &inputs.files;
    let (packs, places) = end_packs(engine, current, memtable, made)?;
    let mut outcomes = Vec::new();
    for id in memtable.keyspaces() {
        // A forgotten keyspace has no readers.
        let Some(keyspace) = current.version.keyspaces.get(&id) else { continue };
        let mut outputs = Outputs::new(engine, keyspace, memtable.first_seqno(), memtable.first_time());
        let job = Job {
            sources: vec![MemCursor::new(memtable, id, Direction::Forward)],
            base: outputs.base,
            tombstones: memtable.tombstones(id),
            retention: retention(engine, keyspace, inputs, Seqno(0), keyspace.main().cloned().collect()),
            // One segment for a memtable: two would share seqnos in level 0 (V1).
            output_len: u64::MAX,
            filtered: false,
        };
        // A memtable is small: its flush is finished even while the database is being closed.
        let ran = run(job, |tier| outputs.create(tier).map(SegmentWriter::sync_later), |_| Ok(()));
        made.segments.append(&mut outputs.made);
        let outcome = ran?;
        engine.jobs.garbage.record_dropped(outcome.large_dropped);
        outcomes.push((id, outcome));
    }
    // All files are written, then synced at once: of thousands, each would wait for the one before.
    engine.ctx.sync_segments(&made.segments)?;
    let number = engine.files.take_number();
    let stamps = memtable.with_stamps(<[_]>::to_vec);
    let stamps = write_stamps(&engine.ctx, &*engine.ctx.dir, number, &stamps, &mut made.segments)?;
    let mut named = None;
    if !places.is_empty() {
        // At a seqno that no commit and no other segment of places has (L6). A failed flush leaves a hole.
        let seqno = engine.log.take_seqno(&mut engine.log.lock())?;
        let number = engine.files.take_number();
        made.segments.push(number);
        named = write_places(&engine.ctx, &*engine.ctx.dir, number, seqno, &places)?;
    }
    if !made.segments.is_empty() {
        engine.files.sync_names()?;
    }
    Ok(Written { outcomes, stamps, packs, places: named })
}

/// Ends the pack of the memtable's epoch, copies what a recovery found for it, and returns the packs to name, with
/// the places of their chunks, by id. The pack of an epoch is not the flush's to remove: it stays if the flush fails.
fn end_packs(
    engine: &Engine,
    current: &SuperVersion,
    memtable: &Memtable,
    made: &mut NewFiles,
) -> Result<(Vec<PackMeta>, Vec<NamedPlace>)> {
    let ChunkSet { epochs, recovered, .. } = &*current.chunks;
    let (mut packs, mut places) = (Vec::new(), Vec::new());
    if let Some(epoch) = epochs.iter().find(|epoch| epoch.log() == memtable.log())
        && let Some(pack) = epoch.seal()?
    {
        let lines = epoch.lines();
        assert_eq!(pack.records as usize, lines.len(), "the places of pack {}", pack.number);
        places.extend(NamedPlace::of(pack.number, &lines));
        packs.push(pack);
    }
    if let Some(recovered) = recovered.as_ref().filter(|recovered| recovered.log == memtable.log()) {
        let (copies, their_places) = copy_recovered(engine, current, recovered, made)?;
        packs.extend(copies);
        places.extend(their_places);
    }
    sort_places(&mut places);
    Ok((packs, places))
}

/// Copies the chunks of a recovery into packs of this flush. Of those that stand whole in a pack with a name there is
/// nothing to copy. A damaged one is left out: a flush that failed over it would never succeed.
fn copy_recovered(
    engine: &Engine,
    current: &SuperVersion,
    recovered: &RecoveredChunks,
    made: &mut NewFiles,
) -> Result<(Vec<PackMeta>, Vec<NamedPlace>)> {
    let mut copies = PackCopies::new(&engine.ctx, &*engine.ctx.dir);
    let mut room = Vec::new();
    for (line, reader) in recovered.chunks() {
        // Stored anew because the other copy was damaged: that copy is no reason to leave this one out.
        if current.chunks.stands_named(&line.id, &mut room)? {
            continue;
        }
        let chunk = match reader.stored(&line.into(), &mut room) {
            Err(error) if damage(&error).is_some() => continue,
            chunk => chunk?,
        };
        copies.append(&chunk, || made.take_pack(&engine.files))?;
    }
    let (packs, places) = copies.finish()?;
    if !packs.is_empty() {
        engine.files.sync_pack_names()?;
    }
    let bytes: u64 = packs.iter().map(|pack| pack.stored_bytes).sum();
    engine.store.counts.copied_bytes.fetch_add(bytes, Ordering::Relaxed);
    Ok((packs, places))
}

/// Commits what was written in one edit, makes it current, and discards the log.
fn install(
    engine: &Engine,
    inputs: &JobInputs,
    memtable: &Arc<Memtable>,
    written: Written,
    made: &NewFiles,
) -> Result<()> {
    let Written { outcomes, stamps, packs, places } = written;
    let current = &inputs.files;
    let mut editing = engine.files.edit();
    let mut edit = Edit::default();
    let mut superseder = Seqno(0);
    for (id, outcome) in outcomes {
        let Outcome { segments, dropped, held, .. } = outcome;
        let Some(keyspace) = editing.version().keyspaces.get(&id) else {
            // Forgotten while its segment was written.
            editing.discard(segments.iter().map(|segment| segment.number));
            continue;
        };
        edit.push(dropped.watermarks(id));
        for (number, bytes) in held {
            edit.push(Change::Held { number, bytes });
        }
        for segment in segments {
            engine.counters.flushed_bytes.fetch_add(segment.file_len, Ordering::Relaxed);
            edit.push(Change::Add { level: 0, segment });
        }
        superseder = superseder.max(dropped.newest_change(keyspace.vanished));
    }
    edit.changes.extend(packs.into_iter().map(|pack| Change::AddPack { pack }));
    for segment in [stamps, places].into_iter().flatten() {
        edit.push(Change::Add { level: 0, segment });
    }
    // Empty logs in between are not needed either: they may never have been synced, and would void what follows.
    let next_log = current.sealed.iter().rev().nth(1).unwrap_or(&current.active).log();
    assert!(memtable.log() < next_log, "the memtable of log {} is flushed before {next_log} (E2)", memtable.log());
    edit.push(Change::LogsFrom { number: next_log });
    edit.push(engine.files.numbers_taken());
    edit.push(Change::reached(memtable.last_seqno(), memtable.time()));
    let version = editing.commit(&edit, made)?;
    editing.install(&version, Some(memtable), Some((inputs, superseder)));
    engine.log.flushed_before(next_log);
    drop(editing);
    engine.ctx.pass("flush: installed, then reclaimed");

    engine.log.syncing.raise(memtable.last_seqno());
    engine.files.discard_logs(memtable.log().upto(next_log));
    engine.files.reclaim();
    engine.counters.flushes.fetch_add(1, Ordering::Relaxed);
    engine.work.wake();
    Ok(())
}
