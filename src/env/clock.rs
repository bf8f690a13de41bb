//! The real clocks and the real randomness, shared by the machines that do not simulate them.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    time::{SystemTime, UNIX_EPOCH},
};
#[cfg(not(any(target_os = "linux", target_os = "android")))]
use std::{sync::OnceLock, time::Instant};

/// Returns microseconds since 1970 by the wall clock; 0 for a clock set before.
pub(super) fn wall_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Returns microseconds since some moment, including time spent suspended where the system counts it: the time of a
/// database follows this clock, and would otherwise lag behind the world for an hour after each suspend.
pub(super) fn monotonic_us() -> u64 {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let us = i128::from(since_boot.tv_sec) * 1_000_000 + i128::from(since_boot.tv_nsec) / 1000;
        u64::try_from(us).unwrap_or(0)
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    instant_us()
}

/// Returns microseconds since the first call in this process.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn instant_us() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Returns 64 random bits: a fresh `RandomState` is keyed by the operating system. Good for file ids and for seeds that
/// an attacker must not know in advance; not for secrets.
pub(super) fn entropy() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(monotonic_us());
    hasher.finish()
}

/// Returns bytes from the random source of the operating system.
pub(super) fn secret() -> std::io::Result<[u8; 32]> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)?;
    Ok(secret)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn the_steady_clock_counts_from_boot_with_suspends() {
        // By the system's own account, which counts them too.
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let us = super::monotonic_us();
        assert!((seconds - std::time::Duration::from_micros(us).as_secs_f64()).abs() < 5.0, "{us} of {seconds} s");
        assert!(super::monotonic_us() >= us);
    }
}
