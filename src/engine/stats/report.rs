//! Statistics as plain data, with the ratios derived from them.

use std::time::Duration;

use crate::{base::Seqno, chunk::cut::Chunking};

/// One level of one keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LevelStats {
    /// Name of the keyspace.
    pub keyspace: String,
    /// Level; 0 holds the output of flushes.
    pub level: usize,
    /// Number of segments.
    pub segments: u64,
    /// Entries in the segments, all versions and tombstones included.
    pub entries: u64,
    /// Point tombstones among the entries.
    pub tombstones: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Bytes of the keys and values.
    pub raw_bytes: u64,
    /// Different keys in open segments that carry a perfect-hash index.
    pub indexed_keys: u64,
    /// Bytes of those indexes in the files, without filters.
    pub index_bytes: u64,
    /// Bytes of their filters in the files.
    pub filter_bytes: u64,
}

impl LevelStats {
    /// Returns the bytes of the perfect-hash index in the files for each key that it finds, without filters.
    #[must_use]
    pub fn index_bytes_per_key(&self) -> f64 {
        ratio(self.index_bytes, self.indexed_keys)
    }
}

/// Bytes of the directory, by what holds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpaceUse {
    /// Segments of the main tree: the newest versions, and older ones that open views need.
    pub live: u64,
    /// Segments of the history tier: versions that were superseded.
    pub history: u64,
    /// Segments of dropped keyspaces that earlier views or pins still read.
    pub dropped: u64,
    /// Segments of the timeline, which records the time of each commit.
    pub timeline: u64,
    /// Packs: the chunks of large values.
    pub chunks: u64,
    /// Segments that say where each chunk is.
    pub places: u64,
    /// Replaced segments and packs that open views and iterators still read, or that wait to be removed.
    pub garbage: u64,
    /// Logs, reserved room included.
    pub log: u64,
    /// Manifest and small files.
    pub manifest: u64,
}

/// Large values since the database was opened, and the packs that hold them now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChunkStats {
    /// Large values written since then, and those that were cut anew.
    pub values: u64,
    /// Bytes of them.
    pub value_bytes: u64,
    /// Chunks and nodes that were new and were stored.
    pub new_chunks: u64,
    /// Bytes of those.
    pub new_bytes: u64,
    /// Bytes of those on disk, compressed where that pays.
    pub stored_bytes: u64,
    /// Chunks that were stored already.
    pub known_chunks: u64,
    /// Bytes of chunks that were stored already.
    pub known_bytes: u64,
    /// Bytes of zeros, which are never stored.
    pub hole_bytes: u64,
    /// New chunks by length: up to 1 KiB, 2 KiB, 4 KiB, and so on up to 1 MiB.
    pub lengths: [u64; 11],
    /// Bytes of chunks that flushes after a crash and compactions have copied from pack to pack.
    pub copied_bytes: u64,
    /// Chunks that reads found decoded in the cache.
    pub cache_hits: u64,
    /// Chunks that reads decoded into the cache.
    pub cache_misses: u64,
    /// Reads of values too large for the cache, which bypassed it.
    pub read_aside: u64,
    /// Bytes in the cache.
    pub cache_bytes: u64,
    /// Flushed packs.
    pub packs: u64,
    /// Chunks and nodes in them.
    pub pack_chunks: u64,
    /// Bytes of those chunks, before compression.
    pub pack_raw_bytes: u64,
    /// Bytes of those chunks on disk.
    pub pack_stored_bytes: u64,
    /// Chunks and nodes that are not flushed yet.
    pub unflushed_chunks: u64,
    /// Bytes in flushed packs that the last collection since the database was opened found needed; 0 before the first.
    pub live_bytes: u64,
    /// Bytes that nothing needed and that it left, for being less than a quarter of their pack.
    pub dead_bytes: u64,
    /// Bytes of large values that flushes and compactions have dropped since then. Others may share their chunks.
    pub dropped_bytes: u64,
    /// Open [`ValueWriter`](crate::ValueWriter)s, [`StagedValue`](crate::StagedValue)s and large values in uncommitted
    /// batches: what they refer to stays.
    pub writers: u64,
    /// Packs that a collection is about to let go, or that stay because the outcome of its edit is not known.
    pub condemned_packs: u64,
}

impl ChunkStats {
    /// Returns the bytes of large values written for each byte that was new: 1 if nothing repeats or nothing was
    /// written, infinite if nothing was new.
    #[must_use]
    pub fn dedup_ratio(&self) -> f64 {
        saved(self.value_bytes, self.new_bytes)
    }

    /// Returns the bytes of new chunks for each byte of them on disk; 0 if nothing was new.
    #[must_use]
    pub fn compression_ratio(&self) -> f64 {
        ratio(self.new_bytes, self.stored_bytes)
    }
}

/// What one side of a trial has written since the database was opened, or the trial was begun or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArmStats {
    /// How it cuts values.
    pub chunking: Chunking,
    /// Large values written.
    pub values: u64,
    /// Bytes of them.
    pub value_bytes: u64,
    /// Chunks of them, stretches of zeros not counted.
    pub chunks: u64,
    /// Chunks that were not stored before.
    pub new_chunks: u64,
    /// Bytes of those, before compression.
    pub new_bytes: u64,
    /// Bytes that the values added to packs: new chunks, compressed, and the nodes that list them.
    pub stored_bytes: u64,
    /// Time that it took to cut, hash, look up, compress and append. Values written by several threads at once add up.
    pub time: Duration,
}

impl ArmStats {
    /// Returns the bytes of values for each byte that they added to packs: what deduplication and compression save
    /// together. 1 if nothing was written, infinite if nothing was added.
    #[must_use]
    pub fn stored_ratio(&self) -> f64 {
        saved(self.value_bytes, self.stored_bytes)
    }

    /// Returns the bytes of values for each byte that was new: what deduplication saves alone. 1 if nothing was
    /// written, infinite if nothing was new.
    #[must_use]
    pub fn dedup_ratio(&self) -> f64 {
        saved(self.value_bytes, self.new_bytes)
    }

    /// Returns the bytes of values that it took in for each second of its time; 0 if nothing was written.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    pub fn bytes_per_second(&self) -> f64 {
        match self.time.as_secs_f64() {
            0.0 => 0.0,
            seconds => self.value_bytes as f64 / seconds,
        }
    }
}

/// Two chunkings compared in one keyspace: see [`Chunking::trial`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TrialStats {
    /// Name of the keyspace.
    pub keyspace: String,
    /// Keys that are not in the trial.
    pub control: ArmStats,
    /// The share of the keys that is.
    pub trial: ArmStats,
}

/// Space held by a pin.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PinStats {
    /// Name of the pin.
    pub name: String,
    /// Seqno that it keeps readable.
    pub seqno: Seqno,
    /// Bytes of keys and values kept only for it (or for a view of the same moment), as flushes and compactions have
    /// recorded; large values in full, although others may share their chunks.
    pub bytes: u64,
    /// Bytes of files of keyspaces dropped since, counted in full for each view or pin that reads them.
    pub dropped_bytes: u64,
}

/// Space held by the open views of one moment, iterators included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ViewStats {
    /// Seqno of the moment.
    pub seqno: Seqno,
    /// Number of open views.
    pub views: u64,
    /// Iterators under way in them. Each holds the files it started with, which are among the `garbage` of [`SpaceUse`]
    /// once they are replaced.
    pub iterators: u64,
    /// Bytes of keys and values kept only for it (or for a pin of the same moment), as flushes and compactions have
    /// recorded; large values in full, although others may share their chunks.
    pub bytes: u64,
    /// Bytes of files of keyspaces dropped since, counted in full for each view or pin that reads them.
    pub dropped_bytes: u64,
    /// Bytes of files that only views still read. Several may hold one file.
    pub file_bytes: u64,
    /// Bytes of memtables that have been flushed since.
    pub memtable_bytes: u64,
}

impl ViewStats {
    /// Returns the sum of what they hold.
    pub(super) fn all_bytes(&self) -> u64 {
        self.bytes + self.dropped_bytes + self.file_bytes + self.memtable_bytes
    }
}

/// Statistics of an open database, as of one moment. `Display` prints them for people; [`to_json`](Stats::to_json) and
/// [`to_prometheus`](Stats::to_prometheus) for programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Seqno of the newest commit.
    pub seqno: Seqno,
    /// Seqno up to which every commit is known to be on the disk.
    pub synced_seqno: Seqno,
    /// Batches committed since the database was opened.
    pub commits: u64,
    /// Point reads since then. This and the six counts of what they met may miss a few where many threads read at once.
    pub gets: u64,
    /// Scans begun since then.
    pub scans: u64,
    /// Segments that filters ruled out for point reads.
    pub filter_rejections: u64,
    /// Segments that filters let point reads into for nothing.
    pub filter_false_positives: u64,
    /// Slots of perfect-hash indexes that point reads probed.
    pub slot_probes: u64,
    /// Slots whose fingerprint did not match: the key was absent, and no data was read.
    pub fingerprint_rejections: u64,
    /// Slots with a matching fingerprint whose entry had another key.
    pub fingerprint_false_positives: u64,
    /// Data blocks that point reads read, in whole or in part.
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
    /// Times a writer was slowed down or stopped because background work was behind.
    pub stalls: u64,
    /// Bytes in memtables.
    pub memtable_bytes: u64,
    /// Memtables waiting to be flushed.
    pub sealed_memtables: u64,
    /// Bytes of memory held by open segments.
    pub index_bytes: u64,
    /// Large values: what was written, stored and found again.
    pub chunks: ChunkStats,
    /// Trials of another chunking in which anything was written, by keyspace.
    pub trials: Vec<TrialStats>,
    /// Open views, iterators included.
    pub views: u64,
    /// Oldest seqno that a view reads.
    pub oldest_view: Option<Seqno>,
    /// Space held by views, by moment: the 64 moments that hold the most, largest first.
    pub held_by_views: Vec<ViewStats>,
    /// Pins, by name.
    pub pins: Vec<PinStats>,
    /// Levels that are not empty.
    pub levels: Vec<LevelStats>,
    /// Bytes of the directory, by what holds them.
    pub space: SpaceUse,
    /// Free bytes of the file system; `None` if that is unknown, as on a simulated machine.
    pub disk_free_bytes: Option<u64>,
    /// Reason why writes or background work have stopped, in words.
    pub trouble: Option<String>,
}

impl Stats {
    /// Returns the bytes written to files for each byte that commits appended to logs and large values to packs.
    #[must_use]
    pub fn write_amplification(&self) -> f64 {
        let appended = self.log_bytes + self.chunks.stored_bytes;
        let again = self.flushed_bytes + self.compacted_out_bytes + self.history_out_bytes + self.chunks.copied_bytes;
        ratio(appended + again, appended)
    }

    /// Returns the average number of data blocks that a point read has read, without filters.
    #[must_use]
    pub fn blocks_per_get(&self) -> f64 {
        ratio(self.block_probes, self.gets)
    }

    /// Returns the share of absent keys that filters let pass: 0.01 is usual.
    #[must_use]
    pub fn filter_false_positive_rate(&self) -> f64 {
        ratio(self.filter_false_positives, self.filter_false_positives + self.filter_rejections)
    }

    /// Returns the share of absent keys that found their fingerprint in a slot, of those that reached one: 1 in 256 is
    /// usual.
    #[must_use]
    pub fn fingerprint_false_positive_rate(&self) -> f64 {
        ratio(self.fingerprint_false_positives, self.fingerprint_false_positives + self.fingerprint_rejections)
    }
}

/// Returns how many bytes stand for one that was stored: 1 if there are none, infinite if none were stored.
fn saved(written: u64, stored: u64) -> f64 {
    match (written, stored) {
        (0, _) => 1.0,
        (_, 0) => f64::INFINITY,
        (written, stored) => ratio(written, stored),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
pub(super) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
