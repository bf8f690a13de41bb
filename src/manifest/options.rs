//! The options of a keyspace on disk.

use std::{ops::RangeInclusive, sync::Arc};

use super::fields::{LIST_MAX, bounded, seqno_field, text};
use crate::{
    base::{Corruption, Micros, Seqno},
    format::{Reader, Writer},
    merge::{MergeStrategy, NUMBER_CUSTOM},
    segment::PointIndex,
};

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
    /// Returns its number on disk, which precedes the name of a keyspace, apart from the rest.
    pub(super) fn number(&self) -> u8 {
        match self {
            Self::LastWriterWins => 0,
            Self::Tombstones(_) => 1,
            Self::Mvcc(..) => 2,
            Self::Custom(_) => 3,
        }
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

    /// Appends the options that follow the name in a catalogue entry; nothing, as in the first manifests, for the
    /// defaults.
    pub(super) fn encode_tail(&self, out: &mut Writer) {
        let keeps = self.policy != StoredPolicy::LastWriterWins || !self.ttls.is_empty();
        if (self.merge, self.point_index) != (0, PointIndex::Auto) || keeps {
            out.u8(self.merge);
            out.prefixed(self.merge_name.as_bytes());
            out.u8(self.point_index.number());
        }
        if keeps {
            let (first, second, name) = match &self.policy {
                StoredPolicy::LastWriterWins => (0, 0, ""),
                StoredPolicy::Tombstones(retention) => (retention.0, 0, ""),
                StoredPolicy::Mvcc(versions, age) => (*versions, age.0, ""),
                StoredPolicy::Custom(name) => (0, 0, name.as_str()),
            };
            out.varint(first);
            out.varint(second);
            out.prefixed(name.as_bytes());
            out.varint(self.ttls.len() as u64);
            for (from, ttl) in self.ttls.iter() {
                out.varint(from.0);
                out.varint(ttl.0);
            }
        }
    }

    /// Reads what [`StoredOptions::encode_tail`] appended, given the number of the policy.
    pub(super) fn decode_tail(policy: u8, body: &mut Reader<'_>) -> Result<Self, Corruption> {
        if policy > 3 {
            return Err(body.corrupt("a policy that this release knows"));
        }
        if body.remaining() == 0 && policy == 0 {
            return Ok(Self::default());
        }
        let merge = body.u8("merge strategy")?;
        let merge_name = text(body, "name of a strategy")?;
        let index = body.u8("point index")?;
        let custom = merge == NUMBER_CUSTOM;
        let known = custom || MergeStrategy::built_in(merge).is_some();
        let nothing_said = (merge, index) == (0, 0) && body.remaining() == 0;
        let point_index =
            PointIndex::from_number(index).filter(|_| known && custom != merge_name.is_empty() && !nothing_said);
        let point_index = point_index.ok_or_else(|| body.corrupt("options that this release knows"))?;
        let mut options = Self { merge, merge_name, point_index, ..Self::default() };
        if body.remaining() > 0 || policy != 0 {
            let (first, second) = (body.varint("policy")?, body.varint("policy")?);
            let name = text(body, "name of a policy")?;
            options.policy = match policy {
                0 => StoredPolicy::LastWriterWins,
                1 => StoredPolicy::Tombstones(Micros(first)),
                2 => StoredPolicy::Mvcc(first, Micros(second)),
                _ => StoredPolicy::Custom(name),
            };
            let count = bounded(body, "times to live", LIST_MAX)?;
            let ttls = (0..count).map(|_| Ok((seqno_field(body, "seqno")?, Micros(body.varint("time to live")?))));
            options.ttls = ttls.collect::<Result<_, Corruption>>()?;
            if !options.ttls.is_sorted_by_key(|(from, _)| *from) {
                return Err(body.corrupt("times to live in order"));
            }
        }
        Ok(options)
    }
}
