//! `sync`: writes that are durable when they return, alone, in batches and from four threads;
//! `sync64k`: large values, of which no two have anything in common.

use super::ctx::{Batcher, Ctx, SMALL, set_key};
use crate::data::*;
use crate::engine::*;
use crate::meter::*;
use anyhow::{Result, bail};
use measure::Random;

/// Length of a large value.
const LARGE: usize = 64 << 10;

impl Ctx {
    pub(super) fn sync_large(&self) -> Result<()> {
        let opts = OpenOpts { sync: true, large_values: true, ..self.opts() };
        let db = self.open(&opts)?;
        let mut noise = Random::new(mix(43));
        let mut v = vec![0; LARGE];
        self.phase("large-fillsync", self.p.syncs / 10, 10.0, |m, i| {
            noise.fill(&mut v);
            m.user_bytes += (KEY_LEN + LARGE) as u64;
            let k = key(i);
            m.time(|| db.put(&k, &v))
        })?;
        Ok(())
    }

    pub(super) fn sync(&self) -> Result<()> {
        let n = self.p.syncs;
        let db = self.open(&OpenOpts { sync: true, ..self.opts() })?;
        let db = &*db;
        let perm = Perm::new(1 << 20, 5);
        let mut v = vec![0; SMALL];
        self.phase("fillsync", n, 2.5, |m, i| {
            let idx = perm.at(i);
            fill_value(&mut v, idx, 0);
            m.user_bytes += (KEY_LEN + SMALL) as u64;
            let k = key(idx);
            m.time(|| db.put(&k, &v))
        })?;
        let mut b = Batcher::new(100, SMALL);
        self.phase("batchsync", n * 100, 2.0, |m, i| {
            b.write(m, db, 100, |j, k, v| {
                let idx = perm.at(n + i * 100 + j as u64);
                set_key(k, &key(idx));
                fill_value(v, idx, 0);
            })
        })?;
        let span = Span::start();
        let cap = 2.0 * self.p.time;
        let meters = std::thread::scope(|s| {
            let hands: Vec<_> = (0..4u64)
                .map(|t| {
                    let perm = &perm;
                    s.spawn(move || -> Result<Meter> {
                        let (mut m, mut v, mut i) = (Meter::new(cap), vec![0; SMALL], t);
                        while !m.over() {
                            let idx = perm.at(600_000 + i);
                            fill_value(&mut v, idx, 0);
                            let k = key(idx);
                            m.time(|| db.put(&k, &v))?;
                            i += 4;
                        }
                        Ok(m)
                    })
                })
                .collect();
            hands.into_iter().map(|h| h.join()).collect::<Vec<_>>()
        });
        let mut all = Meter::new(cap);
        for m in meters {
            let Ok(m) = m else { bail!("a thread panicked") };
            all.add(&m?);
        }
        let r = span.finish(&all, u64::MAX);
        self.emit("fillsync-4t", Record { ops_s: r.ops as f64 / r.wall_s, ..r });
        Ok(())
    }
}
