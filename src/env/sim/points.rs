//! Named points between two steps of the engine, at which a test may run another verb on the same thread.

use std::{fmt, mem};

use parking_lot::Mutex;

/// Callback that a test runs when the engine passes a named point.
#[derive(Default)]
pub(super) struct Points {
    watched: bool,
    /// `None` while it runs.
    run: Option<Run>,
}

type Run = Box<dyn FnMut(&'static str) + Send>;

impl Points {
    /// Returns points at which `run` is called.
    pub(super) fn watched_by(run: impl FnMut(&'static str) + Send + 'static) -> Self {
        Self { watched: true, run: Some(Box::new(run)) }
    }

    /// Replaces the points.
    pub(super) fn replace(points: &Mutex<Self>, new: Self) {
        let before = mem::replace(&mut *points.lock(), new);
        // Dropped outside the lock: it may own handles of a database, whose drop passes points too.
        drop(before);
    }

    /// Runs the callback at a point.
    pub(super) fn pass(points: &Mutex<Self>, point: &'static str) {
        // Taken out while it runs: points that it passes itself run nothing.
        let run = points.lock().run.take();
        let Some(mut run) = run else { return };
        run(point);
        let mut points = points.lock();
        if points.watched && points.run.is_none() {
            points.run = Some(run);
        }
    }
}

impl fmt::Debug for Points {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Points({})", if self.watched { "watched" } else { "ignored" })
    }
}
