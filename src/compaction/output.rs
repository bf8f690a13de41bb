//! Where the versions go that survive a job: the two tiers, and the segment that is being written in each.

use crate::{
    base::Result,
    segment::{Entry, SegmentWriter},
};

/// Where an entry goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    Main,
    History,
}

/// Takes the versions that survive, in order: keys ascending, the versions of a key in each tier newest first.
pub(crate) trait Output {
    fn add(&mut self, tier: Tier, entry: &Entry, key: &[u8], value: &[u8]) -> Result<()>;
}

/// The segments that are being written, one in each tier.
#[derive(Debug)]
pub(super) struct Writers<C> {
    create: C,
    main: Option<SegmentWriter>,
    history: Option<SegmentWriter>,
    /// Entries written so far.
    count: u64,
}

impl<C: FnMut(Tier) -> Result<SegmentWriter>> Writers<C> {
    /// Writers that begin a segment when there is something to write, by `create`.
    pub(super) fn new(create: C) -> Self {
        Self { create, main: None, history: None, count: 0 }
    }

    /// Begins the segment of a tier, if none is being written.
    pub(super) fn open(&mut self, tier: Tier) -> Result<()> {
        let writer = match tier {
            Tier::Main => &mut self.main,
            Tier::History => &mut self.history,
        };
        if writer.is_none() {
            *writer = Some((self.create)(tier)?);
        }
        Ok(())
    }

    /// Takes the segment out that is being written: what follows in its tier goes to another one.
    pub(super) fn take(&mut self, tier: Tier) -> Option<SegmentWriter> {
        match tier {
            Tier::Main => self.main.take(),
            Tier::History => self.history.take(),
        }
    }

    pub(super) fn is_full(&self, tier: Tier, len: u64) -> bool {
        let writer = match tier {
            Tier::Main => &self.main,
            Tier::History => &self.history,
        };
        writer.as_ref().is_some_and(|writer| writer.is_full(len))
    }

    /// Entries written in both tiers.
    pub(super) fn count(&self) -> u64 {
        self.count
    }
}

impl<C: FnMut(Tier) -> Result<SegmentWriter>> Output for Writers<C> {
    fn add(&mut self, tier: Tier, entry: &Entry, key: &[u8], value: &[u8]) -> Result<()> {
        let Self { create, main, history, count } = self;
        *count += 1;
        let writer = match tier {
            Tier::Main => main,
            Tier::History => history,
        };
        match writer {
            Some(writer) => writer.add(entry, key, value),
            None => writer.insert(create(tier)?).add(entry, key, value),
        }
    }
}
