//! Checkpoints.

use super::*;

/// Copies hold recipes as recipes, with the packs that those need: also of a moment, also of what no flush has named.
#[test]
fn checkpoints_of_the_present_of_views_and_of_read_only_databases_hold_large_values() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new().policy(Policy::mvcc(5, HOUR))).unwrap();
    let tenant = db.keyspace("t", KeyspaceOptions::new().dedup_scope("tenant 7")).unwrap();
    for seed in 0..3 {
        k.put("key", noise(seed, 200_000)).unwrap();
        tenant.put(format!("{seed}"), noise(seed, 2 << 20)).unwrap();
        if seed < 2 {
            db.flush().unwrap();
        }
    }
    let then = db.snapshot();
    k.put("key", noise(3, 200_000)).unwrap();
    let check = |path: &str, newest: u64| {
        let copy = Options::new().env(machine.clone()).open(path).unwrap();
        let k = copy.keyspace("k", KeyspaceOptions::new()).unwrap();
        assert!(k.get("key").unwrap().unwrap() == noise(newest, 200_000), "{path}");
        let tenant = copy.keyspace("t", KeyspaceOptions::new()).unwrap();
        for seed in 0..3 {
            assert!(tenant.get(format!("{seed}")).unwrap().unwrap() == noise(seed, 2 << 20), "{path}");
        }
        assert!(copy.verify().unwrap().is_clean(), "{path}");
        // It goes on by itself, with chunks of its own.
        k.put("new", noise(50, 200_000)).unwrap();
        tenant.put("new", noise(0, 2 << 20)).unwrap();
        copy.flush().unwrap();
        k.put("more", noise(51, 200_000)).unwrap();
        copy.compact().unwrap();
        assert!(k.get("new").unwrap().unwrap() == noise(50, 200_000));
        assert!(copy.verify().unwrap().is_clean(), "{path}");
    };
    then.checkpoint("/then").unwrap();
    check("/then", 2);
    db.checkpoint("/now").unwrap();
    check("/now", 3);
    k.put("key", noise(4, 200_000)).unwrap();
    drop((k, tenant, then));
    machine.cut_power_with(Loss::Nothing);
    drop(db);
    let reader = Options::new().env(machine.clone()).read_only(true).open("/db").unwrap();
    reader.checkpoint("/read").unwrap();
    check("/read", 4);
    drop(reader);
    check("/db", 4);
}

/// L7: all parts of a copy are of one superversion, whatever is collected meanwhile.
#[test]
fn a_view_is_copied_whole_beside_a_collection() {
    let machine = Sim::new(1);
    let db = open(&machine);
    for name in ["a", "b"] {
        let k = db.keyspace(name, KeyspaceOptions::new()).unwrap();
        k.put("key", noise(1, 300_000)).unwrap();
        k.put("junk", noise(2, 300_000)).unwrap();
    }
    db.flush().unwrap();
    let view = db.snapshot();
    for name in ["a", "b"] {
        db.keyspace(name, KeyspaceOptions::new()).unwrap().delete("junk").unwrap();
    }
    let copied = db.snapshot();
    drop(view);
    let other = db.clone();
    once_at(&machine, "view checkpoint: one keyspace, then the next", move || drop(other.compact().unwrap()));
    copied.checkpoint("/copy").unwrap();
    machine.ignore_points();
    let copy = Options::new().env(machine.clone()).open("/copy").unwrap();
    for name in ["a", "b"] {
        let k = copy.keyspace(name, KeyspaceOptions::new()).unwrap();
        assert!(k.get("key").unwrap().unwrap() == noise(1, 300_000), "{name}");
    }
    assert!(copy.verify().unwrap().is_clean());
}

/// L6: places are at seqnos of no commit, and a copy gives none of those out again.
#[test]
fn a_copy_gives_out_no_seqno_at_which_places_stand() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    k.put("kept", noise(1, 300_000)).unwrap();
    k.put("junk", noise(2, 300_000)).unwrap();
    k.put("junk", "small").unwrap();
    // Places of the flush, and behind them those of a collection.
    db.compact().unwrap();
    db.checkpoint("/copy").unwrap();
    let copy = Options::new().env(machine.clone()).open("/copy").unwrap();
    let k = copy.keyspace("k", KeyspaceOptions::new()).unwrap();
    for round in 0..6u64 {
        k.put(format!("{round}"), noise(20 + round, 100_000)).unwrap();
        copy.flush().unwrap();
    }
    assert!(k.get("kept").unwrap().unwrap() == noise(1, 300_000) && copy.verify().unwrap().is_clean());
    copy.compact().unwrap();
    assert!(copy.verify().unwrap().is_clean());
}

/// L7: what is linked is of the moment of the copy, also if a collection has let it go in between.
#[test]
fn a_database_is_copied_whole_beside_a_collection() {
    for point in ["checkpoint: flush, then moment", "checkpoint: moment, then links"] {
        let machine = Sim::new(1);
        let db = open(&machine);
        let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        for (key, seed) in [("key", 1), ("junk", 2)] {
            k.put(key, noise(seed, 300_000)).unwrap();
        }
        db.flush().unwrap();
        let other = (db.clone(), k.clone());
        once_at(&machine, point, move || {
            let (db, k) = other;
            k.delete("junk").unwrap();
            drop(db.compact().unwrap());
        });
        db.checkpoint("/copy").unwrap();
        machine.ignore_points();
        let copy = Options::new().env(machine.clone()).open("/copy").unwrap();
        let k = copy.keyspace("k", KeyspaceOptions::new()).unwrap();
        assert!(k.get("key").unwrap().unwrap() == noise(1, 300_000), "{point}");
        assert!(copy.verify().unwrap().is_clean(), "{point}");
    }
}
