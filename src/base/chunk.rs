//! Names of chunks.

use std::{
    fmt::{self, Debug, Display, Formatter},
    str::FromStr,
};

use super::{Error, Result};

/// Name of a chunk: the BLAKE3 hash of its bytes, in the default dedup scope what `b3sum` prints.
///
/// ```
/// use chronolith::ChunkId;
/// let text = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
/// let id: ChunkId = text.parse()?;
/// assert_eq!(id.to_string(), text);
/// # Ok::<_, chronolith::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId([u8; 32]);

impl ChunkId {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// Returns the id that these bytes are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Display for ChunkId {
    /// Prints 64 lower-case hexadecimal digits.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Debug for ChunkId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkId({self})")
    }
}

impl FromStr for ChunkId {
    type Err = Error;

    /// Parses 64 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self> {
        let digits = text.as_bytes();
        let mut bytes = [0; Self::LEN];
        let pairs = digits.chunks_exact(2);
        let whole = digits.len() == 2 * Self::LEN;
        let parsed = pairs.zip(&mut bytes).all(|(pair, byte)| {
            let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            let number = match pair {
                [high, low] => digit(*high).zip(digit(*low)).map(|(high, low)| high << 4 | low),
                _ => None,
            };
            number.map(|number| *byte = number).is_some()
        });
        if whole && parsed {
            return Ok(Self(bytes));
        }
        Err(Error::invalid(format!("\"{}\" is no chunk id: one has 64 hexadecimal digits", text.escape_debug())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_it_prints_and_other_text_is_refused() {
        let id = ChunkId::from_bytes(std::array::from_fn(|at| (at * 37).to_le_bytes()[0]));
        let text = id.to_string();
        assert_eq!(text.len(), 64);
        assert_eq!(text.parse::<ChunkId>().unwrap(), id);
        assert_eq!(text.to_uppercase().parse::<ChunkId>().unwrap(), id);
        for bad in [
            "",
            "0",
            text.trim_start_matches('0'),
            &format!("{text}00"),
            &text.replace('2', "g"),
            &text.replace("25", "é"),
        ] {
            assert!(bad.parse::<ChunkId>().is_err(), "{bad}");
        }
    }
}
