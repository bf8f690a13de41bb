//! Two damaged map files, merged with every strategy.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chronolith_fuzz::bodies::map_merge(data));
