//! Encoding of one entry.
//!
//! ```text
//!  flags  bits 0–3 kind · 4 gap · 5 moved · 6 extension · 7 an older version of the key follows
//!  key length, value length                     varints
//!  seqno − base of the segment                  varint
//!  seqno − gap_start                            varint, if bit 4
//!  extension: bits 0 time · 1 interval · 2 difference · 3 open · 4 run · 5 follower; then, if bit 6,
//!             for a run the number of its followers (u16), for a follower its distance (varint),
//!             time − base of the segment, and with an interval end seqno − seqno, end time − time   varints
//!  key, value, zeros to a multiple of 4
//! ```

use std::ops::Range;

use super::sizes::ALIGN;
use crate::{
    base::{Corruption, Kind, Micros, Seqno},
    format::{Reader, Writer},
    merge::{EntryMeta, Until},
};

const KIND: u8 = 0x0f;
const GAP: u8 = 0x10;
const MOVED: u8 = 0x20;
const EXTENSION: u8 = 0x40;
const OLDER_FOLLOWS: u8 = 0x80;

const EXT_TIME: u8 = 0x01;
const EXT_INTERVAL: u8 = 0x02;
const EXT_DIFFERENCE: u8 = 0x04;
const EXT_OPEN: u8 = 0x08;
const EXT_RUN: u8 = 0x10;
const EXT_FOLLOWER: u8 = 0x20;

/// Maximum length of the head of an entry: flags, two lengths, two seqnos, and an extension with its bits, a run, a
/// distance, two times and a seqno. Lengths are below 4 GiB, so five bytes are enough for each; the other varints may
/// take ten.
pub(super) const HEAD_LEN_MAX: usize = 1 + 2 * 5 + 2 * 10 + (1 + 2 + 3 + 3 * 10);

/// Lower bounds of the numbers in a segment; entries store theirs relative to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) seqno: Seqno,
    pub(crate) time: Micros,
}

/// Length of a run of versions, and whether its key has other runs before or after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RunLen(pub(crate) u16);

impl RunLen {
    /// Maximum number of followers in a run.
    pub(crate) const MAX: u16 = 0x3fff;

    /// Flag: an older run of the key follows.
    pub(crate) const OLDER: u16 = 0x8000;

    /// Flag: a newer run of the key precedes.
    pub(crate) const NEWER: u16 = 0x4000;

    /// Returns the number of versions after the first one.
    pub(crate) fn followers(self) -> usize {
        usize::from(self.0 & Self::MAX)
    }

    pub(crate) fn older_run(self) -> bool {
        self.0 & Self::OLDER != 0
    }

    pub(crate) fn newer_run(self) -> bool {
        self.0 & Self::NEWER != 0
    }
}

/// An entry without its key and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) seqno: Seqno,
    pub(crate) gap_start: Option<Seqno>,
    pub(crate) moved: bool,
    /// Commit time in microseconds, in keyspaces that keep it.
    pub(crate) time: Option<Micros>,
    /// End of the interval, in the history tier; `None` if it ends where the previous entry begins. Needs `time`.
    pub(crate) until: Option<Until>,
    /// Whether the value is a difference against that of the first entry of the run. Needs `time`.
    pub(crate) difference: bool,
    /// Whether the next entry of the segment is an older version of the same key.
    pub(crate) older_follows: bool,
    /// In the history tier: length of the run that begins here, if the key has other versions. Needs `time`.
    pub(crate) run: Option<RunLen>,
    /// In the history tier: distance in entries to the first of the run, which stores the key. Needs `time`.
    pub(crate) follower: Option<u16>,
}

impl Entry {
    /// Returns an entry of the main tree without any optional part.
    pub(crate) fn new(kind: Kind, seqno: Seqno) -> Self {
        Self {
            kind,
            seqno,
            gap_start: None,
            moved: false,
            time: None,
            until: None,
            difference: false,
            older_follows: false,
            run: None,
            follower: None,
        }
    }

    /// Returns what a look-up is shown of it, in the main tree.
    #[inline]
    pub(crate) fn meta(&self) -> EntryMeta {
        let Self { kind, seqno, gap_start, moved, time, .. } = *self;
        EntryMeta { seqno, gap_start, moved, kind, time, interval: false }
    }
}

/// A decoded entry: its numbers, and the positions of its key and value in the decoded bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decoded {
    pub(super) entry: Entry,
    pub(super) key: Range<usize>,
    pub(super) value: Range<usize>,
}

/// Appends an entry; [`decode`] is the exact inverse. Returns the position of the length of its run, if it has one: the
/// length is known later.
pub(super) fn encode(out: &mut Writer, entry: &Entry, base: Base, key: &[u8], value: &[u8]) -> Option<usize> {
    let mut run_at = None;
    let flag = |bit: u8, set: bool| if set { bit } else { 0 };
    let extended = entry.time.is_some();
    let Entry { seqno, gap_start, .. } = *entry;
    assert!(base.seqno <= seqno, "an entry @{seqno} below the base {}", base.seqno);
    assert!(gap_start.is_none_or(|gap| gap <= seqno), "a gap at {gap_start:?} above its entry @{seqno} (K3)");
    out.u8(entry.kind.number()
        | flag(GAP, entry.gap_start.is_some())
        | flag(MOVED, entry.moved)
        | flag(EXTENSION, extended)
        | flag(OLDER_FOLLOWS, entry.older_follows));
    out.varint(key.len() as u64);
    out.varint(value.len() as u64);
    out.varint(seqno.0 - base.seqno.0);
    if let Some(gap) = gap_start {
        out.varint(seqno.0 - gap.0);
    }
    if let Some(time) = entry.time {
        out.u8(EXT_TIME
            | flag(EXT_INTERVAL, matches!(entry.until, Some(Until::At { .. })))
            | flag(EXT_DIFFERENCE, entry.difference)
            | flag(EXT_OPEN, entry.until == Some(Until::Open))
            | flag(EXT_RUN, entry.run.is_some())
            | flag(EXT_FOLLOWER, entry.follower.is_some()));
        if let Some(run) = entry.run {
            run_at = Some(out.len());
            out.u16(run.0);
        }
        if let Some(distance) = entry.follower {
            out.varint(u64::from(distance));
        }
        // A time that was looked up in the timeline has no lower bound here: one before the base counts as the base.
        out.varint(time.saturating_sub(base.time).0);
        if let Some(Until::At { seqno: end, time: until }) = entry.until {
            assert!(seqno < end && time <= until, "an interval from @{seqno} {time} to @{end} {until} (K8)");
            out.varint(end.0 - seqno.0);
            out.varint(until.0 - time.0);
        }
    }
    out.raw(key);
    out.raw(value);
    out.pad_to(ALIGN);
    run_at
}

/// Decodes only the seqno of the entry that begins at `at`.
#[inline]
pub(super) fn decode_seqno(bytes: &[u8], at: usize, base: Base) -> Result<Seqno, Corruption> {
    let mut reader = Reader::starting_at(bytes, at + 1);
    reader.varint("key length")?;
    reader.varint("value length")?;
    let delta = reader.varint("entry seqno")?;
    base.seqno.checked_add(delta).ok_or_else(|| reader.corrupt("entry seqno"))
}

/// The part of an entry that a walk down the versions of a key needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Glance {
    pub(super) seqno: Seqno,
    pub(super) gap_start: Option<Seqno>,
    pub(super) older_follows: bool,
    /// Length of the entry up to the end of its value, in bytes.
    pub(super) len: usize,
}

/// Decodes what a walk past an entry needs from its first bytes, up to the maximum length of a head: a fraction of the
/// work of [`decode`]. It does not check the rest; reading that entry does.
#[inline]
pub(super) fn glance(head: &[u8], base: Base) -> Result<Glance, Corruption> {
    let mut reader = Reader::new(head);
    let flags = reader.u8("entry flags")?;
    let len = reader.length("key length")?.checked_add(reader.length("value length")?);
    let delta = reader.varint("entry seqno")?;
    let seqno = base.seqno.checked_add(delta).ok_or_else(|| reader.corrupt("entry seqno"))?;
    let gap_start = if flags & GAP == 0 { None } else { seqno.checked_sub(reader.varint("gap")?) };
    if flags & EXTENSION != 0 {
        let bits = reader.u8("entry extension")?;
        if bits & EXT_RUN != 0 {
            reader.u16("length of a run")?;
        }
        let varints = u8::from(bits & EXT_FOLLOWER != 0) + 1 + 2 * u8::from(bits & EXT_INTERVAL != 0);
        for _ in 0..varints {
            reader.varint("entry extension")?;
        }
    }
    let len = len.and_then(|len| len.checked_add(reader.position())).ok_or_else(|| reader.corrupt("value"))?;
    Ok(Glance { seqno, gap_start, older_follows: flags & OLDER_FOLLOWS != 0, len })
}

/// Decodes the entry that begins at `at` and ends at `limit` at the latest. `bytes` need hold no more than its head,
/// which gives its length.
#[inline]
pub(super) fn decode(bytes: &[u8], at: usize, limit: usize, base: Base) -> Result<Decoded, Corruption> {
    let mut reader = Reader::starting_at(bytes, at);
    let flags = reader.u8("entry flags")?;
    let kind = Kind::from_number(flags & KIND).ok_or_else(|| reader.corrupt("entry kind"))?;
    let key_len = reader.length("key length")?;
    let value_len = reader.length("value length")?;
    let delta = reader.varint("entry seqno")?;
    let seqno = base.seqno.checked_add(delta).ok_or_else(|| reader.corrupt("entry seqno"))?;
    let gap_start = if flags & GAP == 0 {
        None
    } else {
        let below = reader.varint("gap")?;
        Some(seqno.checked_sub(below).ok_or_else(|| reader.corrupt("gap"))?)
    };
    let Extension { time, until, difference, run, follower } =
        if flags & EXTENSION == 0 { Extension::default() } else { extension(&mut reader, seqno, base.time)? };
    let key = reader.position()..reader.position().saturating_add(key_len);
    let value = key.end..key.end.saturating_add(value_len);
    if value.end > limit {
        return Err(reader.corrupt("key and value"));
    }
    let entry = Entry {
        kind,
        seqno,
        gap_start,
        moved: flags & MOVED != 0,
        time,
        until,
        difference,
        older_follows: flags & OLDER_FOLLOWS != 0,
        run,
        follower,
    };
    Ok(Decoded { entry, key, value })
}

/// Contents of the extension of an entry.
#[derive(Default)]
struct Extension {
    time: Option<Micros>,
    until: Option<Until>,
    difference: bool,
    run: Option<RunLen>,
    follower: Option<u16>,
}

fn extension(reader: &mut Reader<'_>, seqno: Seqno, time_base: Micros) -> Result<Extension, Corruption> {
    let bits = reader.u8("entry extension")?;
    let known = EXT_TIME | EXT_INTERVAL | EXT_DIFFERENCE | EXT_OPEN | EXT_RUN | EXT_FOLLOWER;
    let ends_twice = bits & EXT_INTERVAL != 0 && bits & EXT_OPEN != 0;
    if bits & EXT_TIME == 0 || bits & !known != 0 || ends_twice {
        return Err(reader.corrupt("entry extension"));
    }
    let run = if bits & EXT_RUN == 0 { None } else { Some(RunLen(reader.u16("length of a run")?)) };
    let follower = if bits & EXT_FOLLOWER == 0 {
        None
    } else {
        let distance = reader.varint("place in a run")?;
        Some(
            u16::try_from(distance)
                .ok()
                .filter(|distance| *distance > 0)
                .ok_or_else(|| reader.corrupt("place in a run"))?,
        )
    };
    let time =
        time_base.checked_add(Micros(reader.varint("entry time")?)).ok_or_else(|| reader.corrupt("entry time"))?;
    let until = if bits & EXT_INTERVAL != 0 {
        let end = seqno.checked_add(reader.varint("end seqno")?);
        let until = time.checked_add(Micros(reader.varint("end time")?));
        let (seqno, time) = end.zip(until).ok_or_else(|| reader.corrupt("entry interval"))?;
        Some(Until::At { seqno, time })
    } else {
        (bits & EXT_OPEN != 0).then_some(Until::Open)
    };
    Ok(Extension { time: Some(time), until, difference: bits & EXT_DIFFERENCE != 0, run, follower })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_of_entry_reads_back() {
        let flags = [false, true];
        for (kind, older_follows, moved) in [(Kind::Put, false, true), (Kind::Delete, true, false)] {
            for gap in flags {
                let ends = Some(Until::At { seqno: Seqno(1 << 40), time: Micros(9) });
                for (time, until) in [
                    (None, None),
                    (Some(Micros(5)), None),
                    (Some(Micros(5)), ends),
                    (Some(Micros(5)), Some(Until::Open)),
                ] {
                    for len in [0, 1, 127, 128, 5000] {
                        let difference = time.is_some() && older_follows;
                        let gap_start = gap.then_some(Seqno(7));
                        let (run, follower) = (difference.then_some(RunLen(5)), (difference && !moved).then_some(300));
                        let entry = Entry {
                            kind,
                            seqno: Seqno(1000),
                            gap_start,
                            moved,
                            time,
                            until,
                            difference,
                            older_follows,
                            run,
                            follower,
                        };
                        let (key, value) = (vec![1; len], vec![2; len + 3]);
                        let mut out = Writer::default();
                        out.raw(&[0; 8]);
                        let base = Base { seqno: Seqno(900), time: Micros(3) };
                        encode(&mut out, &entry, base, &key, &value);
                        let decoded = decode(out.bytes(), 8, out.len(), base).unwrap();
                        assert_eq!(decoded.entry, entry);
                        assert_eq!(out.bytes()[decoded.key.clone()], key);
                        assert_eq!(out.bytes()[decoded.value.clone()], value);
                        assert!(decoded.key.start - 8 <= HEAD_LEN_MAX);
                        let head = &out.bytes()[8..decoded.key.start];
                        let glanced = glance(head, base).unwrap();
                        assert_eq!((glanced.seqno, glanced.gap_start), (entry.seqno, entry.gap_start));
                        assert_eq!(8 + glanced.len, decoded.value.end);
                        let by_head = decode(head, 0, glanced.len, base).unwrap();
                        assert_eq!((by_head.entry, by_head.value.end), (entry, glanced.len));
                        assert!(decode(head, 0, glanced.len - 1, base).is_err());
                    }
                }
            }
        }
    }

    #[test]
    fn the_largest_numbers_fit_into_a_head() {
        let entry = Entry {
            gap_start: Some(Seqno(0)),
            time: Some(Micros(1 << 63)),
            until: Some(Until::At { seqno: Seqno::MAX, time: Micros::MAX }),
            run: Some(RunLen(u16::MAX)),
            follower: Some(u16::MAX),
            ..Entry::new(Kind::Put, Seqno(u64::MAX - 1))
        };
        let mut out = Writer::default();
        encode(&mut out, &entry, Base::default(), &[], &[]);
        let head = decode(out.bytes(), 0, out.len(), Base::default()).unwrap().key.start;
        // Here each length takes one byte instead of five; the end seqno takes one instead of ten, and the end time
        // nine.
        assert_eq!(head + 2 * 4 + 9 + 1, HEAD_LEN_MAX);
    }

    #[test]
    fn an_entry_cut_anywhere_is_corruption() {
        let entry = Entry {
            kind: Kind::Put,
            seqno: Seqno(300),
            gap_start: Some(Seqno(1)),
            moved: false,
            time: Some(Micros(1)),
            until: None,
            difference: false,
            older_follows: false,
            run: None,
            follower: None,
        };
        let mut out = Writer::default();
        let base = Base::default();
        encode(&mut out, &entry, base, b"key", b"value");
        let whole = decode(out.bytes(), 0, out.len(), base).unwrap().value.end;
        for len in 0..whole {
            assert!(decode(&out.bytes()[..len], 0, len, base).is_err(), "{len} bytes");
        }
    }
}
