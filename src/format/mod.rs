//! Encoding of everything on disk: numbers, checksums, file headers, file names.
//!
//! Everything read from a file passes through [`Reader`], which checks each length and offset before it is used. The
//! formats themselves are specified in `docs/format/`.

mod cursor;
mod header;
pub(crate) mod name;

pub(crate) use cursor::{Reader, Writer};
pub(crate) use header::{BadHeader, FileKind, Header, record_crc};

/// CRC-32 (IEEE) of bytes that arrive in pieces.
#[derive(Debug, Default)]
pub(crate) struct Checksum(crc32fast::Hasher);

impl Checksum {
    pub(crate) fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    pub(crate) fn finish(self) -> u32 {
        self.0.finalize()
    }
}

/// Returns the CRC-32 (IEEE) of several pieces in a row.
pub(crate) fn crc(pieces: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for piece in pieces {
        hasher.update(piece);
    }
    hasher.finalize()
}
