//! Running a job: merge, decide, write. It holds no lock and touches no manifest; what it gives back becomes an edit.

use std::sync::Arc;

use super::{
    history::PastSurvivors,
    output::{Lane, Output, Writers},
    rules::{Below, Demands, Rules},
    survivors::Survivors,
    traces::Traces,
};
use crate::{
    base::{Bytes, Error, KeySpan, Result},
    merge::{Direction, Kway, Source, Tombstones},
    segment::{Entry, Finished, SegmentWriter},
};

/// How often a job looks whether it should stop, in entries.
const LOOK_EVERY: u64 = 1024;

/// What to merge, and under which rules.
#[derive(Debug)]
pub(crate) struct Job<S> {
    /// Inputs, positioned nowhere yet.
    pub(crate) sources: Vec<S>,
    /// The range tombstones of all inputs.
    pub(crate) tombstones: Vec<Arc<Tombstones>>,
    pub(crate) rules: Rules,
    pub(crate) demands: Demands,
    pub(crate) below: Below,
    /// Outputs are cut, between two keys, when they reach this length.
    pub(crate) output_len: u64,
}

/// What a job made.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Of both lanes: the summary of each says which.
    pub(crate) segments: Vec<Finished>,
    /// By the number of a segment: what of it is kept only for those who read a seqno, in bytes.
    pub(crate) held: Vec<(u64, Vec<(u64, u64)>)>,
    pub(crate) traces: Traces,
    pub(crate) entries_in: u64,
    pub(crate) entries_out: u64,
}

/// Runs a job. Outputs come from `create`; the caller removes them when this fails. `goes_on` is asked now and then,
/// with the number of entries read.
pub(crate) fn run<S: Source>(
    job: Job<S>,
    create: impl FnMut(Lane) -> Result<SegmentWriter>,
    mut goes_on: impl FnMut(u64) -> Result<()>,
) -> Result<Outcome> {
    let Job { sources, tombstones, rules, demands, below, output_len } = job;
    let mut survivors = Survivors::new(rules, demands, below, &tombstones);
    let mut outcome = Outcome::default();
    let mut writers = Writers::new(create);

    let mut merge = Kway::new(sources, Direction::Forward);
    merge.seek(Some(&[]))?;
    while let Some(source) = merge.top()
        && let Some(entry) = source.entry()
    {
        outcome.entries_in += 1;
        if outcome.entries_in.is_multiple_of(LOOK_EVERY) {
            goes_on(outcome.entries_in)?;
        }
        let full = [Lane::Main, Lane::Past].map(|lane| writers.is_full(lane, output_len));
        if full != [false; 2] && survivors.is_new_key(entry.key) {
            survivors.end_key(&mut writers)?;
            let [main_full, past_full] = full;
            if main_full {
                let ranges = survivors.tombstones_before(Some(entry.key));
                finish(&mut outcome, writers.take(Lane::Main), &ranges, &mut survivors)?;
            }
            if past_full {
                finish(&mut outcome, writers.take(Lane::Past), &Tombstones::default(), &mut survivors)?;
            }
        }
        survivors.take(&entry, || source.value(), &mut writers)?;
        merge.advance()?;
    }
    survivors.end_key(&mut writers)?;
    let ranges = survivors.tombstones_before(None);
    if !ranges.is_empty() {
        writers.open(Lane::Main)?;
    }
    finish(&mut outcome, writers.take(Lane::Past), &Tombstones::default(), &mut survivors)?;
    finish(&mut outcome, writers.take(Lane::Main), &ranges, &mut survivors)?;
    outcome.entries_out = writers.count();
    outcome.traces = survivors.into_traces();
    debug_assert!(
        outcome
            .segments
            .iter()
            .filter(|segment| segment.summary.past.is_none())
            .is_sorted_by(|a, b| apart(&a.summary.span, &b.summary.span)),
        "outputs are apart (V2)"
    );
    Ok(outcome)
}

fn finish(
    outcome: &mut Outcome,
    writer: Option<SegmentWriter>,
    ranges: &Tombstones,
    survivors: &mut Survivors,
) -> Result<()> {
    if let Some(writer) = writer {
        let segment = writer.finish(ranges, |span| survivors.passed(span))?;
        let held = survivors.take_held();
        if !held.is_empty() {
            outcome.held.push((segment.number, held));
        }
        outcome.segments.push(segment);
    }
    Ok(())
}

/// Runs a merge of segments of the history tier.
pub(crate) fn run_past<S: Source>(
    sources: Vec<S>,
    mut survivors: PastSurvivors,
    output_len: u64,
    create: impl FnMut(Lane) -> Result<SegmentWriter>,
    mut goes_on: impl FnMut(u64) -> Result<()>,
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut writers = Writers::new(create);
    let mut merge = Kway::new(sources, Direction::Forward);
    let finish_one = |outcome: &mut Outcome, writer: Option<SegmentWriter>, held: Vec<(u64, u64)>| {
        if let Some(writer) = writer {
            let segment = writer.finish(&Tombstones::default(), |_| true)?;
            if !held.is_empty() {
                outcome.held.push((segment.number, held));
            }
            outcome.segments.push(segment);
        }
        Ok::<_, Error>(())
    };
    merge.seek(Some(&[]))?;
    let mut key: Vec<u8> = Vec::new();
    // A version is written when the next one is known: then it is known whether that is of the same key.
    let mut pending: Option<(Entry, Bytes)> = None;
    while let Some(source) = merge.top()
        && let Some(entry) = source.entry()
    {
        outcome.entries_in += 1;
        if outcome.entries_in.is_multiple_of(LOOK_EVERY) {
            goes_on(outcome.entries_in)?;
        }
        let new_key = outcome.entries_in == 1 || entry.key != key;
        if new_key {
            if let Some((entry, value)) = pending.take() {
                writers.add(Lane::Past, &entry, &key, &value)?;
            }
            if writers.is_full(Lane::Past, output_len) {
                finish_one(&mut outcome, writers.take(Lane::Past), survivors.take_held())?;
            }
            key.clear();
            key.extend_from_slice(entry.key);
            survivors.begin_key();
        }
        if let Some(kept) = survivors.take(&entry) {
            if let Some((entry, value)) = pending.take() {
                writers.add(Lane::Past, &Entry { older_follows: true, ..entry }, &key, &value)?;
            }
            pending = Some((kept, source.value()));
        }
        merge.advance()?;
    }
    if let Some((entry, value)) = pending {
        writers.add(Lane::Past, &entry, &key, &value)?;
    }
    finish_one(&mut outcome, writers.take(Lane::Past), survivors.take_held())?;
    outcome.entries_out = writers.count();
    outcome.traces = survivors.into_traces();
    Ok(outcome)
}

fn apart(left: &KeySpan, right: &KeySpan) -> bool {
    left.end.as_ref().is_some_and(|end| *end <= right.start)
}
