//! Bodies over what is kept of the past. The bits of an input's first byte:
//!
//! ```text
//!  1   the rest is the whole file; without it patches of a real one
//!  2   every checksum is computed anew behind the damage, up to the manifest's: else few inputs pass the first check
//!  12  which real file
//!  32  every moment is looked at, and what was written behind the damage is written to once more; without it some
//! moments, by the input
//! ```

use std::{collections::BTreeMap, path::PathBuf, sync::OnceLock, time::Duration};

use chronolith::{Db, Keyspace, KeyspaceOptions, MergeStrategy, Policy, env::Sim};

use super::{damaged, options};

const WHOLE: u8 = 1;
const RESEAL: u8 = 2;
const THOROUGH: u8 = 32;

/// The keyspaces, in the order of their numbers, and the first of those.
const KEYSPACES: [&str; 4] = ["kept", "indexed", "sums", "brief"];
const FIRST_KEYSPACE: usize = 16;

/// Room beside what is there: less than what logs reserve, which takes longer than all else on a machine that holds its
/// disk in memory.
const ROOM: u64 = 1000 << 10;

/// Values of [`versions`], all together: logs, segments and what they are merged to find room.
const VALUES_MAX: usize = 120 << 10;

const HEADER_LEN: usize = 32;
const RECORD_LEN: usize = 24;
const LINE_LEN: usize = 24;
const TAIL_LEN: usize = 24;
const PAGE: usize = 4096;

/// No walk over a small database is longer, unless it never ends.
const STEPS_MAX: usize = 100_000;

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// A database with a past, and what it shows.
struct Template {
    sim: Sim,
    /// By seqno: every moment, and the content of "kept" then.
    moments: Vec<(u64, Content)>,
    /// Segments of the history tier, of the main tree, of the timeline.
    kinds: [Vec<PathBuf>; 3],
}

pub(super) fn mvcc() -> KeyspaceOptions {
    KeyspaceOptions::new().policy(Policy::mvcc(2, Duration::from_secs(3600)))
}

/// Values of one key that differ in a few bytes, some of them long.
fn value(key: u8, round: u8) -> Vec<u8> {
    let len = if key % 4 == 1 { 700 } else { 90 };
    let mut value: Vec<u8> = (0..len).map(|at: u16| at.to_le_bytes()[0] ^ key).collect();
    let at = usize::from(round) * 5 % 80;
    value.iter_mut().skip(at).take(3).for_each(|byte| *byte = round);
    value
}

fn template() -> &'static Template {
    static TEMPLATE: OnceLock<Template> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let sim = Sim::new(11);
        sim.set_space(Some(2 << 20));
        let db = options(&sim).open("db").expect("a new database");
        let kept = db.keyspace("kept", mvcc()).expect("a keyspace");
        let indexed = db.keyspace("indexed", mvcc().point_index(true)).expect("a keyspace");
        let sums = db.keyspace("sums", mvcc().merge(MergeStrategy::Sum)).expect("a keyspace");
        let brief = db.keyspace("brief", KeyspaceOptions::new().ttl(Duration::from_secs(60))).expect("a keyspace");
        let mut moments = vec![(0, Content::new())];
        for round in 0..9_u8 {
            for key in 0..6_u8 {
                let mut batch = db.batch();
                let mut content = moments.last().map(|(_, content)| content.clone()).unwrap_or_default();
                if (key + round) % 5 == 4 {
                    batch.delete(&kept, [b'k', key]);
                    batch.delete(&indexed, [b'k', key]);
                    content.remove([b'k', key].as_slice());
                } else {
                    batch.put(&kept, [b'k', key], value(key, round));
                    batch.put(&indexed, [b'k', key], value(key, round));
                    content.insert(vec![b'k', key], value(key, round));
                }
                batch.merge(&sums, [b'k', key % 2], i64::from(round).to_le_bytes());
                batch.put(&brief, [b'k', key], [round]);
                if round % 4 == 3 && key == 2 {
                    batch.delete_range(&kept, [b'k', 3]..[b'k', 5]);
                    content.retain(|at, _| !([b'k', 3].as_slice()..[b'k', 5].as_slice()).contains(&at.as_slice()));
                }
                let receipt = batch.commit().expect("a batch");
                moments.push((receipt.seqno.into(), content));
                sim.set_time(sim.now() + Duration::from_millis(700));
            }
            if round % 2 == 1 {
                db.flush().expect("a flush");
            }
            match round {
                2 => drop(db.pin("second").expect("a pin")),
                4 => sim.set_time(sim.now() + Duration::from_secs(100)),
                6 => drop(db.compact().expect("a compaction")),
                7 => drop(indexed.purge_prefix([b'k', 5]).expect("a purge")),
                _ => {}
            }
        }
        db.flush().expect("a flush");
        drop((kept, indexed, sums, brief));
        db.close().expect("a close");
        let mut kinds = [const { Vec::new() }; 3];
        for path in sim.files().into_iter().filter(|path| path.extension().is_some_and(|end| end == "seg")) {
            let bytes = sim.read_file(&path).expect("a file that was listed");
            let place = match summary_of(&bytes) {
                Some((1, _)) => 2,
                Some((_, lane)) if lane & 1 == 1 => 0,
                _ => 1,
            };
            if let Some(kind) = kinds.get_mut(place) {
                kind.push(path);
            }
        }
        let len = |path: &PathBuf| sim.read_file(path).map_or(0, |bytes| bytes.len() as u64);
        sim.set_space(Some(sim.files().iter().map(len).sum::<u64>() + ROOM));
        assert!(kinds.iter().all(|kind| !kind.is_empty()), "segments of each kind: {kinds:?}");
        Template { sim, moments, kinds }
    })
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let four: [u8; 4] = bytes.get(at..)?.first_chunk().copied()?;
    usize::try_from(u32::from_le_bytes(four)).ok()
}

pub(super) fn put_u32(bytes: &mut [u8], at: usize, number: u32) {
    if let Some(room) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *room = number.to_le_bytes();
    }
}

/// The sections of a segment: tag, start, length, and where the line of each is.
fn sections(bytes: &[u8]) -> Vec<(Vec<u8>, usize, usize, usize)> {
    let Some(tail) = bytes.len().checked_sub(TAIL_LEN) else { return Vec::new() };
    let table = u32_at(bytes, tail + 8).and_then(|len| tail.checked_sub(len)).unwrap_or(tail);
    let line = |at: usize| {
        let tag = bytes.get(at..at + 4)?.to_vec();
        Some((tag, u32_at(bytes, at + 8)?, u32_at(bytes, at + 16)?, at))
    };
    (table..tail).step_by(LINE_LEN).filter_map(line).take(64).collect()
}

/// Keyspace and lane of a segment.
fn summary_of(bytes: &[u8]) -> Option<(u8, u8)> {
    let sections = sections(bytes);
    let (_, start, ..) = sections.iter().find(|(tag, ..)| tag == b"SUMM")?;
    Some((*bytes.get(*start)?, *bytes.get(start + 1)?))
}

/// The checksum of table and tail, which the manifest holds.
fn digest(bytes: &[u8]) -> Option<u32> {
    let tail = bytes.len().checked_sub(TAIL_LEN)?;
    let table = tail.checked_sub(u32_at(bytes, tail + 8)?)?;
    bytes.get(table..).map(crc32fast::hash)
}

/// Computes the checksums of a segment anew, from those of its pages up.
fn reseal_segment(bytes: &mut [u8]) {
    let sections = sections(bytes);
    let of = |wanted: &[u8; 4]| sections.iter().find(|(tag, ..)| tag == wanted);
    if let (Some((_, pages_at, pages_len, _)), Some((_, end, ..))) = (of(b"PAGE"), of(b"FENC")) {
        let sums: Vec<u32> = bytes.get(..*end).unwrap_or_default().chunks(PAGE).map(crc32fast::hash).collect();
        for (number, sum) in sums.into_iter().take(pages_len / 4).enumerate() {
            put_u32(bytes, pages_at + number * 4, sum);
        }
    }
    for (_, start, len, line) in &sections {
        let Some(sum) = start.checked_add(*len).and_then(|end| bytes.get(*start..end)).map(crc32fast::hash) else {
            continue;
        };
        put_u32(bytes, line + 20, sum);
    }
    let Some(tail) = bytes.len().checked_sub(TAIL_LEN) else { return };
    let table = u32_at(bytes, tail + 8).and_then(|len| tail.checked_sub(len)).unwrap_or(tail);
    let sum = bytes.get(table..tail).map(crc32fast::hash).unwrap_or_default();
    put_u32(bytes, tail + 12, sum);
    let sum = bytes.get(tail..tail + 16).map(crc32fast::hash).unwrap_or_default();
    put_u32(bytes, tail + 16, sum);
}

/// Writes another digest into a manifest, and its checksums anew.
pub(super) fn reseal_manifest(bytes: &mut [u8], old: u32, new: u32) {
    let places = bytes.windows(4).enumerate().filter(|(_, four)| *four == old.to_le_bytes());
    for at in places.map(|(at, _)| at).collect::<Vec<_>>() {
        put_u32(bytes, at, new);
    }
    reseal_records(bytes);
}

/// Computes the checksums of the records of a log or manifest anew.
pub(super) fn reseal_records(bytes: &mut [u8]) {
    let seed = bytes.get(4..24).map(crc32fast::hash).unwrap_or_default();
    let (mut at, mut previous) = (HEADER_LEN, 0);
    while let Some(len) = u32_at(bytes, at + 4)
        && let Some(payload) = bytes.get(at + RECORD_LEN..at + RECORD_LEN + len)
        && bytes.get(at + 20).is_some_and(|kind| *kind != 0)
    {
        let sum = crc32fast::hash(payload);
        put_u32(bytes, at + 8, sum);
        put_u32(bytes, at + 12, previous);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        hasher.update(&(at as u64).to_le_bytes());
        hasher.update(bytes.get(at + 4..at + RECORD_LEN).unwrap_or_default());
        previous = hasher.finalize();
        put_u32(bytes, at, previous);
        at = (at + RECORD_LEN + len).next_multiple_of(8);
    }
}

pub(super) fn manifest(sim: &Sim) -> PathBuf {
    sim.files().into_iter().rfind(|path| path.to_string_lossy().contains("MANIFEST-")).expect("a manifest")
}

/// Opens, reads and goes on with a database one of whose segments of a kind is damaged.
fn check(kind: usize, data: &[u8]) {
    let template = template();
    let how = data.first().copied().unwrap_or(0);
    let Some(paths) = template.kinds.get(kind) else { return };
    let Some(path) = paths.get(usize::from(how >> 2 & 3) % paths.len()) else { return };
    let sim = template.sim.fork();
    let original = sim.read_file(path).expect("a file that was listed");
    let mut bytes = damaged(original.clone(), data);
    if how & RESEAL != 0 {
        reseal_segment(&mut bytes);
        if let (Some(old), Some(new)) = (digest(&original), digest(&bytes)) {
            let path = manifest(&sim);
            let mut manifest = sim.read_file(&path).unwrap_or_default();
            reseal_manifest(&mut manifest, old, new);
            sim.write_file(&path, manifest);
        }
    }
    // One patch of a few bytes that nobody covered up is told, or hit what carries nothing.
    let is_honest =
        bytes == original || how & (RESEAL | WHOLE) == 0 && data.len() <= 8 && data.get(3).is_some_and(|len| *len <= 4);
    sim.write_file(path, bytes);
    let at = summary_of(&original).and_then(|(keyspace, _)| usize::from(keyspace).checked_sub(FIRST_KEYSPACE));
    let damaged = at.and_then(|at| KEYSPACES.get(at)).copied();
    let draw = (how & THOROUGH == 0).then(|| crc32fast::hash(data));
    let look = Look { draw, damaged: damaged.filter(|_| draw.is_some()) };
    for round in 0..2 {
        let Ok(db) = options(&sim).open("db") else { return };
        look.back(&db, is_honest.then_some(template));
        if round == 1 && look.draw.is_some() {
            return;
        }
        let Ok(kept) = db.keyspace("kept", KeyspaceOptions::new()) else { return };
        let _put = kept.put([b'k', 1], b"after");
        let _purged = kept.purge([b'k', 2]);
        let _flushed = db.flush();
        let _compacted = db.compact();
        look.back(&db, None);
        drop(kept);
        if db.close().is_err() {
            return;
        }
        if is_honest {
            return;
        }
    }
}

/// Which moments are looked at: of many inputs some draw each.
struct Look {
    /// Nothing for all.
    draw: Option<u32>,
    /// Of the other keyspaces the present is enough.
    damaged: Option<&'static str>,
}

impl Look {
    /// Every so many of several, from a drawn one on.
    fn some<T>(&self, every: usize, of: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
        let (from, every) = self.draw.map_or((0, 1), |draw| (usize::try_from(draw).unwrap_or(0) % every, every));
        of.skip(from).step_by(every)
    }

    /// Asks for the past in every way. What is answered is right, if it is known.
    fn back(&self, db: &Db, known: Option<&Template>) {
        let _stats = db.stats();
        let report = db.verify();
        let is_well = known.is_some() && report.is_ok_and(|report| report.is_clean());
        let mut steps = 0;
        let mut step = || {
            steps += 1;
            assert!(steps < STEPS_MAX, "every walk ends");
        };
        let moments = template().moments.iter().map(|(seqno, _)| *seqno).step_by(6);
        let mut seqnos: Vec<u64> = self.some(4, moments).collect();
        let commits: Vec<_> = db.commits(..).inspect(|_| step()).collect();
        for commit in self.some(9, commits.into_iter().flatten()) {
            let _then = db.as_of_time(commit.time).map(|view| view.seqno());
            let _earlier = db.as_of_time(commit.time - Duration::from_micros(1)).map(|view| view.seqno());
        }
        let _some = db.commits(7..20).count();
        seqnos.push(db.seqno().into());
        for name in db.keyspaces() {
            let Ok(keyspace) = db.keyspace(&name, KeyspaceOptions::new()) else { continue };
            let _horizon = keyspace.horizon();
            if self.damaged.is_some_and(|damaged| damaged != name) {
                keyspace.range(..).for_each(|_| step());
                continue;
            }
            for seqno in &seqnos {
                let Ok(view) = db.as_of(*seqno) else { continue };
                let forwards: Result<Vec<_>, _> = view.range(&keyspace, ..).inspect(|_| step()).collect();
                let backwards: Result<Vec<_>, _> = view.range(&keyspace, ..).rev().inspect(|_| step()).collect();
                let gets: Result<Vec<_>, _> = (0..7_u8).map(|key| view.get(&keyspace, [b'k', key])).collect();
                let of_then = known.and_then(|known| known.moments.iter().find(|(there, _)| there == seqno));
                if let Some((_, content)) = of_then.filter(|_| name == "kept") {
                    let is_it = |found: &Vec<(chronolith::Bytes, chronolith::Bytes)>| {
                        found.len() == content.len()
                            && found
                                .iter()
                                .zip(content)
                                .all(|((key, value), (k, v))| *key == k.as_slice() && *value == v.as_slice())
                    };
                    assert!(
                        !is_well || forwards.is_ok() && backwards.is_ok() && gets.is_ok(),
                        "what is whole can be read"
                    );
                    assert!(forwards.as_ref().map_or(true, is_it), "a scan of the past shows what was there");
                    assert!(
                        backwards.map_or(true, |mut found| {
                            found.reverse();
                            is_it(&found)
                        }),
                        "also backwards"
                    );
                    for (key, got) in (0..7_u8).zip(gets.unwrap_or_default()) {
                        assert_eq!(got.as_deref(), content.get([b'k', key].as_slice()).map(Vec::as_slice), "and a get");
                    }
                }
            }
            for key in 0..7_u8 {
                keyspace.history([b'k', key]).for_each(|_| step());
                keyspace.history_between([b'k', key], 5..30).for_each(|_| step());
            }
            if let (Ok(before), Ok(after)) = (db.as_of(9), db.as_of(30)) {
                db.diff(&before, &after, &keyspace).for_each(|_| step());
            }
            for pin in db.pins() {
                let Ok(view) = db.pinned(&pin.name) else { continue };
                view.range(&keyspace, ..).for_each(|_| step());
            }
        }
    }
}

/// A damaged segment of the history tier, or of the main tree above it.
pub fn past_open(data: &[u8]) {
    check(usize::from(data.first().is_some_and(|how| how & 16 != 0)), data);
}

/// A damaged segment of the timeline.
pub fn timeline_open(data: &[u8]) {
    check(2, data);
}

/// Versions of one key, made of the input: each comes back from the history tier as it was put.
pub fn versions(data: &[u8]) {
    let sim = Sim::new(3);
    sim.set_space(Some(ROOM));
    let db = options(&sim).open("db").expect("a new database");
    let kept = db.keyspace("kept", mvcc().point_index(data.len() % 2 == 1)).expect("a keyspace");
    let mut value: Vec<u8> = Vec::new();
    let mut told: Vec<(u64, Option<Vec<u8>>)> = Vec::new();
    let mut rest = data;
    while let Some(([what, at, len], more)) = rest.split_first_chunk()
        && told.len() < 60
        && told.iter().flat_map(|(_, value)| value).map(Vec::len).sum::<usize>() < VALUES_MAX / 2
    {
        let piece = more.get(..usize::from(*len).min(more.len())).unwrap_or_default();
        rest = more.get(piece.len()..).unwrap_or_default();
        let place = usize::from(*at) * (1 + usize::from(what >> 5)) % (value.len() + 1);
        let end = value.len().min(place + piece.len());
        let receipt = match what % 8 {
            0 => kept.delete("k").map(|receipt| (receipt, None)),
            // Another text, a longer one, a shorter one, one changed in a place.
            1 => {
                value = piece.repeat(usize::from(what >> 3));
                kept.put("k", &value).map(|receipt| (receipt, Some(value.clone())))
            }
            2 => {
                value.splice(place..place, piece.iter().copied());
                kept.put("k", &value).map(|receipt| (receipt, Some(value.clone())))
            }
            3 => {
                value.drain(place..end);
                kept.put("k", &value).map(|receipt| (receipt, Some(value.clone())))
            }
            4 => {
                db.flush().expect("a flush");
                continue;
            }
            _ => {
                value.splice(place..end, piece.iter().copied());
                kept.put("k", &value).map(|receipt| (receipt, Some(value.clone())))
            }
        };
        let (receipt, there) = receipt.expect("a write");
        value.truncate(VALUES_MAX / 2);
        told.push((receipt.seqno.into(), there));
    }
    db.flush().expect("a flush");
    versions_are(&db, &kept, &told);
    let _compacted = db.compact().expect("a compaction");
    versions_are(&db, &kept, &told);
    let report = db.verify().expect("a check");
    assert!(report.is_clean(), "{report}");
}

fn versions_are(db: &Db, kept: &Keyspace, told: &[(u64, Option<Vec<u8>>)]) {
    for (seqno, value) in told {
        let view = db.as_of(*seqno).expect("a moment");
        let got = view.get(kept, "k").expect("a moment of the window");
        assert_eq!(got.as_deref(), value.as_deref(), "a get as of {seqno}");
        let scanned = view.last(kept).expect("a moment of the window");
        assert_eq!(scanned.map(|(_, value)| value).as_deref(), value.as_deref(), "a scan as of {seqno}");
    }
    let found: Vec<_> = kept
        .history("k")
        .map(|version| version.expect("a version"))
        .map(|version| (u64::from(version.seqno), version.value))
        .collect();
    let mut found = found.iter().peekable();
    // Deletes of what is not there may be left out.
    let mut before: Vec<bool> = told.iter().map(|(_, value)| value.is_some()).collect();
    before.insert(0, false);
    for ((seqno, value), was_there) in told.iter().zip(before).rev() {
        match found.next_if(|(there, _)| there == seqno) {
            Some((_, there)) => assert_eq!(there.as_deref(), value.as_deref(), "the history has {seqno} as it was"),
            None => assert!(value.is_none() && !was_there, "the history has {seqno}"),
        }
    }
    assert!(found.next().is_none(), "the history has nothing else");
}

/// A real file for seeds.
pub(super) fn original(target: &str) -> Option<Vec<u8>> {
    let template = template();
    let kind = if target == "timeline_open" { 2 } else { 0 };
    template.sim.read_file(template.kinds.get(kind)?.first()?)
}
