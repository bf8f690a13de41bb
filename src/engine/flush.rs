//! Flushing: the oldest sealed memtable becomes one segment for each keyspace, in one edit (E2).

use std::sync::{Arc, atomic::Ordering};

use super::{Engine, keyspaces::point_index, superversion::SuperVersion, worker::What};
use crate::{
    base::{IoContext, KeyspaceId, Result},
    compaction::{Below, Demands, Job, Outcome, Policy, run},
    format::name,
    manifest::{Change, Edit, KeyspaceVersion},
    memtable::{MemCursor, Memtable},
    merge::Direction,
    segment::{Finished, SegmentWriter},
};

impl Engine {
    /// Seals what is in the active memtable and flushes everything that is sealed.
    pub(crate) fn flush(&self) -> Result<()> {
        self.check_writable()?;
        self.seal_active()?;
        while self.flush_oldest()? {}
        self.work.note(What::Flush, None);
        Ok(())
    }

    /// Seals the active memtable, if it holds anything.
    pub(super) fn seal_active(&self) -> Result<()> {
        let mut commit = self.commit.lock();
        self.check_writable()?;
        self.rotate(&mut commit)
    }

    /// Flushes the oldest sealed memtable; `false` when there is none.
    pub(super) fn flush_oldest(&self) -> Result<bool> {
        let _one = self.flushing.lock();
        // Taken before the files: whoever registers later is dealt with when the result is installed.
        let registered = self.registry.lock().list();
        let current = self.current();
        let Some(table) = current.sealed.last() else { return Ok(false) };
        self.check_writable()?;
        let mut made = Vec::new();
        let outcomes = self.write_segments(&current, table, &registered.seqnos, &mut made);
        let finished = outcomes.and_then(|outcomes| {
            if !made.is_empty() {
                self.sync_segment_names()?;
            }
            Ok(outcomes)
        });
        let outcomes = finished.inspect_err(|_| self.discard(&made))?;

        let mut manifest = self.manifest.lock();
        let mut edit = Edit::default();
        let mut superseder = 0;
        for (id, outcome) in outcomes {
            let Outcome { segments, traces, .. } = outcome;
            let Some(keyspace) = manifest.version().keyspaces.get(&id) else {
                // Forgotten while its segment was written.
                self.reclaim.add_segments(segments.iter().map(|segment| segment.number));
                continue;
            };
            edit.push(Change::Marks { keyspace: id, vanished: traces.vanished, horizon: traces.horizon });
            for segment in segments {
                self.counters.flushed_bytes.fetch_add(segment.file_len, Ordering::Relaxed);
                edit.push(Change::Add { level: 0, segment });
            }
            superseder = superseder.max(traces.newest_change(keyspace.vanished));
        }
        // Logs between that hold nothing are not needed either: they may never have been synced, and would void what follows.
        let next_log = current.sealed.iter().rev().nth(1).unwrap_or(&current.active).log();
        edit.push(Change::LogsFrom { number: next_log });
        edit.push(Change::NextFile { number: self.next_file.load(Ordering::Relaxed) });
        edit.push(Change::Seqnos { last: table.last_seqno(), next: 0, ceiling: 0, time_us: table.time_us() });
        let version = self.commit_edit(&mut manifest, &edit, &made)?;
        self.install(&version, Some(table), Some((&registered, superseder)));
        self.commit.lock().unsynced.retain(|(file, _)| file.number >= next_log);
        drop(manifest);

        self.syncing.raise(table.last_seqno());
        (table.log()..next_log).for_each(|number| self.reclaim.add(name::log(number)));
        self.reclaim.run(&*self.dir);
        self.counters.flushes.fetch_add(1, Ordering::Relaxed);
        self.work.wake();
        Ok(true)
    }

    /// Writes the segments of a memtable, one for each keyspace, noting the numbers of all files made.
    fn write_segments(
        &self,
        current: &Arc<SuperVersion>,
        table: &Arc<Memtable>,
        registered: &[u64],
        made: &mut Vec<u64>,
    ) -> Result<Vec<(KeyspaceId, Outcome)>> {
        let mut outcomes = Vec::new();
        for id in table.keyspaces() {
            // Entries of a keyspace that was forgotten have nobody to read them.
            let Some(keyspace) = current.version.keyspaces.get(&id) else { continue };
            let job = Job {
                sources: vec![MemCursor::new(table, id, Direction::Forward)],
                fragments: (*table.fragments(id)).clone(),
                policy: Policy::from_number(keyspace.options.policy),
                strategy: self.strategy_of(keyspace),
                demands: Demands { registered: registered.to_vec(), vanished: keyspace.vanished },
                below: Below(keyspace.segments().cloned().collect()),
                // One segment for a memtable: two would share seqnos in level 0 (V1).
                output_len: u64::MAX,
            };
            // A memtable is small: its flush is finished also while the database is being closed.
            let create = || self.new_segment(keyspace, table.first_seqno(), made);
            outcomes.push((id, run(job, create, || false)?));
        }
        Ok(outcomes)
    }

    /// Creates a segment file, noting its number.
    pub(super) fn new_segment(
        &self,
        keyspace: &KeyspaceVersion,
        base: u64,
        made: &mut Vec<u64>,
    ) -> Result<SegmentWriter> {
        let number = self.next_file.fetch_add(1, Ordering::Relaxed);
        made.push(number);
        let index = (point_index(&keyspace.options), self.database_id);
        SegmentWriter::create(&*self.dir, (number, self.env.entropy()), keyspace.id, base, index)
    }

    pub(super) fn sync_segment_names(&self) -> Result<()> {
        let synced = self.dir.sync_dir(name::SEGMENTS).at("sync", || self.dir.path().join(name::SEGMENTS));
        synced.inspect_err(|error| self.poison(error))
    }

    /// Removes the files of a job that failed before any edit named them.
    pub(super) fn discard(&self, made: &[u64]) {
        self.reclaim.add_segments(made.iter().copied());
        self.reclaim.run(&*self.dir);
    }

    /// The smallest base for the seqnos of all inputs.
    pub(super) fn base_of(inputs: &[Arc<Finished>]) -> u64 {
        inputs.iter().map(|segment| segment.summary.min_seqno).min().unwrap_or(0)
    }
}
