//! User keys and ranges of them.

use std::ops::{Bound, Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

/// Maximum length of a key, in bytes.
pub(crate) const KEY_LEN_MAX: usize = 65_536;

/// A range of keys: every range type of the standard library over anything that is bytes, and pairs of bounds.
///
/// `"a".."c"`, `"a"..="c"`, `"a"..`, `.."c"`, `..` and `(Bound::Excluded("a"), Bound::Unbounded)` are all ranges. A
/// range whose end lies before its start is empty. The trait is sealed.
pub trait KeyRange: sealed::Sealed {
    /// Returns the two ends.
    #[doc(hidden)]
    fn span(&self) -> KeySpan;
}

/// Keys from `start` (inclusive) to `end` (exclusive); without an end, to the end of the keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(unnameable_types, reason = "only the hidden method of a sealed trait names it outside")]
pub struct KeySpan {
    pub(crate) start: Vec<u8>,
    pub(crate) end: Option<Vec<u8>>,
}

impl KeySpan {
    /// Returns the span between two bounds. The key after `k` in byte order is `k` and a zero byte.
    fn new(start: Bound<&[u8]>, end: Bound<&[u8]>) -> Self {
        let after = |key: &[u8]| [key, &[0]].concat();
        Self {
            start: match start {
                Bound::Included(key) => key.to_vec(),
                Bound::Excluded(key) => after(key),
                Bound::Unbounded => Vec::new(),
            },
            end: match end {
                Bound::Included(key) => Some(after(key)),
                Bound::Excluded(key) => Some(key.to_vec()),
                Bound::Unbounded => None,
            },
        }
    }

    /// Returns the span of all keys that begin with `prefix`.
    pub(crate) fn prefix(prefix: &[u8]) -> Self {
        Self { start: prefix.to_vec(), end: prefix_end(prefix) }
    }

    pub(crate) fn holds(&self, key: &[u8]) -> bool {
        self.start.as_slice() <= key && self.end.as_deref().is_none_or(|end| key < end)
    }

    /// Returns whether two non-empty spans have a key in common.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let before = |end: &Option<Vec<u8>>, start: &[u8]| end.as_deref().is_some_and(|end| end <= start);
        !before(&self.end, &other.start) && !before(&other.end, &self.start)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }
}

/// Returns eight bytes of a key from `from`, as a number that compares as the bytes do; a shorter key is padded with
/// zeros.
#[inline]
pub(crate) fn head(key: &[u8], from: usize) -> u64 {
    let rest = key.get(from..).unwrap_or_default();
    match rest.first_chunk() {
        Some(eight) => u64::from_be_bytes(*eight),
        None => rest.iter().chain(std::iter::repeat(&0)).take(8).fold(0, |head, byte| head << 8 | u64::from(*byte)),
    }
}

/// Returns the first key after all keys that begin with `prefix`; `None` if there is none.
fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let keep = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut end = prefix.get(..=keep)?.to_vec();
    *end.last_mut()? += 1;
    Some(end)
}

mod sealed {
    #[expect(unnameable_types, reason = "a trait that cannot be named cannot be implemented")]
    pub trait Sealed {}
}

macro_rules! ranges {
    ($($range:ty, |$r:ident| $start:expr, $end:expr;)*) => {$(
        impl<K: AsRef<[u8]>> sealed::Sealed for $range {}
        impl<K: AsRef<[u8]>> KeyRange for $range {
            fn span(&self) -> KeySpan {
                let $r = self;
                KeySpan::new($start, $end)
            }
        }
    )*};
}

ranges! {
    Range<K>, |r| Bound::Included(r.start.as_ref()), Bound::Excluded(r.end.as_ref());
    RangeInclusive<K>, |r| Bound::Included(r.start().as_ref()), Bound::Included(r.end().as_ref());
    RangeFrom<K>, |r| Bound::Included(r.start.as_ref()), Bound::Unbounded;
    RangeTo<K>, |r| Bound::Unbounded, Bound::Excluded(r.end.as_ref());
    RangeToInclusive<K>, |r| Bound::Unbounded, Bound::Included(r.end.as_ref());
    (Bound<K>, Bound<K>), |r| r.0.as_ref().map(AsRef::as_ref), r.1.as_ref().map(AsRef::as_ref);
}

impl sealed::Sealed for RangeFull {}
impl KeyRange for RangeFull {
    fn span(&self) -> KeySpan {
        KeySpan::new(Bound::Unbounded, Bound::Unbounded)
    }
}

impl<R: sealed::Sealed> sealed::Sealed for &R {}
impl<R: KeyRange> KeyRange for &R {
    fn span(&self) -> KeySpan {
        (**self).span()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(range: &impl KeyRange, key: &str) -> bool {
        let span = range.span();
        span.start.as_slice() <= key.as_bytes() && span.end.is_none_or(|end| key.as_bytes() < end.as_slice())
    }

    #[test]
    fn every_range_type_holds_what_it_says() {
        assert!(holds(&("a".."c"), "a") && !holds(&("a".."c"), "c"));
        assert!(holds(&("a"..="c"), "c") && !holds(&("a"..="c"), "c\0"));
        assert!(holds(&("b"..), "zzz") && !holds(&("b"..), "a"));
        assert!(holds(&(.."b"), "") && !holds(&(.."b"), "b"));
        assert!(holds(&(..="b"), "b"));
        assert!(holds(&(..), "anything"));
        let open = (Bound::Excluded("a"), Bound::<&str>::Unbounded);
        assert!(!holds(&open, "a") && holds(&open, "a\0"));
        #[expect(clippy::reversed_empty_ranges, reason = "that is what is tested")]
        let inverted = 5..3;
        assert!(inverted.is_empty() && ("c".."a").span().is_empty());
    }

    #[test]
    fn a_prefix_ends_where_its_last_key_ends() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(b"\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }
}
