//! Tour on real input: stores every line of a folder of text as an entry, then reads the past.
//!
//! ```text
//! cargo run --release --example tour [FOLDER] [DATABASE]
//! ```
//!
//! Without arguments it reads the source of chronolith itself and puts the database in a temporary folder.

#![expect(clippy::print_stdout, reason = "a tour prints")]

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use chronolith::{Db, Error, KeyspaceOptions, Options, Policy};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let folder = arguments.next().unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let scratch = tempfile::tempdir()?;
    let path = arguments.next().unwrap_or_else(|| scratch.path().join("tour.db"));

    let db = Db::open(&path)?;
    let lines = db.keyspace("lines", KeyspaceOptions::new())?;
    let files = db.keyspace("files", KeyspaceOptions::new())?;
    println!("opened {}", path.display());

    // One batch per file: its lines and their count become visible together.
    let started = Instant::now();
    let (mut line_count, mut bytes) = (0, 0);
    for file in texts_in(&folder)? {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let name = file.strip_prefix(&folder).unwrap_or(&file).display().to_string();
        let mut batch = db.batch();
        for (number, line) in text.lines().enumerate() {
            batch.put(&lines, format!("{name}:{:06}", number + 1), line);
        }
        batch.put(&files, &name, text.lines().count().to_string());
        batch.commit()?;
        line_count += text.lines().count();
        bytes += text.len();
    }
    db.persist()?;
    println!(
        "stored {line_count} lines ({bytes} bytes) of {} files from {} in {:.1?}, durably",
        files.range(..).count(),
        folder.display(),
        started.elapsed()
    );

    let Some((first, count)) = files.first()? else {
        println!("no text in {}", folder.display());
        return Ok(());
    };
    let first = String::from_utf8_lossy(&first).into_owned();
    println!("the first file is {first} with {} lines; it begins:", String::from_utf8_lossy(&count));
    for item in lines.prefix(format!("{first}:")).take(3) {
        let (key, line) = item?;
        println!("    {}  {}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&line));
    }

    // A view keeps showing its moment.
    let before = db.snapshot();
    lines.delete_range(format!("{first}:")..format!("{first};"))?;
    files.delete(&first)?;
    db.compact()?;
    println!(
        "deleted {first} with one range tombstone and compacted: {} of its lines now, {} in the view from before (seqno {})",
        lines.prefix(format!("{first}:")).count(),
        before.prefix(&lines, format!("{first}:")).count(),
        before.seqno()
    );
    let then = before.seqno();
    drop(before);
    db.compact()?;
    match db.as_of(then)?.get(&files, &first) {
        Err(Error::HistoryTrimmed { oldest }) => println!(
            "the view is gone, and that past with it: a read as of {then} is now an error that names {oldest}, never a wrong value"
        ),
        other => println!("read again as of {then}: {other:?}"),
    }

    // A keyspace with a policy keeps its past: every moment of the last hour is readable.
    let hour = Policy::mvcc(1, Duration::from_secs(3600));
    let accounts = db.keyspace("accounts", KeyspaceOptions::new().policy(hour))?;
    let first = accounts.put("ann", "25 coins")?;
    accounts.put("ann", "26 coins")?;
    accounts.delete("ann")?;
    db.compact()?;
    let then = db.as_of(first.seqno)?.get(&accounts, "ann")?.unwrap_or_default();
    println!(
        "an account, deleted and compacted, had {} as of seqno {}; its history:",
        String::from_utf8_lossy(&then),
        first.seqno
    );
    for version in accounts.history("ann") {
        let version = version?;
        let value = version.value.map_or("deleted".into(), |value| String::from_utf8_lossy(&value).into_owned());
        println!("    seqno {}  {value}", version.seqno);
    }

    // A checkpoint by hard links, a clean close, and everything read back from the copy.
    let copy = path.with_extension("copy");
    db.checkpoint(&copy)?;
    db.close()?;
    let started = Instant::now();
    let db = Options::new().read_only(true).open(&copy)?;
    let lines = db.keyspace("lines", KeyspaceOptions::new())?;
    println!("opened the checkpoint in {:.1?}: {} lines; the last one:", started.elapsed(), lines.range(..).count());
    for item in lines.range(..).rev().take(1) {
        let (key, line) = item?;
        println!("    {}  {}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&line));
    }
    println!("{}", db.verify()?);
    println!("{}", db.stats());
    Ok(())
}

/// Lists all files below a folder, in order.
fn texts_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() { folders.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found.sort();
    Ok(found)
}
