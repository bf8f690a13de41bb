//! One entry: how it stands on disk.
//!
//! ```text
//!  flags  bits 0–3 kind · 4 gap · 5 moved · 6 extension · 7 an older version of the key follows
//!  key length, value length                     varints
//!  seqno − base of the segment                  varint
//!  seqno − gap_start                            varint, if bit 4
//!  extension: bits 0 time · 1 interval; then time, end seqno − seqno, end time − time   varints, if bit 6
//!  key, value, zeros to a multiple of 4
//! ```

use std::ops::Range;

use super::ALIGN;
use crate::{
    base::{Corruption, Kind},
    format::{Reader, Writer},
};

const KIND: u8 = 0x0f;
const GAP: u8 = 0x10;
const MOVED: u8 = 0x20;
const EXTENSION: u8 = 0x40;
const OLDER_FOLLOWS: u8 = 0x80;

const EXT_TIME: u8 = 0x01;
const EXT_INTERVAL: u8 = 0x02;

/// An entry without its bytes: everything that is a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) seqno: u64,
    pub(crate) gap_start: Option<u64>,
    pub(crate) moved: bool,
    /// Commit time in microseconds, in keyspaces that keep it.
    pub(crate) time: Option<u64>,
    /// Where the entry's interval ends, in seqno and time: in the history tier. Needs `time`.
    pub(crate) until: Option<(u64, u64)>,
    /// The next entry of the segment is an older version of the same key.
    pub(crate) older_follows: bool,
}

/// A decoded entry: its numbers, and where its bytes are in what was decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decoded {
    pub(super) entry: Entry,
    pub(super) key: Range<usize>,
    pub(super) value: Range<usize>,
    /// Where the next entry of the block would begin.
    pub(super) next: usize,
}

/// Appends an entry; [`decode`] is the exact inverse. The base is not above any seqno of the segment.
pub(super) fn encode(out: &mut Writer, entry: &Entry, base: u64, key: &[u8], value: &[u8]) {
    let flag = |bit: u8, set: bool| if set { bit } else { 0 };
    let extended = entry.time.is_some();
    out.u8(entry.kind.number()
        | flag(GAP, entry.gap_start.is_some())
        | flag(MOVED, entry.moved)
        | flag(EXTENSION, extended)
        | flag(OLDER_FOLLOWS, entry.older_follows));
    out.varint(key.len() as u64);
    out.varint(value.len() as u64);
    out.varint(entry.seqno.saturating_sub(base));
    if let Some(gap) = entry.gap_start {
        out.varint(entry.seqno.saturating_sub(gap));
    }
    if let Some(time) = entry.time {
        out.u8(EXT_TIME | flag(EXT_INTERVAL, entry.until.is_some()));
        out.varint(time);
        if let Some((seqno, until)) = entry.until {
            out.varint(seqno.saturating_sub(entry.seqno));
            out.varint(until.saturating_sub(time));
        }
    }
    out.raw(key);
    out.raw(value);
    out.pad_to(ALIGN);
}

/// Decodes the entry that begins at `at`.
#[inline]
pub(super) fn decode(bytes: &[u8], at: usize, base: u64) -> Result<Decoded, Corruption> {
    let mut reader = Reader::starting_at(bytes, at);
    let flags = reader.u8("entry flags")?;
    let kind = Kind::from_number(flags & KIND).ok_or_else(|| reader.corrupt("entry kind"))?;
    let key_len = reader.length("key length")?;
    let value_len = reader.length("value length")?;
    let delta = reader.varint("entry seqno")?;
    let seqno = base.checked_add(delta).ok_or_else(|| reader.corrupt("entry seqno"))?;
    let gap_start = if flags & GAP == 0 {
        None
    } else {
        let below = reader.varint("gap")?;
        Some(seqno.checked_sub(below).ok_or_else(|| reader.corrupt("gap"))?)
    };
    let (time, until) = if flags & EXTENSION == 0 { (None, None) } else { extension(&mut reader, seqno)? };
    reader.take(key_len, "key")?;
    let key = reader.position() - key_len..reader.position();
    reader.take(value_len, "value")?;
    let value = reader.position() - value_len..reader.position();
    let entry = Entry {
        kind,
        seqno,
        gap_start,
        moved: flags & MOVED != 0,
        time,
        until,
        older_follows: flags & OLDER_FOLLOWS != 0,
    };
    Ok(Decoded { entry, key, next: value.end.next_multiple_of(ALIGN), value })
}

/// The commit time and the end of the interval, in seqno and time.
type Extension = (Option<u64>, Option<(u64, u64)>);

fn extension(reader: &mut Reader<'_>, seqno: u64) -> Result<Extension, Corruption> {
    let bits = reader.u8("entry extension")?;
    if bits & EXT_TIME == 0 || bits & !(EXT_TIME | EXT_INTERVAL) != 0 {
        return Err(reader.corrupt("entry extension"));
    }
    let time = reader.varint("entry time")?;
    let until = if bits & EXT_INTERVAL == 0 {
        None
    } else {
        let end = seqno.checked_add(reader.varint("end seqno")?);
        let until = time.checked_add(reader.varint("end time")?);
        Some(end.zip(until).ok_or_else(|| reader.corrupt("entry interval"))?)
    };
    Ok((Some(time), until))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_of_entry_reads_back() {
        let flags = [false, true];
        for (kind, older_follows, moved) in [(Kind::Put, false, true), (Kind::Delete, true, false)] {
            for gap in flags {
                for (time, until) in [(None, None), (Some(5), None), (Some(5), Some((1 << 40, 9)))] {
                    for len in [0, 1, 127, 128, 5000] {
                        let entry =
                            Entry { kind, seqno: 1000, gap_start: gap.then_some(7), moved, time, until, older_follows };
                        let (key, value) = (vec![1; len], vec![2; len + 3]);
                        let mut out = Writer::default();
                        out.raw(&[0; 8]);
                        encode(&mut out, &entry, 900, &key, &value);
                        let decoded = decode(out.bytes(), 8, 900).unwrap();
                        assert_eq!(decoded.entry, entry);
                        assert_eq!(out.bytes()[decoded.key.clone()], key);
                        assert_eq!(out.bytes()[decoded.value.clone()], value);
                        assert_eq!(decoded.next, out.len());
                    }
                }
            }
        }
    }

    #[test]
    fn an_entry_cut_anywhere_is_corruption() {
        let entry = Entry {
            kind: Kind::Put,
            seqno: 300,
            gap_start: Some(1),
            moved: false,
            time: Some(1),
            until: None,
            older_follows: false,
        };
        let mut out = Writer::default();
        encode(&mut out, &entry, 0, b"key", b"value");
        let whole = decode(out.bytes(), 0, 0).unwrap().value.end;
        for len in 0..whole {
            assert!(decode(&out.bytes()[..len], 0, 0).is_err(), "{len} bytes");
        }
    }
}
