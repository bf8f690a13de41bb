//! What is planted where a file or directory of the database belongs: links, pipes, directories, foreign files.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    thread,
    time::Duration,
};

use chronolith::{Db, Durability, Error, KeyspaceOptions, Options};
use tempfile::TempDir;

/// No open or close waits this long for anything but a pipe that never speaks.
const HANG: Duration = Duration::from_secs(30);

fn open(path: &Path) -> chronolith::Result<Db> {
    Options::new().memory_budget(4 << 20).durability(Durability::Buffered).open(path)
}

/// A database with a segment and a log, cleanly closed.
fn make(path: &Path) {
    let db = open(path).unwrap();
    let data = db.keyspace("data", KeyspaceOptions::new()).unwrap();
    data.put("a", "1").unwrap();
    db.flush().unwrap();
    data.put("b", "2").unwrap();
    db.close().unwrap();
}

/// Opens, uses everything, closes; what was there must be there still, or something must tell.
fn try_all(path: &Path) -> chronolith::Result<()> {
    let db = open(path)?;
    let data = db.keyspace("data", KeyspaceOptions::new())?;
    for (key, value) in [("a", "1"), ("b", "2")] {
        let found = data.get(key)?;
        assert_eq!(found.as_deref(), Some(value.as_bytes()), "{key}");
    }
    data.put("c", "3")?;
    db.flush()?;
    db.compact()?;
    let report = db.verify()?;
    assert!(report.is_clean(), "{report}");
    db.close()
}

fn within<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let worker = thread::spawn(move || sender.send(work()));
    let result = receiver.recv_timeout(HANG);
    if matches!(result, Err(mpsc::RecvTimeoutError::Timeout)) {
        panic!("{what}: it hangs");
    }
    worker.join().unwrap_or_else(|_| panic!("{what}: a panic")).unwrap();
    result.unwrap()
}

/// Every file below a directory: its path, length, mode and bytes; links as what they say.
fn snapshot(root: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let mut all = Vec::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let bytes = match () {
            () if meta.is_symlink() => fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes(),
            () if meta.is_file() => fs::read(&path).unwrap(),
            () => Vec::new(),
        };
        if meta.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        all.push((path, meta.mode(), bytes));
    }
    all.sort();
    all
}

fn mkfifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn remove(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

fn names(path: &Path) -> Vec<String> {
    let all = snapshot(path);
    let inside = all.iter().filter_map(|(file, _, _)| Some(file.strip_prefix(path).ok()?.to_str()?.to_owned()));
    inside.filter(|name| !name.is_empty()).collect()
}

/// Names that the next open and its first flushes and compactions will make, beside those that are there.
fn coming() -> Vec<String> {
    let manifests = (1..6).map(|n| format!("MANIFEST-{n}"));
    let logs = (1..6).map(|n| format!("wal/{n}.wal"));
    let segments = (1..8).map(|n| format!("segments/{n}.seg"));
    manifests.chain(logs).chain(segments).chain(["CURRENT.new".to_owned()]).collect()
}

/// Plants this at a path, whatever is there; `false` where there is nothing that it could stand for.
fn plant(what: &str, target: &Path, outside: &Path) -> bool {
    if what == "link to the same" {
        // The very file, moved out and linked to.
        let is_there = fs::symlink_metadata(target).is_ok();
        if is_there {
            fs::rename(target, outside.join("moved")).unwrap();
            symlink(outside.join("moved"), target).unwrap();
        }
        return is_there;
    }
    remove(target);
    match what {
        "pipe" => mkfifo(target),
        "directory" => fs::create_dir(target).unwrap(),
        "link to a file" => symlink(outside.join("file"), target).unwrap(),
        "link to nothing" => symlink(outside.join("nothing"), target).unwrap(),
        _ => symlink(outside.join("full"), target).unwrap(),
    }
    true
}

#[test]
fn what_is_planted_in_place_of_a_file_is_refused_or_harmless_and_never_followed() {
    let (mut refused, mut harmless, mut wrong) = (0, 0, Vec::new());
    let sample = TempDir::new().unwrap();
    make(&sample.path().join("db"));
    let mut places = names(&sample.path().join("db"));
    places.extend(coming());
    places.sort();
    places.dedup();
    for fresh in [false, true] {
        for place in &places {
            for what in
                ["link to a file", "link to nothing", "link to a directory", "link to the same", "pipe", "directory"]
            {
                let home = TempDir::new().unwrap();
                let (path, outside) = (home.path().join("db"), home.path().join("outside"));
                if fresh {
                    fs::create_dir(&path).unwrap();
                    fs::create_dir_all(path.join(place).parent().unwrap()).unwrap();
                } else {
                    make(&path);
                }
                fs::create_dir_all(outside.join("full")).unwrap();
                fs::write(outside.join("file"), "precious").unwrap();
                fs::write(outside.join("full/1.wal"), "precious").unwrap();
                fs::write(outside.join("full/1.seg"), "precious").unwrap();
                let target = path.join(place);
                if !plant(what, &target, &outside) {
                    continue;
                }
                let before = snapshot(&outside);
                let what = format!("{what} at {place}{}", if fresh { " of a new database" } else { "" });
                let run = path.clone();
                let result = within(&what, move || if fresh { open(&run).and_then(Db::close) } else { try_all(&run) });
                match result {
                    Ok(()) => harmless += 1,
                    Err(error) => {
                        refused += 1;
                        if !error.to_string().contains("db") {
                            wrong.push(format!("{what}: an error that names no file: {error}"));
                        }
                    }
                }
                if snapshot(&outside) != before {
                    wrong.push(format!("{what}: something outside was changed"));
                }
            }
        }
    }
    println!("{refused} plants refused, {harmless} harmless");
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_folder_with_a_foreign_file_is_left_as_it_was() {
    for extra in [&["notes.txt"][..], &["notes.txt", "wal/1.wal"], &["MANIFEST-x"], &[".hidden", "MANIFEST-1"]] {
        let home = TempDir::new().unwrap();
        for name in extra {
            let path = home.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "mine").unwrap();
        }
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let before = snapshot(home.path());
        assert!(matches!(open(home.path()), Err(Error::Invalid { .. })), "{extra:?}");
        assert_eq!(snapshot(home.path()), before, "{extra:?}");
    }
}

#[test]
fn a_database_that_lost_its_current_file_is_not_taken_for_a_new_one() {
    for keep in ["segments", "wal"] {
        let home = TempDir::new().unwrap();
        let path = home.path().join("db");
        make(&path);
        fs::remove_file(path.join("CURRENT")).unwrap();
        for other in ["segments", "wal"].into_iter().filter(|other| *other != keep) {
            fs::remove_dir_all(path.join(other)).unwrap();
        }
        let before = snapshot(&path);
        let error = open(&path).expect_err("a database without CURRENT");
        assert!(error.to_string().contains("CURRENT"), "{error}");
        assert_eq!(snapshot(&path), before, "nothing is made beside {keep}");
    }
}

/// Run by [`modes_are_private_under_any_umask`] in a process with another umask.
#[test]
fn a_database_made_under_the_umask_of_the_process() {
    let Some(path) = std::env::var_os("CHRONOLITH_HOSTILE_UMASK") else { return };
    let path = Path::new(&path);
    make(path);
    let db = open(path).unwrap();
    db.keyspace("data", KeyspaceOptions::new()).unwrap().put("c", "3").unwrap();
    db.flush().unwrap();
    db.checkpoint(path.with_file_name("copy")).unwrap();
    // While it is open: the files of an open database count too.
    for root in [path.to_path_buf(), path.with_file_name("copy")] {
        for (file, mode, _) in snapshot(&root) {
            let wanted = if file.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(mode & 0o7777, wanted, "{}", file.display());
        }
    }
    db.close().unwrap();
    assert!(names(path).len() >= 6);
}

#[test]
fn modes_are_private_under_any_umask() {
    for umask in ["000", "022", "077", "277"] {
        let home = TempDir::new().unwrap();
        let script = format!("umask {umask}; exec \"$0\" --exact {TEST} --nocapture");
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg(std::env::current_exe().unwrap());
        let output = command.env("CHRONOLITH_HOSTILE_UMASK", home.path().join("db")).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "umask {umask}: {text}");
        assert!(home.path().join("db/CURRENT").exists(), "umask {umask}: it ran");
    }
}

const TEST: &str = "planted::a_database_made_under_the_umask_of_the_process";
