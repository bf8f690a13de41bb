//! Dedup scopes, and the secret that their keys are made from.

use crate::{
    base::Corruption,
    format::{Reader, Writer},
    manifest::{
        change::Change,
        fields::{bounded, text},
    },
};

pub(crate) const SECRET: u8 = 18;

pub(crate) fn encode_secret(out: &mut Writer, secret: &[u8; 32]) -> u8 {
    out.raw(secret);
    SECRET
}

pub(crate) fn decode_secret(body: &mut Reader<'_>) -> Result<Change, Corruption> {
    Ok(Change::Secret { secret: body.array("secret")? })
}

pub(crate) const SCOPE: u8 = 19;

pub(crate) fn encode_scope(out: &mut Writer, number: u32, name: &str) -> u8 {
    out.varint(u64::from(number));
    out.prefixed(name.as_bytes());
    SCOPE
}

pub(crate) fn decode_scope(body: &mut Reader<'_>) -> Result<Change, Corruption> {
    let number = bounded(body, "number of a dedup scope", u64::from(u32::MAX))?;
    let number = u32::try_from(number).map_err(|_| body.corrupt("number of a dedup scope"))?;
    Ok(Change::Scope { number, name: text(body, "name of a dedup scope")? })
}
