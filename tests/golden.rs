//! Format 1, pinned: a small database as files. This release must write the very same bytes, and every later one must
//! open them.
//!
//! `CHRONOLITH_GOLDEN=write cargo test --test golden` writes the files anew; that is a new format.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use chronolith::{Durability, Error, KeyspaceOptions, Options, env};

const DATABASE: &str = "/golden.db";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/format-1")
}

/// A database with everything that this release can write: two keyspaces, versions kept for a view, tombstones of both kinds,
/// gaps, two levels, a log with a batch in it, a clean end.
fn build() -> env::Sim {
    let machine = env::Sim::new(7);
    let db = Options::new().env(machine.clone()).durability(Durability::Buffered).open(DATABASE).unwrap();
    let users = db.keyspace("users", KeyspaceOptions::new()).unwrap();
    let files = db.keyspace("files", KeyspaceOptions::new()).unwrap();
    for i in 0..200u32 {
        users.put(format!("user/{i:04}"), format!("value {}", i * i)).unwrap();
    }
    db.compact().unwrap();
    let view = db.snapshot();
    users.put("user/0007", "seven").unwrap();
    users.put("user/0007", "seven again").unwrap();
    users.delete("user/0008").unwrap();
    users.delete_range("user/0100".."user/0150").unwrap();
    files.put("large", vec![42; 3000]).unwrap();
    db.flush().unwrap();
    drop(view);
    let mut batch = db.batch();
    batch.put(&users, "", "the empty key");
    batch.delete_range(&files, "m"..);
    batch.commit().unwrap();
    db.close().unwrap();
    machine
}

/// What that database says.
fn check(machine: &env::Sim) {
    let db = Options::new().env(machine.clone()).open(DATABASE).unwrap();
    assert_eq!(db.keyspaces(), ["files", "users"]);
    let users = db.keyspace("users", KeyspaceOptions::new()).unwrap();
    let files = db.keyspace("files", KeyspaceOptions::new()).unwrap();
    assert_eq!(users.range(..).count(), 200 - 1 - 50 + 1);
    assert_eq!(users.get("user/0007").unwrap().unwrap(), b"seven again");
    assert_eq!(users.get("user/0008").unwrap(), None);
    assert_eq!(users.get("user/0120").unwrap(), None);
    assert_eq!(users.get("").unwrap().unwrap(), b"the empty key");
    assert_eq!(files.get("large").unwrap().unwrap(), vec![42; 3000]);
    let then = db.as_of(202).unwrap();
    assert_eq!(then.get(&users, "user/0120").unwrap().unwrap(), b"value 14400");
    assert_eq!(then.get(&users, "user/0007").unwrap().unwrap(), b"value 49");
    let between = db.as_of(203).unwrap().get(&users, "user/0007");
    assert!(matches!(between, Err(Error::HistoryTrimmed { .. })), "{between:?}");
    let report = db.verify().unwrap();
    assert!(report.is_clean(), "{report}");
}

#[test]
fn this_release_writes_format_1_to_the_byte() {
    let machine = build();
    let write = std::env::var_os("CHRONOLITH_GOLDEN").is_some();
    let mut count = 0;
    for path in machine.files() {
        let bytes = machine.read_file(&path).unwrap();
        let golden = folder().join(path.strip_prefix(DATABASE).unwrap());
        if path.ends_with("LOCK") {
            continue;
        }
        if write {
            fs::create_dir_all(golden.parent().unwrap()).unwrap();
            fs::write(&golden, &bytes).unwrap();
        }
        assert!(fs::read(&golden).unwrap() == bytes, "{} differs from {}", path.display(), golden.display());
        count += 1;
    }
    assert!(count >= 4, "only {count} files");
}

#[test]
fn format_1_is_read_and_goes_on() {
    let machine = env::Sim::new(1);
    let mut folders = vec![folder()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let inside = Path::new(DATABASE).join(path.strip_prefix(folder()).unwrap());
                machine.write_file(&inside, fs::read(&path).unwrap());
            }
        }
    }
    check(&machine.fork());
    check(&build());

    // A header that says format 2, correctly, belongs to a later release: refused, and not one byte touched.
    let segment = machine.files().into_iter().find(|path| path.ends_with("CURRENT")).unwrap();
    let mut bytes = machine.read_file(&segment).unwrap();
    bytes[24] = 2;
    let sum = crc32fast::hash(&bytes[..28]);
    bytes[28..32].copy_from_slice(&sum.to_le_bytes());
    machine.write_file(&segment, bytes);
    let files = |machine: &env::Sim| -> Vec<_> {
        machine.files().into_iter().map(|path| (machine.read_file(&path), path)).collect()
    };
    let before = files(&machine);
    let refused = Options::new().env(machine.clone()).open(DATABASE).unwrap_err();
    assert!(matches!(refused, Error::NewerFormat { version: 2, .. }), "{refused}");
    assert_eq!(files(&machine), before);
}
