//! The log, the active memtable that it backs, and the order of all commits.
//!
//! ```text
//!   lock ▸ rotate: seal the memtable with its log, begin new ones                   if the memtable is full
//!        ▸ append: seqno, log record, memtable ▸ publish: readers may see it        one commit at a time
//!   sync: the first waiter, for all waiters, without the lock                       oldest log first (W1)
//! ```
//!
//! Under one lock a commit takes its seqno, is appended, inserted and published, so that the seqno becomes visible only
//! when everything at or below it is in the log and in a memtable (E1).

mod chains;
mod recent;
mod syncing;

use std::{
    io::ErrorKind,
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use chains::Chains;
pub(super) use recent::Recent;
use syncing::Syncing;

use crate::{
    base::{Error, FileNumber, IoContext, Micros, Receipt, Result, Seqno},
    engine::{
        context::Context,
        counters::Counters,
        files::{
            FileSet,
            epoch::{Epoch, PackSync},
            superversion::Moment,
        },
        health::Health,
        locks::{Guard, Lock, Rank},
        work::Work,
    },
    format::{FileKind, Header, name},
    manifest::Version,
    memtable::Memtable,
    merge::DeadSpans,
    wal::{BatchBuf, LogEnd, LogFile, LogWriter, RecordKind},
};

/// The log of an open database.
#[derive(Debug)]
pub(crate) struct Log {
    ctx: Arc<Context>,
    health: Arc<Health>,
    work: Arc<Work>,
    counters: Arc<Counters>,
    commit: Lock<CommitState>,
    /// Newest seqno that readers may see.
    visible: AtomicU64,
    /// Seqnos below this are reserved in the manifest: no later open uses them.
    ceiling: AtomicU64,
    pub(super) syncing: Syncing,
}

/// State that commits work on, one at a time.
#[derive(Debug)]
pub(super) struct CommitState {
    /// `None` in a read-only database.
    writer: Option<LogWriter>,
    memtable: Arc<Memtable>,
    epoch: Arc<Epoch>,
    next_seqno: Seqno,
    /// Commit time of the newest batch, and a lower bound for the next one.
    time: Micros,
    time_floor: Micros,
    /// Recent batches, while a caller is between reading and committing.
    pub(super) recent: Recent,
    /// Lengths of the operand chains.
    pub(super) chains: Chains,
    /// Rotated logs that are not known to be synced, oldest first, with their ends.
    unsynced: Vec<(Arc<LogFile>, u64)>,
}

impl CommitState {
    /// Returns the seqno of the next commit.
    pub(super) fn next_seqno(&self) -> Seqno {
        self.next_seqno
    }

    /// Returns the commit time of the newest batch, in microseconds.
    pub(super) fn time(&self) -> Micros {
        self.time
    }

    /// Returns the time of a commit that is made at `now_us` of the clock.
    pub(super) fn time_for(&self, now: Micros) -> Micros {
        now.max(self.time).max(self.time_floor)
    }

    /// Gives later commits times from `floor` on, in microseconds.
    pub(super) fn raise_floor(&mut self, floor: Micros) {
        self.time_floor = self.time_floor.max(floor);
    }

    /// Returns whether the memtable holds at least `bytes`, or its chunks as much as they may.
    pub(super) fn is_full(&self, bytes: u64) -> bool {
        self.memtable.bytes() >= bytes || self.epoch.is_full()
    }

    /// Returns whether this epoch is the active one.
    pub(super) fn is_active(&self, epoch: &Arc<Epoch>) -> bool {
        Arc::ptr_eq(&self.epoch, epoch)
    }

    /// Returns what is to be synced now: how far each log reaches, and each pack that they need. Taken together under
    /// the lock: what is appended from here on lies beyond every mark that this sync raises (L1).
    fn positions(&self, files: &FileSet) -> Positions {
        let mut logs = self.unsynced.clone();
        logs.extend(self.writer.as_ref().map(|log| (Arc::clone(log.file()), log.offset())));
        let packs = files.with_current(|now| now.chunks.epochs.iter().filter_map(Epoch::to_sync).collect());
        Positions { packs, logs }
    }

    /// Syncs packs and logs without recording them as synced; stops at the first failure.
    pub(super) fn sync_bytes(&self, files: &FileSet) -> Result<()> {
        let Positions { packs, logs } = self.positions(files);
        packs.iter().try_for_each(PackSync::sync)?;
        logs.iter().try_for_each(|(file, _)| file.sync_bytes())
    }
}

/// What one sync makes durable: packs, and the logs that need them.
#[derive(Debug)]
struct Positions {
    packs: Vec<PackSync>,
    /// Oldest first, with their ends.
    logs: Vec<(Arc<LogFile>, u64)>,
}

/// Syncs packs and logs, each of which waits for the disk, at the same time. A batch that is on the disk before its
/// packs tells a recovery how far they must reach (L3): waiting for the packs first bought nothing, and made a synced
/// value of 64 KiB wait twice.
fn at_once(packs: impl FnOnce() -> Result<()> + Send + Clone, logs: impl FnOnce() -> Result<()>) -> Result<()> {
    thread::scope(|scope| {
        let started = thread::Builder::new().name("chronolith-sync".to_owned()).spawn_scoped(scope, packs.clone());
        let synced = logs();
        let packs = match started {
            Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            // Without a thread, one after the other.
            Err(_) => packs(),
        };
        packs.and(synced)
    })
}

/// Initial state of the log when a database is opened.
#[derive(Debug)]
pub(super) struct LogStart {
    /// `None` in a read-only database.
    pub(super) writer: Option<LogWriter>,
    pub(super) memtable: Arc<Memtable>,
    pub(super) epoch: Arc<Epoch>,
    /// Newest recovered commit, and the seqno of the next one.
    pub(super) visible: Seqno,
    pub(super) next_seqno: Seqno,
    pub(super) ceiling: Seqno,
    pub(super) time: Micros,
    /// Newest seqno known to be durable, and the newest log that holds more.
    pub(super) synced: Seqno,
    pub(super) recovered: Option<FileNumber>,
}

impl Log {
    pub(super) fn new(
        ctx: &Arc<Context>,
        health: &Arc<Health>,
        work: &Arc<Work>,
        counters: &Arc<Counters>,
        start: LogStart,
    ) -> Self {
        let LogStart { writer, memtable, epoch, visible, next_seqno, ceiling, time, synced, recovered } = start;
        assert!(visible < next_seqno && next_seqno <= ceiling, "{next_seqno} follows {visible} below {ceiling}");
        let commit = CommitState {
            writer,
            memtable,
            epoch,
            next_seqno,
            time,
            time_floor: time,
            recent: Recent::new(ctx.options.limits.recent_bytes),
            chains: Chains::default(),
            unsynced: Vec::new(),
        };
        Self {
            ctx: Arc::clone(ctx),
            health: Arc::clone(health),
            work: Arc::clone(work),
            counters: Arc::clone(counters),
            commit: ctx.order.lock(Rank::Commit, commit),
            visible: AtomicU64::new(visible.0),
            ceiling: AtomicU64::new(ceiling.0),
            syncing: Syncing::new(ctx.order, synced, recovered),
        }
    }

    /// Returns the newest seqno that readers may see.
    #[inline]
    pub(crate) fn visible(&self) -> Seqno {
        Seqno(self.visible.load(Ordering::Acquire))
    }

    /// Returns the seqno below which all are reserved.
    pub(super) fn ceiling(&self) -> Seqno {
        Seqno(self.ceiling.load(Ordering::Acquire))
    }

    /// Records that the seqnos below `ceiling` have been reserved.
    pub(super) fn raise_ceiling(&self, ceiling: Seqno) {
        self.ceiling.fetch_max(ceiling.0, Ordering::AcqRel);
    }

    /// Takes the lock under which commits are made.
    pub(super) fn lock(&self) -> Guard<'_, CommitState> {
        self.commit.lock()
    }

    /// Keeps the batches that are committed from now on, until [`Log::unwatch`].
    pub(super) fn watch(&self) {
        let mut commit = self.commit.lock();
        let newest = self.visible();
        commit.recent.watch(newest);
    }

    /// Ends a [`Log::watch`]: without another one, batches are no longer kept.
    pub(super) fn unwatch(&self) {
        self.commit.lock().recent.unwatch();
    }

    /// Takes the next seqno. A failed append leaves a hole: a seqno is never used twice.
    pub(super) fn take_seqno(&self, commit: &mut CommitState) -> Result<Seqno> {
        let seqno = commit.next_seqno;
        // Half of the reservation was left when this commit began.
        if seqno >= self.ceiling() {
            return Err(Error::invalid("all reserved seqnos have been used; run the operation again"));
        }
        commit.next_seqno = commit.next_seqno.next();
        Ok(seqno)
    }

    /// Appends a batch to the log and the memtable and publishes it; `now_us` is the time of the clock. Every chunk
    /// that it needs is in a pack by now, and told to the file (L1).
    pub(super) fn append(
        &self,
        commit: &mut CommitState,
        mut batch: BatchBuf,
        now: Micros,
        dead: &DeadSpans,
        files: &FileSet,
    ) -> Result<Receipt> {
        if batch.has_recipes() {
            // How far the packs reached when it was written: by this a recovery knows whether all of them survived
            // (L3).
            batch
                .push_reaches(&files.with_current(|now| {
                    now.chunks.epochs.iter().filter_map(|epoch| epoch.reach()).collect::<Vec<_>>()
                }));
        }
        let seqno = self.take_seqno(commit)?;
        let time = commit.time_for(now);
        batch.stamp(seqno, time);
        let payload_len = batch.len();
        if let Err(error) = Self::writer(commit)?.append(&mut batch) {
            // A full disk may have room for the next batch. After any other failure this file cannot be trusted.
            if !matches!(error, Error::DiskFull) {
                self.health.poison(&error);
            }
            return Err(error);
        }
        self.counters.log_bytes.fetch_add(payload_len as u64, Ordering::Relaxed);
        let batch = batch.into_shared(payload_len);
        commit.memtable.insert(&batch);
        batch.ops().for_each(|op| dead.wrote(seqno, op.keyspace, op.kind, op.key));
        commit.recent.keep(seqno, batch);
        self.publish(commit, seqno, time);
        Ok(Receipt { seqno, time: time.to_time() })
    }

    /// Makes a seqno visible: everything at or below it is in the log and a memtable, or in the manifest (E1).
    pub(super) fn publish(&self, commit: &mut CommitState, seqno: Seqno, time: Micros) {
        let before = self.visible();
        assert!(before < seqno && seqno < commit.next_seqno, "{seqno} is published after {before} (E1)");
        assert!(commit.time <= time, "commit {seqno} at {time}, after one at {} (C2)", commit.time);
        commit.time = time;
        self.visible.store(seqno.0, Ordering::Release);
    }

    fn writer(commit: &mut CommitState) -> Result<&mut LogWriter> {
        assert!(commit.writer.is_some(), "a write to a database that was opened read-only");
        commit.writer.as_mut().ok_or(Error::Closed)
    }

    /// Seals the memtable with its log and its pack, and starts new ones. An empty memtable stays, unless there are
    /// chunks in its pack.
    pub(super) fn rotate(&self, commit: &mut CommitState, files: &FileSet) -> Result<()> {
        let (seqno, time) = (self.visible(), commit.time);
        let moment = |version: &Arc<Version>| Moment { seqno, time, version: Arc::clone(version) };
        if commit.memtable.is_empty() && commit.epoch.is_empty() {
            files.record_idle_moment(moment);
            return Ok(());
        }
        let log = Self::writer(commit)?;
        let number = log.file().number.next();
        let header = Header { kind: FileKind::Log, file_id: self.ctx.database_id, number };
        let dir = &*self.ctx.dir;
        let created = LogWriter::create(dir, header).or_else(|error| match error {
            Error::Io { source, .. } if source.kind() == ErrorKind::AlreadyExists => {
                dir.remove(&name::log(number)).at("remove", || dir.path().join(name::log(number)))?;
                LogWriter::create(dir, header)
            }
            error => Err(error),
        });
        let named = created.and_then(|next| {
            self.ctx.sync_log_names().inspect_err(|error| self.health.poison_unless_unopened(error))?;
            Ok(next)
        });
        let sealed = named.and_then(|next| log.seal(RecordKind::Rotated).map(|()| next));
        let next = match sealed {
            Ok(next) => next,
            Err(error) => {
                // The name may exist although creating it failed. Without the seal the new log is void (W3); if it
                // cannot be removed now, the next attempt removes it.
                let _removed = dir.remove(&name::log(number));
                return Err(error);
            }
        };
        let old = std::mem::replace(log, next);
        // Best effort: this only gives back preallocated space.
        let _trimmed = old.trim();
        commit.unsynced.push((Arc::clone(old.file()), old.offset()));

        let active = Arc::new(Memtable::new(number));
        commit.memtable = Arc::clone(&active);
        let epoch = Arc::new(Epoch::new(&self.ctx, &self.health, number));
        // Before it can be flushed: an append behind that would be in no pack that anybody names (L2).
        std::mem::replace(&mut commit.epoch, Arc::clone(&epoch)).close();
        // No keyspace or pin changes under the commit lock: this is the version of this very moment.
        files.seal(active, epoch, moment);
        self.work.wake();
        Ok(())
    }

    /// Returns once every commit at or below `seqno` is durable. What the log points to is durable by now (E3).
    pub(super) fn sync_upto(&self, seqno: Seqno, files: &FileSet) -> Result<()> {
        if let Some(leader) = self.syncing.lead(seqno, || self.health.check_writable())? {
            leader.end(self.sync_all(files)?);
        }
        Ok(())
    }

    /// Syncs all logs, oldest first; returns the seqno up to which everything is durable.
    fn sync_all(&self, files: &FileSet) -> Result<Seqno> {
        let (upto, positions) = {
            let commit = self.commit.lock();
            (self.visible(), commit.positions(files))
        };
        self.ctx.pass("sync: positions, then files");
        self.sync_files(&positions, files, |point| self.ctx.pass(point))?;
        let newest = positions.logs.last().map_or(FileNumber(0), |(file, _)| file.number);
        self.commit.lock().unsynced.retain(|(file, _)| file.number >= newest);
        Ok(upto)
    }

    /// Syncs everything under the commit lock, for edits that must not overtake the log. Recovered commits have been
    /// flushed before.
    pub(super) fn sync_locked(&self, commit: &mut CommitState, files: &FileSet) -> Result<()> {
        self.sync_files(&commit.positions(files), files, |_| {})?;
        commit.unsynced.clear();
        self.syncing.raise(self.visible());
        Ok(())
    }

    /// Syncs packs and the logs that need them, then lets later records of the logs claim it (L1, L3). `pass` is called
    /// at points between.
    fn sync_files(&self, positions: &Positions, files: &FileSet, pass: impl Fn(&'static str)) -> Result<()> {
        let Positions { packs, logs } = positions;
        assert!(logs.is_sorted_by_key(|(file, _)| file.number), "logs are synced oldest first (W1): {logs:?}");
        let sync_packs = || packs.iter().try_for_each(PackSync::sync);
        let sync_logs = || logs.iter().try_for_each(|(file, _)| self.sync_log(file, files));
        let synced = if packs.is_empty() {
            sync_logs()
        } else if self.ctx.runs_inline() {
            // One after the other, and in the order that leaves more to recovery if the power fails between them.
            sync_logs().and_then(|()| {
                pass("sync: logs, then packs");
                sync_packs()
            })
        } else {
            at_once(sync_packs, sync_logs)
        };
        synced.inspect_err(|error| self.health.poison(error))?;
        pass("sync: files, then marks");
        for (file, end) in logs {
            file.mark_synced(*end);
        }
        Ok(())
    }

    fn sync_log(&self, file: &LogFile, files: &FileSet) -> Result<()> {
        match file.sync_bytes() {
            // Flushed and removed since the list was made: its commits are durable in segments.
            Err(Error::Io { source, .. })
                if source.kind() == ErrorKind::NotFound && !files.with_current(|now| now.needs_log(file.number)) => {}
            synced => synced?,
        }
        self.counters.log_syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Records that the logs before a number have been flushed.
    pub(super) fn flushed_before(&self, number: FileNumber) {
        self.commit.lock().unsynced.retain(|(file, _)| file.number >= number);
    }

    /// Returns the end of the active memtable's log, if that is log `number`.
    pub(super) fn end_of(&self, number: FileNumber) -> Option<u64> {
        let commit = self.commit.lock();
        let same = commit.memtable.log() == number;
        commit.writer.as_ref().filter(|_| same).map(LogWriter::offset)
    }

    /// Seals the newest log at a clean close and syncs all logs; returns their numbers and exact ends.
    pub(super) fn seal(&self, commit: &mut CommitState, files: &FileSet) -> Result<Vec<(FileNumber, LogEnd)>> {
        if let Some(log) = &mut commit.writer {
            log.seal(RecordKind::Closed)?;
            // Best effort: this only gives back preallocated space.
            let _trimmed = log.trim();
        }
        let logs = commit.positions(files).logs;
        let ends = logs.iter().map(|(file, end)| (file.number, LogEnd::Exactly(*end))).collect();
        self.sync_locked(commit, files)?;
        Ok(ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        KeyspaceOptions, Options,
        env::{Memory, Sim},
    };

    /// A broken order of commits is found by the commit that would make it visible, and ends writes; reads go on, every
    /// lock is free, and what was acknowledged is there after the next open.
    #[test]
    fn a_commit_that_meets_a_broken_invariant_stops_writes_and_nothing_else() {
        let memory = Memory::new();
        let db = Options::new().env(memory.clone()).open("db").unwrap();
        let keyspace = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        let receipt = keyspace.put("a", "1").unwrap();
        db.engine().log.visible.store(receipt.seqno.0 + 100, Ordering::Release);
        let Err(Error::Poisoned { why }) = keyspace.put("b", "2") else { panic!("a commit behind others") };
        assert!(why.contains("a commit met a broken invariant") && why.contains("(E1)"), "{why}");
        assert!(db.health().unwrap_err().to_string().contains("(E1)"));
        assert!(matches!(keyspace.put("c", "3"), Err(Error::Poisoned { .. })));
        assert!(matches!(db.flush(), Err(Error::Poisoned { .. })));
        assert_eq!(keyspace.get("a").unwrap().unwrap(), b"1");
        assert!(db.stats().trouble.unwrap().contains("(E1)"));
        assert!(db.close().is_err());
        let db = Options::new().env(memory).open("db").unwrap();
        assert_eq!(db.keyspace("k", KeyspaceOptions::new()).unwrap().get("a").unwrap().unwrap(), b"1");
    }

    #[test]
    fn a_job_that_panics_anywhere_stops_writes_with_its_text_and_loses_nothing() {
        let points = [
            "flush: files, then list",
            "flush: written, then installed",
            "flush: installed, then reclaimed",
            "compact: files, then list",
            "compact: written, then installed",
            "compact: installed, then reclaimed",
        ];
        for panics_at in points {
            let sim = Sim::new(3);
            let db = Options::new().env(sim.clone()).open("db").unwrap();
            let keyspace = db.keyspace("k", KeyspaceOptions::new()).unwrap();
            for round in 0..3 {
                keyspace.put(format!("key{round}"), "1").unwrap();
                db.flush().unwrap();
            }
            keyspace.put("last", "1").unwrap();
            sim.on_point(move |point| assert_ne!(point, panics_at, "numbers that do not fit"));
            let Err(Error::Poisoned { why }) = db.compact() else { panic!("{panics_at}") };
            sim.ignore_points();
            assert!(why.contains("met a broken invariant") && why.contains("numbers that do not fit"), "{why}");
            assert!(matches!(db.health(), Err(Error::Poisoned { .. })), "{panics_at}");
            assert!(matches!(keyspace.put("more", "1"), Err(Error::Poisoned { .. })), "{panics_at}");
            assert_eq!(keyspace.range(..).count(), 4, "{panics_at}");
            assert!(db.close().is_err(), "{panics_at}");
            let db = Options::new().env(sim).open("db").unwrap();
            let keyspace = db.keyspace("k", KeyspaceOptions::new()).unwrap();
            assert_eq!(keyspace.range(..).count(), 4, "{panics_at}");
            db.compact().unwrap();
            assert!(db.verify().unwrap().is_clean(), "{panics_at}");
        }
    }
}
