//! An open segment: its sections, and its blocks as they are read.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    entry::{Base, Decoded},
    fences::Fences,
    footer::{self, Section, TAIL_LEN, Tag},
    index::{Index, pages},
    ranges::{decode_marks, decode_ranges, decode_whole},
    sizes::PAGE,
    summary::Finished,
};
use crate::{
    base::{Bytes, Corruption, Error, IoContext, Result},
    env::{Dir, File, Files, ReadFile, Region},
    format::{FileKind, Header, Reader, crc, name},
    merge::Tombstones,
};

/// Where blocks begin: behind the header and the base of the seqnos.
const DATA_START: u32 = 40;
const _: () = assert!(DATA_START as usize == Header::LEN + 8);

/// No entry has a longer head: flags, lengths, and numbers of at most ten bytes each.
pub(super) const ENTRY_HEAD_MAX: usize = 64;

/// An open segment.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(super) path: PathBuf,
    pub(super) file: ReadFile,
    /// The mapped file, which needs no open one any more; without it every read is a positioned one, and verified.
    pub(super) region: Option<Region>,
    pub(super) base: Base,
    /// Where the blocks end, and where everything does that pages are verified of.
    pub(super) blocks_end: usize,
    pub(super) data_end: usize,
    pub(super) fences: Fences,
    pub(super) index: Option<Index>,
    pub(super) page_crcs: Vec<u32>,
    /// A bit for each page that has been verified.
    pub(super) verified: Vec<AtomicU64>,
    /// A bit for each partition of the index whose pages have been.
    pub(super) verified_partitions: Vec<AtomicU64>,
    pub(super) ranges: Arc<Tombstones>,
    pub(super) max_seqno: u64,
    /// Something inside hides the past.
    pub(super) purges: bool,
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

    /// Has a part of a block fetched, if it is mapped.
    #[inline]
    pub(super) fn fetch(&self, data: &BlockData, at: usize, len: usize) {
        if let (BlockData::Mapped(start, end), Some(region)) = (data, &self.region) {
            region.fetch(start + at, len.min((end - start).saturating_sub(at)));
        }
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
    pub(super) fn is_verified(&self, page: usize) -> bool {
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
    pub(super) fn file(&self) -> Result<Arc<dyn File>> {
        self.file.get().map_err(|error| unopened(&self.path, error))
    }

    /// Reads pages by position and verifies each.
    pub(super) fn read_pages(&self, from: usize, to: usize) -> Result<Vec<u8>> {
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

/// What the index of a segment takes, in bytes of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct IndexNumbers {
    pub(crate) slot_bytes: u64,
    pub(crate) filter_bytes: u64,
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
pub(super) fn read_sections(
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
