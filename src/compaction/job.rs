//! Running a job: merge, decide, write. It holds no lock and touches no manifest; what it gives back becomes an edit.

use super::{
    Policy,
    survivors::{Below, Demands, Survivors, Traces},
};
use crate::{
    base::{Error, KeySpan, Result},
    merge::{Direction, Fragments, Kway, MergeStrategy, Source},
    segment::{Finished, SegmentWriter},
};

/// How often a job looks whether it should stop, in entries.
const STOP_CHECK: u64 = 1024;

/// What to merge, and under which rules.
#[derive(Debug)]
pub(crate) struct Job<S> {
    /// Inputs, positioned nowhere yet.
    pub(crate) sources: Vec<S>,
    /// The range tombstones of all inputs, cut as one.
    pub(crate) fragments: Fragments,
    pub(crate) policy: Policy,
    /// Without one operands stay as they are.
    pub(crate) strategy: Option<MergeStrategy>,
    pub(crate) demands: Demands,
    pub(crate) below: Below,
    /// Outputs are cut, between two keys, when they reach this length.
    pub(crate) output_len: u64,
}

/// What a job made.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) segments: Vec<Finished>,
    pub(crate) traces: Traces,
    pub(crate) entries_in: u64,
    pub(crate) entries_out: u64,
}

/// Runs a job. Outputs come from `create`; the caller removes them when this fails.
pub(crate) fn run<S: Source>(
    job: Job<S>,
    mut create: impl FnMut() -> Result<SegmentWriter>,
    stop: impl Fn() -> bool,
) -> Result<Outcome> {
    let Job { sources, fragments, policy, strategy, demands, below, output_len } = job;
    let mut survivors = Survivors::new((policy, strategy), demands, below, &fragments);
    let mut outcome = Outcome::default();
    let mut writer: Option<SegmentWriter> = None;

    let mut merge = Kway::new(sources, Direction::Forward);
    merge.seek(Some(&[]))?;
    while let Some(source) = merge.top()
        && let Some(entry) = source.entry()
    {
        outcome.entries_in += 1;
        if outcome.entries_in.is_multiple_of(STOP_CHECK) && stop() {
            return Err(Error::Closed);
        }
        if writer.as_ref().is_some_and(|writer| writer.is_full(output_len)) && survivors.is_new_key(entry.key) {
            survivors.end_key(&mut |entry, key, value| {
                add(&mut writer, &mut create, &mut outcome.entries_out, (entry, key, value))
            })?;
            let ranges = survivors.fragments_before(Some(entry.key));
            outcome.segments.extend(finish(writer.take(), &ranges, &survivors)?);
        }
        survivors.take(&entry, || source.value(), &mut |entry, key, value| {
            add(&mut writer, &mut create, &mut outcome.entries_out, (entry, key, value))
        })?;
        merge.advance()?;
    }
    survivors.end_key(&mut |entry, key, value| {
        add(&mut writer, &mut create, &mut outcome.entries_out, (entry, key, value))
    })?;
    let ranges = survivors.fragments_before(None);
    if writer.is_none() && !ranges.is_empty() {
        writer = Some(create()?);
    }
    outcome.segments.extend(finish(writer, &ranges, &survivors)?);
    outcome.traces = survivors.into_traces();
    debug_assert!(
        outcome.segments.is_sorted_by(|a, b| apart(&a.summary.span, &b.summary.span)),
        "outputs are apart (V2)"
    );
    Ok(outcome)
}

fn finish(writer: Option<SegmentWriter>, ranges: &Fragments, survivors: &Survivors) -> Result<Option<Finished>> {
    writer.map(|writer| writer.finish(ranges, |span| survivors.passed(span))).transpose()
}

fn add(
    writer: &mut Option<SegmentWriter>,
    create: &mut impl FnMut() -> Result<SegmentWriter>,
    count: &mut u64,
    (entry, key, value): (&crate::segment::Entry, &[u8], &[u8]),
) -> Result<()> {
    let writer = match writer {
        Some(writer) => writer,
        None => writer.insert(create()?),
    };
    *count += 1;
    writer.add(entry, key, value)
}

fn apart(left: &KeySpan, right: &KeySpan) -> bool {
    left.end.as_ref().is_some_and(|end| *end <= right.start)
}
