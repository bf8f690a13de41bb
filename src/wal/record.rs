//! The frame of a log record.
//!
//! ```text
//!  0          4        8           12         16            20     21      24
//!  ├──────────┼────────┼───────────┼──────────┼─────────────┼──────┼───────┼─────────
//!  │header crc│ length │payload crc│ previous │ synced mark │ kind │ zeros │ payload …   padded to 8
//! ```
//!
//! The header crc covers the seed of the log (database id and log number), the record's own offset and the other header
//! fields, so a record copied from elsewhere, or left from an earlier file, is never taken for one of this place.
//! `previous` is the header crc of the record before: together they make a chain.

use crate::{
    base::Corruption,
    format::{Header, Reader, crc},
};

/// Records begin at multiples of this.
pub(crate) const ALIGN: usize = 8;

/// Length of a record's header.
pub(crate) const RECORD_HEADER_LEN: usize = 24;

/// Where the first record of a log begins.
pub(crate) const FIRST_RECORD: u64 = Header::LEN as u64;

/// What a record is. The numbers stand on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum RecordKind {
    /// A batch of writes; in a manifest, an edit.
    Data = 1,
    /// The end of a log that was followed by another one.
    Rotated = 2,
    /// The end of the last log at a clean close.
    Closed = 3,
}

/// The fields of a record's header, already believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) own_crc: u32,
    pub(crate) len: u32,
    pub(crate) payload_crc: u32,
    pub(crate) previous: u32,
    pub(crate) synced_upto: u32,
    pub(crate) kind: RecordKind,
}

/// What the checksums of one file begin with, so that records of other files and databases never fit. It is made from
/// what the reader knows without the file: a header that was lost hides no record.
pub(super) fn seed(header: &Header) -> u32 {
    crc(&[&(header.kind as u32).to_le_bytes(), &header.file_id.to_le_bytes(), &header.number.to_le_bytes()])
}

/// Fills in the header of a record whose bytes already hold the payload, and pads it.
pub(crate) fn seal_record(
    record: &mut Vec<u8>,
    seed: u32,
    offset: u64,
    previous: u32,
    synced_upto: u32,
    kind: RecordKind,
) -> u32 {
    let payload = record.get(RECORD_HEADER_LEN..).unwrap_or_default();
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut fields = [0; RECORD_HEADER_LEN - 4];
    let parts = [len, crc(&[payload]), previous, synced_upto, u32::from(kind as u8)];
    for (field, part) in fields.chunks_exact_mut(4).zip(parts) {
        field.copy_from_slice(&part.to_le_bytes());
    }
    let own_crc = header_crc(seed, offset, &fields);
    if let Some((room, rest)) = record.get_mut(..RECORD_HEADER_LEN).and_then(|header| header.split_at_mut_checked(4)) {
        room.copy_from_slice(&own_crc.to_le_bytes());
        rest.copy_from_slice(&fields);
    }
    record.resize(record.len().next_multiple_of(ALIGN), 0);
    own_crc
}

/// Decodes the header at the start of `bytes`; any doubt is corruption.
pub(crate) fn decode_header(bytes: &[u8], seed: u32, offset: u64) -> Result<RecordHeader, Corruption> {
    let mut reader = Reader::new(bytes);
    let own_crc = reader.u32("record header checksum")?;
    let fields: [u8; RECORD_HEADER_LEN - 4] = reader.array("record header")?;
    if header_crc(seed, offset, &fields) != own_crc {
        return Err(Corruption { offset: 0, what: "record header checksum" });
    }
    let mut reader = Reader::new(&fields);
    let len = reader.u32("record length")?;
    let payload_crc = reader.u32("payload checksum")?;
    let previous = reader.u32("previous checksum")?;
    let synced_upto = reader.u32("synced mark")?;
    let kind = match reader.u32("record kind")? {
        1 => RecordKind::Data,
        2 => RecordKind::Rotated,
        3 => RecordKind::Closed,
        _ => return Err(reader.corrupt("record kind")),
    };
    Ok(RecordHeader { own_crc, len, payload_crc, previous, synced_upto, kind })
}

/// Whether bytes can be the header of a record at all: what is left to the checksum is rare.
pub(crate) fn may_be_header(bytes: &[u8]) -> bool {
    matches!(bytes.get(20..RECORD_HEADER_LEN), Some([1..=3, 0, 0, 0]))
}

/// The length on disk of a record with this payload.
pub(crate) fn record_len(payload: u32) -> u64 {
    (RECORD_HEADER_LEN as u64 + u64::from(payload)).next_multiple_of(ALIGN as u64)
}

fn header_crc(seed: u32, offset: u64, fields: &[u8]) -> u32 {
    crc(&[&seed.to_le_bytes(), &offset.to_le_bytes(), fields])
}
