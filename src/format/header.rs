//! The first 32 bytes of every file: its kind, its format, and an id that distinguishes the file from a stale copy.
//!
//! ```text
//!  0        4       8         16        24        28   32
//!  ├────────┼───────┼─────────┼─────────┼─────────┼────┤
//!  │ "CHRN" │ kind  │ file id │ number  │ format  │crc │
//! ```

use super::{Reader, Writer, crc};
use crate::base::{Corruption, FileNumber};

/// Format that this release writes and reads.
const FORMAT: u32 = 1;

const MAGIC: u32 = u32::from_le_bytes(*b"CHRN");

/// Kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum FileKind {
    Manifest = u32::from_le_bytes(*b"MANI"),
    Log = u32::from_le_bytes(*b"WLOG"),
    Segment = u32::from_le_bytes(*b"SEGM"),
    Current = u32::from_le_bytes(*b"CURR"),
    /// Chunks of large values.
    Pack = u32::from_le_bytes(*b"PACK"),
    /// A perfect-hash map: a file of its own, outside any database.
    Map = u32::from_le_bytes(*b"PMAP"),
}

/// The header of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: FileKind,
    /// Drawn at random when the file was created.
    pub(crate) file_id: u64,
    /// The number in the file's name.
    pub(crate) number: FileNumber,
}

/// Reason why a header was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    Corrupt(Corruption),
    /// The header is intact and names a later format.
    Newer(u32),
}

impl Header {
    /// Length on disk.
    pub(crate) const LEN: usize = 32;

    pub(crate) fn encode(&self) -> Vec<u8> {
        self.encode_as(FORMAT)
    }

    fn encode_as(&self, format: u32) -> Vec<u8> {
        let mut out = Writer::default();
        out.u32(MAGIC);
        out.u32(self.kind as u32);
        out.u64(self.file_id);
        out.u64(self.number.0);
        out.u32(format);
        out.u32(crc(&[out.bytes()]));
        out.into_bytes()
    }

    /// Decodes the header of a file, which must be of `kind`.
    pub(crate) fn decode(bytes: &[u8], kind: FileKind) -> Result<Self, BadHeader> {
        let mut reader = Reader::new(bytes);
        let header = Self::fields(&mut reader, kind).map_err(BadHeader::Corrupt)?;
        let format = reader.u32("format").map_err(BadHeader::Corrupt)?;
        let sum = crc(&[bytes.get(..Self::LEN - 4).unwrap_or_default()]);
        reader.expect_u32(sum, "header checksum").map_err(BadHeader::Corrupt)?;
        if format == FORMAT { Ok(header) } else { Err(BadHeader::Newer(format)) }
    }

    /// Returns the seed of the checksums of records in this file: no record of another file or database matches. It is
    /// derived from what a reader knows without the file, so that a lost header hides no record.
    pub(crate) fn record_seed(&self) -> u32 {
        crc(&[&(self.kind as u32).to_le_bytes(), &self.file_id.to_le_bytes(), &self.number.0.to_le_bytes()])
    }

    fn fields(reader: &mut Reader<'_>, kind: FileKind) -> Result<Self, Corruption> {
        reader.expect_u32(MAGIC, "magic")?;
        reader.expect_u32(kind as u32, "kind of file")?;
        Ok(Self { kind, file_id: reader.u64("file id")?, number: FileNumber(reader.u64("file number")?) })
    }
}

/// Returns the checksum of a record's header: the seed of its file and its own offset are part of it, so that a record
/// copied from elsewhere or left from an earlier file is never accepted.
pub(crate) fn record_crc(seed: u32, offset: u64, fields: &[u8]) -> u32 {
    crc(&[&seed.to_le_bytes(), &offset.to_le_bytes(), fields])
}

impl BadHeader {
    /// Returns the error that names the file.
    pub(crate) fn of(self, path: &std::path::Path) -> crate::base::Error {
        match self {
            Self::Corrupt(corruption) => corruption.of(path, 0),
            Self::Newer(version) => crate::base::Error::NewerFormat { path: path.to_path_buf(), version },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header { kind: FileKind::Segment, file_id: 77, number: FileNumber(5) };

    #[test]
    fn decodes_what_it_encoded() {
        assert_eq!(Header::decode(&HEADER.encode(), FileKind::Segment), Ok(HEADER));
        assert_eq!(HEADER.encode().len(), Header::LEN);
    }

    #[test]
    fn any_flipped_bit_is_corruption() {
        for bit in 0..Header::LEN * 8 {
            let mut bytes = HEADER.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let decoded = Header::decode(&bytes, FileKind::Segment);
            assert!(matches!(decoded, Err(BadHeader::Corrupt(_))), "bit {bit}: {decoded:?}");
        }
    }

    #[test]
    fn a_newer_format_is_named_and_another_kind_refused() {
        assert_eq!(Header::decode(&HEADER.encode_as(2), FileKind::Segment), Err(BadHeader::Newer(2)));
        assert!(Header::decode(&HEADER.encode(), FileKind::Log).is_err());
    }
}
