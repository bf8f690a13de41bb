//! Chunks that a lease or a staged value holds, values that a key adopts from there, and values cut anew.

use std::io::Read as _;

use chronolith::{Chunking, Error, Keyspace, KeyspaceOptions, Lease, StagedValue, env};

use crate::{
    outcome::{Outcome, ensure},
    script::{Fill, Opening, Value, Write, pair, quoted},
    state::told,
    strategies::Strategy,
    world::{Machine, World},
};

/// How a value is cut anew.
pub(crate) const CUTS: [Chunking; 4] =
    [Chunking::content_defined(1024), Chunking::fixed(512), Chunking::fixed(4096), Chunking::content_defined(8 << 10)];

/// Something that is in no key, and stays as long as it is held.
#[derive(Debug)]
pub(crate) struct HeldChunks {
    what: HeldBy,
    fill: Fill,
    words: String,
}

#[derive(Debug)]
enum HeldBy {
    Lease(Lease),
    Staged(StagedValue),
}

impl HeldChunks {
    fn bytes(&self) -> Value {
        self.fill.bytes(Strategy::LastWins)
    }

    /// Reads what it holds, by the ids alone.
    fn check(&self, keyspace: &Keyspace) -> Outcome {
        let (chunks, bytes) = (keyspace.chunks(), self.bytes());
        let ids = match &self.what {
            HeldBy::Lease(lease) => vec![(Some(lease.id()), bytes.len() as u64)],
            HeldBy::Staged(staged) => match staged.recipe() {
                Some(recipe) if recipe.height() == 0 => recipe.references().collect(),
                _ => return Ok(()),
            },
        };
        let mut read = Vec::new();
        for (id, len) in ids {
            let Some(id) = id else {
                std::io::repeat(0).take(len).read_to_end(&mut read).map_err(|error| error.to_string())?;
                continue;
            };
            let chunk = chunks.get(&id).map_err(told("a chunk that is held"))?;
            let chunk = chunk.ok_or_else(|| format!("{}: the chunk {id} is not there", self.words))?;
            read.extend_from_slice(&chunk);
        }
        ensure!(*read == *bytes, "{}: the chunks have {} other bytes", self.words, read.len());
        Ok(())
    }
}

impl World {
    /// Stores a chunk or a value that no key has, and holds it.
    pub(crate) fn hold_chunks(&mut self, slot: usize, fill: Fill, staged: bool) -> Outcome {
        let Some((_, keyspace)) = self.alive(slot) else { return Ok(()) };
        let fill = Fill { len: fill.len.max(1), ..fill };
        let bytes = fill.bytes(Strategy::LastWins);
        let words =
            format!("{}: {} {}", keyspace.name(), if staged { "stage" } else { "lease" }, pair(b"", Some(&bytes)));
        self.say(if staged { "stage a value" } else { "lease a chunk" }, words.clone());
        let chunks = keyspace.chunks();
        let what = if staged {
            let cut = CUTS.get(fill.tag % CUTS.len()).copied().unwrap_or(Chunking::whole());
            HeldBy::Staged(chunks.put_stream(&*bytes, cut).map_err(|error| format!("put_stream: {error}"))?)
        } else {
            HeldBy::Lease(chunks.put(&*bytes).map_err(told("put a chunk"))?)
        };
        let held = HeldChunks { what, fill, words };
        held.check(&keyspace)?;
        self.chunks.push(held);
        Ok(())
    }

    /// Everything that is held can be read.
    pub(crate) fn read_held_chunks(&mut self) -> Outcome {
        let Some(keyspace) = self.lives.iter().find_map(|life| life.handle.clone()) else { return Ok(()) };
        if !self.chunks.is_empty() {
            self.count("held chunks read");
        }
        self.chunks.iter().try_for_each(|held| held.check(&keyspace))
    }

    /// Gives a value that is held to a key, or lets go of a chunk.
    pub(crate) fn adopt(&mut self, which: usize, slot: usize, key: &'static [u8], by_recipe: bool) -> Outcome {
        if self.chunks.is_empty() {
            return Ok(());
        }
        let held = self.chunks.swap_remove(which % self.chunks.len());
        let (HeldBy::Staged(staged), Some((life, keyspace))) = (held.what, self.alive(slot)) else {
            self.say("let go of a chunk", format!("let go of: {}", held.words));
            return Ok(());
        };
        let strategy = self.strategy(life);
        let words = format!("{}: adopt {} from: {}", keyspace.name(), quoted(key), held.words);
        self.say("adopt a value", words);
        if strategy.folds() {
            let mut batch = self.db()?.batch();
            batch.adopt(&keyspace, key, &staged);
            let refused = batch.commit();
            ensure!(matches!(refused, Err(Error::Invalid { .. })), "what combines values adopts one: {refused:?}");
            return self.refused("refused as invalid");
        }
        let writes = [(life, Write::Put { key, fill: held.fill })];
        let judged = self.judge(&writes);
        let adopted = if let Some(recipe) = staged.recipe().filter(|_| by_recipe) {
            // What holds it goes with the commit.
            keyspace.adopt(key, &recipe)
        } else {
            let mut batch = self.db()?.batch();
            batch.adopt(&keyspace, key, &staged);
            drop(staged);
            batch.commit()
        };
        self.settle(adopted, judged, &writes, None).map_err(|e| format!("adopt: {e}"))
    }

    /// Cuts all values of a keyspace anew: a decision if that is another way, and nothing else changes.
    pub(crate) fn rechunk(&mut self, slot: usize, cut: usize, dies_at: Option<u64>, opening: Opening) -> Outcome {
        let Some((life, keyspace)) = self.alive(slot) else { return Ok(()) };
        let Some(chunking) = CUTS.get(cut % CUTS.len()).copied() else { return Ok(()) };
        let (db, strategy) = (self.db()?.clone(), self.strategy(life));
        self.say("rechunk", format!("{}: rechunk by {chunking}", keyspace.name()));
        if strategy.folds() {
            let refused = db.rechunk(&keyspace, chunking);
            ensure!(matches!(refused, Err(Error::Invalid { .. })), "what combines values is cut anew: {refused:?}");
            return self.refused("refused as invalid");
        }
        let changes = keyspace.chunking() != Some(chunking);
        if let (Some(calls), Machine::Sim(sim)) = (dies_at, self.machine.clone()) {
            // The decision comes first, so that it is known to be there.
            self.set(&keyspace, KeyspaceOptions::new().chunking(chunking), changes)?;
            self.count("crash while values are cut anew");
            self.add(&format!(", persist, cut the power at call {calls} of it, open{}", opening.words()));
            db.persist().map_err(told("persist"))?;
            self.unsynced = false;
            sim.fail_at(sim.calls() + calls, env::Fault::Cut);
            if let Err(error) = db.rechunk(&keyspace, chunking) {
                self.add(&format!(" ({error})"));
            }
            drop((db, keyspace));
            return self.restart(&sim, opening);
        }
        let report = db.rechunk(&keyspace, chunking).map_err(told("rechunk"))?;
        ensure!(report.left == 0, "values are left as they were cut: {report}");
        let seqno = u64::from(db.seqno());
        ensure!((seqno > self.newest()) == changes, "it leads to {seqno}, after {}", self.newest());
        if changes {
            self.changed(seqno)?;
        }
        self.check_horizons()?;
        let again = db.rechunk(&keyspace, chunking).map_err(told("rechunk again"))?;
        ensure!(!self.alone() || again.values == 0, "again there was something to do: {again}");
        Ok(())
    }
}
