//! One large value, cut as it arrives: its chunks stored, its references gathered into nodes.
//!
//! ```text
//!   bytes ▸ cut ▸ chunks, stored by several threads ▸ references ▸ nodes, stored like chunks ▸ recipe
//! ```

use std::{
    mem,
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    chunks::{ChunkSink, Stored},
    large::options_of,
};
use crate::{
    base::{ChunkId, Micros, Result},
    chunk::{
        cut::{Arm, Chunking, CutPolicy},
        id::ChunkKind,
        recipe,
        tree::RecipeBuilder,
    },
    engine::{
        Engine, KeyspaceRef,
        chunk_store::{ArmCounts, Tally, Writing},
    },
    manifest::StoredChunking,
};

/// Zeros to compare with.
static ZEROS: [u8; 4096] = [0; 4096];

/// Returns whether all bytes are zero.
pub(super) fn is_hole(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0) && bytes.chunks(ZEROS.len()).all(|part| ZEROS.starts_with(part))
}

/// Bytes gathered before they are cut: with so many, all but a last chunk are certain.
pub(super) const WINDOW_LEN: usize = 4 << 20;

/// Bytes for which another thread is started: that takes some 50 µs, and to compress so many 500.
const HELPED_MIN: usize = 256 << 10;

/// How one value is cut and stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cutting {
    pub(super) policy: CutPolicy,
    /// Level of zstd; `None` stores every chunk as it is.
    pub(super) level: Option<i32>,
    /// The trial that it is part of, and on which side.
    pub(super) trial: Option<(Chunking, Arm)>,
}

impl Cutting {
    /// Returns how the value of a key is cut.
    pub(super) fn of_key(options: StoredChunking, key: &[u8]) -> Self {
        let StoredChunking { chunking, level, threshold: _ } = options;
        let (policy, arm) = chunking.for_key(key);
        Self { policy, level, trial: arm.map(|arm| (chunking, arm)) }
    }
}

/// Stores the chunks of one value.
#[derive(Debug)]
pub(super) struct ValueCutter {
    pub(super) sink: ChunkSink,
    cutting: Cutting,
    builder: RecipeBuilder,
    tally: Tally,
    /// Time spent here.
    time: Micros,
    /// Chunks found or stored since it last told what it refers to, and whether it ever has.
    untold: usize,
    has_told: bool,
}

/// Chunks after which a writer tells what it refers to: nodes stand for most of them.
const UNTOLD_MAX: usize = 4096;

impl ValueCutter {
    /// Begins a value.
    ///
    /// # Errors
    /// If nothing can be written.
    pub(super) fn begin(
        engine: &Arc<Engine>,
        keyspace: &KeyspaceRef,
        cutting: Cutting,
        origin: String,
    ) -> Result<Self> {
        Ok(Self {
            sink: ChunkSink::begin(engine, keyspace, cutting.level, origin)?,
            cutting,
            builder: RecipeBuilder::new(cutting.policy),
            tally: Tally::default(),
            time: Micros::ZERO,
            untold: 0,
            has_told: false,
        })
    }

    /// Returns the length so far.
    pub(super) fn len(&self) -> u64 {
        self.builder.len()
    }

    /// Adds the chunks that the bytes begin with, all of them if no more bytes follow; returns the bytes that they
    /// take.
    pub(super) fn chunks_of(&mut self, bytes: &[u8], last: bool) -> Result<usize> {
        let began = self.sink.engine.ctx.monotonic();
        let mut used = 0;
        while used < bytes.len() {
            let window = bytes.get(used..).unwrap_or_default();
            // What is cut at once bounds what the helpers work on; the end of a window is no end of the value.
            let (window, ends) = match window.get(..WINDOW_LEN) {
                Some(part) if window.len() > WINDOW_LEN => (part, false),
                _ => (window, last),
            };
            let (mut chunks, mut rest) = (Vec::new(), window);
            while !rest.is_empty()
                && let Some(len) = self.cutting.policy.cut(rest, ends)
            {
                let (chunk, behind) = rest.split_at(len);
                chunks.push(chunk);
                rest = behind;
            }
            if chunks.is_empty() {
                break;
            }
            self.add(&chunks)?;
            used += window.len() - rest.len();
        }
        self.time = self.time.saturating_add(self.sink.engine.ctx.monotonic().saturating_sub(began));
        Ok(used)
    }

    /// Adds chunks of zeros, of `gathered` zeros that are in none yet and up to `zeros` more; returns how many bytes
    /// they take. As many as `gathered` are left over, and enough for the next cut to be certain.
    pub(super) fn skip_zeros(&mut self, gathered: u64, zeros: u64) -> Result<u64> {
        let longest = self.cutting.policy.longest();
        let Some(chunk) = self.cutting.policy.cut(&vec![0; longest], false) else { return Ok(0) };
        let all = gathered.saturating_add(zeros).saturating_sub(longest as u64);
        let skipped = all / chunk as u64 * chunk as u64;
        if skipped > 0 {
            self.sink.engine.store.counts.hole_bytes.fetch_add(skipped, Ordering::Relaxed);
            self.builder.zeros(skipped)?;
        }
        Ok(skipped)
    }

    /// Adds the next chunks.
    fn add(&mut self, chunks: &[&[u8]]) -> Result<()> {
        let stored = self.store_all(chunks)?;
        let Self { sink, builder, tally, .. } = self;
        for (chunk, stored) in chunks.iter().zip(stored) {
            let len = chunk.len() as u64;
            let Some(Stored { id, added }) = stored else {
                sink.engine.store.counts.hole_bytes.fetch_add(len, Ordering::Relaxed);
                builder.zeros(len)?;
                continue;
            };
            tally.chunks += 1;
            if let Some(added) = added {
                tally.new_chunks += 1;
                tally.new_bytes += len;
                tally.stored_bytes += added;
            }
            builder.chunk(id, len, &mut |node: Vec<u8>| store_node(sink, &node, tally))?;
        }
        self.untold += chunks.len();
        if self.untold >= UNTOLD_MAX {
            let open = self.builder.frontier();
            self.refer_to(open)?;
        }
        Ok(())
    }

    /// Tells what the value refers to. A collection reads nodes among that, so they are written first.
    fn refer_to(&mut self, open: Vec<recipe::Recipe>) -> Result<()> {
        self.sink.engine.files.current().chunks.write_out()?;
        self.sink.writing.refer_to(open);
        (self.untold, self.has_told) = (0, true);
        Ok(())
    }

    /// Stores chunks, with the help of other threads where there are enough bytes to be worth it. Whatever is drawn up
    /// here is bounded by the window; whoever calls waits for all.
    fn store_all(&self, chunks: &[&[u8]]) -> Result<Vec<Option<Stored>>> {
        let bytes: usize = chunks.iter().map(|chunk| chunk.len()).sum();
        let most = if self.sink.engine.ctx.runs_inline() { 0 } else { (bytes / HELPED_MIN).min(chunks.len() / 2) };
        let helpers = self.sink.engine.store.take_helpers(most);
        if helpers.count == 0 {
            return chunks.iter().map(|chunk| self.store_one(chunk)).collect();
        }
        let next = AtomicUsize::new(0);
        let work = || -> Result<Vec<(usize, Option<Stored>)>> {
            let mut stored = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(chunk) = chunks.get(at) else { return Ok(stored) };
                match self.store_one(chunk) {
                    Ok(one) => stored.push((at, one)),
                    Err(error) => {
                        // The others have nothing more to do.
                        next.store(chunks.len(), Ordering::Relaxed);
                        return Err(error);
                    }
                }
            }
        };
        let parts = thread::scope(|scope| {
            let spawn = |_| thread::Builder::new().name("chronolith-chunks".to_owned()).spawn_scoped(scope, work);
            // A thread that cannot be started is one helper less.
            let started: Vec<_> = (0..helpers.count).map_while(|number| spawn(number).ok()).collect();
            let own = work();
            let joined = started.into_iter().map(|helper| helper.join().unwrap_or_else(|panic| resume_unwind(panic)));
            std::iter::once(own).chain(joined.collect::<Vec<_>>()).collect::<Result<Vec<_>>>()
        });
        let mut stored: Vec<(usize, Option<Stored>)> = parts?.into_iter().flatten().collect();
        stored.sort_unstable_by_key(|(at, _)| *at);
        assert_eq!(stored.len(), chunks.len(), "chunks that were stored");
        Ok(stored.into_iter().map(|(_, one)| one).collect())
    }

    /// Stores a chunk unless it is a hole.
    fn store_one(&self, bytes: &[u8]) -> Result<Option<Stored>> {
        if is_hole(bytes) { Ok(None) } else { self.sink.store(ChunkKind::Data, bytes).map(Some) }
    }

    /// Ends a value that has at least one byte.
    pub(super) fn finish(mut self) -> Result<(recipe::Recipe, Tally, Arc<Writing>)> {
        let Self { sink, builder, cutting, tally, time, .. } = &mut self;
        let builder = mem::replace(builder, RecipeBuilder::new(cutting.policy));
        let len = builder.len();
        let recipe = builder.finish(sink.origin.clone(), &mut |node: Vec<u8>| store_node(sink, &node, tally))?;
        let counts = &sink.engine.store.counts;
        counts.values.fetch_add(1, Ordering::Relaxed);
        counts.value_bytes.fetch_add(len, Ordering::Relaxed);
        let counts = ArmCounts { values: 1, value_bytes: len, stored: *tally, time: *time };
        record_trial(&sink.engine, &sink.keyspace, *cutting, &counts);
        // A batch may hold thousands of values: of a tree it holds the root alone.
        if self.has_told || recipe.height > 0 {
            self.refer_to(vec![recipe.clone()])?;
        }
        Ok((recipe, self.tally, self.sink.writing))
    }
}

/// Counts a value that is part of a trial, unless that has ended meanwhile.
pub(super) fn record_trial(engine: &Engine, keyspace: &KeyspaceRef, cutting: Cutting, counts: &ArmCounts) {
    if let Some((chunking, arm)) = cutting.trial
        && options_of(engine, keyspace).is_some_and(|now| now.chunking == chunking)
    {
        engine.store.record_trial(keyspace.id, chunking, arm, counts);
    }
}

fn store_node(sink: &ChunkSink, node: &[u8], tally: &mut Tally) -> Result<ChunkId> {
    let Stored { id, added } = sink.store(ChunkKind::Node, node)?;
    tally.stored_bytes += added.unwrap_or(0);
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_zero_in_every_byte() {
        for len in [1, 2, 4095, 4096, 4097, 20_000] {
            let mut bytes = vec![0; len];
            assert!(is_hole(&bytes), "{len} zeros");
            for at in [0, len / 2, len - 1] {
                bytes[at] = 1;
                assert!(!is_hole(&bytes), "{len} bytes with a one at {at}");
                bytes[at] = 0;
            }
        }
        assert!(!is_hole(&[]));
    }
}
