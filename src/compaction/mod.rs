//! Segments in, fewer better segments out.
//!
//! Choosing is pure and doing is dumb: [`pick()`] reads metadata and names a [`Task`]; [`survivors::Survivors`] decides
//! version by version what stays, by the keyspace's [`Policy`], and [`placement::Kept`] where it goes; [`run`] moves
//! the bytes. A flush is the same job with a memtable as its only input. What a policy keeps of the past goes to the
//! history tier, which is merged by itself: [`pick_past`] and [`history::PastSurvivors`].

mod history;
mod inputs;
mod job;
mod output;
mod pick;
mod placement;
mod policy;
mod rules;
#[cfg(test)]
mod scenarios;
mod survivors;
mod thin;
mod tombstones;
mod traces;

pub(crate) use history::{PastSurvivors, Purges};
pub(crate) use job::{Job, Outcome, PastJob, run, run_past};
pub(crate) use output::Lane;
pub(crate) use pick::{Aging, PastTask, Shape, Task, Waste, down_in_span, everything, pick, pick_past, score};
pub(crate) use policy::us;
pub use policy::{CompactionPolicy, Policy, VersionInfo};
pub(crate) use rules::{Below, Demands, Reader, Readers, Rules};
