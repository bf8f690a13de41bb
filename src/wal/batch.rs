//! The unit of atomicity. Its bytes are the payload of its log record: encoded once, in the call that writes it, and
//! never again; the memtable points into them.
//!
//! ```text
//!  0       8      16      20      24
//!  ├───────┼──────┼───────┼───────┼─────
//!  │ seqno │ time │ count │ flags │ operations …
//!
//!  with bit 0 of the flags, reaches follow: count varint · for each pack its number and offset, varints
//!  operation: kind u8 · keyspace varint · key (length, bytes) · value (length, bytes)
//!  a range tombstone's value is a byte 1 and its end, or a byte 0 alone for "to the end of the keyspace"
//! ```
//!
//! Beside the bytes is a table of the offsets of each operation's key and value. It is built while the batch is
//! encoded, or by the one pass that reads a record back; later code uses the table and parses nothing.

use std::sync::Arc;

use super::record::RECORD_HEADER_LEN;
use crate::{
    base::{Corruption, FileNumber, KeySpan, KeyspaceId, Kind, Micros, Seqno},
    format::Reader,
};

/// Maximum length of a batch, in encoded bytes.
pub(crate) const BATCH_LEN_MAX: usize = 64 << 20;

const HEADER_LEN: usize = 24;

/// Offset of the flags, and the flag that says that reaches follow the operations.
const FLAGS_AT: usize = 20;
const REACHES: u32 = 1;

/// How far a pack reached when a batch was written: its number, and an offset.
pub(crate) type Reach = (FileNumber, u64);

/// Offsets of an operation, from the start of its batch's payload.
#[derive(Clone, Copy, Debug)]
struct Place {
    kind: Kind,
    keyspace: KeyspaceId,
    key_at: u32,
    key_len: u32,
    value_at: u32,
    value_len: u32,
}

impl Place {
    /// Returns the operation, in a payload that begins at `start`.
    #[inline]
    fn of<'a>(&self, bytes: &'a [u8], start: usize) -> Op<'a> {
        let Self { kind, keyspace, key_at, key_len, value_at, value_len } = *self;
        let (key_at, value_at) = (start + key_at as usize, start + value_at as usize);
        let (key, value) = (slice(bytes, key_at, key_len as usize), slice(bytes, value_at, value_len as usize));
        Op { kind, keyspace, key, value, key_at, value_at }
    }
}

/// Converts an offset in a batch, which is shorter than 4 GiB because its record stores the length in 32 bits.
#[inline]
fn narrow(place: usize) -> u32 {
    let narrow = u32::try_from(place);
    assert!(narrow.is_ok(), "byte {place} of a batch");
    narrow.unwrap_or_default()
}

#[inline]
fn slice(bytes: &[u8], at: usize, len: usize) -> &[u8] {
    let slice = bytes.get(at..at + len);
    assert!(slice.is_some(), "an operation at {at} of {len} bytes in {}", bytes.len());
    slice.unwrap_or_default()
}

/// Places of a batch's operations. The first is stored inline, so that a batch of one allocates no list.
#[derive(Clone, Debug, Default)]
struct Places {
    first: Option<Place>,
    rest: Vec<Place>,
}

impl Places {
    fn push(&mut self, place: Place) {
        if self.first.is_none() {
            self.first = Some(place);
        } else {
            self.rest.push(place);
        }
    }

    fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    fn ops<'a>(&'a self, bytes: &'a [u8], start: usize) -> impl Iterator<Item = Op<'a>> {
        self.first.iter().chain(&self.rest).map(move |place| place.of(bytes, start))
    }
}

/// A batch being built, with space in front for its record header.
#[derive(Clone, Debug)]
pub(crate) struct BatchBuf {
    record: Vec<u8>,
    places: Places,
    operands: u32,
    recipes: bool,
    flags: u32,
}

impl Default for BatchBuf {
    fn default() -> Self {
        let record = vec![0; RECORD_HEADER_LEN + HEADER_LEN];
        Self { record, places: Places::default(), operands: 0, recipes: false, flags: 0 }
    }
}

impl BatchBuf {
    /// Adds an operation.
    pub(crate) fn push(&mut self, kind: Kind, keyspace: KeyspaceId, key: &[u8], value: &[u8]) {
        self.push_parts(kind, keyspace, key, [value, &[]]);
    }

    /// Adds a range tombstone or range purge; without an end it reaches to the end of the keyspace.
    pub(crate) fn push_range(&mut self, kind: Kind, keyspace: KeyspaceId, start: &[u8], end: Option<&[u8]>) {
        let value: [&[u8]; 2] = end.map_or([&[0], &[]], |end| [&[1], end]);
        self.push_parts(kind, keyspace, start, value);
    }

    /// Adds an operation whose value consists of two parts.
    fn push_parts(&mut self, kind: Kind, keyspace: KeyspaceId, key: &[u8], value: [&[u8]; 2]) {
        let [head, tail] = value;
        let value_len = head.len() + tail.len();
        // Space for the numbers and for the padding of the record: a batch of one operation grows once.
        self.record.reserve(key.len() + value_len + 32);
        self.record.push(kind.number());
        self.varint(u64::from(keyspace.0));
        self.varint(key.len() as u64);
        let key_at = narrow(self.len());
        self.record.extend_from_slice(key);
        self.varint(value_len as u64);
        let value_at = narrow(self.len());
        self.record.extend_from_slice(head);
        self.record.extend_from_slice(tail);
        let (key_len, value_len) = (narrow(key.len()), narrow(value_len));
        self.places.push(Place { kind, keyspace, key_at, key_len, value_at, value_len });
        self.operands += u32::from(kind == Kind::Operand);
        self.recipes |= kind == Kind::Recipe;
    }

    /// Returns the encoded length so far.
    pub(crate) fn len(&self) -> usize {
        self.record.len() - RECORD_HEADER_LEN
    }

    /// Returns how many of the operations are operands.
    pub(crate) fn operands(&self) -> u32 {
        self.operands
    }

    /// Returns whether a large value is among them.
    pub(crate) fn has_recipes(&self) -> bool {
        self.recipes
    }

    /// Ends the batch with how far each unflushed pack reaches. Nothing is pushed afterwards.
    pub(crate) fn push_reaches(&mut self, reaches: &[Reach]) {
        assert!(self.flags & REACHES == 0, "reaches of a batch, told twice");
        self.flags |= REACHES;
        self.varint(reaches.len() as u64);
        for (number, end) in reaches {
            self.varint(number.0);
            self.varint(*end);
        }
    }

    /// Iterates over the operations, in order.
    pub(crate) fn ops(&self) -> impl Iterator<Item = Op<'_>> {
        self.places.ops(&self.record, RECORD_HEADER_LEN)
    }

    /// Returns the number of operations.
    pub(crate) fn count(&self) -> usize {
        self.places.len()
    }

    /// Fills in the header, once seqno and time are known.
    pub(crate) fn stamp(&mut self, seqno: Seqno, time: Micros) {
        // Each operation takes at least four bytes, and a batch is no longer than `BATCH_LEN_MAX`.
        let count = u32::try_from(self.count());
        assert!(count.is_ok(), "a batch of {} operations", self.count());
        let count = count.unwrap_or_default().to_le_bytes();
        let fields = [&seqno.0.to_le_bytes()[..], &time.0.to_le_bytes(), &count, &self.flags.to_le_bytes()];
        let mut at = RECORD_HEADER_LEN;
        for field in fields {
            if let Some(room) = self.record.get_mut(at..at + field.len()) {
                room.copy_from_slice(field);
            }
            at += field.len();
        }
    }

    /// Returns the whole record, for the log to seal.
    pub(crate) fn record_mut(&mut self) -> &mut Vec<u8> {
        &mut self.record
    }

    /// Converts it to shared bytes; `payload_len` excludes the padding of the record.
    pub(crate) fn into_shared(self, payload_len: usize) -> BatchView {
        let Self { record, places, .. } = self;
        let (start, end) = (RECORD_HEADER_LEN, RECORD_HEADER_LEN + payload_len);
        BatchView { owner: Arc::new(record), start, end, places }
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.record.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.record.push((value & 0x7f) as u8);
    }
}

/// A batch in its log record; operations are places in shared bytes.
#[expect(clippy::rc_buffer, reason = "the buffer is shared as it was filled, not copied")]
#[derive(Debug)]
pub(crate) struct BatchView {
    owner: Arc<Vec<u8>>,
    start: usize,
    end: usize,
    places: Places,
}

/// One operation of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Op<'a> {
    pub(crate) kind: Kind,
    pub(crate) keyspace: KeyspaceId,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    /// Offsets of the key and the value in the owner's bytes.
    pub(crate) key_at: usize,
    pub(crate) value_at: usize,
}

impl<'a> Op<'a> {
    /// Returns the end of a range tombstone; `None` is the end of the keyspace.
    pub(crate) fn range_end(&self) -> Option<&'a [u8]> {
        self.value.split_first().filter(|(tag, _)| **tag == 1).map(|(_, end)| end)
    }

    /// Returns the span of a range tombstone.
    pub(crate) fn span(&self) -> KeySpan {
        debug_assert!(self.kind.is_range(), "the span of a {:?}", self.kind);
        KeySpan { start: self.key.to_vec(), end: self.range_end().map(<[u8]>::to_vec) }
    }
}

fn read_reaches(reader: &mut Reader<'_>) -> Result<Vec<Reach>, Corruption> {
    let mut reaches = Vec::new();
    for _ in 0..reader.varint("count of reaches")? {
        reaches.push((FileNumber(reader.varint("pack of a reach")?), reader.varint("offset of a reach")?));
    }
    Ok(reaches)
}

impl BatchView {
    /// Reads the payload at `start..end` of a log's bytes: the one pass that finds its operations.
    #[expect(clippy::rc_buffer, reason = "the buffer is shared as it was filled, not copied")]
    pub(crate) fn read(owner: &Arc<Vec<u8>>, start: usize, end: usize) -> Result<Self, Corruption> {
        let mut reader = Reader::starting_at(owner.get(..end).unwrap_or_default(), start);
        reader.take(16, "batch header")?;
        let count = reader.u32("operation count")?;
        let flags = reader.u32("batch flags")?;
        if flags & !REACHES != 0 {
            return Err(reader.corrupt("batch flags"));
        }
        let mut places = Places::default();
        for _ in 0..count {
            let number = reader.u8("kind")?;
            let kind = Kind::from_number(number).ok_or_else(|| reader.corrupt("kind"))?;
            let keyspace = u32::try_from(reader.varint("keyspace")?).map_err(|_| reader.corrupt("keyspace"))?;
            let mut part = |what| {
                let len = reader.prefixed(what)?.len();
                let at = reader.position() - len - start;
                let place = u32::try_from(at).ok().zip(u32::try_from(len).ok());
                place.ok_or_else(|| reader.corrupt("a batch shorter than 4 GiB"))
            };
            let ((key_at, key_len), (value_at, value_len)) = (part("key")?, part("value")?);
            places.push(Place { kind, keyspace: KeyspaceId(keyspace), key_at, key_len, value_at, value_len });
        }
        if flags & REACHES != 0 {
            read_reaches(&mut reader)?;
        }
        reader.finish("end of the batch")?;
        Ok(Self { owner: Arc::clone(owner), start, end, places })
    }

    /// Returns how far the packs reached that its large values need.
    pub(crate) fn reaches(&self) -> Vec<Reach> {
        let flags = slice(&self.owner, self.start + FLAGS_AT, 4);
        if flags.first().is_none_or(|flags| u32::from(*flags) & REACHES == 0) {
            return Vec::new();
        }
        let behind = self.ops().last().map_or(self.start + HEADER_LEN, |op| op.value_at + op.value.len());
        let mut reader = Reader::starting_at(self.owner.get(..self.end).unwrap_or_default(), behind);
        let reaches = read_reaches(&mut reader);
        assert!(reaches.is_ok(), "reaches that were read before: {reaches:?}");
        reaches.unwrap_or_default()
    }

    /// Returns its length in bytes, header included.
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    #[expect(clippy::rc_buffer, reason = "the buffer is shared as it was filled, not copied")]
    /// Returns the bytes that operations are places in.
    pub(crate) fn owner(&self) -> &Arc<Vec<u8>> {
        &self.owner
    }

    /// Returns the seqno and commit time of the batch.
    pub(crate) fn stamp(&self) -> (Seqno, Micros) {
        let number = |at: usize| {
            let bytes = slice(&self.owner, self.start + at, 8);
            bytes.iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte))
        };
        (Seqno(number(0)), Micros(number(8)))
    }

    /// Iterates over the operations, in order.
    pub(crate) fn ops(&self) -> impl Iterator<Item = Op<'_>> {
        self.places.ops(&self.owner, self.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(buf: BatchBuf) -> BatchView {
        let len = buf.len();
        buf.into_shared(len)
    }

    fn told(op: &Op<'_>) -> (Kind, u32, Vec<u8>, Option<Vec<u8>>) {
        (op.kind, op.keyspace.0, op.key.to_vec(), op.range_end().map(<[u8]>::to_vec))
    }

    #[test]
    fn operations_read_back_in_order_from_the_table_and_from_the_bytes() {
        let mut buf = BatchBuf::default();
        buf.push(Kind::Put, KeyspaceId(16), b"a", b"1");
        buf.push(Kind::Delete, KeyspaceId(300), b"", b"");
        buf.push_range(Kind::RangeDelete, KeyspaceId(16), b"b", None);
        buf.push_range(Kind::RangeDelete, KeyspaceId(16), b"b", Some(b"c"));
        buf.stamp(Seqno(9), Micros(77));
        let view = view(buf);
        let read = BatchView::read(view.owner(), view.start, view.end).unwrap();
        for view in [&view, &read] {
            assert_eq!(view.stamp(), (Seqno(9), Micros(77)));
            for op in view.ops() {
                assert_eq!(&view.owner()[op.key_at..op.key_at + op.key.len()], op.key);
                assert_eq!(&view.owner()[op.value_at..op.value_at + op.value.len()], op.value);
            }
            assert_eq!(
                view.ops().map(|op| told(&op)).collect::<Vec<_>>(),
                [
                    (Kind::Put, 16, b"a".to_vec(), None),
                    (Kind::Delete, 300, Vec::new(), None),
                    (Kind::RangeDelete, 16, b"b".to_vec(), None),
                    (Kind::RangeDelete, 16, b"b".to_vec(), Some(b"c".to_vec())),
                ]
            );
        }
    }

    #[test]
    fn a_batch_with_large_values_says_how_far_the_packs_reach() {
        for reaches in [vec![], vec![(FileNumber(7), 88)], vec![(FileNumber(900), 1 << 32), (FileNumber(7), 300)]] {
            let mut buf = BatchBuf::default();
            buf.push(Kind::Put, KeyspaceId(16), b"a", b"1");
            assert!(!buf.has_recipes());
            buf.push(Kind::Recipe, KeyspaceId(16), b"b", b"recipe");
            assert!(buf.has_recipes());
            buf.push_reaches(&reaches);
            buf.stamp(Seqno(9), Micros(77));
            let view = view(buf);
            let read = BatchView::read(view.owner(), view.start, view.end).unwrap();
            assert_eq!((read.reaches(), read.ops().count()), (reaches.clone(), 2));
            assert_eq!(view.reaches(), reaches);
        }
        let mut plain = BatchBuf::default();
        plain.push(Kind::Put, KeyspaceId(16), b"a", b"1");
        plain.stamp(Seqno(9), Micros(77));
        assert!(view(plain).reaches().is_empty());
    }

    #[test]
    fn a_batch_cut_anywhere_is_corruption() {
        let mut buf = BatchBuf::default();
        buf.push(Kind::Recipe, KeyspaceId(16), b"key", b"value");
        buf.push_reaches(&[(FileNumber(7), 88)]);
        buf.stamp(Seqno(1), Micros(1));
        let whole = view(buf);
        for end in whole.start..whole.end {
            assert!(BatchView::read(whole.owner(), whole.start, end).is_err(), "cut at {end}");
        }
    }
}
