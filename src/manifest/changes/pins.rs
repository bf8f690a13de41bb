//! Pins that are set and removed.

use crate::{
    base::{Corruption, Micros, Seqno},
    format::{Reader, Writer},
    manifest::{
        change::Change,
        fields::{seqno_field, text},
    },
};

pub(crate) const PIN: u8 = 14;

pub(crate) fn encode_pin(out: &mut Writer, name: &str, seqno: Seqno, time: Micros) -> u8 {
    out.prefixed(name.as_bytes());
    out.varint(seqno.0);
    out.varint(time.0);
    PIN
}

pub(crate) fn decode_pin(body: &mut Reader<'_>) -> Result<Change, Corruption> {
    Ok(Change::Pin {
        name: text(body, "name of a pin")?,
        seqno: seqno_field(body, "seqno")?,
        time: Micros(body.varint("time of a pin")?),
    })
}

pub(crate) const UNPIN: u8 = 15;

pub(crate) fn encode_unpin(out: &mut Writer, name: &str) -> u8 {
    out.prefixed(name.as_bytes());
    UNPIN
}

pub(crate) fn decode_unpin(body: &mut Reader<'_>) -> Result<Change, Corruption> {
    Ok(Change::Unpin { name: text(body, "name of a pin")? })
}
