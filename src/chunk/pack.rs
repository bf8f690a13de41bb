//! A pack: the file that chunks are appended to while their epoch is active, and that is sealed and never changed
//! afterwards (L2, L5 of `docs/chunks.md`).
//!
//! ```text
//!  PackWriter   append ▸ buffer ▸ write_out ▸ …  ▸ seal: table and tail     the file can be synced by others meanwhile
//!  PackReader   one chunk by its place: of a pack being written, sealed or scanned
//!  Pack         a sealed pack: its table
//!  scan         a pack without a table, after a crash: its good records
//! ```

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    codec::{Codec, Decoder},
    cut::CHUNK_LEN_MAX,
    id::Scope,
    record::{
        ALIGN, BadChunk, ChunkHeader, EncodedChunk, FIRST_RECORD, Line, ORIGIN_LEN_MAX, RECORD_HEADER_LEN, RECORDS_MAX,
        TABLE_AT_MAX, TAIL_LEN, decode_table, decode_tail, encode_footer, may_be_chunk, table_len,
    },
};
use crate::{
    base::{ChunkId, Corruption, Error, FileNumber, IoContext, Result},
    env::{Dir, File, Files, ReadFile, written},
    format::{BadHeader, FileKind, Header, crc, name},
};

/// Appended bytes are written in pieces of this length: a system call for some sixty chunks.
const BUFFER_LEN: usize = 1 << 20;

/// Maximum length of a pack: a crash may leave one whose table is written and that no manifest names yet.
const PACK_LEN_MAX: u64 = TABLE_AT_MAX + (table_len(RECORDS_MAX) + TAIL_LEN) as u64;

/// A sealed pack, as the manifest names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackMeta {
    pub(crate) number: FileNumber,
    pub(crate) file_id: u64,
    pub(crate) file_len: u64,
    /// Checksum of table and tail.
    pub(crate) footer_digest: u32,
    pub(crate) records: u32,
    /// Bytes of records, headers included.
    pub(crate) stored_bytes: u64,
    /// Bytes of the chunks in them.
    pub(crate) raw_bytes: u64,
}

/// The writing end of a pack.
#[derive(Debug)]
pub(crate) struct PackWriter {
    header: Header,
    seed: u32,
    path: PathBuf,
    file: Arc<dyn File>,
    /// Bytes of the file that have been written.
    written: u64,
    /// Records that have not.
    buffer: Vec<u8>,
    lines: Vec<Line>,
    raw_bytes: u64,
}

impl PackWriter {
    /// Creates the pack of a number. Its name is durable after the caller syncs the directory.
    pub(crate) fn create(dir: &dyn Dir, number: FileNumber, file_id: u64) -> Result<Self> {
        let name = name::pack(number);
        let path = dir.path().join(&name);
        let file = written(dir.create(&name).at("create", || path.clone())?);
        let header = Header { kind: FileKind::Pack, file_id, number };
        let buffer = header.encode();
        Ok(Self { header, seed: header.record_seed(), path, file, written: 0, buffer, lines: Vec::new(), raw_bytes: 0 })
    }

    /// Returns where the next record begins: how far the pack reaches.
    pub(crate) fn end(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Returns the records so far, in the order of their offsets.
    pub(crate) fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Returns whether a further chunk can be appended: a table holds so many records, and places reach so far.
    pub(crate) fn has_room(&self, chunk: &EncodedChunk) -> bool {
        self.lines.len() < RECORDS_MAX as usize && self.end() + chunk.len() as u64 <= TABLE_AT_MAX
    }

    /// Appends a chunk for which there is room, and returns where it is. A record counts only once
    /// [`PackWriter::write_out`] has written it.
    ///
    /// # Errors
    /// If the buffer is full and cannot be written; then the chunk was not appended, and those before it stay.
    pub(crate) fn append(&mut self, chunk: &EncodedChunk) -> Result<Line> {
        assert!(self.has_room(chunk), "{} records up to {}, and no room for another", self.lines.len(), self.end());
        if self.buffer.len() + chunk.len() > BUFFER_LEN {
            self.write_out()?;
        }
        let line = Line::of(&chunk.header, self.end());
        chunk.place(self.seed, line.offset, &mut self.buffer);
        self.lines.push(line);
        self.raw_bytes += u64::from(line.raw_len);
        Ok(line)
    }

    /// Writes what was appended to the file. After an error the next call writes the same bytes to the same place.
    pub(crate) fn write_out(&mut self) -> Result<()> {
        if !self.buffer.is_empty() {
            self.file.write_at(self.written, &self.buffer).at("append to", || self.path.clone())?;
            self.written = self.end();
            self.buffer.clear();
        }
        Ok(())
    }

    /// Returns the file, to be synced while others append.
    pub(crate) fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// Returns how far the file holds whole records: what a crash of this process leaves.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Returns what reads the records that have been written.
    pub(crate) fn reader(&self) -> PackReader {
        PackReader { seed: self.seed, path: self.path.clone(), file: PackFile::Held(Arc::clone(&self.file)) }
    }

    /// Ends the pack with its table and tail; the caller syncs it. After an error the call can be repeated; nothing may
    /// be appended in between.
    pub(crate) fn seal(&mut self) -> Result<PackMeta> {
        self.write_out()?;
        let end = self.end();
        let mut lines = self.lines.clone();
        lines.sort_unstable_by_key(|line| line.id);
        let footer = encode_footer(&lines, end, self.header.file_id);
        self.file.write_at(end, &footer).at("write", || self.path.clone())?;
        let records = u32::try_from(lines.len());
        assert!(records.is_ok(), "{} records in a pack", lines.len());
        Ok(PackMeta {
            number: self.header.number,
            file_id: self.header.file_id,
            file_len: end + footer.len() as u64,
            footer_digest: crc(&[&footer]),
            records: records.unwrap_or_default(),
            stored_bytes: end - FIRST_RECORD,
            raw_bytes: self.raw_bytes,
        })
    }

    /// Makes what was written durable.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync().at("sync", || self.path.clone())
    }
}

/// Where a chunk is in its pack, as a line of the table or a place says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkPlace {
    pub(crate) id: ChunkId,
    /// Offset of the record.
    pub(crate) offset: u64,
    pub(crate) stored_len: u32,
    pub(crate) raw_len: u32,
}

impl ChunkPlace {
    fn record_len(&self) -> usize {
        RECORD_HEADER_LEN + self.stored_len as usize
    }

    /// Returns whether it can be that of a record.
    fn is_possible(&self) -> bool {
        let most = RECORD_HEADER_LEN + CHUNK_LEN_MAX + 2 + ORIGIN_LEN_MAX;
        (FIRST_RECORD..TABLE_AT_MAX).contains(&self.offset) && self.record_len() <= most
    }
}

impl From<&Line> for ChunkPlace {
    fn from(line: &Line) -> Self {
        let Line { id, offset, stored_len, raw_len, .. } = *line;
        Self { id, offset, stored_len, raw_len }
    }
}

/// File of a pack: open for reading only while it is read, or held by its writer.
#[derive(Debug)]
enum PackFile {
    Pooled(ReadFile),
    Held(Arc<dyn File>),
}

/// Reads records of a pack by their place.
///
/// By position, never through a map: most records are read once, and a bad medium under a map ends the process, while
/// the copy costs a tenth of the hash.
#[derive(Debug)]
pub(crate) struct PackReader {
    seed: u32,
    path: PathBuf,
    file: PackFile,
}

impl PackReader {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Fills `room` with bytes of the pack.
    fn read(&self, offset: u64, room: &mut [u8]) -> Result<()> {
        let read = match &self.file {
            PackFile::Pooled(file) => file.get().and_then(|file| file.read_at(offset, room)),
            PackFile::Held(file) => file.read_at(offset, room),
        };
        match read {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                Err(Corruption { offset: 0, what: "a chunk inside the pack" }.of(&self.path, offset))
            }
            read => read.at("read", || self.path.clone()),
        }
    }

    /// Fills `out`, which is as long as the chunk at a place. What is there afterwards hashes to the id; `room` is
    /// memory to be used again.
    ///
    /// # Errors
    /// [`Corrupt`](crate::Error::Corrupt) if it does not.
    pub(crate) fn chunk(
        &self,
        place: &ChunkPlace,
        scope: &Scope,
        decoder: &mut Decoder,
        room: &mut Vec<u8>,
        out: &mut [u8],
    ) -> Result<()> {
        let record = self.record(place, room)?;
        restore(record, self.seed, place, scope, decoder, out).map_err(|bad| bad.of(&self.path, place.offset))
    }

    /// Fills `value` from `at` on with the chunk at a place, as [`PackReader::chunk`] does. A chunk that is stored as
    /// it is is read in place, with its header over what precedes it in the value, which is put back: no byte is
    /// copied.
    ///
    /// # Errors
    /// Those of [`PackReader::chunk`].
    pub(crate) fn chunk_into(
        &self,
        place: &ChunkPlace,
        scope: &Scope,
        decoder: &mut Decoder,
        room: &mut Vec<u8>,
        value: &mut [u8],
        at: usize,
    ) -> Result<()> {
        let end = at.saturating_add(place.raw_len as usize);
        let from = at.checked_sub(RECORD_HEADER_LEN).filter(|_| place.stored_len == place.raw_len);
        let record = from.and_then(|from| value.get_mut(from..end)).filter(|_| place.is_possible());
        let Some(record) = record else {
            let out = value.get_mut(at..end).unwrap_or_default();
            return self.chunk(place, scope, decoder, room, out);
        };
        let mut before = [0; RECORD_HEADER_LEN];
        let (head, _) = record.split_at(RECORD_HEADER_LEN);
        before.copy_from_slice(head);
        let read = self.read(place.offset, record).and_then(|()| {
            let header = ChunkHeader::decode(record, self.seed, place.offset).map_err(BadChunk::corruption);
            let checked = header.and_then(|header| {
                check_place(&header, place)?;
                let chunk = record.get(RECORD_HEADER_LEN..).unwrap_or_default();
                let plain = header.codec == Codec::Raw && !header.has_origin;
                Ok(plain && scope.id(header.kind, chunk) == header.id)
            });
            checked.map_err(|bad| bad.of(&self.path, place.offset))
        });
        let (head, out) = record.split_at_mut(RECORD_HEADER_LEN);
        head.copy_from_slice(&before);
        // Compressed behind an origin to just this length, or damaged: the other way tells.
        if read? { Ok(()) } else { self.chunk(place, scope, decoder, room, out) }
    }

    /// Reads the chunk at a place and checks everything about it; `scope` returns the dedup scope of a number.
    ///
    /// # Errors
    /// [`Corrupt`](crate::Error::Corrupt) if a checksum or the hash does not hold.
    pub(crate) fn verify<'s>(
        &self,
        place: &ChunkPlace,
        scope: impl FnOnce(u32) -> Result<&'s Scope>,
        decoder: &mut Decoder,
        room: &mut Vec<u8>,
    ) -> Result<()> {
        let stored = self.stored(place, room)?;
        let scope = scope(stored.header.scope)?;
        self.chunk(place, scope, decoder, room, &mut vec![0; place.raw_len as usize])
    }

    /// Reads the chunk at a place as it is stored, for another pack.
    ///
    /// # Errors
    /// [`Corrupt`](crate::Error::Corrupt) if a checksum does not hold.
    pub(crate) fn stored(&self, place: &ChunkPlace, room: &mut Vec<u8>) -> Result<EncodedChunk> {
        let record = self.record(place, room)?;
        let read = ChunkHeader::decode(record, self.seed, place.offset).map_err(BadChunk::corruption);
        let stored = read.and_then(|header| {
            check_place(&header, place)?;
            EncodedChunk::of_record(header, record)
        });
        stored.map_err(|bad| bad.of(&self.path, place.offset))
    }

    /// Reads what the record at a place says of its chunk, not the chunk.
    ///
    /// # Errors
    /// [`Corrupt`](crate::Error::Corrupt) if its header is damaged.
    pub(crate) fn header(&self, place: &ChunkPlace) -> Result<ChunkHeader> {
        self.check_possible(place)?;
        let mut header = [0; RECORD_HEADER_LEN];
        self.read(place.offset, &mut header)?;
        let read = ChunkHeader::decode(&header, self.seed, place.offset).map_err(BadChunk::corruption);
        let read = read.and_then(|header| check_place(&header, place).map(|()| header));
        read.map_err(|bad| bad.of(&self.path, place.offset))
    }

    fn check_possible(&self, place: &ChunkPlace) -> Result<()> {
        if place.is_possible() {
            return Ok(());
        }
        Err(Corruption { offset: 0, what: "a chunk inside the pack" }.of(&self.path, place.offset))
    }

    fn record<'r>(&self, place: &ChunkPlace, room: &'r mut Vec<u8>) -> Result<&'r [u8]> {
        self.check_possible(place)?;
        let record = reused(room, place.record_len());
        self.read(place.offset, record)?;
        Ok(record)
    }
}

/// Returns the first bytes of a buffer that only grows: clearing it for each record would cost a pass over it.
fn reused(room: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if room.len() < len {
        room.resize(len, 0);
    }
    room.get_mut(..len).unwrap_or_default()
}

/// A sealed pack, open for reading.
#[derive(Debug)]
pub(crate) struct Pack {
    meta: PackMeta,
    reader: PackReader,
    /// Where the records end.
    table_at: u64,
    table_crc: u32,
}

impl Pack {
    /// Opens the pack that the manifest names.
    ///
    /// # Errors
    /// [`Corrupt`](crate::Error::Corrupt) if the file is not that pack, whole and sealed; [`Missing`] if there is none.
    ///
    /// [`Missing`]: crate::Error::Missing
    pub(crate) fn open(files: &Arc<Files>, meta: PackMeta) -> Result<Self> {
        let (pooled, path) = open(files, meta.number)?;
        let file = pooled.get().at("open", || path.clone())?;
        let wrong = |offset: u64, what: &'static str| Corruption { offset, what }.of(&path, 0);
        let len = file.len().at("read the length of", || path.clone())?;
        if len != meta.file_len || len < FIRST_RECORD + TAIL_LEN as u64 {
            return Err(wrong(0, "the length of the pack"));
        }
        let expected = Header { kind: FileKind::Pack, file_id: meta.file_id, number: meta.number };
        let mut head = [0; Header::LEN];
        file.read_at(0, &mut head).at("read", || path.clone())?;
        match Header::decode(&head, FileKind::Pack) {
            Ok(header) if header == expected => {}
            Ok(_) => return Err(wrong(8, "the id of this pack; another file has its name")),
            Err(bad) => return Err(bad.of(&path)),
        }
        let tail_at = len - TAIL_LEN as u64;
        let mut tail = [0; TAIL_LEN];
        file.read_at(tail_at, &mut tail).at("read", || path.clone())?;
        let (table_at, records, table_crc) = decode_tail(&tail, meta.file_id).map_err(|bad| bad.of(&path, tail_at))?;
        if records != meta.records || table_at.checked_add(table_len(records) as u64) != Some(tail_at) {
            return Err(wrong(tail_at, "the place of the table"));
        }
        let reader = PackReader { seed: expected.record_seed(), path, file: PackFile::Pooled(pooled) };
        Ok(Self { meta, reader, table_at, table_crc })
    }

    /// Returns what the manifest says of it.
    #[cfg(test)]
    pub(crate) fn meta(&self) -> &PackMeta {
        &self.meta
    }

    /// Returns what reads its records.
    pub(crate) fn reader(&self) -> &PackReader {
        &self.reader
    }

    /// Reads the table, ascending by id.
    ///
    /// # Errors
    /// [`Corrupt`](crate::Error::Corrupt) for a damaged table, or another one than the manifest names.
    pub(crate) fn lines(&self) -> Result<Vec<Line>> {
        let mut footer = vec![0; table_len(self.meta.records) + TAIL_LEN];
        self.reader.read(self.table_at, &mut footer)?;
        let wrong = |bad: Corruption| bad.of(&self.reader.path, self.table_at);
        if crc(&[&footer]) != self.meta.footer_digest {
            return Err(wrong(Corruption { offset: 0, what: "the table that the manifest names" }));
        }
        let table = footer.get(..footer.len() - TAIL_LEN).unwrap_or_default();
        decode_table(table, self.table_crc, self.table_at).map_err(wrong)
    }
}

/// Opens the file of a pack.
fn open(files: &Arc<Files>, number: FileNumber) -> Result<(ReadFile, PathBuf)> {
    let name = name::pack(number);
    let path = files.path().join(&name);
    match ReadFile::open(files, name) {
        Ok(file) => Ok((file, path)),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::Missing { path }),
        Err(error) => Err(Error::io("open", &path, error)),
    }
}

/// Fails if a record is not the one that its place names.
fn check_place(header: &ChunkHeader, place: &ChunkPlace) -> Result<(), Corruption> {
    let told = ChunkPlace { id: header.id, stored_len: header.stored_len, raw_len: header.raw_len, ..*place };
    if told == *place { Ok(()) } else { Err(Corruption { offset: 0, what: "the chunk that its place names" }) }
}

/// Fills `out` with the chunk of a record. The checksum of the payload is not looked at: the hash says
/// more.
fn restore(
    record: &[u8],
    seed: u32,
    place: &ChunkPlace,
    scope: &Scope,
    decoder: &mut Decoder,
    out: &mut [u8],
) -> Result<(), Corruption> {
    let header = ChunkHeader::decode(record, seed, place.offset).map_err(BadChunk::corruption)?;
    check_place(&header, place)?;
    let (payload, _) = header.stored(record)?;
    decoder.decode(header.codec, record.get(payload).unwrap_or_default(), out)?;
    if scope.id(header.kind, out) == header.id {
        return Ok(());
    }
    Err(Corruption { offset: RECORD_HEADER_LEN as u64, what: "a chunk that hashes to its id" })
}

/// Good records of a pack that has no table.
#[derive(Debug)]
pub(crate) struct Scanned {
    pub(crate) lines: Vec<Line>,
    /// Where the records before the first bad one end: how far the pack reaches.
    pub(crate) end: u64,
    pub(crate) reader: PackReader,
}

/// Bytes read at once by a scan.
const WINDOW_LEN: usize = 1 << 20;

/// A window that moves over a file.
struct Window<'f> {
    file: &'f dyn File,
    len: u64,
    at: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// Returns the bytes at an offset: as many as asked for, or up to the end of the file.
    fn get(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let end = offset.saturating_add(len as u64).min(self.len);
        if offset < self.at || end > self.at + self.bytes.len() as u64 {
            let wanted = len.max(WINDOW_LEN) as u64;
            let room = usize::try_from(self.len.saturating_sub(offset).min(wanted)).unwrap_or_default();
            self.bytes.resize(room, 0);
            self.at = offset;
            if room > 0 {
                self.file.read_at(offset, &mut self.bytes)?;
            }
        }
        let from = usize::try_from(offset - self.at).unwrap_or(usize::MAX);
        let rest = self.bytes.get(from..).unwrap_or_default();
        Ok(rest.get(..len).unwrap_or(rest))
    }
}

/// Reads a pack that no flush has sealed, as a crash left it. A header that never reached the disk means no record.
///
/// One damaged record costs its own chunk alone: a record behind it counts if header and payload are intact, at each
/// aligned offset. A chunk is what its name says, whatever is before it.
///
/// # Errors
/// If it cannot be read, is of a later release, or is longer than any pack.
pub(crate) fn scan(files: &Arc<Files>, number: FileNumber) -> Result<Scanned> {
    let (pooled, path) = open(files, number)?;
    let file = pooled.get().at("open", || path.clone())?;
    let len = file.len().at("read the length of", || path.clone())?;
    if len > PACK_LEN_MAX {
        return Err(Corruption { offset: 0, what: "a pack no longer than its places reach" }.of(&path, 0));
    }
    let mut window = Window { file: &*file, len, at: 0, bytes: Vec::new() };
    let head = window.get(0, Header::LEN).at("read", || path.clone())?;
    let seed = match Header::decode(head, FileKind::Pack) {
        Ok(header) if header.number == number => Some(header.record_seed()),
        Err(bad @ BadHeader::Newer(_)) => return Err(bad.of(&path)),
        Ok(_) | Err(BadHeader::Corrupt(_)) => None,
    };
    let (mut lines, mut at, mut end) = (Vec::new(), FIRST_RECORD, None);
    while let Some(seed) = seed.filter(|_| at < len) {
        let head = window.get(at, RECORD_HEADER_LEN).at("read", || path.clone())?;
        // Right behind a good record any header counts, also one that this release does not know.
        let wanted = end.is_none() || may_be_chunk(head);
        let header = match wanted.then(|| ChunkHeader::decode(head, seed, at)) {
            Some(Ok(header)) => header,
            Some(Err(BadChunk::Unknown(bad))) => return Err(bad.of(&path, at)),
            Some(Err(BadChunk::Corrupt(_))) | None => {
                end.get_or_insert(at);
                at += ALIGN as u64;
                continue;
            }
        };
        let record_len = header.record_len();
        let whole = usize::try_from(record_len).unwrap_or(usize::MAX);
        let record = window.get(at, whole).at("read", || path.clone())?;
        if record.len() == whole && header.payload(record).is_ok() {
            lines.push(Line::of(&header, at));
        } else {
            end.get_or_insert(at);
        }
        at += record_len;
    }
    let end = if seed.is_some() { end.unwrap_or(at) } else { 0 };
    Ok(Scanned { lines, end, reader: PackReader { seed: seed.unwrap_or(0), path, file: PackFile::Pooled(pooled) } })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::{
        base::{Error, Micros},
        chunk::{
            codec::Encoder,
            cut::CutPolicy,
            id::ChunkKind,
            recipe::{Recipe, decode_node},
            record::NewChunk,
            tree::RecipeBuilder,
        },
        env::{Env, Fault, Memory, Sim},
    };

    fn dir(env: &dyn Env) -> Arc<dyn Dir> {
        let dir = env.open_dir(Path::new("/db"), true).unwrap();
        dir.create_dir(name::PACKS).unwrap();
        dir
    }

    fn pool(dir: &Arc<dyn Dir>) -> Arc<Files> {
        Arc::new(Files::new(Arc::clone(dir), 100))
    }

    /// Reads a chunk, after what is in `out`.
    fn read_chunk(reader: &PackReader, line: &Line, scope: &Scope, out: &mut Vec<u8>) -> Result<()> {
        let mut chunk = vec![7; line.raw_len as usize];
        reader.chunk(&line.into(), scope, &mut Decoder::new()?, &mut vec![9; 77], &mut chunk)?;
        out.extend(chunk);
        Ok(())
    }

    fn noise(seed: usize, len: usize) -> Vec<u8> {
        crate::chunk::noise(seed as u64, len)
    }

    fn text(seed: usize, len: usize) -> Vec<u8> {
        noise(seed, len).iter().map(|byte| b'a' + byte % 4).collect()
    }

    /// Chunks of every nature: compressible or not, of one byte, of the greatest length, with an origin, a node.
    fn chunks() -> Vec<(ChunkKind, Vec<u8>, &'static str)> {
        let mut chunks = vec![
            (ChunkKind::Data, vec![7], ""),
            (ChunkKind::Data, noise(1, 1 << 20), ""),
            (ChunkKind::Data, text(2, 1 << 20), "a crawler"),
            (ChunkKind::Node, text(3, 9000), ""),
        ];
        chunks.extend((10..60).map(|seed| (ChunkKind::Data, text(seed, 500 + 37 * seed), "")));
        chunks.extend((60..110).map(|seed| (ChunkKind::Data, noise(seed, 700 + 13 * seed), "here")));
        chunks
    }

    fn encoded(scope: &Scope, encoder: &mut Encoder, kind: ChunkKind, chunk: &[u8], origin: &str) -> EncodedChunk {
        let chunk = NewChunk { kind, scope: 0, id: scope.id(kind, chunk), bytes: chunk, origin, time: Micros(7) };
        EncodedChunk::new(&chunk, |out| encoder.encode(chunk.bytes, out))
    }

    /// A pack of those chunks, and where each of them is.
    fn filled(dir: &dyn Dir, scope: &Scope) -> (PackWriter, Vec<Line>) {
        let mut encoder = Encoder::new(Some(1)).unwrap();
        let mut pack = PackWriter::create(dir, FileNumber(3), 77).unwrap();
        let append = |(kind, chunk, origin): &(ChunkKind, Vec<u8>, &str)| {
            pack.append(&encoded(scope, &mut encoder, *kind, chunk, origin)).unwrap()
        };
        let lines = chunks().iter().map(append).collect();
        (pack, lines)
    }

    #[test]
    fn every_chunk_of_a_pack_reads_back_while_it_is_written_and_once_it_is_sealed_in_every_scope() {
        for scope in [Scope::Open, Scope::keyed(&[1; 32], "tenant")] {
            let dir = dir(&Memory::new());
            let (mut writer, lines) = filled(&*dir, &scope);
            let meta = writer.seal().unwrap();
            assert_eq!(writer.seal().unwrap(), meta, "sealed once more after a flush that failed elsewhere");
            let raw: usize = chunks().iter().map(|(_, chunk, _)| chunk.len()).sum();
            assert_eq!((meta.records as usize, meta.raw_bytes), (lines.len(), raw as u64));
            assert!(meta.stored_bytes < meta.raw_bytes, "{meta:?}");
            let pack = Pack::open(&pool(&dir), meta).unwrap();
            assert_eq!(pack.meta(), &meta);
            let table = pack.lines().unwrap();
            let held = writer.reader();
            for reader in [&held, pack.reader()] {
                for ((kind, chunk, _), line) in chunks().iter().zip(&lines) {
                    let id = scope.id(*kind, chunk);
                    assert_eq!(table.iter().find(|line| line.id == id), Some(line));
                    let mut read = b"before".to_vec();
                    read_chunk(reader, line, &scope, &mut read).unwrap();
                    assert_eq!(read, [b"before", &chunk[..]].concat());
                    // In the middle of a value, whose other bytes stay as they are.
                    let mut value = vec![3; 200 + chunk.len()];
                    let (mut room, mut decoder) = (Vec::new(), Decoder::new().unwrap());
                    reader.chunk_into(&line.into(), &scope, &mut decoder, &mut room, &mut value, 100).unwrap();
                    assert_eq!(value, [&[3; 100][..], chunk, &[3; 100]].concat());
                    let other = Scope::keyed(&[2; 32], "tenant");
                    let told = reader.chunk_into(&line.into(), &other, &mut decoder, &mut room, &mut value, 100);
                    assert!(told.is_err() && value.starts_with(&[3; 100]) && value.ends_with(&[3; 100]));
                    // As it is stored it can go to another pack.
                    let stored = reader.stored(&line.into(), &mut Vec::new()).unwrap();
                    assert_eq!((stored.header.id, stored.header.raw_len as usize), (id, chunk.len()));
                }
                // Another scope has other ids for the same bytes.
                let other = Scope::keyed(&[2; 32], "tenant");
                let mut read = Vec::new();
                let refused = read_chunk(reader, &lines[0], &other, &mut read).unwrap_err();
                assert!(matches!(refused, Error::Corrupt { what, .. } if what.contains("hashes")), "{refused}");
                assert!(read.is_empty());
                // A place that is not the record's.
                for wrong in [
                    Line { offset: lines[0].offset + 8, ..lines[0] },
                    Line { offset: u64::MAX - 7, ..lines[0] },
                    Line { offset: 0, ..lines[0] },
                    Line { raw_len: 2, ..lines[0] },
                    Line { id: lines[1].id, ..lines[0] },
                    Line { stored_len: u32::MAX, ..lines[0] },
                ] {
                    assert!(read_chunk(reader, &wrong, &scope, &mut read).is_err(), "{wrong:?}");
                    assert!(reader.stored(&(&wrong).into(), &mut Vec::new()).is_err(), "{wrong:?}");
                }
            }
        }
    }

    /// L12: no damage is ever told as the chunk.
    #[test]
    fn of_a_pack_with_any_flipped_byte_each_chunk_is_right_or_an_error_and_most_are_right() {
        let env = Sim::new(1);
        let dir = dir(&env);
        let mut encoder = Encoder::new(Some(1)).unwrap();
        let mut writer = PackWriter::create(&*dir, FileNumber(3), 77).unwrap();
        let chunks: Vec<_> = (0..6).map(|seed| if seed % 2 == 0 { text(seed, 600) } else { noise(seed, 80) }).collect();
        let mut append = |chunk: &Vec<u8>| {
            writer.append(&encoded(&Scope::Open, &mut encoder, ChunkKind::Data, chunk, "here")).unwrap()
        };
        let lines: Vec<Line> = chunks.iter().map(&mut append).collect();
        let meta = writer.seal().unwrap();
        let path = Path::new("/db/packs/3.pack");
        let good = env.read_file(path).unwrap();
        let mut opened = 0u64;
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x41;
            env.write_file(path, bad);
            let Ok(pack) = Pack::open(&pool(&dir), meta) else { continue };
            opened += 1;
            let damaged = lines.iter().zip(&chunks).filter(|(line, chunk)| {
                let mut read = Vec::new();
                match read_chunk(pack.reader(), line, &Scope::Open, &mut read) {
                    Ok(()) => {
                        assert_eq!(read, **chunk, "byte {at}");
                        false
                    }
                    Err(error) => {
                        assert!(matches!(&error, Error::Corrupt { path, .. } if path.ends_with("3.pack")), "{error}");
                        true
                    }
                }
            });
            let damaged = damaged.count();
            assert!(damaged <= 1, "byte {at} damages {damaged} chunks");
            let in_records = (at as u64) < FIRST_RECORD + meta.stored_bytes;
            assert!(in_records || pack.lines().is_err(), "byte {at} of the table");
        }
        assert!(opened >= meta.stored_bytes, "{opened}");
        for len in 0..good.len() {
            env.write_file(path, good[..len].to_vec());
            assert!(Pack::open(&pool(&dir), meta).is_err(), "{len} bytes of a pack");
        }
    }

    #[test]
    fn a_pack_without_a_table_has_every_good_record_and_reaches_to_the_first_bad_one() {
        let env = Sim::new(1);
        let dir = dir(&env);
        let mut encoder = Encoder::new(Some(1)).unwrap();
        let mut writer = PackWriter::create(&*dir, FileNumber(3), 77).unwrap();
        let chunks: Vec<_> = (0..5).map(|seed| text(seed, 600 + 3 * seed)).collect();
        for chunk in &chunks {
            writer.append(&encoded(&Scope::Open, &mut encoder, ChunkKind::Data, chunk, "")).unwrap();
        }
        let path = Path::new("/db/packs/3.pack");
        assert!(
            scan(&pool(&dir), FileNumber(3)).unwrap().lines.is_empty(),
            "what is in the buffer alone does not count"
        );
        writer.write_out().unwrap();
        writer.file().sync().unwrap();
        let good = env.read_file(path).unwrap();
        let whole = scan(&pool(&dir), FileNumber(3)).unwrap();
        assert_eq!((whole.lines.as_slice(), whole.end), (writer.lines(), writer.end()));
        for (line, chunk) in whole.lines.iter().zip(&chunks) {
            let mut read = Vec::new();
            read_chunk(&whole.reader, line, &Scope::Open, &mut read).unwrap();
            assert_eq!(read, *chunk);
        }
        for len in 0..good.len() {
            // Cut, and cut with zeros behind, as reserved space reads.
            for zeros in [0, 100] {
                env.write_file(path, [&good[..len], &vec![0; zeros]].concat());
                let cut = scan(&pool(&dir), FileNumber(3)).unwrap();
                let before = whole.lines.iter().filter(|line| {
                    let end = line.offset + RECORD_HEADER_LEN as u64 + u64::from(line.stored_len);
                    end.next_multiple_of(8) <= len as u64 || zeros > 0 && end <= len as u64
                });
                let before = if len < Header::LEN { 0 } else { before.count() };
                assert_eq!(cut.lines, whole.lines[..before], "cut at {len} with {zeros} zeros behind");
            }
            let mut bad = good.clone();
            bad[len] ^= 0x41;
            env.write_file(path, bad);
            let read = scan(&pool(&dir), FileNumber(3)).unwrap();
            let end = |line: &Line| line.offset + RECORD_HEADER_LEN as u64 + u64::from(line.stored_len);
            let is_in = |line: &&Line| (line.offset..end(line)).contains(&(len as u64));
            let hit = whole.lines.iter().find(is_in);
            let good: Vec<Line> = whole.lines.iter().filter(|line| Some(*line) != hit).copied().collect();
            let good = if len < Header::LEN { Vec::new() } else { good };
            assert_eq!(read.lines, good, "byte {len}");
            let reaches = if len < Header::LEN { 0 } else { hit.map_or(whole.end, |line| line.offset) };
            assert_eq!(read.end, reaches, "byte {len}");
        }
        env.write_file(path, good);
        writer.seal().unwrap();
        let sealed = scan(&pool(&dir), FileNumber(3)).unwrap();
        assert_eq!((sealed.lines, sealed.end), (whole.lines, whole.end), "sealed, and not named when the power failed");
        assert!(matches!(scan(&pool(&dir), FileNumber(4)), Err(Error::Missing { .. })), "no such file");
    }

    /// L11 and the rules of full disks: whoever is refused has stored nothing, and the next attempt is whole.
    #[test]
    fn an_append_that_fails_at_any_call_stores_nothing_and_can_be_repeated() {
        for fault in [Fault::Eio, Fault::Enospc, Fault::ShortWrite] {
            let mut failed = 0;
            for call in 0..12 {
                let env = Sim::new(1);
                let dir = dir(&env);
                let mut writer = PackWriter::create(&*dir, FileNumber(3), 77).unwrap();
                let mut encoder = Encoder::new(None).unwrap();
                env.fail_at(env.calls() + call, fault);
                let mut lines = Vec::new();
                let chunks: Vec<_> = (0..8).map(|seed| noise(seed, 400_000)).collect();
                for chunk in &chunks {
                    let chunk = encoded(&Scope::Open, &mut encoder, ChunkKind::Data, chunk, "");
                    let (end, count) = (writer.end(), writer.lines().len());
                    let line = writer.append(&chunk).or_else(|_| {
                        failed += 1;
                        assert_eq!((writer.end(), writer.lines().len()), (end, count));
                        writer.append(&chunk)
                    });
                    lines.push(line.unwrap());
                }
                let meta = writer.seal().or_else(|_| {
                    failed += 1;
                    writer.seal()
                });
                let pack = Pack::open(&pool(&dir), meta.unwrap());
                let pack = pack.or_else(|_| Pack::open(&pool(&dir), writer.seal().unwrap())).unwrap();
                for (line, chunk) in lines.iter().zip(&chunks) {
                    let mut read = Vec::new();
                    let first = read_chunk(pack.reader(), line, &Scope::Open, &mut read);
                    if first.is_err() {
                        read_chunk(pack.reader(), line, &Scope::Open, &mut read).unwrap();
                    }
                    assert!(read == *chunk, "{fault:?} at call {call}");
                }
            }
            assert!(failed >= 3, "only {failed} calls failed");
        }
    }

    /// The way of a value into a pack and back, without an engine: equal chunks once.
    fn store(value: &[u8], chunking: CutPolicy, known: &mut HashMap<ChunkId, Line>, pack: &mut PackWriter) -> Recipe {
        let mut encoder = Encoder::new(Some(1)).unwrap();
        let mut put = |kind: ChunkKind, chunk: &[u8], known: &mut HashMap<ChunkId, Line>, pack: &mut PackWriter| {
            let id = Scope::Open.id(kind, chunk);
            known.entry(id).or_insert_with(|| {
                let chunk = NewChunk { kind, scope: 0, id, bytes: chunk, origin: "", time: Micros(7) };
                let chunk = EncodedChunk::new(&chunk, |out| encoder.encode(chunk.bytes, out));
                pack.append(&chunk).unwrap()
            });
            id
        };
        let mut builder = RecipeBuilder::new(chunking);
        let mut nodes = Vec::new();
        let mut node = |bytes: Vec<u8>| {
            let id = Scope::Open.id(ChunkKind::Node, &bytes);
            nodes.push(bytes);
            Ok(id)
        };
        let mut rest = value;
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at(chunking.cut(rest, true).unwrap());
            rest = behind;
            if chunk.iter().all(|byte| *byte == 0) {
                builder.zeros(chunk.len() as u64).unwrap();
            } else {
                let id = put(ChunkKind::Data, chunk, known, pack);
                builder.chunk(id, chunk.len() as u64, &mut node).unwrap();
            }
        }
        let recipe = builder.finish(String::new(), &mut node).unwrap();
        for node in nodes {
            put(ChunkKind::Node, &node, known, pack);
        }
        Recipe::decode(&recipe.encode()).unwrap()
    }

    fn load(recipe: &Recipe, known: &HashMap<ChunkId, Line>, pack: &Pack) -> Vec<u8> {
        let get = |id: &ChunkId| {
            let mut chunk = Vec::new();
            read_chunk(pack.reader(), &known[id], &Scope::Open, &mut chunk).unwrap();
            chunk
        };
        let mut references = recipe.references.clone();
        for height in (0..recipe.height).rev() {
            let mut below = Vec::new();
            for node in &references {
                below.extend(decode_node(&get(&node.id.unwrap()), height, node.len).unwrap());
            }
            references = below;
        }
        let mut value = Vec::new();
        for reference in &references {
            match &reference.id {
                Some(id) => value.extend(get(id)),
                None => value.resize(value.len() + usize::try_from(reference.len).unwrap(), 0),
            }
        }
        value
    }

    #[test]
    fn versions_of_a_value_go_through_a_pack_and_back_and_share_what_they_share() {
        let dir = dir(&Memory::new());
        let mut writer = PackWriter::create(&*dir, FileNumber(3), 77).unwrap();
        let mut known = HashMap::new();
        let mut value = [noise(1, 900_000), vec![0; 300_000], text(2, 900_000)].concat();
        let mut stored = Vec::new();
        for version in 0..5usize {
            let at = version * 411_113;
            value.splice(at..at, *b"inserted");
            for chunking in [CutPolicy::content_defined(2048), CutPolicy::fixed(65_536), CutPolicy::WHOLE] {
                let before = known.len();
                let recipe = store(&value, chunking, &mut known, &mut writer);
                let new = known.len() - before;
                if version > 0 && chunking == CutPolicy::content_defined(2048) {
                    assert!(new < 30, "{new} new chunks and nodes for eight bytes");
                }
                stored.push((recipe, value.clone()));
            }
        }
        let meta = writer.seal().unwrap();
        let pack = Pack::open(&pool(&dir), meta).unwrap();
        for (recipe, value) in &stored {
            assert!(load(recipe, &known, &pack) == *value, "{:?} of {} bytes", recipe.chunking, recipe.len);
        }
    }
}
