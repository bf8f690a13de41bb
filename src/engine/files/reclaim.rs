//! Files that nobody reads any more, on their way out.

use std::{io::ErrorKind, sync::Arc};

use crate::{
    engine::{
        context::Context,
        health::Health,
        locks::{Lock, Rank},
        work::Work,
    },
    format::name,
};

/// Files that nobody reads any more and no manifest names: to be removed by background work, which is woken for it. In a
/// process that was forked from the one that opened the database nobody asks for the locks, and nothing is removed.
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
    /// The directory may belong to somebody else by now.
    ended: bool,
}

impl Reclaim {
    pub(super) fn new(ctx: &Arc<Context>, health: &Arc<Health>, work: &Arc<Work>) -> Self {
        Self {
            ctx: Arc::clone(ctx),
            health: Arc::clone(health),
            work: Arc::clone(work),
            unread: Lock::new(Rank::Unread, Unread::default()),
            removing: Lock::new(Rank::Removing, ()),
        }
    }

    /// Adds the file of a segment whose last reader has gone.
    pub(super) fn add_unread(&self, number: u64) {
        if !self.health.is_forked() {
            self.add([name::segment(number)]);
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
    pub(super) fn add_segments(&self, numbers: impl IntoIterator<Item = u64>) {
        self.add(numbers.into_iter().map(name::segment));
    }

    /// Removes what it can, in order; what cannot be removed now stays for the next time. Readers that let files go
    /// meanwhile do not wait.
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
