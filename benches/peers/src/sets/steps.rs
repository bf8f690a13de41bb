//! The sets by name: the steps of each, and who runs a step.

use super::ctx::Ctx;
use anyhow::{Result, bail};

/// A set: its name and its steps, each `(name, evict the page cache before it)`.
pub const SETS: &[(&str, &[(&str, bool)])] = &[
    ("seq", &[("seq", false)]),
    ("small", &[("small", false)]),
    ("get", &[("get", false)]),
    ("batch", &[("batch", false)]),
    ("sync", &[("sync", false)]),
    ("sync64k", &[("sync64k", false)]),
    ("ycsb", &[("ycsb", false)]),
    ("large64k", &[("large64k", false)]),
    ("large1m", &[("large1m", false)]),
    ("cold", &[("cold-load", false), ("cold-read", true)]),
    ("recovery", &[("crash", false), ("reopen-crash", false), ("reopen-clean", false)]),
    ("asof", &[("asof", false)]),
];

pub fn steps(set: &str) -> Option<&'static [(&'static str, bool)]> {
    SETS.iter().find(|(name, _)| *name == set).map(|(_, steps)| *steps)
}

impl Ctx {
    /// Runs the step that the set is named after.
    pub fn run(&self) -> Result<()> {
        match self.set.as_str() {
            "seq" => self.seq(),
            "small" => self.small(),
            "get" => self.get(),
            "batch" => self.batch(),
            "sync" => self.sync(),
            "sync64k" => self.sync_large(),
            "ycsb" => self.ycsb(),
            "large64k" => self.large(64 << 10, self.p.large64),
            "large1m" => self.large(1 << 20, self.p.large1m),
            "cold-load" => self.cold_load(),
            "cold-read" => self.cold_read(),
            "crash" => self.crash(),
            "reopen-crash" => self.reopen(),
            "reopen-clean" => self.reopen(),
            "asof" => self.asof(),
            other => bail!("no step {other}"),
        }
    }
}
