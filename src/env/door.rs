//! What a machine must do: [`Env`], [`Dir`] and [`File`]. The durability contract stands in [`env`](crate::env).

use std::{any::Any, fmt::Debug, io, path::Path, sync::Arc};

use super::map::Region;

/// A machine: where files live, what time it is, who runs background work.
pub trait Env: Debug + Send + Sync + 'static {
    /// Opens the directory at `path`; with `create`, makes it (mode 0700) and its missing parents first.
    ///
    /// # Errors
    /// `NotFound` without `create`; `NotADirectory` when something else is there.
    fn open_dir(&self, path: &Path, create: bool) -> io::Result<Arc<dyn Dir>>;

    /// Removes an empty directory that [`Env::open_dir`] has made. Best effort; the default removes nothing.
    fn remove_dir(&self, _path: &Path) {}

    /// The wall clock, in microseconds since 1970.
    fn wall_us(&self) -> u64;

    /// A clock that never steps, in microseconds since some moment.
    fn monotonic_us(&self) -> u64;

    /// 64 random bits.
    fn entropy(&self) -> u64;

    /// Who runs background work.
    fn background(&self) -> Background;

    /// A number below `below`, drawn from the seed of a simulated machine: where background steps run when
    /// [`Background::Caller`] runs them. Machines with threads are never asked.
    fn draw(&self, below: u32) -> u32;

    /// How many files this process may have open at once, where there is a limit that the machine knows.
    fn open_files_max(&self) -> Option<u64> {
        None
    }

    /// Tells that the engine is at a named point between two steps that other threads may come between. A simulated
    /// machine lets a test run another verb there ([`Sim::on_point`](crate::env::Sim::on_point)); other machines do
    /// nothing.
    fn pass(&self, _point: &'static str) {}
}

/// Who runs background work: flushes, compactions, interval syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Background {
    /// Named threads of the database.
    Threads,
    /// The thread that calls, at drawn points, so that a run replays from its seed.
    Caller,
}

/// An open directory. Names are relative, with `/` between a sub-directory and a file; the engine makes them from
/// numbers, never from stored text.
pub trait Dir: Any + Debug + Send + Sync {
    /// Where it was opened: for messages, since the directory may be elsewhere by now.
    fn path(&self) -> &Path;

    /// Locks the directory itself, shared or exclusively, until it is dropped; `false` if somebody else holds it.
    fn try_lock(&self, exclusive: bool) -> io::Result<bool>;

    /// Gives the lock back.
    fn unlock(&self) -> io::Result<()>;

    /// Takes every right to this directory from everybody but its owner (mode 0700).
    fn restrict(&self) -> io::Result<()>;

    /// Fails with `NotFound` when the directory, or a sub-directory that was in use, has been deleted.
    fn check_there(&self) -> io::Result<()> {
        Ok(())
    }

    /// Makes files durable that were written and closed; of one that fails its name is told. The default syncs one
    /// after the other.
    fn sync_files(&self, names: &[String]) -> Result<(), (String, io::Error)> {
        names
            .iter()
            .try_for_each(|name| self.open(name).and_then(|file| file.sync()).map_err(|error| (name.clone(), error)))
    }

    /// Whether `path`, which need not exist yet, leads to this directory or to a place inside it. The default compares
    /// the paths as they are written.
    fn contains(&self, path: &Path) -> bool {
        std::path::absolute(path).is_ok_and(|path| path.starts_with(self.path())) || path.starts_with(self.path())
    }

    /// The names in the sub-directory `sub`, sorted; `""` is the directory itself.
    fn list(&self, sub: &str) -> io::Result<Vec<String>>;

    /// Makes a sub-directory with mode 0700; an existing real directory is fine, a link or a file is an error.
    fn create_dir(&self, name: &str) -> io::Result<()>;

    /// Creates a file with mode 0600 that must not exist yet, for reading and writing.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Opens an existing regular file for reading. Links and special files are refused.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// The length of a regular file, which is not opened for it.
    fn file_len(&self, name: &str) -> io::Result<u64> {
        self.open(name)?.len()
    }

    /// Renames a file inside one directory, replacing what was there.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Removes a sub-directory that is empty. The default removes nothing.
    fn remove_dir(&self, name: &str) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, format!("{name} cannot be removed on this machine")))
    }

    /// Gives the finished file `name` a second name in another directory. Fails where hard links cannot reach.
    fn link(&self, name: &str, to: &dyn Dir, to_name: &str) -> io::Result<()>;

    /// Makes the names in the sub-directory `sub` durable. It needs no further open file where directories are held
    /// open, so that a failure means that the sync itself failed.
    fn sync_dir(&self, sub: &str) -> io::Result<()>;

    /// Bytes that can still be written to this file system; an error where nobody can tell.
    fn available_space(&self) -> io::Result<u64>;
}

/// An open regular file.
#[expect(clippy::len_without_is_empty, reason = "a length on disk, not a container")]
pub trait File: Debug + Send + Sync {
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// What tells this file from every other one, whatever their names; always the same where the machine cannot tell.
    fn identity(&self) -> (u64, u64) {
        (0, 0)
    }

    /// Fills `buf` from `offset`; `UnexpectedEof` when the file ends before.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Writes all of `buf` at `offset`.
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()>;

    /// Reserves room so that the file can grow to `len` bytes; the bytes read as zero.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Cuts or extends the file.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes the bytes and the length durable; `NotFound` for a file that has lost its last name, and would not be
    /// found again.
    fn sync(&self) -> io::Result<()>;

    /// The bytes of the finished file, to read in place. The caller never writes or cuts it again.
    fn map(&self) -> io::Result<Region>;
}
