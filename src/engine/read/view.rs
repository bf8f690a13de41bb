//! Views: a registered seqno, and files that show it: those that were current when the view was opened, or newer ones.

use std::sync::{Arc, atomic::Ordering};

use super::{
    cutoffs, get_as_of, get_stored_as_of, horizon, multi_get_as_of,
    scan::{Scan, scan_in},
};
use crate::{
    base::{Bytes, Error, KeySpan, KeyspaceId, Micros, Result, Seqno},
    compaction::Reader,
    engine::{
        Engine, KeyspaceRef,
        counters::Counters,
        files::{Seat, chunks::ChunkSet, superversion::SuperVersion},
        timeline::Timeline,
    },
    manifest::{Change, Edit, KeyspaceVersion, PinnedAt, Version},
    merge::{Direction, ReadAt, Stored},
};

/// Moment that a view is opened at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Anchor {
    Present,
    Past {
        seqno: Seqno,
        /// Time of the moment, in microseconds.
        time: Micros,
        /// Exclusive bound on how much later the moment may be; 0 if `time` is exact.
        slack: Micros,
        pinned: bool,
    },
}

/// A registered view. It pins versions, not files: unless a job that did not know of it dropped what it sees, it reads
/// whatever files are current.
#[derive(Debug)]
pub(crate) struct ViewCore {
    engine: Arc<Engine>,
    seqno: Seqno,
    /// Moment in microseconds: values that had expired by then are absent.
    time: Micros,
    /// Exclusive bound on how much later the moment may be; 0 if `time` is exact.
    slack: Micros,
    /// Newest seqno when it was opened; keyspaces dropped later can still be read.
    purge_horizon: Seqno,
    /// Whether what it sees was the present, or has been kept ever since: then no read is refused.
    complete: bool,
    /// Whether it reads keyspaces that were dropped after its moment.
    pinned: bool,
    /// Keyspaces and their watermarks as they were when it was opened (R4).
    version: Arc<Version>,
    seat: Seat,
}

/// Moments tried before a refusal names the horizon.
const NAMED_MAX: usize = 8;

impl ViewCore {
    /// Opens a view of the present.
    pub(crate) fn snapshot(engine: &Arc<Engine>) -> Arc<Self> {
        // The seqno is read under the lock: no job that starts later can miss it.
        Arc::new(Self::register(engine, Anchor::Present))
    }

    /// Opens a view of a past moment.
    pub(crate) fn as_of(engine: &Arc<Engine>, seqno: Seqno) -> Result<Arc<Self>> {
        engine.check_open()?;
        if seqno > engine.visible() {
            return Err(Error::InTheFuture);
        }
        let timeline = Timeline::new(&engine.files.current());
        let stamp = timeline.at_seqno(seqno)?;
        let time = stamp.map_or(Micros::ZERO, |stamp| stamp.time);
        let slack = timeline.slack(stamp, seqno);
        Ok(Arc::new(Self::register(engine, Anchor::Past { seqno, time, slack, pinned: false })))
    }

    /// Opens a view of what had been committed at a time, in microseconds. The answer never changes: later commits get
    /// later times.
    pub(crate) fn as_of_time(engine: &Arc<Engine>, time: Micros) -> Result<Arc<Self>> {
        engine.check_open()?;
        fix_time(engine, time)?;
        let timeline = Timeline::new(&engine.files.current());
        let seqno = timeline.at_time(time)?.map_or(Seqno(0), |stamp| stamp.seqno);
        let exact = timeline.exact_from();
        if seqno < exact {
            return Err(Error::HistoryTrimmed { oldest: exact });
        }
        Ok(Arc::new(Self::register(engine, Anchor::Past { seqno, time, slack: Micros::ZERO, pinned: false })))
    }

    /// Opens a view of a pinned moment.
    pub(crate) fn pinned(engine: &Arc<Engine>, name: &str) -> Result<Arc<Self>> {
        engine.check_open()?;
        // Held until the view is registered, so the pin cannot be removed before.
        let editing = engine.files.edit();
        let pin = editing.version().pins.get(name).copied();
        let PinnedAt { seqno, time } =
            pin.ok_or_else(|| Error::invalid(format!("there is no pin \"{name}\"; `pins` lists all of them")))?;
        Ok(Arc::new(Self::register(engine, Anchor::Past { seqno, time, slack: Micros::ZERO, pinned: true })))
    }

    fn register(engine: &Arc<Engine>, anchor: Anchor) -> Self {
        if engine.is_forked() {
            return Self::of_nothing(engine);
        }
        engine.ctx.pass("view: moment, then registered");
        let registering = engine.files.registering();
        // Under the registry lock: a job installed before this did not know this reader, but judged by an earlier time.
        let now = if anchor == Anchor::Present { engine.now() } else { Micros::ZERO };
        // The seqno first: the files taken after it hold every commit up to it. No job can drop anything in between,
        // because its result becomes current under this lock.
        let purge_horizon = engine.visible();
        let (seqno, time, slack, complete, pinned) = match anchor {
            Anchor::Present => (purge_horizon, now, Micros::ZERO, true, false),
            // A damaged timeline must not show the future.
            Anchor::Past { seqno, time, slack, pinned } => (seqno.min(purge_horizon), time, slack, pinned, pinned),
        };
        let (seat, files) = registering.seat(Reader { seqno, purge_horizon, time });
        let version = Arc::clone(&files.version);
        Self { engine: Arc::clone(engine), seqno, time, slack, purge_horizon, complete, pinned, version, seat }
    }

    /// Creates a view in a process forked from the one that opened the database: it shows nothing, and its reads fail.
    #[cold]
    fn of_nothing(engine: &Arc<Engine>) -> Self {
        Self {
            engine: Arc::clone(engine),
            seqno: Seqno(0),
            time: Micros::ZERO,
            slack: Micros::ZERO,
            purge_horizon: Seqno(0),
            complete: false,
            pinned: false,
            version: Arc::default(),
            seat: Seat::outside(),
        }
    }

    pub(crate) fn seqno(&self) -> Seqno {
        self.seqno
    }

    /// Marks an iterator as under way while the result is held.
    pub(crate) fn iterating(&self) -> Arc<()> {
        self.seat.iterating()
    }

    /// Returns the moment, in microseconds.
    pub(crate) fn time(&self) -> Micros {
        self.time
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub(crate) fn get(&self, keyspace: &KeyspaceRef, key: &[u8]) -> Result<Option<Bytes>> {
        let Some(read_at) = self.read_at(keyspace)? else { return Ok(None) };
        let got = get_as_of(&self.files(), keyspace, key, read_at, &self.engine.counters);
        got.map_err(|refused| self.readable_instead(keyspace, key, refused))
    }

    /// Returns whether a key had a value; reads no chunk (L14).
    pub(crate) fn contains(&self, keyspace: &KeyspaceRef, key: &[u8]) -> Result<bool> {
        Ok(self.get_stored(keyspace, key)?.is_some())
    }

    /// Reads a value as it is stored.
    pub(in crate::engine) fn get_stored(&self, keyspace: &KeyspaceRef, key: &[u8]) -> Result<Option<Stored>> {
        let Some(read_at) = self.read_at(keyspace)? else { return Ok(None) };
        let got = get_stored_as_of(&self.files(), keyspace, key, read_at, &self.engine.counters);
        got.map_err(|refused| self.readable_instead(keyspace, key, refused))
    }

    /// Reads a value as it is stored, with the chunks of the files that it was read from.
    pub(crate) fn get_with_chunks(
        &self,
        keyspace: &KeyspaceRef,
        key: &[u8],
    ) -> Result<Option<(Stored, Arc<ChunkSet>)>> {
        let Some(read_at) = self.read_at(keyspace)? else { return Ok(None) };
        let files = self.files();
        let got = get_stored_as_of(&files, keyspace, key, read_at, &self.engine.counters);
        let got = got.map_err(|refused| self.readable_instead(keyspace, key, refused))?;
        Ok(got.map(|stored| (stored, Arc::clone(&files.chunks))))
    }

    /// Reads several keys; a refusal names the horizon.
    pub(crate) fn multi_get<K: AsRef<[u8]>>(
        &self,
        keyspace: &KeyspaceRef,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Bytes>>> {
        let read_at = self.read_at(keyspace)?.map(|read_at| self.of_many(keyspace.id, read_at));
        let Some(read_at) = read_at else { return Ok(keys.into_iter().map(|_| None).collect()) };
        multi_get_as_of(&self.files(), keyspace, keys, &read_at, &self.engine.counters)
    }

    /// Scans the visible keys and values of a span; `None` if the keyspace did not exist yet.
    pub(crate) fn scan(&self, keyspace: &KeyspaceRef, span: KeySpan, direction: Direction) -> Result<Option<Scan>> {
        let read_at = self.read_at(keyspace)?.map(|read_at| self.of_many(keyspace.id, read_at));
        let Some(read_at) = read_at else { return Ok(None) };
        self.engine.counters.scans.fetch_add(1, Ordering::Relaxed);
        scan_in(&self.files(), keyspace, span, read_at, direction, &self.engine.dead).map(Some)
    }

    /// Scans a keyspace in files of this view, taken before: for a copy, whose parts are of one superversion.
    pub(in crate::engine) fn scan_on(&self, files: &SuperVersion, keyspace: &KeyspaceRef) -> Result<Option<Scan>> {
        let read_at = self.read_at(keyspace)?.map(|read_at| self.of_many(keyspace.id, read_at));
        let Some(read_at) = read_at else { return Ok(None) };
        let span = KeySpan { start: Vec::new(), end: None };
        scan_in(files, keyspace, span, read_at, Direction::Forward, &self.engine.dead).map(Some)
    }

    /// Returns whether what it sees was the present, or has been kept ever since.
    pub(in crate::engine) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Returns what to ask of a keyspace; `None` if it did not exist yet at the view's moment.
    pub(in crate::engine) fn read_at(&self, keyspace: &KeyspaceRef) -> Result<Option<ReadAt>> {
        self.engine.check_open()?;
        let Some(then) = self.version.keyspaces.get(&keyspace.id) else {
            // Either not created when the view was opened, as ids are given out in order, or forgotten by then. A view
            // that sees drops as of its own moment still reads the time before the keyspace's birth.
            let unborn = keyspace.id.0 >= self.version.next_keyspace || self.pinned && self.seqno < keyspace.born;
            return if unborn {
                Ok(None)
            } else {
                Err(Error::invalid("the keyspace was dropped before this view was opened"))
            };
        };
        if self.has_lost(then) {
            let name = &then.name;
            return Err(Error::invalid(format!("keyspace \"{name}\" was dropped before this view was opened")));
        }
        if self.seqno < then.born {
            return Ok(None);
        }
        let vanished = if self.complete { Seqno(0) } else { then.vanished };
        let expired_by_then = !self.complete && self.time < then.expired_upto;
        let cutoffs = cutoffs(then, self.time, self.slack);
        Ok(Some(ReadAt {
            seqno: self.seqno,
            vanished,
            purge_horizon: self.purge_horizon,
            expired_by_then,
            horizon: None,
            cutoffs,
        }))
    }

    /// Adapts a question to a reader of many keys. A moment that one of them refuses is of no use to it, so a refusal
    /// names the horizon, which is good for all.
    fn of_many(&self, id: KeyspaceId, read_at: ReadAt) -> ReadAt {
        let horizon = (!self.complete).then(|| horizon(&self.engine, id));
        ReadAt { horizon, ..read_at }
    }

    /// Makes a refusal of a key name a moment at which the key is readable (R5): tries the moment named first, then the
    /// one named by its refusal, and after some of them names the horizon.
    #[cold]
    fn readable_instead(&self, keyspace: &KeyspaceRef, key: &[u8], refused: Error) -> Error {
        let Error::HistoryTrimmed { mut oldest } = refused else { return refused };
        let horizon = horizon(&self.engine, keyspace.id);
        for _ in 0..NAMED_MAX {
            if oldest >= horizon || oldest <= self.seqno {
                break;
            }
            let tried = Self::as_of(&self.engine, oldest).and_then(|view| {
                let read_at = view.read_at(keyspace)?;
                let counters = &self.engine.counters;
                read_at.map_or(Ok(None), |read_at| get_stored_as_of(&view.files(), keyspace, key, read_at, counters))
            });
            match tried {
                Err(Error::HistoryTrimmed { oldest: next }) if next > oldest => oldest = next,
                Err(Error::HistoryTrimmed { .. }) => break,
                // Another error, such as a failed fold, is no refusal: the value exists.
                _ => return Error::HistoryTrimmed { oldest },
            }
        }
        Error::HistoryTrimmed { oldest: horizon }
    }

    pub(in crate::engine) fn counters(&self) -> &Counters {
        &self.engine.counters
    }

    /// Returns the keyspace that had this name at the view's moment.
    pub(crate) fn keyspace(&self, name: &str) -> Option<&Arc<KeyspaceVersion>> {
        let alive = |keyspace: &&Arc<KeyspaceVersion>| {
            let dropped = keyspace.dropped.is_some_and(|dropped| dropped <= self.seqno);
            keyspace.name == name && !keyspace.is_hidden() && keyspace.born <= self.seqno && !dropped
        };
        self.version.keyspaces.values().find(alive)
    }

    /// Returns a keyspace as its readers hold it.
    pub(crate) fn keyspace_ref(&self, keyspace: &KeyspaceVersion) -> Result<KeyspaceRef> {
        self.engine.catalogue.keyspace_ref(keyspace)
    }

    /// Returns the keyspaces that existed at the view's moment and that it can read.
    pub(crate) fn keyspaces(&self) -> Result<Vec<&Arc<KeyspaceVersion>>> {
        self.engine.check_open()?;
        let keyspaces = self.version.keyspaces.values().filter(|keyspace| !keyspace.is_hidden());
        Ok(keyspaces.filter(|keyspace| keyspace.born <= self.seqno && !self.has_lost(keyspace)).collect())
    }

    /// Returns whether a keyspace counts as dropped for this view.
    fn has_lost(&self, keyspace: &KeyspaceVersion) -> bool {
        let sees_drops = if self.pinned { self.seqno } else { self.purge_horizon };
        keyspace.dropped.is_some_and(|dropped| dropped <= sees_drops)
    }

    /// Returns the files to read: the current ones, unless a job that did not know of this view dropped what it sees.
    pub(in crate::engine) fn files(&self) -> Arc<SuperVersion> {
        self.engine.files.files_of(&self.seat)
    }
}

impl Drop for ViewCore {
    fn drop(&mut self) {
        if !self.engine.is_forked() {
            self.engine.files.release(&self.seat);
        }
    }
}

/// Lead of the time that an answer about the present makes durable, in microseconds; less than the slack of the clock.
const AHEAD: u64 = 200_000;

/// Makes the answer for a time permanent: later commits get later times, even after a crash.
fn fix_time(engine: &Engine, time: Micros) -> Result<()> {
    if time > engine.now() {
        // A commit may be a little ahead of the clock if an earlier call asked for the same time.
        let newest = Timeline::new(&engine.files.current()).at_seqno(Seqno::MAX)?;
        if newest.is_none_or(|newest| time > newest.time) {
            return Err(Error::InTheFuture);
        }
    }
    let newest = engine.log.lock().time();
    let floor = time.saturating_add(Micros(1));
    if time < newest || engine.ctx.options.read_only {
        return Ok(());
    }
    engine.health.check_writable()?;
    let mut editing = engine.files.edit();
    if editing.version().time < floor {
        // A little ahead, so that not every call waits for the disk.
        let time = floor.saturating_add(Micros(AHEAD));
        editing.apply(&Edit::new([Change::reached(Seqno(0), time)]))?;
    }
    engine.log.lock().raise_floor(floor);
    Ok(())
}
