//! Segments that are added and removed, and the bytes that each holds for older readers.

use crate::{
    base::{Corruption, FileNumber, KeyspaceId, Seqno},
    format::{Reader, Writer},
    manifest::{
        change::Change,
        fields::{FILE_LEN_MAX, LIST_MAX, bounded, file_number, keyspace, seqno_field},
    },
    segment::{SegmentMeta, Summary},
};

pub(crate) const ADD: u8 = 4;

pub(crate) fn encode_add(out: &mut Writer, level: u8, segment: &SegmentMeta) -> u8 {
    out.u8(level);
    out.varint(segment.number.0);
    out.u64(segment.file_id);
    out.varint(segment.file_len);
    out.u32(segment.footer_digest);
    segment.summary.encode(out);
    ADD
}

pub(crate) fn decode_add(body: &mut Reader<'_>) -> Result<Change, Corruption> {
    Ok(Change::Add {
        level: body.u8("level")?,
        segment: SegmentMeta {
            number: file_number(body, "segment number")?,
            file_id: body.u64("file id")?,
            file_len: bounded(body, "file length", FILE_LEN_MAX)?,
            footer_digest: body.u32("footer digest")?,
            summary: Summary::decode(body)?,
        },
    })
}

pub(crate) const REMOVE: u8 = 5;

pub(crate) fn encode_remove(out: &mut Writer, keyspace: KeyspaceId, number: FileNumber) -> u8 {
    out.varint(u64::from(keyspace.0));
    out.varint(number.0);
    REMOVE
}

pub(crate) fn decode_remove(body: &mut Reader<'_>) -> Result<Change, Corruption> {
    Ok(Change::Remove { keyspace: keyspace(body)?, number: FileNumber(body.varint("segment number")?) })
}

/// A hint: readers may skip it.
pub(crate) const HELD: u8 = 128;

pub(crate) fn encode_held(out: &mut Writer, number: FileNumber, held: &[(Seqno, u64)]) -> u8 {
    out.varint(number.0);
    out.varint(held.len() as u64);
    for (seqno, bytes) in held {
        out.varint(seqno.0);
        out.varint(*bytes);
    }
    HELD
}

pub(crate) fn decode_held(body: &mut Reader<'_>) -> Result<Change, Corruption> {
    let number = file_number(body, "segment number")?;
    let mut bytes = Vec::new();
    for _ in 0..bounded(body, "seqnos that hold", LIST_MAX)? {
        bytes.push((seqno_field(body, "seqno")?, bounded(body, "bytes held", FILE_LEN_MAX)?));
    }
    Ok(Change::Held { number, bytes })
}
