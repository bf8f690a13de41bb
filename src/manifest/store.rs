//! The manifest on disk: reading it, appending edits, and switching to a new file atomically.
//!
//! `CURRENT` is 44 bytes: a file header with the id of the database and the number of the current manifest, the length
//! at which a clean close sealed that manifest (0 while the database is open or after a crash), and a checksum. It is
//! replaced by rename. The length exposes a manifest that lost its end after a clean close.

use std::{path::PathBuf, sync::Arc};

use super::{edit::Edit, version::Version};
use crate::{
    base::{Corruption, Error, FileNumber, IoContext, Result},
    env::Dir,
    format::{FileKind, Header, Reader, Writer, crc, name},
    wal::{LogEnd, LogWriter, RecordKind, Verdict, replay},
};

/// Minimum length at which a manifest is replaced by a new one; it must also exceed four of its snapshots.
const ROLL_MIN: u64 = 256 << 10;

/// Reason why an edit was not committed.
#[derive(Debug)]
pub(crate) enum CommitFailure {
    /// The edit did not take effect: the version before is still current. While the manifest is in doubt, files that
    /// the edit would have added must stay, since the failed record may still be read after a crash.
    NotCommitted(Error),
    /// A sync failed: the state on disk is unknown.
    Unknown(Error),
}

/// The manifest of an open database.
#[derive(Debug)]
pub(crate) struct ManifestStore {
    dir: Arc<dyn Dir>,
    database_id: u64,
    version: Arc<Version>,
    /// Writer of the current file, once this process has written one.
    writer: Option<LogWriter>,
    number: FileNumber,
    snapshot_len: u64,
    /// Whether the next edit must go to a new file: at first, and after a failed append.
    must_roll: bool,
    roll_wanted: bool,
    clean: bool,
}

impl ManifestStore {
    /// Returns the manifest of a new database; nothing is written before [`ManifestStore::roll`].
    pub(crate) fn new(dir: Arc<dyn Dir>, database_id: u64) -> Self {
        Self {
            dir,
            database_id,
            version: Arc::default(),
            writer: None,
            number: FileNumber(0),
            snapshot_len: 0,
            must_roll: true,
            roll_wanted: false,
            clean: true,
        }
    }

    /// Reads the manifest that `CURRENT` names; `None` without a `CURRENT`. Writes nothing.
    pub(crate) fn open(dir: Arc<dyn Dir>) -> Result<Option<Self>> {
        let current = match dir.open(name::CURRENT) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("open", &dir.path().join(name::CURRENT), e)),
        };
        let path = dir.path().join(name::CURRENT);
        let bytes = read_all(&*current, &path)?;
        let header = Header::decode(&bytes, FileKind::Current).map_err(|bad| bad.of(&path))?;
        let sealed = decode_sealed(&bytes).map_err(|bad| bad.of(&path, 0))?;

        let manifest = name::manifest(header.number);
        let path = dir.path().join(&manifest);
        let file = dir.open(&manifest).at("open", || path.clone())?;
        let bytes = read_all(&*file, &path)?;
        if sealed.is_some_and(|sealed| bytes.len() as u64 != sealed) {
            let what = "the length at which the manifest was sealed";
            return Err(Corruption { offset: bytes.len() as u64, what }.of(&path, 0));
        }
        let expected = Header { kind: FileKind::Manifest, ..header };
        let mut version = Version::default();
        let mut edits = 0;
        replay(&path, &bytes, expected, sealed.map(LogEnd::Exactly), |shown| {
            let base = shown.place.start as u64;
            let edit = Edit::decode(bytes.get(shown.place).unwrap_or_default()).map_err(|bad| bad.of(&path, base))?;
            version = version.apply(&edit).map_err(|bad| bad.of(&path, base))?;
            edits += 1;
            Ok(Verdict::Accept)
        })?;
        version.check_whole().map_err(|bad| bad.of(&path, bytes.len() as u64))?;
        if edits == 0 {
            // CURRENT names a manifest only after its snapshot was synced.
            return Err(Corruption { offset: 0, what: "a snapshot of the database" }.of(&path, 0));
        }
        Ok(Some(Self {
            dir,
            database_id: header.file_id,
            version: Arc::new(version),
            writer: None,
            number: header.number,
            snapshot_len: 0,
            must_roll: true,
            roll_wanted: false,
            clean: sealed.is_some(),
        }))
    }

    pub(crate) fn database_id(&self) -> u64 {
        self.database_id
    }

    pub(crate) fn version(&self) -> &Arc<Version> {
        &self.version
    }

    /// Returns whether the database was closed cleanly before it was opened.
    pub(crate) fn was_clean(&self) -> bool {
        self.clean
    }

    /// Returns whether a failed edit may turn out to be committed after a crash; true until the manifest is rolled.
    pub(crate) fn in_doubt(&self) -> bool {
        self.must_roll && self.writer.is_some()
    }

    /// Makes the next edit start a new file, without the edits that are superseded.
    pub(crate) fn roll_at_next(&mut self) {
        self.roll_wanted = true;
    }

    /// Ends a doubt with a new manifest that holds the current version.
    pub(crate) fn resolve_doubt(&mut self) -> Result<(), CommitFailure> {
        if self.in_doubt() { self.roll(Arc::clone(&self.version)) } else { Ok(()) }
    }

    /// Returns the length of the current manifest, in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.writer.as_ref().map_or(0, LogWriter::offset)
    }

    /// Commits an edit: after `Ok` it is durable and its version is current.
    pub(crate) fn commit(&mut self, edit: &Edit) -> Result<Arc<Version>, CommitFailure> {
        let path = || self.dir.path().join(name::manifest(self.number));
        let next = self.version.apply(edit).map_err(|bad| CommitFailure::NotCommitted(bad.of(&path(), 0)))?;
        let next = Arc::new(next);
        if self.must_roll || self.roll_wanted || self.len() > ROLL_MIN.max(4 * self.snapshot_len) {
            self.roll(Arc::clone(&next))?;
        } else if let Some(writer) = &mut self.writer {
            if let Err(e) = writer.append_bytes(&edit.encode()) {
                // The record may be on disk all the same, and would be read after a crash: leave this file at once.
                self.must_roll = true;
                return match self.roll(Arc::clone(&self.version)) {
                    Err(unknown @ CommitFailure::Unknown(_)) => Err(unknown),
                    Ok(()) | Err(CommitFailure::NotCommitted(_)) => Err(CommitFailure::NotCommitted(e)),
                };
            }
            writer.file().sync(writer.offset()).map_err(CommitFailure::Unknown)?;
        }
        self.version = Arc::clone(&next);
        Ok(next)
    }

    /// Starts a new manifest with a snapshot of `version` and makes it current. A failure before the switch leaves no
    /// file behind.
    fn roll(&mut self, version: Arc<Version>) -> Result<(), CommitFailure> {
        let number = self.unused_number().map_err(CommitFailure::NotCommitted)?;
        // Nothing names the new file before the switch: a failure until then keeps the old one current.
        let written = self.write_snapshot(number, &version).map_err(CommitFailure::NotCommitted);
        let switched = written.and_then(|writer| self.switch(number, 0).map(|()| writer));
        let writer = switched.inspect_err(|failure| {
            if matches!(failure, CommitFailure::NotCommitted(_)) {
                // Otherwise a disk that stays full would collect one for each attempt.
                let _removed = self.dir.remove(&name::manifest(number));
            }
        })?;

        let old = std::mem::replace(&mut self.number, number);
        self.snapshot_len = writer.offset();
        self.writer = Some(writer);
        self.must_roll = false;
        self.roll_wanted = false;
        self.version = version;
        // The old manifest is garbage now; if it cannot be removed, the next open removes it.
        let _removed = self.dir.remove(&name::manifest(old));
        Ok(())
    }

    /// Writes a new manifest, durable with its name.
    fn write_snapshot(&self, number: FileNumber, version: &Version) -> Result<LogWriter> {
        let header = Header { kind: FileKind::Manifest, file_id: self.database_id, number };
        let mut writer = LogWriter::create(&*self.dir, header)?;
        writer.append_bytes(&version.snapshot().encode())?;
        writer.file().sync(writer.offset())?;
        self.sync_dir()?;
        Ok(writer)
    }

    /// Seals the manifest at a clean close.
    pub(crate) fn seal(&mut self) -> Result<()> {
        if let Some(writer) = &mut self.writer {
            writer.seal(RecordKind::Closed)?;
            writer.file().sync(writer.offset())?;
            let len = writer.offset();
            self.switch(self.number, len).map_err(|(CommitFailure::NotCommitted(e) | CommitFailure::Unknown(e))| e)?;
        }
        Ok(())
    }

    /// Replaces `CURRENT`.
    fn switch(&self, number: FileNumber, sealed: u64) -> Result<(), CommitFailure> {
        let path = || self.dir.path().join(name::CURRENT_NEW);
        let write = || {
            match self.dir.remove(name::CURRENT_NEW) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).at("remove", path),
                _ => {}
            }
            let file = self.dir.create(name::CURRENT_NEW).at("create", path)?;
            file.write_at(0, &encode_current(self.database_id, number, sealed)).at("write", path)?;
            file.sync().at("sync", path)
        };
        write().map_err(|error| {
            let _removed = self.dir.remove(name::CURRENT_NEW);
            CommitFailure::NotCommitted(error)
        })?;
        // A rename that reports failure may have happened all the same.
        self.dir
            .rename(name::CURRENT_NEW, name::CURRENT)
            .at("rename", path)
            .and_then(|()| self.sync_dir())
            .map_err(CommitFailure::Unknown)
    }

    fn sync_dir(&self) -> Result<()> {
        self.dir.sync_dir("").at("sync", || self.dir.path().to_path_buf())
    }

    /// Returns a number above every existing manifest: a crash may have left one that no `CURRENT` names.
    fn unused_number(&self) -> Result<FileNumber> {
        let names = self.dir.list("").at("list", || self.dir.path().to_path_buf())?;
        let used = names.iter().filter_map(|name| name::parse_manifest(name)).max().unwrap_or(FileNumber(0));
        Ok(used.max(self.number).next())
    }

    /// Returns the path of the current manifest.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join(name::manifest(self.number))
    }

    /// Returns the number of the current manifest.
    pub(crate) fn number(&self) -> FileNumber {
        self.number
    }
}

fn encode_current(database_id: u64, number: FileNumber, sealed: u64) -> Vec<u8> {
    let mut out = Writer::default();
    out.raw(&Header { kind: FileKind::Current, file_id: database_id, number }.encode());
    out.u64(sealed);
    out.u32(crc(&[out.bytes()]));
    out.into_bytes()
}

/// Decodes the length at which the manifest was sealed, which follows the header.
fn decode_sealed(bytes: &[u8]) -> Result<Option<u64>, Corruption> {
    let mut reader = Reader::starting_at(bytes, Header::LEN);
    let sealed = reader.u64("sealed length")?;
    reader.expect_u32(crc(&[bytes.get(..Header::LEN + 8).unwrap_or_default()]), "checksum of CURRENT")?;
    reader.finish("end of CURRENT")?;
    Ok((sealed != 0).then_some(sealed))
}

/// Maximum length of a file that is read whole: one largest batch and its frame, or a manifest of a million segments.
const READ_ALL_MAX: u64 = 1 << 30;

/// Reads a small file whole.
pub(crate) fn read_all(file: &dyn crate::env::File, path: &std::path::Path) -> Result<Vec<u8>> {
    let len = file.len().at("read the length of", || path.to_path_buf())?;
    let len = Some(len).filter(|len| *len <= READ_ALL_MAX).and_then(|len| usize::try_from(len).ok());
    let Some(len) = len else {
        return Err(Corruption { offset: 0, what: "a file of at most 1 GiB" }.of(path, 0));
    };
    let mut bytes = vec![0; len];
    file.read_at(0, &mut bytes).at("read", || path.to_path_buf())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        env::{Env, Fault, Memory, Sim},
        manifest::Change,
    };

    fn dir() -> Arc<dyn Dir> {
        Memory::new().open_dir(Path::new("/db"), true).unwrap()
    }

    fn next_file(number: FileNumber) -> Edit {
        Edit::new([Change::NextFile { number }])
    }

    #[test]
    fn edits_are_there_after_reopening() {
        let dir = dir();
        assert!(ManifestStore::open(Arc::clone(&dir)).unwrap().is_none());
        let mut store = ManifestStore::new(Arc::clone(&dir), 42);
        for number in 1..100 {
            store.commit(&next_file(FileNumber(number))).unwrap();
        }
        let found = ManifestStore::open(Arc::clone(&dir)).unwrap().unwrap();
        assert_eq!((found.version().next_file, found.database_id(), found.was_clean()), (FileNumber(99), 42, false));
        store.seal().unwrap();
        let found = ManifestStore::open(dir).unwrap().unwrap();
        assert_eq!((found.version().next_file, found.was_clean()), (FileNumber(99), true));
    }

    #[test]
    fn a_sealed_manifest_cut_anywhere_is_corruption() {
        let dir = dir();
        let mut store = ManifestStore::new(Arc::clone(&dir), 42);
        store.commit(&next_file(FileNumber(5))).unwrap();
        store.commit(&next_file(FileNumber(9))).unwrap();
        store.seal().unwrap();
        let path = name::manifest(store.number());
        let bytes = read_all(&*dir.open(&path).unwrap(), &store.path()).unwrap();
        for len in 0..bytes.len() {
            dir.remove(&path).unwrap();
            dir.create(&path).unwrap().write_at(0, &bytes[..len]).unwrap();
            assert!(ManifestStore::open(Arc::clone(&dir)).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn what_could_not_be_put_in_force_is_removed() {
        let sim = Sim::new(1);
        let dir = sim.open_dir(Path::new("db"), true).unwrap();
        let mut store = ManifestStore::new(Arc::clone(&dir), 42);
        store.commit(&next_file(FileNumber(1))).unwrap();
        let (before, number) = (dir.list("").unwrap(), store.number());
        // Creating the file and writing its header, its snapshot, syncing it and its name; then the same of
        // CURRENT.new.
        for call in 0..8 {
            store.roll_at_next();
            sim.fail_at(sim.calls() + call, Fault::Eio);
            let failed = store.commit(&next_file(FileNumber(2)));
            assert!(matches!(failed, Err(CommitFailure::NotCommitted(_))), "call {call}: {failed:?}");
            assert_eq!(dir.list("").unwrap(), before, "call {call}");
            sim.clear_faults();
        }
        store.commit(&next_file(FileNumber(3))).unwrap();
        assert_eq!(store.number(), number.next(), "its number was free again");
        assert_eq!(ManifestStore::open(dir).unwrap().unwrap().version().next_file, FileNumber(3));
    }

    #[test]
    fn a_long_manifest_is_replaced_by_its_snapshot() {
        let dir = dir();
        let mut store = ManifestStore::new(Arc::clone(&dir), 42);
        for number in 1..20_000 {
            store.commit(&next_file(FileNumber(number))).unwrap();
        }
        assert!(store.len() < 2 * ROLL_MIN, "{} bytes", store.len());
        assert_eq!(dir.list("").unwrap().len(), 2, "CURRENT and one manifest");
    }
}
