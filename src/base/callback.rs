//! User code that the engine calls back: merge strategies and policies. It runs under the engine's locks, so its thread
//! must not call a database until it returns.

use std::cell::Cell;

thread_local!(static UNDER_WAY: Cell<bool> = const { Cell::new(false) });

/// Runs a callback. Until it returns or panics, [`in_callback`] is true on this thread, including in everything it
/// calls.
pub(crate) fn callback<T>(call: impl FnOnce() -> T) -> T {
    struct Ended(bool);
    impl Drop for Ended {
        fn drop(&mut self) {
            UNDER_WAY.set(self.0);
        }
    }
    // Reset after a panic too: unwinding drops `Ended`.
    let _ended = Ended(UNDER_WAY.replace(true));
    call()
}

/// Returns whether this thread is inside a callback.
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
