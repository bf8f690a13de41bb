//! Patches of a segment of the history tier, or a whole one: then the past is asked for in every way.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chronolith_fuzz::bodies::past_open(data));
