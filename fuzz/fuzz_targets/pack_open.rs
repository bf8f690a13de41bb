//! Patches of a pack, or a whole one.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chronolith_fuzz::bodies::pack_open(data));
