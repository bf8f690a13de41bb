//! Fields of changes, decoded defensively: names, ids, and numbers small enough to count and add with.

use crate::{
    base::{Corruption, FileNumber, KeyspaceId, Seqno},
    format::Reader,
};

/// Largest file number or seqno that is read. What is written stays far below: see [`COUNTER_START_MAX`].
const COUNTER_MAX: u64 = 1 << 62;

/// Largest file number or seqno that a database may be opened with. It can count up from there for centuries without
/// reaching what would not be read again.
pub(super) const COUNTER_START_MAX: u64 = 1 << 61;

/// Longer than any segment can be.
pub(super) const FILE_LEN_MAX: u64 = 1 << 40;

/// Upper bound on the TTL changes of a keyspace, and on the seqnos that hold one segment.
pub(super) const LIST_MAX: u64 = 1 << 20;

/// Reads the id of a keyspace.
pub(super) fn keyspace(body: &mut Reader<'_>) -> Result<KeyspaceId, Corruption> {
    let id = body.varint("keyspace")?;
    u32::try_from(id).map(KeyspaceId).map_err(|_| body.corrupt("keyspace"))
}

/// Reads a name.
pub(super) fn text(body: &mut Reader<'_>, what: &'static str) -> Result<String, Corruption> {
    let text = std::str::from_utf8(body.prefixed(what)?).map_err(|_| body.corrupt(what))?;
    Ok(text.to_owned())
}

/// Reads a number that something counts up from.
pub(super) fn counter(body: &mut Reader<'_>, what: &'static str) -> Result<u64, Corruption> {
    bounded(body, what, COUNTER_MAX)
}

/// Reads a seqno.
pub(super) fn seqno_field(body: &mut Reader<'_>, what: &'static str) -> Result<Seqno, Corruption> {
    counter(body, what).map(Seqno)
}

/// Reads the number of a file.
pub(super) fn file_number(body: &mut Reader<'_>, what: &'static str) -> Result<FileNumber, Corruption> {
    counter(body, what).map(FileNumber)
}

/// Reads a number small enough to count and add with: larger ones were never written.
pub(super) fn bounded(body: &mut Reader<'_>, what: &'static str, max: u64) -> Result<u64, Corruption> {
    let number = body.varint(what)?;
    if number > max { Err(body.corrupt(what)) } else { Ok(number) }
}
