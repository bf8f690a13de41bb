//! The keys of all candidates, from a fixed seed, and the hash that every rival is given.

use std::hash::{Hash, Hasher};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A key of 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub [u8; 16]);

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Hash for Key {
    /// The bytes and nothing else: an array would write its length too.
    #[inline(always)]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

/// XXH3-64 of a key: what every rival is given, so that no function is measured by its hash.
#[inline(always)]
pub fn hash(key: &Key, seed: u64) -> u64 {
    xxh3_64_with_seed(&key.0, seed)
}

/// Makes so many different keys.
pub fn keys(count: usize) -> Vec<Key> {
    measure::keys(count).into_iter().map(Key).collect()
}
