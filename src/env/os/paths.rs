//! Directories and files by path, for systems that cannot look up names relative to an open directory. If its directory
//! is moved or replaced, a handle finds what is now at the old path; but such systems refuse to move an open directory.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{destination, new_dir, not_a_directory, not_a_file};
use crate::env::{
    door::{Dir, File},
    map::Region,
};

#[derive(Debug)]
pub(super) struct OsDir {
    path: PathBuf,
    /// Carries the lock: deleting the LOCK file releases nothing, and every alias of the directory leads to it.
    handle: fs::File,
}

impl OsDir {
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let handle = fs::File::open(&path)?;
        if !handle.metadata()?.is_dir() {
            return Err(io::Error::new(ErrorKind::NotADirectory, "not a directory"));
        }
        Ok(Self { path, handle })
    }

    fn at(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.path.clone() } else { self.path.join(name) }
    }
}

impl Dir for OsDir {
    fn path(&self) -> &Path {
        &self.path
    }

    fn try_lock(&self, exclusive: bool) -> io::Result<bool> {
        // By full path: std has methods of the same names with other error types.
        let locked = if exclusive {
            fs2::FileExt::try_lock_exclusive(&self.handle)
        } else {
            fs2::FileExt::try_lock_shared(&self.handle)
        };
        match locked {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == fs2::lock_contended_error().raw_os_error() => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn unlock(&self) -> io::Result<()> {
        fs2::FileExt::unlock(&self.handle)
    }

    fn restrict(&self) -> io::Result<()> {
        Ok(())
    }

    fn check_there(&self) -> io::Result<()> {
        fs::metadata(&self.path).map(drop)
    }

    fn sync_files(&self, names: &[String]) -> Result<(), (String, io::Error)> {
        // Such systems sync only files that are open for writing.
        names.iter().try_for_each(|name| {
            let synced = fs::File::options().write(true).open(self.at(name)).and_then(|file| file.sync_all());
            synced.map_err(|error| (name.clone(), error))
        })
    }

    fn contains(&self, path: &Path) -> bool {
        destination(path).starts_with(&self.path)
    }

    fn list(&self, sub: &str) -> io::Result<Vec<String>> {
        let path = self.at(sub);
        if !fs::symlink_metadata(&path)?.is_dir() {
            // Opening a database lists every sub-directory first: a link is never followed further than here.
            return Err(not_a_directory());
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        let path = self.at(name);
        match new_dir(&path) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists && !fs::symlink_metadata(&path)?.is_dir() => {
                Err(not_a_directory())
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(self.at(name))?;
        Ok(Arc::new(OsFile { file }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new().read(true).open(self.at(name))?;
        if !file.metadata()?.is_file() {
            return Err(not_a_file());
        }
        Ok(Arc::new(OsFile { file }))
    }

    fn file_len(&self, name: &str) -> io::Result<u64> {
        let seen = fs::symlink_metadata(self.at(name))?;
        if seen.is_file() { Ok(seen.len()) } else { Err(not_a_file()) }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.at(from), self.at(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.at(name))
    }

    fn remove_dir(&self, name: &str) -> io::Result<()> {
        fs::remove_dir(self.at(name))
    }

    fn link(&self, name: &str, to: &dyn Dir, to_name: &str) -> io::Result<()> {
        fs::hard_link(self.at(name), to.path().join(to_name))
    }

    fn sync_dir(&self, sub: &str) -> io::Result<()> {
        if sub.is_empty() { self.handle.sync_all() } else { fs::File::open(self.at(sub))?.sync_all() }
    }

    fn available_space(&self) -> io::Result<u64> {
        fs2::available_space(&self.path)
    }
}

#[derive(Debug)]
pub(super) struct OsFile {
    file: fs::File,
}

impl File for OsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    #[cfg(windows)]
    fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(&self.file, buf, offset)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                n => {
                    offset += n as u64;
                    buf = buf.split_at_mut(n).1;
                }
            }
        }
        Ok(())
    }

    #[cfg(windows)]
    fn write_at(&self, mut offset: u64, mut buf: &[u8]) -> io::Result<()> {
        while !buf.is_empty() {
            let n = std::os::windows::fs::FileExt::seek_write(&self.file, buf, offset)?;
            offset += n as u64;
            buf = buf.split_at(n).1;
        }
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        fs2::FileExt::allocate(&self.file, len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn map(&self) -> io::Result<Region> {
        Region::map(&self.file)
    }
}
