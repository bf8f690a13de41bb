//! An environment that writes down what each changing call is.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use chronolith::env::{Background, Dir, Env, File, Region, Sim};

/// A simulated machine that writes down what each changing call is.
#[derive(Clone, Debug)]
pub(crate) struct Traced {
    pub(crate) sim: Sim,
    pub(crate) trace: Arc<Mutex<Vec<String>>>,
}

#[derive(Debug)]
struct TracedDir {
    inner: Arc<dyn Dir>,
    env: Traced,
}

#[derive(Debug)]
struct TracedFile {
    inner: Arc<dyn File>,
    env: Traced,
    name: String,
}

impl Traced {
    pub(crate) fn new(sim: &Sim) -> Self {
        Self { sim: sim.clone(), trace: Arc::default() }
    }

    /// Notes every call that `what` is counted as.
    fn note<T>(&self, what: &str, call: impl FnOnce() -> T) -> T {
        let before = self.sim.calls();
        let done = call();
        let mut trace = self.trace.lock().unwrap_or_else(PoisonError::into_inner);
        (before..self.sim.calls()).for_each(|_| trace.push(what.to_owned()));
        done
    }
}

impl Env for Traced {
    fn open_dir(&self, path: &Path, create: bool) -> io::Result<Arc<dyn Dir>> {
        Ok(Arc::new(TracedDir { inner: self.sim.open_dir(path, create)?, env: self.clone() }))
    }

    fn wall_us(&self) -> u64 {
        self.sim.wall_us()
    }

    fn monotonic_us(&self) -> u64 {
        self.sim.monotonic_us()
    }

    fn entropy(&self) -> u64 {
        self.sim.entropy()
    }

    fn background(&self) -> Background {
        self.sim.background()
    }

    fn draw(&self, below: u32) -> u32 {
        self.sim.draw(below)
    }
}

impl TracedDir {
    fn file(&self, inner: Arc<dyn File>, name: &str) -> Arc<dyn File> {
        Arc::new(TracedFile { inner, env: self.env.clone(), name: name.to_owned() })
    }
}

impl Dir for TracedDir {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn try_lock(&self, exclusive: bool) -> io::Result<bool> {
        self.inner.try_lock(exclusive)
    }

    fn unlock(&self) -> io::Result<()> {
        self.inner.unlock()
    }

    fn restrict(&self) -> io::Result<()> {
        self.inner.restrict()
    }

    fn check_there(&self) -> io::Result<()> {
        self.inner.check_there()
    }

    fn list(&self, sub: &str) -> io::Result<Vec<String>> {
        self.inner.list(sub)
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        self.env.note(&format!("create_dir {name}"), || self.inner.create_dir(name))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.env.note(&format!("create {name}"), || self.inner.create(name)).map(|inner| self.file(inner, name))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.inner.open(name).map(|inner| self.file(inner, name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.env.note(&format!("rename {from} to {to}"), || self.inner.rename(from, to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.env.note(&format!("remove {name}"), || self.inner.remove(name))
    }

    fn remove_dir(&self, name: &str) -> io::Result<()> {
        self.env.note(&format!("remove_dir {name}"), || self.inner.remove_dir(name))
    }

    fn link(&self, name: &str, to: &dyn Dir, to_name: &str) -> io::Result<()> {
        self.env.note(&format!("link {name}"), || self.inner.link(name, to, to_name))
    }

    fn sync_dir(&self, sub: &str) -> io::Result<()> {
        self.env.note(&format!("sync_dir {sub}"), || self.inner.sync_dir(sub))
    }

    fn available_space(&self) -> io::Result<u64> {
        self.inner.available_space()
    }
}

impl File for TracedFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let what = format!("write {} bytes to {} at {offset}", buf.len(), self.name);
        self.env.note(&what, || self.inner.write_at(offset, buf))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.env.note(&format!("allocate {len} for {}", self.name), || self.inner.allocate(len))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.env.note(&format!("cut {} to {len}", self.name), || self.inner.set_len(len))
    }

    fn sync(&self) -> io::Result<()> {
        self.env.note(&format!("sync {}", self.name), || self.inner.sync())
    }

    fn map(&self) -> io::Result<Region> {
        self.inner.map()
    }
}
