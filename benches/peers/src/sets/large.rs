//! `large64k` and `large1m`: large values, of which some have the content of others.

use super::ctx::{Ctx, touch};
use crate::data::*;
use crate::engine::*;
use anyhow::Result;

impl Ctx {
    pub(super) fn large(&self, len: usize, n: u64) -> Result<()> {
        let db = self.open(&OpenOpts { large_values: true, ..self.opts() })?;
        let db = &*db;
        let perm = Perm::new(n, 13);
        let mut v = vec![0; len];
        let done = self.phase("large-fill", n, 4.0, |m, i| {
            fill_content(&mut v, large_content(i));
            m.user_bytes += (KEY_LEN + len) as u64;
            let k = key(perm.at(i));
            m.time(|| db.put(&k, &v))
        })?;
        let bytes = done * (KEY_LEN + len) as u64;
        self.settle(db, "settle", bytes, bytes)?;
        let mut rng = Rng::new(41);
        for (name, cap) in [("warm-up", 0.5), ("large-read", 1.5)] {
            self.phase(name, u64::MAX, cap, |m, _| {
                let k = key(perm.at(rng.below(done)));
                let mut ok = false;
                m.user_bytes += len as u64;
                m.time(|| {
                    db.get(&k, &mut |v| {
                        touch(v);
                        ok = v.len() == len;
                    })
                })?;
                m.expect(ok);
                Ok(())
            })?;
        }
        let half = n / 2;
        self.phase("large-overwrite", half, 2.0, |m, i| {
            fill_content(&mut v, large_content(n + i));
            m.user_bytes += (KEY_LEN + len) as u64;
            let k = key(perm.at(i % done));
            m.time(|| db.put(&k, &v))
        })?;
        self.settle(db, "settle-after-overwrite", bytes, 0)
    }
}
