//! Verification of large values: every record of every pack, and every reference of every recipe.

use std::{collections::HashSet, path::Path, sync::Arc};

use super::{Report, VerifyFinding, told_of};
use crate::{
    base::{ChunkId, Corruption, Error, FileNumber, Kind, Result, Seqno},
    chunk::{id::ChunkKind, pack::Pack, recipe::Reference},
    engine::{
        Engine, KeyspaceRef,
        chunk_store::ReadRoom,
        files::{
            chunks::{ChunkSet, StoredAt, damage},
            superversion::SuperVersion,
        },
        read::{LargeValue, Leaves, decode},
        watch::Watch,
    },
    format::name,
    memtable::MemCursor,
    merge::{Direction, Source},
    segment::{SegmentCursor, VersionCursor},
};

/// What verification has found of packs.
#[derive(Debug, Default)]
pub(super) struct Packs {
    /// Damaged records, each by its pack and its chunk. A sound copy may stand in another pack.
    damaged: HashSet<(FileNumber, ChunkId)>,
    /// Packs that cannot be opened: nothing in them can be read.
    lost: HashSet<FileNumber>,
    /// Packs whose table is damaged: what values need of them is read chunk by chunk.
    unlisted: HashSet<FileNumber>,
}

/// Reads every record of every pack that the version names; returns what is damaged.
pub(super) fn verify_packs(
    engine: &Engine,
    current: &SuperVersion,
    report: &mut Report,
    watch: &mut Watch<'_>,
) -> Result<Packs> {
    let mut found = Packs::default();
    let chunks = &current.chunks;
    for handle in chunks.packs.values() {
        let number = handle.meta.number;
        watch.begin_part(handle.meta.file_len);
        report.files += 1;
        let path = engine.ctx.dir.path().join(name::pack(number));
        // Opened for this alone: checks the file as it is now.
        let pack = match Pack::open(&engine.ctx.pool, handle.meta) {
            Ok(pack) => pack,
            Err(error) => {
                found.lost.insert(number);
                report.record(path, None, Err(error))?;
                watch.end_part()?;
                continue;
            }
        };
        let lines = match pack.lines() {
            Ok(lines) => lines,
            Err(error) => {
                found.unlisted.insert(number);
                report.record(path, None, Err(error))?;
                watch.end_part()?;
                continue;
            }
        };
        report.bytes += handle.meta.file_len;
        let mut at = 0;
        for line in &lines {
            engine.check_open()?;
            report.chunks += 1;
            let checked = chunks.store.with_reader(|ReadRoom { decoder, room }| {
                pack.reader().verify(&line.into(), |scope| chunks.scope(scope), decoder, room)
            });
            if let Err(error) = checked {
                if damage(&error).is_none() {
                    return Err(error);
                }
                found.damaged.insert((number, line.id));
                // Whoever writes the chunk again stores it anew.
                chunks.store.record_damaged(line.id);
                let what = format!("chunk {}: {}", line.id, told_of(&error, &path));
                report.findings.push(VerifyFinding { path: path.clone(), keyspace: None, what });
            }
            at += u64::from(line.stored_len);
            watch.step(at, handle.meta.stored_bytes)?;
        }
        watch.end_part()?;
    }
    Ok(found)
}

/// Follows every recipe, in memtables and both tiers, and records the values whose chunks are damaged or missing.
pub(super) fn verify_recipes(
    engine: &Engine,
    current: &Arc<SuperVersion>,
    packs: Packs,
    report: &mut Report,
) -> Result<()> {
    let chunks = &current.chunks;
    report.files += chunks.unnamed_packs().count() as u64;
    let mut check = Check { chunks, packs, sound: HashSet::new(), read: HashSet::new() };
    for (id, tree) in current.trees.iter() {
        let Some(keyspace) = current.version.keyspaces.get(id).filter(|keyspace| !keyspace.is_hidden()) else {
            continue;
        };
        // Of a strategy that this process was not given: it combines values, which are never cut.
        let Ok(keyspace) = engine.catalogue.keyspace_ref(keyspace) else { continue };
        for memtable in current.memtables(Seqno::MAX) {
            check.source(engine, &keyspace, MemCursor::new(memtable, *id, Direction::Forward), report)?;
        }
        for handle in tree.segments().filter(|handle| handle.meta.summary.recipes) {
            // What cannot be read is a finding of its own.
            let Ok(segment) = handle.open_anew() else { continue };
            if handle.meta.summary.history.is_some() {
                check.source(engine, &keyspace, VersionCursor::new(segment), report)?;
            } else {
                check.source(engine, &keyspace, SegmentCursor::new(segment, Direction::Forward), report)?;
            }
        }
    }
    Ok(())
}

struct Check<'c> {
    chunks: &'c ChunkSet,
    packs: Packs,
    /// Nodes of which everything beneath is sound, each as long and as high as it was found to be: shared by many
    /// versions, and followed once.
    sound: HashSet<(ChunkId, u64, u32)>,
    /// Sound chunks of packs that have no table: those of unflushed memtables, and of packs whose table is damaged.
    read: HashSet<ChunkId>,
}

impl Check<'_> {
    /// Follows the recipes of one source; where that cannot be read any further, the rest is left to the check of the
    /// file.
    fn source(
        &mut self,
        engine: &Engine,
        keyspace: &KeyspaceRef,
        mut source: impl Source,
        report: &mut Report,
    ) -> Result<()> {
        if source.seek(Some(&[])).is_err() {
            return Ok(());
        }
        while let Some(entry) = source.entry() {
            if entry.kind == Kind::Recipe {
                engine.check_open()?;
                let (key, value) = (entry.key.to_vec(), source.value());
                if let Err(error) = self.value(keyspace, &key, &value, report) {
                    let (path, what) = match &error {
                        Error::CorruptChunk { path, chunk, .. } => {
                            (path.clone(), format!("chunk {chunk} is damaged or missing"))
                        }
                        Error::Invalid { .. } => (self.chunks.path().to_path_buf(), error.in_full()),
                        _ => return Err(error),
                    };
                    let what = format!("key \"{}\": {what}", key.escape_ascii());
                    let finding = VerifyFinding { path, keyspace: Some(keyspace.name.to_string()), what };
                    // Equal versions in several places are one victim.
                    if !report.findings.contains(&finding) {
                        report.findings.push(finding);
                    }
                }
            }
            if source.advance().is_err() {
                break;
            }
        }
        Ok(())
    }

    fn value(&mut self, keyspace: &KeyspaceRef, key: &[u8], entry: &[u8], report: &mut Report) -> Result<()> {
        let recipe = decode(keyspace, key, entry)?;
        let value = LargeValue { chunks: self.chunks, keyspace, key };
        let mut followed = Vec::new();
        let checked = self.chunks.store.with_reader(|reader| {
            let mut leaves = Leaves::new(recipe);
            while let Some((_, Reference { id, len })) = leaves.next(|node, height| {
                let hole = || vec![Reference { id: None, len: node.len }];
                // A node that is met again in this value has nothing unsound beneath it either: the walk goes down to
                // the chunks first, and ends with the first that is not (L12: one node may be met 256⁸ times).
                let Some(id) = node.id.filter(|id| self.sound.insert((*id, node.len, height))) else {
                    return Ok(hole());
                };
                followed.push((id, node.len, height));
                self.chunk(value, id, None, reader, report)?;
                value.node(node, height, reader)
            })? {
                id.map_or(Ok(()), |id| self.chunk(value, id, Some(len), reader, report))?;
            }
            Ok(())
        });
        if checked.is_err() {
            for node in followed {
                self.sound.remove(&node);
            }
        }
        checked
    }

    /// Checks a chunk of a value, or a node, whose length no reference says.
    fn chunk(
        &mut self,
        value: LargeValue<'_>,
        id: ChunkId,
        len: Option<u64>,
        reader: &mut ReadRoom,
        report: &mut Report,
    ) -> Result<()> {
        let Self { chunks, packs, read, .. } = self;
        let lost = |path: &Path, offset| value.damaged(id, Corruption { offset, what: "the chunk" }.of(path, 0));
        let facts = chunks.stored_at(&id)?.filter(|facts| len.is_none_or(|len| u64::from(facts.place.raw_len) == len));
        let Some(StoredAt { pack, is_named, place }) = facts else { return Err(lost(chunks.path(), 0)) };
        // Each may be whole by itself; whether it is what the recipe takes it for, its record says.
        let kind = if len.is_some() { ChunkKind::Data } else { ChunkKind::Node };
        let header = chunks.header(&id).map_err(|error| value.damaged(id, error))?;
        if !header.is_some_and(|of| of.kind == kind && of.scope == value.keyspace.scope) {
            return Err(lost(&chunks.path_of(pack), place.offset));
        }
        if is_named {
            if packs.lost.contains(&pack) || packs.damaged.contains(&(pack, id)) {
                return Err(lost(&chunks.path_of(pack), place.offset));
            }
            if !packs.unlisted.contains(&pack) {
                return Ok(());
            }
        }
        if read.insert(id) {
            let scope = chunks.scope(value.keyspace.scope)?;
            let mut bytes = vec![0; place.raw_len as usize];
            let checked = chunks.read(&id, place.raw_len.into(), scope, reader, (&mut bytes, 0));
            report.chunks += 1;
            report.bytes += u64::from(place.stored_len);
            if let Err(error) = checked {
                read.remove(&id);
                return Err(value.damaged(id, error));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        Chunking, Keyspace, KeyspaceOptions, Options,
        chunk::{
            cut::CutPolicy,
            recipe::{Recipe, Reference},
        },
        engine::write::{Staged, commit},
        env::Memory,
    };

    fn put_recipe(keyspace: &Keyspace, key: &str, references: Vec<Reference>) {
        let len = references.iter().map(|reference| reference.len).sum();
        let recipe = Recipe { len, chunking: CutPolicy::AUTOMATIC, height: 0, references, origin: String::new() };
        let mut staged = Staged::default();
        staged.add_recipe(keyspace.keyspace_ref(), key.as_bytes(), &recipe.encode());
        commit(keyspace.engine(), staged, None).unwrap();
    }

    /// Each is whole by itself, as long as the recipe says, and not what the recipe takes it for.
    #[test]
    fn a_recipe_that_takes_a_node_for_a_chunk_or_a_chunk_of_another_scope_for_its_own_is_found() {
        let db = Options::new().env(Memory::new()).open("/db").unwrap();
        let k = db.keyspace("k", KeyspaceOptions::new().chunking(Chunking::fixed(512))).unwrap();
        let tenant = db.keyspace("t", KeyspaceOptions::new().dedup_scope("tenant")).unwrap();
        let value: Vec<u8> =
            (0..600u32 * 512).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 13).to_le_bytes()[0]).collect();
        k.put("tree", &value).unwrap();
        tenant.put("key", &value).unwrap();
        let of = |keyspace: &Keyspace, key: &str| {
            let (id, len) = keyspace.recipe(key).unwrap().unwrap().references().next().unwrap();
            (id, len, keyspace.chunks().facts(&id.unwrap()).unwrap().unwrap().bytes)
        };
        let (node, _, node_len) = of(&k, "tree");
        let (foreign, foreign_len, _) = of(&tenant, "key");
        put_recipe(&k, "node", vec![Reference { id: node, len: node_len }]);
        put_recipe(&k, "foreign", vec![Reference { id: foreign, len: foreign_len }]);
        for flushed in [false, true] {
            if flushed {
                db.flush().unwrap();
            }
            let report = db.verify().unwrap();
            let told: Vec<_> = report.findings.iter().map(|finding| finding.what.as_str()).collect();
            assert_eq!(told.len(), 2, "flushed {flushed}: {report}");
            assert!(told[0].contains("key \"foreign\"") && told[1].contains("key \"node\""), "{report}");
        }
    }
}
