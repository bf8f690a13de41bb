//! Keyspaces that are created, configured, dropped and removed.

use crate::{
    base::{Corruption, KeyspaceId, Micros, Seqno},
    format::{Reader, Writer},
    manifest::{
        change::Change,
        fields::{keyspace, seqno_field, text},
        options::StoredOptions,
    },
};

pub(crate) const CREATE: u8 = 1;

pub(crate) fn encode_create(out: &mut Writer, id: KeyspaceId, name: &str, options: &StoredOptions, seqno: Seqno) -> u8 {
    out.varint(u64::from(id.0));
    out.varint(seqno.0);
    out.prefixed(name.as_bytes());
    options.encode(out);
    CREATE
}

pub(crate) fn decode_create(body: &mut Reader<'_>) -> Result<Change, Corruption> {
    let (id, seqno) = (keyspace(body)?, seqno_field(body, "seqno")?);
    let name = text(body, "name")?;
    Ok(Change::Create { id, name, options: StoredOptions::decode(body)?, seqno })
}

pub(crate) const CONFIGURE: u8 = 13;

pub(crate) fn encode_configure(out: &mut Writer, id: KeyspaceId, options: &StoredOptions, seqno: Seqno) -> u8 {
    out.varint(u64::from(id.0));
    out.varint(seqno.0);
    options.encode(out);
    CONFIGURE
}

pub(crate) fn decode_configure(body: &mut Reader<'_>) -> Result<Change, Corruption> {
    let (id, seqno) = (keyspace(body)?, seqno_field(body, "seqno")?);
    Ok(Change::Configure { id, options: StoredOptions::decode(body)?, seqno })
}

pub(crate) const DROP: u8 = 2;

pub(crate) fn encode_drop(out: &mut Writer, id: KeyspaceId, seqno: Seqno) -> u8 {
    out.varint(u64::from(id.0));
    out.varint(seqno.0);
    DROP
}

pub(crate) fn decode_drop(body: &mut Reader<'_>) -> Result<Change, Corruption> {
    Ok(Change::Drop { id: keyspace(body)?, seqno: seqno_field(body, "seqno")? })
}

pub(crate) const FORGET: u8 = 3;

pub(crate) fn encode_forget(out: &mut Writer, id: KeyspaceId) -> u8 {
    out.varint(u64::from(id.0));
    FORGET
}

pub(crate) fn decode_forget(body: &mut Reader<'_>) -> Result<Change, Corruption> {
    Ok(Change::Forget { id: keyspace(body)? })
}

pub(crate) const WATERMARKS: u8 = 6;

pub(crate) fn encode_watermarks(
    out: &mut Writer,
    id: KeyspaceId,
    vanished: Seqno,
    horizon: Seqno,
    expired_upto: Micros,
) -> u8 {
    out.varint(u64::from(id.0));
    out.varint(vanished.0);
    out.varint(horizon.0);
    out.varint(expired_upto.0);
    WATERMARKS
}

pub(crate) fn decode_watermarks(body: &mut Reader<'_>) -> Result<Change, Corruption> {
    Ok(Change::Watermarks {
        keyspace: keyspace(body)?,
        vanished: seqno_field(body, "vanished")?,
        horizon: seqno_field(body, "horizon")?,
        expired_upto: Micros(body.varint("expired upto")?),
    })
}
