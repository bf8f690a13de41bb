//! A set of range tombstones: construction, stored form, and iteration.

use std::sync::{Arc, OnceLock};

use super::{
    cover::{Cover, Gaps},
    skyline::{OPEN, Placed, number, paint},
    tombstone::{RangeTombstone, Tombstone},
};
use crate::base::{Bytes, KeySpan, Seqno};

/// Range tombstones of one source.
#[derive(Debug, Default)]
pub(crate) struct Tombstones {
    /// Every key at which one begins or ends, in order. Part i reaches from edge i to the next one.
    pub(super) edges: Vec<Bytes>,
    /// Oldest first.
    pub(super) all: Vec<Placed>,
    /// Pairs of an edge and the tombstone that is newest from there to the edge of the next pair.
    pub(super) skyline: Vec<(u32, u32)>,
    /// Seqno of the newest purge; and, of the tombstones with a gap, the newest seqno and the lowest gap.
    pub(super) newest_purge: Option<Seqno>,
    pub(super) gapped: Option<(Seqno, Seqno)>,
    pub(super) covers: OnceLock<Cover>,
    pub(super) gaps: OnceLock<Gaps>,
    pub(super) purges: OnceLock<Box<Self>>,
}

impl Clone for Tombstones {
    fn clone(&self) -> Self {
        let (edges, all, skyline) = (self.edges.clone(), self.all.clone(), self.skyline.clone());
        let Self { newest_purge, gapped, .. } = *self;
        Self { edges, all, skyline, newest_purge, gapped, ..Self::default() }
    }
}

impl PartialEq for Tombstones {
    fn eq(&self, other: &Self) -> bool {
        (&self.edges, &self.all) == (&other.edges, &other.all)
    }
}

impl Eq for Tombstones {}

impl Tombstones {
    /// Builds a set from the tombstones of a source, in any order. Adjacent pieces of one that was cut are joined
    /// again.
    pub(crate) fn new(tombstones: impl IntoIterator<Item = RangeTombstone>) -> Self {
        let all: Vec<RangeTombstone> = tombstones.into_iter().filter(|one| !one.span.is_empty()).collect();
        let mut edges: Vec<&[u8]> = Vec::with_capacity(2 * all.len());
        for one in &all {
            edges.push(&one.span.start);
            edges.extend(one.span.end.as_deref());
        }
        edges.sort_unstable();
        edges.dedup();
        let place = |key: &[u8]| number(edges.partition_point(|edge| *edge < key));
        let placed = |one: &RangeTombstone| Placed {
            from: place(&one.span.start),
            to: one.span.end.as_deref().map_or(OPEN, place),
            tombstone: one.tombstone,
        };
        let placed = all.iter().map(placed).collect();
        Self::assembled(edges.into_iter().map(Bytes::copy_from).collect(), placed)
    }

    /// Builds one set from those of several sources.
    pub(crate) fn joined(sets: &[Arc<Self>]) -> Self {
        let mut edges: Vec<Bytes> = sets.iter().flat_map(|set| set.edges.iter().cloned()).collect();
        edges.sort_unstable();
        edges.dedup();
        let mut all = Vec::with_capacity(sets.iter().map(|set| set.all.len()).sum());
        for set in sets {
            let place = |edge: &Bytes| number(edges.partition_point(|known| **known < **edge));
            let map: Vec<u32> = set.edges.iter().map(place).collect();
            all.extend(set.all.iter().map(|one| one.moved(&map)));
        }
        Self::assembled(edges, all)
    }

    /// Builds a set from pieces between sorted edges, in any order.
    pub(crate) fn of_pieces(
        edges: Vec<Bytes>,
        pieces: impl Iterator<Item = (usize, Option<usize>, Tombstone)>,
    ) -> Self {
        let placed = |(from, to, tombstone): (usize, Option<usize>, Tombstone)| Placed {
            from: number(from),
            to: to.map_or(OPEN, number),
            tombstone,
        };
        Self::assembled(edges, pieces.map(placed).collect())
    }

    /// Builds a set from sorted edges and tombstones in any order: joins adjacent pieces of one, and drops unused
    /// edges.
    pub(super) fn assembled(edges: Vec<Bytes>, mut all: Vec<Placed>) -> Self {
        all.sort_unstable_by_key(|one| (one.tombstone, one.from));
        all.dedup_by(|right, left| {
            let touch = left.tombstone == right.tombstone && left.to == right.from;
            if touch {
                left.to = right.to;
            }
            touch
        });
        let mut used = vec![false; edges.len()];
        for at in all.iter().flat_map(|one| [one.from, one.to]) {
            used.get_mut(at as usize).into_iter().for_each(|used| *used = true);
        }
        if used.iter().all(|used| *used) {
            return Self::of(edges, all);
        }
        let mut map = Vec::with_capacity(edges.len());
        let mut kept = Vec::new();
        for (edge, used) in edges.into_iter().zip(used) {
            map.push(number(kept.len()));
            kept.extend(Some(edge).filter(|_| used));
        }
        Self::of(kept, all.iter().map(|one| one.moved(&map)).collect())
    }

    /// Builds a set from sorted edges, and tombstones in commit order.
    pub(super) fn of(edges: Vec<Bytes>, all: Vec<Placed>) -> Self {
        let skyline = paint(edges.len(), &all);
        Self::with(edges, all, skyline)
    }

    pub(super) fn with(edges: Vec<Bytes>, all: Vec<Placed>, skyline: Vec<(u32, u32)>) -> Self {
        let mut set = Self { edges, all, skyline, ..Self::default() };
        set.newest_purge = set.all.iter().rfind(|one| one.tombstone.purge).map(|one| one.tombstone.seqno);
        let gaps = set.all.iter().filter_map(|one| Some((one.tombstone.seqno, one.tombstone.gap_start?)));
        set.gapped = gaps.reduce(|(newest, lowest), (seqno, gap)| (newest.max(seqno), lowest.min(gap)));
        set
    }

    /// Builds a set from its encoded form: edges in order, and for each tombstone the numbers of its edges, the second
    /// `None` without an end. Returns `None` if they are inconsistent.
    pub(crate) fn from_parts(edges: Vec<Bytes>, parts: &[(u32, Option<u32>, Tombstone)]) -> Option<Self> {
        let within = |at: u32| (at as usize) < edges.len();
        let sound = |(from, to, _): &(u32, Option<u32>, Tombstone)| {
            within(*from) && to.is_none_or(|to| within(to) && *from < to)
        };
        let ordered = parts.is_sorted_by(|(.., a), (.., b)| (a.seqno, a.ordinal) <= (b.seqno, b.ordinal));
        if !edges.is_sorted_by(|a, b| **a < **b) || !parts.iter().all(sound) || !ordered {
            return None;
        }
        let placed =
            |&(from, to, tombstone): &(u32, Option<u32>, Tombstone)| Placed { from, to: to.unwrap_or(OPEN), tombstone };
        let all = parts.iter().map(placed).collect();
        Some(Self::of(edges, all))
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// Returns the memory it takes, in bytes.
    pub(crate) fn memory(&self) -> usize {
        let keys: usize = self.edges.iter().map(|edge| size_of::<Bytes>() + edge.len()).sum();
        let covers = self.covers.get().map_or(0, Cover::memory);
        let gaps = self.gaps.get().map_or(0, Gaps::memory);
        let purges = self.purges.get().map_or(0, |purges| purges.memory());
        keys + self.all.len() * size_of::<Placed>() + self.skyline.len() * 8 + covers + gaps + purges
    }

    #[inline]
    pub(super) fn newest_seqno(&self) -> Seqno {
        self.all.last().map_or(Seqno(0), |one| one.tombstone.seqno)
    }

    /// Returns the edges in order, and each tombstone, oldest first, by the numbers of its edges: the input of
    /// [`Tombstones::from_parts`].
    pub(crate) fn parts(&self) -> (&[Bytes], impl Iterator<Item = (u32, Option<u32>, &Tombstone)>) {
        let end = |to: u32| Some(to).filter(|to| *to != OPEN);
        (&self.edges, self.all.iter().map(move |one| (one.from, end(one.to), &one.tombstone)))
    }

    /// Iterates over all of them, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>, &Tombstone)> {
        self.all.iter().map(|one| (self.edge(one.from).unwrap_or_default(), self.edge(one.to), &one.tombstone))
    }

    /// Copies all of them.
    pub(crate) fn to_vec(&self) -> Vec<RangeTombstone> {
        let whole = |(start, end, tombstone): (&[u8], Option<&[u8]>, &Tombstone)| RangeTombstone {
            span: KeySpan { start: start.to_vec(), end: end.map(<[u8]>::to_vec) },
            tombstone: *tombstone,
        };
        self.iter().map(whole).collect()
    }

    /// Returns the span from the start of the first to the end of the last, which may be open.
    pub(crate) fn span(&self) -> Option<KeySpan> {
        let start = self.edges.first()?.to_vec();
        let open = self.all.iter().any(|one| one.to == OPEN);
        Some(KeySpan { start, end: self.edges.last().filter(|_| !open).map(|end| end.to_vec()) })
    }

    #[inline]
    pub(super) fn edge(&self, at: u32) -> Option<&[u8]> {
        self.edges.get(at as usize).map(|edge| &**edge)
    }
}
