//! An immutable sorted file: entries of one keyspace, found by search or read in order.
//!
//! ```text
//!  ├────────┬───────┬───────┬─────┬───────┬────────┬────────────┬────────┬───────┬────────┬───────┬─────────┬──────┤
//!  │ header │ block │ block │  …  │ block │ filter │ partitions │ fences │ pages │ ranges │ index │ summary │footer│
//!  └────────┴───────┴───────┴─────┴───────┴────────┴────────────┴────────┴───────┴────────┴───────┴─────────┴──────┘
//!  └────────── data: a CRC for each 4 KiB page ─────────────────┘└──── sections: a CRC each, in the footer's table ─┘
//!
//!  block:  entry entry … │ offset of each entry (u16, in units of 4 bytes) │ count (u16) │
//!  entry:  flags · key length · value length · seqno · [gap] · [extension] · key · value · to a multiple of 4
//! ```
//!
//! Entries describe themselves and begin at multiples of 4 bytes, with full keys: whoever knows the offset of an entry
//! can read it without its block. That is what the perfect-hash index does: filter and partitions lie behind the
//! blocks, and the section `index` says where. Pages are verified when they are first touched, through an ordinary
//! read, so that a bad medium is an error; then they are served from the map.
//!
//! The format is specified in `docs/format/segment.md` and pinned by the bytes in `tests/golden/`.

mod block;
mod cursor;
mod difference;
mod entry;
mod fences;
mod footer;
mod index;
mod past;
mod reader;
mod summary;
mod writer;

pub(crate) use cursor::SegmentCursor;
pub(crate) use entry::Entry;
pub(crate) use index::PointIndex;
pub(crate) use past::{PastCursor, PastFound, PastVersion, VersionCursor};
pub(crate) use reader::{IndexNumbers, PointKey, Probe, Segment};
pub(crate) use summary::{Past, Summary};
pub(crate) use writer::{Finished, Purpose, SegmentWriter};

/// Data is checked in pages of this size.
pub(crate) const PAGE: usize = 4096;

/// A block is closed when it holds this many bytes, between two keys.
const BLOCK_LEN: usize = 4096;

/// Versions of one key may fill a block up to this; then it is closed between two versions.
const BLOCK_LEN_MAX: usize = 64 << 10;

/// Entries begin at multiples of this.
const ALIGN: usize = 4;
