//! The files of a database: their kinds, and the records of its logs as `docs/format/wal.md` draws them.

use std::path::Path;

pub(crate) fn kind(path: &Path) -> &'static str {
    let text = path.to_string_lossy();
    match () {
        () if text.ends_with(".wal") => "log",
        () if text.ends_with(".seg") => "segment",
        () if text.contains("MANIFEST-") => "manifest",
        () if text.ends_with("CURRENT") => "current",
        () => "lock",
    }
}

/// A record of a log, as `docs/format/wal.md` draws it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) synced_upto: usize,
    pub(crate) is_data: bool,
}

pub(crate) const LOG_HEADER_LEN: usize = 32;

pub(crate) const RECORD_HEADER_LEN: usize = 24;

pub(crate) fn records(bytes: &[u8]) -> Vec<Record> {
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let mut found = Vec::new();
    let mut start = LOG_HEADER_LEN;
    while start + RECORD_HEADER_LEN <= bytes.len() && bytes[start..start + RECORD_HEADER_LEN].iter().any(|b| *b != 0) {
        let end = start + RECORD_HEADER_LEN + number(start + 4);
        found.push(Record { start, end, synced_upto: number(start + 16), is_data: bytes[start + 20] == 1 });
        start = end.next_multiple_of(8);
    }
    found
}

/// Whether a byte carries anything: padding does not, nor the file that only says who holds the lock.
pub(crate) fn carries(path: &Path, bytes: &[u8], at: usize) -> bool {
    match kind(path) {
        "log" | "manifest" => at < LOG_HEADER_LEN || records(bytes).iter().any(|r| (r.start..r.end).contains(&at)),
        kind => kind == "current" || kind == "segment",
    }
}
