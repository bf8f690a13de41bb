//! Number of operands that each key has had since its last state (M4).

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

use crate::base::KeyspaceId;

/// Operands of a key in a row before a state follows. A long state takes more of them, so that it is not written too
/// often.
const CHAIN_MAX: u32 = 256;

/// Most keys that are counted; with more, all counts start over.
const CHAINS_MAX: usize = 1 << 16;

/// Lengths of the operand chains, by hash of the key.
#[derive(Debug, Default)]
pub(in crate::engine) struct Chains {
    counts: HashMap<u64, Chain>,
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug)]
struct Chain {
    operands: u32,
    limit: u32,
}

impl Chains {
    /// Counts an operand; returns whether the chain has reached its limit.
    pub(in crate::engine) fn count(&mut self, keyspace: KeyspaceId, key: &[u8]) -> bool {
        if self.counts.len() >= CHAINS_MAX {
            self.counts.clear();
        }
        let hash = self.hasher.hash_one((keyspace, key));
        let chain = self.counts.entry(hash).or_insert(Chain { operands: 0, limit: CHAIN_MAX });
        chain.operands = chain.operands.saturating_add(1);
        chain.operands >= chain.limit
    }

    /// Records that no state could be written: it is tried again after twice as many operands.
    pub(in crate::engine) fn gave_up(&mut self, keyspace: KeyspaceId, key: &[u8]) {
        if let Some(chain) = self.counts.get_mut(&self.hasher.hash_one((keyspace, key))) {
            *chain = Chain { operands: 0, limit: chain.limit.saturating_mul(2) };
        }
    }

    /// Records that a state of `len` bytes was written.
    pub(in crate::engine) fn ended(&mut self, keyspace: KeyspaceId, key: &[u8], len: usize) {
        let limit = u32::try_from(len / 256).unwrap_or(u32::MAX).max(CHAIN_MAX);
        self.counts.insert(self.hasher.hash_one((keyspace, key)), Chain { operands: 0, limit });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_long_at_its_limit_and_begins_anew_with_a_state() {
        let mut chains = Chains::default();
        let long = |chains: &mut Chains| (1..=100_000u32).find(|_| chains.count(KeyspaceId(16), b"k"));
        assert_eq!(long(&mut chains), Some(CHAIN_MAX));
        chains.gave_up(KeyspaceId(16), b"k");
        assert_eq!(long(&mut chains), Some(2 * CHAIN_MAX));
        chains.ended(KeyspaceId(16), b"k", 1 << 20);
        assert_eq!(long(&mut chains), Some(4096));
    }
}
