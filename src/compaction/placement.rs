//! The versions of one key that are kept: what is folded, and where each of them goes.
//!
//! Where a policy keeps the past, what was superseded goes to the history tier, with its interval; the main tree then
//! has one entry of each key. Where it keeps none, what views still read stays in the main tree beside the newest
//! (K10). What an operand stands upon stays with it.

use super::{
    dropped::Dropped,
    output::{Output, Tier},
    policy::PolicyCandidate,
    rules::{Demands, OlderSegments, Rules},
    tombstones::JobTombstones,
};
use crate::{
    base::{Bytes, Kind, Micros, Result, Seqno},
    merge::{Gathered, MergeStrategy, Until},
    segment::Entry,
};

/// A version that is kept.
#[derive(Debug)]
pub(super) struct KeptVersion {
    entry: Entry,
    value: Bytes,
    /// What was folded into it, when it is an operand: its value is made of that in the end.
    gathered: Option<Gathered>,
    /// Where the interval ends, in seqno and time; nothing of the newest.
    end: Option<(Seqno, Micros)>,
    /// A tombstone says it. It is written down as an entry of the key only where it has something to tell of this key
    /// alone.
    by_tombstone: bool,
    /// The gap of that tombstone.
    tombstone_gap: Option<Seqno>,
    /// Where it goes, if anywhere, once that is known.
    tier: Option<Tier>,
}

impl KeptVersion {
    pub(super) fn new(entry: Entry, value: Bytes, end: Option<(Seqno, Micros)>) -> Self {
        Self { entry, value, gathered: None, end, by_tombstone: false, tombstone_gap: None, tier: None }
    }

    /// One that a tombstone with this gap says.
    pub(super) fn by_tombstone(entry: Entry, tombstone_gap: Option<Seqno>, end: Option<(Seqno, Micros)>) -> Self {
        Self { by_tombstone: true, tombstone_gap, ..Self::new(entry, Bytes::default(), end) }
    }

    fn is_tombstone(&self) -> bool {
        matches!(self.entry.kind, Kind::Delete | Kind::RangeDelete) || self.entry.kind.purges()
    }

    fn is_operand(&self) -> bool {
        self.entry.kind == Kind::Operand
    }

    /// Makes it an entry of the key, if a tombstone says it.
    fn into_point(mut self) -> Self {
        if self.by_tombstone {
            self.entry.kind = if self.entry.kind.purges() { Kind::Purge } else { Kind::Delete };
            if let Some(gap) = self.tombstone_gap {
                self.widen_gap(gap);
            }
        }
        self
    }

    /// Notes that something at a seqno is missing beneath (K3).
    fn widen_gap(&mut self, seqno: Seqno) {
        assert!(seqno <= self.entry.seqno, "a gap at {seqno} above its entry @{} (K3)", self.entry.seqno);
        self.entry.gap_start = Some(self.entry.gap_start.map_or(seqno, |gap| gap.min(seqno)));
    }

    /// Folds the next older version into an operand; `false` when they are to stay apart.
    fn fold(&mut self, strategy: &MergeStrategy, key: &[u8], kind: Kind, value: &impl Fn() -> Bytes) -> bool {
        let Self { value: newest, gathered, .. } = self;
        if gathered.is_none() {
            *gathered = strategy.gather(newest);
        }
        let Some(parts) = gathered else { return false };
        let fits = match kind {
            // A base of nothing: what is gathered is the state.
            Kind::Delete => true,
            Kind::Put | Kind::WideSum | Kind::Operand => parts.store_older(key, &value()),
            Kind::RangeDelete | Kind::RangePurge | Kind::Recipe | Kind::Purge => false,
        };
        if fits && kind != Kind::Operand {
            self.settle(true);
        }
        fits
    }

    /// Makes the value of what was gathered; a state, when its base is in it.
    fn settle(&mut self, state: bool) {
        if let Some(gathered) = self.gathered.take() {
            (self.entry.kind, self.value) = gathered.into_entry(state);
        }
    }

    /// Makes a state of an operand, if it can be folded upon its base.
    fn become_state(&mut self, strategy: &MergeStrategy, key: &[u8], base: &Self) {
        self.settle(false);
        let Some(mut gathered) = strategy.gather(&self.value) else { return };
        if base.is_tombstone() || gathered.store_older(key, &base.value) {
            (self.entry.kind, self.value) = gathered.into_entry(true);
        }
    }
}

/// So many versions of a key wait, and more while they are operands that wait for their base.
const LONG: usize = 1 << 8;

/// The versions of the current key that are kept, newest first.
#[derive(Debug, Default)]
pub(super) struct KeyVersions {
    waiting: Vec<KeptVersion>,
    /// Newer ones were given out already, and whether the last of those was an operand that could not be folded.
    begun: bool,
    beneath_operand: bool,
    /// The last one of each tier, which waits for what is noted on it.
    main: Option<KeptVersion>,
    history: Option<KeptVersion>,
}

/// By what is decided where they go.
type By<'a> = (&'a Rules, &'a Demands, &'a OlderSegments);

impl KeyVersions {
    pub(super) fn push(&mut self, version: KeptVersion) {
        self.waiting.push(version);
    }

    /// Whether the next older version is a part of the last one.
    pub(super) fn ends_with_operand(&self) -> bool {
        self.waiting.last().is_some_and(KeptVersion::is_operand)
    }

    /// The seqno of the last one: above everything that is dropped there is one that is kept (K1).
    pub(super) fn last_seqno(&self) -> Seqno {
        assert!(!self.waiting.is_empty(), "something is dropped beneath no version (K3)");
        self.waiting.last().map_or(Seqno(0), |last| last.entry.seqno)
    }

    /// Notes on the last one that something beneath it was dropped, or that what `moved` tells of is in the history
    /// tier.
    pub(super) fn note(&mut self, seqno: Seqno, moved: bool) {
        assert!(!self.waiting.is_empty(), "@{seqno} is dropped beneath no version (K3)");
        if let Some(last) = self.waiting.last_mut() {
            last.widen_gap(seqno);
            last.entry.moved |= moved;
        }
    }

    /// Folds the next older version into the last one.
    pub(super) fn fold(
        &mut self,
        strategy: &MergeStrategy,
        key: &[u8],
        kind: Kind,
        value: &impl Fn() -> Bytes,
    ) -> bool {
        self.waiting.last_mut().is_some_and(|last| last.fold(strategy, key, kind, value))
    }

    /// Whether so many wait that they are to be given out, although more of the key follow. Looked at now and then: a
    /// long chain of operands stays long.
    pub(super) fn is_long(&self) -> bool {
        self.waiting.len().is_multiple_of(LONG) && self.last_base().is_some()
    }

    /// The oldest version that is no operand: those above need nothing beneath it.
    fn last_base(&self) -> Option<usize> {
        self.waiting.iter().rposition(|version| !version.is_operand()).filter(|at| *at > 0)
    }

    /// Gives them out. Where `more_follow`, the oldest that is no operand waits for what will be noted on it, with all
    /// that is beneath.
    pub(super) fn give_out(
        &mut self,
        key: &[u8],
        by: By<'_>,
        (tombstones, dropped): (&mut JobTombstones, &mut Dropped),
        more_follow: bool,
        out: &mut impl Output,
    ) -> Result<()> {
        let (rules, demands, below) = by;
        let last_base = self.last_base();
        let mut versions = std::mem::take(&mut self.waiting);
        let is_bottom = !more_follow && below.is_clear_at(key);
        make_states(&mut versions, key, rules, is_bottom);
        let wait = last_base.filter(|_| more_follow).map(|at| versions.split_off(at)).unwrap_or_default();
        if is_bottom {
            // Nothing is left beneath it.
            versions.pop_if(|last| last.entry.kind == Kind::Purge && rules.may_go(last.entry.seqno, demands));
        }
        let keeps_history = rules.policy.keeps_history();
        let operand_is_last = versions.last().is_some_and(KeptVersion::is_operand);
        let history_follows =
            keeps_history && !operand_is_last && wait.first().is_some_and(|next| !next.entry.kind.purges());
        choose_tiers(&mut versions, (keeps_history, history_follows), (self.begun, self.beneath_operand));
        if is_bottom && !self.begun {
            leave(&mut versions, key, (rules, demands), (tombstones, dropped));
        }
        for version in versions.drain(..) {
            match version.tier {
                Some(Tier::History) => self.place_history(version.into_point(), key, out)?,
                Some(Tier::Main) => self.place_main(version.into_point(), key, tombstones, out)?,
                None => {}
            }
        }
        self.begun = more_follow;
        self.beneath_operand = more_follow && operand_is_last;
        self.waiting = versions;
        self.waiting.extend(wait);
        if !more_follow {
            emit(Tier::History, self.history.take(), false, key, out)?;
            emit(Tier::Main, self.main.take(), false, key, out)?;
        }
        Ok(())
    }

    /// Puts a version into the main tree, beneath those that are there.
    fn place_main(
        &mut self,
        version: KeptVersion,
        key: &[u8],
        tombstones: &mut JobTombstones,
        out: &mut impl Output,
    ) -> Result<()> {
        tombstones.must_hide(version.entry.seqno);
        emit(Tier::Main, self.main.replace(version), true, key, out)
    }

    /// Moves a version that was superseded to the history tier, with its interval (K8).
    fn place_history(&mut self, mut version: KeptVersion, key: &[u8], out: &mut impl Output) -> Result<()> {
        let entry = &mut version.entry;
        let Entry { seqno: at, time, .. } = *entry;
        // Without its time it would count as older than any window, and go at once.
        assert!(time.is_some(), "@{at} goes to the history tier without a time (K8)");
        let began = time.unwrap_or(Micros::ZERO);
        if let Some((seqno, time)) = version.end {
            if seqno <= entry.seqno {
                // Superseded in its own commit, or beneath what nobody can read: nobody ever saw it, or will.
                return Ok(());
            }
            entry.until = Some(Until::At { seqno, time: time.max(began) });
        }
        assert!(entry.until.is_some(), "@{at} goes to the history tier without an end (K8)");
        entry.moved = false;
        let lowest = entry.gap_start.map_or(entry.seqno, |gap| gap.min(entry.seqno));
        if let Some(main) = &mut self.main {
            main.widen_gap(lowest);
            main.entry.moved = true;
        }
        emit(Tier::History, self.history.replace(version), true, key, out)
    }
}

fn emit(
    tier: Tier,
    version: Option<KeptVersion>,
    older_follows: bool,
    key: &[u8],
    out: &mut impl Output,
) -> Result<()> {
    let Some(mut version) = version else { return Ok(()) };
    version.settle(false);
    out.add(tier, &Entry { older_follows, ..version.entry }, key, &version.value)
}

/// Makes states of operands, oldest first (M3): where the past is kept of all whose base is known, else where that is
/// nothing. At the bottom nothing is the base of what is oldest.
fn make_states(versions: &mut [KeptVersion], key: &[u8], rules: &Rules, is_bottom: bool) {
    let Some(strategy) = &rules.strategy else { return };
    if let Some(last) = versions.last_mut().filter(|last| is_bottom && last.is_operand()) {
        last.fold(strategy, key, Kind::Delete, &Bytes::default);
    }
    for at in (1..versions.len()).rev() {
        let (newer, older) = versions.split_at_mut(at);
        if let (Some(operand), Some(base)) = (newer.last_mut(), older.first())
            && operand.is_operand()
            && !base.is_operand()
            && (rules.policy.keeps_history() || base.is_tombstone())
        {
            operand.become_state(strategy, key, base);
        }
    }
}

/// Where each goes; nowhere, of what a tombstone says and has nothing to tell of this key alone.
fn choose_tiers(
    versions: &mut [KeptVersion],
    (keeps_history, history_follows): (bool, bool),
    (begun, beneath_operand): (bool, bool),
) {
    let mut beneath_operand = beneath_operand;
    for (at, version) in versions.iter_mut().enumerate() {
        let newest = at == 0 && !begun;
        let stays = newest || beneath_operand || version.is_operand() || version.entry.kind.purges();
        version.tier = Some(if keeps_history && !stays { Tier::History } else { Tier::Main });
        beneath_operand = version.is_operand();
    }
    // No tombstone reaches into the history tier: one that superseded what goes there is told as a version of the key.
    let mut history_follows = history_follows;
    for version in versions.iter_mut().rev() {
        let told = history_follows || version.entry.gap_start.is_some();
        version.tier = version.tier.filter(|_| !version.by_tombstone || told);
        history_follows |= version.tier == Some(Tier::History);
    }
}

/// Lets the newest version go, if it is a tombstone or has expired, is all that the main tree has of the key, and
/// nobody needs it (K4). A tombstone goes to the history tier while it is owed.
fn leave(
    versions: &mut [KeptVersion],
    key: &[u8],
    (rules, demands): (&Rules, &Demands),
    (tombstones, dropped): (&JobTombstones, &mut Dropped),
) {
    let Some((newest, older)) = versions.split_first_mut() else { return };
    let Entry { seqno, gap_start, time, .. } = newest.entry;
    let alone = newest.tier.is_some() && older.iter().all(|version| version.tier != Some(Tier::Main));
    // An older tombstone would be found once it is gone, and answer for times it knows nothing of; of a value also one
    // of its own commit.
    let from = if newest.is_tombstone() { seqno } else { seqno.next() };
    if !alone || tombstones.any_older(from) {
        return;
    }
    if newest.is_tombstone() && !newest.entry.kind.purges() && !demands.holds_tombstone(seqno, gap_start) {
        let owed = rules.owe(&PolicyCandidate {
            rank: 0,
            seqno,
            // Where a policy keeps the past every entry has a time, and no other owes anything.
            time: time.unwrap_or(Micros::ZERO),
            superseded_at: None,
            is_delete: true,
            ended_by_delete: false,
            deleted_since: None,
            bytes: key.len(),
        });
        if owed {
            newest.entry.until = Some(Until::Open);
            newest.tier = Some(Tier::History);
        } else {
            dropped.tombstone_left(seqno, gap_start);
            newest.tier = None;
        }
    } else if let Some(expiry) = rules.expiry_if_gone(&newest.entry, key.len() + newest.value.len(), demands) {
        dropped.tombstone_left(seqno, gap_start);
        dropped.expired_upto = dropped.expired_upto.max(expiry);
        newest.tier = None;
    }
}
