//! The options of a keyspace on disk: those that differ from their defaults, each a field with its number.
//!
//! ```text
//!  options:  field field …                         in ascending order, to the end of the change
//!  field:    number u8 · length varint · body      unknown below 128: refused; from 128 on: skipped
//! ```

use std::{ops::RangeInclusive, sync::Arc};

use super::fields::{LIST_MAX, bounded, seqno_field, text};
use crate::{
    base::{Corruption, Micros, Seqno},
    chunk::{
        codec::is_level,
        cut::{Chunking, CutPolicy},
    },
    format::{Reader, Writer},
    merge::{MergeStrategy, NUMBER_CUSTOM},
    segment::PointIndex,
};

/// Numbers of the fields.
const POLICY: u8 = 1;
const MERGE: u8 = 2;
const POINT_INDEX: u8 = 3;
const TTLS: u8 = 4;
const CHUNKING: u8 = 5;
const SCOPE: u8 = 6;
const COMPRESSION: u8 = 7;

/// Lowest number of a field that a reader may skip.
const FIRST_OPTIONAL_FIELD: u8 = 128;

/// Whoever does not know trials cuts all values in the usual way.
const TRIAL: u8 = FIRST_OPTIONAL_FIELD;

/// Lowest number of a field that this release skips.
const FIRST_UNKNOWN_HINT: u8 = TRIAL + 1;

/// A compaction policy on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum StoredPolicy {
    #[default]
    LastWriterWins,
    /// Retention, in microseconds.
    Tombstones(Micros),
    /// Maximum number of versions, and minimum age in microseconds.
    Mvcc(u64, Micros),
    /// Name of the policy.
    Custom(String),
}

impl StoredPolicy {
    fn encode(&self, out: &mut Writer) {
        match self {
            Self::LastWriterWins => out.u8(0),
            Self::Tombstones(retention) => {
                out.u8(1);
                out.varint(retention.0);
            }
            Self::Mvcc(versions, age) => {
                out.u8(2);
                out.varint(*versions);
                out.varint(age.0);
            }
            Self::Custom(name) => {
                out.u8(3);
                out.prefixed(name.as_bytes());
            }
        }
    }

    /// Reads a policy other than the default.
    fn decode(body: &mut Reader<'_>) -> Result<Self, Corruption> {
        Ok(match body.u8("policy")? {
            1 => Self::Tombstones(Micros(body.varint("retention")?)),
            2 => Self::Mvcc(body.varint("number of versions")?, Micros(body.varint("age of versions")?)),
            3 => Self::Custom(
                Some(text(body, "name of a policy")?)
                    .filter(|name| !name.is_empty())
                    .ok_or_else(|| body.corrupt("name of a policy"))?,
            ),
            _ => return Err(body.corrupt("a policy that this release knows")),
        })
    }
}

/// Which values of a keyspace go to the chunk store, and how they are cut and stored there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredChunking {
    /// Length from which on values are cut; `None`: none that need not be.
    pub(crate) threshold: Option<u64>,
    pub(crate) chunking: Chunking,
    /// Level of zstd; `None` stores every chunk as it is.
    pub(crate) level: Option<i32>,
}

impl Default for StoredChunking {
    fn default() -> Self {
        Self { threshold: Some(32 << 10), chunking: Chunking::automatic(), level: Some(1) }
    }
}

/// Options of a keyspace on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoredOptions {
    pub(crate) policy: StoredPolicy,
    /// Number of the merge strategy: 0 is last-wins; a custom one has a name.
    pub(crate) merge: u8,
    pub(crate) merge_name: String,
    pub(crate) point_index: PointIndex,
    /// TTLs in microseconds (0: none), each with the seqno from which on it applies to writes, oldest first.
    pub(crate) ttls: Arc<[(Seqno, Micros)]>,
    pub(crate) large: StoredChunking,
    /// Number of the dedup scope; 0 is the default.
    pub(crate) scope: u32,
}

impl StoredOptions {
    /// Stands for the seqno of a new time to live until its commit has one.
    pub(crate) const FROM_NOW: Seqno = Seqno::MAX;

    /// Sets the seqno from which on a new time to live holds.
    pub(crate) fn with_ttl_from(mut self, seqno: Seqno) -> Self {
        let known = |(from, ttl): &(Seqno, Micros)| (if *from == Self::FROM_NOW { seqno } else { *from }, *ttl);
        self.ttls = self.ttls.iter().map(known).collect();
        self
    }

    /// Drops the times to live under which no existing data was written; `data` are the seqnos of what exists. However
    /// often the time is changed, only changes with data in between add up.
    pub(crate) fn without_idle_ttls(mut self, data: &[RangeInclusive<Seqno>]) -> Self {
        let mut kept: Vec<(Seqno, Micros)> = Vec::new();
        for (at, &(from, ttl)) in self.ttls.iter().enumerate() {
            let next = self.ttls.get(at + 1).map(|(next, _)| *next);
            let used =
                next.is_none_or(|next| data.iter().any(|seqnos| *seqnos.start() < next && from <= *seqnos.end()));
            if used && kept.last().is_none_or(|(_, before)| *before != ttl) {
                kept.push((from, ttl));
            }
        }
        self.ttls = kept.into();
        self
    }

    /// Appends the options that differ from their defaults, each as a field; [`StoredOptions::decode`] is the exact
    /// inverse.
    pub(super) fn encode(&self, out: &mut Writer) {
        let mut field = |number: u8, write: &dyn Fn(&mut Writer)| {
            let mut body = Writer::default();
            write(&mut body);
            out.u8(number);
            out.prefixed(body.bytes());
        };
        if self.policy != StoredPolicy::LastWriterWins {
            field(POLICY, &|body| self.policy.encode(body));
        }
        if self.merge != 0 {
            field(MERGE, &|body| {
                body.u8(self.merge);
                if self.merge == NUMBER_CUSTOM {
                    body.prefixed(self.merge_name.as_bytes());
                }
            });
        }
        if self.point_index != PointIndex::Auto {
            field(POINT_INDEX, &|body| body.u8(self.point_index.number()));
        }
        if !self.ttls.is_empty() {
            field(TTLS, &|body| {
                for (from, ttl) in self.ttls.iter() {
                    body.varint(from.0);
                    body.varint(ttl.0);
                }
            });
        }
        let usual = StoredChunking::default();
        let StoredChunking { threshold, chunking, level } = self.large;
        let cut = chunking.policy();
        if (threshold, cut) != (usual.threshold, CutPolicy::AUTOMATIC) {
            field(CHUNKING, &|body| {
                body.varint(threshold.unwrap_or(0));
                let (policy, size) = if cut == CutPolicy::AUTOMATIC { (0, 0) } else { cut.numbers() };
                body.u8(policy);
                body.varint(size);
            });
        }
        if self.scope != 0 {
            field(SCOPE, &|body| body.varint(u64::from(self.scope)));
        }
        if level != usual.level {
            field(COMPRESSION, &|body| match level {
                None => body.u8(0),
                Some(level) => {
                    body.u8(1);
                    body.u8(i8::try_from(level).unwrap_or_default().to_le_bytes()[0]);
                }
            });
        }
        if let Some((policy, share)) = chunking.tried() {
            field(TRIAL, &|body| {
                let (policy, size) = policy.numbers();
                body.u8(policy);
                body.varint(size);
                body.varint(u64::from(share));
            });
        }
    }

    /// Reads the fields that fill the rest of a change.
    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, Corruption> {
        let mut options = Self::default();
        let mut last = 0;
        while reader.remaining() > 0 {
            let number = reader.u8("number of an option")?;
            if number <= last {
                return Err(reader.corrupt("options in ascending order"));
            }
            last = number;
            let mut body = Reader::new(reader.prefixed("an option")?);
            match number {
                POLICY => options.policy = StoredPolicy::decode(&mut body)?,
                MERGE => (options.merge, options.merge_name) = strategy(&mut body)?,
                POINT_INDEX => {
                    let index = PointIndex::from_number(body.u8("point index")?);
                    let index = index.filter(|index| *index != PointIndex::Auto);
                    options.point_index = index.ok_or_else(|| body.corrupt("a point index that this release knows"))?;
                }
                TTLS => options.ttls = ttls(&mut body)?,
                CHUNKING => {
                    let threshold = body.varint("chunk threshold")?;
                    options.large.threshold = Some(threshold).filter(|threshold| *threshold > 0);
                    options.large.chunking = match (body.u8("chunking")?, body.varint("size of chunks")?) {
                        (0, 0) => Chunking::automatic(),
                        (policy, size) => Chunking::of(CutPolicy::from_numbers(u64::from(policy), size)?),
                    };
                }
                SCOPE => {
                    let scope = bounded(&mut body, "dedup scope", u64::from(u32::MAX))?;
                    let scope = u32::try_from(scope).ok().filter(|scope| *scope > 0);
                    options.scope = scope.ok_or_else(|| body.corrupt("dedup scope"))?;
                }
                COMPRESSION => options.large.level = level(&mut body)?,
                TRIAL => {
                    let policy = body.u8("chunking of a trial")?;
                    let policy = CutPolicy::from_numbers(u64::from(policy), body.varint("size of chunks")?)?;
                    let share = body.varint("share of a trial")?;
                    options.large.chunking = options.large.chunking.trying(policy, share)?;
                }
                FIRST_UNKNOWN_HINT.. => continue,
                _ => return Err(reader.corrupt("an option that this release knows")),
            }
            body.finish("end of an option")?;
        }
        Ok(options)
    }
}

/// Reads a compression: none, or a level of zstd.
fn level(body: &mut Reader<'_>) -> Result<Option<i32>, Corruption> {
    match body.u8("compression")? {
        0 => Ok(None),
        1 => {
            let level = i32::from(i8::from_le_bytes([body.u8("level of zstd")?]));
            Some(level).filter(|level| is_level(*level)).map(Some).ok_or_else(|| body.corrupt("level of zstd"))
        }
        _ => Err(body.corrupt("a compression that this release knows")),
    }
}

/// Reads a merge strategy other than last-wins.
fn strategy(body: &mut Reader<'_>) -> Result<(u8, String), Corruption> {
    let number = body.u8("merge strategy")?;
    let name = if number == NUMBER_CUSTOM { text(body, "name of a strategy")? } else { String::new() };
    let custom = number == NUMBER_CUSTOM && !name.is_empty();
    if number == 0 || !custom && MergeStrategy::built_in(number).is_none() {
        return Err(body.corrupt("a merge strategy that this release knows"));
    }
    Ok((number, name))
}

/// Reads times to live, at least one, in the order of their seqnos.
fn ttls(body: &mut Reader<'_>) -> Result<Arc<[(Seqno, Micros)]>, Corruption> {
    let mut ttls = Vec::new();
    while body.remaining() > 0 {
        ttls.push((seqno_field(body, "seqno")?, Micros(body.varint("time to live")?)));
    }
    if ttls.is_empty() || ttls.len() as u64 > LIST_MAX || !ttls.is_sorted_by_key(|(from, _)| *from) {
        return Err(body.corrupt("times to live in order"));
    }
    Ok(ttls.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<StoredOptions, Corruption> {
        StoredOptions::decode(&mut Reader::new(bytes))
    }

    #[test]
    fn a_field_out_of_order_twice_unknown_out_of_bounds_or_with_its_default_is_refused_and_a_hint_is_skipped() {
        assert_eq!(read(&[]), Ok(StoredOptions::default()));
        let index = [POINT_INDEX, 1, 2];
        assert_eq!(read(&index).unwrap().point_index, PointIndex::Always);
        let options = StoredOptions {
            large: StoredChunking {
                chunking: Chunking::fixed(4096).trial(Chunking::content_defined(2048), 0.125),
                ..StoredChunking::default()
            },
            ..StoredOptions::default()
        };
        let mut out = Writer::default();
        options.encode(&mut out);
        assert_eq!(read(out.bytes()), Ok(options));
        let hint = [FIRST_UNKNOWN_HINT, 2, 7, 7];
        assert_eq!(read(&[&index[..], &hint].concat()), read(&index));
        let bad: [(&str, &[u8]); 16] = [
            ("a trial of no key", &[TRIAL, 4, 1, 0x80, 0x04, 0]),
            ("a trial of all keys", &[TRIAL, 6, 1, 0x80, 0x04, 0xc0, 0x84, 0x3d]),
            ("a trial of chunks too small", &[TRIAL, 3, 1, 9, 1]),
            ("twice", &[POINT_INDEX, 1, 2, POINT_INDEX, 1, 2]),
            ("out of order", &[POINT_INDEX, 1, 2, MERGE, 1, 2]),
            ("number 0", &[0, 0]),
            ("unknown", &[127, 0]),
            ("the default policy", &[POLICY, 1, 0]),
            ("the default strategy", &[MERGE, 1, 0]),
            ("the default index", &[POINT_INDEX, 1, 0]),
            ("no time to live", &[TTLS, 0]),
            ("times to live out of order", &[TTLS, 4, 9, 1, 8, 1]),
            ("a policy without its name", &[POLICY, 2, 3, 0]),
            ("a strategy without its name", &[MERGE, 2, NUMBER_CUSTOM, 0]),
            ("an unknown strategy", &[MERGE, 1, 99]),
            ("a byte too many", &[POINT_INDEX, 2, 2, 0]),
        ];
        for (what, bytes) in bad {
            assert!(read(bytes).is_err(), "{what}");
        }
    }
}
