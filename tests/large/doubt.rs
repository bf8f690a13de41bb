//! A manifest whose last edit may or may not be on the disk.

use std::{
    io,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use chronolith::env::{Background, Dir, Env, File, Region};

use super::*;

/// A machine on which writes to the manifest fail while it is broken, although the first of them then reaches the disk.
/// It draws no background step, so that a commit may run at any point.
#[derive(Clone, Debug)]
pub(super) struct Broken {
    sim: Sim,
    fails: Arc<AtomicBool>,
    met: Arc<AtomicBool>,
}

#[derive(Debug)]
struct BrokenDir(Arc<dyn Dir>, Broken);

#[derive(Debug)]
struct BrokenFile(Arc<dyn File>, Broken);

impl Broken {
    pub(super) fn new(sim: &Sim) -> Self {
        Self { sim: sim.clone(), fails: Arc::default(), met: Arc::default() }
    }

    fn is_broken(&self) -> bool {
        self.fails.load(Ordering::SeqCst)
    }
}

impl Env for Broken {
    fn open_dir(&self, path: &Path, create: bool) -> io::Result<Arc<dyn Dir>> {
        Ok(Arc::new(BrokenDir(self.sim.open_dir(path, create)?, self.clone())))
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
        below - 1
    }
    fn pass(&self, point: &'static str) {
        self.sim.pass(point);
    }
}

impl Dir for BrokenDir {
    fn path(&self) -> &Path {
        self.0.path()
    }
    fn try_lock(&self, exclusive: bool) -> io::Result<bool> {
        self.0.try_lock(exclusive)
    }
    fn unlock(&self) -> io::Result<()> {
        self.0.unlock()
    }
    fn restrict(&self) -> io::Result<()> {
        self.0.restrict()
    }
    fn list(&self, sub: &str) -> io::Result<Vec<String>> {
        self.0.list(sub)
    }
    fn create_dir(&self, name: &str) -> io::Result<()> {
        self.0.create_dir(name)
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let is_manifest = name.to_lowercase().contains("manifest");
        if is_manifest && self.1.is_broken() {
            return Err(io::Error::from_raw_os_error(28));
        }
        let file = self.0.create(name)?;
        Ok(if is_manifest { Arc::new(BrokenFile(file, self.1.clone())) } else { file })
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.0.open(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }
    fn sync_dir(&self, sub: &str) -> io::Result<()> {
        self.0.sync_dir(sub)
    }
}

impl File for BrokenFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        if self.1.is_broken() {
            if !self.1.met.swap(true, Ordering::SeqCst) {
                self.0.write_at(offset, buf)?;
            }
            return Err(io::Error::from_raw_os_error(5));
        }
        self.0.write_at(offset, buf)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.allocate(len)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn map(&self) -> io::Result<Region> {
        self.0.map()
    }
}

/// L10: while the manifest is in doubt, packs stay condemned: the failed edit may still be read after a crash, and a
/// recipe that was written in between would have lost its chunks with the pack that it removes.
#[test]
fn a_value_that_is_written_while_the_edit_of_a_collection_is_in_doubt_survives() {
    let sim = Sim::new(1);
    let machine = Broken::new(&sim);
    let db = Options::new().env(machine.clone()).open("/db").unwrap();
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    let value = noise(1, 300_000);
    k.put("a", &value).unwrap();
    db.flush().unwrap();
    k.delete("a").unwrap();
    let broken = Arc::clone(&machine.fails);
    sim.on_point(move |point| {
        if point == "collect under the right to flush: written, then installed" {
            broken.store(true, Ordering::SeqCst);
        }
    });
    assert!(db.compact().is_err());
    sim.ignore_points();
    let mut batch = db.batch();
    batch.put(&k, "b", &value);
    batch.commit_with(Durability::Sync).unwrap();
    assert!(k.get("b").unwrap().unwrap() == value);
    sim.cut_power_with(Loss::Nothing);
    drop((k, db));
    machine.fails.store(false, Ordering::SeqCst);
    let db = Options::new().env(machine).open("/db").unwrap();
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    assert!(k.get("b").unwrap().unwrap() == value, "an acknowledged, synced value");
}
