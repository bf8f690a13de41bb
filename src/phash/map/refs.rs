//! References to entries, sorted by route in runs that fit a bounded memory: those that do not fit are spilled to a
//! file.

use std::sync::Arc;

use super::dir::Scratch;
use crate::{
    base::{Corruption, Error, Result},
    env::{Dir, Region},
    format::{Reader, Writer},
    phash::hash::Seeded,
};

/// An entry by its hash, and its offset in its source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ref {
    pub(super) hash: Seeded,
    pub(super) source: u32,
    pub(super) at: u64,
}

/// Length of a reference in memory and, nearly, on disk.
pub(super) const REF_LEN: u64 = size_of::<Ref>() as u64;

const SPILLED_LEN: usize = 28;

/// Collects references.
#[derive(Debug)]
pub(super) struct Refs {
    memory: Vec<Ref>,
    /// Maximum number of references in memory.
    memory_max: usize,
    dir: Arc<dyn Dir>,
    spilled: Option<Scratch>,
    /// Start and end of the runs in the file.
    runs: Vec<(u64, u64)>,
}

impl Refs {
    /// Returns an empty collection that uses at most `budget` bytes of memory, and spills to a file in the directory.
    pub(super) fn new(dir: &Arc<dyn Dir>, budget: u64) -> Self {
        let memory_max = usize::try_from(budget / REF_LEN).unwrap_or(usize::MAX).max(1024);
        Self { memory: Vec::new(), memory_max, dir: Arc::clone(dir), spilled: None, runs: Vec::new() }
    }

    pub(super) fn push(&mut self, new: Ref) -> Result<()> {
        if self.memory.len() >= self.memory_max {
            self.spill()?;
        }
        self.memory.push(new);
        Ok(())
    }

    fn spill(&mut self) -> Result<()> {
        self.memory.sort_unstable();
        let spilled = match &mut self.spilled {
            Some(spilled) => spilled,
            None => self.spilled.insert(Scratch::create(&self.dir)?),
        };
        let start = spilled.len;
        for some in self.memory.chunks(1 << 15) {
            let mut out = Writer::default();
            for Ref { hash, source, at } in some {
                out.u64(hash.route);
                out.u64(hash.place);
                out.u32(*source);
                out.u64(*at);
            }
            spilled.append(out.bytes())?;
        }
        self.runs.push((start, spilled.len));
        self.memory.clear();
        Ok(())
    }

    /// Sorts all of them, for access by route.
    pub(super) fn finish(mut self) -> Result<SortedRefs> {
        self.memory.sort_unstable();
        let region = self.spilled.as_ref().map(Scratch::map).transpose()?;
        Ok(SortedRefs { memory: self.memory, region, runs: self.runs, _spilled: self.spilled })
    }
}

/// References in sorted runs.
#[derive(Debug)]
pub(super) struct SortedRefs {
    memory: Vec<Ref>,
    region: Option<Region>,
    runs: Vec<(u64, u64)>,
    /// Kept while the region is read.
    _spilled: Option<Scratch>,
}

impl SortedRefs {
    /// Calls `each` with the references whose routes lie in `from..=to`, run by run.
    pub(super) fn between(&self, from: u64, to: u64, mut each: impl FnMut(Ref)) -> Result<()> {
        let start = self.memory.partition_point(|one| one.hash.route < from);
        let rest = self.memory.get(start..).unwrap_or_default();
        rest.iter().take_while(|one| one.hash.route <= to).for_each(|one| each(*one));
        let bytes: &[u8] = self.region.as_deref().unwrap_or_default();
        for &(start, end) in &self.runs {
            let run = usize::try_from(start).ok().zip(usize::try_from(end).ok());
            let run = run.and_then(|(start, end)| bytes.get(start..end)).unwrap_or_default();
            let (mut low, mut high) = (0, run.len() / SPILLED_LEN);
            while low < high {
                let middle = low.midpoint(high);
                if read(run, middle)?.hash.route < from { low = middle + 1 } else { high = middle }
            }
            for index in low..run.len() / SPILLED_LEN {
                let one = read(run, index)?;
                if one.hash.route > to {
                    break;
                }
                each(one);
            }
        }
        Ok(())
    }
}

fn read(run: &[u8], index: usize) -> Result<Ref> {
    let mut reader = Reader::starting_at(run, index * SPILLED_LEN);
    let mut decode = || {
        let hash = Seeded { route: reader.u64("route")?, place: reader.u64("place")? };
        Ok(Ref { hash, source: reader.u32("source")?, at: reader.u64("place of an entry")? })
    };
    decode().map_err(|bad: Corruption| Error::invalid(format!("a spilled reference {bad}")))
}
