//! A block: consecutive entries, and where each of them begins.

use super::{
    entry::{Base, Decoded, decode, decode_seqno},
    sizes::ALIGN,
};
use crate::{
    base::{Corruption, Seqno},
    format::{Reader, Writer},
};

/// Flag of the count: the block is compressed or sealed, as an extension describes. Reserved in format 1. Counts never
/// reach it: an entry takes at least four bytes of the 64 KiB that a block of several entries may hold.
const ENCODED: u16 = 0x8000;

/// Ends a block whose entries began at `offsets` in `out`.
pub(super) fn end(out: &mut Writer, offsets: &[usize]) {
    let count = offsets.len();
    assert!(count > 0 && count < usize::from(ENCODED), "{count} entries in a block");
    for &offset in offsets {
        let number = u16::try_from(offset / ALIGN);
        assert!(number.is_ok(), "one of {count} entries begins at {offset} of its block");
        out.u16(number.unwrap_or(u16::MAX));
    }
    out.u16(u16::try_from(count).unwrap_or(u16::MAX));
    out.pad_to(ALIGN);
}

/// Positions of the parts of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    offsets_at: usize,
    count: usize,
}

impl Layout {
    /// Reads the end of a block.
    ///
    /// The padding after the count is 0 or 2 bytes. A count is never 0, so its position is unambiguous: the last two
    /// bytes if they are not zero, else the two before them.
    #[inline]
    pub(super) fn of(block: &[u8]) -> Result<Self, Corruption> {
        let end = |back: usize| {
            let at = block.len().checked_sub(back)?;
            Some((at, usize::from(Reader::starting_at(block, at).u16("block end").ok()?)))
        };
        let (count_at, count) = match end(2) {
            Some((_, 0)) => end(4),
            found => found,
        }
        .filter(|(_, count)| *count > 0)
        .ok_or(Corruption { offset: 0, what: "entry count of the block" })?;
        if count & usize::from(ENCODED) != 0 {
            return Err(Corruption { offset: count_at as u64, what: "a block that is neither compressed nor sealed" });
        }
        let offsets_at = count_at
            .checked_sub(2 * count)
            .ok_or(Corruption { offset: count_at as u64, what: "entry offsets of the block" })?;
        Ok(Self { offsets_at, count })
    }

    pub(super) fn count(self) -> usize {
        self.count
    }

    /// Returns where entry number `index` begins in the block.
    #[inline]
    pub(super) fn offset(self, block: &[u8], index: usize) -> Result<usize, Corruption> {
        let at = self.offsets_at + 2 * index;
        Ok(usize::from(Reader::starting_at(block, at).u16("entry offset")?) * ALIGN)
    }

    /// Returns the number of the entry that begins at `offset` in the block.
    pub(super) fn index_of(self, block: &[u8], offset: usize) -> Result<usize, Corruption> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            if self.offset(block, middle)? < offset { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }

    /// Decodes entry number `index`, with its key, even if an earlier entry stores it.
    #[inline]
    pub(super) fn entry(self, block: &[u8], index: usize, base: Base) -> Result<Decoded, Corruption> {
        let decoded = self.bare(block, index, base)?;
        match decoded.entry.follower {
            None => Ok(decoded),
            Some(distance) => self.keyed(block, index, base, decoded, distance),
        }
    }

    /// Adds the key of the first entry of its run.
    #[cold]
    fn keyed(
        self,
        block: &[u8],
        index: usize,
        base: Base,
        decoded: Decoded,
        distance: u16,
    ) -> Result<Decoded, Corruption> {
        let bad = Corruption { offset: 0, what: "an entry of its key before one that follows it" };
        let first = index.checked_sub(usize::from(distance)).ok_or(bad)?;
        let first = self.bare(block, first, base)?;
        if first.entry.follower.is_some() || !decoded.key.is_empty() {
            return Err(bad);
        }
        Ok(Decoded { key: first.key, ..decoded })
    }

    /// Decodes only the seqno of entry number `index`.
    #[inline]
    pub(super) fn seqno(self, block: &[u8], index: usize, base: Base) -> Result<Seqno, Corruption> {
        let offset = self.offset(block, index)?;
        decode_seqno(block.get(..self.offsets_at).unwrap_or_default(), offset, base)
    }

    /// Decodes entry number `index`. The key is empty if the first entry of its run stores it.
    #[inline]
    pub(super) fn bare(self, block: &[u8], index: usize, base: Base) -> Result<Decoded, Corruption> {
        let offset = self.offset(block, index)?;
        // Entries end where the offsets begin: later bytes must never pass for a key or value.
        let entries = block.get(..self.offsets_at).unwrap_or_default();
        decode(entries, offset, entries.len(), base)
    }

    /// Returns the number of the first entry with a key ≥ `key`; the count if there is none.
    pub(super) fn lower_bound(self, block: &[u8], key: &[u8], base: Base) -> Result<usize, Corruption> {
        self.partition_point(block, base, |decoded| block.get(decoded.key.clone()).unwrap_or_default() < key)
    }

    /// Returns the number of the first entry for which `before` does not hold; it must hold for all entries before
    /// that.
    pub(super) fn partition_point(
        self,
        block: &[u8],
        base: Base,
        before: impl Fn(&Decoded) -> bool,
    ) -> Result<usize, Corruption> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            if before(&self.entry(block, middle, base)?) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}
