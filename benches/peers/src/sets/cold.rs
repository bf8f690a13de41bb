//! `cold`: data larger than the cache, read from the disk after the page cache was dropped.

use super::ctx::{Ctx, SMALL};
use crate::data::*;
use crate::engine::*;
use anyhow::{Result, bail};

impl Ctx {
    fn cold_opts(&self) -> OpenOpts {
        OpenOpts { cache_bytes: self.p.cold_cache_mb << 20, cold: true, ..self.opts() }
    }

    pub(super) fn cold_load(&self) -> Result<()> {
        let n = self.p.keys;
        let db = self.open(&self.cold_opts())?;
        self.load(&*db, "load", SMALL, n, 0)?;
        let bytes = n * (KEY_LEN + SMALL) as u64;
        self.settle(&*db, "settle", bytes, bytes)?;
        db.close()
    }

    pub(super) fn cold_read(&self) -> Result<()> {
        let n = self.p.keys;
        let mut db = None;
        self.once("open-cold", 1, || {
            db = Some(self.open(&self.cold_opts())?);
            Ok(String::new())
        })?;
        let Some(db) = db else { bail!("not open") };
        let mut rng = Rng::new(51);
        self.reads(&*db, "read-cold", SMALL, 2.0, |_| rng.below(n))?;
        self.full_scan(&*db, "scan-cold", false, Some(n))?;
        self.reads(&*db, "read-small-cache", SMALL, 1.5, |_| rng.below(n))?;
        self.seeks(&*db, "seek50-small-cache", n, 50, 1.0)?;
        db.close()
    }
}
