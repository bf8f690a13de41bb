//! Statistics as text: for people, as JSON, and for Prometheus.

use std::fmt;

use super::report::{ArmStats, ChunkStats, LevelStats, PinStats, SpaceUse, Stats, TrialStats, ViewStats, ratio};

impl Stats {
    /// Returns name, kind, number and meaning of everything that is always a single number.
    fn numbers(&self) -> [(&'static str, Kind, u64, &'static str); 47] {
        use Kind::{Counter, Gauge};
        [
            ("seqno", Gauge, self.seqno.into(), "Seqno of the newest commit."),
            ("synced_seqno", Gauge, self.synced_seqno.into(), "Seqno up to which commits are known to be on disk."),
            ("commits", Counter, self.commits, "Batches committed since the database was opened."),
            ("gets", Counter, self.gets, "Point reads."),
            ("scans", Counter, self.scans, "Scans begun."),
            ("filter_rejections", Counter, self.filter_rejections, "Segments that filters ruled out for point reads."),
            (
                "filter_false_positives",
                Counter,
                self.filter_false_positives,
                "Segments that filters let point reads into for nothing.",
            ),
            ("slot_probes", Counter, self.slot_probes, "Slots of perfect-hash indexes that point reads probed."),
            ("fingerprint_rejections", Counter, self.fingerprint_rejections, "Slots whose fingerprint did not match."),
            (
                "fingerprint_false_positives",
                Counter,
                self.fingerprint_false_positives,
                "Slots with a matching fingerprint whose entry had another key.",
            ),
            ("block_probes", Counter, self.block_probes, "Data blocks that point reads read, in whole or in part."),
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
            ("stalls", Counter, self.stalls, "Times a writer was slowed down or stopped."),
            ("memtable_bytes", Gauge, self.memtable_bytes, "Bytes in memtables."),
            ("sealed_memtables", Gauge, self.sealed_memtables, "Memtables waiting to be flushed."),
            ("index_bytes", Gauge, self.index_bytes, "Bytes of memory held by open segments."),
            ("chunk_values", Counter, self.chunks.values, "Large values written."),
            ("chunk_value_bytes", Counter, self.chunks.value_bytes, "Bytes of large values written."),
            ("new_chunks", Counter, self.chunks.new_chunks, "Chunks and nodes that were new."),
            ("new_chunk_bytes", Counter, self.chunks.new_bytes, "Bytes of chunks and nodes that were new."),
            (
                "new_chunk_stored_bytes",
                Counter,
                self.chunks.stored_bytes,
                "Bytes on disk of chunks and nodes that were new.",
            ),
            ("known_chunks", Counter, self.chunks.known_chunks, "Chunks that were stored already."),
            ("known_chunk_bytes", Counter, self.chunks.known_bytes, "Bytes of chunks that were stored already."),
            ("hole_bytes", Counter, self.chunks.hole_bytes, "Bytes of zeros in large values."),
            ("copied_chunk_bytes", Counter, self.chunks.copied_bytes, "Bytes of chunks copied from pack to pack."),
            ("chunk_cache_hits", Counter, self.chunks.cache_hits, "Chunks found in the cache."),
            ("chunk_cache_misses", Counter, self.chunks.cache_misses, "Chunks decoded into the cache."),
            ("values_read_aside", Counter, self.chunks.read_aside, "Reads of large values that bypassed the cache."),
            ("chunk_cache_bytes", Gauge, self.chunks.cache_bytes, "Bytes in the cache of chunks."),
            ("packs", Gauge, self.chunks.packs, "Flushed packs."),
            ("pack_chunks", Gauge, self.chunks.pack_chunks, "Chunks and nodes in flushed packs."),
            (
                "pack_raw_bytes",
                Gauge,
                self.chunks.pack_raw_bytes,
                "Bytes of chunks and nodes in flushed packs, before compression.",
            ),
            (
                "pack_stored_bytes",
                Gauge,
                self.chunks.pack_stored_bytes,
                "Bytes on disk of chunks and nodes in flushed packs.",
            ),
            ("unflushed_chunks", Gauge, self.chunks.unflushed_chunks, "Chunks and nodes that are not flushed yet."),
            (
                "live_chunk_bytes",
                Gauge,
                self.chunks.live_bytes,
                "Bytes in packs that the last collection found needed.",
            ),
            (
                "dead_chunk_bytes",
                Gauge,
                self.chunks.dead_bytes,
                "Bytes in packs that nothing needed and that the last collection left.",
            ),
            (
                "dropped_value_bytes",
                Gauge,
                self.chunks.dropped_bytes,
                "Bytes of large values dropped since the last collection.",
            ),
            ("chunk_writers", Gauge, self.chunks.writers, "Streams, staged values and batches that keep chunks."),
            ("condemned_packs", Gauge, self.chunks.condemned_packs, "Packs that a collection is about to let go."),
            ("views", Gauge, self.views, "Open views, iterators included."),
        ]
    }

    fn causes(&self) -> [(&'static str, u64); 9] {
        let SpaceUse { live, history, dropped, timeline, chunks, places, garbage, log, manifest } = self.space;
        [
            ("live", live),
            ("history", history),
            ("dropped", dropped),
            ("timeline", timeline),
            ("chunks", chunks),
            ("places", places),
            ("garbage", garbage),
            ("log", log),
            ("manifest", manifest),
        ]
    }

    /// Formats the statistics as a JSON object. In it, `space` is an object from cause to bytes, whose sum is the size
    /// of the directory.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut fields: Vec<String> =
            self.numbers().iter().map(|(name, _, number, _)| format!("\"{name}\":{number}")).collect();
        for (name, number) in
            [("disk_free_bytes", self.disk_free_bytes), ("oldest_view", self.oldest_view.map(u64::from))]
        {
            let number = number.map_or_else(|| "null".to_owned(), |number| number.to_string());
            fields.push(format!("\"{name}\":{number}"));
        }
        let lengths = self.chunks.lengths.map(|count| count.to_string());
        fields.push(format!("\"new_chunk_lengths\":[{}]", lengths.join(",")));
        let trials: Vec<String> = self.trials.iter().map(TrialStats::to_json).collect();
        fields.push(format!("\"trials\":[{}]", trials.join(",")));
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

    /// Formats the numbers as Prometheus text: counters, whose names end in `_total`, count from the opening of the
    /// database.
    #[must_use]
    pub fn to_prometheus(&self) -> String {
        let mut out = Exposition::default();
        for (name, kind, number, meaning) in self.numbers() {
            out.metric(name, kind, meaning, [(String::new(), number)]);
        }
        let single = |number: Option<u64>| number.map(|number| (String::new(), number));
        out.metric("disk_free_bytes", Kind::Gauge, "Free bytes of the file system.", single(self.disk_free_bytes));
        out.metric(
            "oldest_view",
            Kind::Gauge,
            "Oldest seqno that a view reads.",
            single(self.oldest_view.map(u64::from)),
        );
        let trouble = u64::from(self.trouble.is_some());
        out.metric("trouble", Kind::Gauge, "Whether writes or background work have stopped.", single(Some(trouble)));
        let causes = self.causes().into_iter().map(|(cause, bytes)| (labels(&[("cause", cause)]), bytes));
        out.metric("space_bytes", Kind::Gauge, "Bytes of the directory by what holds them.", causes);
        let of_arms: [OfEach<ArmStats>; 4] = [
            ("trial_values", "Large values that a side of a trial has written.", |arm| arm.values),
            ("trial_value_bytes", "Bytes of large values that a side of a trial has written.", |arm| arm.value_bytes),
            ("trial_stored_bytes", "Bytes that large values of a side of a trial added to packs.", |arm| {
                arm.stored_bytes
            }),
            ("trial_micros", "Microseconds that storing large values of a side of a trial took.", |arm| {
                u64::try_from(arm.time.as_micros()).unwrap_or(u64::MAX)
            }),
        ];
        for (name, meaning, of) in of_arms {
            let arms = self.trials.iter().flat_map(|TrialStats { keyspace, control, trial }| {
                [("control", control), ("trial", trial)].map(|(side, arm)| {
                    let chunking = arm.chunking.to_string();
                    (labels(&[("keyspace", keyspace), ("side", side), ("chunking", &chunking)]), of(arm))
                })
            });
            out.metric(name, Kind::Counter, meaning, arms);
        }
        let of_levels: [OfEach<LevelStats>; 4] = [
            ("level_segments", "Segments of a level of a keyspace.", |level| level.segments),
            ("level_entries", "Entries of a level of a keyspace, all versions and tombstones included.", |level| {
                level.entries
            }),
            ("level_tombstones", "Point tombstones of a level of a keyspace.", |level| level.tombstones),
            ("level_bytes", "Bytes of the files of a level of a keyspace.", |level| level.bytes),
        ];
        for (name, meaning, of) in of_levels {
            let level = |level: &LevelStats| {
                (labels(&[("keyspace", &level.keyspace), ("level", &level.level.to_string())]), of(level))
            };
            out.metric(name, Kind::Gauge, meaning, self.levels.iter().map(level));
        }
        let of_views: [OfEach<ViewStats>; 4] = [
            ("view_dropped_bytes", "Bytes of dropped keyspaces that views of a moment read.", |view| {
                view.dropped_bytes
            }),
            ("view_bytes", "Bytes of keys and values kept only for the views of a moment.", |view| view.bytes),
            ("view_file_bytes", "Bytes of files that only views of a moment read.", |view| view.file_bytes),
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
            ("pin_seqno", "Seqno that a pin keeps.", |pin| pin.seqno.into()),
            ("pin_bytes", "Bytes of keys and values kept only for a pin.", |pin| pin.bytes),
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

impl TrialStats {
    fn to_json(&self) -> String {
        let Self { keyspace, control, trial } = self;
        format!("{{\"keyspace\":{},\"control\":{},\"trial\":{}}}", quoted(keyspace), control.to_json(), trial.to_json())
    }
}

impl ArmStats {
    fn to_json(self) -> String {
        let Self { chunking, values, value_bytes, chunks, new_chunks, new_bytes, stored_bytes, time } = self;
        let (chunking, micros) = (quoted(&chunking.to_string()), time.as_micros());
        format!(
            "{{\"chunking\":{chunking},\"values\":{values},\"value_bytes\":{value_bytes},\"chunks\":{chunks},\"new_chunks\":{new_chunks},\"new_bytes\":{new_bytes},\"stored_bytes\":{stored_bytes},\"micros\":{micros}}}"
        )
    }
}

impl fmt::Display for ArmStats {
    /// Prints what it has saved, and at what rate it took values in.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { chunking, values, value_bytes, .. } = self;
        let (stored, dedup) = (self.stored_ratio(), self.dedup_ratio());
        let (values, bytes) = (counted(*values, "value", "values"), size(*value_bytes));
        let rate = self.bytes_per_second() / 1_048_576.0;
        write!(f, "{chunking}: {values} of {bytes}, stored {stored:.2} to 1, dedup {dedup:.2}, {rate:.0} MiB/s")
    }
}

impl PinStats {
    fn to_json(&self) -> String {
        let Self { name, seqno, bytes, dropped_bytes } = self;
        let name = quoted(name);
        format!("{{\"name\":{name},\"seqno\":{seqno},\"bytes\":{bytes},\"dropped_bytes\":{dropped_bytes}}}")
    }
}

impl ViewStats {
    fn to_json(&self) -> String {
        let Self { seqno, views, iterators, bytes, dropped_bytes, file_bytes, memtable_bytes } = self;
        format!(
            "{{\"seqno\":{seqno},\"views\":{views},\"iterators\":{iterators},\"bytes\":{bytes},\"dropped_bytes\":{dropped_bytes},\"file_bytes\":{file_bytes},\"memtable_bytes\":{memtable_bytes}}}"
        )
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
}

/// Kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Only grows.
    Counter,
    Gauge,
}

/// A metric with one sample for each of several things: name, meaning, and number.
type OfEach<T> = (&'static str, &'static str, fn(&T) -> u64);

/// Metrics in the text format of Prometheus, version 0.0.4.
#[derive(Debug, Default)]
struct Exposition {
    text: String,
}

impl Exposition {
    /// Adds a metric with its samples, each behind its labels; leaves it out if there are none.
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

/// Formats labels as they follow the name of a metric. Unlike in JSON, only three characters are escaped in a value.
fn labels(pairs: &[(&str, &str)]) -> String {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    format!("{{{}}}", pairs.join(","))
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
            "point reads: {:.2} blocks each; filters ruled out {}; false positives: filters {:.2}%, fingerprints {:.2}%",
            self.blocks_per_get(),
            counted(self.filter_rejections, "segment", "segments"),
            100.0 * self.filter_false_positive_rate(),
            100.0 * self.fingerprint_false_positive_rate()
        )?;
        writeln!(
            f,
            "written: log {}, flushes {}, compactions {}; write amplification {:.2}",
            size(self.log_bytes),
            size(self.flushed_bytes),
            size(self.compacted_out_bytes),
            self.write_amplification()
        )?;
        writeln!(f, "memory: memtables {}, indexes {}", size(self.memtable_bytes), size(self.index_bytes))?;
        let ChunkStats { values, value_bytes, packs, pack_raw_bytes, pack_stored_bytes, .. } = self.chunks;
        if values > 0 || packs > 0 {
            writeln!(
                f,
                "large values: {} of {}, dedup {:.2}, compression {:.2}; {} with {} in {}",
                counted(values, "value", "values"),
                size(value_bytes),
                self.chunks.dedup_ratio(),
                self.chunks.compression_ratio(),
                counted(packs, "pack", "packs"),
                size(pack_raw_bytes),
                size(pack_stored_bytes),
            )?;
        }
        for TrialStats { keyspace, control, trial } in &self.trials {
            writeln!(f, "{keyspace}: control {control}; trial {trial}")?;
        }
        for level in &self.levels {
            // The index size of segments that are not open is unknown.
            let index = match level.indexed_keys {
                0 => String::new(),
                _ => format!(", index {:.2} bytes a key", level.index_bytes_per_key()),
            };
            writeln!(
                f,
                "{} level {}: {}, {}, {} ({:.2} × the raw data){index}",
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
        let free = self.disk_free_bytes.map_or_else(|| "an unknown amount".to_owned(), size);
        write!(f, "on disk: {}; {free} free", causes.join(", "))?;
        self.trouble.as_ref().map_or(Ok(()), |trouble| write!(f, "\ntrouble: {trouble}"))
    }
}

/// Formats bytes in the unit that reads best.
#[expect(clippy::cast_precision_loss, reason = "a size for people")]
fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

/// Formats a count and its noun: singular for one.
pub(in crate::engine) fn counted(number: u64, one: &str, several: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { several })
}

/// Quotes a text as a JSON string.
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
