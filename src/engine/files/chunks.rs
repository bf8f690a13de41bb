//! The chunks that a superversion can read: where each is, and the packs that hold them (L6, L7 of `docs/chunks.md`).
//!
//! ```text
//!   id ▸ epochs of the memtables ▸ packs of a recovery ▸ keyspace 2 ▸ pack ▸ record ▸ chunk
//! ```

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{epoch::Epoch, reclaim::Reclaim, tree::Tree};
use crate::{
    base::{Bytes, ChunkId, Corruption, Error, FileNumber, Kind, PLACES, Result, Seqno},
    chunk::{
        cut::CHUNK_LEN_MAX,
        id::Scope,
        pack::{ChunkPlace, Pack, PackMeta, PackReader, Scanned, scan},
        record::{ChunkHeader, EncodedChunk, Line},
    },
    engine::{
        chunk_store::{ChunkStore, ReadRoom},
        context::Context,
        locks::LockOrder,
    },
    env::Dir,
    format::{Reader, Writer, name},
    manifest::Version,
    memtable::Memtable,
    merge::{Answer, Lookup, ReadAt, Tombstones},
    segment::{Entry, PointIndex, PointKey, Probe, Purpose, SegmentMeta, SegmentWriter},
};

/// A pack that the version names, opened when it is first read.
#[derive(Debug)]
pub(crate) struct PackHandle {
    pub(crate) meta: PackMeta,
    ctx: Arc<Context>,
    reclaim: Arc<Reclaim>,
    pack: OnceLock<Pack>,
    /// Its table, once it had to be asked where a chunk is.
    table: OnceLock<Vec<Line>>,
    /// Set when no version names it any more: its file is removed with the last reader.
    obsolete: AtomicBool,
}

impl PackHandle {
    /// Returns the pack, and opens it on first use.
    pub(crate) fn pack(&self) -> Result<&Pack> {
        if let Some(pack) = self.pack.get() {
            return Ok(pack);
        }
        // Two threads may open it at once; one of the two is kept.
        let pack = Pack::open(&self.ctx.pool, self.meta)?;
        Ok(self.pack.get_or_init(|| pack))
    }

    /// Returns the records of the pack, ascending by id. Where its table is damaged, the records tell the same, if all
    /// of them are good.
    pub(in crate::engine) fn lines(&self) -> Result<Vec<Line>> {
        match self.pack()?.lines() {
            Err(error) if damage(&error).is_some() => {
                let lines = self.scanned()?;
                if lines.len() == self.meta.records as usize { Ok(lines) } else { Err(error) }
            }
            lines => lines,
        }
    }

    /// Returns the records of the pack, ascending by id; where its table is damaged, those that are good. What they are
    /// numbered by then is not their place in the table: of such a pack nothing is copied and let go.
    pub(in crate::engine) fn good_lines(&self) -> Result<Vec<Line>> {
        match self.pack()?.lines() {
            Err(error) if damage(&error).is_some() => self.scanned(),
            lines => lines,
        }
    }

    /// Returns the good records of the pack, ascending by id.
    fn scanned(&self) -> Result<Vec<Line>> {
        let mut lines = scan(&self.ctx.pool, self.meta.number)?.lines;
        lines.sort_unstable_by_key(|line| line.id);
        lines.dedup_by_key(|line| line.id);
        Ok(lines)
    }

    /// Returns whether the record at a place is good.
    pub(in crate::engine) fn holds(&self, place: &ChunkPlace, room: &mut Vec<u8>) -> Result<bool> {
        match self.pack().and_then(|pack| pack.reader().stored(place, room)) {
            Err(error) if damage(&error).is_some() => Ok(false),
            stored => stored.map(|_| true),
        }
    }

    /// Looks a chunk up in the table of the pack, which stays in memory afterwards.
    fn search(&self, id: &ChunkId) -> Result<Option<(ChunkPlace, u32)>> {
        let table = if let Some(table) = self.table.get() {
            table
        } else {
            let table = self.good_lines()?;
            self.table.get_or_init(|| table)
        };
        let Ok(at) = table.binary_search_by_key(id, |line| line.id) else { return Ok(None) };
        Ok(table.get(at).map(|line| (line.into(), u32::try_from(at).unwrap_or(u32::MAX))))
    }
}

impl Drop for PackHandle {
    fn drop(&mut self) {
        if self.obsolete.load(Ordering::Acquire) {
            self.reclaim.add_unread_file(name::pack(self.meta.number));
        }
    }
}

/// Packs that a recovery found and that no version names. The flush of the oldest recovered memtable copies what they
/// hold (L4).
#[derive(Debug)]
pub(crate) struct RecoveredChunks {
    /// Log of the memtable that names the copy.
    pub(crate) log: FileNumber,
    places: HashMap<ChunkId, (usize, Line)>,
    packs: Vec<RecoveredPack>,
}

#[derive(Debug)]
struct RecoveredPack {
    number: FileNumber,
    reader: PackReader,
    /// Set with the last pack of a recovery that is not needed any more.
    reclaim: OnceLock<Arc<Reclaim>>,
}

impl Drop for RecoveredPack {
    fn drop(&mut self) {
        if let Some(reclaim) = self.reclaim.get() {
            reclaim.add_unread_file(name::pack(self.number));
        }
    }
}

impl RecoveredChunks {
    /// Returns what the packs hold, for the memtable of a log to copy.
    pub(in crate::engine) fn new(log: FileNumber, scanned: BTreeMap<FileNumber, Scanned>) -> Self {
        let (mut places, mut packs) = (HashMap::new(), Vec::new());
        for (number, Scanned { lines, reader, .. }) in scanned {
            places.extend(lines.into_iter().map(|line| (line.id, (packs.len(), line))));
            packs.push(RecoveredPack { number, reader, reclaim: OnceLock::new() });
        }
        Self { log, places, packs }
    }

    /// Has the files removed with the last reader.
    pub(super) fn mark_obsolete(&self, reclaim: &Arc<Reclaim>) {
        for pack in &self.packs {
            pack.reclaim.get_or_init(|| Arc::clone(reclaim));
        }
    }

    /// Returns the chunks, in the order of their packs and offsets, each with what reads it.
    pub(in crate::engine) fn chunks(&self) -> Vec<(&Line, &PackReader)> {
        let mut places: Vec<&(usize, Line)> = self.places.values().collect();
        places.sort_unstable_by_key(|(pack, line)| (*pack, line.offset));
        places.into_iter().filter_map(|(pack, line)| Some((line, &self.packs.get(*pack)?.reader))).collect()
    }
}

/// The chunks of one superversion.
#[derive(Clone, Debug)]
pub(crate) struct ChunkSet {
    pub(in crate::engine) store: Arc<ChunkStore>,
    /// Of the memtables, newest first: the active one's first.
    pub(in crate::engine) epochs: Vec<Arc<Epoch>>,
    pub(in crate::engine) recovered: Option<Arc<RecoveredChunks>>,
    places: Arc<Tree>,
    pub(in crate::engine) packs: Arc<BTreeMap<FileNumber, Arc<PackHandle>>>,
    /// By number; 0 is the default scope.
    scopes: Arc<[Scope]>,
    /// Names what holds a chunk that is nowhere.
    packs_path: PathBuf,
}

/// Where a chunk was found.
enum Found<'s> {
    Open(FileNumber, &'s PackReader, ChunkPlace),
    Named(&'s PackHandle, ChunkPlace),
}

impl<'s> Found<'s> {
    fn reader(&self) -> Result<&'s PackReader> {
        match *self {
            Self::Open(_, reader, _) => Ok(reader),
            Self::Named(handle, _) => Ok(handle.pack()?.reader()),
        }
    }

    fn place(&self) -> ChunkPlace {
        match self {
            Self::Open(_, _, place) | Self::Named(_, place) => *place,
        }
    }
}

/// Where a chunk is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredAt {
    /// The pack that holds it.
    pub(crate) pack: FileNumber,
    /// Whether the manifest names that pack, as it does from its flush on.
    pub(crate) is_named: bool,
    pub(crate) place: ChunkPlace,
}

impl ChunkSet {
    /// Returns the chunks of a database without any.
    pub(in crate::engine) fn new(store: &Arc<ChunkStore>, packs_path: PathBuf) -> Self {
        Self {
            store: Arc::clone(store),
            epochs: Vec::new(),
            recovered: None,
            places: Arc::default(),
            packs: Arc::default(),
            scopes: Arc::new([Scope::Open]),
            packs_path,
        }
    }

    /// Returns the chunks of no database.
    pub(super) fn none(order: LockOrder) -> Self {
        Self::new(&Arc::new(ChunkStore::new(order, 0)), PathBuf::new())
    }

    /// Returns the same epochs over another version. Packs that it no longer names are marked.
    pub(super) fn with_version(
        &self,
        version: &Version,
        before: &Version,
        places: Option<&Arc<Tree>>,
        ctx: &Arc<Context>,
        reclaim: &Arc<Reclaim>,
    ) -> Self {
        let mut next = self.clone();
        if let Some(places) = places {
            next.places = Arc::clone(places);
        }
        if !Arc::ptr_eq(&version.packs, &before.packs) {
            let handle = |(number, meta): (&FileNumber, &PackMeta)| {
                let known = self.packs.get(number).cloned();
                let handle = known.unwrap_or_else(|| {
                    Arc::new(PackHandle {
                        meta: *meta,
                        ctx: Arc::clone(ctx),
                        reclaim: Arc::clone(reclaim),
                        pack: OnceLock::new(),
                        table: OnceLock::new(),
                        obsolete: AtomicBool::new(false),
                    })
                });
                if let Some(epoch) = self.epochs.iter().find(|epoch| epoch.pack() == Some(*number)) {
                    epoch.keep(&handle);
                }
                (*number, handle)
            };
            next.packs = Arc::new(version.packs.iter().map(handle).collect());
            for (_, gone) in self.packs.iter().filter(|(number, _)| !version.packs.contains_key(number)) {
                gone.obsolete.store(true, Ordering::Release);
            }
        }
        if version.scopes.names.len() + 1 != self.scopes.len() {
            let secret = version.scopes.secret.unwrap_or_default();
            let named = version.scopes.names.iter().map(|name| Scope::keyed(&secret, name));
            next.scopes = std::iter::once(Scope::Open).chain(named).collect();
        }
        next
    }

    /// Removes the epoch of a memtable that was flushed, and what its flush copied.
    pub(super) fn remove_flushed(&mut self, flushed: &Memtable) {
        self.epochs.retain(|epoch| epoch.log() != flushed.log());
        if self.recovered.as_ref().is_some_and(|recovered| recovered.log == flushed.log()) {
            self.recovered = None;
        }
    }

    /// Returns the packs that no version names yet and that are needed all the same.
    pub(in crate::engine) fn unnamed_packs(&self) -> impl Iterator<Item = FileNumber> {
        let recovered = self.recovered.iter().flat_map(|recovered| recovered.packs.iter().map(|pack| pack.number));
        self.epochs.iter().filter_map(|epoch| epoch.pack()).chain(recovered)
    }

    /// Returns the dedup scope of a number.
    ///
    /// # Errors
    /// If the version has no such scope.
    pub(in crate::engine) fn scope(&self, number: u32) -> Result<&Scope> {
        let what = "a dedup scope that the manifest names";
        self.scopes.get(number as usize).ok_or_else(|| Corruption { offset: 0, what }.of(&self.packs_path, 0))
    }

    /// Finds a chunk that a committed recipe refers to. What a writer has appended since, and no file holds yet, does
    /// not count: the chunk stands where it stood before.
    fn find(&self, id: &ChunkId) -> Result<Option<Found<'_>>> {
        for epoch in &self.epochs {
            if let Some((line, (number, reader))) = epoch.written_place(id).zip(epoch.reader()) {
                return Ok(Some(Found::Open(number, reader, (&line).into())));
            }
        }
        let recovered = self.recovered.as_deref();
        let of_recovery =
            recovered.and_then(|all| all.places.get(id).and_then(|(pack, line)| Some((all.packs.get(*pack)?, line))));
        if let Some((pack, line)) = of_recovery {
            return Ok(Some(Found::Open(pack.number, &pack.reader, line.into())));
        }
        let Some((number, place, _)) = self.place(id)? else { return Ok(None) };
        Ok(self.packs.get(&number).map(|pack| Found::Named(pack, place)))
    }

    /// Looks an id up in the keyspace of places. Where that is damaged, the tables of the packs say the same, slowly.
    fn place(&self, id: &ChunkId) -> Result<Option<(FileNumber, ChunkPlace, u32)>> {
        match self.place_of(id) {
            Err(error) if damage(&error).is_some() => self.search(id),
            placed => placed,
        }
    }

    #[cold]
    fn search(&self, id: &ChunkId) -> Result<Option<(FileNumber, ChunkPlace, u32)>> {
        // The newest copy that is whole, as places that are made anew have it.
        let (mut room, mut found) = (Vec::new(), None);
        for (number, handle) in self.packs.iter().rev() {
            match handle.search(id) {
                Ok(Some((place, ordinal))) => {
                    let is_whole = handle.holds(&place, &mut room)?;
                    if is_whole {
                        return Ok(Some((*number, place, ordinal)));
                    }
                    found.get_or_insert((*number, place, ordinal));
                }
                Ok(None) => {}
                // Of a pack that cannot be opened nothing is known.
                Err(error) if damage(&error).is_some() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    fn place_of(&self, id: &ChunkId) -> Result<Option<(FileNumber, ChunkPlace, u32)>> {
        let mut key = PointKey::new(id.as_bytes());
        let mut lookup = Lookup::new(ReadAt::present(Seqno::MAX, None));
        for handle in self.places.holding(id.as_bytes()) {
            match handle.segment()?.get(&mut key, &mut lookup, &mut Probe::default())? {
                Some(Answer::Value(value)) => {
                    let wrong =
                        |bad: Corruption| bad.of(&self.packs_path.with_file_name(name::segment(handle.meta.number)), 0);
                    let (number, place, ordinal) = decode_place(*id, &value).map_err(wrong)?;
                    let is_there = |pack: &Arc<PackHandle>| ordinal < pack.meta.records;
                    if self.packs.get(&number).is_some_and(|pack| !is_there(pack)) {
                        return Err(wrong(Corruption { offset: 0, what: "the number of a record in its pack" }));
                    }
                    return Ok(Some((number, place, ordinal)));
                }
                Some(_) => return Ok(None),
                None => {}
            }
        }
        Ok(None)
    }

    /// Returns the pack that the version names and that holds a chunk, where it is there, and the number of its record.
    pub(in crate::engine) fn named(&self, id: &ChunkId) -> Result<Option<(FileNumber, ChunkPlace, u32)>> {
        Ok(self.place(id)?.filter(|(number, ..)| self.packs.contains_key(number)))
    }

    /// Returns whether a pack that the version names holds a chunk whole, and is not about to go.
    pub(in crate::engine) fn stands_named(&self, id: &ChunkId, room: &mut Vec<u8>) -> Result<bool> {
        let Some((number, place, _)) = self.place(id)? else { return Ok(false) };
        let handle = self.packs.get(&number).filter(|_| !self.store.is_condemned(number));
        // A sector that cannot be read is no reason to fail: the other copy may be good.
        Ok(handle.is_some_and(|handle| matches!(handle.holds(&place, room), Ok(true))))
    }

    /// Returns whether a pack that no version names holds a chunk.
    pub(in crate::engine) fn stands_unnamed(&self, id: &ChunkId) -> bool {
        let of_recovery = || self.recovered.as_ref().is_some_and(|recovered| recovered.places.contains_key(id));
        self.epochs.iter().any(|epoch| epoch.written_place(id).is_some()) || of_recovery()
    }

    /// Returns a chunk as it is stored in a pack that no version names; `None` if there is none such.
    pub(in crate::engine) fn unnamed(&self, id: &ChunkId, room: &mut Vec<u8>) -> Result<Option<EncodedChunk>> {
        match self.find(id)? {
            Some(Found::Open(_, reader, place)) => reader.stored(&place, room).map(Some),
            Some(Found::Named(..)) | None => Ok(None),
        }
    }

    /// Returns the segments of places.
    pub(in crate::engine) fn places(&self) -> &Arc<Tree> {
        &self.places
    }

    /// Returns what a writer has to know of a chunk: `None` if it is to be stored.
    pub(in crate::engine) fn known(&self, id: &ChunkId) -> Result<Option<StoredAt>> {
        for epoch in &self.epochs {
            if let Some((line, pack)) = epoch.place(id).zip(epoch.pack()) {
                return Ok(Some(StoredAt { pack, is_named: false, place: (&line).into() }));
            }
        }
        self.stored_at(id)
    }

    /// Returns what is known of a chunk that a committed recipe refers to; `None` if it is not stored.
    pub(in crate::engine) fn stored_at(&self, id: &ChunkId) -> Result<Option<StoredAt>> {
        Ok(self.find(id)?.map(|found| match found {
            Found::Open(pack, _, place) => StoredAt { pack, is_named: false, place },
            Found::Named(handle, place) => StoredAt { pack: handle.meta.number, is_named: true, place },
        }))
    }

    /// Writes to the files what writers have appended: from then on it can be read.
    pub(in crate::engine) fn write_out(&self) -> Result<()> {
        self.epochs.iter().try_for_each(|epoch| epoch.write_out())
    }

    /// Returns what the record of a chunk says of it; `None` if it is not stored. Its bytes are not read.
    pub(in crate::engine) fn header(&self, id: &ChunkId) -> Result<Option<ChunkHeader>> {
        self.find(id)?.map(|found| found.reader()?.header(&found.place())).transpose()
    }

    /// Returns a chunk as it is stored; `None` if it is not.
    pub(in crate::engine) fn record(&self, id: &ChunkId, room: &mut Vec<u8>) -> Result<Option<EncodedChunk>> {
        self.find(id)?.map(|found| found.reader()?.stored(&found.place(), room)).transpose()
    }

    /// Returns whether these are files with a pack, named or not.
    pub(in crate::engine) fn has_pack(&self, number: FileNumber) -> bool {
        self.packs.contains_key(&number) || self.unnamed_packs().any(|unnamed| unnamed == number)
    }

    /// Returns the ids of chunks in packs that no version names, as far as the files hold them.
    pub(in crate::engine) fn unnamed_ids(&self) -> Vec<ChunkId> {
        let recovered = self.recovered.iter().flat_map(|recovered| recovered.places.keys().copied());
        let of_epochs = self.epochs.iter().flat_map(|epoch| epoch.lines()).map(|line| line.id);
        of_epochs.filter(|id| self.stands_unnamed(id)).chain(recovered).collect()
    }

    /// Returns where packs are, to name what holds a chunk that is nowhere.
    pub(in crate::engine) fn path(&self) -> &Path {
        &self.packs_path
    }

    /// Returns the path of a pack.
    pub(in crate::engine) fn path_of(&self, pack: FileNumber) -> PathBuf {
        self.packs_path.with_file_name(name::pack(pack))
    }

    /// Fills `value` from `at` on with the chunk of an id, which is as long as this.
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt) or [`Missing`](Error::Missing), naming what should hold it.
    pub(in crate::engine) fn read(
        &self,
        id: &ChunkId,
        len: u64,
        scope: &Scope,
        room: &mut ReadRoom,
        (value, at): (&mut [u8], usize),
    ) -> Result<()> {
        let gone = |what| Corruption { offset: 0, what }.of(&self.packs_path, 0);
        let Some(found) = self.find(id)? else { return Err(gone("a place for the chunk")) };
        let (reader, place) = (found.reader()?, found.place());
        if u64::from(place.raw_len) != len || at.saturating_add(place.raw_len as usize) > value.len() {
            return Err(
                Corruption { offset: 0, what: "a chunk as long as its reference says" }.of(reader.path(), place.offset)
            );
        }
        let ReadRoom { decoder, room } = room;
        reader.chunk_into(&place, scope, decoder, room, value, at)
    }

    /// Returns the chunk of an id from the cache, or reads it into the cache.
    pub(in crate::engine) fn read_cached(
        &self,
        id: &ChunkId,
        len: u64,
        scope: &Scope,
        room: &mut ReadRoom,
    ) -> Result<Bytes> {
        if let Some(chunk) = self.store.cached(id).filter(|chunk| chunk.len() as u64 == len) {
            return Ok(chunk);
        }
        // A chunk of more is refused below.
        let mut out = vec![0; usize::try_from(len.min(CHUNK_LEN_MAX as u64)).unwrap_or_default()];
        self.read(id, len, scope, room, (&mut out, 0))?;
        let chunk = Bytes::from(out);
        self.store.cache(*id, &chunk);
        Ok(chunk)
    }

    /// Reads a node, whose length no reference says.
    pub(in crate::engine) fn read_node(&self, id: &ChunkId, scope: &Scope, room: &mut ReadRoom) -> Result<Bytes> {
        let facts = self.stored_at(id)?;
        let gone = || Corruption { offset: 0, what: "a place for the node" }.of(&self.packs_path, 0);
        let len = facts.ok_or_else(gone)?.place.raw_len;
        self.read_cached(id, u64::from(len), scope, room)
    }
}

/// Where a chunk is in a pack with a name.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct NamedPlace {
    pub(in crate::engine) place: ChunkPlace,
    pub(in crate::engine) pack: FileNumber,
    /// Number of its record in the table of the pack.
    pub(in crate::engine) ordinal: usize,
}

impl NamedPlace {
    /// Returns the places of a pack's records; `lines` are those of its table, ascending by id.
    pub(in crate::engine) fn of(pack: FileNumber, lines: &[Line]) -> impl Iterator<Item = Self> + '_ {
        lines.iter().enumerate().map(move |(ordinal, line)| Self { place: line.into(), pack, ordinal })
    }

    fn encode(&self, out: &mut Writer) {
        let ChunkPlace { offset, stored_len, raw_len, .. } = self.place;
        out.clear();
        out.varint(self.pack.0);
        out.varint(offset / 8);
        out.varint(u64::from(stored_len));
        out.varint(u64::from(raw_len));
        out.varint(self.ordinal as u64);
    }
}

/// Brings places into the order of their ids; of one id, that in the newest pack stays.
pub(in crate::engine) fn sort_places(places: &mut Vec<NamedPlace>) {
    places.sort_unstable_by_key(|place| (place.place.id, Reverse(place.pack)));
    places.dedup_by_key(|place| place.place.id);
}

/// Returns the pack that a place names; `None` if the bytes are no place.
pub(in crate::engine) fn pack_of_place(value: &[u8]) -> Option<FileNumber> {
    Reader::new(value).varint("pack of a chunk").ok().map(FileNumber)
}

fn decode_place(id: ChunkId, value: &[u8]) -> Result<(FileNumber, ChunkPlace, u32), Corruption> {
    let mut reader = Reader::new(value);
    let pack = FileNumber(reader.varint("pack of a chunk")?);
    let offset = reader.varint("place of a chunk")?.checked_mul(8).ok_or_else(|| reader.corrupt("place of a chunk"))?;
    let mut number = |what| u32::try_from(reader.varint(what)?).map_err(|_| Corruption { offset: 0, what });
    let (stored_len, raw_len) = (number("stored length")?, number("raw length")?);
    let ordinal = number("ordinal of a chunk")?;
    reader.finish("end of a place")?;
    Ok((pack, ChunkPlace { id, offset, stored_len, raw_len }, ordinal))
}

/// Returns whether an error says that a chunk is damaged or missing, and where.
pub(in crate::engine) fn damage(error: &Error) -> Option<(PathBuf, u64)> {
    match error {
        Error::Corrupt { path, offset, .. } => Some((path.clone(), *offset)),
        Error::Missing { path } => Some((path.clone(), 0)),
        _ => None,
    }
}

/// Writes a segment of places to `dir`, all at one seqno (L6); `places` ascend by id. `None` if there are none.
pub(in crate::engine) fn write_places(
    ctx: &Context,
    dir: &dyn Dir,
    number: FileNumber,
    seqno: Seqno,
    places: &[NamedPlace],
) -> Result<Option<SegmentMeta>> {
    if places.is_empty() {
        return Ok(None);
    }
    let purpose = Purpose {
        keyspace: PLACES,
        base: seqno,
        time_base: None,
        run: None,
        index: PointIndex::Auto,
        hash_seed: ctx.database_id,
    };
    let mut writer = SegmentWriter::create(dir, number, ctx.env.entropy(), purpose)?;
    let mut value = Writer::default();
    for place in places {
        place.encode(&mut value);
        writer.add(&Entry::new(Kind::Put, seqno), place.place.id.as_bytes(), value.bytes())?;
    }
    // Most ids that are looked up are new: filters let them pass.
    writer.finish(&Tombstones::default(), |_| true).map(Some)
}
