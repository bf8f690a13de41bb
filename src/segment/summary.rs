//! What the manifest must know about a segment without opening it.

use crate::{
    base::{Corruption, FileNumber, KeySpan, KeyspaceId, Micros, Seqno},
    format::{Reader, Writer},
};

/// A finished segment: all that the manifest records about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentMeta {
    pub(crate) number: FileNumber,
    pub(crate) file_id: u64,
    pub(crate) file_len: u64,
    pub(crate) footer_digest: u32,
    pub(crate) summary: Summary,
}

/// Numbers of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) keyspace: KeyspaceId,
    /// Span of all keys inside, including the range tombstones.
    pub(crate) span: KeySpan,
    /// Number of distinct keys.
    pub(crate) keys: u64,
    /// Number of entries, all versions.
    pub(crate) entries: u64,
    /// Number of point tombstones among them.
    pub(crate) tombstones: u64,
    /// Number of range tombstones, as they are stored.
    pub(crate) range_tombstones: u64,
    /// Total length of the keys and values of all entries, in bytes.
    pub(crate) raw_bytes: u64,
    pub(crate) min_seqno: Seqno,
    pub(crate) max_seqno: Seqno,
    /// Lowest seqno at which it can affect a read: the smallest of its seqnos and gap starts, or 0 if it holds a purge
    /// (K9). A read below it may skip the segment.
    pub(crate) lowest_affected: Seqno,
    /// Whether recipes of large values are inside.
    pub(crate) recipes: bool,
    /// Commit times inside, if entries carry them.
    pub(crate) times: Option<Times>,
    /// Intervals inside, for a segment of the history tier; `None` for one of the main tree.
    pub(crate) history: Option<HistorySummary>,
}

/// Commit times in a segment, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    /// Lower bound of the times of the entries, which store theirs relative to it.
    pub(crate) base: Micros,
    /// The oldest and the newest; both are the base if there is no entry.
    pub(crate) oldest: Micros,
    pub(crate) newest: Micros,
}

/// Intervals in a segment of the history tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HistorySummary {
    /// Largest end seqno of those that have an end; 0 without any.
    pub(crate) end: Seqno,
    /// Smallest and largest end time, in microseconds; for a tombstone without an end, its own time.
    pub(crate) until_min: Micros,
    pub(crate) until_max: Micros,
    /// Number of its run: segments of one run share no key.
    pub(crate) run: FileNumber,
    /// Whether it holds tombstones without an end.
    pub(crate) open: bool,
}

/// Bits of the tier.
const TIER_HISTORY: u8 = 0x01;
const TIER_RECIPES: u8 = 0x02;
const TIER_TIMES: u8 = 0x80;

impl SegmentMeta {
    /// Returns the intervals of a segment that stands in the history tier.
    pub(crate) fn intervals(&self) -> HistorySummary {
        let history = self.summary.history;
        assert!(history.is_some(), "segment {} of the main tree stands in the history tier", self.number);
        history.unwrap_or_default()
    }
}

impl Summary {
    /// Appends the summary; [`Summary::decode`] is the exact inverse.
    pub(crate) fn encode(&self, out: &mut Writer) {
        out.varint(u64::from(self.keyspace.0));
        let bit = |bit: u8, set: bool| if set { bit } else { 0 };
        let tiers = bit(TIER_HISTORY, self.history.is_some()) | bit(TIER_TIMES, self.times.is_some());
        out.u8(tiers | bit(TIER_RECIPES, self.recipes));
        out.prefixed(&self.span.start);
        match &self.span.end {
            None => out.u8(0),
            Some(end) => {
                out.u8(1);
                out.prefixed(end);
            }
        }
        for number in [
            self.keys,
            self.entries,
            self.tombstones,
            self.range_tombstones,
            self.raw_bytes,
            self.min_seqno.0,
            self.max_seqno.0,
            self.lowest_affected.0,
        ] {
            out.varint(number);
        }
        if let Some(Times { base, oldest, newest }) = self.times {
            out.varint(base.0);
            out.varint(oldest.0);
            out.varint(newest.0);
        }
        if let Some(HistorySummary { end, until_min, until_max, run, open }) = self.history {
            for number in [end.0, until_min.0, until_max.0, run.0] {
                out.varint(number);
            }
            out.u8(u8::from(open));
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Corruption> {
        let keyspace = u32::try_from(reader.varint("keyspace")?).map_err(|_| reader.corrupt("keyspace"))?;
        let tier = reader.u8("tier")?;
        if tier & !(TIER_HISTORY | TIER_RECIPES | TIER_TIMES) != 0 {
            return Err(reader.corrupt("tier"));
        }
        let start = reader.prefixed("first key")?.to_vec();
        let end = match reader.u8("end of the keys")? {
            0 => None,
            1 => Some(reader.prefixed("end of the keys")?.to_vec()),
            _ => return Err(reader.corrupt("end of the keys")),
        };
        let mut summary = Self {
            keyspace: KeyspaceId(keyspace),
            span: KeySpan { start, end },
            keys: count(reader, "key count")?,
            entries: count(reader, "entry count")?,
            tombstones: count(reader, "tombstone count")?,
            range_tombstones: count(reader, "range tombstone count")?,
            raw_bytes: count(reader, "raw bytes")?,
            min_seqno: Seqno(reader.varint("smallest seqno")?),
            max_seqno: Seqno(reader.varint("largest seqno")?),
            lowest_affected: Seqno(reader.varint("lowest affected seqno")?),
            recipes: tier & TIER_RECIPES != 0,
            times: None,
            history: None,
        };
        if tier & TIER_TIMES != 0 {
            let base = reader.varint("time base")?;
            let (oldest, newest) = (reader.varint("oldest time")?, reader.varint("newest time")?);
            summary.times = Some(Times { base: Micros(base), oldest: Micros(oldest), newest: Micros(newest) });
        }
        if tier & TIER_HISTORY != 0 {
            summary.history = Some(HistorySummary {
                end: Seqno(reader.varint("largest end")?),
                until_min: Micros(reader.varint("smallest end time")?),
                until_max: Micros(reader.varint("largest end time")?),
                run: FileNumber(reader.varint("run")?),
                open: match reader.u8("flags of the history")? {
                    0 => false,
                    1 => true,
                    _ => return Err(reader.corrupt("flags of the history")),
                },
            });
        }
        let backwards = summary.times.is_some_and(|times| times.base > times.oldest || times.oldest > times.newest);
        if summary.span.is_empty() || backwards || summary.min_seqno > summary.max_seqno {
            return Err(reader.corrupt("a summary that makes sense"));
        }
        Ok(summary)
    }

    /// Returns whether it may hold keys of a span.
    pub(crate) fn overlaps(&self, span: &KeySpan) -> bool {
        self.span.overlaps(span)
    }

    /// Returns whether it holds a purge.
    pub(crate) fn has_purges(&self) -> bool {
        self.lowest_affected == Seqno(0)
    }

    pub(crate) fn holds(&self, key: &[u8]) -> bool {
        self.span.holds(key)
    }
}

/// Upper bound of counts, more than any segment can hold: sums of such counts never overflow.
const COUNT_MAX: u64 = 1 << 40;

fn count(reader: &mut Reader<'_>, what: &'static str) -> Result<u64, Corruption> {
    let count = reader.varint(what)?;
    if count > COUNT_MAX { Err(reader.corrupt(what)) } else { Ok(count) }
}
