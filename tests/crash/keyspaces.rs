//! What a keyspace is goes by its name: its merge strategy, what it keeps of its past, how long its values live, and
//! what they look like.

use std::time::{Duration, SystemTime};

use chronolith::{Chunking, CompactionPolicy, Compression, KeyspaceOptions, Policy, VersionInfo, merge::append_items};

use crate::strategies::Strategy;

/// What stands for a value: its length and a hash.
pub(crate) type Digest = (usize, u64);

/// What a keyspace is goes by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sort {
    Plain,
    Sum,
    List,
    /// A strategy of the user's own: values of eight bytes, one behind the other.
    Own,
    First,
    Once,
    /// The values of a key differ in a few bytes: old ones are stored as differences.
    Alike,
    /// Values live for [`TTL`].
    Brief,
}

/// How long values of a brief keyspace live.
const TTL: Duration = Duration::from_micros(TTL_US);
pub(crate) const TTL_US: u64 = 100_000_000;

/// For how long the past is promised, where it is.
const WINDOW: Duration = Duration::from_micros(WINDOW_US);
pub(crate) const WINDOW_US: u64 = 3_600_000_000;

/// A policy of the user's own: three versions of each key, and every delete.
struct Odd;

impl CompactionPolicy for Odd {
    fn keep(&self, version: &VersionInfo, _now: SystemTime) -> bool {
        version.rank < 3 || version.is_delete
    }
}

/// What is kept of the past of a keyspace.
pub(crate) fn policy_of(name: &str) -> Option<Policy> {
    match name {
        "graves" => Some(Policy::tombstones(WINDOW)),
        "odd" => Some(Policy::custom("odd", Odd)),
        _ if is_owed(name) => Some(Policy::mvcc(2, WINDOW)),
        _ => None,
    }
}

/// Whether every moment of the last hour is promised.
pub(crate) fn is_owed(name: &str) -> bool {
    name == "wiped" || name.starts_with("kept") || name.ends_with(" kept")
}

impl Sort {
    pub(crate) fn of(name: &str) -> Self {
        match name {
            "sum" | "sum kept" => Self::Sum,
            "list" | "list kept" => Self::List,
            "own" => Self::Own,
            "first" => Self::First,
            "once" => Self::Once,
            "kept" | "kept indexed" | "graves" | "odd" => Self::Alike,
            _ if is_large(name) => Self::Alike,
            "brief" | "brief kept" => Self::Brief,
            _ => Self::Plain,
        }
    }

    pub(crate) fn strategy(self) -> Strategy {
        match self {
            Self::Plain | Self::Alike | Self::Brief => Strategy::LastWins,
            Self::Sum => Strategy::Sum,
            Self::List => Strategy::Append,
            Self::Own => Strategy::Joined(""),
            Self::First => Strategy::FirstWins,
            Self::Once => Strategy::ErrorOnDuplicate,
        }
    }

    /// What a put or an operand carries.
    pub(crate) fn value(self, number: usize, key: u16, len: usize) -> Vec<u8> {
        match self {
            Self::Sum | Self::Own => {
                ((number as u64) << 40 | (len as u64) << 20 | u64::from(key)).to_le_bytes().to_vec()
            }
            Self::Alike => {
                let mut value = value_of(0, key, len);
                let stamp = value_of(number, key, 8);
                value.iter_mut().skip(len / 3).zip(stamp).for_each(|(to, from)| *to = from);
                value
            }
            _ => value_of(number, key, len),
        }
    }

    /// What a key holds that is only to be there.
    pub(crate) fn plain_value(self, text: &'static [u8]) -> &'static [u8] {
        if matches!(self, Self::Sum | Self::Own) { &[1, 0, 0, 0, 0, 0, 0, 0] } else { text }
    }

    /// What stands for a value as it was put.
    pub(crate) fn digest_of_put(self, value: &[u8]) -> Digest {
        match self {
            Self::Sum => (8, value.try_into().map_or(0, u64::from_le_bytes)),
            Self::List | Self::Own => self.then((0, 0), value),
            _ => digest(value),
        }
    }

    /// What stands for a value with an operand behind it.
    pub(crate) fn then(self, (count, hash): Digest, operand: &[u8]) -> Digest {
        if self == Self::Sum {
            return (count, hash.wrapping_add(operand.try_into().map_or(0, u64::from_le_bytes)));
        }
        (count + 1, (hash ^ digest(operand).1).wrapping_mul(0x0100_0000_01b3).rotate_left(29))
    }

    /// What stands for a value as it was read.
    pub(crate) fn digest_of_read(self, value: &[u8]) -> Digest {
        match self {
            Self::Sum if value.len() != 8 => (usize::MAX, 0),
            Self::List => append_items(value)
                .try_fold((0, 0), |digest, item| item.map(|item| self.then(digest, item)))
                .unwrap_or((usize::MAX, 0)),
            Self::Own => value.chunks(8).fold((0, 0), |digest, item| self.then(digest, item)),
            _ => self.digest_of_put(value),
        }
    }
}

/// Whether values are cut: those that differ in a few bytes share most of their chunks.
pub(crate) fn is_large(name: &str) -> bool {
    name.starts_with("large")
}

/// Whether large values are written as streams.
pub(crate) fn is_streamed(name: &str) -> bool {
    name.starts_with("large stream")
}

/// How a keyspace is made.
pub(crate) fn options_of(name: &str) -> KeyspaceOptions {
    let new = stored_options_of(name);
    let new = if is_large(name) {
        new.chunk_threshold(512).chunking(Chunking::content_defined(1024)).compression(Compression::None)
    } else {
        new
    };
    let new = if name == "large tenant" { new.dedup_scope("tenant 7") } else { new };
    let new = policy_of(name).map_or(new.clone(), |policy| new.policy(policy));
    let new = new.merge(Sort::of(name).strategy().option());
    match Sort::of(name) {
        Sort::Plain | Sort::Alike if name.ends_with("indexed") => new.point_index(true),
        Sort::Sum | Sort::First => new.point_index(true),
        Sort::Brief => new.ttl(TTL),
        _ => new,
    }
}

/// How one that exists is opened.
pub(crate) fn stored_options_of(name: &str) -> KeyspaceOptions {
    let new = KeyspaceOptions::new();
    match name {
        "own" => new.merge(Sort::Own.strategy().option()),
        "odd" => new.policy(Policy::custom("odd", Odd)),
        _ => new,
    }
}

pub(crate) fn value_of(number: usize, key: u16, len: usize) -> Vec<u8> {
    let mut x = ((number as u64 + 1) << 32 | u64::from(key) << 8 | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut value = Vec::with_capacity(len + 8);
    while value.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        value.extend_from_slice(&x.to_le_bytes());
    }
    value.truncate(len);
    value
}

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    let hash = bytes.chunks(8).fold(0xcbf2_9ce4_8422_2325_u64, |hash, chunk| {
        let mut word = [0; 8];
        word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
        (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3).rotate_left(29)
    });
    (bytes.len(), hash)
}
