//! A real process with a low limit of open files: a database of many segments lives below it, and a moment without any
//! left stops nothing for good.
//!
//! The tests run themselves as child processes, since the limit is the process's. 300 keyspaces below a limit of 64;
//! `CHRONOLITH_FILES_FULL=1` makes it 10,000 below 256, which takes a minute.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use chronolith::{Db, Durability, Error, Keyspace, KeyspaceOptions, Options, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const CHILD: &str = "CHRONOLITH_FILES_CHILD";

/// Runs `body` in a process of its own that may have `limit` files open, in an empty directory; `test` is the name of
/// the calling test.
fn with_limit(test: &str, limit: u64, body: fn(&Path)) {
    if let Some(path) = std::env::var_os(CHILD) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(limit), ..getrlimit(Resource::Nofile) }).unwrap();
        body(Path::new(&path));
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    let status = child.args(["--exact", test, "--nocapture"]).env(CHILD, temp.path().join("db")).status().unwrap();
    assert!(status.success(), "{test} failed in its process");
}

fn is_full() -> bool {
    std::env::var_os("CHRONOLITH_FILES_FULL").is_some()
}

fn open_now() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

fn options() -> Options {
    Options::new().durability(Durability::Buffered)
}

fn keyspaces(db: &Db, count: u32) -> Vec<Keyspace> {
    (0..count).map(|number| db.keyspace(format!("k{number}"), KeyspaceOptions::new()).unwrap()).collect()
}

/// Reads every key of every keyspace, from several threads at once.
fn read_all(keyspaces: &[Keyspace], value: u32) {
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for step in 0..keyspaces.len() {
                    let keyspace = &keyspaces[(step * 7919 + thread * 31) % keyspaces.len()];
                    assert_eq!(keyspace.get("key").unwrap().unwrap(), value.to_string().as_str());
                    assert_eq!(keyspace.range(..).map(Result::unwrap).count(), 2);
                }
            });
        }
    });
}

#[test]
fn a_database_of_many_segments_lives_below_the_limit_of_its_process() {
    let limit = if is_full() { 256 } else { 64 };
    with_limit("a_database_of_many_segments_lives_below_the_limit_of_its_process", limit, |path| {
        let count = if is_full() { 10_000 } else { 300 };
        let started = Instant::now();
        let step = |what: &str| println!("{:>8.2?} {what}, {} files open", started.elapsed(), open_now());
        let db = options().open(path).unwrap();
        let all = keyspaces(&db, count);
        step("created");
        for keyspace in &all {
            keyspace.put("key", "1").unwrap();
            keyspace.put("other", vec![7; 9000]).unwrap();
        }
        db.flush().unwrap();
        step("flushed");
        read_all(&all, 1);
        step("read");
        assert!(db.verify().unwrap().is_clean());
        step("verified");
        assert!(db.stats().space.live > u64::from(count) * 9000);
        db.checkpoint(path.with_extension("copy")).unwrap();
        step("copied");
        drop(all);
        db.close().unwrap();
        for (path, mmap) in [(path.with_extension("copy"), false), (path.to_path_buf(), false)] {
            let db = options().mmap(mmap).open(path).unwrap();
            read_all(&keyspaces(&db, count), 1);
            step("opened again and read by position");
            db.close().unwrap();
        }
        let db = options().open(path).unwrap();
        let all = keyspaces(&db, count);
        for keyspace in &all {
            keyspace.put("key", "2").unwrap();
        }
        db.flush().unwrap();
        step("opened again and flushed");
        db.compact().unwrap();
        step("compacted");
        read_all(&all, 2);
        assert!(db.verify().unwrap().is_clean());
        step("read and verified");
        drop(all);
        db.close().unwrap();
    });
}

/// Takes every open file that the process may still have, but for some.
fn take_all_but(spare: usize) -> Vec<File> {
    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    taken.truncate(taken.len() - spare);
    taken
}

#[test]
fn a_moment_without_open_files_is_told_and_passes() {
    with_limit("a_moment_without_open_files_is_told_and_passes", 64, |path| {
        let db = options().memory_budget(4 << 20).open(path).unwrap();
        let keyspace = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        let mut refused = 0;
        for spare in 0..4 {
            let taken = take_all_but(spare);
            // Beyond one memtable: a new log is needed, then segments.
            for key in 0..4000u32 {
                match keyspace.put(key.to_be_bytes(), [7; 500]) {
                    Ok(_) => {}
                    Err(error @ Error::Io { .. }) => {
                        refused += 1;
                        assert!(error.to_string().contains("max_open_files"), "{error}");
                        break;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(!matches!(db.health(), Err(Error::Poisoned { .. })), "with {spare} to spare: {:?}", db.health());
            drop(taken);
            // Background work that met it looks again within a moment; until then writers that wait for it are told.
            let since = Instant::now();
            for key in 0..4000u32 {
                while let Err(error) = keyspace.put(key.to_be_bytes(), spare.to_string()) {
                    assert!(matches!(error, Error::Io { .. }) && since.elapsed() < Duration::from_secs(10), "{error}");
                }
            }
            db.flush().unwrap();
            // A compaction that met it tries again within half a second, and until then says what it met.
            while let Err(error) = db.health() {
                assert!(matches!(error, Error::Io { .. }) && since.elapsed() < Duration::from_secs(10), "{error}");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        assert!(refused > 0, "a rotation needs one file at least");
        drop(keyspace);
        db.close().unwrap();
        let db = options().open(path).unwrap();
        let keyspace = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        assert_eq!(keyspace.range(..).map(Result::unwrap).filter(|(_, value)| value == "3").count(), 4000);
    });
}

#[test]
fn a_segment_without_a_map_is_read_by_position() {
    with_limit("a_segment_without_a_map_is_read_by_position", 64, |path| {
        let db = options().open(path).unwrap();
        let keyspace = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        for key in 0..2000u32 {
            keyspace.put(key.to_be_bytes(), vec![7; 10_000]).unwrap();
        }
        db.flush().unwrap();
        // Address space for 20 MB of segments is not to be had any more; memory that is there already is.
        let status = fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = status.split(' ').next().unwrap().parse().unwrap();
        let address_space = Rlimit { current: Some(pages * 4096 + (6 << 20)), ..getrlimit(Resource::As) };
        setrlimit(Resource::As, address_space).unwrap();
        for key in (0..2000u32).step_by(97) {
            assert_eq!(keyspace.get(key.to_be_bytes()).unwrap().unwrap(), vec![7; 10_000]);
        }
    });
}
