//! Protocol-buffer messages in the one canonical encoding of `docs/format/chunks.proto`, as they are read.

use crate::{base::Corruption, format::Reader};

/// Kinds of fields: the low three bits of a tag.
pub(super) const VARINT: u8 = 0;
pub(super) const BYTES: u8 = 2;

/// Reads the fields of a message, which ascend; a field may repeat where its reader lets it.
pub(super) struct Fields<'a> {
    reader: Reader<'a>,
    last: u8,
}

impl<'a> Fields<'a> {
    pub(super) fn new(reader: Reader<'a>) -> Self {
        Self { reader, last: 0 }
    }

    /// Returns the number and kind of the next field.
    pub(super) fn next(&mut self) -> Result<Option<(u8, u8)>, Corruption> {
        if self.reader.remaining() == 0 {
            return Ok(None);
        }
        let tag = self.reader.u8("tag of a field")?;
        let (number, kind) = (tag >> 3, tag & 7);
        if number < self.last {
            return Err(self.reader.corrupt("fields in ascending order"));
        }
        self.last = number;
        Ok(Some((number, kind)))
    }

    /// Returns the error for something else than `what` at this place.
    pub(super) fn corrupt(&self, what: &'static str) -> Corruption {
        self.reader.corrupt(what)
    }

    /// Reads a number that is not its default.
    pub(super) fn number(&mut self) -> Result<u64, Corruption> {
        match self.reader.varint("a number")? {
            0 => Err(self.reader.corrupt("a field that is left out if it is 0")),
            number => Ok(number),
        }
    }

    /// Reads bytes that are not empty.
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Corruption> {
        match self.reader.prefixed("bytes")? {
            [] => Err(self.reader.corrupt("a field that is left out if it is empty")),
            bytes => Ok(bytes),
        }
    }

    pub(super) fn message(&mut self) -> Result<Fields<'a>, Corruption> {
        Ok(Fields::new(Reader::new(self.bytes()?)))
    }
}

/// Fills a field that occurs once.
pub(super) fn once<T>(field: &mut Option<T>, value: T) -> Result<(), Corruption> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(Corruption { offset: 0, what: "a field that occurs once" }),
    }
}

pub(super) const UNKNOWN: Corruption = Corruption { offset: 0, what: "a field that this release knows" };
