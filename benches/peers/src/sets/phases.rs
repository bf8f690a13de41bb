//! Phases that several sets have: fills, point reads, scans and seeks.

use super::ctx::{Batcher, Ctx, FOREVER, set_key, touch};
use crate::data::*;
use crate::engine::*;
use crate::meter::*;
use anyhow::Result;

impl Ctx {
    /// Single puts of `keys` small entries in random order, and batches for what the cap left.
    pub(super) fn fill_random(
        &self,
        db: &dyn Engine,
        name: &str,
        len: usize,
        keys: u64,
        cap: f64,
    ) -> Result<()> {
        let perm = Perm::new(keys, 7);
        let mut v = vec![0; len];
        let done = self.phase(name, keys, cap, |m, i| {
            let idx = perm.at(i);
            fill_value(&mut v, idx, 0);
            m.user_bytes += (KEY_LEN + len) as u64;
            let k = key(idx);
            m.time(|| db.put(&k, &v))
        })?;
        self.load(db, "load-rest", len, keys, done)
    }

    /// Loads entries `from..keys` of the random order in batches of 1000.
    pub(super) fn load(
        &self,
        db: &dyn Engine,
        name: &str,
        len: usize,
        keys: u64,
        from: u64,
    ) -> Result<()> {
        if from >= keys {
            return Ok(());
        }
        let perm = Perm::new(keys, 7);
        let mut b = Batcher::new(1000, len);
        let mut next = from;
        self.phase(name, keys - from, FOREVER, |m, _| {
            let n = (keys - next).min(1000) as usize;
            b.write(m, db, n, |i, k, v| {
                let idx = perm.at(next + i as u64);
                set_key(k, &key(idx));
                fill_value(v, idx, 0);
            })?;
            next += n as u64;
            Ok(())
        })?;
        Ok(())
    }

    /// Point reads of the keys that `pick` names, which must be present.
    pub(super) fn reads(
        &self,
        db: &dyn Engine,
        name: &str,
        len: usize,
        cap: f64,
        mut pick: impl FnMut(u64) -> u64,
    ) -> Result<()> {
        self.phase(name, u64::MAX, cap, |m, i| {
            let idx = pick(i);
            let k = key(idx);
            let mut ok = false;
            m.time(|| {
                db.get(&k, &mut |v| {
                    touch(v);
                    ok = value_is(v, len, idx);
                })
            })?;
            m.expect(ok);
            Ok(())
        })?;
        Ok(())
    }

    pub(super) fn full_scan(
        &self,
        db: &dyn Engine,
        name: &str,
        rev: bool,
        expect: Option<u64>,
    ) -> Result<()> {
        let span = Span::start();
        let mut m = Meter::new(FOREVER);
        let mut last: Option<Key> = None;
        let (mut bytes, mut disorder) = (0, 0u64);
        let t0 = tick();
        let n = db.scan(Scan { limit: usize::MAX, rev, ..Default::default() }, &mut |k, v| {
            touch(v);
            bytes += (k.len() + v.len()) as u64;
            if let (Some(l), Ok(k)) = (last, Key::try_from(k)) {
                disorder += ((l < k) == rev) as u64;
            }
            last = Key::try_from(k).ok();
        })? as u64;
        m.charge(tick() - t0, n);
        m.user_bytes = bytes;
        m.errors = disorder + expect.map_or(0, |e| e.abs_diff(n));
        self.emit(name, span.finish(&m, n));
        Ok(())
    }

    pub(super) fn seeks(
        &self,
        db: &dyn Engine,
        name: &str,
        keys: u64,
        next: usize,
        cap: f64,
    ) -> Result<()> {
        let mut rng = Rng::new(11);
        self.phase(name, u64::MAX, cap, |m, _| {
            let idx = rng.below(keys);
            let k = key(idx);
            let want = (keys - idx).min(next as u64) as usize;
            let scan = Scan { lo: Some(&k), limit: next, ..Default::default() };
            let n = m.time(|| db.scan(scan, &mut |_, v| touch(v)))?;
            m.expect(n == want);
            Ok(())
        })?;
        Ok(())
    }
}
