//! What the manifest must know of a segment without opening it.

use crate::{
    base::{Corruption, FileNumber, KeySpan, KeyspaceId, Micros, Seqno},
    format::{Reader, Writer},
};

/// A finished segment: all that the manifest records of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentMeta {
    pub(crate) number: FileNumber,
    pub(crate) file_id: u64,
    pub(crate) file_len: u64,
    pub(crate) footer_digest: u32,
    pub(crate) summary: Summary,
}

/// A segment in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) keyspace: KeyspaceId,
    /// Every key inside, range tombstones included, lies in this span.
    pub(crate) span: KeySpan,
    /// Different keys.
    pub(crate) keys: u64,
    /// Entries, all versions.
    pub(crate) entries: u64,
    /// Point tombstones among them.
    pub(crate) tombstones: u64,
    /// Range tombstones.
    pub(crate) range_tombstones: u64,
    /// Bytes of keys and values of all entries.
    pub(crate) raw_bytes: u64,
    pub(crate) min_seqno: Seqno,
    pub(crate) max_seqno: Seqno,
    /// The smallest seqno at which a read can be affected by what is, or was, here. A read below it may skip the
    /// segment.
    pub(crate) lowest_affected: Seqno,
    /// The commit times inside, where entries carry them.
    pub(crate) times: Option<Times>,
    /// What is said of a segment of the history tier; nothing of one in the main tree.
    pub(crate) history: Option<HistorySummary>,
}

/// The commit times in a segment, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    /// What those of the entries are counted from: none is below.
    pub(crate) base: Micros,
    /// The oldest and the newest; without an entry the base.
    pub(crate) oldest: Micros,
    pub(crate) newest: Micros,
}

/// The intervals in a segment of the history tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HistorySummary {
    /// The largest end seqno, of those that have an end; else 0.
    pub(crate) end: Seqno,
    /// The smallest and the largest end time, in microseconds; of a tombstone without an end its own time.
    pub(crate) until_min: Micros,
    pub(crate) until_max: Micros,
    /// Segments of one run share no key.
    pub(crate) run: FileNumber,
    /// Whether tombstones without an end are inside.
    pub(crate) open: bool,
}

/// Bits of the tier.
const TIER_HISTORY: u8 = 0x01;
const TIER_TIMES: u8 = 0x80;

impl Summary {
    /// Appends the summary; [`Summary::decode`] is the exact inverse.
    pub(crate) fn encode(&self, out: &mut Writer) {
        out.varint(u64::from(self.keyspace.0));
        let bit = |bit: u8, set: bool| if set { bit } else { 0 };
        out.u8(bit(TIER_HISTORY, self.history.is_some()) | bit(TIER_TIMES, self.times.is_some()));
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
        let tier = reader.u8("lane")?;
        if tier & !(TIER_HISTORY | TIER_TIMES) != 0 {
            return Err(reader.corrupt("lane"));
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
                open: match reader.u8("flags of the past")? {
                    0 => false,
                    1 => true,
                    _ => return Err(reader.corrupt("flags of the past")),
                },
            });
        }
        let backwards = summary.times.is_some_and(|times| times.base > times.oldest || times.oldest > times.newest);
        if summary.span.is_empty() || backwards || summary.min_seqno > summary.max_seqno {
            return Err(reader.corrupt("a summary that makes sense"));
        }
        Ok(summary)
    }

    /// Whether two spans have a key in common.
    pub(crate) fn overlaps(&self, span: &KeySpan) -> bool {
        self.span.overlaps(span)
    }

    /// Whether something inside hides the past.
    pub(crate) fn has_purges(&self) -> bool {
        self.lowest_affected == Seqno(0)
    }

    pub(crate) fn holds(&self, key: &[u8]) -> bool {
        self.span.holds(key)
    }
}

/// More than any segment can hold: sums of such counts never overflow.
const COUNT_MAX: u64 = 1 << 40;

fn count(reader: &mut Reader<'_>, what: &'static str) -> Result<u64, Corruption> {
    let count = reader.varint(what)?;
    if count > COUNT_MAX { Err(reader.corrupt(what)) } else { Ok(count) }
}
