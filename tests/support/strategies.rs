//! What several writes of a key mean: the built-in merge strategies and some of the user's own, worked out the slow
//! way, from all values that count.

use chronolith::{Error, Merge, MergeStrategy};

/// A merge strategy, as the tests model it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Strategy {
    LastWins,
    FirstWins,
    Sum,
    Append,
    ErrorOnDuplicate,
    /// The user's own: one behind the other, with this between them.
    Joined(&'static str),
    /// The user's own: the first and the last byte of all.
    Ends,
    /// The user's own: one behind the other, but not with what holds a `!`, and not longer than this: then it fails.
    /// Whether it does, does not depend on the grouping.
    Fragile(usize),
    /// The user's own: the longest, of several the oldest.
    Longest,
}

impl Strategy {
    /// Whether it is the user's own.
    pub(crate) fn is_custom(self) -> bool {
        matches!(self, Self::Joined(_) | Self::Ends | Self::Fragile(_) | Self::Longest)
    }

    /// Whether operands are kept and folded.
    pub(crate) fn folds(self) -> bool {
        self.is_custom() || matches!(self, Self::Sum | Self::Append)
    }

    /// Whether a write depends on what is there.
    pub(crate) fn decides(self) -> bool {
        matches!(self, Self::FirstWins | Self::ErrorOnDuplicate)
    }

    /// The strategy as a keyspace is given it.
    pub(crate) fn option(self) -> MergeStrategy {
        match self {
            Self::LastWins => MergeStrategy::LastWins,
            Self::FirstWins => MergeStrategy::FirstWins,
            Self::Sum => MergeStrategy::Sum,
            Self::Append => MergeStrategy::Append,
            Self::ErrorOnDuplicate => MergeStrategy::ErrorOnDuplicate,
            Self::Joined(_) => MergeStrategy::custom("joined", Custom(self)),
            Self::Ends => MergeStrategy::custom("ends", Custom(self)),
            Self::Fragile(_) => MergeStrategy::custom("fragile", Custom(self)),
            Self::Longest => MergeStrategy::custom("longest", Custom(self)),
        }
    }

    /// The value that the writes of a key amount to, oldest first, with no delete and no later put among them; `None`
    /// where they cannot be combined.
    pub(crate) fn fold<V: AsRef<[u8]>>(self, values: impl IntoIterator<Item = V>) -> Option<Vec<u8>> {
        let mut values = values.into_iter();
        let owned = |value: V| value.as_ref().to_vec();
        match self {
            Self::LastWins => values.last().map(owned),
            Self::FirstWins => values.next().map(owned),
            Self::ErrorOnDuplicate => values.next().map(owned).filter(|_| values.next().is_none()),
            Self::Sum => {
                let number = |value: V| Some(i128::from(i64::from_le_bytes(value.as_ref().try_into().ok()?)));
                let sum = values.try_fold(0, |sum: i128, value| Some(sum + number(value)?))?;
                Some(i64::try_from(sum).ok()?.to_le_bytes().to_vec())
            }
            Self::Append => Some(values.flat_map(|item| listed(item.as_ref())).collect()),
            Self::Joined(_) | Self::Ends | Self::Fragile(_) | Self::Longest => {
                let first = values.next().map(owned)?;
                values.try_fold(first, |older, newer| self.combine(&older, newer.as_ref()))
            }
        }
    }

    /// The value that an operand leads to, behind a value as it is read.
    pub(crate) fn add(self, value: &[u8], operand: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Append => Some([value, &listed(operand)].concat()),
            _ => self.fold([value, operand]),
        }
    }

    /// What the user's own strategies make of two values; `None` where they fail.
    fn combine(self, older: &[u8], newer: &[u8]) -> Option<Vec<u8>> {
        let between = if let Self::Joined(between) = self { between.as_bytes() } else { b"" };
        let both = [older, between, newer].concat();
        match self {
            Self::Ends => match both.as_slice() {
                [first, .., last] => Some(vec![*first, *last]),
                _ => Some(both),
            },
            Self::Fragile(len_max) if both.contains(&b'!') || both.len() > len_max => None,
            Self::Longest => Some(if newer.len() > older.len() { newer } else { older }.to_vec()),
            _ => Some(both),
        }
    }
}

/// An item of an appended list: its length in groups of seven bits, lowest first, and its bytes.
fn listed(item: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut len = item.len();
    while len >= 128 {
        out.push(u8::try_from(len % 128).unwrap_or(0) | 128);
        len /= 128;
    }
    out.push(u8::try_from(len).unwrap_or(0));
    out.extend_from_slice(item);
    out
}

/// A strategy of the user's own, as the database calls it.
pub(crate) struct Custom(pub(crate) Strategy);

impl Merge for Custom {
    fn merge(&self, key: &[u8], older: &[u8], newer: &[u8]) -> chronolith::Result<Vec<u8>> {
        let fails = || Error::Invalid { what: format!("cannot combine what is under \"{}\"", key.escape_ascii()) };
        self.0.combine(older, newer).ok_or_else(fails)
    }
}
