//! Range tombstones of a segment, as its sections store them: cut into fragments, or whole where cutting would multiply
//! them.

use super::{footer::Tag, sections::Sections, summary::Summary};
use crate::{
    base::{Bytes, Corruption, KeySpan, Micros, Result, Seqno},
    format::{Reader, Writer},
    merge::{Fragment, Tombstone, Tombstones},
};

/// Range tombstones as they go to disk.
#[derive(Debug)]
pub(super) struct Encoded {
    /// Number of tombstones in the sections; with fragments, that of all fragments.
    pub(super) tombstones: u64,
    pub(super) sections: Vec<(Tag, Vec<u8>)>,
}

/// Encodes range tombstones; [`decode`] is the exact inverse.
pub(super) fn encode(ranges: &Tombstones) -> Encoded {
    let Some(cut) = ranges.cut() else {
        return Encoded { tombstones: ranges.len() as u64, sections: vec![(Tag::Whole, encode_whole(ranges))] };
    };
    let tombstones = || cut.iter().flat_map(|fragment| &fragment.tombstones);
    let mut sections = Vec::new();
    if !cut.is_empty() {
        sections.push((Tag::Ranges, encode_ranges(&cut)));
    }
    if tombstones().any(|tombstone| tombstone.purge || tombstone.time > Micros::ZERO) {
        sections.push((Tag::RangeTimes, encode_tombstones(&cut)));
    }
    Encoded { tombstones: tombstones().count() as u64, sections }
}

/// Decodes the range tombstones of a segment. Checks that they lie inside its seqnos, and each gap below its tombstone:
/// merges rely on that.
pub(super) fn decode(sections: &Sections<'_>, summary: &Summary) -> Result<Tombstones> {
    let (whole, ranges) = (sections.get(Tag::Whole)?, sections.get(Tag::Ranges)?);
    let (section, decoded) = match (ranges, whole) {
        (None, None) => return Ok(Tombstones::default()),
        (None, Some(whole)) => {
            let decoded = decode_whole(&whole.bytes).map_err(|bad| whole.wrong(bad))?;
            (whole, Some(decoded))
        }
        (Some(ranges), whole) => {
            let mut fragments = decode_ranges(&ranges.bytes).map_err(|bad| ranges.wrong(bad))?;
            if let Some(section) = sections.get(Tag::RangeTimes)? {
                decode_tombstones(&section.bytes, &mut fragments).map_err(|bad| section.wrong(bad))?;
            }
            let decoded = Tombstones::from_fragments(fragments).filter(|_| whole.is_none());
            (ranges, decoded)
        }
    };
    let seqnos = summary.min_seqno..=summary.max_seqno;
    let is_inside = |tombstone: &Tombstone| {
        seqnos.contains(&tombstone.seqno) && tombstone.gap_start.is_none_or(|gap| gap <= tombstone.seqno)
    };
    let decoded = decoded.filter(|ranges| ranges.iter().all(|(.., tombstone)| is_inside(tombstone)));
    let what = "ranges in order and apart, inside the segment's seqnos";
    decoded.ok_or_else(|| section.wrong(Corruption { offset: 0, what }))
}

/// Encodes the section of range tombstones: for each fragment its start, its end and its tombstones.
fn encode_ranges(fragments: &[Fragment]) -> Vec<u8> {
    let mut out = Writer::default();
    for fragment in fragments {
        out.prefixed(&fragment.span.start);
        match &fragment.span.end {
            None => out.u8(0),
            Some(end) => {
                out.u8(1);
                out.prefixed(end);
            }
        }
        out.varint(fragment.tombstones.len() as u64);
        for tombstone in &fragment.tombstones {
            out.varint(tombstone.seqno.0);
            // A gap never starts at 0: the first commit is 1.
            out.varint(tombstone.gap_start.unwrap_or(Seqno(0)).0);
        }
    }
    out.into_bytes()
}

fn decode_ranges(bytes: &[u8]) -> Result<Vec<Fragment>, Corruption> {
    let mut reader = Reader::new(bytes);
    let mut fragments = Vec::new();
    while reader.remaining() > 0 {
        let start = reader.prefixed("start of a range")?.to_vec();
        let end = match reader.u8("end of a range")? {
            0 => None,
            1 => Some(reader.prefixed("end of a range")?.to_vec()),
            _ => return Err(reader.corrupt("end of a range")),
        };
        let count = reader.length("tombstones of a range")?;
        let mut tombstones = Vec::new();
        for _ in 0..count {
            let seqno = reader.varint("seqno of a range")?;
            let gap = reader.varint("gap of a range")?;
            tombstones.push(Tombstone {
                seqno: Seqno(seqno),
                ordinal: 0,
                gap_start: (gap != 0).then_some(Seqno(gap)),
                time: Micros::ZERO,
                purge: false,
            });
        }
        fragments.push(Fragment { span: KeySpan { start, end }, tombstones });
    }
    Ok(fragments)
}

/// Encodes the section with the times of the tombstones and with the flags that mark purges.
fn encode_tombstones(fragments: &[Fragment]) -> Vec<u8> {
    let mut out = Writer::default();
    for tombstone in fragments.iter().flat_map(|fragment| &fragment.tombstones) {
        out.varint(tombstone.time.0);
        out.u8(u8::from(tombstone.purge));
    }
    out.into_bytes()
}

/// Fills in the times of the tombstones, and which of them are purges.
fn decode_tombstones(bytes: &[u8], fragments: &mut [Fragment]) -> Result<(), Corruption> {
    let mut reader = Reader::new(bytes);
    for tombstone in fragments.iter_mut().flat_map(|fragment| &mut fragment.tombstones) {
        tombstone.time = Micros(reader.varint("time of a range")?);
        tombstone.purge = decode_flags(&mut reader)?;
    }
    reader.finish("end of the range times")
}

fn decode_flags(reader: &mut Reader<'_>) -> Result<bool, Corruption> {
    match reader.u8("flags of a range")? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(reader.corrupt("flags of a range")),
    }
}

/// Encodes the section of whole range tombstones: their edges, and for each the numbers of its two edges.
fn encode_whole(ranges: &Tombstones) -> Vec<u8> {
    let mut out = Writer::default();
    let (edges, tombstones) = ranges.parts();
    out.varint(edges.len() as u64);
    for edge in edges {
        out.prefixed(edge);
    }
    let mut before = Seqno(0);
    for (from, to, tombstone) in tombstones {
        // Oldest first.
        assert!(before <= tombstone.seqno, "a range tombstone @{} behind one @{before}", tombstone.seqno);
        out.varint(tombstone.seqno.0 - before.0);
        before = tombstone.seqno;
        out.varint(u64::from(from));
        // Number of parts that it covers; 0 without an end.
        out.varint(to.map_or(0, |to| u64::from(to - from)));
        out.varint(tombstone.gap_start.unwrap_or(Seqno(0)).0);
        out.varint(tombstone.time.0);
        out.u8(u8::from(tombstone.purge));
    }
    out.into_bytes()
}

fn decode_whole(bytes: &[u8]) -> Result<Tombstones, Corruption> {
    let mut reader = Reader::new(bytes);
    let count = reader.length("edges of ranges")?;
    let mut edges = Vec::new();
    for _ in 0..count {
        edges.push(Bytes::copy_from(reader.prefixed("edge of a range")?));
    }
    let mut parts = Vec::new();
    let mut seqno = 0u64;
    while reader.remaining() > 0 {
        let newer = reader.varint("seqno of a range")?;
        seqno = seqno.checked_add(newer).ok_or_else(|| reader.corrupt("seqno of a range"))?;
        let from = reader.varint("start of a range")?;
        let covered = reader.varint("end of a range")?;
        let gap = reader.varint("gap of a range")?;
        let time = reader.varint("time of a range")?;
        let purge = decode_flags(&mut reader)?;
        let tombstone = Tombstone {
            seqno: Seqno(seqno),
            ordinal: 0,
            gap_start: (gap != 0).then_some(Seqno(gap)),
            time: Micros(time),
            purge,
        };
        let edge = |at: u64| u32::try_from(at).map_err(|_| reader.corrupt("edge of a range"));
        let to = if covered == 0 { None } else { Some(edge(from.saturating_add(covered))?) };
        parts.push((edge(from)?, to, tombstone));
    }
    Tombstones::from_parts(edges, &parts).ok_or(Corruption { offset: 0, what: "ranges in order" })
}
