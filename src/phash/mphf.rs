//! The bare function from a key's hash to a number, as one flat byte string.
//!
//! ```text
//!  "PMPH" u32 · format u32 · seed u64 · partitions u64 │ directory │ partitions: pilots, remap │ crc u32
//! ```
//!
//! The format is specified in `docs/format/phash.md` and pinned by the bytes in `tests/golden/`.

use super::{
    build::{Builder, Failure, Partitioned},
    hash::{Hash, Seed},
    partition::{Directory, LINE_LEN, Line, encode_partition, partition_count},
};
use crate::{
    base::{Corruption, Error, Result},
    format::{Reader, Writer, crc},
};

const MAGIC: u32 = u32::from_le_bytes(*b"PMPH");
const FORMAT: u32 = 1;
const HEADER_LEN: usize = 24;

/// A minimal perfect hash function: it maps each of n keys to a different number below n.
///
/// It stores no keys: a key that it was not built over gets some number too, or none. To know whether a key is present,
/// store a fingerprint or the key beside the number. The function takes about 2.5 bits per key from a few thousand keys
/// on; over fewer than a hundred it costs more than a sorted list.
///
/// Keys are distributed by their hash over partitions of some 4096; in each, buckets of 3.5 keys have a pilot of eight
/// bits (see the source of `phash/build.rs` for the algorithm and its origins). The bytes need no alignment and no
/// decoding.
///
/// ```
/// use chronolith::phash::{Hash, Mphf};
/// let hashes: Vec<Hash> = ["ann", "bob", "eve"].iter().map(|key| Hash::of(key.as_bytes())).collect();
/// let function = Mphf::build(&hashes, 0)?;
/// let mut numbers: Vec<u64> = hashes.iter().map(|hash| function.index(*hash).unwrap()).collect();
/// numbers.sort();
/// assert_eq!(numbers, [0, 1, 2]);
/// # Ok::<_, chronolith::Error>(())
/// ```
#[derive(Clone)]
pub struct Mphf<B = Vec<u8>> {
    bytes: B,
    seed: Seed,
    partitions_at: usize,
}

impl Mphf {
    /// Builds the function over `hashes`, each given once. The same hashes, in any order, and the same seed give the
    /// same bytes.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) if two hashes are equal, or alike under this seed, or if they are not hashes:
    /// numbers that are not random do not spread over partitions. Another seed helps in the second case only.
    pub fn build(hashes: &[Hash], seed: u64) -> Result<Self> {
        let mixed = Seed::new(seed);
        let partitions = partition_count(hashes.len() as u64);
        let routed = hashes.iter().map(|hash| (hash.seeded(mixed), ()));
        let Partitioned { members: keys, ends } = Partitioned::of(routed, partitions);
        let mut builder = Builder::default();
        let (mut directory, mut body) = (Writer::default(), Writer::default());
        let mut first = 0;
        for end in ends {
            let members = keys.get(first..end).unwrap_or_default();
            let built = builder.build(members).map_err(|failure| refused(failure, seed))?;
            Line::of(&built, first as u64, body.len() as u64, 0).encode(&mut directory);
            encode_partition(&mut body, &built);
            first = end;
        }
        Line::closing(first as u64, body.len() as u64).encode(&mut directory);

        let mut out = Writer::default();
        out.u32(MAGIC);
        out.u32(FORMAT);
        out.u64(seed);
        out.u64(partitions);
        out.raw(directory.bytes());
        out.raw(body.bytes());
        out.u32(crc(&[out.bytes()]));
        Ok(Self { bytes: out.into_bytes(), seed: mixed, partitions_at: HEADER_LEN + directory.len() })
    }
}

impl<B: AsRef<[u8]>> std::fmt::Debug for Mphf<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mphf({} keys)", self.len())
    }
}

impl<B: AsRef<[u8]>> Mphf<B> {
    /// Opens the function in bytes that [`as_bytes`](Mphf::as_bytes) returned. Everything is checked once.
    ///
    /// # Errors
    /// [`Corruption`] names what is wrong with the bytes, and where.
    pub fn open(bytes: B) -> Result<Self, Corruption> {
        let all = bytes.as_ref();
        let body = all.len().checked_sub(4).and_then(|end| all.get(..end));
        let body = body.ok_or(Corruption { offset: 0, what: "a function" })?;
        let mut reader = Reader::new(all);
        reader.expect_u32(MAGIC, "the magic of a function")?;
        reader.expect_u32(FORMAT, "a format that this release knows")?;
        let seed = Seed::new(reader.u64("seed")?);
        let lines = reader.length_u64("partitions")?.checked_add(1).and_then(|lines| lines.checked_mul(LINE_LEN));
        let directory = reader.take(lines.ok_or_else(|| reader.corrupt("partitions"))?, "directory")?;
        let partitions_at = reader.position();
        Reader::starting_at(all, body.len()).expect_u32(crc(&[body]), "checksum of the function")?;
        let limit = body.len().saturating_sub(partitions_at) as u64;
        Directory::check(directory, limit, |_, _| 0).map_err(|bad| bad.behind(HEADER_LEN))?;
        Ok(Self { bytes, seed, partitions_at })
    }

    /// Returns the number of a key, by its hash; for a key that the function was not built over, `None` or the number
    /// of some other key.
    #[inline]
    pub fn index(&self, hash: Hash) -> Option<u64> {
        let bytes = self.bytes.as_ref();
        let directory = Directory::new(bytes.get(HEADER_LEN..self.partitions_at)?);
        let slot = directory.slot(bytes.get(self.partitions_at..)?, hash.seeded(self.seed))?;
        Some(slot.first + slot.index)
    }

    /// Returns the number of keys that it was built over.
    pub fn len(&self) -> u64 {
        Directory::new(self.bytes.as_ref().get(HEADER_LEN..self.partitions_at).unwrap_or_default()).keys()
    }

    /// Returns whether it was built over no keys.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the function as bytes, to store.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

fn refused(failure: Failure, seed: u64) -> Error {
    match failure {
        Failure::Alike(..) => Error::invalid(format!(
            "two of the hashes are the same, or alike under seed {seed}; give each key once, or try another seed"
        )),
        Failure::GaveUp => Error::invalid("no perfect hash function was found; the hashes given are not random"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(count: u64) -> Vec<Hash> {
        (0..count).map(|i| Hash::of(&i.to_le_bytes())).collect()
    }

    #[test]
    fn every_key_has_a_number_of_its_own() {
        for count in [0, 1, 2, 3, 63, 64, 65, 100, 4095, 4096, 4097, 30_000] {
            let hashes = hashes(count);
            let function = Mphf::build(&hashes, count).unwrap();
            assert_eq!(function.len(), count);
            let mut seen = vec![false; hashes.len()];
            for hash in &hashes {
                let index = usize::try_from(function.index(*hash).unwrap()).unwrap();
                assert!(!std::mem::replace(&mut seen[index], true), "{count}: {index} twice");
            }
            let reopened = Mphf::open(function.as_bytes()).unwrap();
            assert!(hashes.iter().all(|hash| reopened.index(*hash) == function.index(*hash)));
            if count > 4000 {
                let bits = function.as_bytes().len() as u64 * 8 * 100 / count;
                assert!(bits <= 270, "{bits} hundredths of a bit for each of {count} keys");
            }
        }
    }

    #[test]
    fn sets_of_every_small_size_have_a_function() {
        // Of sets of some fifty keys one in a thousand once had none: a first bucket held too many of the keys.
        for round in 0..200 {
            for count in 1..300u64 {
                let hashes: Vec<Hash> =
                    (0..count).map(|i| Hash::of(&[round, count, i].map(u64::to_le_bytes).concat())).collect();
                let function = Mphf::build(&hashes, 0).unwrap_or_else(|error| panic!("{count} keys, {round}: {error}"));
                let mut seen = hashes.iter().map(|hash| function.index(*hash).unwrap()).collect::<Vec<_>>();
                seen.sort_unstable();
                assert!(seen.into_iter().eq(0..count), "{count} keys, {round}");
            }
        }
    }

    #[test]
    fn the_order_of_the_keys_does_not_matter_and_the_seed_does() {
        let mut keys = hashes(9000);
        let one = Mphf::build(&keys, 5).unwrap();
        keys.reverse();
        assert_eq!(Mphf::build(&keys, 5).unwrap().as_bytes(), one.as_bytes());
        assert_ne!(Mphf::build(&keys, 6).unwrap().as_bytes(), one.as_bytes());
    }

    #[test]
    fn the_same_key_twice_and_numbers_that_are_no_hashes_are_refused() {
        let mut keys = hashes(5000);
        keys.push(keys[77]);
        assert!(matches!(Mphf::build(&keys, 0), Err(Error::Invalid { .. })));
        // All routed to one partition of many: it can never hold them.
        let crowded: Vec<Hash> = (0..200_000u128).map(|i| Hash::from(i << 70)).collect();
        let _either_way_it_ends = Mphf::build(&crowded, 0).is_ok();
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_found() {
        let good = Mphf::build(&hashes(100), 1).unwrap().as_bytes().to_vec();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Mphf::open(&bad).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(Mphf::open(&good[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn bytes_that_pass_the_checksum_never_lead_outside() {
        let keys = hashes(9000);
        let good = Mphf::build(&keys, 1).unwrap().as_bytes().to_vec();
        let mut accepted = 0;
        for at in (0..HEADER_LEN + 4 * LINE_LEN).chain((0..good.len() - 4).step_by(97)) {
            for flip in [1, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] ^= flip;
                let end = bad.len() - 4;
                let sum = crc(&[&bad[..end]]);
                bad[end..].copy_from_slice(&sum.to_le_bytes());
                if let Ok(function) = Mphf::open(&bad) {
                    accepted += 1;
                    assert!(keys.iter().all(|key| function.index(*key).is_none_or(|index| index < function.len())));
                }
            }
        }
        assert!(accepted > 50, "{accepted}");
    }
}
