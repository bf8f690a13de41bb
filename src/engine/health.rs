//! State of the database as a whole: open, closed, read-only, forked, poisoned.
//!
//! Every call checks it before the first lock. The call fails if its process was forked from the one that opened the
//! database, where the holders of locks may be missing, or if it is made inside a callback of the user, whose caller
//! may hold locks.
//!
//! A failed sync poisons: the state of the disk is no longer known. So does a broken invariant of ours: a background
//! step, a commit or an edit that panics is caught ([`Health::contain`]), writes stop for good with its text, and reads
//! go on.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use super::locks::{Lock, LockOrder, Rank};
use crate::{
    base::{Error, Result, in_callback},
    env::Origin,
};

/// The state of a database as a whole.
#[derive(Debug)]
pub(crate) struct Health {
    path: PathBuf,
    read_only: bool,
    /// The process that opened the database.
    origin: Origin,
    closed: AtomicBool,
    /// Set before the threads are joined, so that jobs give up.
    stopping: AtomicBool,
    poisoned: AtomicBool,
    /// Cause of the poisoning.
    why: Lock<Option<String>>,
}

impl Health {
    pub(super) fn new(path: PathBuf, read_only: bool, order: LockOrder) -> Self {
        Self {
            path,
            read_only,
            origin: Origin::default(),
            closed: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            poisoned: AtomicBool::new(false),
            why: order.lock(Rank::Poison, None),
        }
    }

    /// Returns whether this process was forked from the one that opened the database, whose resources are left alone.
    #[inline]
    pub(crate) fn is_forked(&self) -> bool {
        self.origin.is_forked()
    }

    /// Fails if the caller may take no lock: in a forked process, and in a callback.
    #[inline]
    pub(crate) fn check_caller(&self) -> Result<()> {
        if self.is_forked() || in_callback() { Err(self.wrong_caller()) } else { Ok(()) }
    }

    #[cold]
    fn wrong_caller(&self) -> Error {
        let path = self.path.display();
        if !self.is_forked() {
            return Error::invalid(format!(
                "the database {path} was called from within a merge strategy, a compaction policy or a progress callback; those may use only their arguments"
            ));
        }
        let (opened, here) = (self.origin.process(), std::process::id());
        Error::invalid(format!(
            "{path} was opened by process {opened}, and process {here} was forked from it: a forked process cannot use what its parent opened; open databases after the fork"
        ))
    }

    /// Fails with [`Error::Closed`] after the database was closed, and if the caller may take no lock.
    #[inline]
    pub(crate) fn check_open(&self) -> Result<()> {
        self.check_caller()?;
        if self.closed.load(Ordering::Acquire) { Err(Error::Closed) } else { Ok(()) }
    }

    /// Fails if writes are not accepted.
    pub(super) fn check_writable(&self) -> Result<()> {
        self.check_open()?;
        self.check_not_poisoned()?;
        if self.read_only {
            return Err(Error::invalid(format!(
                "{} was opened read-only; open it without read_only(true) to write",
                self.path.display()
            )));
        }
        Ok(())
    }

    /// Fails with [`Error::Poisoned`] once writes have stopped.
    pub(super) fn check_not_poisoned(&self) -> Result<()> {
        if !self.poisoned.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(Error::Poisoned { why: self.poisoned_by().unwrap_or_default() })
    }

    /// Returns what has stopped writes for good, if anything has.
    pub(super) fn poisoned_by(&self) -> Option<String> {
        self.why.lock().clone()
    }

    /// Stops writes for good: the state of the disk is no longer known.
    pub(super) fn poison(&self, error: &Error) {
        self.poison_with(error.in_full());
    }

    fn poison_with(&self, why: String) {
        self.why.lock().get_or_insert(why);
        self.poisoned.store(true, Ordering::Release);
    }

    /// Stops writes after a failed sync of names, unless the directory could not even be opened for it, on a machine
    /// that does not hold it open: then nothing was synced, and nothing is lost.
    pub(super) fn poison_unless_unopened(&self, error: &Error) {
        if !error.is_out_of_files() {
            self.poison(error);
        }
    }

    /// Runs a step that changes the database. A panic in it is a broken invariant of ours, since callbacks of the user
    /// catch their own: it stops writes for good, and the step returns [`Error::Poisoned`] with its text.
    pub(super) fn contain<T>(&self, step: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
        // Unwinding releases what the step has locked. No later step sees what it left half done, because none runs.
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
            self.poison_with(format!("{step} met a broken invariant: {}", text_of(&*panic)));
            Err(Error::Poisoned { why: self.poisoned_by().unwrap_or_default() })
        })
    }

    /// Asks running jobs to give up.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Returns whether running jobs should give up.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Marks the database as closed.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }
}

/// Returns the text that a panic was raised with.
fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_panics_stops_writes_with_its_text_and_nothing_else() {
        let order = LockOrder::new();
        let health = Health::new("db".into(), false, order);
        assert_eq!(health.contain("a flush", || Ok(7)).unwrap(), 7);
        let guarded = order.lock(Rank::Manifest, 3);
        let met = health.contain::<()>("a flush", || {
            let mut held = guarded.lock();
            *held += 1;
            assert!(*held < 4, "{} segments of 3", *held);
            Ok(())
        });
        let Err(Error::Poisoned { why }) = met else { panic!("{met:?}") };
        assert!(why.contains("a flush met a broken invariant: 4 segments of 3"), "{why}");
        assert!(matches!(health.check_writable(), Err(Error::Poisoned { .. })));
        assert!(health.check_open().is_ok(), "reads go on");
        assert_eq!(*guarded.lock(), 4, "the lock is free");
        // The first reason stays.
        health.poison(&Error::DiskFull);
        assert!(health.poisoned_by().unwrap().contains("4 segments"));
    }
}
