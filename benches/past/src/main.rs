//! `past-bench`: what chronolith's past costs.
//!
//! See `README.md` for what is measured and what the columns mean.

mod beside;
mod data;
mod depth;
mod many;
mod queue;
mod versions;
mod walks;
mod window;

use std::process::ExitCode;

use measure::{Result, number};

const USAGE: &str = "\
past-bench all [--keys 1000000]          all of these, in turn
past-bench versions [--keys 1000000]     ten versions of each key beside one
past-bench depth [--versions 1000000]    10, 100 and 1000 versions of each key
past-bench queue [--items 2000000]       the head of a queue
past-bench walks [--dead 50000]          both ends of queues, keys of a short life, one version of many
past-bench window [--turns 20000]        a sliding window, trimmed by ranges
past-bench many [--keyspaces 10000]      many small keyspaces beside one
past-bench beside [--megabytes 250]      puts beside a compaction of another keyspace";

fn main() -> ExitCode {
    measure::main(run)
}

fn run(arguments: &[String]) -> Result<()> {
    let Some((command, options)) = arguments.split_first() else { return Err(USAGE.into()) };
    match command.as_str() {
        "all" => {
            let keys = number(options, "--keys", 1_000_000)?;
            versions::run(keys)?;
            depth::run(keys)?;
            queue::run(keys * 2)?;
            walks::run(50_000)?;
            window::run(20_000)?;
            many::run(1000)?;
            beside::run(100)
        }
        "versions" => versions::run(number(options, "--keys", 1_000_000)?),
        "depth" => depth::run(number(options, "--versions", 1_000_000)?),
        "queue" => queue::run(number(options, "--items", 2_000_000)?),
        "walks" => walks::run(number(options, "--dead", 50_000)?),
        "window" => window::run(number(options, "--turns", 20_000)?),
        "many" => many::run(number(options, "--keyspaces", 10_000)?),
        "beside" => beside::run(number(options, "--megabytes", 250)?),
        _ => Err(USAGE.into()),
    }
}
