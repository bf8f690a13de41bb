//! A Markdown table of what was measured, and goals behind it.

use measure::{clock::median, goal};

/// What a number is held against.
#[derive(Clone, Copy)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

#[derive(Default)]
pub struct Table {
    lines: Vec<String>,
    goals: Vec<(String, f64, Goal)>,
}

/// Prints a number with three digits or more.
fn short(number: f64) -> String {
    match number {
        number if number.is_nan() => String::new(),
        number if number >= 100.0 => format!("{number:.0}"),
        number if number >= 10.0 => format!("{number:.1}"),
        number => format!("{number:.3}"),
    }
}

impl Table {
    /// Adds a number of chronolith alone.
    pub fn number(&mut self, what: &str, number: f64, goal: Option<Goal>) {
        self.lines.push(format!("| {what} | {} | | |", short(number)));
        self.goals.extend(goal.map(|goal| (what.into(), number, goal)));
    }

    /// Adds rates of chronolith and of the bare loop, each round beside the other: medians, and the median of ratios.
    pub fn rates(&mut self, what: &str, store: &[f64], bare: &[f64], goals: [Option<Goal>; 2]) {
        let ratios: Vec<f64> = store.iter().zip(bare).map(|(store, bare)| store / bare).collect();
        let (rate, ratio) = (median(store), median(&ratios));
        self.lines.push(format!("| {what} | {} | {} | {} |", short(rate), short(median(bare)), short(ratio)));
        let [absolute, relative] = goals;
        self.goals.extend(absolute.map(|goal| (format!("{what}, MB/s"), rate, goal)));
        self.goals.extend(relative.map(|goal| (format!("{what}, by bare"), ratio, goal)));
    }

    pub fn print(&self) {
        println!("| | chronolith | bare | ratio |\n| --- | --: | --: | --: |");
        self.lines.iter().for_each(|line| println!("{line}"));
        println!();
        for (what, found, goal) in &self.goals {
            match goal {
                Goal::AtLeast(limit) => goal::at_least(what, *found, *limit),
                Goal::AtMost(limit) => goal::at_most(what, *found, *limit),
            }
        }
    }
}
