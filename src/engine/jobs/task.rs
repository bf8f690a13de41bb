//! Execution of a compaction that was picked: from its inputs to the edit that names its outputs.

use std::sync::{Arc, atomic::Ordering};

use super::{Outputs, demands, places::LivePlaces, retention};
use crate::{
    base::{Error, FileNumber, PLACES, Result, Seqno},
    compaction::{HistoryJob, HistorySurvivors, HistoryTask, Job, Outcome, Purges, Task, run, run_history},
    engine::{
        Engine,
        files::{
            JobInputs,
            runs::{RunCursor, VersionRunCursor},
            superversion::SuperVersion,
        },
        watch::Watch,
    },
    manifest::{Change, Edit, KeyspaceVersion},
    merge::{Direction, Source},
    segment::SegmentMeta,
};

/// Runs a task of the main tree.
pub(super) fn run_task(engine: &Engine, task: &Task, purged_upto: Seqno, watch: &mut Watch<'_>) -> Result<Outcome> {
    if task.keyspace == PLACES {
        let live = |source, files: &SuperVersion| LivePlaces::new(source, &files.chunks.packs);
        run_task_over(engine, task, purged_upto, watch, live)
    } else {
        run_task_over(engine, task, purged_upto, watch, |source, _| source)
    }
}

/// Runs a task of the main tree over sources that are made of its inputs.
pub(super) fn run_task_over<S: Source>(
    engine: &Engine,
    task: &Task,
    purged_upto: Seqno,
    watch: &mut Watch<'_>,
    over: impl Fn(RunCursor, &SuperVersion) -> S,
) -> Result<Outcome> {
    let inputs = engine.files.job_inputs("compact: files, then list");
    let current = &inputs.files;
    let Some(keyspace) = current.version.keyspaces.get(&task.keyspace) else { return Ok(Outcome::default()) };
    let Some(tree) = current.trees.get(&task.keyspace) else { return Ok(Outcome::default()) };

    // Inputs as runs: each segment of level 0 alone, those of a deeper level as one.
    let is_input = |number: FileNumber| task.inputs.iter().any(|segment| segment.number == number);
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
        sources: sources.into_iter().map(|source| over(source, current)).collect(),
        base: outputs.base,
        tombstones,
        retention: retention(engine, keyspace, &inputs, purged_upto, task.below.clone()),
        output_len: engine.ctx.options.segment_bytes(),
        filtered: keyspace.id == PLACES,
    };
    let ran = run(job, |tier| outputs.create(tier), step_or_stop(engine, &task.inputs, watch));
    let replaced = Replaced { inputs: &task.inputs, output_level: Some(task.output_level), made: outputs.made };
    end_job(engine, &inputs, keyspace, replaced, ran)
}

/// Runs a task of the history tier.
pub(super) fn run_history_task(
    engine: &Engine,
    job: &JobInputs,
    keyspace: &KeyspaceVersion,
    task: HistoryTask,
    purges: &Purges,
    watch: &mut Watch<'_>,
) -> Result<Outcome> {
    let inputs = match task {
        HistoryTask::Merge(inputs) => inputs,
        HistoryTask::Drop(inputs) => {
            let mut outcome = Outcome::default();
            if inputs.iter().any(|segment| segment.summary.recipes) {
                engine.jobs.garbage.record_unknown();
            }
            for segment in &inputs {
                let history = segment.intervals();
                // As if each version had been dropped by itself.
                let end = if history.open { history.end.max(segment.summary.max_seqno) } else { history.end };
                outcome.dropped.vanished = outcome.dropped.vanished.max(end);
                outcome.dropped.horizon = outcome.dropped.horizon.max(history.end);
                outcome.dropped.tombstones_left |= history.open;
            }
            let replaced = Replaced { inputs: &inputs, output_level: None, made: Vec::new() };
            return end_job(engine, job, keyspace, replaced, Ok(outcome));
        }
    };
    let outputs = Outputs::of(engine, keyspace, &inputs);
    merge_history(engine, job, keyspace, (&inputs, outputs), purges, watch, |source| source)
}

/// Writes a segment of the history tier anew, in its run, over a source that is made of it.
pub(super) fn rewrite_history<S: Source>(
    engine: &Engine,
    job: &JobInputs,
    keyspace: &KeyspaceVersion,
    segment: &Arc<SegmentMeta>,
    watch: &mut Watch<'_>,
    over: impl Fn(VersionRunCursor) -> S,
) -> Result<Outcome> {
    let inputs = [Arc::clone(segment)];
    // What replaces it lies within its keys: the run stays one (V6).
    let outputs = Outputs { run: Some(segment.intervals().run), ..Outputs::of(engine, keyspace, &inputs) };
    merge_history(engine, job, keyspace, (&inputs, outputs), &Purges::default(), watch, over)
}

fn merge_history<S: Source>(
    engine: &Engine,
    job: &JobInputs,
    keyspace: &KeyspaceVersion,
    (inputs, mut outputs): (&[Arc<SegmentMeta>], Outputs<'_>),
    purges: &Purges,
    watch: &mut Watch<'_>,
    over: impl Fn(VersionRunCursor) -> S,
) -> Result<Outcome> {
    let Some(tree) = job.files.trees.get(&keyspace.id) else { return Ok(Outcome::default()) };
    let is_input = |number: FileNumber| inputs.iter().any(|segment| segment.number == number);
    let mut sources = Vec::new();
    for run in &tree.history {
        let handles: Vec<_> = run.segments.iter().filter(|handle| is_input(handle.meta.number)).cloned().collect();
        if !handles.is_empty() {
            sources.push(over(VersionRunCursor::new(handles, Direction::Forward, ())));
        }
    }
    let demands = demands(keyspace, &job.registered);
    let policy = engine.catalogue.policy_of(keyspace);
    let merge = HistoryJob {
        sources,
        base: outputs.base,
        survivors: HistorySurvivors::new(policy, engine.now(), demands, purges.clone()),
        output_len: engine.ctx.options.segment_bytes(),
    };
    let ran = run_history(merge, |tier| outputs.create(tier), step_or_stop(engine, inputs, watch));
    end_job(engine, job, keyspace, Replaced { inputs, output_level: None, made: outputs.made }, ran)
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
fn step_or_stop<'g>(
    engine: &'g Engine,
    inputs: &[Arc<SegmentMeta>],
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

/// Segments that a job replaces, and those that it made.
struct Replaced<'j> {
    inputs: &'j [Arc<SegmentMeta>],
    /// Level of the outputs; `None` in the history tier.
    output_level: Option<u8>,
    made: Vec<FileNumber>,
}

/// Commits the edit of a job, and makes its outputs current.
fn end_job(
    engine: &Engine,
    job: &JobInputs,
    keyspace: &KeyspaceVersion,
    replaced: Replaced<'_>,
    ran: Result<Outcome>,
) -> Result<Outcome> {
    let Replaced { inputs, output_level, made } = replaced;
    let named = ran.and_then(|outcome| {
        if !made.is_empty() {
            engine.files.sync_names()?;
        }
        Ok(outcome)
    });
    let made = made.into();
    let outcome = named.inspect_err(|_| engine.files.discard(&made))?;
    engine.jobs.garbage.record_dropped(outcome.large_dropped);

    let id = keyspace.id;
    let mut edit = Edit::default();
    for segment in inputs {
        edit.push(Change::Remove { keyspace: id, number: segment.number });
        engine.counters.compacted_in.fetch_add(segment.file_len, Ordering::Relaxed);
    }
    for segment in &outcome.segments {
        let written = match segment.summary.history {
            Some(_) => &engine.counters.history_out,
            None => &engine.counters.compacted_out,
        };
        written.fetch_add(segment.file_len, Ordering::Relaxed);
        edit.push(Change::Add { level: output_level.unwrap_or(0), segment: segment.clone() });
    }
    for (number, bytes) in &outcome.held {
        edit.push(Change::Held { number: *number, bytes: bytes.clone() });
    }
    edit.push(outcome.dropped.watermarks(id));
    edit.push(engine.files.numbers_taken());

    engine.ctx.pass("compact: written, then installed");
    let mut editing = engine.files.edit();
    if let Some(keyspace) = editing.version().keyspaces.get(&id) {
        let superseder = outcome.dropped.newest_change(keyspace.vanished);
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
