//! Segments: immutable sorted files with the entries of one keyspace, searched by key or read in order.
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
//! Entries are self-describing and begin at multiples of 4 bytes. One that holds its full key can be read at its
//! offset, without its block. The perfect-hash index relies on that: filter and partitions follow the blocks, and the
//! section `index` says where. Pages are verified when they are first touched, through an ordinary read, so that a bad
//! medium is an error; then they are served from the map.
//!
//! The format is specified in `docs/format/segment.md` and pinned by the bytes in `tests/golden/`.

mod block;
mod check;
mod cursor;
mod entry;
mod fences;
mod footer;
mod history;
mod index;
mod lookup;
mod pages;
mod ranges;
mod reader;
mod sections;
mod sizes;
mod summary;
mod writer;

pub(crate) use cursor::SegmentCursor;
pub(crate) use entry::Entry;
pub(crate) use history::{AsOfCursor, HistoryAnswer, HistoryVersion, VersionCursor};
pub(crate) use index::{PointIndex, Probe};
pub(crate) use lookup::PointKey;
pub(crate) use reader::{IndexNumbers, Segment};
pub(crate) use summary::{HistorySummary, SegmentMeta, Summary};
pub(crate) use writer::{Purpose, SegmentWriter};
