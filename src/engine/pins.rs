//! Pins: moments kept readable under a name, across restarts and dropped keyspaces.

use std::time::SystemTime;

use super::{Engine, jobs::flush_recovered, keyspaces::commit_change};
use crate::{
    base::{Error, Result, Seqno},
    manifest::{Change, Edit, PinnedAt},
};

/// The longest name, in bytes.
const NAME_LEN_MAX: usize = 255;

/// A moment kept readable: see [`Db::pin`](crate::Db::pin).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pin {
    /// Name of the pin.
    pub name: String,
    /// Seqno of the moment.
    pub seqno: Seqno,
    /// Time of the moment.
    pub time: SystemTime,
}

/// Keeps the present readable under a name.
pub(crate) fn pin(engine: &Engine, name: &str) -> Result<Seqno> {
    engine.health.check_writable()?;
    if name.is_empty() || name.len() > NAME_LEN_MAX {
        return Err(Error::invalid(format!("the name of a pin has 1 to {NAME_LEN_MAX} bytes, not {}", name.len())));
    }
    flush_recovered(engine)?;
    let mut editing = engine.files.edit();
    if editing.version().pins.contains_key(name) {
        return Err(Error::invalid(format!("there is a pin \"{name}\" already; `unpin` it first")));
    }
    let pin = |seqno, time| Edit::new([Change::Pin { name: name.to_owned(), seqno, time }]);
    let seqno = commit_change(engine, &mut editing, pin)?;
    Ok(seqno)
}

/// Removes a pin.
pub(crate) fn unpin(engine: &Engine, name: &str) -> Result<()> {
    engine.health.check_writable()?;
    flush_recovered(engine)?;
    let mut editing = engine.files.edit();
    if !editing.version().pins.contains_key(name) {
        return Err(Error::invalid(format!("there is no pin \"{name}\"; `pins` lists all of them")));
    }
    commit_change(engine, &mut editing, |_, _| Edit::new([Change::Unpin { name: name.to_owned() }]))?;
    engine.work.wake();
    Ok(())
}

/// Returns the pins, by name.
pub(crate) fn pins(engine: &Engine) -> Vec<Pin> {
    if engine.is_forked() {
        return Vec::new();
    }
    let version = &engine.files.current().version;
    let pin =
        |(name, pin): (&String, &PinnedAt)| Pin { name: name.clone(), seqno: pin.seqno, time: pin.time.to_time() };
    version.pins.iter().map(pin).collect()
}
