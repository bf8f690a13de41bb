//! A simulated machine: a disk that remembers only what was synced, a clock that stands still, and faults on demand.
//!
//! Everything follows from the seed and from the order of the calls, so a run that failed once fails again. A test of
//! crash safety counts the calls of a run, then repeats it once for each of them:
//!
//! ```text
//!   sim.fail_at(n, Fault::Cut)      the power goes at call n; everything fails from there on
//!   …the run…                       until the first error
//!   sim.fork()                      one copy for each way to lose things
//!   copy.cut_power_with(loss)       the power comes back; handles from before are dead
//!   …open again, compare…           against what was acknowledged before the cut
//! ```

mod control;
mod disk;
mod faults;
mod handles;
mod loss;
mod machine;
mod points;
mod prng;
#[cfg(test)]
mod tests;

pub use control::Sim;
pub use faults::Fault;
pub use loss::Loss;
