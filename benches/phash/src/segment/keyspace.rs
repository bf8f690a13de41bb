//! A database filled through its public verbs.

use std::{path::Path, time::Instant};

use chronolith::{Db, Durability, Keyspace, KeyspaceOptions, Options};
use measure::Result;

use super::{OURS, value};
use crate::data::Key;

/// The keyspaces to read from, all with the same entries.
pub struct Filled {
    db: Db,
    pub keyspaces: Vec<(&'static str, Keyspace)>,
}

impl Filled {
    pub fn new(path: &Path, keys: &[Key]) -> Result<Self> {
        let db = Options::new().durability(Durability::Buffered).open(path)?;
        let mut keyspaces = Vec::new();
        let without = ("chronolith without point index", KeyspaceOptions::new().point_index(false));
        for (name, options) in [(OURS, KeyspaceOptions::new()), without] {
            let keyspace = db.keyspace(name, options)?;
            let start = Instant::now();
            for keys in keys.chunks(1000) {
                let mut batch = db.batch();
                keys.iter().for_each(|key| batch.put(&keyspace, key, value(key)));
                batch.commit()?;
            }
            let filled = start.elapsed();
            db.compact()?;
            println!(
                "{name}: filled in {:.1} s, compacted in {:.1} s",
                filled.as_secs_f64(),
                (start.elapsed() - filled).as_secs_f64()
            );
            // Every page is touched, and verified, before anything is measured.
            let mut cursor = keyspace.cursor(..);
            let mut found = 0;
            while cursor.next_ref()?.is_some() {
                found += 1;
            }
            assert_eq!(found, keys.len(), "{name} holds each key once");
            keyspaces.push((name, keyspace));
        }
        Ok(Self { db, keyspaces })
    }

    pub fn close(self) -> Result<()> {
        drop(self.keyspaces);
        Ok(self.db.close()?)
    }
}
