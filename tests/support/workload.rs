//! Workloads as text: what is done to a database, and in which order.
//!
//! ```text
//!  workload batches across keyspaces
//!    durability buffered; l0_threshold 4
//!    create a; create b
//!    put a 1 10, put b 1 10
//!    sync put b 2 700, delete a 1
//!    flush
//! ```
//!
//! | step | means |
//! | --- | --- |
//! | `workload …` | begins one, with the rest of the line for its name |
//! | `durability sync` · `buffered` · `interval 100` | how the database is opened; milliseconds |
//! | `l0_threshold 2` | the same |
//! | `create a` · `drop a` | keyspaces; a name with a blank stands in quotes |
//! | `put a 1 20` | a commit: a value of 20 bytes for the key 1 of the keyspace `a` |
//! | `merge a 1 20` | an operand; what the length is to a value, a number is to an operand |
//! | `delete a 1` · `delete_range a 0..3` · `purge a 1` · `purge_prefix a k001` | |
//! | `put a 1 20, delete b 2` | a commit of several operations |
//! | `sync put a 1 20` | a commit that is synced, whatever the database does otherwise |
//! | `refused put a 1 20` | a commit of which nothing is applied, since a key is there already and may not be |
//! | `each n in 0..8: put a n 20` | a commit for each number |
//! | `all n in 0..8: put a n 20` | one commit with the operations of each number; `sync all n in …` |
//! | `persist` · `flush` · `compact` · `checkpoint` | |
//! | `reopen` | closes and opens again |
//! | `view` · `check_views` · `forget_views` | opens a view, which goes on showing the same; compares; lets go |
//! | `pass 60` | milliseconds go by |
//! | `rechunk a 4096` | cuts the values of a keyspace anew, into chunks of so many bytes |
//! | `lease a 1 3000` | stores the value of a put as a chunk that no key has, and holds it |
//! | `check_leases` · `forget_leases` | reads what is held; lets go |
//! | `pin then` · `unpin then` | keeps this moment under a name, and lets it go |
//! | `as_of_now` | asks what had been committed by now: from then on that is the answer for this time |
//!
//! Steps on one line stand between semicolons. Empty lines and those that begin with `#` are passed over.

use std::{ops::Range, time::Duration};

use chronolith::Durability;

/// A number of a key, as the engine is given it.
pub(crate) fn key_of(key: u16) -> Vec<u8> {
    format!("k{key:04}").into_bytes()
}

/// One operation of a commit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    Put {
        to: &'static str,
        key: u16,
        len: usize,
    },
    /// What the length is to a value, a number is to an operand: two of one key in one batch differ by it.
    Merge {
        to: &'static str,
        key: u16,
        len: usize,
    },
    Delete {
        from: &'static str,
        key: u16,
    },
    DeleteRange {
        from: &'static str,
        start: u16,
        end: u16,
    },
    Purge {
        from: &'static str,
        key: u16,
    },
    /// All keys that begin so.
    PurgePrefix {
        from: &'static str,
        prefix: &'static str,
    },
}

impl Op {
    pub(crate) fn keyspace(self) -> &'static str {
        match self {
            Self::Put { to: name, .. }
            | Self::Merge { to: name, .. }
            | Self::Delete { from: name, .. }
            | Self::DeleteRange { from: name, .. }
            | Self::Purge { from: name, .. }
            | Self::PurgePrefix { from: name, .. } => name,
        }
    }

    /// Whether it says something about a key.
    pub(crate) fn touches(self, at: &[u8]) -> bool {
        match self {
            Self::Put { key, .. } | Self::Merge { key, .. } | Self::Delete { key, .. } => at == key_of(key),
            Self::DeleteRange { start, end, .. } => (key_of(start)..key_of(end)).contains(&at.to_vec()),
            Self::Purge { .. } | Self::PurgePrefix { .. } => self.purges(at),
        }
    }

    /// Whether nothing older of a key is ever seen again.
    pub(crate) fn purges(self, at: &[u8]) -> bool {
        match self {
            Self::Purge { key, .. } => at == key_of(key),
            Self::PurgePrefix { prefix, .. } => at.starts_with(prefix.as_bytes()),
            _ => false,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Create(&'static str),
    Drop(&'static str),
    /// One batch, with the durability of the database.
    Write(Vec<Op>),
    WriteAs(Durability, Vec<Op>),
    /// A batch with a key that is there already, where that is an error: nothing of it is applied.
    Refused(Vec<Op>),
    Persist,
    Flush,
    Compact,
    /// A clean close, and opening again.
    Reopen,
    /// Opens a view; from then on it must show what it shows now.
    View,
    CheckViews,
    ForgetViews,
    /// Milliseconds go by.
    Pass(u64),
    Checkpoint,
    /// Keeps this moment under a name, and lets it go.
    Pin(&'static str),
    Unpin(&'static str),
    /// Asks what had been committed by now: from then on that is the answer for this time.
    AsOfNow,
    /// Cuts the values of a keyspace anew, into chunks of so many bytes.
    Rechunk(&'static str, u64),
    /// Stores the value of a put as a chunk, and holds it.
    Lease(Op),
    CheckLeases,
    ForgetLeases,
}

impl Step {
    pub(crate) fn brief(&self) -> String {
        let text = format!("{self:?}");
        text.get(..60).unwrap_or(&text).to_owned()
    }

    /// Whether it cannot succeed when writes have stopped.
    pub(crate) fn writes(&self) -> bool {
        matches!(
            self,
            Self::Persist | Self::Flush | Self::Compact | Self::Checkpoint | Self::Pin(_) | Self::Rechunk(..)
        ) || matches!(self, Self::Write(_) | Self::WriteAs(..))
    }
}

/// A list of steps, and how the database is opened for them.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) durability: Durability,
    pub(crate) l0_threshold: usize,
    pub(crate) steps: Vec<Step>,
}

/// The workloads of a file, in their order.
pub(crate) fn parse(text: &'static str) -> Vec<Workload> {
    let mut workloads: Vec<Workload> = Vec::new();
    let lines = (1..).zip(text.lines().map(str::trim));
    for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix("workload ") {
            workloads.push(Workload { name, durability: Durability::default(), l0_threshold: 0, steps: Vec::new() });
            continue;
        }
        for step in line.split(';').map(str::trim) {
            let taken = workloads.last_mut().and_then(|workload| workload.take(step));
            assert!(taken.is_some(), "line {number}: no such step: {step}");
        }
    }
    workloads
}

impl Workload {
    /// Takes a step, or how the database is opened.
    fn take(&mut self, step: &'static str) -> Option<()> {
        let (verb, rest) = step.split_once(' ').unwrap_or((step, ""));
        match verb {
            "durability" => {
                self.durability = match rest.split_once(' ').unwrap_or((rest, "")) {
                    ("sync", "") => Durability::Sync,
                    ("buffered", "") => Durability::Buffered,
                    ("interval", ms) => Durability::Interval(Duration::from_millis(number(ms)?)),
                    _ => return None,
                };
            }
            "l0_threshold" => self.l0_threshold = number(rest)?,
            "each" => {
                let (numbers, ops) = numbers(rest)?;
                for n in numbers {
                    self.steps.push(Step::Write(batch(ops, n)?));
                }
            }
            "sync" => self.steps.push(Step::WriteAs(Durability::Sync, commit(rest)?)),
            "refused" => self.steps.push(Step::Refused(commit(rest)?)),
            "create" => self.steps.push(Step::Create(only_name(rest)?)),
            "drop" => self.steps.push(Step::Drop(only_name(rest)?)),
            "pin" => self.steps.push(Step::Pin(only_name(rest)?)),
            "unpin" => self.steps.push(Step::Unpin(only_name(rest)?)),
            "pass" => self.steps.push(Step::Pass(number(rest)?)),
            "rechunk" => {
                let (keyspace, bytes) = name(rest)?;
                self.steps.push(Step::Rechunk(keyspace, number(bytes.trim())?));
            }
            "lease" => self.steps.push(Step::Lease(put(rest, 0)?)),
            _ => self.steps.push(match step {
                "persist" => Step::Persist,
                "flush" => Step::Flush,
                "compact" => Step::Compact,
                "reopen" => Step::Reopen,
                "view" => Step::View,
                "check_views" => Step::CheckViews,
                "forget_views" => Step::ForgetViews,
                "checkpoint" => Step::Checkpoint,
                "as_of_now" => Step::AsOfNow,
                "check_leases" => Step::CheckLeases,
                "forget_leases" => Step::ForgetLeases,
                ops => Step::Write(commit(ops)?),
            }),
        }
        Some(())
    }
}

/// The operations of one commit.
fn commit(ops: &'static str) -> Option<Vec<Op>> {
    let Some(each) = ops.strip_prefix("all ") else { return batch(ops, 0) };
    let (numbers, ops) = numbers(each)?;
    let batches: Option<Vec<Vec<Op>>> = numbers.map(|n| batch(ops, n)).collect();
    Some(batches?.concat())
}

/// `n in 0..8: …`: the numbers, and what stands behind them.
fn numbers(text: &'static str) -> Option<(Range<u16>, &'static str)> {
    let (numbers, ops) = text.strip_prefix("n in ")?.split_once(": ")?;
    let (start, end) = numbers.split_once("..")?;
    Some((number(start)?..number(end)?, ops))
}

/// Operations between commas, in which `n` stands for a number.
fn batch(ops: &'static str, n: u16) -> Option<Vec<Op>> {
    ops.split(',').map(|text| op(text.trim(), n)).collect()
}

/// `a 1 20`: a put.
fn put(text: &'static str, n: u16) -> Option<Op> {
    operation("put", text, n)
}

fn op(text: &'static str, n: u16) -> Option<Op> {
    let (verb, rest) = text.split_once(' ')?;
    operation(verb, rest, n)
}

fn operation(verb: &str, rest: &'static str, n: u16) -> Option<Op> {
    let (keyspace, rest) = name(rest)?;
    let mut words = rest.split_whitespace();
    let first = words.next()?;
    let key = || if first == "n" { Some(n) } else { number(first) };
    let op = match verb {
        "put" | "merge" => {
            let (to, key, len) = (keyspace, key()?, words.next()?);
            let len = if len == "n" { n.into() } else { number(len)? };
            if verb == "put" { Op::Put { to, key, len } } else { Op::Merge { to, key, len } }
        }
        "delete" => Op::Delete { from: keyspace, key: key()? },
        "delete_range" => {
            let (start, end) = first.split_once("..")?;
            Op::DeleteRange { from: keyspace, start: number(start)?, end: number(end)? }
        }
        "purge" => Op::Purge { from: keyspace, key: key()? },
        "purge_prefix" => Op::PurgePrefix { from: keyspace, prefix: first },
        _ => return None,
    };
    words.next().is_none().then_some(op)
}

/// A name, which may stand in quotes, and what comes behind it.
fn name(text: &'static str) -> Option<(&'static str, &'static str)> {
    match text.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"'),
        None => Some(text.split_once(' ').unwrap_or((text, ""))),
    }
}

fn only_name(text: &'static str) -> Option<&'static str> {
    let (name, rest) = name(text)?;
    (!name.is_empty() && rest.is_empty()).then_some(name)
}

/// A number, in which `_` may divide the thousands.
fn number<T: std::str::FromStr>(word: &str) -> Option<T> {
    word.replace('_', "").parse().ok()
}
