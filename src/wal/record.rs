//! The frame of a log record.
//!
//! ```text
//!  0          4        8           12         16            20     21      22      24
//!  ├──────────┼────────┼───────────┼──────────┼─────────────┼──────┼───────┼───────┼─────────
//!  │header crc│ length │payload crc│ previous │ synced mark │ kind │ flags │ zeros │ payload …   padded to 8
//! ```
//!
//! The header crc covers the seed of the log (database id and log number), the record's own offset and the other header
//! fields, so that a record copied from elsewhere or left from an earlier file is never accepted here. `previous` is
//! the header crc of the previous record: the records form a chain.

use crate::{
    base::Corruption,
    format::{Header, Reader, crc, record_crc},
};

/// Alignment of records.
pub(crate) const ALIGN: usize = 8;

/// Length of a record's header.
pub(crate) const RECORD_HEADER_LEN: usize = 24;

/// Offset of its kind, which is never 0, its flags and two zeros.
const KIND_AT: usize = 20;

/// Offset of the first record of a log.
pub(crate) const FIRST_RECORD: u64 = Header::LEN as u64;

/// Kind of a record. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum RecordKind {
    /// A batch of writes; in a manifest, an edit.
    Data = 1,
    /// End of a log that was followed by another.
    Rotated = 2,
    /// End of the last log at a clean close.
    Closed = 3,
}

/// Fields of a record's header, after its checksum was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) own_crc: u32,
    pub(crate) len: u32,
    pub(crate) payload_crc: u32,
    pub(crate) previous: u32,
    pub(crate) synced_upto: u32,
    pub(crate) kind: RecordKind,
}

/// Fills in the header of a record that already holds its payload, and pads the record.
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
    let own_crc = record_crc(seed, offset, &fields);
    if let Some((room, rest)) = record.get_mut(..RECORD_HEADER_LEN).and_then(|header| header.split_at_mut_checked(4)) {
        room.copy_from_slice(&own_crc.to_le_bytes());
        rest.copy_from_slice(&fields);
    }
    record.resize(record.len().next_multiple_of(ALIGN), 0);
    own_crc
}

/// Reason why there is no record at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadRecord {
    /// No header, a damaged one, or one of another log.
    Corrupt(Corruption),
    /// An intact header of a kind or with a flag that this release does not know. It never ends a torn tail: what
    /// follows it was written, and may have been synced.
    Unknown(Corruption),
}

impl From<Corruption> for BadRecord {
    fn from(corruption: Corruption) -> Self {
        Self::Corrupt(corruption)
    }
}

impl BadRecord {
    /// Returns what was found instead of a record.
    pub(crate) fn corruption(self) -> Corruption {
        match self {
            Self::Corrupt(corruption) | Self::Unknown(corruption) => corruption,
        }
    }
}

/// Decodes the header at the start of `bytes`.
pub(crate) fn decode_header(bytes: &[u8], seed: u32, offset: u64) -> Result<RecordHeader, BadRecord> {
    let mut reader = Reader::new(bytes);
    let own_crc = reader.u32("record header checksum")?;
    let fields: [u8; RECORD_HEADER_LEN - 4] = reader.array("record header")?;
    if record_crc(seed, offset, &fields) != own_crc {
        return Err(Corruption { offset: 0, what: "record header checksum" }.into());
    }
    let mut reader = Reader::new(&fields);
    let len = reader.u32("record length")?;
    let payload_crc = reader.u32("payload checksum")?;
    let previous = reader.u32("previous checksum")?;
    let synced_upto = reader.u32("synced mark")?;
    let unknown = |what| Err(BadRecord::Unknown(Corruption { offset: KIND_AT as u64, what }));
    let kind = match reader.u8("record kind")? {
        1 => RecordKind::Data,
        2 => RecordKind::Rotated,
        3 => RecordKind::Closed,
        _ => return unknown("a kind of record that this release knows"),
    };
    if reader.u8("record flags")? != 0 {
        return unknown("a record without flags");
    }
    if reader.u16("record header")? != 0 {
        return unknown("zeros in the header of a record");
    }
    if kind != RecordKind::Data && len != 0 {
        return unknown("the end of a log without a payload");
    }
    Ok(RecordHeader { own_crc, len, payload_crc, previous, synced_upto, kind })
}

/// Returns whether bytes can be the header of a record at all; few others reach the checksum.
pub(crate) fn may_be_header(bytes: &[u8]) -> bool {
    matches!(bytes.get(KIND_AT..RECORD_HEADER_LEN), Some([1..=255, _, 0, 0]))
}

/// Returns the length on disk of a record with this payload.
pub(crate) fn record_len(payload: u32) -> u64 {
    (RECORD_HEADER_LEN as u64 + u64::from(payload)).next_multiple_of(ALIGN as u64)
}
