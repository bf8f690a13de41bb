//! Verification: reads every page, every entry, every log and every chunk, and checks that they agree.

mod chunks;

use std::{
    fmt,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    base::{Corruption, Error, IoContext, Result},
    engine::{Engine, Watch, stats::counted},
    env::Dir,
    format::{FileKind, Header, name},
    manifest::{ManifestStore, read_all},
    memtable::Memtable,
    wal::{Ending, LogEnd, Verdict, replay},
};

/// Damage that [`Db::verify`](crate::Db::verify) found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyFinding {
    /// Damaged file.
    pub path: PathBuf,
    /// Keyspace whose data it holds, if any.
    pub keyspace: Option<String>,
    /// Description of the damage.
    pub what: String,
}

/// Result of [`Db::verify`](crate::Db::verify).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Damage found.
    pub findings: Vec<VerifyFinding>,
    /// Files read.
    pub files: u64,
    /// Entries read in segments.
    pub entries: u64,
    /// Chunks read in packs, each decoded and hashed; of packs that are not flushed yet those that a value needs.
    pub chunks: u64,
    /// Bytes read.
    pub bytes: u64,
}

impl Report {
    /// Returns whether no damage was found.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = counted(self.files, "file", "files");
        let entries = counted(self.entries, "entry", "entries");
        let chunks = counted(self.chunks, "chunk", "chunks");
        writeln!(f, "read {files}, {entries}, {chunks}, {}", counted(self.bytes, "byte", "bytes"))?;
        for VerifyFinding { path, keyspace, what } in &self.findings {
            let of = keyspace.as_ref().map(|name| format!(" (keyspace \"{name}\")")).unwrap_or_default();
            writeln!(f, "damaged: {}{of}: {what}", path.display())?;
        }
        if self.is_clean() {
            write!(f, "no damage found")
        } else {
            f.write_str(&counted(self.findings.len() as u64, "finding", "findings"))
        }
    }
}

/// Reads everything. Damage is a finding, not an error; a failure that says nothing about the bytes is an error.
pub(crate) fn verify(engine: &Engine, watch: &mut Watch<'_>) -> Result<Report> {
    engine.check_open()?;
    let mut report = Report::default();
    verify_manifest(engine, &mut report)?;
    // Held while it is read, so none of these files is removed.
    let current = engine.files.current();
    let packs: u64 = current.chunks.packs.values().map(|handle| handle.meta.file_len).sum();
    watch.begin(current.segments().map(|handle| handle.meta.file_len).sum::<u64>() + packs)?;
    for (id, tree) in current.trees.iter() {
        let keyspace = current.version.keyspaces.get(id).map(|keyspace| keyspace.name.clone());
        for handle in tree.segments() {
            engine.check_open()?;
            watch.begin_part(handle.meta.file_len);
            report.files += 1;
            report.bytes += handle.meta.file_len;
            report.entries += handle.meta.summary.entries;
            let path = engine.ctx.dir.path().join(name::segment(handle.meta.number));
            // Opened for this alone and closed again: checks the file as it is now, and adds no open files.
            let checked = handle.open_anew().and_then(|segment| segment.check(&handle.meta));
            report.record(path, keyspace.clone(), checked)?;
            watch.end_part()?;
        }
    }
    let damaged = chunks::verify_packs(engine, &current, &mut report, watch)?;
    chunks::verify_recipes(engine, &current, damaged, &mut report)?;
    if !engine.ctx.options.read_only {
        for memtable in &current.sealed {
            verify_log(engine, &mut report, memtable, None)?;
        }
        let end = engine.log.end_of(current.active.log());
        verify_log(engine, &mut report, &current.active, end)?;
    }
    watch.end();
    Ok(report)
}

/// Checks that the manifest on the disk matches the version in force.
fn verify_manifest(engine: &Engine, report: &mut Report) -> Result<()> {
    let editing = engine.files.edit();
    let manifest = editing.manifest();
    report.files += 1;
    report.bytes += manifest.len();
    let read = ManifestStore::open(Arc::clone(&engine.ctx.dir)).and_then(|found| match found {
        Some(found) if found.version() == manifest.version() => Ok(()),
        _ => Err(Error::invalid("the manifest on the disk is not the one in force")),
    });
    report.record(manifest.path(), None, read)
}

/// Checks that the log of a memtable reads back, up to `end` if it is still being written.
fn verify_log(engine: &Engine, report: &mut Report, memtable: &Memtable, end: Option<u64>) -> Result<()> {
    let number = memtable.log();
    let name = name::log(number);
    let path = engine.ctx.dir.path().join(&name);
    let decided = engine.files.edit().version().log_ends.get(&number).copied();
    let checked = read_log(&*engine.ctx.dir, &name).and_then(|bytes| {
        report.files += 1;
        report.bytes += bytes.len() as u64;
        let header = Header { kind: FileKind::Log, file_id: engine.ctx.database_id, number };
        let replayed = replay(&path, &bytes, header, end.map(LogEnd::Exactly).or(decided), |_| Ok(Verdict::Accept))?;
        let decided_end = decided.map(LogEnd::offset);
        let whole = end.or(decided_end) == Some(replayed.end) || replayed.ending == Ending::Rotated;
        if whole { Ok(()) } else { Err(Error::invalid("the log has lost its end")) }
    });
    // If a flush has finished meanwhile, the log is rightly gone.
    let needed = engine.files.with_current(|now| now.needs_log(number));
    if needed { report.record(path, None, checked) } else { Ok(()) }
}

/// Describes the damage of a file that the finding names already.
fn told_of(error: &Error, path: &Path) -> String {
    match error {
        Error::Corrupt { path: at, offset, what } if at == path => Corruption { offset: *offset, what }.to_string(),
        Error::Missing { path: at } if at == path => "the file is missing".to_owned(),
        error => error.in_full(),
    }
}

/// Returns whether an error says that the file is damaged, rather than that it could not be read.
fn tells_of_the_file(error: &Error) -> bool {
    match error {
        // `Invalid` comes from the checks here; a newer format is damage where this process wrote its own.
        Error::Corrupt { .. } | Error::Missing { .. } | Error::NewerFormat { .. } | Error::Invalid { .. } => true,
        // Missing, truncated while it was read, or replaced by something else: a link, a pipe.
        Error::Io { source, .. } => {
            matches!(source.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof | ErrorKind::InvalidInput)
        }
        _ => false,
    }
}

fn read_log(dir: &dyn Dir, name: &str) -> Result<Vec<u8>> {
    let path = dir.path().join(name);
    let file = match dir.open(name) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Err(Error::Missing { path }),
        opened => opened.at("open", || path.clone())?,
    };
    match read_all(&*file, &path) {
        // A rotation gave reserved room back between reading the length and reading the bytes: it does so once.
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::UnexpectedEof => read_all(&*file, &path),
        read => read,
    }
}

impl Report {
    /// Records damage to a file as a finding; returns every other error.
    fn record(&mut self, path: PathBuf, keyspace: Option<String>, checked: Result<()>) -> Result<()> {
        match checked {
            Err(error) if tells_of_the_file(&error) => {
                let what = told_of(&error, &path);
                self.findings.push(VerifyFinding { path, keyspace, what });
                Ok(())
            }
            checked => checked,
        }
    }
}
