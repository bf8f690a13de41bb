//! Open directories and files of a simulated machine. Each holds the epoch in which it was opened: a power cut kills
//! it.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{disk::InodeId, faults::ENOMEM, machine::Machine};
use crate::env::{
    door::{Dir, File},
    map::Region,
    ram,
};

#[derive(Debug)]
pub(super) struct SimDir {
    pub(super) machine: Arc<Mutex<Machine>>,
    pub(super) path: PathBuf,
    pub(super) epoch: u64,
    /// Identifies the owner of a lock.
    pub(super) handle: u64,
}

impl SimDir {
    /// Returns a handle for an inode whose opening the machine has counted.
    fn file(&self, inode: InodeId, writable: bool) -> Arc<dyn File> {
        Arc::new(SimFile { machine: Arc::clone(&self.machine), inode, epoch: self.epoch, writable })
    }
}

impl Drop for SimDir {
    fn drop(&mut self) {
        // Handles are numbered across power cuts, so a dead one never releases another's lock.
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
        self.machine.lock().read(self.epoch)?.names().list(&ram::at(&self.path, sub)?)
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        self.machine.lock().change(self.epoch)?.create_dir(ram::at(&self.path, name)?)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut machine = self.machine.lock();
        machine.change(self.epoch)?;
        machine.open_files.check()?;
        let id = machine.disk.create(ram::at(&self.path, name)?)?;
        machine.open_files.take()?;
        machine.disk.open(id);
        Ok(self.file(id, true))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut machine = self.machine.lock();
        let id = machine.read(self.epoch)?.names().file(&ram::at(&self.path, name)?)?;
        machine.open_files.take()?;
        machine.disk.open(id);
        Ok(self.file(id, false))
    }

    fn file_len(&self, name: &str) -> io::Result<u64> {
        let mut machine = self.machine.lock();
        let disk = machine.read(self.epoch)?;
        let id = disk.names().file(&ram::at(&self.path, name)?)?;
        Ok(disk.bytes(id)?.len())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut machine = self.machine.lock();
        machine.change(self.epoch)?.rename(ram::at(&self.path, from)?, ram::at(&self.path, to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.machine.lock().change(self.epoch)?.remove(ram::at(&self.path, name)?)
    }

    fn remove_dir(&self, name: &str) -> io::Result<()> {
        self.machine.lock().change(self.epoch)?.remove_dir(ram::at(&self.path, name)?)
    }

    fn link(&self, name: &str, to: &dyn Dir, to_name: &str) -> io::Result<()> {
        // Before the machine is locked: `to` may belong to a machine that locks itself.
        let to = ram::at(&ram::normalise(to.path()), to_name)?;
        self.machine.lock().change(self.epoch)?.link(&ram::at(&self.path, name)?, to)
    }

    fn sync_dir(&self, sub: &str) -> io::Result<()> {
        self.machine.lock().change(self.epoch)?.sync_dir(&ram::at(&self.path, sub)?)
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
        if self.writable { Ok(()) } else { Err(ram::read_only()) }
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
