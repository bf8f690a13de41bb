//! Tombstones by the numbers of their edges, and the skyline over them: the newest at each key.

use std::ops::Range;

use super::tombstone::Tombstone;

/// Edge past the last: the end of the keyspace.
pub(super) const OPEN: u32 = u32::MAX;

/// No tombstone.
pub(super) const NONE: u32 = u32::MAX;

/// A tombstone by the numbers of its edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) from: u32,
    /// Exclusive; [`OPEN`] without an end.
    pub(super) to: u32,
    pub(super) tombstone: Tombstone,
}

impl Placed {
    #[inline]
    pub(super) fn covers(&self, part: usize) -> bool {
        self.from as usize <= part && (self.to == OPEN || part < self.to as usize)
    }

    /// Returns the same tombstone with its edges renumbered.
    pub(super) fn moved(&self, map: &[u32]) -> Self {
        let mapped = |at: u32| map.get(at as usize).copied().unwrap_or(OPEN);
        Self { from: mapped(self.from), to: mapped(self.to), ..*self }
    }

    /// Returns the parts that it covers, out of `count`.
    #[inline]
    pub(super) fn parts(&self, count: usize) -> Range<usize> {
        self.from as usize..if self.to == OPEN { count } else { self.to as usize }
    }
}

#[inline]
pub(super) fn number(count: usize) -> u32 {
    // A batch is too short for that many, and so is a section of a segment.
    debug_assert!(count < OPEN as usize, "{count} edges or range tombstones");
    u32::try_from(count).unwrap_or(OPEN)
}

/// Computes the skyline of tombstones over so many parts, in almost linear time: newest first, each painted where
/// nothing is painted yet.
pub(super) fn paint(parts: usize, all: &[Placed]) -> Vec<(u32, u32)> {
    let mut tops = vec![NONE; parts];
    // The first unpainted part from each on.
    let mut free: Vec<u32> = (0..=number(parts)).collect();
    let find = |free: &mut Vec<u32>, from: u32| {
        let next = |free: &Vec<u32>, at: u32| free.get(at as usize).copied().unwrap_or(at);
        let mut at = from;
        while next(free, at) != at {
            let skip = next(free, next(free, at));
            free.get_mut(at as usize).into_iter().for_each(|next| *next = skip);
            at = skip;
        }
        at
    };
    for (rank, one) in all.iter().enumerate().rev() {
        let end = number(one.parts(parts).end);
        let mut at = find(&mut free, one.from);
        while at < end {
            tops.get_mut(at as usize).into_iter().for_each(|top| *top = number(rank));
            free.get_mut(at as usize).into_iter().for_each(|next| *next = at + 1);
            at = find(&mut free, at + 1);
        }
    }
    let mut skyline: Vec<(u32, u32)> = Vec::new();
    for (at, top) in tops.into_iter().enumerate() {
        if skyline.last().is_none_or(|(_, last)| *last != top) {
            skyline.push((number(at), top));
        }
    }
    skyline
}
