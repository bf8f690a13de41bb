//! Compacting: the task that is furthest over its bound, or everything on demand.

use std::sync::{Arc, atomic::Ordering};

use super::{Engine, scan::RunCursor, worker::What};
use crate::{
    base::{Result, Seqno},
    compaction::{Below, Demands, Job, Outcome, Policy, Task, everything, pick, run, score},
    manifest::{Change, Edit},
    merge::{Direction, Fragments},
};

/// What [`Db::compact`](crate::Db::compact) reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compacted {
    /// Seqnos of open views for whose sake old versions are still kept. When those views are dropped, the next compaction
    /// lets the versions go.
    pub still_held_by: Vec<Seqno>,
    /// Bytes of segments before.
    pub bytes_before: u64,
    /// Bytes of segments after.
    pub bytes_after: u64,
}

impl Engine {
    /// Brings everything written before the call to its final shape.
    pub(crate) fn compact(&self) -> Result<Compacted> {
        self.check_writable()?;
        let mut report = Compacted::default();
        self.flush()?;
        self.forget_dropped()?;
        report.bytes_before = self.segment_bytes_now();
        let ids: Vec<_> = self.current().version.keyspaces.keys().copied().collect();
        for id in ids {
            let _one = self.compacting.lock();
            self.check_writable()?;
            let version = Arc::clone(&self.current().version);
            let task = version.keyspaces.get(&id).and_then(|keyspace| everything(keyspace, &self.options.shape()));
            if let Some(task) = task {
                let outcome = self.run_task(&task)?;
                report.still_held_by.extend(outcome.traces.held_by.iter().map(|seqno| Seqno(*seqno)));
            }
        }
        report.still_held_by.sort_unstable();
        report.still_held_by.dedup();
        report.bytes_after = self.segment_bytes_now();
        self.work.note(What::Compact, None);
        self.reclaim.run(&*self.dir);
        Ok(report)
    }

    /// Runs the most urgent compaction; `false` when every level is within its bounds.
    pub(super) fn compact_most_urgent(&self) -> Result<bool> {
        let _one = self.compacting.lock();
        let shape = self.options.shape();
        let version = Arc::clone(&self.current().version);
        let urgent = version
            .keyspaces
            .values()
            .filter_map(|keyspace| Some((score(keyspace, &shape)?.1, keyspace)))
            .max_by_key(|(score, _)| *score);
        let Some(task) = urgent.and_then(|(_, keyspace)| pick(keyspace, &shape)) else { return Ok(false) };
        self.check_writable()?;
        if task.just_move {
            self.move_segment(&task)?;
        } else {
            self.run_task(&task)?;
        }
        Ok(true)
    }

    fn move_segment(&self, task: &Task) -> Result<()> {
        let edit = Edit::new(task.inputs.iter().flat_map(|segment| {
            let remove = Change::Remove { keyspace: task.keyspace, number: segment.number };
            [remove, Change::Add { level: task.output_level, segment: (**segment).clone() }]
        }));
        let mut manifest = self.manifest.lock();
        if manifest.version().keyspaces.contains_key(&task.keyspace) {
            let version = self.commit_edit(&mut manifest, &edit, &[])?;
            self.install(&version, None, None);
        }
        Ok(())
    }

    fn run_task(&self, task: &Task) -> Result<Outcome> {
        let registered = self.registry.lock().list();
        let current = self.current();
        let Some(keyspace) = current.version.keyspaces.get(&task.keyspace) else { return Ok(Outcome::default()) };
        let Some(tree) = current.trees.get(&task.keyspace) else { return Ok(Outcome::default()) };

        // Inputs as runs: each segment of level 0 alone, those of a deeper level as one.
        let is_input = |number: u64| task.inputs.iter().any(|segment| segment.number == number);
        let mut sources = Vec::new();
        let mut fragments = Vec::new();
        for (level, tables) in tree.levels.iter().enumerate() {
            let inputs: Vec<_> = tables.iter().filter(|table| is_input(table.meta.number)).cloned().collect();
            for table in &inputs {
                fragments.push(Arc::clone(table.segment()?.ranges()));
            }
            if level == 0 {
                sources.extend(inputs.into_iter().map(|table| RunCursor::new(vec![table], Direction::Forward)));
            } else if !inputs.is_empty() {
                sources.push(RunCursor::new(inputs, Direction::Forward));
            }
        }
        let job = Job {
            sources,
            fragments: Fragments::merged(&fragments),
            policy: Policy::from_number(keyspace.options.policy),
            strategy: self.strategy_of(keyspace),
            demands: Demands { registered: registered.seqnos.clone(), vanished: keyspace.vanished },
            below: Below(task.below.clone()),
            output_len: self.options.segment_bytes(),
        };
        let mut made = Vec::new();
        let base = Self::base_of(&task.inputs);
        let stop = || self.stopping.load(Ordering::Relaxed);
        let ran = run(job, || self.new_segment(keyspace, base, &mut made), stop);
        let named = ran.and_then(|outcome| {
            if !made.is_empty() {
                self.sync_segment_names()?;
            }
            Ok(outcome)
        });
        let outcome = named.inspect_err(|_| self.discard(&made))?;

        let mut edit = Edit::default();
        for segment in &task.inputs {
            edit.push(Change::Remove { keyspace: task.keyspace, number: segment.number });
            self.counters.compacted_in.fetch_add(segment.file_len, Ordering::Relaxed);
        }
        for segment in &outcome.segments {
            edit.push(Change::Add { level: task.output_level, segment: segment.clone() });
            self.counters.compacted_out.fetch_add(segment.file_len, Ordering::Relaxed);
        }
        let (vanished, horizon) = (outcome.traces.vanished, outcome.traces.horizon);
        edit.push(Change::Marks { keyspace: task.keyspace, vanished, horizon });
        edit.push(Change::NextFile { number: self.next_file.load(Ordering::Relaxed) });

        let mut manifest = self.manifest.lock();
        if let Some(keyspace) = manifest.version().keyspaces.get(&task.keyspace) {
            let superseder = outcome.traces.newest_change(keyspace.vanished);
            let version = self.commit_edit(&mut manifest, &edit, &made)?;
            self.install(&version, None, Some((&registered, superseder)));
        } else {
            self.discard(&made);
        }
        drop(manifest);
        drop(current);
        self.reclaim.run(&*self.dir);
        self.counters.compactions.fetch_add(1, Ordering::Relaxed);
        Ok(outcome)
    }

    fn segment_bytes_now(&self) -> u64 {
        self.current().tables().map(|table| table.meta.file_len).sum()
    }
}
