//! A real process, killed with SIGKILL while it writes, again and again: whatever it acknowledged is there.
//!
//! The test runs itself as the writer: the child writes and says each acknowledged commit on its standard output; the
//! parent reads, kills, opens and compares. 50 rounds; `CHRONOLITH_KILL_ROUNDS` makes it more.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use chronolith::{Db, Durability, KeyspaceOptions, Options};

const CHILD: &str = "CHRONOLITH_KILL_CHILD";

fn open(path: &Path) -> Db {
    // Small memtables, so that flushes and compactions are killed too.
    Options::new().memory_budget(4 << 20).l0_threshold(2).durability(Durability::Buffered).open(path).unwrap()
}

/// The value that commit number `n` gives its key.
fn value(n: u64) -> Vec<u8> {
    let mut value = n.to_le_bytes().to_vec();
    value.resize(100 + usize::try_from(n % 2000).unwrap(), b'x');
    value
}

/// Writes until it is killed: commit n puts key n mod 1000 in one keyspace and n itself in another, in one batch.
fn child(path: &Path) {
    let db = open(path);
    let values = db.keyspace("values", KeyspaceOptions::new()).unwrap();
    let count = db.keyspace("count", KeyspaceOptions::new()).unwrap();
    let start = count.get("n").unwrap().map_or(0, |n| u64::from_le_bytes(n[..].try_into().unwrap()));
    let mut out = std::io::stdout().lock();
    for n in start + 1.. {
        let mut batch = db.batch();
        batch.put(&values, (n % 1000).to_be_bytes(), value(n));
        batch.put(&count, "n", n.to_le_bytes());
        batch.commit().unwrap();
        writeln!(out, "{n}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn what_a_killed_process_acknowledged_is_there() {
    if let Some(path) = std::env::var_os(CHILD) {
        child(Path::new(&path));
        return;
    }
    let rounds = std::env::var("CHRONOLITH_KILL_ROUNDS").map_or(50, |rounds| rounds.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("killed.db");
    let mut slowest = Duration::ZERO;
    let mut total = 0;
    for round in 0..rounds {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "what_a_killed_process_acknowledged_is_there", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let acknowledged = std::thread::scope(|scope| {
            let reader = scope.spawn(move || {
                let mut last = None;
                for line in lines.by_ref().map_while(Result::ok) {
                    // The last line may be cut short by the kill: the harness's own lines do not count either.
                    last = line.parse::<u64>().ok().or(last);
                }
                last
            });
            std::thread::sleep(Duration::from_millis(5 + 37 * round % 200));
            child.kill().unwrap();
            child.wait().unwrap();
            reader.join().unwrap()
        });

        if round % 5 == 0 {
            // A close right after recovery is a clean one: it once gave up because closing stopped the flush it needed.
            open(&path).close().unwrap();
        }
        let started = std::time::Instant::now();
        let db = open(&path);
        slowest = slowest.max(started.elapsed());
        let values = db.keyspace("values", KeyspaceOptions::new()).unwrap();
        let count = db.keyspace("count", KeyspaceOptions::new()).unwrap();
        let n = count.get("n").unwrap().map_or(0, |n| u64::from_le_bytes(n[..].try_into().unwrap()));
        // One commit may have been on its way when the process died: at most that is more than was said.
        let said = acknowledged.unwrap_or(total).max(total);
        assert!(n == said || n == said + 1, "round {round}: {n} commits are there, {said} were acknowledged");
        for key in 0..1000.min(n + 1) {
            let newest = n - (n + 1000 - key) % 1000;
            let expected = (newest > 0).then(|| value(newest));
            let got = values.get(key.to_be_bytes()).unwrap().map(|value| value.to_vec());
            assert!(got == expected, "round {round}: key {key} is not that of commit {newest}");
        }
        let report = db.verify().unwrap();
        assert!(report.is_clean(), "round {round}: {report}");
        total = n;
        if round % 2 == 0 {
            db.close().unwrap();
        }
    }
    println!("{rounds} kills, {total} commits, slowest open {slowest:?}");
    assert!(total > rounds, "hardly anything was written");
}
