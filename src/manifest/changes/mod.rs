//! Changes on disk: for each its tag, and its body's encoding beside the exact inverse.

pub(super) mod counters;
pub(super) mod keyspaces;
pub(super) mod logs;
pub(super) mod packs;
pub(super) mod pins;
pub(super) mod scopes;
pub(super) mod segments;
