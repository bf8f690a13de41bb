//! A set that grows: a stack of sets, newest last, each at least twice as long as the next.

use std::sync::Arc;

use super::{
    set::Tombstones,
    skyline::{NONE, OPEN, Placed, number},
};
use crate::base::Bytes;

/// Pushes a set onto a stack with the newest last, so that each is at least twice as long as the next: there are never
/// more than log n. Returns how many tombstones were moved: each is moved about log n times at most.
pub(crate) fn push(stack: &mut Vec<Arc<Tombstones>>, newest: Tombstones) -> usize {
    let mut last = newest;
    let mut moved = 0;
    while let Some(before) = stack.pop_if(|before| before.len() < 2 * last.len()) {
        last = before.merged(&last);
        moved += last.len();
    }
    stack.push(Arc::new(last));
    moved
}

impl Tombstones {
    /// Merges two sets. All of `newer` were written after all of this.
    fn merged(&self, newer: &Self) -> Self {
        let mut edges: Vec<Bytes> = Vec::with_capacity(self.edges.len() + newer.edges.len());
        let mut maps = [Vec::with_capacity(self.edges.len()), Vec::with_capacity(newer.edges.len())];
        let [old_map, new_map] = &mut maps;
        let (mut old, mut new) = (self.edges.iter().peekable(), newer.edges.iter().peekable());
        loop {
            let next = match (old.peek(), new.peek()) {
                (None, None) => break,
                (Some(edge), None) | (None, Some(edge)) => edge,
                (Some(a), Some(b)) => {
                    if ***a <= ***b {
                        a
                    } else {
                        b
                    }
                }
            };
            let edge = Bytes::clone(next);
            let at = number(edges.len());
            if old.next_if(|old| ***old == *edge).is_some() {
                old_map.push(at);
            }
            if new.next_if(|new| ***new == *edge).is_some() {
                new_map.push(at);
            }
            edges.push(edge);
        }
        let mapped = |map: &[u32], at: u32| map.get(at as usize).copied().unwrap_or(OPEN);
        let mut all: Vec<Placed> = Vec::with_capacity(self.all.len() + newer.all.len());
        all.extend(self.all.iter().map(|one| one.moved(old_map)));
        all.extend(newer.all.iter().map(|one| one.moved(new_map)));

        let behind = number(self.all.len());
        let mut skyline: Vec<(u32, u32)> = Vec::with_capacity(self.skyline.len() + newer.skyline.len());
        let mut old = self.skyline.iter().map(|(at, top)| (mapped(old_map, *at), *top)).peekable();
        let mut new = newer.skyline.iter().map(|(at, top)| (mapped(new_map, *at), *top)).peekable();
        let (mut below, mut above) = (NONE, NONE);
        while let Some(at) = old.peek().into_iter().chain(new.peek()).map(|(at, _)| *at).min() {
            below = old.next_if(|(next, _)| *next == at).map_or(below, |(_, top)| top);
            above = new.next_if(|(next, _)| *next == at).map_or(above, |(_, top)| top);
            let top = if above == NONE { below } else { above + behind };
            if skyline.last().is_none_or(|(_, last)| *last != top) {
                skyline.push((at, top));
            }
        }
        Self::with(edges, all, skyline)
    }
}
