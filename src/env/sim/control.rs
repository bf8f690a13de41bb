//! The interface of the simulated machine to tests: seed, clocks, faults, power cuts, points, and the bytes of its
//! files.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;

use super::{faults::Fault, handles::SimDir, loss::Loss, machine::Machine, points::Points};
use crate::env::{
    door::{Background, Dir, Env},
    ram,
};

/// A simulated machine. Clones share its disk, its clock and its faults; [`Sim::fork`] does not.
///
/// Calls are counted where they touch the disk. Changing calls are `create_dir`, `create`, `rename`, `remove`,
/// `remove_dir`, `link` and `sync_dir` of a directory, `write_at`, `allocate`, `set_len` and `sync` of a file; reading
/// calls are `list`, `open`, `file_len`, `read_at`, `map` and `len`. A failed call counts too, but not one made while
/// the power is off, with a handle that a power cut killed, or to change a file opened for reading.
///
/// A directory that [`Env::open_dir`] makes is durable at once, with its parents; one that [`Dir::create_dir`] makes is
/// a name like any other, and losing it loses what is in it.
#[derive(Clone, Debug)]
pub struct Sim {
    machine: Arc<Mutex<Machine>>,
    points: Arc<Mutex<Points>>,
}

impl Sim {
    /// Returns a machine with an empty disk. Machines with the same seed that get the same calls behave the same.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::of(Machine::new(seed))
    }

    /// Copies disk, clock, counters and seeded numbers as they are now; the copy is independent from here on. It has no
    /// pending faults, no locks and no open handles; if the power is off, it is off in the copy.
    #[must_use]
    pub fn fork(&self) -> Self {
        let machine = self.machine.lock();
        let mut copy = machine.clone();
        drop(machine);
        copy.disk.release();
        copy.locks.clear();
        copy.faults.clear();
        copy.open_files.count = 0;
        Self::of(copy)
    }

    /// Reads the wall clock.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        let since = Duration::from_micros(self.machine.lock().clock.wall_us);
        UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
    }

    /// Sets the clock, to the microsecond: forwards moves both clocks as time does, backwards only the wall clock.
    pub fn set_time(&self, t: SystemTime) {
        let clock = &mut self.machine.lock().clock;
        let wall_us = micros(t.duration_since(UNIX_EPOCH).unwrap_or_default());
        let passed = wall_us.saturating_sub(clock.wall_us);
        clock.monotonic_us = clock.monotonic_us.saturating_add(passed);
        clock.wall_us = wall_us;
    }

    /// Steps the wall clock forwards; the monotonic one stands still.
    pub fn step_wall(&self, d: Duration) {
        let clock = &mut self.machine.lock().clock;
        clock.wall_us = clock.wall_us.saturating_add(micros(d));
    }

    /// Steps the wall clock backwards; the monotonic one stands still.
    pub fn step_wall_back(&self, d: Duration) {
        let clock = &mut self.machine.lock().clock;
        clock.wall_us = clock.wall_us.saturating_sub(micros(d));
    }

    /// Cuts the power and restores it, with a drawn [`Loss`].
    pub fn cut_power(&self) {
        let machine = &mut *self.machine.lock();
        let drawn = machine.losses.index(Loss::ALL.len());
        machine.cut_power(Loss::ALL.get(drawn).copied().unwrap_or(Loss::Everything));
    }

    /// Cuts the power and restores it. Every earlier directory, file and lock is dead, and each call on it fails;
    /// regions keep their bytes. Pending faults stay.
    pub fn cut_power_with(&self, loss: Loss) {
        self.machine.lock().cut_power(loss);
    }

    /// Returns the number of changing calls so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.machine.lock().faults.calls
    }

    /// Returns the number of reading calls so far.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.machine.lock().faults.reads
    }

    /// Makes the changing call number `call` meet `fault`. The first call of a machine is number 0, the next one from
    /// now [`Sim::calls`].
    pub fn fail_at(&self, call: u64, fault: Fault) {
        self.machine.lock().faults.at_call.insert(call, fault);
    }

    /// Makes the reading call number `call` fail with `EIO`; the next one from now is [`Sim::reads`].
    pub fn fail_read_at(&self, call: u64) {
        self.fail_read_with(call, Fault::Eio);
    }

    /// Makes the reading call number `call` fail with the error of `fault`; even a lasting fault fails it only once.
    pub fn fail_read_with(&self, call: u64, fault: Fault) {
        self.machine.lock().faults.at_read.insert(call, fault);
    }

    /// Clears every fault, pending and lasting. Power that is off stays off.
    pub fn clear_faults(&self) {
        self.machine.lock().faults.clear();
    }

    /// Limits the total size of all files that have a name; a call that exceeds it fails with `ENOSPC`, a write after
    /// the part that still fits. `None` removes the limit.
    pub fn set_space(&self, bytes: Option<u64>) {
        self.machine.lock().space = bytes;
    }

    /// Limits how many files and directories may be open at once, including those already open: beyond it, `open`,
    /// `create` and `open_dir` fail with `EMFILE`. A directory counts once, whatever it contains. `None`, the default,
    /// sets no limit.
    pub fn set_open_files(&self, limit: Option<usize>) {
        self.machine.lock().open_files.limit = limit;
    }

    /// Returns how many files and directories are open.
    #[must_use]
    pub fn open_files(&self) -> usize {
        self.machine.lock().open_files.count
    }

    /// Makes every `map` fail with `ENOMEM` from now on, as in a process with too many maps; or, with `false`, none.
    pub fn refuse_maps(&self, refuse: bool) {
        self.machine.lock().refuse_maps = refuse;
    }

    /// Calls `run` whenever the engine passes a named point: a place between two reads of shared state, or two steps of
    /// a write, where another thread could intervene. `run` may call the database, as that thread would; points passed
    /// during that call are not reported. It must not call a verb that waits for the one at the point: the point's name
    /// says which that is, as in `"compact: files, then list"`.
    ///
    /// A verb that does not itself wait can still be made to: this machine draws background steps on the caller's
    /// thread, and a commit inside `run` may draw a flush or a compaction, which waits for ever for the one at the
    /// point. To prevent it, wrap the machine in an [`Env`] of your own whose `draw` returns `below - 1` while `run` is
    /// active, which draws no step, and make no commit there while
    /// [`Stats::sealed_memtables`](crate::Stats::sealed_memtables) or level 0 is so high that writers wait for room.
    ///
    /// Clones of this machine share `run`, a [fork](Sim::fork) does not.
    pub fn on_point(&self, run: impl FnMut(&'static str) + Send + 'static) {
        Points::replace(&self.points, Points::watched_by(run));
    }

    /// Stops reporting points.
    pub fn ignore_points(&self) {
        Points::replace(&self.points, Points::default());
    }

    /// Lists the full paths of all files, sorted. Like the other three methods that take or return paths, this is not a
    /// call of the machine: it is not counted and meets no fault.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.machine.lock().disk.names().files().map(|(path, _)| path.clone()).collect()
    }

    /// Returns the bytes of a file as programs see them.
    #[must_use]
    pub fn read_file(&self, path: &Path) -> Option<Vec<u8>> {
        let machine = self.machine.lock();
        let id = machine.disk.names().file(&ram::normalise(path)).ok()?;
        Some(machine.disk.bytes(id).ok()?.to_vec())
    }

    /// Damages or creates a file: both programs and the medium see `bytes`.
    pub fn write_file(&self, path: &Path, bytes: Vec<u8>) {
        self.machine.lock().disk.overwrite(ram::normalise(path), bytes);
    }

    /// Removes a file, durably.
    pub fn remove_file(&self, path: &Path) {
        self.machine.lock().disk.erase(ram::normalise(path));
    }

    fn of(machine: Machine) -> Self {
        Self { machine: Arc::new(Mutex::new(machine)), points: Arc::default() }
    }
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

impl Env for Sim {
    fn open_dir(&self, path: &Path, create: bool) -> io::Result<Arc<dyn Dir>> {
        let path = ram::normalise(path);
        let mut machine = self.machine.lock();
        machine.check_power(machine.epoch)?;
        if create {
            machine.disk.make_dirs(&path)?;
        }
        machine.disk.names().check_dir(&path)?;
        machine.open_files.take()?;
        machine.last_handle += 1;
        let (epoch, handle) = (machine.epoch, machine.last_handle);
        Ok(Arc::new(SimDir { machine: Arc::clone(&self.machine), path, epoch, handle }))
    }

    fn wall_us(&self) -> u64 {
        self.machine.lock().clock.wall_us
    }

    fn monotonic_us(&self) -> u64 {
        self.machine.lock().clock.monotonic_us
    }

    fn entropy(&self) -> u64 {
        self.machine.lock().entropy.next()
    }

    fn background(&self) -> Background {
        Background::Caller
    }

    fn draw(&self, below: u32) -> u32 {
        u32::try_from(self.machine.lock().draws.below(below.into())).unwrap_or(0)
    }

    fn open_files_max(&self) -> Option<u64> {
        self.machine.lock().open_files.limit.map(|limit| limit as u64)
    }

    fn pass(&self, point: &'static str) {
        Points::pass(&self.points, point);
    }
}
