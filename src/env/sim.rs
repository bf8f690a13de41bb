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

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;

use super::{
    Background, Dir, Env, File, Region,
    disk::{self, Disk, InodeId, Locks},
    prng::Prng,
};

/// When the clock of a new machine stands: the first of January 2020.
const START_US: u64 = 1_577_836_800_000_000;

/// The error numbers of Linux, which the standard library turns into kinds.
const EIO: i32 = 5;
const ENOMEM: i32 = 12;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;

/// A simulated machine. Clones share its disk, its clock and its faults; [`Sim::fork`] does not.
///
/// Calls are counted where they touch the disk. Changing calls are `create_dir`, `create`, `rename`, `remove`,
/// `remove_dir`, `link` and `sync_dir` of a directory, `write_at`, `allocate`, `set_len` and `sync` of a file; reading
/// calls are `list`, `open`, `file_len`, `read_at`, `map` and `len`. A call that fails counts too, but not one made
/// while the power is off, with a handle that a power cut killed, or to change a file opened for reading.
///
/// A directory that [`Env::open_dir`] makes is durable at once, with its parents; one that [`Dir::create_dir`] makes is
/// a name like any other, and losing it loses what is in it.
#[derive(Clone, Debug)]
pub struct Sim {
    machine: Arc<Mutex<Machine>>,
    points: Arc<Mutex<Points>>,
}

/// What a test runs when the engine passes a named point.
#[derive(Default)]
struct Points {
    watched: bool,
    /// Nothing while it runs.
    run: Option<Box<dyn FnMut(&'static str) + Send>>,
}

impl fmt::Debug for Points {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Points({})", if self.watched { "watched" } else { "ignored" })
    }
}

/// What a power cut does to operations that were not synced. Synced ones survive any of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Loss {
    /// Everything survives, as if all of it had been synced.
    Nothing,
    /// Nothing survives: each file is what it was at its last sync, each directory holds the names of its last sync.
    Everything,
    /// Operations survive up to a drawn moment, in order of time over the whole machine.
    Prefix,
    /// Each operation is kept or lost on its own, and a write may tear: each of its sectors holds the new bytes, the
    /// old ones, zeros or noise. The length of a file may be the old one, the new one, or one in between.
    Torn,
    /// All names survive, no bytes do: as on file systems where syncing a file makes its name durable too.
    NamesKept,
    /// All bytes survive, no names do.
    DataOnly,
}

impl Loss {
    /// Every way to lose, for tests that try them all.
    pub const ALL: [Self; 6] =
        [Self::Nothing, Self::Everything, Self::Prefix, Self::Torn, Self::NamesKept, Self::DataOnly];
}

/// What goes wrong at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The call fails with `EIO`. A write leaves a drawn part of its bytes behind; a sync loses what it should have
    /// made durable, even for later syncs, while programs go on reading it.
    Eio,
    /// The same with `ENOSPC`.
    Enospc,
    /// The power goes: this call does nothing, and every call fails until [`Sim::cut_power`].
    Cut,
    /// [`Fault::Eio`] for this changing call and all later ones, until [`Sim::clear_faults`].
    EioForever,
    /// [`Fault::Enospc`] for this changing call and all later ones, until [`Sim::clear_faults`].
    EnospcForever,
    /// A write leaves a drawn part of its bytes behind and fails with `WriteZero`; other calls fail with `EIO`.
    ShortWrite,
    /// The call fails with `EMFILE`, too many open files, and changes nothing: what a sync should have made durable, a
    /// later one can.
    Emfile,
}

impl Fault {
    fn error(self, writing: bool) -> io::Error {
        match self {
            Self::Cut => power_off(),
            Self::ShortWrite if writing => ErrorKind::WriteZero.into(),
            Self::Eio | Self::EioForever | Self::ShortWrite => io::Error::from_raw_os_error(EIO),
            Self::Enospc | Self::EnospcForever => io::Error::from_raw_os_error(ENOSPC),
            Self::Emfile => io::Error::from_raw_os_error(EMFILE),
        }
    }
}

fn power_off() -> io::Error {
    io::Error::other("the power is off for this handle")
}

impl Sim {
    /// A machine with an empty disk. Machines of one seed that get the same calls do the same.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::of(Machine {
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
        })
    }

    /// A copy of disk, clock, counters and seeded numbers as they are now, that goes its own way from here. It has no
    /// faults to come, no locks and no open handles; where the power is off, it is off in the copy.
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

    /// The wall clock.
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

    /// The power goes and comes back, with a drawn [`Loss`].
    pub fn cut_power(&self) {
        let machine = &mut *self.machine.lock();
        let drawn = machine.losses.index(Loss::ALL.len());
        machine.cut_power(Loss::ALL.get(drawn).copied().unwrap_or(Loss::Everything));
    }

    /// The power goes and comes back. Every directory, file and lock from before is dead, each call on it an error;
    /// regions keep their bytes. Faults still to come stay.
    pub fn cut_power_with(&self, loss: Loss) {
        self.machine.lock().cut_power(loss);
    }

    /// How many changing calls there were so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.machine.lock().faults.calls
    }

    /// How many reading calls there were so far.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.machine.lock().faults.reads
    }

    /// Lets the changing call with the number `call` meet `fault`. The first call of a machine has the number 0, the
    /// next one from now [`Sim::calls`].
    pub fn fail_at(&self, call: u64, fault: Fault) {
        self.machine.lock().faults.at_call.insert(call, fault);
    }

    /// Lets the reading call with the number `call` fail with `EIO`; the next one from now is [`Sim::reads`].
    pub fn fail_read_at(&self, call: u64) {
        self.fail_read_with(call, Fault::Eio);
    }

    /// Lets the reading call with the number `call` fail with the error of `fault`; of faults that stay, this once.
    pub fn fail_read_with(&self, call: u64, fault: Fault) {
        self.machine.lock().faults.at_read.insert(call, fault);
    }

    /// Takes back every fault, those to come and those that stay. Power that is off stays off.
    pub fn clear_faults(&self) {
        self.machine.lock().faults.clear();
    }

    /// Limits how many bytes all files with a name may have together; what goes beyond fails with `ENOSPC`, a write
    /// after the part that still fits. `None` takes the limit away.
    pub fn set_space(&self, bytes: Option<u64>) {
        self.machine.lock().space = bytes;
    }

    /// Limits how many files and directories may be open at once, those that are open already included: beyond, `open`,
    /// `create` and `open_dir` fail with `EMFILE`. A directory counts once, whatever is in it. `None`, as in the
    /// beginning, is without limit.
    pub fn set_open_files(&self, limit: Option<usize>) {
        self.machine.lock().open_files.limit = limit;
    }

    /// How many files and directories are open.
    #[must_use]
    pub fn open_files(&self) -> usize {
        self.machine.lock().open_files.count
    }

    /// From now on every `map` fails with `ENOMEM`, as where a process has too many maps; or none does any more.
    pub fn refuse_maps(&self, refuse: bool) {
        self.machine.lock().refuse_maps = refuse;
    }

    /// Calls `run` whenever the engine passes a named point: a place between two reads of shared state, or two steps of a write, where another
    /// thread could come between. `run` may call the database, as that thread would; points passed meanwhile are not told. It must not call a verb
    /// that waits for the one that is at the point: the point's name says what that is, as in `"compact: files, then list"`.
    ///
    /// A verb that does not wait by itself can be made to: this machine draws background steps on the caller's thread, and a commit inside
    /// `run` may draw a flush or a compaction, which waits for ever for the one at the point. Wrap the machine in an [`Env`] of your own whose
    /// `draw` answers `below - 1` while `run` is under way, which draws no step, and make no commit there while
    /// [`Stats::sealed_memtables`](crate::Stats::sealed_memtables) or level 0 is so high that writers wait for room.
    ///
    /// A clone of this machine shares it, a [fork](Sim::fork) does not.
    pub fn on_point(&self, run: impl FnMut(&'static str) + Send + 'static) {
        let before = std::mem::replace(&mut *self.points.lock(), Points { watched: true, run: Some(Box::new(run)) });
        drop(before);
    }

    /// Points are ignored again.
    pub fn ignore_points(&self) {
        // Dropped outside the lock: it may hold handles of a database, whose end passes points too.
        let before = std::mem::take(&mut *self.points.lock());
        drop(before);
    }

    /// The full paths of all files, sorted. Like the other three calls on paths it is no call of the machine: it
    /// counts nowhere and meets no fault.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.machine.lock().disk.names().files().map(|(path, _)| path.clone()).collect()
    }

    /// The bytes of a file as programs see them.
    #[must_use]
    pub fn read_file(&self, path: &Path) -> Option<Vec<u8>> {
        let machine = self.machine.lock();
        let id = machine.disk.names().file(&disk::normalise(path)).ok()?;
        Some(machine.disk.bytes(id).ok()?.to_vec())
    }

    /// Damages or makes a file: `bytes` are what programs see and what the medium has.
    pub fn write_file(&self, path: &Path, bytes: Vec<u8>) {
        self.machine.lock().disk.overwrite(disk::normalise(path), bytes);
    }

    /// Takes a file away, durably.
    pub fn remove_file(&self, path: &Path) {
        self.machine.lock().disk.erase(disk::normalise(path));
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
        let path = disk::normalise(path);
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
        // Taken out while it runs: points that it passes itself find nothing.
        let run = self.points.lock().run.take();
        let Some(mut run) = run else { return };
        run(point);
        let mut points = self.points.lock();
        if points.watched && points.run.is_none() {
            points.run = Some(run);
        }
    }
}

#[derive(Clone)]
struct Machine {
    disk: Disk,
    locks: Locks,
    clock: Clock,
    faults: Faults,
    space: Option<u64>,
    open_files: OpenFiles,
    refuse_maps: bool,
    /// How often the power came back. A handle of another epoch is dead.
    epoch: u64,
    last_handle: u64,
    is_off: bool,
    // One stream for each use: asking for entropy once more must not change what a power cut takes.
    entropy: Prng,
    draws: Prng,
    losses: Prng,
}

impl fmt::Debug for Machine {
    /// The bytes of all files would drown whatever prints a machine.
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

#[derive(Clone, Debug, Default)]
struct OpenFiles {
    count: usize,
    limit: Option<usize>,
}

impl OpenFiles {
    fn check(&self) -> io::Result<()> {
        let full = self.limit.is_some_and(|limit| self.count >= limit);
        if full { Err(io::Error::from_raw_os_error(EMFILE)) } else { Ok(()) }
    }

    /// Counts one more, if there may be one.
    fn take(&mut self) -> io::Result<()> {
        self.check()?;
        self.count += 1;
        Ok(())
    }
}

#[derive(Clone, Debug)]
struct Clock {
    wall_us: u64,
    monotonic_us: u64,
}

#[derive(Clone, Debug, Default)]
struct Faults {
    calls: u64,
    reads: u64,
    at_call: BTreeMap<u64, Fault>,
    at_read: BTreeMap<u64, Fault>,
    /// What every changing call meets by now.
    standing: Option<Fault>,
}

impl Faults {
    /// Forgets the faults and keeps the counts.
    fn clear(&mut self) {
        self.at_call.clear();
        self.at_read.clear();
        self.standing = None;
    }
}

impl Machine {
    fn cut_power(&mut self, loss: Loss) {
        self.disk.cut_power(loss, &mut self.losses);
        self.locks.clear();
        self.open_files.count = 0;
        self.epoch += 1;
        self.is_off = false;
    }

    /// Counts a handle less; a power cut has closed those from before already.
    fn closed(&mut self, epoch: u64) {
        if self.epoch == epoch {
            self.open_files.count = self.open_files.count.saturating_sub(1);
        }
    }

    fn check_power(&self, epoch: u64) -> io::Result<()> {
        if self.is_off || self.epoch != epoch { Err(power_off()) } else { Ok(()) }
    }

    /// Counts a changing call, and says which fault it meets if it is one that leaves traces.
    fn meet(&mut self, epoch: u64) -> io::Result<Option<Fault>> {
        self.check_power(epoch)?;
        let faults = &mut self.faults;
        let planned = faults.at_call.remove(&faults.calls);
        faults.calls += 1;
        match planned {
            Some(Fault::Cut) => {
                self.is_off = true;
                return Err(power_off());
            }
            Some(Fault::EioForever | Fault::EnospcForever) => faults.standing = planned,
            _ => {}
        }
        Ok(planned.or(faults.standing))
    }

    /// Counts a changing call that happens whole or not at all, and fails it if it meets a fault.
    fn change(&mut self, epoch: u64) -> io::Result<&mut Disk> {
        match self.meet(epoch)? {
            Some(fault) => Err(fault.error(false)),
            None => Ok(&mut self.disk),
        }
    }

    /// Counts a reading call, and fails it if it meets a fault.
    fn read(&mut self, epoch: u64) -> io::Result<&mut Disk> {
        self.check_power(epoch)?;
        let failing = self.faults.at_read.remove(&self.faults.reads);
        self.faults.reads += 1;
        failing.map_or(Ok(&mut self.disk), |fault| Err(fault.error(false)))
    }

    fn write_at(&mut self, epoch: u64, id: InodeId, offset: u64, buf: &[u8]) -> io::Result<()> {
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

    fn sync(&mut self, epoch: u64, id: InodeId) -> io::Result<()> {
        if let Some(fault) = self.meet(epoch)? {
            if fault != Fault::Emfile {
                self.disk.forget(id);
            }
            return Err(fault.error(false));
        }
        self.disk.sync(id)
    }

    /// Fails unless a file may have `len` bytes.
    fn check_room(&self, id: InodeId, len: u64) -> io::Result<()> {
        // A file may always keep what it has, even where the limit came later.
        if len > self.room_for(id)? { Err(io::Error::from_raw_os_error(ENOSPC)) } else { Ok(()) }
    }

    /// How long a file may become.
    fn room_for(&self, id: InodeId) -> io::Result<u64> {
        let Some(free) = self.free_bytes() else {
            return Ok(u64::MAX);
        };
        Ok(self.disk.bytes(id)?.len().saturating_add(free))
    }

    fn free_bytes(&self) -> Option<u64> {
        Some(self.space?.saturating_sub(self.disk.used_bytes()))
    }
}

/// The first `len` bytes, or all if there are fewer.
fn head(bytes: &[u8], len: usize) -> &[u8] {
    bytes.get(..len).unwrap_or(bytes)
}

#[derive(Debug)]
struct SimDir {
    machine: Arc<Mutex<Machine>>,
    path: PathBuf,
    epoch: u64,
    /// Tells whose a lock is.
    handle: u64,
}

impl SimDir {
    /// A handle for an inode whose opening the machine has counted.
    fn file(&self, inode: InodeId, writable: bool) -> Arc<dyn File> {
        Arc::new(SimFile { machine: Arc::clone(&self.machine), inode, epoch: self.epoch, writable })
    }
}

impl Drop for SimDir {
    fn drop(&mut self) {
        // Handles are numbered across power cuts, so a dead one frees nobody else's lock.
        let mut machine = self.machine.lock();
        machine.locks.unlock(self.handle);
        machine.closed(self.epoch);
    }
}

impl Dir for SimDir {
    fn path(&self) -> &Path {
        &self.path
    }

    fn try_lock(&self, exclusive: bool) -> io::Result<bool> {
        let mut machine = self.machine.lock();
        machine.check_power(self.epoch)?;
        Ok(machine.locks.try_lock(&self.path, self.handle, exclusive))
    }

    fn unlock(&self) -> io::Result<()> {
        let mut machine = self.machine.lock();
        machine.check_power(self.epoch)?;
        machine.locks.unlock(self.handle);
        Ok(())
    }

    fn restrict(&self) -> io::Result<()> {
        self.machine.lock().check_power(self.epoch)
    }

    fn check_there(&self) -> io::Result<()> {
        let machine = self.machine.lock();
        machine.check_power(self.epoch)?;
        machine.disk.names().check_dir(&self.path)
    }

    fn list(&self, sub: &str) -> io::Result<Vec<String>> {
        self.machine.lock().read(self.epoch)?.names().list(&disk::at(&self.path, sub)?)
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        self.machine.lock().change(self.epoch)?.create_dir(disk::at(&self.path, name)?)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut machine = self.machine.lock();
        machine.change(self.epoch)?;
        machine.open_files.check()?;
        let id = machine.disk.create(disk::at(&self.path, name)?)?;
        machine.open_files.take()?;
        machine.disk.open(id);
        Ok(self.file(id, true))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut machine = self.machine.lock();
        let id = machine.read(self.epoch)?.names().file(&disk::at(&self.path, name)?)?;
        machine.open_files.take()?;
        machine.disk.open(id);
        Ok(self.file(id, false))
    }

    fn file_len(&self, name: &str) -> io::Result<u64> {
        let mut machine = self.machine.lock();
        let disk = machine.read(self.epoch)?;
        let id = disk.names().file(&disk::at(&self.path, name)?)?;
        Ok(disk.bytes(id)?.len())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut machine = self.machine.lock();
        machine.change(self.epoch)?.rename(disk::at(&self.path, from)?, disk::at(&self.path, to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.machine.lock().change(self.epoch)?.remove(disk::at(&self.path, name)?)
    }

    fn remove_dir(&self, name: &str) -> io::Result<()> {
        self.machine.lock().change(self.epoch)?.remove_dir(disk::at(&self.path, name)?)
    }

    fn link(&self, name: &str, to: &dyn Dir, to_name: &str) -> io::Result<()> {
        // Asked before the machine is locked: `to` may be of a machine that locks itself.
        let to = disk::at(&disk::normalise(to.path()), to_name)?;
        self.machine.lock().change(self.epoch)?.link(&disk::at(&self.path, name)?, to)
    }

    fn sync_dir(&self, sub: &str) -> io::Result<()> {
        self.machine.lock().change(self.epoch)?.sync_dir(&disk::at(&self.path, sub)?)
    }

    fn available_space(&self) -> io::Result<u64> {
        let machine = self.machine.lock();
        machine.check_power(self.epoch)?;
        machine.free_bytes().ok_or_else(|| ErrorKind::Unsupported.into())
    }
}

#[derive(Debug)]
struct SimFile {
    machine: Arc<Mutex<Machine>>,
    inode: InodeId,
    epoch: u64,
    writable: bool,
}

impl SimFile {
    fn check_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(disk::read_only()) }
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut machine = self.machine.lock();
        // A power cut has closed every handle already.
        if machine.epoch == self.epoch {
            machine.disk.close(self.inode);
        }
        machine.closed(self.epoch);
    }
}

impl File for SimFile {
    fn identity(&self) -> (u64, u64) {
        (self.inode, 0)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.machine.lock().read(self.epoch)?.bytes(self.inode)?.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.machine.lock().read(self.epoch)?.bytes(self.inode)?.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.check_writable()?;
        self.machine.lock().write_at(self.epoch, self.inode, offset, buf)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        let mut machine = self.machine.lock();
        machine.change(self.epoch)?;
        machine.check_room(self.inode, len)?;
        machine.disk.extend(self.inode, len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        let mut machine = self.machine.lock();
        machine.change(self.epoch)?;
        machine.check_room(self.inode, len)?;
        machine.disk.set_len(self.inode, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.machine.lock().sync(self.epoch, self.inode)
    }

    fn map(&self) -> io::Result<Region> {
        let mut machine = self.machine.lock();
        let refused = machine.refuse_maps;
        let disk = machine.read(self.epoch)?;
        if refused { Err(io::Error::from_raw_os_error(ENOMEM)) } else { Ok(disk.bytes(self.inode)?.region()) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn open(sim: &Sim) -> Arc<dyn Dir> {
        sim.open_dir(Path::new("db"), true).unwrap()
    }

    fn read(sim: &Sim, name: &str) -> Option<Vec<u8>> {
        sim.read_file(&Path::new("db").join(name))
    }

    fn kind<T>(result: io::Result<T>) -> ErrorKind {
        result.err().expect("an error").kind()
    }

    fn put(dir: &dyn Dir, name: &str, bytes: &[u8]) -> Arc<dyn File> {
        let file = dir.create(name).unwrap();
        file.write_at(0, bytes).unwrap();
        file
    }

    /// A machine with "a" = `old`, durable; then unsynced: more bytes in "a", the name of a synced "b", all of "c".
    fn half_synced(seed: u64) -> Sim {
        let sim = Sim::new(seed);
        let dir = open(&sim);
        let a = put(&*dir, "a", b"old");
        a.sync().unwrap();
        dir.sync_dir("").unwrap();
        a.write_at(3, b"new").unwrap();
        put(&*dir, "b", b"b").sync().unwrap();
        put(&*dir, "c", b"c");
        sim
    }

    fn after(loss: Loss) -> [Option<Vec<u8>>; 3] {
        let sim = half_synced(1);
        sim.cut_power_with(loss);
        ["a", "b", "c"].map(|name| read(&sim, name))
    }

    #[expect(clippy::unnecessary_wraps, reason = "stands beside what a file may hold")]
    fn some(bytes: &[u8]) -> Option<Vec<u8>> {
        Some(bytes.to_vec())
    }

    #[test]
    fn losing_nothing_keeps_what_was_never_synced() {
        assert_eq!(after(Loss::Nothing), [some(b"oldnew"), some(b"b"), some(b"c")]);
    }

    #[test]
    fn losing_everything_leaves_what_was_synced_under_synced_names() {
        assert_eq!(after(Loss::Everything), [some(b"old"), None, None]);
    }

    #[test]
    fn losing_data_only_keeps_the_names_of_empty_files() {
        assert_eq!(after(Loss::NamesKept), [some(b"old"), some(b"b"), some(b"")]);
    }

    #[test]
    fn losing_names_only_keeps_the_bytes_behind_synced_names() {
        assert_eq!(after(Loss::DataOnly), [some(b"oldnew"), None, None]);
    }

    #[test]
    fn a_prefix_ends_at_each_moment_and_never_has_holes() {
        let moments = [
            [some(b"old"), None, None],
            [some(b"oldnew"), None, None],
            [some(b"oldnew"), some(b"b"), None],
            [some(b"oldnew"), some(b"b"), some(b"")],
            [some(b"oldnew"), some(b"b"), some(b"c")],
        ];
        let mut seen = [false; 5];
        for seed in 0..200 {
            let sim = half_synced(seed);
            sim.cut_power_with(Loss::Prefix);
            let left = ["a", "b", "c"].map(|name| read(&sim, name));
            let moment = moments.iter().position(|m| *m == left);
            seen[moment.unwrap_or_else(|| panic!("seed {seed}: no moment was {left:?}"))] = true;
        }
        assert_eq!(seen, [true; 5]);
    }

    #[test]
    fn a_torn_write_mixes_sectors_and_spares_what_was_synced() {
        let (mut lengths, mut sectors) = (BTreeSet::new(), BTreeSet::new());
        for seed in 0..300 {
            let sim = Sim::new(seed);
            let dir = open(&sim);
            let file = put(&*dir, "a", &[1; 700]);
            file.sync().unwrap();
            dir.sync_dir("").unwrap();
            file.write_at(700, &[2; 2000]).unwrap();
            sim.cut_power_with(Loss::Torn);

            let left = read(&sim, "a").unwrap();
            assert_eq!(left[..700], [1; 700], "seed {seed}");
            lengths.insert(left.len());
            // The write begins inside the second sector; the third one is all its own.
            if let Some(sector) = left.get(1024..1536) {
                let uniform = sector.iter().all(|byte| *byte == sector[0]);
                sectors.insert(if uniform { Some(sector[0]) } else { None });
            }
        }
        assert!(lengths.contains(&700) && lengths.contains(&2700) && lengths.len() > 10, "{lengths:?}");
        assert_eq!(sectors, [None, Some(0), Some(2)].into());
    }

    #[test]
    fn torn_names_are_kept_or_lost_one_by_one() {
        let mut seen = BTreeSet::new();
        for seed in 0..100 {
            let sim = half_synced(seed);
            sim.cut_power_with(Loss::Torn);
            seen.insert((read(&sim, "b").is_some(), read(&sim, "c").is_some()));
        }
        assert_eq!(seen.len(), 4);
    }

    #[test]
    fn a_rename_over_current_leaves_the_old_or_the_new_one_whole() {
        let mut seen = BTreeSet::new();
        for seed in 0..100 {
            for loss in Loss::ALL {
                let sim = Sim::new(seed);
                let dir = open(&sim);
                put(&*dir, "CURRENT", b"old").sync().unwrap();
                dir.sync_dir("").unwrap();
                put(&*dir, "CURRENT.tmp", b"new").sync().unwrap();
                dir.rename("CURRENT.tmp", "CURRENT").unwrap();
                assert_eq!(dir.list("").unwrap(), ["CURRENT"]);
                assert_eq!(read(&sim, "CURRENT"), some(b"new"));
                sim.cut_power_with(loss);
                seen.insert(read(&sim, "CURRENT").unwrap());
            }
        }
        assert_eq!(seen, [b"new".to_vec(), b"old".to_vec()].into());
    }

    #[test]
    fn what_was_synced_survives_every_loss() {
        for loss in Loss::ALL {
            let sim = Sim::new(3);
            let dir = open(&sim);
            dir.create_dir("wal").unwrap();
            let file = put(&*dir, "wal/1.wal", b"log");
            file.allocate(8).unwrap();
            file.sync().unwrap();
            dir.sync_dir("wal").unwrap();
            dir.sync_dir("").unwrap();
            sim.cut_power_with(loss);
            assert_eq!(read(&sim, "wal/1.wal"), some(b"log\0\0\0\0\0"), "{loss:?}");
        }
    }

    #[test]
    fn a_lost_directory_takes_its_files_along() {
        let sim = Sim::new(1);
        let dir = open(&sim);
        dir.create_dir("wal").unwrap();
        put(&*dir, "wal/1.wal", b"log").sync().unwrap();
        dir.sync_dir("wal").unwrap();
        sim.cut_power_with(Loss::Everything);
        assert_eq!(sim.files(), Vec::<PathBuf>::new());
        assert_eq!(kind(open(&sim).list("wal")), ErrorKind::NotFound);
    }

    #[test]
    fn a_removed_name_comes_back_unless_its_directory_was_synced() {
        let sim = Sim::new(1);
        let dir = open(&sim);
        put(&*dir, "a", b"x").sync().unwrap();
        dir.sync_dir("").unwrap();
        dir.remove("a").unwrap();
        let synced = sim.fork();
        sim.cut_power_with(Loss::Everything);
        assert_eq!(read(&sim, "a"), some(b"x"));

        open(&synced).sync_dir("").unwrap();
        synced.cut_power_with(Loss::Everything);
        assert_eq!(read(&synced, "a"), None);
    }

    #[test]
    fn a_second_name_shares_the_bytes() {
        let sim = half_synced(1);
        let copy = sim.open_dir(Path::new("copy/one"), true).unwrap();
        open(&sim).link("b", &*copy, "b2").unwrap();
        copy.sync_dir("").unwrap();
        sim.cut_power_with(Loss::Everything);
        assert_eq!(read(&sim, "b"), None);
        assert_eq!(sim.read_file(Path::new("./copy//one/b2")), some(b"b"));
    }

    #[test]
    fn after_a_failed_sync_a_good_one_proves_nothing() {
        let sim = Sim::new(1);
        let dir = open(&sim);
        let file = put(&*dir, "a", b"lost");
        dir.sync_dir("").unwrap();
        sim.fail_at(sim.calls(), Fault::Eio);
        assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(EIO));
        assert_eq!(read(&sim, "a"), some(b"lost"));
        file.write_at(4, b"kept").unwrap();
        file.sync().unwrap();
        sim.cut_power_with(Loss::Nothing);
        assert_eq!(read(&sim, "a"), some(b"\0\0\0\0kept"));
    }

    #[test]
    fn the_power_stays_off_until_it_comes_back() {
        let sim = half_synced(1);
        let dir = open(&sim);
        sim.fail_at(sim.calls() + 1, Fault::Cut);
        let file = dir.create("d").unwrap();
        assert_eq!(kind(file.write_at(0, b"x")), ErrorKind::Other);
        assert_eq!(kind(file.sync()), ErrorKind::Other);
        assert_eq!(kind(dir.list("")), ErrorKind::Other);
        sim.clear_faults();
        assert_eq!(kind(sim.open_dir(Path::new("db"), true)), ErrorKind::Other);
        assert_eq!(kind(sim.fork().open_dir(Path::new("db"), true)), ErrorKind::Other);
        sim.cut_power_with(Loss::Nothing);
        assert_eq!(open(&sim).list("").unwrap(), ["a", "b", "c", "d"]);
        assert_eq!(read(&sim, "d"), some(b""));
    }

    #[test]
    fn handles_from_before_a_cut_are_dead_and_regions_are_not() {
        let sim = Sim::new(1);
        let dir = open(&sim);
        let file = put(&*dir, "a", b"x");
        let region = file.map().unwrap();
        assert!(dir.try_lock(true).unwrap());
        sim.cut_power();
        let calls = (sim.calls(), sim.reads());
        assert_eq!(kind(file.len()), ErrorKind::Other);
        assert_eq!(kind(file.write_at(0, b"y")), ErrorKind::Other);
        assert_eq!(kind(dir.sync_dir("")), ErrorKind::Other);
        assert_eq!(kind(dir.try_lock(true)), ErrorKind::Other);
        assert_eq!(kind(dir.unlock()), ErrorKind::Other);
        assert_eq!((sim.calls(), sim.reads()), calls);
        assert_eq!(&*region, b"x");

        let next = open(&sim);
        assert!(next.try_lock(true).unwrap());
        drop((dir, file));
        assert!(!open(&sim).try_lock(true).unwrap());
    }

    #[test]
    fn faults_meet_the_call_they_were_planned_for() {
        let sim = Sim::new(1);
        let dir = open(&sim);
        sim.fail_at(1, Fault::ShortWrite);
        sim.fail_at(2, Fault::Enospc);
        sim.fail_read_at(0);
        let file = dir.create("a").unwrap();
        assert_eq!(kind(file.write_at(0, &[7; 100])), ErrorKind::WriteZero);
        assert_eq!(dir.create("b").unwrap_err().raw_os_error(), Some(ENOSPC));
        assert_eq!(file.len().unwrap_err().raw_os_error(), Some(EIO));
        assert!(file.len().unwrap() < 100);
        assert_eq!(dir.list("").unwrap(), ["a"]);
        assert_eq!((sim.calls(), sim.reads()), (3, 3));
    }

    #[test]
    fn no_more_files_are_open_than_there_may_be() {
        let sim = half_synced(1);
        assert_eq!(sim.open_files(), 0);
        sim.set_open_files(Some(2));
        let dir = open(&sim);
        let a = dir.open("a").unwrap();
        let refused = |error: io::Error| assert_eq!(error.raw_os_error(), Some(EMFILE));
        refused(dir.open("b").unwrap_err());
        refused(dir.create("d").unwrap_err());
        refused(sim.open_dir(Path::new("db"), true).unwrap_err());
        assert_eq!(dir.list("").unwrap(), ["a", "b", "c"]);
        assert_eq!(dir.file_len("b").unwrap(), 1);
        drop(a);
        drop(dir.create("d").unwrap());
        assert_eq!((sim.open_files(), sim.fork().open_files()), (1, 0));
        let b = dir.open("b").unwrap();
        sim.cut_power_with(Loss::Nothing);
        drop((b, dir));
        assert_eq!(sim.open_files(), 0);
        let _two = [open(&sim), open(&sim)];
        assert_eq!(sim.open_files(), 2);
    }

    #[test]
    fn a_call_without_an_open_file_changes_nothing() {
        let sim = half_synced(1);
        let dir = open(&sim);
        let file = dir.create("d").unwrap();
        for call in 0..3 {
            sim.fail_at(sim.calls() + call, Fault::Emfile);
        }
        let failed = [file.write_at(0, b"x"), file.sync(), dir.sync_dir("")];
        assert!(failed.iter().all(|failed| failed.as_ref().unwrap_err().raw_os_error() == Some(EMFILE)));
        assert_eq!(file.len().unwrap(), 0);
        sim.fail_read_with(sim.reads(), Fault::Emfile);
        assert_eq!(dir.open("a").unwrap_err().raw_os_error(), Some(EMFILE));
        dir.sync_dir("").unwrap();
        sim.cut_power_with(Loss::Everything);
        assert_eq!(read(&sim, "d"), some(b""));
    }

    #[test]
    fn a_map_is_refused_and_the_bytes_can_still_be_read() {
        let sim = half_synced(1);
        let file = open(&sim).open("a").unwrap();
        sim.refuse_maps(true);
        let refused = file.map().unwrap_err();
        assert_eq!((refused.kind(), Region::is_refused(&refused)), (ErrorKind::OutOfMemory, true));
        file.read_at(0, &mut [0; 6]).unwrap();
        sim.refuse_maps(false);
        assert_eq!(&*file.map().unwrap(), b"oldnew");
    }

    #[test]
    fn a_standing_fault_goes_when_it_is_cleared() {
        let sim = Sim::new(1);
        let dir = open(&sim);
        sim.fail_at(0, Fault::EnospcForever);
        for _ in 0..3 {
            assert_eq!(dir.create("a").unwrap_err().raw_os_error(), Some(ENOSPC));
        }
        sim.clear_faults();
        dir.create("a").unwrap();
    }

    #[test]
    fn files_grow_as_far_as_there_is_space() {
        let sim = Sim::new(1);
        let dir = open(&sim);
        assert_eq!(dir.available_space().unwrap_err().kind(), ErrorKind::Unsupported);
        sim.set_space(Some(10));
        let a = put(&*dir, "a", b"1234");
        let b = dir.create("b").unwrap();
        assert_eq!(b.write_at(0, b"12345678").unwrap_err().raw_os_error(), Some(ENOSPC));
        assert_eq!(read(&sim, "b"), some(b"123456"));
        assert_eq!(dir.available_space().unwrap(), 0);
        a.write_at(0, b"4321").unwrap();
        assert_eq!(a.allocate(5).unwrap_err().raw_os_error(), Some(ENOSPC));
        assert_eq!(a.set_len(5).unwrap_err().raw_os_error(), Some(ENOSPC));
        dir.remove("b").unwrap();
        a.set_len(10).unwrap();
        sim.set_space(Some(3));
        a.set_len(9).unwrap();
    }

    #[test]
    fn a_fork_goes_its_own_way() {
        let sim = half_synced(5);
        let dir = open(&sim);
        assert!(dir.try_lock(true).unwrap());
        sim.fail_at(sim.calls(), Fault::Eio);
        let fork = sim.fork();
        assert_eq!(fork.calls(), sim.calls());
        assert_eq!(fork.entropy(), sim.entropy());

        let other = open(&fork);
        assert!(other.try_lock(true).unwrap());
        put(&*other, "only here", b"");
        fork.set_time(fork.now() + Duration::from_secs(1));
        fork.cut_power_with(Loss::Everything);
        assert_eq!(read(&fork, "a"), some(b"old"));

        dir.create("d").unwrap_err();
        assert_eq!(dir.list("").unwrap(), ["a", "b", "c"]);
        assert_eq!(read(&sim, "a"), some(b"oldnew"));
        assert_eq!(sim.wall_us(), START_US);
    }

    #[test]
    fn the_same_seed_loses_the_same() {
        let run = |seed| {
            let sim = Sim::new(seed);
            let dir = open(&sim);
            let drawn = (sim.entropy(), sim.draw(1000), sim.draw(0));
            let file = put(&*dir, "a", &[3; 5000]);
            file.sync().unwrap();
            dir.sync_dir("").unwrap();
            for i in 0..20_u8 {
                file.write_at(u64::from(i) * 400, &[i; 900]).unwrap();
                dir.create(&format!("{i}")).unwrap();
            }
            sim.fail_at(sim.calls(), Fault::Eio);
            file.write_at(9000, &[9; 300]).unwrap_err();
            sim.cut_power();
            let left: Vec<_> = sim.files().iter().map(|path| (path.clone(), sim.read_file(path))).collect();
            (drawn, left)
        };
        for seed in 0..20 {
            assert_eq!(run(seed), run(seed), "seed {seed}");
            assert_ne!(run(seed), run(seed + 1), "seed {seed}");
        }
    }

    #[test]
    fn clocks_move_only_when_they_are_told_to() {
        let sim = Sim::new(1);
        let second = Duration::from_secs(1);
        let start = sim.now();
        assert_eq!((sim.wall_us(), sim.monotonic_us()), (START_US, 0));
        sim.set_time(start + second);
        assert_eq!((sim.wall_us(), sim.monotonic_us()), (START_US + 1_000_000, 1_000_000));
        sim.set_time(start);
        sim.step_wall(second * 2);
        sim.step_wall_back(second);
        assert_eq!((sim.wall_us(), sim.monotonic_us()), (START_US + 1_000_000, 1_000_000));
        assert_eq!(sim.now(), start + second);
    }

    #[test]
    fn a_damaged_file_is_durable_under_open_handles() {
        let sim = half_synced(1);
        let file = open(&sim).open("a").unwrap();
        sim.write_file(Path::new("db/a"), b"bad".to_vec());
        sim.write_file(Path::new("db/c"), b"there".to_vec());
        sim.write_file(Path::new("db/sub/d"), b"made".to_vec());
        sim.remove_file(Path::new("db/b"));
        assert_eq!(&*file.map().unwrap(), b"bad");
        sim.cut_power_with(Loss::Everything);
        assert_eq!(sim.files(), ["db/a", "db/c", "db/sub/d"].map(PathBuf::from));
        assert_eq!(read(&sim, "a"), some(b"bad"));
        assert_eq!(read(&sim, "c"), some(b"there"));
    }

    #[test]
    fn a_file_without_a_name_lives_while_it_is_open() {
        let sim = half_synced(1);
        let dir = open(&sim);
        let file = dir.open("a").unwrap();
        dir.remove("a").unwrap();
        dir.sync_dir("").unwrap();
        assert_eq!(file.len().unwrap(), 6);
        assert_eq!(kind(dir.open("a")), ErrorKind::NotFound);
        assert_eq!(kind(file.write_at(0, b"x")), ErrorKind::PermissionDenied);
    }
}
