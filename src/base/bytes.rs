//! Shared bytes that are cheap to clone: the form in which keys and values are returned.
//!
//! ```text
//!  ≤ 30 bytes          inline, no allocation
//!  ≤ 512 bytes         a private copy, so that a kept value does not keep a whole file; a clone copies it again
//!  more                a window into the map, the log buffer or the allocation it came from
//! ```

use std::{borrow::Borrow, cmp::Ordering, fmt, hash, ops::Deref, sync::Arc};

const INLINE_MAX: usize = 30;

/// Windows shorter than this are copied: the copy is cheaper than keeping the owner alive.
const COPY_MAX: usize = 512;

type Owner = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Immutable bytes, cheap to clone; dereferences to `[u8]`.
///
/// A large value shares the memory or the mapped file it came from and keeps it alive; [`to_vec`](slice::to_vec)
/// makes an independent copy.
///
/// ```
/// use chronolith::Bytes;
/// let bytes = Bytes::from("value");
/// assert_eq!(bytes, b"value");
/// assert_eq!(&bytes[1..3], b"al");
/// ```
#[derive(Clone)]
pub struct Bytes(Repr);

#[derive(Clone)]
enum Repr {
    Inline {
        len: u8,
        data: [u8; INLINE_MAX],
    },
    /// Not shared: a reference count would cost a reader more than the copy does.
    Copied(Box<[u8]>),
    Owned(Arc<[u8]>),
    Window {
        owner: Owner,
        offset: u32,
        len: u32,
    },
}

const _: () = assert!(size_of::<Bytes>() == 32);

impl Bytes {
    /// Copies `bytes`.
    #[must_use]
    pub fn copy_from(bytes: &[u8]) -> Self {
        let mut data = [0; INLINE_MAX];
        match data.get_mut(..bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                Self(Repr::Inline { len: u8::try_from(bytes.len()).unwrap_or(0), data })
            }
            None if bytes.len() <= COPY_MAX => Self(Repr::Copied(Box::from(bytes))),
            None => Self(Repr::Owned(Arc::from(bytes))),
        }
    }

    /// Returns `bytes`, which lie at `offset` of `owner`: shared where that pays, copied where it does not.
    pub(crate) fn window(owner: impl FnOnce() -> Owner, offset: usize, bytes: &[u8]) -> Self {
        if bytes.len() <= COPY_MAX {
            return Self::copy_from(bytes);
        }
        Self::shared(owner, offset, bytes)
    }

    /// Like [`Bytes::window`], but shares everything that is not inline: for owners that live as long anyway.
    pub(crate) fn shared(owner: impl FnOnce() -> Owner, offset: usize, bytes: &[u8]) -> Self {
        match (u32::try_from(offset), u32::try_from(bytes.len())) {
            (Ok(offset), Ok(len)) if bytes.len() > INLINE_MAX => Self(Repr::Window { owner: owner(), offset, len }),
            _ => Self::copy_from(bytes),
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, data } => data.get(..usize::from(*len)).unwrap_or_default(),
            Repr::Copied(copied) => copied,
            Repr::Owned(owned) => owned,
            Repr::Window { owner, offset, len } => {
                let start = *offset as usize;
                (**owner).as_ref().get(start..start + *len as usize).unwrap_or_default()
            }
        }
    }
}

impl Default for Bytes {
    fn default() -> Self {
        Self::copy_from(&[])
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Borrow<[u8]> for Bytes {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        match bytes.len() {
            0..=INLINE_MAX => Self::copy_from(&bytes),
            len if len <= COPY_MAX => Self(Repr::Copied(bytes.into_boxed_slice())),
            _ => Self(Repr::Owned(bytes.into())),
        }
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self::copy_from(bytes)
    }
}

impl From<&str> for Bytes {
    fn from(text: &str) -> Self {
        Self::copy_from(text.as_bytes())
    }
}

impl From<Bytes> for Vec<u8> {
    fn from(bytes: Bytes) -> Self {
        bytes.to_vec()
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Bytes {}

impl<T: AsRef<[u8]> + ?Sized> PartialEq<&T> for Bytes {
    fn eq(&self, other: &&T) -> bool {
        **self == *(*other).as_ref()
    }
}

impl<const N: usize> PartialEq<[u8; N]> for Bytes {
    fn eq(&self, other: &[u8; N]) -> bool {
        **self == *other
    }
}

impl PartialEq<[u8]> for Bytes {
    fn eq(&self, other: &[u8]) -> bool {
        **self == *other
    }
}

impl PartialEq<str> for Bytes {
    fn eq(&self, other: &str) -> bool {
        **self == *other.as_bytes()
    }
}

impl PartialEq<String> for Bytes {
    fn eq(&self, other: &String) -> bool {
        **self == *other.as_bytes()
    }
}

impl PartialEq<Vec<u8>> for Bytes {
    fn eq(&self, other: &Vec<u8>) -> bool {
        **self == **other
    }
}

impl PartialOrd for Bytes {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bytes {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl hash::Hash for Bytes {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_every_length_read_back() {
        for len in 0..1200 {
            let data: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let owner: Owner = Arc::new([b"xx".as_slice(), &data].concat());
            let window = Bytes::window(|| Arc::clone(&owner), 2, &(*owner).as_ref()[2..]);
            assert_eq!(window, data);
            assert_eq!(Bytes::copy_from(&data), data);
            assert_eq!(Bytes::from(data.clone()), window);
        }
    }

    #[test]
    fn a_short_window_does_not_keep_its_owner() {
        let owner: Owner = Arc::new(vec![7; 1000]);
        let short = Bytes::window(|| Arc::clone(&owner), 0, &(*owner).as_ref()[..COPY_MAX]);
        assert_eq!(Arc::strong_count(&owner), 1);
        let long = Bytes::window(|| Arc::clone(&owner), 0, &(*owner).as_ref()[..=COPY_MAX]);
        assert_eq!(Arc::strong_count(&owner), 2);
        assert_eq!(short, long[..COPY_MAX].to_vec());
    }
}
