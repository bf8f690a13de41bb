//! The database at one moment, as metadata: keyspaces, levels, segments, logs.
//!
//! Invariants, checked of the keyspaces that an edit changes when it is applied, and of all when a manifest has been read:
//!
//! * V1: level 0 is ordered newest first, and its segments do not share a seqno.
//! * V2: segments of a deeper level are ordered by key and do not overlap.
//! * V3: every segment belongs to a keyspace that exists, and its number is used once.
//! * V4: `vanished`, `horizon` and every counter only move forward.
//! * V5: a keyspace keeps the merge strategy it was created with.
//! * V6: segments of one run of the history tier do not overlap.

use std::{collections::BTreeMap, sync::Arc};

use super::edit::{Change, Edit, StoredOptions};
use crate::{
    base::{Corruption, FIRST_KEYSPACE, KeyspaceId, TIMELINE},
    segment::Finished,
    wal::LogEnd,
};

/// More levels than any database needs.
pub(crate) const LEVELS_MAX: usize = 8;

/// One keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyspaceVersion {
    pub(crate) id: KeyspaceId,
    pub(crate) name: String,
    pub(crate) options: StoredOptions,
    /// The seqno of its birth.
    pub(crate) born: u64,
    /// The seqno at which it was dropped; it is hidden since.
    pub(crate) dropped: Option<u64>,
    pub(crate) vanished: u64,
    pub(crate) horizon: u64,
    /// Values that expired up to this time, in microseconds, may be gone.
    pub(crate) lapsed: u64,
    /// The main tree: level 0 newest first, deeper levels by key.
    pub(crate) levels: Vec<Vec<Arc<Finished>>>,
    /// The history tier, by run and key, the newest run first.
    pub(crate) past: Vec<Arc<Finished>>,
}

impl KeyspaceVersion {
    /// The segments of a level.
    pub(crate) fn level(&self, level: usize) -> &[Arc<Finished>] {
        self.levels.get(level).map_or(&[], Vec::as_slice)
    }

    /// The segments of the main tree, newest level first.
    pub(crate) fn main(&self) -> impl Iterator<Item = &Arc<Finished>> {
        self.levels.iter().flatten()
    }

    /// All segments.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &Arc<Finished>> {
        self.main().chain(&self.past)
    }

    /// Whether it is the engine's own.
    pub(crate) fn is_hidden(&self) -> bool {
        self.id.0 < FIRST_KEYSPACE
    }
}

/// A moment that is kept readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PinnedAt {
    pub(crate) seqno: u64,
    /// In microseconds.
    pub(crate) time_us: u64,
}

/// Moments at which something was decided that is no commit, and so stands in no timeline: a keyspace created, configured or dropped, a pin set or
/// taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decisions {
    /// Seqnos and times in microseconds, ascending: every one from `from` on.
    stamps: Vec<(u64, u64)>,
    /// Of those below nothing is known: they were too many.
    from: u64,
}

/// Decisions remembered at most.
const DECISIONS_MAX: usize = 1 << 14;

impl Decisions {
    fn note(&mut self, seqno: u64, time_us: u64) {
        if self.stamps.last().is_none_or(|(last, _)| *last < seqno) && seqno >= self.from {
            self.stamps.push((seqno, time_us));
        }
        let over = self.stamps.len().saturating_sub(DECISIONS_MAX);
        if over > 0
            && let Some((gone, _)) = self.stamps.drain(..over).next_back()
        {
            self.from = gone + 1;
        }
    }

    /// The newest at or below a seqno.
    pub(crate) fn at_seqno(&self, seqno: u64) -> Option<(u64, u64)> {
        let after = self.stamps.partition_point(|(at, _)| *at <= seqno);
        self.stamps.get(after.checked_sub(1)?).copied()
    }

    /// The newest at or before a time in microseconds: they never go backwards.
    pub(crate) fn at_time(&self, time_us: u64) -> Option<(u64, u64)> {
        let after = self.stamps.partition_point(|(_, at)| *at <= time_us);
        self.stamps.get(after.checked_sub(1)?).copied()
    }

    /// Whether a decision at a seqno would be known.
    pub(crate) fn reach(&self, seqno: u64) -> bool {
        seqno >= self.from
    }
}

/// The database at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) keyspaces: BTreeMap<KeyspaceId, Arc<KeyspaceVersion>>,
    /// The number for the next keyspace.
    pub(crate) next_keyspace: u32,
    /// Logs below this number are needed no more.
    pub(crate) logs_from: u64,
    /// What is known of the ends of logs.
    pub(crate) log_ends: BTreeMap<u64, LogEnd>,
    pub(crate) next_file: u64,
    pub(crate) last_seqno: u64,
    pub(crate) next_seqno: u64,
    pub(crate) seqno_ceiling: u64,
    pub(crate) time_us: u64,
    pub(crate) pins: BTreeMap<String, PinnedAt>,
    /// Of segments: the bytes that are kept only for those who read a seqno.
    pub(crate) held: Arc<BTreeMap<u64, Vec<(u64, u64)>>>,
    pub(crate) decisions: Arc<Decisions>,
}

impl Version {
    /// The keyspace of this name that is not dropped.
    pub(crate) fn by_name(&self, name: &str) -> Option<&Arc<KeyspaceVersion>> {
        self.keyspaces
            .values()
            .find(|keyspace| keyspace.dropped.is_none() && !keyspace.is_hidden() && keyspace.name == name)
    }

    /// The version after an edit; an edit that breaks an invariant is corruption.
    pub(crate) fn apply(&self, edit: &Edit) -> Result<Self, Corruption> {
        let mut next = self.clone();
        for change in &edit.changes {
            next.change(change)?;
        }
        next.note_decisions(edit);
        // Of thousands of keyspaces an edit changes a few.
        let mut changed: Vec<KeyspaceId> = edit.changes.iter().filter_map(Change::reordered).collect();
        changed.sort_unstable();
        changed.dedup();
        Self::check(&changed.iter().filter_map(|id| next.keyspaces.get(id)).collect::<Vec<_>>())?;
        Ok(next)
    }

    /// Checks all of it, as when it has been read: also that no two keyspaces have segments of one number.
    pub(crate) fn check_whole(&self) -> Result<(), Corruption> {
        Self::check(&self.keyspaces.values().collect::<Vec<_>>())
    }

    /// A segment is there no more: nothing is kept in it.
    fn let_go(&mut self, number: u64) {
        if self.held.contains_key(&number) {
            Arc::make_mut(&mut self.held).remove(&number);
        }
    }

    /// One edit that makes this version out of nothing.
    pub(crate) fn snapshot(&self) -> Edit {
        let mut edit = Edit::new([
            Change::NextFile { number: self.next_file },
            Change::LogsFrom { number: self.logs_from },
            Change::NextKeyspace { number: self.next_keyspace },
            Change::Seqnos {
                last: self.last_seqno,
                next: self.next_seqno,
                ceiling: self.seqno_ceiling,
                time_us: self.time_us,
            },
        ]);
        for (&number, &end) in &self.log_ends {
            edit.push(Change::LogEnd { number, end });
        }
        for keyspace in self.keyspaces.values() {
            let KeyspaceVersion { id, born, vanished, horizon, lapsed, .. } = **keyspace;
            let (name, options) = (keyspace.name.clone(), keyspace.options.clone());
            edit.push(Change::Create { id, name, options, seqno: born });
            edit.push(Change::Marks { keyspace: id, vanished, horizon, lapsed });
            for (level, segments) in (0u8..).zip(&keyspace.levels) {
                for segment in segments {
                    edit.push(Change::Add { level, segment: Finished::clone(segment) });
                }
            }
            for segment in &keyspace.past {
                edit.push(Change::Add { level: 0, segment: Finished::clone(segment) });
            }
            if let Some(seqno) = keyspace.dropped {
                edit.push(Change::Drop { id, seqno });
            }
        }
        for (name, PinnedAt { seqno, time_us }) in &self.pins {
            edit.push(Change::Pin { name: name.clone(), seqno: *seqno, time_us: *time_us });
        }
        for (&number, bytes) in self.held.iter() {
            edit.push(Change::Held { number, bytes: bytes.clone() });
        }
        for &(last, time_us) in &self.decisions.stamps {
            edit.push(Change::Seqnos { last, next: 0, ceiling: 0, time_us });
        }
        edit
    }

    /// Notes when a decision was made, which the edit of it says, and a snapshot of all that are remembered. The edit of a flush says the like of a
    /// commit, which the timeline tells.
    fn note_decisions(&mut self, edit: &Edit) {
        let any = |is: fn(&Change) -> bool| edit.changes.iter().any(is);
        let is_snapshot = any(|change| matches!(change, Change::NextKeyspace { .. }));
        if !is_snapshot && any(|change| matches!(change, Change::LogsFrom { .. })) {
            return;
        }
        for change in &edit.changes {
            // One that reserves nothing.
            if let Change::Seqnos { last: seqno @ 1.., next: 0, ceiling: 0, time_us } = *change {
                Arc::make_mut(&mut self.decisions).note(seqno, time_us);
            }
        }
    }

    fn keyspace_mut(&mut self, id: KeyspaceId) -> Result<&mut KeyspaceVersion, Corruption> {
        self.keyspaces.get_mut(&id).map(Arc::make_mut).ok_or(broken("a keyspace that exists (V3)"))
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each change")]
    fn change(&mut self, change: &Change) -> Result<(), Corruption> {
        match change {
            Change::Create { id, name, options, seqno } => {
                let hidden = *id == TIMELINE && name.is_empty();
                let own = hidden || id.0 >= FIRST_KEYSPACE && !name.is_empty();
                if self.keyspaces.contains_key(id) || !own || self.by_name(name).is_some() {
                    return Err(broken("a new keyspace with a name and number of its own"));
                }
                let keyspace = KeyspaceVersion {
                    id: *id,
                    name: name.clone(),
                    options: options.clone(),
                    born: *seqno,
                    dropped: None,
                    vanished: 0,
                    horizon: 0,
                    lapsed: 0,
                    levels: Vec::new(),
                    past: Vec::new(),
                };
                self.keyspaces.insert(*id, Arc::new(keyspace));
                self.next_keyspace = self.next_keyspace.max(id.0.saturating_add(1)).max(FIRST_KEYSPACE);
                self.last_seqno = self.last_seqno.max(*seqno);
            }
            Change::Configure { id, options, seqno } => {
                let keyspace = self.keyspace_mut(*id)?;
                if (keyspace.options.merge, &keyspace.options.merge_name) != (options.merge, &options.merge_name) {
                    return Err(broken("a keyspace that keeps its merge strategy (V5)"));
                }
                keyspace.options = options.clone();
                self.last_seqno = self.last_seqno.max(*seqno);
            }
            Change::Drop { id, seqno } => {
                self.keyspace_mut(*id)?.dropped = Some(*seqno);
                self.last_seqno = self.last_seqno.max(*seqno);
            }
            Change::Forget { id } => {
                if let Some(gone) = self.keyspaces.remove(id) {
                    gone.segments().for_each(|segment| self.let_go(segment.number));
                }
            }
            Change::Add { level, segment } => {
                let level = usize::from(*level);
                if level >= LEVELS_MAX {
                    return Err(broken("a level that exists"));
                }
                self.next_file = self.next_file.max(segment.number.saturating_add(1));
                let keyspace = self.keyspace_mut(segment.summary.keyspace)?;
                if segment.summary.past.is_some() {
                    keyspace.past.push(Arc::new(segment.clone()));
                    let place = |segment: &Arc<Finished>| {
                        let run = segment.summary.past.map_or(0, |past| past.run);
                        (std::cmp::Reverse(run), segment.summary.span.start.clone())
                    };
                    keyspace.past.sort_by_cached_key(place);
                    return Ok(());
                }
                let levels = &mut keyspace.levels;
                if levels.len() <= level {
                    levels.resize(level + 1, Vec::new());
                }
                if let Some(segments) = levels.get_mut(level) {
                    segments.push(Arc::new(segment.clone()));
                    if level == 0 {
                        segments.sort_by_key(|segment| std::cmp::Reverse(segment.summary.max_seqno));
                    } else {
                        segments.sort_by(|a, b| a.summary.span.start.cmp(&b.summary.span.start));
                    }
                }
            }
            Change::Remove { keyspace, number } => {
                self.let_go(*number);
                let keyspace = self.keyspace_mut(*keyspace)?;
                let before = keyspace.segments().count();
                let others = |segment: &Arc<Finished>| segment.number != *number;
                keyspace.levels.iter_mut().for_each(|segments| segments.retain(others));
                keyspace.past.retain(others);
                if keyspace.segments().count() + 1 != before {
                    return Err(broken("a segment to remove that is there"));
                }
                let levels = &mut keyspace.levels;
                // Levels end with one that holds something: equal versions are equal however they came about.
                levels.truncate(levels.iter().rposition(|segments| !segments.is_empty()).map_or(0, |last| last + 1));
            }
            Change::Marks { keyspace, vanished, horizon, lapsed } => {
                let keyspace = self.keyspace_mut(*keyspace)?;
                keyspace.vanished = keyspace.vanished.max(*vanished);
                keyspace.horizon = keyspace.horizon.max(*horizon);
                keyspace.lapsed = keyspace.lapsed.max(*lapsed);
            }
            Change::LogsFrom { number } => {
                self.logs_from = self.logs_from.max(*number);
                self.log_ends = self.log_ends.split_off(&self.logs_from);
            }
            Change::LogEnd { number, end } => {
                self.log_ends.insert(*number, *end);
            }
            Change::NextKeyspace { number } => self.next_keyspace = self.next_keyspace.max(*number),
            Change::NextFile { number } => self.next_file = self.next_file.max(*number),
            Change::Seqnos { last, next, ceiling, time_us } => {
                self.next_seqno = self.next_seqno.max(*next);
                self.last_seqno = self.last_seqno.max(*last);
                self.seqno_ceiling = self.seqno_ceiling.max(*ceiling);
                self.time_us = self.time_us.max(*time_us);
            }
            Change::Pin { name, seqno, time_us } => {
                let pin = PinnedAt { seqno: *seqno, time_us: *time_us };
                if self.pins.insert(name.clone(), pin).is_some() {
                    return Err(broken("a pin with a name of its own"));
                }
                self.last_seqno = self.last_seqno.max(*seqno);
            }
            Change::Unpin { name } => {
                if self.pins.remove(name).is_none() {
                    return Err(broken("a pin to remove that is there"));
                }
            }
            Change::Held { number, bytes } => {
                if bytes.is_empty() {
                    self.let_go(*number);
                } else {
                    Arc::make_mut(&mut self.held).insert(*number, bytes.clone());
                }
            }
        }
        Ok(())
    }

    fn check(keyspaces: &[&Arc<KeyspaceVersion>]) -> Result<(), Corruption> {
        let mut numbers = std::collections::HashSet::new();
        for keyspace in keyspaces {
            let newest_first = |a: &Arc<Finished>, b: &Arc<Finished>| a.summary.min_seqno > b.summary.max_seqno;
            if !keyspace.level(0).is_sorted_by(newest_first) {
                return Err(broken("level 0 newest first (V1)"));
            }
            let apart = |a: &Arc<Finished>, b: &Arc<Finished>| {
                a.summary.span.end.as_ref().is_some_and(|end| *end <= b.summary.span.start)
            };
            if !keyspace.levels.iter().skip(1).all(|segments| segments.is_sorted_by(apart)) {
                return Err(broken("segments of a level that do not overlap (V2)"));
            }
            let run = |segment: &Finished| segment.summary.past.map_or(0, |past| past.run);
            if !keyspace.past.is_sorted_by(|a, b| run(a) != run(b) || apart(a, b)) {
                return Err(broken("segments of a run that do not overlap (V6)"));
            }
            let own = keyspace.segments().all(|segment| segment.summary.keyspace == keyspace.id);
            if !own || !keyspace.segments().all(|segment| numbers.insert(segment.number)) {
                return Err(broken("segments with a number and keyspace of their own (V3)"));
            }
        }
        Ok(())
    }
}

fn broken(what: &'static str) -> Corruption {
    Corruption { offset: 0, what }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::edit::tests::segment;

    fn with_keyspace() -> Version {
        let create =
            Change::Create { id: KeyspaceId(16), name: "k".into(), options: StoredOptions::default(), seqno: 1 };
        Version::default().apply(&Edit::new([create])).unwrap()
    }

    #[test]
    fn a_snapshot_makes_the_version_out_of_nothing() {
        let version = with_keyspace()
            .apply(&Edit::new([
                Change::Add { level: 0, segment: segment(1, ("a", "z"), (5, 9)) },
                Change::Add { level: 0, segment: segment(2, ("a", "z"), (10, 12)) },
                Change::Add { level: 2, segment: segment(3, ("m", "p"), (1, 2)) },
                Change::Add { level: 2, segment: segment(4, ("a", "m"), (1, 2)) },
                Change::Marks { keyspace: KeyspaceId(16), vanished: 4, horizon: 5, lapsed: 0 },
                Change::LogsFrom { number: 3 },
                Change::LogEnd { number: 3, end: LogEnd::AtMost(70) },
                Change::Seqnos { last: 12, next: 20, ceiling: 1 << 32, time_us: 8 },
            ]))
            .unwrap();
        assert_eq!(Version::default().apply(&version.snapshot()), Ok(version.clone()));
        let keyspace = &version.keyspaces[&KeyspaceId(16)];
        let numbers = |level| keyspace.level(level).iter().map(|s| s.number).collect::<Vec<_>>();
        assert_eq!((numbers(0), numbers(2)), (vec![2, 1], vec![4, 3]));
    }

    #[test]
    fn an_edit_that_breaks_an_invariant_is_refused() {
        let version = with_keyspace();
        let add = |level, segment| Change::Add { level, segment };
        for (changes, invariant) in [
            (vec![add(0, segment(1, ("a", "b"), (5, 9))), add(0, segment(2, ("a", "b"), (9, 12)))], "V1"),
            (vec![add(1, segment(1, ("a", "m"), (1, 1))), add(1, segment(2, ("c", "d"), (1, 1)))], "V2"),
            (vec![add(0, segment(1, ("a", "m"), (1, 1))), add(1, segment(1, ("c", "d"), (1, 1)))], "V3"),
            (vec![Change::Remove { keyspace: KeyspaceId(16), number: 8 }], "there"),
            (vec![Change::Drop { id: KeyspaceId(99), seqno: 1 }], "V3"),
        ] {
            let refused = version.apply(&Edit::new(changes)).unwrap_err();
            assert!(refused.what.contains(invariant), "{refused}");
        }
    }

    #[test]
    fn two_keyspaces_with_segments_of_one_number_are_found_once_all_has_been_read() {
        let create =
            Change::Create { id: KeyspaceId(17), name: "l".into(), options: StoredOptions::default(), seqno: 2 };
        let add = |id, number| {
            let mut segment = segment(number, ("a", "b"), (5, 9));
            segment.summary.keyspace = KeyspaceId(id);
            Change::Add { level: 0, segment }
        };
        let version = with_keyspace().apply(&Edit::new([create, add(16, 1)])).unwrap();
        version.apply(&Edit::new([add(17, 2)])).unwrap().check_whole().unwrap();
        let both = version.apply(&Edit::new([add(17, 1)])).unwrap();
        assert!(both.check_whole().unwrap_err().what.contains("V3"));
    }

    #[test]
    fn decisions_are_remembered_with_their_time_up_to_a_bound_and_through_a_snapshot() {
        let mut version = Version::default();
        let count = DECISIONS_MAX as u64 + 3;
        for seqno in 1..=count {
            let stamp = Change::Seqnos { last: seqno, next: 0, ceiling: 0, time_us: seqno * 10 };
            version.note_decisions(&Edit::new([stamp]));
        }
        assert_eq!((version.decisions.at_seqno(3), version.decisions.reach(3)), (None, false));
        assert_eq!((version.decisions.at_seqno(9), version.decisions.reach(4)), (Some((9, 90)), true));
        assert_eq!(version.decisions.at_time(95), Some((9, 90)));
        let again = Version::default().apply(&version.snapshot()).unwrap();
        assert_eq!(again.decisions.at_seqno(count), Some((count, count * 10)));
        let of_a_flush = Change::Seqnos { last: count + 5, next: 0, ceiling: 0, time_us: count * 20 };
        let flushed = version.apply(&Edit::new([of_a_flush, Change::LogsFrom { number: 2 }])).unwrap();
        assert_eq!(flushed.decisions, version.decisions, "of commits the timeline tells");
    }

    #[test]
    fn marks_only_move_forward() {
        let marks =
            |vanished, horizon| Edit::new([Change::Marks { keyspace: KeyspaceId(16), vanished, horizon, lapsed: 0 }]);
        let version = with_keyspace().apply(&marks(9, 9)).unwrap().apply(&marks(3, 12)).unwrap();
        let keyspace = &version.keyspaces[&KeyspaceId(16)];
        assert_eq!((keyspace.vanished, keyspace.horizon), (9, 12));
    }
}
