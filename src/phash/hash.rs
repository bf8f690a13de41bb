//! Hash of a key: 128 bits, computed once and mixed with each seed.
//!
//! The hash is XXH3-128 as specified (version 0.2.0), with the seed of a database or of a map file. The seed of a
//! function enters afterwards, so that one hash of a key serves every segment it is looked up in, whatever seeds their
//! writers drew.

use xxhash_rust::xxh3::{xxh3_128, xxh3_128_with_seed};

/// Odd constants with irregular bits: the fractions of the square roots of 2 and 3, and of the golden ratio.
const MIX_A: u64 = 0x6a09_e667_f3bc_c909;
const MIX_B: u64 = 0xbb67_ae85_84ca_a73b;
pub(super) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The hash of a key, 128 bits.
///
/// ```
/// use chronolith::phash::Hash;
/// assert_eq!(Hash::of(b"alice"), Hash::of(b"alice"));
/// assert_ne!(Hash::of(b"alice"), Hash::of(b"bob"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash {
    low: u64,
    high: u64,
}

impl Hash {
    /// Hashes a key.
    #[inline]
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        Self::from(xxh3_128(key))
    }

    /// Hashes a key under a seed. An attacker who chooses the keys without knowing the seed cannot make two of them
    /// collide; without a seed that is possible.
    #[inline]
    #[must_use]
    pub fn with_seed(key: &[u8], seed: u64) -> Self {
        Self::from(xxh3_128_with_seed(key, seed))
    }

    /// Returns the hash under one seed.
    #[inline]
    pub(crate) fn seeded(self, seed: Seed) -> Seeded {
        Seeded { route: fold(self.low ^ seed.0, self.high ^ MIX_A), place: fold(self.high ^ seed.1, self.low ^ MIX_B) }
    }
}

impl From<u128> for Hash {
    /// Takes 128 bits that are already a good hash.
    fn from(bits: u128) -> Self {
        let (high, low) = halves(bits);
        Self { low, high }
    }
}

impl From<u64> for Hash {
    /// Takes 64 bits that are already a good hash. Two of n keys collide with a probability of n²/2⁶⁵: sufficient up to
    /// some 10⁸.
    fn from(bits: u64) -> Self {
        Self { low: bits, high: bits.rotate_left(32) }
    }
}

/// Seed that distinguishes functions over the same keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seed(u64, u64);

impl Seed {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed, seed.wrapping_mul(GOLDEN).rotate_left(29))
    }
}

/// A hash under a seed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seeded {
    /// The high bits choose the partition, the next ones the bucket in it; low ones are the fingerprint and the bits in
    /// a line of the filter. Functions are laid out in this order.
    pub(crate) route: u64,
    /// Chooses the position in the partition, and the line of the filter.
    pub(crate) place: u64,
}

impl Seeded {
    /// Returns the number of the partition among `count`, and the rest of the route below it.
    #[inline]
    pub(crate) fn partition(self, count: u64) -> (u64, u64) {
        halves(u128::from(self.route) * u128::from(count))
    }

    /// Returns eight bits that distinguish most absent keys from the key whose slot they get: low bits of the route,
    /// which chose neither partition nor position.
    #[inline]
    pub(crate) fn fingerprint(self) -> u8 {
        (self.route & 0xff) as u8
    }

    /// Returns the line of a filter of `count` lines.
    #[inline]
    pub(crate) fn filter_line(self, count: u64) -> usize {
        usize::try_from(scale(self.place, count)).unwrap_or(0)
    }

    /// Returns one bit in each of the eight words of a filter line.
    #[inline]
    pub(crate) fn filter_bits(self) -> [u64; 8] {
        [8, 14, 20, 26, 32, 38, 44, 50].map(|from| 1 << (self.route >> from & 63))
    }
}

/// Folds the two halves of a product: the mixing step of wyhash (Wang Yi, 2019).
#[inline]
pub(super) fn fold(a: u64, b: u64) -> u64 {
    let (high, low) = halves(u128::from(a) * u128::from(b));
    low ^ high
}

#[expect(clippy::cast_possible_truncation, reason = "each half is what is wanted")]
#[inline]
fn halves(of: u128) -> (u64, u64) {
    ((of >> 64) as u64, of as u64)
}

/// Returns the high half of a product: a number below `below`, in proportion to `of`.
#[inline]
pub(crate) fn scale(of: u64, below: u64) -> u64 {
    halves(u128::from(of) * u128::from(below)).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_one_of_the_specification() {
        // The empty input, as the reference implementation of XXH3-128 gives it.
        assert_eq!(Hash::of(b""), Hash::from(0x99aa_06d3_0147_98d8_6001_c324_468d_497f_u128));
    }

    #[test]
    fn seeds_see_different_hashes_and_every_bit_of_a_hash_matters() {
        let hash = Hash::of(b"key");
        assert_ne!(hash.seeded(Seed::new(1)), hash.seeded(Seed::new(2)));
        for bit in 0..128 {
            let other = Hash::from((u128::from(hash.high) << 64 | u128::from(hash.low)) ^ 1 << bit);
            let (one, two) = (hash.seeded(Seed::new(7)), other.seeded(Seed::new(7)));
            assert!(one.route != two.route && one.place != two.place, "bit {bit}");
        }
    }
}
