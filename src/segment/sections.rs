//! Sections of a segment, from the table in its footer; each is verified by its checksum when it is read.

use super::{
    footer::{self, Section, TAIL_LEN, Tag},
    pages::Reading,
    summary::SegmentMeta,
};
use crate::base::{Corruption, Error, Result};

/// Table of a segment's sections.
#[derive(Debug)]
pub(super) struct Sections<'a> {
    reading: &'a Reading<'a>,
    table: Vec<Section>,
    /// Where the table begins: every section ends before it.
    end: u64,
}

/// Contents of a section.
#[derive(Debug)]
pub(super) struct Body<'a> {
    reading: &'a Reading<'a>,
    /// Where it begins in the file.
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
}

impl<'a> Sections<'a> {
    /// Reads the footer at the end and the section table before it, and compares their digest with the manifest's.
    pub(super) fn find(reading: &'a Reading<'a>, expected: &SegmentMeta) -> Result<Self> {
        let SegmentMeta { file_id, file_len, footer_digest, .. } = *expected;
        let corrupt = |offset, what| reading.corrupt(offset, what);
        let tail_at = file_len.checked_sub(TAIL_LEN as u64).ok_or_else(|| corrupt(file_len, "footer"))?;
        let tail = reading.read(tail_at, TAIL_LEN)?;
        let wrong = |bad: Corruption, at| bad.of(reading.path(), at);
        let (id, table_len, table_crc) = footer::decode_tail(&tail).map_err(|bad| wrong(bad, tail_at))?;
        let table_at = tail_at.checked_sub(table_len as u64).ok_or_else(|| corrupt(tail_at, "section table"))?;
        let table = reading.read(table_at, table_len)?;
        let digest = footer::digest(&[table.as_slice(), &tail].concat());
        if id != file_id || digest != footer_digest {
            return Err(corrupt(tail_at, "the footer that the manifest names; another file stands in its place"));
        }
        let table = footer::decode_table(&table, table_crc, table_at).map_err(|bad| wrong(bad, table_at))?;
        Ok(Self { reading, table, end: table_at })
    }

    /// Reads a section, if it exists.
    pub(super) fn get(&self, tag: Tag) -> Result<Option<Body<'a>>> {
        let section = self.table.iter().find(|section| section.tag == tag);
        section.map(|section| self.read(section)).transpose()
    }

    /// Reads a section that every segment has.
    pub(super) fn needed(&self, tag: Tag) -> Result<Body<'a>> {
        self.get(tag)?.ok_or_else(|| self.reading.corrupt(self.end, "a section that every segment has"))
    }

    /// Reads all sections of known tags, one after the other.
    pub(super) fn all(&self) -> impl Iterator<Item = Result<(Tag, Body<'a>)>> {
        self.table.iter().map(|section| Ok((section.tag, self.read(section)?)))
    }

    fn read(&self, section: &Section) -> Result<Body<'a>> {
        Ok(Body { reading: self.reading, offset: section.offset, bytes: self.reading.section(section)? })
    }
}

impl Body<'_> {
    /// Reports damage in the section that its checksum does not show.
    pub(super) fn wrong(&self, bad: Corruption) -> Error {
        bad.of(self.reading.path(), self.offset)
    }
}
