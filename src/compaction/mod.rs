//! Segments in, fewer better segments out.
//!
//! Choosing is pure and doing is dumb: [`pick()`] reads metadata and names a [`Task`]; [`survivors::Survivors`] decides entry by entry what
//! stays; [`run`] moves the bytes. A flush is the same job with a memtable as its only input.

mod job;
mod pick;
mod policy;
mod survivors;

pub(crate) use job::{Job, Outcome, run};
pub(crate) use pick::{Shape, Task, everything, pick, score};
pub use policy::Policy;
pub(crate) use survivors::{Below, Demands};
