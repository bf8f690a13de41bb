//! A folder into a database and back, byte for byte, with what was saved by what.
//!
//! ```text
//! cargo run --release --example ingest [FOLDER] [DATABASE]
//! ```
//!
//! Every file becomes a value under its path, written and read as a stream. Run it again on the same database after
//! some files have changed: only what is new is stored. Without arguments it reads the source of chronolith itself,
//! and puts the database in a temporary folder.

#![expect(clippy::print_stdout, reason = "an example prints")]

use std::{
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

    let db = Db::open(&path)?;
    // Files of a few KiB are cut as well: they repeat across versions of a folder.
    let files = db.keyspace("files", KeyspaceOptions::new().chunk_threshold(4 << 10))?;
    println!("{} into {}", folder.display(), path.display());
    let paths = files_in(&folder)?;
    store(&files, &folder, &paths)?;
    // A second copy under other names adds no chunk.
    for file in &paths {
        let name = name_of(&folder, file);
        files.copy(&name, &files, format!("copy of {name}"))?;
    }
    db.flush()?;
    compare(&files, &folder, &paths)?;
    tell(&db);
    Ok(())
}

/// Stores every file under its path.
fn store(files: &Keyspace, folder: &Path, paths: &[PathBuf]) -> Outcome {
    let (started, mut told, mut bytes) = (Instant::now(), Instant::now(), 0);
    for (number, file) in paths.iter().enumerate() {
        let options = WriteOptions::new().origin("ingest");
        let mut writer = files.writer_with(name_of(folder, file), options)?;
        io::copy(&mut File::open(file)?, &mut writer)?;
        bytes += writer.finish()?.bytes;
        if told.elapsed() > Duration::from_secs(1) {
            told = Instant::now();
            println!("  {} of {} files, {}", number + 1, paths.len(), size(bytes));
        }
    }
    println!("stored {} files, {}, in {:.1?}", paths.len(), size(bytes), started.elapsed());
    Ok(())
}

/// Reads every file back, and its copy, and compares them byte for byte.
fn compare(files: &Keyspace, folder: &Path, paths: &[PathBuf]) -> Outcome {
    let started = Instant::now();
    for file in paths {
        let (name, bytes) = (name_of(folder, file), fs::read(file)?);
        for name in [name.clone(), format!("copy of {name}")] {
            let mut read = Vec::with_capacity(bytes.len());
            files.reader(&name)?.ok_or("a file that was stored")?.read_to_end(&mut read)?;
            if read != bytes {
                return Err(format!("{name} reads back differently").into());
            }
        }
    }
    println!("read everything back twice, byte for byte the same, in {:.1?}", started.elapsed());
    Ok(())
}

/// Tells what was saved, and by what.
fn tell(db: &Db) {
    let stats = db.stats();
    let (chunks, space) = (&stats.chunks, &stats.space);
    println!("large values       {:>12}", size(chunks.value_bytes));
    println!("  stored before    {:>12}", size(chunks.known_bytes));
    println!("  zeros            {:>12}", size(chunks.hole_bytes));
    println!("  new              {:>12}, in {} chunks", size(chunks.new_bytes), chunks.new_chunks);
    println!("  compressed       {:>12}, {:.2} to 1", size(chunks.stored_bytes), chunks.compression_ratio());
    println!("small values       {:>12}", size(space.live));
    println!("places of chunks   {:>12}", size(space.places));
}

fn name_of(folder: &Path, file: &Path) -> String {
    file.strip_prefix(folder).unwrap_or(file).display().to_string()
}

/// The files below a folder, in order.
fn files_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() => folders.push(entry.path()),
                kind if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    Ok(found)
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn size(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}
