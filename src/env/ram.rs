//! Bytes, names and locks of the two machines without a real disk.
//!
//! A file of a [`Tree`] is whatever handle its machine uses. Operations return the changes they would make.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, ErrorKind},
    mem,
    ops::{Bound, Range},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use super::map::Region;

/// Bytes of a file. A clone costs nothing until one of the two is written.
#[derive(Clone, Default)]
#[expect(clippy::rc_buffer, reason = "written in place while it has one owner, copied when it has more")]
pub(super) struct Bytes(Arc<Vec<u8>>);

impl Bytes {
    pub(super) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    pub(super) fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if buf.is_empty() {
            return Ok(());
        }
        let range = span(offset, buf.len()).ok_or(ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(self.0.get(range).ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    /// Writes `bytes` at `offset`; a gap between the old end and `offset` reads as zero.
    pub(super) fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let range = span(offset, bytes.len()).ok_or(ErrorKind::FileTooLarge)?;
        self.extend(range.end as u64)?;
        if let Some(place) = Arc::make_mut(&mut self.0).get_mut(range) {
            place.copy_from_slice(bytes);
        }
        Ok(())
    }

    /// Extends the file with zeros to at least `len` bytes.
    pub(super) fn extend(&mut self, len: u64) -> io::Result<()> {
        if len > self.len() { self.set_len(len) } else { Ok(()) }
    }

    pub(super) fn set_len(&mut self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(|_| ErrorKind::FileTooLarge)?;
        let bytes = Arc::make_mut(&mut self.0);
        // An absurd length in a test must not abort the process.
        bytes.try_reserve(len.saturating_sub(bytes.len())).map_err(|_| ErrorKind::StorageFull)?;
        bytes.resize(len, 0);
        Ok(())
    }

    /// Returns the bytes as they are now; later writes do not reach them.
    pub(super) fn region(&self) -> Region {
        Arc::clone(&self.0).into()
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        self.0.to_vec()
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Arc::new(bytes))
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

fn span(offset: u64, len: usize) -> Option<Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    Some(start..start.checked_add(len)?)
}

/// Target of a name.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Entry<F> {
    Dir,
    File(F),
}

/// Effect of one operation on names, all or nothing; `None` removes.
pub(super) type Changes<F> = Vec<(PathBuf, Option<Entry<F>>)>;

/// Names by full path. Operations return the changes they would make, with the errors of a real file system; the caller
/// applies them.
#[derive(Clone, Debug)]
pub(super) struct Tree<F> {
    entries: BTreeMap<PathBuf, Entry<F>>,
}

impl<F> Default for Tree<F> {
    fn default() -> Self {
        Self { entries: BTreeMap::new() }
    }
}

impl<F: Clone + PartialEq> Tree<F> {
    pub(super) fn apply(&mut self, changes: Changes<F>) {
        for (path, entry) in changes {
            match entry {
                Some(entry) => self.entries.insert(path, entry),
                None => self.entries.remove(&path),
            };
        }
    }

    /// Removes every name whose directory does not exist.
    pub(super) fn prune(&mut self) {
        let mut kept = Self::default();
        // A directory sorts before its contents.
        for (path, entry) in mem::take(&mut self.entries) {
            if path.parent().is_some_and(|dir| kept.check_dir(dir).is_ok()) {
                kept.entries.insert(path, entry);
            }
        }
        *self = kept;
    }

    /// Fails unless `path` is a directory.
    pub(super) fn check_dir(&self, path: &Path) -> io::Result<()> {
        match self.entries.get(path) {
            Some(Entry::Dir) => Ok(()),
            Some(Entry::File(_)) => Err(ErrorKind::NotADirectory.into()),
            // The roots of all paths, relative and absolute, always exist.
            None if path.parent().is_none() => Ok(()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    /// Returns the file of a name.
    pub(super) fn file(&self, path: &Path) -> io::Result<F> {
        match self.entries.get(path) {
            Some(Entry::File(file)) => Ok(file.clone()),
            None => Err(ErrorKind::NotFound.into()),
            Some(Entry::Dir) => Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file")),
        }
    }

    /// Lists the names directly in `dir`, sorted.
    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.check_dir(dir)?;
        let inside = self.entries.range::<Path, _>((Bound::Excluded(dir), Bound::Unbounded));
        let names = inside
            .map(|(path, _)| path)
            .take_while(|path| path.starts_with(dir))
            .filter(|path| path.parent() == Some(dir))
            .filter_map(|path| path.file_name());
        Ok(names.map(|name| name.to_string_lossy().into_owned()).collect())
    }

    pub(super) fn files(&self) -> impl Iterator<Item = (&PathBuf, &F)> {
        self.entries.iter().filter_map(|(path, entry)| match entry {
            Entry::File(file) => Some((path, file)),
            Entry::Dir => None,
        })
    }

    /// Returns the directory `path` and its parents, as far as they are missing.
    pub(super) fn make_dirs(&self, path: &Path) -> io::Result<Changes<F>> {
        let mut missing = Vec::new();
        for dir in path.ancestors() {
            match self.check_dir(dir) {
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    missing.push((dir.to_path_buf(), Some(Entry::Dir)));
                }
                found => {
                    found?;
                    break;
                }
            }
        }
        Ok(missing)
    }

    pub(super) fn create_dir(&self, path: PathBuf) -> io::Result<Changes<F>> {
        match self.check_dir(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                self.check_dir(parent(&path)?)?;
                Ok(vec![(path, Some(Entry::Dir))])
            }
            found => found.map(|()| Vec::new()),
        }
    }

    /// Adds a name for `file`, which may have others.
    pub(super) fn create(&self, path: PathBuf, file: F) -> io::Result<Changes<F>> {
        self.check_dir(parent(&path)?)?;
        if self.entries.contains_key(&path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        Ok(vec![(path, Some(Entry::File(file)))])
    }

    pub(super) fn rename(&self, from: PathBuf, to: PathBuf) -> io::Result<Changes<F>> {
        if from.parent() != to.parent() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "a rename stays inside one directory"));
        }
        let file = self.file(&from)?;
        match self.entries.get(&to) {
            Some(Entry::Dir) => Err(ErrorKind::IsADirectory.into()),
            // Two names of one file: POSIX keeps both.
            Some(Entry::File(old)) if *old == file => Ok(Vec::new()),
            _ => Ok(vec![(from, None), (to, Some(Entry::File(file)))]),
        }
    }

    pub(super) fn remove(&self, path: PathBuf) -> io::Result<Changes<F>> {
        match self.entries.get(&path) {
            Some(Entry::File(_)) => Ok(vec![(path, None)]),
            Some(Entry::Dir) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    /// Removes an empty directory.
    pub(super) fn remove_dir(&self, path: PathBuf) -> io::Result<Changes<F>> {
        if self.list(&path)?.is_empty() { Ok(vec![(path, None)]) } else { Err(ErrorKind::DirectoryNotEmpty.into()) }
    }
}

fn parent(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| ErrorKind::AlreadyExists.into())
}

/// Normalises a path: no `.` and no doubled slashes. A path is only a key here and leads through no links.
pub(super) fn normalise(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

/// Returns the full path of the relative `name` in `dir`; `""` is `dir` itself.
pub(super) fn at(dir: &Path, name: &str) -> io::Result<PathBuf> {
    let mut path = dir.to_path_buf();
    for part in Path::new(name).components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            _ => {
                return Err(io::Error::new(ErrorKind::InvalidInput, "a name leads out of its directory"));
            }
        }
    }
    Ok(path)
}

/// Returns the error of a write to a file opened for reading.
pub(super) fn read_only() -> io::Error {
    io::Error::new(ErrorKind::PermissionDenied, "opened for reading")
}

/// Directory locks, by handle. A second handle conflicts even in the same process.
#[derive(Clone, Debug, Default)]
pub(super) struct Locks {
    held: Vec<Lock>,
}

#[derive(Clone, Debug)]
struct Lock {
    path: PathBuf,
    handle: u64,
    exclusive: bool,
}

impl Locks {
    /// Locks `path` for `handle`, which may already hold it in the other mode.
    pub(super) fn try_lock(&mut self, path: &Path, handle: u64, exclusive: bool) -> bool {
        let conflict = |lock: &Lock| lock.path == path && lock.handle != handle && (exclusive || lock.exclusive);
        if self.held.iter().any(conflict) {
            return false;
        }
        self.unlock(handle);
        self.held.push(Lock { path: path.to_path_buf(), handle, exclusive });
        true
    }

    pub(super) fn unlock(&mut self, handle: u64) {
        self.held.retain(|lock| lock.handle != handle);
    }

    pub(super) fn clear(&mut self) {
        self.held.clear();
    }
}
