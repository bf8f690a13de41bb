//! Reading the lists of [`MergeStrategy::Append`].

// Internally: many sorted sources become one, many versions the one that a reader sees, many values one. A `Source` is
// anything sorted: a memtable, a segment, a run of segments. `Kway` merges them in internal order: keys ascending,
// versions of a key newest first. `Visible` reads that stream as of a seqno, with a `Lookup` for each key. Range
// tombstones are kept beside the stream, as `Tombstones`, and `DeadSpans` remember spans that hold nothing. A
// `MergeStrategy` folds operands.

mod dead_spans;
mod kway;
mod lookup;
mod source;
#[cfg(test)]
pub(crate) mod steps;
pub(crate) mod strategy;
mod tombstones;
mod visible;

pub(crate) use dead_spans::DeadSpans;
pub(crate) use kway::Kway;
pub(crate) use lookup::{Answer, Cutoffs, EntryMeta, Lookup, Meaning, ReadAt, Stored, meaning, ttl_at};
pub(crate) use source::{Direction, EntryRef, Source, Until, step};
pub use strategy::{AppendItems, append_items};
pub(crate) use strategy::{Gathered, MergeStrategy, NUMBER_CUSTOM, append_list, name_of, number, wide_sum};
pub(crate) use tombstones::{Fragment, RangeTombstone, Shown, Tombstone, Tombstones, push};
pub(crate) use visible::Visible;
