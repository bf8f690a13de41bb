//! Steps of the walks of a thread: entries stepped over and sources sought. Tests bound them instead of time.

use std::cell::Cell;

thread_local! {
    static STEPS: Cell<u64> = const { Cell::new(0) };
}

pub(super) fn add() {
    STEPS.set(STEPS.get() + 1);
}

/// Returns the result of a call, and the steps it took.
pub(crate) fn of<T>(what: impl FnOnce() -> T) -> (T, u64) {
    STEPS.set(0);
    (what(), STEPS.get())
}
