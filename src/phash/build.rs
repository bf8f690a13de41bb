//! Building one partition: a pilot for each bucket so that no two keys share a position.
//!
//! Buckets are placed from the largest to the smallest. For each, the four turns (rotations) of its keys' places are
//! tried; the 64 shifts of one are tested at once, with one word of the bitmap of positions for each key. A bucket that
//! fits nowhere takes the place with the lowest cost (the sum of the squared sizes of the buckets that it evicts), and
//! the evicted ones are placed again. Eviction is an idea of `PtrHash` (Groot Koerkamp, SEA 2025), shifting a bucket as
//! a whole one of `PHast` (Beling and Sanders, ALENEX 2026).

#![expect(
    clippy::indexing_slicing,
    reason = "every index is computed here from what is placed; no byte of a file is read"
)]

use super::{
    hash::Seeded,
    partition::{POSITIONS_MIN, Partition, base_position, bucket, mixed},
};

/// Keys per bucket: with more, building takes ever longer (at 4.2 it never ended).
const BUCKET_KEYS: f64 = 3.55;
/// Keys per bucket at later tries, for partitions that failed with more. A partition of some dozens fails if too many
/// of its keys are in its first bucket: then there must be more buckets, and more positions.
const BUCKET_KEYS_EASY: f64 = 2.0;
const BUCKET_KEYS_EASIEST: f64 = 1.0;

/// Keys per position.
const LOAD: f64 = 0.99;
/// Room added for each further try: a share of the keys, and some positions for the smallest partitions.
const MORE_ROOM: f64 = 0.02;
const MORE_POSITIONS: f64 = 64.0;

/// Tries of one partition, each with its own seed.
const TRIES: u16 = 12;
/// Tries from which on buckets are smaller.
const EASY_TRY: u16 = 2;
const EASIEST_TRY: u16 = 4;

/// A try is abandoned after one eviction per this many buckets. Usual partitions need a fifth of that; those that need
/// more run in circles.
const BUCKETS_PER_EVICTION: usize = 3;

/// Buckets placed by force last, which are not evicted again soon: this ends cycles of several buckets.
const RECENT: usize = 16;
const RECENT_WEIGHT: u32 = 1 << 10;

/// Maximum number of keys in a bucket. No bucket of honest hashes has as many: the first ones have 28 on average.
/// Crafted ones would take long before they fail.
const BUCKET_MAX: usize = 255;

/// Maximum number of keys in one partition.
pub(super) const KEYS_MAX: usize = 50_000;

/// Reason why no function was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Two of the keys, by their numbers, have the same hash under this seed.
    Alike(usize, usize),
    /// Every try failed: the hashes are not random, or there are too many for one partition.
    GaveUp,
}

/// A key on its way into a partition, with the data that its user keeps for it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HashedKey<T> {
    /// Rest of its route below the number of the partition.
    rest: u64,
    hash: Seeded,
    pub(crate) of: T,
}

impl<T> HashedKey<T> {
    pub(crate) fn new(rest: u64, hash: Seeded, of: T) -> Self {
        Self { rest, hash, of }
    }

    pub(crate) fn hash(&self) -> Seeded {
        self.hash
    }
}

/// Keys by partition.
#[derive(Debug)]
pub(crate) struct Partitioned<T> {
    pub(crate) members: Vec<HashedKey<T>>,
    /// End of each partition in `members`.
    pub(crate) ends: Vec<usize>,
}

impl<T: Copy + Default> Partitioned<T> {
    /// Distributes keys over `partitions` partitions, by counting.
    pub(crate) fn of(keys: impl ExactSizeIterator<Item = (Seeded, T)> + Clone, partitions: u64) -> Self {
        let count = usize::try_from(partitions).unwrap_or(usize::MAX);
        let mut ends = vec![0; count.saturating_add(1)];
        let number = |partition: u64| usize::try_from(partition).unwrap_or(0);
        for (hash, _) in keys.clone() {
            ends[number(hash.partition(partitions).0) + 1] += 1;
        }
        for index in 1..ends.len() {
            ends[index] += ends[index - 1];
        }
        let mut members = vec![HashedKey::default(); keys.len()];
        for (hash, of) in keys {
            let (partition, rest) = hash.partition(partitions);
            let next = &mut ends[number(partition)];
            members[*next] = HashedKey { rest, hash, of };
            *next += 1;
        }
        ends.pop();
        Self { members, ends }
    }
}

/// Working memory of a builder, kept from one partition to the next.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    /// Keys by bucket: their places, mixed with the seed of the try, and the numbers under which they were given.
    places: Vec<u64>,
    numbers: Vec<u32>,
    /// Bucket of each key, in the order in which the keys were given.
    buckets: Vec<u16>,
    /// Start of each bucket in the first two.
    starts: Vec<u32>,
    order: Vec<u16>,
    /// Bit for each position that is taken; the first 64 are repeated after the last.
    taken: Vec<u64>,
    /// Bucket at each position; without one, the number after the last bucket.
    owners: Vec<u16>,
    no_owner: u16,
    /// Cost of evicting the bucket at each position, 0 without one; the first 64 are repeated after the last.
    costs: Vec<u32>,
    /// Cost of evicting each bucket.
    weights: Vec<u32>,
    positions: u64,
    seed: u16,
    pilots: Vec<u8>,
    stack: Vec<u16>,
    /// Positions of one bucket before the shift.
    bases: Vec<u32>,
    /// Buckets that were placed by force last.
    recent: [u16; RECENT],
}

impl Builder {
    /// Builds over the keys of one partition, in any order.
    pub(crate) fn build<T>(&mut self, keys: &[HashedKey<T>]) -> Result<Partition, Failure> {
        if keys.len() > KEYS_MAX {
            return Err(Failure::GaveUp);
        }
        for seed in 0..TRIES {
            let per_bucket = match seed {
                0..EASY_TRY => BUCKET_KEYS,
                EASY_TRY..EASIEST_TRY => BUCKET_KEYS_EASY,
                _ => BUCKET_KEYS_EASIEST,
            };
            let buckets = (float(keys.len()) / per_bucket).ceil().max(1.0);
            let room =
                float(keys.len()) * (1.0 / LOAD + MORE_ROOM * f64::from(seed)) + MORE_POSITIONS * f64::from(seed);
            self.seed = seed;
            if self.sort(keys, whole(buckets)) > BUCKET_MAX {
                return Err(Failure::GaveUp);
            }
            self.positions = (whole(room.ceil()) as u64).max(POSITIONS_MIN);
            if self.place_all()? {
                return Ok(self.finish(keys.len()));
            }
        }
        Err(Failure::GaveUp)
    }

    /// Sorts the keys by bucket, and the buckets by size; returns the largest size. Within a bucket keys keep their
    /// order, on which nothing depends.
    fn sort<T>(&mut self, keys: &[HashedKey<T>], buckets: usize) -> usize {
        self.starts.clear();
        self.starts.resize(buckets + 2, 0);
        self.buckets.clear();
        for key in keys {
            let bucket = bucket(key.rest, buckets as u64);
            self.buckets.push(u16::try_from(bucket).unwrap_or(0));
        }
        for &bucket in &self.buckets {
            self.starts[usize::from(bucket) + 2] += 1;
        }
        for index in 2..self.starts.len() {
            self.starts[index] += self.starts[index - 1];
        }
        self.places.resize(keys.len(), 0);
        self.numbers.resize(keys.len(), 0);
        for ((number, key), &bucket) in (0u32..).zip(keys).zip(&self.buckets) {
            let next = &mut self.starts[usize::from(bucket) + 1];
            self.places[*next as usize] = mixed(key.hash.place, self.seed);
            self.numbers[*next as usize] = number;
            *next += 1;
        }
        self.starts.truncate(buckets + 1);
        // By counting, largest first; buckets of one size keep their order.
        let len = |index: usize| (self.starts[index + 1] - self.starts[index]) as usize;
        let longest = (0..buckets).map(len).max().unwrap_or(0);
        let mut ends = vec![0usize; longest + 2];
        for index in 0..buckets {
            ends[longest - len(index) + 1] += 1;
        }
        for index in 1..ends.len() {
            ends[index] += ends[index - 1];
        }
        self.order.clear();
        self.order.resize(buckets, 0);
        for index in 0..buckets {
            let end = &mut ends[longest - len(index)];
            self.order[*end] = id(index);
            *end += 1;
        }
        self.bases.clear();
        self.bases.resize(longest, 0);
        longest
    }

    #[inline]
    fn span(&self, bucket: u16) -> std::ops::Range<usize> {
        self.starts[usize::from(bucket)] as usize..self.starts[usize::from(bucket) + 1] as usize
    }

    /// Places every bucket; `false` if that took too many evictions.
    fn place_all(&mut self) -> Result<bool, Failure> {
        let positions = usize::try_from(self.positions).unwrap_or(usize::MAX);
        self.taken.clear();
        self.taken.resize((positions + 64).div_ceil(64) + 1, 0);
        self.costs.clear();
        self.costs.resize(positions + 64, 0);
        let buckets = self.order.len();
        self.no_owner = id(buckets);
        self.owners.clear();
        self.owners.resize(positions, self.no_owner);
        self.weights.clear();
        self.weights.extend(self.starts.windows(2).map(|ends| (ends[1] - ends[0]).pow(2)));
        self.pilots.clear();
        self.pilots.resize(buckets, 0);
        let mut budget = buckets / BUCKETS_PER_EVICTION + 64;
        self.recent = [self.no_owner; RECENT];
        for next in 0..buckets {
            let bucket = self.order[next];
            if self.span(bucket).is_empty() {
                break;
            }
            if self.place_free(bucket) {
                continue;
            }
            self.stack.push(bucket);
            while let Some(bucket) = self.stack.pop() {
                if self.place_free(bucket) {
                    continue;
                }
                if budget == 0 {
                    self.stack.clear();
                    return Ok(false);
                }
                if !self.place_by_force(bucket, budget) {
                    self.stack.clear();
                    return self.tell_apart(bucket);
                }
                budget -= 1;
            }
        }
        Ok(true)
    }

    /// Fails if two keys of a bucket are alike: those have the same position under every turn.
    fn tell_apart(&self, bucket: u16) -> Result<bool, Failure> {
        let span = self.span(bucket);
        for one in span.clone() {
            for other in one + 1..span.end {
                if self.places[one] == self.places[other] {
                    let (a, b) = (self.numbers[one] as usize, self.numbers[other] as usize);
                    return Err(Failure::Alike(a.min(b), a.max(b)));
                }
            }
        }
        Ok(false)
    }

    /// Places a bucket where all positions are free.
    fn place_free(&mut self, bucket: u16) -> bool {
        let span = self.span(bucket);
        let len = span.len();
        'turns: for turn in 0..4 {
            let mut blocked = 0;
            for (&place, base) in self.places[span.clone()].iter().zip(&mut self.bases) {
                let at = base_position(place, turn, self.positions);
                *base = narrow(at);
                blocked |= taken_from(&self.taken, at);
                if blocked == u64::MAX {
                    continue 'turns;
                }
            }
            if self.put(bucket, turn, blocked.trailing_ones(), len) {
                return true;
            }
        }
        false
    }

    /// Places a bucket where it evicts the least; `false` if two of its keys always have the same position.
    #[cold]
    fn place_by_force(&mut self, bucket: u16, budget: usize) -> bool {
        let len = self.span(bucket).len();
        let mut best: Option<(u32, u32, u32)> = None;
        // The search begins elsewhere after each eviction, so that places of equal cost alternate.
        let begin = budget.wrapping_mul(29) % 64;
        for turn in 0..4 {
            if !self.fill_bases(bucket, turn) {
                continue;
            }
            let mut sums = [0u32; 64];
            for &base in &self.bases[..len] {
                let window = &self.costs[base as usize..base as usize + 64];
                sums.iter_mut().zip(window).for_each(|(sum, cost)| *sum += cost);
            }
            let least = sums.iter().copied().min().unwrap_or(0);
            if best.is_none_or(|(before, ..)| least < before) {
                let shift = (begin..begin + 64).find(|step| sums[step % 64] == least).unwrap_or(0) % 64;
                best = Some((least, turn, u32::try_from(shift).unwrap_or(0)));
            }
        }
        let Some((_, turn, shift)) = best else { return false };
        self.fill_bases(bucket, turn);
        let evicted = self.stack.len();
        for index in 0..len {
            let owner = self.owners[self.at(u64::from(self.bases[index]), u64::from(shift))];
            if owner != self.no_owner {
                self.take_out(owner);
                self.stack.push(owner);
            }
        }
        // Independent of the order of the keys; and the largest is placed first.
        let starts = &self.starts;
        self.stack[evicted..]
            .sort_unstable_by_key(|&bucket| (starts[usize::from(bucket) + 1] - starts[usize::from(bucket)], bucket));
        // Buckets that want the same place must not evict each other for ever.
        self.weights[usize::from(bucket)] += RECENT_WEIGHT;
        self.put(bucket, turn, shift, len);
        let before = std::mem::replace(&mut self.recent[budget % RECENT], bucket);
        if before != self.no_owner {
            self.weights[usize::from(before)] -= RECENT_WEIGHT;
            self.weigh(before);
        }
        true
    }

    /// Computes the positions of a bucket's keys without a shift; `false` if two are the same.
    fn fill_bases(&mut self, bucket: u16, turn: u32) -> bool {
        let span = self.span(bucket);
        let len = span.len();
        for (&place, base) in self.places[span].iter().zip(&mut self.bases) {
            *base = narrow(base_position(place, turn, self.positions));
        }
        let bases = &self.bases[..len];
        bases.iter().enumerate().all(|(index, base)| !bases[index + 1..].contains(base))
    }

    #[inline]
    fn at(&self, base: u64, shift: u64) -> usize {
        let position = base + shift;
        let position = if position >= self.positions { position - self.positions } else { position };
        usize::try_from(position).unwrap_or(0)
    }

    /// Puts a bucket at the first `len` of `bases`, which are free; `false`, with nothing changed, if two of them are
    /// the same.
    #[inline]
    fn put(&mut self, bucket: u16, turn: u32, shift: u32, len: usize) -> bool {
        let weight = self.weights[usize::from(bucket)];
        for index in 0..len {
            let at = self.at(u64::from(self.bases[index]), u64::from(shift));
            if self.owners[at] != self.no_owner {
                for index in 0..index {
                    let at = self.at(u64::from(self.bases[index]), u64::from(shift));
                    self.set(at, self.no_owner, 0);
                }
                return false;
            }
            self.set(at, bucket, weight);
        }
        self.pilots[usize::from(bucket)] = u8::try_from(turn << 6 | shift).unwrap_or(0);
        true
    }

    fn take_out(&mut self, bucket: u16) {
        let pilot = self.pilots[usize::from(bucket)];
        for index in self.span(bucket) {
            let base = base_position(self.places[index], u32::from(pilot >> 6), self.positions);
            self.set(self.at(base, u64::from(pilot & 63)), self.no_owner, 0);
        }
    }

    /// Updates the weight of a bucket at its positions, if it has any.
    fn weigh(&mut self, bucket: u16) {
        let (pilot, weight) = (self.pilots[usize::from(bucket)], self.weights[usize::from(bucket)]);
        for index in self.span(bucket) {
            let base = base_position(self.places[index], u32::from(pilot >> 6), self.positions);
            let at = self.at(base, u64::from(pilot & 63));
            if self.owners[at] == bucket {
                self.costs[at] = weight;
                if at < 64 {
                    self.costs[at + self.owners.len()] = weight;
                }
            }
        }
    }

    /// Changes the owner of a position, and of its twin past the end.
    #[inline]
    fn set(&mut self, at: usize, owner: u16, cost: u32) {
        self.owners[at] = owner;
        self.costs[at] = cost;
        self.taken[at / 64] ^= 1 << (at % 64);
        if at < 64 {
            let twin = at + self.owners.len();
            self.costs[twin] = cost;
            self.taken[twin / 64] ^= 1 << (twin % 64);
        }
    }

    /// Gives each key its slot; keys past the last slot get free ones.
    fn finish(&mut self, keys: usize) -> Partition {
        let mut free = (0..keys).filter(|at| self.owners[*at] == self.no_owner);
        let remap: Vec<u16> = (keys..self.owners.len())
            .map(|at| if self.owners[at] == self.no_owner { 0 } else { free.next().map_or(0, id) })
            .collect();
        let mut slots = vec![0; keys];
        for (bucket, pilot) in (0u16..).zip(&self.pilots) {
            for index in self.span(bucket) {
                let base = base_position(self.places[index], u32::from(pilot >> 6), self.positions);
                let at = self.at(base, u64::from(pilot & 63));
                slots[self.numbers[index] as usize] = if at < keys { id(at) } else { remap[at - keys] };
            }
        }
        Partition { seed: self.seed, pilots: self.pilots.clone(), positions: id(self.owners.len()), remap, slots }
    }
}

/// Returns the 64 positions from `base` on, with a bit set for each that is taken.
#[inline]
fn taken_from(taken: &[u64], base: u64) -> u64 {
    let (word, bit) = (usize::try_from(base / 64).unwrap_or(0), base % 64);
    let low = taken[word] >> bit;
    // Shifted in two steps: a shift by 64 would not shift at all.
    low | taken[word + 1] << 1 << (63 - bit)
}

/// Narrows a position of one partition.
#[inline]
fn narrow(position: u64) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}

fn id(index: usize) -> u16 {
    u16::try_from(index).unwrap_or(u16::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "some ten thousands")]
fn float(count: usize) -> f64 {
    count as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some ten thousands, above zero")]
fn whole(count: f64) -> usize {
    count as usize
}
