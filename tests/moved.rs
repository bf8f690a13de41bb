//! A directory that is moved, deleted or replaced while its database is open. A handle goes on in its own directory,
//! wherever that is now, or answers an error; what took the place at the old path is never touched.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use chronolith::{Db, Durability, Error, Keyspace, KeyspaceOptions, Options, Result};

const KEYS: u32 = 300;

fn options() -> Options {
    Options::new().durability(Durability::Buffered)
}

/// Opens a database and writes `KEYS` keys with the value `value`, to a segment and, beyond half of them, to the log
/// alone.
fn filled(path: &Path, options: &Options, value: &str) -> (Db, Keyspace) {
    let db = options.open(path).unwrap();
    let keyspace = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    for key in 0..KEYS {
        keyspace.put(key.to_be_bytes(), value).unwrap();
        if key == KEYS / 2 {
            db.flush().unwrap();
        }
    }
    (db, keyspace)
}

fn assert_holds(keyspace: &Keyspace, value: &str) {
    assert_eq!(keyspace.range(..).count(), KEYS as usize);
    for key in 0..KEYS {
        assert_eq!(keyspace.get(key.to_be_bytes()).unwrap().unwrap(), value);
    }
}

/// Every file below a directory, with its bytes.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(tree(&path));
        } else {
            files.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    files
}

#[test]
fn a_handle_goes_on_in_its_directory_after_that_was_moved() {
    for mmap in [true, false] {
        let temp = tempfile::tempdir().unwrap();
        let [old, new, copy] = ["old", "new", "copy"].map(|name| temp.path().join(name));
        let (db, keyspace) = filled(&old, &options().mmap(mmap), "mine");
        let view = db.snapshot();
        fs::rename(&old, &new).unwrap();
        let (stranger, theirs) = filled(&old, &options(), "theirs");
        stranger.persist().unwrap();
        let untouched = tree(&old);

        assert_holds(&keyspace, "mine");
        db.persist().unwrap();
        db.flush().unwrap();
        db.compact().unwrap();
        db.keyspace("another", KeyspaceOptions::new()).unwrap().put("a", "b").unwrap();
        db.checkpoint(&copy).unwrap();
        assert!(db.verify().unwrap().is_clean());
        assert!(db.stats().space.live > 0);
        assert_eq!(view.get(&keyspace, 7u32.to_be_bytes()).unwrap().unwrap(), "mine");
        drop(view);
        // The lock went along, and is another one than the stranger's.
        assert!(matches!(options().open(&new), Err(Error::Locked { .. })));
        db.close().unwrap();
        drop(keyspace);
        assert!(tree(&old) == untouched, "files of the stranger have changed");

        assert_holds(&theirs, "theirs");
        stranger.compact().unwrap();
        stranger.close().unwrap();
        for (path, value) in [(&old, "theirs"), (&new, "mine"), (&copy, "mine")] {
            let db = options().open(path).unwrap();
            assert_holds(&db.keyspace("k", KeyspaceOptions::new()).unwrap(), value);
            assert!(db.verify().unwrap().is_clean());
        }
    }
}

/// A verb and its name; those that promise something about the disk.
type Verb = (&'static str, fn(&Db, &Keyspace, &Path) -> Result<()>);

const VERBS: [Verb; 10] = [
    ("persist", |db, _, _| db.persist()),
    ("flush", |db, _, _| db.flush()),
    ("compact", |db, _, _| db.compact().map(drop)),
    ("checkpoint", |db, _, copy| db.checkpoint(copy)),
    ("close", |db, _, _| db.clone().close()),
    ("create", |db, _, _| db.keyspace("new", KeyspaceOptions::new()).map(drop)),
    ("drop", |db, _, _| db.drop_keyspace("k")),
    ("pin", |db, _, _| db.pin("p").map(drop)),
    ("purge", |_, keyspace, _| keyspace.purge(1u32.to_be_bytes()).and_then(|_| keyspace.purge("x")).map(drop)),
    ("sync", |db, keyspace, _| {
        let mut batch = db.batch();
        batch.put(keyspace, "a", "b");
        batch.commit_with(Durability::Sync).map(drop)
    }),
];

#[test]
fn a_deleted_directory_answers_errors_and_what_took_its_place_is_left_alone() {
    for (name, verb) in VERBS {
        // With writes that are only in the log, with nothing left to write, and with nothing in its place.
        for (flushed, replaced) in [(false, true), (true, true), (true, false)] {
            let temp = tempfile::tempdir().unwrap();
            let path = temp.path().join("db");
            let (db, keyspace) = filled(&path, &options(), "mine");
            if flushed {
                db.flush().unwrap();
                db.persist().unwrap();
            }
            fs::remove_dir_all(&path).unwrap();
            if replaced {
                filled(&path, &options(), "theirs").0.close().unwrap();
            }
            let untouched = if replaced { tree(&path) } else { BTreeMap::new() };

            // A purge is durable when a compaction has run; by itself it is a write like others.
            let done = verb(&db, &keyspace, &temp.path().join("copy"));
            if name == "purge" {
                let _compacted = db.compact().unwrap_err();
            } else {
                assert!(done.is_err(), "{name} (flushed: {flushed}, replaced: {replaced}) says that it is done");
            }
            // What is in memory may still be read; never anything else.
            if let Ok(found) = keyspace.get(7u32.to_be_bytes()) {
                assert_eq!(found.unwrap(), "mine", "{name}");
            }
            drop((db, keyspace));
            if replaced {
                assert!(tree(&path) == untouched, "{name} has changed files of the stranger");
                let stranger = options().open(&path).unwrap();
                assert_holds(&stranger.keyspace("k", KeyspaceOptions::new()).unwrap(), "theirs");
                assert!(stranger.verify().unwrap().is_clean());
            } else {
                assert!(!path.exists(), "{name} has made something");
            }
        }
    }
}

#[test]
fn commits_that_are_to_be_synced_soon_stop_in_a_deleted_directory() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("db");
    let interval = Options::new().durability(Durability::Interval(Duration::from_millis(20)));
    let (_db, keyspace) = filled(&path, &interval, "mine");
    fs::remove_dir_all(&path).unwrap();
    let begun = Instant::now();
    let stopped = loop {
        if let Err(error) = keyspace.put("a", "b") {
            break error;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "writes are still taken");
        std::thread::sleep(Duration::from_millis(1));
    };
    assert!(stopped.to_string().contains("deleted"), "{stopped}");
}

#[test]
fn a_log_that_was_deleted_alone_stops_writes_too() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("db");
    let (db, _keyspace) = filled(&path, &options(), "mine");
    for entry in fs::read_dir(path.join("wal")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    db.persist().unwrap_err();
    assert!(matches!(db.health(), Err(Error::Poisoned { .. })));
}

#[test]
fn a_log_that_a_flush_lets_go_while_it_is_synced_is_no_failure() {
    let temp = tempfile::tempdir().unwrap();
    let db =
        Options::new().memory_budget(4 << 20).durability(Durability::Buffered).open(temp.path().join("db")).unwrap();
    let keyspace = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    db.persist().unwrap();
                }
            });
        }
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                db.flush().unwrap();
            }
        });
        for key in 0..60_000u32 {
            keyspace.put(key.to_be_bytes(), [7; 100]).unwrap();
        }
        ended.store(true, Ordering::Relaxed);
    });
    db.close().unwrap();
}

#[test]
fn a_segment_file_that_another_one_took_the_name_of_is_not_read_in_its_place() {
    for mmap in [true, false] {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("db");
        let db = options().mmap(mmap).max_open_files(32).open(&path).unwrap();
        let keyspaces: Vec<Keyspace> = (0..20)
            .map(|number| {
                // Values that stay in the segment.
                let options = KeyspaceOptions::new().chunk_threshold(u64::MAX);
                let keyspace = db.keyspace(format!("k{number}"), options).unwrap();
                keyspace.put("a", "mine").unwrap();
                keyspace.put("b", vec![7; 100_000]).unwrap();
                keyspace
            })
            .collect();
        db.flush().unwrap();
        // Opened, with one page touched.
        for keyspace in &keyspaces {
            assert_eq!(keyspace.get("a").unwrap().unwrap(), "mine");
        }
        // The same bytes, in other files.
        for entry in fs::read_dir(path.join("segments")).unwrap() {
            let segment = entry.unwrap().path();
            fs::copy(&segment, temp.path().join("copy")).unwrap();
            fs::rename(temp.path().join("copy"), &segment).unwrap();
        }
        let refused = keyspaces.iter().filter(|keyspace| keyspace.get("b").is_err()).count();
        // Those that were open were served from what is open; the others are not taken for what they replace.
        assert!((10..20).contains(&refused), "{refused} of 20 were refused");
        assert!(db.verify().unwrap().is_clean(), "the new files are whole");
    }
}

#[test]
fn a_path_that_no_database_can_have_is_told_as_what_it_is() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    fs::write(at("file"), "text").unwrap();
    std::os::unix::fs::symlink(at("nothing"), at("dangling")).unwrap();
    std::os::unix::fs::symlink(at("file"), at("to file")).unwrap();
    for read_only in [false, true] {
        let told = |path: PathBuf| match options().read_only(read_only).open(path) {
            Err(Error::Invalid { what }) => what,
            other => panic!("{other:?}"),
        };
        assert!(told(PathBuf::new()).contains("empty"));
        for name in ["dangling", "dangling/db", "dangling/deeper/db"] {
            let what = told(at(name));
            assert!(what.ends_with("dangling is a link to nothing"), "{name}: {what}");
        }
        for name in ["file", "file/db", "file/deeper/db"] {
            let what = told(at(name));
            assert!(what.ends_with("file is a file, where a directory belongs"), "{name}: {what}");
        }
        assert!(told(at("to file")).ends_with("to file is a file, where a directory belongs"));
    }
    assert!(!at("nothing").exists());
    let missing = options().read_only(true).open(at("nothing"));
    assert!(missing.unwrap_err().to_string().contains("without read_only(true)"));
    fs::create_dir(at("elsewhere")).unwrap();
    std::os::unix::fs::symlink(at("elsewhere"), at("link")).unwrap();
    options().open(at("link")).unwrap().close().unwrap();
    assert!(at("elsewhere/CURRENT").exists());
}

/// Only the path as it was written was compared: through a link, or by `..`, the copy was made inside the database.
#[test]
fn a_checkpoint_never_goes_into_the_database_by_whatever_path_it_is_named() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("db");
    let (db, keyspace) = filled(&path, &options(), "here");
    fs::create_dir(parent.path().join("other")).unwrap();
    std::os::unix::fs::symlink(&path, parent.path().join("link")).unwrap();
    std::os::unix::fs::symlink("../db/segments", parent.path().join("other").join("within")).unwrap();
    let before = tree(parent.path());
    let refused = |at: &Path, to: &str| {
        let to = at.join(to);
        for copied in [db.checkpoint(&to), db.snapshot().checkpoint(&to)] {
            let error = copied.unwrap_err().to_string();
            assert!(error.contains("lies inside the database"), "{}: {error}", to.display());
        }
    };
    for to in [
        "db",
        "db/",
        "db/.",
        "db/copy",
        "db/a/b",
        "link",
        "link/copy",
        "other/../db/copy",
        "other/../db",
        "missing/../db/copy",
        "other/within/copy",
        "other/missing/../../link/copy",
    ] {
        refused(parent.path(), to);
    }
    assert!(tree(parent.path()) == before, "a refused checkpoint changed something");
    assert!(!parent.path().join("missing").exists());
    // Also when the directory has another name by now; and what only begins with its name lies beside it.
    let moved = parent.path().join("moved");
    fs::rename(&path, &moved).unwrap();
    refused(&moved, "copy");
    for beside in ["db", "moved-copy"] {
        db.checkpoint(parent.path().join(beside)).unwrap();
    }
    let copy = options().open(parent.path().join("db")).unwrap();
    assert_holds(&copy.keyspace("k", KeyspaceOptions::new()).unwrap(), "here");
    assert_holds(&keyspace, "here");
}
