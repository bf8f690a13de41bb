//! The catalogue of keyspaces: opening, creating, dropping, and forgetting what was dropped.

use std::{
    ops::RangeInclusive,
    sync::{Arc, atomic::Ordering},
};

use super::{Commit, Engine, KeyspaceOptions, Opened, registry::JobInputs, timeline::Timeline};
use crate::{
    base::{Error, FIRST_KEYSPACE, KeyspaceId, Result},
    compaction::Policy,
    manifest::{Change, Edit, KeyspaceVersion, ManifestStore, StoredOptions, StoredPolicy},
    merge::{MergeStrategy, name_of},
    segment::PointIndex,
};

/// The longest name, in bytes.
const NAME_LEN_MAX: usize = 255;

fn point_index_number(asked: Option<bool>) -> u8 {
    asked.map_or(0, |index| if index { 2 } else { 1 })
}

/// Which index the segments of a keyspace get.
pub(super) fn point_index(options: &StoredOptions) -> PointIndex {
    match options.point_index {
        1 => PointIndex::Never,
        2 => PointIndex::Always,
        _ => PointIndex::Auto,
    }
}

/// The time to live of what is written from now on; its seqno is still to come.
const FROM_NOW: u64 = u64::MAX;

/// Of the registered seqnos, ascending, those at which a keyspace can be read that was born and dropped at such seqnos.
pub(super) fn readers_of(born: u64, dropped: u64, registered: &[u64]) -> &[u64] {
    let place = |seqno: u64| registered.partition_point(|registered| *registered < seqno);
    registered.get(place(born)..place(dropped)).unwrap_or_default()
}

impl StoredOptions {
    /// With a time to live that holds from a seqno on.
    fn from(mut self, seqno: u64) -> Self {
        let known = |(from, ttl): &(u64, u64)| (if *from == FROM_NOW { seqno } else { *from }, *ttl);
        self.ttls = self.ttls.iter().map(known).collect();
        self
    }

    /// Without the times to live under which nothing was written that is still there, told by the seqnos of what is: however often the time is
    /// changed, there are no more of them than stretches of data.
    fn without_idle_ttls(mut self, data: &[RangeInclusive<u64>]) -> Self {
        let mut kept: Vec<(u64, u64)> = Vec::new();
        for (at, &(from, ttl)) in self.ttls.iter().enumerate() {
            let next = self.ttls.get(at + 1).map(|(next, _)| *next);
            let used =
                next.is_none_or(|next| data.iter().any(|seqnos| *seqnos.start() < next && from <= *seqnos.end()));
            if used && kept.last().is_none_or(|(_, before)| *before != ttl) {
                kept.push((from, ttl));
            }
        }
        self.ttls = kept.into();
        self
    }
}

/// The options of a keyspace with those that are set and differ; nothing when none do.
fn configured(keyspace: &KeyspaceVersion, options: &KeyspaceOptions) -> Option<StoredOptions> {
    let mut stored = keyspace.options.clone();
    if let Some(policy) = &options.policy {
        stored.policy = policy.stored();
    }
    if options.point_index.is_some() {
        stored.point_index = point_index_number(options.point_index);
    }
    if let Some(ttl) = options.ttl
        && stored.ttls.last().map_or(0, |(_, ttl)| *ttl) != ttl
    {
        stored.ttls = stored.ttls.iter().copied().chain([(FROM_NOW, ttl)]).collect();
    }
    (stored != keyspace.options).then_some(stored)
}

/// Operands have no age of their own.
fn check_no_ttl(name: &str, options: &KeyspaceOptions) -> Result<()> {
    match options.ttl {
        Some(ttl) if ttl > 0 => Err(Error::invalid(format!(
            "keyspace \"{name}\" combines values (Sum, Append or custom), so they cannot expire one by one; use another strategy or no ttl"
        ))),
        _ => Ok(()),
    }
}

/// Bytes of a keyspace by what holds them, as [`Keyspace::space`](crate::Keyspace::space) tells them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyspaceSpace {
    /// Its segments of the main tree: the newest versions, and what open views need beside them.
    pub live: u64,
    /// Its segments of the history tier: versions that were superseded.
    pub history: u64,
    /// About what its newest writes take in memory; they stand in the log as well, which all keyspaces share.
    pub memtable: u64,
}

/// So far apart two names may be, and one still be taken for a slip of the other.
fn is_alike(distance: usize, name: &str) -> bool {
    distance <= name.chars().count().div_ceil(2)
}

/// Of several names the one that differs least from one that is not among them.
pub(super) fn closest<'n>(name: &str, among: impl IntoIterator<Item = &'n str>) -> Option<(usize, &'n str)> {
    let wanted: Vec<char> = name.chars().collect();
    among.into_iter().map(|other| (edits(&wanted, other), other)).min()
}

/// How many characters must be put in, taken out or replaced to make one name of the other.
fn edits(name: &[char], other: &str) -> usize {
    let mut row: Vec<usize> = (0..=name.len()).collect();
    for (line, c) in other.chars().enumerate() {
        let (mut diagonal, mut left) = (line, line + 1);
        for (above, wanted) in row.iter_mut().skip(1).zip(name) {
            let replaced = diagonal + usize::from(c != *wanted);
            diagonal = *above;
            left = replaced.min(left + 1).min(*above + 1);
            *above = left;
        }
        if let Some(first) = row.first_mut() {
            *first = line + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

impl Engine {
    /// That there is no such keyspace, and which one may have been meant.
    #[cold]
    fn no_keyspace(&self, name: &str) -> Error {
        let names = self.keyspace_names();
        let meant = match closest(name, names.iter().map(String::as_str)) {
            Some((distance, other)) if is_alike(distance, name) => format!("; did you mean \"{other}\"?"),
            Some((_, other)) => format!("; the closest name is \"{other}\""),
            None => "; there are none".to_owned(),
        };
        Error::invalid(format!("there is no keyspace \"{name}\", and create(false) makes none{meant}"))
    }

    /// The options in force; those of a new keyspace once it is gone for good.
    fn options_of(&self, id: KeyspaceId) -> Option<Arc<KeyspaceVersion>> {
        if self.is_forked() {
            return None;
        }
        self.current().version.keyspaces.get(&id).cloned()
    }

    /// What history a keyspace keeps.
    pub(crate) fn policy(&self, id: KeyspaceId) -> Policy {
        self.options_of(id).map_or_else(Policy::last_writer_wins, |keyspace| self.policy_of(&keyspace))
    }

    /// How long what is written to a keyspace now lives, in microseconds; nothing where it is for ever.
    pub(crate) fn ttl(&self, id: KeyspaceId) -> Option<u64> {
        let keyspace = self.options_of(id)?;
        keyspace.options.ttls.last().map(|(_, ttl)| *ttl).filter(|ttl| *ttl > 0)
    }

    /// What holds the bytes of a keyspace.
    pub(crate) fn space_of(&self, id: KeyspaceId) -> KeyspaceSpace {
        if self.is_forked() {
            return KeyspaceSpace::default();
        }
        let current = self.current();
        let Some(keyspace) = current.version.keyspaces.get(&id) else { return KeyspaceSpace::default() };
        KeyspaceSpace {
            live: keyspace.main().map(|segment| segment.file_len).sum(),
            history: keyspace.past.iter().map(|segment| segment.file_len).sum(),
            memtable: current.memtables(u64::MAX).map(|table| table.share(id).bytes).sum(),
        }
    }

    /// At least as many keys as there are: every key that is there has in some memtable or segment an entry that is no
    /// tombstone.
    pub(crate) fn approximate_len(&self, id: KeyspaceId) -> u64 {
        if self.is_forked() {
            return 0;
        }
        let current = self.current();
        let Some(tree) = current.trees.get(&id).filter(|tree| !tree.dropped) else { return 0 };
        let segments = tree.levels.iter().flatten().map(|table| &table.meta.summary);
        // Not keys less tombstones: those of older versions of a key that is there count among them.
        let stored: u64 =
            segments.map(|summary| summary.keys.min(summary.entries.saturating_sub(summary.tombstones))).sum();
        stored + current.memtables(u64::MAX).map(|table| table.share(id).values).sum::<u64>()
    }

    /// The keyspace of this name, created if need be, and its merge strategy.
    pub(crate) fn keyspace(
        &self,
        name: &str,
        options: &KeyspaceOptions,
    ) -> Result<(Arc<KeyspaceVersion>, MergeStrategy)> {
        self.check_open()?;
        if name.is_empty() || name.len() > NAME_LEN_MAX {
            let what = format!("the name of a keyspace has 1 to {NAME_LEN_MAX} bytes, not {}", name.len());
            return Err(Error::invalid(what));
        }
        if let Some(strategy) = &options.merge {
            strategy.check_name()?;
        }
        if let Some(policy) = &options.policy {
            policy.check_name()?;
        }
        let found = self.current().version.by_name(name).cloned();
        if found.is_none() && !options.create {
            return Err(self.no_keyspace(name));
        }
        if let Some(keyspace) = found.filter(|keyspace| configured(keyspace, options).is_none()) {
            return self.give(keyspace, options);
        }
        if options.merge.as_ref().is_some_and(MergeStrategy::folds) {
            check_no_ttl(name, options)?;
        }
        self.check_writable()?;
        // What was recovered goes to segments before a change that is durable at once may stand behind it.
        self.flush_recovered()?;
        self.env.pass("keyspace: looked for, then made");
        let mut manifest = self.manifest.lock();
        let found = manifest.version().by_name(name).cloned();
        if let Some(keyspace) = found {
            let (id, changed) = (keyspace.id, configured(&keyspace, options));
            let given = self.give(Arc::clone(&keyspace), options)?;
            if given.1.folds() {
                check_no_ttl(name, options)?;
            }
            let Some(changed) = changed else { return Ok(given) };
            self.check_ttls(name, &keyspace, &changed)?;
            self.change(&mut manifest, |seqno, _| {
                // Nothing is written to it meanwhile: commits wait.
                let options = changed.from(seqno).without_idle_ttls(&self.seqnos_of(&keyspace));
                Change::Configure { id, options, seqno }
            })?;
        } else if !options.create {
            // Dropped a moment ago.
            return Err(self.no_keyspace(name));
        } else {
            let id = KeyspaceId(manifest.version().next_keyspace.max(FIRST_KEYSPACE));
            let strategy = options.merge.clone().unwrap_or_default();
            let stored = StoredOptions {
                policy: options.policy.as_ref().map(Policy::stored).unwrap_or_default(),
                merge: strategy.number(),
                merge_name: strategy.custom_name().to_owned(),
                point_index: point_index_number(options.point_index),
                ttls: options.ttl.filter(|ttl| *ttl > 0).map(|ttl| (FROM_NOW, ttl)).into_iter().collect(),
            };
            self.change(&mut manifest, |seqno, _| Change::Create {
                id,
                name: name.to_owned(),
                options: stored.from(seqno),
                seqno,
            })?;
        }
        let keyspace = manifest.version().by_name(name).cloned().ok_or(Error::Closed)?;
        self.give(keyspace, options)
    }

    /// The seqnos between which a keyspace has anything: of each segment, and of each memtable; and the pinned ones.
    fn seqnos_of(&self, keyspace: &KeyspaceVersion) -> Vec<RangeInclusive<u64>> {
        let segments = keyspace.segments().map(|segment| segment.summary.min_seqno..=segment.summary.max_seqno);
        let current = self.current();
        let tables = current.memtables(u64::MAX).filter(|table| table.share(keyspace.id).values > 0);
        let tables = tables.map(|table| table.first_seqno()..=table.last_seqno());
        // Who reads a pinned moment finds the options of then.
        let pins = current.version.pins.values().map(|pin| pin.seqno..=pin.seqno);
        segments.chain(tables).chain(pins).collect()
    }

    /// That there is room for one more time to live among those that are in use.
    fn check_ttls(&self, name: &str, keyspace: &KeyspaceVersion, changed: &StoredOptions) -> Result<()> {
        let max = self.options.limits.ttls;
        if changed.ttls.len() <= max || changed.clone().without_idle_ttls(&self.seqnos_of(keyspace)).ttls.len() <= max {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "keyspace \"{name}\" holds what was written under {max} times to live, as many as there may be; keep the one in force until older values have gone, or call `compact`"
        )))
    }

    /// A keyspace as its readers hold it.
    pub(crate) fn opened(&self, keyspace: &KeyspaceVersion) -> Result<Opened> {
        let strategy = self.strategy_of(keyspace).ok_or_else(|| {
            let StoredOptions { merge, merge_name, .. } = &keyspace.options;
            Error::invalid(format!(
                "keyspace \"{}\" has the merge strategy {}, which this process has not been given; open it by `Db::keyspace` first",
                keyspace.name,
                name_of(*merge, merge_name)
            ))
        })?;
        Ok(Opened { id: keyspace.id, born: keyspace.born, strategy, name: keyspace.name.as_str().into() })
    }

    /// The oldest seqno from which on nothing of a keyspace is refused. What has expired and gone is missed at moments before its expiry: then that is the
    /// first commit since, or the next one to come.
    pub(crate) fn horizon(&self, id: KeyspaceId) -> u64 {
        if self.is_forked() {
            return 0;
        }
        let current = self.current();
        let Some(keyspace) = current.version.keyspaces.get(&id) else { return 0 };
        let mut horizon = keyspace.horizon.max(keyspace.vanished);
        if !keyspace.options.ttls.is_empty() {
            // Before that nobody knows to the microsecond what had expired.
            horizon = horizon.max(Timeline::new(&current).exact_from());
        }
        let Some(before) = keyspace.lapsed.checked_sub(1) else { return horizon };
        let since = || {
            let behind = Timeline::new(&current).at_time(before)?.map_or(0, |stamp| stamp.seqno + 1);
            Timeline::new(&current).from(behind)?.next()
        };
        // Where the timeline cannot be read, the next commit is late enough.
        let next = since().ok().flatten().map_or_else(|| self.visible().saturating_add(1), |stamp| stamp.seqno);
        horizon.max(next)
    }

    /// Hands out a keyspace, if its merge strategy is the one that was asked for.
    fn give(
        &self,
        keyspace: Arc<KeyspaceVersion>,
        options: &KeyspaceOptions,
    ) -> Result<(Arc<KeyspaceVersion>, MergeStrategy)> {
        if let Some(policy) = &options.policy
            && matches!(policy.stored(), StoredPolicy::Custom(_))
        {
            // The newest one given is the one that is asked.
            self.custom_policies.lock().insert(keyspace.id, policy.clone());
        }
        let StoredOptions { merge, merge_name, .. } = &keyspace.options;
        let asked = match (&options.merge, MergeStrategy::built_in(*merge)) {
            (None, Some(stored)) => return Ok((keyspace, stored)),
            (None, None) => None,
            (Some(asked), _) if (asked.number(), asked.custom_name()) == (*merge, merge_name) => {
                let mut strategy = asked.clone();
                if matches!(asked, MergeStrategy::Custom(_)) {
                    // The first one given is the one that all use.
                    strategy = self.customs.lock().entry(keyspace.id).or_insert(strategy).clone();
                }
                return Ok((keyspace, strategy));
            }
            (Some(asked), _) => Some(asked.name()),
        };
        let asked = asked.map_or_else(|| "none was given".to_owned(), |asked| format!("{asked} was given"));
        Err(Error::invalid(format!(
            "keyspace \"{}\" has the merge strategy {}, but {asked}; open it with the one it was created with",
            keyspace.name,
            name_of(*merge, merge_name)
        )))
    }

    /// Drops the keyspace of this name: it is hidden at once, and forgotten when nobody reads below the drop.
    pub(crate) fn drop_keyspace(&self, name: &str) -> Result<()> {
        self.check_writable()?;
        self.flush_recovered()?;
        let mut manifest = self.manifest.lock();
        let Some(keyspace) = manifest.version().by_name(name) else {
            return Err(Error::invalid(format!("there is no keyspace \"{name}\" to drop")));
        };
        let id = keyspace.id;
        self.change(&mut manifest, |seqno, _| Change::Drop { id, seqno })?;
        drop(manifest);
        self.work.wake();
        Ok(())
    }

    /// Names of the keyspaces there are.
    pub(crate) fn keyspace_names(&self) -> Vec<String> {
        if self.is_forked() {
            return Vec::new();
        }
        let version = Arc::clone(&self.current().version);
        let alive = version.keyspaces.values().filter(|keyspace| keyspace.dropped.is_none() && !keyspace.is_hidden());
        let mut names: Vec<_> = alive.map(|keyspace| keyspace.name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// Forgets the dropped keyspaces that nobody can read any more, in one edit; `false` when there are none.
    pub(super) fn forget_dropped(&self) -> Result<bool> {
        if self.current().version.keyspaces.values().all(|keyspace| keyspace.dropped.is_none()) {
            return Ok(false);
        }
        let inputs = JobInputs::take(self, "forget: files, then list");
        let registered = inputs.registered.readers.seqnos();
        let unread = |keyspace: &&Arc<KeyspaceVersion>| {
            keyspace.dropped.is_some_and(|dropped| {
                dropped <= self.visible() && readers_of(keyspace.born, dropped, registered).is_empty()
            })
        };
        let keyspaces = inputs.files.version.keyspaces.values();
        let gone: Vec<_> = keyspaces.filter(unread).filter(|gone| !self.compacting.is_taken(gone.id)).collect();
        if gone.is_empty() {
            return Ok(false);
        }
        let mut manifest = self.manifest.lock();
        self.check_writable()?;
        if self.copying.load(Ordering::SeqCst) > 0 {
            // A checkpoint may be of a moment at which they were there.
            return Ok(false);
        }
        let there = |gone: &&&Arc<KeyspaceVersion>| manifest.version().keyspaces.contains_key(&gone.id);
        let forget = Edit::new(gone.iter().filter(there).map(|gone| Change::Forget { id: gone.id }));
        let version = self.commit_edit(&mut manifest, &forget, &[])?;
        // A view that was opened meanwhile, below a drop, goes on reading the files of its birth.
        let newest = gone.iter().filter_map(|gone| gone.dropped).max().unwrap_or(0);
        self.install(&version, None, Some((&inputs, newest)));
        drop(manifest);
        self.work.keep_troubles(|id, _| version.keyspaces.contains_key(&id));
        self.reclaim.run(&*self.dir);
        Ok(true)
    }

    /// Commits a change that users can see, at a seqno of its own, behind every write before it (J2).
    pub(super) fn change(&self, manifest: &mut ManifestStore, change: impl FnOnce(u64, u64) -> Change) -> Result<u64> {
        let mut commit = self.commit.lock();
        self.check_writable()?;
        self.sync_log_locked(&mut commit)?;
        let seqno = self.take_seqno(&mut commit)?;
        let time_us = self.now_us().max(commit.time_us).max(commit.time_floor);
        let stamp = Change::Seqnos { last: seqno, next: 0, ceiling: 0, time_us };
        let version =
            self.commit_edit(manifest, &Edit::new([change(seqno, time_us), stamp]), &[]).inspect_err(|_| {
                // A drop that was refused must not take later commits with it after a crash: none is taken before that is certain.
                self.in_doubt.store(manifest.in_doubt(), Ordering::Release);
            })?;
        let Commit { time_us: newest, .. } = &mut *commit;
        *newest = time_us;
        self.install(&version, None, None);
        self.visible.store(seqno, Ordering::Release);
        self.syncing.raise(seqno);
        Ok(seqno)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        Options,
        engine::options::Limits,
        env::{Env, Sim},
        merge::ttl_at,
    };

    /// Each change of a time to live was kept for ever, and walked by every read.
    #[test]
    fn times_to_live_under_which_nothing_is_left_are_forgotten_and_the_others_never() {
        // What is there tells for each seqno how long it lives, before and after.
        let sim = Sim::new(5);
        let below = |below| u64::from(sim.draw(below));
        for _ in 0..20_000 {
            let mut from = 0;
            let ttls = (0..=below(6)).map(|_| {
                from += 1 + below(4);
                (from, below(3))
            });
            let all = StoredOptions { ttls: ttls.collect(), ..StoredOptions::default() };
            let data: Vec<_> = (0..below(4))
                .map(|_| {
                    let first = below(26);
                    first..=first + below(4)
                })
                .collect();
            let kept = all.clone().without_idle_ttls(&data).ttls;
            assert!(kept.len() <= all.ttls.len() && kept.is_sorted_by_key(|(from, _)| *from));
            // What is written from now on lives as before.
            for seqno in data.iter().cloned().flatten().chain([100]) {
                assert_eq!(
                    ttl_at(&kept, seqno),
                    ttl_at(&all.ttls, seqno),
                    "{seqno} of {all:?} with {data:?}: {kept:?}"
                );
            }
            let stretches = data.iter().map(|seqnos| seqnos.end() - seqnos.start() + 1).sum::<u64>();
            assert!(kept.len() as u64 <= stretches + 1, "{kept:?} for {data:?}");
        }
    }

    #[test]
    fn changes_of_a_time_to_live_are_bounded_by_what_was_written_between_and_beyond_the_bound_refused() {
        let limits = Limits { ttls: 4, ..Limits::default() };
        let sim = Sim::new(3);
        let db = Options { limits, ..Options::new().env(sim.clone()) }.open("db").unwrap();
        let open = |ttl: u64| db.keyspace("k", KeyspaceOptions::new().ttl(Duration::from_secs(ttl)));
        let count = || db.engine().current().version.by_name("k").unwrap().options.ttls.len();
        open(5).unwrap().put("first", "1").unwrap();
        db.flush().unwrap();
        // Two programs that never agree, and do not write.
        for _ in 0..50 {
            open(10).unwrap();
            open(20).unwrap();
        }
        assert_eq!(count(), 2);
        for ttl in [30, 40] {
            open(ttl - 10).unwrap().put(format!("at {ttl}"), "1").unwrap();
            db.flush().unwrap();
            open(ttl).unwrap();
        }
        open(50).unwrap().put("at 50", "1").unwrap();
        let refused = open(60).unwrap_err().to_string();
        assert!(refused.contains("\"k\" holds what was written under 4 times to live"), "{refused}");
        assert_eq!((count(), open(50).unwrap().ttl()), (4, Some(Duration::from_secs(50))));
        // Once what is old has gone, there is room again.
        sim.set_time(sim.now() + Duration::from_secs(35));
        db.compact().unwrap();
        open(60).unwrap();
    }

    #[test]
    fn the_closest_name_takes_the_fewest_edits() {
        let edits = |a: &str, b: &str| edits(&a.chars().collect::<Vec<_>>(), b);
        assert_eq!(
            (edits("usres", "users"), edits("", "abc"), edits("abc", ""), edits("k\u{e4}se", "kase")),
            (2, 3, 3, 1)
        );
        assert_eq!((edits("kitten", "sitting"), edits("same", "same")), (3, 0));
        assert_eq!(closest("usres", ["orders", "users", "u"]), Some((2, "users")));
        assert_eq!(closest("usres", []), None);
        assert!(is_alike(2, "usres") && !is_alike(4, "usres"));
    }
}
