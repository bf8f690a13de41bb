//! Runs a workload, and writes down what was answered.

use std::{collections::BTreeMap, io::Write as _, time::Duration};

use chronolith::{Chunking, Db, Durability, Error, Keyspace, Lease, Receipt, StagedValue, View, env::Sim};

use crate::{
    keyspaces::{Sort, is_streamed, options_of, stored_options_of},
    observe::{observe, observe_keyspace},
    oracle::{Event, Fate, Run, State, What, mark_of, us},
    traced::Traced,
    workload::{Op, Step, Workload, key_of},
    workloads::{COPY, DB},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    Stop,
    GoOn,
}

/// A value that was written in pieces, without a key yet.
fn staged(keyspace: &Keyspace, key: u16, value: &[u8]) -> Result<StagedValue, Error> {
    let mut writer = keyspace.writer(key_of(key))?;
    for piece in value.chunks(1000) {
        writer.write_all(piece).map_err(|error| match error.downcast::<Error>() {
            Ok(error) => error,
            Err(other) => Error::Invalid { what: other.to_string() },
        })?;
    }
    writer.stage()
}

/// A workload under way.
pub(crate) struct Runner<'a> {
    pub(crate) sim: &'a Sim,
    pub(crate) workload: &'a Workload,
    pub(crate) env: Option<Traced>,
    pub(crate) after: After,
    pub(crate) run: Run,
    pub(crate) db: Option<Db>,
    pub(crate) handles: BTreeMap<&'static str, Keyspace>,
    pub(crate) views: Vec<(View, Vec<Keyspace>, State)>,
    pub(crate) leases: Vec<(Lease, Keyspace, Vec<u8>)>,
    pub(crate) now_ms: u64,
    /// When each event happened.
    pub(crate) times_ms: Vec<u64>,
    pub(crate) poisoned: bool,
}

impl<'a> Runner<'a> {
    /// Runs all steps, or up to the first error. `Err` is a broken promise.
    pub(crate) fn run(sim: &'a Sim, workload: &'a Workload, after: After) -> Result<Self, String> {
        Self::run_on(sim, None, workload, after)
    }

    pub(crate) fn run_on(
        sim: &'a Sim,
        env: Option<Traced>,
        workload: &'a Workload,
        after: After,
    ) -> Result<Self, String> {
        let mut runner = Runner {
            sim,
            workload,
            env,
            after,
            run: Run::default(),
            db: None,
            handles: BTreeMap::new(),
            views: Vec::new(),
            leases: Vec::new(),
            now_ms: 0,
            times_ms: Vec::new(),
            poisoned: false,
        };
        if runner.open().is_err() && after == After::Stop {
            return Ok(runner);
        }
        for (number, step) in workload.steps.iter().enumerate() {
            if runner.db.is_none() && runner.open().is_err() {
                continue;
            }
            let at = |why: String| format!("step {number}, {}: {why}", step.brief());
            let was_poisoned = runner.poisoned;
            let stepped = runner.step(step).map_err(at)?;
            let Err(error) = stepped else {
                runner.note_horizons();
                if was_poisoned && step.writes() {
                    return Err(at("succeeded although writes had stopped for good".to_owned()));
                }
                continue;
            };
            runner.run.errors.push(at(error.to_string()));
            if after == After::Stop {
                break;
            }
            runner.after_error(step, &error).map_err(at)?;
        }
        Ok(runner)
    }

    fn open(&mut self) -> Result<(), Error> {
        let opened = match &self.env {
            None => self.workload.open(self.sim),
            Some(env) => self.workload.options(env.clone()).open(DB),
        };
        let db = opened.inspect_err(|error| self.run.errors.push(format!("open: {error}")))?;
        self.db = Some(db);
        self.poisoned = false;
        Ok(())
    }

    /// Reads go on, and show what was acknowledged.
    pub(crate) fn after_error(&mut self, step: &Step, error: &Error) -> Result<(), String> {
        if let Error::Corrupt { .. }
        | Error::CorruptChunk { .. }
        | Error::Locked { .. }
        | Error::NewerFormat { .. }
        | Error::Conflict { .. } = error
        {
            return Err(format!("a failing call is no reason to say {error}"));
        }
        let Some(db) = &self.db else { return Ok(()) };
        let health = db.health();
        self.poisoned = matches!(health, Err(Error::Poisoned { .. }));
        // A close that says so was followed by opening again.
        if matches!(error, Error::Poisoned { .. }) && !self.poisoned && !matches!(step, Step::Reopen) {
            return Err("writes have stopped, but health does not say so".to_owned());
        }
        let seen = observe(db, None).map_err(|e| format!("reading after an error: {e}"))?;
        self.run.explain(&seen, self.run.all(), self.run.all()).map_err(|e| format!("after an error: {e}"))?;
        Ok(())
    }

    fn handle(&mut self, name: &'static str) -> Option<Keyspace> {
        if let Some(keyspace) = self.handles.get(name) {
            return Some(keyspace.clone());
        }
        let db = self.db.as_ref()?;
        if !db.keyspaces().iter().any(|there| there == name) {
            return None;
        }
        let keyspace = db.keyspace(name, stored_options_of(name)).ok()?;
        self.handles.insert(name, keyspace.clone());
        Some(keyspace)
    }

    fn durable(&mut self) {
        self.run.floor = self.run.all();
    }

    fn event(&mut self, what: What, fate: Fate) {
        let began_us = us(self.sim.now());
        self.run.events.push(Event { number: self.run.all(), what, fate, receipt: None, began_us });
        self.times_ms.push(self.now_ms);
    }

    /// The outer error is a broken promise, the inner one an answer.
    pub(crate) fn step(&mut self, step: &Step) -> Result<Result<(), Error>, String> {
        let Some(db) = self.db.clone() else { return Ok(Ok(())) };
        let done = match step {
            Step::Create(name) => {
                if self.handle(name).is_some() {
                    return Ok(Ok(()));
                }
                let created = db.keyspace(name, options_of(name));
                self.event(What::Create(name), if created.is_ok() { Fate::Sure } else { Fate::Unknown });
                created.map(|keyspace| {
                    self.handles.insert(name, keyspace);
                    self.run.newest = self.run.newest.max(db.snapshot().seqno().into());
                    self.durable();
                })
            }
            Step::Drop(name) => {
                if self.handle(name).is_none() {
                    return Ok(Ok(()));
                }
                let dropped = db.drop_keyspace(name);
                self.event(What::Drop(name), if dropped.is_ok() { Fate::Sure } else { Fate::Unknown });
                dropped.map(|()| {
                    self.handles.remove(name);
                    self.run.newest = self.run.newest.max(db.snapshot().seqno().into());
                    self.durable();
                })
            }
            Step::Write(ops) | Step::Refused(ops) => return self.write(&db, ops, None, step),
            Step::WriteAs(durability, ops) => return self.write(&db, ops, Some(*durability), step),
            Step::Persist => db.persist().map(|()| self.durable()),
            Step::Flush => db.flush().map(|()| self.durable()),
            Step::Compact => db.compact().map(|_| self.durable()),
            Step::Reopen => return self.reopen(db),
            Step::View => {
                self.open_view(&db)?;
                Ok(())
            }
            Step::CheckViews => {
                self.check_views()?;
                Ok(())
            }
            Step::ForgetViews => {
                self.views.clear();
                Ok(())
            }
            Step::Pass(ms) => {
                self.now_ms += ms;
                self.sim.set_time(self.sim.now() + Duration::from_millis(*ms));
                Ok(())
            }
            Step::Pin(name) => {
                if db.pins().iter().any(|pin| pin.name == *name) {
                    return Ok(Ok(()));
                }
                let pinned = db.pin(name);
                self.event(What::Pin(name), if pinned.is_ok() { Fate::Sure } else { Fate::Unknown });
                pinned.map(|seqno| self.numbered(&db, name, seqno.into()))
            }
            Step::Unpin(name) => {
                if !db.pins().iter().any(|pin| pin.name == *name) {
                    return Ok(Ok(()));
                }
                let unpinned = db.unpin(name);
                self.event(What::Unpin(name), if unpinned.is_ok() { Fate::Sure } else { Fate::Unknown });
                unpinned.map(|()| {
                    self.run.newest = self.run.newest.max(db.snapshot().seqno().into());
                    self.durable();
                })
            }
            Step::Rechunk(name, bytes) => return self.rechunk(&db, name, *bytes),
            Step::Lease(op) => self.lease(*op),
            Step::CheckLeases => {
                self.check_leases()?;
                Ok(())
            }
            Step::ForgetLeases => {
                self.leases.clear();
                Ok(())
            }
            Step::AsOfNow => {
                let time = self.sim.now();
                db.as_of_time(time).map(|_| self.run.asked.push((time, self.run.all())))
            }
            Step::Checkpoint => {
                let copied = db.checkpoint(COPY);
                self.run.copied = Some((self.run.all(), copied.is_ok()));
                copied.map(|()| self.durable())
            }
        };
        Ok(done)
    }

    /// Opens a view, and remembers what it shows.
    fn open_view(&mut self, db: &Db) -> Result<(), String> {
        let view = db.snapshot();
        let keyspaces: Vec<Keyspace> =
            db.keyspaces().iter().filter_map(|name| db.keyspace(name, stored_options_of(name)).ok()).collect();
        match Self::look(&view, &keyspaces) {
            Ok(state) => self.views.push((view, keyspaces, state)),
            Err(_) if self.after == After::Stop => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Compares what the views show with what they showed when they were opened.
    fn check_views(&self) -> Result<(), String> {
        for (view, keyspaces, before) in &self.views {
            match Self::look(view, keyspaces) {
                Ok(now) if now == *before => {}
                Ok(_) => return Err("a view shows something else than before".to_owned()),
                Err(error) if self.after == After::GoOn => return Err(error),
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn rechunk(&mut self, db: &Db, name: &'static str, bytes: u64) -> Result<Result<(), Error>, String> {
        let Some(keyspace) = self.handle(name) else {
            return Ok(Err(Error::Invalid { what: "the keyspace was never made".to_owned() }));
        };
        let done = match db.rechunk(&keyspace, Chunking::fixed(bytes)) {
            Ok(report) if report.left > 0 => return Err(format!("values are left as they were cut: {report}")),
            done => done,
        };
        Ok(done.map(|_| {
            self.run.newest = self.run.newest.max(db.seqno().into());
            self.durable();
        }))
    }

    /// Holds the value of a put as a chunk.
    fn lease(&mut self, op: Op) -> Result<(), Error> {
        let Op::Put { to, key, len } = op else { return Ok(()) };
        let Some(keyspace) = self.handle(to) else { return Ok(()) };
        let bytes = Sort::of(to).value(self.run.all(), key, len);
        keyspace.chunks().put(&bytes).map(|lease| self.leases.push((lease, keyspace, bytes)))
    }

    /// Reads what leases hold.
    fn check_leases(&self) -> Result<(), String> {
        for (lease, keyspace, bytes) in &self.leases {
            match keyspace.chunks().get(&lease.id()) {
                Ok(Some(read)) if read == *bytes => {}
                Ok(other) => return Err(format!("a lease reads {:?} bytes", other.map(|read| read.len()))),
                // What no commit needs is in memory until the pack takes it.
                Err(Error::DiskFull | Error::Io { .. }) => {}
                Err(error) if self.after == After::GoOn => return Err(format!("a lease: {error}")),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// A pin was given a seqno.
    fn numbered(&mut self, db: &Db, name: &str, seqno: u64) {
        let time = db.pins().iter().find(|pin| pin.name == name).map_or(0, |pin| us(pin.time));
        if let Some(event) = self.run.events.last_mut() {
            event.receipt = Some((seqno, time));
        }
        self.run.newest = self.run.newest.max(seqno);
        self.durable();
    }

    /// What the keyspaces tell of their horizons.
    fn note_horizons(&mut self) {
        // A database that cannot read when its commits were made tells the seqno after the newest.
        let readable = self.db.as_ref().is_some_and(|db| db.commits(..).all(|commit| commit.is_ok()));
        if !self.workload.has_past() || !readable {
            return;
        }
        for (name, keyspace) in &self.handles {
            let born =
                self.run.events.iter().rposition(|event| matches!(event.what, What::Create(made) if made == *name));
            let Some(born) = born else { continue };
            let horizon = self.run.horizons.entry(born).or_default();
            *horizon = keyspace.horizon().into();
        }
    }

    fn look(view: &View, keyspaces: &[Keyspace]) -> Result<State, String> {
        let each =
            keyspaces.iter().map(|keyspace| Ok((keyspace.name().to_owned(), observe_keyspace(keyspace, Some(view))?)));
        each.collect()
    }

    fn write(
        &mut self,
        db: &Db,
        ops: &[Op],
        durability: Option<Durability>,
        step: &Step,
    ) -> Result<Result<(), Error>, String> {
        let number = self.run.all();
        let mut batch = db.batch();
        for op in ops {
            let Some(keyspace) = self.handle(op.keyspace()) else {
                return Ok(Err(Error::Invalid { what: "the keyspace was never made".to_owned() }));
            };
            let sort = Sort::of(op.keyspace());
            match *op {
                Op::Put { key, len, .. } if is_streamed(op.keyspace()) => {
                    match staged(&keyspace, key, &sort.value(number, key, len)) {
                        Ok(value) => batch.adopt(&keyspace, key_of(key), value),
                        Err(error) => {
                            // Nothing of the batch was tried.
                            self.event(What::Write(ops.to_vec()), Fate::Void);
                            return Ok(Err(error));
                        }
                    }
                }
                Op::Put { key, len, .. } => batch.put(&keyspace, key_of(key), sort.value(number, key, len)),
                Op::Merge { key, len, .. } => batch.merge(&keyspace, key_of(key), sort.value(number, key, len)),
                Op::Delete { key, .. } => batch.delete(&keyspace, key_of(key)),
                Op::DeleteRange { start, end, .. } => batch.delete_range(&keyspace, key_of(start)..key_of(end)),
                Op::Purge { key, .. } => batch.purge(&keyspace, key_of(key)),
                Op::PurgePrefix { prefix, .. } => batch.purge_prefix(&keyspace, prefix),
            }
        }
        if let Some(keyspace) = ops.first().and_then(|op| self.handle(op.keyspace())) {
            batch.put(&keyspace, mark_of(number), Sort::of(keyspace.name()).plain_value(b""));
        }
        let durability = durability.unwrap_or(self.workload.durability);
        let committed: Result<Receipt, Error> = batch.commit_with(durability);
        if matches!(step, Step::Refused(_)) {
            match committed {
                Err(Error::Duplicate { .. }) => return Ok(Ok(())),
                Ok(_) => self.run.accepted += 1,
                Err(_) => {}
            }
        }
        let fate = match &committed {
            // Applied, whether or not it is on the disk.
            Ok(_) | Err(Error::NotDurable { .. }) => Fate::Sure,
            // Refused before anything was tried.
            Err(Error::Poisoned { .. }) => Fate::Void,
            Err(_) => Fate::Unknown,
        };
        self.event(What::Write(ops.to_vec()), fate);
        let receipt = match committed {
            Ok(receipt) => receipt,
            Err(error) => return Ok(Err(error)),
        };
        let seqno = u64::from(receipt.seqno);
        if seqno <= self.run.newest {
            return Err(format!("seqno {seqno} was given out after {}", self.run.newest));
        }
        if let Some((asked, _)) = self.run.asked.iter().find(|(asked, _)| *asked >= receipt.time) {
            return Err(format!("time {:?} was given out after {asked:?} was asked for", receipt.time));
        }
        if let Some(event) = self.run.events.last_mut() {
            event.receipt = Some((seqno, us(receipt.time)));
        }
        self.run.newest = seqno;
        let is_durable = match durability {
            Durability::Sync => true,
            Durability::Interval(every) => {
                let old = self.times_ms.partition_point(|ms| u128::from(self.now_ms - ms) >= every.as_millis());
                self.run.floor = self.run.floor.max(old);
                false
            }
            _ => false,
        };
        if is_durable {
            self.durable();
        }
        Ok(Ok(()))
    }

    fn reopen(&mut self, db: Db) -> Result<Result<(), Error>, String> {
        self.db = None;
        self.handles.clear();
        self.views.clear();
        self.leases.clear();
        let closed = db.close();
        if closed.is_ok() {
            self.run.floor = self.run.all();
        }
        if closed.is_err() && self.after == After::Stop {
            return Ok(closed);
        }
        // A fault that comes once has come.
        let opened = self.open().or_else(|error| if self.after == After::GoOn { self.open() } else { Err(error) });
        if opened.is_ok()
            && self.after == After::GoOn
            && let Some(db) = &self.db
        {
            let seen = observe(db, None)?;
            self.run.explain(&seen, self.run.all(), self.run.all()).map_err(|e| format!("after opening: {e}"))?;
            self.run.resolve(&seen);
        }
        Ok(closed.and(opened))
    }
}
