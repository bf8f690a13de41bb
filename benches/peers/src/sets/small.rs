//! `small`: the usual phases of small entries, one after the other on one database.

use super::ctx::{Ctx, FOREVER, SMALL, touch};
use crate::data::*;
use crate::engine::*;
use crate::meter::*;
use anyhow::{Result, bail};

impl Ctx {
    pub(super) fn small(&self) -> Result<()> {
        let n = self.p.keys;
        let entry = (KEY_LEN + SMALL) as u64;
        let db = self.open(&self.opts())?;
        let db = &*db;
        self.fill_random(db, "fillrandom", SMALL, n, 5.0)?;
        self.settle(db, "settle", n * entry, n * entry)?;
        self.full_scan(db, "scan-fwd", false, Some(n))?;
        self.full_scan(db, "scan-rev", true, Some(n))?;
        let mut rng = Rng::new(1);
        self.reads(db, "warm-up", SMALL, 0.5, |_| rng.below(n))?;
        self.reads(db, "readrandom", SMALL, 2.0, |_| rng.below(n))?;
        self.phase("readmissing", u64::MAX, 1.5, |m, _| {
            let k = missing_key(rng.below(n));
            let found = m.time(|| db.get(&k, &mut |_| ()))?;
            m.expect(!found);
            Ok(())
        })?;
        let zipf = Zipf::new(n, 3);
        self.reads(db, "readhot", SMALL, 1.5, |i| zipf.at(i))?;
        {
            let session = db.session()?;
            self.phase("readsnap", u64::MAX, 1.5, |m, _| {
                let idx = rng.below(n);
                let k = key(idx);
                let mut ok = false;
                m.time(|| {
                    session.get(&k, &mut |v| {
                        touch(v);
                        ok = value_is(v, SMALL, idx);
                    })
                })?;
                m.expect(ok);
                Ok(())
            })?;
        }
        self.seeks(db, "seek50", n, 50, 1.5)?;
        let before = Usage::now();
        let mut v = vec![0; SMALL];
        let done = self.phase("overwrite", n, 3.0, |m, i| {
            let idx = rng.below(n);
            fill_value(&mut v, idx, i + 1);
            m.user_bytes += entry;
            let k = key(idx);
            m.time(|| db.put(&k, &v))
        })?;
        self.reads(db, "readdirty", SMALL, 1.0, |_| rng.below(n))?;
        let written = done * entry + self.read_while_writing(db, n, 2.5)?;
        let after = Usage::now();
        self.emit(
            "overwrite-io",
            Record {
                ops: done,
                user_bytes: written,
                write_bytes: after.write_bytes - before.write_bytes,
                wchar: after.wchar - before.wchar,
                disk_bytes: disk_usage(&self.dir),
                note: format!("live_bytes={}", n * entry),
                ..Default::default()
            },
        );
        self.deletes(db, n)
    }

    /// Returns the bytes that the writer wrote.
    fn read_while_writing(&self, db: &dyn Engine, n: u64, cap: f64) -> Result<u64> {
        let span = Span::start();
        let cap = cap * self.p.time;
        let (r, w) = std::thread::scope(|s| {
            let writer = s.spawn(move || -> Result<Meter> {
                let (mut rng, mut v) = (Rng::new(21), vec![0; SMALL]);
                let mut m = Meter::new(cap);
                while !m.over() {
                    let idx = rng.below(n);
                    fill_value(&mut v, idx, rng.next());
                    m.user_bytes += (KEY_LEN + SMALL) as u64;
                    let k = key(idx);
                    m.time(|| db.put(&k, &v))?;
                }
                Ok(m)
            });
            let reader = s.spawn(move || -> Result<Meter> {
                let mut rng = Rng::new(22);
                let mut m = Meter::new(cap);
                while !m.over() {
                    let idx = rng.below(n);
                    let (k, mut ok) = (key(idx), false);
                    m.time(|| {
                        db.get(&k, &mut |v| {
                            touch(v);
                            ok = value_is(v, SMALL, idx);
                        })
                    })?;
                    m.expect(ok);
                }
                Ok(m)
            });
            (reader.join(), writer.join())
        });
        let (Ok(r), Ok(w)) = (r, w) else { bail!("a thread panicked") };
        let (r, w) = (r?, w?);
        // Both records say what the two threads cost together, by operation of either.
        let both = |mine: &Meter, other: &Meter| {
            let r = span.finish(mine, u64::MAX);
            Record { cpu_us_op: r.cpu_us_op * mine.ops as f64 / (mine.ops + other.ops) as f64, ..r }
        };
        self.emit("rww-read", both(&r, &w));
        self.emit("rww-write", both(&w, &r));
        Ok(w.user_bytes)
    }

    /// Deletes one quarter of the keys as a range and another one key by key, then reads.
    fn deletes(&self, db: &dyn Engine, n: u64) -> Result<()> {
        let (range, keys) = (n / 8..n * 3 / 8, n / 2..n * 3 / 4);
        let by_key = |name: &str, keys: std::ops::Range<u64>| {
            let mut next = keys.start;
            self.phase(name, keys.end - keys.start, FOREVER, |m, _| {
                let batch: Vec<Key> = (next..keys.end).take(1000).map(key).collect();
                let ops: Vec<Op> = batch.iter().map(|k| Op { key: k, value: None }).collect();
                next += batch.len() as u64;
                m.time_n(ops.len() as u64, || db.write(&ops))
            })
        };
        let span = Span::start();
        let mut m = Meter::new(FOREVER);
        let (lo, hi) = (key(range.start), key(range.end));
        if m.time_n(range.end - range.start, || db.delete_range(&lo, &hi))? {
            let note = "one call".into();
            self.emit("delete-range", Record { note, ..span.finish(&m, 0) });
        } else {
            by_key("delete-range", range.clone())?;
        }
        by_key("delete-keys", keys.clone())?;
        // What a reader pays for the deleted keys, before anything is compacted.
        let seek = |name: &str, at: u64| {
            self.phase(name, 200, 1.0, |m, i| {
                let k = key(at + i);
                let scan = Scan { lo: Some(&k), limit: 1, ..Default::default() };
                let got = m.time(|| db.scan(scan, &mut |_, v| touch(v)))?;
                m.expect(got == 1);
                Ok(())
            })
        };
        seek("seek-in-range-deleted", range.start)?;
        seek("seek-in-key-deleted", keys.start)?;
        let left = n - (range.end - range.start) - (keys.end - keys.start);
        self.full_scan(db, "scan-after-delete", false, Some(left))?;
        let live = left * (KEY_LEN + SMALL) as u64;
        self.settle(db, "settle-after-delete", live, 0)
    }
}
