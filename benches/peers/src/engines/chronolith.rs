//! chronolith, as it stands in this repository; `chronolith-ver` keeps its versions.

use crate::engine::*;
use anyhow::{Result, bail};
use chronolith::{
    Cursor, Db, Durability, Keyspace, KeyspaceOptions, Options, Policy, Range, Seqno, View,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long versions are kept: longer than any run.
const KEPT: Duration = Duration::from_secs(7 * 86_400);

pub fn entries() -> Vec<Entry> {
    vec![
        Entry {
            name: "chronolith",
            config: "memory_budget: the cache and the write buffer together; segments through maps, \
                     no block cache and no compression; large values: chunks of 16 KiB on \
                     average, stored once, zstd 1; Durability::Buffered; sync: Durability::Sync; \
                     scans: the lending cursor forward, the owned iterator backward",
            only: &[],
            versions: false,
            extra: false,
            open,
        },
        Entry {
            name: "chronolith-ver",
            config: "as chronolith, with Policy::mvcc(1, a week); reads as of a time through a \
                     view that stays open while the same time is asked for",
            only: &["small", "asof"],
            versions: true,
            extra: false,
            open: |path, o| open(path, &OpenOpts { versions: true, ..o.clone() }),
        },
    ]
}

struct Chronolith {
    db: Db,
    ks: Keyspace,
    /// The newest commit of each timestamp: the engine gives its commits seqnos of its own.
    moments: Mutex<BTreeMap<u64, Seqno>>,
    /// The timestamp asked for last, and a view of it.
    view: Mutex<Option<(u64, View)>>,
}

fn open(path: &Path, o: &OpenOpts) -> Result<Box<dyn Engine>> {
    let db = Options::new()
        .durability(if o.sync { Durability::Sync } else { Durability::Buffered })
        .memory_budget((o.cache_bytes + o.write_buffer) as u64)
        .open(path)?;
    let policy = match o.versions {
        true => Policy::mvcc(1, KEPT),
        false => Policy::last_writer_wins(),
    };
    let ks = db.keyspace("kv", KeyspaceOptions::new().policy(policy))?;
    Ok(Box::new(Chronolith { db, ks, moments: Mutex::default(), view: Mutex::default() }))
}

impl Chronolith {
    /// Reads as of a timestamp.
    fn at<T>(&self, ts: u64, read: impl FnOnce(&View) -> Result<T>) -> Result<T> {
        let mut open = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, view)) = &*open
            && *of == ts
        {
            return read(view);
        }
        let moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        let seqno = moments.range(..=ts).next_back().map_or(Seqno::default(), |(_, seqno)| *seqno);
        let (_, view) = open.insert((ts, self.db.as_of(seqno)?));
        read(view)
    }
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
    fn put_at(&self, key: &[u8], value: &[u8], ts: u64) -> Result<()> {
        let mut moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        if moments.last_key_value().is_some_and(|(newest, _)| *newest > ts) {
            bail!("commits come in the order of their times");
        }
        moments.insert(ts, self.ks.put(key, value)?.seqno);
        Ok(())
    }
    fn get_at(&self, key: &[u8], ts: u64, f: OnValue) -> Result<bool> {
        self.at(ts, |view| Ok(view.get(&self.ks, key)?.map(|v| f(&v)).is_some()))
    }
    fn scan_at(&self, scan: Scan, ts: u64, f: OnEntry) -> Result<Option<usize>> {
        self.at(ts, |view| {
            walk_forward(view.cursor(&self.ks, scan.bounds()), scan.limit, f).map(Some)
        })
    }
    fn history(&self, key: &[u8], f: OnValue) -> Result<Option<usize>> {
        let mut n = 0;
        for version in self.ks.history(key) {
            if let Some(value) = version?.value {
                f(&value);
                n += 1;
            }
        }
        Ok(Some(n))
    }
    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.db.close()?)
    }
}
