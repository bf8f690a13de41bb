//! Progress of a long call, reported to its caller, who may cancel it.

use std::{
    any::Any,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use crate::base::{Error, Result, callback};

/// Progress of a compaction, a verification, a checkpoint, or of values that are cut anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes of files, or of values that are cut anew, processed so far: never decreases, never exceeds `total`, and
    /// equals it at the very end.
    pub done: u64,
    /// Bytes of all of them at the start.
    pub total: u64,
}

type Callback<'t> = &'t mut dyn FnMut(Progress) -> ControlFlow<()>;

/// Progress of a call, and the callback that it is reported to, if there is one.
pub(crate) struct Watch<'t> {
    callback: Option<Callback<'t>>,
    progress: Progress,
    /// Current part: its bytes, and how many of them have been reported.
    part: (u64, u64),
    panicked: Option<Box<dyn Any + Send>>,
}

impl<'t> Watch<'t> {
    pub(crate) fn silent() -> Self {
        Self { callback: None, progress: Progress::default(), part: (0, 0), panicked: None }
    }

    pub(crate) fn reporting_to(callback: Callback<'t>) -> Self {
        Self { callback: Some(callback), ..Self::silent() }
    }

    /// Runs the watched call. A panic of the callback resumes once everything is cleaned up.
    pub(crate) fn over<T>(mut self, run: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let ran = run(&mut self);
        self.panicked.map_or(ran, |panic| resume_unwind(panic))
    }

    pub(super) fn begin(&mut self, total: u64) -> Result<()> {
        self.progress = Progress { done: 0, total };
        self.report()
    }

    /// Begins a part of `bytes`: reported in shares, and complete when it ends.
    pub(super) fn begin_part(&mut self, bytes: u64) {
        self.part = (bytes, 0);
    }

    /// Reports that `done` of the part's `all` steps are done.
    pub(super) fn step(&mut self, done: u64, all: u64) -> Result<()> {
        let (bytes, before) = self.part;
        let share = u128::from(bytes) * u128::from(done.min(all)) / u128::from(all.max(1));
        // A part may be walked more than once.
        let now = u64::try_from(share).unwrap_or(bytes).max(before);
        self.part.1 = now;
        // Writes meanwhile make parts larger than they were at the start.
        self.progress.done = (self.progress.done + (now - before)).min(self.progress.total);
        self.report()
    }

    /// Reports that all is done. It is too late to cancel.
    pub(super) fn end(&mut self) {
        self.progress.done = self.progress.total;
        let _late = self.report();
    }

    pub(super) fn end_part(&mut self) -> Result<()> {
        self.step(1, 1)
    }

    fn report(&mut self) -> Result<()> {
        let Some(report) = &mut self.callback else { return Ok(()) };
        if self.panicked.is_some() {
            return Err(Error::Cancelled);
        }
        let progress = self.progress;
        // The right to compact may be held: a callback that calls the database would wait for itself.
        match callback(|| catch_unwind(AssertUnwindSafe(|| report(progress)))) {
            Ok(ControlFlow::Continue(())) => Ok(()),
            Ok(ControlFlow::Break(())) => Err(Error::Cancelled),
            Err(panic) => {
                self.panicked = Some(panic);
                Err(Error::Cancelled)
            }
        }
    }
}
