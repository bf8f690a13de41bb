//! Questions between stores: which chunks are there already. Messages of `docs/format/exchange.md`.

use std::fmt;

use super::message::{BYTES, Fields, UNKNOWN, VARINT, once};
use crate::{
    base::{ChunkId, Corruption, Error, Result},
    format::{Reader, Writer},
};

/// A question: which of these chunks and nodes are stored? [`Chunks::answer`](crate::Chunks::answer) answers it. It
/// travels as a message that other languages read and write (`docs/format/exchange.md`).
///
/// ```
/// # use chronolith::{env::Memory, HaveYou, Have, Options};
/// # let db = Options::new().env(Memory::new()).open("my.db")?;
/// let lease = db.chunks().put("some bytes")?;
/// let absent = "0000000000000000000000000000000000000000000000000000000000000000".parse()?;
/// let question = HaveYou::new([lease.id(), absent])?;
/// let sent = question.encode();
///
/// let answer = db.chunks().answer(&HaveYou::decode(&sent)?)?;
/// let answer = Have::decode(&answer.encode())?;
/// assert_eq!(question.missing(&answer)?.collect::<Vec<_>>(), [absent]);
/// # Ok::<_, chronolith::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct HaveYou {
    ids: Vec<ChunkId>,
}

/// The answer to a [`HaveYou`]: a bit for each of its ids, in their order.
#[derive(Clone, PartialEq, Eq)]
pub struct Have {
    count: usize,
    bits: Vec<u8>,
}

impl fmt::Debug for HaveYou {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HaveYou({} ids)", self.ids.len())
    }
}

impl fmt::Debug for Have {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Have({} of {})", self.iter().filter(|has| *has).count(), self.count)
    }
}

impl HaveYou {
    /// Maximum number of ids in a question.
    pub const IDS_MAX: usize = 65_536;

    /// Asks for these ids, in this order.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for none and for more than [`IDS_MAX`](HaveYou::IDS_MAX): ask in several questions.
    pub fn new(ids: impl IntoIterator<Item = ChunkId>) -> Result<Self> {
        let ids: Vec<ChunkId> = ids.into_iter().take(Self::IDS_MAX + 1).collect();
        if ids.is_empty() || ids.len() > Self::IDS_MAX {
            let what = if ids.is_empty() { "not none" } else { "not more; ask in several questions" };
            return Err(Error::invalid(format!("a question has 1 to {} ids, {what}", Self::IDS_MAX)));
        }
        Ok(Self { ids })
    }

    /// Returns the ids.
    #[must_use]
    pub fn ids(&self) -> &[ChunkId] {
        &self.ids
    }

    /// Returns the bytes of the question.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u8(1 << 3 | BYTES);
        out.varint((self.ids.len() * ChunkId::LEN) as u64);
        for id in &self.ids {
            out.raw(id.as_bytes());
        }
        out.into_bytes()
    }

    /// Returns the question of these bytes.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for anything else than what [`encode`](HaveYou::encode) returns.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Self::read(bytes).map_err(|bad| refused("question", &bad))
    }

    fn read(bytes: &[u8]) -> Result<Self, Corruption> {
        let (mut fields, mut ids) = (Fields::new(Reader::new(bytes)), None);
        while let Some(field) = fields.next()? {
            match field {
                (1, BYTES) => once(&mut ids, fields.bytes()?)?,
                _ => return Err(UNKNOWN),
            }
        }
        let ids = ids.ok_or(Corruption { offset: 0, what: "at least one id" })?;
        let (ids, rest) = ids.as_chunks::<{ ChunkId::LEN }>();
        if !rest.is_empty() || ids.len() > Self::IDS_MAX {
            return Err(fields.corrupt("1 to 65,536 ids of 32 bytes"));
        }
        Ok(Self { ids: ids.iter().map(|id| ChunkId::from_bytes(*id)).collect() })
    }

    /// Iterates over the ids that an answer to this question says are not there.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for an answer to a question of another length.
    pub fn missing<'a>(&'a self, answer: &'a Have) -> Result<impl Iterator<Item = ChunkId> + use<'a>> {
        if answer.count != self.ids.len() {
            let (asked, answered) = (self.ids.len(), answer.count);
            return Err(Error::invalid(format!("the answer is to a question of {answered} ids, not of {asked}")));
        }
        Ok(self.ids.iter().zip(answer.iter()).filter(|(_, has)| !has).map(|(id, _)| *id))
    }
}

impl Have {
    /// Returns the answer with these bits, of which there are 1 to [`HaveYou::IDS_MAX`].
    pub(crate) fn new(has: &[bool]) -> Self {
        let byte = |bits: &[bool]| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
        Self { count: has.len(), bits: has.chunks(8).map(byte).collect() }
    }

    /// Iterates over the answers, in the order of the ids.
    pub fn iter(&self) -> impl Iterator<Item = bool> + '_ {
        let bit = |at: usize| self.bits.get(at / 8).is_some_and(|byte| byte & 1 << (at % 8) != 0);
        (0..self.count).map(bit)
    }

    /// Returns the number of ids that were asked for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Returns whether nothing was asked for, which no question does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the bytes of the answer.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u8(1 << 3 | VARINT);
        out.varint(self.count as u64);
        out.u8(2 << 3 | BYTES);
        out.prefixed(&self.bits);
        out.into_bytes()
    }

    /// Returns the answer of these bytes.
    ///
    /// # Errors
    /// [`Invalid`](Error::Invalid) for anything else than what [`encode`](Have::encode) returns.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Self::read(bytes).map_err(|bad| refused("answer", &bad))
    }

    fn read(bytes: &[u8]) -> Result<Self, Corruption> {
        let mut fields = Fields::new(Reader::new(bytes));
        let (mut count, mut bits) = (None, None);
        while let Some(field) = fields.next()? {
            match field {
                (1, VARINT) => once(&mut count, fields.number()?)?,
                (2, BYTES) => once(&mut bits, fields.bytes()?)?,
                _ => return Err(UNKNOWN),
            }
        }
        let count = count.and_then(|count| usize::try_from(count).ok()).filter(|count| *count <= HaveYou::IDS_MAX);
        let count = count.ok_or(Corruption { offset: 0, what: "an answer for 1 to 65,536 ids" })?;
        let bits: &[u8] = bits.unwrap_or_default();
        let unused = bits.last().map_or(0, |last| u32::from(*last) >> ((count - 1) % 8 + 1));
        if bits.len() != count.div_ceil(8) || unused != 0 {
            return Err(fields.corrupt("a bit for each id, and none beside"));
        }
        Ok(Self { count, bits: bits.to_vec() })
    }
}

#[cold]
fn refused(what: &str, bad: &Corruption) -> Error {
    let Corruption { offset, what: expected } = bad;
    Error::invalid(format!("this is no {what} about chunks: at byte {offset}, not {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::noise;

    fn ids(count: usize) -> Vec<ChunkId> {
        let id = |seed| ChunkId::from_bytes(noise(seed, 32).try_into().unwrap());
        (1..=count as u64).map(id).collect()
    }

    #[test]
    fn questions_and_answers_read_back_and_say_what_is_missing() {
        for count in [1, 7, 8, 9, 64, 1000, HaveYou::IDS_MAX] {
            let question = HaveYou::new(ids(count)).unwrap();
            assert_eq!(HaveYou::decode(&question.encode()).unwrap(), question);
            let has: Vec<bool> = (0..count).map(|at| at % 3 == 0).collect();
            let answer = Have::new(&has);
            assert_eq!(Have::decode(&answer.encode()).unwrap(), answer);
            assert_eq!((answer.len(), answer.iter().collect::<Vec<_>>()), (count, has));
            let missing: Vec<_> = question.missing(&answer).unwrap().collect();
            assert_eq!(missing.len(), count - count.div_ceil(3));
            assert!(missing.iter().all(|id| question.ids().contains(id)) || count > 1000);
            assert!(question.missing(&Have::new(&vec![true; count + 1])).is_err());
        }
        let one = ids(1)[0];
        let more = std::iter::repeat_n(one, HaveYou::IDS_MAX + 1);
        for refused in [HaveYou::new([]), HaveYou::new(more)] {
            assert!(refused.unwrap_err().to_string().contains("1 to 65536 ids"));
        }
    }

    #[test]
    fn whatever_decodes_encodes_to_the_same_bytes_and_no_byte_may_be_left_out() {
        let question = HaveYou::new(ids(3)).unwrap().encode();
        let answer = Have::new(&[true, false, true, true, false, false, false, false, true]).encode();
        let mut decoded = 0;
        for (good, is_question) in [(&question, true), (&answer, false)] {
            let again = |bytes: &[u8]| {
                if is_question {
                    HaveYou::decode(bytes).map(|read| read.encode())
                } else {
                    Have::decode(bytes).map(|read| read.encode())
                }
            };
            assert_eq!(again(good).unwrap(), *good);
            for len in 0..good.len() {
                assert!(again(&good[..len]).is_err(), "{len} bytes");
            }
            assert!(again(&[&good[..], &[0]].concat()).is_err() && again(&[&good[..], good].concat()).is_err());
            for at in 0..good.len() {
                for value in 0..=255 {
                    let mut bad = good.clone();
                    bad[at] = value;
                    if let Ok(read) = again(&bad) {
                        decoded += 1;
                        assert_eq!(read, bad);
                    }
                }
            }
        }
        assert!(decoded > 1000, "only {decoded} mutations decode");
    }
}
