//! An edit: one step from a version to the next.
//!
//! ```text
//!  edit:    change change …
//!  change:  tag u8 · length varint · body
//! ```
//!
//! An unknown tag below 128 refuses the file; from 128 on the change is skipped, so that a later format may add hints
//! that an earlier release need not understand.

use super::{
    change::Change,
    changes::{counters, keyspaces, logs, packs, pins, scopes, segments},
};
use crate::{
    base::Corruption,
    format::{Reader, Writer},
    wal::LogEnd,
};

/// Lowest tag that a reader may skip.
const FIRST_OPTIONAL_TAG: u8 = 128;

// A hint must be skippable.
const _: () = assert!(segments::HELD >= FIRST_OPTIONAL_TAG && packs::DROPPED >= FIRST_OPTIONAL_TAG);

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
            let (tag, body) = encode(change);
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
            match decode(tag, &mut body)? {
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

/// Returns the tag and the body of a change.
fn encode(change: &Change) -> (u8, Vec<u8>) {
    let mut body = Writer::default();
    let out = &mut body;
    let tag = match change {
        Change::Create { id, name, options, seqno } => keyspaces::encode_create(out, *id, name, options, *seqno),
        Change::Configure { id, options, seqno } => keyspaces::encode_configure(out, *id, options, *seqno),
        Change::Drop { id, seqno } => keyspaces::encode_drop(out, *id, *seqno),
        Change::Forget { id } => keyspaces::encode_forget(out, *id),
        Change::Add { level, segment } => segments::encode_add(out, *level, segment),
        Change::Remove { keyspace, number } => segments::encode_remove(out, *keyspace, *number),
        Change::Watermarks { keyspace, vanished, horizon, expired_upto } => {
            keyspaces::encode_watermarks(out, *keyspace, *vanished, *horizon, *expired_upto)
        }
        Change::LogsFrom { number } => logs::encode_logs_from(out, *number),
        Change::LogEnd { number, end } => logs::encode_log_end(out, *number, *end),
        Change::NextFile { number } => counters::encode_next_file(out, *number),
        Change::NextKeyspace { number } => counters::encode_next_keyspace(out, *number),
        Change::Seqnos { last, next, ceiling, time } => counters::encode_seqnos(out, *last, *next, *ceiling, *time),
        Change::Pin { name, seqno, time } => pins::encode_pin(out, name, *seqno, *time),
        Change::Unpin { name } => pins::encode_unpin(out, name),
        Change::AddPack { pack } => packs::encode_add(out, pack),
        Change::RemovePack { number } => packs::encode_remove(out, *number),
        Change::Secret { secret } => scopes::encode_secret(out, secret),
        Change::Scope { number, name } => scopes::encode_scope(out, *number, name),
        Change::Held { number, bytes } => segments::encode_held(out, *number, bytes),
        Change::Dropped { bytes } => packs::encode_dropped(out, *bytes),
    };
    (tag, body.into_bytes())
}

/// Decodes the change of a tag and a body; `None` if the tag is unknown.
fn decode(tag: u8, body: &mut Reader<'_>) -> Result<Option<Change>, Corruption> {
    let change = match tag {
        keyspaces::CREATE => keyspaces::decode_create(body),
        keyspaces::CONFIGURE => keyspaces::decode_configure(body),
        keyspaces::DROP => keyspaces::decode_drop(body),
        keyspaces::FORGET => keyspaces::decode_forget(body),
        segments::ADD => segments::decode_add(body),
        segments::REMOVE => segments::decode_remove(body),
        keyspaces::WATERMARKS => keyspaces::decode_watermarks(body),
        logs::LOGS_FROM => logs::decode_logs_from(body),
        logs::LOG_ENDS_EXACTLY => logs::decode_log_end(LogEnd::Exactly, body),
        logs::LOG_ENDS_AT_MOST => logs::decode_log_end(LogEnd::AtMost, body),
        counters::NEXT_FILE => counters::decode_next_file(body),
        counters::NEXT_KEYSPACE => counters::decode_next_keyspace(body),
        counters::SEQNOS => counters::decode_seqnos(body),
        pins::PIN => pins::decode_pin(body),
        pins::UNPIN => pins::decode_unpin(body),
        packs::ADD => packs::decode_add(body),
        packs::REMOVE => packs::decode_remove(body),
        scopes::SECRET => scopes::decode_secret(body),
        scopes::SCOPE => scopes::decode_scope(body),
        segments::HELD => segments::decode_held(body),
        packs::DROPPED => packs::decode_dropped(body),
        _ => return Ok(None),
    };
    change.map(Some)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        base::{FileNumber, KeySpan, KeyspaceId, Micros, Seqno},
        chunk::pack::PackMeta,
        manifest::options::{StoredOptions, StoredPolicy},
        merge::NUMBER_CUSTOM,
        segment::{PointIndex, SegmentMeta, Summary},
    };

    pub(crate) fn segment(number: u64, span: (&str, &str), seqnos: (Seqno, Seqno)) -> SegmentMeta {
        SegmentMeta {
            number: FileNumber(number),
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
                recipes: false,
                times: None,
                history: None,
            },
        }
    }

    pub(crate) fn pack(number: u64) -> PackMeta {
        PackMeta {
            number: FileNumber(number),
            file_id: number * 3,
            file_len: 2000,
            footer_digest: 6,
            records: 2,
            stored_bytes: 128,
            raw_bytes: 300,
        }
    }

    #[test]
    fn every_change_reads_back() {
        let id = KeyspaceId(300);
        let options = StoredOptions::default();
        let merge_name = "longest".to_owned();
        let custom = StoredOptions {
            merge: NUMBER_CUSTOM,
            merge_name,
            point_index: PointIndex::Always,
            ..StoredOptions::default()
        };
        let kept = |policy| StoredOptions {
            policy,
            ttls: [(Seqno(3), Micros(5)), (Seqno(9), Micros::ZERO)].into(),
            ..StoredOptions::default()
        };
        let sum = StoredOptions { merge: 2, ..StoredOptions::default() };
        let edit = Edit::new([
            Change::Create { id, name: "users".into(), options, seqno: Seqno(7) },
            Change::Create { id, name: "words".into(), options: custom, seqno: Seqno(7) },
            Change::Configure { id, options: sum, seqno: Seqno(8) },
            Change::Configure { id, options: kept(StoredPolicy::LastWriterWins), seqno: Seqno(8) },
            Change::Configure { id, options: kept(StoredPolicy::Tombstones(Micros(7))), seqno: Seqno(8) },
            Change::Configure { id, options: kept(StoredPolicy::Mvcc(3, Micros(1 << 40))), seqno: Seqno(8) },
            Change::Configure { id, options: kept(StoredPolicy::Custom("fewest".into())), seqno: Seqno(8) },
            Change::Pin { name: "before".into(), seqno: Seqno(8), time: Micros(1 << 50) },
            Change::Unpin { name: "before".into() },
            Change::Held { number: FileNumber(4), bytes: vec![(Seqno(7), 100)] },
            Change::Drop { id, seqno: Seqno(9) },
            Change::Forget { id },
            Change::Add { level: 3, segment: segment(4, ("a", "b"), (Seqno(1), Seqno(2))) },
            Change::Remove { keyspace: id, number: FileNumber(1 << 40) },
            Change::Watermarks { keyspace: id, vanished: Seqno(1), horizon: Seqno(2), expired_upto: Micros::ZERO },
            Change::Watermarks { keyspace: id, vanished: Seqno(1), horizon: Seqno(2), expired_upto: Micros(1 << 50) },
            Change::AddPack { pack: pack(9) },
            Change::RemovePack { number: FileNumber(9) },
            Change::Dropped { bytes: u64::MAX },
            Change::Secret { secret: [7; 32] },
            Change::Scope { number: 1, name: "tenant 7".into() },
            Change::LogsFrom { number: FileNumber(3) },
            Change::LogEnd { number: FileNumber(2), end: LogEnd::Exactly(99) },
            Change::LogEnd { number: FileNumber(3), end: LogEnd::AtMost(0) },
            Change::NextKeyspace { number: 300 },
            Change::NextFile { number: FileNumber(12) },
            Change::Seqnos { last: Seqno(5), next: Seqno(9), ceiling: Seqno(1 << 33), time: Micros(1 << 50) },
        ]);
        assert_eq!(Edit::decode(&edit.encode()), Ok(edit));
    }

    #[test]
    fn every_change_has_the_bytes_of_the_format() {
        let id = KeyspaceId(300);
        let plain = StoredOptions::default();
        let sum = StoredOptions { merge: 2, ..StoredOptions::default() };
        let ttls = [(Seqno(3), Micros(5)), (Seqno(9), Micros::ZERO)].into();
        let kept = StoredOptions { policy: StoredPolicy::Mvcc(3, Micros(128)), ttls, ..StoredOptions::default() };
        let custom = StoredOptions { policy: StoredPolicy::Custom("f".into()), ..StoredOptions::default() };
        let marks =
            |expired_upto| Change::Watermarks { keyspace: id, vanished: Seqno(1), horizon: Seqno(2), expired_upto };
        let cases: &[(Change, &[u8])] = &[
            (Change::Create { id, name: "k".into(), options: plain, seqno: Seqno(7) }, b"\x01\x05\xac\x02\x07\x01k"),
            (Change::Drop { id, seqno: Seqno(9) }, b"\x02\x03\xac\x02\x09"),
            (Change::Forget { id }, b"\x03\x02\xac\x02"),
            (Change::Remove { keyspace: id, number: FileNumber(128) }, b"\x05\x04\xac\x02\x80\x01"),
            (marks(Micros::ZERO), b"\x06\x05\xac\x02\x01\x02\x00"),
            (marks(Micros(8)), b"\x06\x05\xac\x02\x01\x02\x08"),
            (Change::LogsFrom { number: FileNumber(3) }, b"\x07\x01\x03"),
            (Change::LogEnd { number: FileNumber(2), end: LogEnd::Exactly(99) }, b"\x08\x02\x02\x63"),
            (Change::LogEnd { number: FileNumber(3), end: LogEnd::AtMost(0) }, b"\x0b\x02\x03\x00"),
            (Change::NextFile { number: FileNumber(12) }, b"\x09\x01\x0c"),
            (
                Change::Seqnos { last: Seqno(5), next: Seqno(9), ceiling: Seqno(128), time: Micros(6) },
                b"\x0a\x05\x05\x09\x80\x01\x06",
            ),
            (Change::NextKeyspace { number: 300 }, b"\x0c\x02\xac\x02"),
            (Change::Configure { id, options: sum, seqno: Seqno(8) }, b"\x0d\x06\xac\x02\x08\x02\x01\x02"),
            (
                Change::Configure { id, options: kept, seqno: Seqno(8) },
                b"\x0d\x0f\xac\x02\x08\x01\x04\x02\x03\x80\x01\x04\x04\x03\x05\x09\x00",
            ),
            (Change::Configure { id, options: custom, seqno: Seqno(8) }, b"\x0d\x08\xac\x02\x08\x01\x03\x03\x01f"),
            (Change::Pin { name: "p".into(), seqno: Seqno(8), time: Micros(6) }, b"\x0e\x04\x01p\x08\x06"),
            (Change::Unpin { name: "p".into() }, b"\x0f\x02\x01p"),
            (
                Change::AddPack { pack: pack(128) },
                b"\x10\x15\x80\x01\x80\x01\x00\x00\x00\x00\x00\x00\xd0\x0f\x06\x00\x00\x00\x02\x80\x01\xac\x02",
            ),
            (Change::RemovePack { number: FileNumber(128) }, b"\x11\x02\x80\x01"),
            (Change::Secret { secret: [0x41; 32] }, b"\x12\x20AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
            (Change::Scope { number: 1, name: "t".into() }, b"\x13\x03\x01\x01t"),
            (Change::Held { number: FileNumber(4), bytes: vec![(Seqno(7), 100)] }, b"\x80\x04\x04\x01\x07\x64"),
            (Change::Dropped { bytes: 300 }, b"\x81\x02\xac\x02"),
        ];
        for (change, bytes) in cases {
            assert_eq!(Edit::new([change.clone()]).encode(), *bytes, "{change:?}");
        }
        let add = Edit::new([Change::Add { level: 3, segment: segment(4, ("a", "b"), (Seqno(1), Seqno(2))) }]).encode();
        assert!(add.starts_with(b"\x04") && add.get(2..5) == Some(&[3, 4, 28]), "{add:?}");
    }

    #[test]
    fn an_unknown_change_is_skipped_only_if_it_may_be() {
        assert_eq!(Edit::decode(&[200, 2, 1, 1]), Ok(Edit::default()));
        assert!(Edit::decode(&[100, 2, 1, 1]).is_err());
    }

    #[test]
    fn an_edit_cut_inside_a_change_is_corruption() {
        let bytes =
            Edit::new([Change::Add { level: 0, segment: segment(4, ("a", "b"), (Seqno(1), Seqno(2))) }]).encode();
        for len in 1..bytes.len() {
            assert!(Edit::decode(&bytes[..len]).is_err(), "{len} bytes");
        }
    }
}
