//! Running a job: merge, decide, write. A job holds no lock and does not touch the manifest; its outcome becomes an
//! edit.

use std::sync::Arc;

use super::{
    dropped::Dropped,
    history::HistorySurvivors,
    inputs::Inputs,
    output::{Output, Tier, Writers},
    policy::entry_bytes,
    rules::Retention,
    survivors::Survivors,
};
use crate::{
    base::{Bytes, FileNumber, KeySpan, Kind, Result, Seqno},
    merge::{Direction, Kway, Source, Tombstones},
    segment::{Entry, SegmentMeta, SegmentWriter},
};

/// Number of entries between two checks whether the job should stop.
const LOOK_EVERY: u64 = 1024;

/// Inputs of a job, and the rules that apply.
#[derive(Debug)]
pub(crate) struct Job<S> {
    /// Inputs, not yet positioned.
    pub(crate) sources: Vec<S>,
    /// Lower bound of all seqnos in the inputs: the outputs store theirs relative to it.
    pub(crate) base: Seqno,
    /// Range tombstones of all inputs.
    pub(crate) tombstones: Vec<Arc<Tombstones>>,
    pub(crate) retention: Retention,
    /// Length at which an output is cut, at the next new key.
    pub(crate) output_len: u64,
    /// Whether every output has a filter, also at the last level: most keys that are looked up are not there.
    pub(crate) filtered: bool,
}

/// Inputs of a merge in the history tier, and what stays of them.
#[derive(Debug)]
pub(crate) struct HistoryJob<S> {
    /// Inputs, not yet positioned.
    pub(crate) sources: Vec<S>,
    /// Lower bound of all seqnos in the inputs: the outputs store theirs relative to it.
    pub(crate) base: Seqno,
    pub(crate) survivors: HistorySurvivors,
    /// Length at which an output is cut, at the next new key.
    pub(crate) output_len: u64,
}

/// Result of a job.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Segments of both tiers: the summary of each says which.
    pub(crate) segments: Vec<SegmentMeta>,
    /// Bytes kept only for registered seqnos: for each segment number, pairs of seqno and bytes.
    pub(crate) held: Vec<(FileNumber, Vec<(Seqno, u64)>)>,
    pub(crate) dropped: Dropped,
    pub(crate) entries_in: u64,
    pub(crate) entries_out: u64,
    /// Bytes of the large values whose recipes came in and did not go out.
    pub(crate) large_dropped: u64,
    filtered: bool,
}

/// Runs a job. `create` begins each output segment; the caller removes those segments if the job fails. `goes_on` is
/// called now and then with the number of entries read; its error stops the job.
pub(crate) fn run<S: Source>(
    job: Job<S>,
    create: impl FnMut(Tier) -> Result<SegmentWriter>,
    mut goes_on: impl FnMut(u64) -> Result<()>,
) -> Result<Outcome> {
    let Job { sources, base, tombstones, retention, output_len, filtered } = job;
    let mut survivors = Survivors::new(retention, &tombstones);
    let mut outcome = Outcome { filtered, ..Outcome::default() };
    let mut writers = Writers::new(create);
    let mut inputs = Inputs::new(base);
    let mut large_in = 0u64;

    let mut merge = Kway::new(sources, Direction::Forward);
    merge.seek(Some(&[]))?;
    while let Some(source) = merge.top()
        && let Some(entry) = source.entry()
    {
        let begins_key = inputs.admit(&entry, source)?;
        large_in += large_bytes(entry.kind, || source.value());
        if inputs.count().is_multiple_of(LOOK_EVERY) {
            goes_on(inputs.count())?;
        }
        let full = [Tier::Main, Tier::History].map(|tier| writers.is_full(tier, output_len));
        if full != [false; 2] && begins_key {
            survivors.end_key(&mut writers)?;
            let [main_full, history_full] = full;
            if main_full {
                let ranges = survivors.tombstones_before(Some(entry.key));
                outcome.end_segment(writers.take(Tier::Main), &ranges, &mut survivors)?;
            }
            if history_full {
                outcome.end_segment(writers.take(Tier::History), &Tombstones::default(), &mut survivors)?;
            }
        }
        survivors.take(&entry, begins_key, || source.value(), &mut writers)?;
        merge.advance()?;
    }
    survivors.end_key(&mut writers)?;
    let ranges = survivors.tombstones_before(None);
    if !ranges.is_empty() {
        writers.open(Tier::Main)?;
    }
    outcome.end_segment(writers.take(Tier::History), &Tombstones::default(), &mut survivors)?;
    outcome.end_segment(writers.take(Tier::Main), &ranges, &mut survivors)?;
    (outcome.entries_in, outcome.entries_out) = (inputs.count(), writers.count());
    outcome.large_dropped = large_in.saturating_sub(writers.large());
    outcome.check(survivors.tombstones_kept());
    outcome.dropped = survivors.into_dropped();
    Ok(outcome)
}

/// Runs a merge of segments of the history tier. The parameters are those of [`run`].
pub(crate) fn run_history<S: Source>(
    job: HistoryJob<S>,
    create: impl FnMut(Tier) -> Result<SegmentWriter>,
    mut goes_on: impl FnMut(u64) -> Result<()>,
) -> Result<Outcome> {
    let HistoryJob { sources, base, mut survivors, output_len } = job;
    let mut outcome = Outcome::default();
    let mut writers = Writers::new(create);
    let mut inputs = Inputs::new(base);
    let mut large_in = 0u64;

    let mut merge = Kway::new(sources, Direction::Forward);
    merge.seek(Some(&[]))?;
    let mut key: Vec<u8> = Vec::new();
    // A version is written once the next one is known, since it records whether an older one of its key follows.
    let mut pending: Option<(Entry, Bytes)> = None;
    while let Some(source) = merge.top()
        && let Some(entry) = source.entry()
    {
        let begins_key = inputs.admit_version(&entry, source)?;
        large_in += large_bytes(entry.kind, || source.value());
        if inputs.count().is_multiple_of(LOOK_EVERY) {
            goes_on(inputs.count())?;
        }
        if begins_key {
            if let Some((entry, value)) = pending.take() {
                writers.add(Tier::History, &entry, &key, &value)?;
            }
            if writers.is_full(Tier::History, output_len) {
                outcome.end_history(writers.take(Tier::History), &mut survivors)?;
            }
            key.clear();
            key.extend_from_slice(entry.key);
            survivors.begin_key();
        }
        if let Some(kept) = survivors.take(&entry) {
            if let Some((entry, value)) = pending.take() {
                writers.add(Tier::History, &Entry { older_follows: true, ..entry }, &key, &value)?;
            }
            pending = Some((kept, source.value()));
        }
        merge.advance()?;
    }
    if let Some((entry, value)) = pending {
        writers.add(Tier::History, &entry, &key, &value)?;
    }
    outcome.end_history(writers.take(Tier::History), &mut survivors)?;
    (outcome.entries_in, outcome.entries_out) = (inputs.count(), writers.count());
    outcome.large_dropped = large_in.saturating_sub(writers.large());
    outcome.check(0);
    outcome.dropped = survivors.into_dropped();
    Ok(outcome)
}

/// Returns the length of the large value whose recipe an entry has; 0 for others.
fn large_bytes(kind: Kind, value: impl FnOnce() -> Bytes) -> u64 {
    if kind == Kind::Recipe { entry_bytes(kind, &[], &value()) } else { 0 }
}

impl Outcome {
    /// Ends the segment that is being written, if there is one.
    fn end_segment(
        &mut self,
        writer: Option<SegmentWriter>,
        ranges: &Tombstones,
        survivors: &mut Survivors,
    ) -> Result<()> {
        let Some(writer) = writer else {
            assert!(ranges.is_empty(), "{} range tombstones without a segment", ranges.len());
            return Ok(());
        };
        let filtered = self.filtered;
        let segment = writer.finish(ranges, |span| filtered || survivors.passed(span))?;
        self.add(segment, survivors.take_held());
        Ok(())
    }

    /// Ends the segment of the history tier that is being written, if there is one.
    fn end_history(&mut self, writer: Option<SegmentWriter>, survivors: &mut HistorySurvivors) -> Result<()> {
        let held = survivors.take_held();
        let Some(writer) = writer else { return Ok(()) };
        let segment = writer.finish(&Tombstones::default(), |_| true)?;
        self.add(segment, held);
        Ok(())
    }

    fn add(&mut self, segment: SegmentMeta, held: Vec<(Seqno, u64)>) {
        if !held.is_empty() {
            self.held.push((segment.number, held));
        }
        self.segments.push(segment);
    }

    /// Asserts what the manifest demands of the outputs, and that no more entries were written than came in, plus one
    /// for each range tombstone that was kept as a version of a key: it may be written as an entry as well.
    fn check(&self, tombstones: u64) {
        let (entries_in, entries_out) = (self.entries_in, self.entries_out);
        assert!(entries_out <= entries_in + tombstones, "{entries_out} out, {entries_in} in, {tombstones} tombstones");
        let written: u64 = self.segments.iter().map(|segment| segment.summary.entries).sum();
        assert!(written == entries_out, "{written} entries in segments, {entries_out} survived");
        for (is_history, law) in [(false, "V2"), (true, "V6")] {
            let tier = || self.segments.iter().filter(|segment| segment.summary.history.is_some() == is_history);
            for (left, right) in tier().zip(tier().skip(1)) {
                let (left, right) = (&left.summary.span, &right.summary.span);
                assert!(apart(left, right), "outputs {left:?} and {right:?} overlap ({law})");
            }
        }
    }
}

fn apart(left: &KeySpan, right: &KeySpan) -> bool {
    left.end.as_ref().is_some_and(|end| *end <= right.start)
}
