//! The simulated disk, and what a power cut leaves of it.
//!
//! A [`Disk`] keeps everything twice, as programs see it and as the medium has it, with the operations between the two
//! in one order of time.
//!
//! ```text
//!              names                    bytes of an inode
//!   seen       CURRENT → 7              [ header | a | b ]
//!   pending    31: CURRENT.tmp → ∅,     29: write b
//!                  CURRENT → 7
//!   durable    CURRENT → 3              [ header | a ]
//! ```
//!
//! A sync moves pending operations to the durable side. A failed sync drops them: programs still see them, the medium
//! never gets them. At a power cut a [`Loss`] chooses among the pending ones; the result is both seen and durable.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, ErrorKind},
    mem,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{loss::Loss, prng::Prng};
use crate::env::ram::{Bytes, Changes, Entry, Tree};

/// Unit that a medium writes whole or not at all.
const SECTOR: usize = 512;

/// Number of an inode, never reused.
pub(super) type InodeId = u64;

/// One change of a file that no sync has covered yet.
#[derive(Clone)]
enum Edit {
    Write { offset: u64, bytes: Arc<[u8]> },
    Extend { len: u64 },
    SetLen { len: u64 },
}

impl Edit {
    fn apply(&self, to: &mut Bytes) -> io::Result<()> {
        match self {
            Self::Write { offset, bytes } => to.write_at(*offset, bytes),
            Self::Extend { len } => to.extend(*len),
            Self::SetLen { len } => to.set_len(*len),
        }
    }

    /// Returns the length that a file of `len` bytes has afterwards.
    fn len_after(&self, len: u64) -> u64 {
        match self {
            Self::Write { offset, bytes } => len.max(offset.saturating_add(bytes.len() as u64)),
            Self::Extend { len: at_least } => len.max(*at_least),
            Self::SetLen { len } => *len,
        }
    }
}

#[derive(Clone, Default)]
struct Inode {
    /// Bytes as programs read them.
    seen: Bytes,
    /// Bytes as the last sync left them.
    durable: Bytes,
    /// Edits between the two, by sequence number.
    pending: Vec<(u64, Edit)>,
    /// Number of open handles, which keep a file that has no name.
    handle_count: usize,
}

impl Inode {
    /// Returns the durable bytes with the pending edits that `kept` chooses.
    fn with(&self, kept: impl Fn(u64) -> bool) -> Bytes {
        let mut image = self.durable.clone();
        for (_, edit) in self.pending.iter().filter(|(seq, _)| kept(*seq)) {
            settle(&edit.apply(&mut image));
        }
        image
    }

    /// Returns the durable bytes with each pending edit independently kept, lost or torn, and the length independently
    /// too.
    fn torn(&self, prng: &mut Prng) -> Bytes {
        let mut image = self.durable.clone();
        if self.pending.is_empty() {
            return image;
        }
        for (_, edit) in &self.pending {
            match (edit, prng.below(3)) {
                (_, 0) => settle(&edit.apply(&mut image)),
                (Edit::Write { offset, bytes }, 1) => tear(&mut image, *offset, bytes, prng),
                _ => {}
            }
        }
        let old = self.durable.len();
        let new = self.pending.iter().fold(old, |len, (_, edit)| edit.len_after(len));
        let len = match prng.below(3) {
            0 => old,
            1 if new > old => old + prng.below(new - old),
            _ => new,
        };
        settle(&image.set_len(len));
        image
    }
}

/// Asserts that reapplying an edit succeeds: there was room for the bytes before.
fn settle(applied: &io::Result<()>) {
    debug_assert!(applied.is_ok(), "{applied:?}");
}

/// Writes `bytes` so that each sector gets the new bytes, keeps the old ones, or holds zeros or noise. Bytes of the
/// same sectors outside the write stay: they may be durable, and a medium rewrites them unchanged.
fn tear(image: &mut Bytes, mut offset: u64, mut bytes: &[u8], prng: &mut Prng) {
    while !bytes.is_empty() {
        let into = usize::try_from(offset % SECTOR as u64).unwrap_or(0);
        let (sector, rest) = bytes.split_at(bytes.len().min(SECTOR - into));
        match prng.below(4) {
            0 => settle(&image.write_at(offset, sector)),
            1 => settle(&image.write_at(offset, &vec![0; sector.len()])),
            2 => {
                let noise: Vec<u8> = sector.iter().map(|_| prng.next().to_le_bytes()[0]).collect();
                settle(&image.write_at(offset, &noise));
            }
            _ => {}
        }
        offset += sector.len() as u64;
        bytes = rest;
    }
}

/// One change of names that no directory sync has covered yet.
#[derive(Clone)]
struct Naming {
    seq: u64,
    dir: PathBuf,
    changes: Changes<InodeId>,
}

/// A disk with all the state that decides what a power cut leaves.
#[derive(Clone, Default)]
pub(super) struct Disk {
    /// Names as programs see them.
    names: Tree<InodeId>,
    /// Names as the last directory syncs left them.
    durable: Tree<InodeId>,
    /// Changes between the two.
    pending: Vec<Naming>,
    inodes: BTreeMap<InodeId, Inode>,
    /// Last number given to an operation or an inode: one order of time for the whole machine.
    last: u64,
}

impl Disk {
    pub(super) fn names(&self) -> &Tree<InodeId> {
        &self.names
    }

    /// Creates a directory and its parents, durable at once.
    pub(super) fn make_dirs(&mut self, path: &Path) -> io::Result<()> {
        let made = self.names.make_dirs(path)?;
        self.set_names(made);
        Ok(())
    }

    pub(super) fn create_dir(&mut self, path: PathBuf) -> io::Result<()> {
        let changes = self.names.create_dir(path)?;
        self.change_names(changes);
        Ok(())
    }

    pub(super) fn create(&mut self, path: PathBuf) -> io::Result<InodeId> {
        let id = self.tick();
        let changes = self.names.create(path, id)?;
        self.inodes.insert(id, Inode::default());
        self.change_names(changes);
        Ok(id)
    }

    pub(super) fn rename(&mut self, from: PathBuf, to: PathBuf) -> io::Result<()> {
        let changes = self.names.rename(from, to)?;
        self.change_names(changes);
        Ok(())
    }

    pub(super) fn remove(&mut self, path: PathBuf) -> io::Result<()> {
        let changes = self.names.remove(path)?;
        self.change_names(changes);
        Ok(())
    }

    pub(super) fn remove_dir(&mut self, path: PathBuf) -> io::Result<()> {
        let changes = self.names.remove_dir(path)?;
        self.change_names(changes);
        Ok(())
    }

    pub(super) fn link(&mut self, from: &Path, to: PathBuf) -> io::Result<()> {
        let changes = self.names.create(to, self.names.file(from)?)?;
        self.change_names(changes);
        Ok(())
    }

    /// Makes the names in `dir` durable.
    pub(super) fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        self.names.check_dir(dir)?;
        let (covered, pending) = mem::take(&mut self.pending).into_iter().partition(|naming| naming.dir == dir);
        self.pending = pending;
        let covered: Vec<Naming> = covered;
        for naming in covered {
            self.durable.apply(naming.changes);
        }
        self.collect();
        Ok(())
    }

    /// Counts one more handle of a file.
    pub(super) fn open(&mut self, id: InodeId) {
        if let Some(inode) = self.inodes.get_mut(&id) {
            inode.handle_count += 1;
        }
    }

    /// Counts one handle of a file fewer.
    pub(super) fn close(&mut self, id: InodeId) {
        if let Some(inode) = self.inodes.get_mut(&id) {
            inode.handle_count = inode.handle_count.saturating_sub(1);
        }
    }

    pub(super) fn bytes(&self, id: InodeId) -> io::Result<&Bytes> {
        Ok(&self.inodes.get(&id).ok_or(ErrorKind::NotFound)?.seen)
    }

    pub(super) fn write_at(&mut self, id: InodeId, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.edit(id, Edit::Write { offset, bytes: bytes.into() })
    }

    pub(super) fn extend(&mut self, id: InodeId, len: u64) -> io::Result<()> {
        self.edit(id, Edit::Extend { len })
    }

    pub(super) fn set_len(&mut self, id: InodeId, len: u64) -> io::Result<()> {
        self.edit(id, Edit::SetLen { len })
    }

    /// Makes durable what is pending and nothing else: what a failed sync dropped stays lost.
    pub(super) fn sync(&mut self, id: InodeId) -> io::Result<()> {
        let inode = self.inodes.get_mut(&id).ok_or(ErrorKind::NotFound)?;
        for (_, edit) in mem::take(&mut inode.pending) {
            edit.apply(&mut inode.durable)?;
        }
        Ok(())
    }

    /// Fails a sync: the pages count as clean from now on, although the medium does not have them.
    pub(super) fn forget(&mut self, id: InodeId) {
        if let Some(inode) = self.inodes.get_mut(&id) {
            inode.pending.clear();
        }
    }

    /// Returns the total size of all files that have a name.
    pub(super) fn used_bytes(&self) -> u64 {
        let named: BTreeSet<InodeId> = self.names.files().map(|(_, id)| *id).collect();
        named.iter().filter_map(|id| self.inodes.get(id)).map(|inode| inode.seen.len()).sum()
    }

    /// Writes bytes onto the medium, bypassing programs.
    pub(super) fn overwrite(&mut self, path: PathBuf, bytes: Vec<u8>) {
        let id = self.names.file(&path).unwrap_or_else(|_| self.tick());
        if let Some(dir) = path.parent()
            && let Ok(made) = self.names.make_dirs(dir)
        {
            self.set_names(made);
        }
        let inode = self.inodes.entry(id).or_default();
        inode.seen = bytes.into();
        inode.durable = inode.seen.clone();
        inode.pending.clear();
        self.set_names(vec![(path, Some(Entry::File(id)))]);
    }

    /// Removes a file from the medium, bypassing programs.
    pub(super) fn erase(&mut self, path: PathBuf) {
        if self.names.file(&path).is_ok() {
            self.set_names(vec![(path, None)]);
        }
    }

    /// Cuts the power and restores it: what survives is all there is, and all of it is durable.
    pub(super) fn cut_power(&mut self, loss: Loss, prng: &mut Prng) {
        let end = if loss == Loss::Prefix { self.draw_end(prng) } else { 0 };
        for inode in self.inodes.values_mut() {
            inode.durable = match loss {
                Loss::Nothing | Loss::DataOnly => inode.with(|_| true),
                Loss::Everything | Loss::NamesKept => inode.with(|_| false),
                Loss::Prefix => inode.with(|seq| seq < end),
                Loss::Torn => inode.torn(prng),
            };
            inode.seen = inode.durable.clone();
            inode.pending.clear();
        }
        for naming in mem::take(&mut self.pending) {
            let kept = match loss {
                Loss::Nothing | Loss::NamesKept => true,
                Loss::Everything | Loss::DataOnly => false,
                Loss::Prefix => naming.seq < end,
                Loss::Torn => prng.below(2) == 0,
            };
            if kept {
                self.durable.apply(naming.changes);
            }
        }
        self.durable.prune();
        self.names = self.durable.clone();
        self.release();
    }

    /// Closes every handle.
    pub(super) fn release(&mut self) {
        for inode in self.inodes.values_mut() {
            inode.handle_count = 0;
        }
        self.collect();
    }

    /// Draws the moment up to which pending operations survive.
    fn draw_end(&self, prng: &mut Prng) -> u64 {
        let edits = self.inodes.values().flat_map(|inode| inode.pending.iter().map(|(seq, _)| *seq));
        let mut seqs: Vec<u64> = self.pending.iter().map(|naming| naming.seq).chain(edits).collect();
        seqs.sort_unstable();
        seqs.get(prng.index(seqs.len() + 1)).copied().unwrap_or(u64::MAX)
    }

    fn edit(&mut self, id: InodeId, edit: Edit) -> io::Result<()> {
        let seq = self.tick();
        let inode = self.inodes.get_mut(&id).ok_or(ErrorKind::NotFound)?;
        edit.apply(&mut inode.seen)?;
        inode.pending.push((seq, edit));
        Ok(())
    }

    /// Changes the names that programs see; a power cut may undo it.
    fn change_names(&mut self, changes: Changes<InodeId>) {
        let Some(dir) = changes.first().and_then(|(path, _)| path.parent()).map(Path::to_path_buf) else {
            return;
        };
        let seq = self.tick();
        self.names.apply(changes.clone());
        self.pending.push(Naming { seq, dir, changes });
    }

    /// Changes names durably, overriding pending changes to them.
    fn set_names(&mut self, changes: Changes<InodeId>) {
        for naming in &mut self.pending {
            naming.changes.retain(|(path, _)| changes.iter().all(|(set, _)| set != path));
        }
        self.pending.retain(|naming| !naming.changes.is_empty());
        self.names.apply(changes.clone());
        self.durable.apply(changes);
    }

    /// Frees every inode that no name, no pending name and no handle leads to.
    fn collect(&mut self) {
        let pending = self.pending.iter().flat_map(|naming| &naming.changes);
        let pending = pending.filter_map(|(_, entry)| match entry {
            Some(Entry::File(id)) => Some(*id),
            _ => None,
        });
        let named = self.names.files().chain(self.durable.files()).map(|(_, id)| *id);
        let live: BTreeSet<InodeId> = named.chain(pending).collect();
        self.inodes.retain(|id, inode| inode.handle_count > 0 || live.contains(id));
    }

    fn tick(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}
