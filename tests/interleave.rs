//! Two verbs at the same moment, on one thread: the engine names the points between two of its steps, and there
//! another verb is run, as another thread would have run it. What is drawn follows from a seed, so a failure is
//! replayed; the model is exact.
//!
//! ```text
//!   compact ── list ──•── files ── … ── written ──•── installed          • a named point
//!                     └─ pin · put · flush        └─ a view, a copy
//! ```
//!
//! | variable | means |
//! | --- | --- |
//! | `CHRONOLITH_INTERLEAVE_SEEDS` | how many seeds; by default 3000 |
//! | `CHRONOLITH_INTERLEAVE_SEED` | the one seed to run |
//! | `CHRONOLITH_INTERLEAVE_HUNT` | with any value: tells every seed that fails in one line |
//! | `CHRONOLITH_INTERLEAVE_LIKE` | words that a failure must have to count: which fault is looked for |

#![expect(clippy::indexing_slicing, clippy::print_stderr, reason = "a test fails by panicking")]

mod truth;

use std::{
    collections::BTreeMap,
    env::var,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use chronolith::{
    ChunkId, Chunking, Db, Durability, Error, Keyspace, KeyspaceOptions, Lease, Options, Receipt, StagedValue,
    env::{Background, Dir, Env, Sim},
};
use truth::{
    Dice, KINDS, Keeping, Kind, Looked, Outcome, Sort, Strategy, Truth, What, Write, bump, check_copy, check_diff,
    ensure, give_strategies, key, micros,
};

/// Few keys, so that verbs meet.
const KEYS: usize = 5;

/// Where the one is whose policy changes.
const TURNING: usize = 6;

const PINS: [&str; 3] = ["p", "q", "r"];

/// Verbs of one seed.
const VERBS: usize = 24;

/// Others that a wide batch deletes, each with a name of so many bytes: two such batches are more than the 16 MiB of
/// recent ones that are kept.
const WIDE: (u64, usize) = (2100, 4096);

/// Somebody closed the database before the verb began.
const CLOSED: &str = "it is closed";

/// A simulated machine that runs no background step on its own while it is at a point, and is silent while the test
/// compares.
#[derive(Clone, Debug)]
struct Staged {
    sim: Sim,
    inside: Arc<AtomicBool>,
    silent: Arc<AtomicBool>,
}

impl Env for Staged {
    fn open_dir(&self, path: &Path, create: bool) -> io::Result<Arc<dyn Dir>> {
        self.sim.open_dir(path, create)
    }

    fn wall_us(&self) -> u64 {
        self.sim.wall_us()
    }

    fn monotonic_us(&self) -> u64 {
        self.sim.monotonic_us()
    }

    fn entropy(&self) -> u64 {
        self.sim.entropy()
    }

    fn background(&self) -> Background {
        Background::Caller
    }

    fn draw(&self, below: u32) -> u32 {
        // The verb that is at the point may hold what the step would wait for.
        if self.inside.load(Ordering::Relaxed) { below.saturating_sub(1) } else { self.sim.draw(below) }
    }

    fn pass(&self, point: &'static str) {
        if !self.silent.load(Ordering::Relaxed) {
            self.sim.pass(point);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verb {
    Say,
    Batch,
    Update,
    Swap,
    Insert,
    DeleteRange,
    Wide,
    Pin,
    Unpin,
    Flush,
    Compact,
    Persist,
    Snapshot,
    AsOf,
    LetGo,
    Look,
    LookAtPin,
    History,
    Diff,
    Checkpoint,
    CopyView,
    Create,
    Drop,
    Configure,
    Wait,
    HoldChunks,
    Adopt,
    Rechunk,
    Close,
    Verify,
}

use Verb::{
    Adopt, AsOf, Batch, Checkpoint, Close, Compact, Configure, CopyView, Create, DeleteRange, Diff, Drop, Flush,
    History, HoldChunks, Insert, LetGo, Look, LookAtPin, Persist, Pin, Rechunk, Say, Snapshot, Swap, Unpin, Update,
    Verify, Wait, Wide,
};

/// How often each is drawn.
const OFTEN: [(Verb, usize); 28] = [
    (Say, 26),
    (Batch, 6),
    (Update, 6),
    (Swap, 4),
    (Insert, 3),
    (DeleteRange, 3),
    (Pin, 6),
    (Unpin, 4),
    (Flush, 10),
    (Compact, 8),
    (Persist, 2),
    (Snapshot, 4),
    (AsOf, 3),
    (LetGo, 4),
    (Look, 6),
    (LookAtPin, 3),
    (History, 2),
    (Diff, 2),
    (Checkpoint, 3),
    (CopyView, 3),
    (Create, 4),
    (Drop, 2),
    (Configure, 2),
    (Wait, 3),
    (HoldChunks, 4),
    (Adopt, 3),
    (Rechunk, 2),
    (Close, 1),
];

/// What belongs together more often than chance would have it.
const TOGETHER: [&[Verb]; 7] = [
    &[Pin, Say, Flush],
    &[Say, Pin, Say, Flush],
    &[Say, Pin],
    &[Say, Pin, Say],
    &[Wait, Compact],
    &[Drop, Create, Say],
    &[HoldChunks, Adopt],
];

/// How values are cut anew.
const CUTS: [Chunking; 3] = [Chunking::content_defined(1024), Chunking::fixed(512), Chunking::fixed(4096)];

/// Whether a verb can run at a point without waiting for the one that is there: the table of docs/testing.md.
fn may_run(verb: Verb, point: &str) -> bool {
    match point.split(':').next() {
        Some("flush" | "collect under the right to flush") => {
            !matches!(verb, Flush | Compact | Rechunk | Checkpoint | Close)
        }
        Some("collect" | "compact" | "compact past") => !matches!(verb, Compact | Rechunk | Close),
        Some("sync") => verb != Persist,
        _ => true,
    }
}

/// A commit that has been asked for and has not answered.
struct Pending {
    writes: Vec<Write>,
    /// The newest seqno when it was asked for, and the newest that is not its own.
    start: u64,
    before: u64,
    /// Its seqno, if it was found applied at a point.
    noted: Option<u64>,
}

struct World {
    dice: Dice,
    env: Staged,
    db: Option<Db>,
    closing: bool,
    kinds: Vec<Kind>,
    truth: Truth,
    /// By life.
    handles: Vec<Option<Keyspace>>,
    pins: BTreeMap<&'static str, u64>,
    held: Vec<Looked>,
    /// Values and chunks that no key has, with their bytes.
    staged: Vec<(StagedValue, Vec<u8>)>,
    leases: Vec<(Lease, Vec<u8>)>,
    pending: Vec<Pending>,
    /// A view of a pin is registered under the lock of the manifest.
    opening_a_pin: bool,
    outer: Verb,
    /// The key that the verb outside is about.
    at: (usize, usize),
    l0: usize,
    /// How many flushes there were when nothing was left in level 0.
    flushes: i64,
    copies: usize,
    tag: u64,
    script: Vec<String>,
    failed: Option<String>,
    passed: BTreeMap<&'static str, u64>,
    verbs: BTreeMap<Verb, u64>,
}

/// The world, while no verb runs.
#[derive(Clone)]
struct Stage(Arc<Mutex<World>>);

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let env = Staged { sim: Sim::new(seed), inside: Arc::default(), silent: Arc::default() };
        let mut kinds = vec![KINDS[0]];
        for _ in 0..3 {
            kinds.push(KINDS[1 + dice.below(KINDS.len() - 1)]);
        }
        kinds.dedup_by_key(|kind| kind.name);
        let l0 = if dice.one_in(2) { 2 } else { 100 };
        Self {
            dice,
            env,
            db: None,
            closing: false,
            kinds,
            truth: Truth::default(),
            handles: Vec::new(),
            pins: BTreeMap::new(),
            held: Vec::new(),
            staged: Vec::new(),
            leases: Vec::new(),
            pending: Vec::new(),
            opening_a_pin: false,
            outer: Say,
            at: (0, 0),
            l0,
            flushes: 0,
            copies: 0,
            tag: 0,
            script: Vec::new(),
            failed: None,
            passed: BTreeMap::new(),
            verbs: BTreeMap::new(),
        }
    }

    fn options(&mut self) -> Options {
        let options = Options::new().env(self.env.clone()).memory_budget(4 << 20).l0_threshold(self.l0);
        options.durability(Durability::Buffered).mmap(self.dice.one_in(2))
    }

    fn say(&mut self, words: impl Into<String>) {
        let inside = if self.env.inside.load(Ordering::Relaxed) { "      " } else { "" };
        self.script.push(format!("{inside}{}", words.into()));
    }

    fn seqno(&self) -> u64 {
        self.db.as_ref().map_or(0, |db| db.seqno().into())
    }

    /// Whether an error is that of a database that is being closed.
    fn ended(&self, error: &Error) -> bool {
        (self.closing || self.db.is_none()) && matches!(error, Error::Closed)
    }

    /// A life that can be written, whose strategy is one of these.
    fn life(&mut self, which: impl Fn(&Kind) -> bool) -> Option<(usize, Keyspace)> {
        let lives = self.truth.lives.iter().enumerate();
        let alive: Vec<usize> =
            lives.filter(|(_, life)| life.dropped.is_none() && which(&life.kind)).map(|(at, _)| at).collect();
        let drawn = *alive.get(self.dice.below(alive.len()))?;
        let again = alive.contains(&self.at.0) && self.dice.one_in(2);
        let at = if again { self.at.0 } else { drawn };
        Some((at, self.handles[at].clone()?))
    }

    /// Takes a keyspace that was found, or made a moment ago.
    fn opened(&mut self, kind: Kind, keyspace: Keyspace) {
        let seqno = self.seqno();
        if self.truth.alive(kind.name).is_none() && self.db.is_some() {
            self.truth.create(kind, (seqno.saturating_sub(1), seqno));
            self.handles.push(None);
        }
        if let Some(life) = self.truth.alive(kind.name) {
            self.handles[life] = Some(keyspace);
        }
    }

    /// A key: more often than not that of the verb outside.
    fn key(&mut self, life: usize) -> usize {
        if life == self.at.0 && !self.dice.one_in(3) { self.at.1 } else { self.dice.below(KEYS) }
    }

    fn value(&mut self, life: usize) -> Vec<u8> {
        self.tag += 1;
        let len = if self.dice.one_in(4) { 600 + self.dice.below(2500) } else { 0 };
        self.truth.lives[life].kind.value(self.tag, len)
    }

    fn what(&mut self, life: usize) -> What {
        match self.dice.below(5) {
            0 => What::Delete,
            1 | 2 => What::Merge(self.value(life)),
            _ => What::Put(self.value(life)),
        }
    }

    /// Compares under the lock: nothing else runs meanwhile.
    fn compare<T>(&mut self, run: impl FnOnce(&Truth, &mut Dice) -> Outcome<T>) -> Outcome<T> {
        let silent = self.env.silent.swap(true, Ordering::Relaxed);
        let done = run(&self.truth, &mut self.dice);
        self.env.silent.store(silent, Ordering::Relaxed);
        done
    }

    /// Whether a commit here would have to wait for background work that cannot run.
    fn is_crowded(&self) -> bool {
        let Some(stats) = self.db.as_ref().map(Db::stats) else { return true };
        stats.sealed_memtables > 1 || signed(stats.flushes) + 1 - self.flushes >= 3 * signed(self.l0)
    }
}

fn signed(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

impl Stage {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn db(&self) -> Outcome<Db> {
        self.world().db.clone().ok_or_else(|| CLOSED.to_owned())
    }

    fn open(&self) -> Outcome {
        let options = self.world().options();
        let db = options.open("db").map_err(|error| format!("open: {error}"))?;
        let mut world = self.world();
        world.db = Some(db.clone());
        world.closing = false;
        let silent = world.env.silent.swap(true, Ordering::Relaxed);
        for (at, life) in world.truth.lives.clone().iter().enumerate().filter(|(_, life)| life.dropped.is_none()) {
            let options = life.kind.options();
            let options = if life.kind.keeping == Keeping::Turning { KeyspaceOptions::new() } else { options };
            let opened = db.keyspace(life.kind.name, options);
            world.handles[at] = Some(opened.map_err(|error| format!("open {}: {error}", life.kind.name))?);
        }
        give_strategies(&db)?;
        world.env.silent.store(silent, Ordering::Relaxed);
        Ok(())
    }

    /// Runs a verb at a point of another.
    fn at_point(&self, point: &'static str) {
        let mut world = self.world();
        *world.passed.entry(point).or_default() += 1;
        let seqno = world.seqno();
        if world.db.is_none() || world.failed.is_some() || point.starts_with("view:") && world.opening_a_pin {
            return;
        }
        if let Some(pending) = world.pending.last_mut()
            && pending.noted.is_none()
            && seqno > pending.before
        {
            pending.noted = Some(seqno);
            let (writes, time) = (pending.writes.clone(), world.env.wall_us());
            world.truth.note(seqno, time, &writes);
        }
        let rarely = if point.starts_with("commit") || point.starts_with("view:") { 9 } else { 3 };
        if !world.dice.one_in(rarely) {
            return;
        }
        let verbs = world.draw_at(point);
        world.say(format!("  at \"{point}\""));
        world.env.inside.store(true, Ordering::Relaxed);
        drop(world);
        let done =
            verbs.into_iter().try_for_each(|verb| if self.world().db.is_none() { Ok(()) } else { self.run(verb) });
        let mut world = self.world();
        world.env.inside.store(false, Ordering::Relaxed);
        let seqno = world.seqno();
        if let Some(pending) = world.pending.last_mut() {
            pending.before = seqno;
        }
        world.failed = done.err();
    }
}

impl World {
    /// What runs at a point.
    fn draw_at(&mut self, point: &str) -> Vec<Verb> {
        let decided = matches!(self.outer, Update | Swap | Insert) && point == "commit: read, then applied";
        let drawn = if decided && self.dice.one_in(40) {
            vec![Wide]
        } else if self.dice.one_in(2) {
            TOGETHER[self.dice.below(TOGETHER.len())].to_vec()
        } else {
            (0..=self.dice.below(3)).map(|_| self.draw()).collect()
        };
        let closing = self.closing;
        drawn.into_iter().filter(|verb| may_run(*verb, point) && !(closing && *verb == Close)).collect()
    }

    fn draw(&mut self) -> Verb {
        let mut left = self.dice.below(OFTEN.iter().map(|(_, often)| often).sum());
        for (verb, often) in OFTEN {
            if left < often {
                return verb;
            }
            left -= often;
        }
        Verify
    }
}

impl Stage {
    fn run(&self, verb: Verb) -> Outcome {
        {
            let mut world = self.world();
            *world.verbs.entry(verb).or_default() += 1;
            if matches!(verb, Say | Batch | Update | Swap | Insert | DeleteRange | Wide)
                && world.env.inside.load(Ordering::Relaxed)
                && world.is_crowded()
            {
                return Ok(());
            }
        }
        let done = match verb {
            Say => self.say(),
            Batch => self.batch(),
            Update => self.update(),
            Swap => self.swap(false),
            Insert => self.swap(true),
            DeleteRange => self.delete_range(),
            Wide => self.wide(),
            Pin => self.pin(),
            Unpin => self.unpin(),
            Flush => self.care("flush", Db::flush),
            Compact => self.compact(),
            Persist => self.care("persist", Db::persist),
            Snapshot | AsOf => self.hold(verb),
            LetGo => {
                self.let_go();
                Ok(())
            }
            Look => self.look(),
            LookAtPin => self.look_at_pin(),
            History => self.history(),
            Diff => self.diff(),
            Checkpoint => self.checkpoint(),
            CopyView => self.copy_view(),
            Create => self.create(),
            Drop => self.drop_keyspace(),
            Configure => self.configure(),
            Wait => {
                self.wait();
                Ok(())
            }
            HoldChunks => self.hold_chunks(),
            Adopt => self.adopt(),
            Rechunk => self.rechunk(),
            Close => self.close(),
            Verify => self.verify(),
        };
        done.or_else(|error| if error == CLOSED { Ok(()) } else { Err(error) })
    }

    /// Commits what was drawn, and takes the answer.
    fn commit(
        &self,
        writes: Vec<Write>,
        words: String,
        call: impl FnOnce() -> chronolith::Result<Option<Receipt>>,
    ) -> Outcome {
        {
            let mut world = self.world();
            let start = world.seqno();
            world.say(words);
            if let Some(first) = writes.first() {
                world.at = (first.life, first.keys.0);
            }
            world.pending.push(Pending { writes, start, before: start, noted: None });
        }
        let got = call();
        let mut world = self.world();
        let pending = world.pending.pop().ok_or("nothing was pending")?;
        let words = match &got {
            Ok(Some(receipt)) => format!("  = {}", receipt.seqno),
            Ok(None) => "  = not there".to_owned(),
            Err(error) => format!("  = {error}"),
        };
        world.say(words);
        world.settle(pending, got)
    }
}

impl World {
    fn settle(&mut self, pending: Pending, got: chronolith::Result<Option<Receipt>>) -> Outcome {
        let Pending { writes, start, noted, .. } = pending;
        let span = (start, self.seqno().max(start));
        let receipt = match got {
            Ok(Some(receipt)) | Err(Error::NotDurable { receipt }) => receipt,
            Ok(None) => {
                ensure!(noted.is_none(), "a swap that was applied answers that it was not");
                let Some(Write { life, keys, what: What::Swap(expected, _) }) = writes.first() else { return Ok(()) };
                let differs = |is: Option<&[u8]>| is != expected.as_deref();
                ensure!(
                    self.truth.lives[*life].ever(keys.0, span, 0, differs),
                    "a swap is refused, and what it expects was there"
                );
                return Ok(());
            }
            Err(error) => {
                ensure!(noted.is_none(), "a commit that was applied as {noted:?} answers {error}");
                let dropped = writes.iter().any(|write| self.truth.lives[write.life].dropped.is_some());
                let twice = |write: &Write| {
                    let life = &self.truth.lives[write.life];
                    life.kind.strategy == Strategy::ErrorOnDuplicate
                        && life.ever(write.keys.0, span, 0, |is| is.is_some())
                };
                let allowed = match error {
                    Error::Duplicate { .. } => writes.iter().any(twice),
                    Error::Invalid { .. } => dropped,
                    ref error => self.ended(error),
                };
                ensure!(allowed, "a commit answers {error}");
                return Ok(());
            }
        };
        let seqno = u64::from(receipt.seqno);
        if let Some(Write { life, keys, what: What::Swap(expected, _) }) = writes.first() {
            let before = self.truth.lives[*life].at(keys.0, seqno - 1, 0);
            ensure!(before == *expected, "swap {seqno} of {expected:?} was done, and it was {before:?}");
        }
        let seqno = u64::from(receipt.seqno);
        match noted {
            Some(noted) => ensure!(noted == seqno, "a commit was applied as {noted}, and answers {seqno}"),
            None => self.truth.note(seqno, micros(receipt.time), &writes),
        }
        Ok(())
    }
}

impl Stage {
    fn say(&self) -> Outcome {
        let (keyspace, write) = {
            let mut world = self.world();
            let Some((life, keyspace)) = world.life(|_| true) else { return Ok(()) };
            let number = world.key(life);
            let what = world.what(life);
            (keyspace, Write { life, keys: (number, number + 1), what })
        };
        let words = format!("{} k{:03}: {:?}", keyspace.name(), write.keys.0, write.what);
        let name = key(write.keys.0);
        let what = write.what.clone();
        self.commit(vec![write], words, || match what {
            What::Put(value) => keyspace.put(name, value).map(Some),
            What::Merge(value) => keyspace.merge(name, value).map(Some),
            _ => keyspace.delete(name).map(Some),
        })
    }

    fn batch(&self) -> Outcome {
        let db = self.db()?;
        let mut batch = db.batch();
        let (mut writes, mut keyspaces): (Vec<Write>, Vec<Keyspace>) = Default::default();
        let durability = {
            let mut world = self.world();
            for _ in 0..=world.dice.below(5) {
                let Some((life, keyspace)) = world.life(|_| true) else { return Ok(()) };
                let number = world.key(life);
                let what = world.what(life);
                if writes.iter().any(|write| (write.life, write.keys.0) == (life, number)) {
                    continue;
                }
                writes.push(Write { life, keys: (number, number + 1), what });
                keyspaces.push(keyspace);
            }
            let sync = !world.env.inside.load(Ordering::Relaxed) && world.dice.one_in(2);
            if sync { Durability::Sync } else { Durability::Buffered }
        };
        // A large value is stored here, and points are passed.
        for (Write { keys: (number, _), what, .. }, keyspace) in writes.iter().zip(&keyspaces) {
            match what {
                What::Put(value) => batch.put(keyspace, key(*number), value),
                What::Merge(value) => batch.merge(keyspace, key(*number), value),
                _ => batch.delete(keyspace, key(*number)),
            }
        }
        let words = format!("batch, {durability:?}: {writes:?}");
        self.commit(writes, words, || batch.commit_with(durability).map(Some))
    }

    fn update(&self) -> Outcome {
        let (keyspace, life, number, tag) = {
            let mut world = self.world();
            let Some((life, keyspace)) = world.life(|kind| kind.strategy == Strategy::LastWins) else { return Ok(()) };
            world.tag += 1;
            let number = world.key(life);
            (keyspace, life, number, world.tag)
        };
        let words = format!("update {} k{number:03} with {tag}", keyspace.name());
        let write = Write { life, keys: (number, number + 1), what: What::Bump(tag) };
        self.commit(vec![write], words, || keyspace.update(key(number), |old| Some(bump(old, tag))).map(Some))
    }

    /// A swap of what is there, or of what is not; or of nothing.
    fn swap(&self, insert: bool) -> Outcome {
        let (keyspace, life, number, expected, value) = {
            let mut world = self.world();
            let which = |kind: &Kind| {
                let decides = kind.strategy.decides();
                kind.strategy == Strategy::LastWins || insert && decides
            };
            let Some((life, keyspace)) = world.life(which) else { return Ok(()) };
            let number = world.key(life);
            let seqno = world.seqno();
            let mut expected = world.truth.lives[life].at(number, seqno, 0).filter(|_| !insert);
            if !insert && world.dice.one_in(4) {
                expected = Some(b"never".to_vec());
            }
            let value = world.value(life);
            (keyspace, life, number, expected, value)
        };
        let words = format!("swap {} k{number:03} from {expected:?} to {value:?}", keyspace.name());
        let what = What::Swap(expected.clone(), value.clone());
        let write = Write { life, keys: (number, number + 1), what };
        self.commit(vec![write], words, || keyspace.compare_and_swap(key(number), expected, Some(value)))
    }

    fn delete_range(&self) -> Outcome {
        let (keyspace, life, from, to) = {
            let mut world = self.world();
            let Some((life, keyspace)) = world.life(|_| true) else { return Ok(()) };
            let from = world.dice.below(KEYS);
            let to = from + 1 + world.dice.below(KEYS - from);
            (keyspace, life, from, to)
        };
        let words = format!("delete {} k{from:03}..k{to:03}", keyspace.name());
        let write = Write { life, keys: (from, to), what: What::Delete };
        self.commit(vec![write], words, || keyspace.delete_range(key(from)..key(to)).map(Some))
    }

    /// Two batches so wide that the memory of recent writes lets go of the first: that writes the key outside, and
    /// both delete very many others.
    fn wide(&self) -> Outcome {
        let db = self.db()?;
        let (write, keyspace, name, value) = {
            let mut world = self.world();
            let (life, number) = world.at;
            let Some(keyspace) = world.handles[life].clone() else { return Ok(()) };
            let value = world.value(life);
            let write = Write { life, keys: (number, number + 1), what: What::Put(value.clone()) };
            (write, keyspace, key(number), value)
        };
        let (mut first, mut second) = (db.batch(), db.batch());
        first.put(&keyspace, name, value);
        for batch in [&mut first, &mut second] {
            for other in 0..WIDE.0 {
                let mut name = [b"z", &other.to_be_bytes()[..]].concat();
                name.resize(WIDE.1, b'.');
                batch.delete(&keyspace, name);
            }
        }
        self.commit(vec![write.clone()], format!("a wide batch with {write:?}"), || first.commit().map(Some))?;
        self.commit(Vec::new(), "a wide batch".to_owned(), || second.commit().map(Some))
    }

    /// A verb that answers nothing.
    fn care(&self, words: &str, call: impl FnOnce(&Db) -> chronolith::Result<()>) -> Outcome {
        let db = self.db()?;
        self.world().say(words);
        let done = call(&db);
        let world = self.world();
        done.or_else(|error| if world.ended(&error) { Ok(()) } else { Err(format!("{words}: {error}")) })
    }

    fn compact(&self) -> Outcome {
        let flushes = signed(self.db()?.stats().flushes);
        self.care("compact", |db| db.compact().map(drop))?;
        let mut world = self.world();
        if world.db.is_some() {
            world.flushes = flushes;
        }
        Ok(())
    }

    /// Stores a chunk or a value that no key has; what keys have, more often than not.
    fn hold_chunks(&self) -> Outcome {
        let db = self.db()?;
        let (bytes, cut, is_lease) = {
            let mut world = self.world();
            let Some((life, _)) = world.life(|kind| !kind.strategy.folds()) else { return Ok(()) };
            world.tag -= u64::from(world.tag > 0 && world.dice.one_in(2));
            let (bytes, cut) = (world.value(life), CUTS[world.dice.below(CUTS.len())]);
            let is_lease = world.dice.one_in(2);
            world.say(if is_lease { "lease a chunk" } else { "stage a value" });
            (bytes, cut, is_lease)
        };
        let error = if is_lease {
            match db.chunks().put(&bytes) {
                Ok(lease) => {
                    self.world().leases.push((lease, bytes));
                    return Ok(());
                }
                Err(error) => error,
            }
        } else {
            match db.chunks().put_stream(&*bytes, cut) {
                Ok(staged) => {
                    self.world().staged.push((staged, bytes));
                    return Ok(());
                }
                Err(error) => error.downcast().map_err(|error| error.to_string())?,
            }
        };
        if self.world().ended(&error) { Ok(()) } else { Err(format!("hold chunks: {error}")) }
    }

    /// Gives a value that is held to a key, and lets go of some chunks.
    fn adopt(&self) -> Outcome {
        let db = self.db()?;
        let (life, keyspace, number, staged, bytes) = {
            let mut world = self.world();
            let (left, gone) = (world.dice.below(4), world.leases.len());
            let gone = world.leases.split_off(left.min(gone));
            let count = world.staged.len();
            let at = world.dice.below(count);
            let taken = if count > 0 { Some(world.staged.swap_remove(at)) } else { None };
            let of = world.life(|kind| kind.strategy == Strategy::LastWins);
            drop(world);
            drop(gone);
            let (Some((staged, bytes)), Some((life, keyspace))) = (taken, of) else { return Ok(()) };
            let number = self.world().key(life);
            (life, keyspace, number, staged, bytes)
        };
        let recipe = staged.recipe().filter(|_| number % 2 == 0);
        let write = Write { life, keys: (number, number + 1), what: What::Put(bytes) };
        let words = format!("{} adopts k{number:03}: {write:?}", keyspace.name());
        self.commit(vec![write], words, || {
            let Some(recipe) = recipe else {
                let mut batch = db.batch();
                batch.adopt(&keyspace, key(number), staged);
                return batch.commit().map(Some);
            };
            keyspace.adopt(key(number), &recipe).map(Some)
        })
    }

    /// Everything that is held can be read by its ids.
    fn read_held_chunks(&self) -> Outcome {
        let db = self.db()?;
        let world = self.world();
        let silent = world.env.silent.swap(true, Ordering::Relaxed);
        let read = |id: &ChunkId| match db.chunks().get(id) {
            Ok(Some(bytes)) => Ok(bytes),
            other => Err(format!("the chunk {id} is held, and {other:?}")),
        };
        let done = (|| {
            for (lease, bytes) in &world.leases {
                ensure!(read(&lease.id())? == *bytes, "a lease reads otherwise");
            }
            for (staged, bytes) in &world.staged {
                let mut whole = Vec::new();
                for (id, _) in staged.recipe().iter().flat_map(chronolith::Recipe::references) {
                    if let Some(id) = id {
                        whole.extend_from_slice(&read(&id)?);
                    }
                }
                ensure!(staged.recipe().is_none() || whole == *bytes, "a staged value reads otherwise");
            }
            Ok(())
        })();
        world.env.silent.store(silent, Ordering::Relaxed);
        done
    }

    fn rechunk(&self) -> Outcome {
        let db = self.db()?;
        let (keyspace, chunking) = {
            let mut world = self.world();
            let Some((_, keyspace)) = world.life(|kind| !kind.strategy.folds()) else { return Ok(()) };
            let chunking = CUTS[world.dice.below(CUTS.len())];
            world.say(format!("{} is cut anew by {chunking}", keyspace.name()));
            (keyspace, chunking)
        };
        let done = db.rechunk(&keyspace, chunking);
        let world = self.world();
        match done {
            Ok(report) => ensure!(report.left == 0, "{report}"),
            // Dropped at a point of this, or this is a point of another one.
            Err(Error::Invalid { ref what }) if what.contains("was dropped") || what.contains("anew already") => {}
            Err(error) => ensure!(world.ended(&error), "rechunk: {error}"),
        }
        Ok(())
    }

    fn verify(&self) -> Outcome {
        let db = self.db()?;
        let report = db.verify().map_err(|error| format!("verify: {error}"))?;
        ensure!(report.is_clean(), "{report}");
        Ok(())
    }

    fn wait(&self) {
        let mut world = self.world();
        world.say("time passes");
        let then = world.env.sim.now() + Duration::from_secs(5);
        world.env.sim.set_time(then);
    }

    fn pin(&self) -> Outcome {
        let db = self.db()?;
        let name = {
            let mut world = self.world();
            let name = PINS[world.dice.below(PINS.len())];
            world.say(format!("pin {name}"));
            name
        };
        let pinned = db.pin(name);
        let mut world = self.world();
        match pinned {
            Ok(seqno) => {
                ensure!(!world.pins.contains_key(name), "pin {name} is there, and is pinned anew");
                world.say(format!("  = {seqno}"));
                world.pins.insert(name, seqno.into());
            }
            Err(Error::Invalid { .. }) => ensure!(world.pins.contains_key(name), "pin {name} is refused"),
            Err(error) => ensure!(world.ended(&error), "pin {name}: {error}"),
        }
        Ok(())
    }

    fn unpin(&self) -> Outcome {
        let db = self.db()?;
        let Some(name) = self.world().pins.keys().next().copied() else { return Ok(()) };
        self.world().say(format!("unpin {name}"));
        let done = db.unpin(name);
        let mut world = self.world();
        match done {
            Ok(()) => drop(world.pins.remove(name)),
            Err(error) => ensure!(world.ended(&error), "unpin {name}: {error}"),
        }
        Ok(())
    }

    /// A view: of the present, of a moment, of a pin.
    fn view(&self, sort: Sort) -> Outcome<Option<Looked>> {
        let db = self.db()?;
        let (seqno, pin, before) = {
            let mut world = self.world();
            let newest = world.seqno();
            let seqno = newest.saturating_sub(world.dice.below(12) as u64);
            let pins: Vec<&str> = world.pins.keys().copied().collect();
            let pin = pins.get(world.dice.below(pins.len())).copied();
            world.opening_a_pin = sort == Sort::Pinned;
            (seqno, pin, newest)
        };
        let view = match (sort, pin) {
            (Sort::Present, _) => Some(Ok(db.snapshot())),
            (Sort::Past, _) => Some(db.as_of(seqno)),
            (Sort::Pinned, Some(pin)) => Some(db.pinned(pin)),
            (Sort::Pinned, None) => None,
        };
        let mut world = self.world();
        world.opening_a_pin = false;
        let view = match view {
            None => return Ok(None),
            Some(Ok(view)) => view,
            Some(Err(error)) => {
                ensure!(world.ended(&error), "a view ({sort:?}): {error}");
                return Ok(None);
            }
        };
        if world.db.is_none() {
            return Ok(None);
        }
        let at = u64::from(view.seqno());
        let wanted = match (sort, pin) {
            (Sort::Present, _) => at,
            (Sort::Past, _) => seqno,
            (Sort::Pinned, pin) => pin.and_then(|pin| world.pins.get(pin).copied()).unwrap_or(0),
        };
        ensure!(at == wanted, "a view ({sort:?}) is of {at}, and not of {wanted}");
        let opened = if sort == Sort::Present { (at, at) } else { (before, world.seqno()) };
        Ok(Some(Looked::new(view, sort, opened)))
    }

    fn hold(&self, verb: Verb) -> Outcome {
        let sort = if verb == Snapshot { Sort::Present } else { Sort::Past };
        let Some(looked) = self.view(sort)? else { return Ok(()) };
        let mut world = self.world();
        world.say(format!("hold a view ({sort:?}) of {}", looked.seqno()));
        world.held.push(looked);
        Ok(())
    }

    fn let_go(&self) {
        let mut world = self.world();
        let count = world.held.len();
        if count > 0 {
            let at = world.dice.below(count);
            let gone = world.held.swap_remove(at);
            world.say(format!("let the view of {} go", gone.seqno()));
            drop(world);
            drop(gone);
        }
    }

    /// A view that is held, or a new one.
    fn any_view(&self) -> Outcome<Option<Looked>> {
        let (held, sort) = {
            let mut world = self.world();
            let count = world.held.len();
            let at = world.dice.below(count * 2 + 1);
            let sort = [Sort::Present, Sort::Past, Sort::Pinned][world.dice.below(3)];
            (world.held.get(at).cloned(), sort)
        };
        held.map_or_else(|| self.view(sort), |held| Ok(Some(held)))
    }

    fn look(&self) -> Outcome {
        self.read_held_chunks()?;
        let Some(looked) = self.any_view()? else { return Ok(()) };
        let mut world = self.world();
        world.say(format!("read as of {} ({:?})", looked.seqno(), looked.sort));
        world.compare(|truth, dice| looked.check_all(truth, dice))
    }

    fn look_at_pin(&self) -> Outcome {
        let Some(looked) = self.view(Sort::Pinned)? else { return Ok(()) };
        let mut world = self.world();
        world.say(format!("read the pin of {}", looked.seqno()));
        world.compare(|truth, dice| looked.check_all(truth, dice))
    }

    fn history(&self) -> Outcome {
        let Some(looked) = self.any_view()? else { return Ok(()) };
        let mut world = self.world();
        world.say(format!("histories as of {}", looked.seqno()));
        world.compare(|truth, _| {
            for (at, life) in truth.lives.iter().enumerate().filter(|(_, life)| looked.reads(life) == Some(true)) {
                if life.kind.strategy.is_custom() && life.dropped.is_some() {
                    continue;
                }
                let keyspace = looked.view.keyspace(life.kind.name).map_err(|error| error.to_string())?;
                (0..KEYS).try_for_each(|number| looked.check_history(truth, at, &keyspace, number))?;
            }
            Ok(())
        })
    }

    fn diff(&self) -> Outcome {
        let db = self.db()?;
        let (Some(a), Some(b)) = (self.any_view()?, self.any_view()?) else { return Ok(()) };
        let mut world = self.world();
        let Some((at, keyspace)) = world.life(|_| true).filter(|_| world.db.is_some()) else { return Ok(()) };
        let life = &world.truth.lives[at];
        if a.reads(life).is_none() || b.reads(life).is_none() {
            return Ok(());
        }
        world.say(format!("difference of {} between {} and {}", keyspace.name(), a.seqno(), b.seqno()));
        world.compare(|truth, _| check_diff(truth, &db, at, (&a, &b), &keyspace))
    }

    /// A new directory for a copy.
    fn directory(&self, words: &str) -> PathBuf {
        let mut world = self.world();
        world.copies += 1;
        world.say(words);
        PathBuf::from(format!("copy-{}", world.copies))
    }

    /// Opens a copy, compares it, and takes it away.
    fn read_copy(&self, path: &Path, of: Option<&Looked>, from: u64) -> Outcome {
        let mut world = self.world();
        let env = Staged { silent: Arc::new(AtomicBool::new(true)), ..world.env.clone() };
        let options = world.options().env(env);
        let pins = world.pins.clone();
        world.compare(|truth, dice| {
            let copy = options.open(path).map_err(|error| format!("open the copy: {error}"))?;
            let newest = u64::from(copy.seqno());
            ensure!(newest >= from, "the copy is of {newest}, and {from} was committed before");
            let past: Vec<u64> = (0..3).map(|_| newest.saturating_sub(dice.below(8) as u64)).collect();
            let past = if of.is_some() { &[][..] } else { &past };
            check_copy(truth, &copy, of, past, dice).map_err(|error| format!("a copy of {newest}: {error}"))?;
            let told = copy.pins();
            let has = |(name, seqno): (&&str, &u64)| *seqno > from || told.iter().any(|pin| pin.name == **name);
            ensure!(of.is_some() || pins.iter().all(has), "a copy of {newest} has the pins {told:?}, and not {pins:?}");
            Ok(())
        })?;
        let sim = world.env.sim.clone();
        sim.files().iter().filter(|file| file.starts_with(path)).for_each(|file| sim.remove_file(file));
        Ok(())
    }

    fn checkpoint(&self) -> Outcome {
        let db = self.db()?;
        let path = self.directory("checkpoint");
        let from = u64::from(db.seqno());
        match db.checkpoint(&path) {
            Ok(()) => self.read_copy(&path, None, from),
            Err(error) if self.world().ended(&error) => Ok(()),
            Err(error) => Err(format!("checkpoint: {error}")),
        }
    }

    fn copy_view(&self) -> Outcome {
        let Some(looked) = self.any_view()? else { return Ok(()) };
        let path = self.directory(&format!("copy the view of {} ({:?})", looked.seqno(), looked.sort));
        match looked.view.checkpoint(&path) {
            Ok(()) => self.read_copy(&path, Some(&looked), 0),
            Err(Error::HistoryTrimmed { .. }) if looked.sort == Sort::Past => Ok(()),
            // It has the drop behind it, and was opened again without its strategy.
            Err(Error::Invalid { what }) if looked.sort == Sort::Pinned && what.contains("\"joined\"") => Ok(()),
            Err(error) if self.world().ended(&error) => Ok(()),
            Err(error) => Err(format!("copy of a view: {error}")),
        }
    }

    fn create(&self) -> Outcome {
        let db = self.db()?;
        let kind = {
            let mut world = self.world();
            let count = world.kinds.len();
            let drawn = world.dice.below(count);
            let kind = world.kinds[drawn];
            world.say(format!("keyspace {}", kind.name));
            kind
        };
        let made = db.keyspace(kind.name, kind.options());
        let mut world = self.world();
        match made {
            Ok(keyspace) => {
                world.opened(kind, keyspace);
            }
            Err(error) => ensure!(world.ended(&error), "keyspace {}: {error}", kind.name),
        }
        Ok(())
    }

    fn drop_keyspace(&self) -> Outcome {
        let db = self.db()?;
        let Some((life, keyspace)) = self.world().life(|_| true) else { return Ok(()) };
        self.world().say(format!("drop {}", keyspace.name()));
        let done = db.drop_keyspace(keyspace.name());
        let mut world = self.world();
        match done {
            Ok(()) => {
                let seqno = world.seqno();
                world.truth.lives[life].dropped = Some((seqno - 1, seqno));
                world.handles[life] = None;
                ensure!(keyspace.get("k").is_err(), "what was dropped answers");
            }
            Err(error) => ensure!(world.ended(&error), "drop: {error}"),
        }
        Ok(())
    }

    fn configure(&self) -> Outcome {
        let db = self.db()?;
        let Some((_, keyspace)) = self.world().life(|kind| kind.keeping == Keeping::Turning) else { return Ok(()) };
        let keeping = {
            let mut world = self.world();
            let keeping =
                [Keeping::LastWriterWins, Keeping::Tombstones, Keeping::Mvcc, Keeping::All][world.dice.below(4)];
            world.say(format!("{} keeps {keeping:?}", keyspace.name()));
            keeping
        };
        let done = db.keyspace(keyspace.name(), KeyspaceOptions::new().policy(keeping.policy()));
        let mut world = self.world();
        match done {
            Ok(keyspace) => world.opened(KINDS[TURNING], keyspace),
            Err(error) => ensure!(world.ended(&error), "configure: {error}"),
        }
        Ok(())
    }

    fn close(&self) -> Outcome {
        let db = self.db()?;
        {
            let mut world = self.world();
            world.say("close");
            world.closing = true;
        }
        // What was flushed is there when it is opened again.
        let left = self.world().flushes - signed(db.stats().flushes) - 2;
        let closed = db.close();
        let mut world = self.world();
        let held =
            (std::mem::take(&mut world.held), std::mem::take(&mut world.staged), std::mem::take(&mut world.leases));
        let gone = (world.db.take(), held, world.handles.clone());
        world.handles.iter_mut().for_each(|handle| *handle = None);
        world.flushes = left;
        drop(world);
        drop(gone);
        closed.map_err(|error| format!("close: {error}"))
    }

    /// Reads everything that can be read.
    fn read_all(&self) -> Outcome {
        self.read_held_chunks()?;
        let db = self.db()?;
        let mut world = self.world();
        world.say("read everything");
        let newest = world.seqno();
        let pins = world.pins.clone();
        let held = world.held.clone();
        world.compare(|truth, dice| {
            let opened = (newest, newest);
            Looked::new(db.snapshot(), Sort::Present, opened).check_all(truth, dice)?;
            for held in &held {
                held.check_all(truth, dice)?;
            }
            for (name, seqno) in &pins {
                let view = db.pinned(name).map_err(|error| format!("pin {name}: {error}"))?;
                ensure!(u64::from(view.seqno()) == *seqno, "pin {name} is of {}, and not {seqno}", view.seqno());
                Looked::new(view, Sort::Pinned, opened).check_all(truth, dice)?;
            }
            for seqno in (1..=newest).filter(|_| dice.one_in(4)).collect::<Vec<_>>() {
                let view = db.as_of(seqno).map_err(|error| format!("as_of({seqno}): {error}"))?;
                Looked::new(view, Sort::Past, opened).check_all(truth, dice)?;
            }
            Ok(())
        })
    }

    fn play(&self) -> Outcome {
        self.open()?;
        for _ in 0..3 {
            self.run(Create)?;
        }
        for _ in 0..VERBS {
            if self.world().db.is_none() {
                self.open()?;
                self.read_all()?;
            }
            let verb = {
                let mut world = self.world();
                let verb = world.draw();
                world.outer = verb;
                verb
            };
            self.run(verb)?;
            if let Some(failed) = self.world().failed.take() {
                return Err(failed);
            }
        }
        for again in [false, true] {
            if self.world().db.is_none() {
                self.open()?;
            }
            self.read_all()?;
            self.verify()?;
            if !again {
                self.run(Close)?;
            }
        }
        self.world().failed.take().map_or(Ok(()), Err)
    }
}

type Counts = (BTreeMap<&'static str, u64>, BTreeMap<Verb, u64>);

/// What a seed led to: its failure, its script, and what was passed and run.
fn run(seed: u64) -> (Outcome, Vec<String>, Counts) {
    let stage = Stage(Arc::new(Mutex::new(World::new(seed))));
    let sim = stage.world().env.sim.clone();
    let at_point = stage.clone();
    sim.on_point(move |point| at_point.at_point(point));
    let done = stage.play();
    sim.ignore_points();
    let mut world = stage.world();
    let script = std::mem::take(&mut world.script);
    let counts = (std::mem::take(&mut world.passed), std::mem::take(&mut world.verbs));
    let held = (std::mem::take(&mut world.held), std::mem::take(&mut world.staged), std::mem::take(&mut world.leases));
    let gone = (world.db.take(), held, std::mem::take(&mut world.handles));
    drop(world);
    drop(gone);
    (done, script, counts)
}

/// Ends the process when a seed takes too long: a verb waits for the one that is at the point.
fn watch(at: &Arc<AtomicU64>) {
    let at = Arc::clone(at);
    std::thread::spawn(move || {
        let mut last = 0;
        while last != u64::MAX {
            std::thread::sleep(Duration::from_secs(30));
            let seed = at.load(Ordering::Relaxed);
            if seed == last && seed != u64::MAX {
                eprintln!("seed {seed} hangs");
                std::process::abort();
            }
            last = seed;
        }
    });
}

#[test]
fn what_runs_between_two_steps_of_a_verb_is_answered_as_by_the_model() {
    let number = |name: &str| var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let only = number("CHRONOLITH_INTERLEAVE_SEED");
    let count = number("CHRONOLITH_INTERLEAVE_SEEDS").unwrap_or(3000);
    let seeds = only.map_or(1..=count, |only| only..=only);
    let like = var("CHRONOLITH_INTERLEAVE_LIKE").unwrap_or_default();
    let hunt = var("CHRONOLITH_INTERLEAVE_HUNT").is_ok();
    let mut all = Counts::default();
    let at = Arc::new(AtomicU64::new(0));
    watch(&at);
    for seed in seeds {
        at.store(seed, Ordering::Relaxed);
        let (done, script, counts) = run(seed);
        counts.0.into_iter().for_each(|(point, count)| *all.0.entry(point).or_default() += count);
        counts.1.into_iter().for_each(|(verb, count)| *all.1.entry(verb).or_default() += count);
        let Err(error) = done else { continue };
        if hunt {
            eprintln!("seed {seed}: {}", error.replace('\n', " "));
        } else if error.contains(&like) || script.iter().any(|line| line.contains(&like)) {
            panic!("seed {seed}: {error}\n{}", script.join("\n"));
        }
    }
    at.store(u64::MAX, Ordering::Relaxed);
    eprintln!("points passed: {:?}\nverbs run: {:?}", all.0, all.1);
}

/// J1: a purge that leaves is a tombstone that leaves. A view of a moment before it, opened while the job is under way,
/// has "absent" from it; without it the watermarks would refuse that view. So the view keeps its files.
#[test]
fn a_view_that_is_opened_while_a_purge_leaves_goes_on_answering() {
    for of_range in [false, true] {
        let mut passes = 0;
        for pass in 0.. {
            let sim = Sim::new(1);
            let db = Options::new().env(sim.clone()).durability(Durability::Buffered).open("/db").unwrap();
            let keyspace = db.keyspace("k", KeyspaceOptions::new()).unwrap();
            keyspace.put("p", "old").unwrap();
            let then = keyspace.put("x", "old").unwrap().seqno;
            keyspace.delete("x").unwrap();
            // The watermark is above `then` from here on.
            db.compact().unwrap();
            if of_range { keyspace.purge_prefix("p") } else { keyspace.purge("p") }.unwrap();
            db.flush().unwrap();
            let (beside, of, opened) = (db.clone(), keyspace.clone(), Arc::new(Mutex::new(None)));
            let (kept, mut left) = (Arc::clone(&opened), pass);
            sim.on_point(move |point| {
                if point == "compact: written, then installed" {
                    if left == 0 {
                        let view = beside.as_of(then).unwrap();
                        assert_eq!(view.get(&of, "p").unwrap(), None, "pass {pass}");
                        let scan = view.prefix(&of, "p").next().is_none();
                        *kept.lock().unwrap() = Some((view, scan));
                    }
                    left -= 1;
                }
            });
            db.compact().unwrap();
            sim.ignore_points();
            let view = opened.lock().unwrap().take();
            let Some((view, is_scanned)) = view else {
                passes = pass;
                break;
            };
            assert_eq!(view.get(&keyspace, "p").unwrap(), None, "pass {pass}, behind the compaction");
            let scan = view.prefix(&keyspace, "p").next();
            assert!(!is_scanned || scan.is_none(), "pass {pass}, behind the compaction: {scan:?}");
        }
        assert!(passes > 0);
    }
}
