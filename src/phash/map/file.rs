//! An open map file: its sections, and which of its partitions have been verified.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::tail::{Shape, TAIL_LEN, Tail};
use crate::{
    base::{Corruption, Error, IoContext, Result},
    env::{File, Region},
    format::{Checksum, FileKind, Header, Reader, crc},
    phash::{
        hash::Seed,
        partition::{Directory, LINE_LEN},
    },
};

/// Bytes read at a time for a check.
const CHECK_LEN: usize = 256 << 10;

/// A map file that passed the checks of opening.
pub(super) struct Inner {
    pub(super) path: PathBuf,
    file: Arc<dyn File>,
    pub(super) region: Region,
    pub(super) seed_number: u64,
    pub(super) seed: Seed,
    pub(super) shape: Shape,
    pub(super) keys: u64,
    /// Ranges of the directory and the checksums in the file.
    pub(super) lines: std::ops::Range<usize>,
    checksums: std::ops::Range<usize>,
    /// Bit for each partition that has been verified.
    verified: Vec<AtomicU64>,
}

impl Inner {
    /// Opens a map file. Everything that look-ups rely on is checked here, the entries when they are first touched.
    pub(super) fn open(path: PathBuf, file: Arc<dyn File>) -> Result<Self> {
        let region = file.map().at("map", || path.clone())?;
        let bytes: &[u8] = &region;
        let len = bytes.len();
        let corrupt = |offset: usize, what| Corruption { offset: offset as u64, what }.of(&path, 0);
        let header =
            Header::decode(bytes.get(..Header::LEN).unwrap_or_default(), FileKind::Map).map_err(|bad| bad.of(&path))?;
        let tail_at =
            len.checked_sub(TAIL_LEN).filter(|at| *at >= Header::LEN).ok_or_else(|| corrupt(len, "a whole map"))?;
        let tail =
            Tail::decode(bytes.get(tail_at..).unwrap_or_default()).map_err(|bad| bad.of(&path, tail_at as u64))?;
        let directory_at = usize::try_from(tail.directory_at).unwrap_or(usize::MAX);
        let directory =
            bytes.get(directory_at..tail_at).ok_or_else(|| corrupt(tail_at, "a directory inside the file"))?;
        // One line and one checksum for each partition, and the closing line.
        let partitions = directory.len().checked_sub(LINE_LEN).map(|len| len / (LINE_LEN + 4));
        let partitions = partitions.filter(|count| directory.len() == (count + 1) * LINE_LEN + count * 4);
        let partitions = partitions.ok_or_else(|| corrupt(directory_at, "whole lines of a directory"))?;
        if crc(&[directory]) != tail.directory_crc {
            return Err(corrupt(directory_at, "checksum of the directory"));
        }
        let lines = directory_at..directory_at + (partitions + 1) * LINE_LEN;
        let shape = tail.shape;
        let directory =
            Directory::check(bytes.get(lines.clone()).unwrap_or_default(), tail.directory_at, |keys, extra| {
                shape.tail(keys, extra)
            });
        let directory = directory.map_err(|bad| bad.of(&path, tail.directory_at))?;
        let behind_header = directory.line(0).is_none_or(|line| line.at >= Header::LEN as u64);
        let slots = |partition| match (shape, directory.line(partition)) {
            (Shape::Mixed, Some(line)) => (2..=9).contains(&line.extra),
            (_, line) => line.is_some_and(|line| line.extra == 0),
        };
        if directory.keys() != tail.keys || !behind_header || !(0..directory.partitions()).all(slots) {
            return Err(corrupt(directory_at, "a directory over the keys of the map"));
        }
        let checksums = lines.end..tail_at;
        let verified = (0..partitions.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let (seed_number, seed) = (header.file_id, Seed::new(header.file_id));
        Ok(Self { seed_number, seed, shape, keys: tail.keys, lines, checksums, verified, path, file, region })
    }

    #[inline]
    pub(super) fn directory(&self) -> Directory<'_> {
        Directory::new(self.region.get(self.lines.clone()).unwrap_or_default())
    }

    pub(super) fn corrupt(&self, offset: u64, what: &'static str) -> Error {
        Corruption { offset, what }.of(&self.path, 0)
    }

    /// Checks a partition when it is first touched.
    #[inline]
    pub(super) fn verify(&self, partition: u64) -> Result<()> {
        let bit = 1u64 << (partition % 64);
        let word = usize::try_from(partition / 64).ok().and_then(|word| self.verified.get(word));
        if word.is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0) {
            return Ok(());
        }
        self.verified_now(partition)?;
        if let Some(word) = word {
            word.fetch_or(bit, Ordering::Relaxed);
        }
        Ok(())
    }

    #[cold]
    pub(super) fn verified_now(&self, partition: u64) -> Result<()> {
        let directory = self.directory();
        let extent = directory.extent(partition).ok_or_else(|| self.corrupt(0, "a partition that exists"))?;
        // In pieces: what a file claims about itself costs time, never memory.
        let mut buf = vec![0; CHECK_LEN.min(usize::try_from(extent.1 - extent.0).unwrap_or(CHECK_LEN))];
        let mut found = Checksum::default();
        let mut next = extent.0;
        while next < extent.1 {
            let len = buf.len().min(usize::try_from(extent.1 - next).unwrap_or(usize::MAX));
            let piece = buf.get_mut(..len).unwrap_or_default();
            self.file.read_at(next, piece).at("read", || self.path.clone())?;
            found.update(piece);
            next += len as u64;
        }
        let at = self.checksums.start + 4 * usize::try_from(partition).unwrap_or(0);
        let sum = Reader::starting_at(&self.region, at).u32("checksum of a partition");
        if sum.map_err(|bad| bad.of(&self.path, 0))? == found.finish() {
            return Ok(());
        }
        Err(self.corrupt(extent.0, "the checksum of the partition"))
    }
}
