//! Patches of a map file, or a whole one.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chronolith_fuzz::bodies::map_open(data));
