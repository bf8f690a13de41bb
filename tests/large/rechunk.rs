//! Values cut anew: everything about them stays, except where they are cut.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    time::SystemTime,
};

use chronolith::{Commit, MergeStrategy, Rechunked, Recipe, Seqno, Version, env::Fault};

use super::*;

const OLD: Chunking = Chunking::content_defined(2048);
const NEW: Chunking = Chunking::fixed(4096);

/// What can be asked about a keyspace, by key and moment: no chunking among it.
#[derive(Debug, PartialEq)]
struct Told {
    history: Vec<(String, Seqno, SystemTime, Option<u64>)>,
    past: Vec<(Seqno, Vec<(Bytes, u64)>)>,
    origins: BTreeMap<String, Option<String>>,
    commits: Vec<(Seqno, SystemTime, u32)>,
}

/// Returns a number that stands for a value.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(bytes.len() as u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)))
}

fn keys() -> impl Iterator<Item = String> {
    (0..8).map(|key| format!("key {key}"))
}

fn told(db: &Db, of: &str) -> Told {
    let k = db.keyspace(of, KeyspaceOptions::new()).unwrap();
    let mut history = Vec::new();
    let mut origins = BTreeMap::new();
    for key in keys() {
        for version in k.history(&key) {
            let Version { seqno, time, value, .. } = version.unwrap();
            history.push((key.clone(), seqno, time, value.map(|value| sum(&value))));
        }
        origins.insert(key.clone(), k.stat(&key).unwrap().and_then(|stat| stat.origin));
    }
    let moments: BTreeSet<Seqno> = history.iter().map(|(_, seqno, ..)| *seqno).collect();
    let past = moments.range(k.horizon()..).map(|seqno| {
        let seqno = *seqno;
        let pairs = db.as_of(seqno).unwrap().range(&k, ..).map(|pair| pair.map(|(key, value)| (key, sum(&value))));
        (seqno, pairs.collect::<Result<_, _>>().unwrap())
    });
    let past = past.collect();
    let last = db.commits(..).filter_map(Result::ok).map(|Commit { seqno, time, writes, .. }| (seqno, time, writes));
    Told { history, past, origins, commits: last.collect() }
}

/// The chunkings of all versions that can be read, and their recipes.
fn recipes(db: &Db, of: &str) -> Vec<(String, Seqno, Recipe)> {
    let k = db.keyspace(of, KeyspaceOptions::new()).unwrap();
    let mut found = Vec::new();
    for key in keys() {
        for version in k.history(&key) {
            let seqno = version.unwrap().seqno;
            if let Some(recipe) = db.as_of(seqno).unwrap().recipe(&k, &key).unwrap() {
                found.push((key.clone(), seqno, recipe));
            }
        }
    }
    found
}

/// Fills a keyspace so that both tiers, several levels and level 0 hold large values, small ones and tombstones.
fn fill(db: &Db, of: &str, policy: Policy) {
    let options = KeyspaceOptions::new().chunk_threshold(4096).chunking(OLD).policy(policy);
    let k = db.keyspace(of, options).unwrap();
    for round in 0..6u64 {
        for (at, key) in (0..).zip(keys()) {
            match (round * 8 + at) % 5 {
                0 => drop(k.put(&key, "small").unwrap()),
                1 if round > 0 => drop(k.delete(&key).unwrap()),
                // The same value under several keys and versions.
                2 => drop(k.put(&key, noise(1, 30_000)).unwrap()),
                _ => {
                    let options = chronolith::WriteOptions::new().origin(format!("round {round}"));
                    let mut writer = k.writer_with(&key, options).unwrap();
                    writer.write_all(&text(round * 10 + at, 20_000)).unwrap();
                    writer.finish().unwrap();
                }
            }
        }
        db.flush().unwrap();
        if round == 3 {
            db.compact().unwrap();
        }
    }
    k.put("key 7", [vec![7; 9000], vec![0; 40_000], noise(3, 5000)].concat()).unwrap();
}

/// A keyspace of each policy that keeps anything of the past, and of one that does not.
fn policies_of_time() -> [(&'static str, Policy); 3] {
    [("last", Policy::last_writer_wins()), ("dead", Policy::tombstones(HOUR)), ("past", Policy::mvcc(9, HOUR))]
}

#[test]
fn a_value_cut_anew_is_the_same_value_at_the_same_moment_and_back_again_it_has_the_same_recipe() {
    for (of, policy) in policies_of_time() {
        let db = open(&Sim::new(1));
        fill(&db, of, policy);
        let k = db.keyspace(of, KeyspaceOptions::new()).unwrap();
        let before = db.snapshot();
        let (answers, cut) = (told(&db, of), recipes(&db, of));
        assert!(cut.iter().all(|(_, _, recipe)| recipe.chunking() == OLD) && cut.len() >= 4);
        let seqno = db.seqno();
        let done = db.rechunk(&k, NEW).unwrap();
        assert!(done.values >= 4 && done.left == 0, "{done}");
        assert_eq!(k.chunking(), Some(NEW));
        assert_eq!(db.commits(seqno..).count(), 1, "no commit but the last before");
        let now = told(&db, of);
        assert_eq!((&now.origins, &now.commits), (&answers.origins, &answers.commits), "{of}");
        if of == "past" {
            assert_eq!(now.history, answers.history);
        }
        // Compactions drop versions that the policy does not keep, and add none.
        assert!(now.history.iter().all(|version| answers.history.contains(version)), "{of}");
        for (seqno, pairs) in &answers.past {
            assert!(now.past.iter().find(|(at, _)| at == seqno).is_none_or(|(_, now)| now == pairs), "{of} {seqno}");
        }
        let again = recipes(&db, of);
        assert_eq!(again.len() as u64, done.values, "{of}");
        assert!(again.iter().all(|(_, _, recipe)| recipe.chunking() == NEW), "{of}");
        assert_eq!(db.diff(&before, &db.snapshot(), &k).count(), 0);
        // What was opened before reads what it always did.
        for (key, value) in before.range(&k, ..).map(Result::unwrap) {
            assert!(k.get(&key).unwrap().unwrap() == value);
        }
        assert_eq!(db.rechunk(&k, NEW).unwrap(), Rechunked::default(), "nothing is left to do");
        let back = db.rechunk(&k, OLD).unwrap();
        assert_eq!((back.values, back.bytes), (done.values, done.bytes));
        let back = recipes(&db, of);
        assert!(
            back.len() == again.len() && back.iter().all(|old| cut.contains(old)),
            "{of}: other recipes than at first"
        );
        assert!(db.verify().unwrap().is_clean());
    }
}

#[test]
fn after_a_cut_at_any_call_every_value_is_whole_and_the_same_call_goes_on() {
    let first = Sim::new(1);
    let db = open(&first);
    fill(&db, "past", Policy::mvcc(9, HOUR));
    db.persist().unwrap();
    let (answers, from) = (told(&db, "past"), first.calls());
    let rechunk = |machine: &Sim| {
        let db = open(machine);
        db.rechunk(&db.keyspace("past", KeyspaceOptions::new())?, NEW).map(|done| done.values)
    };
    first.cut_power_with(Loss::Nothing);
    drop(db);
    let whole = first.fork();
    let all = rechunk(&whole).unwrap();
    let (calls, mut resumed) = (whole.calls() - first.calls(), 0);
    assert!(calls > 60 && from > 0, "{calls} calls");
    for call in (0..calls).step_by(if calls > 300 { 3 } else { 1 }) {
        let machine = first.fork();
        machine.fail_at(machine.calls() + call, Fault::Cut);
        let cut = rechunk_or_fail(&machine);
        assert!(cut.is_err() || call + 20 > calls, "call {call} of {calls}");
        let image = machine.fork();
        image.cut_power();
        let db = open(&image);
        let now = told(&db, "past");
        assert_eq!((&now.history, &now.origins), (&answers.history, &answers.origins), "call {call}");
        let report = db.verify().unwrap();
        assert!(report.is_clean(), "call {call}: {report}");
        let left = db.rechunk(&db.keyspace("past", KeyspaceOptions::new()).unwrap(), NEW).unwrap();
        resumed += u64::from(left.values < all);
        assert!(recipes(&db, "past").iter().all(|(_, _, recipe)| recipe.chunking() == NEW), "call {call}");
        assert_eq!(told(&db, "past").history, answers.history, "call {call}");
    }
    assert!(resumed > 0, "no cut fell behind the first replacement");
}

/// Opens and cuts anew on a machine whose power may be cut meanwhile.
fn rechunk_or_fail(machine: &Sim) -> Result<Rechunked, Error> {
    let db = Options::new().env(machine.clone()).durability(Durability::Buffered).open("/db")?;
    db.rechunk(&db.keyspace("past", KeyspaceOptions::new())?, NEW)
}

#[test]
fn a_call_that_is_cancelled_at_any_report_keeps_everything_and_the_next_goes_on() {
    let first = Sim::new(1);
    let db = open(&first);
    fill(&db, "past", Policy::mvcc(9, HOUR));
    let answers = told(&db, "past").history;
    db.close().unwrap();
    let mut reports = 0;
    let count = open(&first.fork());
    let k = count.keyspace("past", KeyspaceOptions::new()).unwrap();
    let mut last = 0;
    count
        .rechunk_with(&k, NEW, |progress| {
            assert!(progress.done >= last && progress.done <= progress.total);
            (last, reports) = (progress.done, reports + 1);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(last > 0 && reports > 10, "{reports} reports");
    for stop in 1..=reports {
        let db = open(&first.fork());
        let k = db.keyspace("past", KeyspaceOptions::new()).unwrap();
        let mut seen = 0;
        let stopped = db.rechunk_with(&k, NEW, |_| {
            seen += 1;
            if seen == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        // The last report is that of the end.
        assert!(stop == reports || matches!(stopped, Err(Error::Cancelled)), "{stop}: {stopped:?}");
        assert_eq!(told(&db, "past").history, answers, "{stop}");
        db.rechunk(&k, NEW).unwrap();
        assert_eq!(told(&db, "past").history, answers, "{stop}");
        assert!(recipes(&db, "past").iter().all(|(_, _, recipe)| recipe.chunking() == NEW), "{stop}");
    }
}

/// What was cut before it is cancelled stays so: a call that never gets to its end comes to an end some time.
#[test]
fn a_call_that_is_cancelled_again_and_again_comes_to_an_end() {
    let db = open(&Sim::new(1));
    let k = db.keyspace("k", KeyspaceOptions::new().chunking(OLD)).unwrap();
    for at in 0..20 {
        k.put(format!("{at}"), noise(at, 100_000)).unwrap();
    }
    db.compact().unwrap();
    let mut calls = 0;
    loop {
        calls += 1;
        let done = db.rechunk_with(&k, NEW, |progress| {
            if progress.done >= 150_000 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match done {
            Err(Error::Cancelled) => {}
            done => {
                assert_eq!(done.unwrap().left, 0);
                break;
            }
        }
        assert!(calls < 30, "{calls} calls");
    }
    assert!(calls > 5, "{calls} calls");
    for at in 0..20 {
        assert_eq!(k.stat(format!("{at}")).unwrap().unwrap().chunking, Some(NEW));
        assert!(k.get(format!("{at}")).unwrap().unwrap() == noise(at, 100_000));
    }
}

/// Between the cut and the replacement a compaction may move what is to be replaced, a writer supersede it, and a
/// collection look for chunks that nothing needs.
#[test]
fn whatever_happens_between_a_cut_and_its_replacement_nothing_is_lost() {
    for (of, policy) in policies_of_time() {
        for beside in ["compact", "delete", "overwrite", "drop", "checkpoint", "again"] {
            let machine = Sim::new(1);
            let db = open(&machine);
            fill(&db, of, policy.clone());
            let k = db.keyspace(of, KeyspaceOptions::new()).unwrap();
            let mut expected: BTreeMap<Bytes, Bytes> = k.range(..).map(Result::unwrap).collect();
            let (other, beside_k, at) = (db.clone(), k.clone(), beside.to_owned());
            once_at(&machine, "rechunk: cut, then replaced", move || match at.as_str() {
                "compact" => drop(other.compact().unwrap()),
                "delete" => {
                    beside_k.delete("key 3").unwrap();
                    other.compact().unwrap();
                }
                "overwrite" => {
                    beside_k.put("key 3", noise(50, 30_000)).unwrap();
                    other.compact().unwrap();
                }
                "drop" => {
                    other.drop_keyspace(beside_k.name()).unwrap();
                    other.compact().unwrap();
                }
                "checkpoint" => other.checkpoint("/copy").unwrap(),
                _ => {
                    let refused = other.rechunk(&beside_k, OLD).unwrap_err().to_string();
                    assert!(refused.contains("being cut anew already"), "{refused}");
                }
            });
            let done = db.rechunk(&k, NEW);
            machine.ignore_points();
            if beside == "drop" {
                assert!(done.is_err() || of == "last", "{done:?}");
                db.compact().unwrap();
                assert!(db.verify().unwrap().is_clean());
                continue;
            }
            done.unwrap();
            match beside {
                "delete" => drop(expected.remove(&b"key 3"[..])),
                "overwrite" => drop(expected.insert("key 3".into(), noise(50, 30_000).into())),
                _ => {}
            }
            for machine in [machine.clone(), machine.fork()] {
                let db = if machine.calls() == 0 { open(&machine) } else { db.clone() };
                let k = db.keyspace(of, KeyspaceOptions::new()).unwrap();
                let now: BTreeMap<Bytes, Bytes> = k.range(..).map(Result::unwrap).collect();
                assert!(now == expected, "{of} beside {beside}");
                assert!(recipes(&db, of).iter().all(|(_, _, recipe)| recipe.chunking() == NEW), "{of} beside {beside}");
            }
            assert!(db.verify().unwrap().is_clean(), "{of} beside {beside}");
            if beside == "checkpoint" {
                let copy = Options::new().env(machine.clone()).open("/copy").unwrap();
                let k = copy.keyspace(of, KeyspaceOptions::new()).unwrap();
                let now: BTreeMap<Bytes, Bytes> = k.range(..).map(Result::unwrap).collect();
                assert!(now == expected && copy.verify().unwrap().is_clean());
            }
        }
    }
}

#[test]
fn the_old_chunks_go_with_the_next_collection_and_the_new_ones_stay() {
    let db = open(&Sim::new(1));
    let k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None).chunking(OLD)).unwrap();
    for seed in 0..10 {
        k.put(format!("{seed}"), noise(seed, 400_000)).unwrap();
    }
    db.compact().unwrap();
    let before = db.stats().space.chunks;
    let done = db.rechunk(&k, NEW).unwrap();
    let stats = db.stats();
    assert_eq!((done.values, done.bytes, done.left), (10, 4_000_000, 0));
    assert!(stats.space.chunks > 2 * before - before / 10, "{} of {before}", stats.space.chunks);
    assert_eq!(stats.chunks.dropped_bytes, 4_000_000, "the next collection is told of the old ones alone");
    db.compact().unwrap();
    let after = db.stats().space.chunks;
    assert!(after < before, "{after} of {before} bytes: larger chunks");
    for seed in 0..10 {
        assert!(k.get(format!("{seed}")).unwrap().unwrap() == noise(seed, 400_000));
    }
}

#[test]
fn a_damaged_value_stays_as_it_was_cut_and_all_others_are_cut_anew() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None).chunking(OLD)).unwrap();
    k.put("bad", noise(1, 300_000)).unwrap();
    db.flush().unwrap();
    db.close().unwrap();
    damage_packs(&machine);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    for seed in 2..5 {
        k.put(format!("{seed}"), noise(seed, 300_000)).unwrap();
    }
    let done = db.rechunk(&k, NEW).unwrap();
    assert_eq!((done.values, done.left), (3, 1), "{done}");
    assert_eq!(k.stat("bad").unwrap().unwrap().chunking, Some(OLD));
    assert!(matches!(k.get("bad"), Err(Error::CorruptChunk { .. })));
    for seed in 2..5 {
        assert_eq!(k.stat(format!("{seed}")).unwrap().unwrap().chunking, Some(NEW));
        assert!(k.get(format!("{seed}")).unwrap().unwrap() == noise(seed, 300_000));
    }
    // It is no obstacle later on.
    assert_eq!(db.rechunk(&k, NEW).unwrap().left, 1);
    k.put("bad", noise(1, 300_000)).unwrap();
    assert_eq!(db.rechunk(&k, NEW).unwrap().left, 0);
}

/// In a segment above deeper ones a delete hides what they hold, also where its segment is written anew in place.
#[test]
fn what_hides_a_deeper_value_goes_on_hiding_it() {
    for how in ["delete", "delete_range", "expire", "purge"] {
        let machine = Sim::new(1);
        let db = Options::new().env(machine.clone()).memory_budget(4 << 20).l0_threshold(2).open("/db").unwrap();
        let options = KeyspaceOptions::new().chunk_threshold(4096).chunking(OLD);
        let k = db.keyspace("k", options.clone()).unwrap();
        for at in 0..5500 {
            k.put(format!("f{at:05}"), noise(at + 100, 3000)).unwrap();
        }
        k.put("a", noise(1, 30_000)).unwrap();
        k.compact().unwrap();
        if how == "expire" {
            db.keyspace("k", options.ttl(HOUR)).unwrap();
        }
        match how {
            "delete" => drop(k.delete("a").unwrap()),
            "delete_range" => drop(k.delete_range("a".."b").unwrap()),
            "purge" => drop(k.purge("a").unwrap()),
            _ => drop(k.put("a", noise(9, 20_000)).unwrap()),
        }
        k.put("b", noise(2, 30_000)).unwrap();
        db.flush().unwrap();
        if how == "expire" {
            machine.set_time(machine.now() + 2 * HOUR);
        }
        let before: Vec<_> = k.range(..).keys().map(Result::unwrap).collect();
        for step in ["rechunk", "compact"] {
            match step {
                "rechunk" => drop(db.rechunk(&k, NEW).unwrap()),
                _ => drop(db.compact().unwrap()),
            }
            assert!(k.get("a").unwrap().is_none(), "{how}, {step}");
            assert!(k.range(..).keys().map(Result::unwrap).eq(before.iter().cloned()), "{how}, {step}");
        }
        assert!(db.verify().unwrap().is_clean(), "{how}");
    }
}

/// Holes of any length are passed over, and cut where they would have been cut at first.
#[test]
fn a_sparse_value_cut_anew_has_the_recipe_of_one_that_was_written_so() {
    let db = open(&Sim::new(1));
    let new = || KeyspaceOptions::new().compression(Compression::None);
    let k = db.keyspace("k", new().chunking(OLD)).unwrap();
    for (at, chunking) in
        [NEW, Chunking::content_defined(3000), Chunking::whole(), Chunking::fixed(777)].into_iter().enumerate()
    {
        let same = db.keyspace(format!("same {at}"), new().chunking(chunking)).unwrap();
        let zeros = |len: usize| vec![0; len];
        let values = [
            [noise(1, 5001), zeros(9 << 20), noise(2, 70_000), zeros((4 << 20) + 1)].concat(),
            [zeros(12_345_678), vec![1], zeros(8 << 20), noise(3, 3)].concat(),
            zeros(11_111_111),
        ];
        for (number, value) in values.iter().enumerate() {
            k.put(format!("{number}"), value).unwrap();
            same.put(format!("{number}"), value).unwrap();
        }
        db.rechunk(&k, chunking).unwrap();
        for (number, value) in values.iter().enumerate() {
            let recipe = |of: &chronolith::Keyspace| of.recipe(format!("{number}")).unwrap().unwrap();
            assert!(recipe(&k) == recipe(&same), "value {number} by {chunking}");
            assert!(k.get(format!("{number}")).unwrap().unwrap() == *value);
        }
        db.rechunk(&k, OLD).unwrap();
    }
}

/// L12: what claims more than anybody could read is no obstacle for what lies behind it.
#[test]
fn a_recipe_that_claims_more_than_can_be_read_stays_and_what_lies_behind_it_is_cut() {
    let db = open(&Sim::new(1));
    let k = db.keyspace("k", KeyspaceOptions::new().chunking(OLD)).unwrap();
    let chunk = db.chunks().put([7]).unwrap();
    let large = db.chunks().put(noise(1, 1 << 20)).unwrap();
    let mut leases = Vec::new();
    let mut adopt = |key: &str, id, len: u64, height: u8| {
        let (mut id, mut len) = (id, len);
        for _ in 0..height {
            let node = db.chunks().put_node(references(1, Some(id), len, 256)).unwrap();
            (id, len) = (node.id(), len * 256);
            leases.push(node);
        }
        k.adopt(key, &claim(&db, Some(id), len, height)).unwrap();
    };
    adopt("a chunk of one byte, 256⁷ times", chunk.id(), 1, 6);
    adopt("a chunk of a mebibyte, 256⁴ times", large.id(), 1 << 20, 3);
    k.adopt("b a hole of 2⁶⁰ bytes", &claim(&db, None, 1 << 60, 0)).unwrap();
    k.put("z", noise(3, 50_000)).unwrap();
    let done = db.rechunk(&k, NEW).unwrap();
    assert_eq!((done.values, done.left), (2, 2), "{done}");
    assert_eq!(k.stat("z").unwrap().unwrap().chunking, Some(NEW));
    let hole = k.recipe("b a hole of 2⁶⁰ bytes").unwrap().unwrap();
    assert_eq!((hole.len(), hole.chunking()), (1 << 60, NEW));
    // And copied to another scope by its bytes, of which there are none.
    let other = db.keyspace("other", KeyspaceOptions::new().dedup_scope("tenant")).unwrap();
    k.copy("b a hole of 2⁶⁰ bytes", &other, "hole").unwrap().unwrap();
    assert_eq!(other.stat("hole").unwrap().unwrap().bytes, 1 << 60);
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

/// The same reference so many times, as nodes and recipes encode it (`docs/format/chunks.proto`).
fn references(field: u8, id: Option<chronolith::ChunkId>, len: u64, count: usize) -> Vec<u8> {
    let mut body = Vec::new();
    if let Some(id) = id {
        body.extend_from_slice(&[1 << 3 | 2, 32]);
        body.extend_from_slice(id.as_bytes());
    }
    body.push(2 << 3);
    varint(&mut body, len);
    let mut one = vec![field << 3 | 2];
    varint(&mut one, body.len() as u64);
    one.extend_from_slice(&body);
    one.repeat(count)
}

/// A recipe of 256 equal references, or of one hole, that says to be cut the old way.
fn claim(db: &Db, id: Option<chronolith::ChunkId>, len: u64, height: u8) -> Recipe {
    let count = if id.is_some() { 256 } else { 1 };
    let mut out = vec![if height == 0 { 1 } else { 2 }, 1 << 3];
    varint(&mut out, len * count as u64);
    let mut chunking = vec![1 << 3, 2, 2 << 3];
    varint(&mut chunking, 2048);
    out.push(2 << 3 | 2);
    varint(&mut out, chunking.len() as u64);
    out.extend_from_slice(&chunking);
    if height > 0 {
        out.extend_from_slice(&[3 << 3, height]);
    }
    out.extend_from_slice(&references(4, id, len, count));
    db.chunks().recipe(&out).unwrap()
}

/// A part of the disk that cannot be read costs the values on it, and a failing call none.
#[test]
fn a_read_that_fails_at_any_call_costs_nothing_and_a_sector_that_cannot_be_read_leaves_its_values() {
    let machine = Sim::new(1);
    let db = Options::new().env(machine.clone()).mmap(false).open("/db").unwrap();
    let k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None).chunking(OLD)).unwrap();
    for at in 0..4 {
        k.put(format!("{at}"), noise(at, 100_000)).unwrap();
    }
    db.compact().unwrap();
    let mut left = 0;
    for call in 0..60 {
        let chunking = if call % 2 == 0 { NEW } else { OLD };
        machine.fail_read_at(machine.reads() + call);
        let done = db.rechunk(&k, chunking);
        machine.clear_faults();
        match done {
            Ok(done) => left += done.left,
            Err(error) => assert!(!error.to_string().contains("/packs/"), "{error}"),
        }
        assert_eq!(db.rechunk(&k, chunking).unwrap().left, 0, "read {call}");
        db.compact().unwrap();
        for at in 0..4 {
            assert!(k.get(format!("{at}")).unwrap().unwrap() == noise(at, 100_000), "read {call}");
        }
    }
    assert!(left > 10, "{left} values were left");
}

/// While the disk is nearly full nothing is cut: what is there twice could not be collected any more.
#[test]
fn a_disk_that_fills_ends_the_call_while_a_collection_still_has_room() {
    for room in [1_000_000u64, 17_000_000, 30_000_000, 50_000_000] {
        let machine = Sim::new(1);
        let db = open(&machine);
        let k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None).chunking(OLD)).unwrap();
        for at in 0..200 {
            k.put(format!("{at}"), noise(at, 200_000)).unwrap();
        }
        db.compact().unwrap();
        let used = bytes_of(&machine, &machine.files());
        machine.set_space(Some(used + room));
        assert!(matches!(db.rechunk(&k, NEW), Err(Error::DiskFull)), "{room}");
        if room > 2_000_000 {
            db.compact().unwrap();
            let behind = bytes_of(&machine, &machine.files());
            assert!(behind < used + used / 20, "{behind} bytes, {used} before, room for {room}");
        }
        for at in 0..200 {
            assert!(k.get(format!("{at}")).unwrap().unwrap() == noise(at, 200_000));
        }
        machine.set_space(None);
        db.rechunk(&k, NEW).unwrap();
        db.compact().unwrap();
        assert!(db.verify().unwrap().is_clean());
    }
}

#[test]
fn what_cannot_be_cut_anew_is_refused_by_name() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    let sums = db.keyspace("sums", KeyspaceOptions::new().merge(MergeStrategy::Sum)).unwrap();
    let gone = db.keyspace("gone", KeyspaceOptions::new()).unwrap();
    db.drop_keyspace("gone").unwrap();
    let elsewhere = open(&Sim::new(2));
    let foreign = elsewhere.keyspace("k", KeyspaceOptions::new()).unwrap();
    let cases = [
        (&k, Chunking::fixed(100), "512 to 1048576"),
        (&sums, NEW, "\"sums\" combines values"),
        (&gone, NEW, "\"gone\" was dropped"),
        (&foreign, NEW, "another `Db`"),
    ];
    for (keyspace, chunking, why) in cases {
        let refused = db.rechunk(keyspace, chunking).unwrap_err();
        assert!(matches!(refused, Error::Invalid { .. }), "{refused:?}");
        let told = refused.to_string();
        assert!(told.contains(why) || told.contains("combines values"), "{told} is not about {why}");
    }
    assert_eq!(k.chunking(), Some(Chunking::automatic()), "a refused call changes nothing");
    db.close().unwrap();
    let db = Options::new().env(machine).read_only(true).open("/db").unwrap();
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    assert!(db.rechunk(&k, NEW).is_err());
}
