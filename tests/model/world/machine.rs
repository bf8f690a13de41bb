//! Opens, closes, crashes, and opens again.

use chronolith::{Chunking, Db, Error, Keyspace, Options, env};

use crate::{
    outcome::{Outcome, ensure},
    past::{micros, time_of},
    script::{Before, End, Opening},
    state::told,
    world::{Held, HeldRange, Machine, World, keyspaces::open_keyspace, large::HeldChunks},
};

/// What keeps a database open.
type LetGo = (Option<Db>, Vec<Held>, Vec<HeldRange>, Vec<HeldChunks>, Vec<Option<Keyspace>>);

impl World {
    pub(crate) fn open(&mut self, read_only: bool, opening: Opening) -> Outcome {
        let options = Options::new()
            .memory_budget(4 << 20)
            .l0_threshold(self.setup.l0_threshold)
            .level_ratio(self.setup.level_ratio)
            .mmap(self.setup.mmap)
            .durability(self.setup.durability)
            .read_only(read_only);
        let options = match &self.machine {
            Machine::Sim(sim) => options.env(sim.clone()),
            Machine::Memory(memory) => options.env(memory.clone()),
            Machine::Disk(_) => options,
        };
        if let Machine::Sim(sim) = &self.machine
            && micros(sim.now()) < self.latest.get()
        {
            // A machine whose clock was put right: else values could have expired by a time that is still to come.
            sim.set_time(time_of(self.latest.get()));
        }
        let db = options.open("model.db").map_err(|e| format!("open: {e}"))?;
        match opening.before {
            _ if read_only => {}
            Before::Nothing => {}
            Before::Flush => db.flush().map_err(told("flush before the keyspaces are open"))?,
            Before::Compact => db.compact().map(drop).map_err(told("compact before the keyspaces are open"))?,
        }
        for life in self.slots.into_iter().flatten() {
            let Some(life) = self.lives.get_mut(life) else { continue };
            if opening.wait && life.strategy.is_custom() {
                continue;
            }
            life.handle = Some(open_keyspace(&db, life, !opening.wait && !read_only)?);
        }
        let newest = u64::from(db.snapshot().seqno());
        ensure!(newest == self.newest(), "opened at seqno {newest}, and the newest commit was {}", self.newest());
        self.db = Some(db);
        self.now();
        Ok(())
    }

    /// Everything that must go before the database is closed by the drop of its last handle.
    fn let_go(&mut self) -> LetGo {
        let handles = self.lives.iter_mut().map(|life| life.handle.take()).collect();
        let (held, ranges) = (std::mem::take(&mut self.held), std::mem::take(&mut self.ranges));
        (self.db.take(), held, ranges, std::mem::take(&mut self.chunks), handles)
    }

    fn look_read_only(&mut self) -> Outcome {
        self.count("open read-only");
        self.open(true, Opening::default())?;
        self.read_the_present(1)?;
        for at in [1, 5, 12] {
            self.look_back(self.moment(at * 7919), 1)?;
        }
        if let Some((_, keyspace)) = self.alive(0) {
            let refused = keyspace.put("a", "readonly");
            ensure!(matches!(refused, Err(Error::Invalid { .. })), "a write to a read-only database: {refused:?}");
            let refused = keyspace.chunks().put("chunk");
            ensure!(matches!(refused, Err(Error::Invalid { .. })), "a chunk for a read-only database: {refused:?}");
            let refused = self.db()?.rechunk(&keyspace, Chunking::whole());
            ensure!(matches!(refused, Err(Error::Invalid { .. })), "a read-only database is cut anew: {refused:?}");
        }
        drop(self.let_go());
        Ok(())
    }

    pub(crate) fn reopen(&mut self, close: bool, opening: Opening) -> Outcome {
        if close {
            self.say("close and open", "close and open".to_owned());
            self.db()?.clone().close().map_err(told("close"))?;
            for held in &self.held {
                let Some(keyspace) = self.lives.iter().find_map(|life| life.handle.as_ref()) else { continue };
                let got = held.view.get(keyspace, "a");
                ensure!(matches!(got, Err(Error::Closed)), "a view of a closed database answers {got:?}");
            }
        } else {
            self.say("drop and open", "drop every handle and open".to_owned());
        }
        drop(self.let_go());
        self.add(&opening.words());
        if opening.look {
            self.look_read_only()?;
        }
        self.open(false, opening)
    }

    /// A crash that may lose nothing.
    pub(crate) fn crash(&mut self, end: End, late: bool, opening: Opening) -> Outcome {
        let Machine::Sim(sim) = &self.machine else { return self.reopen(false, opening) };
        let sim = sim.clone();
        let persist = end == End::CutPersisted || end == End::CutSynced && self.unsynced;
        if persist {
            self.db()?.persist().map_err(told("persist"))?;
            self.unsynced = false;
        }
        let what = match (end, persist) {
            (End::Death, _) => "the process dies",
            (_, true) => "persist, cut the power",
            (_, false) => "cut the power",
        };
        let after = if late { ", old handles go later" } else { "" };
        self.say("crash", format!("{what}{after}, open{}", opening.words()));
        if end == End::Death {
            self.machine = Machine::Sim(sim.fork());
        } else {
            sim.cut_power();
        }
        let mut old = Some(self.let_go());
        if !late {
            old = None;
        }
        if opening.look {
            self.look_read_only()?;
        }
        self.open(false, opening)?;
        drop(old);
        Ok(())
    }

    /// The power goes at some call while everything is flushed or compacted: nothing that was there may be lost.
    pub(crate) fn crash_at(&mut self, calls: u64, compact: bool, opening: Opening) -> Outcome {
        let Machine::Sim(sim) = self.machine.clone() else { return Ok(()) };
        let what = if compact { "compact" } else { "flush" };
        self.say(
            "crash at a call",
            format!("persist, cut the power at call {calls} of {what}, open{}", opening.words()),
        );
        self.db()?.persist().map_err(told("persist"))?;
        self.unsynced = false;
        sim.fail_at(sim.calls() + calls, env::Fault::Cut);
        let db = self.db()?.clone();
        let done = if compact { db.compact().map(drop) } else { db.flush() };
        drop(db);
        if let Err(error) = done {
            self.add(&format!(" ({error})"));
        }
        self.restart(&sim, opening)
    }

    /// Opens again behind a cut of the power.
    pub(crate) fn restart(&mut self, sim: &env::Sim, opening: Opening) -> Outcome {
        sim.cut_power();
        sim.clear_faults();
        drop(self.let_go());
        if opening.look {
            self.look_read_only()?;
        }
        self.open(false, opening)
    }
}
