//! Counts of what has happened since the database was opened, always on.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Counts of what has happened since the database was opened.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(super) commits: AtomicU64,
    pub(super) scans: AtomicU64,
    pub(super) log_bytes: AtomicU64,
    pub(super) log_syncs: AtomicU64,
    pub(super) flushes: AtomicU64,
    pub(super) flushed_bytes: AtomicU64,
    pub(super) compactions: AtomicU64,
    pub(super) compacted_in: AtomicU64,
    pub(super) compacted_out: AtomicU64,
    /// Bytes written to the history tier by compactions.
    pub(super) history_out: AtomicU64,
    pub(super) stalls: AtomicU64,
    pub(super) reads: ReadCounters,
}

/// Number of counts of point reads: reads, segments that a filter ruled out, those that it passed in vain, slots, slots
/// with another fingerprint, slots with the same fingerprint and another key, blocks.
pub(super) const READS: usize = 7;

/// Counts of point reads, in stripes that are each shared by some threads.
///
/// A stripe is added to without an atomic addition, which would keep the processor from starting the next read before
/// this one has all its bytes. If two threads of one stripe add at the same moment, one of the additions may be lost.
#[derive(Debug, Default)]
pub(crate) struct ReadCounters([Stripe; 16]);

/// Counts on cache lines that no other stripe shares.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe([AtomicU64; READS]);

impl ReadCounters {
    /// Adds to the stripe of this thread.
    #[inline]
    pub(super) fn add(&self, counts: &[u64; READS]) {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local!(static STRIPE: usize = NEXT.fetch_add(1, Relaxed));
        let stripe = STRIPE.with(|stripe| *stripe) % self.0.len();
        let Some(Stripe(counters)) = self.0.get(stripe) else { return };
        for (counter, count) in counters.iter().zip(counts).filter(|(_, count)| **count > 0) {
            counter.store(counter.load(Relaxed).wrapping_add(*count), Relaxed);
        }
    }

    pub(super) fn sums(&self) -> [u64; READS] {
        let mut sums = [0; READS];
        for Stripe(counters) in &self.0 {
            sums.iter_mut().zip(counters).for_each(|(sum, counter)| *sum += counter.load(Relaxed));
        }
        sums
    }
}
