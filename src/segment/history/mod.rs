//! Reading segments of the history tier: versions that were superseded, each with the interval in which it was the
//! truth.
//!
//! ```text
//!  ann  v5 [50,60) whole · v4 [40,50) difference · v3 [30,40) difference · …      as of 37: v3, out of v5 and two differences
//! ```
//!
//! A point read goes by the perfect-hash index to the newest version of the key, and down from there while that is
//! near; further down it searches by fences, so that a read costs about the same however many versions there are. A
//! scan meets one version of each key: the one whose interval holds the moment.

mod as_of;
pub(super) mod delta;
mod lookup;
mod versions;

pub(crate) use as_of::AsOfCursor;
pub(crate) use lookup::{HistoryAnswer, HistoryVersion};
pub(crate) use versions::VersionCursor;
