//! Random histories against a model that forgets nothing: a map from each key to all that was ever said of it. What
//! that amounts to at a moment, the model works out from the whole list, by the rules of the keyspace's merge
//! strategy.
//!
//! ```text
//!  seed ─▶ operations, plain data ─▶ run on a machine ─▶ every answer = the model's, or a refusal where one is allowed
//!                  ▲                                            │ not so
//!                  └──────────── fewer, while it still fails ◀──┘
//!
//!  author        script                      world              past, state, walk                     shrink
//! ```
//!
//! | variable | means |
//! | --- | --- |
//! | `CHRONOLITH_MODEL_SECONDS` | how long each test goes on; by default 18 |
//! | `CHRONOLITH_MODEL_SEED` | the one seed to run |
//! | `CHRONOLITH_MODEL_FIRST` | the seed to begin with; by default 1 |
//! | `CHRONOLITH_MODEL_LIKE` | words that a failure must have for a shorter script to count |
//! | `CHRONOLITH_MODEL_HUNT` | with any value: every seed that fails gets a line, instead of the shortest script |

#[path = "../support/dice.rs"]
#[expect(dead_code, reason = "a part of it is for other tests")]
mod dice;
#[path = "../support/outcome.rs"]
mod outcome;
#[path = "../support/strategies.rs"]
#[expect(dead_code, reason = "a part of it is for other tests")]
mod strategies;

mod author;
mod past;
mod script;
mod shrink;
mod state;
mod walk;
mod world;

use std::{
    env::var,
    time::{Duration, Instant},
};

use script::History;
use world::{Counts, is_on_disk};

/// What a generator must not stop generating.
const KINDS: [&str; 53] = [
    "put",
    "merge",
    "many operands",
    "refused as invalid",
    "refused as a duplicate",
    "first values kept",
    "values that cannot be folded",
    "appended lists read",
    "delete",
    "delete_range",
    "batch",
    "compare_and_swap",
    "insert_if_absent",
    "update",
    "snapshot",
    "as_of",
    "drop a view",
    "hold a range",
    "move a range",
    "flush",
    "compact",
    "persist",
    "close and open",
    "drop and open",
    "crash",
    "open read-only",
    "drop a keyspace",
    "create a keyspace",
    "open a keyspace late",
    "configure",
    "wait",
    "read the present",
    "read held views",
    "look back",
    "verify",
    "purge",
    "purge_prefix",
    "as_of_time",
    "look back at a time",
    "read histories",
    "compare moments",
    "read commits",
    "pin",
    "unpin",
    "read pins",
    "hold a pin",
    "set a policy",
    "set a time to live",
    "a time to live is refused",
    "copy a moment",
    "step the wall clock",
    "crash at a call",
    "purged bytes looked for",
];

/// Those for which the machine must be a simulated one.
const SIMULATED: [&str; 4] = ["crash", "crash at a call", "step the wall clock", "purged bytes looked for"];

/// Runs histories until the time is over, at least `at_least` of them, and prints what they did.
#[expect(clippy::print_stdout, reason = "counts are for the eye")]
fn run_histories(threads: bool, at_least: u64) {
    let number = |name: &str| var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let only = number("CHRONOLITH_MODEL_SEED");
    let end = Instant::now() + Duration::from_secs(number("CHRONOLITH_MODEL_SECONDS").unwrap_or(18));
    let first = number("CHRONOLITH_MODEL_FIRST").unwrap_or(1);
    let mut totals = Counts::new();
    let (mut histories, mut operations, mut failed) = (0, 0, 0);
    while only.is_none_or(|_| histories == 0) && (Instant::now() < end || histories < at_least) {
        let history = History::draw(only.unwrap_or(first + histories), threads);
        histories += 1;
        let (words, counts, outcome) = history.run();
        operations += words.len();
        for (what, count) in counts {
            *totals.entry(what).or_default() += count;
        }
        if var("CHRONOLITH_MODEL_HUNT").is_ok() {
            if let Err(first) = outcome {
                failed += 1;
                println!("seed {} of {} operations: {first:.600}", history.seed, history.ops.len());
            }
            continue;
        }
        let failure = outcome.err().map(|first| history.report(&first));
        assert!(failure.is_none(), "{}", failure.unwrap_or_default());
    }
    println!("{histories} histories, {operations} operations");
    for (what, count) in &totals {
        println!("{count:>10}  {what}");
    }
    assert!(failed == 0, "{failed} histories failed");
    let missing: Vec<_> =
        KINDS.iter().filter(|kind| !(totals.contains_key(**kind) || threads && SIMULATED.contains(kind))).collect();
    assert!(only.is_some() || is_on_disk() || missing.is_empty(), "never generated: {missing:?}");
}

#[test]
fn any_history_on_a_simulated_machine_is_answered_as_by_the_model() {
    run_histories(false, 50);
}

#[test]
fn any_history_beside_background_threads_is_answered_as_by_the_model() {
    run_histories(true, if is_on_disk() { 5 } else { 50 });
}

/// In a process of its own, since the limit and the current directory are the process's.
#[cfg(unix)]
#[test]
fn any_history_in_a_real_directory_below_a_limit_of_64_open_files_is_answered_as_by_the_model() {
    if is_on_disk() {
        return;
    }
    let this = std::env::current_exe().unwrap_or_else(|error| panic!("this program: {error}"));
    let status = std::process::Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\""])
        .arg(this)
        .args(["--exact", "any_history_beside_background_threads_is_answered_as_by_the_model", "--nocapture"])
        .env("CHRONOLITH_MODEL_DISK", "1")
        .env("CHRONOLITH_MODEL_SECONDS", var("CHRONOLITH_MODEL_SECONDS").unwrap_or_else(|_| "8".to_owned()))
        .status();
    assert!(status.is_ok_and(|status| status.success()), "it failed in its process");
}
