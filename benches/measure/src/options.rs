//! The command line: a command, and options with a number behind each.

use std::process::ExitCode;

use crate::Result;

/// Runs a program on its arguments; an error is printed, and fails it.
pub fn main(run: impl FnOnce(&[String]) -> Result<()>) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the number behind an option, or the default where the option is not there.
///
/// # Errors
/// When something else stands behind it, or nothing.
pub fn number(options: &[String], name: &str, default: usize) -> Result<usize> {
    let Some(at) = options.iter().position(|option| option == name) else { return Ok(default) };
    let value = options.get(at + 1).ok_or_else(|| format!("{name} needs a number"))?;
    Ok(value.parse().map_err(|_| format!("{name} needs a number, not {value}"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_its_number_or_the_default() {
        let options = ["--keys", "12", "--maps", "many", "--last"].map(String::from);
        assert_eq!(number(&options, "--keys", 7).unwrap(), 12);
        assert_eq!(number(&options, "--other", 7).unwrap(), 7);
        assert_eq!(number(&options, "--maps", 7).unwrap_err().to_string(), "--maps needs a number, not many");
        assert_eq!(number(&options, "--last", 7).unwrap_err().to_string(), "--last needs a number");
    }
}
