//! What the programs that measure chronolith share, so that their numbers mean the same.
//!
//! ```text
//!  options    main, number          the command line
//!  directory  Directory             where files go, and go away
//!  random     Random, keys, SEED    the same keys in every run
//!  queries    independent, chained  how a loop goes over them
//!  clock      each, median          what it took
//!  goal       at_most, at_least     what that is held against
//! ```

pub mod clock;
mod directory;
pub mod goal;
mod options;
mod queries;
mod random;

pub use self::{
    directory::Directory,
    options::{main, number},
    queries::{chained, independent},
    random::{Random, SEED, keys},
};

/// The result of a measurement: whatever goes wrong ends the run.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
