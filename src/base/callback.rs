//! Code of the user that the engine calls back: merges and policies. They run under the engine's locks, so while one is
//! under way its thread may not
//! call a database.

use std::cell::Cell;

thread_local!(static UNDER_WAY: Cell<bool> = const { Cell::new(false) });

/// Runs a callback; while it does, [`in_callback`] says so on this thread, also for what it calls. A panic ends it as a
/// return does.
pub(crate) fn callback<T>(call: impl FnOnce() -> T) -> T {
    struct Ended(bool);
    impl Drop for Ended {
        fn drop(&mut self) {
            UNDER_WAY.set(self.0);
        }
    }
    // Set behind a panic too: `Ended` is dropped on the way.
    let _ended = Ended(UNDER_WAY.replace(true));
    call()
}

/// Whether this thread is inside a callback.
#[inline]
pub(crate) fn in_callback() -> bool {
    UNDER_WAY.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callback_ends_with_its_return_or_its_panic() {
        assert!(!in_callback());
        assert!(callback(|| callback(in_callback) && in_callback()));
        assert!(!in_callback());
        let panicked = std::panic::catch_unwind(|| callback(|| assert!(!in_callback(), "it panics")));
        assert!(panicked.is_err() && !in_callback());
    }
}
