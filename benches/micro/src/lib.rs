//! What the benches share: a database in a directory on disk, and entries of 16 + 100 bytes.

use std::{hint::black_box, ops::Range};

use chronolith::{Db, Durability, Keyspace, KeyspaceOptions, Options};
use criterion::Criterion;
use tempfile::TempDir;

/// The value of every entry, as long as those of the usual benchmarks of small entries.
pub const VALUE: [u8; 100] = [0x5a; 100];

/// A database in a directory that is removed with it.
#[derive(Debug)]
pub struct Bench {
    pub db: Db,
    pub keyspace: Keyspace,
    _dir: TempDir,
}

impl Bench {
    /// Opens an empty database that leaves syncing to the operating system.
    pub fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let db = Options::new().durability(Durability::Buffered).open(dir.path()).unwrap();
        let keyspace = db.keyspace("bench", KeyspaceOptions::new()).unwrap();
        Self { db, keyspace, _dir: dir }
    }

    /// Puts the entries of a range of indexes, in batches.
    pub fn fill(&self, indexes: Range<u64>) {
        self.fill_in(&self.keyspace, indexes);
    }

    /// Puts the entries of a range of indexes into another keyspace of the database, in batches.
    pub fn fill_in(&self, keyspace: &Keyspace, indexes: Range<u64>) {
        for start in indexes.clone().step_by(1000) {
            let mut batch = self.db.batch();
            for index in start..indexes.end.min(start + 1000) {
                batch.put(keyspace, key(index), VALUE);
            }
            black_box(batch.commit().unwrap());
        }
    }
}

/// Makes the key of an index: each index has its own, and they lie in no order.
// Called inside of what is timed: it must not become a call into another crate.
#[inline]
pub fn key(index: u64) -> [u8; 16] {
    // Multiplying by an odd number shuffles the indexes and makes no two of them alike.
    let shuffled = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (u128::from(shuffled) << 64 | u128::from(index)).to_be_bytes()
}

/// Runs benchmarks as the command line asks.
pub fn run(benches: impl FnOnce(&mut Criterion)) {
    let mut criterion = Criterion::default().configure_from_args();
    benches(&mut criterion);
    criterion.final_summary();
}
