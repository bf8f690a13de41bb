//! Destination of the versions that survive a job: the two tiers, and the segment being written in each.

use super::policy::entry_bytes;
use crate::{
    base::{Kind, Result},
    segment::{Entry, SegmentWriter},
};

/// Tier that an entry goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    Main,
    History,
}

/// Receives the versions that survive, in order: keys ascending, the versions of a key in each tier newest first.
pub(crate) trait Output {
    fn add(&mut self, tier: Tier, entry: &Entry, key: &[u8], value: &[u8]) -> Result<()>;
}

/// The segments being written, one in each tier.
#[derive(Debug)]
pub(super) struct Writers<C> {
    create: C,
    main: Option<SegmentWriter>,
    history: Option<SegmentWriter>,
    /// Entries written so far, in both tiers.
    count: u64,
    /// Bytes of the large values whose recipes are among them.
    large: u64,
}

impl<C: FnMut(Tier) -> Result<SegmentWriter>> Writers<C> {
    /// Returns writers that begin a segment, with `create`, when there is something to write.
    pub(super) fn new(create: C) -> Self {
        Self { create, main: None, history: None, count: 0, large: 0 }
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

    /// Takes out the segment that is being written in a tier: later entries of that tier go to another one.
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

    /// Returns the bytes of the large values whose recipes were written.
    pub(super) fn large(&self) -> u64 {
        self.large
    }

    /// Returns the number of entries written in both tiers.
    pub(super) fn count(&self) -> u64 {
        self.count
    }
}

impl<C: FnMut(Tier) -> Result<SegmentWriter>> Output for Writers<C> {
    fn add(&mut self, tier: Tier, entry: &Entry, key: &[u8], value: &[u8]) -> Result<()> {
        let Self { create, main, history, count, large } = self;
        *count += 1;
        if entry.kind == Kind::Recipe {
            *large += entry_bytes(entry.kind, &[], value);
        }
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
