//! Range tombstones, unfragmented: the memory of n of them is linear in n, however they overlap.
//!
//! ```text
//!   tombstones                      skyline: the newest at each key
//!   a────────────m  @9              a────────────m @9   m──∞ @5
//!        f──────────∞ @5
//! ```
//!
//! A set is immutable: the distinct edges in order, the tombstones oldest first, and the skyline, which answers readers
//! at or above the newest of them. Nested, disjoint or staggered: it has no more parts than there are edges. What only
//! readers of an older moment need is built when the first of them comes: a segment tree over the parts between edges
//! (n log n numbers of four bytes) that finds the newest tombstone at or below a moment, those above it whose gap
//! refuses the moment, and all that cover a key; each in O(log² n).
//!
//! A set that grows is a stack of sets, newest last, each longer than the next: see [`push`]. A walk carries its answer
//! along for as long as it is valid: see [`Overhead`].
//!
//! (Rejected: tombstones cut at every edge, each part with the list of all that cover it, as in most engines. A log
//! trimmed with `delete_range(..cutoff)` makes n² / 2 such pieces.)

mod cover;
mod fragments;
mod look;
mod overhead;
mod set;
mod skyline;
mod stack;
#[cfg(test)]
mod tests;
mod tombstone;

pub(crate) use fragments::Fragment;
pub(crate) use overhead::{Newest, Overhead};
pub(crate) use set::Tombstones;
pub(crate) use stack::push;
pub(crate) use tombstone::{RangeTombstone, Shown, Tombstone};
