//! Forgetting dropped keyspaces once no reader can see them.

use std::sync::{Arc, atomic::Ordering};

use crate::{
    base::{Result, Seqno},
    engine::{Engine, catalogue::readers_of, files::NewFiles},
    manifest::{Change, Edit, KeyspaceVersion},
};

/// Forgets the dropped keyspaces that no reader can see any more, in one edit; returns `false` if there are none.
pub(super) fn forget_dropped(engine: &Engine) -> Result<bool> {
    if engine.files.current().version.keyspaces.values().all(|keyspace| keyspace.dropped.is_none()) {
        return Ok(false);
    }
    let inputs = engine.files.job_inputs("forget: files, then list");
    let registered = inputs.registered.readers.seqnos();
    let unread = |keyspace: &&Arc<KeyspaceVersion>| {
        keyspace.dropped.is_some_and(|dropped| {
            dropped <= engine.visible() && readers_of(keyspace.born, dropped, registered).is_empty()
        })
    };
    let keyspaces = inputs.files.version.keyspaces.values();
    let gone: Vec<_> = keyspaces.filter(unread).filter(|gone| !engine.jobs.slots.is_taken(gone.id)).collect();
    if gone.is_empty() {
        return Ok(false);
    }
    let mut editing = engine.files.edit();
    engine.health.check_writable()?;
    if engine.jobs.copying.load(Ordering::SeqCst) > 0 {
        // The moment of the checkpoint may precede the drop.
        return Ok(false);
    }
    let there = |gone: &&&Arc<KeyspaceVersion>| editing.version().keyspaces.contains_key(&gone.id);
    let forget = Edit::new(gone.iter().filter(there).map(|gone| Change::Forget { id: gone.id }));
    let version = editing.commit(&forget, &NewFiles::default())?;
    if gone.iter().any(|keyspace| keyspace.segments().any(|segment| segment.summary.recipes)) {
        engine.jobs.garbage.record_unknown();
    }
    // A view that was opened meanwhile, below a drop, keeps its files.
    let newest = gone.iter().filter_map(|gone| gone.dropped).max().unwrap_or(Seqno(0));
    editing.install(&version, None, Some((&inputs, newest)));
    drop(editing);
    engine.work.keep_troubles(|id, _| version.keyspaces.contains_key(&id));
    engine.files.reclaim();
    Ok(true)
}
