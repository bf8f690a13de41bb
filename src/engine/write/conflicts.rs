//! Conflict checks: whether what a write has read still holds when it commits, by the recent batches or, where those do
//! not reach back, by comparing answers.
//!
//! ```text
//!   reader's view at 70       71 72 … 79 │ 80 81 82 83 …          the newest commit
//!         │                    dropped   └── ring of recent batches ──┘
//!         ├─ the ring begins at or before 71: its operations are compared with what was read
//!         └─ it begins later: what was read is read again, as of 70 and now; equal answers stand, and the ring covers the rest
//! ```
//!
//! While a write is between reading and committing, the batches that are committed are kept in a ring: they are shared
//! bytes, so keeping one costs a clone of a pointer. The ring is bounded in bytes; its floor marks what has left it,
//! which never counts as unchanged. Most of a check runs without the commit lock, up to the newest commit at its start;
//! only the rest is checked under the lock.
//!
//! Keys, ranges and absence are all covered, and no conflict is false: a batch in the ring names what it wrote, and
//! elsewhere answers are compared. (Rejected: a table of the hashes of written keys. At its bound it forgot everything
//! and so refused every write or, where a batch straddled the bound, forgot a part of the very batch it was recording.)

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use crate::{
    base::{Error, KeySpan, KeyspaceId, Result, Seqno},
    engine::{
        Engine, KeyspaceRef,
        log::Recent,
        read::{Scan, ViewCore, equal},
    },
    merge::{Direction, Stored},
    wal::{BatchView, Op},
};

/// Batches that a check takes from the ring at a time, under the commit lock.
const SLICE: usize = 256;

/// Rounds of a check without the lock before its last part reads again under it.
const ROUNDS: usize = 4;

/// A read that a write depends on. While it lives, committed batches are kept, and the view that it reads through is
/// open.
#[derive(Debug)]
pub(crate) struct Reading {
    /// View to read through. The ring was watched before this was opened, so no later write can be missed.
    pub(crate) view: Arc<ViewCore>,
    _recent: RecentGuard,
}

#[derive(Debug)]
struct RecentGuard(Arc<Engine>);

impl Drop for RecentGuard {
    fn drop(&mut self) {
        if self.0.is_forked() {
            return;
        }
        self.0.log.unwatch();
    }
}

impl Reading {
    /// Begins to read the present.
    pub(crate) fn begin(engine: &Arc<Engine>) -> Self {
        engine.log.watch();
        let recent = RecentGuard(Arc::clone(engine));
        engine.ctx.pass("read for a write: watched, then viewed");
        Self { view: ViewCore::snapshot(engine), _recent: recent }
    }
}

/// Reads through a view that must still hold when a batch is committed.
#[derive(Debug)]
pub(crate) struct ReadSet {
    view: Arc<ViewCore>,
    keyspaces: BTreeMap<KeyspaceId, KeyspaceReads>,
}

#[derive(Debug)]
struct KeyspaceReads {
    keyspace: KeyspaceRef,
    keys: BTreeSet<Vec<u8>>,
    spans: Vec<KeySpan>,
}

impl KeyspaceReads {
    /// Returns a key that was read and that an operation writes.
    fn written(&self, op: &Op<'_>) -> Option<Vec<u8>> {
        if !op.kind.is_range() {
            let read = self.keys.contains(op.key) || self.spans.iter().any(|span| span.holds(op.key));
            return read.then(|| op.key.to_vec());
        }
        let written = op.span();
        if written.is_empty() {
            return None;
        }
        let end = written.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let key = self.keys.range::<[u8], _>((Bound::Included(op.key), end)).next();
        key.cloned().or_else(|| {
            let walked = self.spans.iter().find(|span| span.overlaps(&written))?;
            Some(walked.start.clone().max(op.key.to_vec()))
        })
    }
}

impl ReadSet {
    /// Creates an empty set for reads through a view.
    pub(crate) fn new(view: &Arc<ViewCore>) -> Self {
        Self { view: Arc::clone(view), keyspaces: BTreeMap::new() }
    }

    /// Records that a key was read, whether or not it exists.
    pub(crate) fn key(&mut self, keyspace: &KeyspaceRef, key: &[u8]) {
        self.of(keyspace).keys.insert(key.to_vec());
    }

    /// Records that a span was scanned.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "a write that reads a range is a transaction, which will stand on this")
    )]
    pub(crate) fn span(&mut self, keyspace: &KeyspaceRef, span: KeySpan) {
        self.of(keyspace).spans.push(span);
    }

    fn of(&mut self, keyspace: &KeyspaceRef) -> &mut KeyspaceReads {
        let reads = || KeyspaceReads { keyspace: keyspace.clone(), keys: BTreeSet::new(), spans: Vec::new() };
        self.keyspaces.entry(keyspace.id).or_insert_with(reads)
    }

    /// Returns the seqno at which everything was read.
    fn since(&self) -> Seqno {
        self.view.seqno()
    }

    /// Fails if a batch wrote something that was read.
    fn check(&self, batch: &BatchView) -> Result<()> {
        let written = |op: Op<'_>| self.keyspaces.get(&op.keyspace).and_then(|reads| reads.written(&op));
        batch.ops().find_map(written).map_or(Ok(()), |key| Err(Error::Conflict { key }))
    }

    /// Reads everything again and fails if an answer differs; returns the seqno of the second read.
    fn compare(&self) -> Result<Seqno> {
        let now = ViewCore::snapshot(self.view.engine());
        let go_on = || now.engine().check_open();
        for KeyspaceReads { keyspace, keys, spans } in self.keyspaces.values() {
            for key in keys {
                let same = match (self.view.get_stored(keyspace, key)?, now.get_stored(keyspace, key)?) {
                    (Some(then), Some(new)) => {
                        let (old_in, new_in) = (self.view.files(), now.files());
                        equal(keyspace, key, (&then, &old_in.chunks), (&new, &new_in.chunks), &go_on)?
                    }
                    (then, now) => then.is_none() && now.is_none(),
                };
                if !same {
                    return Err(Error::Conflict { key: key.clone() });
                }
            }
            for span in spans {
                compare_spans(&self.view, &now, keyspace, span)?;
            }
        }
        Ok(now.seqno())
    }
}

/// Fails if two views differ in a span.
fn compare_spans(then: &ViewCore, now: &ViewCore, keyspace: &KeyspaceRef, span: &KeySpan) -> Result<()> {
    let begin = |view: &ViewCore| view.scan(keyspace, span.clone(), Direction::Forward);
    let go_on = || then.engine().check_open();
    let (mut then, mut now) = (begin(then)?, begin(now)?);
    let chunks = |walk: &Option<Scan>| walk.as_ref().map(|walk| Arc::clone(walk.chunks()));
    let (old_in, new_in) = (chunks(&then), chunks(&now));
    let same = |key: &[u8], then: &Stored, now: &Stored| match old_in.as_deref().zip(new_in.as_deref()) {
        Some((old_in, new_in)) => equal(keyspace, key, (then, old_in), (now, new_in), &go_on),
        None => Ok(false),
    };
    let step = |walk: &mut Option<Scan>| -> Result<Option<(Vec<u8>, Stored)>> {
        let Some(walk) = walk else { return Ok(None) };
        Ok(walk.step()?.then(|| (walk.key().to_vec(), walk.stored())))
    };
    loop {
        match (step(&mut then)?, step(&mut now)?) {
            (None, None) => return Ok(()),
            (Some((key, then)), Some((other, now))) if key == other && same(&key, &then, &now)? => {}
            (then, now) => {
                // The smaller key exists in one of them only, or has another value.
                let key = then.into_iter().chain(now).map(|(key, _)| key).min().unwrap_or_default();
                return Err(Error::Conflict { key });
            }
        }
    }
}

/// A check of reads, and the seqno up to which they are known to hold.
#[derive(Debug)]
pub(super) struct ReadCheck<'r> {
    reads: &'r ReadSet,
    upto: Seqno,
    rounds: usize,
}

impl<'r> ReadCheck<'r> {
    pub(super) fn new(reads: &'r ReadSet) -> Self {
        Self { reads, upto: reads.since(), rounds: 0 }
    }

    /// Checks up to the commit that is newest now, holding the commit lock only for moments.
    pub(super) fn advance(&mut self, engine: &Engine) -> Result<()> {
        self.rounds += 1;
        let target = engine.visible();
        while self.upto < target {
            let slice: Option<Vec<_>> = {
                let commit = engine.log.lock();
                commit.recent.after(self.upto).map(|batches| batches.take(SLICE).cloned().collect())
            };
            match slice.as_deref() {
                None => self.upto = self.reads.compare()?,
                // Seqnos without a batch up to the target wrote no key: they are changes of keyspaces and pins.
                Some([]) => self.upto = target,
                Some(batches) => {
                    for (seqno, batch) in batches {
                        self.reads.check(batch)?;
                        self.upto = *seqno;
                    }
                }
            }
        }
        Ok(())
    }

    /// Checks the rest under the commit lock. Returns `false` if more has been written meanwhile than the ring holds,
    /// so that [`ReadCheck::advance`] must run again.
    pub(super) fn finish(&mut self, recent: &Recent) -> Result<bool> {
        if let Some(mut batches) = recent.after(self.upto) {
            batches.try_for_each(|(_, batch)| self.reads.check(batch))?;
        } else if self.rounds < ROUNDS {
            return Ok(false);
        } else {
            // Nothing can be committed while this reads.
            self.reads.compare()?;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Db, KeyspaceOptions, MergeStrategy, Options,
        engine::options::Limits,
        env::{Memory, Sim},
    };

    fn open(recent_bytes: usize) -> Db {
        let limits = Limits { recent_bytes, ..Limits::default() };
        Options { limits, ..Options::new().env(Memory::new()) }.open("db").unwrap()
    }

    fn text(old: Option<&[u8]>) -> String {
        old.map_or_else(String::new, |old| String::from_utf8(old.to_vec()).unwrap())
    }

    /// A batch that writes some keys, wider or narrower than any ring here.
    fn write_wide(db: &Db, keyspace: &crate::Keyspace, first: &str, width: usize) {
        let mut batch = db.batch();
        batch.put(keyspace, first, "other");
        (1..width).for_each(|i| batch.put(keyspace, format!("z{i}"), "other"));
        batch.commit().unwrap();
    }

    #[test]
    fn an_update_sees_every_write_of_its_key_however_little_the_ring_holds() {
        for recent_bytes in [0, 1, 100, 200, 300, 1000] {
            for width in [1, 2, 3, 4, 5, 30] {
                for batches in 1..4 {
                    let db = open(recent_bytes);
                    let ks = db.keyspace("k", KeyspaceOptions::new()).unwrap();
                    ks.put("n", "base").unwrap();
                    let mut runs = 0;
                    let change = |old: Option<&[u8]>| {
                        runs += 1;
                        if runs == 1 {
                            write_wide(&db, &ks, "n", width);
                            (1..batches).for_each(|_| write_wide(&db, &ks, "y", width));
                        }
                        Some(text(old) + "+1")
                    };
                    ks.update("n", change).unwrap();
                    assert_eq!(runs, 2, "ring of {recent_bytes}, {batches} batches of {width}");
                    assert_eq!(ks.get("n").unwrap().unwrap(), b"other+1");
                }
            }
        }
    }

    #[test]
    fn an_update_of_a_key_that_nobody_writes_runs_once_whatever_others_write() {
        for recent_bytes in [0, 100, 16 << 20] {
            let db = open(recent_bytes);
            let ks = db.keyspace("k", KeyspaceOptions::new()).unwrap();
            let mut runs = 0;
            let change = |_: Option<&[u8]>| {
                runs += 1;
                for i in 0..1100 {
                    ks.delete_range(format!("r{i:04}")..format!("r{i:04}x")).unwrap();
                }
                write_wide(&db, &ks, "z", 33_000);
                Some("mine")
            };
            ks.update("n", change).unwrap();
            assert_eq!(runs, 1, "ring of {recent_bytes}");
        }
    }

    #[test]
    fn the_first_value_wins_beside_batches_that_straddle_the_bound_of_the_ring() {
        for strategy in [MergeStrategy::FirstWins, MergeStrategy::ErrorOnDuplicate] {
            for recent_bytes in [0, 150, 300] {
                let sim = Sim::new(7);
                let limits = Limits { recent_bytes, ..Limits::default() };
                let db = Options { limits, ..Options::new().env(sim.clone()) }.open("db").unwrap();
                let ks = db.keyspace("k", KeyspaceOptions::new().merge(strategy.clone())).unwrap();
                let (other, theirs) = (db.clone(), ks.clone());
                let mut done = false;
                sim.on_point(move |point| {
                    if point == "commit: checked, then locked" && !std::mem::replace(&mut done, true) {
                        let mut batch = other.batch();
                        batch.put(&theirs, "n", "theirs");
                        (0..5).for_each(|i| batch.put(&theirs, format!("z{i}"), "theirs"));
                        batch.commit().unwrap();
                    }
                });
                let put = ks.put("n", "mine");
                sim.ignore_points();
                assert_eq!(ks.get("n").unwrap().unwrap(), b"theirs", "ring of {recent_bytes}");
                assert_eq!(put.is_err(), matches!(strategy, MergeStrategy::ErrorOnDuplicate));
            }
        }
    }

    #[test]
    fn a_range_conflicts_with_what_is_written_inside_it_and_with_nothing_else() {
        for recent_bytes in [0, 16 << 20] {
            let db = open(recent_bytes);
            let ks = db.keyspace("k", KeyspaceOptions::new()).unwrap();
            let engine = ks.engine();
            let walked = |write: &dyn Fn()| {
                let reading = Reading::begin(engine);
                let mut reads = ReadSet::new(&reading.view);
                reads.span(ks.keyspace_ref(), KeySpan { start: "l".into(), end: Some("n".into()) });
                write();
                // So that the ring has let go of it, where it is small.
                ks.put("zz", "1").unwrap();
                let mut checked = ReadCheck::new(&reads);
                let done = checked.advance(engine);
                done.and_then(|()| checked.finish(&engine.log.lock().recent)).is_ok()
            };
            let put = |key: &'static str| ks.put(key, "1").map(|_| ()).unwrap();
            assert!(!walked(&|| put("mm")), "a phantom");
            assert!(!walked(&|| put("l")));
            assert!(walked(&|| put("n")) && walked(&|| put("k")));
            assert!(!walked(&|| ks.delete_range("a".."z").map(|_| ()).unwrap()));
            assert!(walked(&|| ks.delete_range("n".."z").map(|_| ()).unwrap()));
        }
    }

    #[test]
    fn commits_go_on_when_the_reserved_seqnos_are_used_up_and_none_is_given_out_twice() {
        let sim = Sim::new(3);
        let limits = Limits { seqno_reserve: 4, ..Limits::default() };
        let options = Options { limits, ..Options::new().env(sim.clone()) };
        let mut last = 0;
        for _ in 0..5 {
            let db = options.open("db").unwrap();
            let ks = db.keyspace("k", KeyspaceOptions::new()).unwrap();
            for _ in 0..50 {
                let seqno = ks.put("n", "1").unwrap().seqno.0;
                assert!(seqno > last, "{seqno} after {last}");
                last = seqno;
            }
            sim.cut_power_with(crate::env::Loss::Everything);
            drop((ks, db));
        }
    }
}
