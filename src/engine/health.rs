//! Whether the database may be used: open, closed, read-only, forked, poisoned.
//!
//! Before the first lock, every call asks here. Two things make a thread turn back: its process was forked from the one
//! that opened the database, where the holders of locks may be missing; or it is inside a callback of the user, whose
//! caller may hold locks.
//!
//! A failed sync poisons: what is on the disk is not known any more. So does a broken invariant of ours: a background
//! step, a commit or an edit that panics is caught ([`Health::contain`]), writes stop for good with its text, and reads
//! go on.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use super::locks::{Lock, Rank};
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
    /// Set before the threads are joined: jobs give up.
    stopping: AtomicBool,
    poisoned: AtomicBool,
    /// What poisoned it.
    why: Lock<Option<String>>,
}

impl Health {
    pub(super) fn new(path: PathBuf, read_only: bool) -> Self {
        Self {
            path,
            read_only,
            origin: Origin::default(),
            closed: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            poisoned: AtomicBool::new(false),
            why: Lock::new(Rank::Poison, None),
        }
    }

    /// Whether this process was forked from the one that opened the database: what belongs to that is left alone.
    #[inline]
    pub(crate) fn is_forked(&self) -> bool {
        self.origin.is_forked()
    }

    /// Fails where the caller may take no lock: in a forked process, and in a callback.
    #[inline]
    pub(crate) fn check_caller(&self) -> Result<()> {
        if self.is_forked() || in_callback() { Err(self.wrong_caller()) } else { Ok(()) }
    }

    #[cold]
    fn wrong_caller(&self) -> Error {
        let path = self.path.display();
        if !self.is_forked() {
            return Error::invalid(format!(
                "the database {path} was called from within a merge strategy, a compaction policy or a report of progress; those may use their arguments alone"
            ));
        }
        let (opened, here) = (self.origin.process(), std::process::id());
        Error::invalid(format!(
            "{path} was opened by process {opened}, and process {here} was forked from it: it cannot use what that opened; open databases after the fork"
        ))
    }

    /// Fails with [`Error::Closed`] after the end, and where the caller may take no lock.
    #[inline]
    pub(crate) fn check_open(&self) -> Result<()> {
        self.check_caller()?;
        if self.closed.load(Ordering::Acquire) { Err(Error::Closed) } else { Ok(()) }
    }

    /// Fails where no write is taken.
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

    /// What has stopped writes for good, if anything has.
    pub(super) fn poisoned_by(&self) -> Option<String> {
        self.why.lock().clone()
    }

    /// Stops writes for good: what is on the disk is not known any more.
    pub(super) fn poison(&self, error: &Error) {
        self.poison_with(error.in_full());
    }

    fn poison_with(&self, why: String) {
        self.why.lock().get_or_insert(why);
        self.poisoned.store(true, Ordering::Release);
    }

    /// Stops writes after a failed sync of names; unless the directory could not even be opened for it, on a machine
    /// that does not hold it open: then nothing was synced, and nothing is lost.
    pub(super) fn poison_unless_unopened(&self, error: &Error) {
        if !error.is_out_of_files() {
            self.poison(error);
        }
    }

    /// Runs a step that changes the database. A panic in it is a broken invariant of ours, since callbacks of the user
    /// catch their own: it stops writes for good, and the step answers [`Error::Poisoned`] with its text.
    pub(super) fn contain<T>(&self, step: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
        // What the step has locked is given back on the way; what it has half done is not looked at by any later step,
        // because none is taken.
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
            self.poison_with(format!("{step} met a broken invariant: {}", text_of(&*panic)));
            Err(Error::Poisoned { why: self.poisoned_by().unwrap_or_default() })
        })
    }

    /// Asks jobs under way to give up.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether jobs under way should give up.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Ends the use of the database.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }
}

/// The text that a panic was raised with.
fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_panics_stops_writes_with_its_text_and_nothing_else() {
        let health = Health::new("db".into(), false);
        assert_eq!(health.contain("a flush", || Ok(7)).unwrap(), 7);
        let guarded = Lock::new(Rank::Manifest, 3);
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
