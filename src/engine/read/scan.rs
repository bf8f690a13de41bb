//! Scans of a span, in either direction.

use std::{path::Path, sync::Arc};

use super::large::assemble;

use crate::{
    base::{Bytes, KeySpan, Kind, Result, Seqno},
    engine::{
        KeyspaceRef,
        files::{
            chunks::ChunkSet,
            runs::{AsOfRunCursor, RunCursor, VersionRunCursor},
            superversion::SuperVersion,
        },
    },
    memtable::MemCursor,
    merge::{DeadSpans, Direction, EntryRef, Kway, ReadAt, Source, Stored, Tombstones, Visible},
};

/// A memtable, a run of segments, or a run of the history tier: as of a moment, or with every version.
#[derive(Debug)]
pub(crate) enum AnySource {
    Mem(MemCursor),
    Run(RunCursor),
    AsOf(Box<AsOfRunCursor>),
    Versions(Box<VersionRunCursor>),
}

impl Source for AnySource {
    fn seek(&mut self, key: Option<&[u8]>) -> Result<()> {
        match self {
            Self::Mem(cursor) => cursor.seek(key),
            Self::Run(cursor) => cursor.seek(key),
            Self::AsOf(cursor) => cursor.seek(key),
            Self::Versions(cursor) => cursor.seek(key),
        }
    }

    #[inline]
    fn entry(&self) -> Option<EntryRef<'_>> {
        match self {
            Self::Mem(cursor) => cursor.entry(),
            Self::Run(cursor) => cursor.entry(),
            Self::AsOf(cursor) => cursor.entry(),
            Self::Versions(cursor) => cursor.entry(),
        }
    }

    fn value(&self) -> Bytes {
        match self {
            Self::Mem(cursor) => cursor.value(),
            Self::Run(cursor) => cursor.value(),
            Self::AsOf(cursor) => cursor.value(),
            Self::Versions(cursor) => cursor.value(),
        }
    }

    #[inline]
    fn advance(&mut self) -> Result<()> {
        match self {
            Self::Mem(cursor) => cursor.advance(),
            Self::Run(cursor) => cursor.advance(),
            Self::AsOf(cursor) => cursor.advance(),
            Self::Versions(cursor) => cursor.advance(),
        }
    }

    fn skip_newer(&mut self, key: &[u8], seqno: Seqno, purge_horizon: Seqno) -> Result<()> {
        match self {
            Self::Mem(cursor) => cursor.skip_newer(key, seqno, purge_horizon),
            Self::Run(cursor) => cursor.skip_newer(key, seqno, purge_horizon),
            Self::AsOf(cursor) => cursor.skip_newer(key, seqno, purge_horizon),
            Self::Versions(cursor) => cursor.skip_newer(key, seqno, purge_horizon),
        }
    }

    fn turned(&self) -> Self {
        match self {
            Self::Mem(cursor) => Self::Mem(cursor.turned()),
            Self::Run(cursor) => Self::Run(cursor.turned()),
            Self::AsOf(cursor) => Self::AsOf(Box::new(cursor.turned())),
            Self::Versions(cursor) => Self::Versions(Box::new(cursor.turned())),
        }
    }

    fn newest(&self) -> Seqno {
        match self {
            Self::Mem(cursor) => cursor.newest(),
            Self::Run(cursor) => cursor.newest(),
            Self::AsOf(cursor) => cursor.newest(),
            Self::Versions(cursor) => cursor.newest(),
        }
    }

    fn file(&self) -> Option<&Path> {
        match self {
            Self::Mem(cursor) => cursor.file(),
            Self::Run(cursor) => cursor.file(),
            Self::AsOf(cursor) => cursor.file(),
            Self::Versions(cursor) => cursor.file(),
        }
    }
}

/// Scan of the visible keys and values of a span.
#[derive(Debug)]
pub(crate) struct Scan {
    visible: Visible<AnySource>,
    keyspace: KeyspaceRef,
    /// Of the files that it reads (L7).
    chunks: Arc<ChunkSet>,
    /// A large value that was lent.
    lent: Bytes,
}

impl Scan {
    /// Steps to the next visible key; `false` at the end.
    #[inline]
    pub(crate) fn step(&mut self) -> Result<bool> {
        self.visible.step()
    }

    /// Returns whether it has ended, at its end or by an error that is not about one key.
    pub(crate) fn has_ended(&self) -> bool {
        self.visible.has_ended()
    }

    /// Returns the current key; after an error that did not end the walk, the key it concerns.
    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        self.visible.key()
    }

    /// Returns the current key and value, to keep.
    #[inline]
    pub(crate) fn item(&self) -> Result<(Bytes, Bytes)> {
        if self.visible.is_recipe() {
            return Ok((Bytes::copy_from(self.key()), self.assemble()?));
        }
        Ok((Bytes::copy_from(self.key()), self.visible.value()))
    }

    #[cold]
    fn assemble(&self) -> Result<Bytes> {
        assemble(&self.chunks, &self.keyspace, self.key(), Stored::Recipe(self.visible.value()))
    }

    /// Lends the current key and value until the next step.
    #[inline]
    pub(crate) fn item_ref(&mut self) -> Result<(&[u8], &[u8])> {
        if self.visible.is_recipe() {
            self.lent = self.assemble()?;
            return Ok((self.visible.key(), &self.lent));
        }
        Ok((self.visible.key(), self.visible.value_ref()))
    }

    /// Returns the chunks of the files that it reads.
    pub(crate) fn chunks(&self) -> &Arc<ChunkSet> {
        &self.chunks
    }

    /// Returns the current value as it is stored, to keep.
    pub(crate) fn stored(&self) -> Stored {
        let value = self.visible.value();
        if self.visible.is_recipe() { Stored::Recipe(value) } else { Stored::Bytes(value) }
    }

    /// Returns the kind of an entry that holds the current value, and lends what it stores.
    pub(crate) fn entry(&self) -> (Kind, &[u8]) {
        (if self.visible.is_recipe() { Kind::Recipe } else { Kind::Put }, self.visible.value_ref())
    }
}

/// Opens a scan of a superversion; it keeps what it reads alive.
pub(super) fn scan_in(
    current: &SuperVersion,
    keyspace: &KeyspaceRef,
    span: KeySpan,
    read_at: ReadAt,
    direction: Direction,
    dead: &Arc<DeadSpans>,
) -> Result<Scan> {
    let id = keyspace.id;
    let mut sources = Vec::new();
    let mut tombstones: Vec<Vec<Arc<Tombstones>>> = Vec::new();
    for memtable in current.memtables(read_at.seqno) {
        sources.push(AnySource::Mem(MemCursor::new(memtable, id, direction)));
        tombstones.extend(memtable.tombstones(id).into_iter().map(|set| vec![set]));
    }
    if let Some(tree) = current.trees.get(&id) {
        for run in tree.runs(&span, read_at.seqno) {
            let ranged = run.iter().filter(|handle| handle.meta.summary.range_tombstones > 0);
            tombstones.push(ranged.map(|handle| Ok(Arc::clone(handle.segment()?.ranges()))).collect::<Result<_>>()?);
            sources.push(AnySource::Run(RunCursor::new(run, direction, ())));
        }
        for run in tree.history.iter().filter(|run| run.concerns(read_at.seqno)) {
            let handles: Vec<_> =
                run.segments.iter().filter(|handle| handle.meta.summary.overlaps(&span)).cloned().collect();
            if !handles.is_empty() {
                sources.push(AnySource::AsOf(Box::new(AsOfRunCursor::new(handles, direction, read_at.seqno))));
            }
        }
    }
    let merge = Kway::new(sources, direction);
    let visible = Visible::new(merge, tombstones, read_at, span, direction, keyspace.strategy.clone());
    let chunks = Arc::clone(&current.chunks);
    Ok(Scan { visible: visible.with_dead(dead, id), keyspace: keyspace.clone(), chunks, lent: Bytes::default() })
}

#[cfg(test)]
mod tests {
    use std::{io, path::Path, sync::Arc, time::Duration};

    use crate::{
        Db, Keyspace, KeyspaceOptions, MergeStrategy, Options, Policy, View,
        env::{Background, Dir, Env, Memory, Sim},
        merge::steps,
    };

    const HOUR: Duration = Duration::from_secs(3600);

    /// What a look may take, whatever lies around it: eight dead keys of two versions before it asks, a jump, a seek of
    /// each source.
    const LOOK_MAX: u64 = 60;

    fn kinds() -> [KeyspaceOptions; 3] {
        let new = KeyspaceOptions::new;
        [new(), new().ttl(HOUR), new().policy(Policy::mvcc(1, HOUR))]
    }

    fn write(db: &Db, keyspace: &Keyspace, keys: impl Iterator<Item = String>, value: Option<&[u8]>) {
        let mut keys = keys.peekable();
        while keys.peek().is_some() {
            let mut batch = db.batch();
            for key in keys.by_ref().take(1000) {
                match value {
                    Some(value) => batch.put(keyspace, key, value),
                    None => batch.delete(keyspace, key),
                }
            }
            batch.commit().unwrap();
        }
    }

    /// The keys at both ends of a queue, and the steps that each of the two looks took.
    fn ends(view: &View, keyspace: &Keyspace, queue: &str) -> ([Option<String>; 2], u64) {
        let name = |item: Option<crate::Result<(crate::Bytes, crate::Bytes)>>| {
            item.transpose().unwrap().map(|(key, _)| String::from_utf8(key.to_vec()).unwrap())
        };
        let (front, front_steps) = steps::of(|| name(view.prefix(keyspace, queue).next()));
        let (back, back_steps) = steps::of(|| name(view.prefix(keyspace, queue).next_back()));
        ([front, back], front_steps.max(back_steps))
    }

    #[test]
    fn a_look_for_either_end_of_a_queue_takes_few_steps_however_many_queues_and_dead_keys_there_are() {
        for (queues, dead) in [(1, 20_000), (16, 1000), (17, 1000), (1000, 100), (1000, 16), (1000, 17), (10_000, 40)] {
            for options in kinds().into_iter().take(if queues * dead > 50_000 { 1 } else { 3 }) {
                let db = Options::new().env(Memory::new()).open("my.db").unwrap();
                let keyspace = db.keyspace("queues", options).unwrap();
                let queue = |queue: usize| format!("queue{queue:05}/");
                let row = |end: char| {
                    (0..queues).flat_map(move |at| (0..dead).map(move |item| format!("{}{end}{item:05}", queue(at))))
                };
                write(&db, &keyspace, row('a').chain(row('z')), Some(b"dead"));
                write(&db, &keyspace, (0..queues).map(|at| queue(at) + "m"), Some(b"alive"));
                // It keeps compactions from taking the dead keys away.
                let held = db.snapshot();
                write(&db, &keyspace, row('a').chain(row('z')), None);
                let history = db.snapshot();
                write(&db, &keyspace, (0..queues).map(|at| queue(at) + "m"), Some(b"alive again"));
                for round in 0..3 {
                    for at in 0..queues {
                        // An old view finds its own spans, new ones those that all share.
                        let view = if at % 2 == 1 && queues <= 1000 { history.clone() } else { db.snapshot() };
                        let (told, steps) = ends(&view, &keyspace, &queue(at));
                        assert_eq!(told, [Some(queue(at) + "m"), Some(queue(at) + "m")]);
                        // A view of the past is the second one to find what was dead when it came.
                        assert!(round < 2 || steps <= LOOK_MAX, "{steps} steps in {at} of {queues} queues of {dead}");
                    }
                }
                drop(held);
            }
        }
    }

    #[test]
    fn keys_that_expired_are_jumped_over_as_deleted_ones_are() {
        let sim = Sim::new(7);
        let db = Options::new().env(sim.clone()).open("my.db").unwrap();
        let sessions = db.keyspace("sessions", KeyspaceOptions::new().ttl(HOUR)).unwrap();
        write(&db, &sessions, (0..5000).map(|item| format!("a{item:05}")), Some(b"short"));
        sim.set_time(sim.now() + HOUR / 2);
        write(&db, &sessions, (0..5000).map(|item| format!("b{item:05}")), Some(b"longer"));
        sim.set_time(sim.now() + HOUR / 2);
        assert_eq!(ends(&db.snapshot(), &sessions, "").0, [Some("b00000".to_owned()), Some("b04999".to_owned())]);
        let (told, steps) = ends(&db.snapshot(), &sessions, "");
        assert_eq!(told, [Some("b00000".to_owned()), Some("b04999".to_owned())]);
        assert!(steps <= LOOK_MAX, "{steps} steps");
        sessions.put("b00000", "longest").unwrap();
        sim.set_time(sim.now() + HOUR / 2);
        for _ in 0..2 {
            assert_eq!(ends(&db.snapshot(), &sessions, "").0, [Some("b00000".to_owned()), Some("b00000".to_owned())]);
        }
        let (_, steps) = ends(&db.snapshot(), &sessions, "");
        assert!(steps <= LOOK_MAX, "{steps} steps");
    }

    #[test]
    fn pops_at_both_ends_and_keys_of_a_short_life_anywhere_take_steps_by_their_number() {
        for options in kinds() {
            let db = Options::new().env(Memory::new()).open("my.db").unwrap();
            let keyspace = db.keyspace("queue", options).unwrap();
            write(&db, &keyspace, (0..20_000).map(|item| format!("{item:05}")), Some(b"item"));
            let ((), steps) = steps::of(|| {
                for _ in 0..6000 {
                    for backward in [false, true] {
                        let (key, _) = if backward { keyspace.last() } else { keyspace.first() }.unwrap().unwrap();
                        keyspace.delete(key).unwrap();
                    }
                }
            });
            assert!(steps <= 12_000 * LOOK_MAX, "{steps} steps for 12000 pops");
            let mut random = 1u64;
            let ((), steps) = steps::of(|| {
                for _ in 0..5000 {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let key = format!("{:05}x", (random >> 33) % 20_000);
                    let next = keyspace.range(key.as_str()..).next();
                    let before = keyspace.range(..key.as_str()).next_back();
                    drop((next.transpose().unwrap(), before.transpose().unwrap()));
                    keyspace.put(&key, "short").unwrap();
                    keyspace.delete(&key).unwrap();
                }
            });
            assert!(steps <= 5000 * 2 * LOOK_MAX, "{steps} steps for 5000 keys of a short life");
        }
    }

    /// Reads of a key of many versions: what was asked of which view, and the steps it took.
    fn reads(view: &View, keyspace: &Keyspace, wanted: u64) {
        let number = |value: &[u8]| u64::from_le_bytes(value.try_into().unwrap());
        let key = |item: Option<crate::Result<(crate::Bytes, crate::Bytes)>>| {
            let (key, value) = item.unwrap().unwrap();
            (key.to_vec(), number(&value))
        };
        let hot = (b"hot".to_vec(), wanted);
        let around = [(b"a".to_vec(), 0), hot.clone(), (b"z".to_vec(), 0)];
        let (told, steps) = steps::of(|| view.range(keyspace, ..).map(|item| key(Some(item))).collect::<Vec<_>>());
        assert_eq!(told, around);
        assert!(steps <= 2 * LOOK_MAX, "{steps} steps forward at {wanted}");
        let (told, steps) =
            steps::of(|| view.range(keyspace, ..).rev().map(|item| key(Some(item))).collect::<Vec<_>>());
        assert!(told.iter().rev().eq(&around));
        assert!(steps <= 2 * LOOK_MAX, "{steps} steps backward at {wanted}");
        let (told, steps) = steps::of(|| view.get(keyspace, "hot").unwrap().map(|value| number(&value)));
        assert_eq!(told, Some(wanted));
        assert!(steps <= LOOK_MAX, "{steps} steps for a get at {wanted}");
    }

    #[test]
    fn one_version_of_a_key_takes_few_steps_however_many_there_are_in_memory_or_in_segments() {
        const VERSIONS: u64 = 3000;
        for strategy in [MergeStrategy::LastWins, MergeStrategy::Sum] {
            let db = Options::new().env(Memory::new()).open("my.db").unwrap();
            let keyspace = db.keyspace("keys", KeyspaceOptions::new().merge(strategy)).unwrap();
            for key in ["a", "z"] {
                keyspace.put(key, 0u64.to_le_bytes()).unwrap();
            }
            let mut views = Vec::new();
            for number in 1..=VERSIONS {
                keyspace.put("hot", number.to_le_bytes()).unwrap();
                views.push(db.snapshot());
            }
            for flushed in [false, true] {
                if flushed {
                    db.flush().unwrap();
                }
                for number in [1, 2, VERSIONS / 2, VERSIONS - 1, VERSIONS] {
                    reads(&views[usize::try_from(number).unwrap() - 1], &keyspace, number);
                }
            }
        }
    }

    #[test]
    fn a_sum_of_many_operands_is_read_from_the_nearest_state_in_both_directions() {
        let db = Options::new().env(Memory::new()).open("my.db").unwrap();
        let sums = db.keyspace("sums", KeyspaceOptions::new().merge(MergeStrategy::Sum)).unwrap();
        let mut views = Vec::new();
        for _ in 0..5000 {
            sums.merge("hits", 1i64.to_le_bytes()).unwrap();
            views.push(db.snapshot());
        }
        for number in [1usize, 300, 2500, 5000] {
            let view = &views[number - 1];
            for backward in [false, true] {
                let (told, steps) = steps::of(|| {
                    let mut range = view.range(&sums, ..);
                    if backward { range.next_back() } else { range.next() }.unwrap().unwrap().1
                });
                assert_eq!(told, i64::try_from(number).unwrap().to_le_bytes().as_slice());
                assert!(steps <= 256 + 2 * LOOK_MAX, "{steps} steps at {number}");
            }
        }
    }

    #[test]
    fn a_moment_in_the_history_tier_takes_few_steps_in_every_verb_however_many_versions_there_are() {
        // Values of which nothing is alike, so that each stands whole, and values that are told as differences.
        for alike in [false, true] {
            let db = Options::new().env(Memory::new()).open("my.db").unwrap();
            let keyspace = db.keyspace("keys", KeyspaceOptions::new().policy(Policy::mvcc(1, HOUR))).unwrap();
            for key in ["a", "z"] {
                keyspace.put(key, 0u64.to_le_bytes()).unwrap();
            }
            let mut seqnos = Vec::new();
            for number in 0..20_000u64 {
                let value = if alike { number } else { number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) };
                seqnos.push((keyspace.put("hot", value.to_le_bytes()).unwrap().seqno, value));
            }
            for compacted in [false, true] {
                db.flush().unwrap();
                if compacted {
                    db.compact().unwrap();
                }
                for at in [0, 1, 10_000, 19_998, 19_999] {
                    let (seqno, value) = seqnos[at];
                    let view = db.as_of(seqno).unwrap();
                    reads(&view, &keyspace, value);
                    let (told, steps) = steps::of(|| view.history(&keyspace, "hot").take(3).collect::<Vec<_>>());
                    assert_eq!(told.len(), 3.min(at + 1));
                    assert!(told.iter().zip(seqnos[..=at].iter().rev()).all(|(told, (seqno, value))| {
                        let told = told.as_ref().unwrap();
                        told.seqno == *seqno && told.value.as_deref() == Some(value.to_le_bytes().as_slice())
                    }));
                    assert!(steps <= LOOK_MAX, "{steps} steps for a history as of {seqno}");
                    let between = || keyspace.history_between("hot", seqno..=seqno).map(|told| told.unwrap().seqno);
                    let (told, steps) = steps::of(|| between().collect::<Vec<_>>());
                    assert_eq!(told, [seqno]);
                    assert!(steps <= LOOK_MAX, "{steps} steps for one version of a history");
                }
                let views = [100, 19_000].map(|at: usize| db.as_of(seqnos[at].0).unwrap());
                let (changes, steps) = steps::of(|| db.diff(&views[0], &views[1], &keyspace).count());
                assert_eq!(changes, 1);
                assert!(steps <= 4 * LOOK_MAX, "{steps} steps for a difference");
            }
        }
    }

    /// A machine on which no background step ever runs.
    #[derive(Debug)]
    struct Quiet(Memory);

    impl Env for Quiet {
        fn open_dir(&self, path: &Path, create: bool) -> io::Result<Arc<dyn Dir>> {
            self.0.open_dir(path, create)
        }

        fn wall_us(&self) -> u64 {
            self.0.wall_us()
        }

        fn monotonic_us(&self) -> u64 {
            self.0.monotonic_us()
        }

        fn entropy(&self) -> u64 {
            self.0.entropy()
        }

        fn background(&self) -> Background {
            Background::Caller
        }

        fn draw(&self, below: u32) -> u32 {
            below - 1
        }
    }

    #[test]
    fn a_history_that_begins_in_the_middle_tells_as_well_whether_something_is_missing() {
        // A background step would let the oldest versions go, which no reader needs any more.
        let db = Options::new().env(Quiet(Memory::new())).l0_threshold(1000).open("my.db").unwrap();
        let keyspace = db.keyspace("keys", KeyspaceOptions::new().policy(Policy::mvcc(1, HOUR))).unwrap();
        let put = |number: u64| keyspace.put("k", number.to_le_bytes()).unwrap().seqno;
        let old: Vec<_> = (0..100).map(put).collect();
        db.flush().unwrap();
        db.keyspace("keys", KeyspaceOptions::new().policy(Policy::last_writer_wins())).unwrap();
        let lost: Vec<_> = (0..100).map(put).collect();
        db.flush().unwrap();
        let newest: Vec<_> = (0..100).map(put).collect();
        for (from, to, complete) in [
            (newest[10], newest[90], true),
            (lost[10], newest[10], false),
            (old[10], newest[90], false),
            (lost[10], lost[20], false),
        ] {
            let mut history = keyspace.history_between("k", from..to);
            let told: Vec<_> = history.by_ref().map(|told| told.unwrap().seqno).collect();
            assert!(
                told.is_sorted_by(|newer, older| newer > older) && told.iter().all(|seqno| (from..to).contains(seqno))
            );
            assert_eq!(history.is_complete(), complete, "{from}..{to} tells {}", told.len());
        }
    }

    #[test]
    fn commits_are_told_from_any_point_without_reading_all_that_come_behind() {
        let db = Options::new().env(Memory::new()).open("my.db").unwrap();
        let keyspace = db.keyspace("keys", KeyspaceOptions::new()).unwrap();
        for number in 0..10_000u64 {
            keyspace.put(number.to_le_bytes(), "v").unwrap();
        }
        for from in [2u64, 5000, 9990] {
            let (told, steps) =
                steps::of(|| db.commits(from..).take(3).map(|told| told.unwrap().seqno).collect::<Vec<_>>());
            assert_eq!(told, [from, from + 1, from + 2].map(Into::into));
            assert!(steps <= 4, "{steps} steps from {from}");
        }
        assert_eq!(db.commits(5000u64..).count(), 10_001 - 4999);
    }
}
