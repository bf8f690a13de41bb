use crate::engine::*;
use anyhow::Result;
use chronolith::{Cursor, Db, Durability, Keyspace, KeyspaceOptions, Options, Range, View};
use std::path::Path;

pub fn entries() -> Vec<Entry> {
    vec![Entry {
        name: "chronolith",
        config: "memory_budget: the cache and the write buffer together; segments through maps, \
                 no block cache and no compression; Durability::Buffered; sync: \
                 Durability::Sync; large values inline; scans: the lending cursor forward, the \
                 owned iterator backward",
        only: &[],
        versions: false,
        extra: false,
        open,
    }]
}

struct Chronolith {
    db: Db,
    ks: Keyspace,
}

fn open(path: &Path, o: &OpenOpts) -> Result<Box<dyn Engine>> {
    let db = Options::new()
        .durability(if o.sync { Durability::Sync } else { Durability::Buffered })
        .memory_budget((o.cache_bytes + o.write_buffer) as u64)
        .open(path)?;
    let ks = db.keyspace("kv", KeyspaceOptions::new())?;
    Ok(Box::new(Chronolith { db, ks }))
}

fn walk_forward(mut cursor: Cursor, limit: usize, f: OnEntry) -> Result<usize> {
    let mut n = 0;
    while n < limit
        && let Some((k, v)) = cursor.next_ref()?
    {
        f(k, v);
        n += 1;
    }
    Ok(n)
}

fn walk_backward(range: Range, limit: usize, f: OnEntry) -> Result<usize> {
    let mut n = 0;
    for entry in range.rev().take(limit) {
        let (k, v) = entry?;
        f(&k, &v);
        n += 1;
    }
    Ok(n)
}

struct Snapshot<'a>(View, &'a Keyspace);

impl Session for Snapshot<'_> {
    fn get(&self, key: &[u8], f: OnValue) -> Result<bool> {
        Ok(self.0.get(self.1, key)?.map(|v| f(&v)).is_some())
    }
    fn scan(&self, scan: Scan, f: OnEntry) -> Result<usize> {
        match scan.rev {
            false => walk_forward(self.0.cursor(self.1, scan.bounds()), scan.limit, f),
            true => walk_backward(self.0.range(self.1, scan.bounds()), scan.limit, f),
        }
    }
}

impl Engine for Chronolith {
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.ks.put(key, value)?;
        Ok(())
    }
    fn delete(&self, key: &[u8]) -> Result<()> {
        self.ks.delete(key)?;
        Ok(())
    }
    fn write(&self, ops: &[Op]) -> Result<()> {
        let mut b = self.db.batch();
        for op in ops {
            match op.value {
                Some(v) => b.put(&self.ks, op.key, v),
                None => b.delete(&self.ks, op.key),
            }
        }
        b.commit()?;
        Ok(())
    }
    fn get(&self, key: &[u8], f: OnValue) -> Result<bool> {
        Ok(self.ks.get(key)?.map(|v| f(&v)).is_some())
    }
    fn scan(&self, scan: Scan, f: OnEntry) -> Result<usize> {
        match scan.rev {
            false => walk_forward(self.ks.cursor(scan.bounds()), scan.limit, f),
            true => walk_backward(self.ks.range(scan.bounds()), scan.limit, f),
        }
    }
    fn session(&self) -> Result<Box<dyn Session + '_>> {
        Ok(Box::new(Snapshot(self.db.snapshot(), &self.ks)))
    }
    fn delete_range(&self, lo: &[u8], hi: &[u8]) -> Result<bool> {
        self.ks.delete_range(lo..hi)?;
        Ok(true)
    }
    fn flush(&self) -> Result<()> {
        Ok(self.db.flush()?)
    }
    fn compact(&self) -> Result<bool> {
        self.db.compact()?;
        Ok(true)
    }
    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.db.close()?)
    }
}
