//! Patches of the recipe of a large value, or a whole one, in a log whose checksums hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chronolith_fuzz::bodies::recipe_decode(data));
