//! `phash-bench`: perfect hash functions, the segments that use them and maps by themselves, each beside its rivals in one process.
//!
//! See `README.md` for what is measured and what the columns mean.

mod clock;
mod data;
mod function;
mod goal;
mod heap;
mod merge;
mod segment;

use std::process::ExitCode;

const USAGE: &str = "\
phash-bench function [--max 10000000]             the bare function, from 10000 keys up
phash-bench segment [--keys 10000000]             point reads: one million keys, then as many as asked
phash-bench merge [--keys 1000000] [--maps 10]    maps by themselves, beside a HashMap";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), Box<dyn std::error::Error>> {
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

/// The number behind an option.
fn number(options: &[String], name: &str, default: usize) -> Result<usize, Box<dyn std::error::Error>> {
    let Some(at) = options.iter().position(|option| option == name) else { return Ok(default) };
    let value = options.get(at + 1).ok_or_else(|| format!("{name} needs a number"))?;
    Ok(value.parse().map_err(|_| format!("{name} needs a number, not {value}"))?)
}
