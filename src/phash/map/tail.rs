//! The end of a map file: its contents, the layout of its entries, and the offset of the directory.

use crate::{
    base::Corruption,
    format::{Reader, Writer, crc},
};

const MAGIC: u32 = u32::from_le_bytes(*b"PMPE");

pub(super) const TAIL_LEN: usize = 40;

/// Layout of the entries of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// All of equal length, each at the place of its slot.
    Alike { key_len: u32, value_len: u32 },
    /// Each after its lengths; the slot holds the offset.
    Mixed,
}

impl Shape {
    /// Returns the minimum size of a partition of `keys` keys, after pilots and remap. In a mixed map `extra` is the
    /// length of a slot.
    pub(super) fn tail(self, keys: u64, extra: u16) -> u64 {
        match self {
            Self::Alike { key_len, value_len } => keys * (1 + u64::from(key_len) + u64::from(value_len)),
            Self::Mixed => keys * u64::from(extra),
        }
    }
}

/// End of the file: its contents, and the offset of the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    pub(super) keys: u64,
    pub(super) directory_at: u64,
    pub(super) shape: Shape,
    pub(super) directory_crc: u32,
}

impl Tail {
    /// Encodes the tail; [`Tail::decode`] is the exact inverse.
    pub(super) fn encode(&self) -> Vec<u8> {
        let (alike, key_len, value_len) = match self.shape {
            Shape::Alike { key_len, value_len } => (1, key_len, value_len),
            Shape::Mixed => (0, 0, 0),
        };
        let mut out = Writer::default();
        out.u64(self.keys);
        out.u64(self.directory_at);
        out.u8(alike);
        out.u8(0);
        out.u16(0);
        out.u32(key_len);
        out.u32(value_len);
        out.u32(self.directory_crc);
        out.u32(crc(&[out.bytes()]));
        out.u32(MAGIC);
        out.into_bytes()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Corruption> {
        let mut reader = Reader::new(bytes);
        let keys = reader.u64("keys")?;
        let directory_at = reader.u64("place of the directory")?;
        let alike = reader.u8("layout of the entries")?;
        let zeros = (reader.u8("zero")?, reader.u16("zero")?);
        let (key_len, value_len) = (reader.u32("key length")?, reader.u32("value length")?);
        let directory_crc = reader.u32("checksum of the directory")?;
        let sum = crc(&[bytes.get(..reader.position()).unwrap_or_default()]);
        reader.expect_u32(sum, "checksum of the tail")?;
        reader.expect_u32(MAGIC, "the magic at the end of a map")?;
        reader.finish("end of the tail")?;
        let shape = match (alike, zeros, key_len, value_len) {
            (0, (0, 0), 0, 0) => Shape::Mixed,
            (1, (0, 0), ..) => Shape::Alike { key_len, value_len },
            _ => return Err(Corruption { offset: 16, what: "a layout that this release knows" }),
        };
        Ok(Self { keys, directory_at, shape, directory_crc })
    }
}
