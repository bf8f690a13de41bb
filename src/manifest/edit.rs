//! One step from a version to the next.
//!
//! ```text
//!  edit:    change change …
//!  change:  tag u8 · length varint · body
//! ```
//!
//! A change whose tag is unknown refuses the file below 128 and is skipped from 128 on, so that a later format may add
//! hints that an earlier release need not understand.

use std::sync::Arc;

use crate::{
    base::{Corruption, KeyspaceId},
    format::{Reader, Writer},
    merge::NUMBER_CUSTOM,
    segment::{Finished, Summary},
    wal::LogEnd,
};

/// The largest file number or seqno that makes sense.
const COUNTER_MAX: u64 = 1 << 62;

/// Longer than any segment can be.
const FILE_LEN_MAX: u64 = 1 << 40;

/// The first tag that a reader may skip.
const FIRST_OPTIONAL_TAG: u8 = 128;

/// More changes of the time to live than anybody makes in a keyspace, and seqnos that one segment is held by.
const LIST_MAX: u64 = 1 << 20;

/// A compaction policy on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum StoredPolicy {
    #[default]
    LastWriterWins,
    /// With its retention, in microseconds.
    Tombstones(u64),
    /// With the largest number of versions, and the smallest age in microseconds.
    Mvcc(u64, u64),
    /// With its name.
    Custom(String),
}

impl StoredPolicy {
    fn number(&self) -> u8 {
        match self {
            Self::LastWriterWins => 0,
            Self::Tombstones(_) => 1,
            Self::Mvcc(..) => 2,
            Self::Custom(_) => 3,
        }
    }
}

/// What a keyspace's options say on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoredOptions {
    pub(crate) policy: StoredPolicy,
    /// The merge strategy: 0 is last-wins; a custom one has a name.
    pub(crate) merge: u8,
    pub(crate) merge_name: String,
    /// Which index segments get: 0 where it pays, 1 never, 2 always.
    pub(crate) point_index: u8,
    /// From which seqno on what is written lives how long, in microseconds (0: for ever), oldest first.
    pub(crate) ttls: Arc<[(u64, u64)]>,
}

impl StoredOptions {
    /// Appends what a line of the catalogue says behind the name; nothing, as in the first manifests, for the defaults.
    fn encode_tail(&self, out: &mut Writer) {
        let keeps = self.policy != StoredPolicy::LastWriterWins || !self.ttls.is_empty();
        if (self.merge, self.point_index) != (0, 0) || keeps {
            out.u8(self.merge);
            out.prefixed(self.merge_name.as_bytes());
            out.u8(self.point_index);
        }
        if keeps {
            let (first, second, name) = match &self.policy {
                StoredPolicy::LastWriterWins => (0, 0, ""),
                StoredPolicy::Tombstones(retention) => (*retention, 0, ""),
                StoredPolicy::Mvcc(versions, age) => (*versions, *age, ""),
                StoredPolicy::Custom(name) => (0, 0, name.as_str()),
            };
            out.varint(first);
            out.varint(second);
            out.prefixed(name.as_bytes());
            out.varint(self.ttls.len() as u64);
            for (from, ttl) in self.ttls.iter() {
                out.varint(*from);
                out.varint(*ttl);
            }
        }
    }

    fn decode_tail(policy: u8, body: &mut Reader<'_>) -> Result<Self, Corruption> {
        if policy > 3 {
            return Err(body.corrupt("a policy that this release knows"));
        }
        if body.remaining() == 0 && policy == 0 {
            return Ok(Self::default());
        }
        let merge = body.u8("merge strategy")?;
        let merge_name = text(body, "name of a strategy")?;
        let point_index = body.u8("point index")?;
        let custom = merge == NUMBER_CUSTOM;
        let nothing_said = (merge, point_index) == (0, 0) && body.remaining() == 0;
        if merge > NUMBER_CUSTOM || point_index > 2 || custom == merge_name.is_empty() || nothing_said {
            return Err(body.corrupt("options that this release knows"));
        }
        let mut options = Self { merge, merge_name, point_index, ..Self::default() };
        if body.remaining() > 0 || policy != 0 {
            let (first, second) = (body.varint("policy")?, body.varint("policy")?);
            let name = text(body, "name of a policy")?;
            options.policy = match policy {
                0 => StoredPolicy::LastWriterWins,
                1 => StoredPolicy::Tombstones(first),
                2 => StoredPolicy::Mvcc(first, second),
                _ => StoredPolicy::Custom(name),
            };
            let count = bounded(body, "times to live", LIST_MAX)?;
            let ttls = (0..count).map(|_| Ok((counter(body, "seqno")?, body.varint("time to live")?)));
            options.ttls = ttls.collect::<Result<_, Corruption>>()?;
            if !options.ttls.is_sorted_by_key(|(from, _)| *from) {
                return Err(body.corrupt("times to live in order"));
            }
        }
        Ok(options)
    }
}

fn text(body: &mut Reader<'_>, what: &'static str) -> Result<String, Corruption> {
    let text = std::str::from_utf8(body.prefixed(what)?).map_err(|_| body.corrupt(what))?;
    Ok(text.to_owned())
}

/// One change of a version. The tags stand on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A keyspace is born, at a seqno of its own.
    Create { id: KeyspaceId, name: String, options: StoredOptions, seqno: u64 },
    /// A keyspace gets other options, at a seqno of its own. Its merge strategy stays.
    Configure { id: KeyspaceId, options: StoredOptions, seqno: u64 },
    /// A keyspace is dropped, at a seqno of its own. It stays, hidden, while somebody may still read it.
    Drop { id: KeyspaceId, seqno: u64 },
    /// A dropped keyspace goes, with all its segments.
    Forget { id: KeyspaceId },
    /// A segment joins a level.
    Add { level: u8, segment: Finished },
    /// A segment leaves.
    Remove { keyspace: KeyspaceId, number: u64 },
    /// The traces that dropping leaves, raised (K5, K6).
    Marks { keyspace: KeyspaceId, vanished: u64, horizon: u64, lapsed: u64 },
    /// Logs below this number are needed no more.
    LogsFrom { number: u64 },
    /// What is known of the end of a log.
    LogEnd { number: u64, end: LogEnd },
    /// File numbers below this may have been used.
    NextFile { number: u64 },
    /// Keyspace numbers below this have been used.
    NextKeyspace { number: u32 },
    /// The newest commit is `last`. After a clean end numbering goes on at `next` at the earliest, after any other at `ceiling`:
    /// seqnos below may have been given out. Commits up to `time_us` have happened.
    Seqnos { last: u64, next: u64, ceiling: u64, time_us: u64 },
    /// A moment is kept readable under a name.
    Pin { name: String, seqno: u64, time_us: u64 },
    /// And no more.
    Unpin { name: String },
    /// Bytes of a segment that are kept only for those who read a seqno. A hint: readers may skip it.
    Held { number: u64, bytes: Vec<(u64, u64)> },
}

/// Changes that become visible together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edit {
    pub(crate) changes: Vec<Change>,
}

impl Edit {
    pub(crate) fn new(changes: impl IntoIterator<Item = Change>) -> Self {
        Self { changes: changes.into_iter().collect() }
    }

    pub(crate) fn push(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// Encodes the edit; [`Edit::decode`] is the exact inverse.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        for change in &self.changes {
            let (tag, body) = change.encode();
            out.u8(tag);
            out.prefixed(&body);
        }
        out.into_bytes()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Corruption> {
        let mut reader = Reader::new(bytes);
        let mut edit = Self::default();
        while reader.remaining() > 0 {
            let tag = reader.u8("tag of a change")?;
            let mut body = Reader::new(reader.prefixed("body of a change")?);
            match Change::decode(tag, &mut body)? {
                Some(change) => {
                    body.finish("end of a change")?;
                    edit.push(change);
                }
                None if tag >= FIRST_OPTIONAL_TAG => {}
                None => return Err(reader.corrupt("a change that this release knows")),
            }
        }
        Ok(edit)
    }
}

impl Change {
    /// The keyspace whose segments this changes.
    pub(super) fn reordered(&self) -> Option<KeyspaceId> {
        match self {
            Self::Add { segment, .. } => Some(segment.summary.keyspace),
            _ => None,
        }
    }

    fn encode(&self) -> (u8, Vec<u8>) {
        let mut out = Writer::default();
        let tag = match self {
            Self::Create { id, name, options, seqno } => {
                out.varint(u64::from(id.0));
                out.varint(*seqno);
                out.u8(options.policy.number());
                out.prefixed(name.as_bytes());
                options.encode_tail(&mut out);
                1
            }
            Self::Configure { id, options, seqno } => {
                out.varint(u64::from(id.0));
                out.varint(*seqno);
                out.u8(options.policy.number());
                options.encode_tail(&mut out);
                13
            }
            Self::Drop { id, seqno } => {
                out.varint(u64::from(id.0));
                out.varint(*seqno);
                2
            }
            Self::Forget { id } => {
                out.varint(u64::from(id.0));
                3
            }
            Self::Add { level, segment } => {
                out.u8(*level);
                out.varint(segment.number);
                out.u64(segment.file_id);
                out.varint(segment.file_len);
                out.u32(segment.footer_digest);
                segment.summary.encode(&mut out);
                4
            }
            Self::Remove { keyspace, number } => {
                out.varint(u64::from(keyspace.0));
                out.varint(*number);
                5
            }
            Self::Marks { keyspace, vanished, horizon, lapsed } => {
                out.varint(u64::from(keyspace.0));
                out.varint(*vanished);
                out.varint(*horizon);
                if *lapsed > 0 {
                    out.varint(*lapsed);
                }
                6
            }
            Self::LogsFrom { number } => {
                out.varint(*number);
                7
            }
            Self::LogEnd { number, end } => {
                out.varint(*number);
                out.varint(end.offset());
                match end {
                    LogEnd::Exactly(_) => 8,
                    LogEnd::AtMost(_) => 11,
                }
            }
            Self::NextFile { number } => {
                out.varint(*number);
                9
            }
            Self::NextKeyspace { number } => {
                out.varint(u64::from(*number));
                12
            }
            Self::Seqnos { last, next, ceiling, time_us } => {
                out.varint(*last);
                out.varint(*next);
                out.varint(*ceiling);
                out.varint(*time_us);
                10
            }
            Self::Pin { name, seqno, time_us } => {
                out.prefixed(name.as_bytes());
                out.varint(*seqno);
                out.varint(*time_us);
                14
            }
            Self::Unpin { name } => {
                out.prefixed(name.as_bytes());
                15
            }
            Self::Held { number, bytes } => {
                out.varint(*number);
                out.varint(bytes.len() as u64);
                for (seqno, bytes) in bytes {
                    out.varint(*seqno);
                    out.varint(*bytes);
                }
                128
            }
        };
        (tag, out.into_bytes())
    }

    fn decode(tag: u8, body: &mut Reader<'_>) -> Result<Option<Self>, Corruption> {
        let keyspace = |body: &mut Reader<'_>| {
            let id = body.varint("keyspace")?;
            u32::try_from(id).map(KeyspaceId).map_err(|_| body.corrupt("keyspace"))
        };
        Ok(Some(match tag {
            1 => {
                let (id, seqno) = (keyspace(body)?, counter(body, "seqno")?);
                let policy = body.u8("policy")?;
                let name = text(body, "name")?;
                Self::Create { id, name, options: StoredOptions::decode_tail(policy, body)?, seqno }
            }
            2 => Self::Drop { id: keyspace(body)?, seqno: counter(body, "seqno")? },
            3 => Self::Forget { id: keyspace(body)? },
            4 => Self::Add {
                level: body.u8("level")?,
                segment: Finished {
                    number: counter(body, "segment number")?,
                    file_id: body.u64("file id")?,
                    file_len: bounded(body, "file length", FILE_LEN_MAX)?,
                    footer_digest: body.u32("footer digest")?,
                    summary: Summary::decode(body)?,
                },
            },
            5 => Self::Remove { keyspace: keyspace(body)?, number: body.varint("segment number")? },
            6 => Self::Marks {
                keyspace: keyspace(body)?,
                vanished: counter(body, "vanished")?,
                horizon: counter(body, "horizon")?,
                lapsed: if body.remaining() > 0 { body.varint("lapsed")? } else { 0 },
            },
            7 => Self::LogsFrom { number: counter(body, "log number")? },
            8 => Self::LogEnd { number: counter(body, "log number")?, end: LogEnd::Exactly(body.varint("log end")?) },
            9 => Self::NextFile { number: counter(body, "file number")? },
            10 => Self::Seqnos {
                last: counter(body, "last seqno")?,
                next: counter(body, "next seqno")?,
                ceiling: counter(body, "seqno ceiling")?,
                time_us: body.varint("commit time")?,
            },
            11 => Self::LogEnd { number: counter(body, "log number")?, end: LogEnd::AtMost(body.varint("log end")?) },
            12 => Self::NextKeyspace { number: keyspace(body)?.0 },
            13 => {
                let (id, seqno) = (keyspace(body)?, counter(body, "seqno")?);
                let policy = body.u8("policy")?;
                Self::Configure { id, options: StoredOptions::decode_tail(policy, body)?, seqno }
            }
            14 => Self::Pin {
                name: text(body, "name of a pin")?,
                seqno: counter(body, "seqno")?,
                time_us: body.varint("time of a pin")?,
            },
            15 => Self::Unpin { name: text(body, "name of a pin")? },
            128 => {
                let number = counter(body, "segment number")?;
                let mut bytes = Vec::new();
                for _ in 0..bounded(body, "seqnos that hold", LIST_MAX)? {
                    bytes.push((counter(body, "seqno")?, bounded(body, "bytes held", FILE_LEN_MAX)?));
                }
                Self::Held { number, bytes }
            }
            _ => return Ok(None),
        }))
    }
}

/// A number that something counts up from.
fn counter(body: &mut Reader<'_>, what: &'static str) -> Result<u64, Corruption> {
    bounded(body, what, COUNTER_MAX)
}

/// A number that is small enough to count and add with: larger ones were never written.
fn bounded(body: &mut Reader<'_>, what: &'static str, max: u64) -> Result<u64, Corruption> {
    let number = body.varint(what)?;
    if number > max { Err(body.corrupt(what)) } else { Ok(number) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::base::KeySpan;

    pub(crate) fn segment(number: u64, span: (&str, &str), seqnos: (u64, u64)) -> Finished {
        Finished {
            number,
            file_id: number * 7,
            file_len: 1000,
            footer_digest: 5,
            summary: Summary {
                keyspace: KeyspaceId(16),
                span: KeySpan { start: span.0.into(), end: Some(span.1.into()) },
                keys: 1,
                entries: 1,
                tombstones: 0,
                range_tombstones: 0,
                raw_bytes: 10,
                min_seqno: seqnos.0,
                max_seqno: seqnos.1,
                lowest_affected: seqnos.0,
                times: None,
                past: None,
            },
        }
    }

    #[test]
    fn every_change_reads_back() {
        let id = KeyspaceId(300);
        let options = StoredOptions::default();
        let merge_name = "longest".to_owned();
        let custom = StoredOptions { merge: NUMBER_CUSTOM, merge_name, point_index: 2, ..StoredOptions::default() };
        let kept = |policy| StoredOptions { policy, ttls: [(3, 5), (9, 0)].into(), ..StoredOptions::default() };
        let sum = StoredOptions { merge: 2, ..StoredOptions::default() };
        let edit = Edit::new([
            Change::Create { id, name: "users".into(), options, seqno: 7 },
            Change::Create { id, name: "words".into(), options: custom, seqno: 7 },
            Change::Configure { id, options: sum, seqno: 8 },
            Change::Configure { id, options: kept(StoredPolicy::LastWriterWins), seqno: 8 },
            Change::Configure { id, options: kept(StoredPolicy::Tombstones(7)), seqno: 8 },
            Change::Configure { id, options: kept(StoredPolicy::Mvcc(3, 1 << 40)), seqno: 8 },
            Change::Configure { id, options: kept(StoredPolicy::Custom("fewest".into())), seqno: 8 },
            Change::Pin { name: "before".into(), seqno: 8, time_us: 1 << 50 },
            Change::Unpin { name: "before".into() },
            Change::Held { number: 4, bytes: vec![(7, 100)] },
            Change::Drop { id, seqno: 9 },
            Change::Forget { id },
            Change::Add { level: 3, segment: segment(4, ("a", "b"), (1, 2)) },
            Change::Remove { keyspace: id, number: 1 << 40 },
            Change::Marks { keyspace: id, vanished: 1, horizon: 2, lapsed: 0 },
            Change::Marks { keyspace: id, vanished: 1, horizon: 2, lapsed: 1 << 50 },
            Change::LogsFrom { number: 3 },
            Change::LogEnd { number: 2, end: LogEnd::Exactly(99) },
            Change::LogEnd { number: 3, end: LogEnd::AtMost(0) },
            Change::NextKeyspace { number: 300 },
            Change::NextFile { number: 12 },
            Change::Seqnos { last: 5, next: 9, ceiling: 1 << 33, time_us: 1 << 50 },
        ]);
        assert_eq!(Edit::decode(&edit.encode()), Ok(edit));
    }

    #[test]
    fn an_unknown_change_is_skipped_only_if_it_may_be() {
        assert_eq!(Edit::decode(&[200, 2, 1, 1]), Ok(Edit::default()));
        assert!(Edit::decode(&[100, 2, 1, 1]).is_err());
    }

    #[test]
    fn an_edit_cut_inside_a_change_is_corruption() {
        let bytes = Edit::new([Change::Add { level: 0, segment: segment(4, ("a", "b"), (1, 2)) }]).encode();
        for len in 1..bytes.len() {
            assert!(Edit::decode(&bytes[..len]).is_err(), "{len} bytes");
        }
    }
}
