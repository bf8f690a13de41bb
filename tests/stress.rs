//! Real threads against a model: every commit is told by its receipt, and every answer is compared with what all
//! commits up to its seqno amount to.
//!
//! ```text
//!   writers ──▶ commit ──▶ receipt ──▶ the truth, by seqno ◀── compared ◀── views · pins · copies · histories
//!                 ▲ beside them: flush, compact, verify, policies changed, keyspaces made and dropped;
//!                   at last, close in the middle
//! ```
//!
//! | variable | means |
//! | --- | --- |
//! | `CHRONOLITH_STRESS_SECONDS` | how long it goes on; by default 30 |
//! | `CHRONOLITH_STRESS_SEED` | what is drawn; the order of the threads is not |

#![expect(
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails by panicking, and tells what it did"
)]

#[expect(dead_code, reason = "a part of it is for the other test")]
mod truth;

use std::{
    collections::BTreeMap,
    env::var,
    fs,
    ops::ControlFlow,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use chronolith::{
    Chunking, Db, Durability, Error, Keyspace, KeyspaceOptions, Lease, Options, Receipt, StagedValue, env::Memory,
};
use truth::{
    Dice, KINDS, Keeping, Kind, Looked, Outcome, Sort, Strategy, Truth, What, Write, bump, check_copy, check_diff,
    ensure, key, micros,
};

const KEYS: usize = 40;

/// The name of the keyspace that comes and goes.
const TEMPORARY: &str = "temporary";

/// Views that a reader holds, and pins.
const HELD: usize = 5;

/// How values are cut anew: most are short.
const CUTS: [Chunking; 3] = [Chunking::content_defined(1024), Chunking::fixed(512), Chunking::fixed(4096)];

/// A verb that takes longer hangs.
const LONGEST: Duration = Duration::from_secs(60);

/// After so many openings everything begins anew, so that what was said does not grow without end.
const OPENINGS: usize = 3;

/// One thing that a thread does.
type Verb = fn(&Round, &mut Own) -> Outcome;

/// Who runs.
const THREADS: [(&str, Verb); 8] = [
    ("writer", Round::write),
    ("second writer", Round::write),
    ("reader", Round::read),
    ("pinner", Round::pin),
    ("carer", Round::care),
    ("copier", Round::copy),
    ("keeper", Round::keep),
    ("holder", Round::hold),
];

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the database is.
enum Machine {
    Memory(Memory),
    Disk(tempfile::TempDir),
}

impl Machine {
    fn options(&self) -> Options {
        match self {
            Self::Memory(memory) => Options::new().env(memory.clone()),
            Self::Disk(_) => Options::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        match self {
            Self::Memory(_) => PathBuf::from(name),
            Self::Disk(dir) => dir.path().join(name),
        }
    }

    fn remove(&self, name: &str) {
        if let Self::Disk(dir) = self {
            let _removed = fs::remove_dir_all(dir.path().join(name));
        }
    }
}

/// What one thread has for itself.
struct Own {
    who: usize,
    dice: Dice,
    held: Vec<Looked>,
    /// Names of its pins, with their seqnos.
    pins: BTreeMap<String, u64>,
    /// Values that no key has, with their bytes.
    staged: Vec<(StagedValue, Vec<u8>)>,
    leases: Vec<(Lease, Vec<u8>)>,
}

/// A database from its opening to its close, as the threads share it.
struct Round {
    machine: Arc<Machine>,
    db: Db,
    truth: Arc<Mutex<Truth>>,
    /// The time of each commit.
    times: Mutex<BTreeMap<u64, u64>>,
    /// By life.
    handles: Mutex<Vec<Option<Keyspace>>>,
    /// Of each thread: odd while a commit is under way that has not been told.
    tickets: Vec<AtomicU64>,
    doing: Vec<Mutex<(String, Instant)>>,
    counts: Mutex<BTreeMap<String, u64>>,
    tags: Arc<AtomicU64>,
    closing: AtomicBool,
    failed: Mutex<Option<String>>,
}

/// Ends a thread whose database was closed.
const CLOSED: &str = "the database is closed";

impl Round {
    /// Says what a thread does from now on, for the count and for the watchdog.
    fn begin(&self, own: &Own, what: &str) {
        *locked(&self.counts).entry(what.to_owned()).or_default() += 1;
        *locked(&self.doing[own.who]) = (what.to_owned(), Instant::now());
    }

    fn is_over(&self) -> bool {
        locked(&self.failed).is_some()
    }

    /// An error that there must not be.
    fn refused(&self, what: &str, error: &Error) -> String {
        let closed = self.closing.load(Ordering::SeqCst) && matches!(error, Error::Closed);
        if closed { CLOSED.to_owned() } else { format!("{what}: {error}") }
    }

    /// Waits until all commits that may be at or below a seqno are told.
    fn wait_for_all(&self) {
        for ticket in &self.tickets {
            let at = ticket.load(Ordering::SeqCst);
            while at % 2 == 1 && ticket.load(Ordering::SeqCst) == at && !self.is_over() {
                thread::sleep(Duration::from_micros(50));
            }
        }
    }

    fn commit(
        &self,
        own: &Own,
        writes: &[Write],
        call: impl FnOnce() -> chronolith::Result<Option<Receipt>>,
    ) -> Outcome {
        self.tickets[own.who].fetch_add(1, Ordering::SeqCst);
        let got = call();
        let told = match got {
            Ok(Some(receipt)) | Err(Error::NotDurable { receipt }) => {
                let (seqno, time) = (u64::from(receipt.seqno), micros(receipt.time));
                locked(&self.truth).note(seqno, time, writes);
                locked(&self.times).insert(seqno, time);
                Ok(())
            }
            Ok(None) | Err(Error::Duplicate { .. } | Error::Conflict { .. }) => Ok(()),
            Err(error) => Err(self.refused("commit", &error)),
        };
        self.tickets[own.who].fetch_add(1, Ordering::SeqCst);
        told
    }

    /// One of the keyspaces that all write.
    fn life(&self, own: &mut Own, which: impl Fn(&Kind) -> bool) -> (usize, Keyspace) {
        let handles = locked(&self.handles);
        loop {
            let life = own.dice.below(KINDS.len());
            if let Some(keyspace) = handles[life].clone().filter(|_| which(&KINDS[life])) {
                return (life, keyspace);
            }
        }
    }

    fn value(&self, own: &mut Own, kind: &Kind) -> Vec<u8> {
        let len = if own.dice.one_in(4) { own.dice.below(4000) } else { 0 };
        let len = if kind.strategy.folds() { len.min(20) } else { len };
        kind.value(self.tags.fetch_add(1, Ordering::Relaxed), len)
    }

    fn what(&self, own: &mut Own, life: usize) -> What {
        match own.dice.below(6) {
            0 => What::Delete,
            1 | 2 => What::Merge(self.value(own, &KINDS[life])),
            _ => What::Put(self.value(own, &KINDS[life])),
        }
    }

    fn write(&self, own: &mut Own) -> Outcome {
        // Others want to compare, and what was said is to stay small.
        thread::sleep(Duration::from_micros(own.dice.next() % 300));
        match own.dice.below(12) {
            0..4 => self.batch(own),
            4..7 => self.update(own),
            7..9 => self.swap(own),
            9 => self.delete_range(own),
            _ => self.single(own),
        }
    }

    fn single(&self, own: &mut Own) -> Outcome {
        let (life, keyspace) = self.life(own, |_| true);
        let number = own.dice.below(KEYS);
        let what = self.what(own, life);
        let write = Write { life, keys: (number, number + 1), what: what.clone() };
        self.begin(own, "put, merge, delete");
        self.commit(own, &[write], || match what {
            What::Put(value) => keyspace.put(key(number), value).map(Some),
            What::Merge(value) => keyspace.merge(key(number), value).map(Some),
            _ => keyspace.delete(key(number)).map(Some),
        })
    }

    fn batch(&self, own: &mut Own) -> Outcome {
        let mut batch = self.db.batch();
        let mut writes: Vec<Write> = Vec::new();
        for _ in 0..=own.dice.below(12) {
            let (life, keyspace) = self.life(own, |_| true);
            let number = own.dice.below(KEYS);
            if writes.iter().any(|write| (write.life, write.keys.0) == (life, number)) {
                continue;
            }
            let what = self.what(own, life);
            match &what {
                What::Put(value) => batch.put(&keyspace, key(number), value),
                What::Merge(value) => batch.merge(&keyspace, key(number), value),
                _ => batch.delete(&keyspace, key(number)),
            }
            writes.push(Write { life, keys: (number, number + 1), what });
        }
        let each = [Durability::Buffered, Durability::Interval(Duration::from_millis(5)), Durability::Sync];
        let durability = each[own.dice.below(20).saturating_sub(17)];
        self.begin(own, "batch");
        self.commit(own, &writes, || batch.commit_with(durability).map(Some))
    }

    fn update(&self, own: &mut Own) -> Outcome {
        let (life, keyspace) = self.life(own, |kind| kind.strategy == Strategy::LastWins);
        // Few, so that they meet.
        let number = own.dice.below(3);
        let tag = self.tags.fetch_add(1, Ordering::Relaxed);
        self.begin(own, "update");
        let write = Write { life, keys: (number, number + 1), what: What::Bump(tag) };
        self.commit(own, &[write], || keyspace.update(key(number), |old| Some(bump(old, tag))).map(Some))
    }

    fn swap(&self, own: &mut Own) -> Outcome {
        let decides = |kind: &Kind| kind.strategy.decides();
        let (life, keyspace) = self.life(own, |kind| kind.strategy == Strategy::LastWins || decides(kind));
        let number = own.dice.below(3);
        self.begin(own, "compare and swap");
        let there = keyspace.get(key(number)).map_err(|error| self.refused("get", &error))?;
        let expected = there.map(|value| value.to_vec()).filter(|_| !decides(&KINDS[life]));
        let value = self.value(own, &KINDS[life]);
        let write = Write { life, keys: (number, number + 1), what: What::Swap(expected.clone(), value.clone()) };
        self.commit(own, &[write], || keyspace.compare_and_swap(key(number), expected, Some(value)))
    }

    fn delete_range(&self, own: &mut Own) -> Outcome {
        let (life, keyspace) = self.life(own, |_| true);
        let from = own.dice.below(KEYS);
        let to = (from + 1 + own.dice.below(6)).min(KEYS);
        self.begin(own, "delete range");
        let write = Write { life, keys: (from, to), what: What::Delete };
        self.commit(own, &[write], || keyspace.delete_range(key(from)..key(to)).map(Some))
    }

    /// A view, with everything that it shows told.
    fn view(&self, own: &mut Own, sort: Sort) -> Outcome<Option<Looked>> {
        let before = u64::from(self.db.seqno());
        let pin = own.pins.keys().nth(own.dice.below(own.pins.len())).cloned();
        let back = own.dice.next() % before.clamp(1, 3000);
        let opened = match (sort, pin) {
            (Sort::Present, _) => Ok(self.db.snapshot()),
            (Sort::Past, _) => self.db.as_of(before - back),
            (Sort::Pinned, Some(pin)) => self.db.pinned(pin),
            (Sort::Pinned, None) => return Ok(None),
        };
        let view = opened.map_err(|error| self.refused("a view", &error))?;
        let after = u64::from(self.db.seqno());
        self.wait_for_all();
        let at = u64::from(view.seqno());
        Ok(Some(Looked::new(view, sort, if sort == Sort::Present { (at, at) } else { (before, after) })))
    }

    fn check(&self, own: &mut Own, looked: &Looked) -> Outcome {
        let truth = locked(&self.truth);
        if own.dice.one_in(4) {
            return looked.check_all(&truth, &mut own.dice);
        }
        let (life, keyspace) = self.life(own, |_| true);
        looked.check(&truth, life, &keyspace, &mut own.dice).map(drop)
    }

    fn read(&self, own: &mut Own) -> Outcome {
        let sort = if own.dice.one_in(2) { Sort::Present } else { Sort::Past };
        match own.dice.below(10) {
            0 => self.look_at_time(own),
            1 => self.histories(own),
            2 => self.difference(own),
            3..6 if own.held.len() < HELD => {
                self.begin(own, "hold a view");
                let held = self.view(own, sort)?;
                own.held.extend(held);
                Ok(())
            }
            3..7 if !own.held.is_empty() => {
                self.begin(own, "read a view that is held");
                let at = own.dice.below(own.held.len());
                let held = own.held[at].clone();
                if own.dice.one_in(4) {
                    own.held.swap_remove(at);
                }
                self.check(own, &held)
            }
            _ => {
                self.begin(own, if sort == Sort::Present { "read a snapshot" } else { "read as of" });
                let looked = self.view(own, sort)?;
                looked.map_or(Ok(()), |looked| self.check(own, &looked))
            }
        }
    }

    fn look_at_time(&self, own: &mut Own) -> Outcome {
        self.begin(own, "read as of a time");
        let newest = self.db.snapshot().time();
        let time = newest.checked_sub(Duration::from_micros(own.dice.next() % 200_000)).unwrap_or(newest);
        let before = u64::from(self.db.seqno());
        let view = match self.db.as_of_time(time) {
            Ok(view) => view,
            // Before the first commit of this run, when the timeline of the one before is no longer whole.
            Err(Error::HistoryTrimmed { .. }) => return Err("a time is refused".to_owned()),
            Err(error) => return Err(self.refused("as_of_time", &error)),
        };
        let after = u64::from(self.db.seqno());
        self.wait_for_all();
        let seqno = u64::from(view.seqno());
        let next = locked(&self.times).range(seqno + 1..).next().map(|(seqno, time)| (*seqno, *time));
        let right = next.is_none_or(|(_, next)| next > micros(time));
        ensure!(right, "the time {} is of {seqno}, and {next:?} is not later", micros(time));
        // It reads as of its own time: nothing expires here.
        self.check(own, &Looked::new(view, Sort::Past, (before, after)))
    }

    fn histories(&self, own: &mut Own) -> Outcome {
        self.begin(own, "history");
        let Some(looked) = self.view(own, Sort::Present)? else { return Ok(()) };
        let (life, keyspace) = self.life(own, |_| true);
        let number = own.dice.below(KEYS);
        looked.check_history(&locked(&self.truth), life, &keyspace, number)
    }

    fn difference(&self, own: &mut Own) -> Outcome {
        self.begin(own, "difference");
        let (before, after) = (self.view(own, Sort::Past)?, self.view(own, Sort::Present)?);
        let (Some(before), Some(after)) = (before, after) else { return Ok(()) };
        let (life, keyspace) = self.life(own, |_| true);
        check_diff(&locked(&self.truth), &self.db, life, (&before, &after), &keyspace)
    }

    fn pin(&self, own: &mut Own) -> Outcome {
        match own.dice.below(6) {
            0 | 1 if own.pins.len() < HELD => {
                self.begin(own, "pin");
                let name = format!("pin {}", self.tags.fetch_add(1, Ordering::Relaxed));
                let seqno = self.db.pin(&name).map_err(|error| self.refused("pin", &error))?;
                own.pins.insert(name, seqno.into());
                Ok(())
            }
            0 if !own.pins.is_empty() => {
                self.begin(own, "unpin");
                let name = own.pins.keys().nth(own.dice.below(own.pins.len())).cloned().unwrap_or_default();
                self.db.unpin(&name).map_err(|error| self.refused("unpin", &error))?;
                own.pins.remove(&name);
                Ok(())
            }
            _ => {
                self.begin(own, "read a pin");
                let looked = self.view(own, Sort::Pinned)?;
                looked.map_or(Ok(()), |looked| looked.check_all(&locked(&self.truth), &mut own.dice))
            }
        }
    }

    fn care(&self, own: &mut Own) -> Outcome {
        let drawn = own.dice.below(12);
        let verbs =
            ["verify", "persist", "compact", "compact", "compact a range", "cancel", "rechunk", "rechunk", "flush"];
        let what = verbs[drawn.min(8)];
        self.begin(own, what);
        let done = match what {
            "verify" => {
                let report = self.db.verify().map_err(|error| self.refused(what, &error))?;
                ensure!(report.is_clean(), "{report}");
                Ok(())
            }
            "persist" => self.db.persist(),
            "compact" => self.db.compact().map(drop),
            "compact a range" => {
                let (_, keyspace) = self.life(own, |_| true);
                let (from, to) = (own.dice.below(KEYS), own.dice.below(KEYS));
                match keyspace.compact_range(key(from)..key(to)) {
                    // Somebody dropped it meanwhile.
                    Err(Error::Invalid { what }) if what.contains("was dropped") => Ok(()),
                    done => done.map(drop),
                }
            }
            "rechunk" => {
                let (_, keyspace) = self.life(own, |kind| !kind.strategy.folds());
                let chunking = CUTS[own.dice.below(CUTS.len())];
                let mut steps = own.dice.below(40);
                let told = |_| {
                    steps = steps.wrapping_sub(1);
                    if steps == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                };
                match self.db.rechunk_with(&keyspace, chunking, told) {
                    Err(Error::Cancelled) => Ok(()),
                    Ok(done) => {
                        ensure!(done.left == 0, "{done}");
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            }
            "cancel" => {
                let mut steps = own.dice.below(6);
                let told = |_| match steps.checked_sub(1) {
                    Some(left) => {
                        steps = left;
                        ControlFlow::Continue(())
                    }
                    None => ControlFlow::Break(()),
                };
                match self.db.compact_with(told) {
                    Err(Error::Cancelled) => Ok(()),
                    done => done.map(drop),
                }
            }
            _ => self.db.flush(),
        };
        thread::sleep(Duration::from_millis(own.dice.next() % 20));
        done.map_err(|error| self.refused(what, &error))
    }

    /// Holds chunks and values that no key has, reads them, gives values to keys, and lets go.
    fn hold(&self, own: &mut Own) -> Outcome {
        thread::sleep(Duration::from_micros(own.dice.next() % 2000));
        let chunks = self.db.chunks();
        match own.dice.below(8) {
            0..3 if own.staged.len() + own.leases.len() < 4 * HELD => {
                // Some of it is what keys have, or had a moment ago.
                let (life, keyspace) = self.life(own, |kind| !kind.strategy.folds());
                let there = keyspace.get(key(own.dice.below(KEYS))).map_err(|error| self.refused("get", &error))?;
                let bytes = there.map_or_else(|| self.value(own, &KINDS[life]), |value| value.to_vec());
                if own.dice.one_in(2) && !bytes.is_empty() {
                    self.begin(own, "lease a chunk");
                    let lease = chunks.put(&bytes).map_err(|error| self.refused("lease", &error))?;
                    own.leases.push((lease, bytes));
                } else {
                    self.begin(own, "stage a value");
                    let staged = chunks.put_stream(&*bytes, CUTS[own.dice.below(CUTS.len())]);
                    let staged = staged.map_err(|error| match error.downcast::<Error>() {
                        Ok(error) => self.refused("stage", &error),
                        Err(error) => error.to_string(),
                    })?;
                    own.staged.push((staged, bytes));
                }
                Ok(())
            }
            3 if !own.staged.is_empty() => {
                self.begin(own, "adopt a value");
                let at = own.dice.below(own.staged.len());
                let (staged, bytes) = own.staged.swap_remove(at);
                let (life, keyspace) = self.life(own, |kind| kind.strategy == Strategy::LastWins);
                let number = own.dice.below(KEYS);
                let write = Write { life, keys: (number, number + 1), what: What::Put(bytes) };
                let recipe = staged.recipe().filter(|_| own.dice.one_in(2));
                self.commit(own, &[write], || {
                    if let Some(recipe) = recipe {
                        return keyspace.adopt(key(number), &recipe).map(Some);
                    }
                    let mut batch = self.db.batch();
                    batch.adopt(&keyspace, key(number), staged);
                    batch.commit().map(Some)
                })
            }
            4 => {
                self.begin(own, "let go of chunks");
                own.leases.truncate(own.dice.below(HELD));
                own.staged.truncate(own.dice.below(HELD));
                Ok(())
            }
            _ => {
                self.begin(own, "read held chunks");
                for (lease, bytes) in &own.leases {
                    let read = chunks.get(&lease.id()).map_err(|error| self.refused("a chunk", &error))?;
                    ensure!(read.is_some_and(|read| read == *bytes), "the chunk {} of a lease", lease.id());
                }
                for (staged, bytes) in &own.staged {
                    let mut whole = Vec::new();
                    for (id, len) in staged.recipe().iter().flat_map(chronolith::Recipe::references) {
                        let Some(id) = id else {
                            whole.resize(whole.len() + usize::try_from(len).unwrap_or(0), 0);
                            continue;
                        };
                        let read = chunks.get(&id).map_err(|error| self.refused("a chunk", &error))?;
                        whole.extend_from_slice(&read.ok_or_else(|| format!("the chunk {id} of a staged value"))?);
                    }
                    ensure!(staged.recipe().is_none() || whole == *bytes, "a staged value reads otherwise");
                }
                Ok(())
            }
        }
    }

    /// Copies the database, or what a view sees, opens the copy and compares it.
    fn copy(&self, own: &mut Own) -> Outcome {
        let name = format!("copy {}", self.tags.fetch_add(1, Ordering::Relaxed));
        let path = self.machine.path(&name);
        let from = u64::from(self.db.seqno());
        let sort = [Sort::Present, Sort::Past][own.dice.below(2)];
        let of = if own.dice.one_in(2) { self.view(own, sort)? } else { None };
        self.begin(own, if of.is_some() { "copy a view" } else { "checkpoint" });
        let done = of.as_ref().map_or_else(|| self.db.checkpoint(&path), |of| of.view.checkpoint(&path));
        match done {
            Ok(()) => {}
            Err(Error::HistoryTrimmed { .. }) if sort == Sort::Past && of.is_some() => return Ok(()),
            Err(error) => return Err(self.refused("copy", &error)),
        }
        let options = self.machine.options().memory_budget(4 << 20).mmap(own.dice.one_in(2));
        let copy = options.open(&path).map_err(|error| format!("open the copy: {error}"))?;
        self.wait_for_all();
        let newest = u64::from(copy.seqno());
        ensure!(of.is_some() || newest >= from, "the copy is of {newest}, and {from} was committed before");
        let past = if of.is_some() { Vec::new() } else { vec![newest - own.dice.next() % newest.clamp(1, 300)] };
        check_copy(&locked(&self.truth), &copy, of.as_ref(), &past, &mut own.dice)
            .map_err(|error| format!("a copy of {newest} ({:?}): {error}", of.is_some()))?;
        copy.close().map_err(|error| format!("close the copy: {error}"))?;
        self.machine.remove(&name);
        Ok(())
    }

    /// Changes a policy, or makes a keyspace, writes it, drops it, and reads what a view still sees of it.
    fn keep(&self, own: &mut Own) -> Outcome {
        if own.dice.one_in(3) {
            self.begin(own, "change a policy");
            let keeping =
                [Keeping::LastWriterWins, Keeping::Tombstones, Keeping::Mvcc, Keeping::All][own.dice.below(4)];
            let turning = KINDS.iter().find(|kind| kind.keeping == Keeping::Turning).map_or("", |kind| kind.name);
            let done = self.db.keyspace(turning, KeyspaceOptions::new().policy(keeping.policy()));
            return done.map(drop).map_err(|error| self.refused("change a policy", &error));
        }
        let left = locked(&self.truth).alive(TEMPORARY);
        if let Some(life) = left {
            // The one before was closed in between.
            return self.drop_keyspace(own, life);
        }
        self.begin(own, "make a keyspace");
        let kind = KINDS[own.dice.below(KINDS.len())];
        let strategy = if kind.strategy.is_custom() { Strategy::LastWins } else { kind.strategy };
        let kind = Kind { name: TEMPORARY, strategy, ..kind };
        let before = u64::from(self.db.seqno());
        let life = locked(&self.truth).create(kind, (before, u64::MAX));
        let keyspace = self.db.keyspace(kind.name, kind.options()).map_err(|error| {
            let mut truth = locked(&self.truth);
            (truth.lives[life].born, truth.lives[life].dropped) = ((u64::MAX, u64::MAX), Some((before, before)));
            self.refused("make a keyspace", &error)
        })?;
        locked(&self.truth).lives[life].born.1 = self.db.seqno().into();
        let lived = self.live(own, life, &keyspace);
        self.drop_keyspace(own, life)?;
        let looked = lived?;
        ensure!(keyspace.put("k", b"12345678").is_err(), "what was dropped takes a write");
        looked.check(&locked(&self.truth), life, &keyspace, &mut own.dice).map(drop)
    }

    fn drop_keyspace(&self, own: &Own, life: usize) -> Outcome {
        self.begin(own, "drop a keyspace");
        let before = u64::from(self.db.seqno());
        locked(&self.truth).lives[life].dropped = Some((before, u64::MAX));
        let dropped = self.db.drop_keyspace(TEMPORARY);
        locked(&self.truth).lives[life].dropped = dropped.is_ok().then(|| (before, self.db.seqno().into()));
        dropped.map_err(|error| self.refused("drop", &error))
    }

    /// Writes a keyspace, and gives a view of it.
    fn live(&self, own: &mut Own, life: usize, keyspace: &Keyspace) -> Outcome<Looked> {
        let kind = locked(&self.truth).lives[life].kind;
        for _ in 0..own.dice.below(40) {
            let number = own.dice.below(KEYS);
            let value = self.value(own, &kind);
            let write = Write { life, keys: (number, number + 1), what: What::Put(value.clone()) };
            self.commit(own, &[write], || keyspace.put(key(number), value).map(Some))?;
        }
        let looked = self.view(own, Sort::Present)?;
        looked.ok_or_else(|| CLOSED.to_owned())
    }

    /// What one thread does until the database is closed, or something is wrong.
    fn run(&self, own: &mut Own) {
        let (name, verb) = THREADS[own.who];
        while !self.is_over() {
            match verb(self, own) {
                Ok(()) => {}
                Err(error) if error.contains(CLOSED) && self.closing.load(Ordering::SeqCst) => break,
                Err(error) => {
                    locked(&self.failed).get_or_insert(format!("{name}: {error}"));
                }
            }
        }
        *locked(&self.doing[own.who]) = (String::new(), Instant::now());
    }

    /// Ends the process when a verb hangs.
    fn watch(&self) {
        let doing: Vec<_> = self.doing.iter().map(|doing| locked(doing).clone()).collect();
        if doing.iter().all(|(what, since)| what.is_empty() || since.elapsed() < LONGEST) {
            return;
        }
        for ((name, _), (what, since)) in THREADS.iter().zip(&doing) {
            eprintln!("{name}: {what}, for {:?}", since.elapsed());
        }
        std::process::abort();
    }
}

/// A database and everything that was ever said to it.
struct World {
    machine: Arc<Machine>,
    truth: Arc<Mutex<Truth>>,
    pins: BTreeMap<String, u64>,
    tags: Arc<AtomicU64>,
}

impl World {
    fn new(memory: bool) -> Self {
        let machine = if memory {
            Machine::Memory(Memory::new())
        } else {
            Machine::Disk(tempfile::tempdir().unwrap_or_else(|error| panic!("{error}")))
        };
        Self { machine: Arc::new(machine), truth: Arc::default(), pins: BTreeMap::new(), tags: Arc::default() }
    }

    fn open(&self, dice: &mut Dice) -> Outcome<Round> {
        let options = self.machine.options().memory_budget(4 << 20).l0_threshold(2).mmap(dice.one_in(2));
        let options = options.durability(Durability::Interval(Duration::from_millis(20)));
        let db = options.open(self.machine.path("db")).map_err(|error| format!("open: {error}"))?;
        let mut handles = Vec::new();
        for kind in KINDS {
            let before = u64::from(db.seqno());
            let options = if kind.keeping == Keeping::Turning { KeyspaceOptions::new() } else { kind.options() };
            handles.push(Some(db.keyspace(kind.name, options).map_err(|error| format!("{}: {error}", kind.name))?));
            let mut truth = locked(&self.truth);
            if truth.alive(kind.name).is_none() {
                truth.create(kind, (before, db.seqno().into()));
            }
        }
        Ok(Round {
            machine: Arc::clone(&self.machine),
            db,
            truth: Arc::clone(&self.truth),
            times: Mutex::default(),
            handles: Mutex::new(handles),
            tickets: THREADS.iter().map(|_| AtomicU64::new(0)).collect(),
            doing: THREADS.iter().map(|_| Mutex::new((String::new(), Instant::now()))).collect(),
            counts: Mutex::default(),
            tags: Arc::clone(&self.tags),
            closing: AtomicBool::new(false),
            failed: Mutex::default(),
        })
    }

    /// What was acknowledged before the close is there.
    fn check(&self, round: &Round, dice: &mut Dice) -> Outcome {
        let truth = locked(&self.truth);
        let newest = u64::from(round.db.seqno());
        let opened = (newest, newest);
        Looked::new(round.db.snapshot(), Sort::Present, opened).check_all(&truth, dice)?;
        for (name, seqno) in &self.pins {
            let view = round.db.pinned(name).map_err(|error| format!("{name}: {error}"))?;
            ensure!(u64::from(view.seqno()) == *seqno, "{name} is of {}, and not {seqno}", view.seqno());
            Looked::new(view, Sort::Pinned, opened).check_all(&truth, dice)?;
        }
        Ok(())
    }

    /// Runs all threads until the database is closed in the middle.
    fn round(&mut self, dice: &mut Dice, counts: &mut BTreeMap<String, u64>) -> Outcome {
        let round = self.open(dice)?;
        self.check(&round, dice).map_err(|error| format!("opened: {error}"))?;
        let end = Instant::now() + Duration::from_millis(500 + dice.next() % 2500);
        let closed = thread::scope(|scope| {
            let mut threads = Vec::new();
            for (who, (name, _)) in THREADS.iter().enumerate() {
                let pins = if *name == "pinner" { std::mem::take(&mut self.pins) } else { BTreeMap::new() };
                let (held, staged, leases) = (Vec::new(), Vec::new(), Vec::new());
                let mut own = Own { who, dice: Dice(dice.next()), held, pins, staged, leases };
                let round = &round;
                threads.push(scope.spawn(move || {
                    round.run(&mut own);
                    own.pins
                }));
            }
            while Instant::now() < end && !round.is_over() {
                thread::sleep(Duration::from_millis(20));
                round.watch();
            }
            round.closing.store(true, Ordering::SeqCst);
            let closing = scope.spawn(|| round.db.clone().close());
            while !(closing.is_finished() && threads.iter().all(thread::ScopedJoinHandle::is_finished)) {
                thread::sleep(Duration::from_millis(5));
                round.watch();
                assert!(end.elapsed() < 3 * LONGEST, "close hangs");
            }
            for thread in threads {
                self.pins.append(&mut thread.join().unwrap_or_default());
            }
            closing.join()
        });
        for (what, count) in std::mem::take(&mut *locked(&round.counts)) {
            *counts.entry(what).or_default() += count;
        }
        if let Some(failed) = locked(&round.failed).take() {
            return Err(failed);
        }
        closed.map_err(|_| "close panicked".to_owned())?.map_err(|error| format!("close: {error}"))
    }
}

#[test]
fn whatever_threads_do_at_the_same_moment_is_answered_as_by_the_model() {
    let number = |name: &str| var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("CHRONOLITH_STRESS_SEED").unwrap_or(1);
    let seconds = number("CHRONOLITH_STRESS_SECONDS").unwrap_or(30);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut dice = Dice(seed);
    let mut counts = BTreeMap::new();
    let mut rounds = 0_u64;
    while Instant::now() < end {
        let memory = dice.one_in(2);
        let mut world = World::new(memory);
        for _ in 0..OPENINGS {
            rounds += 1;
            if let Err(error) = world.round(&mut dice, &mut counts) {
                panic!("seed {seed}, round {rounds}, {}: {error}", if memory { "in memory" } else { "on a disk" });
            }
        }
    }
    eprintln!("{rounds} rounds: {counts:?}");
    let seldom: Vec<_> = counts.iter().filter(|(_, count)| **count < 3).collect();
    assert!(seconds < 20 || counts.len() >= 25 && seldom.is_empty(), "only {} verbs, seldom {seldom:?}", counts.len());
}
