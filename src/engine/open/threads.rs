//! An open database and its threads, which end when the last handle is dropped.

use std::{
    fmt,
    mem::ManuallyDrop,
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
};

use super::{close, open};
use crate::{
    base::{Error, IoContext, Result, in_callback},
    engine::{
        Engine, Options,
        jobs::{WorkKind, work_on},
        locks::{Lock, Rank},
        write::sync_at_intervals,
    },
};

/// An engine with its threads. Dropping it ends the threads and closes the database.
pub(crate) struct Running {
    engine: Arc<Engine>,
    threads: Lock<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Running({:?})", self.engine.path())
    }
}

impl Running {
    /// Opens the database in a directory and starts its threads.
    pub(crate) fn open(options: &Options, path: &Path) -> Result<Self> {
        let engine = Arc::new(open(options, path)?);
        let threads = start(&engine).inspect_err(|_| stop(&engine))?;
        let threads = engine.ctx.order.lock(Rank::Threads, threads);
        Ok(Self { engine, threads })
    }

    #[inline]
    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Ends the threads, then the engine; does nothing if that has been done.
    pub(crate) fn close(&self) -> Result<()> {
        self.engine.check_caller()?;
        // Held to the end: a second caller waits until the first is done.
        let mut threads = self.threads.lock();
        end(&self.engine, &mut threads)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.engine.is_forked() {
            // The threads belong to the process that this one was forked from: there is nothing to join or drop here.
            // Their lock may be held for ever in this process, so it is not taken.
            let _theirs = ManuallyDrop::new(std::mem::take(self.threads.get_mut()));
        } else if in_callback() {
            // The caller may be one of the threads, or hold a lock that closing waits for.
            let (engine, mut threads) = (Arc::clone(&self.engine), std::mem::take(self.threads.get_mut()));
            let closing = thread::Builder::new().name("chronolith-close".to_owned());
            // If no thread can be started, the database stays open until the process ends.
            let _started = closing.spawn(move || end(&engine, &mut threads)).map(drop);
        } else {
            // Best effort: callers that need the result call `close`.
            let _closed = self.close();
        }
    }
}

/// Starts the threads of a database.
fn start(engine: &Arc<Engine>) -> Result<Vec<JoinHandle<()>>> {
    if engine.ctx.options.read_only || engine.ctx.runs_inline() {
        return Ok(Vec::new());
    }
    let mut threads = Vec::new();
    let mut spawn = |name: &str, body: fn(&Engine)| {
        let engine = Arc::clone(engine);
        let path = engine.path();
        let spawned = thread::Builder::new().name(name.to_owned()).spawn(move || body(&engine));
        threads.push(spawned.at("start a thread for", || path)?);
        Ok::<_, Error>(())
    };
    spawn("chronolith-flush", |engine| work_on(engine, WorkKind::Flush))?;
    // Two: a job on a large keyspace does not keep level 0 of the others waiting.
    spawn("chronolith-compact", |engine| work_on(engine, WorkKind::Compact))?;
    spawn("chronolith-compact-2", |engine| work_on(engine, WorkKind::Compact))?;
    spawn("chronolith-collect", |engine| work_on(engine, WorkKind::Collect))?;
    spawn("chronolith-sync", sync_at_intervals)?;
    Ok(threads)
}

/// Asks background work to end.
fn stop(engine: &Engine) {
    engine.health.stop();
    engine.work.stop();
    engine.log.syncing.end();
}

/// Ends the threads, then the engine; does nothing if that has been done.
fn end(engine: &Engine, threads: &mut Vec<JoinHandle<()>>) -> Result<()> {
    if engine.check_open().is_err() {
        return Ok(());
    }
    stop(engine);
    for thread in threads.drain(..) {
        // A thread that panicked has already reported it; closing continues without it.
        let _ended = thread.join();
    }
    close(engine)
}
