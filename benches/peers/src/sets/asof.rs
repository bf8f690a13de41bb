//! `asof`: ten versions of each key, read as of the newest and of older ones.
//!
//! An engine with versions keeps them itself ("native"); of the others each version is a key of its
//! own, `key || !timestamp`, which a seek finds ("emulated").

use super::ctx::{Batcher, Ctx, FOREVER, SMALL, set_key, touch};
use crate::data::*;
use crate::engine::*;
use crate::meter::*;
use anyhow::Result;

const VERSIONS: u64 = 10;
const AS_OF: u64 = 5;
/// A version that comes after all.
const NEWEST: u64 = 1000;

/// The timestamp of a version.
fn ts(version: u64) -> u64 {
    // Nanoseconds in the past: an engine may not take a timestamp from the future.
    1_000_000 * version
}

fn fill_version(v: &mut [u8], idx: u64, version: u64) {
    fill_value(v, idx, version);
    v[8] = version as u8;
}

impl Ctx {
    pub(super) fn asof(&self) -> Result<()> {
        let n = self.p.asof_keys;
        let db = self.open(&self.opts())?;
        let db = &*db;
        let native = self.entry.versions;
        let name =
            |what: &str| format!("asof-{}-{what}", if native { "native" } else { "emulated" });
        if native {
            self.fill_native(db, &name("fill"), n)?;
        } else {
            self.fill_emulated(db, &name("fill"), n)?;
        }
        let bytes = n * VERSIONS * (KEY_LEN + SMALL) as u64;
        self.settle(db, "settle", bytes, bytes)?;
        let mut rng = Rng::new(61);
        let mut read =
            |phase: &str, at: u64, cap: f64| self.reads_as_of(db, phase, at, cap, || rng.below(n));
        read("warm-up", NEWEST, 0.3)?;
        read(&name("latest"), NEWEST, 1.0)?;
        read(&name("v5"), AS_OF, 1.0)?;
        read(&name("v1"), 1, 0.7)?;
        for (what, at) in [("scan-latest", NEWEST), ("scan-v5", AS_OF)] {
            self.scan_as_of(db, &name(what), n, ts(at), at.min(VERSIONS) as u8)?;
        }
        self.histories(db, &name("history"), n, VERSIONS as u8)?;
        // Where `get` needs no timestamp: the price of a versioned read of the newest value.
        if native && db.get(&key(0), &mut |_| ()).is_ok() {
            let mut rng = Rng::new(62);
            self.reads(db, "asof-native-plain-get", SMALL, 0.7, |_| rng.below(n))?;
        }
        Ok(())
    }

    /// Writes all versions with their timestamps, one by one.
    fn fill_native(&self, db: &dyn Engine, name: &str, n: u64) -> Result<()> {
        let perm = Perm::new(n, 17);
        let mut v = vec![0; SMALL];
        self.phase(name, n * VERSIONS, FOREVER, |m, i| {
            let (idx, version) = (perm.at(i % n), 1 + i / n);
            fill_version(&mut v, idx, version);
            m.user_bytes += (KEY_LEN + SMALL) as u64;
            let k = key(idx);
            m.time(|| db.put_at(&k, &v, ts(version)))
        })?;
        Ok(())
    }

    /// Writes each version as a key of its own: single puts up to a cap, then batches, as for the
    /// other sets.
    fn fill_emulated(&self, db: &dyn Engine, name: &str, n: u64) -> Result<()> {
        let perm = Perm::new(n, 17);
        let mut v = vec![0; SMALL];
        let total = n * VERSIONS;
        let done = self.phase(name, total, 3.0, |m, i| {
            let (idx, version) = (perm.at(i % n), 1 + i / n);
            fill_version(&mut v, idx, version);
            m.user_bytes += (KEY_LEN + 8 + SMALL) as u64;
            let k = versioned_key(idx, ts(version));
            m.time(|| db.put(&k, &v))
        })?;
        let (mut b, mut next) = (Batcher::new(1000, SMALL), done);
        self.phase("load-rest", total - done, FOREVER, |m, _| {
            let count = (total - next).min(1000) as usize;
            b.write(m, db, count, |j, k, v| {
                let i = next + j as u64;
                let (idx, version) = (perm.at(i % n), 1 + i / n);
                set_key(k, &versioned_key(idx, ts(version)));
                fill_version(v, idx, version);
            })?;
            next += count as u64;
            Ok(())
        })?;
        Ok(())
    }

    /// Point reads as of version `at` of the keys that `pick` names.
    fn reads_as_of(
        &self,
        db: &dyn Engine,
        name: &str,
        at: u64,
        cap: f64,
        mut pick: impl FnMut() -> u64,
    ) -> Result<()> {
        let native = self.entry.versions;
        let want = at.min(VERSIONS) as u8;
        self.phase(name, u64::MAX, cap, |m, _| {
            let idx = pick();
            let mut ok = false;
            let mut check = |v: &[u8]| {
                touch(v);
                ok = value_is(v, SMALL, idx) && v[8] == want;
            };
            if native {
                let k = key(idx);
                m.time(|| db.get_at(&k, ts(at), &mut check))?;
            } else {
                let (lo, hi) = (versioned_key(idx, ts(at)), versioned_key(idx, 0));
                let scan = Scan { lo: Some(&lo), hi: Some(&hi), limit: 1, rev: false };
                m.time(|| db.scan(scan, &mut |_, v| check(v)))?;
            }
            m.expect(ok);
            Ok(())
        })?;
        Ok(())
    }

    /// One scan of all keys as of `ts`: each must show version `want`.
    fn scan_as_of(&self, db: &dyn Engine, name: &str, n: u64, ts: u64, want: u8) -> Result<()> {
        let span = Span::start();
        let mut m = Meter::new(FOREVER);
        let all = Scan { limit: usize::MAX, ..Default::default() };
        let (mut met, mut wrong) = (0, 0);
        let mut check = |v: &[u8]| {
            touch(v);
            met += 1;
            wrong += (v.get(8) != Some(&want)) as u64;
        };
        let t0 = tick();
        let there = if self.entry.versions {
            db.scan_at(all, ts, &mut |_, v| check(v))?.is_some()
        } else {
            let newest = (!ts).to_be_bytes();
            let mut last = [0; KEY_LEN];
            db.scan(all, &mut |k, v| {
                let (k, stamp) = k.split_at(KEY_LEN.min(k.len()));
                if stamp >= newest.as_slice() && k != last {
                    last.copy_from_slice(k);
                    check(v);
                }
            })?;
            true
        };
        m.charge(tick() - t0, met);
        m.errors = wrong + met.abs_diff(n);
        if there {
            self.emit(name, span.finish(&m, met));
        }
        Ok(())
    }

    /// Every version of random keys, newest first: from number `newest` down to 1.
    fn histories(&self, db: &dyn Engine, name: &str, n: u64, newest: u8) -> Result<()> {
        let native = self.entry.versions;
        if native && db.history(&key(0), &mut |_| ())?.is_none() {
            return Ok(());
        }
        let mut rng = Rng::new(63);
        self.phase(name, u64::MAX, 0.7, |m, _| {
            let idx = rng.below(n);
            let (mut next, mut ok) = (newest, true);
            let mut check = |v: &[u8]| {
                touch(v);
                ok &= value_is(v, SMALL, idx) && v[8] == next;
                next = next.wrapping_sub(1);
            };
            if native {
                let k = key(idx);
                m.time(|| db.history(&k, &mut check))?;
            } else {
                let (lo, hi) = (versioned_key(idx, u64::MAX), versioned_key(idx, 0));
                let scan =
                    Scan { lo: Some(&lo), hi: Some(&hi), limit: usize::MAX, ..Default::default() };
                m.time(|| db.scan(scan, &mut |_, v| check(v)))?;
            }
            m.expect(ok && next == 0);
            Ok(())
        })?;
        Ok(())
    }
}
