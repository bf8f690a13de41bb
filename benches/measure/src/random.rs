//! Random numbers and keys, the same in every run.

/// Where the keys of all candidates begin.
pub const SEED: u64 = 0x0123_4567_89ab_cdef;

/// Random numbers: splitmix64 (Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Draws a number.
    #[expect(clippy::should_implement_trait, reason = "the numbers never end: an iterator would wrap each in `Some`")]
    #[inline]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Draws a number below a count.
    #[inline]
    pub fn below(&mut self, count: usize) -> usize {
        ((u128::from(self.next()) * count as u128) >> 64) as usize
    }

    /// Fills a slice with bytes that nothing compresses.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            piece.copy_from_slice(&self.next().to_le_bytes()[..piece.len()]);
        }
    }
}

/// Makes so many different keys, in no order.
///
/// The first halves alone make them different: splitmix64 is a permutation of the numbers.
pub fn keys(count: usize) -> Vec<[u8; 16]> {
    let mut random = Random::new(SEED);
    let mut other = Random::new(!SEED);
    (0..count).map(|_| (u128::from(random.next()) << 64 | u128::from(other.next())).to_be_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another generator would be other keys, and no number could be compared with those of before.
    #[test]
    fn the_numbers_are_those_of_splitmix64() {
        let mut random = Random::new(1_234_567);
        let drawn = [(); 5].map(|()| random.next());
        let published = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!(drawn, published);
    }

    #[test]
    fn bytes_are_those_of_the_numbers() {
        let mut bytes = [0; 20];
        Random::new(SEED).fill(&mut bytes);
        let mut random = Random::new(SEED);
        let numbers: Vec<u8> = [(); 3].map(|()| random.next().to_le_bytes()).concat();
        assert_eq!(bytes, numbers[..20]);
    }
}
