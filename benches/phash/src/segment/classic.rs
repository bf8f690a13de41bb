//! The best classic read path that was found: a bloom filter of one cache line for each key, fences of the first eight
//! bytes of each page's first key, and a binary search in the page.

use super::{ABSENT, head_of, pages::Pages};
use crate::data::{self, Key};

const BITS_PER_KEY: usize = 10;
/// Bits of each key: six places of nine bits, all in one line.
const PROBES: u32 = 6;

pub struct Classic {
    bloom: Vec<Line>,
    fences: Vec<u64>,
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u64; 8]);

impl Classic {
    pub fn new(pages: &Pages, keys: &[Key]) -> Self {
        let mut bloom = vec![Line([0; 8]); (keys.len() * BITS_PER_KEY).div_ceil(512)];
        for key in keys {
            let hash = data::hash(key, 0);
            let line = line_of(hash, bloom.len());
            bits(hash).for_each(|(word, bit)| bloom[line].0[word] |= bit);
        }
        let fences = (0..pages.count()).map(|page| prefix(pages.page(page).entry(0).0)).collect();
        Self { bloom, fences }
    }

    pub fn bytes(&self) -> f64 {
        (self.bloom.len() * 64 + self.fences.len() * 8) as f64
    }

    #[inline(always)]
    pub fn may_hold(&self, key: &Key) -> bool {
        let hash = data::hash(key, 0);
        let line = &self.bloom[line_of(hash, self.bloom.len())].0;
        // Without a branch for each bit, which nobody could predict: all are in the line that was loaded for the first.
        bits(hash).fold(0, |missing, (word, bit)| missing | !line[word] & bit) == 0
    }

    #[inline(always)]
    pub fn get(&self, pages: &Pages, key: &Key) -> u64 {
        if !self.may_hold(key) {
            return ABSENT;
        }
        let wanted = prefix(&key.0);
        // Keys may begin alike: the first page that can hold the key is before the first that begins with its prefix.
        let mut page = lower_bound(&self.fences, wanted).saturating_sub(1);
        loop {
            match pages.page(page).find(&key.0) {
                Ok(value) => return head_of(value),
                Err(behind) if behind && self.fences.get(page + 1) == Some(&wanted) => page += 1,
                Err(_) => return ABSENT,
            }
        }
    }
}

#[inline(always)]
fn line_of(hash: u64, lines: usize) -> usize {
    ((u128::from(hash) * lines as u128) >> 64) as usize
}

/// The words and bits of a key in its line.
#[inline(always)]
fn bits(hash: u64) -> impl Iterator<Item = (usize, u64)> {
    // The line is chosen by the high bits; the product spreads the low ones.
    let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..PROBES).map(move |probe| {
        let at = mixed >> (64 - 9 * (probe + 1)) & 511;
        ((at >> 6) as usize, 1 << (at & 63))
    })
}

#[inline(always)]
fn prefix(key: &[u8]) -> u64 {
    key.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// How many of the sorted fences are below, without a branch that depends on what is compared.
#[inline(always)]
fn lower_bound(fences: &[u64], wanted: u64) -> usize {
    let (mut base, mut size) = (0, fences.len());
    while size > 1 {
        let half = size / 2;
        base = std::hint::select_unpredictable(fences[base + half - 1] < wanted, base + half, base);
        size -= half;
    }
    base + usize::from(size == 1 && fences[base] < wanted)
}
