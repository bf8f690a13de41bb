//! Draws histories: everything in them follows from a seed.

use std::{
    ops::Bound::{Excluded, Included, Unbounded},
    time::Duration,
};

use chronolith::Durability;

use crate::{
    dice::Dice,
    past::{FOREVER, HOUR, Keeping, MINUTE, SECOND},
    script::{
        Before, End, FOLDED_MAX, Fill, History, KEYS, Kind, NAMES, Op, Opening, PINS, STRATEGIES, Setup, Shift, Span,
        Write,
    },
    strategies::Strategy,
};

/// Ends of ranges besides them.
const BETWEEN: [&[u8]; 5] = [b"a\0\0", b"aaa", b"bb", b"zz", b"\xff\xff\xff"];

/// Lengths at which something changes: inline, copied, shared, more than a page.
const EDGES: [usize; 8] = [0, 1, 30, 31, 512, 513, 4096, 4097];

const SHIFTS: [Shift; 10] = [
    Shift::By(0),
    Shift::By(0),
    Shift::By(0),
    Shift::By(1),
    Shift::By(-1),
    Shift::Halfway,
    Shift::Halfway,
    Shift::Now,
    Shift::Future,
    Shift::Beginning,
];

const DURABILITIES: [Durability; 3] =
    [Durability::Buffered, Durability::Interval(Duration::from_millis(100)), Durability::Sync];

impl History {
    pub(crate) fn draw(seed: u64, threads: bool) -> Self {
        let mut dice = Dice(seed ^ 0x6d6f_6465_6c00);
        // A third of the histories know nothing of merge strategies.
        let plain = dice.one_in(3);
        let mut kind = || Kind::draw(&mut dice, plain, threads);
        let kinds = [kind(), kind(), kind()];
        let setup = Setup {
            kinds,
            l0_threshold: 1 + dice.below(4),
            level_ratio: 2 + dice.next() % 3,
            mmap: dice.one_in(2),
            durability: dice.of(&DURABILITIES).unwrap_or_default(),
        };
        let fat = dice.one_in(8);
        let len = if fat { 40 + dice.below(80) } else { 20 + dice.below(200) };
        // Some histories hold many views, some hardly any: then more of the past goes.
        let views = dice.of(&[0, 2, 6]).unwrap_or(2);
        // In some nearly everything happens to a few keys, and in some of those they get hundreds of operands.
        let hot = if fat || dice.one_in(2) {
            (0..=dice.below(3)).filter_map(|_| dice.of(&KEYS)).collect()
        } else {
            Vec::new()
        };
        let chains = !fat && dice.one_in(3);
        let mut author = Author { dice, threads, fat, views, plain, hot, chains, tag: 0 };
        let mut ops = Vec::new();
        for _ in 0..len {
            ops.push(author.operation());
            if author.dice.one_in(4) {
                author.look(&mut ops);
            }
        }
        author.look(&mut ops);
        Self { seed, threads, setup, ops }
    }
}

/// Draws operations.
#[expect(clippy::struct_excessive_bools, reason = "each says another thing of a history")]
struct Author {
    dice: Dice,
    threads: bool,
    fat: bool,
    views: usize,
    plain: bool,
    hot: Vec<&'static [u8]>,
    chains: bool,
    tag: usize,
}

impl Author {
    pub(crate) fn key(&mut self) -> &'static [u8] {
        let hot = if self.dice.one_in(6) { None } else { self.dice.of(&self.hot) };
        hot.or_else(|| self.dice.of(&KEYS)).unwrap_or_default()
    }

    fn opening(&mut self) -> Opening {
        let before = self.dice.of(&[Before::Nothing, Before::Nothing, Before::Flush, Before::Compact]);
        Opening { look: self.dice.one_in(3), before: before.unwrap_or_default(), wait: self.dice.one_in(2) }
    }

    /// A put or a merge.
    pub(crate) fn value(&mut self, key: &'static [u8]) -> Write {
        let fill = self.fill();
        if self.dice.one_in(3) { Write::Put { key, fill } } else { Write::Merge { key, fill } }
    }

    fn slot(&mut self) -> usize {
        // The first keyspace gets most: a deep past there, a flat one elsewhere.
        self.dice.of(&[0, 0, 0, 1, 2]).unwrap_or(0)
    }

    pub(crate) fn fill(&mut self) -> Fill {
        self.tag += 1;
        let len = match self.dice.below(100) {
            0..25 if self.fat => 60_000 + self.dice.below(140_000),
            25 if self.fat => FOLDED_MAX + self.dice.below(2),
            0..8 => self.dice.of(&EDGES).unwrap_or(0),
            8..12 => 513 + self.dice.below(1500),
            12..15 => 4097 + self.dice.below(5000),
            _ => 7 + self.dice.below(6),
        };
        Fill { tag: self.tag, len }
    }

    fn maybe_fill(&mut self) -> Option<Fill> {
        (!self.dice.one_in(4)).then(|| self.fill())
    }

    pub(crate) fn write(&mut self, keys: &[&'static [u8]]) -> Write {
        let key = self.dice.of(keys).unwrap_or_else(|| self.key());
        match self.dice.below(20) {
            0..12 => self.value(key),
            12..16 => Write::Delete { key },
            16 if self.dice.one_in(2) => self.purge(),
            _ => Write::DeleteRange { span: Span::draw(&mut self.dice) },
        }
    }

    pub(crate) fn purge(&mut self) -> Write {
        let key = self.key();
        // Not all that often everything.
        if self.dice.one_in(3) && !key.is_empty() { Write::PurgePrefix { prefix: key } } else { Write::Purge { key } }
    }

    /// What has to do with the past and its rules.
    fn past(&mut self) -> Op {
        let (slot, at, dice) = (self.slot(), self.dice.below(1 << 20), self.dice.next());
        let shift = self.dice.of(&SHIFTS).unwrap_or(Shift::Now);
        match self.dice.below(30) {
            0..7 => {
                let us = self.dice.of(&[MINUTE, 10 * MINUTE, HOUR, 2 * HOUR, 30 * HOUR, 60 * SECOND - 1]);
                Op::Wait { us: us.unwrap_or(MINUTE) }
            }
            7 => {
                let us = self.dice.of(&[SECOND / 10, 10 * SECOND, HOUR, 30 * HOUR, 87_600 * HOUR]);
                Op::StepWall { us: us.unwrap_or(HOUR), back: self.dice.one_in(2) }
            }
            8..10 if self.views > 0 => Op::AsOfTime { at, shift },
            8..12 => Op::LookAtTime { at, shift },
            12..15 => Op::Histories { at, dice },
            15 => Op::Differences { before: at, after: self.dice.below(1 << 20) },
            16 => Op::Commits { dice },
            17 => Op::Pin { which: self.dice.below(PINS.len()) },
            18 => Op::Unpin { which: self.dice.below(PINS.len()) },
            19 => Op::Pinned { which: at, hold: self.dice.one_in(3) },
            20..23 => Op::Write { slot, write: self.purge() },
            23 => Op::SetPolicy { slot, keeping: Keeping::draw(&mut self.dice) },
            24 => Op::SetTtl { slot, ttl: draw_ttl(&mut self.dice, self.threads) },
            25 if self.dice.one_in(2) => Op::CopyMoment { at, dice },
            25 => {
                let dies_at = if self.dice.one_in(2) { Some(self.dice.next() % 60) } else { None };
                Op::Rechunk { slot, cut: at, dies_at, opening: self.opening() }
            }
            26 => {
                let calls = self.dice.next() % 60;
                Op::CrashAt { calls, compact: !self.dice.one_in(3), opening: self.opening() }
            }
            _ => Op::Compact,
        }
    }

    pub(crate) fn batch(&mut self) -> Op {
        let slots = [self.slot(), self.slot()];
        // Half of them say several things of one or two keys.
        let keys = if self.dice.one_in(2) { vec![self.key(), self.key()] } else { Vec::new() };
        let count = self.dice.below(7);
        let writes = (0..count).map(|_| (self.dice.of(&slots).unwrap_or(0), self.write(&keys))).collect();
        let durability = if self.dice.one_in(3) { self.dice.of(&DURABILITIES) } else { None };
        Op::Batch { writes, durability }
    }

    fn operation(&mut self) -> Op {
        let slot = self.slot();
        if self.dice.one_in(4) {
            return self.past();
        }
        match self.dice.below(100) {
            0 if self.chains => {
                let (key, fill) = (self.key(), self.fill());
                let (count, each) = (200 + self.dice.below(400), 1 + self.dice.below(40));
                self.tag += count;
                Op::Operands { slot, key, fill: Fill { len: fill.len.min(31), ..fill }, count, each }
            }
            0..30 => {
                let key = self.key();
                Op::Write { slot, write: self.value(key) }
            }
            30..38 => Op::Write { slot, write: Write::Delete { key: self.key() } },
            38..44 => Op::Write { slot, write: Write::DeleteRange { span: Span::draw(&mut self.dice) } },
            44..54 => self.batch(),
            54..56 => Op::CompareAndSwap { slot, key: self.key(), right: !self.dice.one_in(4), new: self.maybe_fill() },
            56..58 => Op::InsertIfAbsent { slot, key: self.key(), fill: self.fill() },
            58..60 => Op::Update { slot, key: self.key(), new: self.maybe_fill() },
            60..66 if self.views > 0 => Op::Snapshot,
            66..72 if self.views > 0 => Op::AsOf { at: self.dice.below(1 << 20) },
            60..66 if self.views < 6 => Op::DropView { which: self.dice.below(1 << 20) },
            72..76 => Op::DropView { which: self.dice.below(1 << 20) },
            60..72 | 76..86 => Op::Flush,
            86..89 => Op::Compact,
            89 if !self.dice.one_in(3) => Op::HoldChunks { slot, fill: self.fill(), staged: !self.dice.one_in(3) },
            89 => {
                let (which, key) = (self.dice.below(1 << 20), self.key());
                Op::Adopt { which, slot, key, by_recipe: self.dice.one_in(2) }
            }
            90 => Op::Persist,
            91..93 => Op::Wait { us: 1000 * self.dice.of(&[1, 60, 200, 5000]).unwrap_or(1) },
            93 => Op::Reopen { close: self.dice.one_in(2), opening: self.opening() },
            94..96 => {
                let end = self.dice.of(&[End::CutPersisted, End::CutSynced, End::Death]).unwrap_or(End::Death);
                Op::Crash { end, late: self.dice.one_in(2), opening: self.opening() }
            }
            96 => Op::DropKeyspace { slot },
            97 => Op::HoldRange { slot, span: Span::draw(&mut self.dice) },
            98 => self.create(),
            _ if self.dice.one_in(4) => Op::Verify,
            _ if self.dice.one_in(3) => Op::Configure { slot, index: self.dice.one_in(2) },
            _ => Op::DropView { which: self.dice.below(1 << 20) },
        }
    }

    fn create(&mut self) -> Op {
        let slot = self.dice.below(NAMES.len());
        Op::CreateKeyspace { slot, kind: Kind::draw(&mut self.dice, self.plain, self.threads) }
    }

    pub(crate) fn look(&mut self, ops: &mut Vec<Op>) {
        if self.dice.one_in(4) {
            // Keyspaces that were dropped come back sooner or later, and so do those that were left unopened.
            ops.push(self.create());
        }
        if self.dice.one_in(3) {
            let span = Span::draw(&mut self.dice);
            ops.push(Op::HoldRange { slot: self.slot(), span });
        }
        if self.dice.one_in(6) {
            let (which, key) = (self.dice.below(1 << 20), self.key());
            ops.push(Op::Adopt { which, slot: self.slot(), key, by_recipe: self.dice.one_in(2) });
        }
        let (front, back) = (self.dice.below(3), self.dice.below(3));
        ops.push(Op::MoveRange { which: self.dice.below(1 << 20), front, back });
        ops.push(Op::Present { dice: self.dice.next() });
        if self.dice.one_in(2) {
            ops.push(Op::Held);
        }
        for _ in 0..=self.dice.below(2) {
            ops.push(Op::LookBack { at: self.dice.below(1 << 20), dice: self.dice.next() });
        }
        if self.dice.one_in(3) {
            let shift = self.dice.of(&SHIFTS).unwrap_or(Shift::Now);
            ops.push(Op::LookAtTime { at: self.dice.below(1 << 20), shift });
        }
        if self.dice.one_in(3) {
            ops.push(Op::Histories { at: self.dice.below(1 << 20), dice: self.dice.next() });
        }
        if self.dice.one_in(6) {
            ops.push(Op::Pinned { which: self.dice.below(1 << 20), hold: false });
            ops.push(Op::Commits { dice: self.dice.next() });
        }
    }
}

impl Kind {
    pub(crate) fn draw(dice: &mut Dice, plain: bool, threads: bool) -> Self {
        let strategy = if plain { None } else { dice.of(&STRATEGIES) };
        let strategy = strategy.unwrap_or(Strategy::LastWins);
        let index = dice.of(&[None, None, Some(true), Some(true), Some(false)]).flatten();
        let ttl = if strategy.folds() || !dice.one_in(3) { 0 } else { draw_ttl(dice, threads) };
        Self { strategy, index, keeping: Keeping::draw(dice), ttl }
    }
}

impl Keeping {
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        let age = dice.of(&[0, MINUTE, HOUR, HOUR, FOREVER]).unwrap_or(HOUR);
        match dice.below(8) {
            0 | 1 => Self::LastWriterWins,
            2 => Self::Tombstones(age),
            3 => Self::Even,
            _ => Self::Mvcc(dice.of(&[0, 1, 1, 2, 3]).unwrap_or(1), age),
        }
    }
}

/// Beside threads nothing may expire while it is looked at.
fn draw_ttl(dice: &mut Dice, threads: bool) -> u64 {
    let ttls = if threads { [0, HOUR, HOUR, 30 * HOUR] } else { [0, SECOND, MINUTE, HOUR] };
    dice.of(&ttls).unwrap_or(0)
}

impl Span {
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        let bound = |dice: &mut Dice| {
            let key = if dice.one_in(4) { dice.of(&BETWEEN) } else { dice.of(&KEYS) }.unwrap_or_default().to_vec();
            match dice.below(5) {
                0 => Unbounded,
                1 | 2 => Excluded(key),
                _ => Included(key),
            }
        };
        Self { start: bound(dice), end: bound(dice) }
    }
}
