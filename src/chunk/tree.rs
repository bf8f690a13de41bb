//! Gathers the references of a value into nodes, level by level, as they arrive.
//!
//! ```text
//!  root     ── list of at most 256 ──
//!  level 1    node        node     open        a node ends after a reference whose id has seven low zero bits,
//!  level 0   ▪▪▪▪▪▪▪   ▪▪▪▪▪▪▪▪▪   ▪▪▪▪        if it has at least 32 by then, and after 256 in any case
//! ```
//!
//! Nodes follow from content, as chunks do: a changed chunk changes a node or a few of each level, up to the next id
//! that ends one. What is open on each level is all that a writer still refers to by itself (its *frontier*): a
//! finished node is referenced one level up.

use super::{
    cut::CutPolicy,
    recipe::{HEIGHT_MAX, REFERENCES_MAX, Recipe, Reference, encode_node},
};
use crate::base::{ChunkId, Error, Result};

/// Minimum number of references in a node that content ends.
const REFERENCES_MIN: usize = 32;

/// Low bits of an id that are zero where a node ends: one id in 128.
const ENDING: u8 = 0x7f;

/// References of one level that are in no node yet.
#[derive(Clone, Debug, Default)]
struct Level {
    open: Vec<Reference>,
    /// Whether there were more than one list can hold, so that nodes are cut.
    cut: bool,
}

impl Level {
    /// Adds a reference and returns the nodes that this ends: none before the list is full, then perhaps several.
    fn push(&mut self, reference: Reference) -> Vec<Vec<Reference>> {
        self.open.push(reference);
        if !self.cut && self.open.len() > REFERENCES_MAX {
            self.cut = true;
            return self.nodes(0);
        }
        if self.cut { self.nodes(self.open.len() - 1) } else { Vec::new() }
    }

    /// Takes the finished nodes from the open references; none ends before the one numbered `from`.
    fn nodes(&mut self, from: usize) -> Vec<Vec<Reference>> {
        let mut nodes = Vec::new();
        let mut at = from;
        while let Some(reference) = self.open.get(at) {
            at += 1;
            let ends = reference.id.is_some_and(|id| id.as_bytes()[0] & ENDING == 0);
            if ends && at >= REFERENCES_MIN || at == REFERENCES_MAX {
                let rest = self.open.split_off(at);
                nodes.push(std::mem::replace(&mut self.open, rest));
                at = 0;
            }
        }
        nodes
    }
}

/// Stores a node and returns its id.
pub(crate) trait StoreNode: FnMut(Vec<u8>) -> Result<ChunkId> {}

impl<F: FnMut(Vec<u8>) -> Result<ChunkId>> StoreNode for F {}

/// The references of a value so far.
#[derive(Clone, Debug)]
pub(crate) struct RecipeBuilder {
    chunking: CutPolicy,
    levels: Vec<Level>,
    /// A hole that the next chunk may prolong.
    hole: u64,
    len: u64,
}

impl RecipeBuilder {
    pub(crate) fn new(chunking: CutPolicy) -> Self {
        Self { chunking, levels: Vec::new(), hole: 0, len: 0 }
    }

    /// Returns the length of the value so far.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Adds the next chunk of the value.
    ///
    /// # Errors
    /// Those of `store`, after which the builder is of no use; and if the value got longer than 64 bits can say.
    pub(crate) fn chunk(&mut self, id: ChunkId, len: u64, store: &mut impl StoreNode) -> Result<()> {
        self.end_hole(store)?;
        self.grow(len)?;
        self.push(0, Reference { id: Some(id), len }, store)
    }

    /// Adds zeros.
    ///
    /// # Errors
    /// If the value got longer than 64 bits can say (L12).
    pub(crate) fn zeros(&mut self, len: u64) -> Result<()> {
        self.grow(len)?;
        self.hole += len;
        Ok(())
    }

    fn grow(&mut self, len: u64) -> Result<()> {
        let grown = self.len.checked_add(len);
        self.len = grown.ok_or_else(|| Error::invalid("a value has at most 18446744073709551615 bytes"))?;
        Ok(())
    }

    /// Returns the references that are in no node yet: of each level as a recipe of its own.
    pub(crate) fn frontier(&self) -> Vec<Recipe> {
        let of_level = |(height, level): (u32, &Level)| Recipe {
            len: level.open.iter().map(|reference| reference.len).sum(),
            chunking: self.chunking,
            height,
            references: level.open.clone(),
            origin: String::new(),
        };
        (0..).zip(&self.levels).map(of_level).filter(|recipe| !recipe.references.is_empty()).collect()
    }

    /// Ends the value, which has at least one byte.
    ///
    /// # Errors
    /// Those of `store`.
    pub(crate) fn finish(mut self, origin: String, store: &mut impl StoreNode) -> Result<Recipe> {
        self.end_hole(store)?;
        let mut height = 0;
        // Every level that was cut is ended from below: what is left open becomes its last node.
        while self.levels.get(height).is_some_and(|level| level.cut) {
            let open = self.levels.get_mut(height).map(|level| std::mem::take(&mut level.open)).unwrap_or_default();
            if !open.is_empty() {
                self.store(height, &open, store)?;
            }
            height += 1;
        }
        let references = self.levels.get_mut(height).map(|level| std::mem::take(&mut level.open)).unwrap_or_default();
        assert!(!references.is_empty(), "a recipe of {} bytes without references", self.len);
        let height = u32::try_from(height).ok().filter(|height| *height <= HEIGHT_MAX);
        assert!(height.is_some(), "a recipe of {} bytes with more than {HEIGHT_MAX} levels", self.len);
        let (chunking, len) = (self.chunking, self.len);
        Ok(Recipe { len, chunking, height: height.unwrap_or_default(), references, origin })
    }

    fn end_hole(&mut self, store: &mut impl StoreNode) -> Result<()> {
        match std::mem::take(&mut self.hole) {
            0 => Ok(()),
            len => self.push(0, Reference { id: None, len }, store),
        }
    }

    fn push(&mut self, level: usize, reference: Reference, store: &mut impl StoreNode) -> Result<()> {
        if self.levels.len() <= level {
            self.levels.push(Level::default());
        }
        let nodes = self.levels.get_mut(level).map(|level| level.push(reference)).unwrap_or_default();
        nodes.iter().try_for_each(|node| self.store(level, node, store))
    }

    /// Stores a node of a level and refers to it from the next.
    fn store(&mut self, level: usize, node: &[Reference], store: &mut impl StoreNode) -> Result<()> {
        let len = node.iter().map(|reference| reference.len).sum();
        let id = store(encode_node(node, level))?;
        self.push(level + 1, Reference { id: Some(id), len }, store)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::chunk::{
        id::{ChunkKind, Scope},
        recipe::decode_node,
    };

    /// What was stored, by id.
    #[derive(Default)]
    struct Store(HashMap<ChunkId, Vec<u8>>);

    impl Store {
        fn node(&mut self) -> impl StoreNode {
            |bytes: Vec<u8>| {
                let id = Scope::Open.id(ChunkKind::Node, &bytes);
                self.0.insert(id, bytes);
                Ok(id)
            }
        }

        /// The references to chunks under a recipe.
        fn chunks(&self, recipe: &Recipe) -> Vec<Reference> {
            let mut references = recipe.references.clone();
            for height in (0..recipe.height).rev() {
                let node = |node: &Reference| decode_node(&self.0[&node.id.unwrap()], height, node.len).unwrap();
                references = references.iter().flat_map(node).collect();
            }
            references
        }
    }

    fn id(number: u64) -> ChunkId {
        Scope::Open.id(ChunkKind::Data, &number.to_le_bytes())
    }

    fn build(numbers: impl IntoIterator<Item = u64>, store: &mut Store) -> Recipe {
        let mut builder = RecipeBuilder::new(CutPolicy::AUTOMATIC);
        let mut node = store.node();
        for number in numbers {
            // Every seventh is a hole, in two halves.
            if number % 7 == 0 {
                builder.zeros(number + 1).unwrap();
                builder.zeros(1).unwrap();
            } else {
                builder.chunk(id(number), number % 1000 + 1, &mut node).unwrap();
            }
            assert!(builder.levels.iter().all(|level| level.open.len() <= REFERENCES_MAX));
            assert!(builder.frontier().len() <= builder.levels.len());
        }
        let len = builder.len();
        let recipe = builder.finish(String::new(), &mut node).unwrap();
        assert_eq!(recipe.len, len);
        recipe
    }

    #[test]
    fn every_reference_is_found_again_below_at_the_edges_and_far_above_one_list() {
        for count in [1, 2, 31, 32, 33, 255, 256, 257, 258, 300, 511, 512, 513, 5000, 100_000] {
            let mut store = Store::default();
            let recipe = build(1..=count, &mut store);
            let expected = (1..=count).map(|number| match number % 7 {
                0 => Reference { id: None, len: number + 2 },
                _ => Reference { id: Some(id(number)), len: number % 1000 + 1 },
            });
            assert!(store.chunks(&recipe).into_iter().eq(expected), "{count} references");
            assert_eq!(recipe.height == 0, count <= 256, "{count} references at height {}", recipe.height);
            assert_eq!(recipe.height == 0, store.0.is_empty(), "{count}: a list needs no node");
            assert_eq!(Recipe::decode(&recipe.encode()), Ok(recipe));
            for bytes in store.0.values() {
                assert!(bytes.len() <= 40 * REFERENCES_MAX + REFERENCES_MAX);
            }
        }
    }

    #[test]
    fn versions_that_differ_in_one_place_share_all_but_a_path_of_nodes() {
        let mut store = Store::default();
        let numbers: Vec<u64> = (1..100_000).collect();
        build(numbers.iter().copied(), &mut store);
        let before = store.0.len();
        for at in [0, 1, 31, 255, 256, 50_000, numbers.len() - 1] {
            let mut changed = numbers.clone();
            changed.insert(at, 1_000_003 + at as u64 * 7);
            let had = store.0.len();
            build(changed, &mut store);
            let new = store.0.len() - had;
            assert!(new <= 8, "{new} new nodes of {before} after an insertion at {at}");
        }
    }

    #[test]
    fn ids_that_never_or_always_end_a_node_stay_within_the_bounds() {
        for first in [0, 1] {
            let mut builder = RecipeBuilder::new(CutPolicy::AUTOMATIC);
            let mut lens = Vec::new();
            let mut node = |bytes: Vec<u8>| {
                lens.push(bytes.len() / 38);
                let mut id = *Scope::Open.id(ChunkKind::Node, &bytes).as_bytes();
                id[0] = first;
                Ok(ChunkId::from_bytes(id))
            };
            for number in 0..10_000u64 {
                let mut id = *id(number).as_bytes();
                id[0] = first;
                builder.chunk(ChunkId::from_bytes(id), 1, &mut node).unwrap();
            }
            let recipe = builder.finish(String::new(), &mut node).unwrap();
            assert_eq!(recipe.len, 10_000);
            let size = if first == 0 { REFERENCES_MIN } else { REFERENCES_MAX };
            assert!(lens[..20].iter().all(|len| *len == size), "{lens:?}");
        }
    }

    #[test]
    fn zeros_alone_are_one_reference_however_many() {
        let mut store = Store::default();
        let mut builder = RecipeBuilder::new(CutPolicy::AUTOMATIC);
        for _ in 0..10_000 {
            builder.zeros(8192).unwrap();
        }
        let recipe = builder.finish(String::new(), &mut store.node()).unwrap();
        assert_eq!(recipe.references, [Reference { id: None, len: 10_000 * 8192 }]);
        let mut builder = RecipeBuilder::new(CutPolicy::AUTOMATIC);
        builder.zeros(u64::MAX).unwrap();
        assert!(builder.zeros(1).is_err() && builder.chunk(id(1), 1, &mut store.node()).is_err());
    }

    #[test]
    fn a_node_that_cannot_be_stored_is_told() {
        let mut builder = RecipeBuilder::new(CutPolicy::AUTOMATIC);
        let mut full = |_: Vec<u8>| Err(Error::invalid("full"));
        let failed = (0..257).map(|number| builder.chunk(id(number), 1, &mut full)).position(|added| added.is_err());
        assert_eq!(failed, Some(256));
    }
}
