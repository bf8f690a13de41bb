//! Spans of keys that a reader found to hold nothing: later readers jump over them, in either direction.
//!
//! A queue has its dead keys at the head: each was put and deleted, or has expired, and until a compaction removes
//! them, every read of the first key steps over all of them. What one reader found holds for all later ones, until a
//! key is put in between.
//!
//! ```text
//!   walk at 70     a ✗ b ✗ c ✗ … m ✗ n          found: a..=m holds nothing from 70 on
//!   put g @71      before 71 becomes visible, the span is cut in two: a..g and h..=m
//!   walk at 80     a ▸ g                        and once g is deleted: a ▸ g ✗ ▸ n; the two become one again
//! ```
//!
//! # Readers that a span serves
//!
//! * A span of the present holds for every reader of its seqno and later ones: nothing was put inside since.
//! * Expired values stay absent for readers at the finder's time or later, under the same TTLs. A later TTL applies to
//!   later writes only, so it revives nothing; it is compared because a finder may have applied the previous one.
//! * A span of a past moment holds for readers of exactly that seqno, whatever is put later. Purges hide more from
//!   views opened later, so it serves only readers opened no earlier than the finder.
//!
//! # Concurrent writers
//!
//! A reader whose seqno is no longer the newest cannot know what was put since. Its finding is recorded as *quiet*:
//! from now on no put inside is missed. The next reader, at a later seqno, that finds the same makes it a span. So
//! beside a writer that never pauses it takes two walks instead of one.
//!
//! # Bound
//!
//! Spans take a bounded number of bytes. Beyond it random ones are evicted, those first that were not used since they
//! were last drawn: if there is one queue more than fits, one of them in turn is walked, not all of them. (Rejected:
//! evicting the oldest first, which is always the one needed next. Range tombstones made of runs of point tombstones
//! while reading, as RocksDB has them since 2026: they would have to be kept apart from those that users wrote.)

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;

use super::{lookup::ReadAt, source::Direction};
use crate::base::{KeyspaceId, Kind, Micros, Seqno};

/// Dead keys in a row after which a walk looks for a known span. Measured in a memtable, with two versions each: a dead
/// key costs 0.3 µs forward and 0.8 backward, a jump about 1, finding the head of a queue without dead keys 1.
pub(crate) const LOOK_AFTER: usize = 8;

/// Dead keys in a row that justify a new span: at the start of a walk, and after a key that was seen. Many walks begin
/// at the same key, few pass the same later one.
pub(crate) const WORTH_FIRST: usize = 12;
pub(crate) const WORTH: usize = 64;

/// Memory of a span beyond its keys.
const SPAN_OVERHEAD: usize = 256;

/// Used spans that are spared before one of them is evicted.
const SPARED_MAX: usize = 4;

/// Value for the present, where a span of the past has its seqno.
const PRESENT: Seqno = Seqno::MAX;

/// Spans that are known to hold nothing.
#[derive(Debug)]
pub(crate) struct DeadSpans {
    /// Number of spans, and of those of the present: zero spares readers and writers the lock.
    count: AtomicUsize,
    present: AtomicUsize,
    /// Newest commit that put anything.
    newest_put: AtomicU64,
    spans: Mutex<Spans>,
}

/// Group of spans: those of a keyspace at the present, or at one seqno.
type Place = (KeyspaceId, Seqno);

#[derive(Debug)]
struct Spans {
    /// Spans by start; those of one place are disjoint.
    places: BTreeMap<Place, BTreeMap<Arc<[u8]>, Span>>,
    /// Every span by a random number: the one that follows a drawn number is a random span.
    drawn: BTreeMap<u64, (Place, Arc<[u8]>)>,
    present: usize,
    bytes: usize,
    bytes_max: usize,
    random: u64,
}

#[derive(Clone, Debug)]
struct Span {
    /// Exclusive end.
    end: Vec<u8>,
    state: State,
    number: u64,
    used: bool,
}

/// Knowledge about a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Dead for this reader and later ones.
    Dead(Finder),
    /// No put inside after this seqno.
    Quiet(Seqno),
}

/// Reader that found a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Finder {
    seqno: Seqno,
    /// Seqno up to which purges were seen.
    purge_horizon: Seqno,
    /// Time of the read, and the seqno from which on the newest TTL applies, if values expire.
    time: Option<(Micros, Seqno)>,
}

impl Finder {
    fn of(read_at: &ReadAt) -> Self {
        let time = read_at.cutoffs.as_ref().map(|cutoffs| (cutoffs.time, cutoffs.since()));
        Self { seqno: read_at.seqno, purge_horizon: read_at.purge_horizon, time }
    }

    /// Returns whether its finding holds for another reader.
    fn serves(&self, reader: &Self) -> bool {
        let in_time = match (self.time, reader.time) {
            (None, _) => true,
            (Some((found, under)), Some((time, now_under))) => found <= time && under == now_under,
            (Some(_), None) => false,
        };
        self.seqno <= reader.seqno && self.purge_horizon <= reader.purge_horizon && in_time
    }
}

impl State {
    fn serves(self, reader: &Finder) -> bool {
        matches!(self, Self::Dead(finder) if finder.serves(reader))
    }

    /// Returns the seqno after which nothing was put inside.
    fn quiet_since(self) -> Seqno {
        match self {
            Self::Dead(finder) => finder.seqno,
            Self::Quiet(since) => since,
        }
    }
}

impl DeadSpans {
    /// Returns an empty collection of at most `bytes_max` bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        let spans = Spans {
            places: BTreeMap::new(),
            drawn: BTreeMap::new(),
            present: 0,
            bytes: 0,
            bytes_max,
            random: 0x9e37_79b9_7f4a_7c15,
        };
        Self {
            count: AtomicUsize::new(0),
            present: AtomicUsize::new(0),
            newest_put: AtomicU64::new(0),
            spans: Mutex::new(spans),
        }
    }

    /// Records a write of a commit before it becomes visible.
    #[inline]
    pub(crate) fn wrote(&self, seqno: Seqno, keyspace: KeyspaceId, kind: Kind, key: &[u8]) {
        if matches!(kind, Kind::Delete | Kind::RangeDelete | Kind::Purge | Kind::RangePurge) {
            return;
        }
        self.newest_put.store(seqno.0, Ordering::SeqCst);
        if self.present.load(Ordering::SeqCst) > 0 {
            let mut spans = self.spans.lock();
            if spans.put(keyspace, key) {
                self.counted(&spans);
            }
        }
    }

    /// Returns whether a reader finds nothing around `key`; then it continues at `to` (forward) or before it
    /// (backward).
    pub(crate) fn jump(
        &self,
        keyspace: KeyspaceId,
        key: &[u8],
        read_at: &ReadAt,
        direction: Direction,
        to: &mut Vec<u8>,
    ) -> bool {
        if self.count.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let reader = Finder::of(read_at);
        let mut spans = self.spans.lock();
        for moment in [PRESENT, read_at.seqno] {
            let around = spans.places.get_mut(&(keyspace, moment)).and_then(|place| around(place, key));
            if let Some((start, span)) = around.filter(|(_, span)| span.state.serves(&reader)) {
                span.used = true;
                to.clear();
                to.extend_from_slice(match direction {
                    Direction::Forward => &span.end,
                    Direction::Backward => start,
                });
                return true;
            }
        }
        false
    }

    /// Records that a reader found nothing from `start` to before `end`. Where nothing is known yet, that makes a span
    /// only if it is `worth` one.
    pub(crate) fn found(&self, keyspace: KeyspaceId, start: &[u8], end: &[u8], read_at: &ReadAt, worth: bool) {
        debug_assert!(start < end, "a dead key lies inside its span");
        if !worth && self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let reader = Finder::of(read_at);
        let mut spans = self.spans.lock();
        // Under the lock: a put that is not seen here will find the span.
        self.present.store(spans.present + 1, Ordering::SeqCst);
        let newest_put = Seqno(self.newest_put.load(Ordering::SeqCst));
        let places = [PRESENT, reader.seqno].map(|moment| (keyspace, moment));
        let mut known = places.iter().any(|place| spans.covers(*place, start, end, &reader));
        // Purges hide from a view of the past what older views still see: such a view records for its own moment only.
        if !known && reader.seqno == reader.purge_horizon {
            let other = if newest_put <= reader.seqno { State::Dead(reader) } else { State::Quiet(newest_put) };
            known = spans.record((keyspace, PRESENT), start, end, &reader, other, worth);
        }
        if !known {
            spans.record((keyspace, reader.seqno), start, end, &reader, State::Dead(reader), worth);
        }
        spans.make_room();
        self.counted(&spans);
    }

    fn counted(&self, spans: &Spans) {
        self.present.store(spans.present, Ordering::SeqCst);
        self.count.store(spans.drawn.len(), Ordering::SeqCst);
    }
}

/// Returns the span that contains a key.
fn around<'s>(place: &'s mut BTreeMap<Arc<[u8]>, Span>, key: &[u8]) -> Option<(&'s Arc<[u8]>, &'s mut Span)> {
    let before = place.range_mut::<[u8], _>((Bound::Unbounded, Bound::Included(key)));
    before.into_iter().next_back().filter(|(_, span)| key < span.end.as_slice())
}

impl Spans {
    /// Cuts the span that contains a key; `false` if there is none.
    fn put(&mut self, keyspace: KeyspaceId, key: &[u8]) -> bool {
        let place = (keyspace, PRESENT);
        let Some((start, _)) = self.places.get_mut(&place).and_then(|spans| around(spans, key)) else { return false };
        let start = Arc::clone(start);
        let Some(Span { end, state, .. }) = self.remove(place, &start) else { return false };
        if *start < *key {
            self.insert(place, &start, key.to_vec(), state);
        }
        let behind = [key, &[0]].concat();
        if behind < end {
            self.insert(place, &behind, end, state);
        }
        self.make_room();
        true
    }

    /// Returns whether one span serves a reader from `start` to before `end`.
    fn covers(&mut self, place: Place, start: &[u8], end: &[u8], reader: &Finder) -> bool {
        let around = self.places.get_mut(&place).and_then(|spans| around(spans, start));
        around.is_some_and(|(_, span)| {
            let covers = end <= span.end.as_slice() && span.state.serves(reader);
            span.used |= covers;
            covers
        })
    }

    /// Records what a reader found from `start` to before `end`, and `other` where nothing is known; `false` if a part
    /// of it is older than what is known there.
    fn record(&mut self, place: Place, start: &[u8], end: &[u8], reader: &Finder, other: State, worth: bool) -> bool {
        // The spans that overlap it or touch it.
        let mut met: Vec<Arc<[u8]>> = Vec::new();
        if let Some(spans) = self.places.get(&place) {
            let before = spans.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(start))).next_back();
            met.extend(before.filter(|(_, span)| start <= span.end.as_slice()).map(|(start, _)| Arc::clone(start)));
            let inside = spans.range::<[u8], _>((Bound::Included(start), Bound::Included(end)));
            met.extend(inside.map(|(start, _)| Arc::clone(start)));
        }
        if met.is_empty() && !worth {
            return true;
        }
        let found = State::Dead(*reader);
        let mut known = true;
        let mut pieces = Pieces::default();
        let mut at = start.to_vec();
        for name in met {
            let Some(span) = self.remove(place, &name) else { continue };
            let (from, to): (&[u8], &[u8]) = (&name, &span.end);
            // Without a put there since the reader's seqno, its finding holds from then on; a state that serves the
            // reader implies it.
            let confirmed = span.state.quiet_since() <= reader.seqno;
            let outside = if span.state.serves(reader) { found } else { span.state };
            let inside = if confirmed { found } else { span.state };
            known &= confirmed || to <= start || end <= from;
            pieces.add(from, to.min(start), outside);
            pieces.add(&at, from.min(end), other);
            pieces.add(from.max(start), to.min(end), inside);
            pieces.add(from.max(end), to, outside);
            at = at.max(span.end);
        }
        pieces.add(&at, end, other);
        for (start, end, state) in pieces.0 {
            self.insert(place, &start, end, state);
        }
        known
    }

    fn insert(&mut self, place: Place, start: &[u8], end: Vec<u8>, state: State) {
        let start: Arc<[u8]> = Arc::from(start);
        let bytes = start.len() + end.len() + SPAN_OVERHEAD;
        let mut number = self.draw();
        while self.drawn.contains_key(&number) {
            number = self.draw();
        }
        self.drawn.insert(number, (place, Arc::clone(&start)));
        let replaced = self.places.entry(place).or_default().insert(start, Span { end, state, number, used: false });
        debug_assert!(replaced.is_none(), "spans of one place share no key");
        self.bytes += bytes;
        self.present += usize::from(place.1 == PRESENT);
    }

    fn remove(&mut self, place: Place, start: &[u8]) -> Option<Span> {
        let spans = self.places.get_mut(&place)?;
        let span = spans.remove(start)?;
        if spans.is_empty() {
            self.places.remove(&place);
        }
        self.drawn.remove(&span.number);
        self.bytes -= start.len() + span.end.len() + SPAN_OVERHEAD;
        self.present -= usize::from(place.1 == PRESENT);
        Some(span)
    }

    /// Evicts random spans while there are too many.
    fn make_room(&mut self) {
        while self.bytes > self.bytes_max {
            for spared in 0..=SPARED_MAX {
                let number = self.draw();
                let drawn = self.drawn.range(number..).next().or_else(|| self.drawn.iter().next());
                let Some((place, start)) = drawn.map(|(_, (place, start))| (*place, Arc::clone(start))) else { return };
                let span = self.places.get_mut(&place).and_then(|spans| spans.get_mut(&*start));
                let used = span.is_some_and(|span| std::mem::take(&mut span.used));
                if !used || spared == SPARED_MAX {
                    self.remove(place, &start);
                    break;
                }
            }
        }
    }

    /// Draws the next number of a xorshift generator.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

/// States of consecutive key ranges.
#[derive(Default)]
struct Pieces(Vec<(Vec<u8>, Vec<u8>, State)>);

impl Pieces {
    /// Appends the state of the next range.
    fn add(&mut self, from: &[u8], to: &[u8], state: State) {
        if from >= to {
            return;
        }
        if let Some((_, end, last)) = self.0.last_mut().filter(|(_, end, _)| end.as_slice() == from) {
            let both = match (*last, state) {
                (State::Quiet(a), State::Quiet(b)) => Some(State::Quiet(a.max(b))),
                _ => Some(state).filter(|state| state == last),
            };
            if let Some(both) = both {
                (*last, *end) = (both, to.to_vec());
                return;
            }
        }
        self.0.push((from.to_vec(), to.to_vec(), state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::Cutoffs;

    const KS: KeyspaceId = KeyspaceId(16);

    fn spans() -> DeadSpans {
        DeadSpans::new(1 << 20)
    }

    fn at(seqno: u64) -> ReadAt {
        let seqno = Seqno(seqno);
        ReadAt::present(seqno, None)
    }

    /// Where a reader goes on who meets `key`.
    fn jump(dead: &DeadSpans, key: &str, read_at: &ReadAt) -> Option<(String, String)> {
        let to = |direction| {
            let mut to = Vec::new();
            let jumps = dead.jump(KS, key.as_bytes(), read_at, direction, &mut to);
            jumps.then(|| String::from_utf8(to).unwrap())
        };
        let forward = to(Direction::Forward)?;
        Some((to(Direction::Backward).expect("both directions or none"), forward))
    }

    fn span(start: &str, end: &str) -> (String, String) {
        (start.to_owned(), end.to_owned())
    }

    fn found(dead: &DeadSpans, start: &str, end: &str, read_at: &ReadAt, worth: bool) {
        dead.found(KS, start.as_bytes(), end.as_bytes(), read_at, worth);
    }

    fn put(dead: &DeadSpans, seqno: u64, key: &str) {
        let seqno = Seqno(seqno);
        dead.wrote(seqno, KS, Kind::Put, key.as_bytes());
    }

    #[test]
    fn a_put_cuts_a_span_in_two_and_whoever_finds_its_key_dead_makes_it_one_again() {
        let dead = spans();
        found(&dead, "a", "n", &at(70), true);
        assert_eq!(jump(&dead, "b", &at(70)), Some(span("a", "n")));
        assert_eq!(jump(&dead, "b", &at(69)), None);
        assert_eq!(jump(&dead, "n", &at(80)), None);
        dead.wrote(Seqno(71), KS, Kind::Delete, b"g");
        dead.wrote(Seqno(72), KeyspaceId(17), Kind::Put, b"g");
        assert_eq!(jump(&dead, "b", &at(80)), Some(span("a", "n")));
        put(&dead, 73, "g");
        assert_eq!(jump(&dead, "b", &at(80)), Some(span("a", "g")));
        assert_eq!(jump(&dead, "g", &at(80)), None);
        assert_eq!(jump(&dead, "h", &at(80)), Some(span("g\0", "n")));
        found(&dead, "c", "n", &at(81), false);
        assert_eq!(jump(&dead, "b", &at(81)), Some(span("a", "n")));
        put(&dead, 82, "a");
        assert_eq!(jump(&dead, "b", &at(82)), Some(span("a\0", "n")));
    }

    #[test]
    fn a_span_grows_at_both_ends_by_any_number_of_keys() {
        let dead = spans();
        found(&dead, "f", "g", &at(70), false);
        assert_eq!(jump(&dead, "f", &at(70)), None, "not worth a span of its own");
        found(&dead, "f", "h", &at(70), true);
        found(&dead, "g", "k", &at(80), false);
        found(&dead, "b", "f", &at(80), false);
        assert_eq!(jump(&dead, "c", &at(80)), Some(span("b", "k")));
        assert_eq!(jump(&dead, "c", &at(79)), None);
    }

    #[test]
    fn beside_a_writer_that_never_rests_the_second_walk_finds() {
        let dead = spans();
        put(&dead, 71, "z");
        // It is unknown what was put behind the first one's back.
        found(&dead, "a", "n", &at(70), true);
        assert_eq!(jump(&dead, "b", &at(80)), None);
        put(&dead, 72, "z");
        put(&dead, 73, "c");
        found(&dead, "d", "n", &at(72), true);
        assert_eq!(jump(&dead, "e", &at(73)), Some(span("d", "n")));
        assert_eq!(jump(&dead, "b", &at(73)), None);
    }

    #[test]
    fn a_view_of_the_past_keeps_what_it_found_whatever_is_put() {
        let dead = spans();
        let history = |purge_horizon| ReadAt { purge_horizon, ..at(50) };
        found(&dead, "a", "n", &history(Seqno(70)), true);
        put(&dead, 71, "g");
        assert_eq!(jump(&dead, "b", &history(Seqno(71))), Some(span("a", "n")));
        assert_eq!(jump(&dead, "b", &history(Seqno(69))), None, "a purge between hides from later views alone");
        assert_eq!(jump(&dead, "b", &at(71)), None);
        // A snapshot that is the past by now.
        put(&dead, 80, "c");
        found(&dead, "a", "n", &at(75), true);
        found(&dead, "a", "n", &at(75), true);
        assert_eq!(jump(&dead, "b", &at(75)), Some(span("a", "n")));
        assert_eq!(jump(&dead, "b", &at(80)), None);
    }

    #[test]
    fn what_has_expired_is_dead_from_then_on_under_the_same_times_to_live() {
        let dead = spans();
        let under = |from, time| {
            let cutoffs =
                Cutoffs { ttls: [(Seqno(0), Micros::ZERO), (from, Micros(10))].into(), time, slack: Micros::ZERO };
            ReadAt::present(Seqno(70), Some(Arc::new(cutoffs)))
        };
        found(&dead, "a", "n", &under(Seqno(3), Micros(1000)), true);
        assert_eq!(jump(&dead, "b", &under(Seqno(3), Micros(1000))), Some(span("a", "n")));
        assert_eq!(jump(&dead, "b", &under(Seqno(3), Micros(2000))), Some(span("a", "n")));
        assert_eq!(jump(&dead, "b", &under(Seqno(3), Micros(999))), None);
        assert_eq!(jump(&dead, "b", &under(Seqno(69), Micros(2000))), None);
        assert_eq!(jump(&dead, "b", &at(70)), None);
        let dead = spans();
        found(&dead, "a", "n", &at(70), true);
        assert_eq!(
            jump(&dead, "b", &under(Seqno(3), Micros(20))),
            Some(span("a", "n")),
            "what was deleted does not come back"
        );
    }

    /// How many of `count` queues that are asked in turn, again and again, are jumped over, with room for four.
    fn served(count: usize) -> usize {
        let queue = |number: usize| (format!("{number:02}a"), format!("{number:02}n"));
        let room = 4 * (queue(0).0.len() + queue(0).1.len() + SPAN_OVERHEAD);
        let dead = DeadSpans::new(room);
        let mut served = 0;
        for turn in 0..100 * count {
            let (start, end) = queue(turn % count);
            if jump(&dead, &start, &at(70)).is_some() {
                served += 1;
            } else {
                found(&dead, &start, &end, &at(70), true);
            }
            assert!(dead.spans.lock().bytes <= room);
        }
        served
    }

    #[test]
    fn one_queue_more_than_there_is_room_for_costs_one_queue_and_not_all() {
        assert_eq!(served(4), 4 * 99);
        assert!(served(5) > 5 * 99 / 2, "{} of 500", served(5));
    }

    #[test]
    fn a_span_longer_than_all_room_is_let_go() {
        let dead = DeadSpans::new(1000);
        let (start, end) = ("a".repeat(600), "n".repeat(600));
        found(&dead, &start, &end, &at(70), true);
        assert_eq!(jump(&dead, &start, &at(70)), None);
        assert_eq!(dead.count.load(Ordering::SeqCst), 0);
        assert_eq!(dead.spans.lock().bytes, 0);
    }

    /// One version of a key: the seqno, and until when it lives; nothing of a delete.
    type Written = (u64, Option<u64>);

    const FOR_EVER: u64 = u64::MAX;

    struct Naive {
        keys: Vec<Vec<Written>>,
        purges: Vec<(usize, u64)>,
        random: u64,
    }

    impl Naive {
        fn below(&mut self, limit: u64) -> u64 {
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.random >> 33) % limit
        }

        fn is_dead(&self, key: usize, read_at: &ReadAt) -> bool {
            let purged = self.purges.iter().filter(|(at, seqno)| *at == key && *seqno <= read_at.purge_horizon.0);
            let purged = purged.map(|(_, seqno)| *seqno).max().unwrap_or(0);
            let seen = self.keys[key].iter().rfind(|(seqno, _)| *seqno <= read_at.seqno.0);
            let time = read_at.cutoffs.as_ref().map_or(Micros::ZERO, |cutoffs| cutoffs.time);
            seen.is_none_or(|(seqno, until)| {
                *seqno < purged || until.is_none_or(|until| until != FOR_EVER && until <= time.0)
            })
        }
    }

    /// Whatever is put, deleted, purged and found in whatever order, also by readers who tell late: a jump passes by no
    /// key that its reader sees.
    #[test]
    fn a_jump_never_passes_by_a_key_that_is_seen() {
        const KEYS: usize = 24;
        let name = |key: usize| vec![b'a' + u8::try_from(key).unwrap()];
        let mut jumps = 0;
        for seed in 0..400 {
            let expires = seed % 2 == 1;
            let mut model = Naive { keys: vec![Vec::new(); KEYS], purges: Vec::new(), random: seed };
            let dead = DeadSpans::new([700, 2000, 1 << 20][usize::try_from(seed % 3).unwrap()]);
            let (mut seqno, mut time) = (1, 100);
            let mut views: Vec<ReadAt> = Vec::new();
            let mut late: Vec<(usize, usize, ReadAt)> = Vec::new();
            for _ in 0..400 {
                time += model.below(3);
                let cutoffs =
                    |time| Some(Arc::new(Cutoffs { ttls: [(Seqno(0), time)].into(), time, slack: Micros::ZERO }));
                let present = ReadAt::present(Seqno(seqno), if expires { cutoffs(Micros(time)) } else { None });
                match model.below(8) {
                    0 | 1 => {
                        // A batch of some keys, noted one after the other; it becomes visible behind that.
                        for _ in 0..=model.below(3) {
                            let key = usize::try_from(model.below(KEYS as u64)).unwrap();
                            let kind =
                                [Kind::Put, Kind::Delete, Kind::Purge][usize::try_from(model.below(5)).unwrap().min(2)];
                            let until = if expires && model.below(2) == 0 { time + model.below(20) } else { FOR_EVER };
                            match kind {
                                Kind::Put => model.keys[key].push((seqno + 1, Some(until))),
                                Kind::Purge => {
                                    model.keys[key].push((seqno + 1, None));
                                    model.purges.push((key, seqno + 1));
                                }
                                _ => model.keys[key].push((seqno + 1, None)),
                            }
                            dead.wrote(Seqno(seqno + 1), KS, kind, &name(key));
                            if model.below(4) == 0 && !late.is_empty() {
                                let (from, to, read_at) = late.swap_remove(0);
                                dead.found(KS, &name(from), &[name(to), vec![0]].concat(), &read_at, true);
                            }
                        }
                        seqno += 1;
                    }
                    2 => views.push(present.clone()),
                    3 => {
                        let history = 1 + model.below(seqno);
                        views.push(ReadAt { seqno: Seqno(history), ..present.clone() });
                    }
                    _ => {
                        let chosen = usize::try_from(model.below(2 + views.len() as u64)).unwrap();
                        let read_at = views.get(chosen).unwrap_or(&present).clone();
                        let key = usize::try_from(model.below(KEYS as u64)).unwrap();
                        let mut to = Vec::new();
                        if dead.jump(KS, &name(key), &read_at, Direction::Forward, &mut to) {
                            jumps += 1;
                            let mut from = Vec::new();
                            assert!(dead.jump(KS, &name(key), &read_at, Direction::Backward, &mut from));
                            for passed in (0..KEYS).filter(|key| (&from..&to).contains(&&name(*key))) {
                                assert!(model.is_dead(passed, &read_at), "seed {seed}: key {passed} for {read_at:?}");
                            }
                        }
                        let end = (key..KEYS).find(|key| !model.is_dead(*key, &read_at)).unwrap_or(KEYS);
                        if end > key {
                            if model.below(3) == 0 {
                                late.push((key, end - 1, read_at));
                            } else {
                                dead.found(KS, &name(key), &[name(end - 1), vec![0]].concat(), &read_at, true);
                            }
                        }
                    }
                }
                let spans = dead.spans.lock();
                let kept: usize = spans.places.values().map(BTreeMap::len).sum();
                let present = spans.places.iter().filter(|(place, _)| place.1 == PRESENT).map(|(_, spans)| spans.len());
                assert_eq!((kept, present.sum::<usize>()), (spans.drawn.len(), spans.present));
                for spans in spans.places.values() {
                    let ends: Vec<_> = spans.iter().map(|(start, span)| (&**start, span.end.as_slice())).collect();
                    assert!(ends.iter().all(|(start, end)| start < end), "{ends:?}");
                    assert!(ends.windows(2).all(|two| two[0].1 <= two[1].0), "{ends:?}");
                }
            }
        }
        assert!(jumps > 10_000, "{jumps} jumps");
    }
}
