//! Numbers about everything: counted always, collected on request.

use std::{
    fmt,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use super::Engine;
use crate::{
    base::{IoContext, Result, TIMELINE},
    format::name,
    manifest::{PinnedAt, Version},
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
}

impl PinStats {
    fn to_json(&self) -> String {
        format!("{{\"name\":{},\"seqno\":{},\"bytes\":{}}}", quoted(&self.name), self.seqno, self.bytes)
    }
}

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
    /// The pins, by name.
    pub pins: Vec<PinStats>,
    /// Levels that hold anything.
    pub levels: Vec<LevelStats>,
    /// What holds the bytes of the directory.
    pub space: SpaceUse,
    /// Bytes that the file system still has room for.
    pub disk_free_bytes: u64,
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

    /// One name and number for everything that is a single number.
    fn numbers(&self) -> [(&'static str, u64); 25] {
        [
            ("seqno", self.seqno),
            ("synced_seqno", self.synced_seqno),
            ("commits", self.commits),
            ("gets", self.gets),
            ("scans", self.scans),
            ("filter_rejections", self.filter_rejections),
            ("filter_false_positives", self.filter_false_positives),
            ("slot_probes", self.slot_probes),
            ("fingerprint_rejections", self.fingerprint_rejections),
            ("fingerprint_false_positives", self.fingerprint_false_positives),
            ("block_probes", self.block_probes),
            ("log_bytes", self.log_bytes),
            ("log_syncs", self.log_syncs),
            ("flushes", self.flushes),
            ("flushed_bytes", self.flushed_bytes),
            ("compactions", self.compactions),
            ("compacted_in_bytes", self.compacted_in_bytes),
            ("compacted_out_bytes", self.compacted_out_bytes),
            ("history_out_bytes", self.history_out_bytes),
            ("stalls", self.stalls),
            ("memtable_bytes", self.memtable_bytes),
            ("sealed_memtables", self.sealed_memtables),
            ("index_bytes", self.index_bytes),
            ("views", self.views),
            ("disk_free_bytes", self.disk_free_bytes),
        ]
    }

    fn causes(&self) -> [(&'static str, u64); 6] {
        let SpaceUse { live, history, timeline, garbage, log, manifest } = self.space;
        [
            ("live", live),
            ("history", history),
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
            self.numbers().iter().map(|(name, number)| format!("\"{name}\":{number}")).collect();
        let oldest = self.oldest_view.map_or_else(|| "null".to_owned(), |seqno| seqno.to_string());
        fields.push(format!("\"oldest_view\":{oldest}"));
        let trouble = self.trouble.as_deref().map_or_else(|| "null".to_owned(), quoted);
        fields.push(format!("\"trouble\":{trouble}"));
        let space: Vec<String> = self.causes().iter().map(|(cause, bytes)| format!("\"{cause}\":{bytes}")).collect();
        fields.push(format!("\"space\":{{{}}}", space.join(",")));
        let pins: Vec<String> = self.pins.iter().map(PinStats::to_json).collect();
        fields.push(format!("\"pins\":[{}]", pins.join(",")));
        let levels: Vec<String> = self.levels.iter().map(LevelStats::to_json).collect();
        fields.push(format!("\"levels\":[{}]", levels.join(",")));
        format!("{{{}}}", fields.join(","))
    }

    /// The main numbers in the text format of Prometheus, all as untyped metrics.
    #[must_use]
    pub fn to_prometheus(&self) -> String {
        let mut lines = Vec::new();
        for (name, number) in self.numbers() {
            lines.push(format!("chronolith_{name} {number}"));
        }
        for (cause, bytes) in self.causes() {
            lines.push(format!("chronolith_space_bytes{{cause=\"{cause}\"}} {bytes}"));
        }
        for level in &self.levels {
            let labels = format!("keyspace={},level=\"{}\"", quoted(&level.keyspace), level.level);
            lines.push(format!("chronolith_level_bytes{{{labels}}} {}", level.bytes));
            lines.push(format!("chronolith_level_entries{{{labels}}} {}", level.entries));
        }
        lines.push(String::new());
        lines.join("\n")
    }
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
        writeln!(f, "seqno {} (on disk {}), {} views", self.seqno, self.synced_seqno, self.views)?;
        writeln!(
            f,
            "since open: {} commits, {} gets, {} scans, {} stalls",
            self.commits, self.gets, self.scans, self.stalls
        )?;
        writeln!(
            f,
            "point reads: {:.2} blocks each; filters ruled out {} segments and let {:.2}% of the absent pass, fingerprints {:.2}%",
            self.blocks_per_get(),
            self.filter_rejections,
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
            writeln!(
                f,
                "{} level {}: {} segments, {} entries, {} ({:.2} of the raw data), index {:.2} bytes a key",
                level.keyspace,
                level.level,
                level.segments,
                level.entries,
                size(level.bytes),
                ratio(level.bytes, level.raw_bytes),
                level.index_bytes_per_key()
            )?;
        }
        for PinStats { name, seqno, bytes } in &self.pins {
            writeln!(f, "pin {name} at seqno {seqno}: holds {}", size(*bytes))?;
        }
        let causes: Vec<String> =
            self.causes().iter().map(|(cause, bytes)| format!("{cause} {}", size(*bytes))).collect();
        write!(f, "on disk: {}; {} free", causes.join(", "), size(self.disk_free_bytes))?;
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
            pins: pins(&current.version),
            levels: Vec::new(),
            space: self.space().unwrap_or_default(),
            disk_free_bytes: self.dir.available_space().unwrap_or(0),
            trouble: self.poisoned.lock().clone().or_else(|| self.work.trouble().map(|error| error.in_full())),
        };
        for keyspace in current.version.keyspaces.values().filter(|keyspace| !keyspace.is_hidden()) {
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

    /// What holds the bytes of the directory, file by file.
    fn space(&self) -> Result<SpaceUse> {
        let mut space = SpaceUse::default();
        let current = self.current();
        let tables = current.tables().map(|table| {
            let summary = &table.meta.summary;
            let cause = if summary.keyspace == TIMELINE { 2 } else { usize::from(summary.past.is_some()) };
            (table.meta.number, cause)
        });
        let live: std::collections::HashMap<u64, usize> = tables.collect();
        let list = |sub: &str| self.dir.list(sub).at("list", || self.dir.path().join(sub));
        // A file may go while it is looked at.
        let len = |name: &str| self.dir.open(name).and_then(|file| file.len()).unwrap_or(0);
        for name in list(name::SEGMENTS)? {
            let Some(number) = name::parse(&name, ".seg") else { continue };
            let bytes = len(&name::segment(number));
            let cause = match live.get(&number) {
                Some(0) => &mut space.live,
                Some(1) => &mut space.history,
                Some(_) => &mut space.timeline,
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

/// What each pin holds, as far as the jobs have told.
fn pins(version: &Version) -> Vec<PinStats> {
    let held =
        |seqno: u64| version.held.values().flatten().filter(|(by, _)| *by == seqno).map(|(_, bytes)| bytes).sum();
    let pin = |(name, PinnedAt { seqno, .. }): (&String, &PinnedAt)| PinStats {
        name: name.clone(),
        seqno: *seqno,
        bytes: held(*seqno),
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

/// A name as a quoted string, for both formats.
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
