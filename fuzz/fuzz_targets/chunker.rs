//! Values that repeat themselves: cut as the format defines it, by its words.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chronolith_fuzz::bodies::chunker(data));
