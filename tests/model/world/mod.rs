//! A database under test beside what it must hold, and the steps that are taken with both.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    env::var,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use chronolith::{Db, Keyspace, Range, View, env};
use tempfile::TempDir;

use crate::{
    outcome::{Outcome, ensure},
    past::{Life, Moment},
    script::{History, NAMES, Op, Opening, Setup},
    state::{State, told},
    strategies::Strategy,
};

mod compactions;
mod copies;
mod histories;
mod keyspaces;
mod large;
mod machine;
mod pins;
mod reads;
mod times;
mod views;
mod writes;

use large::HeldChunks;
pub(crate) use times::Stamp;

pub(crate) type Counts = BTreeMap<&'static str, u64>;

#[derive(Clone, Debug)]
pub(crate) enum Machine {
    Sim(env::Sim),
    Memory(env::Memory),
    /// A directory of this one's own, which is the current one of the process.
    Disk(#[expect(dead_code, reason = "it goes when the machine does")] Arc<TempDir>),
}

/// A database under test, and what it must hold.
pub(crate) struct World {
    machine: Machine,
    setup: Setup,
    db: Option<Db>,
    lives: Vec<Life>,
    /// Which life each name has now.
    slots: [Option<usize>; NAMES.len()],
    held: Vec<Held>,
    ranges: Vec<HeldRange>,
    /// Chunks that are in no key.
    chunks: Vec<HeldChunks>,
    /// Every commit, in order, with 0.
    commits: Vec<u64>,
    /// Those that are batches.
    stamps: Vec<Stamp>,
    /// The latest time of the database that was seen.
    latest: Cell<u64>,
    /// Later commits are later than this.
    fixed: u64,
    /// By name: the commit and its time.
    pins: BTreeMap<&'static str, (u64, u64)>,
    /// Values that were purged, and by which commits.
    purged: Vec<(u64, Vec<u8>)>,
    copies: usize,
    /// Something was acknowledged that a power cut may take.
    unsynced: bool,
    words: Vec<String>,
    counts: Counts,
}

/// A view that is held, with what must hold of it.
#[derive(Debug)]
pub(crate) struct Held {
    view: View,
    seqno: u64,
    /// Its time: what had expired by then is gone.
    time: u64,
    /// The newest commit when it was opened.
    opened: u64,
    /// It shows what was the present when it was opened, or has been kept since it was: nothing is refused.
    safe: bool,
    /// It goes on reading keyspaces that were dropped after its moment.
    pinned: bool,
    /// What it has answered, or must have been able to answer when it was opened: that stays.
    exact: BTreeSet<(usize, &'static [u8])>,
    /// Lives of which a whole scan was exact.
    exact_scans: BTreeSet<usize>,
}

impl Held {
    pub(crate) fn moment(&self) -> Moment {
        Moment { seqno: self.seqno, time: self.time, opened: self.opened }
    }

    fn words(&self) -> String {
        let Self { seqno, opened, time, .. } = self;
        format!("view as of {seqno}, time {time}, opened at {opened}")
    }
}

/// A range that is half read, and what must still come.
#[derive(Debug)]
pub(crate) struct HeldRange {
    range: Range,
    rest: VecDeque<(&'static [u8], State)>,
    /// The newest commit when it was opened.
    opened: u64,
    words: String,
}

impl History {
    /// Runs it; gives what it did in words, what it counted, and what was wrong.
    pub(crate) fn run(&self) -> (Vec<String>, Counts, Outcome) {
        let mut world = World::new(self);
        let run = catch_unwind(AssertUnwindSafe(|| {
            world.open(false, Opening::default())?;
            let mut kinds = self.setup.kinds.into_iter().enumerate();
            kinds.try_for_each(|(slot, kind)| world.create_keyspace(slot, kind))?;
            world.words.clear();
            for op in &self.ops {
                world.step(op)?;
            }
            world.step(&Op::Held)
        }));
        let outcome = run.unwrap_or_else(|_| Err("it panicked".to_owned()));
        (std::mem::take(&mut world.words), std::mem::take(&mut world.counts), outcome)
    }
}

impl World {
    #[expect(clippy::panic, reason = "a test fails by panicking")]
    pub(crate) fn new(history: &History) -> Self {
        let machine = if is_on_disk() {
            let own = tempfile::tempdir().unwrap_or_else(|error| panic!("a directory: {error}"));
            std::env::set_current_dir(own.path()).unwrap_or_else(|error| panic!("its directory: {error}"));
            Machine::Disk(Arc::new(own))
        } else if history.threads {
            Machine::Memory(env::Memory::new())
        } else {
            Machine::Sim(env::Sim::new(history.seed))
        };
        Self {
            machine,
            setup: history.setup,
            db: None,
            lives: Vec::new(),
            slots: [None; NAMES.len()],
            held: Vec::new(),
            ranges: Vec::new(),
            chunks: Vec::new(),
            commits: vec![0],
            stamps: Vec::new(),
            latest: Cell::new(0),
            fixed: 0,
            pins: BTreeMap::new(),
            purged: Vec::new(),
            copies: 0,
            unsynced: true,
            words: Vec::new(),
            counts: Counts::new(),
        }
    }

    fn step(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Write { slot, write } => self.write(*slot, write),
            Op::Batch { writes, durability } => self.batch(writes, *durability),
            Op::Operands { slot, key, fill, count, each } => self.operands(*slot, key, *fill, (*count, *each)),
            Op::CompareAndSwap { slot, key, right, new } => self.compare_and_swap(*slot, key, *right, *new),
            Op::InsertIfAbsent { slot, key, fill } => self.insert_if_absent(*slot, key, *fill),
            Op::Update { slot, key, new } => self.update(*slot, key, *new),
            Op::Snapshot => self.snapshot(),
            Op::AsOf { at } => self.as_of(self.moment(*at)),
            Op::DropView { which } => {
                if !self.held.is_empty() {
                    let held = self.held.swap_remove(which % self.held.len());
                    self.say("drop a view", format!("drop the view as of {} opened at {}", held.seqno, held.opened));
                }
                Ok(())
            }
            Op::HoldRange { slot, span } => {
                self.hold_range(*slot, span);
                Ok(())
            }
            Op::MoveRange { which, front, back } => self.move_range(*which, *front, *back),
            Op::Flush => {
                self.say("flush", "flush".to_owned());
                self.db()?.flush().map_err(told("flush"))
            }
            Op::Compact => self.compact(),
            Op::Persist => {
                self.say("persist", "persist".to_owned());
                self.unsynced = false;
                self.db()?.persist().map_err(told("persist"))
            }
            Op::Reopen { close, opening } => self.reopen(*close, *opening),
            Op::Crash { end, late, opening } => self.crash(*end, *late, *opening),
            Op::DropKeyspace { slot } => self.drop_keyspace(*slot),
            Op::CreateKeyspace { slot, kind } => self.create_keyspace(*slot, *kind),
            Op::Configure { slot, index } => self.configure(*slot, *index),
            Op::Wait { us } => {
                self.say("wait", format!("wait {us} µs"));
                if let Machine::Sim(sim) = &self.machine {
                    sim.set_time(sim.now() + Duration::from_micros(*us));
                }
                self.now();
                Ok(())
            }
            Op::StepWall { us, back } => {
                if let Machine::Sim(sim) = self.machine.clone() {
                    let way = if *back { "back" } else { "on" };
                    self.say("step the wall clock", format!("step the wall clock {way} by {us} µs"));
                    let by = Duration::from_micros(*us);
                    if *back { sim.step_wall_back(by) } else { sim.step_wall(by) }
                }
                self.now();
                Ok(())
            }
            Op::AsOfTime { at, shift } => self.as_of_time(*at, *shift),
            Op::LookAtTime { at, shift } => self.look_at_time(*at, *shift),
            Op::Histories { at, dice } => self.read_histories(self.moment(*at), *dice),
            Op::Differences { before, after } => self.compare_moments(self.moment(*before), self.moment(*after)),
            Op::Commits { dice } => self.read_commits(*dice),
            Op::Pin { which } => self.pin(*which),
            Op::Unpin { which } => self.unpin(*which),
            Op::Pinned { which, hold } => self.read_pins(*which, *hold),
            Op::SetPolicy { slot, keeping } => self.set_policy(*slot, *keeping),
            Op::SetTtl { slot, ttl } => self.set_ttl(*slot, *ttl),
            Op::CopyMoment { at, dice } => self.copy_moment(self.moment(*at), *dice),
            Op::CrashAt { calls, compact, opening } => self.crash_at(*calls, *compact, *opening),
            Op::Present { dice } => {
                self.say("read the present", "read the present".to_owned());
                self.read_the_present(*dice)
            }
            Op::Held => {
                self.read_held_views()?;
                self.read_held_chunks()
            }
            Op::HoldChunks { slot, fill, staged } => self.hold_chunks(*slot, *fill, *staged),
            Op::Adopt { which, slot, key, by_recipe } => self.adopt(*which, *slot, key, *by_recipe),
            Op::Rechunk { slot, cut, dies_at, opening } => self.rechunk(*slot, *cut, *dies_at, *opening),
            Op::LookBack { at, dice } => {
                let seqno = self.moment(*at);
                self.say("look back", format!("read as of {seqno}"));
                self.look_back(seqno, *dice)
            }
            Op::Verify => {
                self.say("verify", "verify".to_owned());
                let report = self.db()?.verify().map_err(told("verify"))?;
                ensure!(report.is_clean(), "verify finds {report}");
                Ok(())
            }
        }
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn say(&mut self, kind: &'static str, words: String) {
        self.count(kind);
        self.words.push(words);
    }

    /// Adds what is known only afterwards to the last words.
    pub(crate) fn add(&mut self, more: &str) {
        if let Some(last) = self.words.last_mut() {
            last.push_str(more);
        }
    }

    /// Whether nothing happens but what the calling thread does.
    pub(crate) fn alone(&self) -> bool {
        matches!(self.machine, Machine::Sim(_))
    }

    pub(crate) fn newest(&self) -> u64 {
        self.commits.last().copied().unwrap_or(0)
    }

    /// A commit, or now and then a number that none has.
    pub(crate) fn moment(&self, at: usize) -> u64 {
        let commit = self.commits.get(at % self.commits.len()).copied().unwrap_or(0);
        let between = u64::from(at.is_multiple_of(7));
        (commit + between).min(self.newest())
    }

    pub(crate) fn db(&self) -> Outcome<&Db> {
        self.db.as_ref().ok_or_else(|| "the database is not open".to_owned())
    }

    pub(crate) fn handle(&self, life: usize) -> Option<&Keyspace> {
        self.lives.get(life)?.handle.as_ref()
    }

    pub(crate) fn alive(&self, slot: usize) -> Option<(usize, Keyspace)> {
        let life = self.slots.get(slot).copied().flatten()?;
        Some((life, self.handle(life)?.clone()))
    }

    pub(crate) fn strategy(&self, life: usize) -> Strategy {
        self.lives.get(life).map_or(Strategy::LastWins, |life| life.strategy)
    }

    pub(crate) fn value_now(&self, life: usize, key: &'static [u8]) -> State {
        let Some(life) = self.lives.get(life) else { return State::Absent };
        let now = if life.has_ttl() { self.now() } else { 0 };
        life.at(Moment::present(now), key)
    }
}

/// Whether this process runs its histories in real directories, below a limit of open files: see the last test.
pub(crate) fn is_on_disk() -> bool {
    var("CHRONOLITH_MODEL_DISK").is_ok()
}
