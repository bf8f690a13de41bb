//! A history as plain data: what is done, in which order, and how it is told in words. Any part of it can be run again.

use std::{
    ops::Bound::{self, Excluded, Included, Unbounded},
    sync::Arc,
};

use chronolith::Durability;

use crate::{past::Keeping, strategies::Strategy};

/// Every key that is ever written, in order; many are prefixes of others.
pub(crate) const KEYS: [&[u8]; 13] =
    [b"", b"\0", b"a", b"a\0", b"aa", b"ab", b"abc", b"b", b"ba", b"c", b"\xfe", b"\xff", b"\xff\xff"];

pub(crate) const NAMES: [&str; 3] = ["one", "two", "three"];

/// Names of pins.
pub(crate) const PINS: [&str; 3] = ["p", "q", "r"];

/// The longest value that a keyspace takes whose strategy folds.
pub(crate) const FOLDED_MAX: usize = 1 << 20;

/// What `Strategy::Fragile` combines is at most so long.
const FRAGILE_MAX: usize = 40;

pub(crate) const STRATEGIES: [Strategy; 8] = [
    Strategy::LastWins,
    Strategy::FirstWins,
    Strategy::Sum,
    Strategy::Append,
    Strategy::ErrorOnDuplicate,
    Strategy::Joined("|"),
    Strategy::Ends,
    Strategy::Fragile(FRAGILE_MAX),
];

pub(crate) type Value = Arc<[u8]>;

/// A history: everything that follows from a seed.
#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) seed: u64,
    pub(crate) threads: bool,
    pub(crate) setup: Setup,
    pub(crate) ops: Vec<Op>,
}

/// How the database is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) l0_threshold: usize,
    pub(crate) level_ratio: u64,
    pub(crate) mmap: bool,
    pub(crate) durability: Durability,
    pub(crate) kinds: [Kind; NAMES.len()],
}

/// What a keyspace is created with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) strategy: Strategy,
    pub(crate) index: Option<bool>,
    pub(crate) keeping: Keeping,
    /// In microseconds; 0 is for ever.
    pub(crate) ttl: u64,
}

/// One operation: plain data, so that any part of a history can be run again. What it names and is not there makes it
/// nothing.
#[derive(Clone, Debug)]
pub(crate) enum Op {
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
    /// A chunk, or a staged value, that is held and in no key.
    HoldChunks {
        slot: usize,
        fill: Fill,
        staged: bool,
    },
    /// What is held goes to a key, if it is a value, and is let go.
    Adopt {
        which: usize,
        slot: usize,
        key: &'static [u8],
        by_recipe: bool,
    },
    /// All values are cut anew; the power goes at a call of that.
    Rechunk {
        slot: usize,
        cut: usize,
        dies_at: Option<u64>,
        opening: Opening,
    },
    LookBack {
        at: usize,
        dice: u64,
    },
    Verify,
}

#[derive(Clone, Debug)]
pub(crate) enum Write {
    Put { key: &'static [u8], fill: Fill },
    Merge { key: &'static [u8], fill: Fill },
    Delete { key: &'static [u8] },
    DeleteRange { span: Span },
    Purge { key: &'static [u8] },
    PurgePrefix { prefix: &'static [u8] },
}

impl Write {
    pub(crate) fn key(&self) -> Option<&'static [u8]> {
        match self {
            Self::Put { key, .. } | Self::Merge { key, .. } | Self::Delete { key } | Self::Purge { key } => Some(key),
            Self::DeleteRange { .. } | Self::PurgePrefix { .. } => None,
        }
    }

    pub(crate) fn purges(&self, key: &[u8]) -> bool {
        match self {
            Self::Purge { key: purged } => *purged == key,
            Self::PurgePrefix { prefix } => key.starts_with(prefix),
            _ => false,
        }
    }
}

/// A value that tells where it was written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill {
    pub(crate) tag: usize,
    pub(crate) len: usize,
}

/// Of a value so many bytes say which one it is.
pub(crate) const MARK_LEN: usize = 7;

impl Fill {
    pub(crate) fn bytes(self, strategy: Strategy) -> Value {
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

/// Two ends, in the form in which the right range type takes them.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) start: Bound<Vec<u8>>,
    pub(crate) end: Bound<Vec<u8>>,
}

pub(crate) const ALL: Span = Span { start: Unbounded, end: Unbounded };

impl Span {
    pub(crate) fn holds(&self, key: &[u8]) -> bool {
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
    pub(crate) fn is_void(&self) -> bool {
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

    pub(crate) fn words(&self) -> String {
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
    ($span:expr, |$range:ident| $body:expr) => {{
        use std::ops::Bound::{Excluded, Included, Unbounded};
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
    }};
}

pub(crate) use with_range;

/// How the database is opened again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Opening {
    /// Read-only first.
    pub(crate) look: bool,
    /// What is done before any keyspace is opened: custom strategies are not given yet.
    pub(crate) before: Before,
    /// Keyspaces with a custom strategy are left for later.
    pub(crate) wait: bool,
}

impl Opening {
    pub(crate) fn words(self) -> String {
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

#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Before {
    #[default]
    Nothing,
    Flush,
    Compact,
}

/// How a crash comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The power goes after `persist`.
    CutPersisted,
    /// The power goes; what was not synced by its durability is persisted first.
    CutSynced,
    /// The process dies: what was written stays, locks and handles do not.
    Death,
}

/// Where a time lies.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shift {
    /// So many microseconds before a commit, at it, or after it.
    By(i64),
    /// Halfway to the next commit.
    Halfway,
    Now,
    Future,
    Beginning,
}

pub(crate) fn write_words(write: &Write, strategy: Strategy) -> String {
    match write {
        Write::Put { key, fill } => format!("put {}", pair(key, Some(&fill.bytes(strategy)))),
        Write::Merge { key, fill } => format!("merge {}", pair(key, Some(&fill.bytes(strategy)))),
        Write::Delete { key } => format!("delete {}", quoted(key)),
        Write::DeleteRange { span } => format!("delete_range {}", span.words()),
        Write::Purge { key } => format!("purge {}", quoted(key)),
        Write::PurgePrefix { prefix } => format!("purge_prefix {}", quoted(prefix)),
    }
}

pub(crate) fn quoted(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}

pub(crate) fn shown(value: Option<&[u8]>) -> String {
    match value {
        None => "nothing".to_owned(),
        Some(value) if value.len() <= 12 => quoted(value),
        Some(value) => format!("{}… ({} bytes)", quoted(value.get(..8).unwrap_or_default()), value.len()),
    }
}

pub(crate) fn pair(key: &[u8], value: Option<&[u8]>) -> String {
    match value {
        None => quoted(key),
        Some(value) => format!("{}={}", quoted(key), shown(Some(value))),
    }
}
