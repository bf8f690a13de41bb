//! What is run: the workloads of the two text files, and how each of them opens its database.

use chronolith::{
    Db, Error, Options,
    env::{Env, Sim},
};

use crate::{
    keyspaces::{Sort, policy_of},
    workload::{self, Op, Step, Workload},
};

pub(crate) const DB: &str = "db";
pub(crate) const COPY: &str = "copy";

pub(crate) fn seed() -> u64 {
    std::env::var("CHRONOLITH_CRASH_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

pub(crate) fn is_full() -> bool {
    std::env::var("CHRONOLITH_CRASH_FULL").is_ok_and(|text| text == "1")
}

/// All workloads, or those that are asked for.
pub(crate) fn workloads() -> Vec<Workload> {
    let only = std::env::var("CHRONOLITH_CRASH_ONLY").unwrap_or_default();
    let all = [include_str!("present.txt"), include_str!("past.txt")].into_iter().flat_map(workload::parse);
    all.filter(|workload| workload.name.contains(&only)).collect()
}

/// A commit of one put.
pub(crate) fn write(to: &'static str, key: u16, len: usize) -> Step {
    Step::Write(vec![put(to, key, len)])
}

pub(crate) fn put(to: &'static str, key: u16, len: usize) -> Op {
    Op::Put { to, key, len }
}

/// Those with these names.
pub(crate) fn named(names: &[&str]) -> Vec<Workload> {
    let found: Vec<_> = workloads().into_iter().filter(|workload| names.contains(&workload.name)).collect();
    assert_eq!(found.len(), names.len());
    found
}

impl Workload {
    pub(crate) fn options(&self, env: impl Env) -> Options {
        Options::new().durability(self.durability).memory_budget(4 << 20).l0_threshold(self.l0_threshold).env(env)
    }

    pub(crate) fn open(&self, sim: &Sim) -> Result<Db, Error> {
        self.options(sim.clone()).open(DB)
    }

    /// Whether a call is tried: of a workload of the past one of `every` calls, each of which is looked at more
    /// closely. All of them in a full run.
    pub(crate) fn tries(&self, call: usize, every: usize) -> bool {
        is_full() || !self.has_past() || (call + self.name.len()).is_multiple_of(every)
    }

    /// Whether the past is asked for.
    pub(crate) fn has_past(&self) -> bool {
        self.steps.iter().any(|step| match step {
            Step::Create(name) => policy_of(name).is_some() || Sort::of(name) == Sort::Brief,
            step => matches!(step, Step::Pin(_) | Step::AsOfNow),
        })
    }
}
