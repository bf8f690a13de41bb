//! Packs of chunks that are added and removed.

use crate::{
    base::{Corruption, FileNumber},
    chunk::{pack::PackMeta, record::RECORDS_MAX},
    format::{Reader, Writer},
    manifest::{
        change::Change,
        fields::{FILE_LEN_MAX, bounded, file_number},
    },
};

pub(crate) const ADD: u8 = 16;

pub(crate) fn encode_add(out: &mut Writer, pack: &PackMeta) -> u8 {
    out.varint(pack.number.0);
    out.u64(pack.file_id);
    out.varint(pack.file_len);
    out.u32(pack.footer_digest);
    out.varint(u64::from(pack.records));
    out.varint(pack.stored_bytes);
    out.varint(pack.raw_bytes);
    ADD
}

pub(crate) fn decode_add(body: &mut Reader<'_>) -> Result<Change, Corruption> {
    let number = file_number(body, "pack number")?;
    let file_id = body.u64("file id")?;
    let file_len = bounded(body, "file length", FILE_LEN_MAX)?;
    let footer_digest = body.u32("footer digest")?;
    let records = bounded(body, "records of a pack", u64::from(RECORDS_MAX))?;
    let records = u32::try_from(records).map_err(|_| body.corrupt("records of a pack"))?;
    let stored_bytes = bounded(body, "stored bytes", FILE_LEN_MAX)?;
    let raw_bytes = bounded(body, "raw bytes", FILE_LEN_MAX)?;
    let pack = PackMeta { number, file_id, file_len, footer_digest, records, stored_bytes, raw_bytes };
    Ok(Change::AddPack { pack })
}

pub(crate) const REMOVE: u8 = 17;

pub(crate) fn encode_remove(out: &mut Writer, number: FileNumber) -> u8 {
    out.varint(number.0);
    REMOVE
}

pub(crate) fn decode_remove(body: &mut Reader<'_>) -> Result<Change, Corruption> {
    Ok(Change::RemovePack { number: file_number(body, "pack number")? })
}

pub(crate) const DROPPED: u8 = 129;

pub(crate) fn encode_dropped(out: &mut Writer, bytes: u64) -> u8 {
    out.varint(bytes);
    DROPPED
}

pub(crate) fn decode_dropped(body: &mut Reader<'_>) -> Result<Change, Corruption> {
    Ok(Change::Dropped { bytes: body.varint("bytes dropped")? })
}
