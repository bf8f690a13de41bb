//! One range of a map: references to its inputs, by partition; entries of one key combined; partitions put together.

use std::ops::Range;

use super::{
    refs::Ref,
    tail::Shape,
    writer::{Packed, check_entry, pack},
};
use crate::{
    base::{Bytes, Error, Result},
    merge::{MergeStrategy, append_list},
    phash::build::{Builder, HashedKey},
};

/// Number of entries from which the number of different keys is estimated, if there are twice as many.
const SAMPLE_FROM: u64 = 1 << 16;

/// Source of entries.
pub(super) trait Inputs: Sync {
    /// Returns the number of entries.
    fn count(&self) -> u64;

    /// Returns their approximate size in bytes.
    fn bytes(&self) -> u64;

    /// Appends references to the entries whose routes lie in `from..=to`, in any order.
    fn between(&self, from: u64, to: u64, refs: &mut Vec<Ref>) -> Result<()>;

    /// Returns the key and value of an entry.
    fn entry(&self, of: &Ref) -> Result<(&[u8], &[u8])>;
}

/// Combines entries with the same key.
#[derive(Debug)]
pub(super) struct Combine<'a> {
    pub(super) strategy: &'a MergeStrategy,
    pub(super) shape: Shape,
}

impl Combine<'_> {
    /// Combines entries of one hash, ordered by source: returns one of them, possibly with another value.
    fn one(&self, inputs: &impl Inputs, same: &[Ref]) -> Result<(Ref, Option<Bytes>)> {
        let (Some(&first), Some(&last)) = (same.first(), same.last()) else {
            return Err(Error::invalid("an entry to combine"));
        };
        let (key, value) = match (self.strategy, same) {
            (MergeStrategy::Sum | MergeStrategy::Append, _) => inputs.entry(&first)?,
            (_, [only]) => return Ok((*only, None)),
            _ => inputs.entry(&first)?,
        };
        let mut values = vec![value];
        for one in same.get(1..).unwrap_or_default() {
            let (other, value) = inputs.entry(one)?;
            if other != key {
                return Err(Error::invalid(format!(
                    "keys \"{}\" and \"{}\" have the same hash of 128 bits",
                    key.escape_ascii(),
                    other.escape_ascii()
                )));
            }
            values.push(value);
        }
        match self.strategy {
            MergeStrategy::LastWins => Ok((last, None)),
            MergeStrategy::FirstWins => Ok((first, None)),
            MergeStrategy::ErrorOnDuplicate => Err(Error::Duplicate { key: key.to_vec() }),
            MergeStrategy::Append => {
                let items = append_list(&values);
                check_entry(key, &items)?;
                Ok((first, Some(Bytes::from(items))))
            }
            MergeStrategy::Sum | MergeStrategy::Custom(_) => {
                for value in &values {
                    self.strategy.check_item(key, value)?;
                }
                if values.len() == 1 {
                    return Ok((first, None));
                }
                let newest_first: Vec<Bytes> = values.iter().rev().map(|value| Bytes::copy_from(value)).collect();
                let folded = self.strategy.fold(key, None, &newest_first)?;
                check_entry(key, &folded)?;
                Ok((first, Some(folded)))
            }
        }
    }
}

/// Returns the routes of partitions `from..to` of `count`.
fn routes(from: u64, to: u64, count: u64) -> (u64, u64) {
    let lowest = |partition: u64| (u128::from(partition) << 64).div_ceil(u128::from(count));
    let last = lowest(to).saturating_sub(1);
    (u64::try_from(lowest(from)).unwrap_or(u64::MAX), u64::try_from(last).unwrap_or(u64::MAX))
}

/// Returns the number of different keys: counted, or estimated from a part of the hashes that is always the same.
pub(super) fn different_keys(inputs: &impl Inputs, total: u64) -> Result<u64> {
    let part = (total / SAMPLE_FROM).max(1);
    let mut refs = Vec::new();
    inputs.between(0, routes(0, 1, part).1, &mut refs)?;
    refs.sort_unstable();
    refs.dedup_by_key(|one| one.hash);
    Ok(refs.len() as u64 * part)
}

/// An entry of the result.
struct ResultEntry {
    of: Ref,
    /// Index of its value among the combined ones.
    combined: Option<usize>,
}

/// Puts together some of the `count` partitions.
pub(super) fn make_range(
    builder: &mut Builder,
    inputs: &impl Inputs,
    combine: &Combine<'_>,
    parts: Range<u64>,
    count: u64,
) -> Result<(Vec<Packed>, u64)> {
    let mut refs = Vec::new();
    let (lowest, highest) = routes(parts.start, parts.end, count);
    inputs.between(lowest, highest, &mut refs)?;
    let entries = refs.len() as u64;
    let (mut refs, ends) = by_partition(&refs, parts.start, parts.end, count);
    let mut made = Vec::with_capacity(ends.len());
    let mut start = 0;
    for end in ends {
        let refs = refs.get_mut(start..end).unwrap_or_default();
        refs.sort_unstable();
        let mut members = Vec::with_capacity(refs.len());
        let mut values = Vec::new();
        for same in refs.chunk_by(|a, b| a.hash == b.hash) {
            let Some(first) = same.first() else { continue };
            let (of, value) = combine.one(inputs, same)?;
            let combined = value.map(|value| {
                values.push(value);
                values.len() - 1
            });
            let (_, rest) = first.hash.partition(count);
            members.push(HashedKey::new(rest, first.hash, ResultEntry { of, combined }));
        }
        let packed = pack(builder, combine.shape, &members, |kept: &ResultEntry| {
            let (key, value) = inputs.entry(&kept.of)?;
            Ok((key, kept.combined.and_then(|index| values.get(index)).map_or(value, |value| value)))
        })?;
        made.push(packed);
        start = end;
    }
    Ok((made, entries))
}

/// Sorts references by partition, by counting; returns where each ends.
fn by_partition(refs: &[Ref], from: u64, to: u64, count: u64) -> (Vec<Ref>, Vec<usize>) {
    let number = |one: &Ref| usize::try_from(one.hash.partition(count).0.saturating_sub(from)).unwrap_or(0);
    let mut ends = vec![0usize; usize::try_from(to - from).unwrap_or(0) + 1];
    for one in refs {
        ends.get_mut(number(one) + 1).into_iter().for_each(|end| *end += 1);
    }
    let mut sum = 0;
    for end in &mut ends {
        sum += *end;
        *end = sum;
    }
    let mut sorted = vec![Ref::default(); refs.len()];
    for one in refs {
        if let Some(next) = ends.get_mut(number(one)) {
            sorted.get_mut(*next).into_iter().for_each(|room| *room = *one);
            *next += 1;
        }
    }
    ends.pop();
    (sorted, ends)
}
