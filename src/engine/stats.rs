//! Numbers about everything: counted always, collected on request.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use super::{Engine, keyspaces::readers_of, registry::Holder, superversion::SuperVersion};
use crate::{
    base::{IoContext, Result, TIMELINE},
    format::name,
    manifest::{KeyspaceVersion, PinnedAt, Version},
};

/// What has happened since the database was opened.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(super) commits: AtomicU64,
    pub(super) scans: AtomicU64,
    pub(super) log_bytes: AtomicU64,
    pub(super) log_syncs: AtomicU64,
    pub(super) flushes: AtomicU64,
    pub(super) flushed_bytes: AtomicU64,
    pub(super) compactions: AtomicU64,
    pub(super) compacted_in: AtomicU64,
    pub(super) compacted_out: AtomicU64,
    /// Written to the history tier by compactions.
    pub(super) past_out: AtomicU64,
    pub(super) stalls: AtomicU64,
    pub(super) reads: ReadCounters,
}

/// How many things are counted of point reads: reads, segments that a filter ruled out, those that it let pass for nothing, slots, slots with another
/// fingerprint, slots with the same fingerprint and another key, blocks.
pub(super) const READS: usize = 7;

/// Counts of point reads, a stripe for some threads each.
///
/// A stripe is added to without locking it: an atomic addition would keep the processor from going on to the next read before this one has
/// all its bytes. Where two threads of one stripe add at the same moment, one of the additions may be lost.
#[derive(Debug, Default)]
pub(crate) struct ReadCounters([Stripe; 16]);

/// Lines of the processor's cache that are no other stripe's.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe([AtomicU64; READS]);

impl ReadCounters {
    /// Adds to the stripe of this thread.
    #[inline]
    pub(super) fn add(&self, counts: &[u64; READS]) {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local!(static STRIPE: usize = NEXT.fetch_add(1, Relaxed));
        let stripe = STRIPE.with(|stripe| *stripe) % self.0.len();
        let Some(Stripe(counters)) = self.0.get(stripe) else { return };
        for (counter, count) in counters.iter().zip(counts).filter(|(_, count)| **count > 0) {
            counter.store(counter.load(Relaxed).wrapping_add(*count), Relaxed);
        }
    }

    fn sums(&self) -> [u64; READS] {
        let mut sums = [0; READS];
        for Stripe(counters) in &self.0 {
            sums.iter_mut().zip(counters).for_each(|(sum, counter)| *sum += counter.load(Relaxed));
        }
        sums
    }
}

/// One level of one keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LevelStats {
    /// The keyspace.
    pub keyspace: String,
    /// The level; 0 holds what flushes left.
    pub level: usize,
    /// Its segments.
    pub segments: u64,
    /// Entries in them, all versions and tombstones.
    pub entries: u64,
    /// Point tombstones among them.
    pub tombstones: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Bytes of the keys and values in them.
    pub raw_bytes: u64,
    /// Different keys in those that carry a perfect-hash index and are open.
    pub indexed_keys: u64,
    /// Bytes of those indexes in the files, filters aside.
    pub index_bytes: u64,
    /// Bytes of their filters in the files.
    pub filter_bytes: u64,
}

/// What holds the bytes of the directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpaceUse {
    /// Segments of the main tree: the newest versions, and what open views need beside them.
    pub live: u64,
    /// Segments of the history tier: versions that were superseded.
    pub history: u64,
    /// Segments of keyspaces that were dropped: views or pins of before still read them.
    pub dropped: u64,
    /// Segments that say which commit happened when.
    pub timeline: u64,
    /// Segments that open views and iterators still read, or that wait to be removed.
    pub garbage: u64,
    /// Logs, reserved room included.
    pub log: u64,
    /// The manifest and the small files.
    pub manifest: u64,
}

/// What a pin holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PinStats {
    /// Its name.
    pub name: String,
    /// The moment that it keeps.
    pub seqno: u64,
    /// Bytes of keys and values in segments that are there only for it (or for a view of the same moment), as flushes and compactions have found.
    pub bytes: u64,
    /// Bytes of files of keyspaces that were dropped since: all who read them hold them together.
    pub dropped_bytes: u64,
}

impl PinStats {
    fn to_json(&self) -> String {
        let Self { name, seqno, bytes, dropped_bytes } = self;
        let name = quoted(name);
        format!("{{\"name\":{name},\"seqno\":{seqno},\"bytes\":{bytes},\"dropped_bytes\":{dropped_bytes}}}")
    }
}

/// What the open views of one moment hold, iterators included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ViewStats {
    /// The moment.
    pub seqno: u64,
    /// How many views of it are open.
    pub views: u64,
    /// Iterators under way in them: each holds the files that it began with, which are among the `garbage` of [`SpaceUse`].
    pub iterators: u64,
    /// Bytes of keys and values in segments that are there only for it (or for a pin of the same moment), as flushes and compactions have found.
    pub bytes: u64,
    /// Bytes of files of keyspaces that were dropped since: all who read them hold them together.
    pub dropped_bytes: u64,
    /// Bytes of files that nothing but views reads any more. Several may hold one file.
    pub file_bytes: u64,
    /// Bytes of memtables that are in segments by now.
    pub memtable_bytes: u64,
}

impl ViewStats {
    fn to_json(&self) -> String {
        let Self { seqno, views, iterators, bytes, dropped_bytes, file_bytes, memtable_bytes } = self;
        format!(
            "{{\"seqno\":{seqno},\"views\":{views},\"iterators\":{iterators},\"bytes\":{bytes},\"dropped_bytes\":{dropped_bytes},\"file_bytes\":{file_bytes},\"memtable_bytes\":{memtable_bytes}}}"
        )
    }

    fn all_bytes(&self) -> u64 {
        self.bytes + self.dropped_bytes + self.file_bytes + self.memtable_bytes
    }
}

/// Moments of views that are told of.
const VIEWS_TOLD_MAX: usize = 64;

/// Numbers about an open database, as of one moment. `Display` prints them for people;
/// [`to_json`](Stats::to_json) and [`to_prometheus`](Stats::to_prometheus) for programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The newest commit.
    pub seqno: u64,
    /// Every commit up to here is known to be on the disk.
    pub synced_seqno: u64,
    /// Batches committed since the database was opened.
    pub commits: u64,
    /// Point reads since then. This and the five counts of what they met may miss a few where many threads read at once.
    pub gets: u64,
    /// Scans begun since then.
    pub scans: u64,
    /// Segments that point reads passed because the filter said so.
    pub filter_rejections: u64,
    /// Segments that the filter let a point read into for nothing.
    pub filter_false_positives: u64,
    /// Slots of perfect-hash indexes that point reads looked at.
    pub slot_probes: u64,
    /// Slots with another fingerprint: the key was not there, and no data was read.
    pub fingerprint_rejections: u64,
    /// Slots with the same fingerprint whose entry had another key.
    pub fingerprint_false_positives: u64,
    /// Data blocks that point reads read anything of.
    pub block_probes: u64,
    /// Bytes appended to logs since then.
    pub log_bytes: u64,
    /// Syncs of logs since then.
    pub log_syncs: u64,
    /// Memtables flushed since then.
    pub flushes: u64,
    /// Bytes that flushes wrote.
    pub flushed_bytes: u64,
    /// Compactions since then.
    pub compactions: u64,
    /// Bytes that compactions read.
    pub compacted_in_bytes: u64,
    /// Bytes that compactions wrote to the main tree.
    pub compacted_out_bytes: u64,
    /// Bytes that compactions wrote to the history tier.
    pub history_out_bytes: u64,
    /// How often a writer was slowed down or stopped because background work was behind.
    pub stalls: u64,
    /// Bytes in memtables.
    pub memtable_bytes: u64,
    /// Memtables that wait for their flush.
    pub sealed_memtables: u64,
    /// Bytes of memory that open segments keep.
    pub index_bytes: u64,
    /// Open views, iterators included.
    pub views: u64,
    /// The oldest seqno that a view reads.
    pub oldest_view: Option<u64>,
    /// What views hold, by moment: of the 64 moments that hold the most, the one that holds the most first.
    pub held_by_views: Vec<ViewStats>,
    /// The pins, by name.
    pub pins: Vec<PinStats>,
    /// Levels that hold anything.
    pub levels: Vec<LevelStats>,
    /// What holds the bytes of the directory.
    pub space: SpaceUse,
    /// Bytes that the file system still has room for; nothing where nobody can tell, as on a simulated machine.
    pub disk_free_bytes: Option<u64>,
    /// What has stopped writes or background work, in words.
    pub trouble: Option<String>,
}

impl Stats {
    /// Bytes written to segments and logs for each byte handed to the log.
    #[must_use]
    pub fn write_amplification(&self) -> f64 {
        let written = self.log_bytes + self.flushed_bytes + self.compacted_out_bytes + self.history_out_bytes;
        ratio(written, self.log_bytes)
    }

    /// Data blocks, filters aside, that a point read has looked at on average.
    #[must_use]
    pub fn blocks_per_get(&self) -> f64 {
        ratio(self.block_probes, self.gets)
    }

    /// Of the absent keys that filters were asked for, how many they let pass: 0.01 is usual.
    #[must_use]
    pub fn filter_false_positive_rate(&self) -> f64 {
        ratio(self.filter_false_positives, self.filter_false_positives + self.filter_rejections)
    }

    /// Of the absent keys that came to a slot, how many had its fingerprint: 1 in 256 is usual.
    #[must_use]
    pub fn fingerprint_false_positive_rate(&self) -> f64 {
        ratio(self.fingerprint_false_positives, self.fingerprint_false_positives + self.fingerprint_rejections)
    }

    /// Name, kind, number and meaning of everything that is always a single number.
    fn numbers(&self) -> [(&'static str, Kind, u64, &'static str); 24] {
        use Kind::{Counter, Gauge};
        [
            ("seqno", Gauge, self.seqno, "The newest commit."),
            ("synced_seqno", Gauge, self.synced_seqno, "Every commit up to here is known to be on the disk."),
            ("commits", Counter, self.commits, "Batches committed since the database was opened."),
            ("gets", Counter, self.gets, "Point reads."),
            ("scans", Counter, self.scans, "Scans begun."),
            (
                "filter_rejections",
                Counter,
                self.filter_rejections,
                "Segments that point reads passed because the filter said so.",
            ),
            (
                "filter_false_positives",
                Counter,
                self.filter_false_positives,
                "Segments that the filter let a point read into for nothing.",
            ),
            ("slot_probes", Counter, self.slot_probes, "Slots of perfect-hash indexes that point reads looked at."),
            ("fingerprint_rejections", Counter, self.fingerprint_rejections, "Slots with another fingerprint."),
            (
                "fingerprint_false_positives",
                Counter,
                self.fingerprint_false_positives,
                "Slots with the same fingerprint whose entry had another key.",
            ),
            ("block_probes", Counter, self.block_probes, "Data blocks that point reads read anything of."),
            ("log_bytes", Counter, self.log_bytes, "Bytes appended to logs."),
            ("log_syncs", Counter, self.log_syncs, "Syncs of logs."),
            ("flushes", Counter, self.flushes, "Memtables flushed."),
            ("flushed_bytes", Counter, self.flushed_bytes, "Bytes that flushes wrote."),
            ("compactions", Counter, self.compactions, "Compactions."),
            ("compacted_in_bytes", Counter, self.compacted_in_bytes, "Bytes that compactions read."),
            (
                "compacted_out_bytes",
                Counter,
                self.compacted_out_bytes,
                "Bytes that compactions wrote to the main tree.",
            ),
            ("history_out_bytes", Counter, self.history_out_bytes, "Bytes that compactions wrote to the history tier."),
            ("stalls", Counter, self.stalls, "How often a writer was slowed down or stopped."),
            ("memtable_bytes", Gauge, self.memtable_bytes, "Bytes in memtables."),
            ("sealed_memtables", Gauge, self.sealed_memtables, "Memtables that wait for their flush."),
            ("index_bytes", Gauge, self.index_bytes, "Bytes of memory that open segments keep."),
            ("views", Gauge, self.views, "Open views, iterators included."),
        ]
    }

    fn causes(&self) -> [(&'static str, u64); 7] {
        let SpaceUse { live, history, dropped, timeline, garbage, log, manifest } = self.space;
        [
            ("live", live),
            ("history", history),
            ("dropped", dropped),
            ("timeline", timeline),
            ("garbage", garbage),
            ("log", log),
            ("manifest", manifest),
        ]
    }

    /// The same as a JSON object; `space` is an object from cause to bytes, whose sum is what the directory occupies.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut fields: Vec<String> =
            self.numbers().iter().map(|(name, _, number, _)| format!("\"{name}\":{number}")).collect();
        for (name, number) in [("disk_free_bytes", self.disk_free_bytes), ("oldest_view", self.oldest_view)] {
            let number = number.map_or_else(|| "null".to_owned(), |number| number.to_string());
            fields.push(format!("\"{name}\":{number}"));
        }
        let trouble = self.trouble.as_deref().map_or_else(|| "null".to_owned(), quoted);
        fields.push(format!("\"trouble\":{trouble}"));
        let space: Vec<String> = self.causes().iter().map(|(cause, bytes)| format!("\"{cause}\":{bytes}")).collect();
        fields.push(format!("\"space\":{{{}}}", space.join(",")));
        let views: Vec<String> = self.held_by_views.iter().map(ViewStats::to_json).collect();
        fields.push(format!("\"held_by_views\":[{}]", views.join(",")));
        let pins: Vec<String> = self.pins.iter().map(PinStats::to_json).collect();
        fields.push(format!("\"pins\":[{}]", pins.join(",")));
        let levels: Vec<String> = self.levels.iter().map(LevelStats::to_json).collect();
        fields.push(format!("\"levels\":[{}]", levels.join(",")));
        format!("{{{}}}", fields.join(","))
    }

    /// The numbers in the text format of Prometheus: counters, whose names end in `_total`, count from the opening of
    /// the database.
    #[must_use]
    pub fn to_prometheus(&self) -> String {
        let mut out = Exposition::default();
        for (name, kind, number, meaning) in self.numbers() {
            out.metric(name, kind, meaning, [(String::new(), number)]);
        }
        let single = |number: Option<u64>| number.map(|number| (String::new(), number));
        out.metric(
            "disk_free_bytes",
            Kind::Gauge,
            "Bytes that the file system has room for.",
            single(self.disk_free_bytes),
        );
        out.metric("oldest_view", Kind::Gauge, "The oldest seqno that a view reads.", single(self.oldest_view));
        let trouble = u64::from(self.trouble.is_some());
        out.metric("trouble", Kind::Gauge, "Whether writes or background work have stopped.", single(Some(trouble)));
        let causes = self.causes().into_iter().map(|(cause, bytes)| (labels(&[("cause", cause)]), bytes));
        out.metric("space_bytes", Kind::Gauge, "Bytes of the directory by what holds them.", causes);
        let of_levels: [OfEach<LevelStats>; 4] = [
            ("level_segments", "Segments of a level of a keyspace.", |level| level.segments),
            ("level_entries", "Entries in them, all versions and tombstones.", |level| level.entries),
            ("level_tombstones", "Point tombstones among them.", |level| level.tombstones),
            ("level_bytes", "Bytes of their files.", |level| level.bytes),
        ];
        for (name, meaning, of) in of_levels {
            let level = |level: &LevelStats| {
                (labels(&[("keyspace", &level.keyspace), ("level", &level.level.to_string())]), of(level))
            };
            out.metric(name, Kind::Gauge, meaning, self.levels.iter().map(level));
        }
        let of_views: [OfEach<ViewStats>; 4] = [
            ("view_dropped_bytes", "Bytes of dropped keyspaces that the views of a moment read.", |view| {
                view.dropped_bytes
            }),
            ("view_bytes", "Bytes of keys and values that are there only for the views of a moment.", |view| {
                view.bytes
            }),
            ("view_file_bytes", "Bytes of files that only views read, by the moment of the views.", |view| {
                view.file_bytes
            }),
            ("view_memtable_bytes", "Bytes of flushed memtables that views of a moment read.", |view| {
                view.memtable_bytes
            }),
        ];
        for (name, meaning, of) in of_views {
            let view = |view: &ViewStats| (labels(&[("seqno", &view.seqno.to_string())]), of(view));
            out.metric(name, Kind::Gauge, meaning, self.held_by_views.iter().map(view));
        }
        let of_pins: [OfEach<PinStats>; 3] = [
            ("pin_dropped_bytes", "Bytes of dropped keyspaces that a pin keeps.", |pin| pin.dropped_bytes),
            ("pin_seqno", "The moment that a pin keeps.", |pin| pin.seqno),
            ("pin_bytes", "Bytes of keys and values that are there only for a pin.", |pin| pin.bytes),
        ];
        for (name, meaning, of) in of_pins {
            out.metric(
                name,
                Kind::Gauge,
                meaning,
                self.pins.iter().map(|pin| (labels(&[("pin", &pin.name)]), of(pin))),
            );
        }
        out.text
    }
}

/// What a number does as time goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It only grows.
    Counter,
    Gauge,
}

/// A metric with a sample of each of several things: its name, its meaning, and its number.
type OfEach<T> = (&'static str, &'static str, fn(&T) -> u64);

/// Metrics in the text format of Prometheus, version 0.0.4.
#[derive(Debug, Default)]
struct Exposition {
    text: String,
}

impl Exposition {
    /// Adds a metric with its samples, each behind its labels; without one it is left out.
    fn metric(&mut self, name: &str, kind: Kind, meaning: &str, samples: impl IntoIterator<Item = (String, u64)>) {
        let (kind, end) = match kind {
            Kind::Counter => ("counter", "_total"),
            Kind::Gauge => ("gauge", ""),
        };
        let name = format!("chronolith_{name}{end}");
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        let about = [format!("# HELP {name} {meaning}\n"), format!("# TYPE {name} {kind}\n")];
        self.text.extend(about);
        self.text.extend(samples.map(|(labels, number)| format!("{name}{labels} {number}\n")));
    }
}

/// Labels as they stand behind the name of a metric. Of a value three characters are escaped and no others, unlike in
/// JSON.
fn labels(pairs: &[(&str, &str)]) -> String {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

impl LevelStats {
    fn to_json(&self) -> String {
        format!(
            "{{\"keyspace\":{},\"level\":{},\"segments\":{},\"entries\":{},\"tombstones\":{},\"bytes\":{},\"raw_bytes\":{},\"indexed_keys\":{},\"index_bytes\":{},\"filter_bytes\":{}}}",
            quoted(&self.keyspace),
            self.level,
            self.segments,
            self.entries,
            self.tombstones,
            self.bytes,
            self.raw_bytes,
            self.indexed_keys,
            self.index_bytes,
            self.filter_bytes
        )
    }

    /// Bytes of the perfect-hash index in the files for each key that it finds, filters aside.
    #[must_use]
    pub fn index_bytes_per_key(&self) -> f64 {
        ratio(self.index_bytes, self.indexed_keys)
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let views = counted(self.views, "view", "views");
        writeln!(f, "seqno {} (on disk {}), {views}", self.seqno, self.synced_seqno)?;
        writeln!(
            f,
            "since open: {}, {}, {}, {}",
            counted(self.commits, "commit", "commits"),
            counted(self.gets, "get", "gets"),
            counted(self.scans, "scan", "scans"),
            counted(self.stalls, "stall", "stalls")
        )?;
        writeln!(
            f,
            "point reads: {:.2} blocks each; filters ruled out {} and let {:.2}% of the absent pass, fingerprints {:.2}%",
            self.blocks_per_get(),
            counted(self.filter_rejections, "segment", "segments"),
            100.0 * self.filter_false_positive_rate(),
            100.0 * self.fingerprint_false_positive_rate()
        )?;
        writeln!(
            f,
            "written: log {}, flushes {}, compactions {}; {:.2} for each byte of the log",
            size(self.log_bytes),
            size(self.flushed_bytes),
            size(self.compacted_out_bytes),
            self.write_amplification()
        )?;
        writeln!(f, "memory: memtables {}, indexes {}", size(self.memtable_bytes), size(self.index_bytes))?;
        for level in &self.levels {
            // What is not open has not told how large its index is.
            let index = match level.indexed_keys {
                0 => String::new(),
                _ => format!(", index {:.2} bytes a key", level.index_bytes_per_key()),
            };
            writeln!(
                f,
                "{} level {}: {}, {}, {} ({:.2} of the raw data){index}",
                level.keyspace,
                level.level,
                counted(level.segments, "segment", "segments"),
                counted(level.entries, "entry", "entries"),
                size(level.bytes),
                ratio(level.bytes, level.raw_bytes),
            )?;
        }
        for view in self.held_by_views.iter().filter(|view| view.all_bytes() > 0) {
            let ViewStats { seqno, views, iterators, bytes, dropped_bytes, file_bytes, memtable_bytes } = view;
            writeln!(
                f,
                "{} at seqno {seqno}, {}: {} in segments, {} of dropped keyspaces, {} in older files, {} in flushed memtables",
                counted(*views, "view", "views"),
                counted(*iterators, "iterator", "iterators"),
                size(*bytes),
                size(*dropped_bytes),
                size(*file_bytes),
                size(*memtable_bytes)
            )?;
        }
        for PinStats { name, seqno, bytes, dropped_bytes } in &self.pins {
            let dropped = if *dropped_bytes > 0 {
                format!(", {} of dropped keyspaces", size(*dropped_bytes))
            } else {
                String::new()
            };
            writeln!(f, "pin {name} at seqno {seqno}: holds {}{dropped}", size(*bytes))?;
        }
        let causes: Vec<String> =
            self.causes().iter().map(|(cause, bytes)| format!("{cause} {}", size(*bytes))).collect();
        let free = self.disk_free_bytes.map_or_else(|| "nobody can tell how much is".to_owned(), size);
        write!(f, "on disk: {}; {free} free", causes.join(", "))?;
        self.trouble.as_ref().map_or(Ok(()), |trouble| write!(f, "\ntrouble: {trouble}"))
    }
}

impl Engine {
    /// Collects the numbers; what the directory cannot tell counts as nothing.
    pub(crate) fn stats(&self) -> Stats {
        if self.is_forked() {
            let trouble = self.check_caller().err().map(|error| error.to_string());
            return Stats { trouble, ..Stats::default() };
        }
        let current = self.current();
        let (views, oldest_view) = {
            let registry = self.registry.lock();
            (registry.count() as u64, registry.oldest())
        };
        let [
            gets,
            filter_rejections,
            filter_false_positives,
            slot_probes,
            fingerprint_rejections,
            fingerprint_false_positives,
            block_probes,
        ] = self.counters.reads.sums();
        let kept = kept_for(&current.version, &self.registry.lock().seqnos());
        let mut stats = Stats {
            seqno: self.visible(),
            synced_seqno: self.syncing.synced(),
            commits: self.counters.commits.load(Relaxed),
            gets,
            scans: self.counters.scans.load(Relaxed),
            filter_rejections,
            filter_false_positives,
            slot_probes,
            fingerprint_rejections,
            fingerprint_false_positives,
            block_probes,
            log_bytes: self.counters.log_bytes.load(Relaxed),
            log_syncs: self.counters.log_syncs.load(Relaxed),
            flushes: self.counters.flushes.load(Relaxed),
            flushed_bytes: self.counters.flushed_bytes.load(Relaxed),
            compactions: self.counters.compactions.load(Relaxed),
            compacted_in_bytes: self.counters.compacted_in.load(Relaxed),
            compacted_out_bytes: self.counters.compacted_out.load(Relaxed),
            history_out_bytes: self.counters.past_out.load(Relaxed),
            stalls: self.counters.stalls.load(Relaxed),
            memtable_bytes: current.memtables(u64::MAX).map(|table| table.bytes()).sum(),
            sealed_memtables: current.sealed.len() as u64,
            index_bytes: current.tables().map(|table| table.memory() as u64).sum(),
            views,
            oldest_view,
            held_by_views: self.held_by_views(&current, &kept),
            pins: pins(&current.version, &kept),
            levels: Vec::new(),
            space: self.space().unwrap_or_default(),
            disk_free_bytes: self.dir.available_space().ok(),
            trouble: self.poisoned.lock().clone().or_else(|| self.work.trouble().map(|error| error.in_full())),
        };
        // Another one may have the name of one that was dropped.
        let alive = |keyspace: &&Arc<KeyspaceVersion>| !keyspace.is_hidden() && keyspace.dropped.is_none();
        for keyspace in current.version.keyspaces.values().filter(alive) {
            for (level, segments) in keyspace.levels.iter().enumerate().filter(|(_, segments)| !segments.is_empty()) {
                let sum = |of: fn(&crate::segment::Finished) -> u64| segments.iter().map(|segment| of(segment)).sum();
                let tables = current.trees.get(&keyspace.id).and_then(|tree| tree.levels.get(level));
                let mut index = (0, 0, 0);
                for (table, numbers) in tables.into_iter().flatten().filter_map(|t| Some((t, t.index_numbers()?))) {
                    index.0 += table.meta.summary.keys;
                    index.1 += numbers.slot_bytes;
                    index.2 += numbers.filter_bytes;
                }
                stats.levels.push(LevelStats {
                    indexed_keys: index.0,
                    index_bytes: index.1,
                    filter_bytes: index.2,
                    keyspace: keyspace.name.clone(),
                    level,
                    segments: segments.len() as u64,
                    entries: sum(|segment| segment.summary.entries),
                    tombstones: sum(|segment| segment.summary.tombstones),
                    bytes: sum(|segment| segment.file_len),
                    raw_bytes: sum(|segment| segment.summary.raw_bytes),
                });
            }
        }
        stats
    }

    /// What views hold beside the files of now.
    fn held_by_views(&self, current: &Arc<SuperVersion>, kept: &HashMap<u64, (u64, u64)>) -> Vec<ViewStats> {
        let holders: Vec<Holder> = self.registry.lock().holders().collect();
        let now: HashSet<u64> = current.tables().map(|table| table.meta.number).collect();
        let logs: HashSet<u64> = current.memtables(u64::MAX).map(|table| table.log()).collect();
        // Many views stand on few different files.
        let mut of_files: HashMap<u64, (u64, u64)> = HashMap::new();
        let mut by_seqno: HashMap<u64, (ViewStats, HashSet<u64>)> = HashMap::new();
        for Holder { seqno, iterators, files } in holders {
            let (view, seen) = by_seqno.entry(seqno).or_default();
            view.seqno = seqno;
            view.views += 1;
            view.iterators += iterators;
            (view.bytes, view.dropped_bytes) = kept.get(&seqno).copied().unwrap_or((0, 0));
            let Some(files) = files.filter(|files| files.generation != current.generation) else { continue };
            if !seen.insert(files.generation) {
                continue;
            }
            let (file_bytes, memtable_bytes) = *of_files.entry(files.generation).or_insert_with(|| {
                let old = files.tables().filter(|table| !now.contains(&table.meta.number));
                let flushed = files.memtables(u64::MAX).filter(|table| !logs.contains(&table.log()));
                (old.map(|table| table.meta.file_len).sum(), flushed.map(|table| table.bytes()).sum())
            });
            view.file_bytes += file_bytes;
            view.memtable_bytes += memtable_bytes;
        }
        let mut views: Vec<ViewStats> = by_seqno.into_values().map(|(view, _)| view).collect();
        views.sort_unstable_by_key(|view| (Reverse(view.all_bytes()), view.seqno));
        views.truncate(VIEWS_TOLD_MAX);
        views
    }

    /// What holds the bytes of the directory, file by file.
    fn space(&self) -> Result<SpaceUse> {
        let mut space = SpaceUse::default();
        let current = self.current();
        let tables = current.tables().map(|table| {
            let summary = &table.meta.summary;
            let gone = || current.trees.get(&summary.keyspace).is_some_and(|tree| tree.dropped);
            let cause = match summary.past {
                _ if summary.keyspace == TIMELINE => 2,
                _ if gone() => 3,
                past => usize::from(past.is_some()),
            };
            (table.meta.number, cause)
        });
        let live: HashMap<u64, usize> = tables.collect();
        let list = |sub: &str| self.dir.list(sub).at("list", || self.dir.path().join(sub));
        // A file may go while it is looked at.
        let len = |name: &str| self.dir.file_len(name).unwrap_or(0);
        for name in list(name::SEGMENTS)? {
            let Some(number) = name::parse(&name, ".seg") else { continue };
            let bytes = len(&name::segment(number));
            let cause = match live.get(&number) {
                Some(0) => &mut space.live,
                Some(1) => &mut space.history,
                Some(2) => &mut space.timeline,
                Some(_) => &mut space.dropped,
                None => &mut space.garbage,
            };
            *cause += bytes;
        }
        for number in list(name::LOGS)?.iter().filter_map(|name| name::parse(name, ".wal")) {
            space.log += len(&name::log(number));
        }
        for name in list("")? {
            if ![name::LOGS, name::SEGMENTS].contains(&name.as_str()) {
                space.manifest += len(&name);
            }
        }
        Ok(space)
    }
}

/// What is kept only for those who read a seqno, in bytes, as far as the jobs have told; and of the dropped keyspaces that they read.
fn kept_for(version: &Version, registered: &[u64]) -> HashMap<u64, (u64, u64)> {
    let mut kept: HashMap<u64, (u64, u64)> = HashMap::new();
    for (seqno, bytes) in version.held.values().flatten() {
        kept.entry(*seqno).or_default().0 += bytes;
    }
    for keyspace in version.keyspaces.values() {
        let Some(dropped) = keyspace.dropped else { continue };
        let bytes: u64 = keyspace.segments().map(|segment| segment.file_len).sum();
        for reader in readers_of(keyspace.born, dropped, registered) {
            kept.entry(*reader).or_default().1 += bytes;
        }
    }
    kept
}

fn pins(version: &Version, kept: &HashMap<u64, (u64, u64)>) -> Vec<PinStats> {
    let pin = |(name, PinnedAt { seqno, .. }): (&String, &PinnedAt)| {
        let (bytes, dropped_bytes) = kept.get(seqno).copied().unwrap_or((0, 0));
        PinStats { name: name.clone(), seqno: *seqno, bytes, dropped_bytes }
    };
    version.pins.iter().map(pin).collect()
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Bytes in the unit that reads best.
#[expect(clippy::cast_precision_loss, reason = "a size for people")]
fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

/// A number of things, one of them in the singular.
pub(super) fn counted(number: u64, one: &str, several: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { several })
}

/// A text as a string of JSON.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if u32::from(c) < 0x20 => out.extend(format!("\\u{:04x}", u32::from(c)).chars()),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
