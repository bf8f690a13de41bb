//! Versions of one key, each like the one before but for a piece.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chronolith_fuzz::bodies::versions(data));
