//! The bodies of the fuzz targets: the targets take them from here, and a plain `cargo check` sees them.

#[path = "../tests/fuzz_bodies/mod.rs"]
pub mod bodies;
