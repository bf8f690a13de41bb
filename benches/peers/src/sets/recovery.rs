//! `recovery`: a process that dies while it writes, and what opening costs after that.

use super::ctx::{Ctx, SMALL};
use crate::data::*;
use crate::engine::*;
use anyhow::{Result, bail};

impl Ctx {
    /// Writes without syncs, and dies as `kill -9` kills.
    pub(super) fn crash(&self) -> Result<()> {
        let n = self.p.keys / 3;
        let db = self.open(&self.opts())?;
        let perm = Perm::new(n, 7);
        let mut v = vec![0; SMALL];
        self.phase("fill-then-kill", n, 2.5, |m, i| {
            let idx = perm.at(i);
            fill_value(&mut v, idx, 0);
            m.user_bytes += (KEY_LEN + SMALL) as u64;
            let k = key(idx);
            m.time(|| db.put(&k, &v))
        })?;
        unsafe { libc::raise(libc::SIGKILL) };
        bail!("still alive")
    }

    pub(super) fn reopen(&self) -> Result<()> {
        let mut db = None;
        self.once(&self.set, 1, || {
            let e = self.open(&self.opts())?;
            let mut first = 0;
            e.scan(Scan { limit: 1, ..Default::default() }, &mut |_, _| first += 1)?;
            db = Some(e);
            Ok(format!("first={first}"))
        })?;
        let Some(db) = db else { bail!("not open") };
        self.full_scan(&*db, &format!("{}-scan", self.set), false, None)?;
        self.once(&format!("{}-close", self.set), 1, || {
            db.close()?;
            Ok(String::new())
        })
    }
}
