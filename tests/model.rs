//! Random histories against a model that forgets nothing: a map from each key to all it ever was.
//!
//! ```text
//!  seed ─▶ operations, plain data ─▶ run on a machine ─▶ every answer = the model's, or a refusal where one is allowed
//!                  ▲                                            │ not so
//!                  └──────────── fewer, while it still fails ◀──┘
//! ```
//!
//! | variable | means |
//! | --- | --- |
//! | `CHRONOLITH_MODEL_SECONDS` | how long each test goes on; by default 18 |
//! | `CHRONOLITH_MODEL_SEED` | the one seed to run |

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    env::var,
    fmt::Write as _,
    ops::Bound::{self, Excluded, Included, Unbounded},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use chronolith::{Bytes, Cursor, Db, Durability, Error, Keyspace, KeyspaceOptions, Options, Range, Receipt, View, env};

/// Every key that is ever written, in order; many are prefixes of others.
const KEYS: [&[u8]; 13] =
    [b"", b"\0", b"a", b"a\0", b"aa", b"ab", b"abc", b"b", b"ba", b"c", b"\xfe", b"\xff", b"\xff\xff"];

/// Ends of ranges besides them.
const BETWEEN: [&[u8]; 5] = [b"a\0\0", b"aaa", b"bb", b"zz", b"\xff\xff\xff"];

const NAMES: [&str; 3] = ["one", "two", "three"];

/// Lengths at which something changes: inline, copied, shared, more than a page.
const EDGES: [usize; 8] = [0, 1, 30, 31, 512, 513, 4096, 4097];

/// What a generator must not stop generating.
const KINDS: [&str; 26] = [
    "put",
    "delete",
    "delete_range",
    "batch",
    "compare_and_swap",
    "insert_if_absent",
    "update",
    "snapshot",
    "as_of",
    "drop a view",
    "hold a range",
    "move a range",
    "flush",
    "compact",
    "persist",
    "close and open",
    "drop and open",
    "crash",
    "open read-only",
    "drop a keyspace",
    "create a keyspace",
    "wait",
    "read the present",
    "read held views",
    "look back",
    "verify",
];

type Value = Arc<[u8]>;
type Outcome<T = ()> = Result<T, String>;

macro_rules! ensure {
    ($holds:expr, $($words:tt)+) => {
        if !$holds {
            return Err(format!($($words)+));
        }
    };
}

/// Random numbers that follow from a seed.
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, below: usize) -> usize {
        usize::try_from(self.next() % below.max(1) as u64).unwrap_or(0)
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        from.get(self.below(from.len())).cloned()
    }
}

/// Two ends, in the form in which the right range type takes them.
#[derive(Clone, Debug)]
struct Span {
    start: Bound<Vec<u8>>,
    end: Bound<Vec<u8>>,
}

const ALL: Span = Span { start: Unbounded, end: Unbounded };

impl Span {
    fn draw(dice: &mut Dice) -> Self {
        let bound = |dice: &mut Dice| {
            let key = if dice.one_in(4) { dice.of(&BETWEEN) } else { dice.of(&KEYS) }.unwrap_or_default().to_vec();
            match dice.below(5) {
                0 => Unbounded,
                1 | 2 => Excluded(key),
                _ => Included(key),
            }
        };
        Self { start: bound(dice), end: bound(dice) }
    }

    fn holds(&self, key: &[u8]) -> bool {
        let after = match &self.start {
            Included(start) => key >= start.as_slice(),
            Excluded(start) => key > start.as_slice(),
            Unbounded => true,
        };
        let before = match &self.end {
            Included(end) => key <= end.as_slice(),
            Excluded(end) => key < end.as_slice(),
            Unbounded => true,
        };
        after && before
    }

    /// Whether no key at all could be in it.
    fn is_void(&self) -> bool {
        let after = |key: &Vec<u8>| [key.as_slice(), &[0]].concat();
        let start = match &self.start {
            Included(start) => start.clone(),
            Excluded(start) => after(start),
            Unbounded => Vec::new(),
        };
        match &self.end {
            Included(end) => after(end) <= start,
            Excluded(end) => *end <= start,
            Unbounded => false,
        }
    }

    fn words(&self) -> String {
        let mut words = String::new();
        match &self.start {
            Included(start) => words += &quoted(start),
            Excluded(start) => words += &["(after ", &quoted(start), ")"].concat(),
            Unbounded => {}
        }
        words += "..";
        match &self.end {
            Included(end) => words += &["=", &quoted(end)].concat(),
            Excluded(end) => words += &quoted(end),
            Unbounded => {}
        }
        words
    }
}

/// Runs an expression with the range that a span stands for: each range type of the standard library has its turn.
macro_rules! with_range {
    ($span:expr, |$range:ident| $body:expr) => {
        match (&$span.start, &$span.end) {
            (Unbounded, Unbounded) => {
                let $range = ..;
                $body
            }
            (Included(start), Unbounded) => {
                let $range = start..;
                $body
            }
            (Unbounded, Excluded(end)) => {
                let $range = ..end;
                $body
            }
            (Unbounded, Included(end)) => {
                let $range = ..=end;
                $body
            }
            (Included(start), Excluded(end)) => {
                let $range = start..end;
                $body
            }
            (Included(start), Included(end)) => {
                let $range = start..=end;
                $body
            }
            (start, end) => {
                let $range = (start.as_ref(), end.as_ref());
                $body
            }
        }
    };
}

/// A value that tells where it was written.
#[derive(Clone, Copy, Debug)]
struct Fill {
    tag: usize,
    len: usize,
}

impl Fill {
    fn bytes(self) -> Value {
        format!("v{}.", self.tag).bytes().cycle().take(self.len).collect()
    }
}

#[derive(Clone, Debug)]
enum Write {
    Put { key: &'static [u8], fill: Fill },
    Delete { key: &'static [u8] },
    DeleteRange { span: Span },
}

/// One operation: plain data, so that any part of a history can be run again. What it names and is not there makes it nothing.
#[derive(Clone, Debug)]
enum Op {
    Write { slot: usize, write: Write },
    Batch { writes: Vec<(usize, Write)>, durability: Option<Durability> },
    CompareAndSwap { slot: usize, key: &'static [u8], right: bool, new: Option<Fill> },
    InsertIfAbsent { slot: usize, key: &'static [u8], fill: Fill },
    Update { slot: usize, key: &'static [u8], new: Option<Fill> },
    Snapshot,
    AsOf { at: usize },
    DropView { which: usize },
    HoldRange { slot: usize, span: Span },
    MoveRange { which: usize, front: usize, back: usize },
    Flush,
    Compact,
    Persist,
    Reopen { close: bool, look: bool },
    Crash { end: End, late: bool, look: bool },
    DropKeyspace { slot: usize },
    CreateKeyspace { slot: usize },
    Wait { ms: u64 },
    Present { dice: u64 },
    Held,
    LookBack { at: usize, dice: u64 },
    Verify,
}

/// How a crash comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The power goes after `persist`.
    CutPersisted,
    /// The power goes; what was not synced by its durability is persisted first.
    CutSynced,
    /// The process dies: what was written stays, locks and handles do not.
    Death,
}

/// How the database is opened.
#[derive(Clone, Copy, Debug)]
struct Setup {
    l0_threshold: usize,
    level_ratio: u64,
    mmap: bool,
    durability: Durability,
}

/// A history: everything that follows from a seed.
#[derive(Clone, Debug)]
struct History {
    seed: u64,
    threads: bool,
    setup: Setup,
    ops: Vec<Op>,
}

const DURABILITIES: [Durability; 3] =
    [Durability::Buffered, Durability::Interval(Duration::from_millis(100)), Durability::Sync];

impl History {
    fn draw(seed: u64, threads: bool) -> Self {
        let mut dice = Dice(seed ^ 0x6d6f_6465_6c00);
        let setup = Setup {
            l0_threshold: 1 + dice.below(4),
            level_ratio: 2 + dice.next() % 3,
            mmap: dice.one_in(2),
            durability: dice.of(&DURABILITIES).unwrap_or_default(),
        };
        let fat = dice.one_in(8);
        let len = if fat { 40 + dice.below(80) } else { 20 + dice.below(200) };
        // Some histories hold many views, some hardly any: then more of the past goes.
        let views = dice.of(&[0, 2, 6]).unwrap_or(2);
        let mut author = Author { dice, fat, views, tag: 0 };
        let mut ops = Vec::new();
        for _ in 0..len {
            ops.push(author.operation());
            if author.dice.one_in(4) {
                author.look(&mut ops);
            }
        }
        author.look(&mut ops);
        Self { seed, threads, setup, ops }
    }

    /// Runs it; gives what it did in words, what it counted, and what was wrong.
    fn run(&self) -> (Vec<String>, Counts, Outcome) {
        let mut world = World::new(self);
        let run = catch_unwind(AssertUnwindSafe(|| {
            world.open(false)?;
            (0..NAMES.len()).try_for_each(|slot| world.create_keyspace(slot))?;
            world.words.clear();
            for op in &self.ops {
                world.step(op)?;
            }
            world.step(&Op::Held)
        }));
        let outcome = run.unwrap_or_else(|_| Err("it panicked".to_owned()));
        (std::mem::take(&mut world.words), std::mem::take(&mut world.counts), outcome)
    }

    fn fails(&self) -> bool {
        // With threads a failure does not always come back.
        (0..if self.threads { 5 } else { 1 }).any(|_| self.run().2.is_err())
    }

    /// Leaves out what the failure does not need: halves first, single operations last, then parts of batches.
    fn shrink(mut self) -> Self {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let before = self.ops.len();
            let mut chunk = self.ops.len().div_ceil(2);
            while chunk > 0 {
                let mut at = 0;
                while at < self.ops.len() && Instant::now() < end {
                    let mut fewer = self.clone();
                    fewer.ops.drain(at..(at + chunk).min(self.ops.len()));
                    if fewer.fails() {
                        self = fewer;
                    } else {
                        at += chunk;
                    }
                }
                chunk /= 2;
            }
            if self.ops.len() == before || Instant::now() >= end {
                break;
            }
        }
        for at in 0..self.ops.len() {
            let mut part = 0;
            while let Some(Op::Batch { writes, .. }) = self.ops.get(at)
                && part < writes.len()
            {
                let mut fewer = self.clone();
                if let Some(Op::Batch { writes, .. }) = fewer.ops.get_mut(at) {
                    drop(writes.remove(part));
                }
                if fewer.fails() { self = fewer } else { part += 1 }
            }
        }
        self
    }

    fn report(self, first: &str) -> String {
        let shrunk = self.shrink();
        let mut run = shrunk.run();
        for _ in 0..20 {
            if run.2.is_ok() {
                run = shrunk.run();
            }
        }
        let (words, _, outcome) = run;
        let wrong = outcome.err().unwrap_or_else(|| "this time nothing was wrong".to_owned());
        let mut report = format!("seed {}, {:?}: {first}\n\nThe shortest script found:\n", shrunk.seed, shrunk.setup);
        for line in &words {
            let _infallible = writeln!(report, "  {line}");
        }
        report + "  => " + &wrong
    }
}

/// Draws operations.
struct Author {
    dice: Dice,
    fat: bool,
    views: usize,
    tag: usize,
}

impl Author {
    fn key(&mut self) -> &'static [u8] {
        self.dice.of(&KEYS).unwrap_or_default()
    }

    fn slot(&mut self) -> usize {
        // The first keyspace gets most: a deep past there, a flat one elsewhere.
        self.dice.of(&[0, 0, 0, 1, 2]).unwrap_or(0)
    }

    fn fill(&mut self) -> Fill {
        self.tag += 1;
        let len = match self.dice.below(100) {
            0..25 if self.fat => 60_000 + self.dice.below(140_000),
            0..8 => self.dice.of(&EDGES).unwrap_or(0),
            8..12 => 513 + self.dice.below(1500),
            12..15 => 4097 + self.dice.below(5000),
            _ => 6 + self.dice.below(6),
        };
        Fill { tag: self.tag, len }
    }

    fn maybe_fill(&mut self) -> Option<Fill> {
        (!self.dice.one_in(4)).then(|| self.fill())
    }

    fn write(&mut self) -> Write {
        match self.dice.below(10) {
            0..6 => Write::Put { key: self.key(), fill: self.fill() },
            6..8 => Write::Delete { key: self.key() },
            _ => Write::DeleteRange { span: Span::draw(&mut self.dice) },
        }
    }

    fn batch(&mut self) -> Op {
        let slots = [self.slot(), self.slot()];
        let writes = (0..self.dice.below(7)).map(|_| (self.dice.of(&slots).unwrap_or(0), self.write())).collect();
        let durability = if self.dice.one_in(3) { self.dice.of(&DURABILITIES) } else { None };
        Op::Batch { writes, durability }
    }

    fn operation(&mut self) -> Op {
        let slot = self.slot();
        match self.dice.below(100) {
            0..30 => Op::Write { slot, write: Write::Put { key: self.key(), fill: self.fill() } },
            30..38 => Op::Write { slot, write: Write::Delete { key: self.key() } },
            38..44 => Op::Write { slot, write: Write::DeleteRange { span: Span::draw(&mut self.dice) } },
            44..54 => self.batch(),
            54..56 => Op::CompareAndSwap { slot, key: self.key(), right: !self.dice.one_in(4), new: self.maybe_fill() },
            56..58 => Op::InsertIfAbsent { slot, key: self.key(), fill: self.fill() },
            58..60 => Op::Update { slot, key: self.key(), new: self.maybe_fill() },
            60..66 if self.views > 0 => Op::Snapshot,
            66..72 if self.views > 0 => Op::AsOf { at: self.dice.below(1 << 20) },
            60..66 if self.views < 6 => Op::DropView { which: self.dice.below(1 << 20) },
            72..76 => Op::DropView { which: self.dice.below(1 << 20) },
            60..72 | 76..86 => Op::Flush,
            86..90 => Op::Compact,
            90 => Op::Persist,
            91..93 => Op::Wait { ms: self.dice.of(&[1, 60, 200, 5000]).unwrap_or(1) },
            93 => Op::Reopen { close: self.dice.one_in(2), look: self.dice.one_in(2) },
            94..96 => {
                let end = self.dice.of(&[End::CutPersisted, End::CutSynced, End::Death]).unwrap_or(End::Death);
                Op::Crash { end, late: self.dice.one_in(2), look: self.dice.one_in(4) }
            }
            96 => Op::DropKeyspace { slot },
            97 => Op::HoldRange { slot, span: Span::draw(&mut self.dice) },
            98 => Op::CreateKeyspace { slot: self.dice.below(NAMES.len()) },
            _ if self.dice.one_in(4) => Op::Verify,
            _ => Op::DropView { which: self.dice.below(1 << 20) },
        }
    }

    fn look(&mut self, ops: &mut Vec<Op>) {
        if self.dice.one_in(4) {
            // Keyspaces that were dropped come back sooner or later.
            ops.push(Op::CreateKeyspace { slot: self.dice.below(NAMES.len()) });
        }
        if self.dice.one_in(3) {
            let span = Span::draw(&mut self.dice);
            ops.push(Op::HoldRange { slot: self.slot(), span });
        }
        let (front, back) = (self.dice.below(3), self.dice.below(3));
        ops.push(Op::MoveRange { which: self.dice.below(1 << 20), front, back });
        ops.push(Op::Present { dice: self.dice.next() });
        if self.dice.one_in(2) {
            ops.push(Op::Held);
        }
        for _ in 0..=self.dice.below(2) {
            ops.push(Op::LookBack { at: self.dice.below(1 << 20), dice: self.dice.next() });
        }
    }
}

/// One life of a keyspace, from its creation to its drop, with all its keys ever were.
#[derive(Debug)]
struct Life {
    name: &'static str,
    dropped: Option<u64>,
    /// As long as the database that gave it is open.
    handle: Option<Keyspace>,
    keys: BTreeMap<&'static [u8], Vec<(u64, Option<Value>)>>,
}

impl Life {
    fn write(&mut self, seqno: u64, key: &'static [u8], value: Option<Value>) {
        let versions = self.keys.entry(key).or_default();
        // The last word of a batch counts.
        versions.retain(|(at, _)| *at != seqno);
        versions.push((seqno, value));
    }

    fn apply(&mut self, seqno: u64, write: &Write) {
        match write {
            Write::Put { key, fill } => self.write(seqno, key, Some(fill.bytes())),
            Write::Delete { key } => self.write(seqno, key, None),
            Write::DeleteRange { span } => {
                for key in KEYS.into_iter().filter(|key| span.holds(key)) {
                    self.write(seqno, key, None);
                }
            }
        }
    }

    fn at(&self, seqno: u64, key: &[u8]) -> Option<Value> {
        let (_, value) = self.keys.get(key)?.iter().rfind(|(at, _)| *at <= seqno)?;
        value.clone()
    }

    fn range_at(&self, seqno: u64, span: &Span) -> Vec<(&'static [u8], Value)> {
        let keys = KEYS.into_iter().filter(|key| span.holds(key));
        keys.filter_map(|key| Some((key, self.at(seqno, key)?))).collect()
    }
}

/// A view that is held, with what must hold of it.
#[derive(Debug)]
struct Held {
    view: View,
    seqno: u64,
    /// The newest commit when it was opened.
    opened: u64,
    /// What it has answered, or must have been able to answer when it was opened: that stays.
    exact: BTreeSet<(usize, &'static [u8])>,
    /// Lives of which a whole scan was exact.
    exact_scans: BTreeSet<usize>,
}

/// A range that is half read, and what must still come.
#[derive(Debug)]
struct HeldRange {
    range: Range,
    rest: VecDeque<(&'static [u8], Value)>,
    words: String,
}

#[derive(Clone, Debug)]
enum Machine {
    Sim(env::Sim),
    Memory(env::Memory),
}

type Counts = BTreeMap<&'static str, u64>;

/// How a range is walked through.
#[derive(Clone, Copy, Debug)]
enum Manner {
    Forward,
    Backward,
    BothEnds,
    Keys,
    KeysBackward,
}

const MANNERS: [Manner; 5] = [Manner::Forward, Manner::Backward, Manner::BothEnds, Manner::Keys, Manner::KeysBackward];

/// What a walk gave: from the front, from the back, and how it ended. Values are missing where only keys were asked for.
#[derive(Debug, Default)]
struct Walked {
    front: Vec<(Bytes, Option<Bytes>)>,
    back: Vec<(Bytes, Option<Bytes>)>,
    wrong: Option<Error>,
}

impl Walked {
    fn of(mut range: Range, manner: Manner, dice: &mut Dice) -> Outcome<Self> {
        let mut walked = Self::default();
        match manner {
            Manner::Keys | Manner::KeysBackward => {
                let mut keys = range.keys();
                let backward = matches!(manner, Manner::KeysBackward);
                while let Some(item) = if backward { keys.next_back() } else { keys.next() } {
                    match item {
                        Ok(key) if backward => walked.back.push((key, None)),
                        Ok(key) => walked.front.push((key, None)),
                        Err(error) => walked.wrong = Some(error),
                    }
                    ensure!(walked.front.len() + walked.back.len() <= KEYS.len(), "a walk that does not end");
                }
                ensure!(keys.next().is_none() && keys.next_back().is_none(), "an item after the end");
            }
            _ => {
                loop {
                    let backward = match manner {
                        Manner::Backward => true,
                        Manner::BothEnds => dice.one_in(2),
                        _ => false,
                    };
                    let item = if backward { range.next_back() } else { range.next() };
                    match item {
                        None => break,
                        Some(Ok((key, value))) if backward => walked.back.push((key, Some(value))),
                        Some(Ok((key, value))) => walked.front.push((key, Some(value))),
                        Some(Err(error)) => {
                            ensure!(walked.wrong.is_none(), "a second error after {error}");
                            walked.wrong = Some(error);
                        }
                    }
                    ensure!(walked.front.len() + walked.back.len() <= KEYS.len(), "a walk that does not end");
                }
                ensure!(range.next().is_none() && range.next_back().is_none(), "an item after the end");
            }
        }
        Ok(walked)
    }

    fn of_cursor(mut cursor: Cursor) -> Self {
        let mut walked = Self::default();
        loop {
            match cursor.next_ref() {
                Ok(Some((key, value))) => walked.front.push((key.into(), Some(value.into()))),
                Ok(None) => break,
                Err(error) => {
                    walked.wrong = Some(error);
                    break;
                }
            }
        }
        walked
    }

    /// That the items are those expected: all of them, or after an error a part at either end.
    fn check(&self, expected: &[(&'static [u8], Value)]) -> Outcome {
        let fits = |got: &(Bytes, Option<Bytes>), wanted: &(&'static [u8], Value)| {
            *got.0 == *wanted.0 && got.1.as_ref().is_none_or(|value| **value == *wanted.1)
        };
        let count = self.front.len() + self.back.len();
        let all = if self.wrong.is_some() { count <= expected.len() } else { count == expected.len() };
        let front = self.front.iter().zip(expected).all(|(got, wanted)| fits(got, wanted));
        let back = self.back.iter().zip(expected.iter().rev()).all(|(got, wanted)| fits(got, wanted));
        let got = || {
            let items = self.front.iter().chain(self.back.iter().rev());
            items.map(|(key, value)| pair(key, value.as_deref())).collect::<Vec<_>>().join(" ")
        };
        let wanted = || expected.iter().map(|(key, value)| pair(key, Some(value))).collect::<Vec<_>>().join(" ");
        ensure!(all && front && back, "[{}], and the model says [{}]", got(), wanted());
        Ok(())
    }
}

/// A database under test, and what it must hold.
struct World {
    machine: Machine,
    setup: Setup,
    db: Option<Db>,
    lives: Vec<Life>,
    /// Which life each name has now.
    slots: [Option<usize>; NAMES.len()],
    held: Vec<Held>,
    ranges: Vec<HeldRange>,
    /// Every commit, in order, with 0.
    commits: Vec<u64>,
    /// Something was acknowledged that a power cut may take.
    unsynced: bool,
    words: Vec<String>,
    counts: Counts,
}

impl World {
    fn new(history: &History) -> Self {
        let machine = if history.threads {
            Machine::Memory(env::Memory::new())
        } else {
            Machine::Sim(env::Sim::new(history.seed))
        };
        Self {
            machine,
            setup: history.setup,
            db: None,
            lives: Vec::new(),
            slots: [None; NAMES.len()],
            held: Vec::new(),
            ranges: Vec::new(),
            commits: vec![0],
            unsynced: true,
            words: Vec::new(),
            counts: Counts::new(),
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn say(&mut self, kind: &'static str, words: String) {
        self.count(kind);
        self.words.push(words);
    }

    /// Adds what is known only afterwards to the last words.
    fn add(&mut self, more: &str) {
        if let Some(last) = self.words.last_mut() {
            last.push_str(more);
        }
    }

    /// Whether nothing happens but what the calling thread does.
    fn alone(&self) -> bool {
        matches!(self.machine, Machine::Sim(_))
    }

    fn newest(&self) -> u64 {
        self.commits.last().copied().unwrap_or(0)
    }

    /// A commit, or now and then a number that none has.
    fn moment(&self, at: usize) -> u64 {
        let commit = self.commits.get(at % self.commits.len()).copied().unwrap_or(0);
        let between = u64::from(at.is_multiple_of(7));
        (commit + between).min(self.newest())
    }

    fn db(&self) -> Outcome<&Db> {
        self.db.as_ref().ok_or_else(|| "the database is not open".to_owned())
    }

    fn handle(&self, life: usize) -> Option<&Keyspace> {
        self.lives.get(life)?.handle.as_ref()
    }

    fn alive(&self, slot: usize) -> Option<(usize, Keyspace)> {
        let life = self.slots.get(slot).copied().flatten()?;
        Some((life, self.handle(life)?.clone()))
    }

    fn open(&mut self, read_only: bool) -> Outcome {
        let options = Options::new()
            .memory_budget(4 << 20)
            .l0_threshold(self.setup.l0_threshold)
            .level_ratio(self.setup.level_ratio)
            .mmap(self.setup.mmap)
            .durability(self.setup.durability)
            .read_only(read_only);
        let options = match &self.machine {
            Machine::Sim(sim) => options.env(sim.clone()),
            Machine::Memory(memory) => options.env(memory.clone()),
        };
        let db = options.open("model.db").map_err(|e| format!("open: {e}"))?;
        for life in self.slots.into_iter().flatten() {
            if let Some(life) = self.lives.get_mut(life) {
                life.handle = Some(db.keyspace(life.name, KeyspaceOptions::new()).map_err(told("keyspace"))?);
            }
        }
        let newest = u64::from(db.snapshot().seqno());
        ensure!(newest == self.newest(), "opened at seqno {newest}, and the newest commit was {}", self.newest());
        self.db = Some(db);
        Ok(())
    }

    /// Everything that must go before the database is closed by the drop of its last handle.
    fn let_go(&mut self) -> (Option<Db>, Vec<Held>, Vec<HeldRange>, Vec<Option<Keyspace>>) {
        let handles = self.lives.iter_mut().map(|life| life.handle.take()).collect();
        (self.db.take(), std::mem::take(&mut self.held), std::mem::take(&mut self.ranges), handles)
    }

    fn look_read_only(&mut self) -> Outcome {
        self.count("open read-only");
        self.open(true)?;
        self.read_the_present(1)?;
        for at in [1, 5, 12] {
            self.look_back(self.moment(at * 7919), 1)?;
        }
        if let Some((_, keyspace)) = self.alive(0) {
            let refused = keyspace.put("a", "read-only?");
            ensure!(matches!(refused, Err(Error::Invalid { .. })), "a write to a read-only database: {refused:?}");
        }
        drop(self.let_go());
        Ok(())
    }

    fn create_keyspace(&mut self, slot: usize) -> Outcome {
        let (Some(None), Some(&name)) = (self.slots.get(slot), NAMES.get(slot)) else { return Ok(()) };
        self.say("create a keyspace", format!("create {name}"));
        let db = self.db()?.clone();
        let handle = db.keyspace(name, KeyspaceOptions::new()).map_err(told("keyspace"))?;
        let born = u64::from(db.snapshot().seqno());
        ensure!(born > self.newest(), "the creation has seqno {born}, after {}", self.newest());
        self.add(&format!(" @{born}"));
        self.commits.push(born);
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(self.lives.len());
        }
        self.lives.push(Life { name, dropped: None, handle: Some(handle), keys: BTreeMap::new() });
        Ok(())
    }

    fn drop_keyspace(&mut self, slot: usize) -> Outcome {
        let Some((at, keyspace)) = self.alive(slot) else { return Ok(()) };
        self.say("drop a keyspace", format!("drop {}", keyspace.name()));
        let db = self.db()?.clone();
        db.drop_keyspace(keyspace.name()).map_err(told("drop_keyspace"))?;
        let dropped = u64::from(db.snapshot().seqno());
        ensure!(dropped > self.newest(), "the drop has seqno {dropped}, after {}", self.newest());
        self.add(&format!(" @{dropped}"));
        self.commits.push(dropped);
        if let Some(life) = self.lives.get_mut(at) {
            life.dropped = Some(dropped);
        }
        if let Some(place) = self.slots.get_mut(slot) {
            *place = None;
        }
        let refused = keyspace.put("a", "dropped?");
        ensure!(matches!(refused, Err(Error::Invalid { .. })), "a write to a dropped keyspace: {refused:?}");
        Ok(())
    }

    /// Takes a commit into the model.
    fn committed(&mut self, receipt: Receipt, writes: &[(usize, Write)], durability: Option<Durability>) -> Outcome {
        let seqno = u64::from(receipt.seqno);
        self.add(&format!(" @{seqno}"));
        let void = writes.iter().all(|(_, write)| matches!(write, Write::DeleteRange { span } if span.is_void()));
        if void {
            ensure!(seqno == self.newest(), "nothing was committed at {seqno}, after {}", self.newest());
            return Ok(());
        }
        ensure!(seqno > self.newest(), "committed at {seqno}, after {}", self.newest());
        self.commits.push(seqno);
        self.unsynced = durability.unwrap_or(self.setup.durability) != Durability::Sync;
        for (life, write) in writes {
            if let Some(life) = self.lives.get_mut(*life) {
                life.apply(seqno, write);
            }
        }
        Ok(())
    }

    fn write(&mut self, slot: usize, write: &Write) -> Outcome {
        let Some((life, keyspace)) = self.alive(slot) else { return Ok(()) };
        let kind = match write {
            Write::Put { .. } => "put",
            Write::Delete { .. } => "delete",
            Write::DeleteRange { .. } => "delete_range",
        };
        self.say(kind, format!("{}: {}", keyspace.name(), write_words(write)));
        let receipt = match write {
            Write::Put { key, fill } => keyspace.put(key, fill.bytes()),
            Write::Delete { key } => keyspace.delete(key),
            Write::DeleteRange { span } => with_range!(span, |range| keyspace.delete_range(range)),
        };
        self.committed(receipt.map_err(told(kind))?, &[(life, write.clone())], None)
    }

    fn batch(&mut self, writes: &[(usize, Write)], durability: Option<Durability>) -> Outcome {
        let mut batch = self.db()?.batch();
        let mut done = Vec::new();
        let mut words = String::from("batch");
        for (slot, write) in writes {
            let Some((life, keyspace)) = self.alive(*slot) else { continue };
            match write {
                Write::Put { key, fill } => batch.put(&keyspace, key, fill.bytes()),
                Write::Delete { key } => batch.delete(&keyspace, key),
                Write::DeleteRange { span } => with_range!(span, |range| batch.delete_range(&keyspace, range)),
            }
            let _infallible = write!(words, " [{}: {}]", keyspace.name(), write_words(write));
            done.push((life, write.clone()));
        }
        self.say("batch", words);
        let receipt = match durability {
            Some(durability) => batch.commit_with(durability),
            None => batch.commit(),
        };
        self.committed(receipt.map_err(told("commit"))?, &done, durability)
    }

    fn compare_and_swap(&mut self, slot: usize, key: &'static [u8], right: bool, new: Option<Fill>) -> Outcome {
        let Some((life, keyspace)) = self.alive(slot) else { return Ok(()) };
        let old = self.value_now(life, key);
        let expected = if right { old } else { Some(Value::from(&b"nothing like it"[..])) };
        let name = keyspace.name();
        let words =
            format!("{name}: compare_and_swap {} {} to {}", quoted(key), shown(expected.as_deref()), filled(new));
        self.say("compare_and_swap", words);
        let swapped = keyspace.compare_and_swap(key, expected, new.map(Fill::bytes)).map_err(told("swap"))?;
        ensure!(swapped.is_some() == right, "compare_and_swap swapped: {}", swapped.is_some());
        match swapped {
            Some(receipt) => self.committed(receipt, &[(life, as_write(key, new))], None),
            None => Ok(()),
        }
    }

    fn insert_if_absent(&mut self, slot: usize, key: &'static [u8], fill: Fill) -> Outcome {
        let Some((life, keyspace)) = self.alive(slot) else { return Ok(()) };
        let words = format!("{}: insert_if_absent {}", keyspace.name(), pair(key, Some(&fill.bytes())));
        self.say("insert_if_absent", words);
        let absent = self.value_now(life, key).is_none();
        let inserted = keyspace.insert_if_absent(key, fill.bytes()).map_err(told("insert_if_absent"))?;
        ensure!(inserted.is_some() == absent, "insert_if_absent inserted: {}", inserted.is_some());
        match inserted {
            Some(receipt) => self.committed(receipt, &[(life, Write::Put { key, fill })], None),
            None => Ok(()),
        }
    }

    fn update(&mut self, slot: usize, key: &'static [u8], new: Option<Fill>) -> Outcome {
        let Some((life, keyspace)) = self.alive(slot) else { return Ok(()) };
        self.say("update", format!("{}: update {} to {}", keyspace.name(), quoted(key), filled(new)));
        let wanted = self.value_now(life, key);
        let mut seen = None;
        let updated = keyspace.update(key, |old| {
            seen = Some(old.map(Value::from));
            new.map(Fill::bytes)
        });
        ensure!(
            seen.as_ref() == Some(&wanted),
            "update was shown {}, and the model says {}",
            shown(seen.flatten().as_deref()),
            shown(wanted.as_deref())
        );
        self.committed(updated.map_err(told("update"))?, &[(life, as_write(key, new))], None)
    }

    fn value_now(&self, life: usize, key: &[u8]) -> Option<Value> {
        self.lives.get(life)?.at(u64::MAX, key)
    }

    fn held_at(&self, view: View, seqno: u64) -> Outcome<Held> {
        ensure!(u64::from(view.seqno()) == seqno, "a view at {}, asked for {seqno}", view.seqno());
        Ok(Held { view, seqno, opened: self.newest(), exact: BTreeSet::new(), exact_scans: BTreeSet::new() })
    }

    fn view_as_of(&self, seqno: u64) -> Outcome<Held> {
        let view = self.db()?.as_of(seqno).map_err(told("as_of"))?;
        self.held_at(view, seqno)
    }

    fn as_of(&mut self, seqno: u64) -> Outcome {
        self.say("as_of", format!("hold a view as of {seqno}"));
        let mut held = self.view_as_of(seqno)?;
        // What a second view, opened after it, can answer, the first one can, now and as long as it lives.
        let mut second = self.view_as_of(seqno)?;
        self.examine(&mut second, false)?;
        (held.exact, held.exact_scans) = (second.exact, second.exact_scans);
        self.held.push(held);
        Ok(())
    }

    fn read_held_views(&mut self) -> Outcome {
        self.say("read held views", "read the held views".to_owned());
        let mut views = std::mem::take(&mut self.held);
        let read = views.iter_mut().try_for_each(|held| self.examine(held, false));
        self.held = views;
        read
    }

    /// Opens a view as of `seqno` and reads everything, by key and in ranges.
    fn look_back(&mut self, seqno: u64, dice: u64) -> Outcome {
        let mut fresh = self.view_as_of(seqno)?;
        self.examine(&mut fresh, true)?;
        let mut dice = Dice(dice);
        for at in 0..self.lives.len() {
            let Some(keyspace) = self.handle(at).cloned() else { continue };
            if self.is_refused_as_dropped(at, &fresh) {
                continue;
            }
            for _ in 0..2 {
                self.scan(Some(&fresh), at, &keyspace, &mut dice)?;
            }
            for backward in [false, true] {
                let end = if backward { fresh.view.last(&keyspace) } else { fresh.view.first(&keyspace) };
                self.check_end(Some(&fresh), at, end, backward)?;
            }
        }
        Ok(())
    }

    fn is_refused_as_dropped(&self, life: usize, held: &Held) -> bool {
        self.lives.get(life).and_then(|life| life.dropped).is_some_and(|dropped| dropped <= held.opened)
    }

    fn expected(&self, life: usize, held: &Held, key: &[u8]) -> Option<Value> {
        self.lives.get(life)?.at(held.seqno, key)
    }

    /// Reads every key and scans every keyspace in both directions: each answer must be the model's; a refusal must be one that is
    /// allowed. With `follow`, the seqno that a refusal names must answer.
    fn examine(&mut self, held: &mut Held, follow: bool) -> Outcome {
        let present = held.seqno == held.opened;
        let whole = |held: &Held| format!("view as of {} opened at {}", held.seqno, held.opened);
        for at in 0..self.lives.len() {
            let Some(keyspace) = self.handle(at).cloned() else { continue };
            let dropped = self.is_refused_as_dropped(at, held);
            let mut refused = None;
            for key in KEYS {
                self.count("checked gets of views");
                let wanted = self.expected(at, held, key);
                let words = || format!("{}: {}: get {}", whole(held), keyspace.name(), quoted(key));
                match held.view.get(&keyspace, key) {
                    Err(Error::Invalid { .. }) if dropped => {}
                    got if dropped => return Err(format!("{} of a dropped keyspace: {got:?}", words())),
                    Ok(got) => {
                        ensure!(
                            got.as_deref() == wanted.as_deref(),
                            "{} answers {}, and the model says {}",
                            words(),
                            shown(got.as_deref()),
                            shown(wanted.as_deref())
                        );
                        held.exact.insert((at, key));
                    }
                    Err(Error::HistoryTrimmed { oldest }) => {
                        let oldest = u64::from(oldest);
                        ensure!(!present, "{} is refused (oldest {oldest}), and it is the present", words());
                        let known = held.exact.contains(&(at, key));
                        ensure!(!known, "{} is refused (oldest {oldest}), and could be answered before", words());
                        ensure!(oldest > held.seqno, "{} names {oldest} as readable", words());
                        refused = Some(key);
                        self.count("refused gets");
                        if follow {
                            self.follow(oldest, at, &keyspace, key).map_err(|e| format!("{}: {e}", words()))?;
                        }
                    }
                    Err(error) => return Err(format!("{}: {error}", words())),
                }
            }
            let Some(life) = self.lives.get(at) else { continue };
            let expected = life.range_at(held.seqno, &ALL);
            for manner in [Manner::Forward, Manner::Backward] {
                let walked = Walked::of(held.view.range(&keyspace, ..), manner, &mut Dice(0))?;
                *self.counts.entry("checked scans of views").or_default() += 1;
                let words = || format!("{}: {}: scan {manner:?}", whole(held), keyspace.name());
                match &walked.wrong {
                    Some(Error::Invalid { .. }) if dropped => continue,
                    _ if dropped => return Err(format!("{} of a dropped keyspace: {walked:?}", words())),
                    None => {
                        if let Some(key) = refused.filter(|_| self.alone()) {
                            return Err(format!("{} is answered, and get {} is refused", words(), quoted(key)));
                        }
                    }
                    Some(Error::HistoryTrimmed { oldest }) => {
                        ensure!(!present, "{} is refused (oldest {oldest}), and it is the present", words());
                        let known = held.exact_scans.contains(&at);
                        ensure!(!known, "{} is refused (oldest {oldest}), and could be answered before", words());
                        ensure!(u64::from(*oldest) > held.seqno, "{} names {oldest} as readable", words());
                    }
                    Some(error) => return Err(format!("{}: {error}", words())),
                }
                walked.check(&expected).map_err(|e| format!("{} gives {e}", words()))?;
            }
            if !dropped && Walked::of(held.view.range(&keyspace, ..), Manner::Forward, &mut Dice(0))?.wrong.is_none() {
                held.exact_scans.insert(at);
            }
        }
        Ok(())
    }

    /// That a key can be read at the seqno that a refusal named.
    fn follow(&mut self, oldest: u64, at: usize, keyspace: &Keyspace, key: &'static [u8]) -> Outcome {
        let mut oldest = oldest;
        loop {
            ensure!(oldest <= self.newest(), "the oldest readable seqno {oldest} lies in the future");
            let view = self.view_as_of(oldest)?;
            self.count("followed refusals");
            match view.view.get(keyspace, key) {
                Ok(got) => {
                    let wanted = self.expected(at, &view, key);
                    ensure!(
                        got.as_deref() == wanted.as_deref(),
                        "as of the oldest readable seqno {oldest} it answers {}, and the model says {}",
                        shown(got.as_deref()),
                        shown(wanted.as_deref())
                    );
                    return Ok(());
                }
                // A compaction on another thread has been there in between.
                Err(Error::HistoryTrimmed { oldest: later }) if !self.alone() && u64::from(later) > oldest => {
                    oldest = u64::from(later);
                }
                Err(error) => return Err(format!("as of the oldest readable seqno {oldest}: {error}")),
            }
        }
    }

    /// Walks through a drawn range in a drawn manner, of a view or of the present.
    fn scan(&mut self, held: Option<&Held>, at: usize, keyspace: &Keyspace, dice: &mut Dice) -> Outcome {
        let (seqno, present) = held.map_or((u64::MAX, true), |held| (held.seqno, held.seqno == held.opened));
        let view = held.map(|held| &held.view);
        let mut span = Span::draw(dice);
        let manner = dice.of(&MANNERS).unwrap_or(Manner::Forward);
        let (mut words, walked);
        match dice.below(6) {
            0 => {
                words = format!("cursor {}", span.words());
                let cursor = with_range!(span, |range| match view {
                    Some(view) => view.cursor(keyspace, range),
                    None => keyspace.cursor(range),
                });
                walked = Walked::of_cursor(cursor);
            }
            1 => {
                let prefix = dice.of(&KEYS).unwrap_or_default();
                words = format!("prefix {} {manner:?}", quoted(prefix));
                let range = view.map_or_else(|| keyspace.prefix(prefix), |view| view.prefix(keyspace, prefix));
                walked = Walked::of(range, manner, dice)?;
                span = ALL;
                let expected = self.lives.get(at).map(|life| life.range_at(seqno, &span)).unwrap_or_default();
                let expected: Vec<_> = expected.into_iter().filter(|(key, _)| key.starts_with(prefix)).collect();
                walked.check(&expected).map_err(|e| format!("{}: {words} as of {seqno} gives {e}", keyspace.name()))?;
            }
            _ => {
                words = format!("range {} {manner:?}", span.words());
                let range = with_range!(span, |range| match view {
                    Some(view) => view.range(keyspace, range),
                    None => keyspace.range(range),
                });
                walked = Walked::of(range, manner, dice)?;
            }
        }
        words =
            format!("{}: {words} as of {}", keyspace.name(), held.map_or("now".to_owned(), |h| h.seqno.to_string()));
        self.count("checked ranges");
        match &walked.wrong {
            None => {}
            Some(Error::HistoryTrimmed { oldest }) if !present => {
                ensure!(u64::from(*oldest) > seqno, "{words} names {oldest} as readable");
                self.count("refused ranges");
            }
            Some(error) => return Err(format!("{words}: {error}")),
        }
        if !words.contains("prefix") {
            let expected = self.lives.get(at).map(|life| life.range_at(seqno, &span)).unwrap_or_default();
            walked.check(&expected).map_err(|e| format!("{words} gives {e}"))?;
        }
        Ok(())
    }

    /// That the first or last item is the model's.
    fn check_end(
        &self,
        held: Option<&Held>,
        at: usize,
        end: chronolith::Result<Option<(Bytes, Bytes)>>,
        backward: bool,
    ) -> Outcome {
        let (seqno, present) = held.map_or((u64::MAX, true), |held| (held.seqno, held.seqno == held.opened));
        let expected = self.lives.get(at).map(|life| life.range_at(seqno, &ALL)).unwrap_or_default();
        let wanted = if backward { expected.last() } else { expected.first() };
        let which = if backward { "last" } else { "first" };
        match end {
            Err(Error::HistoryTrimmed { .. }) if !present => {}
            Err(error) => return Err(format!("{which} as of {seqno}: {error}")),
            Ok(got) => {
                let same = match (&got, wanted) {
                    (None, None) => true,
                    (Some(got), Some(wanted)) => *got.0 == *wanted.0 && *got.1 == *wanted.1,
                    _ => false,
                };
                ensure!(same, "{which} as of {seqno} is {got:?}, and the model says {wanted:?}");
            }
        }
        Ok(())
    }

    fn read_the_present(&mut self, dice: u64) -> Outcome {
        let db = self.db()?.clone();
        let mut dice = Dice(dice);
        let mut names: Vec<&str> = self.slots.iter().zip(NAMES).filter_map(|(life, name)| life.map(|_| name)).collect();
        names.sort_unstable();
        ensure!(db.keyspaces() == names, "the keyspaces are {:?}, and the model says {names:?}", db.keyspaces());
        let newest = self.newest();
        ensure!(u64::from(db.snapshot().seqno()) == newest, "a snapshot at {}, not {newest}", db.snapshot().seqno());
        let future = db.as_of(newest + 1);
        ensure!(matches!(future, Err(Error::InTheFuture)), "as_of({}) after {newest} is opened", newest + 1);
        db.health().map_err(told("health"))?;
        for slot in 0..NAMES.len() {
            let Some((at, keyspace)) = self.alive(slot) else { continue };
            let together = keyspace.multi_get(KEYS).map_err(told("multi_get"))?;
            for (key, together) in KEYS.into_iter().zip(together) {
                self.count("checked gets");
                let wanted = self.value_now(at, key);
                let got = keyspace.get(key).map_err(told("get"))?;
                let there = keyspace.contains(key).map_err(told("contains"))?;
                ensure!(
                    got.as_deref() == wanted.as_deref() && together == got && there == got.is_some(),
                    "{}: get {} answers {}, multi_get {}, and the model says {}",
                    keyspace.name(),
                    quoted(key),
                    shown(got.as_deref()),
                    shown(together.as_deref()),
                    shown(wanted.as_deref())
                );
            }
            self.check_end(None, at, keyspace.first(), false)?;
            self.check_end(None, at, keyspace.last(), true)?;
            for _ in 0..4 {
                self.scan(None, at, &keyspace, &mut dice)?;
            }
        }
        let mut present = self.view_as_of(newest)?;
        self.examine(&mut present, false)
    }

    fn hold_range(&mut self, slot: usize, span: &Span) {
        let Some((at, keyspace)) = self.alive(slot) else { return };
        let words = format!("hold the range {} of {}", span.words(), keyspace.name());
        self.say("hold a range", words.clone());
        let rest = self.lives.get(at).map(|life| life.range_at(u64::MAX, span)).unwrap_or_default().into();
        let range = with_range!(span, |range| keyspace.range(range));
        self.ranges.push(HeldRange { range, rest, words });
    }

    /// Steps at both ends of a held range: what comes is of the moment of its opening.
    fn move_range(&mut self, which: usize, front: usize, back: usize) -> Outcome {
        if self.ranges.is_empty() {
            return Ok(());
        }
        let which = which % self.ranges.len();
        let mut held = self.ranges.swap_remove(which);
        self.say(
            "move a range",
            format!("move on in \"{}\": {front} from the front, {back} from the back", held.words),
        );
        for step in 0..front + back {
            let (got, wanted) = if step < front {
                (held.range.next(), held.rest.pop_front())
            } else {
                (held.range.next_back(), held.rest.pop_back())
            };
            let got = got.transpose().map_err(told("a step"))?;
            let (got, wanted) =
                (got.map(|(key, value)| pair(&key, Some(&value))), wanted.map(|(key, value)| pair(key, Some(&value))));
            let ended = got.is_none();
            ensure!(got == wanted, "the next item of \"{}\" is {got:?}, and the model says {wanted:?}", held.words);
            if ended {
                self.count("held ranges read to the end");
                return Ok(());
            }
        }
        self.ranges.push(held);
        Ok(())
    }

    fn reopen(&mut self, close: bool, look: bool) -> Outcome {
        if close {
            self.say("close and open", "close and open".to_owned());
            self.db()?.clone().close().map_err(told("close"))?;
            for held in &self.held {
                let Some(keyspace) = self.lives.iter().find_map(|life| life.handle.as_ref()) else { continue };
                let got = held.view.get(keyspace, "a");
                ensure!(matches!(got, Err(Error::Closed)), "a view of a closed database answers {got:?}");
            }
        } else {
            self.say("drop and open", "drop every handle and open".to_owned());
        }
        drop(self.let_go());
        if look {
            self.add(", read-only first");
            self.look_read_only()?;
        }
        self.open(false)
    }

    /// A crash that may lose nothing.
    fn crash(&mut self, end: End, late: bool, look: bool) -> Outcome {
        let Machine::Sim(sim) = &self.machine else { return self.reopen(false, look) };
        let sim = sim.clone();
        let persist = end == End::CutPersisted || end == End::CutSynced && self.unsynced;
        if persist {
            self.db()?.persist().map_err(told("persist"))?;
            self.unsynced = false;
        }
        let what = match (end, persist) {
            (End::Death, _) => "the process dies",
            (_, true) => "persist, cut the power",
            (_, false) => "cut the power",
        };
        let after = if late { ", old handles go later" } else { "" };
        self.say("crash", format!("{what}{after}, open{}", if look { ", read-only first" } else { "" }));
        if end == End::Death {
            self.machine = Machine::Sim(sim.fork());
        } else {
            sim.cut_power();
        }
        let mut old = Some(self.let_go());
        if !late {
            old = None;
        }
        if look {
            self.look_read_only()?;
        }
        self.open(false)?;
        drop(old);
        Ok(())
    }

    fn step(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Write { slot, write } => self.write(*slot, write),
            Op::Batch { writes, durability } => self.batch(writes, *durability),
            Op::CompareAndSwap { slot, key, right, new } => self.compare_and_swap(*slot, key, *right, *new),
            Op::InsertIfAbsent { slot, key, fill } => self.insert_if_absent(*slot, key, *fill),
            Op::Update { slot, key, new } => self.update(*slot, key, *new),
            Op::Snapshot => {
                let newest = self.newest();
                self.say("snapshot", format!("hold a snapshot @{newest}"));
                let held = self.held_at(self.db()?.snapshot(), newest)?;
                self.held.push(held);
                Ok(())
            }
            Op::AsOf { at } => self.as_of(self.moment(*at)),
            Op::DropView { which } => {
                if !self.held.is_empty() {
                    let held = self.held.swap_remove(which % self.held.len());
                    self.say("drop a view", format!("drop the view as of {} opened at {}", held.seqno, held.opened));
                }
                Ok(())
            }
            Op::HoldRange { slot, span } => {
                self.hold_range(*slot, span);
                Ok(())
            }
            Op::MoveRange { which, front, back } => self.move_range(*which, *front, *back),
            Op::Flush => {
                self.say("flush", "flush".to_owned());
                self.db()?.flush().map_err(told("flush"))
            }
            Op::Compact => {
                self.say("compact", "compact".to_owned());
                self.db()?.compact().map(drop).map_err(told("compact"))
            }
            Op::Persist => {
                self.say("persist", "persist".to_owned());
                self.unsynced = false;
                self.db()?.persist().map_err(told("persist"))
            }
            Op::Reopen { close, look } => self.reopen(*close, *look),
            Op::Crash { end, late, look } => self.crash(*end, *late, *look),
            Op::DropKeyspace { slot } => self.drop_keyspace(*slot),
            Op::CreateKeyspace { slot } => self.create_keyspace(*slot),
            Op::Wait { ms } => {
                self.say("wait", format!("wait {ms} ms"));
                if let Machine::Sim(sim) = &self.machine {
                    sim.set_time(sim.now() + Duration::from_millis(*ms));
                }
                Ok(())
            }
            Op::Present { dice } => {
                self.say("read the present", "read the present".to_owned());
                self.read_the_present(*dice)
            }
            Op::Held => self.read_held_views(),
            Op::LookBack { at, dice } => {
                let seqno = self.moment(*at);
                self.say("look back", format!("read as of {seqno}"));
                self.look_back(seqno, *dice)
            }
            Op::Verify => {
                self.say("verify", "verify".to_owned());
                let report = self.db()?.verify().map_err(told("verify"))?;
                ensure!(report.is_clean(), "verify finds {report}");
                Ok(())
            }
        }
    }
}

fn as_write(key: &'static [u8], new: Option<Fill>) -> Write {
    new.map_or(Write::Delete { key }, |fill| Write::Put { key, fill })
}

fn told(what: &str) -> impl Fn(Error) -> String {
    move |error| format!("{what}: {error}")
}

fn quoted(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}

fn shown(value: Option<&[u8]>) -> String {
    match value {
        None => "nothing".to_owned(),
        Some(value) if value.len() <= 12 => quoted(value),
        Some(value) => format!("{}… ({} bytes)", quoted(value.get(..8).unwrap_or_default()), value.len()),
    }
}

fn filled(new: Option<Fill>) -> String {
    shown(new.map(Fill::bytes).as_deref())
}

fn pair(key: &[u8], value: Option<&[u8]>) -> String {
    match value {
        None => quoted(key),
        Some(value) => format!("{}={}", quoted(key), shown(Some(value))),
    }
}

fn write_words(write: &Write) -> String {
    match write {
        Write::Put { key, fill } => format!("put {}", pair(key, Some(&fill.bytes()))),
        Write::Delete { key } => format!("delete {}", quoted(key)),
        Write::DeleteRange { span } => format!("delete_range {}", span.words()),
    }
}

/// Runs histories until the time is over, at least `at_least` of them, and prints what they did.
#[expect(clippy::print_stdout, reason = "counts are for the eye")]
fn run_histories(threads: bool, at_least: u64) {
    let number = |name: &str| var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let only = number("CHRONOLITH_MODEL_SEED");
    let end = Instant::now() + Duration::from_secs(number("CHRONOLITH_MODEL_SECONDS").unwrap_or(18));
    let mut totals = Counts::new();
    let (mut histories, mut operations) = (0, 0);
    while only.is_none_or(|_| histories == 0) && (Instant::now() < end || histories < at_least) {
        histories += 1;
        let history = History::draw(only.unwrap_or(histories), threads);
        let (words, counts, outcome) = history.run();
        operations += words.len();
        for (what, count) in counts {
            *totals.entry(what).or_default() += count;
        }
        let failure = outcome.err().map(|first| history.report(&first));
        assert!(failure.is_none(), "{}", failure.unwrap_or_default());
    }
    println!("{histories} histories, {operations} operations");
    for (what, count) in &totals {
        println!("{count:>10}  {what}");
    }
    let missing: Vec<_> =
        KINDS.iter().filter(|kind| !(totals.contains_key(**kind) || threads && **kind == "crash")).collect();
    assert!(only.is_some() || missing.is_empty(), "never generated: {missing:?}");
}

#[test]
fn any_history_on_a_simulated_machine_is_answered_as_by_the_model() {
    run_histories(false, 50);
}

#[test]
fn any_history_beside_background_threads_is_answered_as_by_the_model() {
    run_histories(true, 50);
}
