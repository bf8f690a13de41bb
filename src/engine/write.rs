//! Committing a batch.
//!
//! ```text
//!  1 room       slow down or wait while flushes and compactions are behind
//!  2 check      keyspaces alive, what was read still true
//!  3 log        append; rotate when the memtable is full
//!  4 memtable   insert
//!  5 publish    the seqno becomes visible (E1)
//!  6 sync       as asked: those who wait share one
//! ```

use std::{
    io::ErrorKind,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use parking_lot::MutexGuard;

use super::{
    Commit, Durability, Engine,
    conflicts::{Checked, ReadSet},
    options::SEALED_MAX,
    read::{Opened, dropped},
    superversion::Moment,
};
use crate::{
    base::{Error, IoContext, Receipt, Result, Seqno, from_us},
    format::{FileKind, Header, name},
    manifest::{Change, Edit, Version},
    memtable::Memtable,
    wal::{BATCH_LEN_MAX, BatchBuf, LogWriter, RecordKind},
};

/// A writer that waits looks again this often whether it should go on waiting.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The longest that a writer is slowed down for one batch.
const DELAY_MAX: Duration = Duration::from_millis(2);

impl Engine {
    /// Commits a batch that writes to `keyspaces`, of which none decides at the write, or everything has been decided, if what was read for it
    /// still holds.
    ///
    /// Everything that can be refused is looked at before the append. After it there are two answers: the receipt, or
    /// [`Error::NotDurable`] with it.
    pub(crate) fn commit(
        &self,
        mut batch: BatchBuf,
        keyspaces: &[Opened],
        durability: Option<Durability>,
        reads: &[&ReadSet],
    ) -> Result<Receipt> {
        self.check_writable()?;
        Self::check_batch(&batch)?;
        if batch.operands() > 0 && batch.count() > 1 {
            Self::check_sums(&batch, keyspaces)?;
        }
        self.settle()?;
        self.extend_reservation()?;
        self.wait_for_room(keyspaces)?;
        let durability = match durability.unwrap_or(self.options.durability) {
            Durability::Interval(every) if every.is_zero() => Durability::Sync,
            durability => durability,
        };
        if durability == Durability::Sync {
            // It writes segments, for which the disk may have no room: better now than behind the append.
            self.flush_recovered()?;
        }
        self.env.pass("commit: read, then applied");

        let receipt = {
            let mut commit = self.lock_checked(reads)?;
            self.check_keyspaces(keyspaces)?;
            self.rotate_if_full(&mut commit)?;
            if batch.count() == 0 && reads.is_empty() {
                // Nothing to write: the receipt of the newest commit says when nothing happened.
                let (seqno, time) = (Seqno(self.visible()), from_us(commit.time_us));
                return Ok(Receipt { seqno, time });
            }
            if batch.operands() > 0 {
                self.end_long_chains(&mut commit, &mut batch, keyspaces);
            }
            self.append(&mut commit, &mut batch)?
        };
        self.counters.commits.fetch_add(1, Ordering::Relaxed);
        self.env.pass("commit: applied, then synced");
        let synced = match durability {
            Durability::Sync => self.sync_upto(receipt.seqno.0),
            Durability::Interval(every) => self.sync_within(every),
            Durability::Buffered => Ok(()),
        };
        // Only a sync that failed, which poisons, or the end of the database can come between: `health` says which.
        synced.map_err(|_| Error::NotDurable { receipt })?;
        self.drawn_step();
        Ok(receipt)
    }

    /// Takes the commit lock, with everything that was read known to hold.
    fn lock_checked(&self, reads: &[&ReadSet]) -> Result<MutexGuard<'_, Commit>> {
        let mut checks: Vec<Checked<'_>> = reads.iter().map(|reads| Checked::new(reads)).collect();
        loop {
            checks.iter_mut().try_for_each(|check| check.advance(self))?;
            self.env.pass("commit: checked, then locked");
            let commit = self.commit.lock();
            // Again, under the lock: closing and poisoning happen between.
            self.check_writable()?;
            let mut whole = true;
            for check in &mut checks {
                whole &= check.finish(&commit.recent)?;
            }
            if whole {
                return Ok(commit);
            }
        }
    }

    /// Reserves more seqnos, long before those that are reserved run out.
    fn extend_reservation(&self) -> Result<()> {
        let reserve = self.options.limits.seqno_reserve;
        let is_low = || self.visible().saturating_add(reserve / 2) >= self.seqno_ceiling.load(Ordering::Acquire);
        if !is_low() {
            return Ok(());
        }
        let mut manifest = self.manifest.lock();
        if is_low() {
            let ceiling = self.visible().saturating_add(reserve);
            let edit = Edit::new([Change::Seqnos { last: 0, next: 0, ceiling, time_us: 0 }]);
            let version = self.commit_edit(&mut manifest, &edit, &[])?;
            self.install(&version, None, None);
            self.seqno_ceiling.store(ceiling, Ordering::Release);
        }
        Ok(())
    }

    /// That a batch is within its limits.
    pub(super) fn check_batch(batch: &BatchBuf) -> Result<()> {
        if batch.len() > BATCH_LEN_MAX {
            return Err(Error::invalid(format!(
                "a batch encodes to at most {BATCH_LEN_MAX} bytes, not {}; split it",
                batch.len()
            )));
        }
        Ok(())
    }

    /// Steps 3 to 5.
    fn append(&self, commit: &mut Commit, batch: &mut BatchBuf) -> Result<Receipt> {
        let seqno = self.take_seqno(commit)?;
        let time_us = self.now_us().max(commit.time_us).max(commit.time_floor);
        batch.stamp(seqno, time_us);
        let payload_len = batch.len();
        let log = commit.log.as_mut().ok_or(Error::Closed)?;
        if let Err(error) = log.append(batch) {
            // On a full disk the next batch may fit again. Any other failure says nothing good about this file.
            if !matches!(error, Error::DiskFull) {
                self.poison(&error);
            }
            return Err(error);
        }
        self.counters.log_bytes.fetch_add(payload_len as u64, Ordering::Relaxed);
        let view = std::mem::take(batch).into_shared(payload_len);
        commit.recent.note(seqno, &view);
        let inserted = commit
            .memtable
            .insert(&view)
            .and_then(|()| view.for_each(|op| self.dead.wrote(seqno, op.keyspace, op.kind, op.key)));
        assert!(inserted.is_ok(), "a batch that was encoded a moment ago reads back: {inserted:?}");
        commit.time_us = time_us;
        self.visible.store(seqno, Ordering::Release);
        Ok(Receipt { seqno: Seqno(seqno), time: from_us(time_us) })
    }

    /// The next seqno. A failed append leaves a hole: a number is never given out twice.
    pub(super) fn take_seqno(&self, commit: &mut Commit) -> Result<u64> {
        let seqno = commit.next_seqno;
        // Half of the reservation was left when this commit began.
        if seqno >= self.seqno_ceiling.load(Ordering::Acquire) {
            return Err(Error::invalid("every seqno that was reserved has been used; run the operation again"));
        }
        commit.next_seqno += 1;
        Ok(seqno)
    }

    fn check_keyspaces(&self, keyspaces: &[Opened]) -> Result<()> {
        let current = self.current.read();
        match keyspaces.iter().find(|opened| current.trees.get(&opened.id).is_none_or(|tree| tree.dropped)) {
            Some(gone) => Err(dropped(gone)),
            None => Ok(()),
        }
    }

    fn rotate_if_full(&self, commit: &mut Commit) -> Result<()> {
        let full = commit.memtable.bytes() >= self.options.memtable_bytes();
        if full { self.rotate(commit) } else { Ok(()) }
    }

    /// Seals the memtable and its log, and starts new ones. An empty memtable stays.
    pub(super) fn rotate(&self, commit: &mut Commit) -> Result<()> {
        let moment = |version: &Arc<Version>, commit: &Commit| Moment {
            seqno: self.visible(),
            time_us: commit.time_us,
            version: Arc::clone(version),
        };
        if commit.memtable.is_empty() {
            let mut current = self.current.write();
            *current = Arc::new(current.with_idle_moment(moment(&current.version, commit)));
            self.generation.store(current.generation, Ordering::Release);
            return Ok(());
        }
        let log = commit.log.as_mut().ok_or(Error::Closed)?;
        let number = log.file().number + 1;
        let header = Header { kind: FileKind::Log, file_id: self.database_id, number };
        let created = LogWriter::create(&*self.dir, header).or_else(|error| match error {
            Error::Io { source, .. } if source.kind() == ErrorKind::AlreadyExists => {
                let path = || self.dir.path().join(name::log(number));
                self.dir.remove(&name::log(number)).at("remove", path)?;
                LogWriter::create(&*self.dir, header)
            }
            error => Err(error),
        });
        let named = created.and_then(|next| {
            self.sync_log_names().inspect_err(|error| self.poison_unless_unopened(error))?;
            Ok(next)
        });
        let sealed = named.and_then(|next| log.seal(RecordKind::Rotated).map(|()| next));
        let next = match sealed {
            Ok(next) => next,
            Err(error) => {
                // The name may exist although creating it failed. Without the seal (W3) the new log is void, and if it cannot be removed
                // now, the next attempt does.
                let _removed = self.dir.remove(&name::log(number));
                return Err(error);
            }
        };
        let old = std::mem::replace(log, next);
        // Giving reserved room back is only thrift.
        let _trimmed = old.trim();
        commit.unsynced.push((Arc::clone(old.file()), old.offset()));

        let active = Arc::new(Memtable::new(number));
        commit.memtable = Arc::clone(&active);
        let mut current = self.current.write();
        // Under the commit lock no change of a keyspace or pin is between: the version is that of this very moment.
        *current = Arc::new(current.with_sealed(active, moment(&current.version, commit)));
        self.generation.store(current.generation, Ordering::Release);
        drop(current);
        self.work.wake();
        Ok(())
    }

    /// Slows writers down while compactions of the keyspaces that they write to are behind, and stops them while flushes are, without burning a core. Every wait ends:
    /// with room, or with the error that keeps background work from making any.
    fn wait_for_room(&self, keyspaces: &[Opened]) -> Result<()> {
        let threshold = self.options.l0_threshold;
        loop {
            let (sealed, l0) = {
                let current = self.current.read();
                let l0 = keyspaces.iter().map(|opened| current.l0_len(opened.id)).max();
                (current.sealed.len(), l0.unwrap_or(0))
            };
            let must_wait = sealed >= SEALED_MAX || l0 >= threshold.saturating_mul(8);
            let behind = l0.saturating_sub(threshold.saturating_mul(3));
            if !must_wait && behind == 0 {
                return Ok(());
            }
            if self.runs_inline() {
                let stepped = self.background_step();
                if !must_wait {
                    // Only slowed down: what the step met is told by those whom it stops.
                    return Ok(());
                }
                if !stepped? {
                    return self.health();
                }
                continue;
            }
            self.work.wake();
            self.counters.stalls.fetch_add(1, Ordering::Relaxed);
            let mut guard = self.room_lock.lock();
            if !must_wait {
                // The further behind, the longer: from nothing to the most at the point where writers stop.
                let share = u32::try_from(behind).unwrap_or(u32::MAX);
                let whole = u32::try_from(threshold.saturating_mul(5)).unwrap_or(u32::MAX).max(1);
                self.room.wait_for(&mut guard, DELAY_MAX * share.min(whole) / whole);
                return Ok(());
            }
            self.room.wait_for(&mut guard, LOOK_AGAIN);
            drop(guard);
            self.check_writable()?;
            if let Some(error) = self.work.trouble_for(keyspaces.iter().map(|opened| opened.id)) {
                return Err(error);
            }
        }
    }

    /// Makes the names of new logs durable.
    pub(super) fn sync_log_names(&self) -> Result<()> {
        self.dir.sync_dir(name::LOGS).at("sync", || self.dir.path().join(name::LOGS))
    }
}
