//! Opens and reads what was damaged: the exact data, or an error that names a file.

use std::{collections::BTreeSet, path::Path};

use chronolith::{Db, Error, Keyspace, KeyspaceOptions, Range, ReadOutcome, env::Sim};

use crate::{
    damage::Damage,
    files::{LOG_HEADER_LEN, RECORD_HEADER_LEN, Record, kind, records},
    templates::{Content, Moment, PAST, Template, name, names, options},
};

/// How a case went that is as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// Opening was refused.
    Refused,
    /// A read or `verify` told.
    Found,
    /// All data is there, and nothing was told.
    Exact,
    /// What was never known synced is gone, as a tail of the commits.
    Shorter,
}

impl Template {
    /// The seqnos at which the past is asked for.
    fn asked(&self, moments: usize) -> impl Iterator<Item = &Moment> {
        let step = (moments / 5).max(1);
        self.moments[..moments].iter().rev().step_by(step)
    }

    /// At which seqnos the undamaged database answers.
    pub(crate) fn answers(&self) -> BTreeSet<u64> {
        let sim = self.sim.fork();
        let db = options(&sim, true).open("db").unwrap();
        let spaces = self.handles(&db);
        let mut answered = BTreeSet::new();
        for moment in self.asked(self.moments.len()) {
            let view = db.as_of(moment.seqno).unwrap();
            if spaces.iter().all(|space| !is_trimmed(view.range(space, ..))) {
                answered.insert(moment.seqno);
            }
        }
        answered
    }

    pub(crate) fn handles(&self, db: &Db) -> Vec<Keyspace> {
        self.spaces.iter().map(|(name, _)| db.keyspace(name, KeyspaceOptions::new()).unwrap()).collect()
    }

    /// Opens, and finds out which moment it is.
    pub(crate) fn open(&self, sim: &Sim, mmap: bool) -> chronolith::Result<(Db, usize)> {
        let db = options(sim, mmap).open("db")?;
        let seqno: u64 = db.snapshot().seqno().into();
        let moments = self.moments.partition_point(|moment| moment.seqno <= seqno);
        Ok((db, moments))
    }

    fn read_present(db: &Db, spaces: &[Keyspace], now: &[Content], told: &mut Told) -> Result<(), String> {
        for (space, content) in spaces.iter().zip(now) {
            told.read(content, || space.range(..), |key| space.get(key), space.name())?;
            for key in 0..22 {
                let key = name(key);
                let Some(explained) = told.note(space.explain(&key), "explain")? else { continue };
                let is_there = matches!(explained.outcome, ReadOutcome::Value | ReadOutcome::Folded(_));
                if is_there != content.contains_key(key.as_bytes()) {
                    return Err(format!("{}: {key} is explained by {explained}", space.name()));
                }
            }
        }
        let report = told.note(db.verify(), "verify")?;
        for finding in report.into_iter().flat_map(|report| report.findings) {
            if !finding.path.starts_with("db") {
                return Err(format!("a finding that names no file: {finding:?}"));
            }
            told.errors.push(format!("verify: {}", finding.what));
        }
        Ok(())
    }

    fn read_past(&self, db: &Db, spaces: &[Keyspace], moments: usize, told: &mut Told) -> Result<(), String> {
        for moment in self.asked(moments) {
            let Some(view) = told.note(db.as_of(moment.seqno), "as_of")? else { continue };
            for (space, content) in spaces.iter().zip(&moment.spaces) {
                let what = format!("{} as of {}", space.name(), moment.seqno);
                if self.answered.contains(&moment.seqno) {
                    told.read(content, || view.range(space, ..), |key| view.get(space, key), &what)?;
                } else {
                    // Some of it is gone in the undamaged database too; what is left is asked for all the same.
                    let _left = view.range(space, ..).flatten().count();
                }
            }
        }
        Ok(())
    }

    /// Asks for the past in all other ways.
    fn read_times(&self, db: &Db, spaces: &[Keyspace], moments: usize, told: &mut Told) -> Result<(), String> {
        let (_stats, there) = (db.stats(), &self.moments[..moments]);
        for moment in self.asked(moments) {
            let Some(view) = told.note(db.as_of_time(moment.time), "as_of_time")? else { continue };
            // The moments are those of commits: behind the last one of a time something may have been decided.
            let told = there.iter().map(|moment| moment.seqno).filter(|seqno| *seqno <= u64::from(view.seqno())).max();
            if moment.seqno > 0 && told != Some(moment.seqno) {
                return Err(format!("as of the time of {} it is {}", moment.seqno, view.seqno()));
            }
        }
        let mut expected = there[1..].iter();
        let mut whole = true;
        for commit in db.commits(..) {
            let Some(commit) = told.note(commit, "commits")? else {
                whole = false;
                break;
            };
            let next = expected.next();
            if next.is_none_or(|next| next.seqno != u64::from(commit.seqno) || next.time != commit.time) {
                return Err(format!("commits tell {commit:?}, expected {:?}", next.map(|next| next.seqno)));
            }
        }
        if let (true, Some(missing)) = (whole, expected.next()) {
            return Err(format!("commits end before {}", missing.seqno));
        }
        for (number, space) in spaces.iter().enumerate() {
            for key in [0, 1, 2, 3, 5, 9, 12] {
                let what = format!("history of key {key} in {}", space.name());
                Self::read_history(space, number, name(key).as_bytes(), there, told, &what)?;
            }
            let (first, last) = (&there[moments / 3], &there[moments - 1]);
            let Some(before) = told.note(db.as_of(first.seqno), "as_of")? else { continue };
            let Some(after) = told.note(db.as_of(last.seqno), "as_of")? else { continue };
            let [old, new] = [first, last].map(|moment| &moment.spaces[number]);
            let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
            let mut differ = keys.into_iter().filter(|key| old.get(*key) != new.get(*key));
            let mut whole = true;
            for change in db.diff(&before, &after, space) {
                let Some(change) = told.note(change, "diff")? else {
                    whole = false;
                    break;
                };
                let next = differ.next();
                let is_right = next.is_some_and(|key| {
                    change.key == key.as_slice()
                        && change.before.as_deref() == old.get(key).map(Vec::as_slice)
                        && change.after.as_deref() == new.get(key).map(Vec::as_slice)
                });
                if !is_right {
                    return Err(format!("diff tells {:?}, expected {next:?}", change.key));
                }
            }
            if let (true, Some(missing)) = (whole, differ.next()) {
                return Err(format!("diff ends before {:?}", missing.escape_ascii().to_string()));
            }
        }
        if db.pins().iter().map(|pin| pin.name.as_str()).ne(self.pins.iter().map(|(name, _)| name.as_str())) {
            return Err(format!("the pins are {:?}", db.pins()));
        }
        for (pin, moment) in &self.pins {
            let Some(view) = told.note(db.pinned(pin), "pinned")? else { continue };
            for (space, content) in spaces.iter().zip(&self.moments[*moment].spaces) {
                let what = format!("{} as pinned", space.name());
                told.read(content, || view.range(space, ..), |key| view.get(space, key), &what)?;
            }
        }
        Ok(())
    }

    fn read_history(
        space: &Keyspace,
        number: usize,
        key: &[u8],
        moments: &[Moment],
        told: &mut Told,
        what: &str,
    ) -> Result<(), String> {
        let value = |moment: &Moment| moment.spaces[number].get(key).cloned();
        let mut expected: Vec<_> = moments
            .windows(2)
            .filter(|pair| value(&pair[0]) != value(&pair[1]))
            .map(|pair| (pair[1].seqno, pair[1].time, value(&pair[1])))
            .collect();
        for version in space.history(key) {
            let Some(version) = told.note(version, what)? else { return Ok(()) };
            let seqno = u64::from(version.seqno);
            // A delete of what was not there may be told or not.
            let there = moments.iter().rev().find(|moment| moment.seqno <= seqno);
            if version.value.is_none()
                && expected.last().is_none_or(|(next, ..)| *next != seqno)
                && there.is_some_and(|there| value(there).is_none())
            {
                continue;
            }
            let found = (seqno, version.time, version.value.map(|value| value.to_vec()));
            let next = expected.pop();
            if next.as_ref() != Some(&found) {
                return Err(format!("{what}: version {seqno}, expected {:?}", next.map(|(seqno, ..)| seqno)));
            }
        }
        match expected.last() {
            None => Ok(()),
            Some((seqno, ..)) => Err(format!("{what}: it ended before {seqno}")),
        }
    }

    /// One case from beginning to end.
    pub(crate) fn run(&self, file: usize, damage: &Damage, mmap: bool) -> Result<Outcome, String> {
        let sim = self.sim.fork();
        let (path, bytes) = &self.files[file];
        let floor = match damage {
            Damage::Swap(with) => {
                let theirs = &self.files.iter().find(|(path, _)| path == with).unwrap().1;
                sim.write_file(path, theirs.clone());
                sim.write_file(with, bytes.clone());
                floor(self, path, Some(theirs)).min(floor(self, with, Some(bytes)))
            }
            damage => {
                let bad = damage.apply(bytes);
                match &bad {
                    Some(bad) => sim.write_file(path, bad.clone()),
                    None => sim.remove_file(path),
                }
                floor(self, path, bad.as_deref())
            }
        };

        let mut told = Told::default();
        let Some((db, moments)) = told.note(self.open(&sim, mmap), "open")? else { return Ok(Outcome::Refused) };
        let all = self.moments.len();
        if moments < floor {
            return Err(format!("{moments} of {all} commits are left, and at least {floor} must be"));
        }
        if db.keyspaces() != names(self.spaces) {
            return Err(format!("the keyspaces are {:?}", db.keyspaces()));
        }
        let spaces = self.handles(&db);
        let mut now = self.moments[moments - 1].spaces.clone();
        Self::read_present(&db, &spaces, &now, &mut told)?;
        self.read_past(&db, &spaces, moments, &mut told)?;
        if self.spaces == PAST {
            self.read_times(&db, &spaces, moments, &mut told)?;
        }
        let outcome = match (told.errors.is_empty(), moments == all) {
            (false, _) => Outcome::Found,
            (true, true) => Outcome::Exact,
            (true, false) => Outcome::Shorter,
        };

        // What was told once may be told again; otherwise it is a healthy database.
        let mut later = Told::default();
        for ((space, (_, sort)), content) in spaces.iter().zip(self.spaces).zip(&mut now) {
            if later.note(space.put("key-11", sort.late()), "put")?.is_some() {
                sort.put(content, b"key-11", sort.late());
            }
            if later.note(space.merge("key-02", sort.late()), "merge")?.is_some() {
                sort.merge(content, b"key-02", sort.late());
            }
            if later.note(space.delete_range("key-03".."key-05"), "delete_range")?.is_some() {
                content.retain(|key, _| !(b"key-03".as_slice()..b"key-05".as_slice()).contains(&key.as_slice()));
            }
        }
        later.note(db.flush(), "flush")?;
        later.note(db.compact(), "compact")?;
        Self::read_present(&db, &spaces, &now, &mut later)?;
        drop(spaces);
        later.note(db.close(), "close")?;
        if let Some((db, _)) = later.note(self.open(&sim, mmap), "open again")? {
            if db.keyspaces() != names(self.spaces) {
                return Err(format!("opened again: the keyspaces are {:?}", db.keyspaces()));
            }
            let spaces = self.handles(&db);
            Self::read_present(&db, &spaces, &now, &mut later).map_err(|what| format!("opened again: {what}"))?;
        }
        match later.errors.first() {
            Some(error) if told.errors.is_empty() => Err(format!("nothing was wrong before: {error}")),
            _ => Ok(outcome),
        }
    }
}

/// The commits that may be gone: after damage, at least `floor` moments must be there.
fn floor(template: &Template, path: &Path, bad: Option<&[u8]>) -> usize {
    let all = template.moments.len();
    if template.clean || kind(path) != "log" {
        return all;
    }
    let logs: Vec<_> = template.files.iter().filter(|(path, _)| kind(path) == "log").collect();
    let found: Vec<_> = logs.iter().map(|(_, bytes)| records(bytes)).collect();
    let log = logs.iter().position(|(there, _)| there == path).unwrap();
    let original = &logs[log].1;
    let bad = bad.unwrap_or_default();
    let same = |from: usize, to: usize| bad.get(from..to) == original.get(from..to);
    let is_data = |record: &&Record| record.is_data;
    let first = if same(0, LOG_HEADER_LEN) { found[log].iter().position(|r| !same(r.start, r.end)) } else { Some(0) };
    let Some(first) = first else { return all };
    let at = if same(0, LOG_HEADER_LEN) { found[log][first].start } else { 0 };
    let marked = found[log].iter().any(|r| same(r.start, r.start + RECORD_HEADER_LEN) && r.synced_upto > at);
    if marked || found[log + 1..].iter().flatten().any(|record| record.synced_upto > 0) {
        return all;
    }
    let lost = found[log][first..].iter().chain(found[log + 1..].iter().flatten()).filter(is_data).count();
    all - lost
}

/// What reading found: errors that were told, while everything else was exact.
#[derive(Default)]
struct Told {
    errors: Vec<String>,
}

impl Told {
    fn note<T>(&mut self, result: chronolith::Result<T>, while_: &str) -> Result<Option<T>, String> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                check_named(&error, while_)?;
                self.errors.push(format!("{while_}: {error}"));
                Ok(None)
            }
        }
    }

    fn scan<'a>(
        &mut self,
        found: impl Iterator<Item = chronolith::Result<(chronolith::Bytes, chronolith::Bytes)>>,
        expected: impl Iterator<Item = (&'a Vec<u8>, &'a Vec<u8>)>,
        while_: &str,
    ) -> Result<(), String> {
        let mut expected = expected;
        for item in found {
            let Some((key, value)) = self.note(item, while_)? else { return Ok(()) };
            match expected.next() {
                Some((k, v)) if key == k.as_slice() && value == v.as_slice() => {}
                other => return Err(format!("{while_}: found {key:?}, expected {:?}", other.map(|(key, _)| key))),
            }
        }
        match expected.next() {
            None => Ok(()),
            Some((key, _)) => {
                Err(format!("{while_}: it ended before {:?} without an error", key.escape_ascii().to_string()))
            }
        }
    }

    /// Reads everything of one moment, through ranges and gets.
    fn read(
        &mut self,
        content: &Content,
        range: impl Fn() -> Range,
        get: impl Fn(&[u8]) -> chronolith::Result<Option<chronolith::Bytes>>,
        what: &str,
    ) -> Result<(), String> {
        self.scan(range(), content.iter(), &format!("{what}, forwards"))?;
        self.scan(range().rev(), content.iter().rev(), &format!("{what}, backwards"))?;
        for key in (0..22).chain((22..content.len()).step_by(60)) {
            let key = name(key).into_bytes();
            if let Some(found) = self.note(get(&key), &format!("{what}, get"))?
                && found.as_deref() != content.get(&key).map(Vec::as_slice)
            {
                return Err(format!("{what}: get of {} gave {found:?}", key.escape_ascii()));
            }
        }
        Ok(())
    }
}

/// Whether an error says which file, or at least which database.
fn check_named(error: &Error, while_: &str) -> Result<(), String> {
    let is_right = match error {
        Error::Corrupt { path, .. }
        | Error::Missing { path }
        | Error::NewerFormat { path, .. }
        | Error::Io { path, .. } => path.starts_with("db"),
        Error::Invalid { .. } => error.to_string().contains("db"),
        _ => false,
    };
    if is_right { Ok(()) } else { Err(format!("{while_}: an error that names no file: {error:?}")) }
}

fn is_trimmed(mut range: Range) -> bool {
    range.any(|item| matches!(item, Err(Error::HistoryTrimmed { .. })))
}
