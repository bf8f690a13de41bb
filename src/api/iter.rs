//! Iterators over ranges: double-ended, owned, with errors as items.

use std::{fmt, sync::Arc};

use super::View;
use crate::{
    base::{Bytes, Error, KeySpan, Result},
    engine::{
        KeyspaceRef,
        read::{Scan, assemble, equal},
    },
    merge::{Direction, Stored},
};

/// Iterates over the keys and values of a range, from either end. See [`Keyspace::range`](super::Keyspace::range).
///
/// A key whose value cannot be read (a sum that no `i64` holds, a damaged chunk, an error of a custom
/// [`Merge`](crate::Merge)) yields an error that names the key, and iteration continues after it. Any other error ends
/// it.
///
/// Each item is read in full, also by `count` and `skip`; [`keys`](Range::keys) reads no chunk of a large value.
#[must_use = "iterators are lazy"]
pub struct Range {
    view: View,
    keyspace: KeyspaceRef,
    span: KeySpan,
    front: Option<Scan>,
    back: Option<Scan>,
    /// Held while there is a scan.
    iterating: Option<Arc<()>>,
    /// Returned as the first item.
    wrong: Option<Error>,
    ended: bool,
    /// The last error was about one key.
    key_failed: bool,
}

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.span.end.as_ref().map(|end| end.escape_ascii().to_string());
        write!(f, "Range({:?}, {}..{})", self.view, self.span.start.escape_ascii(), end.unwrap_or_default())
    }
}

impl Range {
    pub(super) fn new(view: View, keyspace: KeyspaceRef, span: KeySpan, wrong: Option<Error>) -> Self {
        Self { view, keyspace, span, front: None, back: None, iterating: None, wrong, ended: false, key_failed: false }
    }

    /// Iterates over the keys alone.
    pub fn keys(self) -> RangeKeys {
        RangeKeys { range: self }
    }

    /// Steps at one end; returns `true` if that end stands at a key that the other has not passed.
    fn step(&mut self, direction: Direction) -> Result<bool> {
        if self.ended {
            return Ok(false);
        }
        let stepped = self.try_step(direction);
        match stepped {
            Ok(true) => {}
            Ok(false) => self.ended = true,
            Err(_) => self.ended = !std::mem::take(&mut self.key_failed),
        }
        stepped
    }

    fn try_step(&mut self, direction: Direction) -> Result<bool> {
        if let Some(wrong) = self.wrong.take() {
            return Err(wrong);
        }
        let core = self.view.core();
        core.engine().check_open()?;
        let (end, other) = match direction {
            Direction::Forward => (&mut self.front, &self.back),
            Direction::Backward => (&mut self.back, &self.front),
        };
        let scan = match end {
            Some(scan) => scan,
            None => match core.scan(&self.keyspace, self.span.clone(), direction)? {
                Some(scan) => {
                    self.iterating.get_or_insert_with(|| core.iterating());
                    end.insert(scan)
                }
                None => return Ok(false),
            },
        };
        let stepped = scan.step();
        if scan.has_ended() {
            return stepped;
        }
        let met = other.as_ref().is_some_and(|other| match direction {
            Direction::Forward => scan.key() >= other.key(),
            Direction::Backward => scan.key() <= other.key(),
        });
        match stepped {
            Err(error) if !met => {
                self.key_failed = true;
                Err(self.keyspace.of_key(scan.key(), error))
            }
            _ => Ok(!met),
        }
    }

    /// Returns the next key from the front, with its value as it is stored or the reason why that cannot be read.
    ///
    /// # Errors
    /// Errors that end the walk.
    pub(super) fn next_keyed(&mut self) -> Result<Option<(Bytes, Result<Stored>)>> {
        let stepped = self.step(Direction::Forward);
        let at = |scan: &Scan| Bytes::copy_from(scan.key());
        match stepped {
            Ok(false) => Ok(None),
            Ok(true) => Ok(self.front.as_ref().map(|scan| (at(scan), Ok(scan.stored())))),
            Err(error) if self.ended => Err(error),
            Err(error) => Ok(self.front.as_ref().map(|scan| (at(scan), Err(error)))),
        }
    }

    /// Returns the bytes of a value of this range.
    pub(super) fn assemble(&self, key: &[u8], stored: Option<Stored>) -> Result<Option<Bytes>> {
        let assembled = |stored| {
            // Told by the scan that read it: it is still there.
            let scan = self.front.as_ref().or(self.back.as_ref());
            scan.map(|scan| assemble(scan.chunks(), &self.keyspace, key, stored)).transpose()
        };
        Ok(stored.map(assembled).transpose()?.flatten())
    }

    /// Returns whether a value that this range has told equals one of another range. Chunks are read only where the two
    /// are cut differently.
    pub(super) fn is_equal(&self, key: &[u8], stored: &Stored, other: &Self, other_stored: &Stored) -> Result<bool> {
        let scans = self.front.as_ref().or(self.back.as_ref()).zip(other.front.as_ref().or(other.back.as_ref()));
        let Some((scan, other)) = scans else { return Ok(false) };
        let go_on = || self.view.core().engine().check_open();
        equal(&self.keyspace, key, (stored, scan.chunks()), (other_stored, other.chunks()), &go_on)
    }

    fn end(&self, direction: Direction) -> Option<&Scan> {
        match direction {
            Direction::Forward => self.front.as_ref(),
            Direction::Backward => self.back.as_ref(),
        }
    }

    #[inline]
    fn item<T>(&mut self, direction: Direction, of: impl FnOnce(&Scan) -> Result<T>) -> Option<Result<T>> {
        match self.step(direction) {
            // An error about this value leaves the others readable.
            Ok(true) => self.end(direction).map(of),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "an item of a walk")]
fn key(scan: &Scan) -> Result<Bytes> {
    Ok(Bytes::copy_from(scan.key()))
}

impl Iterator for Range {
    type Item = Result<(Bytes, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.item(Direction::Forward, Scan::item)
    }
}

impl DoubleEndedIterator for Range {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.item(Direction::Backward, Scan::item)
    }
}

impl std::iter::FusedIterator for Range {}

/// Iterates over the keys of a range, from either end: see [`Range::keys`]. Errors are items, as in [`Range`].
#[derive(Debug)]
#[must_use = "iterators are lazy"]
pub struct RangeKeys {
    range: Range,
}

impl Iterator for RangeKeys {
    type Item = Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        self.range.item(Direction::Forward, key)
    }
}

impl DoubleEndedIterator for RangeKeys {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.range.item(Direction::Backward, key)
    }
}

impl std::iter::FusedIterator for RangeKeys {}

/// A cursor over a range that lends keys and values: nothing is copied. See
/// [`Keyspace::cursor`](super::Keyspace::cursor).
///
/// ```
/// # use chronolith::{env::Memory, KeyspaceOptions, Options};
/// # let db = Options::new().env(Memory::new()).open("my.db")?;
/// # let users = db.keyspace("users", KeyspaceOptions::new())?;
/// # users.put("ann", "25")?;
/// let mut bytes = 0;
/// let mut cursor = users.cursor("a"..);
/// while let Some((key, value)) = cursor.next_ref()? {
///     bytes += key.len() + value.len();
/// }
/// # assert_eq!(bytes, 5);
/// # Ok::<_, chronolith::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "cursors are lazy"]
pub struct Cursor {
    range: Range,
}

impl Cursor {
    pub(super) fn new(range: Range) -> Self {
        Self { range }
    }

    /// Steps forward and lends the next key and value until the next call; `None` at the end.
    ///
    /// # Errors
    /// [`Corrupt`](Error::Corrupt), [`Io`](Error::Io), [`Closed`](Error::Closed) and others: see [`View::get`]. After
    /// an error about the value of one key the next call continues with the next key; any other error ends the walk.
    pub fn next_ref(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        let stepped = self.range.step(Direction::Forward)?;
        match self.range.front.as_mut().filter(|_| stepped) {
            Some(scan) => scan.item_ref().map(Some),
            None => Ok(None),
        }
    }
}
