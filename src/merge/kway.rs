//! Several sorted sources read as one, through a binary heap of their positions.

use std::cmp::Ordering;

use super::source::{Direction, EntryRef, Source, step};
use crate::base::{Result, Seqno};

/// A merge of sources that all run in one direction.
#[derive(Debug)]
pub(crate) struct Kway<S> {
    sources: Vec<S>,
    /// Indexes of the sources that are at an entry; the first is the one to read.
    heap: Vec<usize>,
    direction: Direction,
}

impl<S: Source> Kway<S> {
    /// Returns a merge that is not positioned until [`Kway::seek`].
    pub(crate) fn new(sources: Vec<S>, direction: Direction) -> Self {
        Self { sources, heap: Vec::new(), direction }
    }

    /// Moves every source as [`Source::seek`] does.
    pub(crate) fn seek(&mut self, key: Option<&[u8]>) -> Result<()> {
        for source in &mut self.sources {
            step();
            source.seek(key)?;
        }
        self.rebuild();
        Ok(())
    }

    /// Moves sources without anything as new as `seqno` on to `key`: everything they hold before it is deleted.
    pub(crate) fn skip_older(&mut self, seqno: Seqno, key: Option<&[u8]>) -> Result<()> {
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

    /// Moves sources that are before `key` to it, as [`Source::seek`] does: when a walk jumps, most of the others are
    /// past it already.
    pub(crate) fn skip_to(&mut self, key: &[u8]) -> Result<()> {
        let direction = self.direction;
        self.each(
            |entry| match direction {
                Direction::Forward => entry.key < key,
                Direction::Backward => entry.key >= key,
            },
            |source| source.seek(Some(key)),
        )
    }

    /// Moves sources that are at `key` past every version of it.
    pub(crate) fn skip_key(&mut self, key: &[u8]) -> Result<()> {
        let behind = match self.direction {
            Direction::Forward => [key, &[0]].concat(),
            Direction::Backward => key.to_vec(),
        };
        self.each(|entry| entry.key == key, |source| source.seek(Some(&behind)))
    }

    /// Moves sources that are at `key` past versions newer than `seqno`, as [`Source::skip_newer`] does. Forward only.
    pub(crate) fn skip_newer(&mut self, key: &[u8], seqno: Seqno, purge_horizon: Seqno) -> Result<()> {
        self.each(
            |entry| entry.key == key && entry.seqno > seqno,
            |source| source.skip_newer(key, seqno, purge_horizon),
        )
    }

    /// Moves the sources whose current entry matches `which`.
    fn each(
        &mut self,
        which: impl Fn(&EntryRef<'_>) -> bool,
        mut go_on: impl FnMut(&mut S) -> Result<()>,
    ) -> Result<()> {
        for source in &mut self.sources {
            if source.entry().is_some_and(|entry| which(&entry)) {
                step();
                go_on(source)?;
            }
        }
        self.rebuild();
        Ok(())
    }

    /// Returns a merge of the same sources that runs forward, not positioned.
    pub(crate) fn turned(&self) -> Self {
        Self::new(self.sources.iter().map(Source::turned).collect(), Direction::Forward)
    }

    /// Returns the source that is at the next entry.
    #[inline]
    pub(crate) fn top(&self) -> Option<&S> {
        self.sources.get(*self.heap.first()?)
    }

    /// Steps past the entry at the top.
    #[inline]
    pub(crate) fn advance(&mut self) -> Result<()> {
        let Some(&index) = self.heap.first() else { return Ok(()) };
        let Some(source) = self.sources.get_mut(index) else { return Ok(()) };
        step();
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

    /// Compares two places of the heap: which entry comes first in this direction.
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
