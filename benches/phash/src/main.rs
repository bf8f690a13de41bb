//! `phash-bench`: perfect hash functions, the segments that use them and maps by themselves, each beside its rivals in
//! one process.
//!
//! See `README.md` for what is measured and what the columns mean.

mod data;
mod function;
mod heap;
mod merge;
mod segment;

use std::process::ExitCode;

use measure::{Result, number};

const USAGE: &str = "\
phash-bench function [--max 10000000]             the bare function, from 10000 keys up
phash-bench segment [--keys 10000000]             point reads: one million keys, then as many as asked
phash-bench merge [--keys 1000000] [--maps 10]    maps by themselves, beside a HashMap";

fn main() -> ExitCode {
    measure::main(run)
}

fn run(arguments: &[String]) -> Result<()> {
    let Some((command, options)) = arguments.split_first() else { return Err(USAGE.into()) };
    match command.as_str() {
        "function" => function::run(number(options, "--max", 10_000_000)?),
        "segment" => segment::run(number(options, "--keys", 10_000_000)?)?,
        "merge" => merge::run(number(options, "--keys", 1_000_000)?, number(options, "--maps", 10)?)?,
        merge::SIDE => merge::run_side(options)?,
        _ => return Err(USAGE.into()),
    }
    Ok(())
}
