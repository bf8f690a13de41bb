//! Execution of a compaction that was picked: from its inputs to the edit that names its outputs.

use std::sync::{Arc, atomic::Ordering};

use super::{Outputs, demands, rules};
use crate::{
    base::{Error, Result},
    compaction::{Below, Job, Outcome, PastJob, PastSurvivors, PastTask, Purges, Task, run, run_past},
    engine::{
        Engine,
        files::{
            JobInputs,
            runs::{RunCursor, VersionRunCursor},
        },
        watch::Watch,
    },
    manifest::{Change, Edit, KeyspaceVersion},
    merge::Direction,
    segment::Finished,
};

pub(super) fn run_task(engine: &Engine, task: &Task, purged_upto: u64, watch: &mut Watch<'_>) -> Result<Outcome> {
    let inputs = engine.files.job_inputs("compact: files, then list");
    let JobInputs { files: current, registered, .. } = &inputs;
    let Some(keyspace) = current.version.keyspaces.get(&task.keyspace) else { return Ok(Outcome::default()) };
    let Some(tree) = current.trees.get(&task.keyspace) else { return Ok(Outcome::default()) };

    // Inputs as runs: each segment of level 0 alone, those of a deeper level as one.
    let is_input = |number: u64| task.inputs.iter().any(|segment| segment.number == number);
    let mut sources = Vec::new();
    let mut tombstones = Vec::new();
    for (level, handles) in tree.levels.iter().enumerate() {
        let inputs: Vec<_> = handles.iter().filter(|handle| is_input(handle.meta.number)).cloned().collect();
        for handle in &inputs {
            tombstones.push(Arc::clone(handle.segment()?.ranges()));
        }
        if level == 0 {
            sources.extend(inputs.into_iter().map(|handle| RunCursor::new(vec![handle], Direction::Forward, ())));
        } else if !inputs.is_empty() {
            sources.push(RunCursor::new(inputs, Direction::Forward, ()));
        }
    }
    let mut outputs = Outputs::of(engine, keyspace, &task.inputs);
    let job = Job {
        sources,
        base: outputs.base(),
        tombstones,
        rules: rules(engine, keyspace, current, purged_upto),
        demands: demands(keyspace, registered),
        below: Below(task.below.clone()),
        output_len: engine.ctx.options.segment_bytes(),
    };
    let goes_on = goes_on(engine, &task.inputs, watch);
    let ran = run(job, |lane| outputs.create(lane), goes_on);
    end_job(engine, &inputs, keyspace, (&task.inputs, Some(task.output_level)), (ran, outputs.made))
}

/// Runs a task of the history tier.
pub(super) fn run_past_task(
    engine: &Engine,
    job: &JobInputs,
    keyspace: &KeyspaceVersion,
    task: PastTask,
    purges: &Purges,
    watch: &mut Watch<'_>,
) -> Result<Outcome> {
    let inputs = match task {
        PastTask::Merge(inputs) => inputs,
        PastTask::Drop(inputs) => {
            let mut outcome = Outcome::default();
            for segment in &inputs {
                let Some(past) = segment.summary.past else { continue };
                // As if each version had been dropped by itself.
                let end = if past.open { past.end.max(segment.summary.max_seqno) } else { past.end };
                outcome.traces.vanished = outcome.traces.vanished.max(end);
                outcome.traces.horizon = outcome.traces.horizon.max(past.end);
                outcome.traces.tombstones_left |= past.open;
            }
            return end_job(engine, job, keyspace, (&inputs, None), (Ok(outcome), Vec::new()));
        }
    };
    let Some(tree) = job.files.trees.get(&keyspace.id) else { return Ok(Outcome::default()) };
    let is_input = |number: u64| inputs.iter().any(|segment| segment.number == number);
    let mut sources = Vec::new();
    for run in &tree.past {
        let handles: Vec<_> = run.segments.iter().filter(|handle| is_input(handle.meta.number)).cloned().collect();
        if !handles.is_empty() {
            sources.push(VersionRunCursor::new(handles, Direction::Forward, ()));
        }
    }
    let demands = demands(keyspace, &job.registered);
    let policy = engine.catalogue.policy_of(keyspace);
    let mut outputs = Outputs::of(engine, keyspace, &inputs);
    let merge = PastJob {
        sources,
        base: outputs.base(),
        survivors: PastSurvivors::new(policy, engine.now_us(), demands, purges.clone()),
        output_len: engine.ctx.options.segment_bytes(),
    };
    let goes_on = goes_on(engine, &inputs, watch);
    let ran = run_past(merge, |lane| outputs.create(lane), goes_on);
    end_job(engine, job, keyspace, (&inputs, None), (ran, outputs.made))
}

pub(super) fn move_segment(engine: &Engine, task: &Task) -> Result<()> {
    let edit = Edit::new(task.inputs.iter().flat_map(|segment| {
        let remove = Change::Remove { keyspace: task.keyspace, number: segment.number };
        [remove, Change::Add { level: task.output_level, segment: (**segment).clone() }]
    }));
    let mut editing = engine.files.edit();
    if editing.version().keyspaces.contains_key(&task.keyspace) {
        editing.apply(&edit)?;
    }
    Ok(())
}

/// Returns the callback by which a job reports its progress; it fails once the job should stop.
fn goes_on<'g>(
    engine: &'g Engine,
    inputs: &[Arc<Finished>],
    watch: &'g mut Watch<'_>,
) -> impl FnMut(u64) -> Result<()> {
    let all = inputs.iter().map(|segment| segment.summary.entries + segment.summary.tombstones).sum::<u64>();
    move |entries| {
        if engine.health.is_stopping() {
            return Err(Error::Closed);
        }
        watch.step(entries, all)
    }
}

/// Commits the edit of a job, and makes its outputs current.
fn end_job(
    engine: &Engine,
    job: &JobInputs,
    keyspace: &KeyspaceVersion,
    (inputs, output_level): (&[Arc<Finished>], Option<u8>),
    (ran, made): (Result<Outcome>, Vec<u64>),
) -> Result<Outcome> {
    let named = ran.and_then(|outcome| {
        if !made.is_empty() {
            engine.files.sync_names()?;
        }
        Ok(outcome)
    });
    let outcome = named.inspect_err(|_| engine.files.discard(&made))?;

    let id = keyspace.id;
    let mut edit = Edit::default();
    for segment in inputs {
        edit.push(Change::Remove { keyspace: id, number: segment.number });
        engine.counters.compacted_in.fetch_add(segment.file_len, Ordering::Relaxed);
    }
    for segment in &outcome.segments {
        let written = match segment.summary.past {
            Some(_) => &engine.counters.past_out,
            None => &engine.counters.compacted_out,
        };
        written.fetch_add(segment.file_len, Ordering::Relaxed);
        edit.push(Change::Add { level: output_level.unwrap_or(0), segment: segment.clone() });
    }
    for (number, bytes) in &outcome.held {
        edit.push(Change::Held { number: *number, bytes: bytes.clone() });
    }
    edit.push(outcome.traces.marks(id));
    edit.push(engine.files.numbers_taken());

    engine.ctx.pass("compact: written, then installed");
    let mut editing = engine.files.edit();
    if let Some(keyspace) = editing.version().keyspaces.get(&id) {
        let superseder = outcome.traces.newest_change(keyspace.vanished);
        let version = editing.commit(&edit, &made)?;
        if inputs.iter().any(|segment| segment.summary.has_purges()) {
            engine.files.record_purged();
        }
        editing.install(&version, None, Some((job, superseder)));
    } else {
        engine.files.discard(&made);
    }
    drop(editing);
    engine.ctx.pass("compact: installed, then reclaimed");
    engine.files.reclaim();
    engine.counters.compactions.fetch_add(1, Ordering::Relaxed);
    Ok(outcome)
}
