//! What the manifest must know of a segment without opening it.

use crate::{
    base::{Corruption, KeySpan, KeyspaceId},
    format::{Reader, Writer},
};

/// A segment in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) keyspace: KeyspaceId,
    /// 0 is the main tree, 1 the history tier.
    pub(crate) lane: u8,
    /// Every key inside, range tombstones included, lies in this span.
    pub(crate) span: KeySpan,
    /// Different keys.
    pub(crate) keys: u64,
    /// Entries, all versions.
    pub(crate) entries: u64,
    /// Point tombstones among them.
    pub(crate) tombstones: u64,
    /// Marks of range tombstones.
    pub(crate) range_tombstones: u64,
    /// Bytes of keys and values of all entries.
    pub(crate) raw_bytes: u64,
    pub(crate) min_seqno: u64,
    pub(crate) max_seqno: u64,
    /// The smallest seqno at which a read can be affected by what is, or was, here. A read below it may skip the segment.
    pub(crate) lowest_affected: u64,
}

impl Summary {
    /// Appends the summary; [`Summary::decode`] is the exact inverse.
    pub(crate) fn encode(&self, out: &mut Writer) {
        out.varint(u64::from(self.keyspace.0));
        out.u8(self.lane);
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
            self.min_seqno,
            self.max_seqno,
            self.lowest_affected,
        ] {
            out.varint(number);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Corruption> {
        let keyspace = u32::try_from(reader.varint("keyspace")?).map_err(|_| reader.corrupt("keyspace"))?;
        let lane = reader.u8("lane")?;
        let start = reader.prefixed("first key")?.to_vec();
        let end = match reader.u8("end of the keys")? {
            0 => None,
            1 => Some(reader.prefixed("end of the keys")?.to_vec()),
            _ => return Err(reader.corrupt("end of the keys")),
        };
        let summary = Self {
            keyspace: KeyspaceId(keyspace),
            lane,
            span: KeySpan { start, end },
            keys: count(reader, "key count")?,
            entries: count(reader, "entry count")?,
            tombstones: count(reader, "tombstone count")?,
            range_tombstones: count(reader, "range tombstone count")?,
            raw_bytes: count(reader, "raw bytes")?,
            min_seqno: reader.varint("smallest seqno")?,
            max_seqno: reader.varint("largest seqno")?,
            lowest_affected: reader.varint("lowest affected seqno")?,
        };
        if summary.span.is_empty() || summary.lane > 1 || summary.min_seqno > summary.max_seqno {
            return Err(reader.corrupt("a summary that makes sense"));
        }
        Ok(summary)
    }

    /// Whether two spans have a key in common.
    pub(crate) fn overlaps(&self, span: &KeySpan) -> bool {
        let before = |end: &Option<Vec<u8>>, start: &[u8]| end.as_deref().is_some_and(|end| end <= start);
        !before(&self.span.end, &span.start) && !before(&span.end, &self.span.start)
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
