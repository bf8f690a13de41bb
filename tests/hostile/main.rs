//! Any bytes in any file, anything in place of any file: the exact data or an error that names a file, never anything
//! else.
//!
//! Small databases are damaged one file at a time, then opened, read in every way, verified, written to and opened
//! again:
//!
//! ```text
//!  closed      a clean end: every flip is found, or hit bytes that carry nothing
//!  crashed     logs without an end: what was never known synced may go, as a tail of the commits
//!  layered     segments in levels, tombstones of ranges, versions kept for a view, a sealed log and an open one
//!  folding     sums, lists and first values: operands in segments, memtables and logs, kept apart for a view
//!  indexed     segments with perfect-hash index and filter, small ones and one large enough to get it by itself
//!  past        segments of the history tier with differences and open tombstones, a timeline, a pin, a purge;
//!              versions in several blocks
//! ```
//!
//! Without `CHRONOLITH_HOSTILE_FULL=1` one drawn bit pattern is flipped in each byte and some lengths are left out.
//! `CHRONOLITH_HOSTILE_ONLY` takes those with that in their names.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::exit,
    reason = "a test fails by panicking and tells what it ran"
)]

mod cases;
mod files;
mod memory;
#[cfg(unix)]
mod planted;
mod reading;
mod templates;

#[path = "../support/damage.rs"]
mod damage;
#[path = "../support/strategies.rs"]
#[expect(dead_code, reason = "a part of it is for other tests")]
mod strategies;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use cases::{Case, cases};
use damage::Damage;
use files::{carries, kind};
use memory::{LARGEST_REQUEST, forget_requests, largest_request};
use reading::Outcome;
use templates::{Template, foreign, templates};

/// No case takes longer, whatever else the machine does: they take some milliseconds, and a busy machine may stop for
/// half a minute.
const LONGEST_CASE: Duration = Duration::from_secs(120);

/// What a worker is at, for the one who watches.
type Slot = Mutex<Option<(Instant, String)>>;

#[derive(Default)]
struct Tally {
    outcomes: BTreeMap<(&'static str, &'static str), BTreeMap<Outcome, usize>>,
    wrong: Vec<String>,
    flips_unseen: BTreeMap<(&'static str, String), Vec<usize>>,
}

fn run_all(templates: &[Template], cases: &[Case]) -> Tally {
    let tally = Mutex::new(Tally::default());
    let next = AtomicUsize::new(0);
    let done = AtomicBool::new(false);
    let workers = thread::available_parallelism().map_or(2, usize::from);
    let slots: Vec<Slot> = (0..workers).map(|_| Slot::default()).collect();
    thread::scope(|scope| {
        let handles: Vec<_> = slots
            .iter()
            .map(|slot| {
                scope.spawn(|| {
                    while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                        run_one(&templates[case.template], case, slot, &tally);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for slot in &slots {
                    if let Some((since, what)) = &*slot.lock().unwrap()
                        && since.elapsed() > LONGEST_CASE
                    {
                        eprintln!("it does not end: {what}");
                        std::process::exit(101);
                    }
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        for handle in handles {
            handle.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    tally.into_inner().unwrap()
}

fn run_one(template: &Template, case: &Case, slot: &Slot, tally: &Mutex<Tally>) {
    let (path, _) = &template.files[case.file];
    let map = if case.mmap { "mapped" } else { "not mapped" };
    let what = format!("{}: {} {}, {map}", template.name, path.display(), case.damage.name());
    *slot.lock().unwrap() = Some((Instant::now(), what.clone()));
    forget_requests();
    let run = catch_unwind(AssertUnwindSafe(|| template.run(case.file, &case.damage, case.mmap)));
    *slot.lock().unwrap() = None;
    let largest = largest_request();
    let result = match run {
        Ok(_) if largest > LARGEST_REQUEST => Err(format!("{largest} bytes of memory at once")),
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            Err(format!(
                "panic: {}",
                text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
            ))
        }
    };
    let tally = &mut *tally.lock().unwrap();
    match result {
        Ok(outcome) => {
            *tally.outcomes.entry((template.name, kind(path))).or_default().entry(outcome).or_default() += 1;
            if let (Outcome::Exact, Damage::Flip(at, _)) = (outcome, &case.damage) {
                let unseen = tally.flips_unseen.entry((template.name, path.display().to_string())).or_default();
                if unseen.last() != Some(at) {
                    unseen.push(*at);
                }
            }
        }
        Err(wrong) => tally.wrong.push(format!("{what}: {wrong}")),
    }
}

#[test]
fn any_damage_to_any_one_file_is_told_or_harmless() {
    let full = std::env::var_os("CHRONOLITH_HOSTILE_FULL").is_some();
    let began = Instant::now();
    let templates = templates();
    let foreign = foreign();
    let cases: Vec<_> = templates.iter().enumerate().flat_map(|(n, t)| cases(n, t, &foreign, full)).collect();
    let tally = run_all(&templates, &cases);

    let mut text = String::new();
    for ((template, kind), outcomes) in &tally.outcomes {
        writeln!(text, "{template:16} {kind:9} {outcomes:?}").unwrap();
    }
    for ((template, path), places) in &tally.flips_unseen {
        writeln!(text, "{template}: {path}: {} flips changed nothing that counts", places.len()).unwrap();
    }
    println!("{text}{} cases in {:?}", cases.len(), began.elapsed());
    let shown: Vec<_> = tally.wrong.iter().take(40).map(String::as_str).collect();
    assert!(tally.wrong.is_empty(), "{} of {} cases went wrong:\n{}", tally.wrong.len(), cases.len(), shown.join("\n"));
    // A clean end seals: what a file carries is all covered.
    for ((template, path), places) in tally.flips_unseen {
        let Some(Template { files, .. }) = templates.iter().find(|one| one.name == template && one.clean) else {
            continue;
        };
        let (path, bytes) = files.iter().find(|(there, _)| there.to_string_lossy() == path).unwrap();
        let uncovered: Vec<_> = places.into_iter().filter(|at| carries(path, bytes, *at)).collect();
        assert!(uncovered.is_empty(), "{template}: {}: flips went unseen at {uncovered:?}", path.display());
    }
}
