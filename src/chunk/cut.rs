//! Where a value is cut: rules of `docs/format/chunking.md`.
//!
//! ```text
//!  value   ├──────────────┬────────────┬───────────────┬──────┤
//!           chunk          chunk        chunk           the rest
//!          └─min─┴──max──┘
//!                  ▲ the four bytes before have the smallest score of all places between min and max
//! ```
//!
//! Content-defined cuts are the hashed minimum of Orson Peters' `MinCDC` (2025). His crate finds the minimum; what it
//! must find is defined by the format, and a slow twin and golden vectors hold it to that.

use std::fmt::{self, Debug, Display, Formatter};

use mincdc::{Cdc as _, MinCdcHash4};

use crate::base::{Corruption, Error, Result};

/// Maximum length of a chunk, in bytes.
pub(crate) const CHUNK_LEN_MAX: usize = 1 << 20;

/// The score of a place, by the four bytes before it.
const SCORE: MinCdcHash4 = MinCdcHash4::with_params(0x915f_77f5, 0x3463_6463);

/// Returns the place in a window of more than four bytes whose score is smallest, the first of several.
fn place(window: &[u8]) -> usize {
    if has_vectors() { SCORE.best_splitpoint(window) } else { place_by_bytes(window) }
}

/// Returns whether this processor has what the crate needs: without SSE 4.1 its version 0.1.0 panics when the smallest
/// score is one of the last three.
#[cfg(target_arch = "x86_64")]
fn has_vectors() -> bool {
    std::arch::is_x86_feature_detected!("sse4.1")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_vectors() -> bool {
    true
}

/// Does what [`place`] does, one place after the other.
fn place_by_bytes(window: &[u8]) -> usize {
    let score = |bytes: &[u8]| {
        let x = bytes.iter().rev().fold(0u32, |x, byte| x << 8 | u32::from(*byte));
        0x915f_77f5_u32.wrapping_mul(x).wrapping_add(0x3463_6463)
    };
    4 + window.windows(4).enumerate().min_by_key(|(_, bytes)| score(bytes)).map_or(0, |(at, _)| at)
}

/// Where bytes are cut, as a recipe tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CutPolicy {
    by_content: bool,
    size: u64,
}

impl CutPolicy {
    /// The default: content-defined, 16 KiB on average.
    pub(crate) const AUTOMATIC: Self = Self::content_defined(16 << 10);

    /// One chunk for values up to 1 MiB.
    pub(crate) const WHOLE: Self = Self::fixed(1 << 20);

    pub(crate) const fn fixed(bytes: u64) -> Self {
        Self { by_content: false, size: bytes }
    }

    pub(crate) const fn content_defined(average: u64) -> Self {
        Self { by_content: true, size: average }
    }

    /// Returns its number on disk and its size.
    pub(crate) fn numbers(self) -> (u8, u64) {
        (if self.by_content { 2 } else { 1 }, self.size)
    }

    /// Returns the policy of a number and a size on disk.
    pub(crate) fn from_numbers(number: u64, size: u64) -> Result<Self, Corruption> {
        let policy = match number {
            1 => Some(Self::fixed(size)),
            2 => Some(Self::content_defined(size)),
            _ => None,
        };
        let bad = Corruption { offset: 0, what: "a chunking that this release knows" };
        policy.filter(|policy| policy.is_valid()).ok_or(bad)
    }

    /// Fails if its size is out of bounds.
    fn check(self) -> Result<()> {
        if self.is_valid() {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "{self} is out of bounds; fixed chunks have 512 to 1048576 bytes, content-defined ones 1024 to 524288 on average"
        )))
    }

    /// Returns whether its size is within bounds: no chunk may be longer than 1 MiB.
    pub(crate) fn is_valid(self) -> bool {
        if self.by_content { (1 << 10..=1 << 19).contains(&self.size) } else { (512..=1 << 20).contains(&self.size) }
    }

    /// Returns the size, which is valid.
    fn size(self) -> usize {
        assert!(self.is_valid(), "{self} is used");
        usize::try_from(self.size).unwrap_or_default()
    }

    /// Returns the maximum length of a chunk: with so many bytes the next cut is certain.
    pub(crate) fn longest(self) -> usize {
        let size = self.size();
        if self.by_content { size + size / 2 } else { size }
    }

    /// Returns the length of the chunk at the start of `bytes`, which are not empty; `None` if more bytes could change
    /// it. `last` says that none follow.
    pub(crate) fn cut(self, bytes: &[u8], last: bool) -> Option<usize> {
        if !last && bytes.len() < self.longest() {
            return None;
        }
        let size = self.size();
        if !self.by_content {
            return Some(bytes.len().min(size));
        }
        // Places from the minimum on have their four bytes before them.
        let from = size / 2 - 4;
        let window = bytes.get(from..bytes.len().min(self.longest())).filter(|window| window.len() > 4);
        Some(window.map_or(bytes.len(), |window| from + place(window)))
    }
}

impl Display for CutPolicy {
    /// Prints the constructor with its bytes.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", if self.by_content { "content_defined" } else { "fixed" }, self.size)
    }
}

/// How the large values of a keyspace are cut into chunks: see
/// [`KeyspaceOptions::chunking`](crate::KeyspaceOptions::chunking). Equal bytes are cut at equal places, whatever was
/// written before and however the bytes were handed over.
///
/// ```
/// use chronolith::Chunking;
/// assert_eq!(Chunking::automatic(), Chunking::content_defined(16 << 10));
/// assert_eq!(Chunking::fixed(4096).to_string(), "fixed(4096)");
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Chunking {
    policy: CutPolicy,
    trial: Option<Trial>,
}

/// Another policy for a share of the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Trial {
    policy: CutPolicy,
    /// Share in millionths; or why there can be no such trial.
    share: Result<u32, &'static str>,
}

/// One side of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arm {
    Control,
    Trial,
}

const MILLION: u32 = 1_000_000;

impl Chunking {
    /// Returns the default, which is [`content_defined`](Chunking::content_defined) with 16 KiB.
    #[must_use]
    pub const fn automatic() -> Self {
        Self::of(CutPolicy::AUTOMATIC)
    }

    /// Cuts after every so many bytes: 512 to 1,048,576. For values made of pages or blocks that are changed in place,
    /// such as disk images and database files. An insertion shifts all later blocks, so that none of them deduplicates.
    #[must_use]
    pub const fn fixed(bytes: u64) -> Self {
        Self::of(CutPolicy::fixed(bytes))
    }

    /// Cuts where the content says, on average after so many bytes: 1,024 to 524,288. No chunk but the last is shorter
    /// than half of that, none longer than one and a half times. Boundaries are back in place soon behind an insertion,
    /// so that later chunks deduplicate.
    ///
    /// The minimum-based chunking of Orson Peters (`MinCDC`, 2025).
    #[must_use]
    pub const fn content_defined(average: u64) -> Self {
        Self::of(CutPolicy::content_defined(average))
    }

    /// Keeps a value of up to 1 MiB as one chunk, and cuts a longer one every MiB: for values that are
    /// either equal or share nothing.
    #[must_use]
    pub const fn whole() -> Self {
        Self::of(CutPolicy::WHOLE)
    }

    /// Tries another chunking on a share of the keys, to compare the two on the data at hand:
    /// [`Stats::trials`](crate::Stats::trials) tells what each has saved and cost. The share is more than 0 and less
    /// than 1. It is drawn by the hash of the key, so that all values of a key are cut in one way and share chunks;
    /// chunks that two keys have in common are found only if both keys fall on the same side. Give it some hundred keys
    /// of one kind.
    ///
    /// What was stored before the trial counts as known: older values favour the chunking that they have, and so do
    /// other keyspaces of the dedup scope. Begin with an empty keyspace in a scope of its own where that matters.
    ///
    /// A trial ends with the next chunking without one. [`rechunk`](crate::Db::rechunk) then brings the values of both
    /// sides together.
    ///
    /// ```
    /// # use chronolith::{env::Memory, Chunking, KeyspaceOptions, Options};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// let chunking = Chunking::automatic().trial(Chunking::fixed(64 << 10), 0.1);
    /// let files = db.keyspace("files", KeyspaceOptions::new().chunking(chunking))?;
    /// for key in 0..100 {
    ///     files.put(format!("{key}"), [key; 100_000])?;
    /// }
    /// let stats = db.stats();
    /// let [trial] = &stats.trials[..] else { panic!("one keyspace") };
    /// assert_eq!(trial.control.values + trial.trial.values, 100);
    /// println!("{} against {}", trial.control.stored_ratio(), trial.trial.stored_ratio());
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    #[must_use]
    pub fn trial(self, chunking: Self, share: f64) -> Self {
        let share = if self.trial.is_some() || chunking.trial.is_some() {
            Err("a trial compares two chunkings, neither of which is a trial itself")
        } else {
            millionths(share).ok_or("a trial takes a share of the keys that is more than 0 and less than 1")
        };
        Self { policy: self.policy, trial: Some(Trial { policy: chunking.policy, share }) }
    }

    /// Returns the chunking of a policy alone.
    pub(crate) const fn of(policy: CutPolicy) -> Self {
        Self { policy, trial: None }
    }

    /// Returns what is tried on a share of the keys, in millionths.
    pub(crate) fn tried(self) -> Option<(CutPolicy, u32)> {
        self.trial.and_then(|trial| Some((trial.policy, trial.share.ok()?)))
    }

    /// Returns the same with a policy that is tried on a share of the keys, in millionths.
    pub(crate) fn trying(self, policy: CutPolicy, share: u64) -> Result<Self, Corruption> {
        let share = u32::try_from(share).ok().filter(|share| (1..MILLION).contains(share));
        let share = share.ok_or(Corruption { offset: 0, what: "a share of the keys for a trial" })?;
        Ok(Self { trial: Some(Trial { policy, share: Ok(share) }), ..self })
    }

    /// Returns the policy for all keys that are not in a trial.
    pub(crate) fn policy(self) -> CutPolicy {
        self.policy
    }

    /// Returns the policy for a key, and its side if there is a trial.
    pub(crate) fn for_key(self, key: &[u8]) -> (CutPolicy, Option<Arm>) {
        let Some((policy, share)) = self.tried() else { return (self.policy, None) };
        let hash = blake3::hash(key);
        let drawn = hash.as_bytes().iter().take(4).fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        if (drawn * u64::from(MILLION)) >> 32 < u64::from(share) {
            (policy, Some(Arm::Trial))
        } else {
            (self.policy, Some(Arm::Control))
        }
    }

    /// Returns the policy of a chunking without a trial; fails for one out of bounds.
    pub(crate) fn single(self) -> Result<CutPolicy> {
        self.check()?;
        if self.trial.is_some() {
            return Err(Error::invalid(
                "a trial is chosen by the keys of new values; give one chunking without `trial`",
            ));
        }
        Ok(self.policy)
    }

    /// Fails if a size is out of bounds, or for a trial that cannot be.
    pub(crate) fn check(self) -> Result<()> {
        self.policy.check()?;
        let Some(Trial { policy, share }) = self.trial else { return Ok(()) };
        policy.check()?;
        share.map_err(Error::invalid).map(drop)
    }
}

/// Returns a share in millionths, at least one; `None` if it is not between 0 and 1.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within bounds, as was checked")]
fn millionths(share: f64) -> Option<u32> {
    let is_share = share > 0.0 && share < 1.0;
    is_share.then(|| ((share * f64::from(MILLION)).round() as u32).clamp(1, MILLION - 1))
}

impl Debug for Chunking {
    /// Prints the constructors, as `Display` does.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl Display for Chunking {
    /// Prints the constructors with their bytes.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.policy)?;
        let Some(trial) = self.trial else { return Ok(()) };
        let share = trial.share.map_or(f64::NAN, |share| f64::from(share) / f64::from(MILLION));
        write!(f, ".trial({}, {share})", trial.policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::noise;

    /// The definition, in so many words.
    fn slow(chunking: CutPolicy, bytes: &[u8]) -> usize {
        let size = usize::try_from(chunking.size).unwrap();
        if !chunking.by_content {
            return bytes.len().min(size);
        }
        let (min, max) = (size / 2, size + size / 2);
        if bytes.len() <= min {
            return bytes.len();
        }
        let score = |at: usize| {
            let x = u32::from_le_bytes(bytes[at - 4..at].try_into().unwrap());
            2_438_952_949u32.wrapping_mul(x).wrapping_add(878_928_995)
        };
        (min..=max.min(bytes.len())).min_by_key(|at| score(*at)).unwrap()
    }

    fn cuts(chunking: CutPolicy, mut bytes: &[u8], cut: impl Fn(CutPolicy, &[u8]) -> usize) -> Vec<usize> {
        let mut lens = Vec::new();
        while !bytes.is_empty() {
            let len = cut(chunking, bytes);
            lens.push(len);
            bytes = &bytes[len..];
        }
        lens
    }

    /// Bytes of several natures: random, few symbols, runs, zeros.
    fn inputs() -> Vec<Vec<u8>> {
        let random = noise(1, 200_000);
        let mut sparse = noise(2, 100_000);
        sparse.chunks_mut(5000).for_each(|part| part[..3000].fill(0));
        let mut inputs = vec![vec![0; 100_000], vec![7; 50_001], random.clone(), sparse];
        inputs.push(random.iter().map(|byte| byte & 1).collect());
        inputs.push((0..251u8).flat_map(|byte| vec![byte; 97]).collect());
        for len in [1, 2, 3, 4, 5, 511, 512, 513, 1023, 1024, 1025, 1535, 1536, 1537] {
            inputs.push(noise(3, len));
        }
        inputs
    }

    const POLICIES: [CutPolicy; 6] = [
        CutPolicy::content_defined(1 << 10),
        CutPolicy::content_defined(1027),
        CutPolicy::content_defined(4 << 10),
        CutPolicy::AUTOMATIC,
        CutPolicy::fixed(512),
        CutPolicy::fixed(4096),
    ];

    #[test]
    fn cuts_are_where_the_format_says() {
        for chunking in POLICIES {
            for input in inputs() {
                let fast = cuts(chunking, &input, |chunking, bytes| chunking.cut(bytes, true).unwrap());
                assert_eq!(fast, cuts(chunking, &input, slow), "{chunking:?} of {} bytes", input.len());
            }
        }
    }

    #[test]
    fn without_vectors_the_same_places_are_found() {
        for input in inputs() {
            for len in [5, 6, 7, 8, 64, 100, 1028, 8196].into_iter().filter(|len| *len <= input.len()) {
                for from in (0..input.len() - len).step_by(997).take(40) {
                    let window = &input[from..from + len];
                    assert_eq!(place_by_bytes(window), place(window), "{len} bytes at {from}");
                }
            }
        }
        // The smallest score of all, at each end of a window.
        let least = 0u32.wrapping_sub(0x3463_6463).wrapping_mul(0x915f_77f5u32.wrapping_pow((1 << 30) - 1));
        for at in [4, 5, 50, 97, 98, 99, 100] {
            let mut window = vec![9; 100];
            window[at - 4..at].copy_from_slice(&least.to_le_bytes());
            assert_eq!((place_by_bytes(&window), place(&window)), (at, at));
        }
    }

    #[test]
    fn cuts_do_not_depend_on_how_the_bytes_arrive() {
        for chunking in POLICIES {
            for input in inputs().into_iter().filter(|input| input.len() > 2000) {
                let whole = cuts(chunking, &input, slow);
                for step in [1 + chunking.longest() / 7, 999, chunking.longest(), 1 << 16] {
                    let (mut lens, mut held, mut rest) = (Vec::new(), Vec::new(), &input[..]);
                    loop {
                        let (now, later) = rest.split_at(step.min(rest.len()));
                        held.extend_from_slice(now);
                        rest = later;
                        while !held.is_empty()
                            && let Some(len) = chunking.cut(&held, rest.is_empty())
                        {
                            lens.push(len);
                            held.drain(..len);
                        }
                        if rest.is_empty() {
                            break;
                        }
                    }
                    assert_eq!(lens, whole, "{chunking:?} in steps of {step}");
                }
            }
        }
    }

    #[test]
    fn chunks_are_as_long_as_promised_and_behind_an_insertion_the_cuts_return() {
        let input = &inputs()[2];
        let chunking = CutPolicy::content_defined(4096);
        let lens = cuts(chunking, input, slow);
        let (rest, before) = lens.split_last().unwrap();
        assert!(*rest <= chunking.longest() && before.iter().all(|len| (2048..=6144).contains(len)), "{lens:?}");
        let mean = before.iter().sum::<usize>() / before.len();
        assert!((3700..4500).contains(&mean), "{mean} bytes on average");
        let changed = [&input[..50_000], b"inserted", &input[50_000..]].concat();
        let ends = |lens: &[usize]| -> Vec<usize> {
            let mut at = 0;
            lens.iter().map(|len| (at += len, at).1).collect()
        };
        let (old, new) = (ends(&lens), ends(&cuts(chunking, &changed, slow)));
        let shared = new.iter().filter(|end| old.contains(&if **end <= 50_000 { **end } else { **end - 8 })).count();
        assert!(shared + 4 >= old.len(), "{shared} of {} cuts are the same", old.len());
    }

    /// A trial takes its share of the keys, and a key always falls on the same side.
    #[test]
    fn a_trial_takes_its_share_of_the_keys_and_is_refused_beyond_its_bounds() {
        let (usual, tried) = (Chunking::automatic(), Chunking::fixed(4096));
        for share in [0.1, 0.29, 0.5, 0.57, 0.9] {
            let chunking = usual.trial(tried, share);
            chunking.check().unwrap();
            let taken = (0..20_000).filter(|key| chunking.for_key(format!("{key}").as_bytes()).1 == Some(Arm::Trial));
            let taken = f64::from(u32::try_from(taken.count()).unwrap()) / 20_000.0;
            let told = f64::from(chunking.tried().unwrap().1) / 1e6;
            assert!((told - share).abs() < 1e-9, "{told} instead of {share}");
            assert!((taken - share).abs() < 0.01, "{taken} of the keys instead of {share}");
            assert_eq!(chunking.for_key(b"key"), chunking.for_key(b"key"));
        }
        let all = usual.trial(tried, 0.999_999_9);
        assert_eq!(all.tried(), Some((CutPolicy::fixed(4096), 999_999)));
        assert_eq!(usual.trial(tried, 1e-9).tried(), Some((CutPolicy::fixed(4096), 1)));
        assert_eq!(usual.for_key(b"key"), (CutPolicy::AUTOMATIC, None));
        assert_eq!(usual.trial(tried, 0.25).to_string(), "content_defined(16384).trial(fixed(4096), 0.25)");
        for (share, trial) in [(0.0, tried), (1.0, tried), (-0.5, tried), (f64::NAN, tried), (f64::INFINITY, tried)] {
            assert!(usual.trial(trial, share).check().is_err(), "{share}");
        }
        assert!(usual.trial(Chunking::fixed(1), 0.5).check().is_err());
        assert!(usual.trial(tried.trial(usual, 0.5), 0.5).check().is_err());
        assert!(usual.trial(tried, 0.5).trial(tried, 0.5).check().is_err());
        assert!(usual.trial(tried, 0.5).single().is_err() && usual.single().is_ok());
    }

    #[test]
    fn sizes_out_of_bounds_are_refused() {
        for (number, size) in [(1, 512), (1, 1 << 20), (2, 1024), (2, 1 << 19)] {
            let chunking = CutPolicy::from_numbers(number, size).unwrap();
            let (told, bytes) = chunking.numbers();
            assert_eq!((u64::from(told), bytes), (number, size));
            assert!(chunking.longest() <= CHUNK_LEN_MAX);
        }
        for (number, size) in
            [(0, 4096), (3, 4096), (1, 511), (1, (1 << 20) + 1), (2, 1023), (2, (1 << 19) + 1), (1, 1 << 40)]
        {
            assert!(CutPolicy::from_numbers(number, size).is_err(), "{number} {size}");
        }
    }
}
