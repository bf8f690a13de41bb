//! Patches of a perfect-hash function, or a whole one.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chronolith_fuzz::bodies::mphf_open(data));
