//! Keyspaces: opening, creating, configuring and dropping them, and reading their properties.

use std::{ops::RangeInclusive, sync::Arc};

use super::{Engine, KeyspaceOptions, KeyspaceRef, catalogue::dropped, files::Editing, jobs::flush_recovered};
use crate::{
    base::{Error, FIRST_KEYSPACE, IoContext, KeyspaceId, Micros, Result, Seqno},
    chunk::cut::Chunking,
    compaction::Policy,
    manifest::{Change, Edit, KeyspaceVersion, StoredChunking, StoredOptions, Version},
    merge::MergeStrategy,
    segment::PointIndex,
};

/// The longest name, in bytes.
const NAME_LEN_MAX: usize = 255;

/// Applies the options that are set to those of a keyspace; `None` if that changes nothing.
fn configured(keyspace: &KeyspaceVersion, options: &KeyspaceOptions) -> Option<StoredOptions> {
    let mut stored = keyspace.options.clone();
    if let Some(policy) = &options.policy {
        stored.policy = policy.stored();
    }
    if options.point_index.is_some() {
        stored.point_index = PointIndex::chosen(options.point_index);
    }
    if let Some(ttl) = options.ttl
        && stored.ttls.last().map_or(Micros::ZERO, |(_, ttl)| *ttl) != ttl
    {
        stored.ttls = stored.ttls.iter().copied().chain([(StoredOptions::FROM_NOW, ttl)]).collect();
    }
    stored.large = options.large(stored.large);
    (stored != keyspace.options).then_some(stored)
}

/// Fails for options of large values where values are folded: those are never cut.
fn check_no_chunks(name: &str, options: &KeyspaceOptions) -> Result<()> {
    let KeyspaceOptions { chunk_threshold, chunking, dedup_scope, compression, .. } = options;
    if chunk_threshold.is_some() || chunking.is_some() || dedup_scope.is_some() || compression.is_some() {
        return Err(Error::invalid(format!(
            "keyspace \"{name}\" combines values (Sum, Append or custom), which are never cut into chunks; use another strategy or no options of large values"
        )));
    }
    Ok(())
}

/// Returns the number of the dedup scope of a name, and the changes that make it if there is none; 0 is the default
/// scope.
fn scope_of(engine: &Engine, version: &Version, name: Option<&str>) -> Result<(u32, Edit)> {
    let mut edit = Edit::default();
    let Some(name) = name else { return Ok((0, edit)) };
    if let Some(number) = version.scopes.number(name) {
        return Ok((number, edit));
    }
    if version.scopes.secret.is_none() {
        let secret = engine.ctx.env.secret().at("draw a secret for", || engine.path())?;
        edit.push(Change::Secret { secret });
    }
    let number = u32::try_from(version.scopes.names.len() + 1).unwrap_or(u32::MAX);
    edit.push(Change::Scope { number, name: name.to_owned() });
    Ok((number, edit))
}

/// Fails for another dedup scope than the one that the keyspace was created with.
fn check_scope(version: &Version, keyspace: &KeyspaceVersion, options: &KeyspaceOptions) -> Result<()> {
    let (Some(wanted), scope) = (&options.dedup_scope, version.scopes.name(keyspace.options.scope)) else {
        return Ok(());
    };
    if scope == Some(wanted) {
        return Ok(());
    }
    let has =
        scope.map_or_else(|| "the default dedup scope".to_owned(), |scope| format!("the dedup scope \"{scope}\""));
    let name = &keyspace.name;
    Err(Error::invalid(format!(
        "keyspace \"{name}\" was created with {has}, and keeps it; open it without another, or copy it into a keyspace of \"{wanted}\""
    )))
}

/// Fails for a time to live where operands are folded: they have no age of their own.
fn check_no_ttl(name: &str, options: &KeyspaceOptions) -> Result<()> {
    match options.ttl {
        Some(ttl) if ttl > Micros::ZERO => Err(Error::invalid(format!(
            "keyspace \"{name}\" combines values (Sum, Append or custom), so they cannot expire one by one; use another strategy or no ttl"
        ))),
        _ => Ok(()),
    }
}

/// Bytes of a keyspace by what holds them, as [`Keyspace::space`](crate::Keyspace::space) returns them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyspaceSpace {
    /// Segments of the main tree: the newest versions, and older ones that open views need.
    pub live: u64,
    /// Segments of the history tier: versions that were superseded.
    pub history: u64,
    /// Approximate size of its newest writes in memory; they are also in the log, which all keyspaces share.
    pub memtable: u64,
}

/// Returns whether a name at this edit distance may be a misspelling.
fn is_alike(distance: usize, name: &str) -> bool {
    distance <= name.chars().count().div_ceil(2)
}

/// Returns the closest of several names, and its edit distance.
pub(super) fn closest<'n>(name: &str, among: impl IntoIterator<Item = &'n str>) -> Option<(usize, &'n str)> {
    let wanted: Vec<char> = name.chars().collect();
    among.into_iter().map(|other| (edits(&wanted, other), other)).min()
}

/// Returns the edit distance: characters to insert, delete or replace to turn one name into the other.
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

/// Returns the error for a missing keyspace, with the name that may have been meant.
#[cold]
fn no_keyspace(engine: &Engine, name: &str) -> Error {
    let meant = meant(name, &keyspace_names(engine));
    Error::invalid(format!("there is no keyspace \"{name}\", and create(false) makes none; {meant}"))
}

/// Returns the hint of an error about a name that does not exist.
fn meant<S: AsRef<str>>(name: &str, names: &[S]) -> String {
    match closest(name, names.iter().map(AsRef::as_ref)) {
        Some((distance, other)) if is_alike(distance, name) => format!("did you mean \"{other}\"?"),
        Some(_) => format!("there are {} of other names", names.len()),
        None => "there are none".to_owned(),
    }
}

/// Returns a keyspace as it is now; `None` once it is forgotten, and in a forked process.
fn options_of(engine: &Engine, id: KeyspaceId) -> Option<Arc<KeyspaceVersion>> {
    if engine.is_forked() {
        return None;
    }
    engine.files.current().version.keyspaces.get(&id).cloned()
}

/// Returns the policy of a keyspace; the default once it is forgotten.
pub(crate) fn policy(engine: &Engine, id: KeyspaceId) -> Policy {
    options_of(engine, id).map_or_else(Policy::last_writer_wins, |keyspace| engine.catalogue.policy_of(&keyspace))
}

/// Returns the time to live of new values in microseconds; `None` if they live for ever.
pub(crate) fn ttl(engine: &Engine, id: KeyspaceId) -> Option<Micros> {
    let keyspace = options_of(engine, id)?;
    keyspace.options.ttls.last().map(|(_, ttl)| *ttl).filter(|ttl| *ttl > Micros::ZERO)
}

/// Returns how large values are written now; `None` if none are.
pub(crate) fn large(engine: &Engine, id: KeyspaceId) -> Option<StoredChunking> {
    let keyspace = options_of(engine, id)?;
    let folds = engine.catalogue.strategy_of(&keyspace).is_none_or(|strategy| strategy.folds());
    Some(keyspace.options.large).filter(|_| !folds)
}

/// Returns the name of a dedup scope; `None` for that of the database.
pub(crate) fn scope_name(engine: &Engine, scope: u32) -> Option<String> {
    let at = (scope as usize).checked_sub(1)?;
    engine.files.with_current(|now| now.version.scopes.names.get(at).map(ToString::to_string))
}

/// Returns the bytes of a keyspace by what holds them.
pub(crate) fn space_of(engine: &Engine, id: KeyspaceId) -> KeyspaceSpace {
    if engine.is_forked() {
        return KeyspaceSpace::default();
    }
    let current = engine.files.current();
    let Some(keyspace) = current.version.keyspaces.get(&id) else { return KeyspaceSpace::default() };
    KeyspaceSpace {
        live: keyspace.main().map(|segment| segment.file_len).sum(),
        history: keyspace.history.iter().map(|segment| segment.file_len).sum(),
        memtable: current.memtables(Seqno::MAX).map(|memtable| memtable.share(id).bytes).sum(),
    }
}

/// Returns an upper bound on the number of keys: every key that exists has an entry that is no tombstone in some
/// memtable or segment.
pub(crate) fn approximate_len(engine: &Engine, id: KeyspaceId) -> u64 {
    if engine.is_forked() {
        return 0;
    }
    let current = engine.files.current();
    let Some(tree) = current.trees.get(&id).filter(|tree| !tree.dropped) else { return 0 };
    let segments = tree.levels.iter().flatten().map(|handle| &handle.meta.summary);
    // Not keys less tombstones: those include tombstones of older versions of existing keys.
    let stored: u64 =
        segments.map(|summary| summary.keys.min(summary.entries.saturating_sub(summary.tombstones))).sum();
    stored + current.memtables(Seqno::MAX).map(|memtable| memtable.share(id).values).sum::<u64>()
}

/// Opens the keyspace of this name, with its merge strategy, and creates it if need be.
pub(crate) fn open(engine: &Engine, name: &str, options: &KeyspaceOptions) -> Result<KeyspaceRef> {
    engine.check_open()?;
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
    options.check_large(name)?;
    let found = engine.files.current().version.by_name(name).cloned();
    if found.is_none() && !options.create {
        return Err(no_keyspace(engine, name));
    }
    if let Some(keyspace) = &found {
        check_scope(&engine.files.current().version, keyspace, options)?;
    }
    if let Some(keyspace) = found.filter(|keyspace| configured(keyspace, options).is_none()) {
        return engine.catalogue.give(&keyspace, options);
    }
    if options.merge.as_ref().is_some_and(MergeStrategy::folds) {
        check_no_ttl(name, options)?;
        check_no_chunks(name, options)?;
    }
    engine.health.check_writable()?;
    // Recovered writes go to segments first: a change that is durable at once may only come after them.
    flush_recovered(engine)?;
    engine.ctx.pass("keyspace: looked for, then made");
    let mut editing = engine.files.edit();
    let found = editing.version().by_name(name).cloned();
    if let Some(keyspace) = found {
        let (id, changed) = (keyspace.id, configured(&keyspace, options));
        check_scope(editing.version(), &keyspace, options)?;
        let given = engine.catalogue.give(&keyspace, options)?;
        if given.strategy.folds() {
            check_no_ttl(name, options)?;
            check_no_chunks(name, options)?;
        }
        let Some(changed) = changed else { return Ok(given) };
        check_ttls(engine, name, &keyspace, &changed)?;
        commit_change(engine, &mut editing, |seqno, _| {
            // Commits wait, so nothing is written to it meanwhile.
            let options = changed.with_ttl_from(seqno).without_idle_ttls(&seqnos_of(engine, &keyspace));
            Edit::new([Change::Configure { id, options, seqno }])
        })?;
    } else if !options.create {
        // Dropped a moment ago.
        return Err(no_keyspace(engine, name));
    } else {
        let id = KeyspaceId(editing.version().next_keyspace.max(FIRST_KEYSPACE));
        let strategy = options.merge.clone().unwrap_or_default();
        let (scope, mut edit) = scope_of(engine, editing.version(), options.dedup_scope.as_deref())?;
        let stored = StoredOptions {
            policy: options.policy.as_ref().map(Policy::stored).unwrap_or_default(),
            merge: strategy.number(),
            merge_name: strategy.custom_name().to_owned(),
            point_index: PointIndex::chosen(options.point_index),
            ttls: options
                .ttl
                .filter(|ttl| *ttl > Micros::ZERO)
                .map(|ttl| (StoredOptions::FROM_NOW, ttl))
                .into_iter()
                .collect(),
            large: options.large(StoredChunking::default()),
            scope,
        };
        commit_change(engine, &mut editing, |seqno, _| {
            let (name, options) = (name.to_owned(), stored.with_ttl_from(seqno));
            edit.push(Change::Create { id, name, options, seqno });
            edit
        })?;
    }
    let keyspace = editing.version().by_name(name);
    assert!(keyspace.is_some(), "keyspace {name:?} was made, and is not there");
    keyspace.map_or(Err(Error::Closed), |keyspace| engine.catalogue.give(keyspace, options))
}

/// Returns the seqno ranges in which a keyspace has anything: of each segment, each memtable and each pin.
fn seqnos_of(engine: &Engine, keyspace: &KeyspaceVersion) -> Vec<RangeInclusive<Seqno>> {
    let segments = keyspace.segments().map(|segment| segment.summary.min_seqno..=segment.summary.max_seqno);
    let current = engine.files.current();
    let memtables = current.memtables(Seqno::MAX).filter(|memtable| memtable.share(keyspace.id).values > 0);
    let memtables = memtables.map(|memtable| memtable.first_seqno()..=memtable.last_seqno());
    // Readers of a pinned moment see the options of that moment.
    let pins = current.version.pins.values().map(|pin| pin.seqno..=pin.seqno);
    segments.chain(memtables).chain(pins).collect()
}

/// Fails if as many times to live are in use as there may be.
fn check_ttls(engine: &Engine, name: &str, keyspace: &KeyspaceVersion, changed: &StoredOptions) -> Result<()> {
    let max = engine.ctx.options.limits.ttls;
    if changed.ttls.len() <= max || changed.clone().without_idle_ttls(&seqnos_of(engine, keyspace)).ttls.len() <= max {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "keyspace \"{name}\" holds what was written under {max} times to live, as many as there may be; keep the one in force until older values have gone, or call `compact`"
    )))
}

/// Sets where the large values of a keyspace are cut from now on.
pub(crate) fn set_chunking(engine: &Engine, keyspace: &KeyspaceRef, chunking: Chunking) -> Result<()> {
    engine.health.check_writable()?;
    flush_recovered(engine)?;
    let mut editing = engine.files.edit();
    let found = editing.version().keyspaces.get(&keyspace.id).filter(|found| found.dropped.is_none());
    let mut options = found.ok_or_else(|| dropped(keyspace))?.options.clone();
    if options.large.chunking != chunking {
        options.large.chunking = chunking;
        let id = keyspace.id;
        commit_change(engine, &mut editing, |seqno, _| Edit::new([Change::Configure { id, options, seqno }]))?;
    }
    Ok(())
}

/// Drops the keyspace of this name: it is hidden at once, and forgotten when no reader is left below the drop.
pub(crate) fn drop_keyspace(engine: &Engine, name: &str) -> Result<()> {
    engine.health.check_writable()?;
    flush_recovered(engine)?;
    let mut editing = engine.files.edit();
    let Some(keyspace) = editing.version().by_name(name) else {
        let names: Vec<_> = editing.version().alive().map(|keyspace| keyspace.name.as_str()).collect();
        return Err(Error::invalid(format!("there is no keyspace \"{name}\" to drop; {}", meant(name, &names))));
    };
    let id = keyspace.id;
    commit_change(engine, &mut editing, |seqno, _| Edit::new([Change::Drop { id, seqno }]))?;
    drop(editing);
    engine.work.wake();
    Ok(())
}

/// Returns the names of all keyspaces, sorted.
pub(crate) fn keyspace_names(engine: &Engine) -> Vec<String> {
    if engine.is_forked() {
        return Vec::new();
    }
    let mut names: Vec<_> = engine.files.current().version.alive().map(|keyspace| keyspace.name.clone()).collect();
    names.sort_unstable();
    names
}

/// Commits a decision that users can see, at a seqno of its own and after every write before it (J2).
pub(super) fn commit_change(
    engine: &Engine,
    editing: &mut Editing<'_>,
    edit: impl FnOnce(Seqno, Micros) -> Edit,
) -> Result<Seqno> {
    let Engine { log, files, health, .. } = engine;
    let mut commit = log.lock();
    health.check_writable()?;
    health.contain("a decision", || {
        log.sync_locked(&mut commit, files)?;
        let seqno = log.take_seqno(&mut commit)?;
        let time = commit.time_for(engine.now());
        let mut edit = edit(seqno, time);
        edit.push(Change::reached(seqno, time));
        let version = editing.commit_decision(&edit)?;
        editing.install(&version, None, None);
        log.publish(&mut commit, seqno, time);
        log.syncing.raise(seqno);
        Ok(seqno)
    })
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
                (Seqno(from), Micros(below(3)))
            });
            let all = StoredOptions { ttls: ttls.collect(), ..StoredOptions::default() };
            let data: Vec<_> = (0..below(4))
                .map(|_| {
                    let first = below(26);
                    Seqno(first)..=Seqno(first + below(4))
                })
                .collect();
            let kept = all.clone().without_idle_ttls(&data).ttls;
            assert!(kept.len() <= all.ttls.len() && kept.is_sorted_by_key(|(from, _)| *from));
            // What is written from now on lives as before.
            let inside = |seqnos: &RangeInclusive<Seqno>| seqnos.start().0..=seqnos.end().0;
            for seqno in data.iter().flat_map(inside).chain([100]).map(Seqno) {
                assert_eq!(
                    ttl_at(&kept, seqno),
                    ttl_at(&all.ttls, seqno),
                    "{seqno} of {all:?} with {data:?}: {kept:?}"
                );
            }
            let stretches = data.iter().flat_map(inside).count() as u64;
            assert!(kept.len() as u64 <= stretches + 1, "{kept:?} for {data:?}");
        }
    }

    #[test]
    fn changes_of_a_time_to_live_are_bounded_by_what_was_written_between_and_beyond_the_bound_refused() {
        let limits = Limits { ttls: 4, ..Limits::default() };
        let sim = Sim::new(3);
        let db = Options { limits, ..Options::new().env(sim.clone()) }.open("db").unwrap();
        let open = |ttl: Micros| db.keyspace("k", KeyspaceOptions::new().ttl(Duration::from_secs(ttl.0)));
        let count = || db.engine().files.current().version.by_name("k").unwrap().options.ttls.len();
        open(Micros(5)).unwrap().put("first", "1").unwrap();
        db.flush().unwrap();
        // Two programs that never agree, and do not write.
        for _ in 0..50 {
            open(Micros(10)).unwrap();
            open(Micros(20)).unwrap();
        }
        assert_eq!(count(), 2);
        for ttl in [30, 40] {
            open(Micros(ttl - 10)).unwrap().put(format!("at {ttl}"), "1").unwrap();
            db.flush().unwrap();
            open(Micros(ttl)).unwrap();
        }
        open(Micros(50)).unwrap().put("at 50", "1").unwrap();
        let refused = open(Micros(60)).unwrap_err().to_string();
        assert!(refused.contains("\"k\" holds what was written under 4 times to live"), "{refused}");
        assert_eq!((count(), open(Micros(50)).unwrap().ttl()), (4, Some(Duration::from_secs(50))));
        // Once what is old has gone, there is room again.
        sim.set_time(sim.now() + Duration::from_secs(35));
        db.compact().unwrap();
        open(Micros(60)).unwrap();
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
