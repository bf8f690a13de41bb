//! Patches of a segment of the timeline, or a whole one.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chronolith_fuzz::bodies::timeline_open(data));
