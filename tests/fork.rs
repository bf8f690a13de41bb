//! What a process that was forked from one with an open database may do with its copy: learn that it cannot be used,
//! and let go of it.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use chronolith::{Db, Durability, Error, KeyspaceOptions, MergeStrategy, Options, Result, env::Sim};

/// One at a time: threads of another test may hold what a child of this one needs for a database of its own.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs a function in a forked child; how it ended, or that it did not.
#[expect(unsafe_code, reason = "there is no safe fork")]
fn in_child(run: impl FnOnce()) -> Result<(), String> {
    // SAFETY: the child goes on with this thread alone. It runs `run`, which asks for nothing that other threads may
    // hold but what is being
    // tested, and leaves without unwinding further or running destructors of the parent.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let panicked = catch_unwind(AssertUnwindSafe(run)).is_err();
        // SAFETY: it ends the child.
        unsafe { libc::_exit(i32::from(panicked)) };
    }
    let began = Instant::now();
    loop {
        let mut status = 0;
        // SAFETY: the child is this process's, and the status a place for a number.
        match unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } {
            0 if began.elapsed() > Duration::from_secs(20) => {
                // SAFETY: the child has not been waited for, so the number is still its.
                unsafe { libc::kill(child, libc::SIGKILL) };
                return Err("it hangs".to_owned());
            }
            0 => thread::sleep(Duration::from_millis(1)),
            _ if status == 0 => return Ok(()),
            _ => return Err(format!("it ended with status {status}")),
        }
    }
}

fn bytes_of(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            found.extend(bytes_of(&entry.path()).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            found.insert(name, fs::read(entry.path()).unwrap());
        }
    }
    found
}

/// That it is an error, and tells of the fork.
#[track_caller]
fn refused<T>(answer: Result<T>) {
    let error = answer.err().unwrap();
    assert!(matches!(error, Error::Invalid { .. }) && error.to_string().contains("forked"), "{error}");
}

/// Everything that can be asked of a database and what came of it.
fn use_it(db: &Db, dir: &Path) {
    for name in ["data", "new"] {
        refused(db.keyspace(name, KeyspaceOptions::new()));
    }
    refused(db.drop_keyspace("data"));
    refused(db.as_of(1));
    refused(db.as_of_time(SystemTime::now()));
    refused(db.pin("p"));
    refused(db.unpin("p"));
    refused(db.pinned("p"));
    refused(db.persist());
    refused(db.flush());
    refused(db.compact());
    refused(db.verify());
    refused(db.health());
    refused(db.checkpoint(dir.join("copy")));
    refused(db.batch().commit());
    refused(db.commits(..).next().unwrap());
    refused(db.clone().close());
    assert!(db.stats().trouble.unwrap().contains("forked"));
    assert_eq!((db.keyspaces().len(), db.pins().len()), (0, 0));
    assert_eq!(db.snapshot().keyspaces().len(), 0);
}

#[test]
fn a_forked_child_is_refused_everything_and_changes_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("db");
    let db = Options::new().memory_budget(4 << 20).open(&dir).unwrap();
    let data = db.keyspace("data", KeyspaceOptions::new()).unwrap();
    let sums = db.keyspace("sums", KeyspaceOptions::new().merge(MergeStrategy::Sum)).unwrap();
    for number in 0..100_i64 {
        data.put(number.to_be_bytes(), "value").unwrap();
        sums.merge("sum", number.to_le_bytes()).unwrap();
    }
    db.pin("p").unwrap();
    db.flush().unwrap();
    data.put("last", "in the log").unwrap();
    db.persist().unwrap();

    // Begun before the fork, and gone on with behind it.
    let view = db.snapshot();
    let (mut range, mut history, mut commits) = (data.range(..), data.history("last"), db.commits(..));
    range.next().unwrap().unwrap();
    commits.next().unwrap().unwrap();
    let before = bytes_of(&dir);
    // The closure takes the other handles along: in this process they go when it does.
    let kept = db.clone();
    let child = in_child(|| {
        use_it(&db, place.path());
        refused(range.next().unwrap());
        refused(history.next().unwrap());
        refused(commits.next().unwrap());
        refused(view.get(&data, "last"));
        refused(view.keyspace("data"));
        refused(view.checkpoint(place.path().join("copy")));
        refused(data.get("last"));
        refused(data.multi_get(["last"]));
        refused(data.put("k", "v"));
        refused(sums.merge("sum", 1_i64.to_le_bytes()));
        refused(data.update("k", |_| Some("v")));
        refused(data.insert_if_absent("k", "v"));
        refused(data.delete_range(..));
        refused(data.explain("k"));
        refused(data.first());
        refused(data.history("last").next().unwrap());
        assert_eq!((u64::from(data.horizon()), data.approximate_len()), (0, 0));
        assert!(matches!(Db::open(&dir), Err(Error::Locked { .. })), "the lock stays with the parent");
        drop((range, history, commits, view, data, sums));
        drop(db);
    });
    child.unwrap();
    let after = bytes_of(&dir);
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>(), "no file came or went");
    for (name, bytes) in &before {
        assert!(after[name] == *bytes, "{name} has changed");
    }
    kept.close().unwrap();
}

/// Where no thread of the parent was inside a lock of a library: here the parent has a database, but none that works
/// on threads of its own.
#[test]
fn a_database_of_a_childs_own_works_and_is_none_of_its_childrens() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let place = tempfile::tempdir().unwrap();
    let db = Options::new().env(Sim::new(1)).open("db").unwrap();
    db.keyspace("data", KeyspaceOptions::new()).unwrap().put("k", "v").unwrap();
    let child = in_child(|| {
        use_it(&db, place.path());
        let own = Db::open(place.path().join("own")).unwrap();
        own.keyspace("data", KeyspaceOptions::new()).unwrap().put("k", "v").unwrap();
        own.close().unwrap();
        let own = Options::new().env(Sim::new(1)).open("own").unwrap();
        own.keyspace("data", KeyspaceOptions::new()).unwrap().put("k", "v").unwrap();
        in_child(|| use_it(&own, place.path())).unwrap();
        own.close().unwrap();
    });
    child.unwrap();
    let own = Db::open(place.path().join("own")).unwrap();
    assert_eq!(own.keyspace("data", KeyspaceOptions::new()).unwrap().get("k").unwrap().unwrap(), "v");
}

#[test]
fn the_parent_goes_on_and_keeps_its_lock_after_its_children_have_let_go() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("db");
    let db = Db::open(&dir).unwrap();
    let data = db.keyspace("data", KeyspaceOptions::new()).unwrap();
    for round in 0..3_u8 {
        data.put([round], "value").unwrap();
        let handle = db.clone();
        in_child(move || refused(handle.close())).unwrap();
        assert!(matches!(Db::open(&dir), Err(Error::Locked { .. })));
    }
    drop(data);
    db.close().unwrap();
    let db = Db::open(&dir).unwrap();
    assert_eq!(db.keyspace("data", KeyspaceOptions::new()).unwrap().range(..).count(), 3);
}

#[test]
fn a_child_forked_while_others_write_and_read_hangs_nowhere() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("db");
    let db =
        Options::new().memory_budget(4 << 20).durability(Durability::Interval(Duration::from_millis(1))).open(&dir);
    let db = db.unwrap();
    let data = db.keyspace("data", KeyspaceOptions::new()).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for thread in 0..3_u8 {
            let (db, data, done) = (&db, &data, &done);
            scope.spawn(move || {
                for number in 0_u32.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    data.put([&[thread], number.to_be_bytes().as_slice()].concat(), [7; 500]).unwrap();
                    drop((db.snapshot(), data.first().unwrap(), db.stats()));
                }
            });
        }
        for _ in 0..60 {
            let (handle, keyspace, view) = (db.clone(), data.clone(), db.snapshot());
            let child = in_child(|| {
                use_it(&handle, place.path());
                refused(keyspace.put("k", "v"));
                refused(keyspace.update("k", |_| Some("v")));
                drop((handle, keyspace, view));
            });
            if child.is_err() {
                done.store(true, Ordering::Relaxed);
            }
            child.unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    drop(data);
    db.close().unwrap();
    assert!(Db::open(&dir).unwrap().verify().unwrap().is_clean());
}
