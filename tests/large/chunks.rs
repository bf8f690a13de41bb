//! Chunks by their ids: leases, facts, holders, and values that come from elsewhere.

use std::{collections::BTreeSet, path::Path};

use chronolith::{ChunkId, HaveYou, Keyspace, Recipe, WriteOptions};

use super::*;

/// Everything that a recipe refers to, nodes before what they list: whether it is a node, its id and its bytes.
fn parts(from: &Keyspace, recipe: &Recipe) -> Vec<(bool, ChunkId, Vec<u8>)> {
    let chunks = from.chunks();
    let mut parts = Vec::new();
    let mut level: Vec<ChunkId> = recipe.references().filter_map(|(id, _)| id).collect();
    for height in (0..=recipe.height()).rev() {
        let mut below = Vec::new();
        for id in level {
            let bytes = chunks.get(&id).unwrap().unwrap().to_vec();
            assert_eq!(chunks.facts(&id).unwrap().unwrap().is_node, height > 0);
            if height > 0 {
                below.extend(ids_of(&bytes));
            }
            parts.push((height > 0, id, bytes));
        }
        level = below;
    }
    parts
}

/// The ids in a node: field 1 of each reference, a message of at most 127 bytes.
fn ids_of(mut node: &[u8]) -> Vec<ChunkId> {
    let mut ids = Vec::new();
    while let [0x0a, len, rest @ ..] = node {
        let (reference, behind) = rest.split_at(usize::from(*len));
        if let [0x0a, 32, id @ ..] = reference {
            ids.push(ChunkId::from_bytes(*id.first_chunk().unwrap()));
        }
        node = behind;
    }
    ids
}

fn small_chunks(db: &Db, name: &str) -> Keyspace {
    let options = KeyspaceOptions::new().chunk_threshold(4096).chunking(Chunking::content_defined(1024));
    db.keyspace(name, options).unwrap()
}

#[test]
fn a_value_goes_to_another_database_by_what_is_missing_there() {
    let (one, other) = (Sim::new(1), Sim::new(2));
    let (here, there) = (open(&one), open(&other));
    let (from, to) = (small_chunks(&here, "k"), small_chunks(&there, "k"));
    // Above 256 chunks, with a hole; the other side has a part of it.
    let value = [noise(1, 600_000), vec![0; 50_000], noise(2, 100_000)].concat();
    from.put("value", &value).unwrap();
    to.put("older", noise(1, 500_000)).unwrap();
    let recipe = from.recipe("value").unwrap().unwrap();
    assert!(recipe.height() > 0);
    let parts = parts(&from, &recipe);
    let question = HaveYou::new(parts.iter().map(|(_, id, _)| *id)).unwrap();
    let answer = there.chunks().answer(&HaveYou::decode(&question.encode()).unwrap()).unwrap();
    let mut missing: BTreeSet<ChunkId> = question.missing(&answer).unwrap().collect();
    assert!(missing.len() * 3 < parts.len() && missing.len() > 90, "{} of {}", missing.len(), parts.len());
    let sent = there.chunks().recipe(&recipe.encode()).unwrap();
    // Whatever is left out is named, node or chunk, and nothing changes.
    let mut leases = Vec::new();
    for (is_node, id, bytes) in parts.iter().rev() {
        if !missing.is_empty() {
            let Err(Error::Invalid { what }) = to.adopt("value", &sent) else { panic!("adopted without {missing:?}") };
            assert!(what.contains("is not stored here"), "{what}");
            assert!(!to.contains("value").unwrap());
        }
        let chunks = there.chunks();
        let lease = if *is_node { chunks.put_node(bytes) } else { chunks.put(bytes) }.unwrap();
        assert_eq!((lease.id(), lease.is_new()), (*id, missing.remove(id)));
        leases.push(lease);
        if leases.len() % 100 == 0 {
            // What is leased stays, whatever collects.
            there.compact().unwrap();
        }
    }
    to.adopt("value", &sent).unwrap();
    drop(leases);
    there.compact().unwrap();
    assert!(to.get("value").unwrap().unwrap() == value);
    assert!(there.verify().unwrap().is_clean());
    drop(to);
    there.close().unwrap();
    let there = open(&other);
    assert!(small_chunks(&there, "k").get("value").unwrap().unwrap() == value);
}

/// A lease keeps a chunk that nothing else needs; without it the chunk goes with the next collection.
#[test]
fn a_chunk_stays_while_a_lease_does_also_one_that_was_found_and_one_that_no_file_holds_yet() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let chunks = db.chunks();
    let lease = chunks.put(noise(1, 10_000)).unwrap();
    let id = lease.id();
    // In a buffer, in a file, in a pack with a name.
    for round in 0..3 {
        let facts = chunks.facts(&id).unwrap().unwrap();
        assert_eq!((facts.bytes, facts.is_node, facts.origin), (10_000, false, None), "round {round}");
        assert!(facts.stored_bytes >= 10_000 && facts.stored <= machine.now());
        assert!(chunks.get(&id).unwrap().unwrap() == noise(1, 10_000) && chunks.contains(&id).unwrap());
        assert_eq!(chunks.iter().collect::<Result<Vec<_>, _>>().unwrap(), [id]);
        let why = chunks.why(&id).unwrap();
        assert_eq!((why.references, why.keys.len(), why.writers), (0, 0, 1));
        db.flush().unwrap();
        if round == 1 {
            db.compact().unwrap();
        }
    }
    let again = chunks.lease(&id).unwrap().unwrap();
    assert!(!again.is_new() && chunks.why(&id).unwrap().writers == 2);
    drop(lease);
    db.compact().unwrap();
    assert!(chunks.contains(&id).unwrap());
    drop(again);
    db.compact().unwrap();
    assert!(
        !chunks.contains(&id).unwrap() && chunks.get(&id).unwrap().is_none() && chunks.facts(&id).unwrap().is_none()
    );
    assert!(chunks.lease(&id).unwrap().is_none() && chunks.iter().next().is_none());
    assert_eq!(db.stats().space.chunks, 0);
}

#[test]
fn facts_and_holders_tell_who_stored_a_chunk_first_and_who_needs_it() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let fixed = || KeyspaceOptions::new().chunk_threshold(4096).chunking(Chunking::fixed(4096));
    let a = db.keyspace("a", fixed().policy(Policy::mvcc(9, HOUR))).unwrap();
    let b = db.keyspace("b", fixed()).unwrap();
    let write = |keyspace: &Keyspace, key: &str, origin: &str, bytes: &[u8]| {
        let mut writer = keyspace.writer_with(key, WriteOptions::new().origin(origin)).unwrap();
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap();
    };
    let shared = noise(1, 4096);
    let began = machine.now();
    write(&a, "1", "crawler 7", &[&shared[..], &noise(2, 4096)].concat());
    machine.set_time(machine.now() + HOUR);
    write(&b, "2", "crawler 8", &[&noise(3, 4096)[..], &shared].concat());
    write(&a, "1", "crawler 9", &shared.repeat(300));
    let id = b.recipe("2").unwrap().unwrap().references().nth(1).unwrap().0.unwrap();
    for _ in 0..2 {
        let facts = db.chunks().facts(&id).unwrap().unwrap();
        assert_eq!(facts.origin.as_deref(), Some("crawler 7"), "the first to store it");
        assert!(facts.stored.duration_since(began).unwrap() < HOUR / 2, "{facts:?}");
        let why = db.chunks().why(&id).unwrap();
        let keys: Vec<_> = why.keys.iter().map(|(of, key)| (of.as_str(), key.to_vec())).collect();
        assert_eq!((why.references, keys, why.writers), (3, vec![("a", b"1".to_vec()), ("b", b"2".to_vec())], 0));
        // Collection copies what is needed as it is.
        db.flush().unwrap();
        b.put("gone", noise(9, 40_000)).unwrap();
        db.flush().unwrap();
        b.delete("gone").unwrap();
        db.compact().unwrap();
        db.chunks().rebuild().unwrap();
    }
    let all: BTreeSet<_> = db.chunks().iter().map(|id| id.unwrap()).collect();
    let needed = [&a, &b].into_iter().flat_map(|k| k.range(..).keys().map(move |key| (k, key.unwrap())));
    let needed: BTreeSet<ChunkId> = needed
        .flat_map(|(k, key)| {
            let recipe = k.recipe(&key).unwrap().unwrap();
            parts(k, &recipe).into_iter().map(|(_, id, _)| id)
        })
        .collect();
    assert!(needed.is_subset(&all) && all.len() == needed.len() + 1, "and the one of a version of the past");
}

/// What one tenant has must not tell another anything, whatever ids it asks for.
#[test]
fn the_chunks_of_one_scope_are_not_there_for_another() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let one = db.keyspace("1", KeyspaceOptions::new().dedup_scope("one")).unwrap();
    let two = db.keyspace("2", KeyspaceOptions::new().dedup_scope("two")).unwrap();
    one.put("key", noise(1, 100_000)).unwrap();
    db.chunks().put(noise(2, 100)).map(drop).unwrap();
    for _ in 0..2 {
        let recipe = one.recipe("key").unwrap().unwrap();
        let ids: Vec<ChunkId> = recipe.references().map(|(id, _)| id.unwrap()).collect();
        for other in [db.chunks(), two.chunks()] {
            for id in &ids {
                assert!(!other.contains(id).unwrap() && other.get(id).unwrap().is_none());
                assert!(other.facts(id).unwrap().is_none() && other.lease(id).unwrap().is_none());
                assert_eq!(other.why(id).unwrap().references, 0);
            }
            assert!(other.iter().all(|id| !ids.contains(&id.unwrap())));
        }
        assert!(ids.iter().all(|id| one.chunks().contains(id).unwrap()));
        assert_eq!(one.chunks().iter().count(), ids.iter().collect::<BTreeSet<_>>().len());
        // A recipe with ids of another scope, told as one of this.
        let lying = two.chunks().recipe(&recipe.encode()).unwrap();
        for refused in [two.adopt("key", &lying), two.adopt("key", &recipe)] {
            assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
        }
        db.flush().unwrap();
    }
}

#[test]
fn nodes_and_chunks_are_not_taken_for_each_other_and_bad_bytes_are_refused() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = small_chunks(&db, "k");
    k.put("tree", noise(1, 600_000)).unwrap();
    let recipe = k.recipe("tree").unwrap().unwrap();
    let (_, node_id, node) = parts(&k, &recipe).remove(0);
    // The bytes of a node as a chunk have another id.
    let as_chunk = db.chunks().put(&node).unwrap();
    assert!(as_chunk.id() != node_id && as_chunk.is_new());
    // The height taken off: nodes where chunks should be, as long as they are.
    let mut flat = recipe.encode();
    let at = flat.windows(2).position(|two| two == [3 << 3, 1]).unwrap();
    flat.drain(at..at + 2);
    flat[0] = 1;
    assert!(db.chunks().recipe(&flat).is_err() || k.adopt("flat", &db.chunks().recipe(&flat).unwrap()).is_err());
    let longest = vec![7; 1 << 20];
    let longer = [&longest[..], &[7]].concat();
    for (bytes, is_node) in
        [(&b""[..], false), (&longer, false), (b"", true), (b"no node", true), (&node[..node.len() - 1], true)]
    {
        let refused = if is_node { db.chunks().put_node(bytes) } else { db.chunks().put(bytes) };
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    }
    assert!(!db.chunks().put(&longest).unwrap().id().to_string().is_empty());
    assert!(!db.chunks().put_node(&node).unwrap().is_new());
    let wrong = db.chunks().put_stream(&b"x"[..], Chunking::fixed(1)).unwrap_err();
    assert!(wrong.to_string().contains("fixed(1) is out of bounds"), "{wrong}");
}

/// L12: one node on each of seven levels, 256 times in the next, claims 256⁷ chunks. Nothing that reads no bytes may
/// walk over them.
#[test]
fn a_recipe_that_claims_more_chunks_than_anybody_could_count_is_taken_and_answered_for_at_once() {
    let varint = |mut number: u64| {
        let mut bytes = Vec::new();
        while number >= 0x80 {
            bytes.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        bytes.push(number.to_le_bytes()[0]);
        bytes
    };
    let reference = |id: &ChunkId, len: u64| {
        let body = [&[0x0a, 32][..], id.as_bytes(), &[0x10], &varint(len)].concat();
        [vec![u8::try_from(body.len()).unwrap()], body].concat()
    };
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = small_chunks(&db, "k");
    let mut leases = vec![db.chunks().put("x").unwrap()];
    let (mut id, mut len) = (leases[0].id(), 1u64);
    for _ in 0..6 {
        let node = [&[0x0a][..], &reference(&id, len)].concat().repeat(256);
        let lease = db.chunks().put_node(node).unwrap();
        (id, len) = (lease.id(), len * 256);
        leases.push(lease);
    }
    let references = [&[0x22][..], &reference(&id, len)].concat().repeat(256);
    len *= 256;
    let head = [&[2, 0x08][..], &varint(len), &[0x12, 6, 0x08, 2, 0x10, 0x80, 0x80, 0x01, 0x18, 6]].concat();
    let recipe = db.chunks().recipe(&[head, references].concat()).unwrap();
    assert_eq!((recipe.len(), recipe.height()), (1 << 56, 6));
    k.adopt("bomb", &recipe).unwrap();
    let first = leases[0].id();
    drop(leases);
    for _ in 0..2 {
        assert_eq!(k.stat("bomb").unwrap().unwrap().chunks, 1 << 56);
        assert!(matches!(k.get("bomb"), Err(Error::Invalid { .. })));
        assert_eq!(k.read_at("bomb", (1 << 56) - 2, 9).unwrap().unwrap(), b"xx");
        assert_eq!(db.chunks().why(&first).unwrap().references, 1);
        assert!(k.freeable("bomb").unwrap() < 100_000);
        k.copy("bomb", &k, "copy").unwrap();
        k.delete("copy").unwrap();
        assert!(db.verify().unwrap().is_clean());
        db.compact().unwrap();
        db.checkpoint(format!("/copy {}", machine.calls())).unwrap();
    }
    // The same claimed with another length.
    let mut lies = recipe.encode();
    let at = lies.len() - 1;
    lies[at] ^= 1;
    assert!(db.chunks().recipe(&lies).is_err());
}

#[test]
fn a_stream_without_a_key_has_a_recipe_and_may_be_adopted_in_a_batch() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = small_chunks(&db, "k");
    let value = noise(1, 3_000_000);
    let staged = db.chunks().put_stream(&value[..], Chunking::fixed(1024)).unwrap();
    let recipe = staged.recipe().unwrap();
    assert_eq!((recipe.len(), recipe.chunking(), staged.chunks()), (3_000_000, Chunking::fixed(1024), 2930));
    db.compact().unwrap();
    let mut batch = db.batch();
    batch.adopt(&k, "value", staged);
    batch.put(&k, "meta", "data");
    batch.commit().unwrap();
    assert!(k.get("value").unwrap().unwrap() == value && k.recipe("value").unwrap().unwrap() == recipe);
    let empty = db.chunks().put_stream(&b""[..], Chunking::whole()).unwrap();
    assert!(empty.recipe().is_none() && empty.is_empty());
    let failing = std::io::Read::chain(&value[..], Failing);
    let error = db.chunks().put_stream(failing, Chunking::automatic()).unwrap_err();
    assert_eq!(error.to_string(), "the reader's own");
    db.compact().unwrap();
    assert_eq!(db.stats().chunks.writers, 1, "the empty one");
    drop(empty);
    let chunks = db.chunks();
    db.close().unwrap();
    assert!(chunks.put("x").is_err() && chunks.iter().next().unwrap().is_err() && chunks.rebuild().is_err());
}

struct Failing;

impl std::io::Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other("the reader's own"))
    }
}

#[test]
fn a_damaged_chunk_is_an_error_that_names_its_pack_and_is_stored_anew_when_it_is_put_again() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new().compression(Compression::None)).unwrap();
    k.put("key", noise(1, 40_000)).unwrap();
    db.flush().unwrap();
    let id = k.recipe("key").unwrap().unwrap().references().next().unwrap().0.unwrap();
    let bytes = k.chunks().get(&id).unwrap().unwrap();
    drop(k);
    db.close().unwrap();
    let pack = machine.files().into_iter().find(|file| file.to_string_lossy().ends_with(".pack")).unwrap();
    let mut file = machine.read_file(&pack).unwrap();
    let at = file.windows(64).position(|part| part == &bytes[100..164]).unwrap();
    file[at] ^= 1;
    machine.write_file(&pack, file);
    let db = open(&machine);
    for told in [db.chunks().get(&id).map(drop), db.chunks().facts(&id).map(drop)] {
        let Err(Error::Corrupt { path, .. }) = told else { panic!("{told:?}") };
        assert_eq!(path, pack);
    }
    assert!(db.chunks().contains(&id).unwrap(), "its header is whole");
    let lease = db.chunks().put(&bytes).unwrap();
    assert!(lease.is_new() && lease.id() == id);
    assert!(db.chunks().get(&id).unwrap().unwrap() == bytes);
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    assert!(k.get("key").unwrap().unwrap() == noise(1, 40_000));
}

/// Where the record of the chunk with these bytes begins in the only pack, and that pack.
fn record_of(machine: &Sim, bytes: &[u8]) -> (PathBuf, usize) {
    let pack = machine.files().into_iter().find(|file| file.to_string_lossy().ends_with(".pack")).unwrap();
    let file = machine.read_file(&pack).unwrap();
    let begin = bytes.first_chunk::<64>().unwrap();
    let at = file.windows(64).position(|part| part == begin).unwrap();
    (pack, at - 64)
}

fn flip(machine: &Sim, pack: &Path, at: usize) {
    let mut file = machine.read_file(pack).unwrap();
    *file.get_mut(at).unwrap() ^= 1;
    machine.write_file(pack, file);
}

fn plain(db: &Db) -> Keyspace {
    let options = KeyspaceOptions::new().chunk_threshold(4096).chunking(Chunking::fixed(4096));
    db.keyspace("k", options.compression(Compression::None)).unwrap()
}

/// The index is made from the tables of the packs: where one is damaged, from its good records, not without them.
#[test]
fn what_can_be_read_before_the_index_is_made_anew_can_be_read_afterwards() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = plain(&db);
    for seed in 0..10 {
        k.put(format!("{seed}"), noise(seed, 8192)).unwrap();
    }
    drop(k);
    db.flush().unwrap();
    db.close().unwrap();
    let (pack, at) = record_of(&machine, &noise(3, 8192));
    flip(&machine, &pack, at + 100);
    // A line of the table, before the tail of 40 bytes.
    let len = machine.read_file(&pack).unwrap().len();
    flip(&machine, &pack, len - 60);
    let readable = |db: &Db| {
        let k = plain(db);
        (0..10).filter(|seed| k.get(format!("{seed}")).is_ok_and(|value| value.unwrap() == noise(*seed, 8192))).count()
    };
    let db = open(&machine);
    assert_eq!(readable(&db), 9);
    db.chunks().rebuild().unwrap();
    db.compact().unwrap();
    db.close().unwrap();
    let db = open(&machine);
    assert_eq!(readable(&db), 9);
    // What is damaged is healed by whoever writes it again.
    assert!(!db.verify().unwrap().is_clean());
    plain(&db).put("again", noise(3, 8192)).unwrap();
    assert_eq!(readable(&db), 10);
}

/// A node that is whole is not taken for damaged because a recipe lies about it.
#[test]
fn a_recipe_that_lies_about_the_length_of_a_node_is_refused_and_costs_nothing() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = small_chunks(&db, "k");
    k.put("tree", noise(1, 600_000)).unwrap();
    let recipe = k.recipe("tree").unwrap().unwrap();
    let (node_id, len) = recipe.references().next().unwrap();
    let node = k.chunks().get(&node_id.unwrap()).unwrap().unwrap();
    // That node alone, a byte longer than it is: 3 bytes say how long.
    let varint = |number: u64| {
        let byte = |at: u32, more: u8| (number >> (7 * at)).to_le_bytes()[0] & 0x7f | more;
        [byte(0, 0x80), byte(1, 0x80), byte(2, 0)]
    };
    let claims = |len: u64| {
        let mut bytes = vec![2, 0x08];
        bytes.extend(varint(len));
        bytes.extend([0x12, 6, 0x08, 2, 0x10, 0x80, 0x80, 0x01, 0x18, 1, 0x22, 38, 0x0a, 32]);
        bytes.extend(node_id.unwrap().as_bytes());
        bytes.push(0x10);
        bytes.extend(varint(len));
        k.chunks().recipe(&bytes).unwrap()
    };
    let refused = k.adopt("lie", &claims(len + 1)).unwrap_err();
    assert!(matches!(&refused, Error::Invalid { what } if what.contains("node")), "{refused}");
    assert!(!k.chunks().put_node(&node).unwrap().is_new(), "it is whole");
    k.adopt("truth", &claims(len)).unwrap();
    assert!(k.get("truth").unwrap().unwrap() == noise(1, 600_000)[..usize::try_from(len).unwrap()]);
}

/// Runs a verb between the two marks of a collection that replaces the pack of what is kept.
fn beside_a_collection(verb: impl Fn(&Db, ChunkId) + Send + Sync + 'static) -> (Sim, Db, ChunkId) {
    let machine = Sim::new(1);
    let db = open(&machine);
    let k = plain(&db);
    let mut writer = k.writer_with("kept", WriteOptions::new().origin("crawler 7")).unwrap();
    writer.write_all(&noise(1, 8192)).unwrap();
    writer.finish().unwrap();
    k.put("gone", noise(2, 40_960)).unwrap();
    db.flush().unwrap();
    k.delete("gone").unwrap();
    db.flush().unwrap();
    let id = k.recipe("kept").unwrap().unwrap().references().next().unwrap().0.unwrap();
    let (handle, ran) = (db.clone(), Arc::new(Mutex::new(false)));
    let has_run = Arc::clone(&ran);
    machine.set_time(machine.now() + HOUR);
    machine.on_point(move |point| {
        let mut ran = ran.lock().unwrap();
        if point == "collect: condemned, then marked again" && !*ran {
            *ran = true;
            drop(ran);
            verb(&handle, id);
        }
    });
    db.compact().unwrap();
    assert!(*has_run.lock().unwrap());
    machine.on_point(|_| {});
    (machine, db, id)
}

#[test]
fn a_chunk_that_moves_beside_a_collection_keeps_its_origin_and_its_time() {
    for put in [false, true] {
        let (machine, db, id) = beside_a_collection(move |db, id| {
            let held =
                if put { db.chunks().put(&noise(1, 8192)[..4096]) } else { db.chunks().lease(&id).map(Option::unwrap) };
            assert_eq!(held.unwrap().id(), id);
        });
        db.compact().unwrap();
        let facts = db.chunks().facts(&id).unwrap().unwrap();
        assert_eq!(facts.origin.as_deref(), Some("crawler 7"), "put {put}");
        assert!(machine.now().duration_since(facts.stored).unwrap() >= HOUR, "put {put}: {facts:?}");
    }
}

/// What writers store while it walks is neither missed where it stood before nor told again.
#[test]
fn a_walk_tells_each_chunk_once_whatever_is_stored_meanwhile() {
    for (early, has_pack) in [(false, false), (false, true), (true, false), (true, true)] {
        let told = Arc::new(Mutex::new(Vec::new()));
        let out = Arc::clone(&told);
        let walk = move |db: &Db, id: ChunkId| {
            let other = has_pack.then(|| db.chunks().put(noise(77, 100)).unwrap());
            let mut iter = db.chunks().iter().map(|id| id.unwrap());
            let mut all = Vec::new();
            if early {
                all.extend(iter.by_ref().take_while(|told| *told != id));
                all.push(id);
            }
            let held = db.chunks().put(&noise(1, 8192)[..4096]).unwrap();
            db.chunks().get(&id).unwrap().unwrap();
            all.extend(iter);
            *out.lock().unwrap() = all;
            drop((held, other));
        };
        let (_machine, _db, id) = beside_a_collection(walk);
        let told = told.lock().unwrap();
        assert_eq!(told.iter().filter(|told| **told == id).count(), 1, "early {early}, with a pack {has_pack}");
        assert_eq!(told.iter().collect::<BTreeSet<_>>().len(), told.len());
    }
}

/// Nobody knows whose chunk it was whose header is damaged: a tenant is not told of it.
#[test]
fn damage_in_one_scope_tells_nothing_and_stops_nothing_in_another() {
    for in_header in [false, true] {
        let machine = Sim::new(1);
        let db = open(&machine);
        let options = || KeyspaceOptions::new().chunk_threshold(4096).compression(Compression::None);
        let one = db.keyspace("1", options().dedup_scope("one")).unwrap();
        one.put("key", noise(1, 8192)).unwrap();
        let id = one.recipe("key").unwrap().unwrap().references().next().unwrap().0.unwrap();
        db.keyspace("2", options().dedup_scope("two")).unwrap().put("own", noise(5, 8192)).unwrap();
        drop(one);
        db.flush().unwrap();
        db.close().unwrap();
        let (pack, at) = record_of(&machine, &noise(1, 8192));
        flip(&machine, &pack, if in_header { at + 9 } else { at + 100 });
        let db = open(&machine);
        let two = db.keyspace("2", KeyspaceOptions::new()).unwrap().chunks();
        assert!(two.facts(&id).unwrap().is_none() && two.get(&id).unwrap().is_none() && !two.contains(&id).unwrap());
        assert!(two.lease(&id).unwrap().is_none());
        assert_eq!(two.iter().collect::<Result<Vec<_>, _>>().unwrap().len(), 1, "its own");
        let own = db.keyspace("1", KeyspaceOptions::new()).unwrap();
        assert!(matches!(own.get("key"), Err(Error::CorruptChunk { .. })));
        assert_eq!(own.chunks().contains(&id).unwrap(), !in_header);
        // Whoever is told that it is not there sends it, and that heals it.
        assert!(own.chunks().put(noise(1, 8192)).unwrap().is_new());
        db.flush().unwrap();
        assert!(own.get("key").unwrap().unwrap() == noise(1, 8192), "header {in_header}");
    }
}

/// Two verbs at the same moment, with real threads: the same chunks stored, leased, adopted and listed while others
/// collect and make the index anew.
#[test]
fn threads_that_store_lease_adopt_and_list_the_same_chunks_beside_collections_lose_none() {
    let db = Options::new().env(Memory::new()).durability(Durability::Buffered).open("/db").unwrap();
    let parts: Vec<Vec<u8>> = (0..12).map(|seed| noise(seed, 4096)).collect();
    let k = plain(&db);
    k.put("all", parts.concat()).unwrap();
    let recipe = k.recipe("all").unwrap().unwrap();
    k.delete("all").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let (db, k, parts, recipe) = (&db, &k, &parts, &recipe);
            scope.spawn(move || {
                for round in 0..600 {
                    let leases: Vec<_> = parts.iter().map(|part| db.chunks().put(part).unwrap()).collect();
                    let again: Vec<_> =
                        leases.iter().map(|lease| db.chunks().lease(&lease.id()).unwrap().unwrap()).collect();
                    drop(leases);
                    let listed: Vec<_> = db.chunks().iter().map(|id| id.unwrap()).collect();
                    assert_eq!(listed.iter().collect::<BTreeSet<_>>().len(), listed.len(), "each once");
                    assert!(again.iter().all(|lease| listed.contains(&lease.id())), "none is missed");
                    let key = format!("{thread}");
                    k.adopt(&key, recipe).unwrap();
                    drop(again);
                    assert!(k.get(&key).unwrap().unwrap() == parts.concat(), "round {round}");
                    k.delete(&key).unwrap();
                }
            });
        }
        scope.spawn(|| {
            for round in 0..300 {
                db.compact().unwrap();
                if round % 4 == 0 {
                    db.chunks().rebuild().unwrap();
                }
            }
        });
    });
    assert_eq!(db.stats().chunks.writers, 0);
    assert!(db.verify().unwrap().is_clean());
    db.compact().unwrap();
    assert_eq!(db.stats().space.chunks, 0);
}
