//! The bodies of the fuzz targets, so that a plain `cargo check` sees them.

#[path = "../tests/fuzz_bodies/mod.rs"]
pub mod bodies;
