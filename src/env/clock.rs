//! The real clocks and the real randomness, shared by the machines that have no simulated ones.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    sync::OnceLock,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// Microseconds since 1970 by the wall clock; 0 for a clock set before.
pub(super) fn wall_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Microseconds since the first call in this process.
pub(super) fn monotonic_us() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// 64 random bits: a fresh `RandomState` is keyed by the operating system. Good for file ids and seeds that an attacker
/// must not know in advance; not for secrets.
pub(super) fn entropy() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(monotonic_us());
    hasher.finish()
}
