//! Explained reads: the same look-up as any other, recorded step by step.

use std::{fmt, sync::Arc};

use super::{Place, look_up};
use crate::{
    base::{FileNumber, Result, Seqno},
    engine::{Engine, KeyspaceRef, catalogue::dropped, files::tree::SegmentHandle},
    merge::{Answer, Lookup, ReadAt},
    segment::{PointKey, Probe},
};

/// Places where a read of a key looks and what it finds there, as [`Keyspace::explain`](crate::Keyspace::explain)
/// returns them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explain {
    /// Seqno of the read.
    pub seqno: Seqno,
    /// Places looked at, in order.
    pub steps: Vec<ReadStep>,
    /// Result of the read.
    pub outcome: ReadOutcome,
}

/// One place that a read looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadStep {
    /// A memtable.
    #[non_exhaustive]
    Memtable {
        /// Number of its log.
        log: u64,
        /// Whether it holds anything for the key.
        found: bool,
    },
    /// A segment whose span holds the key. Segments that cannot hold it are not looked at and not listed.
    #[non_exhaustive]
    Segment {
        /// Number in its file name.
        number: u64,
        /// Level it is in; 0 holds the output of flushes.
        level: usize,
        /// Whether the filter let the key pass; `None` if there is no filter.
        filter: Option<bool>,
        /// Partition and slot of the perfect-hash index; `None` if it was not probed.
        slot: Option<(u64, u64)>,
        /// File offset of the entry that the slot names, if the fingerprint matched.
        entry_at: Option<u64>,
        /// Data blocks read, in whole or in part.
        blocks: u32,
        /// Whether it has an entry of the key.
        found: bool,
    },
}

/// Result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadOutcome {
    /// A value, expired or not.
    Value,
    /// The recipe of a large value, expired or not; none of its chunks was read.
    Large,
    /// A value folded from this many operands.
    Folded(usize),
    /// A tombstone: the key was deleted.
    Deleted,
    /// No entry: the key was never written, or nothing of it is left.
    Absent,
}

impl Explain {
    /// Returns the number of data blocks read: 1 for a key in a fully compacted keyspace, 0 for a key that filters or
    /// fingerprints rule out.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        self.steps.iter().map(|step| if let ReadStep::Segment { blocks, .. } = step { *blocks } else { 0 }).sum()
    }

    /// Returns the number of segments whose filter, index or blocks were read.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.steps.iter().filter(|step| matches!(step, ReadStep::Segment { .. })).count()
    }
}

impl fmt::Display for Explain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "read at seqno {}", self.seqno)?;
        for step in &self.steps {
            writeln!(f, "  {step}")?;
        }
        match self.outcome {
            ReadOutcome::Value => write!(f, "a value")?,
            ReadOutcome::Large => write!(f, "the recipe of a large value, whose chunks were not read")?,
            ReadOutcome::Folded(operands) => write!(f, "{operands} operands folded")?,
            ReadOutcome::Deleted => write!(f, "deleted")?,
            ReadOutcome::Absent => write!(f, "absent")?,
        }
        write!(f, "; data blocks read: {}", self.blocks())
    }
}

impl fmt::Display for ReadStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memtable { log, found } => {
                write!(f, "memtable of log {log}: {}", if *found { "found" } else { "not there" })
            }
            Self::Segment { number, level, filter, slot, entry_at, blocks, found } => {
                write!(f, "segment {number}, level {level}: ")?;
                if *filter == Some(false) {
                    return write!(f, "the filter rules it out");
                }
                if filter.is_some() {
                    write!(f, "passes the filter, ")?;
                }
                match (slot, entry_at) {
                    (Some((partition, slot)), None) => {
                        return write!(f, "slot {slot} of partition {partition} has another fingerprint");
                    }
                    (Some((partition, slot)), Some(at)) => {
                        write!(f, "slot {slot} of partition {partition} names the entry at byte {at}, ")?;
                    }
                    (None, _) => write!(f, "searched by fences, ")?,
                }
                write!(f, "{blocks} blocks read, {}", if *found { "found" } else { "not there" })
            }
        }
    }
}

/// Reads the newest value as [`get`](super::get) does, expired or not, and records where it looked.
pub(crate) fn explain(engine: &Engine, keyspace: &KeyspaceRef, key: &[u8]) -> Result<Explain> {
    engine.check_open()?;
    let current = engine.files.current();
    let Some(tree) = current.trees.get(&keyspace.id).filter(|tree| !tree.dropped) else {
        return Err(dropped(keyspace));
    };
    let seqno = engine.visible();
    let mut lookup = Lookup::new(ReadAt::present(seqno, None));
    let mut steps = Vec::new();
    let level_of = |number: FileNumber| {
        let holds = |handles: &Vec<Arc<SegmentHandle>>| handles.iter().any(|t| t.meta.number == number);
        tree.levels.iter().position(holds).unwrap_or(0)
    };
    let answer = look_up(
        &current,
        keyspace.id,
        &mut PointKey::new(key),
        &mut lookup,
        |handle| handle.matters_at(seqno),
        |place| {
            steps.push(match place {
                Place::Memtable(memtable, found) => ReadStep::Memtable { log: memtable.log().0, found },
                Place::Segment(handle, probe) => {
                    let Probe { filter, slot, entry_at, blocks, key_found } = probe;
                    let number = handle.meta.number;
                    ReadStep::Segment {
                        number: number.0,
                        level: level_of(number),
                        filter,
                        slot,
                        entry_at,
                        blocks,
                        found: key_found,
                    }
                }
            });
        },
    )?;
    let outcome = match (lookup.operands(), answer) {
        (0, Some(Answer::Value(_) | Answer::Wide(_))) => ReadOutcome::Value,
        (0, Some(Answer::Recipe(_))) => ReadOutcome::Large,
        (0, Some(Answer::Deleted | Answer::Moved)) => ReadOutcome::Deleted,
        (0, None) => ReadOutcome::Absent,
        (operands, _) => ReadOutcome::Folded(operands),
    };
    Ok(Explain { seqno, steps, outcome })
}
