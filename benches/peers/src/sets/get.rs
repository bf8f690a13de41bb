//! `get`: point reads of many keys, warm and settled.

use super::ctx::{Ctx, SMALL};
use crate::data::*;
use anyhow::Result;

impl Ctx {
    pub(super) fn get(&self) -> Result<()> {
        let n = self.p.get_keys;
        let db = self.open(&self.opts())?;
        let db = &*db;
        self.load(db, "load", SMALL, n, 0)?;
        let bytes = n * (KEY_LEN + SMALL) as u64;
        self.settle(db, "settle", bytes, bytes)?;
        self.full_scan(db, "scan-warm", false, Some(n))?;
        let mut rng = Rng::new(1);
        self.reads(db, "warm-up", SMALL, 12.0, |_| rng.below(n))?;
        self.reads(db, "readrandom", SMALL, 5.0, |_| rng.below(n))?;
        self.phase("readmissing", u64::MAX, 5.0, |m, _| {
            let k = missing_key(rng.below(n));
            let found = m.time(|| db.get(&k, &mut |_| ()))?;
            m.expect(!found);
            Ok(())
        })?;
        Ok(())
    }
}
