//! Large values as chunks: each distinct chunk stored once, by content.
//!
//! ```text
//!  value ▸ cut ▸ id ▸ codec ▸ record ▸ pack
//!            └─ references ▸ tree ▸ nodes, stored like chunks
//!                                └▸ recipe ▸ the key's entry
//! ```
//!
//! Where cuts, nodes and ids are follows from the value and the policy alone; only `pack` touches files.
//! `docs/format/chunking.md` and `docs/format/packs.md` define them.

pub(crate) mod codec;
pub(crate) mod cut;
pub(crate) mod exchange;
pub(crate) mod id;
mod message;
pub(crate) mod pack;
pub(crate) mod recipe;
pub(crate) mod record;
pub(crate) mod tree;

#[cfg(test)]
mod vectors;

/// Returns pseudo-random bytes: the generator that the vectors describe.
#[cfg(test)]
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33).to_le_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}
