//! Replaying a log, and distinguishing a torn tail from corruption.
//!
//! ```text
//!   good  good  good  BAD  ?  ?  good  ?  …
//!                     │         └─ its synced mark lies above BAD, so BAD was on disk once: corruption
//!                     └─ no later header has such a mark: a tail torn by a power cut; the log ends here
//! ```
//!
//! Pages reach the disk in any order, so a good record after a bad one proves nothing by itself (W2); only a mark does.

use std::{cell::OnceCell, ops::Range, path::Path};

use super::record::{
    ALIGN, BadRecord, FIRST_RECORD, RECORD_HEADER_LEN, RecordHeader, RecordKind, decode_header, may_be_header,
    record_len,
};
use crate::{
    base::{Corruption, Error, Result},
    format::{BadHeader, Header, Reader, crc},
};

/// Ending of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The seal of a log that was followed by another.
    Rotated,
    /// The seal of a clean close.
    Closed,
    /// No seal: a crash.
    Torn,
}

/// End of a log, as far as it is known before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogEnd {
    /// The log ends exactly here, and everything before was on disk when this was recorded.
    Exactly(u64),
    /// A recovery read up to here. Anything after is void; anything before may have been lost to a power cut.
    AtMost(u64),
}

impl LogEnd {
    pub(crate) fn offset(self) -> u64 {
        match self {
            Self::Exactly(end) | Self::AtMost(end) => end,
        }
    }

    fn is_exact(self) -> bool {
        matches!(self, Self::Exactly(_))
    }
}

/// Result of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replay {
    /// End of the good records.
    pub(crate) end: u64,
    pub(crate) ending: Ending,
    /// Whether the log carries proof that it, and so every older log, was synced once (W1).
    pub(crate) was_synced: bool,
}

/// Answer of the receiver of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    /// The data that the record refers to is missing, and nothing proves that it was ever on the disk: the record is
    /// the first of the torn tail. No answer for a record that is proven.
    Refuse,
}

/// A record, as its receiver is shown it.
pub(crate) struct Shown<'l> {
    /// Place of its payload in the bytes of the log.
    pub(crate) place: Range<usize>,
    log: &'l Log<'l>,
    at: u64,
    exact: bool,
}

impl Shown<'_> {
    /// Returns whether something in this log proves that the record, and what it refers to, was on the disk once.
    pub(crate) fn is_proven(&self) -> bool {
        self.exact || self.log.is_marked(self.at)
    }
}

/// Returns whether the log carries proof that it was synced once.
pub(crate) fn was_synced(bytes: &[u8], expected: Header) -> bool {
    Log { path: Path::new(""), bytes, seed: expected.record_seed(), mark: OnceCell::new() }.is_marked(0)
}

/// Replays the log whose header must be `expected`, calling `each` with each record.
///
/// `known` is the end recorded in the manifest.
///
/// # Errors
/// [`Error::Corrupt`] for damage below a synced mark or below an exact end; errors of `each`.
pub(crate) fn replay(
    path: &Path,
    bytes: &[u8],
    expected: Header,
    known: Option<LogEnd>,
    mut each: impl FnMut(Shown<'_>) -> Result<Verdict>,
) -> Result<Replay> {
    let log = Log { path, bytes, seed: expected.record_seed(), mark: OnceCell::new() };
    let ends_at = known.map(LogEnd::offset);
    let exact = known.is_some_and(LogEnd::is_exact);
    if ends_at == Some(0) {
        // A log that an earlier recovery declared void.
        return Ok(Replay { end: 0, ending: Ending::Torn, was_synced: false });
    }
    match Header::decode(bytes, expected.kind) {
        Ok(header) if header == expected => {}
        Ok(_) => return Err(log.corrupt(8, "the id of this log; another file has its name")),
        Err(bad @ BadHeader::Newer(_)) => return Err(bad.of(path)),
        // A header that never reached the disk, unless the manifest or a mark proves that it did.
        Err(bad) if exact || log.is_marked(0) => return Err(bad.of(path)),
        Err(_) => return Ok(Replay { end: 0, ending: Ending::Torn, was_synced: false }),
    }

    let mut at = FIRST_RECORD;
    let mut previous = 0;
    let mut was_synced = false;
    let mut ending = Ending::Torn;
    while ending == Ending::Torn && ends_at.is_none_or(|end| at < end) {
        let (record, payload) = match log.record(at, previous) {
            Ok(found) => found,
            Err(BadRecord::Corrupt(_)) if !exact && !log.is_marked(at) => break,
            Err(bad) => return Err(bad.corruption().of(path, at)),
        };
        match record.kind {
            RecordKind::Data => {
                if each(Shown { place: payload, log: &log, at, exact })? == Verdict::Refuse {
                    if exact || log.is_marked(at) {
                        return Err(log.corrupt(at, "the target of a synced record"));
                    }
                    break;
                }
            }
            RecordKind::Rotated => ending = Ending::Rotated,
            RecordKind::Closed => ending = Ending::Closed,
        }
        was_synced |= record.synced_upto > 0;
        previous = record.own_crc;
        at += record_len(record.len);
    }
    if ends_at.is_some_and(|end| if exact { at != end } else { at > end }) {
        return Err(log.corrupt(at, "the end of the log that the manifest names"));
    }
    Ok(Replay { end: at, ending, was_synced: was_synced || log.is_marked(at) })
}

struct Log<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    seed: u32,
    /// The largest mark of any header; computed when it is first asked for.
    mark: OnceCell<u64>,
}

impl Log<'_> {
    fn record(&self, at: u64, previous: u32) -> Result<(RecordHeader, Range<usize>), BadRecord> {
        let start = usize::try_from(at).unwrap_or(usize::MAX);
        let rest = self.bytes.get(start..).unwrap_or_default();
        let header = decode_header(rest, self.seed, at)?;
        if header.previous != previous {
            return Err(Corruption { offset: 12, what: "the checksum of the record before" }.into());
        }
        let mut reader = Reader::starting_at(rest, RECORD_HEADER_LEN);
        let payload = reader.take(header.len as usize, "record payload")?;
        if crc(&[payload]) != header.payload_crc {
            return Err(Corruption { offset: 8, what: "payload checksum" }.into());
        }
        let from = start + RECORD_HEADER_LEN;
        Ok((header, from..from + payload.len()))
    }

    /// Returns whether a record header says that the log was synced beyond `at`, or may say so in a way that this
    /// release does not know.
    ///
    /// Checks headers alone, at each aligned offset, once: a payload cannot help to hide what was synced, and the cost
    /// stays linear whatever the bytes are. No header marks more than lies before it, so those before `at` do not
    /// count.
    fn is_marked(&self, at: u64) -> bool {
        *self.mark.get_or_init(|| self.largest_mark()) > at
    }

    fn largest_mark(&self) -> u64 {
        let mut largest = 0;
        let mut place = usize::try_from(FIRST_RECORD).unwrap_or(usize::MAX);
        while let Some(rest) = self.bytes.get(place..)
            && rest.len() >= RECORD_HEADER_LEN
        {
            if may_be_header(rest) {
                match decode_header(rest, self.seed, place as u64) {
                    Ok(header) if u64::from(header.synced_upto) <= place as u64 => {
                        largest = largest.max(u64::from(header.synced_upto));
                    }
                    // It was written: everything before it was.
                    Err(BadRecord::Unknown(_)) => largest = largest.max(place as u64 + 1),
                    Ok(_) | Err(BadRecord::Corrupt(_)) => {}
                }
            }
            place += ALIGN;
        }
        largest
    }

    fn corrupt(&self, offset: u64, what: &'static str) -> Error {
        Corruption { offset, what }.of(self.path, 0)
    }
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, sync::Arc};

    use crate::base::FileNumber;

    use super::*;
    use crate::{
        base::{KeyspaceId, Kind, Micros, Seqno},
        env::{Env, Memory},
        format::{FileKind, record_crc},
        wal::{BatchBuf, BatchView, LogWriter},
    };

    const HEADER: Header = Header { kind: FileKind::Log, file_id: 0xdb, number: FileNumber(1) };

    /// A log of `count` batches; the log is synced after the first `synced` of them.
    fn log(count: u64, synced: u64, seal: Option<RecordKind>) -> Vec<u8> {
        let env = Memory::new();
        let dir = env.open_dir(Path::new("/db"), true).unwrap();
        dir.create_dir("wal").unwrap();
        let mut writer = LogWriter::create(&*dir, HEADER).unwrap();
        for seqno in 1..=count {
            let mut batch = BatchBuf::default();
            batch.push(Kind::Put, KeyspaceId(16), format!("key{seqno}").as_bytes(), b"value");
            batch.stamp(Seqno(seqno), Micros::ZERO);
            writer.append(&mut batch).unwrap();
            if seqno == synced {
                writer.file().sync(writer.offset()).unwrap();
            }
        }
        if let Some(kind) = seal {
            writer.seal(kind).unwrap();
        }
        writer.trim().unwrap();
        let file = dir.open("wal/1.wal").unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_at(0, &mut bytes).unwrap();
        bytes
    }

    fn seqnos(bytes: &[u8], known: Option<LogEnd>) -> Result<(Vec<u64>, Replay)> {
        let owner = Arc::new(bytes.to_vec());
        let mut seqnos = Vec::new();
        let path = PathBuf::from("wal/1.wal");
        let replay = replay(&path, bytes, HEADER, known, |shown| {
            let view = BatchView::read(&owner, shown.place.start, shown.place.end).unwrap();
            seqnos.push(view.stamp().0.0);
            Ok(Verdict::Accept)
        })?;
        Ok((seqnos, replay))
    }

    #[test]
    fn a_sealed_log_reads_back_whole() {
        let bytes = log(3, 0, Some(RecordKind::Closed));
        let (seen, replay) = seqnos(&bytes, None).unwrap();
        assert_eq!((seen, replay.ending), (vec![1, 2, 3], Ending::Closed));
        assert_eq!(replay.end, bytes.len() as u64);
    }

    #[test]
    fn any_cut_of_an_unsynced_log_is_a_prefix() {
        let bytes = log(4, 0, None);
        for len in 0..bytes.len() {
            let (seen, replay) = seqnos(&bytes[..len], None).unwrap();
            assert_eq!(seen, (1..=seen.len() as u64).collect::<Vec<_>>());
            assert_eq!(replay.ending, Ending::Torn);
        }
    }

    #[test]
    fn a_flip_below_a_synced_mark_is_corruption_and_beyond_it_a_torn_tail() {
        let bytes = log(4, 2, None);
        let record = (bytes.len() - Header::LEN) / 4;
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            let below = at < Header::LEN + 2 * record;
            match seqnos(&bad, None) {
                Ok((seen, _)) => {
                    let padding = seen.len() == 4;
                    assert!(padding || !below && seen.len() >= 2, "byte {at}: {seen:?}");
                }
                Err(e) => assert!(below, "byte {at}: {e}"),
            }
        }
    }

    #[test]
    fn where_a_recovery_ended_a_log_nothing_behind_it_counts() {
        let bytes = log(3, 0, None);
        let record = (bytes.len() - Header::LEN) / 3;
        let end = (Header::LEN + 2 * record) as u64;
        for known in [LogEnd::Exactly(end), LogEnd::AtMost(end)] {
            assert_eq!(seqnos(&bytes, Some(known)).unwrap().0, [1, 2]);
        }
        let cut = &bytes[..Header::LEN + record];
        assert!(seqnos(cut, Some(LogEnd::Exactly(end))).is_err());
        assert_eq!(seqnos(cut, Some(LogEnd::AtMost(end))).unwrap().0, [1]);
        assert_eq!(seqnos(&bytes, Some(LogEnd::AtMost(0))).unwrap().0, [0; 0]);
    }

    #[test]
    fn a_log_of_another_number_or_database_is_refused() {
        let bytes = log(1, 0, None);
        let path = PathBuf::from("wal/2.wal");
        for other in [Header { number: FileNumber(2), ..HEADER }, Header { file_id: 0xdc, ..HEADER }] {
            assert!(replay(&path, &bytes, other, None, |_| Ok(Verdict::Accept)).is_err());
        }
    }

    /// Changes a byte of the header of a record as a later release would, which seals it again.
    fn reseal(bytes: &mut [u8], record: usize, byte: usize, value: u8) {
        bytes[record + byte] = value;
        let sum = record_crc(HEADER.record_seed(), record as u64, &bytes[record + 4..record + RECORD_HEADER_LEN]);
        bytes[record..record + 4].copy_from_slice(&sum.to_le_bytes());
    }

    #[test]
    fn a_record_with_a_flag_or_of_an_unknown_kind_is_refused_and_never_a_torn_tail() {
        let good = log(3, 0, None);
        let record = (good.len() - Header::LEN) / 3;
        for (byte, value) in [(20, 2), (20, 3), (20, 4), (20, 255), (21, 1), (21, 128), (22, 1), (23, 9)] {
            for number in 0..3 {
                let at = Header::LEN + number * record;
                let mut bytes = good.clone();
                reseal(&mut bytes, at, byte, value);
                let refused = seqnos(&bytes, None).unwrap_err();
                assert!(
                    matches!(refused, Error::Corrupt { .. }),
                    "byte {byte} = {value} in record {number}: {refused}"
                );
                // Also behind a torn record, unless padding could be mistaken for it.
                if number > 0 && byte < 22 {
                    bytes[Header::LEN] ^= 1;
                    assert!(seqnos(&bytes, None).is_err(), "byte {byte} = {value} behind a bad record");
                }
            }
        }
    }

    #[test]
    fn a_refused_record_ends_an_unsynced_log() {
        let bytes = log(3, 0, None);
        let mut count = 0;
        let replay = replay(Path::new("1.wal"), &bytes, HEADER, None, |_| {
            count += 1;
            Ok(if count == 2 { Verdict::Refuse } else { Verdict::Accept })
        });
        assert_eq!(replay.unwrap().ending, Ending::Torn);
        assert_eq!(count, 2);
    }
}
