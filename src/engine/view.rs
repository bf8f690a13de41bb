//! What one reader sees: a registered seqno, and the files of its birth or newer ones that show the same.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::RwLock;

use super::{
    Engine, Scan,
    read::{Opened, get_in, multi_get_in},
    scan::scan_in,
    superversion::SuperVersion,
};
use crate::{
    base::{Bytes, Error, KeySpan, KeyspaceId, Result},
    manifest::KeyspaceVersion,
    merge::{Asked, Direction},
};

/// A registered view. It pins versions, not files: while no job has dropped anything behind its back, it reads from whatever files are
/// current.
#[derive(Debug)]
pub(crate) struct ViewCore {
    engine: Arc<Engine>,
    seqno: u64,
    /// The newest seqno when it was opened: later drops of keyspaces do not concern it.
    opened: u64,
    /// The keyspaces as they were then, with their marks (R4).
    keyspaces: BTreeMap<KeyspaceId, Arc<KeyspaceVersion>>,
    ticket: u64,
    frozen: Arc<AtomicBool>,
    files: RwLock<Arc<SuperVersion>>,
}

impl ViewCore {
    /// A view of the present.
    pub(crate) fn snapshot(engine: &Arc<Engine>) -> Arc<Self> {
        // The seqno is read under the lock: no job that starts later can miss it.
        Arc::new(Self::register(engine, Engine::visible))
    }

    /// A view of a past moment.
    pub(crate) fn as_of(engine: &Arc<Engine>, seqno: u64) -> Result<Arc<Self>> {
        engine.check_open()?;
        if seqno > engine.visible() {
            return Err(Error::InTheFuture);
        }
        Ok(Arc::new(Self::register(engine, |_| seqno)))
    }

    fn register(engine: &Arc<Engine>, seqno: impl FnOnce(&Engine) -> u64) -> Self {
        let mut registry = engine.registry.lock();
        // The seqno first: the files that are taken after it hold every commit up to it. No job can drop anything between,
        // because its result becomes current under this lock.
        let opened = engine.visible();
        let seqno = seqno(engine).min(opened);
        let files = engine.current();
        let (ticket, frozen) = registry.register(seqno);
        drop(registry);
        Self {
            engine: Arc::clone(engine),
            seqno,
            opened,
            keyspaces: files.version.keyspaces.clone(),
            ticket,
            frozen,
            files: RwLock::new(files),
        }
    }

    pub(crate) fn seqno(&self) -> u64 {
        self.seqno
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub(crate) fn get(&self, keyspace: &Opened, key: &[u8]) -> Result<Option<Bytes>> {
        let Some(asked) = self.asked(keyspace.id)? else { return Ok(None) };
        get_in(&self.files(), keyspace, key, asked, &self.engine.counters)
    }

    /// As [`ViewCore::get`], of several keys.
    pub(crate) fn multi_get<K: AsRef<[u8]>>(
        &self,
        keyspace: &Opened,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Bytes>>> {
        let Some(asked) = self.asked(keyspace.id)? else { return Ok(keys.into_iter().map(|_| None).collect()) };
        multi_get_in(&self.files(), keyspace, keys, asked, &self.engine.counters)
    }

    /// The visible keys and values of a span; nothing where the keyspace was not yet born.
    pub(crate) fn scan(&self, keyspace: &Opened, span: KeySpan, direction: Direction) -> Result<Option<Scan>> {
        let Some(asked) = self.asked(keyspace.id)? else { return Ok(None) };
        self.engine.counters.scans.fetch_add(1, Ordering::Relaxed);
        scan_in(&self.files(), keyspace, span, asked, direction).map(Some)
    }

    /// What to ask of a keyspace; nothing when it was not yet born at the view's moment.
    fn asked(&self, id: KeyspaceId) -> Result<Option<Asked>> {
        self.engine.check_open()?;
        let Some(keyspace) = self.keyspaces.get(&id) else {
            // Born after the view was opened, or forgotten before.
            let alive = self.engine.current.read().version.keyspaces.contains_key(&id);
            return if alive {
                Ok(None)
            } else {
                Err(Error::invalid("the keyspace was dropped before this view was opened"))
            };
        };
        if keyspace.dropped.is_some_and(|dropped| dropped <= self.opened) {
            let name = &keyspace.name;
            return Err(Error::invalid(format!("keyspace \"{name}\" was dropped before this view was opened")));
        }
        if self.seqno < keyspace.born {
            return Ok(None);
        }
        Ok(Some(Asked { seqno: self.seqno, vanished: keyspace.vanished }))
    }

    /// The files to read: the current ones, unless a job dropped what this view sees without knowing of it.
    fn files(&self) -> Arc<SuperVersion> {
        let held = Arc::clone(&self.files.read());
        let current = self.engine.current();
        if held.generation == current.generation {
            return held;
        }
        // Looked at after the current files: a job freezes views before its files become current.
        if self.frozen.load(Ordering::SeqCst) {
            return held;
        }
        let old = std::mem::replace(&mut *self.files.write(), Arc::clone(&current));
        drop(old);
        current
    }
}

impl Drop for ViewCore {
    fn drop(&mut self) {
        self.engine.registry.lock().release(self.ticket);
    }
}
