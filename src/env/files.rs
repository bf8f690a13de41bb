//! The open files of a database, bounded in number.
//!
//! There are as many segments as the data needs, but a process may have only so many files open. A segment gets its
//! file here at each read that is not served from a map. Files not used lately are closed when others need the room,
//! and reopened when they are next read. A reader takes the lock of its own file only; the list of all of them is
//! locked only where one is opened or closed.

use std::{
    any::Any,
    collections::VecDeque,
    io::{self, ErrorKind},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};

use super::{
    door::{Dir, File},
    map::Origin,
};
use crate::base::is_out_of_files;

/// A directory and its files that are open for reading. To its users it is that directory; an operation that needs an
/// open file and cannot get one closes all files that can be reopened, and tries once more.
#[derive(Debug)]
pub(crate) struct Files {
    dir: Arc<dyn Dir>,
    /// After a fork, a lock may stay held for ever in the child.
    origin: Origin,
    open_max: usize,
    /// Open files, in the order in which they are considered for closing.
    open: Arc<Mutex<VecDeque<Arc<Slot>>>>,
}

/// Handle of a file while it is open.
#[derive(Debug, Default)]
struct Slot {
    file: RwLock<Option<Arc<dyn File>>>,
    /// Whether it was read since it was last considered for closing.
    used: AtomicBool,
}

/// A finished file that can be read at any time, whether or not it is open.
#[derive(Debug)]
pub(crate) struct ReadFile {
    files: Arc<Files>,
    name: String,
    slot: Arc<Slot>,
    /// Identity of the file first opened: a later file of the same name is never read in its place.
    identity: (u64, u64),
}

impl Files {
    /// Returns the files of a directory; at most `open_max` are open at once besides those being read.
    pub(crate) fn new(dir: Arc<dyn Dir>, open_max: usize) -> Self {
        Self { dir, origin: Origin::default(), open_max: open_max.max(1), open: Arc::default() }
    }

    /// Returns another directory that shares the list, and so the limit, of open files.
    pub(crate) fn beside(&self, dir: Arc<dyn Dir>) -> Self {
        Self { dir, origin: Origin::default(), open_max: self.open_max, open: Arc::clone(&self.open) }
    }

    /// Closes every file that can be reopened.
    pub(crate) fn close_all(&self) {
        let slots = std::mem::take(&mut *self.open.lock());
        for slot in slots {
            // Handles are dropped outside the lock of their slot, here and below.
            let closed = slot.file.write().take();
            drop(closed);
        }
    }

    /// Closes files until at most `keep` are open, those not used lately first.
    fn make_room(&self, keep: usize) {
        let mut closed = Vec::new();
        let mut open = self.open.lock();
        // Two rounds: the first clears the flags that the second tests. A file read throughout may be closed, too.
        let mut spared = open.len();
        while open.len() > keep
            && let Some(slot) = open.pop_front()
        {
            if spared > 0 && slot.used.swap(false, Ordering::Relaxed) {
                spared -= 1;
                open.push_back(slot);
            } else {
                closed.extend(slot.file.write().take());
            }
        }
        drop(open);
        drop(closed);
    }

    /// Tries an operation again with as few files open as possible.
    pub(crate) fn sparing<T>(&self, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        match attempt() {
            Err(e) if is_out_of_files(&e) => {
                self.close_all();
                attempt()
            }
            done => done,
        }
    }
}

impl ReadFile {
    /// Opens a file of the directory.
    pub(crate) fn open(files: &Arc<Files>, name: String) -> io::Result<Self> {
        files.make_room(files.open_max - 1);
        let file = files.open(&name)?;
        let opened = Self { files: Arc::clone(files), name, slot: Arc::default(), identity: file.identity() };
        opened.keep(file);
        Ok(opened)
    }

    /// Returns the open file, for one read.
    ///
    /// # Errors
    /// `InvalidData` if another file has taken its name.
    #[inline]
    pub(crate) fn get(&self) -> io::Result<Arc<dyn File>> {
        if let Some(file) = &*self.slot.file.read() {
            // Stored only if it changes: threads that read one file at once share the cache line.
            if !self.slot.used.load(Ordering::Relaxed) {
                self.slot.used.store(true, Ordering::Relaxed);
            }
            return Ok(Arc::clone(file));
        }
        self.reopen()
    }

    #[cold]
    fn reopen(&self) -> io::Result<Arc<dyn File>> {
        self.files.make_room(self.files.open_max - 1);
        let file = self.files.open(&self.name)?;
        if file.identity() != self.identity {
            return Err(io::Error::new(ErrorKind::InvalidData, "another file has taken its name"));
        }
        Ok(self.keep(file))
    }

    /// Adds a handle to the list. Two threads may open the file at once; only one of the two handles stays.
    fn keep(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        let mut open = self.files.open.lock();
        let mut held = self.slot.file.write();
        if let Some(first) = &*held {
            return Arc::clone(first);
        }
        *held = Some(Arc::clone(&file));
        drop(held);
        open.push_back(Arc::clone(&self.slot));
        file
    }
}

impl Drop for ReadFile {
    fn drop(&mut self) {
        if self.files.origin.is_forked() {
            return;
        }
        let mut open = self.files.open.lock();
        let closed = self.slot.file.write().take();
        if closed.is_some() {
            open.retain(|slot| !Arc::ptr_eq(slot, &self.slot));
        }
        drop(open);
        drop(closed);
    }
}

impl Dir for Files {
    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn try_lock(&self, exclusive: bool) -> io::Result<bool> {
        self.dir.try_lock(exclusive)
    }

    fn unlock(&self) -> io::Result<()> {
        self.dir.unlock()
    }

    fn restrict(&self) -> io::Result<()> {
        self.dir.restrict()
    }

    fn check_there(&self) -> io::Result<()> {
        self.dir.check_there()
    }

    fn sync_files(&self, names: &[String]) -> Result<(), (String, io::Error)> {
        let mut failed = String::new();
        let synced = self.sparing(|| {
            self.dir.sync_files(names).map_err(|(name, error)| {
                failed = name;
                error
            })
        });
        synced.map_err(|error| (failed, error))
    }

    fn contains(&self, path: &Path) -> bool {
        self.dir.contains(path)
    }

    fn list(&self, sub: &str) -> io::Result<Vec<String>> {
        self.sparing(|| self.dir.list(sub))
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        self.sparing(|| self.dir.create_dir(name))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.sparing(|| self.dir.create(name))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.sparing(|| self.dir.open(name))
    }

    fn file_len(&self, name: &str) -> io::Result<u64> {
        self.dir.file_len(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.dir.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.dir.remove(name)
    }

    fn remove_dir(&self, name: &str) -> io::Result<()> {
        self.dir.remove_dir(name)
    }

    fn link(&self, name: &str, to: &dyn Dir, to_name: &str) -> io::Result<()> {
        let other: &dyn Any = to;
        let to = other.downcast_ref::<Self>().map_or(to, |files| &*files.dir);
        self.dir.link(name, to, to_name)
    }

    fn sync_dir(&self, sub: &str) -> io::Result<()> {
        self.sparing(|| self.dir.sync_dir(sub))
    }

    fn available_space(&self) -> io::Result<u64> {
        self.dir.available_space()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{Env, Sim};

    /// A machine with `count` files of one byte, their number, in a directory that holds at most `open_max` of them
    /// open.
    fn files(count: u8, open_max: usize) -> (Sim, Arc<Files>) {
        let sim = Sim::new(1);
        let dir = sim.open_dir(Path::new("db"), true).unwrap();
        for number in 0..count {
            dir.create(&number.to_string()).unwrap().write_at(0, &[number]).unwrap();
        }
        (sim, Arc::new(Files::new(dir, open_max)))
    }

    fn open(files: &Arc<Files>, number: u8) -> ReadFile {
        ReadFile::open(files, number.to_string()).unwrap()
    }

    fn read(file: &ReadFile) -> u8 {
        let mut byte = [0];
        file.get().unwrap().read_at(0, &mut byte).unwrap();
        byte[0]
    }

    #[test]
    fn every_file_can_be_read_with_few_of_them_open() {
        for open_max in [1, 2, 3, 7] {
            let (sim, files) = files(20, open_max);
            let all: Vec<ReadFile> = (0..20).map(|number| open(&files, number)).collect();
            for step in 0..400 {
                let at = step * 7 % 20;
                assert_eq!(usize::from(read(&all[at])), at);
                assert!(sim.open_files() <= 1 + open_max, "{} of {open_max} are open", sim.open_files() - 1);
            }
            drop(all);
            assert_eq!(sim.open_files(), 1, "only the directory");
        }
    }

    #[test]
    fn a_file_that_is_read_all_the_time_stays_open() {
        let (sim, files) = files(10, 4);
        let all: Vec<ReadFile> = (0..10).map(|number| open(&files, number)).collect();
        read(&all[0]);
        let mut reopened = 0;
        for step in 0..100 {
            let before = sim.reads();
            read(&all[0]);
            // One call is the read itself.
            reopened += sim.reads() - before - 1;
            read(&all[1 + step % 9]);
        }
        assert_eq!(reopened, 0);
    }

    #[test]
    fn where_the_process_has_no_more_files_its_own_are_closed_first() {
        let (sim, files) = files(10, 100);
        let all: Vec<ReadFile> = (0..10).map(|number| open(&files, number)).collect();
        assert_eq!(sim.open_files(), 11);
        sim.set_open_files(Some(11));
        let made = files.create("new").unwrap();
        assert_eq!(sim.open_files(), 2);
        sim.set_open_files(Some(2));
        assert!(is_out_of_files(&all[3].get().unwrap_err()), "the directory and the new file are all there may be");
        drop(made);
        assert_eq!(read(&all[3]), 3);
        assert_eq!(read(&all[4]), 4, "in place of the one before");
    }

    #[test]
    fn a_file_that_took_the_name_of_another_is_not_read_for_it() {
        let (_sim, files) = files(2, 1);
        let (first, other) = (open(&files, 0), open(&files, 1));
        files.remove("0").unwrap();
        files.create("0").unwrap().write_at(0, &[0]).unwrap();
        assert_eq!(first.get().unwrap_err().kind(), ErrorKind::InvalidData);
        assert_eq!(read(&other), 1);
        files.remove("0").unwrap();
        assert_eq!(first.get().unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn readers_on_many_threads_share_few_open_files() {
        let (sim, files) = files(50, 5);
        let all: Vec<ReadFile> = (0..50).map(|number| open(&files, number)).collect();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let all = &all;
                scope.spawn(move || {
                    for step in 0..5000 {
                        let at = (step * 13 + thread * 29) % 50;
                        assert_eq!(usize::from(read(&all[at])), at);
                    }
                });
            }
        });
        // Each thread may have opened one while the others did.
        assert!(sim.open_files() <= 1 + 5 + 4, "{}", sim.open_files());
    }
}
