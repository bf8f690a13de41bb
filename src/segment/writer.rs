//! Writing a segment in one pass: entries in order, then the sections, and the footer last.

use std::{cmp::Ordering, path::PathBuf, sync::Arc};

use super::{
    block,
    entry::{Base, Entry, RunLen, encode},
    fences::FenceWriter,
    footer::{self, Section, Tag},
    history::delta,
    index::{IndexWriter, PointIndex},
    ranges,
    sizes::{BLOCK_LEN, BLOCK_LEN_MAX, PAGE},
    summary::{HistorySummary, SegmentMeta, Summary, Times},
};
use crate::{
    base::{Error, FileNumber, IoContext, KeySpan, KeyspaceId, Kind, Micros, Result, Seqno},
    env::{Dir, File},
    format::{FileKind, Header, Writer, crc, name},
    merge::{Tombstones, Until},
};

/// Number of bytes gathered before they are written.
const CHUNK: usize = 256 << 10;

/// Maximum length of a value that is compared with another: beyond it, comparing takes longer than it saves.
const COMPARED_MAX: usize = 1 << 20;

/// Unit in which places of entries are stored.
pub(super) const PLACE_UNIT: u32 = 4;

/// A segment being written.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    file: Arc<dyn File>,
    path: PathBuf,
    number: FileNumber,
    sync_later: bool,
    file_id: u64,
    base: Base,
    /// Bytes not yet written, and the position in the file where they go.
    out: Writer,
    written: u64,
    /// Where the current block begins in `out`, and where its entries begin in the block.
    block_at: usize,
    offsets: Vec<usize>,
    fences: FenceWriter,
    index: IndexWriter,
    pages: Vec<u32>,
    /// Places of recipes, in units of 4 bytes.
    recipes: Vec<u32>,
    /// Last entry: its key, its seqno, and whether it says that an older version of the key follows.
    last_key: Option<Vec<u8>>,
    last_seqno: Seqno,
    older_follows: bool,
    /// In the history tier, the run of the previous entry: an older version of its key is stored as a difference
    /// against it.
    run: Option<Run>,
    /// Last key of the previous block.
    fence_after: Option<Vec<u8>>,
    summary: Summary,
}

/// Versions of a key written next to each other in the current block so far.
#[derive(Debug)]
struct Run {
    /// Position of its length in `out`.
    len_at: Option<usize>,
    len: RunLen,
    /// The version written last.
    seqno: Seqno,
    time: Option<Micros>,
    /// Value of the first of them, which is stored whole.
    whole: Option<Vec<u8>>,
}

/// What a segment is created for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Purpose {
    pub(crate) keyspace: KeyspaceId,
    /// Lower bounds of all seqnos and commit times inside. Entries carry times if there is a base for them.
    pub(crate) base: Seqno,
    pub(crate) time_base: Option<Micros>,
    /// Number of its run, in the history tier.
    pub(crate) run: Option<FileNumber>,
    pub(crate) index: PointIndex,
    /// Seed that its index hashes keys with.
    pub(crate) hash_seed: u64,
}

impl SegmentWriter {
    /// Creates segment file `number`.
    pub(crate) fn create(dir: &dyn Dir, number: FileNumber, file_id: u64, purpose: Purpose) -> Result<Self> {
        let Purpose { keyspace, base, time_base, run, index, hash_seed } = purpose;
        let name = name::segment(number);
        let path = dir.path().join(&name);
        let file = dir.create(&name).at("create", || path.clone())?;
        let mut out = Writer::default();
        out.raw(&Header { kind: FileKind::Segment, file_id, number }.encode());
        // The base of all seqnos comes right after the header, so that an entry can be read without the summary.
        out.u64(base.0);
        Ok(Self {
            file,
            path,
            number,
            sync_later: false,
            file_id,
            base: Base { seqno: base, time: time_base.unwrap_or(Micros::ZERO) },
            block_at: out.len(),
            out,
            written: 0,
            offsets: Vec::new(),
            fences: FenceWriter::default(),
            // The id of the file is random, so no one can choose keys that are hard to index.
            index: IndexWriter::new(hash_seed, file_id, index),
            pages: Vec::new(),
            recipes: Vec::new(),
            last_key: None,
            last_seqno: Seqno::MAX,
            older_follows: false,
            run: None,
            fence_after: None,
            summary: Summary {
                keyspace,
                span: KeySpan { start: Vec::new(), end: None },
                keys: 0,
                entries: 0,
                tombstones: 0,
                range_tombstones: 0,
                raw_bytes: 0,
                min_seqno: Seqno::MAX,
                max_seqno: Seqno(0),
                lowest_affected: Seqno::MAX,
                recipes: false,
                times: time_base.map(|base| Times { base, oldest: base, newest: base }),
                history: run.map(|run| HistorySummary {
                    end: Seqno(0),
                    until_min: Micros::MAX,
                    until_max: Micros::ZERO,
                    run,
                    open: false,
                }),
            },
        })
    }

    /// Leaves the sync of the file to the caller, who syncs it together with others.
    pub(crate) fn sync_later(mut self) -> Self {
        self.sync_later = true;
        self
    }

    /// Adds the next entry in order: keys ascending, versions of a key newest first.
    pub(crate) fn add(&mut self, entry: &Entry, key: &[u8], value: &[u8]) -> Result<()> {
        let same_key = self.check_order(entry, key);
        let block_len = self.out.len() - self.block_at;
        let full = block_len >= BLOCK_LEN && !same_key;
        // A large entry gets a block of its own: readers of its neighbours need not verify its pages.
        let too_long = block_len + key.len() + value.len() > BLOCK_LEN_MAX;
        let begins = !self.offsets.is_empty() && (full || too_long);
        // Nothing in a block depends on the block before.
        let run = self.run.take().filter(|_| same_key);
        let newer_run = begins && run.is_some();
        let run = if begins { self.end_run(run.as_ref()) } else { run };
        if begins {
            self.end_block()?;
        }
        if self.summary.history.is_none() {
            return self.append(entry, same_key, key, value, value.len()).map(drop);
        }
        self.add_history(entry, same_key, key, value, run, newer_run)
    }

    /// Returns whether the next entry has the same key as the last one. Entries from files are checked when they are
    /// read, so an entry out of order here is a bug.
    fn check_order(&mut self, entry: &Entry, key: &[u8]) -> bool {
        let Entry { seqno, older_follows, .. } = *entry;
        let order = self.last_key.as_deref().map_or(Ordering::Greater, |last| key.cmp(last));
        let same_key = order == Ordering::Equal;
        let in_order = order == Ordering::Greater || same_key && seqno <= self.last_seqno;
        assert!(
            in_order && same_key == self.older_follows,
            "\"{}\"@{seqno} behind \"{}\"@{}, where an older version {}",
            key.escape_ascii(),
            self.last_key.as_deref().unwrap_or_default().escape_ascii(),
            self.last_seqno,
            if self.older_follows { "follows" } else { "does not follow" }
        );
        (self.last_seqno, self.older_follows) = (seqno, older_follows);
        same_key
    }

    /// Records in a run that another run of its key follows.
    fn end_run(&mut self, run: Option<&Run>) -> Option<Run> {
        let Run { len_at, len, .. } = run?;
        self.out.set_u16((*len_at)?, len.0 | RunLen::OLDER);
        None
    }

    /// Adds a version in the history tier, without what the first version of its run already says.
    fn add_history(
        &mut self,
        entry: &Entry,
        same_key: bool,
        key: &[u8],
        value: &[u8],
        run: Option<Run>,
        newer_run: bool,
    ) -> Result<()> {
        let mut stored = *entry;
        assert!(entry.until.is_some() && entry.time.is_some(), "@{} in the history tier: {entry:?} (K8)", entry.seqno);
        let (seqno, time, open) = match entry.until {
            Some(Until::At { seqno, time }) => (seqno, time, false),
            Some(Until::Open) | None => (Seqno(0), entry.time.unwrap_or(Micros::ZERO), true),
        };
        if let Some(history) = &mut self.summary.history {
            history.end = history.end.max(seqno);
            history.until_min = history.until_min.min(time);
            history.until_max = history.until_max.max(time);
            history.open |= open;
        }
        // Recipes of neighbouring versions differ in a few references.
        let comparable = entry.kind.is_value() && value.len() <= COMPARED_MAX;
        let room = run.as_ref().filter(|run| comparable && run.len.0 & RunLen::MAX < RunLen::MAX);
        let difference = room.and_then(|run| delta::encode(run.whole.as_ref()?, value));
        let newer_run = newer_run || run.is_some();
        if difference.is_none() {
            self.end_run(run.as_ref());
        }
        let (Some(difference), Some(mut run)) = (difference, run) else {
            // A whole value begins a run of its own.
            let len = RunLen(if newer_run { RunLen::NEWER } else { 0 });
            stored.run = (entry.older_follows || newer_run).then_some(len);
            let len_at = self.append(&stored, same_key, key, value, value.len())?;
            let whole = comparable.then(|| value.to_vec());
            self.run = Some(Run { len_at, len, seqno: entry.seqno, time: entry.time, whole });
            return Ok(());
        };
        stored.difference = true;
        // It ends where the newer one begins: nothing needs to be stored.
        if run.seqno == seqno && run.time == Some(time) {
            stored.until = None;
        }
        run.len.0 += 1;
        stored.follower = Some(run.len.0 & RunLen::MAX);
        if let Some(at) = run.len_at {
            self.out.set_u16(at, run.len.0);
        }
        (run.seqno, run.time) = (entry.seqno, entry.time);
        self.append(&stored, same_key, key, &difference, value.len())?;
        self.run = Some(run);
        Ok(())
    }

    /// Writes an entry as it is stored. Returns the position of the length of its run.
    fn append(
        &mut self,
        entry: &Entry,
        same_key: bool,
        key: &[u8],
        stored: &[u8],
        value_len: usize,
    ) -> Result<Option<usize>> {
        if self.offsets.is_empty() {
            let offset = self.position()?;
            self.fences.push(offset, self.fence_after.as_deref(), key);
        }
        if !same_key {
            self.index.push(key, self.position()?);
        }
        if entry.kind == Kind::Recipe {
            self.recipes.push(self.position()? / PLACE_UNIT);
            self.summary.recipes = true;
        }
        self.offsets.push(self.out.len() - self.block_at);
        let stored_key = if entry.follower.is_some() { &[] } else { key };
        let run_at = encode(&mut self.out, entry, self.base, stored_key, stored);

        if !same_key {
            if self.summary.entries == 0 {
                self.summary.span.start = key.to_vec();
            }
            self.summary.keys += 1;
            let last = self.last_key.get_or_insert_default();
            last.clear();
            last.extend_from_slice(key);
        }
        self.summary.entries += 1;
        self.summary.tombstones += u64::from(entry.kind == Kind::Delete);
        self.summary.raw_bytes += (key.len() + value_len) as u64;
        self.widen_seqnos(entry.seqno, entry.gap_start);
        if entry.kind == Kind::Purge {
            self.summary.lowest_affected = Seqno(0);
        }
        if let Some((times, time)) = self.summary.times.as_mut().zip(entry.time) {
            // As it is stored in the entry.
            let time = time.max(times.base);
            times.oldest = if self.summary.entries == 1 { time } else { times.oldest.min(time) };
            times.newest = times.newest.max(time);
        }
        Ok(run_at)
    }

    /// Returns whether the segment should be finished: it is about `len` bytes long, or building its index would take
    /// at least twice that much memory.
    pub(crate) fn is_full(&self, len: u64) -> bool {
        self.len() >= len || self.index.build_bytes() / 2 >= len
    }

    fn len(&self) -> u64 {
        self.written + self.out.len() as u64
    }

    /// Finishes the segment with its range tombstones and makes it durable. The caller syncs the directory. `passed`
    /// returns whether reads of a span may continue with older segments: then a filter lets them skip this one.
    pub(crate) fn finish(mut self, ranges: &Tombstones, passed: impl FnOnce(&KeySpan) -> bool) -> Result<SegmentMeta> {
        self.end_block()?;
        self.span(ranges);
        self.check();
        let data_end = self.position()?;
        let index = std::mem::replace(&mut self.index, IndexWriter::new(0, 0, PointIndex::Never));
        let index = index.finish(data_end, passed(&self.summary.span));
        if let Some(index) = &index {
            self.out.raw(&index.data);
        }
        self.write_pages()?;
        if self.out.len() > 0 {
            self.pages.push(crc(&[self.out.bytes()]));
        }

        let mut sections = Vec::new();
        // The fences come first: a reader takes their offset for the end of the data.
        let fences = self.fences.encode(data_end);
        self.section(&mut sections, Tag::Fences, &fences)?;
        let mut pages = Writer::default();
        for sum in &self.pages {
            pages.u32(*sum);
        }
        self.section(&mut sections, Tag::Pages, pages.bytes())?;
        let ranges = ranges::encode(ranges);
        self.summary.range_tombstones = ranges.tombstones;
        for (tag, bytes) in &ranges.sections {
            self.section(&mut sections, *tag, bytes)?;
        }
        if let Some(index) = &index {
            self.section(&mut sections, Tag::Index, &index.section)?;
        }
        if !self.recipes.is_empty() {
            let mut places = Writer::default();
            self.recipes.iter().for_each(|place| places.u32(*place));
            self.section(&mut sections, Tag::Recipes, places.bytes())?;
        }
        let mut summary = Writer::default();
        self.summary.encode(&mut summary);
        self.section(&mut sections, Tag::Summary, summary.bytes())?;

        let footer = footer::encode(&sections, self.file_id);
        self.out.raw(&footer);
        let file_len = self.len();
        self.write_out()?;
        if !self.sync_later {
            self.file.sync().at("sync", || self.path.clone())?;
        }
        Ok(SegmentMeta {
            number: self.number,
            file_id: self.file_id,
            file_len,
            footer_digest: footer::digest(&footer),
            summary: self.summary,
        })
    }

    /// Asserts what readers rely on in the numbers of a finished segment.
    fn check(&self) {
        let Summary { span, keys, entries, min_seqno, max_seqno, lowest_affected, times, history, .. } = &self.summary;
        let number = self.number;
        assert!(!self.older_follows, "segment {number} ends before the older versions of its last key");
        assert!(!span.is_empty() && keys <= entries, "segment {number} over {span:?}: {keys} keys, {entries} entries");
        let base = self.base.seqno;
        assert!(
            base <= *min_seqno && min_seqno <= max_seqno,
            "segment {number}: @{min_seqno} to @{max_seqno} on {base}"
        );
        assert!(lowest_affected <= min_seqno, "segment {number}: @{min_seqno}, from @{lowest_affected} on (K9)");
        let in_order = |times: Times| times.base <= times.oldest && times.oldest <= times.newest;
        assert!(times.is_none_or(in_order), "segment {number}: {times:?}");
        assert!(history.is_none_or(|history| history.until_min <= history.until_max), "segment {number}: {history:?}");
    }

    /// Widens the span to include the range tombstones.
    fn span(&mut self, ranges: &Tombstones) {
        for (.., tombstone) in ranges.iter() {
            self.widen_seqnos(tombstone.seqno, tombstone.gap_start);
            if tombstone.purge {
                self.summary.lowest_affected = Seqno(0);
            }
        }
        let points = self.last_key.as_ref().map(|last| KeySpan {
            start: std::mem::take(&mut self.summary.span.start),
            end: Some([last.as_slice(), &[0]].concat()),
        });
        let ranges = ranges.span();
        let spans = || points.iter().chain(&ranges);
        let open = spans().any(|span| span.end.is_none());
        self.summary.span = KeySpan {
            start: spans().map(|span| &span.start).min().cloned().unwrap_or_default(),
            end: if open { None } else { spans().filter_map(|span| span.end.clone()).max() },
        };
    }

    fn widen_seqnos(&mut self, seqno: Seqno, gap_start: Option<Seqno>) {
        let summary = &mut self.summary;
        summary.min_seqno = summary.min_seqno.min(seqno);
        summary.max_seqno = summary.max_seqno.max(seqno);
        summary.lowest_affected = summary.lowest_affected.min(gap_start.unwrap_or(seqno)).min(seqno);
    }

    fn section(&mut self, sections: &mut Vec<Section>, tag: Tag, bytes: &[u8]) -> Result<()> {
        let offset = self.len();
        let len = u32::try_from(bytes.len()).map_err(|_| self.too_long())?;
        sections.push(Section { tag, offset, len, crc: crc(&[bytes]) });
        self.out.raw(bytes);
        self.write_out()
    }

    fn end_block(&mut self) -> Result<()> {
        if !self.offsets.is_empty() {
            block::end(&mut self.out, &self.offsets);
            self.offsets.clear();
            self.fence_after.clone_from(&self.last_key);
        }
        if self.out.len() >= CHUNK {
            self.write_pages()?;
        }
        self.block_at = self.out.len();
        Ok(())
    }

    /// Checksums and writes the whole pages gathered; the start of the next page stays.
    fn write_pages(&mut self) -> Result<()> {
        let whole = self.out.len() / PAGE * PAGE;
        let pages = self.out.bytes().get(..whole).unwrap_or_default();
        self.pages.extend(pages.chunks(PAGE).map(|page| crc(&[page])));
        self.file.write_at(self.written, pages).at("write", || self.path.clone())?;
        self.written += whole as u64;
        self.out.remove_front(whole);
        Ok(())
    }

    /// Writes everything gathered: after the end of the data, pages do not matter any more.
    fn write_out(&mut self) -> Result<()> {
        self.file.write_at(self.written, self.out.bytes()).at("write", || self.path.clone())?;
        self.written += self.out.len() as u64;
        self.out.clear();
        Ok(())
    }

    fn position(&self) -> Result<u32> {
        u32::try_from(self.len()).map_err(|_| self.too_long())
    }

    fn too_long(&self) -> Error {
        Error::invalid(format!("segment {} would grow past 4 GiB", self.path.display()))
    }
}
