//! Calls that fail, once or for ever; open files that run out; reads that fail.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use chronolith::{
    Db, Durability, Error, KeyspaceOptions, Options,
    env::{Fault, Loss, Sim},
};

use crate::{
    check::check,
    observe::{Depth, observe},
    runner::{After, Runner},
    sweep::{Tally, for_each_workload, place},
    workload::{Step, Workload},
    workloads::{is_full, put, seed, workloads},
};

/// One call fails; everything goes on. Then: an intact machine, a power cut before the close, one after it.
fn fail_one(workload: &Workload, call: usize, what: &str, fault: Fault) -> Result<(), String> {
    let sim = Sim::new(seed());
    sim.fail_at(call as u64, fault);
    let mut runner = Runner::run(&sim, workload, After::GoOn)?;
    runner.run.salt = call;
    let answers = format!("\n  the run was answered {:?}", runner.run.errors);
    fail_one_and_end(&sim, &mut runner, call, what).map_err(|why| why + &answers)
}

fn fail_one_and_end(sim: &Sim, runner: &mut Runner<'_>, call: usize, what: &str) -> Result<(), String> {
    let workload = runner.workload;
    if sim.calls() <= call as u64 {
        return Err(format!("only {} calls were made", sim.calls()));
    }
    let is_log_sync = what.starts_with("sync wal/") || what == "sync_dir wal";
    // An open that failed, or one that came later, begins anew.
    let reopens = workload.steps.iter().any(|step| matches!(step, Step::Reopen))
        || runner.run.errors.iter().any(|error| error.starts_with("open"));
    sim.clear_faults();
    if let Some(db) = &runner.db {
        let poisoned = matches!(db.health(), Err(Error::Poisoned { .. }));
        if is_log_sync && !reopens && !poisoned {
            return Err(format!("a failed sync of the log did not stop writes; {:?}", runner.run.errors));
        }
        let seen = observe(db, None)?;
        runner.run.explain(&seen, runner.run.all(), runner.run.all()).map_err(|e| format!("still open: {e}"))?;
        // Trouble is over: writes go on, or have stopped for good.
        for step in [Step::Create("a"), Step::WriteAs(Durability::Sync, vec![put("a", 999, 9)]), Step::Flush] {
            match runner.step(&step)? {
                Ok(()) if poisoned && step.writes() => return Err(format!("{step:?} succeeded after a failed sync")),
                Err(error) if !poisoned => return Err(format!("{step:?} fails though the trouble is over: {error}")),
                _ => {}
            }
        }
    }
    let cut = sim.fork();
    cut.cut_power_with(Loss::Everything);
    check(&cut, workload, &runner.run, runner.run.floor, Depth::Look).map_err(|e| format!("cut before close: {e}"))?;

    runner.handles.clear();
    runner.views.clear();
    // A database that did not open again was not closed either.
    let closed = runner.db.take().map(Db::close);
    let is_whole = matches!(closed, Some(Ok(())));
    let run = &runner.run;
    let cut = sim.fork();
    cut.cut_power_with(Loss::Everything);
    let floor = if is_whole { run.all() } else { run.floor };
    check(&cut, workload, run, floor, Depth::Look).map_err(|e| format!("cut after close ({closed:?}): {e}"))?;
    check(sim, workload, run, run.all(), Depth::CutAgain)
        .map_err(|e| format!("opened again after close ({closed:?}): {e}"))
}

#[test]
fn a_call_that_fails_is_told_and_costs_nothing_acknowledged() {
    let started = Instant::now();
    let (tally, exist) = (Tally::default(), AtomicU64::new(0));
    let faults = [Fault::Eio, Fault::Enospc, Fault::ShortWrite, Fault::EioForever, Fault::EnospcForever];
    let points = AtomicU64::new(0);
    for_each_workload(&workloads(), &tally, |workload, trace| {
        points.fetch_add(trace.len() as u64, Ordering::Relaxed);
        for (call, what) in trace.iter().enumerate() {
            for fault in faults {
                let drawn = |fault: Fault| faults.iter().position(|other| *other == fault).unwrap_or(0);
                let applies = workload.tries(call + drawn(fault) * 3, 11)
                    && match fault {
                        // To other calls a short write is an `EIO`.
                        Fault::ShortWrite => what.starts_with("write "),
                        Fault::EioForever => is_full() || call % 2 == 0,
                        Fault::EnospcForever => is_full() || call % 2 == 1,
                        _ => true,
                    };
                if !applies {
                    continue;
                }
                exist.fetch_add(1, Ordering::Relaxed);
                tally.attempt(|| place(workload, call, what, fault), || fail_one(workload, call, what, fault));
            }
        }
    });
    println!(
        "{} points x 3 faults, 4 for writes = {} runs x 3 ends, {:.1?}",
        points.into_inner(),
        tally.tried(),
        started.elapsed()
    );
    tally.end(exist.into_inner());
}

/// The process has no open file left for one call, nor when it is tried again: an error, and no more than that.
fn miss_one(workload: &Workload, call: usize) -> Result<(), String> {
    let sim = Sim::new(seed());
    sim.fail_at(call as u64, Fault::Emfile);
    sim.fail_at(call as u64 + 1, Fault::Emfile);
    let mut runner = Runner::run(&sim, workload, After::GoOn)?;
    runner.run.salt = call;
    let answers = format!("\n  the run was answered {:?}", runner.run.errors);
    let poisoned = runner.db.as_ref().is_some_and(|db| matches!(db.health(), Err(Error::Poisoned { .. })));
    if poisoned {
        return Err(format!("writes have stopped for good{answers}"));
    }
    fail_one_and_end(&sim, &mut runner, call, "missed").map_err(|why| why + &answers)
}

#[test]
fn a_moment_without_an_open_file_stops_nothing_for_good() {
    let (tally, exist) = (Tally::default(), AtomicU64::new(0));
    for_each_workload(&workloads(), &tally, |workload, trace| {
        // What needs an open file, or would where directories are not held open. Behind the rename of CURRENT nobody
        // knows which manifest is in force.
        let opens = |what: &str| what.starts_with("create ") || what == "sync_dir wal" || what == "sync_dir segments";
        for (call, what) in trace.iter().enumerate().filter(|(call, what)| opens(what) && workload.tries(*call, 3)) {
            exist.fetch_add(1, Ordering::Relaxed);
            tally.attempt(|| place(workload, call, what, Fault::Emfile), || miss_one(workload, call));
        }
    });
    println!("{} opens failed twice", tally.tried());
    tally.end(exist.into_inner());
}

#[test]
fn a_read_that_fails_is_told_and_never_gives_wrong_data() {
    let started = Instant::now();
    let (tally, exist) = (Tally::default(), AtomicU64::new(0));
    for_each_workload(&workloads(), &tally, |workload, _| {
        let sim = Sim::new(seed());
        let Ok(runner) = Runner::run(&sim, workload, After::GoOn) else { return };
        let crashed = sim.fork();
        let Runner { run, db, .. } = runner;
        drop(db);
        for (image, how) in [(&crashed, "not closed"), (&sim, "closed")] {
            let (counted, before) = (image.fork(), image.reads());
            let opened = workload.open(&counted).map(|db| observe(&db, None));
            let reads = counted.reads() - before;
            drop(opened);
            for read in 0..reads {
                if !workload.tries(usize::try_from(read).unwrap_or(0), 7) {
                    continue;
                }
                exist.fetch_add(1, Ordering::Relaxed);
                let again = image.fork();
                again.fail_read_at(before + read);
                tally.attempt(
                    || format!("\n\"{}\", seed {}, {how}, read {read} of {reads}", workload.name, seed()),
                    || {
                        if let Ok(db) = workload.open(&again)
                            && let Ok(seen) = observe(&db, None)
                        {
                            run.explain(&seen, run.all(), run.all())?;
                        }
                        check(&again, workload, &run, run.all(), Depth::Look).map_err(|e| format!("afterwards: {e}"))
                    },
                );
            }
        }
    });
    println!("{} failing reads, {:.1?}", tally.tried(), started.elapsed());
    tally.end(exist.into_inner());
}

/// A failed sync is told once by the system, to one of those who sync the file: a second sync, behind it or beside it,
/// finds clean pages and succeeds, although nothing is on the disk. Whoever was told, no other caller may be promised
/// what was lost.
#[test]
fn a_sync_that_failed_for_one_caller_succeeds_for_no_other() {
    let open = |sim: &Sim| Options::new().env(sim.clone()).durability(Durability::Buffered).open("db").unwrap();
    let (mut failed, mut others) = (0, 0);
    for large in [false, true] {
        for call in 0..12 {
            let sim = Sim::new(seed());
            let db = open(&sim);
            let data = db.keyspace("data", KeyspaceOptions::new()).unwrap();
            let value = if large { vec![7; 100_000] } else { b"value".to_vec() };
            let (other, machine, told) = (db.clone(), sim.clone(), Arc::new(AtomicU64::new(0)));
            let tells = Arc::clone(&told);
            let mut once = true;
            sim.on_point(move |point| {
                if point == "sync: positions, then files" && std::mem::take(&mut once) {
                    machine.fail_at(machine.calls() + call, Fault::Eio);
                    // Syncs the logs too, before its edit.
                    let made = other.keyspace("another", KeyspaceOptions::new());
                    tells.store(u64::from(made.is_err()), Ordering::Relaxed);
                }
            });
            let mut batch = db.batch();
            batch.put(&data, "key", &value);
            let answer = batch.commit_with(Durability::Sync);
            sim.ignore_points();
            failed += u64::from(answer.is_err());
            others += told.load(Ordering::Relaxed);
            sim.clear_faults();
            drop((data, db));
            sim.cut_power_with(Loss::Everything);
            let db = open(&sim);
            let data = db.keyspace("data", KeyspaceOptions::new()).unwrap();
            let found = data.get("key").unwrap();
            assert!(answer.is_err() || found.is_some(), "large {large}, call {call}: promised, and lost");
            assert!(found.is_none_or(|found| found == value), "large {large}, call {call}: another value");
        }
    }
    assert!(others > 4 && failed > 4, "{others} others and {failed} commits were told");
}
