//! The traits of a machine: [`Env`], [`Dir`] and [`File`]. The durability contract is in [`env`](crate::env).

use std::{
    any::Any,
    fmt::Debug,
    io::{self, ErrorKind},
    path::Path,
    sync::Arc,
};

use super::map::Region;

/// A machine: it stores files, reads clocks and decides on which threads background work runs.
///
/// Implement it to store databases elsewhere, or wrap one to watch or disturb it. Later releases may add methods to
/// this trait, [`Dir`] and [`File`], always with a default that keeps existing machines correct.
pub trait Env: Debug + Send + Sync + 'static {
    /// Opens the directory at `path`; with `create`, makes it (mode 0700) and its missing parents first.
    ///
    /// # Errors
    /// `NotFound` without `create`; `NotADirectory` if something else is there.
    fn open_dir(&self, path: &Path, create: bool) -> io::Result<Arc<dyn Dir>>;

    /// Removes an empty directory that [`Env::open_dir`] made. Best effort; the default removes nothing.
    fn remove_dir(&self, _path: &Path) {}

    /// Reads the wall clock, in microseconds since 1970.
    fn wall_us(&self) -> u64;

    /// Reads a clock that never steps, in microseconds since some moment.
    fn monotonic_us(&self) -> u64;

    /// Returns 64 random bits.
    fn entropy(&self) -> u64;

    /// Returns bytes that nobody can guess, for a secret; by default made from [`entropy`](Env::entropy), which is
    /// good enough for tests alone.
    ///
    /// # Errors
    /// If the system has none.
    fn secret(&self) -> io::Result<[u8; 32]> {
        let words = [(); 4].map(|()| self.entropy().to_le_bytes());
        Ok(std::array::from_fn(|at| words.as_flattened().get(at).copied().unwrap_or_default()))
    }

    /// Returns which threads run background work; by default [`Background::Threads`].
    fn background(&self) -> Background {
        Background::Threads
    }

    /// Draws a number below `below` from the seed of a simulated machine; where [`Background::Caller`] runs background
    /// steps, a 0 runs one. Never called on machines with threads; the default is 0.
    fn draw(&self, _below: u32) -> u32 {
        0
    }

    /// Returns how many files this process may have open at once; `None` (the default) if no limit is known.
    fn open_files_max(&self) -> Option<u64> {
        None
    }

    /// Called at named points between two steps of the engine where another thread may intervene. A simulated machine
    /// lets a test run another verb there ([`Sim::on_point`](crate::env::Sim::on_point)); the default does nothing.
    fn pass(&self, _point: &'static str) {}
}

/// Threads that run background work: flushes, compactions, interval syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Background {
    /// Named threads of the database.
    Threads,
    /// The calling thread, at drawn points, so that a run replays from its seed.
    Caller,
}

/// An open directory. Names are relative, with `/` between a sub-directory and a file; the engine makes them from
/// numbers, never from stored text.
pub trait Dir: Any + Debug + Send + Sync {
    /// Returns the path it was opened by: for messages only, since the directory may have moved.
    fn path(&self) -> &Path;

    /// Locks the directory itself, shared or exclusively, until it is dropped; `false` if another handle holds the
    /// lock.
    fn try_lock(&self, exclusive: bool) -> io::Result<bool>;

    /// Releases the lock.
    fn unlock(&self) -> io::Result<()>;

    /// Restricts this directory to its owner (mode 0700). The default does nothing: for machines without users.
    fn restrict(&self) -> io::Result<()> {
        Ok(())
    }

    /// Fails with `NotFound` if the directory, or a sub-directory that was in use, has been deleted.
    fn check_there(&self) -> io::Result<()> {
        Ok(())
    }

    /// Syncs files that were written and closed; an error names the file. The default syncs one after the other.
    fn sync_files(&self, names: &[String]) -> Result<(), (String, io::Error)> {
        names
            .iter()
            .try_for_each(|name| self.open(name).and_then(|file| file.sync()).map_err(|error| (name.clone(), error)))
    }

    /// Returns whether `path`, which need not exist yet, leads to this directory or into it. The default compares the
    /// paths as text.
    fn contains(&self, path: &Path) -> bool {
        std::path::absolute(path).is_ok_and(|path| path.starts_with(self.path())) || path.starts_with(self.path())
    }

    /// Lists the names in the sub-directory `sub`, sorted; `""` is the directory itself.
    fn list(&self, sub: &str) -> io::Result<Vec<String>>;

    /// Creates a sub-directory with mode 0700; an existing real directory is fine, a link or a file is an error.
    fn create_dir(&self, name: &str) -> io::Result<()>;

    /// Creates a file with mode 0600, which must not exist yet, for reading and writing.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Opens an existing regular file for reading. Links and special files are refused.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Returns the length of a regular file. The default opens it; machines that can avoid that should.
    fn file_len(&self, name: &str) -> io::Result<u64> {
        self.open(name)?.len()
    }

    /// Renames a file within one directory, replacing any file of the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Removes an empty sub-directory. The default fails with `Unsupported`: leftovers of a failed checkpoint stay.
    fn remove_dir(&self, name: &str) -> io::Result<()> {
        Err(unsupported(name, "removed"))
    }

    /// Adds a second name, in another directory, to the finished file `name`. If it fails, as the default does with
    /// `Unsupported`, the file is copied.
    fn link(&self, name: &str, _to: &dyn Dir, _to_name: &str) -> io::Result<()> {
        Err(unsupported(name, "linked"))
    }

    /// Makes the names in the sub-directory `sub` durable. Where directories are held open it needs no further open
    /// file, so that a failure means that the sync itself failed.
    fn sync_dir(&self, sub: &str) -> io::Result<()>;

    /// Returns how many bytes can still be written to this file system. The default fails with `Unsupported`: not
    /// known.
    fn available_space(&self) -> io::Result<u64> {
        Err(unsupported("the free space", "determined"))
    }
}

/// An open regular file.
#[expect(clippy::len_without_is_empty, reason = "a length on disk, not a container")]
pub trait File: Debug + Send + Sync {
    /// Returns the length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Returns an identity that no other file has, whatever its name; the default, for machines without one, is always
    /// the same.
    fn identity(&self) -> (u64, u64) {
        (0, 0)
    }

    /// Fills `buf` from `offset`; `UnexpectedEof` if the file ends before.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Writes all of `buf` at `offset`.
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()>;

    /// Reserves space so that the file can grow to `len` bytes; the bytes read as zero. If it fails, as the default
    /// does with `Unsupported`, files grow as they are written.
    fn allocate(&self, _len: u64) -> io::Result<()> {
        Err(unsupported("space", "reserved"))
    }

    /// Truncates or extends the file. The default fails with `Unsupported`: reserved space is not given back.
    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(unsupported("a file", "truncated"))
    }

    /// Makes the bytes and the length durable; `NotFound` for a file that has lost its last name and could not be found
    /// again.
    fn sync(&self) -> io::Result<()>;

    /// Maps the finished file for reading in place. The caller never writes or truncates it again. If it fails, as the
    /// default does with `Unsupported`, the file is read by position.
    fn map(&self) -> io::Result<Region> {
        Err(unsupported("a file", "mapped"))
    }
}

/// Returns the error for an operation that a machine does not support.
#[cold]
fn unsupported(what: &str, done: &str) -> io::Error {
    io::Error::new(ErrorKind::Unsupported, format!("{what} cannot be {done} on this machine"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use parking_lot::Mutex;

    use super::*;
    use crate::{Durability, KeyspaceOptions, Options};

    type Names = Arc<Mutex<BTreeMap<String, Arc<Mutex<Vec<u8>>>>>>;

    /// A machine with nothing but what it must have.
    #[derive(Clone, Debug, Default)]
    struct Least(Names);

    #[derive(Debug)]
    struct LeastDir(std::path::PathBuf, Names);

    #[derive(Debug)]
    struct LeastFile(Arc<Mutex<Vec<u8>>>);

    impl Env for Least {
        fn open_dir(&self, path: &Path, _create: bool) -> io::Result<Arc<dyn Dir>> {
            Ok(Arc::new(LeastDir(path.to_path_buf(), Arc::clone(&self.0))))
        }

        fn wall_us(&self) -> u64 {
            1
        }

        fn monotonic_us(&self) -> u64 {
            1
        }

        fn entropy(&self) -> u64 {
            1
        }
    }

    impl LeastDir {
        fn full(&self, name: &str) -> String {
            self.0.join(name).to_string_lossy().into_owned()
        }
    }

    impl Dir for LeastDir {
        fn path(&self) -> &Path {
            &self.0
        }

        fn try_lock(&self, _exclusive: bool) -> io::Result<bool> {
            Ok(true)
        }

        fn unlock(&self) -> io::Result<()> {
            Ok(())
        }

        fn list(&self, sub: &str) -> io::Result<Vec<String>> {
            let inside = if sub.is_empty() { self.full("x") } else { self.full(&format!("{sub}/x")) };
            let prefix = inside.strip_suffix('x').unwrap();
            let names = self.1.lock();
            Ok(names
                .keys()
                .filter_map(|name| name.strip_prefix(prefix))
                .map(|rest| rest.split('/').next().unwrap().to_owned())
                .collect())
        }

        fn create_dir(&self, _name: &str) -> io::Result<()> {
            Ok(())
        }

        fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
            let bytes = Arc::default();
            self.1.lock().insert(self.full(name), Arc::clone(&bytes));
            Ok(Arc::new(LeastFile(bytes)))
        }

        fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
            let found = self.1.lock().get(&self.full(name)).cloned();
            let bytes = found.ok_or(ErrorKind::NotFound)?;
            Ok(Arc::new(LeastFile(bytes)))
        }

        fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            let mut names = self.1.lock();
            let bytes = names.remove(&self.full(from)).ok_or(ErrorKind::NotFound)?;
            names.insert(self.full(to), bytes);
            Ok(())
        }

        fn remove(&self, name: &str) -> io::Result<()> {
            self.1.lock().remove(&self.full(name)).map(drop).ok_or_else(|| ErrorKind::NotFound.into())
        }

        fn sync_dir(&self, _sub: &str) -> io::Result<()> {
            Ok(())
        }
    }

    impl File for LeastFile {
        fn len(&self) -> io::Result<u64> {
            Ok(self.0.lock().len() as u64)
        }

        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            let from = usize::try_from(offset).unwrap();
            let bytes = self.0.lock();
            buf.copy_from_slice(bytes.get(from..from + buf.len()).ok_or(ErrorKind::UnexpectedEof)?);
            Ok(())
        }

        fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
            let from = usize::try_from(offset).unwrap();
            let mut bytes = self.0.lock();
            let end = bytes.len().max(from + buf.len());
            bytes.resize(end, 0);
            bytes[from..from + buf.len()].copy_from_slice(buf);
            Ok(())
        }

        fn sync(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_machine_with_the_required_methods_alone_runs_a_database() {
        let machine = Least::default();
        let options = Options::new().env(machine).durability(Durability::Sync);
        for round in 0..3 {
            let db = options.open("db").unwrap();
            let keyspace = db.keyspace("k", KeyspaceOptions::new().point_index(true)).unwrap();
            for key in 0..200 {
                keyspace.put(format!("{round}-{key:03}"), "value").unwrap();
            }
            db.flush().unwrap();
            db.compact().unwrap();
            assert_eq!(keyspace.range(..).count(), 200 * (round + 1));
            assert!(db.verify().unwrap().is_clean());
            db.checkpoint(format!("copy{round}")).unwrap();
            db.close().unwrap();
            let copy = options.open(format!("copy{round}")).unwrap();
            assert!(copy.keyspace("k", KeyspaceOptions::new()).unwrap().contains("0-000").unwrap());
        }
    }
}
