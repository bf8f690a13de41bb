//! Sizes that give a segment its shape.

/// Size of the pages in which data is verified.
pub(super) const PAGE: usize = 4096;

/// Length at which a block is closed, between two keys.
pub(super) const BLOCK_LEN: usize = 4096;

/// Length up to which versions of one key may fill a block; then it is closed between two versions.
pub(super) const BLOCK_LEN_MAX: usize = 64 << 10;

/// Alignment of entries.
pub(super) const ALIGN: usize = 4;
