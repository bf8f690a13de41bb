//! Scan of a span as a reader sees it: each visible key with its value, in one direction.
//!
//! The versions of a key are adjacent in the merge; each is shown to a `Lookup`, which decides what they amount to.
//! Around that, a walk skips everything invisible: the other versions of a key, keys that range tombstones hide, and
//! spans that an earlier reader found to hold nothing.

use std::{cmp::Ordering, sync::Arc};

use super::{
    dead_spans::{DeadSpans, LOOK_AFTER, WORTH, WORTH_FIRST},
    kway::Kway,
    lookup::{Answer, EntryMeta, Lookup, Meaning, ReadAt, Stored},
    source::{Direction, Source},
    strategy::MergeStrategy,
    tombstones::{Newest, Overhead, Shown, Tombstones},
};
use crate::base::{Bytes, Corruption, Error, KeySpan, KeyspaceId, Kind, Result};

/// Versions of a key that are stepped over one by one; beyond that the walk seeks the one it wants.
const VERSIONS_MAX: usize = 8;

/// Progress of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Walk {
    New,
    UnderWay,
    Ended,
}

/// Consecutive keys with nothing visible.
#[derive(Debug, Default)]
struct DeadStretch {
    /// Whether anything was seen before.
    begun: bool,
    count: usize,
    first: Vec<u8>,
    /// Last of them; after a jump its target, which forward may be visible.
    last: Vec<u8>,
    jumped: bool,
    /// Count at which to look for a known span, and the number of keys until the look after that.
    look_at: usize,
    step: usize,
}

impl DeadStretch {
    /// Counts a key, taking its buffer; returns whether it is time to look.
    #[inline]
    fn add(&mut self, key: &mut Vec<u8>) -> bool {
        if self.count == 0 {
            self.first.clear();
            self.first.extend_from_slice(key);
            (self.look_at, self.step) = (LOOK_AFTER, LOOK_AFTER);
        }
        self.count += 1;
        self.jumped = false;
        std::mem::swap(&mut self.last, key);
        self.count == self.look_at
    }

    /// Records the result of a look. After one span there is often another, with a key between them that was put into
    /// both; elsewhere, doubling the distance of the next look costs little, and overshoots by no more than was walked.
    fn record_look(&mut self, to: Option<&mut Vec<u8>>) {
        if let Some(to) = to {
            std::mem::swap(&mut self.last, to);
            self.jumped = true;
            self.step = 1;
            self.look_at = self.count + 1;
        } else {
            self.look_at += self.step;
            self.step *= 2;
        }
    }

    /// Returns the range from the smallest of the keys to past the largest, and restarts the count.
    fn take(&mut self, direction: Direction) -> (&[u8], &[u8]) {
        self.count = 0;
        match direction {
            Direction::Forward => {
                if !self.jumped {
                    self.last.push(0);
                }
                (&self.first, &self.last)
            }
            Direction::Backward => {
                self.first.push(0);
                (&self.last, &self.first)
            }
        }
    }
}

/// Keys and values that a reader sees in a span, in one direction.
#[derive(Debug)]
pub(crate) struct Visible<S> {
    merge: Kway<S>,
    /// Range tombstones of all sources.
    tombstones: Overhead,
    /// Whether there are none, and nothing expires.
    is_plain: bool,
    read_at: ReadAt,
    span: KeySpan,
    direction: Direction,
    strategy: MergeStrategy,
    /// Known spans that hold nothing, if this reader may use and extend them.
    dead: Option<(Arc<DeadSpans>, KeyspaceId)>,
    /// Consecutive keys with nothing visible.
    passed: DeadStretch,
    /// Backward: the same sources running forward, for keys with many versions.
    turned: Option<Kway<S>>,
    /// Copy of the current key: its source moves on.
    key: Vec<u8>,
    /// Current value if no source is at it: after a fold, and backward.
    held: Option<Bytes>,
    /// Whether the current value is a large one, by its recipe. Kept apart: a scan would decode the entry once more.
    recipe: bool,
    /// Position of the merge (forward).
    stands: Stands,
    walk: Walk,
    /// Whether the value of the current key cannot be determined; other keys are unaffected.
    key_failed: bool,
}

/// Position of the merge in a forward walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    /// At an entry that was not examined yet.
    Elsewhere,
    /// At the value that was returned for the current key.
    AtValue,
    /// Past the entries that made the value, perhaps among other versions of the current key.
    BehindValue,
}

/// Reports entries out of order, with which a walk would loop for ever.
#[cold]
fn out_of_order() -> Error {
    Corruption { offset: 0, what: "keys in their order" }.into()
}

impl<S: Source> Visible<S> {
    pub(crate) fn new(
        merge: Kway<S>,
        tombstones: Vec<Vec<Arc<Tombstones>>>,
        read_at: ReadAt,
        span: KeySpan,
        direction: Direction,
        strategy: MergeStrategy,
    ) -> Self {
        Self {
            is_plain: read_at.cutoffs.is_none() && tombstones.iter().all(Vec::is_empty),
            merge,
            strategy,
            tombstones: Overhead::new(tombstones, read_at.seqno, read_at.purge_horizon),
            read_at,
            walk: if span.is_empty() { Walk::Ended } else { Walk::New },
            span,
            direction,
            dead: None,
            passed: DeadStretch::default(),
            turned: None,
            key: Vec::new(),
            held: None,
            recipe: false,
            stands: Stands::Elsewhere,
            key_failed: false,
        }
    }

    /// Enables jumps over spans of a keyspace that are known to hold nothing, and the recording of those it finds.
    pub(crate) fn with_dead(mut self, dead: &Arc<DeadSpans>, keyspace: KeyspaceId) -> Self {
        self.dead = Some((Arc::clone(dead), keyspace));
        self
    }

    /// Steps to the next visible key; `false` at the end. An error ends the walk, unless it concerns only a key whose
    /// value cannot be determined.
    pub(crate) fn step(&mut self) -> Result<bool> {
        // A callback that panics leaves the walk between two versions: then it has ended, too.
        let stepped = match std::mem::replace(&mut self.walk, Walk::Ended) {
            Walk::New => self.begin().and_then(|()| self.try_step()),
            Walk::UnderWay => self.try_step(),
            Walk::Ended => return Ok(false),
        };
        // An error of one key does not affect the others.
        if matches!(stepped, Ok(true)) || std::mem::take(&mut self.key_failed) {
            self.walk = Walk::UnderWay;
        }
        stepped
    }

    /// Returns whether the walk has ended for good.
    pub(crate) fn has_ended(&self) -> bool {
        self.walk == Walk::Ended
    }

    /// Returns the current key; after an error that did not end the walk, the key it concerns.
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Returns whether the current value is a large one: then its recipe stands for it.
    #[inline]
    pub(crate) fn is_recipe(&self) -> bool {
        self.recipe
    }

    /// Borrows the current value as it is stored.
    pub(crate) fn value_ref(&self) -> &[u8] {
        match &self.held {
            Some(held) => held,
            None => self.merge.top().and_then(Source::entry).map_or(&[], |entry| entry.value),
        }
    }

    /// Returns the current value as it is stored, to keep.
    pub(crate) fn value(&self) -> Bytes {
        match &self.held {
            Some(held) => held.clone(),
            None => self.merge.top().map(Source::value).unwrap_or_default(),
        }
    }

    fn begin(&mut self) -> Result<()> {
        self.refuse_below_the_watermarks()?;
        match self.direction {
            Direction::Forward => self.merge.seek(Some(&self.span.start)),
            Direction::Backward => self.merge.seek(self.span.end.as_deref()),
        }
    }

    fn try_step(&mut self) -> Result<bool> {
        match self.direction {
            Direction::Forward => self.forward(),
            Direction::Backward => self.backward(),
        }
    }

    /// Refuses a scan if any key in its span would be refused, even one that left no entry.
    fn refuse_below_the_watermarks(&self) -> Result<()> {
        if self.read_at.seqno < self.read_at.vanished || self.read_at.expired_by_then {
            return Err(self.read_at.refused(self.read_at.vanished));
        }
        match self.tombstones.refusing_in(&self.span) {
            Some(tombstone) => Err(self.read_at.refused(tombstone.seqno)),
            None => Ok(()),
        }
    }

    fn forward(&mut self) -> Result<bool> {
        let stood = std::mem::replace(&mut self.stands, Stands::Elsewhere);
        if stood != Stands::Elsewhere {
            self.held = None;
            if stood == Stands::AtValue {
                self.merge.advance()?;
            }
            self.skip_rest_of_key()?;
        }
        loop {
            let entry = self.merge.top().and_then(Source::entry);
            let inside = |key: &[u8]| self.span.end.as_deref().is_none_or(|end| key < end);
            let Some(entry) = entry.filter(|entry| inside(entry.key)) else {
                self.tell_dead();
                return Ok(false);
            };
            self.key.clear();
            self.key.extend_from_slice(entry.key);
            // The usual case: the newest version is a value that nothing can hide.
            if self.is_plain && entry.kind == Kind::Put && entry.seqno <= self.read_at.seqno {
                self.tell_dead();
                self.stands = Stands::AtValue;
                self.recipe = false;
                return Ok(true);
            }
            let tombstones = self.tombstones.over(&self.key);
            let resolved = self.resolve_forward(tombstones);
            if matches!(resolved, Ok(true)) || self.key_failed {
                self.tell_dead();
                if self.stands == Stands::Elsewhere {
                    self.stands = Stands::BehindValue;
                }
                return resolved;
            }
            resolved?;
            self.skip_rest_of_key()?;
            self.skip_deleted_span()?;
            self.pass_dead()?;
        }
    }

    /// Counts a key with nothing visible, and jumps over those that another reader found to be alike.
    fn pass_dead(&mut self) -> Result<()> {
        let Self { dead, passed, key, read_at, direction, merge, .. } = self;
        let Some((dead, keyspace)) = dead else { return Ok(()) };
        if !passed.add(key) {
            return Ok(());
        }
        let jumps = dead.jump(*keyspace, &passed.last, read_at, *direction, key);
        passed.record_look(jumps.then_some(key));
        if jumps { merge.skip_to(&passed.last) } else { Ok(()) }
    }

    /// Records the keys passed with nothing visible, and restarts the count.
    #[inline]
    fn tell_dead(&mut self) {
        let count = self.passed.count;
        if count >= LOOK_AFTER
            && let Some((dead, keyspace)) = &self.dead
        {
            let worth = count >= if self.passed.begun { WORTH } else { WORTH_FIRST };
            let (start, end) = self.passed.take(self.direction);
            dead.found(*keyspace, start, end, &self.read_at, worth);
        }
        self.passed.count = 0;
        self.passed.begun = true;
    }

    /// Finds what is seen of the current key; `false` if that is nothing.
    fn resolve_forward(&mut self, tombstones: Shown) -> Result<bool> {
        let Self { merge, key, read_at, strategy, .. } = self;
        let resolved = resolve(merge, tombstones, key, read_at, strategy)?;
        self.held = match resolved {
            Resolved::AtTop { recipe } => {
                self.stands = Stands::AtValue;
                self.recipe = recipe;
                None
            }
            Resolved::Folded(folded) => {
                self.recipe = folded.is_recipe();
                Some(folded.into_bytes())
            }
            Resolved::Nothing => return Ok(false),
            Resolved::Failed(error) => {
                self.key_failed = true;
                return Err(error);
            }
        };
        Ok(true)
    }

    fn skip_rest_of_key(&mut self) -> Result<()> {
        for _ in 0..VERSIONS_MAX {
            let next = self.merge.top().and_then(Source::entry).map(|entry| entry.key.cmp(&self.key));
            match next {
                None | Some(Ordering::Greater) => return Ok(()),
                Some(Ordering::Equal) => self.merge.advance()?,
                Some(Ordering::Less) => return Err(out_of_order()),
            }
        }
        self.merge.skip_key(&self.key)?;
        self.check_onward()
    }

    /// Fails unless the walk has moved on from the current key. In a damaged file entries may be out of order: then it
    /// would loop for ever.
    #[inline]
    fn check_onward(&self) -> Result<()> {
        let next = self.merge.top().and_then(Source::entry).map(|entry| entry.key);
        let onward = next.is_none_or(|next| match self.direction {
            Direction::Forward => next > self.key.as_slice(),
            Direction::Backward => next < self.key.as_slice(),
        });
        if onward { Ok(()) } else { Err(out_of_order()) }
    }

    /// Jumps over keys that a range tombstone hides, in the sources that hold nothing newer: up to the end of the
    /// tombstone as it was written, even if a newer one covers a part of it.
    fn skip_deleted_span(&mut self) -> Result<()> {
        let Some(Newest { seqno, start, end }) = self.tombstones.newest() else { return Ok(()) };
        match self.direction {
            Direction::Forward => self.merge.skip_older(seqno, end),
            Direction::Backward => self.merge.skip_older(seqno, Some(start)),
        }
    }

    fn backward(&mut self) -> Result<bool> {
        loop {
            let entry = self.merge.top().and_then(Source::entry);
            let Some(entry) = entry.filter(|entry| entry.key >= self.span.start.as_slice()) else {
                self.tell_dead();
                return Ok(false);
            };
            self.key.clear();
            self.key.extend_from_slice(entry.key);
            // The usual case: there is one version, a value that nothing can hide.
            let mut oldest = None;
            if self.is_plain && entry.kind == Kind::Put && entry.seqno <= self.read_at.seqno {
                let (meta, ordinal) = (EntryMeta { gap_start: None, ..entry.meta() }, entry.ordinal);
                let value = self.merge.top().map(Source::value).unwrap_or_default();
                self.merge.advance()?;
                match self.merge.top().and_then(Source::entry).map(|next| next.key.cmp(&self.key)) {
                    None | Some(Ordering::Less) => {
                        self.tell_dead();
                        (self.held, self.recipe) = (Some(value), false);
                        return Ok(true);
                    }
                    Some(Ordering::Equal) => oldest = Some((meta, ordinal, value)),
                    Some(Ordering::Greater) => return Err(out_of_order()),
                }
            }
            let tombstones = self.tombstones.over(&self.key);
            let resolved = self.resolve_backward(tombstones, oldest);
            if matches!(resolved, Ok(Some(_))) || self.key_failed {
                self.tell_dead();
            }
            let found = resolved?;
            self.recipe = found.as_ref().is_some_and(Stored::is_recipe);
            self.held = found.map(Stored::into_bytes);
            self.check_onward()?;
            if self.held.is_some() {
                return Ok(true);
            }
            self.skip_deleted_span()?;
            self.pass_dead()?;
        }
    }

    /// Reads the versions of the current key in the other direction: of many, most are not wanted.
    #[cold]
    fn resolve_turned(&mut self, tombstones: Shown) -> Result<Option<Stored>> {
        let Self { merge, turned, key, read_at, strategy, .. } = self;
        let turned = turned.get_or_insert_with(|| merge.turned());
        turned.seek(Some(key))?;
        let resolved = resolve(turned, tombstones, key, read_at, strategy)?;
        merge.skip_key(key)?;
        match resolved {
            Resolved::AtTop { recipe } => {
                let stored = if recipe { Stored::Recipe } else { Stored::Bytes };
                Ok(turned.top().map(Source::value).map(stored))
            }
            Resolved::Folded(folded) => Ok(Some(folded)),
            Resolved::Nothing => Ok(None),
            Resolved::Failed(error) => {
                self.key_failed = true;
                Err(error)
            }
        }
    }

    /// Reads all versions of the current key, oldest first, and keeps those at or below the moment down to their base.
    /// They and the versions above are then shown to a look-up newest first, as in the other direction.
    fn resolve_backward(
        &mut self,
        tombstones: Shown,
        oldest: Option<(EntryMeta, u32, Bytes)>,
    ) -> Result<Option<Stored>> {
        let mut versions = usize::from(oldest.is_some());
        let mut below: Vec<(EntryMeta, u32, Bytes)> = oldest.into_iter().collect();
        let mut above: Vec<EntryMeta> = Vec::new();
        while let Some(source) = self.merge.top()
            && let Some(entry) = source.entry()
            && entry.key == self.key
        {
            versions += 1;
            if versions > VERSIONS_MAX {
                return self.resolve_turned(tombstones);
            }
            if entry.seqno <= self.read_at.seqno {
                if entry.kind != Kind::Operand {
                    below.clear();
                }
                let value = if entry.kind == Kind::Delete { Bytes::default() } else { source.value() };
                below.push((EntryMeta { gap_start: None, ..entry.meta() }, entry.ordinal, value));
            } else {
                above.push(entry.meta());
            }
            self.merge.advance()?;
        }
        // Newest first, also among entries of one batch: the sort below keeps their order.
        above.reverse();
        let interval = below.iter().any(|(meta, ..)| meta.interval);
        for tombstone in tombstones.iter().rev() {
            if tombstone.seqno > self.read_at.seqno {
                above.push(tombstone.meta());
            } else if !interval || tombstone.purge {
                let place = (tombstone.seqno, tombstone.ordinal);
                // At the same place the point entry is the newer one: segments store no ordinals.
                below.retain(|(meta, ordinal, _)| (meta.seqno, *ordinal) >= place);
                if below.is_empty() {
                    below.push((
                        EntryMeta { gap_start: None, ..tombstone.meta() },
                        tombstone.ordinal,
                        Bytes::default(),
                    ));
                }
            }
        }
        above.sort_by_key(|meta| std::cmp::Reverse(meta.seqno));
        let mut lookup = Lookup::with_history(self.read_at.clone());
        for meta in above {
            if lookup.visit(meta)? == Meaning::Deleted {
                return Ok(None);
            }
        }
        let mut answer = None;
        for (meta, _, value) in below.into_iter().rev() {
            match lookup.visit(meta)? {
                Meaning::Operand => lookup.push(value),
                end => answer = end.answer(|| value),
            }
        }
        let finished = lookup.finish(answer, &self.strategy, &self.key);
        finished.inspect_err(|error| self.key_failed = is_of_the_key(error))
    }
}

/// Returns whether an error of a fold leaves other keys unaffected. A moment that one key refuses is of no use to a
/// reader of many.
fn is_of_the_key(error: &Error) -> bool {
    !matches!(error, Error::HistoryTrimmed { .. })
}

/// Visible version of a key.
enum Resolved {
    /// The value at the top source, borrowed from there.
    AtTop {
        recipe: bool,
    },
    /// A value that no source holds.
    Folded(Stored),
    Nothing,
    /// The value cannot be determined; other keys are unaffected.
    Failed(Error),
}

/// Reads the versions of the key that a merge is at, newest first, and stops at the one that is seen.
fn resolve<S: Source>(
    merge: &mut Kway<S>,
    mut tombstones: Shown,
    key: &[u8],
    read_at: &ReadAt,
    strategy: &MergeStrategy,
) -> Result<Resolved> {
    let mut lookup = Lookup::with_history(read_at.clone());
    let mut found = None;
    let mut above = 0;
    'versions: while let Some(source) = merge.top()
        && let Some(entry) = source.entry()
    {
        if entry.key != key {
            break;
        }
        let (seqno, ordinal) = (entry.seqno, entry.ordinal);
        // An interval that holds the moment is the truth (R3), even if a range tombstone inside it deleted again what
        // was deleted.
        let interval = entry.until.is_some_and(|until| until.holds(read_at.seqno));
        while let Some(tombstone) = tombstones.next_above(Some((seqno, ordinal))) {
            if interval && tombstone.seqno <= read_at.seqno && !tombstone.purge {
                continue;
            }
            if lookup.visit(tombstone.meta())? == Meaning::Deleted {
                found = Some(Answer::Deleted);
                break 'versions;
            }
        }
        match lookup.visit(entry.meta())? {
            Meaning::Above => above += 1,
            Meaning::Operand => lookup.push(source.value()),
            // The usual case: the source stays at the value.
            Meaning::Value if lookup.operands() == 0 => return Ok(Resolved::AtTop { recipe: false }),
            Meaning::Recipe if lookup.operands() == 0 => return Ok(Resolved::AtTop { recipe: true }),
            end => {
                found = end.answer(|| source.value());
                break;
            }
        }
        merge.advance()?;
        if above == VERSIONS_MAX {
            above += 1;
            merge.skip_newer(key, read_at.seqno, read_at.purge_horizon)?;
        }
    }
    for tombstone in tombstones.iter() {
        if found.is_none() && lookup.visit(tombstone.meta())? == Meaning::Deleted {
            found = Some(Answer::Deleted);
        }
    }
    match lookup.finish(found, strategy, key) {
        Ok(folded) => Ok(folded.map_or(Resolved::Nothing, Resolved::Folded)),
        Err(error) if is_of_the_key(&error) => Ok(Resolved::Failed(error)),
        Err(error) => Err(error),
    }
}
