//! The unit of atomicity. Its bytes are the payload of its log record: encoded once, at the call, and never again; the
//! memtable points into them.
//!
//! ```text
//!  0       8      16      20      24
//!  ├───────┼──────┼───────┼───────┼─────────────────┬─────
//!  │ seqno │ time │ count │ flags │ [session section]│ operations …
//!
//!  operation: kind u8 · keyspace varint · key (length, bytes) · value (length, bytes)
//!  a range tombstone's value is its end behind a byte 1, or a byte 0 alone for "to the end of the keyspace"
//! ```

use std::sync::Arc;

use super::record::RECORD_HEADER_LEN;
use crate::{
    base::{Corruption, KeyspaceId, Kind},
    format::Reader,
};

/// The longest batch, in encoded bytes.
pub(crate) const BATCH_LEN_MAX: usize = 64 << 20;

const HEADER_LEN: usize = 24;

/// A flag of the header: a section about the session that sent the batch stands before the operations.
const FLAG_SESSION: u32 = 1;

/// A batch being built, with room in front for its record header.
#[derive(Clone, Debug)]
pub(crate) struct BatchBuf {
    record: Vec<u8>,
    count: u32,
    operands: u32,
}

impl Default for BatchBuf {
    fn default() -> Self {
        Self { record: vec![0; Self::ROOM + HEADER_LEN], count: 0, operands: 0 }
    }
}

impl BatchBuf {
    /// Bytes in front of the payload, for the record's header.
    pub(crate) const ROOM: usize = RECORD_HEADER_LEN;

    /// Adds an operation.
    pub(crate) fn push(&mut self, kind: Kind, keyspace: KeyspaceId, key: &[u8], value: &[u8]) {
        // Room for the numbers and for the padding of the record: a batch of one operation grows once.
        self.record.reserve(key.len() + value.len() + 32);
        self.record.push(kind.number());
        self.varint(u64::from(keyspace.0));
        self.varint(key.len() as u64);
        self.record.extend_from_slice(key);
        self.varint(value.len() as u64);
        self.record.extend_from_slice(value);
        self.count = self.count.saturating_add(1);
        self.operands = self.operands.saturating_add(u32::from(kind == Kind::Operand));
    }

    /// Adds a range tombstone, or the purge of a range; no end is the end of the keyspace.
    pub(crate) fn push_range(&mut self, kind: Kind, keyspace: KeyspaceId, start: &[u8], end: Option<&[u8]>) {
        let end = end.map_or_else(|| vec![0], |end| [&[1], end].concat());
        self.push(kind, keyspace, start, &end);
    }

    /// The encoded length so far.
    pub(crate) fn len(&self) -> usize {
        self.record.len() - Self::ROOM
    }

    /// How many of the operations are operands.
    pub(crate) fn operands(&self) -> u32 {
        self.operands
    }

    /// Calls `each` with every operation in order.
    pub(crate) fn for_each<'a>(&'a self, mut each: impl FnMut(Op<'a>)) -> Result<(), Corruption> {
        let mut reader = Reader::starting_at(&self.record, Self::ROOM + HEADER_LEN);
        for _ in 0..self.count {
            each(BatchView::op(&mut reader)?);
        }
        Ok(())
    }

    /// The number of operations.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Fills in the header, once it is known.
    pub(crate) fn stamp(&mut self, seqno: u64, time_us: u64) {
        let fields = [&seqno.to_le_bytes()[..], &time_us.to_le_bytes(), &self.count.to_le_bytes(), &0u32.to_le_bytes()];
        let mut at = Self::ROOM;
        for field in fields {
            if let Some(room) = self.record.get_mut(at..at + field.len()) {
                room.copy_from_slice(field);
            }
            at += field.len();
        }
    }

    /// The whole record, for the log to seal.
    pub(crate) fn record_mut(&mut self) -> &mut Vec<u8> {
        &mut self.record
    }

    /// The record as shared bytes, and the length of the payload in it (what follows is padding).
    pub(crate) fn into_shared(self, payload_len: usize) -> BatchView {
        BatchView { owner: Arc::new(self.record), start: Self::ROOM, end: Self::ROOM + payload_len }
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.record.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.record.push((value & 0x7f) as u8);
    }
}

/// A batch as it stands in its log record; operations are places in shared bytes.
#[expect(clippy::rc_buffer, reason = "the buffer is shared as it was filled, not copied")]
#[derive(Clone, Debug)]
pub(crate) struct BatchView {
    owner: Arc<Vec<u8>>,
    start: usize,
    end: usize,
}

/// One operation of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Op<'a> {
    pub(crate) kind: Kind,
    pub(crate) keyspace: KeyspaceId,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    /// Where the key and the value begin in the owner's bytes.
    pub(crate) key_at: usize,
    pub(crate) value_at: usize,
}

impl<'a> Op<'a> {
    /// The end of a range tombstone: `None` is the end of the keyspace.
    pub(crate) fn range_end(&self) -> Option<&'a [u8]> {
        self.value.split_first().filter(|(tag, _)| **tag == 1).map(|(_, end)| end)
    }
}

impl BatchView {
    #[expect(clippy::rc_buffer, reason = "the buffer is shared as it was filled, not copied")]
    /// A view of the payload at `start..end` of a log's bytes.
    pub(crate) fn new(owner: Arc<Vec<u8>>, start: usize, end: usize) -> Self {
        Self { owner, start, end }
    }

    /// Its length in bytes, header included.
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    #[expect(clippy::rc_buffer, reason = "the buffer is shared as it was filled, not copied")]
    /// The bytes that operations are places in.
    pub(crate) fn owner(&self) -> &Arc<Vec<u8>> {
        &self.owner
    }

    /// The batch's position and commit time.
    pub(crate) fn stamp(&self) -> Result<(u64, u64), Corruption> {
        let mut reader = self.reader();
        Ok((reader.u64("batch seqno")?, reader.u64("batch time")?))
    }

    /// How many operations it has.
    pub(crate) fn count(&self) -> Result<u32, Corruption> {
        let mut reader = self.reader();
        reader.take(16, "batch header")?;
        reader.u32("operation count")
    }

    /// Calls `each` with every operation in order.
    pub(crate) fn for_each<'a>(&'a self, mut each: impl FnMut(Op<'a>)) -> Result<(), Corruption> {
        let mut reader = self.reader();
        reader.take(16, "batch header")?;
        let count = reader.u32("operation count")?;
        let flags = reader.u32("batch flags")?;
        if flags & !FLAG_SESSION != 0 {
            return Err(reader.corrupt("batch flags"));
        }
        if flags & FLAG_SESSION != 0 {
            reader.prefixed("session section")?;
        }
        for _ in 0..count {
            each(Self::op(&mut reader)?);
        }
        reader.finish("end of the batch")
    }

    fn reader(&self) -> Reader<'_> {
        Reader::starting_at(self.owner.get(..self.end).unwrap_or_default(), self.start)
    }

    fn op<'a>(reader: &mut Reader<'a>) -> Result<Op<'a>, Corruption> {
        let number = reader.u8("kind")?;
        let kind = Kind::from_number(number).ok_or_else(|| reader.corrupt("kind"))?;
        let keyspace = u32::try_from(reader.varint("keyspace")?).map_err(|_| reader.corrupt("keyspace"))?;
        let key = reader.prefixed("key")?;
        let key_at = reader.position() - key.len();
        let value = reader.prefixed("value")?;
        let value_at = reader.position() - value.len();
        Ok(Op { kind, keyspace: KeyspaceId(keyspace), key, value, key_at, value_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(buf: BatchBuf) -> BatchView {
        let len = buf.len();
        buf.into_shared(len)
    }

    #[test]
    fn operations_read_back_in_order() {
        let mut buf = BatchBuf::default();
        buf.push(Kind::Put, KeyspaceId(16), b"a", b"1");
        buf.push(Kind::Delete, KeyspaceId(300), b"", b"");
        buf.push_range(Kind::RangeDelete, KeyspaceId(16), b"b", None);
        buf.push_range(Kind::RangeDelete, KeyspaceId(16), b"b", Some(b"c"));
        buf.stamp(9, 77);
        let view = view(buf);
        assert_eq!(view.stamp(), Ok((9, 77)));
        let mut seen = Vec::new();
        view.for_each(|op| {
            assert_eq!(&view.owner()[op.key_at..op.key_at + op.key.len()], op.key);
            seen.push((op.kind, op.keyspace.0, op.key.to_vec(), op.range_end().map(<[u8]>::to_vec)));
        })
        .unwrap();
        assert_eq!(
            seen,
            [
                (Kind::Put, 16, b"a".to_vec(), None),
                (Kind::Delete, 300, Vec::new(), None),
                (Kind::RangeDelete, 16, b"b".to_vec(), None),
                (Kind::RangeDelete, 16, b"b".to_vec(), Some(b"c".to_vec())),
            ]
        );
    }

    #[test]
    fn a_batch_cut_anywhere_is_corruption() {
        let mut buf = BatchBuf::default();
        buf.push(Kind::Put, KeyspaceId(16), b"key", b"value");
        buf.stamp(1, 1);
        let whole = view(buf);
        for end in whole.start..whole.end {
            let cut = BatchView { end, ..whole.clone() };
            assert!(cut.for_each(|_| {}).is_err(), "cut at {end}");
        }
    }
}
