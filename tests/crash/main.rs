//! Power cuts, failing calls and full disks: at every call of every workload, on a simulated machine.
//!
//! A workload is a list of steps. It runs once to count its changing calls, then once for each of them with a fault
//! there. What may be there afterwards follows from what was answered:
//!
//! * every commit is there whole or not at all, and those that are there are a prefix of those that returned `Ok`;
//! * the prefix holds everything that was acknowledged as durable;
//! * a commit that returned an error is there or not: its mark, a key that only it writes, tells which.
//!
//! Where a policy keeps the past, that is asked for too: every commit is told and shown exactly by its
//! number and by its time, or refused where no policy promises it; pins are there; what was purged is not.
//!
//! What a commit means is what the merge strategy of the keyspace says: operands add up or line up, each once; first
//! values stay.
//!
//! ```text
//!  present.txt · past.txt ──▶ workloads ──▶ runner ──▶ oracle     what was answered, and what may be there
//!                                             ▲          ▲
//!  cuts · faults · full_disk ──▶ sweep ───────┤          │
//!                                             └── check ─┴─ past  what is there, opened again
//! ```
//!
//! `CHRONOLITH_CRASH_SEED` sets another seed, `CHRONOLITH_CRASH_FULL=1` runs what the ordinary run only samples,
//! `CHRONOLITH_CRASH_ONLY` takes the workloads with that in their names.

#![expect(clippy::print_stdout, reason = "the counts are what the tests show")]
#![expect(clippy::panic, reason = "a test fails by panicking")]

mod check;
mod cuts;
mod faults;
mod full_disk;
mod keyspaces;
mod observe;
mod oracle;
mod past;
mod runner;
mod sweep;
mod workloads;

#[path = "../support/strategies.rs"]
#[expect(dead_code, reason = "a part of it is for other tests")]
mod strategies;
#[path = "../support/traced.rs"]
mod traced;
#[path = "../support/workload.rs"]
mod workload;
