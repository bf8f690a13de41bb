//! Tries every point of every workload, on two threads, and counts.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use chronolith::env::Sim;

use crate::{
    runner::{After, Runner},
    traced::Traced,
    workload::Workload,
    workloads::seed,
};

/// What went wrong, and how much was tried.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    tried: AtomicU64,
    /// The kind of each, and the whole text.
    failures: Mutex<Vec<(String, String)>>,
}

impl Tally {
    /// Tries one point; a panic is a failure like any other.
    pub(crate) fn attempt(&self, place: impl FnOnce() -> String, body: impl FnOnce() -> Result<(), String>) {
        self.tried.fetch_add(1, Ordering::Relaxed);
        let why = match catch_unwind(AssertUnwindSafe(body)) {
            Ok(Ok(())) => return,
            Ok(Err(why)) => why,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                format!("panicked: {}", text.unwrap_or_default())
            }
        };
        self.fail(&place(), &why);
    }

    pub(crate) fn fail(&self, place: &str, why: &str) {
        let kind = why.chars().filter(|c| !c.is_ascii_digit()).take(100).collect();
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).push((kind, format!("{place}: {why}")));
    }

    pub(crate) fn tried(&self) -> u64 {
        self.tried.load(Ordering::Relaxed)
    }

    /// Fails with the first failure of each kind; kinds differ by more than numbers.
    pub(crate) fn end(&self, exist: u64) {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kinds: BTreeMap<String, (usize, &str)> = BTreeMap::new();
        for (kind, text) in failures.iter() {
            kinds.entry(kind.clone()).or_insert((0, text)).0 += 1;
        }
        if !kinds.is_empty() {
            let told: Vec<String> = kinds.values().map(|(count, text)| format!("{count} times:{text}")).collect();
            panic!("{} of {} failed:\n\n{}", failures.len(), self.tried(), told.join("\n\n"));
        }
        drop(failures);
        assert_eq!(self.tried(), exist, "not everything that exists was tried");
    }
}

/// Runs `body` for each workload on two threads, with a description of each of its changing calls.
pub(crate) fn for_each_workload(workloads: &[Workload], tally: &Tally, body: impl Fn(&Workload, &[String]) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(workload) = workloads.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match trace(workload) {
                        Ok(trace) => body(workload, &trace),
                        Err(why) => tally.fail(&format!("\n\"{}\", seed {}, undisturbed", workload.name, seed()), &why),
                    }
                }
            });
        }
    });
}

/// The changing calls of a workload that nothing disturbs.
fn trace(workload: &Workload) -> Result<Vec<String>, String> {
    let sim = Sim::new(seed());
    let traced = Traced::new(&sim);
    let runner = Runner::run_on(&sim, Some(traced.clone()), workload, After::GoOn)?;
    if !runner.run.errors.is_empty() {
        return Err(runner.run.errors.join("; "));
    }
    if runner.run.accepted > 0 {
        return Err("a duplicate was accepted".to_owned());
    }
    // The runner still holds the database: what closing calls comes later.
    let trace = traced.trace.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if trace.len() as u64 == sim.calls() { Ok(trace) } else { Err("calls were made that no trace has".to_owned()) }
}

pub(crate) fn place(workload: &Workload, call: usize, what: &str, how: impl std::fmt::Debug) -> String {
    format!("\n\"{}\", seed {}, call {call} ({what}), {how:?}", workload.name, seed())
}
