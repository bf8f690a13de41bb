//! Placement of the versions of one key that are kept: which are folded, and which tier each goes to.
//!
//! If the policy keeps the past, superseded versions go to the history tier with their intervals, and the main tree has
//! one entry of each key. If it does not, versions that views still read stay in the main tree beside the newest one
//! (K10). Whatever an operand is folded onto stays with it.

use super::{
    dropped::Dropped,
    output::{Output, Tier},
    policy::{PolicyCandidate, entry_bytes},
    rules::{Retention, Rules},
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
    /// Parts folded into an operand so far; its value is made of them at the end.
    gathered: Option<Gathered>,
    /// Where its interval ends, in seqno and time; `None` for the newest version.
    end: Option<(Seqno, Micros)>,
    /// Whether it is a range tombstone. Then it is written as an entry of the key only if it is needed for this key
    /// alone.
    by_tombstone: bool,
    /// Gap of that range tombstone.
    tombstone_gap: Option<Seqno>,
    /// Tier that it goes to, once that is known; `None` if it is not written.
    tier: Option<Tier>,
}

impl KeptVersion {
    pub(super) fn new(entry: Entry, value: Bytes, end: Option<(Seqno, Micros)>) -> Self {
        Self { entry, value, gathered: None, end, by_tombstone: false, tombstone_gap: None, tier: None }
    }

    /// Returns the version that a range tombstone with this gap is.
    pub(super) fn by_tombstone(entry: Entry, tombstone_gap: Option<Seqno>, end: Option<(Seqno, Micros)>) -> Self {
        Self { by_tombstone: true, tombstone_gap, ..Self::new(entry, Bytes::default(), end) }
    }

    fn is_tombstone(&self) -> bool {
        matches!(self.entry.kind, Kind::Delete | Kind::RangeDelete) || self.entry.kind.purges()
    }

    fn is_operand(&self) -> bool {
        self.entry.kind == Kind::Operand
    }

    /// Turns a range tombstone into an entry of the key.
    fn into_point(mut self) -> Self {
        if self.by_tombstone {
            self.entry.kind = if self.entry.kind.purges() { Kind::Purge } else { Kind::Delete };
            if let Some(gap) = self.tombstone_gap {
                self.widen_gap(gap);
            }
        }
        self
    }

    /// Records that a version at a seqno is missing beneath it (K3).
    fn widen_gap(&mut self, seqno: Seqno) {
        assert!(seqno <= self.entry.seqno, "a gap at {seqno} above its entry @{} (K3)", self.entry.seqno);
        self.entry.gap_start = Some(self.entry.gap_start.map_or(seqno, |gap| gap.min(seqno)));
    }

    /// Folds the next older version into an operand; `false` if they have to stay separate.
    fn fold(&mut self, strategy: &MergeStrategy, key: &[u8], kind: Kind, value: &impl Fn() -> Bytes) -> bool {
        let Self { value: newest, gathered, .. } = self;
        if gathered.is_none() {
            *gathered = strategy.gather(newest);
        }
        let Some(parts) = gathered else { return false };
        let fits = match kind {
            // An empty base: what was gathered is the state.
            Kind::Delete => true,
            Kind::Put | Kind::WideSum | Kind::Operand => parts.store_older(key, &value()),
            Kind::RangeDelete | Kind::RangePurge | Kind::Recipe | Kind::Purge => false,
        };
        if fits && kind != Kind::Operand {
            self.materialise(true);
        }
        fits
    }

    /// Makes the value from the gathered parts: a state if they include the base.
    fn materialise(&mut self, state: bool) {
        if let Some(gathered) = self.gathered.take() {
            (self.entry.kind, self.value) = gathered.into_entry(state);
        }
    }

    /// Turns an operand into a state, if it can be folded onto its base.
    fn become_state(&mut self, strategy: &MergeStrategy, key: &[u8], base: &Self) {
        self.materialise(false);
        let Some(mut gathered) = strategy.gather(&self.value) else { return };
        if base.is_tombstone() || gathered.store_older(key, &base.value) {
            (self.entry.kind, self.value) = gathered.into_entry(true);
        }
    }
}

/// Number of waiting versions of a key at which they are written; operands that wait for their base may be more.
const LONG: usize = 1 << 8;

/// Versions of the current key that are kept, newest first.
#[derive(Debug, Default)]
pub(super) struct KeyVersions {
    waiting: Vec<KeptVersion>,
    /// Whether newer ones were written already, and whether the last of those was an operand that could not be folded.
    begun: bool,
    beneath_operand: bool,
    /// Last one of each tier, held back until its gap is final.
    main: Option<KeptVersion>,
    history: Option<KeptVersion>,
}

impl KeyVersions {
    pub(super) fn push(&mut self, version: KeptVersion) {
        self.waiting.push(version);
    }

    /// Returns whether the last one is an operand, so that the next older version is a part of its value.
    pub(super) fn ends_with_operand(&self) -> bool {
        self.waiting.last().is_some_and(KeptVersion::is_operand)
    }

    /// Returns the seqno of the last one: above everything that is dropped there is a version that is kept (K1).
    pub(super) fn last_seqno(&self) -> Seqno {
        assert!(!self.waiting.is_empty(), "something is dropped beneath no version (K3)");
        self.waiting.last().map_or(Seqno(0), |last| last.entry.seqno)
    }

    /// Records on the last one that a version beneath it was dropped; `moved` if versions of that gap are in the
    /// history tier.
    pub(super) fn record_gap(&mut self, seqno: Seqno, moved: bool) {
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

    /// Returns whether so many wait that some must be written before the key ends. Checked only at multiples of
    /// [`LONG`]: a long chain of operands stays long.
    pub(super) fn is_long(&self) -> bool {
        self.waiting.len().is_multiple_of(LONG) && self.last_base().is_some()
    }

    /// Returns the position of the oldest version that is no operand: those above it need nothing beneath it.
    fn last_base(&self) -> Option<usize> {
        self.waiting.iter().rposition(|version| !version.is_operand()).filter(|at| *at > 0)
    }

    /// Writes the waiting versions. If `more_follow`, the oldest version that is no operand, and all beneath it, wait
    /// on: its gap is not final.
    pub(super) fn give_out(
        &mut self,
        key: &[u8],
        retention: &Retention,
        tombstones: &mut JobTombstones,
        dropped: &mut Dropped,
        more_follow: bool,
        out: &mut impl Output,
    ) -> Result<()> {
        let Retention { rules, demands, older } = retention;
        let last_base = self.last_base();
        let mut versions = std::mem::take(&mut self.waiting);
        let is_bottom = !more_follow && older.is_clear_at(key);
        make_states(&mut versions, key, rules, is_bottom);
        let wait = last_base.filter(|_| more_follow).map(|at| versions.split_off(at)).unwrap_or_default();
        if is_bottom {
            // A purge with nothing left beneath it.
            let gone = |last: &mut KeptVersion| {
                last.entry.kind == Kind::Purge && rules.may_drop_purge(last.entry.seqno, demands)
            };
            if let Some(purge) = versions.pop_if(gone) {
                // Views that the job does not know of may have "absent" from it (J1). What it hid leaves no trace.
                dropped.tombstone_left(purge.entry.seqno, None);
            }
        }
        let keeps_history = rules.policy.keeps_history();
        let operand_is_last = versions.last().is_some_and(KeptVersion::is_operand);
        let history_follows =
            keeps_history && !operand_is_last && wait.first().is_some_and(|next| !next.entry.kind.purges());
        self.choose_tiers(&mut versions, keeps_history, history_follows);
        if is_bottom && !self.begun {
            retire_newest(&mut versions, key, retention, tombstones, dropped);
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

    /// Chooses a tier for each version; none for a range tombstone that is not needed for this key alone.
    fn choose_tiers(&self, versions: &mut [KeptVersion], keeps_history: bool, mut history_follows: bool) {
        let mut beneath_operand = self.beneath_operand;
        for (at, version) in versions.iter_mut().enumerate() {
            let newest = at == 0 && !self.begun;
            let stays = newest || beneath_operand || version.is_operand() || version.entry.kind.purges();
            version.tier = Some(if keeps_history && !stays { Tier::History } else { Tier::Main });
            beneath_operand = version.is_operand();
        }
        // Range tombstones do not reach into the history tier: one that superseded a moved version becomes a version of
        // the key.
        for version in versions.iter_mut().rev() {
            let told = history_follows || version.entry.gap_start.is_some();
            version.tier = version.tier.filter(|_| !version.by_tombstone || told);
            history_follows |= version.tier == Some(Tier::History);
        }
    }

    /// Puts a version into the main tree, beneath those already there.
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

    /// Moves a superseded version to the history tier, with its interval (K8).
    fn place_history(&mut self, mut version: KeptVersion, key: &[u8], out: &mut impl Output) -> Result<()> {
        let entry = &mut version.entry;
        let Entry { seqno: at, time, .. } = *entry;
        // Without a time it would count as older than any window, and be dropped at the next merge.
        assert!(time.is_some(), "@{at} goes to the history tier without a time (K8)");
        let began = time.unwrap_or(Micros::ZERO);
        if let Some((seqno, time)) = version.end {
            if seqno <= entry.seqno {
                // Superseded in its own commit, or beneath a gap that covers it: no reader could ever see it, or will.
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
    version.materialise(false);
    out.add(tier, &Entry { older_follows, ..version.entry }, key, &version.value)
}

/// Turns operands into states, oldest first (M3). If the policy keeps the past, all whose base is known become states;
/// otherwise only those whose base is a tombstone. At the bottom the oldest version has an empty base.
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

/// Drops the newest version, if it is a tombstone or has expired, the main tree has nothing else of the key, and no
/// reader needs it (K4). A tombstone goes to the history tier while the policy keeps it.
fn retire_newest(
    versions: &mut [KeptVersion],
    key: &[u8],
    retention: &Retention,
    tombstones: &JobTombstones,
    dropped: &mut Dropped,
) {
    let Retention { rules, demands, .. } = retention;
    let Some((newest, older)) = versions.split_first_mut() else { return };
    let Entry { seqno, gap_start, time, .. } = newest.entry;
    let alone = newest.tier.is_some() && older.iter().all(|version| version.tier != Some(Tier::Main));
    // Without it, reads would find an older range tombstone, and take that for the answer at moments when it was not. A
    // value may even hide a range tombstone of its own commit.
    let from = if newest.is_tombstone() { seqno } else { seqno.next() };
    if !alone || tombstones.any_older(from) {
        return;
    }
    if newest.is_tombstone() && !newest.entry.kind.purges() && !demands.holds_tombstone(seqno, gap_start) {
        let owed = rules.owe(&PolicyCandidate {
            rank: 0,
            seqno,
            // If the policy keeps the past, every entry has a time; otherwise it keeps no tombstone, whatever the time.
            time: time.unwrap_or(Micros::ZERO),
            superseded_at: None,
            is_delete: true,
            ended_by_delete: false,
            deleted_since: None,
            bytes: key.len() as u64,
        });
        if owed {
            newest.entry.until = Some(Until::Open);
            newest.tier = Some(Tier::History);
        } else {
            dropped.tombstone_left(seqno, gap_start);
            newest.tier = None;
        }
    } else if let Some(expiry) =
        rules.expiry_if_gone(&newest.entry, entry_bytes(newest.entry.kind, key, &newest.value), demands)
    {
        dropped.tombstone_left(seqno, gap_start);
        dropped.expired_upto = dropped.expired_upto.max(expiry);
        newest.tier = None;
    }
}
