//! What a reader sees: the newest version at its seqno, absence, or that this history is gone.
//!
//! ```text
//!   versions of one key, newest first        asked for S = 25
//!     v5@50  gap_start 42
//!     v3@30  gap_start 20     n: the kept entry just above S; its gap reaches down to 20 ≤ 25: trimmed
//!     v1@10                   c: the newest kept entry at or below S
//! ```
//!
//! Rules R1, R2, R4 and R5 of `docs/versions.md`. Range tombstones count as entries of every key they cover.

use std::{cmp::Ordering, sync::Arc};

use super::{
    DeadSpans, Direction, Kway, LOOK_AFTER, MergeStrategy, Newest, Overhead, Shown, Source, Tombstones, WORTH,
    WORTH_FIRST, wide_sum,
};
use crate::base::{Bytes, Corruption, Error, KeySpan, KeyspaceId, Kind, Result, Seqno};

/// So many versions of a key are stepped over one by one; beyond that the walk goes on at the one that is wanted.
const VERSIONS_MAX: usize = 8;

/// What a reader asks for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// The moment.
    pub(crate) seqno: u64,
    /// Below this seqno, finding nothing may mean that what was there is gone.
    pub(crate) vanished: u64,
    /// The newest seqno when the reader came: purges up to it hide everything older, whatever the moment (R1).
    pub(crate) opened: u64,
    /// At the moment, values were there that have expired since, and may be gone.
    pub(crate) lapsed: bool,
    /// From here on nothing is refused, for a reader of many keys; nothing for one of a single key.
    pub(crate) horizon: Option<u64>,
    /// What has expired at the moment, where values expire.
    pub(crate) cutoffs: Option<Arc<Cutoffs>>,
}

impl Asked {
    /// The newest of everything: whatever has gone was superseded at or below `seqno`.
    pub(crate) fn present(seqno: u64, cutoffs: Option<Arc<Cutoffs>>) -> Self {
        Self { seqno, vanished: 0, opened: seqno, lapsed: false, horizon: None, cutoffs }
    }
}

/// What has expired at some moment (R7).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cutoffs {
    /// From which seqno on what is written lives how long, in microseconds (0: for ever), oldest first.
    pub(crate) ttls: Arc<[(u64, u64)]>,
    /// The moment, in microseconds.
    pub(crate) time: u64,
    /// The moment may be so much later, in microseconds: less than this.
    pub(crate) slack: u64,
}

impl Cutoffs {
    /// Whether a value written at `seqno`, at that time, is gone.
    pub(crate) fn expired(&self, seqno: u64, time: Option<u64>) -> bool {
        self.cutoff(seqno).zip(time).is_some_and(|(cutoff, time)| time <= cutoff)
    }

    /// Whether nobody can tell if it is.
    pub(crate) fn unsure(&self, seqno: u64, time: Option<u64>) -> bool {
        let within = |(cutoff, time): (u64, u64)| time > cutoff && time - cutoff < self.slack;
        self.cutoff(seqno).zip(time).is_some_and(within)
    }

    /// Since when a time to live has held that is the newest.
    pub(crate) fn since(&self) -> u64 {
        self.ttls.last().map_or(0, |(from, _)| *from)
    }

    /// The commit time at or below which what was written at `seqno` is gone.
    fn cutoff(&self, seqno: u64) -> Option<u64> {
        self.time.checked_sub(ttl_at(&self.ttls, seqno)?)
    }
}

/// How long what was written at a seqno lives, in microseconds; nothing where it lives for ever.
pub(crate) fn ttl_at(ttls: &[(u64, u64)], seqno: u64) -> Option<u64> {
    let since = ttls.partition_point(|(from, _)| *from <= seqno).checked_sub(1)?;
    ttls.get(since).map(|(_, ttl)| *ttl).filter(|ttl| *ttl > 0)
}

/// What a look-up is shown of an entry or mark.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) seqno: u64,
    pub(crate) gap_start: Option<u64>,
    pub(crate) moved: bool,
    pub(crate) kind: Kind,
    pub(crate) time: Option<u64>,
    /// It comes from the history tier, and its interval holds the moment.
    pub(crate) interval: bool,
}

impl Asked {
    /// That the moment is refused, where as much is known of a later one: of a single key a first guess, which whoever asked for the key tries.
    #[cold]
    pub(crate) fn refused(&self, guess: u64) -> Error {
        Error::HistoryTrimmed { oldest: Seqno(self.horizon.unwrap_or(guess).max(self.seqno.saturating_add(1))) }
    }
}

/// What a look-up has found so far, from newer sources to older ones.
#[derive(Clone, Debug)]
pub(crate) struct Lookup {
    asked: Asked,
    /// Whether the history tier has been asked, or is asked beside the others: a moved version is not looked for there any more.
    history_asked: bool,
    /// Operands at or below the moment, newest first: what is found beneath is their base.
    operands: Vec<Bytes>,
    /// The seqno of what was seen last.
    last: u64,
    /// The entry just above the moment.
    above: Option<Above>,
}

/// An entry above some moment.
#[derive(Clone, Copy, Debug)]
struct Above {
    seqno: u64,
    gap_start: Option<u64>,
}

impl Above {
    /// Whether what was dropped beneath this entry is needed to answer for `seqno`.
    fn refuses(self, seqno: u64) -> bool {
        self.gap_start.is_some_and(|gap| gap <= seqno)
    }
}

/// What a source answers to a look-up that ends there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Value(Bytes),
    /// A folded sum, which is wide.
    Wide(Bytes),
    Deleted,
    /// The history tier has it, or it is gone.
    Moved,
}

/// What one entry means for a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It is newer than the moment: look further down.
    Above,
    /// It is the answer: a value.
    Value,
    /// It is the answer: a folded sum, which is wide.
    Wide,
    /// It is a part of the answer: an operand, to be shown with [`Lookup::push`]. What it is folded upon is further down.
    Operand,
    /// It is the answer: absence.
    Deleted,
    /// What was beneath it at the moment has been moved to the history tier.
    Moved,
}

impl Found {
    /// The answer of a source that found this, if the look-up ends with it.
    pub(crate) fn answer(self, value: impl FnOnce() -> Bytes) -> Option<Answer> {
        match self {
            Self::Value => Some(Answer::Value(value())),
            Self::Wide => Some(Answer::Wide(value())),
            Self::Deleted => Some(Answer::Deleted),
            Self::Moved => Some(Answer::Moved),
            Self::Above | Self::Operand => None,
        }
    }
}

impl Lookup {
    pub(crate) fn new(asked: Asked) -> Self {
        Self { asked, history_asked: false, operands: Vec::new(), last: 0, above: None }
    }

    /// A look-up that finds the history tier among its sources, or has asked it before.
    pub(crate) fn with_history(asked: Asked) -> Self {
        Self { history_asked: true, ..Self::new(asked) }
    }

    /// Purges up to this seqno hide what is older.
    pub(crate) fn opened(&self) -> u64 {
        self.asked.opened
    }

    pub(crate) fn seqno(&self) -> u64 {
        self.asked.seqno
    }

    /// Shows the next older version of the key: a point entry or a mark of a range tombstone.
    #[inline]
    pub(crate) fn see(&mut self, seen: Seen) -> Result<Found> {
        let Seen { seqno, gap_start, moved, kind, time, interval } = seen;
        self.last = seqno;
        if seqno > self.asked.seqno {
            if kind.purges() && seqno <= self.asked.opened {
                return Ok(Found::Deleted);
            }
            let above = Above { seqno, gap_start };
            self.see_above(above);
            let there = moved && !self.history_asked && above.refuses(self.asked.seqno);
            return Ok(if there { Found::Moved } else { Found::Above });
        }
        // An interval that holds the moment is the truth, whatever has gone around it.
        if self.operands.is_empty() && !interval {
            self.check_gap()?;
        }
        if let Some(cutoffs) = self.asked.cutoffs.as_ref().filter(|_| kind == Kind::Put) {
            if cutoffs.expired(seqno, time) {
                return Ok(Found::Deleted);
            }
            if cutoffs.unsure(seqno, time) {
                return Err(self.trimmed());
            }
        }
        match kind {
            Kind::Put => Ok(Found::Value),
            Kind::WideSum => Ok(Found::Wide),
            Kind::Operand => Ok(Found::Operand),
            Kind::Delete | Kind::RangeDelete | Kind::Purge | Kind::RangePurge => Ok(Found::Deleted),
            // Written by a release that knows this kind; files say so in their headers before it comes to this.
            Kind::Recipe => {
                Err(Error::invalid("this release cannot read entries of a later format; open it with a newer one"))
            }
        }
    }

    /// The seqno of what was seen last: of what has answered, if anything has.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Takes the value of an operand that was seen.
    pub(crate) fn push(&mut self, operand: Bytes) {
        self.operands.push(operand);
    }

    /// How many operands were seen.
    pub(crate) fn operands(&self) -> usize {
        self.operands.len()
    }

    /// The value as readers get it, once a source has answered or none is left.
    pub(crate) fn finish(self, answer: Option<Answer>, strategy: &MergeStrategy, key: &[u8]) -> Result<Option<Bytes>> {
        if !self.operands.is_empty() {
            // Nothing beneath the oldest operand was ever there, or its gap would have told.
            let base = match &answer {
                Some(Answer::Value(base) | Answer::Wide(base)) => Some(base),
                Some(Answer::Deleted | Answer::Moved) | None => None,
            };
            return strategy.fold(key, base, &self.operands).map(Some);
        }
        match answer {
            Some(Answer::Value(value)) => Ok(Some(value)),
            Some(Answer::Wide(value)) => wide_sum(key, &value).map(Some),
            Some(Answer::Deleted) => Ok(None),
            Some(Answer::Moved) => Err(self.trimmed()),
            None => self.nothing_left().map(|()| None),
        }
    }

    /// What an entry that replaces everything found would hold; nothing when no operand was found, or they cannot be stored as one.
    pub(crate) fn state(&self, answer: Option<&Answer>, strategy: &MergeStrategy, key: &[u8]) -> Option<(Kind, Bytes)> {
        let (newest, older) = self.operands.split_first()?;
        let mut gathered = strategy.gather(newest)?;
        let base = match answer {
            Some(Answer::Value(base) | Answer::Wide(base)) => Some(base),
            Some(Answer::Deleted | Answer::Moved) | None => None,
        };
        older.iter().chain(base).all(|older| gathered.store_older(key, older)).then(|| gathered.into_entry(true))
    }

    fn see_above(&mut self, mut entry: Above) {
        // What was dropped beneath one further above may reach beneath this one.
        if let Some(newer) = self.above {
            entry.gap_start = entry.gap_start.into_iter().chain(newer.gap_start).min();
        }
        self.above = Some(entry);
    }

    /// That nothing is left to show: the key is absent, unless history is gone.
    fn nothing_left(&self) -> Result<()> {
        self.check_gap()?;
        if self.asked.seqno < self.asked.vanished || self.asked.lapsed {
            return Err(self.trimmed());
        }
        Ok(())
    }

    #[inline]
    fn check_gap(&self) -> Result<()> {
        match self.above {
            Some(above) if above.refuses(self.asked.seqno) => Err(self.trimmed()),
            _ => Ok(()),
        }
    }

    /// The error that names the entry above whose gap reaches down to the moment; without one, the moment below which absence says nothing (R5).
    #[cold]
    pub(crate) fn trimmed(&self) -> Error {
        let above = self.above.filter(|above| above.refuses(self.asked.seqno));
        self.asked.refused(above.map_or(self.asked.vanished, |above| above.seqno))
    }
}

/// How far a walk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Walk {
    New,
    UnderWay,
    Ended,
}

/// Keys of which nothing was seen, in a row.
#[derive(Debug, Default)]
struct Passed {
    /// Something was seen before.
    begun: bool,
    count: usize,
    first: Vec<u8>,
    /// The last of them; after a jump where it led, of which forward nothing is known.
    last: Vec<u8>,
    jumped: bool,
    /// At which count to look whether somebody knows more, and how many keys behind that again.
    look_at: usize,
    step: usize,
}

impl Passed {
    /// Counts a key, whose buffer it takes; whether it is time to look.
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

    /// Notes that somebody knew where to go on, or that nobody did. Behind one span there is often another, with a key
    /// between that was put into both; elsewhere looking twice as far on each time costs little, and passes by no more
    /// than was walked.
    fn looked(&mut self, to: Option<&mut Vec<u8>>) {
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

    /// From the smallest of the keys to behind the largest. Counting begins anew.
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

/// The keys and values that a reader sees in a span, in one direction.
#[derive(Debug)]
pub(crate) struct Visible<S> {
    merge: Kway<S>,
    /// The range tombstones of all sources.
    tombstones: Overhead,
    /// There are none, and nothing expires.
    is_plain: bool,
    asked: Asked,
    span: KeySpan,
    direction: Direction,
    strategy: MergeStrategy,
    /// Who remembers where nothing is left, if this reader may ask and tell.
    dead: Option<(Arc<DeadSpans>, KeyspaceId)>,
    /// The keys passed in a row of which nothing was seen.
    passed: Passed,
    /// Backward: the same sources running forward, for keys of many versions.
    turned: Option<Kway<S>>,
    /// The current key, copied: its source moves on.
    key: Vec<u8>,
    /// The current value when no source stands at it: after a fold, and backward.
    held: Option<Bytes>,
    /// Where the merge stands (forward).
    stands: Stands,
    walk: Walk,
    /// The value of the current key cannot be told, which says nothing of the other keys.
    key_failed: bool,
}

/// Where the merge of a forward walk stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    /// At what has not been looked at.
    Elsewhere,
    /// At the value that was shown of the current key.
    AtValue,
    /// Behind what made the value, perhaps among other versions of the current key.
    BehindValue,
}

/// That a walk would go round for ever.
#[cold]
fn out_of_order() -> Error {
    Corruption { offset: 0, what: "keys in their order" }.into()
}

impl<S: Source> Visible<S> {
    pub(crate) fn new(
        merge: Kway<S>,
        tombstones: Vec<Vec<Arc<Tombstones>>>,
        asked: Asked,
        span: KeySpan,
        (direction, strategy): (Direction, MergeStrategy),
    ) -> Self {
        Self {
            is_plain: asked.cutoffs.is_none() && tombstones.iter().all(Vec::is_empty),
            merge,
            strategy,
            tombstones: Overhead::new(tombstones, asked.seqno, asked.opened),
            asked,
            walk: if span.is_empty() { Walk::Ended } else { Walk::New },
            span,
            direction,
            dead: None,
            passed: Passed::default(),
            turned: None,
            key: Vec::new(),
            held: None,
            stands: Stands::Elsewhere,
            key_failed: false,
        }
    }

    /// Lets it jump over spans of a keyspace that are known to hold nothing, and tell of those it finds.
    pub(crate) fn with_dead(mut self, dead: &Arc<DeadSpans>, keyspace: KeyspaceId) -> Self {
        self.dead = Some((Arc::clone(dead), keyspace));
        self
    }

    /// Steps to the next visible key; `false` at the end. An error ends it, unless it is one of a key whose value
    /// cannot be told.
    pub(crate) fn step(&mut self) -> Result<bool> {
        // A callback that panics leaves it between two versions: then it has ended, too.
        let stepped = match std::mem::replace(&mut self.walk, Walk::Ended) {
            Walk::New => self.begin().and_then(|()| self.try_step()),
            Walk::UnderWay => self.try_step(),
            Walk::Ended => return Ok(false),
        };
        // An error of one key leaves the others.
        if matches!(stepped, Ok(true)) || std::mem::take(&mut self.key_failed) {
            self.walk = Walk::UnderWay;
        }
        stepped
    }

    /// Whether no step leads anywhere any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.walk == Walk::Ended
    }

    /// The current key; behind an error that did not end the walk, the one that it is about.
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// The current value, lent.
    pub(crate) fn value_ref(&self) -> &[u8] {
        match &self.held {
            Some(held) => held,
            None => self.merge.top().and_then(Source::entry).map_or(&[], |entry| entry.value),
        }
    }

    /// The current value, to keep.
    pub(crate) fn value(&self) -> Bytes {
        match &self.held {
            Some(held) => held.clone(),
            None => self.merge.top().map(Source::value).unwrap_or_default(),
        }
    }

    fn begin(&mut self) -> Result<()> {
        self.refuse_below_the_marks()?;
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

    /// A scan is refused when some key in its span would be: also a key that left no entry of its own.
    fn refuse_below_the_marks(&self) -> Result<()> {
        if self.asked.seqno < self.asked.vanished || self.asked.lapsed {
            return Err(self.asked.refused(self.asked.vanished));
        }
        match self.tombstones.refusing_in(&self.span) {
            Some(mark) => Err(self.asked.refused(mark.seqno)),
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
            // The usual case: what is newest is a value that nothing can hide.
            if self.is_plain && entry.kind == Kind::Put && entry.seqno <= self.asked.seqno {
                self.tell_dead();
                self.stands = Stands::AtValue;
                return Ok(true);
            }
            let marks = self.tombstones.over(&self.key);
            let resolved = self.resolve_forward(marks);
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

    /// Counts a key of which nothing was seen, and goes on behind those that somebody else has found to be alike.
    fn pass_dead(&mut self) -> Result<()> {
        let Self { dead, passed, key, asked, direction, merge, .. } = self;
        let Some((dead, keyspace)) = dead else { return Ok(()) };
        if !passed.add(key) {
            return Ok(());
        }
        let jumps = dead.jump((*keyspace, &passed.last), asked, *direction, key);
        passed.looked(jumps.then_some(key));
        if jumps { merge.skip_to(&passed.last) } else { Ok(()) }
    }

    /// Tells of the keys passed of which nothing was seen, and begins to count anew.
    #[inline]
    fn tell_dead(&mut self) {
        let count = self.passed.count;
        if count >= LOOK_AFTER
            && let Some((dead, keyspace)) = &self.dead
        {
            let worth = count >= if self.passed.begun { WORTH } else { WORTH_FIRST };
            dead.found(*keyspace, self.passed.take(self.direction), &self.asked, worth);
        }
        self.passed.count = 0;
        self.passed.begun = true;
    }

    /// Finds what is seen of the current key; `false` when that is nothing.
    fn resolve_forward(&mut self, marks: Shown) -> Result<bool> {
        let Self { merge, key, asked, strategy, .. } = self;
        let resolved = resolve(merge, marks, (key, asked, strategy))?;
        self.held = match resolved {
            Resolved::AtTop => {
                self.stands = Stands::AtValue;
                None
            }
            Resolved::Folded(folded) => Some(folded),
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

    /// That the walk has come on from the current key. In a damaged file entries may stand in another order: then it would go round for ever.
    #[inline]
    fn check_onward(&self) -> Result<()> {
        let next = self.merge.top().and_then(Source::entry).map(|entry| entry.key);
        let onward = next.is_none_or(|next| match self.direction {
            Direction::Forward => next > self.key.as_slice(),
            Direction::Backward => next < self.key.as_slice(),
        });
        if onward { Ok(()) } else { Err(out_of_order()) }
    }

    /// Jumps over what a range tombstone hides, in the sources that hold nothing newer than it.
    ///
    /// Up to the end of the tombstone as it was written, also where a newer one covers a part of it.
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
            if self.is_plain && entry.kind == Kind::Put && entry.seqno <= self.asked.seqno {
                let (seen, ordinal) = (Seen { gap_start: None, ..entry.seen() }, entry.ordinal);
                let value = self.merge.top().map(Source::value).unwrap_or_default();
                self.merge.advance()?;
                match self.merge.top().and_then(Source::entry).map(|next| next.key.cmp(&self.key)) {
                    None | Some(Ordering::Less) => {
                        self.tell_dead();
                        self.held = Some(value);
                        return Ok(true);
                    }
                    Some(Ordering::Equal) => oldest = Some((seen, ordinal, value)),
                    Some(Ordering::Greater) => return Err(out_of_order()),
                }
            }
            let marks = self.tombstones.over(&self.key);
            let resolved = self.resolve_backward(marks, oldest);
            if matches!(resolved, Ok(Some(_))) || self.key_failed {
                self.tell_dead();
            }
            self.held = resolved?;
            self.check_onward()?;
            if self.held.is_some() {
                return Ok(true);
            }
            self.skip_deleted_span()?;
            self.pass_dead()?;
        }
    }

    /// Reads the versions of the current key in the other direction: of that many most are not wanted.
    #[cold]
    fn resolve_turned(&mut self, marks: Shown) -> Result<Option<Bytes>> {
        let Self { merge, turned, key, asked, strategy, .. } = self;
        let turned = turned.get_or_insert_with(|| merge.turned());
        turned.seek(Some(key))?;
        let resolved = resolve(turned, marks, (key, asked, strategy))?;
        merge.skip_key(key)?;
        match resolved {
            Resolved::AtTop => Ok(turned.top().map(Source::value)),
            Resolved::Folded(folded) => Ok(Some(folded)),
            Resolved::Nothing => Ok(None),
            Resolved::Failed(error) => {
                self.key_failed = true;
                Err(error)
            }
        }
    }

    /// Reads all versions of the current key, oldest first, and keeps what is at or below the moment down to its base. That and what
    /// is above are then shown to a look-up newest first, as in the other direction.
    fn resolve_backward(&mut self, marks: Shown, oldest: Option<(Seen, u32, Bytes)>) -> Result<Option<Bytes>> {
        let mut versions = usize::from(oldest.is_some());
        let mut below: Vec<(Seen, u32, Bytes)> = oldest.into_iter().collect();
        let mut above: Vec<Seen> = Vec::new();
        while let Some(source) = self.merge.top()
            && let Some(entry) = source.entry()
            && entry.key == self.key
        {
            versions += 1;
            if versions > VERSIONS_MAX {
                return self.resolve_turned(marks);
            }
            if entry.seqno <= self.asked.seqno {
                if entry.kind != Kind::Operand {
                    below.clear();
                }
                let value = if entry.kind == Kind::Delete { Bytes::default() } else { source.value() };
                below.push((Seen { gap_start: None, ..entry.seen() }, entry.ordinal, value));
            } else {
                above.push(entry.seen());
            }
            self.merge.advance()?;
        }
        // Newest first, also among entries of one batch: the sort below keeps their order.
        above.reverse();
        let interval = below.iter().any(|(seen, ..)| seen.interval);
        for mark in marks.iter().rev() {
            if mark.seqno > self.asked.seqno {
                above.push(mark.seen());
            } else if !interval || mark.purge {
                let place = (mark.seqno, mark.ordinal);
                // At the same place the point entry is the newer one: segments keep no ordinals.
                below.retain(|(seen, ordinal, _)| (seen.seqno, *ordinal) >= place);
                if below.is_empty() {
                    below.push((Seen { gap_start: None, ..mark.seen() }, mark.ordinal, Bytes::default()));
                }
            }
        }
        above.sort_by_key(|seen| std::cmp::Reverse(seen.seqno));
        let mut lookup = Lookup::with_history(self.asked.clone());
        for seen in above {
            if lookup.see(seen)? == Found::Deleted {
                return Ok(None);
            }
        }
        let mut answer = None;
        for (seen, _, value) in below.into_iter().rev() {
            match lookup.see(seen)? {
                Found::Operand => lookup.push(value),
                end => answer = end.answer(|| value),
            }
        }
        let finished = lookup.finish(answer, &self.strategy, &self.key);
        finished.inspect_err(|error| self.key_failed = is_of_the_key(error))
    }
}

/// Whether an error of folding what was found leaves the other keys. A moment that one key refuses is of no use to
/// whoever asks for many.
fn is_of_the_key(error: &Error) -> bool {
    !matches!(error, Error::HistoryTrimmed { .. })
}

/// What is seen of a key.
enum Resolved {
    /// The value that the source at the top stands at: it is lent from there.
    AtTop,
    /// A value that stands nowhere.
    Folded(Bytes),
    Nothing,
    /// The value cannot be told, which says nothing of the other keys.
    Failed(Error),
}

/// Reads the versions of a key at which a merge stands, newest first, and stops at the one that is seen.
fn resolve<S: Source>(
    merge: &mut Kway<S>,
    mut marks: Shown,
    (key, asked, strategy): (&[u8], &Asked, &MergeStrategy),
) -> Result<Resolved> {
    let mut lookup = Lookup::with_history(asked.clone());
    let mut found = None;
    let mut above = 0;
    'versions: while let Some(source) = merge.top()
        && let Some(entry) = source.entry()
    {
        if entry.key != key {
            break;
        }
        let (seqno, ordinal) = (entry.seqno, entry.ordinal);
        // An interval that holds the moment is the truth (R3): also where a range tombstone inside it deleted again what was deleted.
        let interval = entry.until.is_some_and(|until| until.holds(asked.seqno));
        while let Some(mark) = marks.next_above(Some((seqno, ordinal))) {
            if interval && mark.seqno <= asked.seqno && !mark.purge {
                continue;
            }
            if lookup.see(mark.seen())? == Found::Deleted {
                found = Some(Answer::Deleted);
                break 'versions;
            }
        }
        match lookup.see(entry.seen())? {
            Found::Above => above += 1,
            Found::Operand => lookup.push(source.value()),
            // The usual case: the source goes on standing at the value.
            Found::Value if lookup.operands() == 0 => return Ok(Resolved::AtTop),
            end => {
                found = end.answer(|| source.value());
                break;
            }
        }
        merge.advance()?;
        if above == VERSIONS_MAX {
            above += 1;
            merge.skip_newer(key, asked.seqno, asked.opened)?;
        }
    }
    for mark in marks.iter() {
        if found.is_none() && lookup.see(mark.seen())? == Found::Deleted {
            found = Some(Answer::Deleted);
        }
    }
    match lookup.finish(found, strategy, key) {
        Ok(folded) => Ok(folded.map_or(Resolved::Nothing, Resolved::Folded)),
        Err(error) if is_of_the_key(&error) => Ok(Resolved::Failed(error)),
        Err(error) => Err(error),
    }
}
