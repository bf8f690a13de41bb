//! The state of a simulated machine, and the effects of calls on it.

use std::{fmt, io};

use super::{
    disk::{Disk, InodeId},
    faults::{EMFILE, ENOSPC, Fault, Faults, power_off},
    loss::Loss,
    prng::Prng,
};
use crate::env::ram::Locks;

/// Initial time of a new machine: the first of January 2020.
pub(super) const START_US: u64 = 1_577_836_800_000_000;

/// Whole state of a machine, under one lock.
#[derive(Clone)]
pub(super) struct Machine {
    pub(super) disk: Disk,
    pub(super) locks: Locks,
    pub(super) clock: Clock,
    pub(super) faults: Faults,
    pub(super) space: Option<u64>,
    pub(super) open_files: OpenFiles,
    pub(super) refuse_maps: bool,
    /// Number of times the power came back. A handle of another epoch is dead.
    pub(super) epoch: u64,
    pub(super) last_handle: u64,
    is_off: bool,
    // One stream for each use: drawing entropy once more must not change what a power cut takes.
    pub(super) entropy: Prng,
    pub(super) draws: Prng,
    pub(super) losses: Prng,
}

impl fmt::Debug for Machine {
    /// Leaves out the bytes of all files, which would drown the rest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { clock, faults, space, epoch, .. } = self;
        f.debug_struct("Machine")
            .field("clock", clock)
            .field("faults", faults)
            .field("space", space)
            .field("epoch", epoch)
            .finish_non_exhaustive()
    }
}

/// Number of open files and directories, and its limit.
#[derive(Clone, Debug, Default)]
pub(super) struct OpenFiles {
    pub(super) count: usize,
    pub(super) limit: Option<usize>,
}

impl OpenFiles {
    pub(super) fn check(&self) -> io::Result<()> {
        let full = self.limit.is_some_and(|limit| self.count >= limit);
        if full { Err(io::Error::from_raw_os_error(EMFILE)) } else { Ok(()) }
    }

    /// Counts one more, if the limit allows it.
    pub(super) fn take(&mut self) -> io::Result<()> {
        self.check()?;
        self.count += 1;
        Ok(())
    }
}

/// The two clocks.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    pub(super) wall_us: u64,
    pub(super) monotonic_us: u64,
}

impl Machine {
    /// Returns a machine with an empty disk.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            disk: Disk::default(),
            locks: Locks::default(),
            clock: Clock { wall_us: START_US, monotonic_us: 0 },
            faults: Faults::default(),
            space: None,
            open_files: OpenFiles::default(),
            refuse_maps: false,
            epoch: 0,
            last_handle: 0,
            is_off: false,
            entropy: Prng::new(seed, 0),
            draws: Prng::new(seed, 1),
            losses: Prng::new(seed, 2),
        }
    }

    pub(super) fn cut_power(&mut self, loss: Loss) {
        self.disk.cut_power(loss, &mut self.losses);
        self.locks.clear();
        self.open_files.count = 0;
        self.epoch += 1;
        self.is_off = false;
    }

    /// Counts one handle fewer; a power cut has already closed older ones.
    pub(super) fn closed(&mut self, epoch: u64) {
        if self.epoch == epoch {
            self.open_files.count = self.open_files.count.saturating_sub(1);
        }
    }

    pub(super) fn check_power(&self, epoch: u64) -> io::Result<()> {
        if self.is_off || self.epoch != epoch { Err(power_off()) } else { Ok(()) }
    }

    /// Counts a changing call, and returns the fault it meets if that is one that leaves traces.
    fn meet(&mut self, epoch: u64) -> io::Result<Option<Fault>> {
        self.check_power(epoch)?;
        let met = self.faults.meet_call();
        if met == Some(Fault::Cut) {
            self.is_off = true;
            return Err(power_off());
        }
        Ok(met)
    }

    /// Counts a changing call that takes effect whole or not at all, and fails it if it meets a fault.
    pub(super) fn change(&mut self, epoch: u64) -> io::Result<&mut Disk> {
        match self.meet(epoch)? {
            Some(fault) => Err(fault.error(false)),
            None => Ok(&mut self.disk),
        }
    }

    /// Counts a reading call, and fails it if it meets a fault.
    pub(super) fn read(&mut self, epoch: u64) -> io::Result<&mut Disk> {
        self.check_power(epoch)?;
        self.faults.meet_read().map_or(Ok(&mut self.disk), |fault| Err(fault.error(false)))
    }

    pub(super) fn write_at(&mut self, epoch: u64, id: InodeId, offset: u64, buf: &[u8]) -> io::Result<()> {
        if let Some(fault) = self.meet(epoch)? {
            if fault == Fault::Emfile {
                return Err(fault.error(true));
            }
            let written = self.losses.index(buf.len());
            self.disk.write_at(id, offset, head(buf, written))?;
            return Err(fault.error(true));
        }
        let end = self.room_for(id)?;
        let fitting = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
        self.disk.write_at(id, offset, head(buf, fitting))?;
        if fitting < buf.len() { Err(io::Error::from_raw_os_error(ENOSPC)) } else { Ok(()) }
    }

    pub(super) fn sync(&mut self, epoch: u64, id: InodeId) -> io::Result<()> {
        if let Some(fault) = self.meet(epoch)? {
            if fault != Fault::Emfile {
                self.disk.forget(id);
            }
            return Err(fault.error(false));
        }
        self.disk.sync(id)
    }

    /// Fails unless a file may have `len` bytes.
    pub(super) fn check_room(&self, id: InodeId, len: u64) -> io::Result<()> {
        // A file may always keep its length, even if the limit was set later.
        if len > self.room_for(id)? { Err(io::Error::from_raw_os_error(ENOSPC)) } else { Ok(()) }
    }

    /// Returns the length to which a file may grow.
    fn room_for(&self, id: InodeId) -> io::Result<u64> {
        let Some(free) = self.free_bytes() else {
            return Ok(u64::MAX);
        };
        Ok(self.disk.bytes(id)?.len().saturating_add(free))
    }

    pub(super) fn free_bytes(&self) -> Option<u64> {
        Some(self.space?.saturating_sub(self.disk.used_bytes()))
    }
}

/// Returns the first `len` bytes, or all if there are fewer.
fn head(bytes: &[u8], len: usize) -> &[u8] {
    bytes.get(..len).unwrap_or(bytes)
}
