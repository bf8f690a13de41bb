//! The database at one moment, as metadata: keyspaces, levels, segments, logs.
//!
//! Invariants, checked when an edit is applied for the keyspaces it changes, and for all keyspaces when a manifest has
//! been read:
//!
//! * V1: level 0 is ordered newest first, and its segments do not share a seqno.
//! * V2: segments of a deeper level are ordered by key and do not overlap.
//! * V3: every segment belongs to a keyspace that exists, and its number is used once. The engine's own keyspaces exist
//!   from the beginning; no edit creates, configures or removes them.
//! * V4: `vanished`, `horizon` and every counter only move forward.
//! * V5: a keyspace keeps the merge strategy it was created with.
//! * V6: segments of one run of the history tier do not overlap.
//! * V7: every pack has a number of its own, also among segments.
//! * V8: dedup scopes are numbered from 1 without a gap, and there is a secret once there is one; a keyspace keeps its
//!   scope, which exists.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::Arc,
};

use super::{
    change::Change,
    decisions::Decisions,
    edit::Edit,
    fields::COUNTER_START_MAX,
    keyspace::{KeyspaceVersion, LEVELS_MAX, broken},
    options::StoredOptions,
};
use crate::{
    base::{Corruption, FIRST_KEYSPACE, FileNumber, HIDDEN, KeyspaceId, Micros, Seqno},
    chunk::pack::PackMeta,
    segment::SegmentMeta,
    wal::LogEnd,
};

/// A pinned moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PinnedAt {
    pub(crate) seqno: Seqno,
    pub(crate) time: Micros,
}

/// The database at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) keyspaces: BTreeMap<KeyspaceId, Arc<KeyspaceVersion>>,
    /// Number of the next keyspace.
    pub(crate) next_keyspace: u32,
    /// Logs below this number are no longer needed.
    pub(crate) logs_from: FileNumber,
    /// Ends of logs, as far as they are known.
    pub(crate) log_ends: BTreeMap<FileNumber, LogEnd>,
    pub(crate) next_file: FileNumber,
    pub(crate) last_seqno: Seqno,
    pub(crate) next_seqno: Seqno,
    pub(crate) seqno_ceiling: Seqno,
    pub(crate) time: Micros,
    pub(crate) pins: BTreeMap<String, PinnedAt>,
    /// Bytes of each segment that are kept only for readers of a seqno.
    pub(crate) held: Arc<BTreeMap<FileNumber, Vec<(Seqno, u64)>>>,
    pub(crate) decisions: Arc<Decisions>,
    /// The packs of chunks.
    pub(crate) packs: Arc<BTreeMap<FileNumber, PackMeta>>,
    /// Bytes of large values that had been dropped at the last clean close.
    pub(crate) dropped: u64,
    pub(crate) scopes: Arc<Scopes>,
}

/// The dedup scopes of the database.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Scopes {
    /// The secret that their keys are made from; there is one once there is a scope.
    pub(crate) secret: Option<[u8; 32]>,
    /// Names; that of scope 1 comes first.
    pub(crate) names: Vec<String>,
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scopes({:?})", self.names)
    }
}

impl Scopes {
    /// Returns the number of the scope of a name, if there is one.
    pub(crate) fn number(&self, name: &str) -> Option<u32> {
        let at = self.names.iter().position(|known| known == name)?;
        u32::try_from(at + 1).ok()
    }

    /// Returns the name of a scope.
    pub(crate) fn name(&self, number: u32) -> Option<&str> {
        self.names.get((number as usize).checked_sub(1)?).map(String::as_str)
    }
}

impl Default for Version {
    /// Returns the version before the first edit: the engine's own keyspaces, empty.
    fn default() -> Self {
        let hidden = |id| (id, Arc::new(KeyspaceVersion::new(id, "", &StoredOptions::default(), Seqno(0))));
        Self {
            keyspaces: HIDDEN.into_iter().map(hidden).collect(),
            next_keyspace: FIRST_KEYSPACE,
            logs_from: FileNumber(0),
            log_ends: BTreeMap::new(),
            next_file: FileNumber(0),
            last_seqno: Seqno(0),
            next_seqno: Seqno(0),
            seqno_ceiling: Seqno(0),
            time: Micros::ZERO,
            pins: BTreeMap::new(),
            held: Arc::default(),
            decisions: Arc::default(),
            packs: Arc::default(),
            dropped: 0,
            scopes: Arc::default(),
        }
    }
}

impl Version {
    /// Iterates over the keyspaces that users see.
    pub(crate) fn alive(&self) -> impl Iterator<Item = &Arc<KeyspaceVersion>> {
        self.keyspaces.values().filter(|keyspace| keyspace.dropped.is_none() && !keyspace.is_hidden())
    }

    /// Returns the keyspace of this name that is not dropped.
    pub(crate) fn by_name(&self, name: &str) -> Option<&Arc<KeyspaceVersion>> {
        self.alive().find(|keyspace| keyspace.name == name)
    }

    /// Returns the version after an edit; an edit that breaks an invariant is corruption.
    pub(crate) fn apply(&self, edit: &Edit) -> Result<Self, Corruption> {
        let mut next = self.clone();
        for change in &edit.changes {
            next.change(change)?;
        }
        next.record_decisions(edit);
        // An edit changes a few of possibly thousands of keyspaces.
        let mut changed: Vec<KeyspaceId> = edit.changes.iter().filter_map(Change::reordered).collect();
        changed.sort_unstable();
        changed.dedup();
        Self::check(&changed.iter().filter_map(|id| next.keyspaces.get(id)).collect::<Vec<_>>())?;
        Ok(next)
    }

    /// Checks the whole version after it was read, including that no two keyspaces have segments of one number.
    pub(crate) fn check_whole(&self) -> Result<(), Corruption> {
        let seqnos = [self.last_seqno, self.next_seqno, self.seqno_ceiling].map(|seqno| seqno.0);
        let logs = self.log_ends.keys().map(|number| number.0);
        let counters = seqnos.into_iter().chain([self.next_file.0, self.logs_from.0]).chain(logs);
        if counters.max().is_some_and(|most| most > COUNTER_START_MAX) {
            return Err(broken("numbers that can still be counted up"));
        }
        let all = self.keyspaces.values().collect::<Vec<_>>();
        if all.iter().flat_map(|keyspace| keyspace.segments()).any(|segment| self.packs.contains_key(&segment.number)) {
            return Err(broken("packs with numbers of their own (V7)"));
        }
        let scopes = self.scopes.names.len();
        if all.iter().any(|keyspace| keyspace.options.scope as usize > scopes) {
            return Err(broken("a dedup scope that exists (V8)"));
        }
        Self::check(&all)
    }

    /// Forgets the bytes that a removed segment held.
    fn forget_held(&mut self, number: FileNumber) {
        if self.held.contains_key(&number) {
            Arc::make_mut(&mut self.held).remove(&number);
        }
    }

    /// Returns one edit that rebuilds this version from nothing.
    pub(crate) fn snapshot(&self) -> Edit {
        let mut edit = Edit::new([
            Change::NextFile { number: self.next_file },
            Change::LogsFrom { number: self.logs_from },
            Change::NextKeyspace { number: self.next_keyspace },
            Change::Seqnos {
                last: self.last_seqno,
                next: self.next_seqno,
                ceiling: self.seqno_ceiling,
                time: self.time,
            },
        ]);
        for (&number, &end) in &self.log_ends {
            edit.push(Change::LogEnd { number, end });
        }
        edit.changes.extend(self.scopes.secret.map(|secret| Change::Secret { secret }));
        for (number, name) in (1u32..).zip(&self.scopes.names) {
            edit.push(Change::Scope { number, name: name.clone() });
        }
        for keyspace in self.keyspaces.values() {
            keyspace.snapshot(&mut edit);
        }
        edit.changes.extend(self.packs.values().map(|pack| Change::AddPack { pack: *pack }));
        edit.changes.extend(Some(self.dropped).filter(|bytes| *bytes > 0).map(|bytes| Change::Dropped { bytes }));
        for (name, PinnedAt { seqno, time }) in &self.pins {
            edit.push(Change::Pin { name: name.clone(), seqno: *seqno, time: *time });
        }
        for (&number, bytes) in self.held.iter() {
            edit.push(Change::Held { number, bytes: bytes.clone() });
        }
        for &(last, time) in &self.decisions.stamps {
            edit.push(Change::reached(last, time));
        }
        edit
    }

    /// Records the time of a decision from its edit, and of all remembered ones from a snapshot. The edit of a flush
    /// looks alike, but records a commit, which is in the timeline.
    fn record_decisions(&mut self, edit: &Edit) {
        let any = |is: fn(&Change) -> bool| edit.changes.iter().any(is);
        let is_snapshot = any(|change| matches!(change, Change::NextKeyspace { .. }));
        if !is_snapshot && any(|change| matches!(change, Change::LogsFrom { .. })) {
            return;
        }
        for change in &edit.changes {
            // A change that reserves nothing.
            if let Change::Seqnos { last: seqno @ Seqno(1..), next: Seqno(0), ceiling: Seqno(0), time } = *change {
                Arc::make_mut(&mut self.decisions).record(seqno, time);
            }
        }
    }

    fn keyspace_mut(&mut self, id: KeyspaceId) -> Result<&mut KeyspaceVersion, Corruption> {
        self.keyspaces.get_mut(&id).map(Arc::make_mut).ok_or(broken("a keyspace that exists (V3)"))
    }

    /// Returns a keyspace that can be configured, dropped and forgotten: not one of the engine's own.
    fn named_mut(&mut self, id: KeyspaceId) -> Result<&mut KeyspaceVersion, Corruption> {
        let keyspace = self.keyspace_mut(id)?;
        if keyspace.is_hidden() { Err(broken("a keyspace with a name (V3)")) } else { Ok(keyspace) }
    }

    fn change(&mut self, change: &Change) -> Result<(), Corruption> {
        match change {
            Change::Create { id, name, options, seqno } => self.create(*id, name, options, *seqno)?,
            Change::Configure { id, options, seqno } => {
                self.named_mut(*id)?.configure(options)?;
                self.reach_seqno(*seqno);
            }
            Change::Drop { id, seqno } => {
                self.named_mut(*id)?.dropped = Some(*seqno);
                self.reach_seqno(*seqno);
            }
            Change::Forget { id } => self.forget(*id)?,
            Change::Watermarks { keyspace, vanished, horizon, expired_upto } => {
                self.keyspace_mut(*keyspace)?.raise_watermarks(*vanished, *horizon, *expired_upto);
            }
            Change::Add { level, segment } => self.add(usize::from(*level), segment)?,
            Change::Remove { keyspace, number } => {
                self.forget_held(*number);
                self.keyspace_mut(*keyspace)?.remove(*number)?;
            }
            Change::Held { number, bytes } => self.record_held(*number, bytes),
            Change::Dropped { bytes } => self.dropped = *bytes,
            Change::AddPack { pack } => self.add_pack(pack)?,
            Change::RemovePack { number } => {
                Arc::make_mut(&mut self.packs).remove(number).ok_or(broken("a pack to remove that exists (V7)"))?;
            }
            Change::Secret { secret } => {
                if self.scopes.secret.is_some() {
                    return Err(broken("one secret for ever (V8)"));
                }
                Arc::make_mut(&mut self.scopes).secret = Some(*secret);
            }
            Change::Scope { number, name } => self.add_scope(*number, name)?,
            Change::LogsFrom { number } => {
                self.logs_from = self.logs_from.max(*number);
                self.log_ends = self.log_ends.split_off(&self.logs_from);
            }
            Change::LogEnd { number, end } => {
                self.log_ends.insert(*number, *end);
            }
            Change::NextKeyspace { number } => self.next_keyspace = self.next_keyspace.max(*number),
            Change::NextFile { number } => self.next_file = self.next_file.max(*number),
            Change::Seqnos { last, next, ceiling, time } => {
                self.next_seqno = self.next_seqno.max(*next);
                self.reach_seqno(*last);
                self.seqno_ceiling = self.seqno_ceiling.max(*ceiling);
                self.time = self.time.max(*time);
            }
            Change::Pin { name, seqno, time } => self.pin(name, PinnedAt { seqno: *seqno, time: *time })?,
            Change::Unpin { name } => self.unpin(name)?,
        }
        Ok(())
    }

    /// Records that a commit or decision has a seqno (V4).
    fn reach_seqno(&mut self, seqno: Seqno) {
        self.last_seqno = self.last_seqno.max(seqno);
    }

    fn create(&mut self, id: KeyspaceId, name: &str, options: &StoredOptions, seqno: Seqno) -> Result<(), Corruption> {
        let named = id.0 >= FIRST_KEYSPACE && !name.is_empty();
        if self.keyspaces.contains_key(&id) || !named || self.by_name(name).is_some() {
            return Err(broken("a new keyspace with an unused name and number"));
        }
        self.keyspaces.insert(id, Arc::new(KeyspaceVersion::new(id, name, options, seqno)));
        self.next_keyspace = self.next_keyspace.max(id.0.saturating_add(1));
        self.reach_seqno(seqno);
        Ok(())
    }

    fn forget(&mut self, id: KeyspaceId) -> Result<(), Corruption> {
        self.named_mut(id)?;
        if let Some(gone) = self.keyspaces.remove(&id) {
            gone.segments().for_each(|segment| self.forget_held(segment.number));
        }
        Ok(())
    }

    fn add(&mut self, level: usize, segment: &SegmentMeta) -> Result<(), Corruption> {
        if level >= LEVELS_MAX {
            return Err(broken("a level that exists"));
        }
        self.next_file = self.next_file.max(segment.number.next());
        self.keyspace_mut(segment.summary.keyspace)?.add(level, segment);
        Ok(())
    }

    fn add_pack(&mut self, pack: &PackMeta) -> Result<(), Corruption> {
        self.next_file = self.next_file.max(pack.number.next());
        match Arc::make_mut(&mut self.packs).insert(pack.number, *pack) {
            None => Ok(()),
            Some(_) => Err(broken("packs with numbers of their own (V7)")),
        }
    }

    fn add_scope(&mut self, number: u32, name: &str) -> Result<(), Corruption> {
        let next = self.scopes.names.len() + 1;
        if number as usize != next || name.is_empty() || self.scopes.number(name).is_some() {
            return Err(broken("dedup scopes with new names, numbered without a gap (V8)"));
        }
        if self.scopes.secret.is_none() {
            return Err(broken("a secret before the first dedup scope (V8)"));
        }
        Arc::make_mut(&mut self.scopes).names.push(name.to_owned());
        Ok(())
    }

    fn record_held(&mut self, number: FileNumber, bytes: &[(Seqno, u64)]) {
        if bytes.is_empty() {
            self.forget_held(number);
        } else {
            Arc::make_mut(&mut self.held).insert(number, bytes.to_vec());
        }
    }

    fn pin(&mut self, name: &str, at: PinnedAt) -> Result<(), Corruption> {
        if self.pins.insert(name.to_owned(), at).is_some() {
            return Err(broken("a pin with an unused name"));
        }
        self.reach_seqno(at.seqno);
        Ok(())
    }

    fn unpin(&mut self, name: &str) -> Result<(), Corruption> {
        self.pins.remove(name).map(|_| ()).ok_or(broken("a pin to remove that exists"))
    }

    fn check(keyspaces: &[&Arc<KeyspaceVersion>]) -> Result<(), Corruption> {
        let mut numbers = HashSet::new();
        for keyspace in keyspaces {
            keyspace.check()?;
            if !keyspace.segments().all(|segment| numbers.insert(segment.number)) {
                return Err(broken("segments with unique numbers (V3)"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::TIMELINE;
    use crate::manifest::{decisions::DECISIONS_MAX, edit::tests::segment};

    fn with_keyspace() -> Version {
        let create =
            Change::Create { id: KeyspaceId(16), name: "k".into(), options: StoredOptions::default(), seqno: Seqno(1) };
        Version::default().apply(&Edit::new([create])).unwrap()
    }

    #[test]
    fn a_snapshot_makes_the_version_out_of_nothing() {
        let version = with_keyspace()
            .apply(&Edit::new([
                Change::Add { level: 0, segment: segment(1, ("a", "z"), (Seqno(5), Seqno(9))) },
                Change::Add { level: 0, segment: segment(2, ("a", "z"), (Seqno(10), Seqno(12))) },
                Change::Add { level: 2, segment: segment(3, ("m", "p"), (Seqno(1), Seqno(2))) },
                Change::Add { level: 2, segment: segment(4, ("a", "m"), (Seqno(1), Seqno(2))) },
                Change::Watermarks {
                    keyspace: KeyspaceId(16),
                    vanished: Seqno(4),
                    horizon: Seqno(5),
                    expired_upto: Micros::ZERO,
                },
                Change::LogsFrom { number: FileNumber(3) },
                Change::LogEnd { number: FileNumber(3), end: LogEnd::AtMost(70) },
                Change::Seqnos { last: Seqno(12), next: Seqno(20), ceiling: Seqno(1 << 32), time: Micros(8) },
            ]))
            .unwrap();
        assert_eq!(Version::default().apply(&version.snapshot()), Ok(version.clone()));
        let keyspace = &version.keyspaces[&KeyspaceId(16)];
        let numbers = |level| keyspace.level(level).iter().map(|s| s.number.0).collect::<Vec<_>>();
        assert_eq!((numbers(0), numbers(2)), (vec![2, 1], vec![4, 3]));
    }

    #[test]
    fn an_edit_that_breaks_an_invariant_is_refused() {
        let version = with_keyspace();
        let add = |level, segment| Change::Add { level, segment };
        for (changes, invariant) in [
            (
                vec![
                    add(0, segment(1, ("a", "b"), (Seqno(5), Seqno(9)))),
                    add(0, segment(2, ("a", "b"), (Seqno(9), Seqno(12)))),
                ],
                "V1",
            ),
            (
                vec![
                    add(1, segment(1, ("a", "m"), (Seqno(1), Seqno(1)))),
                    add(1, segment(2, ("c", "d"), (Seqno(1), Seqno(1)))),
                ],
                "V2",
            ),
            (
                vec![
                    add(0, segment(1, ("a", "m"), (Seqno(1), Seqno(1)))),
                    add(1, segment(1, ("c", "d"), (Seqno(1), Seqno(1)))),
                ],
                "V3",
            ),
            (vec![Change::Remove { keyspace: KeyspaceId(16), number: FileNumber(8) }], "to remove"),
            (vec![Change::Drop { id: KeyspaceId(99), seqno: Seqno(1) }], "V3"),
            (vec![Change::Drop { id: TIMELINE, seqno: Seqno(1) }], "V3"),
            (vec![Change::Forget { id: KeyspaceId(2) }], "V3"),
            (vec![Change::Forget { id: KeyspaceId(99) }], "V3"),
        ] {
            let refused = version.apply(&Edit::new(changes)).unwrap_err();
            assert!(refused.what.contains(invariant), "{refused}");
        }
    }

    #[test]
    fn two_keyspaces_with_segments_of_one_number_are_found_once_all_has_been_read() {
        let create =
            Change::Create { id: KeyspaceId(17), name: "l".into(), options: StoredOptions::default(), seqno: Seqno(2) };
        let add = |id, number| {
            let mut segment = segment(number, ("a", "b"), (Seqno(5), Seqno(9)));
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
            let stamp = Change::reached(Seqno(seqno), Micros(seqno * 10));
            version.record_decisions(&Edit::new([stamp]));
        }
        assert_eq!((version.decisions.at_seqno(Seqno(3)), version.decisions.reach(Seqno(3))), (None, false));
        assert_eq!(
            (version.decisions.at_seqno(Seqno(9)), version.decisions.reach(Seqno(4))),
            (Some((Seqno(9), Micros(90))), true)
        );
        assert_eq!(version.decisions.at_time(Micros(95)), Some((Seqno(9), Micros(90))));
        let again = Version::default().apply(&version.snapshot()).unwrap();
        assert_eq!(again.decisions.at_seqno(Seqno(count)), Some((Seqno(count), Micros(count * 10))));
        let of_a_flush = Change::reached(Seqno(count + 5), Micros(count * 20));
        let flushed = version.apply(&Edit::new([of_a_flush, Change::LogsFrom { number: FileNumber(2) }])).unwrap();
        assert_eq!(flushed.decisions, version.decisions, "of commits the timeline tells");
    }

    #[test]
    fn marks_only_move_forward() {
        let marks = |vanished, horizon| {
            Edit::new([Change::Watermarks { keyspace: KeyspaceId(16), vanished, horizon, expired_upto: Micros::ZERO }])
        };
        let version =
            with_keyspace().apply(&marks(Seqno(9), Seqno(9))).unwrap().apply(&marks(Seqno(3), Seqno(12))).unwrap();
        let keyspace = &version.keyspaces[&KeyspaceId(16)];
        assert_eq!((keyspace.vanished, keyspace.horizon), (Seqno(9), Seqno(12)));
    }

    /// What is opened must be readable again, however much is written in between.
    #[test]
    fn a_version_whose_numbers_are_near_their_limit_is_refused() {
        let most = COUNTER_START_MAX;
        let of =
            |seqno: u64| Change::Seqnos { last: Seqno(seqno), next: Seqno(0), ceiling: Seqno(0), time: Micros::ZERO };
        for (changes, good) in [
            (vec![of(most)], true),
            (vec![of(most + 1)], false),
            (vec![Change::NextFile { number: FileNumber(most) }], true),
            (vec![Change::NextFile { number: FileNumber(most + 1) }], false),
            (vec![Change::LogsFrom { number: FileNumber(most + 1) }], false),
            (vec![Change::LogEnd { number: FileNumber(most + 1), end: LogEnd::AtMost(0) }], false),
            (vec![Change::Pin { name: "p".into(), seqno: Seqno(most + 1), time: Micros::ZERO }], false),
        ] {
            let told = format!("{changes:?}");
            let version = Version::default().apply(&Edit::new(changes)).unwrap();
            assert_eq!(version.check_whole().is_ok(), good, "{told}");
        }
    }
}
