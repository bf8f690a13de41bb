//! Writing a map file partition by partition, in order; and putting one partition together.

use std::{path::Path, sync::Arc};

use super::{
    dir::{open_parent, temporary},
    reader::Map,
    tail::{Shape, Tail},
};
use crate::{
    base::{Error, FileNumber, IoContext, KEY_LEN_MAX, Result},
    env::{Dir, File},
    format::{FileKind, Header, Writer, crc},
    phash::{
        build::{Builder, Failure, HashedKey},
        partition::{Line, encode_partition},
    },
};

/// Bytes gathered before they are written.
const CHUNK: usize = 1 << 20;

/// A partition as it is written to the file; its line still lacks its place.
#[derive(Debug)]
pub(super) struct Packed {
    line: Line,
    keys: u64,
    bytes: Vec<u8>,
    crc: u32,
}

/// Puts one partition together. `entry` returns the key and value of a member.
pub(super) fn pack<'a, T>(
    builder: &mut Builder,
    shape: Shape,
    members: &[HashedKey<T>],
    entry: impl Fn(&T) -> Result<(&'a [u8], &'a [u8])>,
) -> Result<Packed> {
    let built = builder.build(members).map_err(|failure| refused(failure, members, &entry))?;
    let mut out = Writer::default();
    encode_partition(&mut out, &built);
    let mut by_slot: Vec<Option<&HashedKey<T>>> = vec![None; members.len()];
    for (member, slot) in members.iter().zip(&built.slots) {
        by_slot.get_mut(usize::from(*slot)).into_iter().for_each(|room| *room = Some(member));
    }
    let mut extra = 0;
    match shape {
        Shape::Alike { .. } => {
            by_slot.iter().flatten().for_each(|member| out.u8(member.hash().fingerprint()));
            for member in by_slot.iter().flatten() {
                let (key, value) = entry(&member.of)?;
                out.raw(key);
                out.raw(value);
            }
        }
        Shape::Mixed => {
            let mut entries = Writer::default();
            let mut places = Vec::with_capacity(by_slot.len());
            for member in by_slot.iter().flatten() {
                places.push(entries.len() as u64);
                let (key, value) = entry(&member.of)?;
                entries.varint(key.len() as u64);
                entries.varint(value.len() as u64);
                entries.raw(key);
                entries.raw(value);
            }
            let bits = u64::BITS - places.last().copied().unwrap_or(0).leading_zeros();
            let offset_len = bits.div_ceil(8).max(1) as usize;
            for (member, place) in by_slot.iter().flatten().zip(places) {
                out.u8(member.hash().fingerprint());
                out.raw(place.to_le_bytes().get(..offset_len).unwrap_or_default());
            }
            out.raw(entries.bytes());
            extra = u16::try_from(offset_len + 1).unwrap_or(u16::MAX);
        }
    }
    let line = Line::of(&built, 0, 0, extra);
    Ok(Packed { line, keys: members.len() as u64, crc: crc(&[out.bytes()]), bytes: out.into_bytes() })
}

#[cold]
fn refused<'a, T>(
    failure: Failure,
    members: &[HashedKey<T>],
    entry: &impl Fn(&T) -> Result<(&'a [u8], &'a [u8])>,
) -> Error {
    let key = |index: usize| members.get(index).and_then(|member| entry(&member.of).ok()).unwrap_or_default().0;
    match failure {
        Failure::Alike(a, b) if key(a) == key(b) => Error::Duplicate { key: key(a).to_vec() },
        Failure::Alike(a, b) => Error::invalid(format!(
            "keys \"{}\" and \"{}\" have the same hash; another seed may help",
            key(a).escape_ascii(),
            key(b).escape_ascii()
        )),
        Failure::GaveUp => Error::invalid("no perfect hash function was found for these keys; another seed may help"),
    }
}

/// A map file being written under a temporary name. Dropped before [`MapWriter::finish`], it leaves nothing.
#[derive(Debug)]
pub(super) struct MapWriter {
    dir: Arc<dyn Dir>,
    file: Arc<dyn File>,
    name: String,
    temporary: String,
    path: std::path::PathBuf,
    out: Writer,
    written: u64,
    lines: Writer,
    checksums: Writer,
    keys: u64,
    finished: bool,
}

impl MapWriter {
    pub(super) fn create(path: &Path, seed: u64) -> Result<Self> {
        let (dir, name) = open_parent(path)?;
        let (file, temporary) = temporary(&*dir)?;
        let mut out = Writer::default();
        out.raw(&Header { kind: FileKind::Map, file_id: seed, number: FileNumber(0) }.encode());
        Ok(Self {
            dir,
            file,
            name,
            temporary,
            path: path.to_path_buf(),
            out,
            written: 0,
            lines: Writer::default(),
            checksums: Writer::default(),
            keys: 0,
            finished: false,
        })
    }

    /// Adds the next partition.
    pub(super) fn add(&mut self, packed: &Packed) -> Result<()> {
        Line { first: self.keys, at: self.position(), ..packed.line }.encode(&mut self.lines);
        self.checksums.u32(packed.crc);
        self.keys += packed.keys;
        self.out.raw(&packed.bytes);
        if self.out.len() >= CHUNK { self.write_out() } else { Ok(()) }
    }

    /// Ends the file, makes it durable and renames it: a file of that name is replaced atomically.
    pub(super) fn finish(mut self, shape: Shape) -> Result<Map> {
        let directory_at = self.position();
        Line::closing(self.keys, directory_at).encode(&mut self.lines);
        let directory_crc = crc(&[self.lines.bytes(), self.checksums.bytes()]);
        self.out.raw(self.lines.bytes());
        self.out.raw(self.checksums.bytes());
        self.out.raw(&Tail { keys: self.keys, directory_at, shape, directory_crc }.encode());
        self.write_out()?;
        let path = || self.path.clone();
        self.file.sync().at("sync", path)?;
        self.dir.rename(&self.temporary, &self.name).at("rename", path)?;
        self.finished = true;
        self.dir.sync_dir("").at("sync", || self.dir.path().to_path_buf())?;
        Map::open(&self.path)
    }

    fn position(&self) -> u64 {
        self.written + self.out.len() as u64
    }

    fn write_out(&mut self) -> Result<()> {
        self.file.write_at(self.written, self.out.bytes()).at("write", || self.path.clone())?;
        self.written += self.out.len() as u64;
        self.out.clear();
        Ok(())
    }
}

impl Drop for MapWriter {
    fn drop(&mut self) {
        if !self.finished {
            // Best effort: a leftover is a file that nothing opens.
            let _removed = self.dir.remove(&self.temporary);
        }
    }
}

/// Fails unless a map can hold a key and value.
pub(super) fn check_entry(key: &[u8], value: &[u8]) -> Result<()> {
    if key.len() > KEY_LEN_MAX {
        return Err(Error::invalid(format!("a key has at most {KEY_LEN_MAX} bytes, not {}", key.len())));
    }
    if u32::try_from(value.len()).is_err() {
        return Err(Error::invalid(format!("a value in a map has less than 4 GiB, not {} bytes", value.len())));
    }
    Ok(())
}
