//! Random histories against a model that forgets nothing: a map from each key to all that was ever said of it. What that amounts to at a
//! moment, the model works out from the whole list, by the rules of the keyspace's merge strategy.
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
//! | `CHRONOLITH_MODEL_FIRST` | the seed to begin with; by default 1 |
//! | `CHRONOLITH_MODEL_LIKE` | words that a failure must have for a shorter script to count |
//! | `CHRONOLITH_MODEL_HUNT` | with any value: tells every seed that fails in one line, instead of the shortest script of the first |

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, VecDeque},
    env::var,
    fmt::Write as _,
    ops::Bound::{self, Excluded, Included, Unbounded},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use chronolith::{
    Bytes, Cursor, Db, Durability, Error, Keyspace, KeyspaceOptions, Options, Range, Receipt, View, env,
    merge::append_items,
};
use dice::Dice;
use past::{Era, HOUR, Keeping, Life, MINUTE, Moment, SECOND, Said, What, micros, time_of};
use strategies::Strategy;
use tempfile::TempDir;
use world::Stamp;

/// Every key that is ever written, in order; many are prefixes of others.
const KEYS: [&[u8]; 13] =
    [b"", b"\0", b"a", b"a\0", b"aa", b"ab", b"abc", b"b", b"ba", b"c", b"\xfe", b"\xff", b"\xff\xff"];

/// Ends of ranges besides them.
const BETWEEN: [&[u8]; 5] = [b"a\0\0", b"aaa", b"bb", b"zz", b"\xff\xff\xff"];

const NAMES: [&str; 3] = ["one", "two", "three"];

/// Names of pins.
const PINS: [&str; 3] = ["p", "q", "r"];

/// Lengths at which something changes: inline, copied, shared, more than a page.
const EDGES: [usize; 8] = [0, 1, 30, 31, 512, 513, 4096, 4097];

/// The longest value that a keyspace takes whose strategy folds.
const FOLDED_MAX: usize = 1 << 20;

/// What `Strategy::Fragile` combines is at most so long.
const FRAGILE_MAX: usize = 40;

/// What a generator must not stop generating.
const KINDS: [&str; 53] = [
    "put",
    "merge",
    "many operands",
    "refused as invalid",
    "refused as a duplicate",
    "first values kept",
    "values that cannot be folded",
    "appended lists read",
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
    "open a keyspace late",
    "configure",
    "wait",
    "read the present",
    "read held views",
    "look back",
    "verify",
    "purge",
    "purge_prefix",
    "as_of_time",
    "look back at a time",
    "read histories",
    "compare moments",
    "read commits",
    "pin",
    "unpin",
    "read pins",
    "hold a pin",
    "set a policy",
    "set a time to live",
    "a time to live is refused",
    "copy a moment",
    "step the wall clock",
    "crash at a call",
    "purged bytes looked for",
];

/// Those for which the machine must be a simulated one.
const SIMULATED: [&str; 4] = ["crash", "crash at a call", "step the wall clock", "purged bytes looked for"];

type Value = Arc<[u8]>;
type Outcome<T = ()> = Result<T, String>;

macro_rules! ensure {
    ($holds:expr, $($words:tt)+) => {
        if !$holds {
            return Err(format!($($words)+));
        }
    };
}

#[path = "../support/dice.rs"]
#[expect(dead_code, reason = "a part of it is for other tests")]
mod dice;
mod past;
#[path = "../support/strategies.rs"]
#[expect(dead_code, reason = "a part of it is for other tests")]
mod strategies;
mod world;

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

const STRATEGIES: [Strategy; 8] = [
    Strategy::LastWins,
    Strategy::FirstWins,
    Strategy::Sum,
    Strategy::Append,
    Strategy::ErrorOnDuplicate,
    Strategy::Joined("|"),
    Strategy::Ends,
    Strategy::Fragile(FRAGILE_MAX),
];

/// Whether a put or merge can have this value.
fn takes(strategy: Strategy, value: &[u8]) -> bool {
    (strategy != Strategy::Sum || value.len() == 8) && (!strategy.folds() || value.len() <= FOLDED_MAX)
}

/// What all that was said of a key amounts to.
fn fold(strategy: Strategy, said: &[Said]) -> State {
    let deleted = said.iter().rposition(|said| matches!(said.what, What::Delete));
    let since = said.get(deleted.map_or(0, |at| at + 1)..).unwrap_or_default();
    let base = since.iter().rposition(|said| matches!(said.what, What::Put(_)));
    let counting = if strategy.folds() {
        since.get(base.unwrap_or(0)..).unwrap_or_default()
    } else {
        // What came second where the first counts was never said.
        since.last_chunk::<1>().map_or(&[][..], |last| last)
    };
    if counting.is_empty() {
        return State::Absent;
    }
    let values = counting.iter().filter_map(|said| match &said.what {
        What::Put(value) | What::Merge(value) => Some(&**value),
        What::Delete => None,
    });
    strategy.fold(values).map_or(State::Unfoldable, |value| State::Is(value.into()))
}

/// What a key is at some moment.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Absent,
    Is(Value),
    /// There is something, and no value for it: a read answers an error that names the key.
    Unfoldable,
}

impl State {
    fn is_absent(&self) -> bool {
        *self == Self::Absent
    }

    /// Whether this is what a read of the key must answer.
    fn is_told_by(&self, key: &[u8], got: &chronolith::Result<Option<Bytes>>) -> bool {
        match (self, got) {
            (Self::Absent, Ok(None)) => true,
            (Self::Is(value), Ok(Some(got))) => **got == **value,
            (Self::Unfoldable, Err(error)) => names(error, key),
            _ => false,
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Absent => shown(None),
            Self::Is(value) => shown(Some(value)),
            Self::Unfoldable => "an error".to_owned(),
        }
    }
}

/// Whether an error says that this key's values cannot be folded.
fn names(error: &Error, key: &[u8]) -> bool {
    matches!(error, Error::Invalid { what } if what.contains(&quoted(key)))
}

/// Whether an error says that of some key: a walk goes on behind it.
fn is_of_a_key(error: &Error) -> bool {
    matches!(error, Error::Invalid { what } if what.contains("key \""))
}

/// A value that tells where it was written.
#[derive(Clone, Copy, Debug)]
struct Fill {
    tag: usize,
    len: usize,
}

/// Of a value so many bytes say which one it is.
const MARK_LEN: usize = 7;

impl Fill {
    fn bytes(self, strategy: Strategy) -> Value {
        let (tag, mut len) = (self.tag, self.len);
        if strategy == Strategy::Sum && ![31, 513].contains(&len) {
            // Close to the edges now and then, so that sums leave them and come back.
            let small = i64::try_from(tag).unwrap_or(0);
            let number = match tag * 7 % 16 {
                0..3 => i64::MAX - small % 3,
                3..6 => i64::MIN + small % 3,
                6 => i64::MAX / 2 + small,
                7 => i64::MIN / 2 - small,
                8..12 => small,
                _ => -small,
            };
            return Value::from(number.to_le_bytes());
        }
        if !strategy.folds() {
            len = len.min(200_000);
        }
        let mark = if matches!(strategy, Strategy::Fragile(_)) && tag.is_multiple_of(12) { "!" } else { "v" };
        format!("{mark}{tag:05}.").bytes().cycle().take(len).collect()
    }
}

#[derive(Clone, Debug)]
enum Write {
    Put { key: &'static [u8], fill: Fill },
    Merge { key: &'static [u8], fill: Fill },
    Delete { key: &'static [u8] },
    DeleteRange { span: Span },
    Purge { key: &'static [u8] },
    PurgePrefix { prefix: &'static [u8] },
}

impl Write {
    fn key(&self) -> Option<&'static [u8]> {
        match self {
            Self::Put { key, .. } | Self::Merge { key, .. } | Self::Delete { key } | Self::Purge { key } => Some(key),
            Self::DeleteRange { .. } | Self::PurgePrefix { .. } => None,
        }
    }

    fn purges(&self, key: &[u8]) -> bool {
        match self {
            Self::Purge { key: purged } => *purged == key,
            Self::PurgePrefix { prefix } => key.starts_with(prefix),
            _ => false,
        }
    }
}

/// One operation: plain data, so that any part of a history can be run again. What it names and is not there makes it nothing.
#[derive(Clone, Debug)]
enum Op {
    Write {
        slot: usize,
        write: Write,
    },
    Batch {
        writes: Vec<(usize, Write)>,
        durability: Option<Durability>,
    },
    /// `count` operands of one key in a row, in batches of `each`.
    Operands {
        slot: usize,
        key: &'static [u8],
        fill: Fill,
        count: usize,
        each: usize,
    },
    CompareAndSwap {
        slot: usize,
        key: &'static [u8],
        right: bool,
        new: Option<Fill>,
    },
    InsertIfAbsent {
        slot: usize,
        key: &'static [u8],
        fill: Fill,
    },
    Update {
        slot: usize,
        key: &'static [u8],
        new: Option<Fill>,
    },
    Snapshot,
    AsOf {
        at: usize,
    },
    DropView {
        which: usize,
    },
    HoldRange {
        slot: usize,
        span: Span,
    },
    MoveRange {
        which: usize,
        front: usize,
        back: usize,
    },
    Flush,
    Compact,
    Persist,
    Reopen {
        close: bool,
        opening: Opening,
    },
    Crash {
        end: End,
        late: bool,
        opening: Opening,
    },
    DropKeyspace {
        slot: usize,
    },
    CreateKeyspace {
        slot: usize,
        kind: Kind,
    },
    Configure {
        slot: usize,
        index: bool,
    },
    Wait {
        us: u64,
    },
    StepWall {
        us: u64,
        back: bool,
    },
    AsOfTime {
        at: usize,
        shift: Shift,
    },
    LookAtTime {
        at: usize,
        shift: Shift,
    },
    Histories {
        at: usize,
        dice: u64,
    },
    Differences {
        before: usize,
        after: usize,
    },
    Commits {
        dice: u64,
    },
    Pin {
        which: usize,
    },
    Unpin {
        which: usize,
    },
    Pinned {
        which: usize,
        hold: bool,
    },
    SetPolicy {
        slot: usize,
        keeping: Keeping,
    },
    SetTtl {
        slot: usize,
        ttl: u64,
    },
    CopyMoment {
        at: usize,
        dice: u64,
    },
    /// The power goes at a call while everything is flushed or compacted.
    CrashAt {
        calls: u64,
        compact: bool,
        opening: Opening,
    },
    Present {
        dice: u64,
    },
    Held,
    LookBack {
        at: usize,
        dice: u64,
    },
    Verify,
}

/// What a keyspace is created with.
#[derive(Clone, Copy, Debug)]
struct Kind {
    strategy: Strategy,
    index: Option<bool>,
    keeping: Keeping,
    /// In microseconds; 0 is for ever.
    ttl: u64,
}

/// Where a time lies.
#[derive(Clone, Copy, Debug)]
enum Shift {
    /// So many microseconds before a commit, at it, or after it.
    By(i64),
    /// Halfway to the next commit.
    Halfway,
    Now,
    Future,
    Beginning,
}

const SHIFTS: [Shift; 10] = [
    Shift::By(0),
    Shift::By(0),
    Shift::By(0),
    Shift::By(1),
    Shift::By(-1),
    Shift::Halfway,
    Shift::Halfway,
    Shift::Now,
    Shift::Future,
    Shift::Beginning,
];

/// How the database is opened again.
#[derive(Clone, Copy, Debug, Default)]
struct Opening {
    /// Read-only first.
    look: bool,
    /// What is done before any keyspace is opened: custom strategies are not given yet.
    before: Before,
    /// Keyspaces with a custom strategy are left for later.
    wait: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum Before {
    #[default]
    Nothing,
    Flush,
    Compact,
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
    kinds: [Kind; NAMES.len()],
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
        // A third of the histories know nothing of merge strategies.
        let plain = dice.one_in(3);
        let mut kind = || Kind::draw(&mut dice, plain, threads);
        let kinds = [kind(), kind(), kind()];
        let setup = Setup {
            kinds,
            l0_threshold: 1 + dice.below(4),
            level_ratio: 2 + dice.next() % 3,
            mmap: dice.one_in(2),
            durability: dice.of(&DURABILITIES).unwrap_or_default(),
        };
        let fat = dice.one_in(8);
        let len = if fat { 40 + dice.below(80) } else { 20 + dice.below(200) };
        // Some histories hold many views, some hardly any: then more of the past goes.
        let views = dice.of(&[0, 2, 6]).unwrap_or(2);
        // In some nearly everything happens to a few keys, and in some of those they get hundreds of operands.
        let hot = if fat || dice.one_in(2) {
            (0..=dice.below(3)).filter_map(|_| dice.of(&KEYS)).collect()
        } else {
            Vec::new()
        };
        let chains = !fat && dice.one_in(3);
        let mut author = Author { dice, threads, fat, views, plain, hot, chains, tag: 0 };
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
            world.open(false, Opening::default())?;
            let mut kinds = self.setup.kinds.into_iter().enumerate();
            kinds.try_for_each(|(slot, kind)| world.create_keyspace(slot, kind))?;
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
        let like = var("CHRONOLITH_MODEL_LIKE").unwrap_or_default();
        (0..if self.threads { 5 } else { 1 }).any(|_| self.run().2.is_err_and(|wrong| wrong.contains(&like)))
    }

    /// Leaves out what the failure does not need: halves first, single operations last, then parts of batches and operands.
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
            for fewer_by in [usize::MAX, 100, 10, 1] {
                while let Some(Op::Operands { count, .. }) = self.ops.get(at)
                    && *count > 1
                    && Instant::now() < end
                {
                    let mut fewer = self.clone();
                    if let Some(Op::Operands { count, .. }) = fewer.ops.get_mut(at) {
                        *count -= fewer_by.min(count.div_ceil(2)).min(*count - 1);
                    }
                    if !fewer.fails() {
                        break;
                    }
                    self = fewer;
                }
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
#[expect(clippy::struct_excessive_bools, reason = "each says another thing of a history")]
struct Author {
    dice: Dice,
    threads: bool,
    fat: bool,
    views: usize,
    plain: bool,
    hot: Vec<&'static [u8]>,
    chains: bool,
    tag: usize,
}

impl Kind {
    fn draw(dice: &mut Dice, plain: bool, threads: bool) -> Self {
        let strategy = if plain { None } else { dice.of(&STRATEGIES) };
        let strategy = strategy.unwrap_or(Strategy::LastWins);
        let index = dice.of(&[None, None, Some(true), Some(true), Some(false)]).flatten();
        let ttl = if strategy.folds() || !dice.one_in(3) { 0 } else { draw_ttl(dice, threads) };
        Self { strategy, index, keeping: Keeping::draw(dice), ttl }
    }
}

/// Beside threads nothing may expire while it is looked at.
fn draw_ttl(dice: &mut Dice, threads: bool) -> u64 {
    let ttls = if threads { [0, HOUR, HOUR, 30 * HOUR] } else { [0, SECOND, MINUTE, HOUR] };
    dice.of(&ttls).unwrap_or(0)
}

impl Author {
    fn key(&mut self) -> &'static [u8] {
        let hot = if self.dice.one_in(6) { None } else { self.dice.of(&self.hot) };
        hot.or_else(|| self.dice.of(&KEYS)).unwrap_or_default()
    }

    fn opening(&mut self) -> Opening {
        let before = self.dice.of(&[Before::Nothing, Before::Nothing, Before::Flush, Before::Compact]);
        Opening { look: self.dice.one_in(3), before: before.unwrap_or_default(), wait: self.dice.one_in(2) }
    }

    /// A put or a merge.
    fn value(&mut self, key: &'static [u8]) -> Write {
        let fill = self.fill();
        if self.dice.one_in(3) { Write::Put { key, fill } } else { Write::Merge { key, fill } }
    }

    fn slot(&mut self) -> usize {
        // The first keyspace gets most: a deep past there, a flat one elsewhere.
        self.dice.of(&[0, 0, 0, 1, 2]).unwrap_or(0)
    }

    fn fill(&mut self) -> Fill {
        self.tag += 1;
        let len = match self.dice.below(100) {
            0..25 if self.fat => 60_000 + self.dice.below(140_000),
            25 if self.fat => FOLDED_MAX + self.dice.below(2),
            0..8 => self.dice.of(&EDGES).unwrap_or(0),
            8..12 => 513 + self.dice.below(1500),
            12..15 => 4097 + self.dice.below(5000),
            _ => 7 + self.dice.below(6),
        };
        Fill { tag: self.tag, len }
    }

    fn maybe_fill(&mut self) -> Option<Fill> {
        (!self.dice.one_in(4)).then(|| self.fill())
    }

    fn write(&mut self, keys: &[&'static [u8]]) -> Write {
        let key = self.dice.of(keys).unwrap_or_else(|| self.key());
        match self.dice.below(20) {
            0..12 => self.value(key),
            12..16 => Write::Delete { key },
            16 if self.dice.one_in(2) => self.purge(),
            _ => Write::DeleteRange { span: Span::draw(&mut self.dice) },
        }
    }

    fn purge(&mut self) -> Write {
        let key = self.key();
        // Not all that often everything.
        if self.dice.one_in(3) && !key.is_empty() { Write::PurgePrefix { prefix: key } } else { Write::Purge { key } }
    }

    /// What has to do with the past and its rules.
    fn past(&mut self) -> Op {
        let (slot, at, dice) = (self.slot(), self.dice.below(1 << 20), self.dice.next());
        let shift = self.dice.of(&SHIFTS).unwrap_or(Shift::Now);
        match self.dice.below(30) {
            0..7 => {
                let us = self.dice.of(&[MINUTE, 10 * MINUTE, HOUR, 2 * HOUR, 30 * HOUR, 60 * SECOND - 1]);
                Op::Wait { us: us.unwrap_or(MINUTE) }
            }
            7 => {
                let us = self.dice.of(&[SECOND / 10, 10 * SECOND, HOUR, 30 * HOUR, 87_600 * HOUR]);
                Op::StepWall { us: us.unwrap_or(HOUR), back: self.dice.one_in(2) }
            }
            8..10 if self.views > 0 => Op::AsOfTime { at, shift },
            8..12 => Op::LookAtTime { at, shift },
            12..15 => Op::Histories { at, dice },
            15 => Op::Differences { before: at, after: self.dice.below(1 << 20) },
            16 => Op::Commits { dice },
            17 => Op::Pin { which: self.dice.below(PINS.len()) },
            18 => Op::Unpin { which: self.dice.below(PINS.len()) },
            19 => Op::Pinned { which: at, hold: self.dice.one_in(3) },
            20..23 => Op::Write { slot, write: self.purge() },
            23 => Op::SetPolicy { slot, keeping: Keeping::draw(&mut self.dice) },
            24 => Op::SetTtl { slot, ttl: draw_ttl(&mut self.dice, self.threads) },
            25 if self.dice.one_in(2) => Op::CopyMoment { at, dice },
            26 => {
                let calls = self.dice.next() % 60;
                Op::CrashAt { calls, compact: !self.dice.one_in(3), opening: self.opening() }
            }
            _ => Op::Compact,
        }
    }

    fn batch(&mut self) -> Op {
        let slots = [self.slot(), self.slot()];
        // Half of them say several things of one or two keys.
        let keys = if self.dice.one_in(2) { vec![self.key(), self.key()] } else { Vec::new() };
        let count = self.dice.below(7);
        let writes = (0..count).map(|_| (self.dice.of(&slots).unwrap_or(0), self.write(&keys))).collect();
        let durability = if self.dice.one_in(3) { self.dice.of(&DURABILITIES) } else { None };
        Op::Batch { writes, durability }
    }

    fn operation(&mut self) -> Op {
        let slot = self.slot();
        if self.dice.one_in(4) {
            return self.past();
        }
        match self.dice.below(100) {
            0 if self.chains => {
                let (key, fill) = (self.key(), self.fill());
                let (count, each) = (200 + self.dice.below(400), 1 + self.dice.below(40));
                self.tag += count;
                Op::Operands { slot, key, fill: Fill { len: fill.len.min(31), ..fill }, count, each }
            }
            0..30 => {
                let key = self.key();
                Op::Write { slot, write: self.value(key) }
            }
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
            91..93 => Op::Wait { us: 1000 * self.dice.of(&[1, 60, 200, 5000]).unwrap_or(1) },
            93 => Op::Reopen { close: self.dice.one_in(2), opening: self.opening() },
            94..96 => {
                let end = self.dice.of(&[End::CutPersisted, End::CutSynced, End::Death]).unwrap_or(End::Death);
                Op::Crash { end, late: self.dice.one_in(2), opening: self.opening() }
            }
            96 => Op::DropKeyspace { slot },
            97 => Op::HoldRange { slot, span: Span::draw(&mut self.dice) },
            98 => self.create(),
            _ if self.dice.one_in(4) => Op::Verify,
            _ if self.dice.one_in(3) => Op::Configure { slot, index: self.dice.one_in(2) },
            _ => Op::DropView { which: self.dice.below(1 << 20) },
        }
    }

    fn create(&mut self) -> Op {
        let slot = self.dice.below(NAMES.len());
        Op::CreateKeyspace { slot, kind: Kind::draw(&mut self.dice, self.plain, self.threads) }
    }

    fn look(&mut self, ops: &mut Vec<Op>) {
        if self.dice.one_in(4) {
            // Keyspaces that were dropped come back sooner or later, and so do those that were left unopened.
            ops.push(self.create());
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
        if self.dice.one_in(3) {
            let shift = self.dice.of(&SHIFTS).unwrap_or(Shift::Now);
            ops.push(Op::LookAtTime { at: self.dice.below(1 << 20), shift });
        }
        if self.dice.one_in(3) {
            ops.push(Op::Histories { at: self.dice.below(1 << 20), dice: self.dice.next() });
        }
        if self.dice.one_in(6) {
            ops.push(Op::Pinned { which: self.dice.below(1 << 20), hold: false });
            ops.push(Op::Commits { dice: self.dice.next() });
        }
    }
}

/// A view that is held, with what must hold of it.
#[derive(Debug)]
struct Held {
    view: View,
    seqno: u64,
    /// Its time: what had expired by then is gone.
    time: u64,
    /// The newest commit when it was opened.
    opened: u64,
    /// It shows what was the present when it was opened, or has been kept since it was: nothing is refused.
    safe: bool,
    /// It goes on reading keyspaces that were dropped after its moment.
    pinned: bool,
    /// What it has answered, or must have been able to answer when it was opened: that stays.
    exact: BTreeSet<(usize, &'static [u8])>,
    /// Lives of which a whole scan was exact.
    exact_scans: BTreeSet<usize>,
}

impl Held {
    fn moment(&self) -> Moment {
        Moment { seqno: self.seqno, time: self.time, opened: self.opened }
    }
}

/// A range that is half read, and what must still come.
#[derive(Debug)]
struct HeldRange {
    range: Range,
    rest: VecDeque<(&'static [u8], State)>,
    /// The newest commit when it was opened.
    opened: u64,
    words: String,
}

#[derive(Clone, Debug)]
enum Machine {
    Sim(env::Sim),
    Memory(env::Memory),
    /// A directory of this one's own, which is the current one of the process.
    Disk(#[expect(dead_code, reason = "it goes when the machine does")] Arc<TempDir>),
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

/// A key with its value, which is missing where only keys were asked for; or the error in its place.
type Item = chronolith::Result<(Bytes, Option<Bytes>)>;

/// What a walk gave: from the front, from the back, and the error that ended it.
#[derive(Debug, Default)]
struct Walked {
    front: Vec<Item>,
    back: Vec<Item>,
    wrong: Option<Error>,
}

impl Walked {
    fn take(&mut self, backward: bool, item: Item) -> Outcome {
        ensure!(self.wrong.is_none(), "an item after {:?}: {item:?}", self.wrong);
        match item {
            Err(error) if !is_of_a_key(&error) => self.wrong = Some(error),
            item if backward => self.back.push(item),
            item => self.front.push(item),
        }
        ensure!(self.front.len() + self.back.len() <= KEYS.len(), "a walk that does not end");
        Ok(())
    }

    fn of(mut range: Range, manner: Manner, dice: &mut Dice) -> Outcome<Self> {
        let mut walked = Self::default();
        match manner {
            Manner::Keys | Manner::KeysBackward => {
                let mut keys = range.keys();
                let backward = matches!(manner, Manner::KeysBackward);
                while let Some(item) = if backward { keys.next_back() } else { keys.next() } {
                    walked.take(backward, item.map(|key| (key, None)))?;
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
                    let Some(item) = item else { break };
                    walked.take(backward, item.map(|(key, value)| (key, Some(value))))?;
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
                Ok(Some((key, value))) => walked.front.push(Ok((key.into(), Some(value.into())))),
                Ok(None) => break,
                Err(error) if is_of_a_key(&error) => walked.front.push(Err(error)),
                Err(error) => {
                    walked.wrong = Some(error);
                    break;
                }
            }
        }
        walked
    }

    /// That the items are those expected: all of them, or before a refusal a part at either end. In the place of a key
    /// that cannot be folded is an error.
    fn check(&self, expected: &[(&'static [u8], State)]) -> Outcome {
        let fits = |got: &Item, wanted: &(&'static [u8], State)| match (got, &wanted.1) {
            (Ok((key, got)), State::Is(value)) => **key == *wanted.0 && got.as_ref().is_none_or(|got| **got == **value),
            (Err(error), State::Unfoldable) => names(error, wanted.0),
            _ => false,
        };
        let left = expected.len().checked_sub(self.front.len() + self.back.len());
        let ended = match &self.wrong {
            None => left == Some(0),
            Some(Error::HistoryTrimmed { .. }) => left.is_some(),
            Some(_) => false,
        };
        let front = self.front.iter().zip(expected).all(|(got, wanted)| fits(got, wanted));
        let back = self.back.iter().zip(expected.iter().rev()).all(|(got, wanted)| fits(got, wanted));
        let got = || {
            let wrong = self.wrong.iter().map(|error| format!("({error})"));
            let told = |item: &Item| match item {
                Ok((key, value)) => pair(key, value.as_deref()),
                Err(error) => format!("({error})"),
            };
            let front = self.front.iter().map(told);
            let back = self.back.iter().rev().map(told);
            front.chain(wrong).chain(back).collect::<Vec<_>>().join(" ")
        };
        let wanted = || expected.iter().map(stated).collect::<Vec<_>>().join(" ");
        ensure!(ended && front && back, "[{}], and the model says [{}]", got(), wanted());
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
    /// Those that are batches.
    stamps: Vec<Stamp>,
    /// The latest time of the database that was seen.
    latest: Cell<u64>,
    /// Later commits are later than this.
    fixed: u64,
    /// By name: the commit and its time.
    pins: BTreeMap<&'static str, (u64, u64)>,
    /// Values that were purged, and by which commits.
    purged: Vec<(u64, Vec<u8>)>,
    copies: usize,
    /// Something was acknowledged that a power cut may take.
    unsynced: bool,
    words: Vec<String>,
    counts: Counts,
}

impl World {
    #[expect(clippy::panic, reason = "a test fails by panicking")]
    fn new(history: &History) -> Self {
        let machine = if is_on_disk() {
            let own = tempfile::tempdir().unwrap_or_else(|error| panic!("a directory: {error}"));
            std::env::set_current_dir(own.path()).unwrap_or_else(|error| panic!("its directory: {error}"));
            Machine::Disk(Arc::new(own))
        } else if history.threads {
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
            stamps: Vec::new(),
            latest: Cell::new(0),
            fixed: 0,
            pins: BTreeMap::new(),
            purged: Vec::new(),
            copies: 0,
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

    fn open(&mut self, read_only: bool, opening: Opening) -> Outcome {
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
            Machine::Disk(_) => options,
        };
        if let Machine::Sim(sim) = &self.machine
            && micros(sim.now()) < self.latest.get()
        {
            // A machine whose clock was put right: else values could have expired by a time that is still to come.
            sim.set_time(time_of(self.latest.get()));
        }
        let db = options.open("model.db").map_err(|e| format!("open: {e}"))?;
        match opening.before {
            _ if read_only => {}
            Before::Nothing => {}
            Before::Flush => db.flush().map_err(told("flush before the keyspaces are open"))?,
            Before::Compact => db.compact().map(drop).map_err(told("compact before the keyspaces are open"))?,
        }
        for life in self.slots.into_iter().flatten() {
            let Some(life) = self.lives.get_mut(life) else { continue };
            if opening.wait && life.strategy.is_custom() {
                continue;
            }
            life.handle = Some(open_keyspace(&db, life, !opening.wait && !read_only)?);
        }
        let newest = u64::from(db.snapshot().seqno());
        ensure!(newest == self.newest(), "opened at seqno {newest}, and the newest commit was {}", self.newest());
        self.db = Some(db);
        self.now();
        Ok(())
    }

    /// Everything that must go before the database is closed by the drop of its last handle.
    fn let_go(&mut self) -> (Option<Db>, Vec<Held>, Vec<HeldRange>, Vec<Option<Keyspace>>) {
        let handles = self.lives.iter_mut().map(|life| life.handle.take()).collect();
        (self.db.take(), std::mem::take(&mut self.held), std::mem::take(&mut self.ranges), handles)
    }

    fn look_read_only(&mut self) -> Outcome {
        self.count("open read-only");
        self.open(true, Opening::default())?;
        self.read_the_present(1)?;
        for at in [1, 5, 12] {
            self.look_back(self.moment(at * 7919), 1)?;
        }
        if let Some((_, keyspace)) = self.alive(0) {
            let refused = keyspace.put("a", "readonly");
            ensure!(matches!(refused, Err(Error::Invalid { .. })), "a write to a read-only database: {refused:?}");
        }
        drop(self.let_go());
        Ok(())
    }

    /// Creates a keyspace, or opens the one that was left unopened.
    fn create_keyspace(&mut self, slot: usize, kind: Kind) -> Outcome {
        let db = self.db()?.clone();
        if let Some(Some(at)) = self.slots.get(slot).copied() {
            if let Some(life) = self.lives.get_mut(at).filter(|life| life.handle.is_none()) {
                life.handle = Some(open_keyspace(&db, life, true)?);
                let words = format!("open {} with its strategy", life.name);
                self.say("open a keyspace late", words);
            }
            return Ok(());
        }
        let Some(&name) = NAMES.get(slot) else { return Ok(()) };
        let Kind { strategy, index, keeping, ttl } = kind;
        self.say(
            "create a keyspace",
            format!("create {name} under {strategy:?}, {keeping:?}, ttl {ttl}, point index {index:?}"),
        );
        let mut asked = options(strategy, index).policy(keeping.policy());
        if ttl > 0 {
            asked = asked.ttl(Duration::from_micros(ttl));
        }
        let handle = db.keyspace(name, asked).map_err(told("keyspace"))?;
        let born = u64::from(db.snapshot().seqno());
        ensure!(born > self.newest(), "the creation has seqno {born}, after {}", self.newest());
        self.changed(born)?;
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(self.lives.len());
        }
        self.lives.push(Life {
            name,
            strategy,
            index,
            born,
            dropped: None,
            handle: Some(handle),
            keys: BTreeMap::new(),
            purges: BTreeMap::new(),
            ranges: Vec::new(),
            eras: vec![Era { keeping, since: self.now(), until: None }],
            ttls: vec![(born, ttl)],
            horizon: 0,
            folded: RefCell::default(),
        });
        Ok(())
    }

    /// Sets whether segments that come get a point index: a change with a seqno of its own, if it is one.
    fn configure(&mut self, slot: usize, index: bool) -> Outcome {
        let Some((at, keyspace)) = self.alive(slot) else { return Ok(()) };
        let Some(life) = self.lives.get_mut(at) else { return Ok(()) };
        let changes = life.index != Some(index);
        life.index = Some(index);
        let options = options(life.strategy, Some(index));
        self.say("configure", format!("{}: point index {index}", keyspace.name()));
        let db = self.db()?.clone();
        db.keyspace(keyspace.name(), options).map_err(told("keyspace"))?;
        let seqno = u64::from(db.snapshot().seqno());
        ensure!((seqno > self.newest()) == changes, "setting an option leads to {seqno}, after {}", self.newest());
        if changes {
            self.changed(seqno)?;
        }
        Ok(())
    }

    /// A change that is not a batch has taken a seqno, behind everything before it.
    fn changed(&mut self, seqno: u64) -> Outcome {
        self.add(&format!(" @{seqno}"));
        self.commits.push(seqno);
        self.unsynced = false;
        let view = self.db()?.as_of(seqno).map_err(told("as_of a change"))?;
        let (time, last) = (micros(view.time()), self.stamps.last().map_or(0, |stamp| stamp.time));
        ensure!(time >= last && time > self.fixed, "changed at the time {time}, after {last} and {}", self.fixed);
        self.stamps.push(Stamp { seqno, time, writes: (0, 0), decides: true });
        Ok(())
    }

    fn drop_keyspace(&mut self, slot: usize) -> Outcome {
        // Also one that is not open, for want of its strategy.
        let Some(at) = self.slots.get(slot).copied().flatten() else { return Ok(()) };
        let Some(name) = self.lives.get(at).map(|life| life.name) else { return Ok(()) };
        self.say("drop a keyspace", format!("drop {name}"));
        let db = self.db()?.clone();
        db.drop_keyspace(name).map_err(told("drop_keyspace"))?;
        let dropped = u64::from(db.snapshot().seqno());
        ensure!(dropped > self.newest(), "the drop has seqno {dropped}, after {}", self.newest());
        self.changed(dropped)?;
        if let Some(life) = self.lives.get_mut(at) {
            life.dropped = Some(dropped);
        }
        if let Some(place) = self.slots.get_mut(slot) {
            *place = None;
        }
        if let Some(keyspace) = self.handle(at) {
            let refused = keyspace.put("a", "dropped!");
            ensure!(matches!(refused, Err(Error::Invalid { .. })), "a write to a dropped keyspace: {refused:?}");
        }
        Ok(())
    }

    fn strategy(&self, life: usize) -> Strategy {
        self.lives.get(life).map_or(Strategy::LastWins, |life| life.strategy)
    }

    /// Which outcomes a batch may have.
    fn judge(&self, writes: &[(usize, Write)]) -> Judged {
        let mut there: BTreeMap<(usize, &[u8]), bool> = BTreeMap::new();
        // Of keys with a base in the batch: the sum, and whether an overflow has to be seen.
        let mut sums: BTreeMap<(usize, &[u8]), (i128, bool)> = BTreeMap::new();
        let mut duplicate = None;
        for (life, write) in writes {
            let (life, strategy) = (*life, self.strategy(*life));
            match write {
                Write::Put { key, fill } | Write::Merge { key, fill } => {
                    let value = fill.bytes(strategy);
                    if !takes(strategy, &value) {
                        return Judged { applied: false, invalid: true, duplicate: None };
                    }
                    if strategy.decides() {
                        let is_there =
                            there.entry((life, key)).or_insert_with(|| !self.value_now(life, key).is_absent());
                        if *is_there && strategy == Strategy::ErrorOnDuplicate {
                            duplicate = duplicate.or(Some(*key));
                        }
                        *is_there = true;
                    }
                    if strategy == Strategy::Sum {
                        let number = i128::from(<[u8; 8]>::try_from(&*value).map_or(0, i64::from_le_bytes));
                        if matches!(write, Write::Put { .. }) {
                            sums.insert((life, key), (number, true));
                        } else if let Some((sum, _)) = sums.get_mut(&(life, *key)) {
                            *sum += number;
                        }
                    }
                }
                Write::Delete { key } => {
                    there.insert((life, key), false);
                    sums.insert((life, key), (0, true));
                }
                Write::DeleteRange { span } => {
                    for key in KEYS.into_iter().filter(|key| span.holds(key)) {
                        there.insert((life, key), false);
                        sums.insert((life, key), (0, false));
                    }
                }
                Write::Purge { .. } | Write::PurgePrefix { .. } => {
                    for key in KEYS.into_iter().filter(|key| write.purges(key)) {
                        there.insert((life, key), false);
                        sums.insert((life, key), (0, matches!(write, Write::Purge { .. })));
                    }
                }
            }
        }
        let mut overflowing = sums.values().filter(|(sum, _)| i64::try_from(*sum).is_err()).map(|(_, seen)| *seen);
        let seen = overflowing.next().map(|seen| seen || overflowing.any(|seen| seen));
        Judged { applied: duplicate.is_none() && seen != Some(true), invalid: seen.is_some(), duplicate }
    }

    /// Holds what became of a batch against what may, and takes a commit into the model.
    fn settle(
        &mut self,
        result: chronolith::Result<Receipt>,
        judged: Judged,
        writes: &[(usize, Write)],
        durability: Option<Durability>,
    ) -> Outcome {
        match result {
            Ok(receipt) if judged.applied => return self.committed(receipt, writes, durability),
            Err(Error::Invalid { .. }) if judged.invalid => self.refused("refused as invalid")?,
            Err(Error::Duplicate { key }) if judged.duplicate == Some(&*key) => {
                self.refused("refused as a duplicate")?;
            }
            Ok(receipt) => return Err(format!("committed at {}, and it must be {judged:?}", receipt.seqno)),
            Err(error) => return Err(format!("{error}; and it must be {judged:?}")),
        }
        Ok(())
    }

    /// A batch was refused: nothing of it may be there.
    fn refused(&mut self, how: &'static str) -> Outcome {
        self.count(how);
        self.add(&format!(" ({how})"));
        let newest = u64::from(self.db()?.snapshot().seqno());
        ensure!(newest == self.newest(), "after a refused batch the newest commit is {newest}, not {}", self.newest());
        Ok(())
    }

    /// Takes a commit into the model.
    fn committed(&mut self, receipt: Receipt, writes: &[(usize, Write)], durability: Option<Durability>) -> Outcome {
        let seqno = u64::from(receipt.seqno);
        self.add(&format!(" @{seqno}"));
        let void = writes.iter().all(|(_, write)| matches!(write, Write::DeleteRange { span } if span.is_void()));
        if void && (seqno == self.newest() || !writes.iter().any(|(life, _)| self.strategy(*life).decides())) {
            ensure!(seqno == self.newest(), "nothing was committed at {seqno}, after {}", self.newest());
            return Ok(());
        }
        ensure!(seqno > self.newest(), "committed at {seqno}, after {}", self.newest());
        let time = micros(receipt.time);
        let last = self.stamps.last().map_or(0, |stamp| stamp.time);
        ensure!(time >= last, "committed at the time {time}, after {last}");
        ensure!(time > self.fixed, "committed at the time {time}, and {} was asked for", self.fixed);
        let mut kept = 0;
        for (life, write) in writes {
            if let Write::Put { key, .. } | Write::Merge { key, .. } = write
                && self.strategy(*life) == Strategy::FirstWins
                && !self.value_now(*life, key).is_absent()
            {
                self.count("first values kept");
                kept += 1;
            }
        }
        self.commits.push(seqno);
        let chains = writes.iter().filter(|(life, _)| self.strategy(*life).folds()).count();
        // Several words on one key are one operation, or several.
        let said: BTreeSet<_> = writes.iter().filter_map(|(life, write)| Some((*life, write.key()?))).collect();
        let fewest = said.len().saturating_sub(kept);
        self.stamps.push(Stamp { seqno, time, writes: (fewest, writes.len() + chains), decides: false });
        self.unsynced = durability.unwrap_or(self.setup.durability) != Durability::Sync;
        let now = self.now();
        for (at, write) in writes {
            if let Some(life) = self.lives.get_mut(*at) {
                life.note_purged(seqno, write, &mut self.purged);
                life.apply((seqno, time), now, write);
            }
        }
        Ok(())
    }

    fn write(&mut self, slot: usize, write: &Write) -> Outcome {
        let Some((life, keyspace)) = self.alive(slot) else { return Ok(()) };
        let kind = match write {
            Write::Put { .. } => "put",
            Write::Merge { .. } => "merge",
            Write::Delete { .. } => "delete",
            Write::DeleteRange { .. } => "delete_range",
            Write::Purge { .. } => "purge",
            Write::PurgePrefix { .. } => "purge_prefix",
        };
        let strategy = self.strategy(life);
        self.say(kind, format!("{}: {}", keyspace.name(), write_words(write, strategy)));
        let writes = [(life, write.clone())];
        let judged = self.judge(&writes);
        let result = match write {
            Write::Put { key, fill } => keyspace.put(key, fill.bytes(strategy)),
            Write::Merge { key, fill } => keyspace.merge(key, fill.bytes(strategy)),
            Write::Delete { key } => keyspace.delete(key),
            Write::DeleteRange { span } => with_range!(span, |range| keyspace.delete_range(range)),
            Write::Purge { key } => keyspace.purge(key),
            Write::PurgePrefix { prefix } => keyspace.purge_prefix(prefix),
        };
        self.settle(result, judged, &writes, None).map_err(|e| format!("{kind}: {e}"))
    }

    fn batch(&mut self, writes: &[(usize, Write)], durability: Option<Durability>) -> Outcome {
        let mut batch = self.db()?.batch();
        let mut done = Vec::new();
        let mut words = String::from("batch");
        for (slot, write) in writes {
            let Some((life, keyspace)) = self.alive(*slot) else { continue };
            let strategy = self.strategy(life);
            match write {
                Write::Put { key, fill } => batch.put(&keyspace, key, fill.bytes(strategy)),
                Write::Merge { key, fill } => batch.merge(&keyspace, key, fill.bytes(strategy)),
                Write::Delete { key } => batch.delete(&keyspace, key),
                Write::DeleteRange { span } => with_range!(span, |range| batch.delete_range(&keyspace, range)),
                Write::Purge { key } => batch.purge(&keyspace, key),
                Write::PurgePrefix { prefix } => batch.purge_prefix(&keyspace, prefix),
            }
            let _infallible = write!(words, " [{}: {}]", keyspace.name(), write_words(write, strategy));
            done.push((life, write.clone()));
        }
        self.say("batch", words);
        let judged = self.judge(&done);
        let result = match durability {
            Some(durability) => batch.commit_with(durability),
            None => batch.commit(),
        };
        self.settle(result, judged, &done, durability).map_err(|e| format!("commit: {e}"))
    }

    /// Many operands of one key, so that states are written between them.
    fn operands(&mut self, slot: usize, key: &'static [u8], fill: Fill, (count, each): (usize, usize)) -> Outcome {
        let Some((life, keyspace)) = self.alive(slot) else { return Ok(()) };
        let strategy = self.strategy(life);
        let fill = |number: usize| Fill { tag: fill.tag + number, ..fill };
        let first = pair(key, Some(&fill(0).bytes(strategy)));
        self.say("many operands", format!("{}: {count} times merge {first} and on, by {each}", keyspace.name()));
        for start in (0..count).step_by(each.max(1)) {
            let numbers = start..(start + each).min(count);
            let writes: Vec<_> = numbers.map(|number| (life, Write::Merge { key, fill: fill(number) })).collect();
            let mut batch = self.db()?.batch();
            for (_, write) in &writes {
                if let Write::Merge { key, fill } = write {
                    batch.merge(&keyspace, key, fill.bytes(strategy));
                }
            }
            let judged = self.judge(&writes);
            let said = self.words.last().map_or(0, String::len);
            self.settle(batch.commit(), judged, &writes, None).map_err(|e| format!("operands: {e}"))?;
            // Of all the receipts the last one is enough.
            if let Some(last) = self.words.last_mut()
                && start + each < count
            {
                last.truncate(said);
            }
        }
        Ok(())
    }

    fn compare_and_swap(&mut self, slot: usize, key: &'static [u8], right: bool, new: Option<Fill>) -> Outcome {
        let Some((life, keyspace)) = self.alive(slot) else { return Ok(()) };
        let (old, strategy) = (self.value_now(life, key), self.strategy(life));
        let expected = match &old {
            _ if !right => Some(Value::from(&b"nothing like it"[..])),
            State::Is(value) => Some(Value::clone(value)),
            State::Absent | State::Unfoldable => None,
        };
        let (name, new_value) = (keyspace.name(), new.map(|fill| fill.bytes(strategy)));
        let (was, is) = (shown(expected.as_deref()), shown(new_value.as_deref()));
        self.say("compare_and_swap", format!("{name}: compare_and_swap {} {was} to {is}", quoted(key)));
        let swapped = keyspace.compare_and_swap(key, expected, new_value);
        if old == State::Unfoldable {
            let told = swapped.as_ref().is_err_and(|error| names(error, key));
            ensure!(told, "compare_and_swap of what cannot be folded: {swapped:?}");
            return Ok(());
        }
        if strategy == Strategy::FirstWins && right && !old.is_absent() && new.is_some() {
            ensure!(matches!(swapped, Err(Error::Invalid { .. })), "a first value was swapped: {swapped:?}");
            return Ok(());
        }
        self.settle_swap(swapped, right, &[(life, as_write(key, new))])
    }

    fn insert_if_absent(&mut self, slot: usize, key: &'static [u8], fill: Fill) -> Outcome {
        let Some((life, keyspace)) = self.alive(slot) else { return Ok(()) };
        let (old, value) = (self.value_now(life, key), fill.bytes(self.strategy(life)));
        self.say("insert_if_absent", format!("{}: insert_if_absent {}", keyspace.name(), pair(key, Some(&value))));
        let inserted = keyspace.insert_if_absent(key, value);
        if old == State::Unfoldable {
            let told = inserted.as_ref().is_err_and(|error| names(error, key));
            ensure!(told, "insert_if_absent of what cannot be folded: {inserted:?}");
            return Ok(());
        }
        self.settle_swap(inserted, old.is_absent(), &[(life, Write::Put { key, fill })])
    }

    /// As `settle`, for a write that is made only if the key `fits`.
    fn settle_swap(
        &mut self,
        swapped: chronolith::Result<Option<Receipt>>,
        fits: bool,
        writes: &[(usize, Write)],
    ) -> Outcome {
        let judged = self.judge(writes);
        let result = match swapped {
            Ok(None) => {
                ensure!(!fits, "nothing was swapped");
                return Ok(());
            }
            Ok(Some(receipt)) => Ok(receipt),
            Err(error) => Err(error),
        };
        ensure!(fits, "the key is something else, and it answers {result:?}");
        self.settle(result, judged, writes, None)
    }

    fn update(&mut self, slot: usize, key: &'static [u8], new: Option<Fill>) -> Outcome {
        let Some((life, keyspace)) = self.alive(slot) else { return Ok(()) };
        let (wanted, strategy) = (self.value_now(life, key), self.strategy(life));
        let value = new.map(|fill| fill.bytes(strategy));
        self.say("update", format!("{}: update {} to {}", keyspace.name(), quoted(key), shown(value.as_deref())));
        let mut seen = None;
        let updated = keyspace.update(key, |old| {
            seen = Some(old.map_or(State::Absent, |old| State::Is(old.into())));
            value.clone()
        });
        if wanted == State::Unfoldable {
            let told = seen.is_none() && updated.as_ref().is_err_and(|error| names(error, key));
            ensure!(told, "update of what cannot be folded: {updated:?}");
            return Ok(());
        }
        let was = seen.as_ref().map_or("nothing at all".to_owned(), State::words);
        ensure!(seen.as_ref() == Some(&wanted), "update was shown {was}, and the model says {}", wanted.words());
        if strategy == Strategy::FirstWins && !wanted.is_absent() && new.is_some() {
            ensure!(matches!(updated, Err(Error::Invalid { .. })), "a first value was updated: {updated:?}");
            return Ok(());
        }
        let writes = [(life, as_write(key, new))];
        let judged = self.judge(&writes);
        self.settle(updated, judged, &writes, None).map_err(|e| format!("update: {e}"))
    }

    fn value_now(&self, life: usize, key: &'static [u8]) -> State {
        let Some(life) = self.lives.get(life) else { return State::Absent };
        let now = if life.has_ttl() { self.now() } else { 0 };
        life.at(Moment::present(now), key)
    }

    fn held_at(&self, view: View, seqno: u64) -> Outcome<Held> {
        ensure!(u64::from(view.seqno()) == seqno, "a view at {}, asked for {seqno}", view.seqno());
        let (time, opened) = (micros(view.time()), self.newest());
        let (exact, exact_scans) = (BTreeSet::new(), BTreeSet::new());
        Ok(Held { view, seqno, time, opened, safe: false, pinned: false, exact, exact_scans })
    }

    fn view_as_of(&self, seqno: u64) -> Outcome<Held> {
        let view = self.db()?.as_of(seqno).map_err(told("as_of"))?;
        let held = self.held_at(view, seqno)?;
        self.check_time_of(&held)?;
        Ok(held)
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

    /// Holds a view of the present.
    fn snapshot(&mut self) -> Outcome {
        let (newest, now) = (self.newest(), self.now());
        self.say("snapshot", format!("hold a snapshot @{newest}"));
        let held = Held { safe: true, ..self.held_at(self.db()?.snapshot(), newest)? };
        ensure!(
            held.time >= now && (held.time == now || !self.alone()),
            "a snapshot of {}, and it is {now}",
            held.time
        );
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
        let fresh = self.view_as_of(seqno)?;
        self.look_with(fresh, dice)
    }

    /// Reads everything through a view, by key and in ranges.
    fn look_with(&mut self, mut fresh: Held, dice: u64) -> Outcome {
        self.examine(&mut fresh, true)?;
        let mut dice = Dice(dice);
        for at in 0..self.lives.len() {
            let Some(keyspace) = self.handle_in(&fresh, at)? else { continue };
            if self.is_refused_as_dropped(at, &fresh) {
                continue;
            }
            for _ in 0..2 {
                self.scan(Some(&fresh), at, &keyspace, &mut dice)?;
            }
            for backward in [false, true] {
                let end = if backward { fresh.view.last(&keyspace) } else { fresh.view.first(&keyspace) };
                self.check_end(Some(&fresh), at, &end, backward)?;
            }
        }
        Ok(())
    }

    fn is_refused_as_dropped(&self, life: usize, held: &Held) -> bool {
        let until = if held.pinned { held.seqno } else { held.opened };
        self.lives.get(life).and_then(|life| life.dropped).is_some_and(|dropped| dropped <= until)
    }

    fn expected(&self, life: usize, held: &Held, key: &'static [u8]) -> State {
        self.lives.get(life).map_or(State::Absent, |life| life.at(held.moment(), key))
    }

    /// Reads every key and scans every keyspace in both directions: each answer must be the model's; a refusal must be one that is
    /// allowed. With `follow`, the seqno that a refusal names must answer.
    fn examine(&mut self, held: &mut Held, follow: bool) -> Outcome {
        let whole = |held: &Held| {
            let Held { seqno, opened, time, .. } = held;
            format!("view as of {seqno}, time {time}, opened at {opened}")
        };
        for at in 0..self.lives.len() {
            let Some(keyspace) = self.handle_in(held, at)? else { continue };
            let present = self.is_present(held, at);
            let dropped = self.is_refused_as_dropped(at, held);
            let mut refused = None;
            for key in KEYS {
                self.count("checked gets of views");
                let wanted = self.expected(at, held, key);
                let words = || format!("{}: {}: get {}", whole(held), keyspace.name(), quoted(key));
                match held.view.get(&keyspace, key) {
                    Err(Error::Invalid { .. }) if dropped => {}
                    got if dropped => return Err(format!("{} of a dropped keyspace: {got:?}", words())),
                    got if wanted.is_told_by(key, &got) => {
                        held.exact.insert((at, key));
                    }
                    Err(Error::HistoryTrimmed { oldest }) => {
                        let oldest = u64::from(oldest);
                        ensure!(!present, "{} is refused (oldest {oldest}), and it is the present", words());
                        let known = held.exact.contains(&(at, key));
                        ensure!(!known, "{} is refused (oldest {oldest}), and could be answered before", words());
                        let readable = oldest > held.seqno;
                        ensure!(readable, "{} names {oldest} as readable", words());
                        let may = self.may_refuse(held, at, Some(key), &ALL);
                        may.map_err(|e| format!("{} is refused (oldest {oldest}), and {e}", words()))?;
                        refused = Some(key);
                        self.count("refused gets");
                        if follow {
                            self.follow(oldest, at, &keyspace, key).map_err(|e| format!("{}: {e}", words()))?;
                        }
                    }
                    got => return Err(format!("{} {}", words(), differs(&got, &wanted))),
                }
            }
            let Some(life) = self.lives.get(at) else { continue };
            let expected = life.range_at(held.moment(), &ALL);
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
                        let readable = u64::from(*oldest) > held.seqno;
                        ensure!(readable, "{} names {oldest} as readable", words());
                        let may = self.may_refuse(held, at, None, &ALL);
                        may.map_err(|e| format!("{} is refused (oldest {oldest}), and {e}", words()))?;
                    }
                    // The check tells whether it is right.
                    Some(_) => {}
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
            if oldest == self.newest() + 1 && self.lives.get(at).is_some_and(Life::has_ttl) {
                // What the newest commit left has expired: only the next one will be readable for ever.
                return Ok(());
            }
            ensure!(oldest <= self.newest(), "the oldest readable seqno {oldest} lies in the future");
            let view = self.view_as_of(oldest)?;
            self.count("followed refusals");
            let wanted = self.expected(at, &view, key);
            match view.view.get(keyspace, key) {
                got if wanted.is_told_by(key, &got) => return Ok(()),
                // A compaction on another thread has been there in between.
                Err(Error::HistoryTrimmed { oldest: later }) if !self.alone() && u64::from(later) > oldest => {
                    oldest = u64::from(later);
                }
                got => return Err(format!("as of the oldest readable seqno {oldest} {}", differs(&got, &wanted))),
            }
        }
    }

    /// Walks through a drawn range in a drawn manner, of a view or of the present.
    fn scan(&mut self, held: Option<&Held>, at: usize, keyspace: &Keyspace, dice: &mut Dice) -> Outcome {
        let moment = held.map_or(Moment::present(self.now()), Held::moment);
        let seqno = moment.seqno;
        let present = held.is_none_or(|held| self.is_present(held, at));
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
                let expected = self.lives.get(at).map(|life| life.range_at(moment, &span)).unwrap_or_default();
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
                if let Some(held) = held {
                    let may = self.may_refuse(held, at, None, &span);
                    may.map_err(|e| format!("{words} is refused (oldest {oldest}), and {e}"))?;
                }
                self.count("refused ranges");
            }
            Some(Error::HistoryTrimmed { oldest }) => {
                return Err(format!("{words} is refused (oldest {oldest}), and it is the present"));
            }
            // The check tells whether it is right.
            Some(_) => self.count("ranges that end at what cannot be folded"),
        }
        if !words.contains("prefix") {
            let expected = self.lives.get(at).map(|life| life.range_at(moment, &span)).unwrap_or_default();
            walked.check(&expected).map_err(|e| format!("{words} gives {e}"))?;
        }
        Ok(())
    }

    /// That the first or last item is the model's.
    fn check_end(
        &self,
        held: Option<&Held>,
        at: usize,
        end: &chronolith::Result<Option<(Bytes, Bytes)>>,
        backward: bool,
    ) -> Outcome {
        let moment = held.map_or(Moment::present(self.now()), Held::moment);
        let seqno = moment.seqno;
        let present = held.is_none_or(|held| self.is_present(held, at));
        let expected = self.lives.get(at).map(|life| life.range_at(moment, &ALL)).unwrap_or_default();
        let wanted = if backward { expected.last() } else { expected.first() };
        let which = if backward { "last" } else { "first" };
        match (end, wanted) {
            (Err(Error::HistoryTrimmed { .. }), _) if !present => {}
            (Ok(None), None) => {}
            (Ok(Some(got)), Some((key, State::Is(value)))) if *got.0 == **key && *got.1 == **value => {}
            (Err(error), Some((key, State::Unfoldable))) if names(error, key) => {}
            _ => {
                let wanted = wanted.map_or("nothing".to_owned(), stated);
                return Err(format!("{which} as of {seqno} is {end:?}, and the model says {wanted}"));
            }
        }
        Ok(())
    }

    fn read_the_present(&mut self, dice: u64) -> Outcome {
        self.check_horizons()?;
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
            self.read_every_key(at, &keyspace)?;
            self.check_end(None, at, &keyspace.first(), false)?;
            self.check_end(None, at, &keyspace.last(), true)?;
            for _ in 0..4 {
                self.scan(None, at, &keyspace, &mut dice)?;
            }
        }
        let mut present = self.view_as_of(newest)?;
        self.examine(&mut present, false)?;
        let mut snapshot = Held { safe: true, ..self.held_at(db.snapshot(), newest)? };
        self.examine(&mut snapshot, false)
    }

    fn read_every_key(&mut self, at: usize, keyspace: &Keyspace) -> Outcome {
        let name = keyspace.name();
        let together = keyspace.multi_get(KEYS);
        let unfoldable = |key: &&'static [u8]| self.value_now(at, key) == State::Unfoldable;
        match (&together, KEYS.into_iter().filter(unfoldable).collect::<Vec<_>>()) {
            (Ok(together), none) if none.is_empty() && together.len() == KEYS.len() => {}
            (Err(error), some) if some.iter().any(|key| names(error, key)) => {}
            (_, some) => {
                return Err(format!("{name}: multi_get answers {together:?}, and what cannot be folded is {some:?}"));
            }
        }
        for (number, key) in KEYS.into_iter().enumerate() {
            self.count("checked gets");
            let wanted = self.value_now(at, key);
            let got = keyspace.get(key);
            ensure!(wanted.is_told_by(key, &got), "{name}: get {} {}", quoted(key), differs(&got, &wanted));
            let there = keyspace.contains(key);
            let same = match &there {
                Ok(there) => wanted != State::Unfoldable && *there != wanted.is_absent(),
                Err(error) => wanted == State::Unfoldable && names(error, key),
            };
            ensure!(same, "{name}: contains {} is {there:?}, and the model says {}", quoted(key), wanted.words());
            if let Ok(together) = &together {
                let got = Ok(together.get(number).cloned().flatten());
                ensure!(wanted.is_told_by(key, &got), "{name}: multi_get {} {}", quoted(key), differs(&got, &wanted));
            }
            match &wanted {
                State::Unfoldable => self.count("values that cannot be folded"),
                State::Is(_) if self.strategy(at) == Strategy::Append => self.read_list(at, key, got)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// That an appended list reads back item by item.
    fn read_list(&mut self, at: usize, key: &'static [u8], got: chronolith::Result<Option<Bytes>>) -> Outcome {
        self.count("appended lists read");
        let list = got.ok().flatten().unwrap_or_default();
        let items: Vec<&[u8]> = append_items(&list).collect::<Result<_, _>>().map_err(|e| format!("a list: {e}"))?;
        let mut wanted: Vec<&Value> = Vec::new();
        for said in self.lives.get(at).and_then(|life| life.keys.get(key)).into_iter().flatten() {
            match &said.what {
                What::Put(value) => wanted = vec![value],
                What::Merge(value) => wanted.push(value),
                What::Delete => wanted.clear(),
            }
        }
        let same = items.len() == wanted.len() && items.iter().zip(&wanted).all(|(got, wanted)| **got == ***wanted);
        ensure!(same, "the list of {} has {} items, and the model's {}", quoted(key), items.len(), wanted.len());
        Ok(())
    }

    fn hold_range(&mut self, slot: usize, span: &Span) {
        let Some((at, keyspace)) = self.alive(slot) else { return };
        let words = format!("hold the range {} of {}", span.words(), keyspace.name());
        self.say("hold a range", words.clone());
        let now = Moment::present(self.now());
        let rest = self.lives.get(at).map(|life| life.range_at(now, span)).unwrap_or_default().into();
        let range = with_range!(span, |range| keyspace.range(range));
        self.ranges.push(HeldRange { range, rest, opened: self.newest(), words });
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
            let same = match (&got, &wanted) {
                (None, None) => true,
                (Some(Ok(got)), Some((key, State::Is(value)))) => *got.0 == **key && *got.1 == **value,
                (Some(Err(error)), Some((key, State::Unfoldable))) => names(error, key),
                _ => false,
            };
            let words = || wanted.as_ref().map_or("nothing".to_owned(), stated);
            ensure!(same, "the next item of \"{}\" is {got:?}, and the model says {}", held.words, words());
            if got.is_none() {
                self.count("held ranges read to the end");
                let ended = held.range.next().is_none() && held.range.next_back().is_none();
                ensure!(ended, "an item after the end of \"{}\"", held.words);
                return Ok(());
            }
        }
        self.ranges.push(held);
        Ok(())
    }

    fn reopen(&mut self, close: bool, opening: Opening) -> Outcome {
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
        self.add(&opening.words());
        if opening.look {
            self.look_read_only()?;
        }
        self.open(false, opening)
    }

    /// A crash that may lose nothing.
    fn crash(&mut self, end: End, late: bool, opening: Opening) -> Outcome {
        let Machine::Sim(sim) = &self.machine else { return self.reopen(false, opening) };
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
        self.say("crash", format!("{what}{after}, open{}", opening.words()));
        if end == End::Death {
            self.machine = Machine::Sim(sim.fork());
        } else {
            sim.cut_power();
        }
        let mut old = Some(self.let_go());
        if !late {
            old = None;
        }
        if opening.look {
            self.look_read_only()?;
        }
        self.open(false, opening)?;
        drop(old);
        Ok(())
    }

    fn step(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Write { slot, write } => self.write(*slot, write),
            Op::Batch { writes, durability } => self.batch(writes, *durability),
            Op::Operands { slot, key, fill, count, each } => self.operands(*slot, key, *fill, (*count, *each)),
            Op::CompareAndSwap { slot, key, right, new } => self.compare_and_swap(*slot, key, *right, *new),
            Op::InsertIfAbsent { slot, key, fill } => self.insert_if_absent(*slot, key, *fill),
            Op::Update { slot, key, new } => self.update(*slot, key, *new),
            Op::Snapshot => self.snapshot(),
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
            Op::Compact => self.compact(),
            Op::Persist => {
                self.say("persist", "persist".to_owned());
                self.unsynced = false;
                self.db()?.persist().map_err(told("persist"))
            }
            Op::Reopen { close, opening } => self.reopen(*close, *opening),
            Op::Crash { end, late, opening } => self.crash(*end, *late, *opening),
            Op::DropKeyspace { slot } => self.drop_keyspace(*slot),
            Op::CreateKeyspace { slot, kind } => self.create_keyspace(*slot, *kind),
            Op::Configure { slot, index } => self.configure(*slot, *index),
            Op::Wait { us } => {
                self.say("wait", format!("wait {us} µs"));
                if let Machine::Sim(sim) = &self.machine {
                    sim.set_time(sim.now() + Duration::from_micros(*us));
                }
                self.now();
                Ok(())
            }
            Op::StepWall { us, back } => {
                if let Machine::Sim(sim) = self.machine.clone() {
                    let way = if *back { "back" } else { "on" };
                    self.say("step the wall clock", format!("step the wall clock {way} by {us} µs"));
                    let by = Duration::from_micros(*us);
                    if *back { sim.step_wall_back(by) } else { sim.step_wall(by) }
                }
                self.now();
                Ok(())
            }
            Op::AsOfTime { at, shift } => self.as_of_time(*at, *shift),
            Op::LookAtTime { at, shift } => self.look_at_time(*at, *shift),
            Op::Histories { at, dice } => self.read_histories(self.moment(*at), *dice),
            Op::Differences { before, after } => self.compare_moments(self.moment(*before), self.moment(*after)),
            Op::Commits { dice } => self.read_commits(*dice),
            Op::Pin { which } => self.pin(*which),
            Op::Unpin { which } => self.unpin(*which),
            Op::Pinned { which, hold } => self.read_pins(*which, *hold),
            Op::SetPolicy { slot, keeping } => self.set_policy(*slot, *keeping),
            Op::SetTtl { slot, ttl } => self.set_ttl(*slot, *ttl),
            Op::CopyMoment { at, dice } => self.copy_moment(self.moment(*at), *dice),
            Op::CrashAt { calls, compact, opening } => self.crash_at(*calls, *compact, *opening),
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

impl Opening {
    fn words(self) -> String {
        let look = if self.look { ", read-only first" } else { "" };
        let before = match self.before {
            Before::Nothing => "",
            Before::Flush => ", flush before the keyspaces are open",
            Before::Compact => ", compact before the keyspaces are open",
        };
        let wait = if self.wait { ", leave custom strategies for later" } else { "" };
        [look, before, wait].concat()
    }
}

/// The outcomes that a batch may have.
#[derive(Clone, Copy, Debug)]
struct Judged {
    applied: bool,
    invalid: bool,
    /// A duplicate of this key.
    duplicate: Option<&'static [u8]>,
}

fn options(strategy: Strategy, index: Option<bool>) -> KeyspaceOptions {
    let options = KeyspaceOptions::new().merge(strategy.option());
    if let Some(index) = index { options.point_index(index) } else { options }
}

/// Opens a keyspace that is there: as stored, but a custom strategy must be given, and no other one may.
fn open_keyspace(db: &Db, life: &Life, with_policy: bool) -> Outcome<Keyspace> {
    let other = STRATEGIES.into_iter().filter(|other| *other != life.strategy);
    for other in other {
        let refused = db.keyspace(life.name, KeyspaceOptions::new().merge(other.option()));
        let strategy = life.strategy;
        ensure!(matches!(refused, Err(Error::Invalid { .. })), "{other:?} is taken for {strategy:?}: {refused:?}");
    }
    if life.strategy.is_custom() {
        let refused = db.keyspace(life.name, KeyspaceOptions::new());
        ensure!(matches!(refused, Err(Error::Invalid { .. })), "{:?} is not asked for: {refused:?}", life.strategy);
    }
    db.keyspace(life.name, life.options(with_policy)).map_err(told("keyspace"))
}

/// That an answer is not the model's.
fn differs(got: &chronolith::Result<Option<Bytes>>, wanted: &State) -> String {
    let got = match got {
        Ok(got) => shown(got.as_deref()),
        Err(error) => format!("an error ({error})"),
    };
    format!("answers {got}, and the model says {}", wanted.words())
}

/// A key and its state in words.
fn stated((key, state): &(&'static [u8], State)) -> String {
    format!("{}={}", quoted(key), state.words())
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

fn pair(key: &[u8], value: Option<&[u8]>) -> String {
    match value {
        None => quoted(key),
        Some(value) => format!("{}={}", quoted(key), shown(Some(value))),
    }
}

fn write_words(write: &Write, strategy: Strategy) -> String {
    match write {
        Write::Put { key, fill } => format!("put {}", pair(key, Some(&fill.bytes(strategy)))),
        Write::Merge { key, fill } => format!("merge {}", pair(key, Some(&fill.bytes(strategy)))),
        Write::Delete { key } => format!("delete {}", quoted(key)),
        Write::DeleteRange { span } => format!("delete_range {}", span.words()),
        Write::Purge { key } => format!("purge {}", quoted(key)),
        Write::PurgePrefix { prefix } => format!("purge_prefix {}", quoted(prefix)),
    }
}

/// Runs histories until the time is over, at least `at_least` of them, and prints what they did.
#[expect(clippy::print_stdout, reason = "counts are for the eye")]
fn run_histories(threads: bool, at_least: u64) {
    let number = |name: &str| var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let only = number("CHRONOLITH_MODEL_SEED");
    let end = Instant::now() + Duration::from_secs(number("CHRONOLITH_MODEL_SECONDS").unwrap_or(18));
    let first = number("CHRONOLITH_MODEL_FIRST").unwrap_or(1);
    let mut totals = Counts::new();
    let (mut histories, mut operations, mut failed) = (0, 0, 0);
    while only.is_none_or(|_| histories == 0) && (Instant::now() < end || histories < at_least) {
        let history = History::draw(only.unwrap_or(first + histories), threads);
        histories += 1;
        let (words, counts, outcome) = history.run();
        operations += words.len();
        for (what, count) in counts {
            *totals.entry(what).or_default() += count;
        }
        if var("CHRONOLITH_MODEL_HUNT").is_ok() {
            if let Err(first) = outcome {
                failed += 1;
                println!("seed {} of {} operations: {first:.600}", history.seed, history.ops.len());
            }
            continue;
        }
        let failure = outcome.err().map(|first| history.report(&first));
        assert!(failure.is_none(), "{}", failure.unwrap_or_default());
    }
    println!("{histories} histories, {operations} operations");
    for (what, count) in &totals {
        println!("{count:>10}  {what}");
    }
    assert!(failed == 0, "{failed} histories failed");
    let missing: Vec<_> =
        KINDS.iter().filter(|kind| !(totals.contains_key(**kind) || threads && SIMULATED.contains(kind))).collect();
    assert!(only.is_some() || is_on_disk() || missing.is_empty(), "never generated: {missing:?}");
}

/// Whether this process runs its histories in real directories, below a limit of open files: see the last test.
fn is_on_disk() -> bool {
    var("CHRONOLITH_MODEL_DISK").is_ok()
}

#[test]
fn any_history_on_a_simulated_machine_is_answered_as_by_the_model() {
    run_histories(false, 50);
}

#[test]
fn any_history_beside_background_threads_is_answered_as_by_the_model() {
    run_histories(true, if is_on_disk() { 5 } else { 50 });
}

/// In a process of its own, since the limit and the current directory are the process's.
#[cfg(unix)]
#[test]
fn any_history_in_a_real_directory_below_a_limit_of_64_open_files_is_answered_as_by_the_model() {
    if is_on_disk() {
        return;
    }
    let this = std::env::current_exe().unwrap_or_else(|error| panic!("this program: {error}"));
    let status = std::process::Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\""])
        .arg(this)
        .args(["--exact", "any_history_beside_background_threads_is_answered_as_by_the_model", "--nocapture"])
        .env("CHRONOLITH_MODEL_DISK", "1")
        .env("CHRONOLITH_MODEL_SECONDS", var("CHRONOLITH_MODEL_SECONDS").unwrap_or_else(|_| "8".to_owned()))
        .status();
    assert!(status.is_ok_and(|status| status.success()), "it failed in its process");
}
