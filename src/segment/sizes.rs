//! The sizes that give a segment its shape.

/// Data is checked in pages of this size.
pub(super) const PAGE: usize = 4096;

/// A block is closed when it holds this many bytes, between two keys.
pub(super) const BLOCK_LEN: usize = 4096;

/// Versions of one key may fill a block up to this; then it is closed between two versions.
pub(super) const BLOCK_LEN_MAX: usize = 64 << 10;

/// Entries begin at multiples of this.
pub(super) const ALIGN: usize = 4;
