//! The walks of `docs/versions.md`: each scenario file tells histories and what may be answered about them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use chronolith::{Db, Error, Keyspace, KeyspaceOptions, Options, View, env};

struct Walk {
    db: Db,
    keyspace: Keyspace,
    filler: Keyspace,
    views: BTreeMap<u64, View>,
}

impl Walk {
    fn new() -> Self {
        let db = Options::new().env(env::Sim::new(1)).open("walk.db").unwrap();
        let keyspace = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        let filler = db.keyspace("filler", KeyspaceOptions::new()).unwrap();
        Self { db, keyspace, filler, views: BTreeMap::new() }
    }

    /// Commits elsewhere until the next commit is `seqno`.
    fn up_to(&self, seqno: u64) {
        while u64::from(self.db.snapshot().seqno()) + 1 < seqno {
            self.filler.put("f", "f").unwrap();
        }
    }

    fn step(&mut self, words: &[&str]) {
        match words {
            ["flush"] => self.db.flush().unwrap(),
            ["compact"] => drop(self.db.compact().unwrap()),
            [at] if at.starts_with("view@") => {
                let seqno = at.strip_prefix("view@").unwrap().parse().unwrap();
                self.up_to(seqno + 1);
                self.views.insert(seqno, self.db.as_of(seqno).unwrap());
            }
            ["as_of", seqno, key, "->", expected] => {
                let seqno: u64 = seqno.parse().unwrap();
                self.up_to(seqno + 1);
                let view = self.db.as_of(seqno).unwrap();
                self.ask(&view, key, expected);
            }
            ["view", seqno, key, "->", expected] => {
                let view = self.views.get(&seqno.parse().unwrap()).unwrap().clone();
                self.ask(&view, key, expected);
            }
            [write, arguments @ ..] => {
                let (what, seqno) = write.split_once('@').unwrap();
                self.up_to(seqno.parse().unwrap());
                let receipt = match (what, arguments) {
                    ("delete", [key]) => self.keyspace.delete(key),
                    ("delete_range", [start, end]) => self.keyspace.delete_range(*start..*end),
                    (value, [key]) => self.keyspace.put(key, value),
                    _ => panic!("no such step: {words:?}"),
                };
                assert_eq!(receipt.unwrap().seqno.to_string(), seqno, "the scenario counts wrong");
            }
            [] => {}
        }
    }

    /// A point read and a scan of just that key must both give the expected answer.
    fn ask(&self, view: &View, key: &str, expected: &str) {
        let got = view.get(&self.keyspace, key).map(|value| value.map(|value| value.to_vec()));
        assert_eq!(said(&got, expected), expected, "get at {}", view.seqno());
        let mut scan = view.range(&self.keyspace, key..=key);
        for (direction, item) in
            [("forward", scan.next()), ("backward", view.range(&self.keyspace, key..=key).next_back())]
        {
            let scanned = item.transpose().map(|item| item.map(|(_, value)| value.to_vec()));
            // A scan may be refused for the sake of a neighbour, as a whole; it must not answer otherwise.
            match scanned {
                Err(Error::HistoryTrimmed { .. }) => {}
                _ => assert_eq!(said(&scanned, expected), expected, "{direction} scan at {}", view.seqno()),
            }
        }
    }
}

fn said(got: &Result<Option<Vec<u8>>, Error>, expected: &str) -> String {
    match got {
        Ok(None) => "None".into(),
        Ok(Some(value)) => String::from_utf8(value.clone()).unwrap(),
        Err(Error::HistoryTrimmed { oldest }) if expected.contains('{') => format!("Trimmed{{{oldest}}}"),
        Err(Error::HistoryTrimmed { .. }) => "Trimmed".into(),
        Err(error) => error.to_string(),
    }
}

fn run(text: &str) {
    let mut walk = Walk::new();
    let mut count = 0;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with("scenario ") {
            walk = Walk::new();
            count += 1;
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let stepped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| walk.step(&words)));
        assert!(stepped.is_ok(), "line {}: {line}", number + 1);
    }
    assert!(count > 0);
}

#[test]
fn last_writer_wins_answers_as_the_walks_say() {
    run(include_str!("scenarios/last_writer_wins.txt"));
}
