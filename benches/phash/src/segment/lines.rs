//! A plain hash table of entry places: lines of 64 bytes with ten entries each, nine tenths full, found with one probe.

use super::{
    ABSENT, head_of,
    pages::{PAGE, Pages},
};
use crate::data::{self, Key};

const ENTRIES: usize = 10;
const FULL: usize = 9;

pub struct Lines(Vec<Line>);

#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Line {
    /// Parts of the hashes; zero where nothing is.
    fingerprints: [u16; ENTRIES],
    /// How many lines further entries of this line may be.
    further: u32,
    /// Where the entries begin, in units of four bytes.
    places: [u32; ENTRIES],
}

impl Lines {
    pub fn new(pages: &Pages) -> Self {
        let entries = || (0..pages.count()).flat_map(|at| (0..pages.page(at).count()).map(move |index| (at, index)));
        let mut lines = vec![Line::default(); entries().count().div_ceil(FULL)];
        for (at, index) in entries() {
            let page = pages.page(at);
            let place = (at * PAGE + page.offset(index)) / 4;
            let Some(key) = page.entry(index).0.first_chunk() else { continue };
            let hash = data::hash(&Key(*key), 0);
            let home = line_of(hash, lines.len());
            let mut further = 0;
            loop {
                let line = (home + further) % lines.len();
                if let Some(free) = lines[line].fingerprints.iter().position(|fingerprint| *fingerprint == 0) {
                    lines[line].fingerprints[free] = fingerprint_of(hash);
                    lines[line].places[free] = place as u32;
                    break;
                }
                further += 1;
            }
            lines[home].further = lines[home].further.max(further as u32);
        }
        Self(lines)
    }

    pub fn bytes(&self) -> f64 {
        (self.0.len() * 64) as f64
    }

    #[inline(always)]
    pub fn get(&self, pages: &Pages, key: &Key) -> u64 {
        let hash = data::hash(key, 0);
        let (home, wanted) = (line_of(hash, self.0.len()), fingerprint_of(hash));
        for further in 0..=self.0[home].further as usize {
            let at = home + further;
            let line = &self.0[if at < self.0.len() { at } else { at - self.0.len() }];
            let mut alike =
                (0..ENTRIES).fold(0u32, |alike, index| alike | u32::from(line.fingerprints[index] == wanted) << index);
            while alike != 0 {
                let (there, value) = pages.entry(line.places[alike.trailing_zeros() as usize] as usize * 4);
                if there == key.0 {
                    return head_of(value);
                }
                alike &= alike - 1;
            }
        }
        ABSENT
    }
}

#[inline(always)]
fn line_of(hash: u64, lines: usize) -> usize {
    ((u128::from(hash) * lines as u128) >> 64) as usize
}

/// Sixteen low bits, which do not choose the line; never zero.
#[inline(always)]
fn fingerprint_of(hash: u64) -> u16 {
    (hash as u16).max(1)
}
