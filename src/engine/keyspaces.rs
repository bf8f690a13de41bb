//! The catalogue of keyspaces: opening, creating, dropping, and forgetting what was dropped.

use std::sync::{Arc, atomic::Ordering};

use super::{Commit, Engine, KeyspaceOptions, Opened, timeline::Timeline};
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

impl StoredOptions {
    /// With a time to live that holds from a seqno on.
    fn from(mut self, seqno: u64) -> Self {
        self.ttls.iter_mut().filter(|(from, _)| *from == FROM_NOW).for_each(|(from, _)| *from = seqno);
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
        stored.ttls.push((FROM_NOW, ttl));
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

impl Engine {
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
            let given = self.give(keyspace, options)?;
            if given.1.folds() {
                check_no_ttl(name, options)?;
            }
            let Some(changed) = changed else { return Ok(given) };
            self.change(&mut manifest, |seqno, _| Change::Configure { id, options: changed.from(seqno), seqno })?;
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
        Ok(Opened { id: keyspace.id, strategy })
    }

    /// The oldest seqno from which on nothing of a keyspace is refused. What has expired and gone is missed at moments before its expiry: then that is the
    /// first commit since, or the next one to come.
    pub(crate) fn horizon(&self, id: KeyspaceId) -> u64 {
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
        let version = Arc::clone(&self.current().version);
        let alive = version.keyspaces.values().filter(|keyspace| keyspace.dropped.is_none() && !keyspace.is_hidden());
        let mut names: Vec<_> = alive.map(|keyspace| keyspace.name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// Forgets a dropped keyspace that nobody can read any more; `false` when there is none.
    pub(super) fn forget_dropped(&self) -> Result<bool> {
        let registered = self.registry.lock().list();
        self.env.pass("forget: list, then version");
        let version = Arc::clone(&self.current().version);
        let unread = |keyspace: &&Arc<KeyspaceVersion>| {
            let dropped = keyspace.dropped.filter(|dropped| *dropped <= self.visible());
            dropped.is_some_and(|dropped| registered.seqnos.first().is_none_or(|oldest| *oldest >= dropped))
        };
        let Some(keyspace) = version.keyspaces.values().find(unread) else { return Ok(false) };
        let mut manifest = self.manifest.lock();
        self.check_writable()?;
        if manifest.version().keyspaces.contains_key(&keyspace.id) {
            let forget = Edit::new([Change::Forget { id: keyspace.id }]);
            let version = self.commit_edit(&mut manifest, &forget, &[])?;
            // A view that was opened meanwhile, below the drop, goes on reading the files of its birth.
            self.install(&version, None, Some((&registered, keyspace.dropped.unwrap_or(0))));
        }
        Ok(true)
    }

    /// Commits a change that users can see, at a seqno of its own, behind every write before it (J2).
    pub(super) fn change(&self, manifest: &mut ManifestStore, change: impl FnOnce(u64, u64) -> Change) -> Result<u64> {
        let mut commit = self.commit.lock();
        self.check_writable()?;
        self.sync_log_locked(&mut commit)?;
        let seqno = Self::take_seqno(&mut commit)?;
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
