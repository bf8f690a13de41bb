//! Time: of this thread alone, so that what else runs on the machine counts as little as possible.

/// Returns the nanoseconds of CPU time that this thread has used.
fn thread_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours, which outlives the call.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0, "the clock of a thread is part of POSIX");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Runs something, and returns the nanoseconds it took for each of `count`.
pub fn each<T>(count: usize, run: impl FnOnce() -> T) -> (T, f64) {
    let start = thread_ns();
    let made = run();
    (made, (thread_ns() - start) as f64 / count as f64)
}

/// Returns the middle one, or the mean of the two in the middle.
pub fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    match times.len() {
        0 => f64::NAN,
        len if len % 2 == 0 => (times[len / 2 - 1] + times[len / 2]) / 2.0,
        len => times[len / 2],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        assert!(median(&[]).is_nan());
        assert_eq!(median(&[3.0, 9.0, 1.0]), 3.0);
        assert_eq!(median(&[4.0, 9.0, 1.0, 2.0]), 3.0);
    }

    #[test]
    fn a_thread_that_sleeps_uses_no_time() {
        let ((), ns) = each(1, || std::thread::sleep(std::time::Duration::from_millis(50)));
        assert!(ns < 25_000_000.0, "{ns} ns of a thread that slept");
    }
}
