//! The only door to the outside: files, directories, locks, clocks, randomness, and who runs background work.
//!
//! Nothing above this module names `std::fs` or reads a clock. Three machines stand behind the door: [`Os`], the real
//! one; [`Memory`], files that live as long as the value; and [`Sim`], a simulated machine that remembers only what was
//! synced, fails any call on demand and replays from a seed.
//!
//! # The durability contract
//!
//! * [`File::write_at`] reaches the operating system: it survives the death of the process, not a power cut.
//! * [`File::sync`] makes the bytes and the length of that file survive a power cut. Until it returned, any subset of
//!   the writes since the last sync may have reached the medium, in any order, torn at any 512-byte sector.
//! * [`Dir::create`], [`Dir::rename`], [`Dir::remove`], [`Dir::create_dir`] and [`Dir::remove_dir`] survive a power cut
//!   only after [`Dir::sync_dir`] of the directory that holds the name.
//! * After a sync has failed, nothing is known about the bytes it covered; a second sync that succeeds proves nothing.
//! * Syncing what was deleted meanwhile is an error (`NotFound`), where the machine can tell.
//! * A directory is held, not its path: moved, it is still the same one, and what takes its place at the path is
//!   another's.

mod clock;
mod door;
mod files;
mod map;
mod memory;
mod os;
mod ram;
mod sim;

pub use door::{Background, Dir, Env, File};
pub(crate) use files::{Files, ReadFile};
pub(crate) use map::Origin;
pub use map::Region;
pub use memory::Memory;
pub use os::Os;
pub use sim::{Fault, Loss, Sim};
