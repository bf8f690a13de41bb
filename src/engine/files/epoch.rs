//! An epoch: one memtable with its log, and the pack that its chunks go to (L2 of `docs/chunks.md`).
//!
//! ```text
//!   open     appended to by any writer; how far the file reaches is told to batches and to syncs
//!   closed   its memtable was sealed: appends go to the next epoch
//!   sealed   the flush of its memtable has written table and tail, and synced them
//! ```

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use super::chunks::PackHandle;
use crate::{
    base::{ChunkId, Error, FileNumber, IoContext, Result},
    chunk::{
        pack::{PackMeta, PackReader, PackWriter},
        record::{EncodedChunk, FIRST_RECORD, Line},
    },
    engine::{
        context::Context,
        health::Health,
        locks::{Rank, RwLock},
    },
    env::File,
    format::name,
};

/// The pack of one memtable.
#[derive(Debug)]
pub(crate) struct Epoch {
    ctx: Arc<Context>,
    health: Arc<Health>,
    /// Number of the memtable's log.
    log: FileNumber,
    state: RwLock<State>,
    /// The file of the pack, once there is one.
    open: OnceLock<Open>,
    /// The same pack once a version names it. Whoever still reads it here keeps the file.
    named: OnceLock<Arc<PackHandle>>,
    /// How far the file holds whole records, and how far they are known to be on the disk.
    written: AtomicU64,
    synced: AtomicU64,
    /// Number of places, and bytes of the records.
    places: AtomicU64,
    bytes: AtomicU64,
    /// Bytes of records with which it is full.
    bytes_max: AtomicU64,
}

#[derive(Debug)]
struct Open {
    number: FileNumber,
    file: Arc<dyn File>,
    reader: PackReader,
}

#[derive(Debug, Default)]
struct State {
    pack: Option<PackWriter>,
    /// Where each chunk is. The hasher is random: ids can be ground to share bits.
    places: HashMap<ChunkId, Line>,
    closed: bool,
    /// Set when the database is closed: nothing is written any more, whoever still has this.
    ended: bool,
    sealed: Option<PackMeta>,
}

/// A pack to sync, and how far it is known to reach.
#[derive(Clone, Debug)]
pub(in crate::engine) struct PackSync {
    epoch: Arc<Epoch>,
    upto: u64,
}

impl Epoch {
    pub(in crate::engine) fn new(ctx: &Arc<Context>, health: &Arc<Health>, log: FileNumber) -> Self {
        Self {
            ctx: Arc::clone(ctx),
            health: Arc::clone(health),
            log,
            state: ctx.order.rw_lock(Rank::Epoch, State::default()),
            open: OnceLock::new(),
            named: OnceLock::new(),
            written: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            places: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            bytes_max: AtomicU64::new(ctx.options.limits.epoch_bytes),
        }
    }

    pub(in crate::engine) fn log(&self) -> FileNumber {
        self.log
    }

    /// Returns whether it has no chunk.
    pub(in crate::engine) fn is_empty(&self) -> bool {
        self.open.get().is_none()
    }

    /// Returns the number of its chunks.
    pub(in crate::engine) fn len(&self) -> u64 {
        self.places.load(Ordering::Relaxed)
    }

    /// Returns whether its memtable should be sealed.
    pub(in crate::engine) fn is_full(&self) -> bool {
        let options = &self.ctx.options;
        self.bytes.load(Ordering::Relaxed) >= self.bytes_max.load(Ordering::Relaxed)
            || self.places.load(Ordering::Relaxed) >= options.epoch_places()
    }

    /// Keeps the pack that a version has named, for readers of this epoch.
    pub(super) fn keep(&self, handle: &Arc<PackHandle>) {
        self.named.get_or_init(|| Arc::clone(handle));
    }

    /// Returns the number of its pack, if it has one.
    pub(super) fn pack(&self) -> Option<FileNumber> {
        self.open.get().map(|open| open.number)
    }

    /// Returns where a chunk is, or will be once it is written.
    pub(in crate::engine) fn place(&self, id: &ChunkId) -> Option<Line> {
        if self.is_empty() {
            return None;
        }
        self.state.read().places.get(id).copied()
    }

    /// Returns where a chunk is that the file holds.
    pub(super) fn written_place(&self, id: &ChunkId) -> Option<Line> {
        let line = self.place(id)?;
        (line.end() <= self.written.load(Ordering::Acquire)).then_some(line)
    }

    /// Returns the number of its pack, and what reads its chunks.
    pub(super) fn reader(&self) -> Option<(FileNumber, &PackReader)> {
        self.open.get().map(|open| (open.number, &open.reader))
    }

    /// Appends a chunk that is in no pack yet; `false` if the epoch is closed. The first one creates the pack, whose
    /// name is made durable: a log may need it before any flush names it. `number` gives a number to a new file.
    pub(in crate::engine) fn append(&self, chunk: &EncodedChunk, number: impl FnOnce() -> FileNumber) -> Result<bool> {
        let mut state = self.state.write();
        let State { pack, places, closed, ended, sealed } = &mut *state;
        if *ended {
            return Err(Error::Closed);
        }
        assert!(sealed.is_none() || *closed, "the pack of log {} was sealed while its memtable is active", self.log);
        if *closed {
            return Ok(false);
        }
        if pack.is_none() {
            let number = number();
            let made = self.create(number)?;
            self.open.get_or_init(|| Open { number, file: Arc::clone(made.file()), reader: made.reader() });
            *pack = Some(made);
        }
        let Some(pack) = pack else { return Ok(false) };
        let appended = pack.append(chunk);
        // Also after an error, which leaves what was written before.
        self.written.fetch_max(pack.written(), Ordering::Release);
        let line = appended?;
        let before = places.insert(line.id, line);
        assert!(before.is_none(), "chunk {} twice in the pack of log {} (L11)", line.id, self.log);
        self.places.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        Ok(true)
    }

    fn create(&self, number: FileNumber) -> Result<PackWriter> {
        let Context { dir, env, .. } = &*self.ctx;
        let made = PackWriter::create(&**dir, number, env.entropy())?;
        self.bytes_max.store(self.ctx.pack_bytes(self.ctx.options.limits.epoch_bytes), Ordering::Relaxed);
        let named = self.ctx.sync_pack_names();
        named.inspect_err(|error| {
            self.health.poison_unless_unopened(error);
            let _removed = dir.remove(&name::pack(number));
        })?;
        Ok(made)
    }

    /// Writes what was appended to the file: whoever commits a recipe calls this first (L1).
    pub(in crate::engine) fn write_out(&self) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let mut state = self.state.write();
        if state.ended {
            return Err(Error::Closed);
        }
        if let Some(pack) = &mut state.pack {
            let written = pack.write_out();
            self.written.fetch_max(pack.written(), Ordering::Release);
            written?;
        }
        Ok(())
    }

    /// Returns the number of the pack and how far its file reaches; `None` if it holds no record.
    pub(in crate::engine) fn reach(&self) -> Option<(FileNumber, u64)> {
        let written = self.written.load(Ordering::Acquire);
        self.open.get().map(|open| (open.number, written)).filter(|(_, written)| *written > FIRST_RECORD)
    }

    /// Returns what of the pack is not known to be on the disk.
    pub(in crate::engine) fn to_sync(self: &Arc<Self>) -> Option<PackSync> {
        let upto = self.written.load(Ordering::Acquire);
        (self.synced.load(Ordering::Acquire) < upto).then(|| PackSync { epoch: Arc::clone(self), upto })
    }

    /// Closes it: appends go to the next epoch from here on.
    pub(in crate::engine) fn close(&self) {
        self.state.write().closed = true;
    }

    /// Refuses everything from here on: the directory is another's once the database is closed.
    pub(in crate::engine) fn end(&self) {
        self.state.write().ended = true;
    }

    /// Ends the pack with its table and syncs it; `None` if there is none. A flush that failed later finds it sealed.
    pub(in crate::engine) fn seal(&self) -> Result<Option<PackMeta>> {
        let mut state = self.state.write();
        assert!(state.closed, "the pack of log {} is sealed while its memtable is active (L2)", self.log);
        if let Some(sealed) = state.sealed {
            return Ok(Some(sealed));
        }
        let Some(pack) = &mut state.pack else { return Ok(None) };
        let meta = pack.seal()?;
        self.written.fetch_max(pack.written(), Ordering::Release);
        self.sync_file(pack.file())?;
        state.sealed = Some(meta);
        Ok(Some(meta))
    }

    /// Syncs the file of the pack.
    fn sync_file(&self, file: &Arc<dyn File>) -> Result<()> {
        let number = self.pack().unwrap_or_default();
        let synced = file.sync().at("sync", || self.ctx.dir.path().join(name::pack(number)));
        synced.inspect_err(|error| self.health.poison(error))
    }

    /// Returns the records of the pack, ascending by id: the order of its table.
    pub(in crate::engine) fn lines(&self) -> Vec<Line> {
        let mut lines: Vec<Line> = self.state.read().places.values().copied().collect();
        lines.sort_unstable_by_key(|line| line.id);
        lines
    }
}

impl PackSync {
    /// Makes the pack durable as far as it reached.
    pub(in crate::engine) fn sync(&self) -> Result<()> {
        let Epoch { open, synced, .. } = &*self.epoch;
        let Some(Open { file, .. }) = open.get() else { return Ok(()) };
        if synced.load(Ordering::Acquire) < self.upto {
            self.epoch.sync_file(file)?;
            synced.fetch_max(self.upto, Ordering::Release);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        KeyspaceOptions, Options,
        base::Micros,
        chunk::{
            id::{ChunkKind, Scope},
            record::{EncodedChunk, NewChunk},
        },
        env::Sim,
    };

    /// L2: behind the table of a pack nothing is appended; whoever took the epoch before goes to the next one.
    #[test]
    fn an_append_that_comes_behind_the_flush_of_its_epoch_is_sent_on() {
        let db = Options::new().env(Sim::new(1)).open("/db").unwrap();
        let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        k.put("a", vec![7; 100_000]).unwrap();
        let engine = db.engine();
        let epoch = engine.files.with_current(|now| Arc::clone(&now.chunks.epochs[0]));
        let bytes = b"a chunk that comes late";
        let id = Scope::Open.id(ChunkKind::Data, bytes);
        let made = engine.store.with_encoder(None, |encoder| {
            let chunk = NewChunk { kind: ChunkKind::Data, scope: 0, id, bytes, origin: "", time: Micros(7) };
            EncodedChunk::new(&chunk, |out| encoder.encode(bytes, out))
        });
        let chunk = made.unwrap();
        for flushed in [false, true] {
            if flushed {
                db.flush().unwrap();
            } else {
                engine.log.rotate(&mut engine.log.lock(), &engine.files).unwrap();
            }
            assert!(!epoch.append(&chunk, || engine.files.take_number()).unwrap(), "flushed {flushed}");
        }
        assert!(db.verify().unwrap().is_clean());
    }
}
