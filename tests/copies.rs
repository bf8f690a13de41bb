//! Checkpoints beside everything else: a copy is the database as of the seqno that it claims, or there is none.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{path::Path, time::Duration};

use chronolith::{
    Db, Error, Keyspace, KeyspaceOptions, MergeStrategy, Options, Policy,
    env::{Fault, Sim},
};

const HOUR: Duration = Duration::from_secs(3600);

fn audit(db: &Db) -> Keyspace {
    db.keyspace("audit", KeyspaceOptions::new().policy(Policy::mvcc(100, HOUR))).unwrap()
}

fn open(sim: &Sim, path: &str) -> Db {
    Options::new().env(sim.clone()).open(path).unwrap()
}

/// Runs `verb` between the flush of a checkpoint and the choice of its moment, and gives the copy.
fn copy_beside(sim: &Sim, db: &Db, verb: impl Fn() + Send + 'static) -> Db {
    sim.on_point(move |point| {
        if point == "checkpoint: flush, then moment" {
            verb();
        }
    });
    db.checkpoint("copy").unwrap();
    sim.ignore_points();
    open(sim, "copy")
}

/// A pin took a seqno, and the copy took the pin without the commits before it: it claimed a seqno of which it lacked
/// acknowledged commits.
#[test]
fn a_copy_made_beside_pins_and_unpins_is_the_database_as_of_its_seqno() {
    let sim = Sim::new(1);
    let db = open(&sim, "db");
    let keyspace = audit(&db);
    keyspace.put("n", "0").unwrap();
    db.pin("old").unwrap();
    let (other, theirs) = (db.clone(), keyspace.clone());
    let copy = copy_beside(&sim, &db, move || {
        theirs.put("n", "1").unwrap();
        other.pin("new").unwrap();
        other.unpin("old").unwrap();
        theirs.put("n", "2").unwrap();
    });
    let copied = audit(&copy);
    let then = db.as_of(copy.seqno()).unwrap();
    assert_eq!(copied.get("n").unwrap(), then.get(&keyspace, "n").unwrap());
    for pin in copy.pins() {
        let (in_copy, there) = (copy.pinned(&pin.name).unwrap(), db.as_of(pin.seqno).unwrap());
        assert_eq!(in_copy.get(&copied, "n").unwrap(), there.get(&keyspace, "n").unwrap(), "{}", pin.name);
    }
    assert!(copy.pins().iter().all(|pin| pin.seqno <= copy.seqno()));
}

#[test]
fn a_copy_knows_nothing_of_options_and_keyspaces_that_came_behind_its_moment() {
    let sim = Sim::new(2);
    let db = open(&sim, "db");
    let keyspace = audit(&db);
    db.keyspace("dropped later", KeyspaceOptions::new()).unwrap().put("n", "1").unwrap();
    keyspace.put("n", "1").unwrap();
    let other = db.clone();
    let copy = copy_beside(&sim, &db, move || {
        audit(&other).put("n", "2").unwrap();
        other.drop_keyspace("dropped later").unwrap();
        other.keyspace("born later", KeyspaceOptions::new()).unwrap().put("n", "1").unwrap();
        other.keyspace("audit", KeyspaceOptions::new().ttl(HOUR)).unwrap();
        // All that is readable for nobody goes: but not from under the copy.
        other.compact().unwrap();
    });
    let then = db.as_of(copy.seqno()).unwrap();
    assert_eq!(copy.keyspaces(), then.keyspaces());
    assert_eq!(audit(&copy).get("n").unwrap(), then.get(&keyspace, "n").unwrap());
    assert!(copy.verify().unwrap().is_clean());
}

/// The change of a keyspace or a pin is one more thing that was committed before the call, also when nothing has been
/// written since.
#[test]
fn a_copy_has_every_change_before_the_call_also_without_a_write() {
    let sim = Sim::new(3);
    let db = open(&sim, "db");
    audit(&db).put("n", "1").unwrap();
    db.flush().unwrap();
    db.keyspace("empty", KeyspaceOptions::new()).unwrap();
    db.pin("here").unwrap();
    db.checkpoint("copy").unwrap();
    let copy = open(&sim, "copy");
    assert_eq!((copy.seqno(), copy.keyspaces(), copy.pins()), (db.seqno(), db.keyspaces(), db.pins()));
}

#[test]
fn a_copy_takes_the_dropped_keyspaces_along_that_its_pins_keep() {
    let sim = Sim::new(4);
    let db = open(&sim, "db");
    db.keyspace("old", KeyspaceOptions::new()).unwrap().put("n", "1").unwrap();
    db.pin("p").unwrap();
    db.drop_keyspace("old").unwrap();
    db.keyspace("unread", KeyspaceOptions::new()).unwrap().put("n", "1").unwrap();
    db.drop_keyspace("unread").unwrap();
    db.checkpoint("copy").unwrap();
    let copy = open(&sim, "copy");
    let pinned = copy.pinned("p").unwrap();
    assert_eq!(pinned.keyspaces(), ["old"]);
    assert_eq!(pinned.get(&pinned.keyspace("old").unwrap(), "n").unwrap().unwrap(), b"1");
    drop(pinned);
    copy.unpin("p").unwrap();
    copy.compact().unwrap();
    let left = copy.stats().space;
    assert_eq!(left.live, 0, "{left:?}");
}

/// `Err(Closed)` counted as "not readable, leave it out": a copy of nothing that said Ok.
#[test]
fn a_copy_of_a_view_beside_a_close_is_complete_or_an_error_and_leaves_nothing() {
    for at in 0..5 {
        let sim = Sim::new(5);
        let db = open(&sim, "db");
        for name in ["a", "b", "c", "d"] {
            db.keyspace(name, KeyspaceOptions::new()).unwrap().put("n", "1").unwrap();
        }
        let view = db.snapshot();
        let mut closing = Some(db);
        let mut passed = 0;
        sim.on_point(move |point| {
            if point == "view checkpoint: one keyspace, then the next" {
                if passed == at {
                    closing.take().unwrap().close().unwrap();
                }
                passed += 1;
            }
        });
        let copied = view.checkpoint("copy");
        sim.ignore_points();
        match copied {
            Ok(()) => assert_eq!(open(&sim, "copy").keyspaces().len(), 4, "closed at keyspace {at}"),
            Err(error) => {
                assert!(matches!(error, Error::Closed), "{error}");
                assert!(!sim.files().iter().any(|path| path.starts_with("copy")), "closed at keyspace {at}");
            }
        }
    }
}

#[test]
fn a_copy_that_fails_leaves_nothing_behind_and_may_be_repeated() {
    let mut failures = 0;
    for call in 0..60 {
        let sim = Sim::new(6);
        let db = open(&sim, "db");
        audit(&db).put("n", "1").unwrap();
        db.flush().unwrap();
        let view = db.snapshot();
        for of_view in [false, true] {
            sim.fail_at(sim.calls() + call, Fault::Enospc);
            let copied = if of_view { view.checkpoint("copy") } else { db.checkpoint("copy") };
            sim.clear_faults();
            if copied.is_err() {
                failures += 1;
                let left: Vec<_> = sim.files().into_iter().filter(|path| path.starts_with("copy")).collect();
                assert_eq!(left, Vec::<std::path::PathBuf>::new(), "call {call}, {copied:?}");
                if of_view { view.checkpoint("copy").unwrap() } else { db.checkpoint("copy").unwrap() }
            }
            assert!(audit(&open(&sim, "copy")).contains("n").unwrap());
            for path in sim.files().iter().filter(|path| path.starts_with("copy")) {
                sim.remove_file(path);
            }
        }
    }
    assert!(failures > 15, "only {failures} copies failed");
}

#[test]
fn a_copy_can_be_made_of_a_database_that_is_open_for_reading() {
    let sim = Sim::new(8);
    let db = open(&sim, "db");
    audit(&db).put("n", "1").unwrap();
    db.close().unwrap();
    let db = Options::new().env(sim.clone()).read_only(true).open("db").unwrap();
    db.checkpoint(Path::new("copy")).unwrap();
    assert_eq!(audit(&open(&sim, "copy")).get("n").unwrap().unwrap(), b"1");
}

/// One sum that no `i64` holds, and no part of the view was copied: while a checkpoint of the present copied it.
#[test]
fn a_copy_of_a_view_holds_the_sums_that_no_reader_can_be_given() {
    let sim = Sim::new(11);
    let db = open(&sim, "db");
    let options = || KeyspaceOptions::new().merge(MergeStrategy::Sum);
    let sums = db.keyspace("sums", options()).unwrap();
    let past = db.keyspace("past", options().policy(Policy::mvcc(100, HOUR))).unwrap();
    for keyspace in [&sums, &past] {
        for key in ["a", "n", "z"] {
            keyspace.merge(key, 1i64.to_le_bytes()).unwrap();
        }
        keyspace.merge("n", i64::MAX.to_le_bytes()).unwrap();
    }
    let early = db.snapshot();
    // From operands, from a folded sum, and from the history tier.
    let copies = ["operands", "folded", "moved"];
    early.checkpoint(copies[0]).unwrap();
    db.compact().unwrap();
    early.checkpoint(copies[1]).unwrap();
    for key in ["a", "n", "z"] {
        past.put(key, 7i64.to_le_bytes()).unwrap();
    }
    db.compact().unwrap();
    early.checkpoint(copies[2]).unwrap();
    for copy in copies {
        let db = open(&sim, copy);
        assert!(db.verify().unwrap().is_clean(), "{copy}");
        for name in ["sums", "past"] {
            let keyspace = db.keyspace(name, options()).unwrap();
            let sum = |key| keyspace.get(key).unwrap().map(|sum| i64::from_le_bytes((*sum).try_into().unwrap()));
            assert_eq!((sum("a"), sum("z")), (Some(1), Some(1)), "{copy} {name}");
            assert!(keyspace.get("n").unwrap_err().to_string().contains("9223372036854775808"), "{copy} {name}");
            keyspace.merge("n", (-1i64).to_le_bytes()).unwrap();
            assert_eq!(sum("n"), Some(i64::MAX), "{copy} {name}");
        }
    }
}

/// Times to live are forgotten where nothing is left that was written under them: the copy of a pinned moment then
/// had an older one, or none.
#[test]
fn a_copy_of_a_moment_that_is_kept_has_the_time_to_live_of_that_moment() {
    let seconds = |count| Some(Duration::from_secs(count));
    for writes in [false, true] {
        let sim = Sim::new(3);
        let db = open(&sim, "db");
        let set = |ttl: u64| db.keyspace("k", KeyspaceOptions::new().ttl(Duration::from_secs(ttl))).unwrap();
        let keyspace = set(1000);
        if writes {
            keyspace.put("a", "1").unwrap();
        }
        set(10);
        db.pin("p").unwrap();
        let view = db.snapshot();
        set(20);
        set(30);
        db.flush().unwrap();
        let moment = view.seqno();
        for (name, view) in [("pin", db.pinned("p").unwrap()), ("view", view)] {
            view.checkpoint(name).unwrap();
            let copy = open(&sim, name).keyspace("k", KeyspaceOptions::new()).unwrap();
            assert_eq!(copy.ttl(), seconds(10), "{name}, {writes}");
        }
        // Nobody has kept this one: it is told in the documentation that the options are those of now.
        db.as_of(moment).unwrap().checkpoint("as of").unwrap();
        let copy = open(&sim, "as of").keyspace("k", KeyspaceOptions::new()).unwrap();
        assert_eq!(copy.ttl(), seconds(30), "{writes}");
    }
}
