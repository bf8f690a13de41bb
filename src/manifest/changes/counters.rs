//! Numbers that have been assigned, and the newest commit.

use crate::{
    base::{Corruption, FileNumber, Micros, Seqno},
    format::{Reader, Writer},
    manifest::{
        change::Change,
        fields::{file_number, keyspace, seqno_field},
    },
};

pub(crate) const NEXT_FILE: u8 = 9;

pub(crate) fn encode_next_file(out: &mut Writer, number: FileNumber) -> u8 {
    out.varint(number.0);
    NEXT_FILE
}

pub(crate) fn decode_next_file(body: &mut Reader<'_>) -> Result<Change, Corruption> {
    Ok(Change::NextFile { number: file_number(body, "file number")? })
}

pub(crate) const NEXT_KEYSPACE: u8 = 12;

pub(crate) fn encode_next_keyspace(out: &mut Writer, number: u32) -> u8 {
    out.varint(u64::from(number));
    NEXT_KEYSPACE
}

pub(crate) fn decode_next_keyspace(body: &mut Reader<'_>) -> Result<Change, Corruption> {
    Ok(Change::NextKeyspace { number: keyspace(body)?.0 })
}

pub(crate) const SEQNOS: u8 = 10;

pub(crate) fn encode_seqnos(out: &mut Writer, last: Seqno, next: Seqno, ceiling: Seqno, time: Micros) -> u8 {
    out.varint(last.0);
    out.varint(next.0);
    out.varint(ceiling.0);
    out.varint(time.0);
    SEQNOS
}

pub(crate) fn decode_seqnos(body: &mut Reader<'_>) -> Result<Change, Corruption> {
    Ok(Change::Seqnos {
        last: seqno_field(body, "last seqno")?,
        next: seqno_field(body, "next seqno")?,
        ceiling: seqno_field(body, "seqno ceiling")?,
        time: Micros(body.varint("commit time")?),
    })
}
