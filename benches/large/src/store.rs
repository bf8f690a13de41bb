//! A database in a directory of its own, and the CPU time of this process.

use std::{
    fs::File,
    io::{Read, Write},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
};

use chronolith::{Chunking, Compression, Db, Durability, Keyspace, KeyspaceOptions, Options};
use measure::{Directory, Random, Result, SEED};
use rustix::{
    fs::sync,
    time::{ClockId, clock_gettime},
};

use crate::corpus::PIECE;

/// Values of more bytes are read in pieces, not as a whole.
pub const WHOLE_MAX: usize = 4 << 20;

/// How the values of a keyspace are cut, and whether they are compressed.
#[derive(Clone, Copy)]
pub struct Way {
    /// Bytes of each chunk; by content if there is no such number.
    pub fixed: Option<u64>,
    pub level: Option<i32>,
}

/// A database, which leaves syncing to the operating system.
pub struct Store {
    pub db: Db,
    pub keyspace: Keyspace,
    // The last field: files go once the database is closed.
    _directory: Directory,
}

impl Store {
    pub fn new(way: Way) -> Result<Self> {
        let directory = Directory::new("large-bench-store")?;
        let db = Options::new().durability(Durability::Buffered).open(directory.path())?;
        let chunking = way.fixed.map_or(Chunking::automatic(), Chunking::fixed);
        let compression = way.level.map_or(Compression::None, Compression::Zstd);
        let options = KeyspaceOptions::new().chunking(chunking).compression(compression);
        let keyspace = db.keyspace("bench", options)?;
        Ok(Self { db, keyspace, _directory: directory })
    }

    /// Writes a value in pieces.
    pub fn write(&self, key: &str, value: &[u8]) -> Result<()> {
        let mut writer = self.keyspace.writer(key)?;
        value.chunks(PIECE).try_for_each(|piece| writer.write_all(piece))?;
        writer.finish()?;
        Ok(())
    }

    /// Measures something beside a thread that writes new values of 64 KiB under few keys, and is given how many it has
    /// written so far.
    pub fn beside_a_writer<T>(&self, measure: impl FnOnce(&AtomicU64) -> Result<T>) -> Result<T> {
        let (done, written) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            let writer = scope.spawn(|| -> chronolith::Result<()> {
                let mut random = Random::new(SEED + 1);
                let mut value = vec![0; 64 << 10];
                for number in 0u64.. {
                    if done.load(Relaxed) {
                        break;
                    }
                    random.fill(&mut value);
                    self.keyspace.put(format!("written {:04}", number % 2000), &value)?;
                    written.fetch_add(1, Relaxed);
                }
                Ok(())
            });
            let measured = measure(&written);
            done.store(true, Relaxed);
            writer.join().map_err(|_| "the writer panicked")??;
            measured
        })
    }

    /// Reads a value, and returns its length; `told` is given each piece. `room` is memory to be used again.
    pub fn read(&self, key: &str, len: usize, room: &mut Vec<u8>, mut told: impl FnMut(&[u8])) -> Result<usize> {
        let absent = || format!("{key} is absent");
        if len <= WHOLE_MAX {
            let value = self.keyspace.get(key)?.ok_or_else(absent)?;
            told(&value);
            return Ok(value.len());
        }
        let mut reader = self.keyspace.reader(key)?.ok_or_else(absent)?;
        room.resize(PIECE, 0);
        let mut read = 0;
        loop {
            let count = reader.read(room)?;
            if count == 0 {
                return Ok(read);
            }
            told(&room[..count]);
            read += count;
        }
    }
}

/// Returns the seconds of CPU time, of user and system, that this process has used.
pub fn cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Runs something that goes over so many bytes, and returns MB (10^6) per second of CPU time.
///
/// What was written before is on the disk by then: its interrupts would be charged to whatever runs.
pub fn rate(bytes: u64, run: impl FnOnce() -> Result<()>) -> Result<f64> {
    sync();
    let start = cpu();
    run()?;
    Ok(bytes as f64 / 1e6 / (cpu() - start))
}

/// Does the same for something that stores the bytes.
///
/// Pages of a file of that length are free by then. Those that have not been in use for a while a virtual machine has
/// to fetch from its host, which makes the first write to them several times as slow, now here, now there.
pub fn rate_of_storing(bytes: u64, run: impl FnOnce() -> Result<()>) -> Result<f64> {
    sync();
    let directory = Directory::new("large-bench-pages")?;
    let mut file = File::create_new(directory.path().join("pages"))?;
    let piece = vec![1; PIECE];
    (0..bytes.div_ceil(PIECE as u64)).try_for_each(|_| file.write_all(&piece))?;
    drop((file, directory));
    rate(bytes, run)
}
