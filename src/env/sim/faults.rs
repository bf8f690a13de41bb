//! Faults on demand: which call fails, and how.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
};

/// Error numbers of Linux, which the standard library turns into kinds.
pub(super) const EIO: i32 = 5;
pub(super) const ENOMEM: i32 = 12;
pub(super) const EMFILE: i32 = 24;
pub(super) const ENOSPC: i32 = 28;

/// Fault of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The call fails with `EIO`. A write leaves a drawn part of its bytes behind; a sync loses what it should have
    /// made durable, even for later syncs, while programs still read it.
    Eio,
    /// The same with `ENOSPC`.
    Enospc,
    /// The power fails: this call does nothing, and every call fails until
    /// [`Sim::cut_power`](crate::env::Sim::cut_power).
    Cut,
    /// [`Fault::Eio`] for this changing call and all later ones, until
    /// [`Sim::clear_faults`](crate::env::Sim::clear_faults).
    EioForever,
    /// [`Fault::Enospc`] for this changing call and all later ones, until
    /// [`Sim::clear_faults`](crate::env::Sim::clear_faults).
    EnospcForever,
    /// A write leaves a drawn part of its bytes behind and fails with `WriteZero`; other calls fail with `EIO`.
    ShortWrite,
    /// The call fails with `EMFILE`, too many open files, and changes nothing: a later sync can still make everything
    /// durable.
    Emfile,
}

impl Fault {
    pub(super) fn error(self, writing: bool) -> io::Error {
        match self {
            Self::Cut => power_off(),
            Self::ShortWrite if writing => ErrorKind::WriteZero.into(),
            Self::Eio | Self::EioForever | Self::ShortWrite => io::Error::from_raw_os_error(EIO),
            Self::Enospc | Self::EnospcForever => io::Error::from_raw_os_error(ENOSPC),
            Self::Emfile => io::Error::from_raw_os_error(EMFILE),
        }
    }
}

pub(super) fn power_off() -> io::Error {
    io::Error::other("the power is off for this handle")
}

/// Calls so far, and pending faults.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    pub(super) calls: u64,
    pub(super) reads: u64,
    pub(super) at_call: BTreeMap<u64, Fault>,
    pub(super) at_read: BTreeMap<u64, Fault>,
    /// Fault that every changing call meets by now.
    standing: Option<Fault>,
}

impl Faults {
    /// Clears the faults and keeps the counts.
    pub(super) fn clear(&mut self) {
        self.at_call.clear();
        self.at_read.clear();
        self.standing = None;
    }
    /// Counts a changing call and returns the fault it meets.
    pub(super) fn meet_call(&mut self) -> Option<Fault> {
        let planned = self.at_call.remove(&self.calls);
        self.calls += 1;
        if matches!(planned, Some(Fault::EioForever | Fault::EnospcForever)) {
            self.standing = planned;
        }
        planned.or(self.standing)
    }

    /// Counts a reading call and returns the fault it meets.
    pub(super) fn meet_read(&mut self) -> Option<Fault> {
        let planned = self.at_read.remove(&self.reads);
        self.reads += 1;
        planned
    }
}
