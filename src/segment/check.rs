//! The check of everything in a segment: every page, every entry, their order, and what the summary says of them.

use std::sync::Arc;

use super::{
    block::Layout,
    entry::Entry,
    footer::Tag,
    history::VersionCursor,
    index::may_hold,
    reader::{Segment, read_sections},
    summary::{Finished, Summary},
};
use crate::{
    base::{Corruption, Error, IoContext, Kind, Result},
    format::{Reader, crc},
    merge::Source,
    phash::Hash,
};

impl Segment {
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

    /// Reads every version, whole.
    fn check_past(self: &Arc<Self>) -> Result<()> {
        let mut cursor = VersionCursor::new(Arc::clone(self));
        cursor.seek(Some(&[]))?;
        while cursor.entry().is_some() {
            cursor.advance()?;
        }
        Ok(())
    }
}
