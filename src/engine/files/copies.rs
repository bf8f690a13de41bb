//! Packs of copies: what a flush takes from a recovery, a collection from packs that go, a checkpoint from packs that
//! have no name yet.

use super::chunks::NamedPlace;
use crate::{
    base::{FileNumber, Result},
    chunk::{
        pack::{PackMeta, PackWriter},
        record::EncodedChunk,
    },
    engine::context::Context,
    env::Dir,
};

/// Bytes after which a pack of copies is ended, on a disk that has room.
pub(in crate::engine) const PACK_BYTES: u64 = 64 << 20;

/// Writes chunks to packs, one pack after another.
#[derive(Debug)]
pub(in crate::engine) struct PackCopies<'c> {
    ctx: &'c Context,
    dir: &'c dyn Dir,
    open: Option<PackWriter>,
    /// Bytes after which it is ended.
    bytes_max: u64,
    packs: Vec<PackMeta>,
    places: Vec<NamedPlace>,
}

impl<'c> PackCopies<'c> {
    pub(in crate::engine) fn new(ctx: &'c Context, dir: &'c dyn Dir) -> Self {
        Self { ctx, dir, open: None, bytes_max: PACK_BYTES, packs: Vec::new(), places: Vec::new() }
    }

    /// Appends a chunk that none of them has; `number` gives a number to a new pack.
    pub(in crate::engine) fn append(
        &mut self,
        chunk: &EncodedChunk,
        number: impl FnOnce() -> FileNumber,
    ) -> Result<()> {
        if self.open.as_ref().is_some_and(|pack| !pack.has_room(chunk) || pack.end() >= self.bytes_max) {
            self.end()?;
        }
        let pack = match &mut self.open {
            Some(pack) => pack,
            none => {
                self.bytes_max = self.ctx.pack_bytes(PACK_BYTES);
                none.insert(PackWriter::create(self.dir, number(), self.ctx.env.entropy())?)
            }
        };
        pack.append(chunk).map(drop)
    }

    /// Seals and syncs the pack that is open.
    fn end(&mut self) -> Result<()> {
        let Some(mut pack) = self.open.take() else { return Ok(()) };
        let meta = pack.seal()?;
        pack.sync()?;
        let mut lines = pack.lines().to_vec();
        lines.sort_unstable_by_key(|line| line.id);
        assert_eq!(meta.records as usize, lines.len(), "the places of pack {}", meta.number);
        self.places.extend(NamedPlace::of(meta.number, &lines));
        self.packs.push(meta);
        Ok(())
    }

    /// Ends the last pack; returns all of them, synced, and the places of what they hold. Their names are the caller's
    /// to sync.
    pub(in crate::engine) fn finish(mut self) -> Result<(Vec<PackMeta>, Vec<NamedPlace>)> {
        self.end()?;
        Ok((self.packs, self.places))
    }
}
