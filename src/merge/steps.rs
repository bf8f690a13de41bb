//! How far the walks of a thread have gone: entries that were stepped over and sources that were sought. What tests
//! hold a verb to, instead of a time.

use std::cell::Cell;

thread_local! {
    static STEPS: Cell<u64> = const { Cell::new(0) };
}

pub(super) fn add() {
    STEPS.set(STEPS.get() + 1);
}

/// What something gives, and the steps it takes.
pub(crate) fn of<T>(what: impl FnOnce() -> T) -> (T, u64) {
    STEPS.set(0);
    (what(), STEPS.get())
}
