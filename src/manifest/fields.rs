//! Fields of changes, read with care: names, ids, and numbers small enough to count and add with.

use crate::{
    base::{Corruption, KeyspaceId},
    format::Reader,
};

/// The largest file number or seqno that makes sense.
const COUNTER_MAX: u64 = 1 << 62;

/// Longer than any segment can be.
pub(super) const FILE_LEN_MAX: u64 = 1 << 40;

/// More changes of the time to live than anybody makes in a keyspace, and seqnos that one segment is held by.
pub(super) const LIST_MAX: u64 = 1 << 20;

/// The id of a keyspace.
pub(super) fn keyspace(body: &mut Reader<'_>) -> Result<KeyspaceId, Corruption> {
    let id = body.varint("keyspace")?;
    u32::try_from(id).map(KeyspaceId).map_err(|_| body.corrupt("keyspace"))
}

/// A name.
pub(super) fn text(body: &mut Reader<'_>, what: &'static str) -> Result<String, Corruption> {
    let text = std::str::from_utf8(body.prefixed(what)?).map_err(|_| body.corrupt(what))?;
    Ok(text.to_owned())
}

/// A number that something counts up from.
pub(super) fn counter(body: &mut Reader<'_>, what: &'static str) -> Result<u64, Corruption> {
    bounded(body, what, COUNTER_MAX)
}

/// A number that is small enough to count and add with: larger ones were never written.
pub(super) fn bounded(body: &mut Reader<'_>, what: &'static str, max: u64) -> Result<u64, Corruption> {
    let number = body.varint(what)?;
    if number > max { Err(body.corrupt(what)) } else { Ok(number) }
}
