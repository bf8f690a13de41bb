//! The workload sets. Each step of a set runs in a process of its own.
//!
//! ```text
//!  steps  which sets there are     params  how large, how long
//!    ▼
//!  fill · small · get · sync · ycsb · large · cold · recovery · asof     a set, or a family of them
//!    ▼
//!  phases  fills, reads, scans and seeks that several have
//!    ▼
//!  ctx     opens the engine, times a phase, prints its record
//! ```

mod asof;
mod cold;
mod ctx;
mod fill;
mod get;
mod large;
mod params;
mod phases;
mod recovery;
mod small;
mod steps;
mod sync;
mod ycsb;

pub use self::ctx::Ctx;
pub use self::params::Params;
pub use self::steps::{SETS, steps};
