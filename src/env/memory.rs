//! A machine without a disk: files that live as long as the last clone of the value.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::{Mutex, RwLock};

use super::{
    clock,
    door::{Background, Dir, Env, File},
    map::Region,
    ram::{self, Bytes, Locks, Tree},
};

/// Files in memory, real clocks, real threads. Clones share the files.
///
/// Paths are only keys: nothing outside is looked up. Every sync succeeds and means nothing.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    names: Tree<Content>,
    locks: Locks,
    last_handle: u64,
}

/// Bytes of one file. They have their own lock, so that reading one file never waits for another.
#[derive(Clone, Debug, Default)]
struct Content(Arc<RwLock<Bytes>>);

impl PartialEq for Content {
    /// Compares identity: two names may lead to one file.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Memory {
    /// Returns a machine without files.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Env for Memory {
    fn open_dir(&self, path: &Path, create: bool) -> io::Result<Arc<dyn Dir>> {
        let path = ram::normalise(path);
        let mut shared = self.shared.lock();
        if create {
            let made = shared.names.make_dirs(&path)?;
            shared.names.apply(made);
        }
        shared.names.check_dir(&path)?;
        shared.last_handle += 1;
        Ok(Arc::new(MemoryDir { shared: Arc::clone(&self.shared), path, handle: shared.last_handle }))
    }

    fn wall_us(&self) -> u64 {
        clock::wall_us()
    }

    fn monotonic_us(&self) -> u64 {
        clock::monotonic_us()
    }

    fn entropy(&self) -> u64 {
        clock::entropy()
    }

    fn secret(&self) -> io::Result<[u8; 32]> {
        clock::secret()
    }

    fn background(&self) -> Background {
        Background::Threads
    }

    fn draw(&self, _below: u32) -> u32 {
        0
    }
}

#[derive(Debug)]
struct MemoryDir {
    shared: Arc<Mutex<Shared>>,
    path: PathBuf,
    /// Identifies the owner of a lock.
    handle: u64,
}

impl Drop for MemoryDir {
    fn drop(&mut self) {
        self.shared.lock().locks.unlock(self.handle);
    }
}

impl Dir for MemoryDir {
    fn path(&self) -> &Path {
        &self.path
    }

    fn try_lock(&self, exclusive: bool) -> io::Result<bool> {
        Ok(self.shared.lock().locks.try_lock(&self.path, self.handle, exclusive))
    }

    fn unlock(&self) -> io::Result<()> {
        self.shared.lock().locks.unlock(self.handle);
        Ok(())
    }

    fn restrict(&self) -> io::Result<()> {
        Ok(())
    }

    fn check_there(&self) -> io::Result<()> {
        self.shared.lock().names.check_dir(&self.path)
    }

    fn list(&self, sub: &str) -> io::Result<Vec<String>> {
        self.shared.lock().names.list(&ram::at(&self.path, sub)?)
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        let names = &mut self.shared.lock().names;
        let changes = names.create_dir(ram::at(&self.path, name)?)?;
        names.apply(changes);
        Ok(())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let content = Content::default();
        let names = &mut self.shared.lock().names;
        let changes = names.create(ram::at(&self.path, name)?, content.clone())?;
        names.apply(changes);
        Ok(Arc::new(MemoryFile { content, writable: true }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let content = self.shared.lock().names.file(&ram::at(&self.path, name)?)?;
        Ok(Arc::new(MemoryFile { content, writable: false }))
    }

    fn file_len(&self, name: &str) -> io::Result<u64> {
        let content = self.shared.lock().names.file(&ram::at(&self.path, name)?)?;
        let len = content.0.read().len();
        Ok(len)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let names = &mut self.shared.lock().names;
        let changes = names.rename(ram::at(&self.path, from)?, ram::at(&self.path, to)?)?;
        names.apply(changes);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let names = &mut self.shared.lock().names;
        let changes = names.remove(ram::at(&self.path, name)?)?;
        names.apply(changes);
        Ok(())
    }

    fn remove_dir(&self, name: &str) -> io::Result<()> {
        let names = &mut self.shared.lock().names;
        let changes = names.remove_dir(ram::at(&self.path, name)?)?;
        names.apply(changes);
        Ok(())
    }

    fn link(&self, name: &str, to: &dyn Dir, to_name: &str) -> io::Result<()> {
        let to = ram::at(&ram::normalise(to.path()), to_name)?;
        let names = &mut self.shared.lock().names;
        let changes = names.create(to, names.file(&ram::at(&self.path, name)?)?)?;
        names.apply(changes);
        Ok(())
    }

    fn sync_dir(&self, sub: &str) -> io::Result<()> {
        self.shared.lock().names.check_dir(&ram::at(&self.path, sub)?)
    }

    fn available_space(&self) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[derive(Debug)]
struct MemoryFile {
    content: Content,
    writable: bool,
}

impl MemoryFile {
    /// Changes the bytes, if the file was created through this handle.
    fn change(&self, change: impl FnOnce(&mut Bytes) -> io::Result<()>) -> io::Result<()> {
        if self.writable { change(&mut self.content.0.write()) } else { Err(ram::read_only()) }
    }
}

impl File for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.content.0.read().len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.content.0.read().read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.change(|bytes| bytes.write_at(offset, buf))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.change(|bytes| bytes.extend(len))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|bytes| bytes.set_len(len))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn map(&self) -> io::Result<Region> {
        Ok(self.content.0.read().region())
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    fn dir(memory: &Memory) -> Arc<dyn Dir> {
        memory.open_dir(Path::new("/data/./db/"), true).unwrap()
    }

    fn kind<T>(result: io::Result<T>) -> ErrorKind {
        result.err().expect("an error").kind()
    }

    #[test]
    fn clones_share_files_that_outlive_their_handles() {
        let memory = Memory::new();
        dir(&memory).create("a").unwrap().write_at(0, b"bytes").unwrap();
        let clone = memory.clone();
        drop(memory);
        let file = clone.open_dir(Path::new("/data/db"), false).unwrap().open("a").unwrap();
        assert_eq!(&*file.map().unwrap(), b"bytes");
        assert_eq!(kind(Memory::new().open_dir(Path::new("/data/db"), false)), ErrorKind::NotFound);
    }

    #[test]
    fn errors_are_those_of_a_real_machine() {
        let memory = Memory::new();
        let dir = dir(&memory);
        let file = dir.create("a").unwrap();
        file.write_at(2, b"xy").unwrap();
        assert_eq!(kind(dir.create("a")), ErrorKind::AlreadyExists);
        assert_eq!(kind(dir.open("b")), ErrorKind::NotFound);
        assert_eq!(kind(dir.create("wal/1")), ErrorKind::NotFound);
        assert_eq!(kind(dir.create("../1")), ErrorKind::InvalidInput);
        assert_eq!(kind(dir.create_dir("a")), ErrorKind::NotADirectory);
        assert_eq!(kind(dir.remove("b")), ErrorKind::NotFound);
        assert_eq!(kind(dir.rename("b", "c")), ErrorKind::NotFound);
        assert_eq!(kind(dir.link("a", &*dir, "a")), ErrorKind::AlreadyExists);
        assert_eq!(kind(file.read_at(1, &mut [0; 4])), ErrorKind::UnexpectedEof);
        assert_eq!(kind(dir.open("a").unwrap().write_at(0, b"z")), ErrorKind::PermissionDenied);
        assert_eq!(kind(memory.open_dir(Path::new("/data/db/a"), true)), ErrorKind::NotADirectory);
        dir.create_dir("wal").unwrap();
        dir.create_dir("wal").unwrap();
        assert_eq!(kind(dir.open("wal")), ErrorKind::InvalidInput);
        assert_eq!(kind(dir.remove("wal")), ErrorKind::IsADirectory);
    }

    #[test]
    fn names_can_be_listed_renamed_linked_and_removed() {
        let memory = Memory::new();
        let dir = dir(&memory);
        dir.create_dir("wal").unwrap();
        dir.create("wal/2").unwrap();
        dir.create("wal/1").unwrap().write_at(0, b"one").unwrap();
        dir.create("tmp").unwrap();
        dir.rename("tmp", "CURRENT").unwrap();
        let copy = memory.open_dir(Path::new("copy"), true).unwrap();
        dir.link("wal/1", &*copy, "1").unwrap();
        dir.remove("wal/1").unwrap();
        assert_eq!(dir.list("").unwrap(), ["CURRENT", "wal"]);
        assert_eq!(dir.list("wal").unwrap(), ["2"]);
        assert_eq!(&*copy.open("1").unwrap().map().unwrap(), b"one");
    }

    #[test]
    fn a_region_keeps_its_bytes_while_the_file_changes() {
        let file = dir(&Memory::new()).create("a").unwrap();
        file.allocate(4).unwrap();
        let region = file.map().unwrap();
        file.write_at(0, b"later").unwrap();
        file.set_len(2).unwrap();
        assert_eq!(&*region, [0; 4]);
        assert_eq!(&*file.map().unwrap(), b"la");
    }

    #[test]
    fn an_absurd_length_is_an_error() {
        let file = dir(&Memory::new()).create("a").unwrap();
        file.allocate(u64::MAX / 4).unwrap_err();
        file.write_at(u64::MAX, b"x").unwrap_err();
        assert_eq!(file.len().unwrap(), 0);
    }

    #[test]
    fn a_lock_excludes_other_handles_until_it_is_dropped() {
        let memory = Memory::new();
        let (a, b) = (dir(&memory), dir(&memory));
        assert!(a.try_lock(false).unwrap());
        assert!(b.try_lock(false).unwrap());
        assert!(!a.try_lock(true).unwrap());
        b.unlock().unwrap();
        assert!(a.try_lock(true).unwrap());
        assert!(!b.try_lock(false).unwrap());
        drop(a);
        assert!(b.try_lock(true).unwrap());
    }
}
