//! Large values as streams, and what is known of them.

use std::{
    fmt,
    io::{self, Read, Seek, SeekFrom, Write},
    sync::Arc,
};

use super::Keyspace;
use crate::{
    base::{Error, Receipt, Result},
    engine::{
        Durability, Recipe, Running,
        read::ValueReader as Reading,
        write::{self, LargeWriter, Staged, StagedLarge},
    },
};

/// Options of one large value: see [`Keyspace::writer_with`].
#[derive(Clone, Debug, Default)]
#[must_use = "options do nothing until `writer_with`"]
pub struct WriteOptions {
    origin: String,
}

impl WriteOptions {
    /// Returns options with nothing set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets where the value comes from, in at most 255 bytes: [`Stat::origin`](crate::Stat::origin) returns it, and
    /// each chunk that this value is the first to store keeps it. A value stored inline, below
    /// [`chunk_threshold`](crate::KeyspaceOptions::chunk_threshold), has none.
    pub fn origin(mut self, origin: impl Into<String>) -> Self {
        self.origin = origin.into();
        self
    }
}

/// What a [`ValueWriter`] has stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Receipt of the commit. Under [`FirstWins`](crate::MergeStrategy::FirstWins) a key that has a value keeps it.
    pub receipt: Receipt,
    /// Length of the value.
    pub bytes: u64,
    /// Chunks of the value, stretches of zeros not counted; 0 for a value stored inline (below `chunk_threshold`).
    pub chunks: u64,
    /// Those that were not stored before.
    pub new_chunks: u64,
    /// Bytes of those, before compression.
    pub new_bytes: u64,
}

/// Writes a value of any length in bounded memory: see [`Keyspace::writer`].
///
/// The key is untouched until [`finish`](ValueWriter::finish). A writer that is dropped, or whose [`Write`] failed, has
/// written no value; the space of its chunks is reclaimed in the background, or by [`Db::compact`](crate::Db::compact).
/// After an error of your own
/// source, drop the writer or [`abort`](ValueWriter::abort): `finish` would commit what has arrived. If two writers
/// write one key, the last to finish wins.
///
/// A writer and a [`StagedValue`] keep the chunks that they refer to, and no others.
///
/// ```
/// # use chronolith::{env::Memory, KeyspaceOptions, Options};
/// # let db = Options::new().env(Memory::new()).open("my.db")?;
/// # let models = db.keyspace("models", KeyspaceOptions::new())?;
/// let mut writer = models.writer("model.bin")?;
/// std::io::copy(&mut std::io::repeat(7).take(1 << 20), &mut writer)?;
/// let stored = writer.finish()?;
/// assert_eq!((stored.bytes, models.stat("model.bin")?.unwrap().bytes), (1 << 20, 1 << 20));
/// assert!(stored.new_bytes < 1 << 16, "equal chunks are stored once");
/// # use std::io::Read;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a value is written by `finish`"]
pub struct ValueWriter {
    keyspace: Keyspace,
    key: Vec<u8>,
    writer: LargeWriter,
}

impl fmt::Debug for ValueWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ValueWriter(\"{}\" in {:?})", self.key.escape_ascii(), self.keyspace)
    }
}

impl ValueWriter {
    pub(super) fn new(keyspace: &Keyspace, key: &[u8], options: WriteOptions) -> Result<Self> {
        let writer = LargeWriter::begin(keyspace.engine(), keyspace.keyspace_ref(), key, options.origin)?;
        Ok(Self { keyspace: keyspace.clone(), key: key.to_vec(), writer })
    }

    /// Commits the value with the durability of the database.
    ///
    /// # Errors
    /// Those of [`Batch::commit`](crate::Batch::commit); [`Invalid`](Error::Invalid) after a failed write.
    pub fn finish(self) -> Result<Stored> {
        self.commit(None)
    }

    /// Commits the value with a durability of its own. For a value and its metadata in one commit see
    /// [`stage`](ValueWriter::stage).
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid), [`DiskFull`](Error::DiskFull) and others: see [`finish`](ValueWriter::finish).
    pub fn finish_with(self, durability: Durability) -> Result<Stored> {
        self.commit(Some(durability))
    }

    fn commit(self, durability: Option<Durability>) -> Result<Stored> {
        let Self { keyspace, key, writer } = self;
        let staged = writer.stage()?;
        let mut batch = Staged::default();
        batch.adopt(keyspace.keyspace_ref(), &key, &staged);
        let receipt = write::commit(keyspace.engine(), batch, durability)?;
        let StagedLarge { bytes, tally, .. } = staged;
        let (chunks, new_chunks, new_bytes) = (tally.chunks, tally.new_chunks, tally.new_bytes);
        Ok(Stored { receipt, bytes, chunks, new_chunks, new_bytes })
    }

    /// Stores the rest of the value without a key: [`Batch::adopt`](crate::Batch::adopt) commits it together with other
    /// writes. If it is dropped without being adopted, the value is discarded.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) after a failed write; [`DiskFull`](Error::DiskFull), [`Io`](Error::Io),
    /// [`Poisoned`](Error::Poisoned), [`Closed`](Error::Closed).
    pub fn stage(self) -> Result<StagedValue> {
        Ok(StagedValue::new(self.keyspace.owner(), self.writer.stage()?))
    }

    /// Ends without a value, as dropping does.
    pub fn abort(self) {}
}

impl Write for ValueWriter {
    /// Takes all bytes. An error holds an [`Error`] of this crate, and has the kind that fits it.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Write::write(&mut self.writer, buf)
    }

    /// Does nothing: chunks are stored as they fill, and the value counts from [`ValueWriter::finish`] on.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A value whose chunks are stored and that has no key yet: see [`ValueWriter::stage`].
#[must_use = "a staged value is written by `Batch::adopt`"]
pub struct StagedValue {
    owner: Arc<Running>,
    staged: StagedLarge,
}

impl fmt::Debug for StagedValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StagedValue({} bytes)", self.len())
    }
}

impl StagedValue {
    pub(super) fn new(owner: &Arc<Running>, staged: StagedLarge) -> Self {
        Self { owner: Arc::clone(owner), staged }
    }

    pub(super) fn belongs_to(&self, owner: &Arc<Running>) -> bool {
        Arc::ptr_eq(&self.owner, owner)
    }

    pub(super) fn staged(&self) -> &StagedLarge {
        &self.staged
    }

    /// Returns the length of the value.
    pub fn len(&self) -> u64 {
        self.staged.bytes
    }

    /// Returns whether the value is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the recipe of the value; `None` if it will be stored inline, which one of
    /// [`Chunks::put_stream`](crate::Chunks::put_stream) is only if it is empty. Its chunks stay while this is there.
    pub fn recipe(&self) -> Option<Recipe> {
        self.staged.recipe()
    }

    /// Returns the number of chunks of the value, as [`Stored::chunks`] counts them.
    pub fn chunks(&self) -> u64 {
        self.staged.tally.chunks
    }

    /// Returns the number of those that were not stored before.
    pub fn new_chunks(&self) -> u64 {
        self.staged.tally.new_chunks
    }

    /// Returns the bytes of those, before compression.
    pub fn new_bytes(&self) -> u64 {
        self.staged.tally.new_bytes
    }
}

/// Returns the error for a staged value of another database.
pub(super) fn foreign_value() -> Error {
    Error::invalid("the staged value was written through another `Db`; write it through this one")
}

/// Reads a value in pieces: see [`Keyspace::reader`]. It keeps the value that it was opened on, whatever is written to
/// the key afterwards; each chunk is verified against its hash.
///
/// ```
/// # use chronolith::{env::Memory, KeyspaceOptions, Options};
/// # use std::io::{Read, Seek, SeekFrom};
/// # let db = Options::new().env(Memory::new()).open("my.db")?;
/// # let models = db.keyspace("models", KeyspaceOptions::new())?;
/// models.put("model.bin", vec![7; 1 << 20])?;
/// let mut reader = models.reader("model.bin")?.unwrap();
/// reader.seek(SeekFrom::End(-2))?;
/// let mut end = Vec::new();
/// reader.read_to_end(&mut end)?;
/// assert_eq!(end, [7, 7]);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub struct ValueReader {
    /// Keeps the database open.
    _owner: Arc<Running>,
    reading: Reading,
}

impl fmt::Debug for ValueReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ValueReader(at {} of {})", self.reading.position(), self.len())
    }
}

impl ValueReader {
    pub(super) fn new(owner: &Arc<Running>, reading: Reading) -> Self {
        Self { _owner: Arc::clone(owner), reading }
    }

    /// Returns the length of the value.
    pub fn len(&self) -> u64 {
        self.reading.len()
    }

    /// Returns whether the value is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Read for ValueReader {
    /// Reads up to the end of a chunk. An error holds an [`Error`] of this crate, and has the kind that fits it; the
    /// call can be repeated.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.reading.read(buf)
    }
}

impl Seek for ValueReader {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        self.reading.seek(pos)
    }
}
