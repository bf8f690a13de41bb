//! Ordered reading of a segment, in either direction.

use std::{path::Path, sync::Arc};

use super::{
    entry::Decoded,
    reader::{Block, Segment},
};
use crate::{
    base::{Bytes, Corruption, Error, Result, Seqno},
    merge::{Direction, EntryRef, Source},
};

/// A position in a segment.
#[derive(Debug)]
pub(crate) struct SegmentCursor {
    segment: Arc<Segment>,
    direction: Direction,
    /// Number of the current block, and the block, if there is one of that number.
    number: usize,
    block: Option<Block>,
    index: usize,
    current: Option<Decoded>,
}

impl SegmentCursor {
    /// Returns a cursor that is not positioned.
    pub(crate) fn new(segment: Arc<Segment>, direction: Direction) -> Self {
        Self { segment, direction, number: 0, block: None, index: 0, current: None }
    }

    /// Loads a block; `false` if there is none of that number.
    fn load(&mut self, number: usize) -> Result<bool> {
        self.number = number;
        self.block = None;
        self.current = None;
        if number >= self.segment.fences().count() {
            return Ok(false);
        }
        self.block = Some(self.segment.block(number)?);
        Ok(true)
    }

    /// Moves to an entry of the loaded block.
    fn stand(&mut self, index: usize) -> Result<()> {
        self.index = index;
        self.current = match &self.block {
            Some(block) => Some(block.entries(&self.segment).entry(index)?),
            None => None,
        };
        Ok(())
    }

    pub(super) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Reports damage in the current block.
    #[cold]
    pub(super) fn wrong(&self, bad: Corruption) -> Error {
        match &self.block {
            Some(block) => block.entries(&self.segment).wrong(bad),
            None => bad.of(self.segment.pages().path(), 0),
        }
    }

    /// Returns the current entry.
    #[inline]
    pub(super) fn decoded(&self) -> Option<&Decoded> {
        self.current.as_ref()
    }

    /// Returns the position: the block, and the entry in it.
    pub(super) fn place(&self) -> (usize, usize) {
        (self.number, self.index)
    }

    /// Returns the entry `back` entries before the current one and its stored value; `None` if it is in another block.
    pub(super) fn entry_before(&self, back: usize) -> Result<Option<(Decoded, &[u8])>> {
        let Some((block, index)) = self.block.as_ref().zip(self.index.checked_sub(back)) else { return Ok(None) };
        let entries = block.entries(&self.segment);
        let decoded = entries.entry(index)?;
        let value = entries.value(&decoded);
        Ok(Some((decoded, value)))
    }

    /// Seeks with the fences.
    fn go_to(&mut self, key: Option<&[u8]>) -> Result<()> {
        let Some(key) = key else {
            let last = self.segment.fences().count().checked_sub(1);
            let from_end = if self.direction == Direction::Backward { last } else { None };
            if self.load(from_end.unwrap_or(usize::MAX))? {
                self.stand(self.count() - 1)?;
            }
            return Ok(());
        };
        let number = self.segment.fences().find(key);
        if !self.load(number)? {
            return Ok(());
        }
        let at = self.block.as_ref().map_or(Ok(0), |block| block.entries(&self.segment).lower_bound(key))?;
        match self.direction {
            Direction::Forward if at < self.count() => self.stand(at),
            Direction::Forward => {
                if self.load(number + 1)? {
                    self.stand(0)?;
                }
                Ok(())
            }
            // Everything before the block is below the key: only in the first block there may be nothing below it.
            Direction::Backward => match (at.checked_sub(1), number.checked_sub(1)) {
                (Some(before), _) => self.stand(before),
                (None, Some(before)) => {
                    if self.load(before)? {
                        self.stand(self.count() - 1)?;
                    }
                    Ok(())
                }
                (None, None) => {
                    self.current = None;
                    Ok(())
                }
            },
        }
    }

    fn count(&self) -> usize {
        self.block.as_ref().map_or(0, Block::count)
    }
}

/// Fails unless a seek has led to the right side of a key. In a damaged file it may lead back, and a walk that jumps
/// would never end.
pub(super) fn check_side(
    segment: &Segment,
    direction: Direction,
    key: Option<&[u8]>,
    found: Option<&[u8]>,
) -> Result<()> {
    let Some((key, found)) = key.zip(found) else { return Ok(()) };
    let is_right = match direction {
        Direction::Forward => found >= key,
        Direction::Backward => found < key,
    };
    if is_right { Ok(()) } else { Err(segment.corrupt(0, "entries in the order of their keys")) }
}

impl Source for SegmentCursor {
    fn seek(&mut self, key: Option<&[u8]>) -> Result<()> {
        self.go_to(key)?;
        check_side(&self.segment, self.direction, key, self.entry().map(|entry| entry.key))
    }

    #[inline]
    fn entry(&self) -> Option<EntryRef<'_>> {
        let decoded = self.current.as_ref()?;
        let bytes = self.block.as_ref()?.bytes(&self.segment);
        Some(EntryRef {
            key: bytes.get(decoded.key.clone())?,
            seqno: decoded.entry.seqno,
            ordinal: 0,
            kind: decoded.entry.kind,
            gap_start: decoded.entry.gap_start,
            moved: decoded.entry.moved,
            time: decoded.entry.time,
            until: None,
            value: bytes.get(decoded.value.clone())?,
        })
    }

    fn value(&self) -> Bytes {
        match (&self.block, &self.current) {
            (Some(block), Some(decoded)) => block.share(&self.segment, decoded),
            _ => Bytes::default(),
        }
    }

    #[inline]
    fn advance(&mut self) -> Result<()> {
        match self.direction {
            Direction::Forward => {
                if self.index + 1 < self.count() {
                    return self.stand(self.index + 1);
                }
                if self.load(self.number.saturating_add(1))? {
                    self.stand(0)?;
                }
            }
            Direction::Backward => {
                if let Some(before) = self.index.checked_sub(1) {
                    return self.stand(before);
                }
                match self.number.checked_sub(1) {
                    Some(before) if self.load(before)? => self.stand(self.count() - 1)?,
                    _ => self.current = None,
                }
            }
        }
        Ok(())
    }

    fn skip_newer(&mut self, key: &[u8], seqno: Seqno, purge_horizon: Seqno) -> Result<()> {
        debug_assert_eq!(self.direction, Direction::Forward, "versions can be skipped only forward");
        let above = self.segment.just_above(key, seqno, purge_horizon)?;
        let Some((number, index)) = above.filter(|above| *above > (self.number, self.index)) else { return Ok(()) };
        if self.number != number {
            self.load(number)?;
        }
        self.stand(index)
    }

    fn turned(&self) -> Self {
        Self::new(Arc::clone(&self.segment), Direction::Forward)
    }

    fn newest(&self) -> Seqno {
        self.segment.max_seqno()
    }

    fn file(&self) -> Option<&Path> {
        Some(self.segment.pages().path())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::base::FileNumber;

    use super::*;
    use crate::{
        base::{KeySpan, KeyspaceId, Kind, Micros},
        env::{Dir, Env, Files, Memory},
        merge::{Answer, Lookup, RangeTombstone, ReadAt, Tombstone, Tombstones},
        segment::{Entry, PointIndex, PointKey, Probe, Purpose, SegmentMeta, SegmentWriter},
    };

    fn purpose(base: Seqno, index: PointIndex) -> Purpose {
        Purpose { keyspace: KeyspaceId(16), base, time_base: None, run: None, index, hash_seed: 7 }
    }

    fn put(seqno: Seqno, older_follows: bool) -> Entry {
        Entry { older_follows, ..Entry::new(Kind::Put, seqno) }
    }

    /// Returns two segments of `count` keys, every third with two versions: one opened with a map, one without.
    fn segments(count: usize, ranges: &[RangeTombstone]) -> ([Arc<Segment>; 2], SegmentMeta) {
        let env = Memory::new();
        let dir = Arc::new(Files::new(env.open_dir(Path::new("/db"), true).unwrap(), 2));
        dir.create_dir("segments").unwrap();
        let mut writer =
            SegmentWriter::create(&*dir, FileNumber(7), 99, purpose(Seqno(10), PointIndex::Always)).unwrap();
        for i in 0..count {
            let key = format!("key{:06}", i * 2);
            if i % 3 == 0 {
                writer.add(&put(Seqno(50), true), key.as_bytes(), &vec![1; i % 900]).unwrap();
            }
            writer.add(&put(Seqno(20), false), key.as_bytes(), key.as_bytes()).unwrap();
        }
        let finished = writer.finish(&Tombstones::new(ranges.to_vec()), |_| true).unwrap();
        let open = |map| Arc::new(Segment::open(&dir, &finished, map).unwrap());
        let both = [open(true), open(false)];
        for segment in &both {
            segment.check(&finished).unwrap();
        }
        (both, finished)
    }

    fn get(segment: &Segment, key: &str, seqno: Seqno) -> Option<Answer> {
        let mut lookup = Lookup::new(ReadAt::present(seqno, None));
        segment.get(&mut PointKey::new(key.as_bytes()), &mut lookup, &mut Probe::default()).unwrap()
    }

    #[test]
    fn every_key_is_found_at_every_version_and_no_other() {
        let ([mapped, read], finished) = segments(3000, &[]);
        assert_eq!((finished.summary.keys, finished.summary.entries), (3000, 4000));
        for segment in [&mapped, &read] {
            for i in 0..3000 {
                let key = format!("key{:06}", i * 2);
                let newest = if i % 3 == 0 { vec![1; i % 900] } else { key.clone().into_bytes() };
                assert_eq!(get(segment, &key, Seqno(100)), Some(Answer::Value(Bytes::from(newest))));
                assert_eq!(get(segment, &key, Seqno(49)), Some(Answer::Value(Bytes::from(key.as_str()))));
                assert_eq!(get(segment, &key, Seqno(19)), None);
                assert_eq!(get(segment, &format!("key{:06}", i * 2 + 1), Seqno(100)), None);
            }
            assert_eq!(get(segment, "", Seqno(100)), None);
            assert_eq!(get(segment, "zzz", Seqno(100)), None);
        }
    }

    #[test]
    fn cursors_meet_the_same_entries_from_both_ends_and_from_any_key() {
        for count in [1, 2, 40, 2000] {
            let (both, _) = segments(count, &[]);
            for segment in &both {
                let walk = |direction, key: Option<&[u8]>| {
                    let mut cursor = SegmentCursor::new(Arc::clone(segment), direction);
                    cursor.seek(key).unwrap();
                    let mut seen = Vec::new();
                    while let Some(entry) = cursor.entry() {
                        seen.push((entry.key.to_vec(), entry.seqno));
                        cursor.advance().unwrap();
                    }
                    seen
                };
                let forward = walk(Direction::Forward, Some(b""));
                assert_eq!(forward.len(), count + count.div_ceil(3));
                let mut backward = walk(Direction::Backward, None);
                backward.reverse();
                assert_eq!(backward, forward);
                assert!(walk(Direction::Forward, None).is_empty());
                for probe in ["", "key000007", "key000008", "key001999", "zz"] {
                    let at = forward.partition_point(|(key, _)| key.as_slice() < probe.as_bytes());
                    assert_eq!(walk(Direction::Forward, Some(probe.as_bytes())), forward[at..], "{probe}");
                    let mut before = walk(Direction::Backward, Some(probe.as_bytes()));
                    before.reverse();
                    assert_eq!(before, forward[..at], "{probe}");
                }
            }
        }
    }

    #[test]
    fn a_range_tombstone_hides_what_is_older_and_widens_the_span() {
        let tombstone = RangeTombstone {
            span: KeySpan { start: "a".into(), end: None },
            tombstone: Tombstone {
                seqno: Seqno(30),
                ordinal: 0,
                gap_start: Some(Seqno(12)),
                time: Micros::ZERO,
                purge: false,
            },
        };
        let (both, finished) = segments(10, &[tombstone]);
        assert_eq!(finished.summary.span, KeySpan { start: "a".into(), end: None });
        assert_eq!(finished.summary.lowest_affected, Seqno(12));
        for segment in &both {
            assert_eq!(get(segment, "key000002", Seqno(100)), Some(Answer::Deleted));
            assert_eq!(get(segment, "key000000", Seqno(100)), Some(Answer::Value(Bytes::default())));
            assert_eq!(get(segment, "key000000", Seqno(40)), Some(Answer::Deleted));
            assert_eq!(get(segment, "other", Seqno(40)), Some(Answer::Deleted));
            let mut lookup = Lookup::new(ReadAt::present(Seqno(25), None));
            let refused = segment.get(&mut PointKey::new(b"key000002"), &mut lookup, &mut Probe::default());
            assert!(refused.is_err(), "the gap reaches below 25");
            assert_eq!(get(segment, "key000002", Seqno(11)), None);
        }
    }

    #[test]
    fn a_segment_of_range_tombstones_alone_has_nothing_to_walk_and_still_hides() {
        let tombstone = RangeTombstone {
            span: KeySpan { start: "b".into(), end: Some("d".into()) },
            tombstone: Tombstone { seqno: Seqno(30), ordinal: 0, gap_start: None, time: Micros::ZERO, purge: false },
        };
        let (both, finished) = segments(0, &[tombstone]);
        assert_eq!((finished.summary.entries, finished.summary.range_tombstones), (0, 1));
        for segment in &both {
            for direction in [Direction::Forward, Direction::Backward] {
                for key in [None, Some(&b"c"[..])] {
                    let mut cursor = SegmentCursor::new(Arc::clone(segment), direction);
                    cursor.seek(key).unwrap();
                    assert_eq!(cursor.entry(), None);
                }
            }
            assert_eq!(get(segment, "c", Seqno(30)), Some(Answer::Deleted));
            assert_eq!(get(segment, "c", Seqno(29)), None);
            assert_eq!(get(segment, "d", Seqno(30)), None);
        }
    }

    #[test]
    fn versions_of_one_key_may_fill_many_blocks() {
        let env = Memory::new();
        let dir = Arc::new(Files::new(env.open_dir(Path::new("/db"), true).unwrap(), 2));
        dir.create_dir("segments").unwrap();
        let mut writer = SegmentWriter::create(&*dir, FileNumber(1), 1, purpose(Seqno(1), PointIndex::Auto)).unwrap();
        writer.add(&put(Seqno(3), false), b"a", b"first").unwrap();
        for seqno in (1..=2000u64).rev() {
            writer.add(&put(Seqno(seqno), seqno > 1), b"k", &[7; 100]).unwrap();
        }
        writer.add(&put(Seqno(5), false), b"l", b"last").unwrap();
        let finished = writer.finish(&Tombstones::default(), |_| true).unwrap();
        let segment = Arc::new(Segment::open(&dir, &finished, true).unwrap());
        segment.check(&finished).unwrap();
        assert!(segment.fences().count() > 3);
        for seqno in [1, 2, 500, 1999, 2000] {
            assert_eq!(get(&segment, "k", Seqno(seqno)), Some(Answer::Value(Bytes::copy_from(&[7; 100]))));
        }
        assert_eq!(get(&segment, "k", Seqno(0)), None);
        assert_eq!(get(&segment, "l", Seqno(9)), Some(Answer::Value(Bytes::from("last"))));
    }
}
