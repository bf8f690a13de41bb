//! The newest writes, durable in order.
//!
//! Each memtable has exactly one log file; a log file is a header and a chain of records, each one batch.
//!
//! ```text
//!  0        32            …            …           …      end
//!  ├────────┼─────────────┼────────────┼───────────┼──────┤
//!  │ header │ batch       │ batch      │ batch     │ seal │   zeros, if room was reserved
//!           └──── each: header crc · length · payload crc · previous crc · synced mark · payload
//! ```
//!
//! The manifest is a log of the same make: its records are edits, each synced before the next.
//!
//! What survives which end:
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
//! * W2: a record carries the place up to which its log was known synced when it was written. A bad record below
//!   that place is corruption; beyond it, it is the torn tail, good records behind it or not.
//! * W3: a log that was followed by another ends with a seal. Without it the tail is torn and the logs after it are
//!   void.
//! * W4: the name of a log is durable before anything is written to it. So a log that is missing between two others, or
//!   between the oldest one needed and the newest, is damage.
//!
//! The format is specified in `docs/format/wal.md`.

mod batch;
mod reader;
mod record;
mod writer;

pub(crate) use batch::{BATCH_LEN_MAX, BatchBuf, BatchView, Op};
pub(crate) use reader::{Ending, LogEnd, Verdict, replay};
pub(crate) use record::RecordKind;
pub(crate) use writer::{LogFile, LogWriter};
