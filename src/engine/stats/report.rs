//! The numbers as plain data, and the ratios that they make.

use crate::base::Seqno;

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

impl LevelStats {
    /// Bytes of the perfect-hash index in the files for each key that it finds, filters aside.
    #[must_use]
    pub fn index_bytes_per_key(&self) -> f64 {
        ratio(self.index_bytes, self.indexed_keys)
    }
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
    pub seqno: Seqno,
    /// Bytes of keys and values in segments that are there only for it (or for a view of the same moment), as flushes and compactions have found.
    pub bytes: u64,
    /// Bytes of files of keyspaces that were dropped since: all who read them hold them together.
    pub dropped_bytes: u64,
}

/// What the open views of one moment hold, iterators included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ViewStats {
    /// The moment.
    pub seqno: Seqno,
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
    /// Everything that they hold.
    pub(super) fn all_bytes(&self) -> u64 {
        self.bytes + self.dropped_bytes + self.file_bytes + self.memtable_bytes
    }
}

/// Numbers about an open database, as of one moment. `Display` prints them for people;
/// [`to_json`](Stats::to_json) and [`to_prometheus`](Stats::to_prometheus) for programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The newest commit.
    pub seqno: Seqno,
    /// Every commit up to here is known to be on the disk.
    pub synced_seqno: Seqno,
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
    pub oldest_view: Option<Seqno>,
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
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
pub(super) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
