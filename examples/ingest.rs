//! Stores a folder, reads it back byte for byte, and shows what dedup, runs of zeros and compression each saved.
//!
//! ```text
//! cargo run --release --example ingest [FOLDER] [DATABASE]
//! ```
//!
//! Every file becomes a value under its path below the folder, written and read as a stream. Run it again on the same
//! database after some files have changed: only what is new is stored. Without arguments it reads the source of
//! chronolith itself, and puts the database in a temporary folder.

#![expect(clippy::print_stdout, reason = "an example prints")]

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use chronolith::{Db, Keyspace, KeyspaceOptions, WriteOptions};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let folder = arguments.next().unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let scratch = tempfile::tempdir()?;
    let path = arguments.next().unwrap_or_else(|| scratch.path().join("ingest.db"));
    if !folder.is_dir() {
        return Err(format!("{} is no folder; name the folder to store", folder.display()).into());
    }

    let db = Db::open(&path)?;
    // Files of a few KiB are cut as well: they repeat across versions of a folder.
    let options = KeyspaceOptions::new().chunk_threshold(4 << 10);
    let (files, copies) = (db.keyspace("files", options.clone())?, db.keyspace("copies", options)?);
    println!("{} into {}", folder.display(), path.display());
    let found = files_in(&folder, &path)?;
    let stored = store(&files, &folder, &found.files)?;
    forget(&files, &folder, &found.files)?;
    // A second copy in another keyspace adds no chunk.
    for file in &stored {
        let name = name_of(&folder, file);
        files.copy(name, &copies, name)?;
    }
    db.flush()?;
    for keyspace in [&files, &copies] {
        compare(keyspace, &folder, &stored)?;
    }
    tell(&db, found.passed_over + found.files.len() - stored.len());
    Ok(())
}

/// Stores every file under its path; returns those that could be read.
fn store(files: &Keyspace, folder: &Path, paths: &[PathBuf]) -> Outcome<Vec<PathBuf>> {
    let (started, mut told, mut bytes) = (Instant::now(), Instant::now(), 0);
    let mut stored = Vec::new();
    for (number, path) in paths.iter().enumerate() {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) => {
                println!("  cannot read {}: {error}", path.display());
                continue;
            }
        };
        let mut writer = files.writer_with(name_of(folder, path), WriteOptions::new().origin("ingest"))?;
        // After an error the writer is dropped, and the key keeps what it had.
        io::copy(&mut file, &mut writer).map_err(|error| format!("{}: {error}", path.display()))?;
        bytes += writer.finish()?.bytes;
        stored.push(path.clone());
        if told.elapsed() > Duration::from_secs(1) {
            told = Instant::now();
            println!("  {} of {} files, {}", number + 1, paths.len(), size(bytes));
        }
    }
    println!("stored {} files, {}, in {:.1?}", stored.len(), size(bytes), started.elapsed());
    Ok(stored)
}

/// Deletes what an earlier run has stored of files that are gone.
fn forget(files: &Keyspace, folder: &Path, paths: &[PathBuf]) -> Outcome {
    let there: HashSet<&[u8]> = paths.iter().map(|path| name_of(folder, path)).collect();
    for name in files.range(..).keys() {
        let name = name?;
        if !there.contains(&*name) {
            files.delete(&name)?;
        }
    }
    Ok(())
}

/// Reads every file back and compares it byte for byte, a piece at a time.
fn compare(files: &Keyspace, folder: &Path, paths: &[PathBuf]) -> Outcome {
    let (started, mut room, mut other) = (Instant::now(), vec![0; 1 << 20], vec![0; 1 << 20]);
    for path in paths {
        let told = |what: &str| format!("{}: {what}", path.display());
        let mut file = File::open(path).map_err(|error| told(&error.to_string()))?;
        let mut value = files.reader(name_of(folder, path))?.ok_or_else(|| told("stored, and not there"))?;
        loop {
            let count = fill(&mut file, &mut room)?;
            let same = fill(&mut value, &mut other)? == count && room.get(..count) == other.get(..count);
            if !same {
                return Err(told("changed while it was stored, or reads back differently").into());
            }
            if count < room.len() {
                break;
            }
        }
    }
    println!("read {} back, byte for byte the same, in {:.1?}", files.name(), started.elapsed());
    Ok(())
}

/// Reads until the room is full or nothing follows.
fn fill(from: &mut impl Read, room: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = room.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match from.read(rest)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

/// Tells what was saved, and by what.
fn tell(db: &Db, passed_over: usize) {
    let stats = db.stats();
    let (chunks, space) = (&stats.chunks, &stats.space);
    println!("large values written     {:>12}", size(chunks.value_bytes));
    println!("  stored before          {:>12}", size(chunks.known_bytes));
    println!("  runs of zeros          {:>12}", size(chunks.hole_bytes));
    println!("  new                    {:>12}, in {} chunks", size(chunks.new_bytes), chunks.new_chunks);
    println!("  new, compressed        {:>12}, {:.2} to 1", size(chunks.stored_bytes), chunks.compression_ratio());
    println!("keys and small values    {:>12}", size(space.live));
    println!("index of the chunks      {:>12}", size(space.places));
    if passed_over > 0 {
        println!("passed over: {passed_over} links, devices and files that cannot be read");
    }
}

/// The path below the folder, as the system has it: not every path is UTF-8.
fn name_of<'p>(folder: &Path, file: &'p Path) -> &'p [u8] {
    file.strip_prefix(folder).unwrap_or(file).as_os_str().as_encoded_bytes()
}

/// What was found below a folder.
struct Found {
    /// Files, in order.
    files: Vec<PathBuf>,
    /// Links, devices and others that have no bytes of their own.
    passed_over: usize,
}

/// Looks for files below a folder, not in the database itself.
fn files_in(folder: &Path, database: &Path) -> Outcome<Found> {
    let database = fs::canonicalize(database)?;
    let (mut found, mut folders) = (Found { files: Vec::new(), passed_over: 0 }, vec![folder.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        if fs::canonicalize(&folder)? == database {
            continue;
        }
        for entry in fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))? {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() => folders.push(entry.path()),
                kind if kind.is_file() => found.files.push(entry.path()),
                _ => found.passed_over += 1,
            }
        }
    }
    found.files.sort();
    Ok(found)
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn size(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}
