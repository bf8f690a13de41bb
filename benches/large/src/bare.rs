//! The same parts without an engine: cut, hash, look up in a hash map, compress, append to one file; no checksums, no
//! log, no tree, one thread. What an engine cannot be faster than.
//!
//! Cuts, probe and thresholds are those of `src/chunk/cut.rs` and `src/chunk/codec.rs` of chronolith.

use std::{collections::HashMap, fs::File, io::Write, os::unix::fs::FileExt};

use blake3::Hash;
use measure::{Directory, Result};
use mincdc::{Cdc as _, MinCdcHash4};
use zstd::bulk::{Compressor, Decompressor};

use crate::{
    corpus::PIECE,
    store::{WHOLE_MAX, Way},
};

const SCORE: MinCdcHash4 = MinCdcHash4::with_params(0x915f_77f5, 0x3463_6463);

/// Average length of a chunk that is cut by content.
const AVERAGE: usize = 16 << 10;

const COMPRESSED_MIN: usize = 512;
const PROBE_LEN: usize = 4 << 10;
const PROBE_SHARE: usize = 25;
const SAVED_SHARE: usize = 16;

static ZEROS: [u8; 4096] = [0; 4096];

/// Where a chunk is in the file.
#[derive(Clone, Copy)]
struct Place {
    offset: u64,
    stored_len: u32,
    is_raw: bool,
}

/// The chunks of a value, and the length of each; zeros have no id.
pub type Recipe = Vec<(Option<Hash>, u32)>;

pub struct Bare {
    way: Way,
    fast: Compressor<'static>,
    full: Option<Compressor<'static>>,
    decompressor: Decompressor<'static>,
    room: Vec<u8>,
    places: HashMap<Hash, Place>,
    file: File,
    buffer: Vec<u8>,
    end: u64,
    _directory: Directory,
}

fn is_hole(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0) && bytes.chunks(ZEROS.len()).all(|part| ZEROS.starts_with(part))
}

fn cut(way: Way, bytes: &[u8]) -> usize {
    if let Some(size) = way.fixed {
        return bytes.len().min(size as usize);
    }
    let from = AVERAGE / 2 - 4;
    let window = bytes.get(from..bytes.len().min(AVERAGE + AVERAGE / 2)).filter(|window| window.len() > 4);
    window.map_or(bytes.len(), |window| from + SCORE.best_splitpoint(window))
}

/// Returns the first bytes of a buffer that only grows.
fn reused(room: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if room.len() < len {
        room.resize(len, 0);
    }
    &mut room[..len]
}

impl Bare {
    pub fn new(way: Way) -> Result<Self> {
        let directory = Directory::new("large-bench-bare")?;
        let path = directory.path().join("chunks");
        let file = File::options().create_new(true).read(true).write(true).open(path)?;
        Ok(Self {
            way,
            fast: Compressor::new(-1)?,
            full: way.level.map(Compressor::new).transpose()?,
            decompressor: Decompressor::new()?,
            room: Vec::new(),
            places: HashMap::new(),
            file,
            buffer: Vec::with_capacity(PIECE),
            end: 0,
            _directory: directory,
        })
    }

    /// Stores a value.
    pub fn write(&mut self, value: &[u8]) -> Result<Recipe> {
        let mut recipe = Recipe::new();
        let mut rest = value;
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at(cut(self.way, rest));
            rest = behind;
            let id = if is_hole(chunk) { None } else { Some(self.chunk(chunk)?) };
            recipe.push((id, chunk.len() as u32));
        }
        Ok(recipe)
    }

    fn chunk(&mut self, chunk: &[u8]) -> Result<Hash> {
        let id = blake3::hash(chunk);
        if self.places.contains_key(&id) {
            return Ok(id);
        }
        let compressed = self.compress(chunk);
        let stored_len = compressed.unwrap_or(chunk.len());
        if self.buffer.len() + stored_len > PIECE {
            self.write_out()?;
        }
        let offset = self.end + self.buffer.len() as u64;
        match compressed {
            Some(len) => self.buffer.extend_from_slice(&self.room[..len]),
            None => self.buffer.extend_from_slice(chunk),
        }
        self.places.insert(id, Place { offset, stored_len: stored_len as u32, is_raw: compressed.is_none() });
        Ok(id)
    }

    /// Returns the length of the compressed chunk, which is in `room`, if it pays.
    fn compress(&mut self, chunk: &[u8]) -> Option<usize> {
        let full = self.full.as_mut().filter(|_| chunk.len() >= COMPRESSED_MIN)?;
        let from = chunk.len().saturating_sub(PROBE_LEN) / 2;
        let probe = &chunk[from..chunk.len().min(from + PROBE_LEN)];
        let room = reused(&mut self.room, probe.len() - probe.len() / PROBE_SHARE);
        self.fast.compress_to_buffer(probe, room).ok()?;
        let room = reused(&mut self.room, chunk.len() - chunk.len() / SAVED_SHARE);
        full.compress_to_buffer(chunk, room).ok()
    }

    fn write_out(&mut self) -> Result<()> {
        self.file.write_all(&self.buffer)?;
        self.end += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes what was stored durable.
    pub fn flush(&mut self) -> Result<()> {
        self.write_out()?;
        Ok(self.file.sync_all()?)
    }

    /// Reads a value, each chunk verified; `told` is given the whole of a short one, and pieces of a longer one. `out`
    /// is memory to be used again.
    pub fn read(&mut self, recipe: &Recipe, out: &mut Vec<u8>, mut told: impl FnMut(&[u8])) -> Result<()> {
        let len: usize = recipe.iter().map(|(_, len)| *len as usize).sum();
        let out = reused(out, if len <= WHOLE_MAX { len } else { PIECE });
        let mut filled = 0;
        for (id, len) in recipe {
            let len = *len as usize;
            if filled + len > out.len() {
                told(&out[..filled]);
                filled = 0;
            }
            self.read_chunk(id.as_ref(), &mut out[filled..filled + len])?;
            filled += len;
        }
        told(&out[..filled]);
        Ok(())
    }

    fn read_chunk(&mut self, id: Option<&Hash>, chunk: &mut [u8]) -> Result<()> {
        let Some(id) = id else {
            chunk.fill(0);
            return Ok(());
        };
        let place = self.places.get(id).ok_or("a chunk that was not stored")?;
        if place.is_raw {
            self.file.read_exact_at(chunk, place.offset)?;
        } else {
            let room = reused(&mut self.room, place.stored_len as usize);
            self.file.read_exact_at(room, place.offset)?;
            self.decompressor.decompress_to_buffer(room, chunk)?;
        }
        if blake3::hash(chunk) == *id { Ok(()) } else { Err("a chunk that is not what it was".into()) }
    }
}
