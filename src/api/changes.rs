//! Iterators over the past: versions of a key, commits, differences between two views.

use std::{cmp::Ordering, fmt, sync::Arc, time::SystemTime};

use super::Range;
use crate::{
    base::{Bytes, Error, Result, Seqno},
    engine::{
        Engine,
        read::{CommitWalk, KeyVersion, RangeWalk, VersionWalk},
    },
    merge::Stored,
};

/// A version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Commit that wrote it.
    pub seqno: Seqno,
    /// Time of the commit.
    pub time: SystemTime,
    /// The value; `None` for a delete. A value that has expired is listed until a compaction drops it.
    pub value: Option<Bytes>,
}

/// Iterates over the versions of a key, newest first: see [`Keyspace::history`](super::Keyspace::history). An error
/// about one version does not end it.
///
/// Every version that still exists is listed. [`is_complete`](History::is_complete) is `false` if one between or before
/// them is known to be missing.
#[must_use = "iterators are lazy"]
pub struct History {
    walk: Option<VersionWalk>,
    /// Returned as the first item.
    wrong: Option<Error>,
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "History(complete: {})", self.is_complete())
    }
}

impl History {
    pub(super) fn new(walk: Result<Option<VersionWalk>>) -> Self {
        match walk {
            Ok(walk) => Self { walk, wrong: None },
            Err(wrong) => Self { walk: None, wrong: Some(wrong) },
        }
    }

    /// Returns whether no version is known to be missing: between those listed so far and, at the end, before them.
    /// Deletes of keys that did not exist may be left out.
    pub fn is_complete(&self) -> bool {
        self.walk.as_ref().is_none_or(VersionWalk::is_complete)
    }
}

impl Iterator for History {
    type Item = Result<Version>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(wrong) = self.wrong.take() {
            return Some(Err(wrong));
        }
        let told = self.walk.as_mut()?.next().transpose()?;
        Some(told.and_then(Version::of))
    }
}

impl Version {
    fn of(KeyVersion { seqno, time, value }: KeyVersion) -> Result<Self> {
        Ok(Self { seqno, time: time.to_time(), value: value? })
    }
}

/// Iterates over the versions of the keys of a range, by key and newest first: see
/// [`Keyspace::history_range`](super::Keyspace::history_range). An error about one version does not end it.
///
/// A key is listed while it has an entry of its own: one deleted by a range delete, with no other version left, is not.
#[must_use = "iterators are lazy"]
pub struct HistoryRange {
    walk: Option<RangeWalk>,
    /// Returned as the first item.
    wrong: Option<Error>,
}

impl fmt::Debug for HistoryRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HistoryRange(complete: {})", self.is_complete())
    }
}

impl HistoryRange {
    pub(super) fn new(walk: Result<Option<RangeWalk>>) -> Self {
        match walk {
            Ok(walk) => Self { walk, wrong: None },
            Err(wrong) => Self { walk: None, wrong: Some(wrong) },
        }
    }

    /// Returns whether no version of the keys listed so far is known to be missing. See [`History::is_complete`].
    pub fn is_complete(&self) -> bool {
        self.walk.as_ref().is_none_or(RangeWalk::is_complete)
    }
}

impl Iterator for HistoryRange {
    type Item = Result<(Bytes, Version)>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(wrong) = self.wrong.take() {
            return Some(Err(wrong));
        }
        let told = self.walk.as_mut()?.next().transpose()?;
        Some(told.and_then(|(key, told)| Ok((key, Version::of(told)?))))
    }
}

/// A commit, as [`Db::commits`](super::Db::commits) lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Place in the order of all commits.
    pub seqno: Seqno,
    /// Time of the commit.
    pub time: SystemTime,
    /// Number of entries it wrote. Operations that a merge strategy ignored are not counted; states that the engine
    /// wrote to end long chains of operands are.
    pub writes: u32,
}

/// Iterates over commits, oldest first: see [`Db::commits`](super::Db::commits). An error ends it.
#[must_use = "iterators are lazy"]
pub struct Commits {
    engine: Arc<Engine>,
    walk: Option<CommitWalk>,
    wrong: Option<Error>,
    /// First seqno that is not listed.
    end: Seqno,
}

impl fmt::Debug for Commits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Commits(before {})", self.end)
    }
}

impl Commits {
    pub(super) fn new(engine: &Arc<Engine>, walk: Result<CommitWalk>, end: Seqno) -> Self {
        let (walk, wrong) = match walk {
            Ok(walk) => (Some(walk), None),
            Err(wrong) => (None, Some(wrong)),
        };
        Self { engine: Arc::clone(engine), walk, wrong, end }
    }
}

impl Iterator for Commits {
    type Item = Result<Commit>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(wrong) = self.wrong.take() {
            return Some(Err(wrong));
        }
        let walk = self.walk.as_mut()?;
        match self.engine.check_open().and_then(|()| walk.next()) {
            Ok(Some(stamp)) if stamp.seqno < self.end => {
                let (seqno, time) = (stamp.seqno, stamp.time.to_time());
                return Some(Ok(Commit { seqno, time, writes: stamp.writes }));
            }
            Ok(_) => self.walk = None,
            Err(error) => {
                self.walk = None;
                return Some(Err(error));
            }
        }
        None
    }
}

impl std::iter::FusedIterator for Commits {}

/// A key whose value differs between two views.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// Value in the first view; `None` if the key did not exist.
    pub before: Option<Bytes>,
    /// Value in the second view; `None` if the key did not exist.
    pub after: Option<Bytes>,
}

/// Iterates over the keys that differ between two views, in order: see [`Db::diff`](super::Db::diff). A key whose value
/// cannot be read in one of them yields an error, as in [`Range`], and iteration continues after it; any other error
/// ends it.
#[derive(Debug)]
#[must_use = "iterators are lazy"]
pub struct Diff {
    before: Ahead,
    after: Ahead,
    ended: bool,
}

/// A range with its next item at hand.
#[derive(Debug)]
struct Ahead {
    range: Range,
    next: Option<(Bytes, Result<Stored>)>,
}

impl Ahead {
    fn fill(&mut self) -> Result<()> {
        if self.next.is_none() {
            self.next = self.range.next_keyed()?;
        }
        Ok(())
    }
}

impl Diff {
    pub(super) fn new(before: Range, after: Range) -> Self {
        let ahead = |range| Ahead { range, next: None };
        Self { before: ahead(before), after: ahead(after), ended: false }
    }

    /// Returns the next change, or the reason why the next key cannot be compared.
    fn step(&mut self) -> Result<Option<Result<Change>>> {
        loop {
            self.before.fill()?;
            self.after.fill()?;
            let order = match (&self.before.next, &self.after.next) {
                (None, None) => return Ok(None),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((before, _)), Some((after, _))) => before.cmp(after),
            };
            let before = if order == Ordering::Greater { None } else { self.before.next.take() };
            let after = if order == Ordering::Less { None } else { self.after.next.take() };
            let key = before.as_ref().or(after.as_ref()).map(|(key, _)| key.clone()).unwrap_or_default();
            let value = |side: Option<(Bytes, Result<Stored>)>| side.map(|(_, value)| value).transpose();
            let (before, after) = match value(before).and_then(|before| Ok((before, value(after)?))) {
                // Of equal recipes no chunk is read (L14).
                Ok((before, after)) if before == after => continue,
                Ok(differ) => differ,
                Err(error) => return Ok(Some(Err(error))),
            };
            if let (Some(one), Some(other)) = (&before, &after) {
                // Equal values may be cut differently, and be too long to be read at once.
                match self.before.range.is_equal(&key, one, &self.after.range, other) {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(error) => return Ok(Some(Err(error))),
                }
            }
            // Each in the files that it was read from.
            let before = self.before.range.assemble(&key, before);
            let told = before.and_then(|before| Ok((before, self.after.range.assemble(&key, after)?)));
            return Ok(Some(told.map(|(before, after)| Change { key, before, after })));
        }
    }
}

impl Iterator for Diff {
    type Item = Result<Change>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        // A callback that panics ends it.
        self.ended = true;
        let stepped = self.step();
        self.ended = !matches!(stepped, Ok(Some(_)));
        match stepped {
            Ok(told) => told,
            Err(error) => Some(Err(error)),
        }
    }
}

impl std::iter::FusedIterator for Diff {}
