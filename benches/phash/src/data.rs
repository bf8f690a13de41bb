//! The keys of all candidates, from a fixed seed, and how a loop goes over them.

use std::{
    fs,
    hash::{Hash, Hasher},
    hint::black_box,
    path::PathBuf,
};

use xxhash_rust::xxh3::xxh3_64_with_seed;

pub const SEED: u64 = 0x0123_4567_89ab_cdef;

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

/// Random numbers: splitmix64 (Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, count: usize) -> usize {
        ((u128::from(self.next()) * count as u128) >> 64) as usize
    }
}

/// So many different keys. The first halves alone make them different: they are a permutation of the numbers.
pub fn keys(count: usize) -> Vec<Key> {
    let mut random = Random::new(SEED);
    let mut other = Random::new(!SEED);
    (0..count).map(|_| key(random.next(), other.next())).collect()
}

pub fn key(first: u64, second: u64) -> Key {
    Key((u128::from(first) << 64 | u128::from(second)).to_be_bytes())
}

/// Asks for every key without waiting for the answer before: the processor works on several at once.
#[inline(always)]
pub fn independent(queries: &[Key], answer: impl Fn(&Key) -> u64) -> u64 {
    queries.iter().fold(0, |sum: u64, query| sum.wrapping_add(answer(query)))
}

/// Asks for every key only once the answer before is there.
#[inline(always)]
pub fn chained(queries: &[Key], answer: impl Fn(&Key) -> u64) -> u64 {
    // Zero, which the compiler cannot know: where the next query lies depends on the last answer.
    let nothing = black_box(0);
    let (mut sum, mut last) = (0u64, 0);
    for index in 0..queries.len() {
        last = answer(&queries[index + (last as usize & nothing)]);
        sum = sum.wrapping_add(last);
    }
    sum
}

/// A directory that goes at the end, also of a run that fails.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("phash-bench-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} is still there: {error}", self.0.display());
        }
    }
}
