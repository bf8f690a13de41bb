//! What a database tells of itself: errors that name what they are about, numbers for people and programs, options, and
//! the history of many keys.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, error::Error as _, ops::ControlFlow, time::Duration};

use chronolith::{
    Bytes, Db, Error, Keyspace, KeyspaceOptions, Merge, MergeStrategy, Options, Policy, Result, Version, env,
};

fn db() -> Db {
    Options::new().env(env::Memory::new()).open("my.db").unwrap()
}

fn sums(db: &Db) -> Keyspace {
    db.keyspace("hits", KeyspaceOptions::new().merge(MergeStrategy::Sum)).unwrap()
}

/// A sum that no i64 holds, between two that one does.
fn overflow(sums: &Keyspace) {
    for key in ["a", "b", "c", "d"] {
        sums.merge(key, 1_i64.to_le_bytes()).unwrap();
    }
    sums.merge("b", i64::MAX.to_le_bytes()).unwrap();
    sums.merge("d", i64::MAX.to_le_bytes()).unwrap();
}

/// The keys of items, in brackets where an error names them.
fn keys(items: impl Iterator<Item = Result<Bytes>>) -> Vec<String> {
    items
        .map(|item| match item {
            Ok(key) => key.escape_ascii().to_string(),
            Err(error) => {
                assert!(matches!(error, Error::Invalid { .. }), "{error}");
                let text = error.to_string();
                assert!(text.contains("keyspace \"hits\""), "{text}");
                let key = text.split("key \"").nth(1).unwrap().split('"').next().unwrap();
                format!("[{key}]")
            }
        })
        .collect()
}

#[test]
fn a_walk_goes_on_behind_a_key_whose_value_cannot_be_told() {
    let db = db();
    let hits = sums(&db);
    overflow(&hits);
    let before = db.snapshot();
    for round in ["in memory", "flushed", "compacted"] {
        match round {
            "flushed" => db.flush().unwrap(),
            "compacted" => drop(db.compact().unwrap()),
            _ => {}
        }
        let key = |item: Result<(Bytes, Bytes)>| item.map(|(key, _)| key);
        assert_eq!(keys(hits.range(..).map(key)), ["a", "[b]", "c", "[d]"], "{round}");
        assert_eq!(keys(hits.range(..).rev().map(key)), ["[d]", "c", "[b]", "a"], "{round}");
        assert_eq!(keys(hits.range(..).keys()), ["a", "[b]", "c", "[d]"], "{round}");
        assert_eq!(keys(hits.range(..).keys().rev()), ["[d]", "c", "[b]", "a"], "{round}");
        assert_eq!(keys(before.range(&hits, "b"..).map(key)), ["[b]", "c", "[d]"], "{round}");

        // From both ends, which meet at it: it is told once.
        for first in 0..4 {
            let mut range = hits.range(..);
            let mut told: Vec<_> = range.by_ref().take(first).map(key).collect();
            while let Some(item) = range.next_back() {
                told.push(key(item));
            }
            assert!(range.next().is_none());
            let mut told = keys(told.into_iter());
            told.sort_unstable();
            assert_eq!(told, ["[b]", "[d]", "a", "c"], "{round}, {first} from the front");
        }

        let mut cursor = hits.cursor(..);
        let mut told = Vec::new();
        loop {
            match cursor.next_ref() {
                Ok(None) => break,
                Ok(Some((key, _))) => told.push(Ok(Bytes::copy_from(key))),
                Err(error) => told.push(Err(error)),
            }
        }
        assert_eq!(keys(told.into_iter()), ["a", "[b]", "c", "[d]"], "{round}");

        // A call for several values fails as a whole, and names the first.
        assert_eq!(keys([hits.multi_get(["a", "b", "c"]).map(|_| Bytes::default())].into_iter()), ["[b]"]);
        assert_eq!(keys([hits.get("d").map(|_| Bytes::default())].into_iter()), ["[d]"]);
        assert!(hits.multi_get(["a", "c"]).is_ok());
    }
}

#[test]
fn a_difference_goes_on_behind_a_key_that_one_side_cannot_tell() {
    let db = db();
    let hits = sums(&db);
    for key in ["a", "b", "c", "e"] {
        hits.merge(key, 1_i64.to_le_bytes()).unwrap();
    }
    let before = db.snapshot();
    overflow(&hits);
    let after = db.snapshot();
    for (one, other, expected) in
        [(&before, &after, ["a", "[b]", "c", "[d]"]), (&after, &before, ["a", "[b]", "c", "[d]"])]
    {
        let told = keys(db.diff(one, other, &hits).map(|change| change.map(|change| change.key)));
        assert_eq!(told, expected);
    }
    assert_eq!(keys(db.diff(&after, &after, &hits).map(|change| change.map(|change| change.key))), ["[b]", "[d]"]);
}

struct Picky;

impl Merge for Picky {
    fn merge(&self, _key: &[u8], older: &[u8], newer: &[u8]) -> Result<Vec<u8>> {
        match newer {
            b"invalid" => Err(Error::Invalid { what: "it is picky".to_owned() }),
            b"full" => Err(Error::DiskFull),
            _ => Ok([older, newer].concat()),
        }
    }
}

#[test]
fn an_error_of_a_custom_merge_is_one_of_its_key_whatever_it_is() {
    let db = db();
    let hits = db.keyspace("hits", KeyspaceOptions::new().merge(MergeStrategy::custom("picky", Picky))).unwrap();
    for key in ["a", "b", "c", "d"] {
        hits.merge(key, "1").unwrap();
    }
    hits.merge("b", "invalid").unwrap();
    hits.merge("c", "full").unwrap();
    assert_eq!(keys(hits.range(..).keys()), ["a", "[b]", "[c]", "d"]);
    assert_eq!(keys(hits.range(..).keys().rev()), ["d", "[c]", "[b]", "a"]);
    assert!(hits.get("b").unwrap_err().to_string().contains("it is picky"));
    // A single read answers what the merge did.
    assert!(matches!(hits.get("c"), Err(Error::DiskFull)));
}

#[test]
fn a_refused_moment_and_a_closed_database_end_a_walk() {
    let db = db();
    let data = db.keyspace("data", KeyspaceOptions::new()).unwrap();
    let first = data.put("a", "1").unwrap();
    data.put("b", "1").unwrap();
    for key in ["a", "b", "c"] {
        data.put(key, "2").unwrap();
    }
    db.compact().unwrap();
    let then = db.as_of(first.seqno).unwrap();
    let told: Vec<_> = then.range(&data, ..).collect();
    assert!(matches!(told.as_slice(), [Err(Error::HistoryTrimmed { .. })]), "{told:?}");
    let (mut range, mut history) = (data.range(..), data.history("a"));
    range.next().unwrap().unwrap();
    db.close().unwrap();
    assert!(matches!(range.next(), Some(Err(Error::Closed))) && range.next().is_none());
    assert!(matches!(history.next(), Some(Err(Error::Closed))) && history.next().is_none());
}

#[test]
fn an_operation_of_a_batch_that_is_refused_is_named() {
    let db = db();
    let (hits, users) = (sums(&db), db.keyspace("users", KeyspaceOptions::new()).unwrap());
    let refused = |fill: &dyn Fn(&mut chronolith::Batch)| {
        let mut batch = db.batch();
        batch.put(&users, "fine", "1");
        fill(&mut batch);
        batch.put(&hits, "behind it", "wrong too");
        batch.commit().unwrap_err().to_string()
    };
    let text = refused(&|batch| batch.put(&hits, "page/7", "three"));
    assert!(text.contains("page/7") && text.contains("\"hits\"") && !text.contains("behind"), "{text}");
    let text = refused(&|batch| batch.delete(&users, "longx".repeat(20_000)));
    assert!(text.contains("\"longxlongx") && text.contains("\"users\"") && text.len() < 500, "{text}");
    let text = refused(&|batch| batch.delete_range(&users, vec![b'y'; 70_000]..));
    assert!(text.contains("yyy") && text.contains("\"users\""), "{text}");
    let text = hits.put("page/7", "three").unwrap_err().to_string();
    assert!(text.contains("page/7") && text.contains("\"hits\""), "{text}");
    let text = refused(&|batch| {
        batch.put(&hits, "page/8", i64::MAX.to_le_bytes());
        batch.merge(&hits, "page/8", 1_i64.to_le_bytes());
    });
    assert!(text.contains("behind it"), "what can be seen at once comes first: {text}");
    let mut batch = db.batch();
    batch.put(&hits, "page/8", i64::MAX.to_le_bytes());
    batch.merge(&hits, "page/8", 1_i64.to_le_bytes());
    let text = batch.commit().unwrap_err().to_string();
    assert!(text.contains("page/8") && text.contains("\"hits\""), "{text}");
}

#[test]
fn a_dropped_keyspace_keeps_its_name_in_errors() {
    let db = db();
    let users = db.keyspace("users", KeyspaceOptions::new()).unwrap();
    users.put("ann", "25").unwrap();
    db.drop_keyspace("users").unwrap();
    for _ in 0..2 {
        let errors = [users.put("k", "v").err(), users.get("k").err(), users.explain("k").err()];
        for text in errors.map(|error| error.unwrap().to_string()) {
            assert!(text.contains("\"users\" was dropped"), "{text}");
        }
        assert_eq!(users.approximate_len(), 0);
        db.compact().unwrap();
    }
}

#[test]
fn a_source_is_told_once_in_a_chain() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "no map").unwrap();
    let error = chronolith::phash::Map::open(dir.path().join("none")).unwrap_err();
    let source = error.source().unwrap().to_string();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    assert!(!error.to_string().contains(&source), "{error}");
    // What keeps only the text keeps all of it.
    let sim = env::Sim::new(5);
    let db = Options::new().env(sim.clone()).open("my.db").unwrap();
    let data = db.keyspace("data", KeyspaceOptions::new()).unwrap();
    data.put("k", "v").unwrap();
    sim.fail_at(sim.calls(), env::Fault::EioForever);
    let failed = db.persist().unwrap_err().source().unwrap().to_string();
    let why = data.put("k", "v").unwrap_err();
    assert!(matches!(&why, Error::Poisoned { why } if why.contains(&failed)), "{why}");
    assert!(db.stats().trouble.is_some_and(|why| why.contains(&failed)));
}

#[test]
fn whoever_still_holds_the_database_here_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path()).unwrap();
    let text = Db::open(dir.path()).unwrap_err().to_string();
    assert!(text.contains("still alive") && !text.contains(&std::process::id().to_string()), "{text}");
    db.close().unwrap();
}

#[test]
fn what_must_exist_is_not_made_by_a_slip() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    let must_exist = Options::new().create(false);
    let text = must_exist.open(here.join("my.db")).unwrap_err().to_string();
    assert!(text.contains("create(false)") && !text.contains("read_only"), "{text}");
    let db = Db::open(here.join("my.db")).unwrap();
    db.keyspace("users", KeyspaceOptions::new()).unwrap();
    db.close().unwrap();
    std::fs::create_dir(here.join("my.dc")).unwrap();
    let text = must_exist.open(here.join("my.bd")).unwrap_err().to_string();
    assert!(text.contains("did you mean") && text.contains("my.db"), "{text}");
    // An empty directory is no database either, and stays empty.
    let text = must_exist.open(here.join("my.dc")).unwrap_err().to_string();
    assert!(text.contains("there is no database") && text.contains("my.db"), "{text}");
    assert_eq!(std::fs::read_dir(here.join("my.dc")).unwrap().count(), 0);
    assert!(!here.join("my.bd").exists());

    let db = must_exist.open(here.join("my.db")).unwrap();
    let existing = || KeyspaceOptions::new().create(false);
    assert!(db.keyspace("users", existing()).is_ok());
    let Err(Error::Invalid { what }) = db.keyspace("usres", existing()) else { panic!("it is refused") };
    assert!(what.contains("\"usres\"") && what.contains("did you mean \"users\""), "{what}");
    assert_eq!(db.keyspaces(), ["users"]);
    let read_only = Options::new().read_only(true);
    db.close().unwrap();
    assert!(read_only.open(here.join("none")).unwrap_err().to_string().contains("read_only(true)"));
}

#[cfg(unix)]
#[test]
fn a_path_that_cannot_be_opened_is_told_as_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    std::fs::write(here.join("file"), "text").unwrap();
    std::os::unix::fs::symlink(here.join("nowhere"), here.join("link")).unwrap();
    let told = |path: std::path::PathBuf| Db::open(path).unwrap_err().to_string();
    assert!(told("".into()).contains("is empty"));
    assert!(told(here.join("link")).contains("a link to nothing"));
    for path in ["file", "file/db", "file/deep/db"] {
        let text = told(here.join(path));
        assert!(text.starts_with(&format!("{} is a file", here.join("file").display())), "{text}");
    }
}

#[test]
fn a_keyspace_tells_its_options() {
    let db = db();
    let plain = db.keyspace("plain", KeyspaceOptions::new()).unwrap();
    assert_eq!((plain.policy(), plain.ttl()), (Policy::last_writer_wins(), None));
    assert_eq!(plain.merge_strategy(), MergeStrategy::LastWins);
    let week = Policy::mvcc(3, Duration::from_secs(7 * 86_400));
    let audit = db.keyspace("audit", KeyspaceOptions::new().policy(week.clone()).ttl(Duration::from_secs(60))).unwrap();
    assert_eq!((audit.policy(), audit.ttl()), (week, Some(Duration::from_secs(60))));
    let again = KeyspaceOptions::new().policy(Policy::tombstones(Duration::from_secs(5))).ttl(Duration::ZERO);
    db.keyspace("audit", again).unwrap();
    assert_eq!((audit.policy(), audit.ttl()), (Policy::tombstones(Duration::from_secs(5)), None));
    let own = db.keyspace("own", KeyspaceOptions::new().merge(MergeStrategy::custom("picky", Picky))).unwrap();
    assert_eq!(own.merge_strategy(), MergeStrategy::custom("picky", Picky));
    assert_ne!(own.merge_strategy(), MergeStrategy::custom("other", Picky));
}

#[test]
fn a_keyspace_tells_what_holds_its_bytes() {
    let db = db();
    let versions = KeyspaceOptions::new().policy(Policy::mvcc(10, Duration::from_secs(3600)));
    let (audit, other) =
        (db.keyspace("audit", versions).unwrap(), db.keyspace("other", KeyspaceOptions::new()).unwrap());
    for round in 0..5_u8 {
        for key in 0..100_u8 {
            audit.put([key], [round; 100]).unwrap();
        }
    }
    let space = audit.space();
    assert!(space.memtable > 50_000 && (space.live, space.history) == (0, 0), "{space:?}");
    assert_eq!(other.space().memtable, 0);
    db.flush().unwrap();
    db.compact().unwrap();
    let space = audit.space();
    let all = db.stats().space;
    assert!(space.memtable == 0 && space.live > 1000 && space.history > space.live, "{space:?}");
    assert_eq!((space.live, space.history), (all.live, all.history));
}

#[test]
fn the_estimate_of_keys_is_never_too_small_and_others_do_not_count() {
    let db = db();
    let (data, other) = (db.keyspace("data", KeyspaceOptions::new()).unwrap(), sums(&db));
    let check = |bound: u64| {
        let (there, estimate) = (data.range(..).count() as u64, data.approximate_len());
        assert!(there <= estimate && estimate <= bound, "{there} keys, {estimate} estimated, at most {bound}");
    };
    check(0);
    let put = |from: u32, to: u32| {
        let mut batch = db.batch();
        for key in from..to {
            batch.put(&data, key.to_be_bytes(), "value");
            batch.merge(&other, key.to_be_bytes(), 1_i64.to_le_bytes());
        }
        batch.commit().unwrap();
    };
    put(0, 1000);
    check(1000);
    db.flush().unwrap();
    check(1000);
    put(1000, 50_000);
    check(50_000);
    assert_eq!(data.approximate_len(), 50_000);
    data.delete_range(100_u32.to_be_bytes()..).unwrap();
    check(50_000);
    db.compact().unwrap();
    check(100);
    assert_eq!(other.approximate_len(), 50_000);
}

#[test]
fn versions_that_views_keep_do_not_hide_keys_from_the_estimate() {
    let db = db();
    let data = db.keyspace("data", KeyspaceOptions::new()).unwrap();
    let all = |write: &dyn Fn(&str)| ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"].into_iter().for_each(write);
    all(&|key| _ = data.put(key, "1").unwrap());
    let first = db.snapshot();
    all(&|key| _ = data.delete(key).unwrap());
    let second = db.snapshot();
    all(&|key| _ = data.put(key, "2").unwrap());
    db.flush().unwrap();
    assert_eq!(data.range(..).count(), 10);
    assert_eq!(data.approximate_len(), 10);
    drop((first, second));
    db.compact().unwrap();
    assert_eq!(data.approximate_len(), 10);
    all(&|key| _ = data.delete(key).unwrap());
    db.compact().unwrap();
    assert_eq!(data.approximate_len(), 0);
}

/// The history of a range, told key by key.
fn one_by_one(data: &Keyspace, keys: &[Vec<u8>]) -> Vec<(Vec<u8>, Version)> {
    let of = |key: &Vec<u8>| data.history(key).map(|told| (key.clone(), told.unwrap())).collect::<Vec<_>>();
    keys.iter().flat_map(of).collect()
}

#[test]
fn the_history_of_a_range_is_that_of_its_keys_deleted_ones_too() {
    let sim = env::Sim::new(11);
    let open = || Options::new().env(sim.clone()).memory_budget(4 << 20).l0_threshold(2).open("my.db").unwrap();
    let mut db = open();
    let versions = || KeyspaceOptions::new().policy(Policy::mvcc(50, Duration::from_secs(3600)));
    let mut data = db.keyspace("data", versions()).unwrap();
    let mut draw = 7_u64;
    let mut next = |below: u64| {
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (draw >> 33) % below
    };
    let keys: Vec<Vec<u8>> = (0..30_u8).map(|key| vec![b'k', key]).collect();
    let mut views = Vec::new();
    for step in 0..1500 {
        let key = &keys[usize::try_from(next(30)).unwrap()];
        match next(40) {
            0..25 => _ = data.put(key, format!("{step}")).unwrap(),
            25..33 => _ = data.delete(key).unwrap(),
            33 => _ = data.delete_range(key.as_slice()..&*keys[usize::try_from(next(30)).unwrap()]).unwrap(),
            34 if next(8) == 0 => _ = data.purge(key).unwrap(),
            35 => db.flush().unwrap(),
            36 if next(4) == 0 => drop(db.compact().unwrap()),
            37 if next(6) == 0 => {
                views.clear();
                drop(data);
                db.close().unwrap();
                db = open();
                data = db.keyspace("data", versions()).unwrap();
            }
            38 if views.len() < 3 => views.push(db.snapshot()),
            _ => {}
        }
        if step % 50 == 0 {
            // A purge forgets the key with all it was; of the others each version that a look at the key finds, and
            // nothing more.
            let told: Vec<_> =
                data.history_range(..).map(|told| told.map(|(key, v)| (key.to_vec(), v)).unwrap()).collect();
            let there: Vec<Vec<u8>> = keys.iter().filter(|key| told.iter().any(|(k, _)| k == *key)).cloned().collect();
            assert_eq!(told, one_by_one(&data, &there), "step {step}");
            for key in keys.iter().filter(|key| !there.contains(key)) {
                // Only ranges that were deleted over it are left of it.
                assert!(data.history(key).all(|version| version.unwrap().value.is_none()), "step {step}");
            }
            let (from, to) = (&keys[5], &keys[20]);
            let part: Vec<_> = told.iter().filter(|(key, _)| key >= from && key < to).cloned().collect();
            let ranged = data.history_range(from..to).map(|told| told.map(|(key, v)| (key.to_vec(), v)).unwrap());
            assert_eq!(ranged.collect::<Vec<_>>(), part, "step {step}");
            for view in &views {
                let told: Vec<_> = view.history_range(&data, ..).map(Result::unwrap).collect();
                let again = |key: &Vec<u8>| view.history(&data, key).map(|told| told.unwrap()).collect::<Vec<_>>();
                let mut by_key: BTreeMap<Vec<u8>, Vec<Version>> = BTreeMap::new();
                for (key, version) in told {
                    by_key.entry(key.to_vec()).or_default().push(version);
                }
                assert!(by_key.iter().all(|(key, versions)| again(key) == *versions), "step {step}");
            }
        }
    }
}

#[test]
fn the_history_of_a_range_is_lazy_and_passes_many_versions_of_a_key_by_a_search() {
    let db = db();
    let data =
        db.keyspace("data", KeyspaceOptions::new().policy(Policy::mvcc(u64::MAX, Duration::from_secs(3600)))).unwrap();
    for round in 0..500_u32 {
        for key in ["a", "b", "c"] {
            data.put(key, round.to_be_bytes()).unwrap();
        }
    }
    data.delete("b").unwrap();
    db.flush().unwrap();
    for _ in 0..2 {
        let mut walk = data.history_range(..);
        assert_eq!(walk.by_ref().count(), 1501);
        assert!(walk.is_complete() && walk.next().is_none());
        let newest: Vec<_> = data.history_range("b".."c").take(2).map(|told| told.unwrap().1.value).collect();
        assert_eq!(newest, [None, Some(499_u32.to_be_bytes().as_slice().into())]);
        let empty = data.history_range("c".."a").count();
        assert_eq!(empty, 0);
        db.compact().unwrap();
    }
    let mut walk = data.history_range(..);
    walk.next().unwrap().unwrap();
    db.close().unwrap();
    assert!(matches!(walk.next(), Some(Err(Error::Closed))));
}

/// A value of JSON, read strictly.
#[derive(Debug, PartialEq)]
enum Json {
    Null,
    Number(u64),
    Text(String),
    List(Vec<Json>),
    Object(BTreeMap<String, Json>),
}

struct Reader<'t>(std::iter::Peekable<std::str::Chars<'t>>);

impl Reader<'_> {
    fn expect(&mut self, wanted: &str) {
        wanted.chars().for_each(|wanted| assert_eq!(self.0.next(), Some(wanted)));
    }

    fn text(&mut self) -> String {
        self.expect("\"");
        let mut text = String::new();
        loop {
            match self.0.next().unwrap() {
                '"' => return text,
                '\\' => text.push(match self.0.next().unwrap() {
                    'n' => '\n',
                    'u' => {
                        let code: String = self.0.by_ref().take(4).collect();
                        char::from_u32(u32::from_str_radix(&code, 16).unwrap()).unwrap()
                    }
                    c @ ('"' | '\\') => c,
                    c => panic!("\\{c} is no escape"),
                }),
                c => {
                    assert!(c >= ' ', "control characters are escaped");
                    text.push(c);
                }
            }
        }
    }

    fn several(&mut self, end: char, mut each: impl FnMut(&mut Self)) {
        let _begin = self.0.next();
        while self.0.peek() != Some(&end) {
            each(self);
            if self.0.next_if_eq(&',').is_none() {
                break;
            }
            assert_ne!(self.0.peek(), Some(&end), "no comma at the end");
        }
        assert_eq!(self.0.next(), Some(end));
    }

    fn value(&mut self) -> Json {
        match self.0.peek().unwrap() {
            '"' => Json::Text(self.text()),
            'n' => {
                self.expect("null");
                Json::Null
            }
            '[' => {
                let mut list = Vec::new();
                self.several(']', |reader| list.push(reader.value()));
                Json::List(list)
            }
            '{' => {
                let mut object = BTreeMap::new();
                self.several('}', |reader| {
                    let name = reader.text();
                    reader.expect(":");
                    assert!(object.insert(name, reader.value()).is_none(), "each name once");
                });
                Json::Object(object)
            }
            _ => {
                let mut digits = String::new();
                while let Some(digit) = self.0.next_if(char::is_ascii_digit) {
                    digits.push(digit);
                }
                Json::Number(digits.parse().unwrap())
            }
        }
    }
}

fn json(text: &str) -> Json {
    let mut reader = Reader(text.chars().peekable());
    let value = reader.value();
    assert_eq!(reader.0.next(), None);
    value
}

/// Samples of Prometheus' text format by name and labels, read strictly: each metric once, behind its help and its
/// type.
fn prometheus(text: &str) -> BTreeMap<(String, BTreeMap<String, String>), u64> {
    let mut samples = BTreeMap::new();
    let (mut metric, mut metrics) = ("", Vec::new());
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    assert!(text.ends_with('\n') && !text.ends_with("\n\n"));
    let mut lines = text.split_terminator('\n');
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, meaning) = help.split_once(' ').unwrap();
            assert!(is_name(name) && !meaning.is_empty() && !metrics.contains(&name), "{line}");
            let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).unwrap();
            assert_eq!(kind, if name.ends_with("_total") { "counter" } else { "gauge" }, "{name}");
            metrics.push(name);
            metric = name;
            continue;
        }
        let mut rest = line.strip_prefix(metric).unwrap();
        let mut labels = BTreeMap::new();
        if let Some(inside) = rest.strip_prefix('{') {
            rest = inside;
            loop {
                let (name, value) = rest.split_once("=\"").unwrap();
                assert!(is_name(name), "{line}");
                let (mut text, mut chars) = (String::new(), value.chars());
                loop {
                    match chars.next().unwrap() {
                        '"' => break,
                        '\\' => text.push(match chars.next().unwrap() {
                            'n' => '\n',
                            c @ ('"' | '\\') => c,
                            c => panic!("\\{c} is no escape: {line}"),
                        }),
                        c => text.push(c),
                    }
                }
                assert!(labels.insert(name.to_owned(), text).is_none(), "{line}");
                rest = chars.as_str();
                match rest.split_at_checked(1).unwrap() {
                    (",", more) => rest = more,
                    ("}", more) => {
                        rest = more;
                        break;
                    }
                    _ => panic!("{line}"),
                }
            }
        }
        let number = rest.strip_prefix(' ').unwrap().parse().unwrap();
        assert!(samples.insert((metric.to_owned(), labels), number).is_none(), "{line}");
    }
    samples
}

#[test]
fn programs_can_read_the_numbers_whatever_the_names() {
    let nasty = "a \"quoted\"\\name,\n=\u{9}\u{1}}\u{e4}";
    let sim = env::Sim::new(3);
    let db = Options::new().env(sim.clone()).open("my.db").unwrap();
    let data = db.keyspace(nasty, KeyspaceOptions::new()).unwrap();
    data.put("k", "v").unwrap();
    db.flush().unwrap();
    db.pin(nasty).unwrap();
    data.put("k", "w").unwrap();
    data.get("k").unwrap();
    let view = db.snapshot();
    let stats = db.stats();

    let samples = prometheus(&stats.to_prometheus());
    let sample = |name: &str, labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        samples.get(&(format!("chronolith_{name}"), labels)).copied()
    };
    assert_eq!(sample("commits_total", &[]), Some(2));
    assert_eq!(sample("gets_total", &[]), Some(1));
    assert_eq!(sample("views", &[]), Some(1));
    assert_eq!(sample("oldest_view", &[]), Some(view.seqno().into()));
    assert_eq!(sample("level_entries", &[("keyspace", nasty), ("level", "0")]), Some(1));
    assert_eq!(sample("pin_seqno", &[("pin", nasty)]), Some(db.pins()[0].seqno.into()));
    assert_eq!(sample("space_bytes", &[("cause", "live")]), Some(stats.space.live));
    assert_eq!(sample("trouble", &[]), Some(0));
    // The size of this machine's disk is unknown.
    assert_eq!((stats.disk_free_bytes, sample("disk_free_bytes", &[])), (None, None));
    assert!(stats.to_string().contains("an unknown amount free"), "{stats}");

    let Json::Object(fields) = json(&stats.to_json()) else { panic!("an object") };
    assert_eq!((&fields["commits"], &fields["disk_free_bytes"]), (&Json::Number(2), &Json::Null));
    let Json::List(pins) = &fields["pins"] else { panic!("a list") };
    assert!(matches!(&pins[0], Json::Object(pin) if pin["name"] == Json::Text(nasty.to_owned())));
    let Json::List(levels) = &fields["levels"] else { panic!("a list") };
    assert!(matches!(&levels[0], Json::Object(level) if level["keyspace"] == Json::Text(nasty.to_owned())));

    sim.set_space(Some(12 << 20));
    let stats = db.stats();
    let free = stats.disk_free_bytes.unwrap();
    assert!(free < 12 << 20 && stats.to_string().contains("MiB free"), "{stats}");
    assert!(stats.to_string().contains(": 1 segment, 1 entry,") && stats.to_string().contains(", 1 view\n"), "{stats}");
    assert_eq!(prometheus(&stats.to_prometheus())[&("chronolith_disk_free_bytes".to_owned(), BTreeMap::new())], free);
    assert!(db.verify().unwrap().to_string().contains("no damage"), "{stats}");
}

/// The marker of a purge stays for whoever reads a moment before it, and with it the key: and nobody was named.
#[test]
fn a_compaction_names_whom_the_names_of_purged_keys_are_kept_for() {
    let sim = env::Sim::new(1);
    let db = Options::new().env(sim.clone()).open("db").unwrap();
    let holds_name = || {
        let files = sim.files().into_iter();
        let named = |bytes: Vec<u8>| bytes.windows(7).any(|window| window == b"private");
        files.filter_map(|file| sim.read_file(&file)).any(named)
    };
    for policy in [Policy::last_writer_wins(), Policy::mvcc(10, Duration::from_secs(3600))] {
        for by_prefix in [false, true] {
            let keyspace =
                db.keyspace(format!("{policy:?} {by_prefix}"), KeyspaceOptions::new().policy(policy.clone())).unwrap();
            keyspace.put("private", "value").unwrap();
            keyspace.put("public", "value").unwrap();
            let pinned = db.pin("early").unwrap();
            keyspace.put("public", "later").unwrap();
            let view = db.snapshot();
            if by_prefix {
                keyspace.purge_prefix("priv").unwrap();
            } else {
                keyspace.purge("private").unwrap();
            }
            // Who comes later holds nothing.
            let late = db.snapshot();
            for _ in 0..2 {
                assert_eq!(db.compact().unwrap().still_held_by, [pinned, view.seqno()], "{policy:?} {by_prefix}");
            }
            drop(view);
            assert_eq!(db.compact().unwrap().still_held_by, [pinned], "{policy:?} {by_prefix}");
            db.unpin("early").unwrap();
            assert!(db.compact().unwrap().still_held_by.is_empty());
            assert!(!holds_name(), "{policy:?} {by_prefix}");
            drop(late);
        }
    }
}

/// Only how many views there were was told: not which of them held what.
#[test]
fn statistics_tell_what_views_hold_and_which() {
    let sim = env::Sim::new(4);
    let db = Options::new().env(sim.clone()).l0_threshold(1000).open("db").unwrap();
    let data = db.keyspace("data", KeyspaceOptions::new()).unwrap();
    let write = |round: u8| {
        for key in 0..500_u32 {
            data.put(key.to_be_bytes(), [round; 100]).unwrap();
        }
    };
    write(1);
    let first = db.snapshot();
    let again = first.clone();
    write(2);
    let second = db.snapshot();
    let idle = db.snapshot();
    write(3);
    db.flush().unwrap();
    let of = |view: &chronolith::View| {
        let held = db.stats().held_by_views;
        held.into_iter().find(|held| held.seqno == view.seqno()).unwrap()
    };
    // Its versions are kept in the segments; and it reads the memtable until somebody gives it newer files.
    assert!(of(&first).bytes > 50_000 && of(&first).bytes < 80_000, "{:?}", of(&first));
    assert_eq!((of(&first).views, of(&second).views, of(&first).iterators), (1, 2, 0));
    let mut range = second.range(&data, ..);
    range.next().unwrap().unwrap();
    assert_eq!(of(&second).iterators, 1);
    let text = db.stats().to_string();
    assert!(text.contains(&format!("1 view at seqno {}, 0 iterators: ", first.seqno())), "{text}");
    assert!(
        matches!(json(&db.stats().to_json()), Json::Object(fields) if matches!(&fields["held_by_views"], Json::List(views) if views.len() == 2))
    );
    let bytes = prometheus(&db.stats().to_prometheus())
        [&("chronolith_view_bytes".to_owned(), BTreeMap::from([("seqno".to_owned(), first.seqno().to_string())]))];
    assert_eq!(bytes, of(&first).bytes);
    drop((first, again, second, idle, range));
    assert!(db.stats().held_by_views.is_empty());
    // However many there are, those that hold the most are told of.
    let many: Vec<_> = (0..100_u8)
        .map(|round| {
            data.put("k", [round]).unwrap();
            db.snapshot()
        })
        .collect();
    assert_eq!((db.stats().views, db.stats().held_by_views.len()), (100, 64));
    drop(many);
}

/// The manifest tells first and last keys of segments that are gone; it was written anew only by the very compaction
/// that carried a purge out, if that got to its end.
#[test]
fn a_compaction_takes_the_names_of_purged_keys_out_of_the_manifest_whoever_carried_the_purge_out() {
    let holds_name = |sim: &env::Sim| {
        let named = |bytes: Vec<u8>| bytes.windows(7).any(|window| window == b"private");
        sim.files().into_iter().filter_map(|file| sim.read_file(&file)).any(named)
    };
    for policy in [Policy::last_writer_wins(), Policy::mvcc(3, Duration::from_secs(3600))] {
        // Broken off at each step, by a range, by itself.
        for way in 0..40 {
            let sim = env::Sim::new(1);
            let threshold = if way == 1 { 1 } else { 1000 };
            let db = Options::new().env(sim.clone()).l0_threshold(threshold).open("db").unwrap();
            let keyspace = db.keyspace("k", KeyspaceOptions::new().policy(policy.clone())).unwrap();
            keyspace.put("private", "value").unwrap();
            for key in 0..2000_u32 {
                keyspace.put(format!("public {key}"), "value").unwrap();
            }
            db.flush().unwrap();
            keyspace.put("private", "later").unwrap();
            db.flush().unwrap();
            keyspace.purge("private").unwrap();
            match way {
                0 => drop(keyspace.compact_range("p".."q").unwrap()),
                1 => {
                    db.flush().unwrap();
                    for _ in 0..20 {
                        db.health().unwrap();
                    }
                }
                _ => {
                    let mut steps = way - 1;
                    let told = |_| {
                        steps -= 1;
                        if steps == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                    };
                    let _broken = db.compact_with(told);
                }
            }
            db.compact().unwrap();
            assert!(!holds_name(&sim), "{policy:?}, way {way}");
        }
    }
}

/// They counted as live, under their old name, and nobody was told for whom they stay.
#[test]
fn statistics_tell_for_whom_dropped_keyspaces_stay() {
    let sim = env::Sim::new(4);
    let db = Options::new().env(sim.clone()).open("db").unwrap();
    let small = db.keyspace("small", KeyspaceOptions::new()).unwrap();
    let fill = || {
        let big = db.keyspace("big", KeyspaceOptions::new()).unwrap();
        for key in 0..1000_u32 {
            big.put(key.to_be_bytes(), [7; 100]).unwrap();
        }
        small.put("k", "v").unwrap();
        db.flush().unwrap();
    };
    fill();
    let view = db.snapshot();
    db.pin("p").unwrap();
    db.drop_keyspace("big").unwrap();
    fill();
    let stats = db.stats();
    assert!(stats.space.dropped > 100_000, "{stats}");
    assert_eq!(stats.held_by_views[0].dropped_bytes, stats.space.dropped);
    assert_eq!((stats.pins[0].dropped_bytes, stats.held_by_views[0].seqno), (stats.space.dropped, view.seqno()));
    assert!(stats.to_string().contains(" of dropped keyspaces, 0 B in older files"), "{stats}");
    assert_eq!(stats.levels.iter().filter(|level| level.keyspace == "big").count(), 1, "{stats}");
    prometheus(&stats.to_prometheus());
    drop(view);
    db.unpin("p").unwrap();
    db.compact().unwrap();
    assert_eq!(db.stats().space.dropped, 0);
}

/// The history of one key held the files of every keyspace.
#[test]
fn a_history_under_way_holds_the_files_of_its_keyspace_alone() {
    let db = db();
    let [small, big] = ["small", "big"].map(|name| db.keyspace(name, KeyspaceOptions::new()).unwrap());
    for key in 0..1000_u32 {
        big.put(key.to_be_bytes(), [7; 100]).unwrap();
    }
    small.put("k", "v").unwrap();
    db.flush().unwrap();
    let (mut history, mut range) = (small.history("k"), small.history_range(..));
    assert!(history.next().is_some() && range.next().is_some());
    big.delete_range(..).unwrap();
    db.compact().unwrap();
    assert!(db.stats().space.garbage < 10_000, "{}", db.stats());
    assert!(history.next().is_none() && range.next().is_none());
}
