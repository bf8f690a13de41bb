//! Recovery: what the logs hold beyond the segments, and where each of them ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind,
    ops::Range,
    path::Path,
    sync::Arc,
};

use crate::{
    base::{Corruption, Error, FIRST_KEYSPACE, FileNumber, IoContext, Micros, Result, Seqno},
    chunk::pack::{Scanned, scan},
    env::{Dir, Files},
    format::{FileKind, Header, name},
    manifest::{ManifestStore, Version, read_all},
    memtable::Memtable,
    wal::{BatchView, Ending, LogEnd, Shown, Verdict, replay, was_synced},
};

/// Contents of the replayed logs.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    /// Newest first, none empty.
    pub(super) memtables: Vec<Arc<Memtable>>,
    /// Known end of each log.
    pub(super) ends: BTreeMap<FileNumber, LogEnd>,
    /// Seqno of the newest batch, or of the newest entry of a segment.
    pub(super) last_seqno: Seqno,
    pub(super) time: Micros,
    pub(super) next_log: FileNumber,
    /// Packs that no version names and of which a batch tells, as far as they are good: they may hold chunks of the
    /// memtables. Others are leftovers: a batch tells of every pack without a name that its recipes may need (L3).
    pub(super) packs: BTreeMap<FileNumber, Scanned>,
    told: BTreeSet<FileNumber>,
}

/// Reads the packs that the version does not name.
fn scan_packs(files: &Arc<Files>, version: &Version) -> Result<BTreeMap<FileNumber, Scanned>> {
    let numbers = pack_numbers(&**files)?;
    let unnamed = numbers.into_iter().filter(|number| !version.packs.contains_key(number));
    unnamed.map(|number| Ok((number, scan(files, number)?))).collect()
}

/// Lists the packs in the directory; a database without large values may have no place for any.
pub(super) fn pack_numbers(dir: &dyn Dir) -> Result<Vec<FileNumber>> {
    match dir.list(name::PACKS) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        listed => {
            let names = listed.at("list", || dir.path().join(name::PACKS))?;
            Ok(names.iter().filter_map(|name| name::parse(name, ".pack")).collect())
        }
    }
}

/// Returns whether the chunks that a batch needs have survived (L3). A pack that the version names is whole, and one
/// that is not there was removed once all it held was named elsewhere: its name was durable before anything was
/// written to it.
fn has_chunks(batch: &BatchView, packs: &BTreeMap<FileNumber, Scanned>) -> bool {
    batch.reaches().iter().all(|(number, end)| packs.get(number).is_none_or(|pack| pack.end >= *end))
}

/// Replays the logs from the oldest needed one to the first torn one.
pub(super) fn replay_logs(files: &Arc<Files>, manifest: &ManifestStore) -> Result<Recovered> {
    let dir: &dyn Dir = &**files;
    let version = manifest.version();
    let names = dir.list(name::LOGS).at("list", || dir.path().join(name::LOGS))?;
    let mut numbers: Vec<FileNumber> = names.iter().filter_map(|name| name::parse(name, ".wal")).collect();
    numbers.retain(|number| *number >= version.logs_from);
    numbers.sort_unstable();

    let newest = numbers.last().copied().max(version.log_ends.keys().next_back().copied());
    // A memtable is flushed before any that is newer (E2): what a log still holds is newer than every segment. The
    // timeline is the engine's own, and says nothing about keys.
    let segments = version.keyspaces.values().filter(|keyspace| !keyspace.is_hidden()).flat_map(|of| of.segments());
    let mut recovered = Recovered {
        last_seqno: segments.map(|segment| segment.summary.max_seqno).max().unwrap_or_default(),
        next_log: newest.map_or(version.logs_from.max(FileNumber(1)), FileNumber::next),
        packs: scan_packs(files, version)?,
        ..Recovered::default()
    };
    // First log that lost its end; the logs after it are void.
    let mut torn: Option<FileNumber> = None;
    for number in version.logs_from.max(FileNumber(1)).upto(recovered.next_log) {
        let path = dir.path().join(name::log(number));
        let known = version.log_ends.get(&number).copied();
        if !numbers.contains(&number) {
            // The name of a log is durable before the next one is begun (W4). Only a log that an earlier recovery read
            // from the page cache may be missing because of a mere power cut.
            if !matches!(known, Some(LogEnd::AtMost(_) | LogEnd::Exactly(0))) {
                return Err(Error::Missing { path });
            }
            if known.is_some_and(|known| known.offset() > 0) {
                torn.get_or_insert(number);
            }
            recovered.ends.insert(number, LogEnd::AtMost(0));
            continue;
        }
        let file = dir.open(&name::log(number)).at("open", || path.clone())?;
        let owner = Arc::new(read_all(&*file, &path)?);
        let header = Header { kind: FileKind::Log, file_id: manifest.database_id(), number };
        let later = || {
            let later = numbers.iter().filter(|later| **later > number);
            later
                .map(|later| is_synced(dir, manifest, *later))
                .find(|synced| !matches!(synced, Ok(false)))
                .unwrap_or(Ok(false))
        };
        // Decoded only once the log is known not to be void.
        let mut batches = Vec::new();
        let replayed = replay(&path, &owner, header, known, |shown: Shown<'_>| {
            if torn.is_none() && !recovered.packs.is_empty() {
                let batch =
                    BatchView::read(&owner, shown.place.start, shown.place.end).map_err(|bad| bad.of(&path, 0))?;
                // A later log is synced only after this one, and the chunks that it needs (L1, W1).
                if !has_chunks(&batch, &recovered.packs) && !shown.is_proven() && !later()? {
                    return Ok(Verdict::Refuse);
                }
            }
            batches.push(shown.place);
            Ok(Verdict::Accept)
        })?;
        if let Some(torn) = torn {
            if replayed.was_synced {
                // A log is synced only after all older ones (W1): the older one was once complete.
                let what = "the end of a log that a later log was synced after";
                return Err(Corruption { offset: 0, what }.of(&dir.path().join(name::log(torn)), 0));
            }
            recovered.ends.insert(number, LogEnd::AtMost(0));
            continue;
        }
        recovered.take(number, &owner, &batches, version, &path)?;
        let exact = matches!(known, Some(LogEnd::Exactly(_)));
        // A log without a batch may be lost without harm.
        let end = if batches.is_empty() { 0 } else { replayed.end };
        let end = if exact { LogEnd::Exactly(replayed.end) } else { LogEnd::AtMost(end) };
        recovered.ends.insert(number, end);
        // A log is complete with a seal, or when it reaches the end that an earlier recovery found.
        let whole = known.map_or(replayed.ending != Ending::Torn, |known| known.offset() == replayed.end);
        if !whole {
            torn = Some(number);
        }
    }
    let Recovered { packs, told, .. } = &mut recovered;
    packs.retain(|number, _| told.contains(number));
    Ok(recovered)
}

/// Returns whether a log carries proof that it was synced once.
fn is_synced(dir: &dyn Dir, manifest: &ManifestStore, number: FileNumber) -> Result<bool> {
    let path = dir.path().join(name::log(number));
    let file = dir.open(&name::log(number)).at("open", || path.clone())?;
    let bytes = read_all(&*file, &path)?;
    Ok(was_synced(&bytes, Header { kind: FileKind::Log, file_id: manifest.database_id(), number }))
}

impl Recovered {
    /// Takes in the batches of a log, which are at `places` of its bytes.
    #[expect(clippy::rc_buffer, reason = "the memtable points into the bytes as they were read")]
    fn take(
        &mut self,
        number: FileNumber,
        bytes: &Arc<Vec<u8>>,
        places: &[Range<usize>],
        version: &Version,
        path: &Path,
    ) -> Result<()> {
        let mut batches = Vec::with_capacity(places.len());
        for place in places {
            let batch = BatchView::read(bytes, place.start, place.end).map_err(|bad| bad.of(path, 0))?;
            let (seqno, time) = batch.stamp();
            // No batch of this release names a keyspace of the engine's own.
            let known = batch.ops().all(|op| (FIRST_KEYSPACE..version.next_keyspace).contains(&op.keyspace.0));
            let in_order = self.last_seqno < seqno && seqno < version.seqno_ceiling && self.time <= time;
            if !in_order || !known {
                return Err(Corruption {
                    offset: 0,
                    what: "batches in order, newer than every segment, of known keyspaces",
                }
                .of(path, 0));
            }
            self.last_seqno = seqno;
            self.time = time;
            self.told.extend(batch.reaches().into_iter().map(|(pack, _)| pack));
            batches.push(batch);
        }
        if !batches.is_empty() {
            self.memtables.insert(0, Arc::new(Memtable::from_batches(number, &batches)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::{
        Durability, Error, KeyspaceOptions, Options,
        env::{Loss, Sim},
        format::crc,
    };

    /// A log whose first batch is not above the segments: told by get, shadowed in a scan, and lost at the next
    /// compaction, if it were believed.
    #[test]
    fn a_batch_that_is_not_newer_than_the_segments_or_of_a_keyspace_that_users_have_is_refused() {
        let seqnos = [(53u64, 16u8, true), (54, 16, true), (52, 16, false), (7, 16, false), (0, 16, false)];
        let keyspaces = [0, 1, 2, 3, 15, 17].map(|keyspace| (53, keyspace, false));
        for (seqno, keyspace, believed) in seqnos.into_iter().chain(keyspaces) {
            let machine = Sim::new(1);
            let options = Options::new().env(machine.clone()).durability(Durability::Buffered);
            let db = options.open("/db").unwrap();
            let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
            for i in 0..50 {
                k.put("a", format!("{i}")).unwrap();
            }
            k.put("b", "flushed").unwrap();
            db.flush().unwrap();
            k.put("b", "in the log").unwrap();
            db.persist().unwrap();
            machine.cut_power_with(Loss::Nothing);
            drop((k, db));

            let path = Path::new("/db/wal/2.wal");
            let mut log = machine.read_file(path).unwrap();
            assert_eq!(log[56..64], 53u64.to_le_bytes());
            log[56..64].copy_from_slice(&seqno.to_le_bytes());
            assert_eq!(log[80..82], [1, 16], "a put into the first keyspace");
            log[81] = keyspace;
            let len = u32::from_le_bytes(log[36..40].try_into().unwrap()) as usize;
            let payload = crc(&[&log[56..56 + len]]);
            log[40..44].copy_from_slice(&payload.to_le_bytes());
            let seed = crc(&[&log[4..24]]);
            let own = crc(&[&seed.to_le_bytes(), &32u64.to_le_bytes(), &log[36..56]]);
            log[32..36].copy_from_slice(&own.to_le_bytes());
            machine.write_file(path, log);

            match options.open("/db") {
                Ok(db) => {
                    assert!(believed, "a batch @{seqno} of keyspace {keyspace}");
                    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
                    assert_eq!(k.get("b").unwrap().unwrap(), b"in the log");
                    assert_eq!(k.last().unwrap().unwrap().1, b"in the log");
                }
                Err(Error::Corrupt { path, what, .. }) => {
                    assert!(!believed && what.contains("newer than every segment"), "@{seqno}: {what}");
                    assert!(path.ends_with("wal/2.wal"));
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}
