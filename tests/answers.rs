//! What an error of a write means: it was not applied, or the error says that it was, or the database takes no more
//! writes. Every call of every verb fails once, in several ways, on a database that is fresh, that was closed, and
//! whose process died; then the verb is run again, the process dies, the power goes, and each time it counts once at
//! most, and exactly once where it was acknowledged.

#![expect(clippy::unwrap_used, clippy::unnecessary_wraps, reason = "a test fails by panicking; verbs have one shape")]

use std::time::Duration;

use chronolith::{
    Db, Durability, Error, Keyspace, KeyspaceOptions, MergeStrategy, Options, Policy, Receipt, Result,
    env::{Fault, Loss, Sim},
};

const FAULTS: [Fault; 5] = [Fault::Eio, Fault::Enospc, Fault::ShortWrite, Fault::EioForever, Fault::EnospcForever];

/// How the process before ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Closed,
    Died,
}

/// An open database, with the keyspaces that verbs write.
struct World {
    db: Db,
    values: Keyspace,
    sums: Keyspace,
    firsts: Keyspace,
}

/// A verb, and how often it has counted: never, once, or more often; nothing where that cannot be told.
struct Verb {
    name: &'static str,
    run: fn(&World) -> Result<Option<Receipt>>,
    counted: fn(&World) -> u64,
}

fn number(value: i64) -> [u8; 8] {
    value.to_le_bytes()
}

fn sum(world: &World) -> u64 {
    let value = world.sums.get("n").unwrap().unwrap();
    let total = i64::from_le_bytes(value[..].try_into().unwrap());
    u64::try_from((total - 1) / 10).unwrap()
}

fn grown(world: &World) -> u64 {
    world.values.get("n").unwrap().unwrap().len() as u64 - 1
}

fn grow(old: Option<&[u8]>) -> Option<Vec<u8>> {
    Some([old.unwrap_or_default(), b"+"].concat())
}

fn batch(world: &World, durability: Durability) -> Result<Option<Receipt>> {
    let mut batch = world.db.batch();
    batch.merge(&world.sums, "n", number(10));
    batch.put(&world.values, "beside", "it");
    batch.commit_with(durability).map(Some)
}

/// A batch that finds the sync of the one before it due.
fn at_an_interval(world: &World) -> Result<Option<Receipt>> {
    let at_once = Durability::Interval(Duration::from_nanos(1));
    let mut before = world.db.batch();
    before.put(&world.values, "beside", "before");
    before.commit_with(at_once)?;
    batch(world, at_once)
}

const VERBS: [Verb; 13] = [
    Verb { name: "merge", run: |world| world.sums.merge("n", number(10)).map(Some), counted: sum },
    Verb {
        name: "put",
        run: |world| world.values.put("new", "value").map(Some),
        counted: |world| u64::from(world.values.contains("new").unwrap()),
    },
    Verb {
        name: "delete",
        run: |world| world.values.delete("old").map(Some),
        counted: |world| u64::from(!world.values.contains("old").unwrap()),
    },
    Verb {
        name: "delete range",
        run: |world| world.values.delete_range("o".."p").map(Some),
        counted: |world| u64::from(!world.values.contains("old").unwrap()),
    },
    Verb { name: "batch", run: |world| batch(world, Durability::Sync), counted: sum },
    Verb { name: "buffered batch", run: |world| batch(world, Durability::Buffered), counted: sum },
    Verb { name: "batch at an interval", run: at_an_interval, counted: sum },
    Verb { name: "update", run: |world| world.values.update("n", grow).map(Some), counted: grown },
    Verb {
        name: "insert",
        run: |world| world.firsts.insert_if_absent("new", "value"),
        counted: |world| u64::from(world.firsts.contains("new").unwrap()),
    },
    Verb {
        name: "pin",
        run: |world| world.db.pin("p").map(|_| None),
        counted: |world| world.db.pins().iter().filter(|pin| pin.name == "p").count() as u64,
    },
    Verb {
        name: "unpin",
        run: |world| world.db.unpin("old").map(|()| None),
        counted: |world| u64::from(world.db.pins().iter().all(|pin| pin.name != "old")),
    },
    Verb {
        name: "make a keyspace",
        run: |world| world.db.keyspace("new", KeyspaceOptions::new()).map(|_| None),
        counted: |world| u64::from(world.db.keyspaces().iter().any(|name| name == "new")),
    },
    Verb {
        name: "drop a keyspace",
        run: |world| world.db.drop_keyspace("old").map(|()| None),
        counted: |world| u64::from(world.db.keyspaces().iter().all(|name| name != "old")),
    },
];

fn open(sim: &Sim) -> Result<World> {
    let db = Options::new().env(sim.clone()).durability(Durability::Sync).open("db")?;
    let sums = KeyspaceOptions::new().merge(MergeStrategy::Sum);
    let firsts = KeyspaceOptions::new().merge(MergeStrategy::FirstWins);
    let values = db.keyspace("values", KeyspaceOptions::new())?;
    Ok(World { values, sums: db.keyspace("sums", sums)?, firsts: db.keyspace("firsts", firsts)?, db })
}

/// A machine on which a process wrote something and ended.
fn before(how: Before) -> Sim {
    let sim = Sim::new(7);
    let world = open(&sim).unwrap();
    let old =
        world.db.keyspace("old", KeyspaceOptions::new().policy(Policy::mvcc(1, Duration::from_secs(60)))).unwrap();
    world.sums.put("n", number(1)).unwrap();
    world.db.pin("old").unwrap();
    world.db.flush().unwrap();
    let mut batch = world.db.batch();
    batch.put(&world.values, "old", "value");
    batch.put(&world.values, "n", "-");
    batch.put(&old, "k", "value");
    batch.commit_with(Durability::Buffered).unwrap();
    match how {
        Before::Closed => {
            world.db.close().unwrap();
            sim.fork()
        }
        // Its page cache lives on.
        Before::Died => sim.fork(),
    }
}

/// How many changing calls a verb makes by itself.
fn calls(image: &Sim, verb: &Verb) -> u64 {
    let sim = image.fork();
    let world = open(&sim).unwrap();
    let before = sim.calls();
    (verb.run)(&world).unwrap();
    sim.calls() - before
}

/// Runs a verb that meets a fault. Gives what is wrong.
fn fail(image: &Sim, verb: &Verb, call: u64, fault: Fault) -> std::result::Result<(), String> {
    let sim = image.fork();
    let world = open(&sim).unwrap();
    sim.fail_at(sim.calls() + call, fault);
    let got = (verb.run)(&world);
    sim.clear_faults();
    let counted = (verb.counted)(&world);
    let poisoned = matches!(world.values.put("probe", ""), Err(Error::Poisoned { .. }));
    let mut wanted = 1;
    match &got {
        Ok(_) | Err(Error::NotDurable { .. }) if counted == 1 => {}
        Ok(_) => return Err(format!("it answers Ok, and counted {counted} times")),
        Err(error) if poisoned => {
            if counted > 1 {
                return Err(format!("it answers {error}, and counted {counted} times"));
            }
            wanted = 0;
        }
        Err(error) if counted == 0 => {
            // It was not applied, so it is done again.
            (verb.run)(&world).map_err(|again| format!("it answers {error}, and then {again}"))?;
            let counted = (verb.counted)(&world);
            if counted != 1 {
                return Err(format!("after {error} it was done again, and counted {counted} times"));
            }
        }
        Err(error) => return Err(format!("it answers {error}, and counted {counted} times")),
    }
    let sooner = !matches!(verb.name, "buffered batch" | "batch at an interval");
    let unsynced = !sooner || matches!(got, Err(Error::NotDurable { .. }));
    let synced = if unsynced { 0 } else { wanted };
    reopen(&sim, verb, None, wanted)?;
    reopen(&sim, verb, Some(Loss::Everything), synced)?;
    reopen(&sim, verb, Some(Loss::Nothing), if poisoned { 0 } else { wanted })
}

/// Opens what is there after the process died, or after the power went: it counted so often at least, and not twice.
fn reopen(sim: &Sim, verb: &Verb, loss: Option<Loss>, wanted: u64) -> std::result::Result<(), String> {
    let sim = sim.fork();
    if let Some(loss) = loss {
        sim.cut_power_with(loss);
    }
    let world = open(&sim).map_err(|error| format!("opened after {loss:?}: {error}"))?;
    // The value itself may have gone with what was not synced before it.
    let there = world.values.contains("n").map_err(|error| error.to_string())?;
    let counted = if there { (verb.counted)(&world) } else { wanted };
    let right = (wanted..=1).contains(&counted);
    if right { Ok(()) } else { Err(format!("opened after {loss:?} it counted {counted} times, and not {wanted}")) }
}

#[test]
fn an_error_of_a_write_says_whether_it_was_applied() {
    let mut wrong = Vec::new();
    let mut run = 0;
    for how in [Before::Closed, Before::Died] {
        let image = before(how);
        for verb in &VERBS {
            for call in 0..calls(&image, verb) {
                for fault in FAULTS {
                    run += 1;
                    if let Err(what) = fail(&image, verb, call, fault) {
                        wrong.push(format!("{how:?}, {}, call {call}, {fault:?}: {what}", verb.name));
                    }
                }
            }
        }
    }
    eprintln!("{run} faults");
    assert!(wrong.is_empty(), "{} of {run}:\n{}", wrong.len(), wrong.join("\n"));
}
