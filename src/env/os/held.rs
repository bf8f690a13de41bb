//! Directories and files by descriptor: every name is looked up in the directory that is held open, wherever its path
//! leads by now.
//!
//! So a handle whose directory was moved continues in it, and one whose directory was deleted gets errors; a new
//! directory at the old path is never touched. Sub-directories are held open as well: syncing their names must not fail
//! for a minor reason, and so needs no new descriptor.

use std::{
    any::Any,
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{FileExt, MetadataExt},
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use parking_lot::RwLock;
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags},
    io::{Errno, retry_on_intr},
};

use super::{destination, not_a_directory, not_a_file};
use crate::{
    base::is_out_of_files,
    env::{
        door::{Dir, File},
        map::Region,
    },
};

/// Threads that sync the files of one job, and the number of files that justifies starting another.
const SYNC_THREADS: usize = 8;
const SYNC_SHARE_MIN: usize = 8;

const DIR_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The last part of a name must not be a link, and a pipe must not block the open.
const FILE_FLAGS: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

#[derive(Debug)]
pub(super) struct OsDir {
    /// Path it was opened by, for messages.
    path: PathBuf,
    /// Carries the lock: deleting the LOCK file releases nothing, and every alias of the directory leads to it.
    root: Arc<Held>,
    /// Sub-directories, opened when first named.
    subs: RwLock<Vec<(String, Arc<Held>)>>,
}

/// A directory held open.
#[derive(Debug)]
struct Held {
    handle: fs::File,
    counts_links: bool,
}

impl Held {
    fn new(handle: fs::File) -> io::Result<Self> {
        let counts_links = handle.metadata()?.nlink() > 0;
        Ok(Self { handle, counts_links })
    }

    fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()?;
        self.check_there()
    }

    fn check_there(&self) -> io::Result<()> {
        check_linked(&self.handle, self.counts_links)
    }
}

/// Fails for a file or directory that has lost its last name: syncing it would succeed, and it could not be found
/// again. Passes if the file system does not count links.
fn check_linked(file: &fs::File, counts_links: bool) -> io::Result<()> {
    if counts_links && file.metadata()?.nlink() == 0 {
        return Err(io::Error::new(ErrorKind::NotFound, "it was deleted while it was open"));
    }
    Ok(())
}

impl OsDir {
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let handle = retry_on_intr(|| rustix::fs::open(&path, DIR_FLAGS, Mode::empty()))?;
        let root = Arc::new(Held::new(handle.into())?);
        Ok(Self { path, root, subs: RwLock::default() })
    }

    /// Returns the sub-directory `sub` and keeps it open; `""` is the directory itself.
    fn dir(&self, sub: &str) -> io::Result<Arc<Held>> {
        if sub.is_empty() {
            return Ok(Arc::clone(&self.root));
        }
        let find =
            |subs: &[(String, Arc<Held>)]| subs.iter().find(|(name, _)| name == sub).map(|(_, dir)| Arc::clone(dir));
        if let Some(held) = find(&self.subs.read()) {
            return Ok(held);
        }
        let opened =
            retry_on_intr(|| rustix::fs::openat(&self.root.handle, sub, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty()));
        let handle = opened.map_err(|errno| match errno {
            Errno::NOTDIR | Errno::LOOP | Errno::MLINK => not_a_directory(),
            errno => errno.into(),
        })?;
        let held = Arc::new(Held::new(handle.into())?);
        let mut subs = self.subs.write();
        // Two threads may have opened it at once; only one of the two stays.
        if let Some(first) = find(&subs) {
            return Ok(first);
        }
        subs.push((sub.to_owned(), Arc::clone(&held)));
        Ok(held)
    }

    /// Returns the directory that a name lies in, and the name there.
    fn place<'a>(&self, name: &'a str) -> io::Result<(Arc<Held>, &'a str)> {
        let (sub, leaf) = name.split_once('/').unwrap_or(("", name));
        if leaf.contains('/') || sub == ".." || name.starts_with('/') || matches!(leaf, "" | "." | "..") {
            return Err(io::Error::new(ErrorKind::InvalidInput, "a name leads out of its directory"));
        }
        Ok((self.dir(sub)?, leaf))
    }
}

impl Dir for OsDir {
    fn path(&self) -> &Path {
        &self.path
    }

    fn try_lock(&self, exclusive: bool) -> io::Result<bool> {
        // By full path: std has methods of the same names with other error types.
        let locked = if exclusive {
            fs2::FileExt::try_lock_exclusive(&self.root.handle)
        } else {
            fs2::FileExt::try_lock_shared(&self.root.handle)
        };
        match locked {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == fs2::lock_contended_error().raw_os_error() => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn unlock(&self) -> io::Result<()> {
        fs2::FileExt::unlock(&self.root.handle)
    }

    fn restrict(&self) -> io::Result<()> {
        Ok(rustix::fs::fchmod(&self.root.handle, Mode::RWXU)?)
    }

    fn check_there(&self) -> io::Result<()> {
        self.root.check_there()?;
        self.subs.read().iter().try_for_each(|(_, dir)| dir.check_there())
    }

    /// Syncs several at a time: a journal writes those that wait for it together.
    fn sync_files(&self, names: &[String]) -> Result<(), (String, io::Error)> {
        let sync = |names: &[String]| {
            names.iter().try_for_each(|name| {
                self.open(name).and_then(|file| file.sync()).map_err(|error| (name.clone(), error))
            })
        };
        let share = names.len().div_ceil(SYNC_THREADS).max(SYNC_SHARE_MIN);
        if names.len() <= share {
            return sync(names);
        }
        thread::scope(|scope| {
            let mut shares = names.chunks(share);
            let own = shares.next().unwrap_or_default();
            let started: Vec<_> = shares
                .map(|names| {
                    let builder = thread::Builder::new().name("chronolith-sync".to_owned());
                    // If no thread can be started, this one does it.
                    builder.spawn_scoped(scope, || sync(names)).map_err(|_| names)
                })
                .collect();
            let mut synced = sync(own);
            for share in started {
                let other = match share {
                    Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
                    Err(names) => sync(names),
                };
                // A failed sync is reported before a file that could not be opened: the latter is retried, and by then
                // the failed sync would succeed.
                synced = match (synced, other) {
                    (Err((_, first)), Err(second)) if is_out_of_files(&first) => Err(second),
                    (Err(first), _) => Err(first),
                    (Ok(()), other) => other,
                };
            }
            synced
        })
    }

    fn contains(&self, path: &Path) -> bool {
        let Ok(own) = self.root.handle.metadata() else { return false };
        // By device and inode: the directory may have been moved since it was opened, or be mounted in a second place.
        let is_own =
            |above: &Path| fs::metadata(above).is_ok_and(|found| (found.dev(), found.ino()) == (own.dev(), own.ino()));
        destination(path).ancestors().any(is_own)
    }

    fn list(&self, sub: &str) -> io::Result<Vec<String>> {
        let dir = self.dir(sub)?;
        let mut names = Vec::new();
        // Through a separate descriptor: the read position belongs to the descriptor.
        for entry in rustix::fs::Dir::read_from(&dir.handle)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !matches!(name.as_str(), "." | "..") {
                names.push(name);
            }
        }
        // A deleted directory reads as empty.
        dir.check_there()?;
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        match rustix::fs::mkdirat(&self.root.handle, name, Mode::RWXU) {
            Ok(()) => Ok(rustix::fs::fchmod(&self.dir(name)?.handle, Mode::RWXU)?),
            Err(Errno::EXIST) => self.dir(name).map(drop),
            Err(errno) => Err(errno.into()),
        }
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let (dir, leaf) = self.place(name)?;
        let flags = FILE_FLAGS | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let private = Mode::RUSR | Mode::WUSR;
        let handle = retry_on_intr(|| rustix::fs::openat(&dir.handle, leaf, flags, private))?;
        // The umask may have removed the owner's own rights.
        let made =
            rustix::fs::fchmod(&handle, private).map_err(io::Error::from).and_then(|()| OsFile::new(handle.into()));
        match made {
            Ok(file) => Ok(Arc::new(file)),
            Err(error) => {
                let _removed = rustix::fs::unlinkat(&dir.handle, leaf, AtFlags::empty());
                Err(error)
            }
        }
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let (dir, leaf) = self.place(name)?;
        let opened =
            retry_on_intr(|| rustix::fs::openat(&dir.handle, leaf, FILE_FLAGS | OFlags::RDONLY, Mode::empty()));
        let handle = opened.map_err(|errno| match errno {
            // A link or a socket has that name.
            Errno::LOOP | Errno::MLINK | Errno::NXIO => not_a_file(),
            errno => errno.into(),
        })?;
        Ok(Arc::new(OsFile::new(handle.into())?))
    }

    fn file_len(&self, name: &str) -> io::Result<u64> {
        let (dir, leaf) = self.place(name)?;
        let stat = rustix::fs::statat(&dir.handle, leaf, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(not_a_file());
        }
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let ((from_dir, from), (to_dir, to)) = (self.place(from)?, self.place(to)?);
        Ok(rustix::fs::renameat(&from_dir.handle, from, &to_dir.handle, to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let (dir, leaf) = self.place(name)?;
        Ok(rustix::fs::unlinkat(&dir.handle, leaf, AtFlags::empty())?)
    }

    fn remove_dir(&self, name: &str) -> io::Result<()> {
        rustix::fs::unlinkat(&self.root.handle, name, AtFlags::REMOVEDIR)?;
        self.subs.write().retain(|(sub, _)| sub != name);
        Ok(())
    }

    fn link(&self, name: &str, to: &dyn Dir, to_name: &str) -> io::Result<()> {
        let to: &dyn Any = to;
        let Some(to) = to.downcast_ref::<Self>() else { return Err(ErrorKind::CrossesDevices.into()) };
        let ((from_dir, from), (to_dir, to)) = (self.place(name)?, to.place(to_name)?);
        Ok(rustix::fs::linkat(&from_dir.handle, from, &to_dir.handle, to, AtFlags::empty())?)
    }

    fn sync_dir(&self, sub: &str) -> io::Result<()> {
        self.dir(sub)?.sync()
    }

    fn available_space(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.root.handle)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

#[derive(Debug)]
pub(super) struct OsFile {
    file: fs::File,
    identity: (u64, u64),
    counts_links: bool,
}

impl OsFile {
    fn new(file: fs::File) -> io::Result<Self> {
        let seen = file.metadata()?;
        if !seen.is_file() {
            return Err(not_a_file());
        }
        Ok(Self { identity: (seen.dev(), seen.ino()), counts_links: seen.nlink() > 0, file })
    }
}

impl File for OsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn identity(&self) -> (u64, u64) {
        self.identity
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.file.write_all_at(buf, offset)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        // fs2 builds its error from errno although posix_fallocate returns the code: its kind cannot be trusted, so the
        // caller treats any error as "no reservation" and relies on the error of the write itself.
        fs2::FileExt::allocate(&self.file, len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()?;
        check_linked(&self.file, self.counts_links)
    }

    fn map(&self) -> io::Result<Region> {
        Region::map(&self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind<T>(result: io::Result<T>) -> ErrorKind {
        result.err().expect("an error").kind()
    }

    /// A directory with a file in a sub-directory, held open.
    fn held(at: &Path) -> OsDir {
        fs::create_dir(at).unwrap();
        let dir = OsDir::open(at.to_path_buf()).unwrap();
        dir.create_dir("wal").unwrap();
        dir.create("wal/1.wal").unwrap().write_at(0, b"mine").unwrap();
        dir
    }

    #[test]
    fn a_moved_directory_is_still_the_same_one() {
        let temp = tempfile::tempdir().unwrap();
        let (old, new) = (temp.path().join("old"), temp.path().join("new"));
        let dir = held(&old);
        fs::rename(&old, &new).unwrap();
        fs::create_dir_all(old.join("wal")).unwrap();
        fs::write(old.join("wal/1.wal"), "a stranger's").unwrap();

        assert_eq!(dir.file_len("wal/1.wal").unwrap(), 4);
        assert_eq!(dir.list("wal").unwrap(), ["1.wal"]);
        dir.create("wal/2.wal").unwrap().sync().unwrap();
        dir.rename("wal/2.wal", "wal/3.wal").unwrap();
        dir.remove("wal/1.wal").unwrap();
        dir.create_dir("segments").unwrap();
        dir.sync_dir("wal").unwrap();
        dir.check_there().unwrap();
        assert_eq!(dir.list("").unwrap(), ["segments", "wal"]);
        assert_eq!(
            fs::read_dir(new.join("wal")).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>(),
            ["3.wal"]
        );
        assert_eq!(fs::read_to_string(old.join("wal/1.wal")).unwrap(), "a stranger's");
        assert!(!old.join("segments").exists());
    }

    #[test]
    fn what_was_deleted_while_it_was_open_cannot_be_synced() {
        let temp = tempfile::tempdir().unwrap();
        let old = temp.path().join("old");
        let dir = held(&old);
        let file = dir.create("wal/2.wal").unwrap();
        dir.remove("wal/2.wal").unwrap();
        assert_eq!(kind(file.sync()), ErrorKind::NotFound);
        dir.sync_dir("wal").unwrap();
        fs::remove_dir_all(&old).unwrap();
        fs::create_dir_all(old.join("wal")).unwrap();
        for failed in [dir.sync_dir("wal"), dir.sync_dir(""), dir.check_there(), dir.create_dir("segments")] {
            assert_eq!(kind(failed), ErrorKind::NotFound);
        }
        assert_eq!(kind(dir.create("CURRENT")), ErrorKind::NotFound);
        assert_eq!(kind(dir.open("wal/1.wal")), ErrorKind::NotFound);
        assert_eq!(kind(dir.list("wal")), ErrorKind::NotFound);
    }

    #[test]
    fn a_sub_directory_that_went_is_noticed_as_well() {
        let temp = tempfile::tempdir().unwrap();
        let old = temp.path().join("old");
        let dir = held(&old);
        fs::remove_dir_all(old.join("wal")).unwrap();
        assert_eq!(kind(dir.check_there()), ErrorKind::NotFound);
        dir.sync_dir("").unwrap();
    }

    #[test]
    fn a_link_goes_from_the_one_held_directory_to_the_other() {
        let temp = tempfile::tempdir().unwrap();
        let [a, b, moved] = ["a", "b", "moved"].map(|name| temp.path().join(name));
        let from = held(&a);
        fs::create_dir(&b).unwrap();
        let to = OsDir::open(b.clone()).unwrap();
        fs::rename(&b, &moved).unwrap();
        fs::create_dir(&b).unwrap();
        from.link("wal/1.wal", &to, "one").unwrap();
        assert_eq!(fs::read(moved.join("one")).unwrap(), b"mine");
        assert!(!b.join("one").exists());
    }

    #[test]
    fn links_and_what_is_no_file_are_refused_inside() {
        let temp = tempfile::tempdir().unwrap();
        let dir = held(&temp.path().join("db"));
        let at = |name: &str| temp.path().join("db").join(name);
        std::os::unix::fs::symlink("wal/1.wal", at("link")).unwrap();
        std::os::unix::fs::symlink("wal", at("segments")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        for name in ["link", "pipe", "wal"] {
            assert_eq!(kind(dir.open(name)), ErrorKind::InvalidInput, "{name}");
            assert_eq!(kind(dir.file_len(name)), ErrorKind::InvalidInput, "{name}");
        }
        assert_eq!(kind(dir.create_dir("segments")), ErrorKind::NotADirectory);
        assert_eq!(kind(dir.list("segments")), ErrorKind::NotADirectory);
        assert_eq!(kind(dir.open("segments/1.wal")), ErrorKind::NotADirectory);
        for name in ["../x", "wal/../x", "wal/..", "..", ".", "", "/x"] {
            assert!(dir.create(name).is_err(), "{name}");
        }
    }
}
