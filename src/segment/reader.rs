//! An open segment: its sections, and its blocks as they are read.

use std::sync::Arc;

use super::{
    block::Layout,
    entry::{Base, Decoded},
    fences::Fences,
    footer::Tag,
    index::Index,
    pages::{BlockData, Mapped, Pages, Reading, SegmentFile},
    ranges,
    sections::Sections,
    summary::SegmentMeta,
};
use crate::{
    base::{Bytes, Corruption, Error, Micros, Result, Seqno},
    env::Files,
    format::{FileKind, Header, Reader},
    merge::Tombstones,
};

/// Where blocks begin: after the header and the base of the seqnos.
const DATA_START: u32 = 40;
const _: () = assert!(DATA_START as usize == Header::LEN + 8);

/// An open segment.
#[derive(Debug)]
pub(crate) struct Segment {
    pages: Pages,
    base: Base,
    /// Where the blocks end: entries that the index names begin before it.
    blocks_end: usize,
    fences: Fences,
    index: Option<Index>,
    ranges: Arc<Tombstones>,
    max_seqno: Seqno,
    /// Whether it holds a purge.
    purges: bool,
}

/// Size of the index of a segment in the file, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct IndexNumbers {
    pub(crate) slot_bytes: u64,
    pub(crate) filter_bytes: u64,
}

impl Segment {
    /// Opens the segment that the manifest describes, and checks that it is that very file, and complete. Data is
    /// verified later, page by page, when it is first touched.
    ///
    /// If the system refuses the map, the segment is read by position, as if it were not to be mapped.
    pub(crate) fn open(files: &Arc<Files>, expected: &SegmentMeta, map: bool) -> Result<Self> {
        let file = SegmentFile::open(files, expected.number)?;
        let reading = file.reading()?;
        let len = reading.len()?;
        if len != expected.file_len {
            return Err(reading.corrupt(len, "the length that the manifest names"));
        }
        let seqno = read_base(&reading, expected)?;
        let sections = Sections::find(&reading, expected)?;
        let section = sections.needed(Tag::Fences)?;
        // Sections follow the data directly, and the fences come first: they begin where the data ends.
        let end = usize::try_from(section.offset).map_err(|_| reading.corrupt(0, "data that fits into memory"))?;
        let fences = Fences::decode(&section.bytes, DATA_START, section.offset).map_err(|bad| section.wrong(bad))?;
        let section = sections.needed(Tag::Pages)?;
        let crcs = Pages::decode_crcs(&section.bytes, end).map_err(|bad| section.wrong(bad))?;
        let ranges = ranges::decode(&sections, &expected.summary)?;
        let blocks_end = fences.blocks_end();
        let map = map.then(|| reading.map(len)).transpose()?.unwrap_or_default();
        // Without a map, a look-up in the index would read more pages than a search with the fences.
        let index = if map.is_there() { sections.get(Tag::Index)? } else { None };
        let index = index.map(|section| {
            let index = Index::decode(&section.bytes, blocks_end as u64..end as u64, expected.summary.keys);
            index.map_err(|bad| section.wrong(bad))
        });
        let index = index.transpose()?;
        let partitions = index.as_ref().map_or(0, Index::partitions);
        Ok(Self {
            pages: Pages::new(file, map, crcs, end, partitions),
            base: Base { seqno, time: expected.summary.times.map_or(Micros::ZERO, |times| times.base) },
            blocks_end,
            fences,
            index,
            ranges: Arc::new(ranges),
            max_seqno: expected.summary.max_seqno,
            purges: expected.summary.has_purges(),
        })
    }

    /// Returns the range tombstones.
    pub(crate) fn ranges(&self) -> &Arc<Tombstones> {
        &self.ranges
    }

    pub(crate) fn max_seqno(&self) -> Seqno {
        self.max_seqno
    }

    /// Returns the memory taken while it is open, in bytes.
    pub(crate) fn memory(&self) -> usize {
        let index = self.index.as_ref().map_or(0, Index::memory);
        self.fences.memory() + self.pages.memory() + index + self.ranges.memory()
    }

    /// Returns the size of the index in the file; `None` without an index.
    pub(crate) fn index_numbers(&self) -> Option<IndexNumbers> {
        let (filter_bytes, slot_bytes) = self.index.as_ref()?.file_bytes();
        Some(IndexNumbers { slot_bytes, filter_bytes })
    }

    pub(super) fn pages(&self) -> &Pages {
        &self.pages
    }

    /// Returns the index, and the data that it refers to.
    #[inline]
    pub(super) fn index(&self) -> Option<(&Index, Mapped<'_>)> {
        self.index.as_ref().zip(self.pages.mapped())
    }

    pub(super) fn fences(&self) -> &Fences {
        &self.fences
    }

    pub(super) fn base(&self) -> Base {
        self.base
    }

    pub(super) fn blocks_end(&self) -> usize {
        self.blocks_end
    }

    pub(super) fn has_purges(&self) -> bool {
        self.purges
    }

    /// Reads a block.
    pub(super) fn block(&self, number: usize) -> Result<Block> {
        let place = self.fences.block(number);
        let (start, end) = place.ok_or_else(|| self.corrupt(0, "a block inside the data"))?;
        let data = self.pages.block(start, end)?;
        let layout = Layout::of(data.bytes(&self.pages)).map_err(|bad| self.in_block(bad, number))?;
        Ok(Block { number, data, layout })
    }

    /// Reports damage in a block.
    #[cold]
    fn in_block(&self, bad: Corruption, block: usize) -> Error {
        bad.of(self.pages.path(), self.fences.block(block).map_or(0, |(start, _)| start as u64))
    }

    /// Reports damage in an entry that begins at a position of the file.
    #[cold]
    pub(super) fn in_entry(&self, bad: Corruption, at: usize) -> Error {
        bad.of(self.pages.path(), at as u64)
    }

    pub(super) fn corrupt(&self, offset: u64, what: &'static str) -> Error {
        self.pages.corrupt(offset, what)
    }
}

/// Reads the header, and returns the base of the seqnos.
fn read_base(reading: &Reading<'_>, expected: &SegmentMeta) -> Result<Seqno> {
    let head = reading.read(0, DATA_START as usize)?;
    let header = Header::decode(&head, FileKind::Segment).map_err(|bad| bad.of(reading.path()))?;
    if header.file_id != expected.file_id || header.number != expected.number {
        return Err(reading.corrupt(8, "the id that the manifest names; another file has its name"));
    }
    Reader::starting_at(&head, Header::LEN).u64("base").map(Seqno).map_err(|bad| bad.of(reading.path(), 0))
}

/// A block that was read. It borrows nothing from its segment, which is needed to access its entries.
#[derive(Clone, Debug)]
pub(super) struct Block {
    number: usize,
    data: BlockData,
    layout: Layout,
}

impl Block {
    /// Returns the number of entries, which is never 0.
    #[inline]
    pub(super) fn count(&self) -> usize {
        self.layout.count()
    }

    #[inline]
    pub(super) fn bytes<'a>(&'a self, segment: &'a Segment) -> &'a [u8] {
        self.data.bytes(&segment.pages)
    }

    /// Returns the value of an entry, to keep.
    pub(super) fn share(&self, segment: &Segment, decoded: &Decoded) -> Bytes {
        self.data.share(&segment.pages, decoded.value.clone())
    }

    /// Returns the entries, given the segment that the block was read from.
    #[inline]
    pub(super) fn entries<'a>(&'a self, segment: &'a Segment) -> Entries<'a> {
        Entries { segment, block: self, bytes: self.bytes(segment) }
    }
}

/// Entries of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entries<'a> {
    segment: &'a Segment,
    block: &'a Block,
    bytes: &'a [u8],
}

impl<'a> Entries<'a> {
    /// Decodes entry number `index`, with its key, even if an earlier entry stores it.
    #[inline]
    pub(super) fn entry(self, index: usize) -> Result<Decoded> {
        self.block.layout.entry(self.bytes, index, self.segment.base).map_err(|bad| self.wrong(bad))
    }

    /// Decodes entry number `index`. The key is empty if the first entry of its run stores it.
    #[inline]
    pub(super) fn bare(self, index: usize) -> Result<Decoded> {
        self.block.layout.bare(self.bytes, index, self.segment.base).map_err(|bad| self.wrong(bad))
    }

    /// Decodes only the seqno of entry number `index`.
    #[inline]
    pub(super) fn seqno(self, index: usize) -> Result<Seqno> {
        self.block.layout.seqno(self.bytes, index, self.segment.base).map_err(|bad| self.wrong(bad))
    }

    /// Returns where entry number `index` begins in the block.
    #[inline]
    pub(super) fn offset(self, index: usize) -> Result<usize> {
        self.block.layout.offset(self.bytes, index).map_err(|bad| self.wrong(bad))
    }

    /// Returns the number of the entry that begins at `offset` in the block.
    pub(super) fn index_of(self, offset: usize) -> Result<usize> {
        self.block.layout.index_of(self.bytes, offset).map_err(|bad| self.wrong(bad))
    }

    /// Returns the number of the first entry with a key ≥ `key`; the count if there is none.
    pub(super) fn lower_bound(self, key: &[u8]) -> Result<usize> {
        self.block.layout.lower_bound(self.bytes, key, self.segment.base).map_err(|bad| self.wrong(bad))
    }

    /// Returns the number of the first entry for which `before` does not hold; it must hold for all entries before
    /// that.
    pub(super) fn partition_point(self, before: impl Fn(&Decoded) -> bool) -> Result<usize> {
        self.block.layout.partition_point(self.bytes, self.segment.base, before).map_err(|bad| self.wrong(bad))
    }

    #[inline]
    pub(super) fn count(self) -> usize {
        self.block.count()
    }

    #[inline]
    pub(super) fn key(self, decoded: &Decoded) -> &'a [u8] {
        debug_assert!(decoded.key.end <= self.bytes.len(), "{decoded:?} in {} bytes", self.bytes.len());
        self.bytes.get(decoded.key.clone()).unwrap_or_default()
    }

    /// Returns the value as it is stored, which may be a difference.
    #[inline]
    pub(super) fn value(self, decoded: &Decoded) -> &'a [u8] {
        debug_assert!(decoded.value.end <= self.bytes.len(), "{decoded:?} in {} bytes", self.bytes.len());
        self.bytes.get(decoded.value.clone()).unwrap_or_default()
    }

    /// Returns the stored value, to keep.
    pub(super) fn share(self, decoded: &Decoded) -> Bytes {
        self.block.share(self.segment, decoded)
    }

    /// Prefetches a part of the block that will be read soon, from an entry on.
    #[inline]
    pub(super) fn fetch(self, index: usize, len: usize) {
        if let Ok(offset) = self.block.layout.offset(self.bytes, index) {
            self.block.data.fetch(&self.segment.pages, offset, len);
        }
    }

    /// Reports damage in the block.
    #[cold]
    pub(super) fn wrong(self, bad: Corruption) -> Error {
        self.segment.in_block(bad, self.block.number)
    }
}
