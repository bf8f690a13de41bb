//! Calls that take long: told how far they have come, broken off, and of a part only.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    time::Duration,
};

use chronolith::{
    Compacted, Db, Error, Keyspace, KeyspaceOptions, Options, Policy, Progress, Result, View,
    env::{Env, Sim},
};

const HOUR: Duration = Duration::from_secs(3600);

/// Two keyspaces with several segments, one of which keeps a past, and the moment of half of it.
fn filled(sim: &Sim) -> (Db, [Keyspace; 2], View) {
    let db = Options::new().env(sim.clone()).l0_threshold(1000).open("db").unwrap();
    let plain = db.keyspace("plain", KeyspaceOptions::new()).unwrap();
    let past = db.keyspace("past", KeyspaceOptions::new().policy(Policy::mvcc(10, HOUR))).unwrap();
    let mut half = None;
    for round in 0..6_u32 {
        for key in 0..2000_u32 {
            plain.put(key.to_be_bytes(), (key * round).to_be_bytes()).unwrap();
            past.put((key / 2).to_be_bytes(), (key + round).to_be_bytes()).unwrap();
        }
        db.flush().unwrap();
        if round == 2 {
            half = Some(db.snapshot());
        }
    }
    (db, [plain, past], half.unwrap())
}

fn contents(keyspaces: &[Keyspace; 2]) -> Vec<Vec<(Vec<u8>, Vec<u8>)>> {
    let all = |keyspace: &Keyspace| {
        let pairs = keyspace.range(..).map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())));
        pairs.collect::<Result<Vec<_>>>().unwrap()
    };
    keyspaces.iter().map(all).collect()
}

type Told<'t> = &'t mut dyn FnMut(Progress) -> ControlFlow<()>;

/// One of the calls, by name.
type Call = (&'static str, fn(&Db, &View, &[Keyspace; 2], Told<'_>) -> Result<()>);

const CALLS: [Call; 5] = [
    ("verify", |db, _, _, told| db.verify_with(told).map(drop)),
    ("checkpoint", |db, _, _, told| db.checkpoint_with("copy", told)),
    ("checkpoint of a view", |_, view, _, told| view.checkpoint_with("copy", told)),
    ("compact a range", |_, _, [plain, _], told| plain.compact_range_with(..500_u32.to_be_bytes(), told).map(drop)),
    ("compact", |db, _, _, told| db.compact_with(told).map(drop)),
];

/// That no file of a job that was broken off is left, once nobody reads older files either.
fn assert_no_strays(db: &Db, view: View) {
    drop(view);
    db.compact().unwrap();
    assert_eq!(db.stats().space.garbage, 0);
}

#[test]
fn whoever_waits_is_told_how_far_it_has_come_from_nothing_to_all_of_it() {
    for (name, call) in CALLS {
        let sim = Sim::new(1);
        let (db, keyspaces, view) = filled(&sim);
        let mut told = Vec::new();
        call(&db, &view, &keyspaces, &mut |progress| {
            told.push((progress.done, progress.total));
            ControlFlow::Continue(())
        })
        .unwrap();
        let total = told[0].1;
        assert!(total > 10_000, "{name}: {total}");
        assert_eq!((told[0].0, *told.last().unwrap()), (0, (total, total)), "{name}");
        assert!(told.is_sorted() && told.len() > 2, "{name}: {told:?}");
    }
}

/// What others wrote meanwhile was counted as done, and not as a part of the whole.
#[test]
fn what_is_done_never_exceeds_the_whole_also_when_others_write() {
    let sim = Sim::new(1);
    let (db, keyspaces, _view) = filled(&sim);
    let (other, [plain, past]) = (db.clone(), keyspaces);
    let mut wrote = false;
    sim.on_point(move |point| {
        if point == "compact: written, then installed" && !std::mem::replace(&mut wrote, true) {
            for key in 0..2000_u32 {
                past.put(key.to_be_bytes(), [7; 100]).unwrap();
                plain.put(key.to_be_bytes(), [7; 100]).unwrap();
            }
            other.flush().unwrap();
        }
    });
    let mut told = Vec::new();
    db.compact_with(|progress| {
        told.push(progress);
        ControlFlow::Continue(())
    })
    .unwrap();
    sim.ignore_points();
    assert!(told.iter().all(|progress| progress.done <= progress.total), "{told:?}");
    assert_eq!(told.last().map(|progress| progress.done), told.first().map(|progress| progress.total));
}

#[test]
fn a_call_that_is_broken_off_anywhere_leaves_the_database_whole_and_may_be_repeated() {
    for (name, call) in CALLS {
        for at in 0.. {
            let sim = Sim::new(1);
            let (db, keyspaces, view) = filled(&sim);
            let before = contents(&keyspaces);
            let mut count = 0;
            let broken = call(&db, &view, &keyspaces, &mut |_| {
                count += 1;
                if count > at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            if broken.is_ok() {
                assert!(at > 2, "{name} is told of {at} times");
                break;
            }
            assert!(matches!(broken, Err(Error::Cancelled)), "{name} at {at}: {broken:?}");
            assert_eq!(count, at + 1, "{name}: whoever has broken it off is not asked again");
            assert!(!sim.files().iter().any(|file| file.starts_with("copy")), "{name} at {at}");
            assert!(contents(&keyspaces) == before, "{name} at {at}");
            assert!(db.verify().unwrap().is_clean(), "{name} at {at}");
            call(&db, &view, &keyspaces, &mut |_| ControlFlow::Continue(())).unwrap();
            assert!(contents(&keyspaces) == before, "{name} at {at}");
            assert_no_strays(&db, view);
        }
    }
}

#[test]
fn whoever_is_told_may_not_call_the_database_and_may_panic() {
    for (name, call) in CALLS {
        let sim = Sim::new(1);
        let (db, keyspaces, view) = filled(&sim);
        let before = contents(&keyspaces);
        let mut refused = 0;
        call(&db, &view, &keyspaces, &mut |_| {
            let answers = [db.compact().map(drop), db.clone().close(), keyspaces[0].get("k").map(drop)];
            refused += answers.iter().filter(|answer| matches!(answer, Err(Error::Invalid { .. }))).count();
            ControlFlow::Continue(())
        })
        .unwrap();
        assert!(refused >= 6 && refused % 3 == 0, "{name}: {refused}");

        let mut count = 0;
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            call(&db, &view, &keyspaces, &mut |_| {
                count += 1;
                assert!(count < 2, "as it was told");
                ControlFlow::Continue(())
            })
        }));
        let first_copy = name.starts_with("checkpoint");
        let text = panicked.map(|called| called.map_err(|error| error.to_string()));
        match text {
            // The first copy is there.
            Ok(Err(error)) if first_copy => assert!(error.contains("not empty"), "{name}: {error}"),
            Ok(other) => panic!("{name}: {other:?}"),
            Err(payload) => assert_eq!(payload.downcast_ref::<&str>(), Some(&"as it was told"), "{name}"),
        }
        assert!(contents(&keyspaces) == before && db.verify().unwrap().is_clean(), "{name}");
        assert_no_strays(&db, view);
        db.close().unwrap();
    }
}

#[test]
fn a_compaction_of_a_range_writes_the_segments_of_that_range_alone() {
    let sim = Sim::new(2);
    // Segments of 64 KiB.
    let db = Options::new().env(sim.clone()).memory_budget(4 << 20).open("db").unwrap();
    let keyspace = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    let other = db.keyspace("other", KeyspaceOptions::new()).unwrap();
    let key = |number: u32| format!("{number:06}");
    for number in 0..40_000 {
        keyspace.put(key(number), [number.to_le_bytes()[0]; 400]).unwrap();
    }
    other.put("k", "v").unwrap();
    db.compact().unwrap();
    let segments = || -> Vec<PathBuf> {
        sim.files().into_iter().filter(|file| file.extension().is_some_and(|kind| kind == "seg")).collect()
    };
    let before = segments();
    assert!(before.len() > 5, "{}", before.len());
    keyspace.delete_range(key(10_000)..key(20_000)).unwrap();
    let Compacted { bytes_before, bytes_after, still_held_by, .. } =
        keyspace.compact_range(key(10_000)..key(20_000)).unwrap();
    assert!(bytes_after < bytes_before * 8 / 10 && still_held_by.is_empty(), "{bytes_before} to {bytes_after}");
    let kept = segments().iter().filter(|file| before.contains(file)).count();
    assert!(kept * 2 >= before.len(), "{kept} of {} segments are as they were", before.len());
    assert_eq!(keyspace.range(..).count(), 30_000);
    // Again there is nothing to do; and all of it is what the keyspace says.
    let again = keyspace.compact_range(key(10_000)..key(20_000)).unwrap();
    assert_eq!(again.bytes_before, again.bytes_after);
    let whole = keyspace.compact().unwrap();
    assert_eq!(whole.bytes_before, keyspace.space().live);
    db.drop_keyspace("k").unwrap();
    for refused in [keyspace.compact(), keyspace.compact_range("a"..)] {
        assert!(refused.unwrap_err().to_string().contains("was dropped"));
    }
}

#[test]
fn compacting_ranges_changes_nothing_that_anybody_reads() {
    for seed in 0..150 {
        let sim = Sim::new(seed);
        let db = Options::new().env(sim.clone()).l0_threshold(2).level_ratio(2).open("db").unwrap();
        let policy = if seed % 2 == 0 { Policy::last_writer_wins() } else { Policy::mvcc(3, HOUR) };
        let keyspace = db.keyspace("k", KeyspaceOptions::new().policy(policy)).unwrap();
        let key = |number: u32| format!("{number:02}");
        let mut model = BTreeMap::new();
        let mut views: Vec<(View, BTreeMap<String, u32>)> = Vec::new();
        for step in 0..120 {
            let (from, width) = (sim.draw(40), sim.draw(12));
            match sim.draw(12) {
                0..=4 => {
                    keyspace.put(key(from), step.to_string()).unwrap();
                    model.insert(key(from), step);
                }
                5 => {
                    keyspace.delete(key(from)).unwrap();
                    model.remove(&key(from));
                }
                6 => {
                    keyspace.delete_range(key(from)..key(from + width)).unwrap();
                    model.retain(|at, _| *at < key(from) || *at >= key(from + width));
                }
                7 => db.flush().unwrap(),
                8 if views.len() < 3 => views.push((db.snapshot(), model.clone())),
                8 => drop(views.remove(0)),
                _ => drop(keyspace.compact_range(key(from)..key(from + width)).unwrap()),
            }
            let all = |view: &View| {
                let pairs = view.range(&keyspace, ..).map(|pair| pair.unwrap());
                pairs
                    .map(|(key, value)| {
                        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                        (text(&key), text(&value).parse::<u32>().unwrap())
                    })
                    .collect::<BTreeMap<_, _>>()
            };
            assert_eq!(all(&db.snapshot()), model, "seed {seed}, step {step}");
            for (view, then) in &views {
                assert_eq!(all(view), *then, "seed {seed}, step {step}, as of {}", view.seqno());
            }
        }
        assert!(db.verify().unwrap().is_clean(), "seed {seed}");
    }
}
