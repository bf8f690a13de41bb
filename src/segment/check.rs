//! Check of a whole segment: every page, every entry, their order, and the summary.

use std::sync::Arc;

use super::{
    entry::Entry,
    footer::Tag,
    history::VersionCursor,
    index::Probe,
    lookup::PointKey,
    reader::Segment,
    sections::Sections,
    summary::{SegmentMeta, Summary},
    writer::PLACE_UNIT,
};
use crate::{
    base::{Corruption, Kind, Result},
    format::Reader,
    merge::Source,
};

impl Segment {
    /// Reads and checks everything: each page, each entry, their order, and that the summary is correct.
    pub(crate) fn check(self: &Arc<Self>, expected: &SegmentMeta) -> Result<()> {
        let summary = &expected.summary;
        let mut recipes = self.check_sections(expected)?.into_iter();
        self.pages().check()?;
        let mut last: Option<(Vec<u8>, u64, Kind, bool)> = None;
        let (mut keys, mut entries) = (0, 0);
        for number in 0..self.fences().count() {
            let block = self.block(number)?;
            let all = block.entries(self);
            let wrong = |what| all.wrong(Corruption { offset: 0, what });
            for index in 0..all.count() {
                let decoded = all.entry(index)?;
                let key = all.key(&decoded);
                let Entry { seqno, older_follows, .. } = decoded.entry;
                let start = self.fences().block(number).map_or(0, |(start, _)| start);
                let offset = start + all.offset(index)?;
                let same = last.as_ref().is_some_and(|(last, ..)| last == key);
                let in_order = last.as_ref().is_none_or(|(last, newer, kind, follows)| {
                    // Operands of one batch that could not be combined share its seqno, and so do a purge and what its
                    // batch wrote after it.
                    let shares = *kind == Kind::Operand || decoded.entry.kind == Kind::Purge;
                    let below = *newer > seqno.0 || *newer == seqno.0 && shares;
                    *follows == same && if same { below } else { last.as_slice() < key }
                });
                let in_span = summary.holds(key) && (summary.min_seqno..=summary.max_seqno).contains(&seqno);
                if !in_order || !in_span {
                    return Err(wrong("entries in order, inside the segment's span"));
                }
                if !same && !self.is_indexed(key, offset)? {
                    return Err(wrong("every key in the index, with the place of its newest entry"));
                }
                let is_recipe = decoded.entry.kind == Kind::Recipe;
                if is_recipe && recipes.next().map(|place| place as usize * PLACE_UNIT as usize) != Some(offset) {
                    return Err(wrong("every recipe where its section says"));
                }
                keys += u64::from(!same);
                entries += 1;
                last = Some((key.to_vec(), seqno.0, decoded.entry.kind, older_follows));
            }
        }
        if recipes.next().is_some() {
            return Err(self.corrupt(0, "as many recipes as their section names"));
        }
        if (keys, entries) != (summary.keys, summary.entries) || last.is_some_and(|(.., follows)| follows) {
            return Err(self.corrupt(0, "as many entries as the manifest names"));
        }
        if summary.history.is_some() { self.check_history() } else { Ok(()) }
    }

    /// Returns whether the index, if there is one, leads from a key to its newest entry.
    fn is_indexed(&self, key: &[u8], offset: usize) -> Result<bool> {
        let Some((index, data)) = self.index() else { return Ok(true) };
        let found = index.probe(data, PointKey::new(key).seeded(index), true, &mut Probe::default())?;
        Ok(found == Some(offset))
    }

    /// Reads every section of a known tag again, including those that opening does not need, and compares the summary
    /// with the manifest's. Returns the places of recipes.
    fn check_sections(&self, expected: &SegmentMeta) -> Result<Vec<u32>> {
        let reading = self.pages().reading()?;
        let mut recipes = None;
        for section in Sections::find(&reading, expected)?.all() {
            let (tag, body) = section?;
            if tag == Tag::Summary {
                let summary = Summary::decode(&mut Reader::new(&body.bytes)).map_err(|bad| body.wrong(bad))?;
                if summary != expected.summary {
                    return Err(self.corrupt(body.offset, "the summary that the manifest names"));
                }
            }
            if tag == Tag::Recipes {
                let (mut reader, mut places) = (Reader::new(&body.bytes), Vec::new());
                while reader.remaining() > 0 {
                    places.push(reader.u32("place of a recipe").map_err(|bad| body.wrong(bad))?);
                }
                recipes = Some(places);
            }
        }
        if recipes.is_some() != expected.summary.recipes {
            return Err(self.corrupt(0, "places of recipes if there are any"));
        }
        Ok(recipes.unwrap_or_default())
    }

    /// Reads every version with its whole value.
    fn check_history(self: &Arc<Self>) -> Result<()> {
        let mut cursor = VersionCursor::new(Arc::clone(self));
        cursor.seek(Some(&[]))?;
        while cursor.entry().is_some() {
            cursor.advance()?;
        }
        Ok(())
    }
}
