//! Recipes and nodes on disk: the protocol-buffer messages of `docs/format/chunks.proto`, in their one canonical
//! encoding. Whatever decodes encodes to the same bytes again.

use super::{
    cut::{CHUNK_LEN_MAX, CutPolicy},
    message::{BYTES, Fields, UNKNOWN, VARINT, once},
    record::ORIGIN_LEN_MAX,
};
use crate::{
    base::{ChunkId, Corruption},
    format::{Reader, Writer},
};

/// Maximum number of references in a recipe or node.
pub(crate) const REFERENCES_MAX: usize = 256;

/// Maximum number of levels of nodes. With 32 references in a node that is far above the longest value.
pub(crate) const HEIGHT_MAX: u32 = 8;

/// Forms: the first byte of an entry.
const FORM_LIST: u8 = 1;
const FORM_TREE: u8 = 2;

/// A piece of a value: a chunk or node, or a hole of zeros without an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) id: Option<ChunkId>,
    /// Bytes of the value.
    pub(crate) len: u64,
}

/// What an entry holds instead of a large value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recipe {
    /// Bytes of the value.
    pub(crate) len: u64,
    pub(crate) chunking: CutPolicy,
    /// Levels of nodes between the references and the chunks.
    pub(crate) height: u32,
    pub(crate) references: Vec<Reference>,
    /// Where the value came from.
    pub(crate) origin: String,
}

impl Reference {
    fn encode(&self, number: u8, out: &mut Writer) {
        let mut body = Writer::default();
        if let Some(id) = &self.id {
            body.u8(1 << 3 | BYTES);
            body.prefixed(id.as_bytes());
        }
        body.u8(2 << 3 | VARINT);
        body.varint(self.len);
        out.u8(number << 3 | BYTES);
        out.prefixed(body.bytes());
    }

    fn decode(mut fields: Fields<'_>) -> Result<Self, Corruption> {
        let (mut id, mut len) = (None, None);
        while let Some(field) = fields.next()? {
            match field {
                (1, BYTES) => {
                    let bytes = <[u8; ChunkId::LEN]>::try_from(fields.bytes()?);
                    let bytes = bytes.map_err(|_| fields.corrupt("an id of 32 bytes"))?;
                    once(&mut id, ChunkId::from_bytes(bytes))?;
                }
                (2, VARINT) => once(&mut len, fields.number()?)?,
                _ => return Err(UNKNOWN),
            }
        }
        let len = len.ok_or(Corruption { offset: 0, what: "the length of a reference" })?;
        Ok(Self { id, len })
    }
}

/// Checks references and returns the sum of their lengths; `height` is their distance from the chunks.
fn check(references: &[Reference], height: u32) -> Result<u64, Corruption> {
    let bad = |what| Err(Corruption { offset: 0, what });
    if references.is_empty() || references.len() > REFERENCES_MAX {
        return bad("1 to 256 references");
    }
    let mut sum = 0u64;
    let mut after_hole = false;
    for Reference { id, len } in references {
        match id {
            Some(_) if height == 0 && *len > CHUNK_LEN_MAX as u64 => return bad("a chunk of at most 1 MiB"),
            None if height > 0 => return bad("a node with an id"),
            None if after_hole => return bad("adjacent holes in one reference"),
            _ if *len == 0 => return bad("a reference to at least one byte"),
            Some(_) | None => {}
        }
        after_hole = id.is_none();
        let Some(total) = sum.checked_add(*len) else { return bad("a length that fits 64 bits") };
        sum = total;
    }
    Ok(sum)
}

/// Encodes a node whose references are `height` levels above the chunks.
pub(crate) fn encode_node(references: &[Reference], height: usize) -> Vec<u8> {
    let height = u32::try_from(height).unwrap_or(u32::MAX);
    assert!(check(references, height).is_ok(), "a node of {} references that is refused", references.len());
    let mut out = Writer::default();
    for reference in references {
        reference.encode(1, &mut out);
    }
    out.into_bytes()
}

/// Decodes a node whose references are `height` levels above the chunks and make up `len` bytes of a value.
pub(crate) fn decode_node(bytes: &[u8], height: u32, len: u64) -> Result<Vec<Reference>, Corruption> {
    let references = decode_references(bytes)?;
    if check(&references, height)? == len {
        return Ok(references);
    }
    Err(Corruption { offset: 0, what: "a node as long as its reference says" })
}

/// Checks that these bytes are a node, of whatever height.
pub(crate) fn check_node(bytes: &[u8]) -> Result<(), Corruption> {
    let references = decode_references(bytes)?;
    check(&references, 0).or_else(|_| check(&references, 1)).map(drop)
}

fn decode_references(bytes: &[u8]) -> Result<Vec<Reference>, Corruption> {
    let mut fields = Fields::new(Reader::new(bytes));
    let mut references = Vec::new();
    while let Some(field) = fields.next()? {
        match field {
            (1, BYTES) if references.len() < REFERENCES_MAX => references.push(Reference::decode(fields.message()?)?),
            (1, BYTES) => return Err(fields.corrupt("1 to 256 references")),
            _ => return Err(UNKNOWN),
        }
    }
    Ok(references)
}

/// Returns the length of the value that an entry's recipe tells, and nothing else of it; `None` if it is not the first
/// thing there.
pub(crate) fn value_len(value: &[u8]) -> Option<u64> {
    let mut reader = Reader::new(value);
    let _form = reader.u8("form of a recipe").ok()?;
    (reader.u8("field of a recipe").ok()? == 1 << 3 | VARINT).then(|| reader.varint("length of a value").ok())?
}

impl Recipe {
    /// Encodes the value of its entry; [`Recipe::decode`] is the exact inverse.
    pub(crate) fn encode(&self) -> Vec<u8> {
        assert!(
            check(&self.references, self.height) == Ok(self.len)
                && self.height <= HEIGHT_MAX
                && self.chunking.is_valid()
                && self.origin.len() <= ORIGIN_LEN_MAX,
            "a recipe of {} bytes at height {}, cut by {:?}, with an origin of {}, that its own reader would refuse",
            self.len,
            self.height,
            self.chunking,
            self.origin.len()
        );
        let mut out = Writer::default();
        out.u8(if self.height == 0 { FORM_LIST } else { FORM_TREE });
        out.u8(1 << 3 | VARINT);
        out.varint(self.len);
        let (policy, size) = self.chunking.numbers();
        let mut chunking = Writer::default();
        chunking.u8(1 << 3 | VARINT);
        chunking.varint(u64::from(policy));
        chunking.u8(2 << 3 | VARINT);
        chunking.varint(size);
        out.u8(2 << 3 | BYTES);
        out.prefixed(chunking.bytes());
        if self.height > 0 {
            out.u8(3 << 3 | VARINT);
            out.varint(u64::from(self.height));
        }
        for reference in &self.references {
            reference.encode(4, &mut out);
        }
        if !self.origin.is_empty() {
            out.u8(5 << 3 | BYTES);
            out.prefixed(self.origin.as_bytes());
        }
        out.into_bytes()
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Self, Corruption> {
        let mut reader = Reader::new(value);
        let form = reader.u8("form of a recipe")?;
        let mut fields = Fields::new(reader);
        let (mut len, mut chunking, mut height, mut origin) = (None, None, None, None);
        let mut references = Vec::new();
        while let Some(field) = fields.next()? {
            match field {
                (1, VARINT) => once(&mut len, fields.number()?)?,
                (2, BYTES) => once(&mut chunking, decode_chunking(fields.message()?)?)?,
                (3, VARINT) => {
                    let levels = u32::try_from(fields.number()?).ok().filter(|levels| *levels <= HEIGHT_MAX);
                    once(&mut height, levels.ok_or_else(|| fields.corrupt("a height of at most 8"))?)?;
                }
                (4, BYTES) if references.len() < REFERENCES_MAX => {
                    references.push(Reference::decode(fields.message()?)?);
                }
                (4, BYTES) => return Err(fields.corrupt("1 to 256 references")),
                (5, BYTES) => {
                    let text = std::str::from_utf8(fields.bytes()?).ok().filter(|text| text.len() <= ORIGIN_LEN_MAX);
                    let text = text.ok_or_else(|| fields.corrupt("an origin of at most 255 bytes"))?;
                    once(&mut origin, text.to_owned())?;
                }
                _ => return Err(UNKNOWN),
            }
        }
        let height = height.unwrap_or(0);
        if form != if height == 0 { FORM_LIST } else { FORM_TREE } {
            return Err(Corruption { offset: 0, what: "the form of a recipe" });
        }
        let chunking = chunking.ok_or(Corruption { offset: 0, what: "the chunking of a recipe" })?;
        let sum = check(&references, height)?;
        if len != Some(sum) {
            return Err(Corruption { offset: 0, what: "a value as long as its references" });
        }
        Ok(Self { len: sum, chunking, height, references, origin: origin.unwrap_or_default() })
    }
}

fn decode_chunking(mut fields: Fields<'_>) -> Result<CutPolicy, Corruption> {
    let (mut policy, mut size) = (None, None);
    while let Some(field) = fields.next()? {
        match field {
            (1, VARINT) => once(&mut policy, fields.number()?)?,
            (2, VARINT) => once(&mut size, fields.number()?)?,
            _ => return Err(UNKNOWN),
        }
    }
    CutPolicy::from_numbers(policy.unwrap_or(0), size.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(byte: u8, len: u64) -> Reference {
        Reference { id: Some(ChunkId::from_bytes([byte; 32])), len }
    }

    const fn hole(len: u64) -> Reference {
        Reference { id: None, len }
    }

    fn recipe(height: u32, references: Vec<Reference>) -> Recipe {
        let len = references.iter().map(|reference| reference.len).sum();
        Recipe { len, chunking: CutPolicy::AUTOMATIC, height, references, origin: String::new() }
    }

    #[test]
    fn recipes_and_nodes_read_back() {
        let many = || (0..=255).map(|byte| chunk(byte, u64::from(byte) + 1)).collect::<Vec<_>>();
        let named = Recipe { origin: "crawler 7".into(), ..recipe(0, vec![chunk(1, 5)]) };
        let recipes = [
            recipe(0, vec![chunk(1, 1 << 20)]),
            recipe(0, vec![hole(1 << 40)]),
            recipe(0, vec![chunk(1, 5), hole(7), chunk(2, 9), hole(1)]),
            recipe(0, many()),
            recipe(3, many()),
            recipe(8, vec![chunk(1, 1 << 50)]),
            named,
        ];
        for recipe in recipes {
            let bytes = recipe.encode();
            assert_eq!(Recipe::decode(&bytes), Ok(recipe.clone()));
            let node = encode_node(&recipe.references, recipe.height as usize);
            assert_eq!(decode_node(&node, recipe.height, recipe.len), Ok(recipe.references.clone()));
            assert!(decode_node(&node, recipe.height, recipe.len + 1).is_err());
        }
    }

    #[test]
    fn a_recipe_has_the_bytes_of_the_format() {
        let bytes = recipe(0, vec![chunk(0xab, 300), hole(2)]).encode();
        let id = [0xab; 32];
        let expected = [
            &[1, 0x08, 0xae, 0x02, 0x12, 6, 0x08, 2, 0x10, 0x80, 0x80, 0x01, 0x22, 37, 0x0a, 32][..],
            &id,
            &[0x10, 0xac, 0x02, 0x22, 2, 0x10, 2],
        ];
        assert_eq!(bytes, expected.concat());
    }

    #[test]
    fn whatever_decodes_encodes_to_the_same_bytes_and_every_cut_is_refused() {
        let mut state = 7u64;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let good = [
            Recipe { origin: "x".into(), ..recipe(0, vec![chunk(1, 5), hole(7), chunk(2, 300)]) }.encode(),
            recipe(2, vec![chunk(1, 5), chunk(2, 9)]).encode(),
        ];
        let mut decoded = 0;
        for bytes in &good {
            for len in 0..bytes.len() {
                // Cut behind the references a recipe lacks only its origin.
                if let Ok(recipe) = Recipe::decode(&bytes[..len]) {
                    assert_eq!(recipe.encode(), bytes[..len]);
                    assert!(recipe.origin.is_empty());
                }
            }
            for _ in 0..20_000 {
                let mut bad = bytes.clone();
                for _ in 0..=next(3) {
                    let at = next(bad.len());
                    match next(4) {
                        0 => bad[at] = next(256).to_le_bytes()[0],
                        1 => bad[at] ^= 1 << next(8),
                        2 => drop(bad.remove(at)),
                        _ => bad.insert(at, next(256).to_le_bytes()[0]),
                    }
                }
                if let Ok(recipe) = Recipe::decode(&bad) {
                    decoded += 1;
                    assert_eq!(recipe.encode(), bad);
                }
            }
        }
        assert!(decoded > 100, "only {decoded} mutations decode");
    }

    #[test]
    fn bombs_are_refused() {
        let overflow = [chunk(1, u64::MAX), chunk(1, 1)];
        assert!(check(&overflow, 1).is_err());
        assert!(check(&[chunk(1, (1 << 20) + 1)], 0).is_err());
        assert!(check(&[hole(1), hole(1)], 0).is_err());
        assert!(check(&[hole(1)], 1).is_err());
        assert!(check(&[], 0).is_err());
        assert!(check(&vec![chunk(1, 1); 257], 0).is_err());
        let high = [2, 0x08, 5, 0x12, 6, 0x08, 2, 0x10, 0x80, 0x80, 0x01, 0x18, 9];
        assert!(Recipe::decode(&high).unwrap_err().what.contains("height"));
    }
}
