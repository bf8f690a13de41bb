//! How a loop goes over its queries: with many under way at once, or with one after the other.

use std::hint::black_box;

/// Asks for every key without waiting for the answer before: the processor works on several at once.
#[inline(always)]
pub fn independent<K>(queries: &[K], ask: impl Fn(&K) -> u64) -> u64 {
    queries.iter().fold(0, |sum: u64, query| sum.wrapping_add(ask(query)))
}

/// Asks for every key only once the answer before is there.
#[inline(always)]
pub fn chained<K>(queries: &[K], ask: impl Fn(&K) -> u64) -> u64 {
    // Zero, which the compiler cannot know: where the next query lies depends on the last answer.
    let nothing = black_box(0);
    let (mut sum, mut last) = (0u64, 0);
    for index in 0..queries.len() {
        last = ask(&queries[index + (last as usize & nothing)]);
        sum = sum.wrapping_add(last);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ask_for_every_key_once() {
        let queries: Vec<u64> = (1..=100).collect();
        let ask = |query: &u64| query << 57;
        let sum = queries.iter().map(ask).fold(0, u64::wrapping_add);
        assert_eq!((independent(&queries, ask), chained(&queries, ask)), (sum, sum));
    }
}
