//! The only access to the bytes of a segment. Callers name a position and a length, and get verified bytes.
//!
//! ```text
//!  opening, check  ──▶ Reading      header, footer and sections: read by position, each with a checksum of its own
//!  look-ups        ──▶ Mapped       pieces of the map; a page is verified when it is first touched
//!  cursors, check  ──▶ BlockData    a block: in the map, or in whole pages that were read by position
//! ```
//!
//! Pages are verified through an ordinary read, so that a bad medium is an error and no signal; then they are served
//! from the map. No other module knows where bytes are in memory: positions in the file have a meaning only here. To
//! compress blocks or seal pages one day, only this file has to change.

use std::{
    io::{self, ErrorKind},
    ops::{Deref, Range},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{footer::Section, sizes::PAGE};
use crate::{
    base::{Bytes, Corruption, Error, FileNumber, IoContext, Result},
    env::{Dir, File, Files, ReadFile, Region},
    format::{Reader, crc, name},
};

/// The file of a segment, open only while it is read.
#[derive(Debug)]
pub(super) struct SegmentFile {
    path: PathBuf,
    file: ReadFile,
}

impl SegmentFile {
    /// Opens segment file `number`.
    pub(super) fn open(files: &Arc<Files>, number: FileNumber) -> Result<Self> {
        let name = name::segment(number);
        let path = files.path().join(&name);
        match ReadFile::open(files, name) {
            Ok(file) => Ok(Self { path, file }),
            Err(error) => Err(unopened(&path, error)),
        }
    }

    /// Returns the open file, for several reads by position.
    pub(super) fn reading(&self) -> Result<Reading<'_>> {
        let file = self.file.get().map_err(|error| unopened(&self.path, error))?;
        Ok(Reading { path: &self.path, file })
    }
}

/// Returns why the file of a segment could not be opened, or not again.
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

/// A segment file that is being read by position.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    path: &'a Path,
    file: Arc<dyn File>,
}

impl<'a> Reading<'a> {
    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    /// Returns the length of the file.
    pub(super) fn len(&self) -> Result<u64> {
        self.file.len().at("read the length of", || self.path.to_path_buf())
    }

    /// Reads bytes without verifying them: header and footer have checksums of their own.
    pub(super) fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.file.read_at(offset, &mut bytes).at("read", || self.path.to_path_buf())?;
        Ok(bytes)
    }

    /// Reads a section and verifies it.
    pub(super) fn section(&self, section: &Section) -> Result<Vec<u8>> {
        let bytes = self.read(section.offset, section.len as usize)?;
        if crc(&[&bytes]) != section.crc {
            return Err(self.corrupt(section.offset, "the checksum of the section"));
        }
        Ok(bytes)
    }

    /// Maps the file, which has `len` bytes. If the system refuses the map, the file is read by position, as if it were
    /// not to be mapped.
    pub(super) fn map(&self, len: u64) -> Result<Map> {
        let region = match self.file.map() {
            Err(refused) if Region::is_refused(&refused) => None,
            mapped => Some(mapped.at("map", || self.path.to_path_buf())?),
        };
        if region.as_ref().is_some_and(|region| (region.len() as u64) < len) {
            return Err(self.corrupt(len, "the length that the manifest names"));
        }
        Ok(Map(region))
    }

    pub(super) fn corrupt(&self, offset: u64, what: &'static str) -> Error {
        Corruption { offset, what }.of(self.path, 0)
    }
}

/// A mapped file, or none.
#[derive(Debug, Default)]
pub(super) struct Map(Option<Region>);

impl Map {
    pub(super) fn is_there(&self) -> bool {
        self.0.is_some()
    }
}

/// Data of an open segment in pages, and which of them were verified.
#[derive(Debug)]
pub(super) struct Pages {
    file: SegmentFile,
    /// The mapped file, which needs no open file descriptor; without a map, every read is by position, and verified.
    map: Map,
    /// Where the pages end: sections follow.
    end: usize,
    crcs: Vec<u32>,
    /// A bit for each page that was verified.
    verified: Vec<AtomicU64>,
    /// A bit for each partition of the index whose pages were verified.
    verified_partitions: Vec<AtomicU64>,
}

impl Pages {
    /// Returns the pages of data up to `end`, with `partitions` partitions of an index among them.
    pub(super) fn new(file: SegmentFile, map: Map, crcs: Vec<u32>, end: usize, partitions: usize) -> Self {
        assert!(crcs.len() == end.div_ceil(PAGE), "{} checksums for {end} bytes in pages", crcs.len());
        let bits = |count: usize| (0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let (verified, verified_partitions) = (bits(crcs.len()), bits(partitions));
        Self { file, map, end, crcs, verified, verified_partitions }
    }

    /// Decodes the section of checksums, one for each page of data up to `end`.
    pub(super) fn decode_crcs(section: &[u8], end: usize) -> Result<Vec<u32>, Corruption> {
        let crcs = section.chunks_exact(4).map(|four| Reader::new(four).u32("page checksum"));
        let crcs: Vec<u32> = crcs.collect::<Result<_, Corruption>>()?;
        if crcs.len() != end.div_ceil(PAGE) || !section.len().is_multiple_of(4) {
            return Err(Corruption { offset: 0, what: "a checksum for each page of data" });
        }
        Ok(crcs)
    }

    pub(super) fn path(&self) -> &Path {
        &self.file.path
    }

    /// Returns the open file, for several reads by position.
    pub(super) fn reading(&self) -> Result<Reading<'_>> {
        self.file.reading()
    }

    #[cold]
    pub(super) fn corrupt(&self, offset: u64, what: &'static str) -> Error {
        Corruption { offset, what }.of(self.path(), 0)
    }

    /// Returns the pages in the map, if there is one.
    #[inline]
    pub(super) fn mapped(&self) -> Option<Mapped<'_>> {
        let region = self.map.0.as_ref()?;
        Some(Mapped { pages: self, region, bytes: region })
    }

    /// Returns the memory taken while the segment is open, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.crcs.len() * 5
    }

    /// Reads and verifies every page, even those verified before.
    pub(super) fn check(&self) -> Result<()> {
        (0..self.crcs.len()).try_for_each(|page| self.verify_first(page))
    }

    /// Returns the bytes of a block from `start` to `end`.
    pub(super) fn block(&self, start: usize, end: usize) -> Result<BlockData> {
        if start > end || end > self.end {
            return Err(self.corrupt(0, "a block inside the data"));
        }
        if self.map.is_there() {
            self.verify(start, end)?;
            return Ok(BlockData(Held::Mapped(start, end)));
        }
        let pages = pages(start, end);
        let from = pages.start * PAGE;
        Ok(BlockData(Held::Read(Arc::new(self.read(pages)?), start - from, end - from)))
    }

    /// Verifies pages the first time they are touched.
    #[inline]
    fn verify(&self, start: usize, end: usize) -> Result<()> {
        pages(start, end).try_for_each(|page| if self.is_verified(page) { Ok(()) } else { self.verify_first(page) })
    }

    #[inline]
    fn is_verified(&self, page: usize) -> bool {
        is_set(&self.verified, page)
    }

    /// Verifies a page, and records that.
    #[cold]
    fn verify_first(&self, page: usize) -> Result<()> {
        self.read(page..page + 1)?;
        set(&self.verified, page);
        Ok(())
    }

    /// Verifies the pages of a partition of the index the first time it is touched.
    #[inline]
    fn verify_partition(&self, partition: usize, start: usize, end: usize) -> Result<()> {
        if is_set(&self.verified_partitions, partition) {
            return Ok(());
        }
        self.verify(start, end)?;
        set(&self.verified_partitions, partition);
        Ok(())
    }

    /// Reads pages by position and verifies each.
    fn read(&self, pages: Range<usize>) -> Result<Vec<u8>> {
        let start = pages.start * PAGE;
        let end = (pages.end * PAGE).min(self.end);
        let bytes = self.reading()?.read(start as u64, end.saturating_sub(start))?;
        for (page, bytes) in pages.zip(bytes.chunks(PAGE)) {
            if self.crcs.get(page) != Some(&crc(&[bytes])) {
                return Err(self.corrupt((page * PAGE) as u64, "the checksum of the page"));
            }
        }
        Ok(bytes)
    }
}

/// Returns the pages that a range of the file touches.
#[inline]
fn pages(start: usize, end: usize) -> Range<usize> {
    start / PAGE..end.div_ceil(PAGE)
}

#[inline]
fn is_set(bits: &[AtomicU64], at: usize) -> bool {
    bits.get(at / 64).is_some_and(|word| word.load(Ordering::Relaxed) & 1 << (at % 64) != 0)
}

/// Records that something was verified. The bytes do not change, so no order with other memory is needed.
fn set(bits: &[AtomicU64], at: usize) {
    assert!(at / 64 < bits.len(), "bit {at} of {} words", bits.len());
    if let Some(word) = bits.get(at / 64) {
        word.fetch_or(1 << (at % 64), Ordering::Relaxed);
    }
}

/// Data of a mapped segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapped<'a> {
    pages: &'a Pages,
    region: &'a Region,
    bytes: &'a [u8],
}

impl<'a> Mapped<'a> {
    /// Returns verified bytes from `start` on. If they are not all data, what named the position is corrupt.
    #[inline]
    pub(super) fn get(self, start: usize, len: usize) -> Result<Piece<'a>> {
        let piece = self.piece(start, len).ok_or_else(|| self.outside(start))?;
        self.pages.verify(start, start + len)?;
        Ok(piece)
    }

    /// Returns the bytes if they were verified before: for hints, which must not wait for a read.
    #[inline]
    pub(super) fn at_hand(self, start: usize, len: usize) -> Option<Piece<'a>> {
        let piece = self.piece(start, len)?;
        pages(start, start + len).all(|page| self.pages.is_verified(page)).then_some(piece)
    }

    /// Returns the bytes of a partition of the index. One bit records that all of them are verified.
    #[inline]
    pub(super) fn partition(self, partition: u64, start: usize, end: usize) -> Result<Piece<'a>> {
        let piece = end.checked_sub(start).and_then(|len| self.piece(start, len));
        let found = piece.zip(usize::try_from(partition).ok());
        let (piece, partition) = found.ok_or_else(|| self.outside(start))?;
        self.pages.verify_partition(partition, start, end)?;
        Ok(piece)
    }

    /// Returns the bytes of a partition, if they were verified before.
    #[inline]
    pub(super) fn partition_at_hand(self, partition: u64, start: usize, end: usize) -> Option<Piece<'a>> {
        let is_verified = is_set(&self.pages.verified_partitions, usize::try_from(partition).ok()?);
        self.piece(start, end.checked_sub(start)?).filter(|_| is_verified)
    }

    /// Prefetches bytes that will be needed soon.
    #[inline]
    pub(super) fn fetch(self, start: usize, len: usize) {
        self.region.fetch(start, len);
    }

    /// Prefetches the first bytes of an entry, if its page was verified before; waits for nothing else.
    #[inline]
    pub(super) fn fetch_entry(self, at: usize) {
        if self.pages.is_verified(at / PAGE) {
            // Entries of the usual length touch three cache lines.
            let line = |at: usize| self.bytes.get(at).copied().unwrap_or(0);
            std::hint::black_box(line(at) ^ line(at + 60) ^ line(at + 120));
        }
    }

    #[cold]
    pub(super) fn corrupt(self, offset: u64, what: &'static str) -> Error {
        self.pages.corrupt(offset, what)
    }

    /// Returns bytes that may not be verified yet, if they are data.
    #[inline]
    fn piece(self, start: usize, len: usize) -> Option<Piece<'a>> {
        let end = start.checked_add(len).filter(|end| *end <= self.pages.end)?;
        Some(Piece { bytes: self.bytes.get(start..end)?, start, region: self.region })
    }

    #[cold]
    fn outside(self, start: usize) -> Error {
        self.corrupt(start as u64, "bytes inside the data")
    }
}

/// Verified bytes of a segment.
#[derive(Clone, Debug)]
pub(super) struct Piece<'a> {
    bytes: &'a [u8],
    /// Where they begin in the region.
    start: usize,
    region: &'a Region,
}

impl Piece<'_> {
    /// Returns some of the bytes, to keep.
    #[inline]
    pub(super) fn share(&self, range: Range<usize>) -> Bytes {
        let start = self.start + range.start;
        Bytes::window(|| self.region.owner(), start, self.bytes.get(range).unwrap_or_default())
    }
}

impl Deref for Piece<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

/// Verified bytes of one block, without a borrow: the pages that they came from give access to them.
#[derive(Clone, Debug)]
pub(super) struct BlockData(Held);

#[expect(clippy::rc_buffer, reason = "the buffer is shared as it was filled, not copied")]
#[derive(Clone, Debug)]
enum Held {
    /// Position in the map.
    Mapped(usize, usize),
    /// Whole pages that were read, and the position of the block in them.
    Read(Arc<Vec<u8>>, usize, usize),
}

impl BlockData {
    /// Returns the bytes, given the pages that returned the block.
    #[inline]
    pub(super) fn bytes<'a>(&'a self, pages: &'a Pages) -> &'a [u8] {
        let (bytes, start, end): (&[u8], _, _) = match &self.0 {
            Held::Mapped(start, end) => (pages.map.0.as_deref().unwrap_or_default(), start, end),
            Held::Read(read, start, end) => (read, start, end),
        };
        debug_assert!(*end <= bytes.len(), "a block at {start}..{end} of {} bytes", bytes.len());
        bytes.get(*start..*end).unwrap_or_default()
    }

    /// Returns some of the bytes, to keep.
    pub(super) fn share(&self, pages: &Pages, range: Range<usize>) -> Bytes {
        let bytes = self.bytes(pages).get(range.clone()).unwrap_or_default();
        match (&self.0, &pages.map.0) {
            (Held::Mapped(start, _), Some(region)) => Bytes::window(|| region.owner(), start + range.start, bytes),
            (Held::Read(read, start, _), _) => {
                let owner = || -> Arc<dyn AsRef<[u8]> + Send + Sync> { Arc::<Vec<u8>>::clone(read) };
                Bytes::window(owner, start + range.start, bytes)
            }
            (Held::Mapped(..), None) => Bytes::copy_from(bytes),
        }
    }

    /// Prefetches a part of the block, if it is mapped.
    #[inline]
    pub(super) fn fetch(&self, pages: &Pages, at: usize, len: usize) {
        if let (Held::Mapped(start, end), Some(region)) = (&self.0, &pages.map.0) {
            region.fetch(start + at, len.min((end - start).saturating_sub(at)));
        }
    }
}
