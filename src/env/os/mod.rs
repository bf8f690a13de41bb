//! The real machine: files of mode 0600 in directories of mode 0700; links are not followed; the lock is on the
//! directory itself.

#[cfg(unix)]
mod held;
#[cfg(not(unix))]
mod paths;

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

#[cfg(unix)]
use held::OsDir;
#[cfg(not(unix))]
use paths::OsDir;

use crate::env::{
    clock,
    door::{Background, Dir, Env},
};

/// Maximum length of a chain of links, the same as on Linux.
const LINKS_MAX: usize = 40;

/// The machine this process runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Os;

impl Os {
    /// Returns where a file named by the user is, or will be once created: links at the end of the path are followed,
    /// as the user chose them.
    pub(crate) fn follow(path: &Path) -> io::Result<PathBuf> {
        let mut path = path.to_path_buf();
        for _ in 0..LINKS_MAX {
            match fs::read_link(&path) {
                Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
                // Not a link (`EINVAL`), or does not exist yet.
                Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::NotFound) => return Ok(path),
                Err(e) => return Err(e),
            }
        }
        Err(io::Error::new(ErrorKind::InvalidInput, "too many levels of links"))
    }
}

impl Env for Os {
    fn open_dir(&self, path: &Path, create: bool) -> io::Result<Arc<dyn Dir>> {
        if path.as_os_str().is_empty() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "the path is empty"));
        }
        let made = if create { make_dir(path) } else { Ok(()) };
        // The path itself may be a link, since the user chose it; names inside may not.
        let opened = made.and_then(|()| OsDir::open(fs::canonicalize(path)?));
        Ok(Arc::new(opened.map_err(|error| in_the_way(path, error))?))
    }

    fn remove_dir(&self, path: &Path) {
        let _removed = fs::remove_dir(path);
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

    #[cfg(unix)]
    fn open_files_max(&self) -> Option<u64> {
        rustix::process::getrlimit(rustix::process::Resource::Nofile).current
    }
}

/// Reports which part of a path is not a directory, or is a dangling link: the system reports only that there is one.
fn in_the_way(path: &Path, error: io::Error) -> io::Error {
    if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::AlreadyExists) {
        return error;
    }
    let mut parts: Vec<&Path> = path.ancestors().filter(|part| !part.as_os_str().is_empty()).collect();
    parts.reverse();
    for part in parts {
        let Ok(seen) = fs::symlink_metadata(part) else { break };
        let what = match fs::metadata(part) {
            Ok(found) if found.is_dir() => continue,
            Ok(_) => "is a file, where a directory belongs",
            Err(_) if seen.is_symlink() => "is a link to nothing",
            Err(_) => break,
        };
        return io::Error::new(error.kind(), format!("{} {what}", part.display()));
    }
    error
}

/// Returns where a path leads once its missing parents exist: without links and without `..`.
fn destination(path: &Path) -> PathBuf {
    let mut there = std::env::current_dir().unwrap_or_default();
    for part in path.components() {
        match part {
            // Existing parts are resolved already, and missing ones are no links.
            Component::ParentDir => drop(there.pop()),
            part => {
                there.push(part);
                there = fs::canonicalize(&there).unwrap_or(there);
            }
        }
    }
    there
}

fn not_a_directory() -> io::Error {
    io::Error::new(ErrorKind::NotADirectory, "a link or a file stands where a directory belongs")
}

fn not_a_file() -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, "not a regular file")
}

/// Creates one directory, accessible to its owner alone.
fn new_dir(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Creates the database directory and makes its name durable; missing parents get the default mode.
fn make_dir(path: &Path) -> io::Result<()> {
    match new_dir(path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => return Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            if let Some(parent) = path.parent() {
                make_parents(parent)?;
            }
            new_dir(path)?;
        }
        other => other?,
    }
    sync_parent(path)
}

/// Creates a directory and its missing parents.
fn make_parents(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_parents(parent)?;
    }
    match fs::create_dir(path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        Ok(()) => sync_parent(path),
        other => other,
    }
}

/// Makes the name of a new directory durable.
fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => fs::File::open(parent)?.sync_all(),
        Some(_) => fs::File::open(".")?.sync_all(),
        None => Ok(()),
    }
}
