//! Power cuts, also inside of recovery, processes that die, and runs that replay.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use chronolith::env::{Fault, Loss, Sim};

use crate::{
    check::check,
    observe::Depth,
    runner::{After, Runner},
    sweep::{Tally, for_each_workload, place},
    workload::Workload,
    workloads::{is_full, named, seed, workloads},
};

/// Runs a workload up to a power cut at a call.
fn run_to_cut<'a>(sim: &'a Sim, workload: &'a Workload, call: usize) -> Result<Runner<'a>, String> {
    sim.fail_at(call as u64, Fault::Cut);
    let mut runner = Runner::run(sim, workload, After::Stop)?;
    runner.run.salt = call;
    if sim.calls() == call as u64 + 1 { Ok(runner) } else { Err(format!("the run made {} calls", sim.calls())) }
}

fn cut_everywhere(workloads: &[Workload]) {
    let started = Instant::now();
    let (tally, points) = (Tally::default(), AtomicU64::new(0));
    for_each_workload(workloads, &tally, |workload, trace| {
        let tried = (0..trace.len()).filter(|call| workload.tries(*call, 3)).count();
        points.fetch_add(tried as u64, Ordering::Relaxed);
        println!("  {:<44} {:>5} points, {tried} tried", workload.name, trace.len());
        for (call, what) in trace.iter().enumerate().filter(|(call, _)| workload.tries(*call, 3)) {
            let sim = Sim::new(seed());
            let runner = match catch_unwind(AssertUnwindSafe(|| run_to_cut(&sim, workload, call))) {
                Ok(Ok(runner)) => runner,
                Ok(Err(why)) => {
                    tally.attempt(|| place(workload, call, what, "before the cut"), || Err(why));
                    continue;
                }
                Err(_) => {
                    tally.attempt(|| place(workload, call, what, "before the cut"), || Err("panicked".to_owned()));
                    continue;
                }
            };
            for loss in Loss::ALL {
                let image = sim.fork();
                image.cut_power_with(loss);
                tally.attempt(
                    || place(workload, call, what, loss),
                    || check(&image, workload, &runner.run, runner.run.floor, Depth::Work),
                );
            }
        }
    });
    let points = points.into_inner();
    println!("{points} points x 6 losses = {} images, {:.1?}", tally.tried(), started.elapsed());
    tally.end(points * Loss::ALL.len() as u64);
}

#[test]
fn a_power_cut_at_any_call_leaves_a_prefix_of_whole_batches() {
    cut_everywhere(&workloads());
}

#[test]
fn a_process_that_dies_loses_nothing() {
    let started = Instant::now();
    let (tally, exist) = (Tally::default(), AtomicU64::new(0));
    for_each_workload(&workloads(), &tally, |workload, _| {
        for steps in 0..=workload.steps.len() {
            exist.fetch_add(1, Ordering::Relaxed);
            let start = workload.steps.iter().take(steps).cloned().collect();
            let start = Workload { steps: start, ..workload.clone() };
            tally.attempt(
                || format!("\n\"{}\", seed {}, after {steps} steps", workload.name, seed()),
                || {
                    let sim = Sim::new(seed());
                    let runner = Runner::run(&sim, &start, After::GoOn)?;
                    // What the system has and the disk may not have is still there; nobody closed anything.
                    check(&sim.fork(), &start, &runner.run, runner.run.all(), Depth::CutAgain)
                },
            );
        }
    });
    println!("{} ends of a process, {:.1?}", tally.tried(), started.elapsed());
    tally.end(exist.into_inner());
}

#[test]
fn a_second_power_cut_during_recovery_changes_nothing() {
    let started = Instant::now();
    let (tally, exist) = (Tally::default(), AtomicU64::new(0));
    let some = [
        "batches across keyspaces",
        "create, drop, create again",
        "close and open again",
        "large values, buffered, streamed, and of a scope",
        "past: asked for by time",
    ];
    // Every call is met in the first sweep already; here every call of a recovery is, after some of them.
    let (workloads, stride) = if is_full() { (workloads(), 1) } else { (named(&some), 5) };
    let losses = [Loss::Everything, Loss::Torn];
    for_each_workload(&workloads, &tally, |workload, trace| {
        for (call, what) in trace.iter().enumerate().step_by(stride).filter(|(call, _)| workload.tries(*call, 7)) {
            let sim = Sim::new(seed());
            let Ok(runner) = run_to_cut(&sim, workload, call) else {
                continue; // Told by the sweep of first cuts.
            };
            let run = &runner.run;
            for first in losses {
                let image = sim.fork();
                image.cut_power_with(first);
                let (counted, before) = (image.fork(), image.calls());
                let opened = workload.open(&counted);
                let calls = counted.calls() - before;
                drop(opened);
                exist.fetch_add(calls * losses.len() as u64, Ordering::Relaxed);
                for within in 0..calls {
                    let again = image.fork();
                    again.fail_at(before + within, Fault::Cut);
                    let opened = catch_unwind(AssertUnwindSafe(|| workload.open(&again)));
                    for second in losses {
                        let depth = if second == Loss::Everything { Depth::Work } else { Depth::Look };
                        let image = again.fork();
                        image.cut_power_with(second);
                        tally.attempt(
                            || place(workload, call, what, (first, "then call", within, "of recovery", second)),
                            || {
                                if opened.is_err() {
                                    return Err("opening panicked".to_owned());
                                }
                                check(&image, workload, run, run.floor, depth)
                            },
                        );
                    }
                }
            }
        }
    });
    println!("{} images after two cuts, {:.1?}", tally.tried(), started.elapsed());
    tally.end(exist.into_inner());
}

fn files(sim: &Sim) -> Vec<(PathBuf, Vec<u8>)> {
    sim.files()
        .into_iter()
        .map(|path| {
            let bytes = sim.read_file(&path).unwrap_or_default();
            (path, bytes)
        })
        .collect()
}

#[test]
fn a_seed_replays_byte_for_byte() {
    let (tally, exist) = (Tally::default(), AtomicU64::new(0));
    for_each_workload(&workloads(), &tally, |workload, trace| {
        // Undisturbed, and with cuts here and there: what survives them is drawn from the seed too.
        let cuts = (0..trace.len()).step_by(if workload.has_past() && !is_full() { 61 } else { 7 });
        let cuts = cuts.map(Some).chain([None]);
        for cut in cuts {
            exist.fetch_add(1, Ordering::Relaxed);
            let once = || {
                let sim = Sim::new(seed());
                if let Some(call) = cut {
                    sim.fail_at(call as u64, Fault::Cut);
                }
                let runner = Runner::run(&sim, workload, After::Stop)?;
                let newest = runner.run.newest;
                drop(runner);
                let closed = files(&sim);
                sim.cut_power();
                let torn = files(&sim);
                drop(workload.open(&sim));
                Ok::<_, String>((newest, sim.calls(), sim.reads(), closed, torn, files(&sim)))
            };
            tally.attempt(
                || format!("\n\"{}\", seed {}, cut at {cut:?}", workload.name, seed()),
                || if once()? == once()? { Ok(()) } else { Err("two runs differ".to_owned()) },
            );
        }
    });
    println!("{} runs, twice each", tally.tried());
    tally.end(exist.into_inner());
}
