//! An open segment: point look-ups, blocks, and the check of everything.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    Entry, Finished, PAGE, Summary,
    block::Layout,
    entry::{Base, Decoded, decode},
    fences::Fences,
    footer::{self, Section, TAIL_LEN, Tag},
    index::{Index, may_hold, pages},
};
use crate::{
    base::{Bytes, Corruption, Error, IoContext, KeySpan, Kind, Result},
    env::{Dir, File, Files, ReadFile, Region},
    format::{FileKind, Header, Reader, crc, name},
    merge::{Answer, Found, Fragment, Lookup, Mark, Shown, Tombstones, step},
    phash::{Hash, Seeded},
};

/// Where blocks begin: behind the header and the base of the seqnos.
const DATA_START: u32 = 40;
const _: () = assert!(DATA_START as usize == Header::LEN + 8);

/// No entry has a longer head: flags, lengths, and numbers of at most ten bytes each.
const ENTRY_HEAD_MAX: usize = 64;

/// So many versions of a key above the moment are looked at one by one; beyond that the one that is wanted is searched.
const STEPS_MAX: usize = 8;

/// An open segment.
#[derive(Debug)]
pub(crate) struct Segment {
    path: PathBuf,
    file: ReadFile,
    /// The mapped file, which needs no open one any more; without it every read is a positioned one, and verified.
    region: Option<Region>,
    base: Base,
    /// Where the blocks end, and where everything does that pages are verified of.
    blocks_end: usize,
    data_end: usize,
    fences: Fences,
    index: Option<Index>,
    page_crcs: Vec<u32>,
    /// A bit for each page that has been verified.
    verified: Vec<AtomicU64>,
    /// A bit for each partition of the index whose pages have been.
    verified_partitions: Vec<AtomicU64>,
    ranges: Arc<Tombstones>,
    max_seqno: u64,
    /// Something inside hides the past.
    purges: bool,
}

#[expect(clippy::rc_buffer, reason = "the buffer is shared as it was filled, not copied")]
/// The bytes of one block.
#[derive(Clone, Debug)]
pub(super) enum BlockData {
    /// Where they are in the map.
    Mapped(usize, usize),
    /// Whole pages that were read, and where the block is in them.
    Read(Arc<Vec<u8>>, usize, usize),
}

impl Segment {
    /// Opens the segment that the manifest describes, checking that it is the very file and whole. Data is checked
    /// later, page by page, when it is first touched.
    ///
    /// Where the system refuses the map, it is read by position like one that is not to be mapped.
    pub(crate) fn open(files: &Arc<Files>, expected: &Finished, map: bool) -> Result<Self> {
        let name = name::segment(expected.number);
        let path = files.path().join(&name);
        let source = ReadFile::open(files, name).map_err(|error| unopened(&path, error))?;
        let file = source.get().map_err(|error| unopened(&path, error))?;
        let len = file.len().at("read the length of", || path.clone())?;
        let corrupt = |offset, what| Corruption { offset, what }.of(&path, 0);
        if len != expected.file_len {
            return Err(corrupt(len, "the length that the manifest names"));
        }
        let read = |offset: u64, len: usize| {
            let mut buf = vec![0; len];
            file.read_at(offset, &mut buf).at("read", || path.clone())?;
            Ok::<_, Error>(buf)
        };

        let head = read(0, DATA_START as usize)?;
        let header = Header::decode(&head, FileKind::Segment).map_err(|bad| bad.of(&path))?;
        if header.file_id != expected.file_id || header.number != expected.number {
            return Err(corrupt(8, "the id that the manifest names; another file stands in its place"));
        }
        let sections = read_sections(&path, len, expected, &read)?;
        let section = |tag: Tag| sections.iter().find(|section| section.tag == tag);
        let bytes = |section: &Section| {
            let bytes = read(section.offset, section.len as usize)?;
            if crc(&[&bytes]) != section.crc {
                return Err(corrupt(section.offset, "the checksum of the section"));
            }
            Ok(bytes)
        };
        let needed = |tag: Tag| section(tag).ok_or_else(|| corrupt(len, "a section that every segment has"));

        let fence_section = needed(Tag::Fences)?;
        let fences = Fences::decode(&bytes(fence_section)?, DATA_START, fence_section.offset)
            .map_err(|bad| bad.of(&path, fence_section.offset))?;
        let page_section = needed(Tag::Pages)?;
        let page_bytes = bytes(page_section)?;
        let page_crcs: Vec<u32> = page_bytes
            .chunks_exact(4)
            .map(|four| Reader::new(four).u32("page checksum"))
            .collect::<Result<_, Corruption>>()
            .map_err(|bad| bad.of(&path, page_section.offset))?;
        // Sections follow the data at once: the fences begin where the data ends.
        let data_end = usize::try_from(fence_section.offset).unwrap_or(usize::MAX);
        if page_crcs.len() != data_end.div_ceil(PAGE) || page_bytes.len() % 4 != 0 {
            return Err(corrupt(page_section.offset, "a checksum for each page of data"));
        }
        let ranges = match (section(Tag::Ranges), section(Tag::Whole)) {
            (None, None) => Tombstones::default(),
            (None, Some(section)) => decode_whole(&bytes(section)?).map_err(|bad| bad.of(&path, section.offset))?,
            (Some(ranges), whole) => {
                let mut fragments = decode_ranges(&bytes(ranges)?).map_err(|bad| bad.of(&path, ranges.offset))?;
                if let Some(section) = section(Tag::Marks) {
                    decode_marks(&bytes(section)?, &mut fragments).map_err(|bad| bad.of(&path, section.offset))?;
                }
                let told = Tombstones::from_fragments(fragments).filter(|_| whole.is_none());
                told.ok_or_else(|| corrupt(ranges.offset, "ranges in order and apart"))?
            }
        };
        let blocks_end = fences.blocks_end();
        let region = match map.then(|| file.map()).transpose() {
            Err(refused) if Region::is_refused(&refused) => None,
            mapped => mapped.at("map", || path.clone())?,
        };
        if region.as_ref().is_some_and(|region| (region.len() as u64) < len) {
            return Err(corrupt(len, "the length that the manifest names"));
        }
        let index = match section(Tag::Index) {
            // Without a map a look-up in the index would read more pages than the search by fences.
            Some(section) if region.is_some() => {
                let data = blocks_end as u64..fence_section.offset;
                let index = Index::decode(&bytes(section)?, data, expected.summary.keys);
                Some(index.map_err(|bad| bad.of(&path, section.offset))?)
            }
            _ => None,
        };
        let partitions = index.as_ref().map_or(0, Index::partitions);
        let base = Reader::starting_at(&head, Header::LEN).u64("base").map_err(|bad| bad.of(&path, 0))?;
        let base = Base { seqno: base, time: expected.summary.times.map_or(0, |times| times.base) };
        let bits = |count: usize| (0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let verified = bits(page_crcs.len());
        Ok(Self {
            verified_partitions: bits(partitions),
            blocks_end,
            index,
            path,
            file: source,
            region,
            base,
            data_end,
            fences,
            page_crcs,
            verified,
            ranges: Arc::new(ranges),
            max_seqno: expected.summary.max_seqno,
            purges: expected.summary.has_purges(),
        })
    }

    /// The range tombstones.
    pub(crate) fn ranges(&self) -> &Arc<Tombstones> {
        &self.ranges
    }

    pub(crate) fn max_seqno(&self) -> u64 {
        self.max_seqno
    }

    /// Bytes of memory that stay with it while it is open.
    pub(crate) fn memory(&self) -> usize {
        let index = self.index.as_ref().map_or(0, Index::memory);
        self.fences.memory() + self.page_crcs.len() * 5 + index + self.ranges.memory()
    }

    /// What the index takes in the file.
    pub(crate) fn index_numbers(&self) -> Option<IndexNumbers> {
        let (filter_bytes, slot_bytes) = self.index.as_ref()?.file_bytes();
        Some(IndexNumbers { slot_bytes, filter_bytes })
    }

    /// Looks a key up: the value, absence, or nothing to say. Every version from the newest down, and every operand on
    /// the way, is shown to the look-up; `probe` is told where it was looked.
    pub(crate) fn get(&self, key: &mut PointKey<'_>, lookup: &mut Lookup, probe: &mut Probe) -> Result<Option<Answer>> {
        let mut marks = Marks(self.ranges.shown(key.key, lookup.seqno(), lookup.opened()));
        let answer = match (&self.index, &self.region) {
            (Some(index), Some(region)) => self.get_indexed(index, region, key, &mut marks, lookup, probe)?,
            _ => self.get_by_fences(key.key, &mut marks, lookup, probe)?,
        };
        if answer.is_some() {
            return Ok(answer);
        }
        marks.show_above(None, lookup)
    }

    /// The hash of a key as this segment sees it; nothing without an index.
    #[inline]
    pub(crate) fn seeded(&self, key: &mut PointKey<'_>) -> Option<Seeded> {
        let index = self.index.as_ref().filter(|_| self.region.is_some())?;
        Some(index.seeded(key.hash(index.hash_seed())))
    }

    /// Has the pilot of a key fetched, by which its slot is found; `false` where the filter rules the key out, or the
    /// pages have never been verified. A hint, as [`Segment::fetch_slot`] and [`Segment::fetch_entry`] are: they answer
    /// nothing.
    #[inline]
    pub(crate) fn fetch_pilot(&self, hash: Seeded) -> bool {
        let (Some(index), Some(region)) = (&self.index, self.region.as_deref()) else { return false };
        if let Some((start, end)) = index.filter_line(hash) {
            let passes = || region.get(start..end).is_some_and(|line| may_hold(line, hash));
            if !self.is_verified(start / PAGE) || !passes() {
                return false;
            }
        }
        let Some((partition, ..)) = index.partition(hash) else { return false };
        let word = usize::try_from(partition / 64).ok().and_then(|word| self.verified_partitions.get(word));
        let verified = word.is_some_and(|word| word.load(Ordering::Relaxed) & 1 << (partition % 64) != 0);
        if verified {
            std::hint::black_box(index.pilot_at(hash).and_then(|at| region.get(at)).copied());
        }
        verified
    }

    /// Has the slot of a key fetched: where the entry is that it names.
    #[inline]
    pub(crate) fn fetch_slot(&self, hash: Seeded) -> Option<usize> {
        self.index.as_ref()?.slot(self.region.as_deref()?, hash)?.entry_at
    }

    /// Has the first bytes of an entry fetched, if its page has been verified.
    #[inline]
    pub(crate) fn fetch_entry(&self, at: usize) {
        if let Some(region) = self.region.as_deref().filter(|_| self.is_verified(at / PAGE)) {
            // Entries of the usual length touch three lines.
            let line = |at: usize| region.get(at).copied().unwrap_or(0);
            std::hint::black_box(line(at) ^ line(at + 60) ^ line(at + 120));
        }
    }

    /// Has a part of a block fetched, if it is mapped.
    #[inline]
    pub(super) fn fetch(&self, data: &BlockData, at: usize, len: usize) {
        if let (BlockData::Mapped(start, end), Some(region)) = (data, &self.region) {
            region.fetch(start + at, len.min((end - start).saturating_sub(at)));
        }
    }

    /// From the key's hash to its newest entry; by the fences when an older one is wanted.
    fn get_indexed(
        &self,
        index: &Index,
        region: &Region,
        key: &mut PointKey<'_>,
        marks: &mut Marks,
        lookup: &mut Lookup,
        probe: &mut Probe,
    ) -> Result<Option<Answer>> {
        let hash = index.seeded(key.hash(index.hash_seed()));
        if let Some((start, end)) = index.filter_line(hash) {
            pages(start, end).try_for_each(|page| self.verify_page(page))?;
            let passed = region.get(start..end).is_some_and(|line| may_hold(line, hash));
            probe.filter = Some(passed);
            if !passed {
                return Ok(None);
            }
        }
        let inside = || self.corrupt(0, "a slot of the index inside the data");
        let (partition, start, end) = index.partition(hash).ok_or_else(inside)?;
        self.verify_partition(partition, start, end)?;
        let slot = index.slot(region, hash).ok_or_else(inside)?;
        probe.slot = Some((slot.partition, slot.slot));
        let Some(at) = slot.entry_at else { return Ok(None) };
        probe.entry_at = Some(at as u64);
        probe.blocks += 1;

        pages(at, (at + ENTRY_HEAD_MAX).min(self.blocks_end)).try_for_each(|page| self.verify_page(page))?;
        // The lines of the value come while the head is decoded and the key compared, not after.
        self.fetch_entry(at);
        let entries = region.get(..self.blocks_end).unwrap_or_default();
        let decoded = decode(entries, at, self.base).map_err(|bad| bad.of(&self.path, 0))?;
        pages(decoded.key.start, decoded.value.end).try_for_each(|page| self.verify_page(page))?;
        if entries.get(decoded.key.clone()) != Some(key.key) {
            return Ok(None);
        }
        probe.key_found = true;
        let entry = decoded.entry;
        if entry.older_follows && (entry.seqno > lookup.seqno() || entry.kind == Kind::Operand) {
            return self.get_by_fences(key.key, marks, lookup, probe);
        }
        let value = || {
            let value = entries.get(decoded.value.clone()).unwrap_or_default();
            Bytes::window(|| region.owner(), decoded.value.start, value)
        };
        marks.show_entry(&entry, value, lookup)
    }

    fn get_by_fences(
        &self,
        key: &[u8],
        marks: &mut Marks,
        lookup: &mut Lookup,
        probe: &mut Probe,
    ) -> Result<Option<Answer>> {
        let mut block = self.fences.find(key);
        let mut from = None;
        let mut above = 0;
        'blocks: while block < self.fences.count() {
            probe.blocks += 1;
            let data = self.block(block)?;
            let bytes = data.bytes(self);
            let layout = Layout::of(bytes).map_err(|bad| self.in_block(bad, block))?;
            let mut index = match from {
                Some(from) => from,
                None => layout.lower_bound(bytes, key, self.base).map_err(|bad| self.in_block(bad, block))?,
            };
            while index < layout.count() {
                step();
                let decoded = layout.entry(bytes, index, self.base).map_err(|bad| self.in_block(bad, block))?;
                if bytes.get(decoded.key.clone()) != Some(key) {
                    return Ok(None);
                }
                probe.key_found = true;
                let answer = marks.show_entry(&decoded.entry, || data.share(self, &decoded), lookup)?;
                if answer.is_some() || !decoded.entry.older_follows {
                    return Ok(answer);
                }
                above += usize::from(decoded.entry.seqno > lookup.seqno());
                if above == STEPS_MAX {
                    above += 1;
                    let wanted = self.just_above(key, lookup.seqno(), lookup.opened())?;
                    if let Some((further, at)) = wanted.filter(|wanted| *wanted > (block, index)) {
                        (block, from) = (further, Some(at));
                        continue 'blocks;
                    }
                }
                index += 1;
            }
            block += 1;
            from = Some(0);
        }
        Ok(None)
    }

    /// Checks the pages of a partition of the index the first time it is touched.
    #[inline]
    pub(super) fn verify_partition(&self, partition: u64, start: usize, end: usize) -> Result<()> {
        let (word, bit) = (usize::try_from(partition / 64).unwrap_or(usize::MAX), 1u64 << (partition % 64));
        let Some(word) = self.verified_partitions.get(word) else { return Ok(()) };
        if word.load(Ordering::Relaxed) & bit == 0 {
            pages(start, end).try_for_each(|page| self.verify_page(page))?;
            word.fetch_or(bit, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(super) fn base(&self) -> Base {
        self.base
    }

    pub(super) fn block_count(&self) -> usize {
        self.fences.count()
    }

    /// The block where a key belongs.
    pub(super) fn find_block(&self, key: &[u8]) -> usize {
        self.fences.find(key)
    }

    /// Block and number of the first entry that comes behind every version of `key` above `seqno`; the number may be
    /// the count of the block.
    pub(super) fn find_version(&self, key: &[u8], seqno: u64) -> Result<(usize, usize)> {
        let before = |bytes: &[u8], decoded: &Decoded| {
            let told = bytes.get(decoded.key.clone()).unwrap_or_default();
            told < key || told == key && decoded.entry.seqno > seqno
        };
        let load = |block: usize| {
            let data = self.block(block)?;
            let layout = Layout::of(data.bytes(self)).map_err(|bad| self.in_block(bad, block))?;
            Ok::<_, Error>((data, layout))
        };
        let blocks = self.blocks_of(key);
        let (mut low, mut high) = (blocks.start, blocks.end);
        while low < high {
            let middle = low.midpoint(high);
            let (data, layout) = load(middle)?;
            let bytes = data.bytes(self);
            let first = layout.entry(bytes, 0, self.base).map_err(|bad| self.in_block(bad, middle))?;
            if before(bytes, &first) { low = middle + 1 } else { high = middle }
        }
        let block = low.saturating_sub(1).max(blocks.start);
        if block >= self.block_count() {
            return Ok((block, 0));
        }
        let (data, layout) = load(block)?;
        let bytes = data.bytes(self);
        let at = layout.partition_point(bytes, self.base, |decoded| before(bytes, decoded));
        Ok((block, at.map_err(|bad| self.in_block(bad, block))?))
    }

    /// Block and number of the oldest version of `key` above `seqno`, and of what else its commit wrote the newest;
    /// nothing without one. Where there are purges, above `opened`: up to there they have to be seen.
    pub(super) fn just_above(&self, key: &[u8], seqno: u64, opened: u64) -> Result<Option<(usize, usize)>> {
        let wanted = if self.purges { seqno.max(opened) } else { seqno };
        let (block, at) = self.find_version(key, wanted)?;
        let Some(before) = at.checked_sub(1) else { return Ok(None) };
        let data = self.block(block)?;
        let bytes = data.bytes(self);
        let wrong = |bad| self.in_block(bad, block);
        let layout = Layout::of(bytes).map_err(wrong)?;
        let above = layout.entry(bytes, before, self.base).map_err(wrong)?;
        if bytes.get(above.key.clone()) != Some(key) {
            return Ok(None);
        }
        // Mostly a commit wrote one version.
        if let Some(other) = before.checked_sub(1)
            && layout.seqno(bytes, other, self.base).map_err(wrong)? != above.entry.seqno
        {
            return Ok(Some((block, before)));
        }
        let (block, at) = self.find_version(key, above.entry.seqno)?;
        // It may begin with a block.
        if at < Layout::of(self.block(block)?.bytes(self)).map_err(wrong)?.count() {
            return Ok(Some((block, at)));
        }
        Ok(Some((block + 1, 0)))
    }

    /// The bytes of a block, verified.
    pub(super) fn block(&self, index: usize) -> Result<BlockData> {
        let place = self.fences.block(index).filter(|(_, end)| *end <= self.data_end);
        let (start, end) = place.ok_or_else(|| self.corrupt(0, "a block inside the data"))?;
        if self.region.is_some() {
            for page in start / PAGE..end.div_ceil(PAGE) {
                self.verify_page(page)?;
            }
            return Ok(BlockData::Mapped(start, end));
        }
        let from = start / PAGE * PAGE;
        let pages = self.read_pages(start / PAGE, end.div_ceil(PAGE))?;
        Ok(BlockData::Read(Arc::new(pages), start - from, end - from))
    }

    pub(super) fn in_block(&self, bad: Corruption, block: usize) -> Error {
        bad.of(&self.path, self.fences.block(block).map_or(0, |(start, _)| start as u64))
    }

    /// Checks a page through an ordinary read the first time it is touched.
    #[inline]
    pub(super) fn verify_page(&self, page: usize) -> Result<()> {
        if self.is_verified(page) { Ok(()) } else { self.verify_first(page) }
    }

    #[inline]
    fn is_verified(&self, page: usize) -> bool {
        let bit = 1u64 << (page % 64);
        self.verified.get(page / 64).is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0)
    }

    #[cold]
    fn verify_first(&self, page: usize) -> Result<()> {
        self.read_pages(page, page + 1)?;
        if let Some(word) = self.verified.get(page / 64) {
            word.fetch_or(1 << (page % 64), Ordering::Relaxed);
        }
        Ok(())
    }

    /// The file, for one read by position.
    fn file(&self) -> Result<Arc<dyn File>> {
        self.file.get().map_err(|error| unopened(&self.path, error))
    }

    /// Reads pages by position and verifies each.
    fn read_pages(&self, from: usize, to: usize) -> Result<Vec<u8>> {
        let start = from * PAGE;
        let end = (to * PAGE).min(self.data_end);
        let mut bytes = vec![0; end.saturating_sub(start)];
        self.file()?.read_at(start as u64, &mut bytes).at("read", || self.path.clone())?;
        for (index, page) in bytes.chunks(PAGE).enumerate() {
            if self.page_crcs.get(from + index) != Some(&crc(&[page])) {
                return Err(self.corrupt(((from + index) * PAGE) as u64, "the checksum of the page"));
            }
        }
        Ok(bytes)
    }

    /// Damage in an entry whose block is not known.
    pub(super) fn misplaced(&self, bad: Corruption) -> Error {
        bad.of(&self.path, 0)
    }

    /// The index and the map, where there are both.
    #[inline]
    pub(super) fn index_and_region(&self) -> Option<(&Index, &Region)> {
        self.index.as_ref().zip(self.region.as_ref())
    }

    /// Verifies the pages of an entry's numbers.
    #[inline]
    pub(super) fn verify_head(&self, at: usize) -> Result<()> {
        pages(at, (at + ENTRY_HEAD_MAX).min(self.blocks_end)).try_for_each(|page| self.verify_page(page))
    }

    pub(super) fn blocks_end(&self) -> usize {
        self.blocks_end
    }

    /// The block in which a place of the file is, and where it begins.
    pub(super) fn block_at(&self, offset: usize) -> Option<(usize, usize)> {
        let block = self.fences.block_at(offset)?;
        Some((block, self.fences.block(block)?.0))
    }

    /// The blocks in which a key can be.
    pub(super) fn blocks_of(&self, key: &[u8]) -> std::ops::Range<usize> {
        self.fences.holding(key)
    }

    pub(super) fn corrupt(&self, offset: u64, what: &'static str) -> Error {
        Corruption { offset, what }.of(&self.path, 0)
    }

    /// Reads and checks everything: each page, each entry, their order, and that the summary tells the truth.
    pub(crate) fn check(self: &Arc<Self>, expected: &Finished) -> Result<()> {
        let summary = &expected.summary;
        self.check_sections(expected)?;
        for page in 0..self.page_crcs.len() {
            self.read_pages(page, page + 1)?;
        }
        let mut last: Option<(Vec<u8>, u64, Kind, bool)> = None;
        let (mut keys, mut entries) = (0, 0);
        for block in 0..self.fences.count() {
            let data = self.block(block)?;
            let bytes = data.bytes(self);
            let wrong = |bad| self.in_block(bad, block);
            let layout = Layout::of(bytes).map_err(wrong)?;
            for index in 0..layout.count() {
                let decoded = layout.entry(bytes, index, self.base).map_err(wrong)?;
                let key = bytes.get(decoded.key).unwrap_or_default();
                let Entry { seqno, older_follows, .. } = decoded.entry;
                let start = self.fences.block(block).map_or(0, |(start, _)| start);
                let offset = start + layout.offset(bytes, index).map_err(wrong)?;
                let same = last.as_ref().is_some_and(|(last, ..)| last == key);
                let in_order = last.as_ref().is_none_or(|(last, newer, kind, follows)| {
                    // Operands of one batch that could not be combined share its seqno, and so do a purge and what
                    // followed it.
                    let shares = *kind == Kind::Operand || decoded.entry.kind == Kind::Purge;
                    let below = *newer > seqno || *newer == seqno && shares;
                    *follows == same && if same { below } else { last.as_slice() < key }
                });
                let in_span = summary.holds(key) && (summary.min_seqno..=summary.max_seqno).contains(&seqno);
                if !in_order || !in_span {
                    return Err(wrong(Corruption { offset: 0, what: "entries in order, inside the segment's span" }));
                }
                if !same && !self.is_indexed(key, offset) {
                    return Err(wrong(Corruption {
                        offset: 0,
                        what: "every key in the index, with the place of its newest entry",
                    }));
                }
                keys += u64::from(!same);
                entries += 1;
                last = Some((key.to_vec(), seqno, decoded.entry.kind, older_follows));
            }
        }
        if (keys, entries) != (summary.keys, summary.entries) || last.is_some_and(|(.., follows)| follows) {
            return Err(self.corrupt(0, "as many entries as the manifest names"));
        }
        if summary.past.is_some() { self.check_past() } else { Ok(()) }
    }
}

impl Segment {
    /// Whether the index, if there is one, leads from a key to its newest entry.
    fn is_indexed(&self, key: &[u8], offset: usize) -> bool {
        let (Some(index), Some(region)) = (&self.index, &self.region) else { return true };
        let hash = index.seeded(Hash::with_seed(key, index.hash_seed()));
        if let Some((start, end)) = index.filter_line(hash)
            && !region.get(start..end).is_some_and(|line| may_hold(line, hash))
        {
            return false;
        }
        index.slot(region, hash).and_then(|slot| slot.entry_at) == Some(offset)
    }

    /// Reads every section again, also those that opening has no need of, and holds the summary against the manifest's.
    fn check_sections(&self, expected: &Finished) -> Result<()> {
        let file = self.file()?;
        let read = |offset: u64, len: usize| {
            let mut buf = vec![0; len];
            file.read_at(offset, &mut buf).at("read", || self.path.clone())?;
            Ok::<_, Error>(buf)
        };
        for section in read_sections(&self.path, expected.file_len, expected, &read)? {
            let bytes = read(section.offset, section.len as usize)?;
            if crc(&[&bytes]) != section.crc {
                return Err(self.corrupt(section.offset, "the checksum of the section"));
            }
            if section.tag == Tag::Summary {
                let summary = Summary::decode(&mut Reader::new(&bytes));
                if summary.map_err(|bad| bad.of(&self.path, section.offset))? != expected.summary {
                    return Err(self.corrupt(section.offset, "the summary that the manifest names"));
                }
            }
        }
        Ok(())
    }
}

/// Why the file of a segment could not be opened, or not again.
#[cold]
fn unopened(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => Error::Missing { path: path.to_path_buf() },
        ErrorKind::InvalidData => {
            let what = "the file that was read before; another one has its name now";
            Corruption { offset: 0, what }.of(path, 0)
        }
        _ => Error::io("open", path, error),
    }
}

/// A key that is looked up in several segments: hashed once, and only where an index is met. Segments of one database
/// have one seed for the hash; only in a copy of a database are there others.
#[derive(Debug)]
pub(crate) struct PointKey<'a> {
    key: &'a [u8],
    hash: Option<(u64, Hash)>,
}

impl<'a> PointKey<'a> {
    pub(crate) fn new(key: &'a [u8]) -> Self {
        Self { key, hash: None }
    }

    #[inline]
    pub(crate) fn key(&self) -> &'a [u8] {
        self.key
    }

    #[inline]
    pub(super) fn hash(&mut self, seed: u64) -> Hash {
        match self.hash {
            Some((known, hash)) if known == seed => hash,
            _ => self.hash.insert((seed, Hash::with_seed(self.key, seed))).1,
        }
    }
}

/// Where a look-up has looked in a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Probe {
    /// Whether the filter let the key pass, where there is one.
    pub(crate) filter: Option<bool>,
    /// The partition and the slot of the index that were looked at.
    pub(crate) slot: Option<(u64, u64)>,
    /// Where the entry begins that the slot names, if the fingerprint was the key's.
    pub(crate) entry_at: Option<u64>,
    /// Blocks of which an entry was read.
    pub(crate) blocks: u32,
    /// An entry of the key was there.
    pub(crate) key_found: bool,
}

/// What the index of a segment takes, in bytes of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct IndexNumbers {
    pub(crate) slot_bytes: u64,
    pub(crate) filter_bytes: u64,
}

/// The marks of range tombstones over a key that are still to be shown.
struct Marks(Shown);

impl Marks {
    /// Shows the marks above an entry; all that are left, without one.
    #[inline]
    fn show_above(&mut self, seqno: Option<u64>, lookup: &mut Lookup) -> Result<Option<Answer>> {
        // Segments keep no order in a commit: the point entry comes behind the mark.
        while let Some(mark) = self.0.next_above(seqno.map(|seqno| (seqno, u32::MAX))) {
            if lookup.see(mark.seen())? == Found::Deleted {
                return Ok(Some(Answer::Deleted));
            }
        }
        Ok(None)
    }

    /// Shows an entry, behind the marks above it.
    #[inline]
    fn show_entry(
        &mut self,
        entry: &Entry,
        value: impl FnOnce() -> Bytes,
        lookup: &mut Lookup,
    ) -> Result<Option<Answer>> {
        if let Some(answer) = self.show_above(Some(entry.seqno), lookup)? {
            return Ok(Some(answer));
        }
        match lookup.see(entry.seen())? {
            Found::Operand => {
                lookup.push(value());
                Ok(None)
            }
            found => Ok(found.answer(value)),
        }
    }
}

impl BlockData {
    /// The block's bytes.
    #[inline]
    pub(super) fn bytes<'a>(&'a self, segment: &'a Segment) -> &'a [u8] {
        let (bytes, start, end): (&[u8], _, _) = match self {
            Self::Mapped(start, end) => (segment.region.as_deref().unwrap_or_default(), start, end),
            Self::Read(pages, start, end) => (pages, start, end),
        };
        bytes.get(*start..*end).unwrap_or_default()
    }

    /// The value of an entry of this block, to keep.
    pub(super) fn share(&self, segment: &Segment, decoded: &Decoded) -> Bytes {
        let value = self.bytes(segment).get(decoded.value.clone()).unwrap_or_default();
        match (self, &segment.region) {
            (Self::Mapped(start, _), Some(region)) => {
                Bytes::window(|| region.owner(), start + decoded.value.start, value)
            }
            (Self::Read(pages, start, _), _) => {
                let owner = || -> Arc<dyn AsRef<[u8]> + Send + Sync> { Arc::<Vec<u8>>::clone(pages) };
                Bytes::window(owner, start + decoded.value.start, value)
            }
            _ => Bytes::copy_from(value),
        }
    }
}

/// Reads the footer from the end and the section table before it, and holds the digest against the manifest's.
fn read_sections(
    path: &Path,
    len: u64,
    expected: &Finished,
    read: &impl Fn(u64, usize) -> Result<Vec<u8>>,
) -> Result<Vec<Section>> {
    let corrupt = |offset, what| Corruption { offset, what }.of(path, 0);
    let tail_at = len.checked_sub(TAIL_LEN as u64).ok_or_else(|| corrupt(len, "footer"))?;
    let tail = read(tail_at, TAIL_LEN)?;
    let (file_id, table_len, table_crc) = footer::decode_tail(&tail).map_err(|bad| bad.of(path, tail_at))?;
    let table_at = tail_at.checked_sub(table_len as u64).ok_or_else(|| corrupt(tail_at, "section table"))?;
    let table = read(table_at, table_len)?;
    let digest = footer::digest(&[table.as_slice(), &tail].concat());
    if file_id != expected.file_id || digest != expected.footer_digest {
        return Err(corrupt(tail_at, "the footer that the manifest names; another file stands in its place"));
    }
    footer::decode_table(&table, table_crc, table_at).map_err(|bad| bad.of(path, table_at))
}

/// Fills in what else is known of the marks.
fn decode_marks(bytes: &[u8], fragments: &mut [Fragment]) -> Result<(), Corruption> {
    let mut reader = Reader::new(bytes);
    for mark in fragments.iter_mut().flat_map(|fragment| &mut fragment.marks) {
        mark.time = reader.varint("time of a range")?;
        mark.purge = decode_flags(&mut reader)?;
    }
    reader.finish("end of the marks")
}

fn decode_flags(reader: &mut Reader<'_>) -> Result<bool, Corruption> {
    match reader.u8("flags of a range")? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(reader.corrupt("flags of a range")),
    }
}

fn decode_ranges(bytes: &[u8]) -> Result<Vec<Fragment>, Corruption> {
    let mut reader = Reader::new(bytes);
    let mut fragments = Vec::new();
    while reader.remaining() > 0 {
        let start = reader.prefixed("start of a range")?.to_vec();
        let end = match reader.u8("end of a range")? {
            0 => None,
            1 => Some(reader.prefixed("end of a range")?.to_vec()),
            _ => return Err(reader.corrupt("end of a range")),
        };
        let count = reader.length("marks of a range")?;
        let mut marks = Vec::new();
        for _ in 0..count {
            let seqno = reader.varint("seqno of a range")?;
            let gap = reader.varint("gap of a range")?;
            marks.push(Mark { seqno, ordinal: 0, gap_start: (gap != 0).then_some(gap), time: 0, purge: false });
        }
        fragments.push(Fragment { span: KeySpan { start, end }, marks });
    }
    Ok(fragments)
}

fn decode_whole(bytes: &[u8]) -> Result<Tombstones, Corruption> {
    let mut reader = Reader::new(bytes);
    let count = reader.length("edges of ranges")?;
    let mut edges = Vec::new();
    for _ in 0..count {
        edges.push(Bytes::copy_from(reader.prefixed("edge of a range")?));
    }
    let mut parts = Vec::new();
    let mut seqno = 0u64;
    while reader.remaining() > 0 {
        let newer = reader.varint("seqno of a range")?;
        seqno = seqno.checked_add(newer).ok_or_else(|| reader.corrupt("seqno of a range"))?;
        let from = reader.varint("start of a range")?;
        let covered = reader.varint("end of a range")?;
        let gap = reader.varint("gap of a range")?;
        let time = reader.varint("time of a range")?;
        let purge = decode_flags(&mut reader)?;
        let mark = Mark { seqno, ordinal: 0, gap_start: (gap != 0).then_some(gap), time, purge };
        let edge = |at: u64| u32::try_from(at).map_err(|_| reader.corrupt("edge of a range"));
        let to = if covered == 0 { None } else { Some(edge(from.saturating_add(covered))?) };
        parts.push((edge(from)?, to, mark));
    }
    Tombstones::from_parts(edges, &parts).ok_or(Corruption { offset: 0, what: "ranges in order" })
}
