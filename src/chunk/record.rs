//! A chunk as a pack holds it, and the table of a sealed pack: `docs/format/packs.md`.
//!
//! ```text
//!  0          4           8          12        16   17    18    19 20     24   56     64
//!  ├──────────┼───────────┼──────────┼─────────┼────┼─────┼─────┼──┼──────┼────┼──────┼─────────
//!  │header crc│payload crc│ stored   │ raw len │kind│codec│flags│0 │scope │ id │ time │ payload …   padded to 8
//! ```
//!
//! The header crc covers the seed of the pack (its own id and number) and the record's own offset, so that nothing
//! copied from elsewhere or left from an earlier file is accepted.

use std::ops::Range;

use super::{codec::Codec, cut::CHUNK_LEN_MAX, id::ChunkKind};
use crate::{
    base::{ChunkId, Corruption, Micros},
    format::{Header, Reader, Writer, crc, record_crc},
};

/// Alignment of records.
pub(crate) const ALIGN: usize = 8;

/// Length of a record's header.
pub(crate) const RECORD_HEADER_LEN: usize = 64;

/// Offset of the first record of a pack.
pub(crate) const FIRST_RECORD: u64 = Header::LEN as u64;

/// Length of a line of the table.
const LINE_LEN: usize = 48;

/// Length of the tail.
pub(crate) const TAIL_LEN: usize = 40;

/// Ends every sealed pack.
const MAGIC: u32 = u32::from_le_bytes(*b"PAKE");

/// Maximum number of records in a pack, far above what an epoch may hold.
pub(crate) const RECORDS_MAX: u32 = 1 << 20;

/// Maximum offset of a table: places of records have 32 bits, in units of 8 bytes.
pub(crate) const TABLE_AT_MAX: u64 = 1 << 32;

/// Flag of a record: the origin of the value precedes the stored bytes.
const ORIGIN: u8 = 1;

/// Maximum length of an origin, in bytes.
pub(crate) const ORIGIN_LEN_MAX: usize = 255;

/// What a record says of its chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkHeader {
    pub(crate) kind: ChunkKind,
    pub(crate) codec: Codec,
    pub(crate) has_origin: bool,
    /// Number of the dedup scope; 0 is the default.
    pub(crate) scope: u32,
    pub(crate) id: ChunkId,
    /// Length of the payload.
    pub(crate) stored_len: u32,
    /// Length of the chunk.
    pub(crate) raw_len: u32,
    /// When it was stored first.
    pub(crate) time: Micros,
    payload_crc: u32,
}

/// A chunk that is to be stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewChunk<'c> {
    pub(crate) kind: ChunkKind,
    /// Number of the dedup scope that its id was made for.
    pub(crate) scope: u32,
    pub(crate) id: ChunkId,
    pub(crate) bytes: &'c [u8],
    /// Where the value came from; may be empty.
    pub(crate) origin: &'c str,
    pub(crate) time: Micros,
}

/// A chunk encoded for a pack, before it has a place: hashed and compressed outside of all locks.
#[derive(Clone, Debug)]
pub(crate) struct EncodedChunk {
    pub(crate) header: ChunkHeader,
    /// Header without its crc, payload, padding.
    record: Vec<u8>,
}

impl EncodedChunk {
    /// Encodes a chunk; `store` appends its stored form to the record.
    pub(crate) fn new(chunk: &NewChunk<'_>, store: impl FnOnce(&mut Vec<u8>) -> Codec) -> Self {
        let NewChunk { kind, scope, id, bytes, origin, time } = *chunk;
        assert!(origin.len() <= ORIGIN_LEN_MAX, "an origin of {} bytes", origin.len());
        let mut out = Writer::default();
        out.raw(&[0; RECORD_HEADER_LEN]);
        if !origin.is_empty() {
            out.prefixed(origin.as_bytes());
        }
        let mut record = out.into_bytes();
        let codec = store(&mut record);
        let payload = record.get(RECORD_HEADER_LEN..).unwrap_or_default();
        let len = |len: usize| {
            let narrow = u32::try_from(len);
            assert!(narrow.is_ok(), "a chunk of {len} bytes");
            narrow.unwrap_or_default()
        };
        let header = ChunkHeader {
            kind,
            codec,
            has_origin: !origin.is_empty(),
            scope,
            id,
            stored_len: len(payload.len()),
            raw_len: len(bytes.len()),
            time,
            payload_crc: crc(&[payload]),
        };
        assert!(
            are_plausible(header.codec, header.has_origin, header.stored_len, header.raw_len),
            "a record that its own reader would refuse: {header:?}"
        );
        let encoded = header.encode();
        if let Some(room) = record.get_mut(4..RECORD_HEADER_LEN) {
            room.copy_from_slice(&encoded);
        }
        record.resize(record.len().next_multiple_of(ALIGN), 0);
        Self { header, record }
    }

    /// Takes the chunk of another pack's record, whose header was decoded, as it is stored there.
    pub(crate) fn of_record(header: ChunkHeader, record: &[u8]) -> Result<Self, Corruption> {
        header.payload(record)?;
        let end = RECORD_HEADER_LEN + header.stored_len as usize;
        let mut record = record.get(..end).unwrap_or_default().to_vec();
        record.resize(end.next_multiple_of(ALIGN), 0);
        Ok(Self { header, record })
    }

    /// Returns where the value came from whose write stored this chunk first; empty if nobody said.
    pub(crate) fn origin(&self) -> &str {
        // Checked when the record was made.
        self.header.stored(&self.record).map_or("", |(_, origin)| origin)
    }

    /// Returns the length of its record.
    pub(crate) fn len(&self) -> usize {
        self.record.len()
    }

    /// Appends the record, which will be at `offset` of the pack with this seed.
    pub(crate) fn place(&self, seed: u32, offset: u64, out: &mut Vec<u8>) {
        let rest = self.record.get(4..).unwrap_or_default();
        let own = record_crc(seed, offset, rest.get(..RECORD_HEADER_LEN - 4).unwrap_or_default());
        out.extend_from_slice(&own.to_le_bytes());
        out.extend_from_slice(rest);
    }
}

/// Returns whether bytes may be the header of a record of this release, at a glance: they have a kind and a codec, and
/// the zero.
pub(crate) fn may_be_chunk(bytes: &[u8]) -> bool {
    matches!(bytes.get(16..20), Some([1 | 2, 0 | 1, _, 0]))
}

/// Returns the length of a record with so many stored bytes.
pub(crate) fn record_len(stored_len: u32) -> u64 {
    (RECORD_HEADER_LEN as u64 + u64::from(stored_len)).next_multiple_of(ALIGN as u64)
}

/// Returns whether lengths can be those of a chunk.
fn are_plausible(codec: Codec, has_origin: bool, stored_len: u32, raw_len: u32) -> bool {
    let (stored, raw) = (stored_len as usize, raw_len as usize);
    // An origin has a length of one or two bytes, and at least one byte.
    let (least, most) = if has_origin { (2, 2 + ORIGIN_LEN_MAX) } else { (0, 0) };
    let fits = match codec {
        Codec::Raw => (raw + least..=raw + most).contains(&stored),
        // Compressed only where that saves something.
        Codec::Zstd => (least + 1..raw + most).contains(&stored),
    };
    (1..=CHUNK_LEN_MAX).contains(&raw) && fits
}

/// Reason why there is no record at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadChunk {
    /// No header, a damaged one, or one of another pack.
    Corrupt(Corruption),
    /// An intact header that says what this release does not know. It was written: what follows it is not void.
    Unknown(Corruption),
}

impl From<Corruption> for BadChunk {
    fn from(corruption: Corruption) -> Self {
        Self::Corrupt(corruption)
    }
}

impl BadChunk {
    /// Returns what was found instead of a record.
    pub(crate) fn corruption(self) -> Corruption {
        match self {
            Self::Corrupt(corruption) | Self::Unknown(corruption) => corruption,
        }
    }
}

impl ChunkHeader {
    /// Encodes everything but the crc.
    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u32(self.payload_crc);
        out.u32(self.stored_len);
        out.u32(self.raw_len);
        out.u8(self.kind as u8);
        out.u8(self.codec as u8);
        out.u8(if self.has_origin { ORIGIN } else { 0 });
        out.u8(0);
        out.u32(self.scope);
        out.raw(self.id.as_bytes());
        out.u64(self.time.0);
        out.into_bytes()
    }

    /// Decodes the header of the record at `offset` of a pack, which is at the start of `bytes`.
    pub(crate) fn decode(bytes: &[u8], seed: u32, offset: u64) -> Result<Self, BadChunk> {
        let mut reader = Reader::new(bytes);
        let own = reader.u32("checksum of a chunk's header")?;
        let fields: [u8; RECORD_HEADER_LEN - 4] = reader.array("header of a chunk")?;
        if record_crc(seed, offset, &fields) != own {
            return Err(Corruption { offset: 0, what: "checksum of a chunk's header" }.into());
        }
        let mut reader = Reader::new(&fields);
        let payload_crc = reader.u32("checksum of a chunk")?;
        let (stored_len, raw_len) = (reader.u32("stored length")?, reader.u32("raw length")?);
        let kind = ChunkKind::from_number(reader.u8("kind of a chunk")?);
        let codec = Codec::from_number(reader.u8("codec of a chunk")?);
        let flags = reader.u8("flags of a chunk")?;
        let zero = reader.u8("header of a chunk")?;
        let scope = reader.u32("scope of a chunk")?;
        let id = ChunkId::from_bytes(reader.array("id of a chunk")?);
        let time = Micros(reader.u64("time of a chunk")?);
        let known = kind.zip(codec).filter(|_| flags & !ORIGIN == 0 && zero == 0);
        let unknown = |what| BadChunk::Unknown(Corruption { offset: 0, what });
        let (kind, codec) = known.ok_or(unknown("a known kind, codec and flags of a chunk"))?;
        let has_origin = flags & ORIGIN != 0;
        if !are_plausible(codec, has_origin, stored_len, raw_len) {
            return Err(unknown("lengths of a chunk"));
        }
        Ok(Self { kind, codec, has_origin, scope, id, stored_len, raw_len, time, payload_crc })
    }

    /// Returns the length of the record.
    pub(crate) fn record_len(&self) -> u64 {
        record_len(self.stored_len)
    }

    /// Returns where the stored bytes of the chunk are in its record, and its origin, after checking the payload.
    pub(crate) fn payload<'a>(&self, record: &'a [u8]) -> Result<(Range<usize>, &'a str), Corruption> {
        let mut reader = Reader::starting_at(record, RECORD_HEADER_LEN);
        if crc(&[reader.take(self.stored_len as usize, "a whole chunk")?]) != self.payload_crc {
            return Err(Corruption { offset: RECORD_HEADER_LEN as u64, what: "checksum of a chunk" });
        }
        self.stored(record)
    }

    /// Returns the same of a payload that has been checked, or whose chunk will be.
    pub(crate) fn stored<'a>(&self, record: &'a [u8]) -> Result<(Range<usize>, &'a str), Corruption> {
        let mut reader = Reader::starting_at(record, RECORD_HEADER_LEN);
        let payload = reader.take(self.stored_len as usize, "a whole chunk")?;
        let mut start = RECORD_HEADER_LEN;
        let mut origin = "";
        if self.has_origin {
            let mut payload = Reader::new(payload);
            let text = std::str::from_utf8(payload.prefixed("origin of a chunk")?).ok();
            let text = text.filter(|text| (1..=ORIGIN_LEN_MAX).contains(&text.len()));
            origin = text.ok_or_else(|| payload.corrupt("an origin of 1 to 255 bytes of UTF-8"))?;
            start += payload.position();
        }
        let end = RECORD_HEADER_LEN + self.stored_len as usize;
        let stored = end - start;
        let fits = match self.codec {
            Codec::Raw => stored == self.raw_len as usize,
            Codec::Zstd => stored > 0 && stored < self.raw_len as usize,
        };
        if fits { Ok((start..end, origin)) } else { Err(reader.corrupt("lengths of a chunk")) }
    }
}

/// A record, as the table of its pack tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) id: ChunkId,
    pub(crate) offset: u64,
    pub(crate) stored_len: u32,
    pub(crate) raw_len: u32,
    pub(crate) kind: ChunkKind,
    pub(crate) codec: Codec,
    pub(crate) has_origin: bool,
}

impl Line {
    /// Returns the line of a record.
    pub(crate) fn of(header: &ChunkHeader, offset: u64) -> Self {
        let ChunkHeader { kind, codec, has_origin, id, stored_len, raw_len, .. } = *header;
        Self { id, offset, stored_len, raw_len, kind, codec, has_origin }
    }

    /// Returns the length of its record.
    pub(crate) fn record_len(&self) -> u64 {
        record_len(self.stored_len)
    }

    /// Returns where its record ends.
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.record_len()
    }
}

/// Returns whether records of these lengths fill a pack up to `table_at` without a gap. With that, no two overlap
/// unless another leaves its place.
fn fill(lines: &[Line], table_at: u64) -> bool {
    lines.iter().map(Line::record_len).sum::<u64>() == table_at - FIRST_RECORD
}

/// Encodes table and tail of a pack whose records end at `table_at`; `lines` ascend by id.
pub(crate) fn encode_footer(lines: &[Line], table_at: u64, file_id: u64) -> Vec<u8> {
    assert!((FIRST_RECORD..=TABLE_AT_MAX).contains(&table_at), "a table at {table_at}");
    assert!(fill(lines, table_at), "{} records do not fill a pack up to {table_at}", lines.len());
    let count = u32::try_from(lines.len()).ok().filter(|count| *count <= RECORDS_MAX);
    assert!(count.is_some(), "{} records in a pack", lines.len());
    assert!(lines.is_sorted_by(|a, b| a.id < b.id), "the lines of a pack ascend by id, each once");
    let mut out = Writer::default();
    for line in lines {
        let place = u32::try_from(line.offset / ALIGN as u64);
        let inside = line.offset >= FIRST_RECORD && line.offset + line.record_len() <= table_at;
        assert!(
            place.is_ok() && inside && line.offset.is_multiple_of(ALIGN as u64),
            "a chunk at {} of a pack with its table at {table_at}",
            line.offset
        );
        out.raw(line.id.as_bytes());
        out.u32(place.unwrap_or_default());
        out.u32(line.stored_len);
        out.u32(line.raw_len);
        out.u8(line.kind as u8);
        out.u8(line.codec as u8);
        out.u8(if line.has_origin { ORIGIN } else { 0 });
        out.u8(0);
    }
    let table = crc(&[out.bytes()]);
    let mut tail = Writer::default();
    tail.u64(table_at);
    tail.u32(count.unwrap_or_default());
    tail.u32(0);
    tail.u32(table);
    tail.u32(0);
    tail.u64(file_id);
    tail.u32(crc(&[tail.bytes()]));
    tail.u32(MAGIC);
    out.raw(tail.bytes());
    out.into_bytes()
}

/// Decodes the tail of a pack: offset, count and crc of its table.
pub(crate) fn decode_tail(tail: &[u8], file_id: u64) -> Result<(u64, u32, u32), Corruption> {
    let mut reader = Reader::new(tail);
    let table_at = reader.u64("offset of the table")?;
    let count = reader.u32("number of chunks")?;
    reader.expect_u32(0, "a pack stored as this release stores it")?;
    let table = reader.u32("checksum of the table")?;
    reader.expect_u32(0, "tail of a pack")?;
    if reader.u64("file id")? != file_id {
        return Err(reader.corrupt("the id of this pack; another file has its name"));
    }
    reader.expect_u32(crc(&[tail.get(..TAIL_LEN - 8).unwrap_or_default()]), "checksum of the tail")?;
    reader.expect_u32(MAGIC, "magic of a sealed pack")?;
    reader.finish("end of the pack")?;
    let aligned = (FIRST_RECORD..=TABLE_AT_MAX).contains(&table_at) && table_at.is_multiple_of(ALIGN as u64);
    if count > RECORDS_MAX || !aligned {
        return Err(Corruption { offset: 0, what: "place and length of the table" });
    }
    Ok((table_at, count, table))
}

/// Returns the length of a table.
pub(crate) const fn table_len(count: u32) -> usize {
    count as usize * LINE_LEN
}

/// Decodes a table whose records end at `table_at`.
pub(crate) fn decode_table(table: &[u8], table_crc: u32, table_at: u64) -> Result<Vec<Line>, Corruption> {
    if crc(&[table]) != table_crc {
        return Err(Corruption { offset: 0, what: "checksum of the table" });
    }
    let mut reader = Reader::new(table);
    let mut lines: Vec<Line> = Vec::with_capacity(table.len() / LINE_LEN);
    while reader.remaining() > 0 {
        let id = ChunkId::from_bytes(reader.array("id of a chunk")?);
        let offset = u64::from(reader.u32("place of a chunk")?) * ALIGN as u64;
        let (stored_len, raw_len) = (reader.u32("stored length")?, reader.u32("raw length")?);
        let kind = ChunkKind::from_number(reader.u8("kind of a chunk")?);
        let codec = Codec::from_number(reader.u8("codec of a chunk")?);
        let flags = reader.u8("flags of a chunk")?;
        let zero = reader.u8("line of a chunk")?;
        let known = kind.zip(codec).filter(|_| flags & !ORIGIN == 0 && zero == 0);
        let (kind, codec) = known.ok_or_else(|| reader.corrupt("a known kind, codec and flags of a chunk"))?;
        let line = Line { id, offset, stored_len, raw_len, kind, codec, has_origin: flags & ORIGIN != 0 };
        if offset < FIRST_RECORD || offset + line.record_len() > table_at {
            return Err(reader.corrupt("a chunk inside the pack"));
        }
        if !are_plausible(codec, line.has_origin, stored_len, raw_len) {
            return Err(reader.corrupt("lengths of a chunk"));
        }
        if lines.last().is_some_and(|last| last.id >= id) {
            return Err(reader.corrupt("chunks in ascending order"));
        }
        lines.push(line);
    }
    if fill(&lines, table_at) { Ok(lines) } else { Err(reader.corrupt("records that fill the pack")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{base::FileNumber, chunk::id::Scope, format::FileKind};

    const PACK: Header = Header { kind: FileKind::Pack, file_id: 77, number: FileNumber(5) };

    fn encoded(chunk: &[u8], origin: &str) -> EncodedChunk {
        let id = Scope::Open.id(ChunkKind::Data, chunk);
        let (kind, time) = (ChunkKind::Data, Micros(1_767_225_600_000_000));
        EncodedChunk::new(&NewChunk { kind, scope: 0, id, bytes: chunk, origin, time }, |out| {
            out.extend_from_slice(chunk);
            Codec::Raw
        })
    }

    /// A record at an offset.
    fn record(chunk: &EncodedChunk, offset: u64) -> Vec<u8> {
        let mut out = Vec::new();
        chunk.place(PACK.record_seed(), offset, &mut out);
        out
    }

    #[test]
    fn a_record_reads_back_with_and_without_an_origin() {
        for (chunk, origin) in [(&b"some bytes"[..], ""), (b"x", "crawler 7"), (b"x", "ä".repeat(100).as_str())] {
            let chunk_of = encoded(chunk, origin);
            let bytes = record(&chunk_of, 32);
            assert_eq!((bytes.len(), bytes.len() % ALIGN), (chunk_of.len(), 0));
            let header = ChunkHeader::decode(&bytes, PACK.record_seed(), 32).unwrap();
            assert_eq!(header, chunk_of.header);
            assert_eq!(header.record_len(), bytes.len() as u64);
            let (place, told) = header.payload(&bytes).unwrap();
            assert_eq!((&bytes[place], told), (chunk, origin));
        }
    }

    #[test]
    fn any_flipped_bit_any_cut_another_offset_and_another_pack_are_corruption() {
        let chunk = encoded(b"some bytes", "here");
        let good = record(&chunk, 32);
        let read = |bytes: &[u8], seed: u32, offset: u64| {
            let header = ChunkHeader::decode(bytes, seed, offset).map_err(BadChunk::corruption)?;
            header.payload(bytes).map(|_| ())
        };
        read(&good, PACK.record_seed(), 32).unwrap();
        let used = RECORD_HEADER_LEN + chunk.header.stored_len as usize;
        for bit in 0..used * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bad, PACK.record_seed(), 32).is_err(), "bit {bit}");
        }
        for len in 0..used {
            assert!(read(&good[..len], PACK.record_seed(), 32).is_err(), "{len} bytes");
        }
        assert!(read(&good, PACK.record_seed(), 40).is_err());
        for other in [Header { number: FileNumber(6), ..PACK }, Header { file_id: 78, ..PACK }] {
            assert!(read(&good, other.record_seed(), 32).is_err());
        }
    }

    #[test]
    fn a_header_that_says_what_no_release_of_today_writes_is_refused() {
        let good = record(&encoded(b"some bytes", ""), 32);
        let reseal = |at: usize, value: u8| {
            let mut bad = good.clone();
            bad[at] = value;
            let own = record_crc(PACK.record_seed(), 32, &bad[4..RECORD_HEADER_LEN]);
            bad[..4].copy_from_slice(&own.to_le_bytes());
            ChunkHeader::decode(&bad, PACK.record_seed(), 32)
        };
        assert!(reseal(16, 2).is_ok(), "a node");
        for (at, value) in [
            (16, 0),
            (16, 3),
            (17, 1),
            (17, 2),
            (18, 1),
            (18, 2),
            (18, 128),
            (19, 1),
            (14, 255),
            (12, 0),
            (10, 1),
            (8, 9),
        ] {
            assert!(matches!(reseal(at, value), Err(BadChunk::Unknown(_))), "byte {at} = {value}");
        }
    }

    fn lines() -> Vec<Line> {
        let mut at = FIRST_RECORD;
        let mut lines: Vec<Line> = (0..20u8)
            .map(|byte| {
                let chunk = encoded(&[byte; 100], if byte % 3 == 0 { "origin" } else { "" });
                let line = Line::of(&chunk.header, at);
                at += line.record_len();
                line
            })
            .collect();
        lines.sort_unstable_by_key(|line| line.id);
        lines
    }

    /// Where the records of those lines end.
    fn end() -> u64 {
        FIRST_RECORD + lines().iter().map(Line::record_len).sum::<u64>()
    }

    fn read(footer: &[u8], table_at: u64) -> Result<Vec<Line>, Corruption> {
        let tail = footer.len().saturating_sub(TAIL_LEN);
        let (told, count, sum) = decode_tail(&footer[tail..], 77)?;
        if told != table_at || table_len(count) != tail {
            return Err(Corruption { offset: 0, what: "the place of the table" });
        }
        decode_table(&footer[..tail], sum, table_at)
    }

    #[test]
    fn the_table_of_a_pack_reads_back_and_any_flipped_bit_is_corruption() {
        let good = encode_footer(&lines(), end(), 77);
        assert_eq!(read(&good, end()), Ok(lines()));
        assert_eq!(read(&encode_footer(&[], 32, 77), 32), Ok(Vec::new()));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bad, end()).is_err(), "bit {bit}");
        }
        for len in TAIL_LEN..good.len() {
            assert!(read(&good[..len], end()).is_err(), "{len} bytes");
        }
        assert!(decode_tail(&good[good.len() - TAIL_LEN..], 78).is_err());
    }

    #[test]
    fn a_table_that_lies_with_a_right_checksum_is_refused() {
        let footer = encode_footer(&lines(), end(), 77);
        let good = &footer[..footer.len() - TAIL_LEN];
        let decode = |table: &[u8], table_at: u64| decode_table(table, crc(&[table]), table_at);
        assert!(decode(good, end()).is_ok());
        assert!(decode(good, end() - 8).is_err() && decode(good, end() + 8).is_err(), "another end of the records");
        let (first, second) = good.split_at(LINE_LEN);
        let swapped = [&second[..LINE_LEN], first, &second[LINE_LEN..]].concat();
        assert!(decode(&swapped, end()).is_err(), "out of order");
        assert!(decode(&[first, first].concat(), end()).is_err(), "twice");
        assert!(decode(second, end()).is_err(), "one is missing");
        for (at, value, what) in [
            (32, 3, "a place before the first record"),
            (35, 255, "a place beyond the table"),
            (36, 0, "a stored length that is not the chunk's"),
            (38, 255, "a stored length above any chunk"),
            (40, 0, "no raw length"),
            (42, 255, "a raw length above 1 MiB"),
            (44, 3, "an unknown kind"),
            (45, 2, "an unknown codec"),
            (46, 2, "an unknown flag"),
            (47, 1, "no zero"),
        ] {
            let mut bad = good.to_vec();
            bad[at] = value;
            assert!(decode(&bad, end()).is_err(), "{what}");
        }
    }

    #[test]
    fn an_origin_is_bounded_and_something_is_stored_behind_it() {
        let longest = "x".repeat(ORIGIN_LEN_MAX);
        let good = record(&encoded(b"some bytes", &longest), 32);
        let header = ChunkHeader::decode(&good, PACK.record_seed(), 32).unwrap();
        assert_eq!(header.payload(&good).unwrap().1, longest);
        // The length of the origin is the first byte of the payload, and its checksum is repaired.
        let chunk = encoded(b"some bytes", "here");
        for len in 0..=30u8 {
            let mut bad = record(&chunk, 32);
            bad[RECORD_HEADER_LEN] = len;
            let stored = RECORD_HEADER_LEN + chunk.header.stored_len as usize;
            let payload = crc(&[&bad[RECORD_HEADER_LEN..stored]]);
            bad[4..8].copy_from_slice(&payload.to_le_bytes());
            let own = record_crc(PACK.record_seed(), 32, &bad[4..RECORD_HEADER_LEN]);
            bad[..4].copy_from_slice(&own.to_le_bytes());
            let header = ChunkHeader::decode(&bad, PACK.record_seed(), 32).unwrap();
            assert_eq!(header.payload(&bad).is_ok(), len == 4, "an origin of {len} bytes");
        }
    }
}
