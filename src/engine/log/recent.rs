//! Recent batches, kept while a caller is between reading and committing.
//!
//! Batches are shared bytes, so keeping one costs a clone of a pointer. The ring is bounded in bytes; its floor marks
//! the batches that have left it, which never count as unchanged. Used by `engine/write/conflicts.rs`.

use crate::base::Seqno;
use std::{collections::VecDeque, sync::Arc};

use crate::wal::BatchView;

/// Cost of a batch in the ring beyond its bytes.
const BATCH_OVERHEAD: usize = 64;

/// Ring of recent batches.
#[derive(Debug)]
pub(in crate::engine) struct Recent {
    readers: usize,
    /// Every batch above this seqno is in the ring; nothing is known of those at or below it.
    floor: Seqno,
    /// Batches in order of seqno.
    batches: VecDeque<(Seqno, Arc<BatchView>)>,
    bytes: usize,
    bytes_max: usize,
}

impl Recent {
    /// Creates a ring of at most `bytes_max`; the newest batch may exceed it.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { readers: 0, floor: Seqno(0), batches: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Begins a read; `newest` is the newest commit.
    pub(super) fn watch(&mut self, newest: Seqno) {
        if self.readers == 0 {
            self.floor = newest;
        }
        self.readers += 1;
    }

    /// Ends a read that was committed or given up.
    pub(super) fn unwatch(&mut self) {
        assert!(self.readers > 0, "a read ends that never began");
        self.readers -= 1;
        if self.readers == 0 {
            self.batches.clear();
            self.bytes = 0;
        }
    }

    /// Keeps a batch that is being committed, while there is a reader.
    pub(super) fn keep(&mut self, seqno: Seqno, batch: BatchView) {
        if self.readers == 0 {
            return;
        }
        let newest = self.batches.back().map_or(self.floor, |(newest, _)| *newest);
        assert!(seqno > newest, "batch {seqno} is committed after {newest}");
        self.bytes += batch.len() + BATCH_OVERHEAD;
        self.batches.push_back((seqno, Arc::new(batch)));
        while self.bytes > self.bytes_max
            && self.batches.len() > 1
            && let Some((gone, batch)) = self.batches.pop_front()
        {
            self.floor = gone;
            self.bytes -= batch.len() + BATCH_OVERHEAD;
        }
    }

    /// Returns the batches after a seqno, oldest first; `None` if the ring does not reach back to it.
    pub(in crate::engine) fn after(&self, seqno: Seqno) -> Option<impl Iterator<Item = &(Seqno, Arc<BatchView>)>> {
        let from = self.batches.partition_point(|(at, _)| *at <= seqno);
        (seqno >= self.floor).then(|| self.batches.range(from..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::{KeyspaceId, Kind, Micros},
        env::{Env, Sim},
        wal::BatchBuf,
    };

    #[test]
    fn whatever_was_written_behind_a_seqno_is_in_the_ring_or_the_ring_says_that_it_does_not_reach_back() {
        let env = Sim::new(11);
        for bound in 0..12 {
            let mut recent = Recent::new(bound * 40);
            let (mut all, mut seqno) = (Vec::new(), 0u64);
            recent.watch(Seqno(0));
            for _ in 0..200 {
                seqno += 1 + u64::from(env.draw(3));
                let mut buf = BatchBuf::default();
                (0..env.draw(6)).for_each(|i| buf.push(Kind::Put, KeyspaceId(16), &[u8::try_from(i).unwrap()], b""));
                buf.stamp(Seqno(seqno), Micros::ZERO);
                let len = buf.len();
                recent.keep(Seqno(seqno), buf.into_shared(len));
                all.push(seqno);
                let since = u64::from(env.draw(u32::try_from(seqno).unwrap() + 1));
                let newer: Vec<u64> = all.iter().copied().filter(|at| *at > since).collect();
                if let Some(found) = recent.after(Seqno(since)) {
                    assert_eq!(found.map(|(at, _)| at.0).collect::<Vec<_>>(), newer, "since {since}");
                }
                assert!(recent.after(Seqno(seqno - 1)).is_some(), "the newest batch is always there");
                assert!(recent.batches.len() == 1 || recent.bytes <= recent.bytes_max);
            }
            recent.unwatch();
            assert!(recent.batches.is_empty() && recent.bytes == 0);
        }
    }
}
