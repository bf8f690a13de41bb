//! Minimal perfect hashing: the function, the map file built on it, and merging such maps.
//!
//! ```text
//!  key ─ hash ─▶ partition ─▶ pilot ─▶ slot ─▶ fingerprint, place of the entry ─▶ entry: is it the key?
//! ```
//!
//! A perfect hash function does not recognise keys that it was not built over: it gives them a slot too. Its user must
//! check: [`Map`] compares the fingerprint and then the key.
//!
//! [`Mphf`] is the bare function. This module does not use the engine: the segments of a database use the same function
//! for their index.

mod build;
mod hash;
mod map;
mod mphf;
mod partition;

pub(crate) use build::{Builder, Partitioned};
pub use hash::Hash;
pub(crate) use hash::{Seed, Seeded};
pub use map::{Map, MapBuilder, MapIter, MergeOptions, Progress, merge_to};
pub use mphf::Mphf;
pub(crate) use partition::{Directory, Line, Part, encode_partition, partition_count};
