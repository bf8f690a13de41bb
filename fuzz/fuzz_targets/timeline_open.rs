#![no_main]

#[path = "../../tests/fuzz_bodies/mod.rs"]
#[allow(dead_code, reason = "each target runs one of the bodies")]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::timeline_open(data));
