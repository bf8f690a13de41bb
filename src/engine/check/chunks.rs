//! Verification of large values: every record of every pack, and every reference of every recipe.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
};

use super::{Report, VerifyFinding};
use crate::{
    base::{ChunkId, Error, Kind, Result, Seqno},
    chunk::{pack::Pack, recipe::Reference},
    engine::{
        Engine, KeyspaceRef,
        chunk_store::ReadRoom,
        files::{
            chunks::{ChunkSet, damage},
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

/// Damaged chunks, each with the pack that holds it and what is wrong there.
type Damaged = HashMap<ChunkId, (PathBuf, String)>;

/// Reads every record of every pack that the version names; returns those that are damaged.
pub(super) fn verify_packs(
    engine: &Engine,
    current: &SuperVersion,
    report: &mut Report,
    watch: &mut Watch<'_>,
) -> Result<Damaged> {
    let mut damaged = Damaged::new();
    let chunks = &current.chunks;
    for handle in chunks.packs.values() {
        watch.begin_part(handle.meta.file_len);
        report.files += 1;
        report.bytes += handle.meta.file_len;
        let path = engine.ctx.dir.path().join(name::pack(handle.meta.number));
        // Opened for this alone: checks the file as it is now.
        let table = Pack::open(&engine.ctx.pool, handle.meta).and_then(|pack| Ok((pack.lines()?, pack)));
        let (lines, pack) = match table {
            Ok(read) => read,
            Err(error) => {
                report.record(path, None, Err(error))?;
                watch.end_part()?;
                continue;
            }
        };
        let mut at = 0;
        for line in &lines {
            engine.check_open()?;
            report.chunks += 1;
            let checked = chunks.store.with_reader(|ReadRoom { decoder, room }| {
                pack.reader().verify(&line.into(), |scope| chunks.scope(scope), decoder, room)
            });
            if let Err(error) = &checked
                && damage(error).is_some()
            {
                damaged.insert(line.id, (path.clone(), error.in_full()));
            }
            let named = checked.map_err(|error| match error {
                Error::Corrupt { .. } => Error::invalid(format!("chunk {}: {}", line.id, error.in_full())),
                error => error,
            });
            report.record(path.clone(), None, named)?;
            at += u64::from(line.stored_len);
            watch.step(at, handle.meta.stored_bytes)?;
        }
        watch.end_part()?;
    }
    Ok(damaged)
}

/// Follows every recipe, in memtables and both tiers, and records the values whose chunks are damaged or missing.
pub(super) fn verify_recipes(
    engine: &Engine,
    current: &Arc<SuperVersion>,
    damaged: Damaged,
    report: &mut Report,
) -> Result<()> {
    let mut check = Check { chunks: &current.chunks, damaged, sound: HashSet::new() };
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
    damaged: Damaged,
    /// Nodes of which everything beneath is sound: shared by many versions, and followed once.
    sound: HashSet<ChunkId>,
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
                if let Err(error) = self.value(keyspace, &key, &value) {
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

    fn value(&mut self, keyspace: &KeyspaceRef, key: &[u8], entry: &[u8]) -> Result<()> {
        let recipe = decode(keyspace, key, entry)?;
        let value = LargeValue { chunks: self.chunks, keyspace, key };
        let lost = |id: ChunkId, path: PathBuf| Error::CorruptChunk {
            path,
            offset: 0,
            keyspace: keyspace.name.to_string(),
            key: key.to_vec(),
            chunk: id,
        };
        let Self { chunks, damaged, sound } = self;
        let mut followed = Vec::new();
        chunks.store.with_reader(|reader| {
            let mut leaves = Leaves::new(recipe);
            while let Some((_, reference)) = leaves.next(|node, height| {
                if node.id.is_none_or(|id| sound.contains(&id)) {
                    // Nothing beneath needs to be looked at: one hole as long as all of it stands in.
                    return Ok(vec![Reference { id: None, len: node.len }]);
                }
                followed.extend(node.id);
                value.node(node, height, reader)
            })? {
                let Some(id) = reference.id else { continue };
                if let Some((path, _)) = damaged.get(&id) {
                    return Err(lost(id, path.clone()));
                }
                let facts = chunks.facts(&id)?;
                if facts.is_none_or(|facts| u64::from(facts.place.raw_len) != reference.len) {
                    return Err(lost(id, chunks.path().to_path_buf()));
                }
            }
            Ok(())
        })?;
        sound.extend(followed);
        Ok(())
    }
}
