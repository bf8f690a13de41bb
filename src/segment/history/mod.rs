//! Reading segments of the history tier: superseded versions, each with the interval in which it was current.
//!
//! ```text
//!  ann  v5 [50,60) whole · v4 [40,50) difference · v3 [30,40) difference · …      as of 37: v3, from v5 and one difference
//! ```
//!
//! A point read finds the newest version of the key in the perfect-hash index, and walks down from there while the
//! wanted one is near; further down it searches with the fences, so that a read costs about the same however many
//! versions there are. A scan reads one version of each key: the one whose interval holds the moment.

mod as_of;
pub(super) mod delta;
mod lookup;
mod versions;

pub(crate) use as_of::AsOfCursor;
pub(crate) use lookup::{HistoryAnswer, HistoryVersion};
pub(crate) use versions::VersionCursor;
