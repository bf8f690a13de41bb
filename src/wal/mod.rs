//! The newest writes, durable in order.
//!
//! Each memtable has exactly one log file: a header and a chain of records, each holding one batch.
//!
//! ```text
//!  0        32            …            …           …      end
//!  ├────────┼─────────────┼────────────┼───────────┼──────┤
//!  │ header │ batch       │ batch      │ batch     │ seal │   zeros, if space was reserved
//!           └──── each: header crc · length · payload crc · previous crc · synced mark · payload
//! ```
//!
//! The manifest has the same format: its records are edits, each synced before the next.
//!
//! Writes that survive:
//!
//! | durability | death of the process | power cut |
//! | --- | --- | --- |
//! | `Buffered` | every acknowledged write | a prefix of the commits |
//! | `Interval` | every acknowledged write | all but the last interval and one sync |
//! | `Sync` | every acknowledged write | every acknowledged write |
//!
//! Invariants, cited elsewhere by name:
//!
//! * W1: a log is synced only after all older logs are, so what is durable is a prefix of the commits.
//! * W2: a record stores the offset up to which its log was known to be synced when it was written. A bad record below
//!   that offset is corruption; beyond it, it is the torn tail, whether or not good records follow.
//! * W3: a log that was followed by another ends with a seal. Without it the tail is torn and the logs after it are
//!   void.
//! * W4: the name of a log is durable before anything is written to it. So a log missing between two others, or between
//!   the oldest one needed and the newest, is damage.
//!
//! The format is specified in `docs/format/wal.md`.

mod batch;
mod reader;
mod record;
mod writer;

pub(crate) use batch::{BATCH_LEN_MAX, BatchBuf, BatchView, Op};
pub(crate) use reader::{Ending, LogEnd, Shown, Verdict, replay, was_synced};
pub(crate) use record::RecordKind;
pub(crate) use writer::{LogFile, LogWriter};
