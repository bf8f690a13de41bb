//! Flush: the oldest sealed memtable becomes one segment for each keyspace, in one edit (E2).

use std::sync::{Arc, atomic::Ordering};

use super::{Outputs, retention};
use crate::{
    base::{FileNumber, KeyspaceId, Result, Seqno},
    compaction::{Job, Outcome, run},
    engine::{Engine, files::JobInputs, timeline::write_stamps},
    manifest::{Change, Edit},
    memtable::{MemCursor, Memtable},
    merge::Direction,
    segment::SegmentWriter,
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
        let mut made = Vec::new();
        let written = write(engine, &inputs, memtable, &mut made).inspect_err(|_| engine.files.discard(&made))?;
        engine.ctx.pass("flush: written, then installed");
        install(engine, &inputs, memtable, written, &made)?;
        Ok(true)
    })
}

/// Outcome of a flush: for each keyspace, and for the timeline.
struct Written {
    outcomes: Vec<(KeyspaceId, Outcome)>,
    stamps: Option<crate::segment::SegmentMeta>,
}

/// Writes the segments of a memtable, one for each keyspace, and makes them durable with their names.
fn write(engine: &Engine, inputs: &JobInputs, memtable: &Arc<Memtable>, made: &mut Vec<FileNumber>) -> Result<Written> {
    let current = &inputs.files;
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
        };
        // A memtable is small: its flush is finished even while the database is being closed.
        let ran = run(job, |tier| outputs.create(tier).map(SegmentWriter::sync_later), |_| Ok(()));
        made.append(&mut outputs.made);
        outcomes.push((id, ran?));
    }
    // All files are written, then synced at once: of thousands, each would wait for the one before.
    engine.ctx.sync_segments(made)?;
    let number = engine.files.take_number();
    let stamps = memtable.with_stamps(<[_]>::to_vec);
    let stamps = write_stamps(&engine.ctx, &*engine.ctx.dir, number, &stamps, made)?;
    if !made.is_empty() {
        engine.files.sync_names()?;
    }
    Ok(Written { outcomes, stamps })
}

/// Commits what was written in one edit, makes it current, and discards the log.
fn install(
    engine: &Engine,
    inputs: &JobInputs,
    memtable: &Arc<Memtable>,
    written: Written,
    made: &[FileNumber],
) -> Result<()> {
    let Written { outcomes, stamps } = written;
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
    if let Some(segment) = stamps {
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
