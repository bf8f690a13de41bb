//! Segments in, fewer better segments out.
//!
//! Choosing is pure and doing is dumb: [`pick()`] reads metadata and returns a [`Task`]; [`survivors::Survivors`]
//! decides version by version what stays, as the keyspace's [`Policy`] demands; [`placement::KeyVersions`] decides
//! where each version goes; [`run`] moves the bytes. A flush is the same job with a memtable as its only input.
//! Superseded versions that a policy keeps go to the history tier, which is merged separately: [`pick_history`] and
//! [`history::HistorySurvivors`].

mod dropped;
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

pub(crate) use history::{HistorySurvivors, Purges};
pub(crate) use job::{HistoryJob, Job, Outcome, run, run_history};
pub(crate) use output::Tier;
pub(crate) use pick::{
    Aging, HistoryTask, Shape, Task, Waste, all_anew, down_in_span, everything, in_place, pick, pick_history,
    recipes_down, score,
};
pub use policy::{CompactionPolicy, Policy, VersionInfo};
pub(crate) use rules::{Demands, OlderSegments, Reader, Readers, Retention, Rules};
