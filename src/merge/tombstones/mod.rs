//! Range tombstones, held whole: what n of them take is linear in n, however they overlap.
//!
//! ```text
//!   tombstones                      skyline: the newest at each key
//!   a────────────m  @9              a────────────m @9   m──∞ @5
//!        f──────────∞ @5
//! ```
//!
//! A set is immutable: the different edges in order, the tombstones oldest first, and the skyline, which answers
//! whoever reads at or above the newest of them. Nested, disjoint or in stairs: it has no more parts than there are
//! edges. What only readers of an older moment need is made when the first of them comes: a segment tree over the parts
//! between edges (n log n numbers of four bytes) that finds the newest tombstone at or below a moment, those above it
//! whose gap refuses the moment, and all that cover a key; each in O(log² n).
//!
//! A set that grows is a stack of sets, newest last, each longer than the next: see [`push`]. A walk carries the
//! answer with it for as long as it holds: see [`Overhead`].
//!
//! (Rejected: tombstones cut at every edge, each part with the list of all that cover it, as most engines have them.
//! Whoever trims

mod cover;
mod fragments;
mod look;
mod mark;
mod overhead;
mod set;
mod skyline;
mod stack;
#[cfg(test)]
mod tests;

pub(crate) use fragments::Fragment;
pub(crate) use mark::{Mark, RangeTombstone, Shown};
pub(crate) use overhead::{Newest, Overhead};
pub(crate) use set::Tombstones;
pub(crate) use stack::push;
