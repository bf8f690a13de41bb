//! The only place where bytes become numbers and numbers become bytes.

use crate::base::Corruption;

/// Maximum length of an encoded 64-bit varint.
const VARINT_MAX: usize = 10;

/// Reads fields from bytes that may be hostile.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Returns a reader that begins at `at`; past the end it reads nothing.
    #[inline]
    pub(crate) fn starting_at(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at: at.min(bytes.len()) }
    }

    #[inline]
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Reports that `what` was expected here.
    #[cold]
    pub(crate) fn corrupt(&self, what: &'static str) -> Corruption {
        Corruption { offset: self.at as u64, what }
    }

    #[inline]
    pub(crate) fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], Corruption> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.bytes.len());
        match end.and_then(|end| self.bytes.get(self.at..end)) {
            Some(taken) => {
                self.at += len;
                Ok(taken)
            }
            None => Err(self.corrupt(what)),
        }
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Corruption> {
        let taken = self.take(N, what)?;
        <[u8; N]>::try_from(taken).map_err(|_| self.corrupt(what))
    }

    #[inline]
    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, Corruption> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, Corruption> {
        self.array(what).map(u16::from_le_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, Corruption> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, Corruption> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// Reads a varint: seven bits a byte, low ones first, in as few bytes as it needs.
    #[inline]
    pub(crate) fn varint(&mut self, what: &'static str) -> Result<u64, Corruption> {
        if let Some(&byte) = self.bytes.get(self.at)
            && byte < 0x80
        {
            self.at += 1;
            return Ok(u64::from(byte));
        }
        self.long_varint(what)
    }

    /// Reads a varint of two or more bytes: up to eight at once if that many are left.
    #[inline]
    fn long_varint(&mut self, what: &'static str) -> Result<u64, Corruption> {
        let eight = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk).map(|eight| u64::from_le_bytes(*eight));
        let Some((word, stops)) =
            eight.map(|word| (word, !word & 0x8080_8080_8080_8080)).filter(|(_, stops)| *stops != 0)
        else {
            return self.varint_by_bytes(what);
        };
        // The bytes up to the last one, without their top bits, pushed together.
        let bits = stops.trailing_zeros();
        let bytes = word & (u64::MAX >> (63 - bits)) & 0x7f7f_7f7f_7f7f_7f7f;
        let pairs = bytes & 0x007f_007f_007f_007f | (bytes & 0x7f00_7f00_7f00_7f00) >> 1;
        let fours = pairs & 0x0000_3fff_0000_3fff | (pairs & 0x3fff_0000_3fff_0000) >> 2;
        let value = fours & 0x0fff_ffff | (fours & 0x0fff_ffff_0000_0000) >> 4;
        // One number, one encoding: if the last byte is zero, a shorter one exists.
        let last = (word >> (bits - 7)).to_le_bytes();
        if last.first().is_none_or(|last| last.trailing_zeros() >= 7) {
            return Err(self.corrupt(what));
        }
        self.at += (bits as usize).div_ceil(8);
        Ok(value)
    }

    #[cold]
    fn varint_by_bytes(&mut self, what: &'static str) -> Result<u64, Corruption> {
        let mut value = 0u64;
        for index in 0..VARINT_MAX {
            let byte = self.u8(what)?;
            let bits = u64::from(byte & 0x7f);
            let shift = 7 * u32::try_from(index).unwrap_or(0);
            if bits.leading_zeros() < shift {
                return Err(self.corrupt(what));
            }
            value |= bits << shift;
            if byte < 0x80 {
                // One number, one encoding: if the last byte is zero, a shorter one exists.
                let canonical = byte != 0 || index == 0;
                return if canonical { Ok(value) } else { Err(self.corrupt(what)) };
            }
        }
        Err(self.corrupt(what))
    }

    /// Reads a varint that counts bytes or things in memory.
    #[inline]
    pub(crate) fn length(&mut self, what: &'static str) -> Result<usize, Corruption> {
        let value = self.varint(what)?;
        usize::try_from(value).map_err(|_| self.corrupt(what))
    }

    /// Reads a fixed integer that counts bytes or things in memory.
    pub(crate) fn length_u64(&mut self, what: &'static str) -> Result<usize, Corruption> {
        let value = self.u64(what)?;
        usize::try_from(value).map_err(|_| self.corrupt(what))
    }

    /// Reads bytes that follow their length.
    pub(crate) fn prefixed(&mut self, what: &'static str) -> Result<&'a [u8], Corruption> {
        let len = self.length(what)?;
        self.take(len, what)
    }

    pub(crate) fn expect_u32(&mut self, expected: u32, what: &'static str) -> Result<(), Corruption> {
        let at = self.at;
        if self.u32(what)? == expected { Ok(()) } else { Err(Corruption { offset: at as u64, what }) }
    }

    /// Fails unless every byte was read.
    pub(crate) fn finish(&self, what: &'static str) -> Result<(), Corruption> {
        if self.remaining() == 0 { Ok(()) } else { Err(self.corrupt(what)) }
    }
}

/// Collects fields; the inverse of [`Reader`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Removes the first `count` bytes.
    pub(crate) fn remove_front(&mut self, count: usize) {
        self.bytes.drain(..count.min(self.bytes.len()));
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    #[inline]
    pub(crate) fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(low_byte(value) | 0x80);
            value >>= 7;
        }
        self.bytes.push(low_byte(value));
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn prefixed(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.raw(bytes);
    }

    /// Overwrites a number written at `at`.
    pub(crate) fn set_u16(&mut self, at: usize, value: u16) {
        if let Some(room) = self.bytes.get_mut(at..at + 2) {
            room.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Appends zeros up to a multiple of `align`.
    pub(crate) fn pad_to(&mut self, align: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(align), 0);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low byte is what is wanted")]
fn low_byte(value: u64) -> u8 {
    value as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_at_every_power_of_two_read_back() {
        for shift in 0..64 {
            for value in [(1u64 << shift) - 1, 1 << shift, (1 << shift) + 1] {
                let mut out = Writer::default();
                out.varint(value);
                let mut reader = Reader::new(out.bytes());
                assert_eq!(reader.varint("n"), Ok(value));
                assert_eq!(reader.finish("end"), Ok(()));
            }
        }
    }

    #[test]
    fn a_number_has_one_encoding_only() {
        for bytes in [[0x80, 0].as_slice(), &[0xff, 0x80, 0], &[0xff; 10], &[0xff; 11], &[0x80], &[]] {
            assert!(Reader::new(bytes).varint("n").is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_length_past_the_end_is_corruption_at_its_place() {
        let mut out = Writer::default();
        out.u8(9);
        out.varint(u64::MAX);
        let mut reader = Reader::new(out.bytes());
        assert_eq!(reader.u8("first"), Ok(9));
        assert!(reader.prefixed("name").is_err());
        assert_eq!(Reader::new(b"abc").take(4, "four"), Err(Corruption { offset: 0, what: "four" }));
    }
}
