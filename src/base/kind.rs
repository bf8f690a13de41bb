//! Kinds of entries. The numbers are on disk: none is ever changed or reused.

/// The kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A value. Since format 1.
    Put = 1,
    /// A tombstone: the key does not exist from here on. Since format 1.
    Delete = 2,
    /// A range tombstone: every key from the entry's key up to its value (exclusive). Since format 1.
    RangeDelete = 3,
    /// A value to be combined by a merge strategy. Since format 1.
    Operand = 4,
    /// A large value: the recipe that says which chunks make it up. Since format 1.
    Recipe = 5,
    /// Hides every older version of the key for good, also from views of the past. Since format 1.
    Purge = 6,
    /// A folded sum of 16 bytes. Since format 1.
    WideSum = 7,
    /// A purge of every key from the entry's key up to its value (exclusive). Since format 1.
    RangePurge = 8,
}

impl Kind {
    /// Returns the kind with this number on disk.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Put,
            2 => Self::Delete,
            3 => Self::RangeDelete,
            4 => Self::Operand,
            5 => Self::Recipe,
            6 => Self::Purge,
            7 => Self::WideSum,
            8 => Self::RangePurge,
            _ => return None,
        })
    }

    /// Returns its number on disk.
    pub(crate) fn number(self) -> u8 {
        self as u8
    }

    /// Returns whether it is a value as users put it: it expires, and is what a strategy without operands keeps.
    #[inline]
    pub(crate) fn is_value(self) -> bool {
        matches!(self, Self::Put | Self::Recipe)
    }

    /// Returns whether it deletes a range, with the end as its value.
    pub(crate) fn is_range(self) -> bool {
        matches!(self, Self::RangeDelete | Self::RangePurge)
    }

    /// Returns whether it hides older versions from views of the past too.
    pub(crate) fn purges(self) -> bool {
        matches!(self, Self::Purge | Self::RangePurge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_number() {
        let kinds: Vec<_> = (0..=255).filter_map(Kind::from_number).collect();
        assert_eq!(kinds.len(), 8);
        assert!(kinds.iter().all(|kind| Kind::from_number(kind.number()) == Some(*kind)));
    }
}
