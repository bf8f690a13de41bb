//! Large values: cut, stored once, read back whatever happens (rules L1 to L14 of `docs/chunks.md`).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod chunks;
mod collect;
mod copies;
mod crash;
mod damage;
mod doubt;
mod garbage;
mod rechunk;
mod trial;
mod write;

use std::{
    io::Write as _,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use chronolith::{
    Bytes, Chunking, Compression, Db, Durability, Error, KeyspaceOptions, Options, Policy,
    env::{Loss, Memory, Sim},
};

const HOUR: Duration = Duration::from_secs(3600);

/// Bytes that look random.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

fn text(seed: u64, len: usize) -> Vec<u8> {
    noise(seed, len).iter().map(|byte| b'a' + byte % 4).collect()
}

/// Values of several natures and lengths around every bound.
fn values() -> Vec<Vec<u8>> {
    let mut values: Vec<Vec<u8>> =
        [1, 511, 512, 4095, 4096, 4097, 40_000, 300_000].map(|len| noise(len as u64, len)).into();
    values.push(vec![0; 100_000]);
    values.push([text(1, 100_000), vec![0; 200_000], text(2, 50_000)].concat());
    values.push(text(3, 3 << 20));
    // Above 256 references: a tree.
    values.push(noise(4, 2 << 20));
    values.push(Vec::new());
    values
}

fn policies() -> [KeyspaceOptions; 4] {
    let new = || KeyspaceOptions::new().chunk_threshold(4096).chunking(Chunking::content_defined(2048));
    [new(), new().policy(Policy::tombstones(HOUR)), new().policy(Policy::mvcc(9, HOUR)), new().ttl(HOUR)]
}

fn open(machine: &Sim) -> Db {
    Options::new().env(machine.clone()).durability(Durability::Buffered).open("/db").unwrap()
}

/// Returns the files of packs, named or not.
fn packs(machine: &Sim) -> Vec<PathBuf> {
    machine.files().into_iter().filter(|file| file.to_string_lossy().contains("/packs/")).collect()
}

/// Returns the bytes of all files, or of those given.
fn bytes_of(machine: &Sim, files: &[PathBuf]) -> u64 {
    files.iter().map(|file| machine.read_file(file).unwrap().len() as u64).sum()
}

/// Changes a byte in the middle of each pack.
fn damage_packs(machine: &Sim) {
    for pack in packs(machine) {
        let mut bytes = machine.read_file(&pack).unwrap();
        let middle = bytes.len() / 2;
        *bytes.get_mut(middle).unwrap() ^= 4;
        machine.write_file(&pack, bytes);
    }
}

/// Runs `verb` once, at the first pass of a point.
fn once_at(machine: &Sim, point: &'static str, verb: impl FnOnce() + Send + 'static) {
    let mut verb = Some(verb);
    machine.on_point(move |at| {
        if at == point
            && let Some(verb) = verb.take()
        {
            verb();
        }
    });
}
