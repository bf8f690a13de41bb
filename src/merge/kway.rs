//! Several sorted sources read as one, with a binary heap of their places.

use std::cmp::Ordering;

use super::{Direction, Source};
use crate::base::Result;

/// A merge of sources that all run in one direction.
#[derive(Debug)]
pub(crate) struct Kway<S> {
    sources: Vec<S>,
    /// Indexes of the sources that stand at an entry; the first is the one to read.
    heap: Vec<usize>,
    direction: Direction,
}

impl<S: Source> Kway<S> {
    /// A merge that stands nowhere until [`Kway::seek`].
    pub(crate) fn new(sources: Vec<S>, direction: Direction) -> Self {
        Self { sources, heap: Vec::new(), direction }
    }

    /// Moves every source, as [`Source::seek`] says.
    pub(crate) fn seek(&mut self, key: Option<&[u8]>) -> Result<()> {
        for source in &mut self.sources {
            source.seek(key)?;
        }
        self.rebuild();
        Ok(())
    }

    /// Moves the sources that hold nothing as new as `seqno` on to `key`: what they hold before it is deleted.
    pub(crate) fn skip_older(&mut self, seqno: u64, key: Option<&[u8]>) -> Result<()> {
        let direction = self.direction;
        let mut moved = false;
        for source in &mut self.sources {
            if source.newest() < seqno
                && let Some(entry) = source.entry()
                && key.is_none_or(|key| match direction {
                    Direction::Forward => entry.key < key,
                    Direction::Backward => entry.key >= key,
                })
            {
                source.seek(key)?;
                moved = true;
            }
        }
        if moved {
            self.rebuild();
        }
        Ok(())
    }

    /// The source that stands at the next entry.
    #[inline]
    pub(crate) fn top(&self) -> Option<&S> {
        self.sources.get(*self.heap.first()?)
    }

    /// Steps over the entry at the top.
    #[inline]
    pub(crate) fn advance(&mut self) -> Result<()> {
        let Some(&index) = self.heap.first() else { return Ok(()) };
        let Some(source) = self.sources.get_mut(index) else { return Ok(()) };
        source.advance()?;
        if source.entry().is_none() {
            self.heap.swap_remove(0);
        }
        if self.heap.len() > 1 {
            self.sift_down(0);
        }
        Ok(())
    }

    fn rebuild(&mut self) {
        self.heap.clear();
        for (index, source) in self.sources.iter().enumerate() {
            if source.entry().is_some() {
                self.heap.push(index);
            }
        }
        for place in (0..self.heap.len() / 2).rev() {
            self.sift_down(place);
        }
    }

    fn sift_down(&mut self, mut place: usize) {
        loop {
            let left = 2 * place + 1;
            let mut first = place;
            for child in [left, left + 1] {
                if child < self.heap.len() && self.order(child, first) == Ordering::Less {
                    first = child;
                }
            }
            if first == place {
                return;
            }
            self.heap.swap(place, first);
            place = first;
        }
    }

    /// The order of two places of the heap: which entry comes first in this direction.
    fn order(&self, a: usize, b: usize) -> Ordering {
        let entry = |place: usize| self.heap.get(place).and_then(|&i| self.sources.get(i)?.entry());
        let (Some(a), Some(b)) = (entry(a), entry(b)) else { return Ordering::Equal };
        let forward = a.key.cmp(b.key).then_with(|| (b.seqno, b.ordinal).cmp(&(a.seqno, a.ordinal)));
        match self.direction {
            Direction::Forward => forward,
            Direction::Backward => forward.reverse(),
        }
    }
}
