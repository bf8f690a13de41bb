//! Keyspaces come and go, and their options change.

use std::{cell::RefCell, collections::BTreeMap, time::Duration};

use chronolith::{Chunking, Compression, Db, Error, Keyspace, KeyspaceOptions};

use crate::{
    outcome::{Outcome, ensure},
    past::{Era, Keeping, Life, micros},
    script::{Kind, NAMES, STRATEGIES},
    state::told,
    strategies::Strategy,
    world::{World, times::Stamp},
};

impl World {
    /// Creates a keyspace, or opens the one that was left unopened.
    pub(crate) fn create_keyspace(&mut self, slot: usize, kind: Kind) -> Outcome {
        let db = self.db()?.clone();
        if let Some(Some(at)) = self.slots.get(slot).copied() {
            if let Some(life) = self.lives.get_mut(at).filter(|life| life.handle.is_none()) {
                life.handle = Some(open_keyspace(&db, life, true)?);
                let words = format!("open {} with its strategy", life.name);
                self.say("open a keyspace late", words);
            }
            return Ok(());
        }
        let Some(&name) = NAMES.get(slot) else { return Ok(()) };
        let Kind { strategy, index, keeping, ttl } = kind;
        self.say(
            "create a keyspace",
            format!("create {name} under {strategy:?}, {keeping:?}, ttl {ttl}, point index {index:?}"),
        );
        let mut asked = options(strategy, index).policy(keeping.policy());
        if !strategy.folds() {
            asked = asked.chunking(Chunking::content_defined(1024));
        }
        if ttl > 0 {
            asked = asked.ttl(Duration::from_micros(ttl));
        }
        let handle = db.keyspace(name, asked).map_err(told("keyspace"))?;
        let born = u64::from(db.snapshot().seqno());
        ensure!(born > self.newest(), "the creation has seqno {born}, after {}", self.newest());
        self.changed(born)?;
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(self.lives.len());
        }
        self.lives.push(Life {
            name,
            strategy,
            index,
            born,
            dropped: None,
            handle: Some(handle),
            keys: BTreeMap::new(),
            purges: BTreeMap::new(),
            ranges: Vec::new(),
            eras: vec![Era { keeping, since: self.now(), until: None }],
            ttls: vec![(born, ttl)],
            horizon: 0,
            folded: RefCell::default(),
        });
        Ok(())
    }

    /// Sets whether segments that come get a point index: a change with a seqno of its own, if it is one.
    pub(crate) fn configure(&mut self, slot: usize, index: bool) -> Outcome {
        let Some((at, keyspace)) = self.alive(slot) else { return Ok(()) };
        let Some(life) = self.lives.get_mut(at) else { return Ok(()) };
        let changes = life.index != Some(index);
        life.index = Some(index);
        let options = options(life.strategy, Some(index));
        self.say("configure", format!("{}: point index {index}", keyspace.name()));
        let db = self.db()?.clone();
        db.keyspace(keyspace.name(), options).map_err(told("keyspace"))?;
        let seqno = u64::from(db.snapshot().seqno());
        ensure!((seqno > self.newest()) == changes, "setting an option leads to {seqno}, after {}", self.newest());
        if changes {
            self.changed(seqno)?;
        }
        Ok(())
    }

    pub(crate) fn set_policy(&mut self, slot: usize, keeping: Keeping) -> Outcome {
        let Some((at, keyspace)) = self.alive(slot) else { return Ok(()) };
        let now = self.now();
        let latest = self.latest.get();
        let Some(life) = self.lives.get_mut(at) else { return Ok(()) };
        let changes = life.keeping() != keeping;
        let asked = life.options(false).policy(keeping.policy());
        self.say("set a policy", format!("{}: keep {keeping:?}", keyspace.name()));
        let seqno = self.set(&keyspace, asked, changes)?;
        if let Some(life) = self.lives.get_mut(at).filter(|_| changes) {
            if let Some(era) = life.eras.last_mut() {
                era.until = Some((seqno, latest));
            }
            life.eras.push(Era { keeping, since: now, until: None });
        }
        Ok(())
    }

    pub(crate) fn set_ttl(&mut self, slot: usize, ttl: u64) -> Outcome {
        let Some((at, keyspace)) = self.alive(slot) else { return Ok(()) };
        let Some(life) = self.lives.get(at) else { return Ok(()) };
        let (changes, folds) = (life.ttl() != ttl, life.strategy.folds());
        let asked = life.options(false).ttl(Duration::from_micros(ttl));
        self.say("set a time to live", format!("{}: ttl {ttl}", keyspace.name()));
        if folds && ttl > 0 {
            let refused = self.db()?.keyspace(keyspace.name(), asked);
            ensure!(matches!(refused, Err(Error::Invalid { .. })), "a time to live of what is folded: {refused:?}");
            return self.refused("a time to live is refused");
        }
        let seqno = self.set(&keyspace, asked, changes)?;
        if let Some(life) = self.lives.get_mut(at).filter(|_| changes) {
            life.ttls.push((seqno, ttl));
        }
        Ok(())
    }

    /// Sets options, which take a seqno if they change anything.
    pub(crate) fn set(&mut self, keyspace: &Keyspace, asked: KeyspaceOptions, changes: bool) -> Outcome<u64> {
        let db = self.db()?.clone();
        db.keyspace(keyspace.name(), asked).map_err(told("keyspace"))?;
        let seqno = u64::from(db.seqno());
        ensure!((seqno > self.newest()) == changes, "setting options leads to {seqno}, after {}", self.newest());
        if changes {
            self.changed(seqno)?;
        }
        Ok(seqno)
    }

    pub(crate) fn drop_keyspace(&mut self, slot: usize) -> Outcome {
        // Also one that is not open, for want of its strategy.
        let Some(at) = self.slots.get(slot).copied().flatten() else { return Ok(()) };
        let Some(name) = self.lives.get(at).map(|life| life.name) else { return Ok(()) };
        self.say("drop a keyspace", format!("drop {name}"));
        let db = self.db()?.clone();
        db.drop_keyspace(name).map_err(told("drop_keyspace"))?;
        let dropped = u64::from(db.snapshot().seqno());
        ensure!(dropped > self.newest(), "the drop has seqno {dropped}, after {}", self.newest());
        self.changed(dropped)?;
        if let Some(life) = self.lives.get_mut(at) {
            life.dropped = Some(dropped);
        }
        if let Some(place) = self.slots.get_mut(slot) {
            *place = None;
        }
        if let Some(keyspace) = self.handle(at) {
            let refused = keyspace.put("a", "dropped!");
            ensure!(matches!(refused, Err(Error::Invalid { .. })), "a write to a dropped keyspace: {refused:?}");
        }
        Ok(())
    }

    /// A change that is not a batch has taken a seqno, behind everything before it.
    pub(crate) fn changed(&mut self, seqno: u64) -> Outcome {
        self.add(&format!(" @{seqno}"));
        self.commits.push(seqno);
        self.unsynced = false;
        let view = self.db()?.as_of(seqno).map_err(told("as_of a change"))?;
        let (time, last) = (micros(view.time()), self.stamps.last().map_or(0, |stamp| stamp.time));
        ensure!(time >= last && time > self.fixed, "changed at the time {time}, after {last} and {}", self.fixed);
        self.stamps.push(Stamp { seqno, time, writes: (0, 0), decides: true });
        Ok(())
    }
}

pub(crate) fn options(strategy: Strategy, index: Option<bool>) -> KeyspaceOptions {
    let mut options = KeyspaceOptions::new().merge(strategy.option());
    if !strategy.folds() && index != Some(true) {
        // Values of a few hundred bytes are cut already. Uncompressed, so that what was purged can be looked for.
        options = options.chunk_threshold(512).compression(Compression::None);
    }
    if let Some(index) = index { options.point_index(index) } else { options }
}

/// Opens a keyspace that is there: as stored, but a custom strategy must be given, and no other one may.
pub(crate) fn open_keyspace(db: &Db, life: &Life, with_policy: bool) -> Outcome<Keyspace> {
    let other = STRATEGIES.into_iter().filter(|other| *other != life.strategy);
    for other in other {
        let refused = db.keyspace(life.name, KeyspaceOptions::new().merge(other.option()));
        let strategy = life.strategy;
        ensure!(matches!(refused, Err(Error::Invalid { .. })), "{other:?} is taken for {strategy:?}: {refused:?}");
    }
    if life.strategy.is_custom() {
        let refused = db.keyspace(life.name, KeyspaceOptions::new());
        ensure!(matches!(refused, Err(Error::Invalid { .. })), "{:?} is not asked for: {refused:?}", life.strategy);
    }
    db.keyspace(life.name, life.options(with_policy)).map_err(told("keyspace"))
}
