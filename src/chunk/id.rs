//! Ids of chunks and nodes: rules of `docs/format/chunking.md`.

use std::fmt::{self, Debug, Formatter};

use crate::base::ChunkId;

const NODE: &str = "chronolith 1 recipe node";
const SCOPE: &str = "chronolith 1 dedup scope";
const SCOPE_NODE: &str = "chronolith 1 dedup scope node";

/// What a record of a pack holds. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ChunkKind {
    /// Bytes of values.
    Data = 1,
    /// References of a recipe.
    Node = 2,
}

impl ChunkKind {
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        [Self::Data, Self::Node].into_iter().find(|kind| *kind as u8 == number)
    }
}

/// A dedup scope: within one, equal chunks have equal ids.
///
/// Ids of data and of nodes are of different domains: no bytes that a user stores are ever taken for a node.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The default: ids that anybody can compute.
    Open,
    /// Ids that nobody can compute without the secret of the database.
    Keyed { data: [u8; 32], node: [u8; 32] },
}

impl Debug for Scope {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "Open",
            Self::Keyed { .. } => "Keyed",
        })
    }
}

impl Scope {
    /// Returns the scope of a name in the database with this secret.
    pub(crate) fn keyed(secret: &[u8; 32], name: &str) -> Self {
        let material = [secret.as_slice(), name.as_bytes()].concat();
        Self::Keyed { data: blake3::derive_key(SCOPE, &material), node: blake3::derive_key(SCOPE_NODE, &material) }
    }

    /// Returns the id of a chunk or node.
    pub(crate) fn id(&self, kind: ChunkKind, bytes: &[u8]) -> ChunkId {
        ChunkId::from_bytes(match (self, kind) {
            (Self::Open, ChunkKind::Data) => blake3::hash(bytes).into(),
            (Self::Open, ChunkKind::Node) => blake3::derive_key(NODE, bytes),
            (Self::Keyed { data, .. }, ChunkKind::Data) => blake3::keyed_hash(data, bytes).into(),
            (Self::Keyed { node, .. }, ChunkKind::Node) => blake3::keyed_hash(node, bytes).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_chunk_is_what_b3sum_prints() {
        // The first vector that BLAKE3 publishes: of no bytes.
        let empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(Scope::Open.id(ChunkKind::Data, b"").to_string(), empty);
    }

    #[test]
    fn scopes_kinds_names_and_secrets_all_have_their_own_ids() {
        let scopes =
            [Scope::Open, Scope::keyed(&[1; 32], "a"), Scope::keyed(&[1; 32], "b"), Scope::keyed(&[2; 32], "a")];
        let mut ids = Vec::new();
        for scope in &scopes {
            ids.extend([ChunkKind::Data, ChunkKind::Node].map(|kind| scope.id(kind, b"the same bytes")));
        }
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count);
        assert_eq!(scopes[1], Scope::keyed(&[1; 32], "a"));
        assert_eq!(format!("{:?}", scopes[1]), "Keyed");
    }
}
