//! Where the versions go that survive a job: the two lanes, and the segment that is being written in each.

use crate::{
    base::Result,
    segment::{Entry, SegmentWriter},
};

/// Where an entry goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Main,
    Past,
}

/// Takes the versions that survive, in order: keys ascending, the versions of a key in each lane newest first.
pub(crate) trait Output {
    fn add(&mut self, lane: Lane, entry: &Entry, key: &[u8], value: &[u8]) -> Result<()>;
}

/// The segments that are being written, one in each lane.
#[derive(Debug)]
pub(super) struct Writers<C> {
    create: C,
    main: Option<SegmentWriter>,
    past: Option<SegmentWriter>,
    /// Entries written so far.
    count: u64,
}

impl<C: FnMut(Lane) -> Result<SegmentWriter>> Writers<C> {
    /// Writers that begin a segment when there is something to write, by `create`.
    pub(super) fn new(create: C) -> Self {
        Self { create, main: None, past: None, count: 0 }
    }

    /// Begins the segment of a lane, if none is being written.
    pub(super) fn open(&mut self, lane: Lane) -> Result<()> {
        let writer = match lane {
            Lane::Main => &mut self.main,
            Lane::Past => &mut self.past,
        };
        if writer.is_none() {
            *writer = Some((self.create)(lane)?);
        }
        Ok(())
    }

    /// Takes the segment out that is being written: what follows in its lane goes to another one.
    pub(super) fn take(&mut self, lane: Lane) -> Option<SegmentWriter> {
        match lane {
            Lane::Main => self.main.take(),
            Lane::Past => self.past.take(),
        }
    }

    pub(super) fn is_full(&self, lane: Lane, len: u64) -> bool {
        let writer = match lane {
            Lane::Main => &self.main,
            Lane::Past => &self.past,
        };
        writer.as_ref().is_some_and(|writer| writer.is_full(len))
    }

    /// Entries written in both lanes.
    pub(super) fn count(&self) -> u64 {
        self.count
    }
}

impl<C: FnMut(Lane) -> Result<SegmentWriter>> Output for Writers<C> {
    fn add(&mut self, lane: Lane, entry: &Entry, key: &[u8], value: &[u8]) -> Result<()> {
        let Self { create, main, past, count } = self;
        *count += 1;
        let writer = match lane {
            Lane::Main => main,
            Lane::Past => past,
        };
        match writer {
            Some(writer) => writer.add(entry, key, value),
            None => writer.insert(create(lane)?).add(entry, key, value),
        }
    }
}
