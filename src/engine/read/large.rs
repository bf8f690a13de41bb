//! Large values, put together from their recipes.
//!
//! Only whoever wants the bytes of a value comes here: presence, keys, and equality of equal recipes read no chunk (L14
//! of `docs/chunks.md`).

use crate::{
    base::{Bytes, Corruption, Error, Result},
    chunk::recipe::{Recipe, Reference},
    engine::KeyspaceRef,
    merge::Stored,
};

/// Maximum length of a value in memory: offsets in [`Bytes`] have 32 bits.
const VALUE_LEN_MAX: u64 = u32::MAX as u64;

/// Returns the bytes of a value.
///
/// # Errors
/// [`CorruptChunk`](Error::CorruptChunk) for a chunk that is not there; [`Invalid`](Error::Invalid) for a value of 4
/// GiB or more, or a recipe that cannot be decoded.
#[inline]
pub(crate) fn assemble(keyspace: &KeyspaceRef, key: &[u8], stored: Stored) -> Result<Bytes> {
    match stored {
        Stored::Bytes(bytes) => Ok(bytes),
        Stored::Recipe(recipe) => follow(keyspace, key, &recipe),
    }
}

/// Returns whether two values are equal. Equal values may have different recipes: then bytes are compared.
pub(crate) fn equal(keyspace: &KeyspaceRef, key: &[u8], one: &Stored, other: &Stored) -> Result<bool> {
    if one == other {
        return Ok(true);
    }
    match (one, other) {
        (Stored::Bytes(_), Stored::Bytes(_)) => Ok(false),
        _ => Ok(assemble(keyspace, key, one.clone())? == assemble(keyspace, key, other.clone())?),
    }
}

#[cold]
fn follow(keyspace: &KeyspaceRef, key: &[u8], recipe: &[u8]) -> Result<Bytes> {
    let Recipe { len, references, .. } = Recipe::decode(recipe).map_err(|Corruption { offset, what }| {
        let key = key.escape_ascii();
        keyspace.named(Error::invalid(format!(
            "key \"{key}\" has no readable recipe (at byte {offset}: {what}); `verify` names damaged files"
        )))
    })?;
    let room = Some(len).filter(|len| *len <= VALUE_LEN_MAX).and_then(|len| usize::try_from(len).ok());
    let Some(room) = room else {
        let key = key.escape_ascii();
        return Err(keyspace.named(Error::invalid(format!(
            "key \"{key}\" has a value of {len} bytes, of which at most {VALUE_LEN_MAX} can be read at once"
        ))));
    };
    for Reference { id, .. } in &references {
        if let Some(chunk) = *id {
            // No write stores chunks yet, so that none is ever there.
            return Err(Error::CorruptChunk {
                path: "packs".into(),
                offset: 0,
                keyspace: keyspace.name.to_string(),
                key: key.to_vec(),
                chunk,
            });
        }
    }
    // What is left are holes. Zeroed memory is not touched before it is read.
    Ok(Bytes::from(vec![0; room]))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{
        Bytes, ChunkId, Db, Durability, Error, Keyspace, KeyspaceOptions, MergeStrategy, Options, Policy, Receipt,
        chunk::{
            cut::Chunking,
            recipe::{Recipe, Reference},
        },
        engine::write::{Staged, commit},
        env::{Memory, Sim},
    };

    const HOUR: Duration = Duration::from_secs(3600);

    fn recipe(references: Vec<Reference>) -> Vec<u8> {
        let len = references.iter().map(|reference| reference.len).sum();
        let chunking = Chunking::AUTOMATIC;
        Recipe { len, chunking, height: 0, references, origin: String::new() }.encode()
    }

    fn put_recipe(keyspace: &Keyspace, key: &str, recipe: &[u8]) -> Receipt {
        let mut staged = Staged::default();
        staged.add_recipe(keyspace.keyspace_ref(), key.as_bytes(), recipe);
        commit(keyspace.engine(), staged, None).unwrap()
    }

    /// A value of zeros, which needs no chunk.
    fn put_zeros(keyspace: &Keyspace, key: &str, len: u64) -> Receipt {
        put_recipe(keyspace, key, &recipe(vec![Reference { id: None, len }]))
    }

    /// A value whose chunk is nowhere.
    fn put_lost(keyspace: &Keyspace, key: &str) -> Receipt {
        let id = Some(ChunkId::from_bytes([7; 32]));
        put_recipe(keyspace, key, &recipe(vec![Reference { id: None, len: 5 }, Reference { id, len: 9 }]))
    }

    fn zeros(len: usize) -> Bytes {
        Bytes::from(vec![0; len])
    }

    fn policies() -> [KeyspaceOptions; 4] {
        let new = KeyspaceOptions::new;
        [new(), new().policy(Policy::tombstones(HOUR)), new().policy(Policy::mvcc(9, HOUR)), new().ttl(HOUR)]
    }

    /// The histories that a plain `_ => None` answers wrongly: a large value that reached the history tier was absent
    /// as of its moment, and a delete in the history of its key.
    #[test]
    fn a_large_value_is_read_in_every_verb_in_the_present_and_the_past_wherever_it_lies() {
        for (number, options) in policies().into_iter().enumerate() {
            let keeps = number == 2;
            let machine = Sim::new(1);
            let open = || Options::new().env(machine.clone()).durability(Durability::Buffered).open("/db").unwrap();
            let db = open();
            let k = db.keyspace("k", options).unwrap();
            k.put("a", "small").unwrap();
            let large = put_zeros(&k, "b", 100_000);
            let view = db.snapshot();
            k.put("b", "small").unwrap();
            put_zeros(&k, "c", 40_000);
            drop((k, db.clone()));
            let check = |db: &Db, view: Option<&crate::View>| {
                let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
                assert_eq!(k.get("c").unwrap(), Some(zeros(40_000)));
                assert_eq!(k.multi_get(["c", "a"]).unwrap(), [Some(zeros(40_000)), Some(Bytes::from("small"))]);
                assert!(k.contains("c").unwrap());
                assert_eq!(k.last().unwrap(), Some((Bytes::from("c"), zeros(40_000))));
                let lens = |(key, value): (Bytes, Bytes)| (key.to_vec(), value.len());
                let forward: Vec<_> = k.range(..).map(|item| lens(item.unwrap())).collect();
                assert_eq!(forward, [(b"a".to_vec(), 5), (b"b".to_vec(), 5), (b"c".to_vec(), 40_000)]);
                let backward: Vec<_> = k.range(..).rev().map(|item| lens(item.unwrap())).collect();
                assert!(backward.iter().rev().eq(&forward));
                let mut cursor = k.cursor("b"..);
                assert_eq!(cursor.next_ref().unwrap(), Some((&b"b"[..], &b"small"[..])));
                assert_eq!(cursor.next_ref().unwrap(), Some((&b"c"[..], &zeros(40_000)[..])));
                let then = view.cloned().or_else(|| keeps.then(|| db.as_of(large.seqno).unwrap()));
                if let Some(then) = then {
                    assert_eq!(then.get(&k, "b").unwrap(), Some(zeros(100_000)));
                    assert!(then.contains(&k, "b").unwrap() && !then.contains(&k, "c").unwrap());
                    assert_eq!(then.range(&k, ..).map(|item| lens(item.unwrap())).next_back().unwrap().1, 100_000);
                    let changes: Vec<_> = db.diff(&then, &db.snapshot(), &k).map(|change| change.unwrap()).collect();
                    let told: Vec<_> = changes.iter().map(|change| (&change.key[..], change.before.as_ref())).collect();
                    assert_eq!(told, [(&b"b"[..], Some(&zeros(100_000))), (b"c", None)]);
                }
                if keeps {
                    let history: Vec<_> = k.history("b").map(|version| version.unwrap().value).collect();
                    assert_eq!(history, [Some(Bytes::from("small")), Some(zeros(100_000))]);
                }
            };
            check(&db, Some(&view));
            db.flush().unwrap();
            check(&db, Some(&view));
            db.compact().unwrap();
            check(&db, Some(&view));
            // A copy of a moment holds recipes as recipes.
            view.checkpoint("/copy").unwrap();
            let copy = Options::new().env(machine.clone()).open("/copy").unwrap();
            let copied = copy.keyspace("k", KeyspaceOptions::new()).unwrap();
            assert_eq!(copied.get("b").unwrap(), Some(zeros(100_000)));
            assert!(copied.space().live < 50_000, "{:?}", copied.space());
            assert!(copy.verify().unwrap().is_clean() && db.verify().unwrap().is_clean());
            drop(view);
            db.compact().unwrap();
            check(&db, None);
            db.close().unwrap();
            check(&open(), None);
        }
    }

    /// Expiry that is asked of puts alone leaves a large value for ever, to readers and on the disk.
    #[test]
    fn a_large_value_expires_like_a_small_one_to_readers_and_on_the_disk() {
        let machine = Sim::new(1);
        let db = Options::new().env(machine.clone()).open("/db").unwrap();
        let k = db.keyspace("k", KeyspaceOptions::new().ttl(HOUR)).unwrap();
        put_zeros(&k, "large", 100_000);
        k.put("small", "value").unwrap();
        db.flush().unwrap();
        assert!(k.contains("large").unwrap());
        machine.set_time(machine.now() + HOUR + Duration::from_secs(1));
        for key in ["large", "small"] {
            assert_eq!(k.get(key).unwrap(), None, "{key}");
            assert!(!k.contains(key).unwrap());
        }
        assert_eq!((k.range(..).count(), k.range(..).rev().count()), (0, 0));
        db.compact().unwrap();
        assert_eq!((k.space().live, k.space().history), (0, 0));
    }

    /// L14, and what a lost chunk is to the rest of the database.
    #[test]
    fn a_lost_chunk_is_an_error_of_its_value_alone_and_of_no_verb_that_needs_no_bytes() {
        let db = Options::new().env(Memory::new()).open("/db").unwrap();
        let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        k.put("a", "before").unwrap();
        put_lost(&k, "b");
        k.put("c", "behind").unwrap();
        let then = db.snapshot();
        put_lost(&k, "b");
        for round in 0..2 {
            let lost = k.get("b").unwrap_err();
            let Error::CorruptChunk { keyspace, key, chunk, .. } = &lost else { panic!("{lost}") };
            assert_eq!((keyspace.as_str(), key.as_slice(), *chunk), ("k", &b"b"[..], ChunkId::from_bytes([7; 32])));
            assert!(lost.to_string().contains(&chunk.to_string()) && lost.to_string().contains("\"b\""), "{lost}");
            assert!(k.contains("b").unwrap() && then.contains(&k, "b").unwrap());
            assert!(!k.is_empty().unwrap());
            let keys: Vec<_> = k.range(..).keys().map(|key| key.unwrap().to_vec()).collect();
            assert_eq!(keys, [b"a", b"b", b"c"]);
            assert_eq!(k.range(..).keys().rev().count(), 3);
            // A walk tells the error for that key, and goes on in both directions.
            let told: Vec<_> = k.range(..).map(|item| item.is_ok()).collect();
            assert_eq!(told, [true, false, true]);
            assert_eq!(k.range(..).rev().map(|item| item.is_ok()).collect::<Vec<_>>(), told);
            let mut cursor = k.cursor(..);
            let lent: Vec<_> = (0..4).map(|_| cursor.next_ref().map(|item| item.is_some()).ok()).collect();
            assert_eq!(lent, [Some(true), None, Some(true), Some(false)]);
            // Equal recipes are equal values: nothing is read.
            assert_eq!(db.diff(&then, &db.snapshot(), &k).count(), 0);
            assert!(k.insert_if_absent("b", "other").unwrap().is_none());
            assert!(db.verify().unwrap().is_clean());
            if round == 0 {
                db.compact().unwrap();
            }
        }
        let first = db.keyspace("first", KeyspaceOptions::new().merge(MergeStrategy::FirstWins)).unwrap();
        put_lost(&first, "b");
        first.put("b", "second").unwrap();
        assert!(matches!(first.get("b"), Err(Error::CorruptChunk { .. })), "the first wins, unread");
    }

    #[test]
    fn a_recipe_of_too_many_bytes_or_that_is_none_is_refused_by_name() {
        let db = Options::new().env(Memory::new()).open("/db").unwrap();
        let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
        put_zeros(&k, "bomb", 1 << 62);
        put_recipe(&k, "junk", b"junk");
        put_zeros(&k, "long", 1 << 32);
        for key in ["bomb", "junk", "long"] {
            let refused = k.get(key).unwrap_err();
            let Error::Invalid { what } = &refused else { panic!("{refused}") };
            assert!(what.contains("keyspace \"k\"") && what.contains(&format!("key \"{key}\"")), "{what}");
        }
    }

    #[test]
    fn versions_of_a_recipe_in_the_history_tier_take_what_differs() {
        let db = Options::new().env(Memory::new()).open("/db").unwrap();
        let k = db.keyspace("k", KeyspaceOptions::new().policy(Policy::mvcc(100, HOUR))).unwrap();
        let reference = |number: u8| Reference { id: Some(ChunkId::from_bytes([number; 32])), len: 1000 };
        let mut references: Vec<_> = (0..=255).map(reference).collect();
        for version in 0..50u8 {
            references[100] = reference(version);
            put_recipe(&k, "large", &recipe(references.clone()));
        }
        db.compact().unwrap();
        assert_eq!(k.history("large").count(), 50);
        let (whole, space) = (recipe(references).len() as u64, k.space());
        assert!(space.live + space.history < 4 * whole, "{space:?} for 50 versions of {whole} bytes");
    }
}
