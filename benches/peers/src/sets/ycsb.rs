//! `ycsb`: the mixes of the Yahoo! Cloud Serving Benchmark, with values of 1 KiB.

use super::ctx::{Ctx, touch};
use crate::data::*;
use crate::engine::*;
use anyhow::Result;

impl Ctx {
    pub(super) fn ycsb(&self) -> Result<()> {
        const LEN: usize = 1024;
        let n = self.p.medium_keys;
        let db = self.open(&self.opts())?;
        let db = &*db;
        self.fill_random(db, "fillrandom-1k", LEN, n, 3.0)?;
        let bytes = n * (KEY_LEN + LEN) as u64;
        self.settle(db, "settle", bytes, bytes)?;
        let mut rng = Rng::new(31);
        self.reads(db, "warm-up", LEN, 0.5, |_| rng.below(n))?;
        self.reads(db, "readrandom-1k", LEN, 1.0, |_| rng.below(n))?;
        let zipf = Zipf::new(n, 33);
        let mut v = vec![0; LEN];
        let mut top = n;
        // (name, reads, updates, inserts, scans, read-modify-writes) of 100
        let mixes: [(&str, [u64; 5]); 6] = [
            ("ycsb-A", [50, 50, 0, 0, 0]),
            ("ycsb-B", [95, 5, 0, 0, 0]),
            ("ycsb-C", [100, 0, 0, 0, 0]),
            ("ycsb-F", [50, 0, 0, 0, 50]),
            ("ycsb-D", [95, 0, 5, 0, 0]),
            ("ycsb-E", [0, 0, 5, 95, 0]),
        ];
        for (name, [read, update, insert, scan, _]) in mixes {
            self.phase(name, u64::MAX, 1.2, |m, i| {
                let die = rng.below(100);
                let idx =
                    if name == "ycsb-D" { top - 1 - zipf.rank(i).min(top - 1) } else { zipf.at(i) };
                let k = key(idx);
                if die < read {
                    let mut ok = false;
                    m.time(|| {
                        db.get(&k, &mut |v| {
                            touch(v);
                            ok = value_is(v, LEN, idx);
                        })
                    })?;
                    m.expect(ok);
                } else if die < read + update {
                    fill_value(&mut v, idx, i);
                    m.user_bytes += (KEY_LEN + LEN) as u64;
                    m.time(|| db.put(&k, &v))?;
                } else if die < read + update + insert {
                    fill_value(&mut v, top, 0);
                    m.user_bytes += (KEY_LEN + LEN) as u64;
                    let k = key(top);
                    top += 1;
                    m.time(|| db.put(&k, &v))?;
                } else if die < read + update + insert + scan {
                    let limit = 1 + rng.below(100) as usize;
                    let scan = Scan { lo: Some(&k), limit, ..Default::default() };
                    let got = m.time(|| db.scan(scan, &mut |_, v| touch(v)))?;
                    m.expect(got as u64 == (top - idx).min(limit as u64));
                } else {
                    m.user_bytes += (KEY_LEN + LEN) as u64;
                    m.time(|| {
                        db.get(&k, &mut |old| {
                            v.clear();
                            v.extend_from_slice(old);
                        })?;
                        v[8] = v[8].wrapping_add(1);
                        db.put(&k, &v)
                    })?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}
