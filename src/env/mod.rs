//! Access to everything outside: files, directories, locks, clocks, randomness, and threads for background work.
//!
//! Nothing above this module names `std::fs` or reads a clock. There are three machines: [`Os`], the real one;
//! [`Memory`], files that live as long as the value; and [`Sim`], a simulated machine that remembers only what was
//! synced, fails any call on demand and replays from a seed.
//!
//! # The durability contract
//!
//! * [`File::write_at`] reaches the operating system: it survives the death of the process, not a power cut.
//! * [`File::sync`] makes the bytes and the length of that file survive a power cut. Until it returns, any subset of
//!   the writes since the last sync may have reached the medium, in any order, torn at any 512-byte sector.
//! * [`Dir::create`], [`Dir::rename`], [`Dir::remove`], [`Dir::create_dir`] and [`Dir::remove_dir`] survive a power cut
//!   only after [`Dir::sync_dir`] of the directory that holds the name.
//! * After a failed sync, nothing is known about the bytes it covered; a second sync that succeeds proves nothing.
//! * Syncing a file or directory that has been deleted is an error (`NotFound`), where the machine can detect it.
//! * A handle holds the directory, not its path: after a move it is still the same directory, and one that takes its
//!   place at the old path is another.

mod clock;
mod door;
mod files;
mod map;
mod memory;
mod os;
mod ram;
mod sim;
mod written;

pub use door::{Background, Dir, Env, File};
pub(crate) use files::{Files, ReadFile};
pub(crate) use map::Origin;
pub use map::Region;
pub use memory::Memory;
pub use os::Os;
pub use sim::{Fault, Loss, Sim};
pub(crate) use written::written;
