//! `large-bench`: large values, stored once by content, beside a loop of the same parts without an engine.
//!
//! See `README.md` for what is measured and what the columns mean.
//!
//! ```text
//!  rates   ingest, read, write again: each way to cut and store    ┐
//!  memory  what a million chunks leave in memory                   ├▶ store   a database in a directory of its own
//!  insert  what one inserted byte stores anew                      │
//!  collect what it costs to let go of chunks                       │
//!  rechunk what it costs to cut values anew                        ┘
//!    ├▶ bare    the parts without an engine
//!    ├▶ corpus  the files, in memory
//!    └▶ table   lines, and the goals they are held against
//! ```

mod bare;
mod collect;
mod corpus;
mod insert;
mod memory;
mod rates;
mod rechunk;
mod store;
mod table;

use std::{path::Path, process::ExitCode};

use measure::{Result, number};

use crate::table::Table;

const USAGE: &str = "\
large-bench all CORPUS [--rounds 3]      all of these, in turn
large-bench rates CORPUS [--rounds 3] [--case 1]
                                         stored bytes, and rates of writes and reads, beside the bare loop
large-bench memory [--chunks 1000000]    what chunks leave in memory
large-bench insert [--places 20]         what one byte inserted into 1 GiB stores anew
large-bench collect [--megabytes 1024]   what it costs to let go of three chunks in ten, and what a writer loses
large-bench rechunk [--megabytes 1024]   what it costs to cut values anew, and what a writer loses
CORPUS has the folders `real` and `seed30`: see README.md";

fn main() -> ExitCode {
    measure::main(run)
}

fn run(arguments: &[String]) -> Result<()> {
    let Some((command, options)) = arguments.split_first() else { return Err(USAGE.into()) };
    let corpus = || options.first().filter(|first| !first.starts_with("--")).map(Path::new).ok_or(USAGE);
    let rounds = number(options, "--rounds", 3)?;
    let chunks = number(options, "--chunks", 1_000_000)?;
    let places = number(options, "--places", 20)?;
    let case = Some(number(options, "--case", 0)?).filter(|case| *case > 0);
    let mut table = Table::default();
    match command.as_str() {
        "all" => {
            let corpus = corpus()?;
            // First, while nothing else has left anything in memory.
            memory::run(&mut table, chunks)?;
            insert::run(&mut table, places)?;
            collect::run(&mut table, 1024)?;
            rechunk::run(&mut table, 1024)?;
            rates::run(&mut table, corpus, rounds, None)?;
        }
        "rates" => rates::run(&mut table, corpus()?, rounds, case)?,
        "memory" => memory::run(&mut table, chunks)?,
        "insert" => insert::run(&mut table, places)?,
        "rechunk" => rechunk::run(&mut table, number(options, "--megabytes", 1024)?)?,
        "collect" => collect::run(&mut table, number(options, "--megabytes", 1024)?)?,
        _ => return Err(USAGE.into()),
    }
    table.print();
    Ok(())
}
