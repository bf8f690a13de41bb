//! The real machine: files of mode 0600 in directories of mode 0700, no link followed, the directory itself locked.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Background, Dir, Env, File, Region, clock};

/// The machine this process runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Os;

impl Env for Os {
    fn open_dir(&self, path: &Path, create: bool) -> io::Result<Arc<dyn Dir>> {
        if create {
            make_dir(path)?;
        }
        // The path itself may be a link: the user chose it. What is inside may not.
        let path = fs::canonicalize(path)?;
        let handle = fs::File::open(&path)?;
        if !handle.metadata()?.is_dir() {
            return Err(io::Error::new(ErrorKind::NotADirectory, "not a directory"));
        }
        Ok(Arc::new(OsDir { path, handle }))
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

    fn background(&self) -> Background {
        Background::Threads
    }

    fn draw(&self, _below: u32) -> u32 {
        0
    }
}

#[derive(Debug)]
struct OsDir {
    path: PathBuf,
    /// Carries the lock: deleting the LOCK file frees nothing, and every alias of the directory leads to it.
    handle: fs::File,
}

impl OsDir {
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

    #[cfg(unix)]
    fn restrict(&self) -> io::Result<()> {
        self.handle.set_permissions(mode(0o700))
    }

    #[cfg(not(unix))]
    fn restrict(&self) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, sub: &str) -> io::Result<Vec<String>> {
        let path = self.at(sub);
        if !fs::symlink_metadata(&path)?.is_dir() {
            // Opening looks into every sub-directory first: a link is never followed further than here.
            return Err(io::Error::new(ErrorKind::NotADirectory, "a link or a file stands where a directory belongs"));
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
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                if fs::symlink_metadata(&path)?.is_dir() {
                    Ok(())
                } else {
                    Err(io::Error::new(ErrorKind::NotADirectory, "a link or a file stands where a directory belongs"))
                }
            }
            #[cfg(unix)]
            Ok(()) => fs::set_permissions(&path, mode(0o700)),
            other => other,
        }
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create_new(true);
        private(&mut options);
        let file = options.open(self.at(name))?;
        // The umask may have taken the owner's own rights away.
        #[cfg(unix)]
        file.set_permissions(mode(0o600))?;
        Ok(Arc::new(OsFile { file }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true);
        private(&mut options);
        let file = options.open(self.at(name))?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Arc::new(OsFile { file }))
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
struct OsFile {
    file: fs::File,
}

impl File for OsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    #[cfg(unix)]
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, buf, offset)
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

    #[cfg(unix)]
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.file, buf, offset)
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
        // fs2 builds its error from errno although posix_fallocate returns the code: what kind it is cannot be
        // trusted, so the caller treats any error as "no reservation" and lets the write itself speak.
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

/// Mode 0600 whatever the umask grants; the last component must not be a link; a pipe must not block the open.
#[cfg(unix)]
fn private(options: &mut fs::OpenOptions) {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
}

#[cfg(not(unix))]
fn private(_options: &mut fs::OpenOptions) {}

#[cfg(unix)]
fn mode(bits: u32) -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(bits)
}

/// Makes one directory, readable by its owner alone.
fn new_dir(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Makes the database directory, and makes its name durable; missing parents get the ordinary mode.
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

/// Makes a directory and those above it that are missing.
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
