//! What can happen to the bytes of a file.

#![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::path::PathBuf;

/// What happens to one file.
#[derive(Clone, Debug)]
pub(crate) enum Damage {
    None,
    Flip(usize, u8),
    Cut(usize),
    Zeros(usize),
    Garbage(usize),
    /// So many bytes from one on are zeros.
    Hole(usize, usize),
    Noise,
    Delete,
    /// The bytes of another file, or of this one at another time.
    Replace(&'static str, Vec<u8>),
    Swap(PathBuf),
}

impl Damage {
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Flip(at, mask) => format!("byte {at} flipped by {mask:#04x}"),
            Self::Cut(len) => format!("cut to {len} bytes"),
            Self::Zeros(by) => format!("{by} zeros added"),
            Self::Garbage(by) => format!("{by} bytes of garbage added"),
            Self::Hole(at, len) => format!("{len} bytes zeroed from {at} on"),
            Self::Replace(what, bytes) => format!("replaced by {what} of {} bytes", bytes.len()),
            Self::Swap(with) => format!("swapped with {}", with.display()),
            Self::None | Self::Noise | Self::Delete => format!("{self:?}"),
        }
    }

    /// The bytes that stand there afterwards.
    pub(crate) fn apply(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut bad = bytes.to_vec();
        match self {
            Self::None | Self::Swap(_) => {}
            Self::Flip(at, mask) => bad[*at] ^= mask,
            Self::Cut(len) => bad.truncate(*len),
            Self::Zeros(by) => bad.resize(bad.len() + by, 0),
            Self::Garbage(by) => bad.extend((0..*by).map(|n| noise(n as u64, bytes.len() as u64))),
            Self::Hole(at, len) => {
                let end = bad.len().min(at + len);
                bad[*at..end].fill(0);
            }
            Self::Noise => bad = (0..bytes.len()).map(|n| noise(n as u64, 7)).collect(),
            Self::Delete => return None,
            Self::Replace(_, other) => bad.clone_from(other),
        }
        Some(bad)
    }
}

/// A drawn byte.
pub(crate) fn noise(a: u64, b: u64) -> u8 {
    let mixed = (a ^ b.rotate_left(32) ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed >> 40).to_le_bytes()[0]
}
