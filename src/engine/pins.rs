//! Pins: moments that are kept readable under a name, across restarts and dropped keyspaces.

use std::time::SystemTime;

use super::Engine;
use crate::{
    base::{Error, Result, Seqno, from_us},
    compaction::Reader,
    manifest::{Change, PinnedAt, Version},
};

/// The longest name, in bytes.
const NAME_LEN_MAX: usize = 255;

/// A moment that is kept readable: see [`Db::pin`](crate::Db::pin).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pin {
    /// Its name.
    pub name: String,
    /// The moment.
    pub seqno: Seqno,
    /// When that was.
    pub time: SystemTime,
}

/// Those who may read what is pinned. Purges hide from all of them: they will come after.
pub(super) fn pinned_readers(version: &Version) -> Vec<Reader> {
    let reader = |pin: &PinnedAt| Reader { seqno: pin.seqno, opened: u64::MAX, time: pin.time_us };
    version.pins.values().map(reader).collect()
}

impl Engine {
    /// Keeps the present readable under a name.
    pub(crate) fn pin(&self, name: &str) -> Result<Seqno> {
        self.check_writable()?;
        if name.is_empty() || name.len() > NAME_LEN_MAX {
            return Err(Error::invalid(format!("the name of a pin has 1 to {NAME_LEN_MAX} bytes, not {}", name.len())));
        }
        self.flush_recovered()?;
        let mut manifest = self.manifest.lock();
        if manifest.version().pins.contains_key(name) {
            return Err(Error::invalid(format!("there is a pin \"{name}\" already; `unpin` it first")));
        }
        let pin = |seqno, time_us| Change::Pin { name: name.to_owned(), seqno, time_us };
        let seqno = self.change(&mut manifest, pin)?;
        Ok(Seqno(seqno))
    }

    /// Keeps a pinned moment no longer.
    pub(crate) fn unpin(&self, name: &str) -> Result<()> {
        self.check_writable()?;
        self.flush_recovered()?;
        let mut manifest = self.manifest.lock();
        if !manifest.version().pins.contains_key(name) {
            return Err(Error::invalid(format!("there is no pin \"{name}\"; `pins` lists those there are")));
        }
        self.change(&mut manifest, |_, _| Change::Unpin { name: name.to_owned() })?;
        self.work.wake();
        Ok(())
    }

    /// The pins there are, by name.
    pub(crate) fn pins(&self) -> Vec<Pin> {
        if self.is_forked() {
            return Vec::new();
        }
        let version = &self.current().version;
        let pin = |(name, pin): (&String, &PinnedAt)| Pin {
            name: name.clone(),
            seqno: Seqno(pin.seqno),
            time: from_us(pin.time_us),
        };
        version.pins.iter().map(pin).collect()
    }
}
