//! The clock of the database.
//!
//! Follows the wall clock while the two differ by at most [`SLACK_US`], else the monotonic clock, so that one wrong
//! second of the wall clock changes nothing. A larger step ahead is believed once it has lasted for an hour of
//! monotonic time. Time never runs backwards: while the database is ahead of the wall clock by more than the slack, its
//! time advances at half speed. Rule C1 of `docs/versions.md`.

use std::sync::Arc;

use super::locks::{Lock, LockOrder, Rank};
use crate::env::Env;

/// The clock of an open database.
#[derive(Debug)]
pub(crate) struct Clock {
    env: Arc<dyn Env>,
    follows: Lock<WallFollower>,
}

impl Clock {
    /// Creates a clock that starts at the wall's time, or at `newest` if that is later.
    pub(super) fn new(env: Arc<dyn Env>, newest: u64, order: LockOrder) -> Self {
        let follows = WallFollower::new(env.wall_us(), env.monotonic_us(), newest);
        Self { env, follows: order.lock(Rank::Clock, follows) }
    }

    /// Returns the time of the database, in microseconds; never less than before.
    pub(crate) fn now_us(&self) -> u64 {
        self.follows.lock().now(self.env.wall_us(), self.env.monotonic_us())
    }
}

/// Largest difference from the wall clock that is ordinary drift, and followed at once.
const SLACK_US: u64 = 500_000;

/// Time for which a step ahead must last to be believed.
const STAND_US: u64 = 3_600_000_000;

/// Follows a wall clock without trusting it.
#[derive(Debug)]
struct WallFollower {
    now: u64,
    monotonic: u64,
    /// Monotonic time since which the wall clock has been far ahead.
    ahead_since: Option<u64>,
}

impl WallFollower {
    /// Creates a clock that starts at the wall's time, or at `newest` if that is later.
    fn new(wall: u64, monotonic: u64, newest: u64) -> Self {
        Self { now: wall.max(newest), monotonic, ahead_since: None }
    }

    /// Returns the time, in microseconds; never less than before.
    fn now(&mut self, wall: u64, monotonic: u64) -> u64 {
        let passed = monotonic.saturating_sub(self.monotonic);
        self.monotonic = self.monotonic.max(monotonic);
        let expected = self.now.saturating_add(passed);
        if wall > expected.saturating_add(SLACK_US) {
            let since = *self.ahead_since.get_or_insert(self.monotonic);
            let believed = self.monotonic.saturating_sub(since) >= STAND_US;
            self.now = if believed { wall } else { expected };
        } else {
            self.ahead_since = None;
            // Slightly behind or ahead of the wall: follow it, but never backwards; far ahead: wait for it.
            let ahead = expected.saturating_sub(wall);
            self.now = if ahead > SLACK_US { self.now.saturating_add(passed / 2) } else { wall.max(self.now) };
        }
        self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    #[test]
    fn time_follows_the_wall_and_never_runs_backwards() {
        let mut clock = WallFollower::new(100 * S, 0, 0);
        assert_eq!(clock.now(101 * S, S), 101 * S);
        assert_eq!(clock.now(101 * S - 400, S), 101 * S);
        assert!(clock.now(50 * S, 3 * S) >= 101 * S);
    }

    #[test]
    fn one_bad_second_of_the_wall_changes_nothing() {
        let mut clock = WallFollower::new(100 * S, 0, 0);
        let ten_years = 315_360_000 * S;
        assert_eq!(clock.now(ten_years, S), 101 * S);
        assert_eq!(clock.now(102 * S, 2 * S), 102 * S);
    }

    #[test]
    fn a_step_that_stands_for_an_hour_is_believed() {
        let mut clock = WallFollower::new(100 * S, 0, 0);
        let step = 100_000 * S;
        for minute in 0..60 {
            let monotonic = minute * 60 * S;
            assert!(clock.now(step + monotonic, monotonic) < step, "minute {minute}");
        }
        assert_eq!(clock.now(step + 3600 * S, 3600 * S), step + 3600 * S);
    }

    #[test]
    fn a_database_from_the_future_waits_at_half_speed() {
        let mut clock = WallFollower::new(100 * S, 0, 200 * S);
        assert_eq!(clock.now(110 * S, 10 * S), 205 * S);
        assert_eq!(clock.now(300 * S, 200 * S), 300 * S);
    }
}
