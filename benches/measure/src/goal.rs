//! Goals: what the numbers are held against.

/// Says whether a number is as low as it must be.
pub fn at_most(what: &str, found: f64, limit: f64) {
    say(what, found, found <= limit, "at most", limit);
}

/// Says whether a number is as high as it must be.
pub fn at_least(what: &str, found: f64, limit: f64) {
    say(what, found, found >= limit, "at least", limit);
}

fn say(what: &str, found: f64, reached: bool, bound: &str, limit: f64) {
    let verdict = if reached { "PASS" } else { "MISS" };
    println!("{verdict}  {what}: {found:.2} ({bound} {limit:.2})");
}
