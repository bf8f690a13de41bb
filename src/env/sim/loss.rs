//! Losses at a power cut, among operations that were not synced.

/// Fate of unsynced operations at a power cut. Synced ones survive any of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Loss {
    /// Everything survives, as if all of it had been synced.
    Nothing,
    /// No such operation survives: each file has the contents, and each directory the names, of its last sync.
    Everything,
    /// Operations survive up to a drawn moment, in order of time across the whole machine.
    Prefix,
    /// Each operation is kept or lost independently, and a write may tear: each of its sectors holds the new bytes, the
    /// old ones, zeros or noise. The length of a file may be the old one, the new one, or one in between.
    Torn,
    /// All names survive, no bytes do: as on file systems where syncing a file makes its name durable too.
    NamesKept,
    /// All bytes survive, no names do.
    DataOnly,
}

impl Loss {
    /// Every kind of loss, for tests that try them all.
    pub const ALL: [Self; 6] =
        [Self::Nothing, Self::Everything, Self::Prefix, Self::Torn, Self::NamesKept, Self::DataOnly];
}
