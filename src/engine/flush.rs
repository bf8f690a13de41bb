//! Flushing: the oldest sealed memtable becomes one segment for each keyspace, in one edit (E2).

use std::sync::{Arc, atomic::Ordering};

use super::{Engine, compact::demands, keyspaces::point_index, registry::JobInputs};
use crate::{
    base::{Error, IoContext, KeyspaceId, Result, TIMELINE},
    compaction::{Below, Job, Lane, Outcome, run},
    format::name,
    manifest::{Change, Edit, KeyspaceVersion, StoredOptions},
    memtable::{MemCursor, Memtable},
    merge::Direction,
    segment::{Finished, Purpose, SegmentWriter},
};

impl Engine {
    /// Seals what is in the active memtable and flushes everything that is sealed by then. What others write meanwhile is not waited for.
    pub(crate) fn flush(&self) -> Result<()> {
        self.check_writable()?;
        let newest = {
            let mut commit = self.commit.lock();
            self.check_writable()?;
            self.rotate(&mut commit)?;
            self.current.read().sealed.first().map(|newest| newest.log())
        };
        self.env.pass("flush: sealed, then flushed");
        newest.map_or(Ok(()), |newest| self.flush_upto(newest))?;
        self.work.note_flush(None);
        self.check_there()
    }

    /// Flushes the sealed memtables up to that of a log.
    pub(super) fn flush_upto(&self, newest: u64) -> Result<()> {
        let is_due = || self.current.read().sealed.last().is_some_and(|oldest| oldest.log() <= newest);
        while is_due() && self.flush_oldest()? {}
        Ok(())
    }

    /// Flushes the oldest sealed memtable; `false` when there is none.
    pub(super) fn flush_oldest(&self) -> Result<bool> {
        let _one = self.flushing.lock();
        if self.current.read().sealed.is_empty() {
            return Ok(false);
        }
        let inputs = JobInputs::take(self, "flush: files, then list");
        let current = &inputs.files;
        let Some(table) = current.sealed.last() else { return Ok(false) };
        self.check_writable()?;
        let mut made = Vec::new();
        let outcomes = self.write_segments(&inputs, table, &mut made).and_then(|outcomes| {
            // Files first, then all of them to the disk at once: of thousands each would wait for the one before.
            self.sync_segments(&made)?;
            Ok(outcomes)
        });
        let told = outcomes.and_then(|outcomes| {
            let number = self.next_file.fetch_add(1, Ordering::Relaxed);
            let stamps = table.with_stamps(<[_]>::to_vec);
            Ok((outcomes, self.write_stamps(&*self.dir, (&stamps, number), &mut made)?))
        });
        let finished = told.and_then(|told| {
            if !made.is_empty() {
                self.sync_segment_names()?;
            }
            Ok(told)
        });
        let (outcomes, stamps) = finished.inspect_err(|_| self.discard(&made))?;

        self.env.pass("flush: written, then installed");
        let mut manifest = self.manifest.lock();
        let mut edit = Edit::default();
        let mut superseder = 0;
        for (id, outcome) in outcomes {
            let Outcome { segments, traces, held, .. } = outcome;
            let Some(keyspace) = manifest.version().keyspaces.get(&id) else {
                // Forgotten while its segment was written.
                self.reclaim.add_segments(segments.iter().map(|segment| segment.number));
                continue;
            };
            edit.push(traces.marks(id));
            for (number, bytes) in held {
                edit.push(Change::Held { number, bytes });
            }
            for segment in segments {
                self.counters.flushed_bytes.fetch_add(segment.file_len, Ordering::Relaxed);
                edit.push(Change::Add { level: 0, segment });
            }
            superseder = superseder.max(traces.newest_change(keyspace.vanished));
        }
        if let Some(segment) = stamps {
            if !manifest.version().keyspaces.contains_key(&TIMELINE) {
                let options = StoredOptions::default();
                edit.push(Change::Create { id: TIMELINE, name: String::new(), options, seqno: 0 });
            }
            edit.push(Change::Add { level: 0, segment });
        }
        // Logs between that hold nothing are not needed either: they may never have been synced, and would void what follows.
        let next_log = current.sealed.iter().rev().nth(1).unwrap_or(&current.active).log();
        edit.push(Change::LogsFrom { number: next_log });
        edit.push(Change::NextFile { number: self.next_file.load(Ordering::Relaxed) });
        edit.push(Change::Seqnos { last: table.last_seqno(), next: 0, ceiling: 0, time_us: table.time_us() });
        let version = self.commit_edit(&mut manifest, &edit, &made)?;
        self.install(&version, Some(table), Some((&inputs, superseder)));
        self.commit.lock().unsynced.retain(|(file, _)| file.number >= next_log);
        drop(manifest);
        self.env.pass("flush: installed, then reclaimed");

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
        inputs: &JobInputs,
        table: &Arc<Memtable>,
        made: &mut Vec<u64>,
    ) -> Result<Vec<(KeyspaceId, Outcome)>> {
        let JobInputs { files: current, registered, .. } = inputs;
        let mut outcomes = Vec::new();
        for id in table.keyspaces() {
            // Entries of a keyspace that was forgotten have nobody to read them.
            let Some(keyspace) = current.version.keyspaces.get(&id) else { continue };
            let job = Job {
                sources: vec![MemCursor::new(table, id, Direction::Forward)],
                tombstones: table.tombstones(id),
                rules: self.rules(keyspace, current, 0),
                demands: demands(keyspace, registered),
                below: Below(keyspace.main().cloned().collect()),
                // One segment for a memtable: two would share seqnos in level 0 (V1).
                output_len: u64::MAX,
            };
            // A memtable is small: its flush is finished also while the database is being closed.
            let mut run_number = None;
            let bases = (table.first_seqno(), table.first_time());
            let create =
                |lane| self.new_segment(keyspace, lane, bases, &mut run_number, made).map(SegmentWriter::sync_later);
            outcomes.push((id, run(job, create, |_| Ok(()))?));
        }
        Ok(outcomes)
    }

    /// Creates a segment file in a lane, noting its number; `run` is that of the history tier's segments of one job. Nothing inside is below
    /// the bases, in seqno and time.
    pub(super) fn new_segment(
        &self,
        keyspace: &KeyspaceVersion,
        lane: Lane,
        (base, time_base): (u64, u64),
        run: &mut Option<u64>,
        made: &mut Vec<u64>,
    ) -> Result<SegmentWriter> {
        let number = self.next_file.fetch_add(1, Ordering::Relaxed);
        made.push(number);
        let timed = lane == Lane::Past || self.keeps_time(keyspace);
        let purpose = Purpose {
            keyspace: keyspace.id,
            base,
            time_base: timed.then_some(time_base),
            run: (lane == Lane::Past).then(|| *run.get_or_insert(number)),
            index: point_index(&keyspace.options),
            hash_seed: self.database_id,
        };
        SegmentWriter::create(&*self.dir, (number, self.env.entropy()), purpose)
    }

    /// Makes segments durable that were written without being synced.
    fn sync_segments(&self, numbers: &[u64]) -> Result<()> {
        let names: Vec<String> = numbers.iter().copied().map(name::segment).collect();
        self.dir.sync_files(&names).map_err(|(name, error)| Error::io("sync", &self.dir.path().join(name), error))
    }

    pub(super) fn sync_segment_names(&self) -> Result<()> {
        let synced = self.dir.sync_dir(name::SEGMENTS).at("sync", || self.dir.path().join(name::SEGMENTS));
        synced.inspect_err(|error| self.poison_unless_unopened(error))
    }

    /// Removes the files of a job that failed before any edit named them.
    pub(super) fn discard(&self, made: &[u64]) {
        self.reclaim.add_segments(made.iter().copied());
        self.reclaim.run(&*self.dir);
    }

    /// The smallest bases for the seqnos and times of all inputs.
    pub(super) fn bases_of(inputs: &[Arc<Finished>]) -> (u64, u64) {
        let seqno = inputs.iter().map(|segment| segment.summary.min_seqno).min().unwrap_or(0);
        // Entries without a time get one from the timeline: it may be any.
        let time = inputs.iter().map(|segment| segment.summary.times.map_or(0, |times| times.base)).min().unwrap_or(0);
        (seqno, time)
    }
}
