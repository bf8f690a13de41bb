//! Pseudo-random numbers that repeat with the seed: `SplitMix64`. Never for secrets.

/// A stream of numbers determined by its seed.
#[derive(Clone, Debug)]
pub(super) struct Prng {
    state: u64,
}

impl Prng {
    /// Returns stream number `stream` of `seed`. Streams of one seed are independent: drawing more from one leaves the
    /// others as they were.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        Self { state: mix(seed ^ mix(stream)) }
    }

    /// Draws 64 bits.
    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// Draws a number below `below`; 0 if that is 0.
    pub(super) fn below(&mut self, below: u64) -> u64 {
        // The high half of the product is below `below`. Its bias is too small to matter to a simulation.
        let [_, high] = halves(u128::from(self.next()) * u128::from(below));
        high
    }

    /// Draws an index below `below`; 0 if that is 0.
    pub(super) fn index(&mut self, below: usize) -> usize {
        usize::try_from(self.below(below as u64)).unwrap_or(0)
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Returns the low and the high half of `wide`.
fn halves(wide: u128) -> [u64; 2] {
    [wide & u128::from(u64::MAX), wide >> 64].map(|half| u64::try_from(half).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_and_stream_give_the_same_numbers() {
        let draw = |seed, stream| {
            let mut prng = Prng::new(seed, stream);
            [(); 8].map(|()| prng.next())
        };
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(draw(1, 2), draw(1, 3));
        assert_ne!(draw(1, 2), draw(2, 2));
    }

    #[test]
    fn every_number_below_the_bound_comes_and_no_other() {
        let mut prng = Prng::new(7, 0);
        let mut seen = [0; 5];
        for _ in 0..1000 {
            seen[prng.index(5)] += 1;
        }
        assert!(seen.iter().all(|&n| n > 100), "{seen:?}");
        assert_eq!(prng.below(0), 0);
        assert_eq!(prng.below(1), 0);
    }
}
