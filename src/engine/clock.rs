//! The clock of the database.
//!
//! Follows the wall clock while the two differ by at most [`SLACK`], else the monotonic clock, so that one wrong
//! second of the wall clock changes nothing. A larger step ahead is believed once it has lasted for an hour of
//! monotonic time. Time never runs backwards: while the database is ahead of the wall clock by more than the slack, its
//! time advances at half speed. Rule C1 of `docs/versions.md`.

use crate::base::Micros;
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
    pub(super) fn new(env: Arc<dyn Env>, newest: Micros, order: LockOrder) -> Self {
        let follows = WallFollower::new(Micros(env.wall_us()), Micros(env.monotonic_us()), newest);
        Self { env, follows: order.lock(Rank::Clock, follows) }
    }

    /// Returns the time of the database, in microseconds; never less than before.
    pub(crate) fn now(&self) -> Micros {
        self.follows.lock().now(Micros(self.env.wall_us()), Micros(self.env.monotonic_us()))
    }
}

/// Largest difference from the wall clock that is ordinary drift, and followed at once.
const SLACK: Micros = Micros(500_000);

/// Time for which a step ahead must last to be believed.
const STAND: Micros = Micros(3_600_000_000);

/// Follows a wall clock without trusting it.
#[derive(Debug)]
struct WallFollower {
    now: Micros,
    monotonic: Micros,
    /// Monotonic time since which the wall clock has been far ahead.
    ahead_since: Option<Micros>,
}

impl WallFollower {
    /// Creates a clock that starts at the wall's time, or at `newest` if that is later.
    fn new(wall: Micros, monotonic: Micros, newest: Micros) -> Self {
        Self { now: wall.max(newest), monotonic, ahead_since: None }
    }

    /// Returns the time, in microseconds; never less than before.
    fn now(&mut self, wall: Micros, monotonic: Micros) -> Micros {
        let passed = monotonic.saturating_sub(self.monotonic);
        self.monotonic = self.monotonic.max(monotonic);
        let expected = self.now.saturating_add(passed);
        if wall > expected.saturating_add(SLACK) {
            let since = *self.ahead_since.get_or_insert(self.monotonic);
            let believed = self.monotonic.saturating_sub(since) >= STAND;
            self.now = if believed { wall } else { expected };
        } else {
            self.ahead_since = None;
            // Slightly behind or ahead of the wall: follow it, but never backwards; far ahead: wait for it.
            let ahead = expected.saturating_sub(wall);
            self.now = if ahead > SLACK { self.now.saturating_add(Micros(passed.0 / 2)) } else { wall.max(self.now) };
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
        let mut clock = WallFollower::new(Micros(100 * S), Micros::ZERO, Micros::ZERO);
        assert_eq!(clock.now(Micros(101 * S), Micros(S)), Micros(101 * S));
        assert_eq!(clock.now(Micros(101 * S - 400), Micros(S)), Micros(101 * S));
        assert!(clock.now(Micros(50 * S), Micros(3 * S)) >= Micros(101 * S));
    }

    #[test]
    fn one_bad_second_of_the_wall_changes_nothing() {
        let mut clock = WallFollower::new(Micros(100 * S), Micros::ZERO, Micros::ZERO);
        let ten_years = 315_360_000 * S;
        assert_eq!(clock.now(Micros(ten_years), Micros(S)), Micros(101 * S));
        assert_eq!(clock.now(Micros(102 * S), Micros(2 * S)), Micros(102 * S));
    }

    #[test]
    fn a_step_that_stands_for_an_hour_is_believed() {
        let mut clock = WallFollower::new(Micros(100 * S), Micros::ZERO, Micros::ZERO);
        let step = 100_000 * S;
        for minute in 0..60 {
            let monotonic = minute * 60 * S;
            assert!(clock.now(Micros(step + monotonic), Micros(monotonic)) < Micros(step), "minute {minute}");
        }
        assert_eq!(clock.now(Micros(step + 3600 * S), Micros(3600 * S)), Micros(step + 3600 * S));
    }

    #[test]
    fn a_database_from_the_future_waits_at_half_speed() {
        let mut clock = WallFollower::new(Micros(100 * S), Micros::ZERO, Micros(200 * S));
        assert_eq!(clock.now(Micros(110 * S), Micros(10 * S)), Micros(205 * S));
        assert_eq!(clock.now(Micros(300 * S), Micros(200 * S)), Micros(300 * S));
    }
}
