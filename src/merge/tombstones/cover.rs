//! A segment tree over the parts between edges: finds all tombstones over a part in O(log n) lists.

use crate::base::Seqno;
use std::ops::Range;

/// A segment tree: each tombstone is listed, by its number, at the few nodes whose parts it covers completely.
#[derive(Debug, Default)]
pub(super) struct Cover {
    leaves: usize,
    /// Start of each node's list, and the end of the last.
    begins: Vec<u32>,
    /// Lists of all nodes, each ascending.
    pub(super) ranks: Vec<u32>,
    /// For each entry of a list, the tombstone from there on with the lowest gap; empty unless needed.
    lowest: Vec<u32>,
}

/// List of a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct List<'a> {
    pub(super) first: &'a [u32],
    pub(super) lowest: &'a [u32],
}

impl Cover {
    pub(super) fn new(leaves: usize, spans: impl Iterator<Item = (u32, Range<usize>)> + Clone) -> Self {
        let each = |(rank, span): (u32, Range<usize>)| canonical(leaves, span).map(move |node| (rank, node));
        Self::listing(leaves, spans.flat_map(each))
    }

    /// Returns a tree of points: each is listed at every node above it.
    pub(super) fn of_points(leaves: usize, points: impl Iterator<Item = (u32, usize)> + Clone) -> Self {
        let each = |(rank, point): (u32, usize)| upwards(leaves, point).map(move |node| (rank, node));
        Self::listing(leaves, points.flat_map(each))
    }

    fn listing(leaves: usize, listed: impl Iterator<Item = (u32, usize)> + Clone) -> Self {
        let mut begins = vec![0u32; 2 * leaves + 1];
        for (_, node) in listed.clone() {
            begins.get_mut(node + 1).into_iter().for_each(|count| *count += 1);
        }
        let mut sum = 0;
        for begin in &mut begins {
            sum += *begin;
            *begin = sum;
        }
        let mut next = begins.clone();
        let mut ranks = vec![0; sum as usize];
        for (rank, node) in listed {
            if let Some(at) = next.get_mut(node) {
                ranks.get_mut(*at as usize).into_iter().for_each(|room| *room = rank);
                *at += 1;
            }
        }
        Self { leaves, begins, ranks, lowest: Vec::new() }
    }

    pub(super) fn find_lowest(&mut self, gap: impl Fn(u32) -> Seqno) {
        self.lowest = self.ranks.clone();
        for node in self.begins.windows(2) {
            let &[from, to] = node else { continue };
            let mut best: Option<u32> = None;
            for rank in self.lowest.get_mut(from as usize..to as usize).into_iter().flatten().rev() {
                let lower = best.filter(|best| gap(*best) <= gap(*rank)).unwrap_or(*rank);
                best = Some(lower);
                *rank = lower;
            }
        }
    }

    fn list(&self, node: usize) -> List<'_> {
        let begin = |node: usize| self.begins.get(node).map_or(0, |begin| *begin as usize);
        let of = |list: &'_ [u32]| -> Range<usize> { begin(node).min(list.len())..begin(node + 1).min(list.len()) };
        List {
            first: self.ranks.get(of(&self.ranks)).unwrap_or_default(),
            lowest: self.lowest.get(of(&self.lowest)).unwrap_or_default(),
        }
    }

    /// Iterates over the lists that together contain all tombstones over a part.
    pub(super) fn path(&self, part: usize) -> impl Iterator<Item = List<'_>> {
        upwards(self.leaves, part).map(|node| self.list(node))
    }

    /// Iterates, in a tree of points, over the lists that together contain those in a range.
    pub(super) fn within(&self, range: Range<usize>) -> impl Iterator<Item = List<'_>> {
        canonical(self.leaves, range).map(|node| self.list(node))
    }

    pub(super) fn memory(&self) -> usize {
        4 * (self.begins.len() + self.ranks.len() + self.lowest.len())
    }
}

/// Iterates over the nodes from a leaf to the root.
fn upwards(leaves: usize, leaf: usize) -> impl Iterator<Item = usize> + Clone {
    std::iter::successors(Some(leaf + leaves).filter(|_| leaf < leaves), |node| Some(node / 2).filter(|node| *node > 0))
}

/// Iterates over the fewest nodes that make up a range of leaves.
fn canonical(leaves: usize, range: Range<usize>) -> impl Iterator<Item = usize> + Clone {
    let mut ends = (range.start + leaves, range.end.min(leaves) + leaves);
    let mut second = None;
    std::iter::from_fn(move || {
        if let Some(node) = second.take() {
            return Some(node);
        }
        let (left, right) = &mut ends;
        while *left < *right {
            let first = (*left % 2 == 1).then_some(*left);
            *left += *left % 2;
            second = (*right % 2 == 1).then(|| *right - 1);
            *right -= *right % 2;
            *left /= 2;
            *right /= 2;
            if first.is_some() {
                return first;
            }
            if let Some(node) = second.take() {
                return Some(node);
            }
        }
        None
    })
}

/// Trees of the tombstones that have a gap.
#[derive(Debug)]
pub(super) struct Gaps {
    pub(super) over: Cover,
    pub(super) starts: Cover,
}

impl Gaps {
    pub(super) fn memory(&self) -> usize {
        self.over.memory() + self.starts.memory()
    }
}
