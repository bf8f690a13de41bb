//! Removal of files that no longer have a reader.

use std::{io::ErrorKind, sync::Arc};

use crate::{
    base::FileNumber,
    engine::{
        context::Context,
        health::Health,
        locks::{Lock, Rank},
        work::Work,
    },
    format::name,
};

/// Files without readers that no manifest names, to be removed by background work, which is woken for it. In a process
/// that was forked from the one that opened the database, no lock is taken and nothing is removed.
#[derive(Debug)]
pub(crate) struct Reclaim {
    ctx: Arc<Context>,
    health: Arc<Health>,
    work: Arc<Work>,
    unread: Lock<Unread>,
    /// Held while files are removed.
    removing: Lock<()>,
}

#[derive(Debug, Default)]
struct Unread {
    names: Vec<String>,
    /// Set when another process may own the directory.
    ended: bool,
}

impl Reclaim {
    pub(super) fn new(ctx: &Arc<Context>, health: &Arc<Health>, work: &Arc<Work>) -> Self {
        Self {
            ctx: Arc::clone(ctx),
            health: Arc::clone(health),
            work: Arc::clone(work),
            unread: ctx.order.lock(Rank::Unread, Unread::default()),
            removing: ctx.order.lock(Rank::Removing, ()),
        }
    }

    /// Adds the file of a segment that lost its last reader, and wakes background work.
    pub(super) fn add_unread(&self, number: FileNumber) {
        self.add_unread_file(name::segment(number));
    }

    /// Adds a file that lost its last reader, and wakes background work.
    pub(super) fn add_unread_file(&self, name: String) {
        if !self.health.is_forked() {
            self.add([name]);
            self.work.wake();
        }
    }

    /// Adds files.
    pub(super) fn add(&self, names: impl IntoIterator<Item = String>) {
        if !self.health.is_forked() {
            self.unread.lock().names.extend(names);
        }
    }

    /// Adds files of segments.
    pub(super) fn add_segments(&self, numbers: impl IntoIterator<Item = FileNumber>) {
        self.add(numbers.into_iter().map(name::segment));
    }

    /// Removes the files in order of their names; those that cannot be removed now are retried next time. Readers that
    /// drop files meanwhile do not wait.
    pub(super) fn run(&self) {
        let _one = self.removing.lock();
        let mut names = {
            let mut unread = self.unread.lock();
            if unread.ended { Vec::new() } else { std::mem::take(&mut unread.names) }
        };
        names.sort_unstable();
        names.retain(|name| matches!(self.ctx.dir.remove(name), Err(e) if e.kind() != ErrorKind::NotFound));
        if !names.is_empty() {
            self.unread.lock().names.append(&mut names);
        }
    }

    /// Removes what it can for the last time.
    pub(super) fn end(&self) {
        self.run();
        let _one = self.removing.lock();
        self.unread.lock().ended = true;
    }
}
