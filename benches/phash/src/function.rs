//! The bare function: `Mphf` beside the functions of other crates.

use std::{collections::BTreeMap, hash::Hasher, hint::black_box};

use chronolith::phash::{Hash, Mphf};
use measure::{
    Random, SEED, chained,
    clock::{each, median},
    goal, independent,
};
use ph::{
    BuildSeededHasher, GetSize, fmph,
    phast::{self, DefaultCompressedArray, SeedOnly, ShiftOnlyWrapped, bits_per_seed_to_100_bucket_size},
    seeds::Bits8,
};
use ptr_hash::{CompactPtrHash, DefaultPtrHash, FastPtrHash, PtrHashParams, hash::KeyHasher};

use crate::data::{self, Key};

const QUERIES: usize = 500_000;
const OURS: &str = "chronolith Mphf";
const RIVAL: &str = "ptr_hash Default";

/// A function that has been built. Each kind has loops of its own: calls through a pointer would hide differences.
trait Built {
    fn bits(&self) -> f64;
    fn independent(&self, queries: &[Key]) -> u64;
    fn chained(&self, queries: &[Key]) -> u64;
    /// Panics unless every key has a number of its own below the range.
    fn check(&self, keys: &[Key]);
}

struct Of<F> {
    bits: f64,
    range: usize,
    index: F,
}

impl<F: Fn(&Key) -> u64> Built for Of<F> {
    fn bits(&self) -> f64 {
        self.bits
    }

    fn independent(&self, queries: &[Key]) -> u64 {
        independent(queries, &self.index)
    }

    fn chained(&self, queries: &[Key]) -> u64 {
        chained(queries, &self.index)
    }

    fn check(&self, keys: &[Key]) {
        let mut seen = vec![false; self.range];
        for key in keys {
            assert!(!std::mem::replace(&mut seen[(self.index)(key) as usize], true), "two keys have one number");
        }
    }
}

fn of(bytes: f64, keys: usize, range: usize, index: impl Fn(&Key) -> u64 + 'static) -> Box<dyn Built> {
    Box::new(Of { bits: bytes * 8.0 / keys as f64, range, index })
}

/// XXH3 for `ptr_hash`.
#[derive(Clone)]
struct Xxh3;

impl KeyHasher<Key> for Xxh3 {
    type H = u64;

    #[inline(always)]
    fn hash(key: &Key, seed: u64) -> u64 {
        data::hash(key, seed)
    }
}

/// XXH3 for `ph`, of one write.
#[derive(Clone, Copy)]
struct Once(u64);

impl BuildSeededHasher for Once {
    type Hasher = Self;

    #[inline(always)]
    fn build_hasher(&self, seed: u64) -> Self {
        Self(seed)
    }
}

impl Hasher for Once {
    #[inline(always)]
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxhash_rust::xxh3::xxh3_64_with_seed(bytes, self.0);
    }

    #[inline(always)]
    fn finish(&self) -> u64 {
        self.0
    }
}

type Phast = phast::Function<Bits8, SeedOnly, DefaultCompressedArray, Once>;
type PhastPlus = phast::Function2<Bits8, ShiftOnlyWrapped<2>, DefaultCompressedArray, Once>;

struct Candidate {
    name: &'static str,
    build: fn(&[Key]) -> Box<dyn Built>,
}

/// All builds are on one thread and hash the keys themselves.
const CANDIDATES: [Candidate; 7] = [
    Candidate {
        name: OURS,
        build: |keys| {
            let hashes: Vec<Hash> = keys.iter().map(|key| Hash::of(&key.0)).collect();
            let function = Mphf::build(&hashes, SEED).expect("the keys are different");
            let bytes = function.as_bytes().len() as f64;
            of(bytes, keys.len(), keys.len(), move |key| function.index(Hash::of(&key.0)).unwrap_or(u64::MAX))
        },
    },
    Candidate {
        name: RIVAL,
        build: |keys| {
            let function = DefaultPtrHash::<Xxh3, Key>::new(keys, PtrHashParams::default());
            let (pilots, remap) = function.bits_per_element();
            let bytes = (pilots + remap) * keys.len() as f64 / 8.0;
            of(bytes, keys.len(), keys.len(), move |key| function.index(key) as u64)
        },
    },
    Candidate {
        name: "ptr_hash Fast (not minimal)",
        build: |keys| {
            let function = FastPtrHash::<Xxh3, Key>::new(keys, PtrHashParams::default_fast());
            let bytes = function.bits_per_element().0 * keys.len() as f64 / 8.0;
            of(bytes, keys.len(), function.max_index(), move |key| function.index(key) as u64)
        },
    },
    Candidate {
        name: "ptr_hash Compact (remap u32)",
        build: |keys| {
            let function = CompactPtrHash::<Xxh3, Key>::new(keys, PtrHashParams::default_compact());
            let (pilots, remap) = function.bits_per_element();
            let bytes = (pilots + remap) * keys.len() as f64 / 8.0;
            of(bytes, keys.len(), keys.len(), move |key| function.index(key) as u64)
        },
    },
    Candidate {
        name: "ph PHast",
        build: |keys| {
            let params = phast::Params::new(Bits8, bits_per_seed_to_100_bucket_size(8));
            let function = Phast::with_slice_p_hash_sc(keys, &params, Once(0), SeedOnly);
            of(function.size_bytes_dyn() as f64, keys.len(), keys.len(), move |key| function.get(key) as u64)
        },
    },
    Candidate {
        name: "ph PHast+ (wrapped)",
        build: |keys| {
            let params = phast::Params::new(Bits8, bits_per_seed_to_100_bucket_size(8));
            let function = PhastPlus::with_slice_p_hash_sc(keys, &params, Once(0), ShiftOnlyWrapped);
            of(function.size_bytes_dyn() as f64, keys.len(), keys.len(), move |key| function.get(key) as u64)
        },
    },
    Candidate {
        name: "ph FMPH",
        build: |keys| {
            let how = fmph::BuildConf::hash_lsize_mt(Once(0), 100, false);
            let function = fmph::Function::from_slice_with_conf(keys, how);
            let bytes = function.size_bytes_dyn() as f64;
            of(bytes, keys.len(), keys.len(), move |key| function.get(key).unwrap_or(u64::MAX))
        },
    },
];

/// What was measured of one candidate.
#[derive(Clone, Copy, Debug)]
struct Row {
    bits: f64,
    build: f64,
    independent: f64,
    chained: f64,
}

/// Measures from ten thousand keys up to `max`.
pub fn run(max: usize) {
    let sizes: Vec<usize> = [10_000, 100_000, 1_000_000, 10_000_000].into_iter().filter(|size| *size <= max).collect();
    let all = data::keys(sizes.last().copied().unwrap_or(0));
    let measured: BTreeMap<usize, _> = sizes.iter().map(|size| (*size, measure(&all[..*size]))).collect();
    println!();
    for (size, rows) in &measured {
        if *size >= 100_000 {
            goal::at_most(&format!("bits for each of {size} keys"), rows[OURS].bits, 2.5);
        }
    }
    if let Some(rows) = measured.get(&1_000_000) {
        goal::at_most(&format!("build at 1000000 keys by {RIVAL}"), rows[OURS].build / rows[RIVAL].build, 0.5);
        let ratio = rows[OURS].chained / rows[RIVAL].chained;
        goal::at_most(&format!("chained lookup at 1000000 keys by {RIVAL}"), ratio, 1.5);
    }
}

fn measure(keys: &[Key]) -> BTreeMap<&'static str, Row> {
    let (builds, lookups) = match keys.len() {
        ..=10_000 => (21, 11),
        10_001..=100_000 => (11, 11),
        100_001..=1_000_000 => (5, 9),
        _ => (1, 5),
    };
    let mut build_times = vec![Vec::new(); CANDIDATES.len()];
    let mut built: Vec<Option<Box<dyn Built>>> = CANDIDATES.iter().map(|_| None).collect();
    for _ in 0..builds {
        for (at, candidate) in CANDIDATES.iter().enumerate() {
            let (function, time) = each(keys.len(), || (candidate.build)(keys));
            build_times[at].push(time);
            built[at] = Some(function);
        }
    }
    let built: Vec<Box<dyn Built>> = built.into_iter().flatten().collect();
    built.iter().for_each(|function| function.check(keys));

    let mut random = Random::new(!SEED ^ keys.len() as u64);
    let mut times = vec![(Vec::new(), Vec::new()); CANDIDATES.len()];
    let (mut hash_times, mut hash_chain) = (Vec::new(), Vec::new());
    for _ in 0..lookups {
        let queries: Vec<Key> = (0..QUERIES).map(|_| keys[random.below(keys.len())]).collect();
        let hash_only = |key: &Key| data::hash(key, 0);
        hash_times.push(each(QUERIES, || black_box(independent(&queries, hash_only))).1);
        hash_chain.push(each(QUERIES, || black_box(chained(&queries, hash_only))).1);
        for (function, times) in built.iter().zip(&mut times) {
            times.0.push(each(QUERIES, || black_box(function.independent(&queries))).1);
            times.1.push(each(QUERIES, || black_box(function.chained(&queries))).1);
        }
    }

    println!("\n{} keys of 16 bytes, one thread", keys.len());
    println!("{:<30} {:>9} {:>13} {:>9} {:>11}", "", "bits/key", "build ns/key", "loop ns", "chained ns");
    let (loops, chains) = (median(&hash_times), median(&hash_chain));
    println!("{:<30} {:>9} {:>13} {loops:>9.1} {chains:>11.1}", "XXH3-64 alone", "-", "-");
    let mut rows = BTreeMap::new();
    for (at, candidate) in CANDIDATES.iter().enumerate() {
        let row = Row {
            bits: built[at].bits(),
            build: median(&build_times[at]),
            independent: median(&times[at].0),
            chained: median(&times[at].1),
        };
        let Row { bits, build, independent, chained } = row;
        println!("{:<30} {bits:>9.2} {build:>13.1} {independent:>9.1} {chained:>11.1}", candidate.name);
        rows.insert(candidate.name, row);
    }
    rows
}
