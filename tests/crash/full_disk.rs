//! Disks that are full, have room again, and are full again.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Instant,
};

use chronolith::{
    Durability, Error,
    env::{Loss, Sim},
};

use crate::{
    check::check,
    observe::{Depth, failed, verify},
    runner::{After, Runner},
    sweep::Tally,
    workload::{Step, Workload},
    workloads::{seed, write},
};

/// Fills a disk of `space` bytes, frees it, fills it again.
fn fill(space: u64, len: usize, durability: Durability) -> Result<u64, String> {
    let workload = Workload { name: "disk full", durability, l0_threshold: 2, steps: Vec::new() };
    let sim = Sim::new(seed());
    let mut runner = Runner::run(&sim, &workload, After::GoOn)?;
    runner.step(&Step::Create("a"))?.map_err(failed("create"))?;
    let (mut key, mut full) = (0, 0);
    for round in 1..=3 {
        sim.set_space(Some(space * round));
        let mut refused = 0;
        for tries in 0.. {
            key = (key + 1) % 400;
            let putting = write("a", key, len);
            match runner.step(&putting)? {
                Ok(()) if tries > 4000 => return Err("the disk never fills".to_owned()),
                Ok(()) => {}
                Err(error @ Error::DiskFull) => {
                    runner.after_error(&putting, &error)?;
                    refused += 1;
                    full += 1;
                    // Whatever needs room may say that there is none, and reads go on.
                    for step in [Step::Flush, Step::Compact, Step::Persist] {
                        match runner.step(&step)? {
                            Err(error @ Error::DiskFull) => runner.after_error(&step, &error)?,
                            Err(error) => return Err(format!("{step:?} on a full disk: {error}")),
                            Ok(()) => {}
                        }
                    }
                    if refused == 3 {
                        break;
                    }
                }
                Err(error) => return Err(format!("a full disk is no reason to say {error}")),
            }
        }
        let cut = sim.fork();
        cut.set_space(None);
        cut.cut_power_with(Loss::Everything);
        check(&cut, &workload, &runner.run, runner.run.floor, Depth::CutAgain)
            .map_err(|e| format!("cut while full: {e}"))?;
        sim.set_space(None);
        for step in [write("a", 900, len), Step::Persist, Step::Flush, Step::Compact] {
            runner.step(&step)?.map_err(failed("with space again"))?;
        }
        if let Some(db) = &runner.db {
            db.health().map_err(failed("health with space again"))?;
            verify(db)?;
        }
        if round == 2 {
            runner.step(&Step::Reopen)?.map_err(failed("reopen"))?;
        }
    }
    runner.step(&Step::Reopen)?.map_err(failed("reopen"))?;
    let Runner { run, db, handles, .. } = runner;
    drop((db, handles));
    check(&sim, &workload, &run, run.all(), Depth::CutAgain)?;
    Ok(full)
}

#[test]
fn a_full_disk_stops_writes_and_nothing_else() {
    let started = Instant::now();
    let (tally, full) = (Tally::default(), AtomicU64::new(0));
    let durabilities = [Durability::Sync, Durability::Buffered];
    // From "hardly a manifest fits" to "some memtables fit", and off every page boundary.
    let spaces: Vec<u64> = (0..24).map(|n| 8_191 + n * 60_013).collect();
    let cases: Vec<_> =
        spaces.iter().flat_map(|s| durabilities.map(|d| [9, 3_000, 40_000].map(|l| (*s, l, d)))).collect();
    let cases: Vec<_> = cases.into_iter().flatten().filter(|(space, len, _)| *len > 9 || *space < 100_000).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(&(space, len, durability)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    tally.attempt(
                        || format!("\ndisk of {space} bytes, values of {len}, {durability:?}, seed {}", seed()),
                        || {
                            fill(space, len, durability).map(|times| {
                                full.fetch_add(times, Ordering::Relaxed);
                            })
                        },
                    );
                }
            });
        }
    });
    println!("{} disks filled, {} writes refused, {:.1?}", tally.tried(), full.into_inner(), started.elapsed());
    tally.end(cases.len() as u64);
}
