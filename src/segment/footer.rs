//! End of a segment: where its sections are, and proof that it was finished.
//!
//! ```text
//!  table: one line of 24 bytes for each section        tail: 24 bytes
//!  tag u32 · flags u32 · offset u64 · length u32 · crc │ file id u64 · table length u32 · table crc · tail crc · magic
//! ```
//!
//! The magic comes last, so a truncated segment is never mistaken for a whole one. A section with an unknown tag is
//! skipped if its flags say that it is optional; otherwise the file is refused. So is a known section with other flags
//! than its own: they would say that its bytes are stored in another way.

use crate::{
    base::Corruption,
    format::{Reader, Writer, crc},
};

/// Ends every finished segment.
const MAGIC: u32 = u32::from_le_bytes(*b"SEGE");

/// Length of the tail, in bytes.
pub(super) const TAIL_LEN: usize = 24;

const LINE_LEN: usize = 24;

/// Maximum number of sections, more than any release will ever write.
const SECTIONS_MAX: usize = 64;

/// Flag of a section: a reader that does not know it may skip it.
const OPTIONAL: u32 = 1;

/// Kind of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Tag {
    Fences = u32::from_le_bytes(*b"FENC"),
    Pages = u32::from_le_bytes(*b"PAGE"),
    Ranges = u32::from_le_bytes(*b"RANG"),
    /// Times and purge flags of the range tombstones in `Ranges`.
    RangeTimes = u32::from_le_bytes(*b"RANM"),
    /// Range tombstones that are not cut into fragments: instead of those two, where cutting would multiply them.
    Whole = u32::from_le_bytes(*b"RANW"),
    Summary = u32::from_le_bytes(*b"SUMM"),
    /// Perfect-hash index: a reader that does not know it finds keys with the fences.
    Index = u32::from_le_bytes(*b"INDX"),
    /// Places of the recipes of large values: whoever collects chunks must know them all.
    Recipes = u32::from_le_bytes(*b"RCPT"),
}

impl Tag {
    /// All tags that this release writes and reads.
    const ALL: [Self; 8] = [
        Self::Fences,
        Self::Pages,
        Self::Ranges,
        Self::RangeTimes,
        Self::Whole,
        Self::Summary,
        Self::Index,
        Self::Recipes,
    ];

    fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|tag| *tag as u32 == number)
    }

    fn flags(self) -> u32 {
        match self {
            Self::Index => OPTIONAL,
            Self::Fences
            | Self::Pages
            | Self::Ranges
            | Self::RangeTimes
            | Self::Whole
            | Self::Summary
            | Self::Recipes => 0,
        }
    }
}

/// A section: where it is, and its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) tag: Tag,
    pub(super) offset: u64,
    pub(super) len: u32,
    pub(super) crc: u32,
}

/// Encodes table and tail.
pub(super) fn encode(sections: &[Section], file_id: u64) -> Vec<u8> {
    assert!(sections.len() <= SECTIONS_MAX, "{} sections", sections.len());
    for Section { tag, .. } in sections {
        assert!(Tag::ALL.contains(tag), "a section {tag:?} that its own reader would refuse");
    }
    let mut out = Writer::default();
    for section in sections {
        out.u32(section.tag as u32);
        out.u32(section.tag.flags());
        out.u64(section.offset);
        out.u32(section.len);
        out.u32(section.crc);
    }
    let table = crc(&[out.bytes()]);
    let len = u32::try_from(out.len()).unwrap_or(u32::MAX);
    let mut tail = Writer::default();
    tail.u64(file_id);
    tail.u32(len);
    tail.u32(table);
    tail.u32(crc(&[tail.bytes()]));
    tail.u32(MAGIC);
    out.raw(tail.bytes());
    out.into_bytes()
}

/// Returns the digest of a footer that the manifest stores.
pub(super) fn digest(footer: &[u8]) -> u32 {
    crc(&[footer])
}

/// Decodes the last bytes of the file: file id, length of the table, and checksum of the table.
pub(super) fn decode_tail(tail: &[u8]) -> Result<(u64, usize, u32), Corruption> {
    let mut reader = Reader::new(tail);
    let file_id = reader.u64("file id")?;
    let len = reader.u32("length of the section table")? as usize;
    let table_crc = reader.u32("checksum of the section table")?;
    let sum = crc(&[tail.get(..16).unwrap_or_default()]);
    reader.expect_u32(sum, "footer checksum")?;
    reader.expect_u32(MAGIC, "segment magic")?;
    reader.finish("end of the footer")?;
    if !len.is_multiple_of(LINE_LEN) || len / LINE_LEN > SECTIONS_MAX {
        return Err(Corruption { offset: 8, what: "length of the section table" });
    }
    Ok((file_id, len, table_crc))
}

/// Decodes the section table. Every section ends before `limit`, where the table begins.
pub(super) fn decode_table(table: &[u8], table_crc: u32, limit: u64) -> Result<Vec<Section>, Corruption> {
    if crc(&[table]) != table_crc {
        return Err(Corruption { offset: 0, what: "checksum of the section table" });
    }
    let mut sections = Vec::new();
    let mut reader = Reader::new(table);
    while reader.remaining() > 0 {
        let number = reader.u32("section tag")?;
        let flags = reader.u32("section flags")?;
        let offset = reader.u64("section offset")?;
        let len = reader.u32("section length")?;
        let crc = reader.u32("section checksum")?;
        if offset.checked_add(u64::from(len)).is_none_or(|end| end > limit) {
            return Err(reader.corrupt("a section inside the file"));
        }
        match Tag::from_number(number) {
            Some(tag) if flags == tag.flags() => sections.push(Section { tag, offset, len, crc }),
            Some(_) => return Err(reader.corrupt("a section stored as this release stores it")),
            None if flags & OPTIONAL != 0 => {}
            None => return Err(reader.corrupt("a section that this release knows")),
        }
    }
    Ok(sections)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sections() -> Vec<Section> {
        vec![
            Section { tag: Tag::Fences, offset: 32, len: 100, crc: 7 },
            Section { tag: Tag::Summary, offset: 132, len: 9, crc: 8 },
        ]
    }

    fn decode(bytes: &[u8]) -> Result<(u64, Vec<Section>), Corruption> {
        let tail_at = bytes.len().checked_sub(TAIL_LEN).ok_or(Corruption { offset: 0, what: "footer" })?;
        let (file_id, len, table_crc) = decode_tail(&bytes[tail_at..])?;
        let table_at = tail_at.checked_sub(len).ok_or(Corruption { offset: 0, what: "table" })?;
        Ok((file_id, decode_table(&bytes[table_at..tail_at], table_crc, 141)?))
    }

    #[test]
    fn decodes_what_it_encoded() {
        assert_eq!(decode(&encode(&sections(), 42)), Ok((42, sections())));
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_corruption() {
        let good = encode(&sections(), 42);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).is_err(), "bit {bit} flipped unnoticed");
        }
        for len in 0..good.len() {
            assert!(decode(&good[..len]).is_err(), "{len} bytes taken for a footer");
        }
    }

    #[test]
    fn an_unknown_section_is_skipped_only_if_it_is_optional_and_a_known_one_has_its_own_flags() {
        let line = |tag: u32, flags: u32| {
            let mut out = Writer::default();
            out.u32(tag);
            out.u32(flags);
            out.u64(0);
            out.u32(0);
            out.u32(0);
            out.into_bytes()
        };
        let decode = |tag: u32, flags: u32| decode_table(&line(tag, flags), crc(&[&line(tag, flags)]), 10);
        assert_eq!(decode(0x1234, OPTIONAL), Ok(Vec::new()));
        assert_eq!(decode(0x1234, OPTIONAL | 8), Ok(Vec::new()));
        assert!(decode(0x1234, 0).is_err());
        for tag in Tag::ALL {
            for bit in 0..32 {
                assert!(decode(tag as u32, tag.flags() ^ 1 << bit).is_err(), "{tag:?} with flag bit {bit} changed");
            }
            assert_eq!(decode(tag as u32, tag.flags()).unwrap().len(), 1);
        }
    }
}
