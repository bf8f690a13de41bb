//! Logs that are needed, and their ends.

use crate::{
    base::{Corruption, FileNumber},
    format::{Reader, Writer},
    manifest::{change::Change, fields::file_number},
    wal::LogEnd,
};

pub(crate) const LOGS_FROM: u8 = 7;

pub(crate) fn encode_logs_from(out: &mut Writer, number: FileNumber) -> u8 {
    out.varint(number.0);
    LOGS_FROM
}

pub(crate) fn decode_logs_from(body: &mut Reader<'_>) -> Result<Change, Corruption> {
    Ok(Change::LogsFrom { number: file_number(body, "log number")? })
}

/// Tags of a log end; they say how it is known.
pub(crate) const LOG_ENDS_EXACTLY: u8 = 8;
pub(crate) const LOG_ENDS_AT_MOST: u8 = 11;

pub(crate) fn encode_log_end(out: &mut Writer, number: FileNumber, end: LogEnd) -> u8 {
    out.varint(number.0);
    out.varint(end.offset());
    match end {
        LogEnd::Exactly(_) => LOG_ENDS_EXACTLY,
        LogEnd::AtMost(_) => LOG_ENDS_AT_MOST,
    }
}

/// Decodes either; `known` follows from the tag.
pub(crate) fn decode_log_end(known: fn(u64) -> LogEnd, body: &mut Reader<'_>) -> Result<Change, Corruption> {
    Ok(Change::LogEnd { number: file_number(body, "log number")?, end: known(body.varint("log end")?) })
}
