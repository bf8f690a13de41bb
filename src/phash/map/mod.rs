//! A file of keys and values that are found by perfect hashing, read in place.
//!
//! ```text
//!  ├────────┬───────────┬───────────┬─────┬──────────────────────────┬──────┤
//!  │ header │ partition │ partition │  …  │ directory, checksums     │ tail │
//!  └────────┴───────────┴───────────┴─────┴──────────────────────────┴──────┘
//!
//!  partition of entries of equal length:           pilots · remap · fingerprint of each slot │ entry of each slot
//!  partition of other entries:                     pilots · remap · slots: fingerprint, offset │ entries in any order
//!
//!  tail: keys u64 · directory at u64 · entries alike u8 · 0 u8 · 0 u16 · key length u32 · value length u32 · directory crc u32 ·
//!        tail crc u32 · "PMPE"
//! ```
//!
//! If all entries have the same length, the slot gives the place: no offset is stored, and the loads of fingerprint and
//! entry overlap. A partition's bytes are verified as a whole when it is first touched, through an ordinary read, and
//! then served from the map.
//!
//! The format is specified in `docs/format/phash.md` and pinned by the bytes in `tests/golden/`.

mod builder;
mod dir;
mod entries;
mod file;
mod iter;
mod merge;
mod pipeline;
mod range;
mod reader;
mod refs;
mod tail;
mod writer;

pub use builder::MapBuilder;
pub use iter::MapIter;
pub use merge::{MergeOptions, merge_to};
pub use pipeline::Progress;
pub use reader::Map;
