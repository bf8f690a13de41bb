//! `seq` and `batch`: fills in the order of the keys, and in batches.

use super::ctx::{Batcher, Ctx, SMALL, set_key};
use crate::data::*;
use anyhow::Result;

impl Ctx {
    pub(super) fn seq(&self) -> Result<()> {
        let db = self.open(&self.opts())?;
        let mut v = vec![0; SMALL];
        let n = self.phase("fillseq", self.p.keys, 3.0, |m, i| {
            fill_value(&mut v, i, 0);
            m.user_bytes += (KEY_LEN + SMALL) as u64;
            let k = key(i);
            m.time(|| db.put(&k, &v))
        })?;
        let bytes = n * (KEY_LEN + SMALL) as u64;
        self.settle(&*db, "settle", bytes, bytes)?;
        db.close()
    }

    pub(super) fn batch(&self) -> Result<()> {
        let n = self.p.keys;
        let db = self.open(&self.opts())?;
        let perm = Perm::new(n, 9);
        let mut b = Batcher::new(100, SMALL);
        let done = self.phase("batchfill", n, 3.0, |m, i| {
            b.write(m, &*db, 100, |j, k, v| {
                let idx = perm.at((i * 100 + j as u64) % n);
                set_key(k, &key(idx));
                fill_value(v, idx, 0);
            })
        })?;
        let bytes = done * (KEY_LEN + SMALL) as u64;
        self.settle(&*db, "settle", bytes, bytes)?;
        db.close()
    }
}
