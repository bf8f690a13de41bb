//! The meaning of several writes of one key: the six strategies, and the folding of operands.
//!
//! ```text
//!   newest first        Sum                       Append
//!   operand   +3@40     40: 1 + 2 + 3 = 6         40: a b c d
//!   operand   +2@30     30: 1 + 2     = 3         30: a b c
//!   put        1@20     20: 1                     20: a b
//!   put        9@10     10: 9                     10: z
//! ```
//!
//! A put is a base that replaces everything older; an operand is combined with it. A delete is a base of nothing: an
//! operand above it, or with nothing beneath it, is the value by itself. The fold of a key's entries is the same
//! wherever and whenever it is made, because a strategy is associative: reads, flushes and compactions all gather them
//! in a [`Gathered`].

use std::{
    fmt,
    panic::{AssertUnwindSafe, RefUnwindSafe, UnwindSafe},
    sync::Arc,
};

use crate::{
    base::{Bytes, Error, Kind, Result, callback},
    format::{Reader, Writer},
};

/// Maximum length of a put, operand or fold in a keyspace that folds, in bytes. A fold that would exceed it stays as
/// operands.
pub(crate) const FOLD_LEN_MAX: usize = 1 << 20;

/// Maximum length of the name of a custom strategy, in bytes.
const NAME_LEN_MAX: usize = 255;

/// Combines values of one key, for [`MergeStrategy::custom`].
///
/// Values may be combined in any grouping, in their order: `merge` must be associative, and return the same for the
/// same bytes every time. If it fails or panics in a commit, flush or compaction, nothing is lost: the operands stay as
/// they are, and the next read reports the error.
///
/// It runs under the locks of writes and compactions, so it cannot use a database: within it, every call to one returns
/// [`Invalid`](Error::Invalid). A strategy belongs to the open database: if it holds a [`Db`](crate::Db) of it, a
/// keyspace or a view, the database stays open for ever, unless [`Db::close`](crate::Db::close) is called.
pub trait Merge: Send + Sync + 'static {
    /// Combines `older` with the `newer` value that follows it.
    ///
    /// # Errors
    /// Any error that keeps them from being combined; a read of the key returns it.
    fn merge(&self, key: &[u8], older: &[u8], newer: &[u8]) -> Result<Vec<u8>>;
}

/// Meaning of several writes of one key. A keyspace keeps the strategy it was created with.
///
/// ```
/// # use chronolith::{env::Memory, KeyspaceOptions, MergeStrategy, Options};
/// # let db = Options::new().env(Memory::new()).open("my.db")?;
/// let hits = db.keyspace("hits", KeyspaceOptions::new().merge(MergeStrategy::Sum))?;
/// hits.merge("page/1", 2i64.to_le_bytes())?;
/// hits.merge("page/1", 3i64.to_le_bytes())?;
/// assert_eq!(hits.get("page/1")?.unwrap(), 5i64.to_le_bytes().as_slice());
/// # Ok::<_, chronolith::Error>(())
/// ```
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum MergeStrategy {
    /// The newest value wins; `merge` equals `put`. The default.
    #[default]
    LastWins,
    /// The first value of a key stays until the key is deleted; later puts and merges change nothing, and return a
    /// receipt like any write. To learn which it was, use [`insert_if_absent`](crate::Keyspace::insert_if_absent).
    FirstWins,
    /// Values are numbers, `i64` in little-endian bytes, and `merge` adds. A sum that does not fit is an error, which
    /// loses nothing: later operands may bring it back into range.
    Sum,
    /// `merge` appends an item. The value is the list of all items in order; read it with [`append_items`].
    Append,
    /// A put or merge of an existing key fails with [`Duplicate`](Error::Duplicate).
    ErrorOnDuplicate,
    /// A user-defined strategy, by name: see [`MergeStrategy::custom`].
    Custom(CustomMerge),
}

/// A user-defined strategy, with the name by which the database identifies it.
#[derive(Clone)]
pub struct CustomMerge {
    name: Arc<str>,
    merge: Arc<dyn Merge>,
}

// The state of a callback after a panic is its own concern: it is called again just as before.
impl UnwindSafe for CustomMerge {}
impl RefUnwindSafe for CustomMerge {}

impl CustomMerge {
    /// Adds to its error what could not be combined. An error that a caller would treat differently stays as it is.
    #[cold]
    fn of_key(&self, key: &[u8], error: Error) -> Error {
        match error {
            Error::Invalid { what } => {
                let key = key.escape_ascii();
                Error::invalid(format!("the values of key \"{key}\" cannot be combined by \"{}\": {what}", self.name))
            }
            other => other,
        }
    }
}

impl fmt::Debug for CustomMerge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CustomMerge({:?})", self.name)
    }
}

impl PartialEq for MergeStrategy {
    /// Compares custom strategies by name, as the database does.
    fn eq(&self, other: &Self) -> bool {
        (self.number(), self.custom_name()) == (other.number(), other.custom_name())
    }
}

impl Eq for MergeStrategy {}

impl fmt::Debug for MergeStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl MergeStrategy {
    /// Creates a user-defined strategy. The database stores the name with the keyspace, and refuses to open the
    /// keyspace without a strategy of that name: its behaviour must never change under one name.
    ///
    /// ```
    /// # use chronolith::{env::Memory, KeyspaceOptions, Merge, MergeStrategy, Options, Result};
    /// # let db = Options::new().env(Memory::new()).open("my.db")?;
    /// struct Longest;
    /// impl Merge for Longest {
    ///     fn merge(&self, _key: &[u8], older: &[u8], newer: &[u8]) -> Result<Vec<u8>> {
    ///         Ok(if newer.len() > older.len() { newer } else { older }.to_vec())
    ///     }
    /// }
    /// let words = db.keyspace("words", KeyspaceOptions::new().merge(MergeStrategy::custom("longest", Longest)))?;
    /// for word in ["pear", "banana", "fig"] {
    ///     words.merge("fruit", word)?;
    /// }
    /// assert_eq!(words.get("fruit")?.unwrap(), "banana");
    /// # Ok::<_, chronolith::Error>(())
    /// ```
    #[must_use]
    pub fn custom(name: impl AsRef<str>, merge: impl Merge) -> Self {
        Self::Custom(CustomMerge { name: name.as_ref().into(), merge: Arc::new(merge) })
    }

    /// Returns the number on disk; never changed or reused.
    pub(crate) fn number(&self) -> u8 {
        match self {
            Self::LastWins => 0,
            Self::FirstWins => 1,
            Self::Sum => 2,
            Self::Append => 3,
            Self::ErrorOnDuplicate => 4,
            Self::Custom(_) => NUMBER_CUSTOM,
        }
    }

    /// Returns the built-in strategy with this number.
    pub(crate) fn built_in(number: u8) -> Option<Self> {
        let all = [Self::LastWins, Self::FirstWins, Self::Sum, Self::Append, Self::ErrorOnDuplicate];
        all.into_iter().find(|strategy| strategy.number() == number)
    }

    /// Returns the name of a custom strategy; empty for the others.
    pub(crate) fn custom_name(&self) -> &str {
        match self {
            Self::Custom(custom) => &custom.name,
            _ => "",
        }
    }

    /// Returns the name for messages.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::LastWins => "LastWins".to_owned(),
            Self::FirstWins => "FirstWins".to_owned(),
            Self::Sum => "Sum".to_owned(),
            Self::Append => "Append".to_owned(),
            Self::ErrorOnDuplicate => "ErrorOnDuplicate".to_owned(),
            Self::Custom(CustomMerge { name, .. }) => custom_name(name),
        }
    }

    /// Fails unless a custom name can be stored.
    pub(crate) fn check_name(&self) -> Result<()> {
        match self {
            Self::Custom(custom) if custom.name.is_empty() || custom.name.len() > NAME_LEN_MAX => {
                let what =
                    format!("the name of a merge strategy has 1 to {NAME_LEN_MAX} bytes, not {}", custom.name.len());
                Err(Error::invalid(what))
            }
            _ => Ok(()),
        }
    }

    /// Returns whether puts and merges depend on existing values, and are decided when they are written.
    pub(crate) fn decides_at_write(&self) -> bool {
        matches!(self, Self::FirstWins | Self::ErrorOnDuplicate)
    }

    /// Returns whether operands are stored and folded.
    pub(crate) fn folds(&self) -> bool {
        matches!(self, Self::Sum | Self::Append | Self::Custom(_))
    }

    /// Returns the value of a put or merge as it is stored.
    pub(crate) fn stored<'a>(&self, value: &'a [u8]) -> Result<std::borrow::Cow<'a, [u8]>> {
        if self.folds() && value.len() > FOLD_LEN_MAX {
            let (name, len) = (self.name(), value.len());
            return Err(Error::invalid(format!(
                "a value in a keyspace with merge strategy {name} has at most {FOLD_LEN_MAX} bytes, not {len}"
            )));
        }
        match self {
            Self::Sum if value.len() != 8 => {
                let len = value.len();
                Err(Error::invalid(format!("Sum adds 8 bytes, an i64 in little-endian order, not {len}")))
            }
            Self::Append => Ok(append_list(&[value]).into()),
            _ => Ok(value.into()),
        }
    }

    /// Fails unless a value can be folded by itself, without a database.
    pub(crate) fn check_item(&self, key: &[u8], value: &[u8]) -> Result<()> {
        if matches!(self, Self::Sum) && value.len() != 8 { Err(self.not_an_operand(key)) } else { Ok(()) }
    }

    /// Returns the kind of entry that a merge is stored as.
    pub(crate) fn operand_kind(&self) -> Kind {
        if self.folds() { Kind::Operand } else { Kind::Put }
    }

    /// Starts to gather the entries of a key with its newest one, an operand; `None` if the strategy has no operands,
    /// or if the bytes are not one.
    pub(crate) fn gather(&self, newest: &Bytes) -> Option<Gathered> {
        match self {
            Self::Sum => number(newest).map(Gathered::Sum),
            Self::Append => Some(Gathered::List { parts: vec![newest.clone()], len: newest.len() }),
            Self::Custom(custom) => Some(Gathered::Custom { value: newest.clone(), by: custom.clone() }),
            Self::LastWins | Self::FirstWins | Self::ErrorOnDuplicate => None,
        }
    }

    /// Folds operands, newest first, onto a base; returns the value that readers get.
    pub(crate) fn fold(&self, key: &[u8], base: Option<&Bytes>, operands: &[Bytes]) -> Result<Bytes> {
        let mut newest_first = operands.iter().chain(base);
        let gathered = newest_first.next().and_then(|newest| self.gather(newest));
        let mut gathered = gathered.ok_or_else(|| self.not_an_operand(key))?;
        for older in newest_first {
            if !gathered.add_older(key, older)? {
                return Err(self.not_an_operand(key));
            }
        }
        gathered.surface(key)
    }

    fn not_an_operand(&self, key: &[u8]) -> Error {
        let (name, key) = (self.name(), key.escape_ascii());
        Error::invalid(format!("key \"{key}\" holds a value that merge strategy {name} cannot fold; put another one"))
    }
}

/// Number of every custom strategy on disk.
pub(crate) const NUMBER_CUSTOM: u8 = 5;

/// Returns the name for messages of the strategy with a number, given the name by which a custom one is stored.
pub(crate) fn name_of(number: u8, custom: &str) -> String {
    MergeStrategy::built_in(number).map_or_else(|| custom_name(custom), |strategy| strategy.name())
}

fn custom_name(name: &str) -> String {
    format!("custom \"{name}\"")
}

/// Entries of one key, from an operand down, being folded into one.
#[derive(Clone, Debug)]
pub(crate) enum Gathered {
    Sum(i128),
    /// Lists, newest first: concatenated only at the end.
    List {
        parts: Vec<Bytes>,
        len: usize,
    },
    Custom {
        value: Bytes,
        by: CustomMerge,
    },
}

impl Gathered {
    /// Adds the next older entry; `false` if it cannot be added. Then nothing has changed.
    ///
    /// # Errors
    /// Errors of the user's strategy.
    fn add_older(&mut self, key: &[u8], older: &Bytes) -> Result<bool> {
        match self {
            Self::Sum(sum) => {
                let Some(more) = number(older).and_then(|older| sum.checked_add(older)) else { return Ok(false) };
                *sum = more;
            }
            Self::List { parts, len } => {
                *len += older.len();
                parts.push(older.clone());
            }
            Self::Custom { value, by } => {
                let merged = callback(|| by.merge.merge(key, older, value));
                *value = Bytes::from(merged.map_err(|error| by.of_key(key, error))?);
            }
        }
        Ok(true)
    }

    /// Like [`Gathered::add_older`], for an entry to be stored: `false` also if it would grow too long, or if the
    /// user's strategy fails or panics.
    pub(crate) fn store_older(&mut self, key: &[u8], older: &Bytes) -> bool {
        match self {
            Self::List { len, .. } if *len + older.len() > FOLD_LEN_MAX => false,
            Self::Sum(_) | Self::List { .. } => matches!(self.add_older(key, older), Ok(true)),
            Self::Custom { value, by } => {
                let merge = || callback(|| by.merge.merge(key, older, value));
                match std::panic::catch_unwind(AssertUnwindSafe(merge)) {
                    Ok(Ok(merged)) if merged.len() <= FOLD_LEN_MAX => {
                        *value = Bytes::from(merged);
                        true
                    }
                    _ => false,
                }
            }
        }
    }

    /// Returns the entry that replaces all those gathered: a state, if their base is among them or there is none.
    pub(crate) fn into_entry(self, state: bool) -> (Kind, Bytes) {
        let kind = if state { Kind::Put } else { Kind::Operand };
        match self {
            // A sum is as wide as needed: one that does not fit an `i64` may come back into range.
            Self::Sum(sum) => match i64::try_from(sum) {
                Ok(narrow) => (kind, Bytes::copy_from(&narrow.to_le_bytes())),
                Err(_) => (if state { Kind::WideSum } else { kind }, Bytes::copy_from(&sum.to_le_bytes())),
            },
            Self::List { parts, .. } => (kind, concat(&parts)),
            Self::Custom { value, .. } => (kind, value),
        }
    }

    /// Returns the value as readers get it.
    fn surface(self, key: &[u8]) -> Result<Bytes> {
        match self {
            Self::Sum(sum) => surface(key, Some(sum)),
            Self::List { parts, .. } => Ok(concat(&parts)),
            Self::Custom { value, .. } => Ok(value),
        }
    }
}

/// Concatenates lists, given newest first.
fn concat(parts: &[Bytes]) -> Bytes {
    match parts {
        [only] => only.clone(),
        _ => Bytes::from(parts.iter().rev().map(|part| &**part).collect::<Vec<_>>().concat()),
    }
}

/// Decodes a stored number: 8 bytes, or 16 for a folded sum that is wide.
pub(crate) fn number(value: &[u8]) -> Option<i128> {
    if let Ok(narrow) = value.try_into() {
        return Some(i128::from(i64::from_le_bytes(narrow)));
    }
    value.try_into().ok().map(i128::from_le_bytes)
}

/// Returns a sum as readers get it.
fn surface(key: &[u8], sum: Option<i128>) -> Result<Bytes> {
    let fits = sum.and_then(|sum| i64::try_from(sum).ok());
    fits.map(|sum| Bytes::copy_from(&sum.to_le_bytes())).ok_or_else(|| {
        let sum = sum.map_or_else(|| "not a number".to_owned(), |sum| sum.to_string());
        Error::invalid(format!(
            "the sum of key \"{}\" is {sum}, which an i64 cannot hold; merge it back into range, or put another value",
            key.escape_ascii()
        ))
    })
}

/// Returns the value of a wide sum as readers get it.
pub(crate) fn wide_sum(key: &[u8], value: &[u8]) -> Result<Bytes> {
    surface(key, number(value))
}

/// Encodes a list as `Append` stores it: each item after its length.
pub(crate) fn append_list(items: &[&[u8]]) -> Vec<u8> {
    let mut out = Writer::default();
    for item in items {
        out.prefixed(item);
    }
    out.into_bytes()
}

/// Iterates over the items of an appended list, in the order in which they were appended. For bytes that are not such a
/// list, the last item is an error, a [`Corruption`](crate::Corruption), which `?` turns into
/// [`Invalid`](crate::Error::Invalid).
///
/// ```
/// # use chronolith::{env::Memory, merge::append_items, KeyspaceOptions, MergeStrategy, Options};
/// # let db = Options::new().env(Memory::new()).open("my.db")?;
/// let tags = db.keyspace("tags", KeyspaceOptions::new().merge(MergeStrategy::Append))?;
/// tags.merge("page/1", "red")?;
/// tags.merge("page/1", "round")?;
/// let list = tags.get("page/1")?.unwrap();
/// let items: Vec<&[u8]> = append_items(&list).collect::<Result<_, _>>()?;
/// assert_eq!(items, [b"red".as_slice(), b"round"]);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub fn append_items(list: &[u8]) -> AppendItems<'_> {
    AppendItems { list }
}

/// Iterator over an appended list: see [`append_items`].
#[derive(Clone, Debug)]
#[must_use = "iterators are lazy"]
pub struct AppendItems<'a> {
    list: &'a [u8],
}

impl<'a> Iterator for AppendItems<'a> {
    type Item = std::result::Result<&'a [u8], crate::base::Corruption>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.list.is_empty() {
            return None;
        }
        let mut reader = Reader::new(self.list);
        let item = reader.prefixed("an item after its length");
        self.list = item.as_ref().ok().and_then(|_| self.list.get(reader.position()..)).unwrap_or_default();
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Picky;
    impl Merge for Picky {
        fn merge(&self, _key: &[u8], _older: &[u8], newer: &[u8]) -> Result<Vec<u8>> {
            assert_ne!(newer, b"panic");
            Err(Error::invalid("never"))
        }
    }

    fn bytes(value: &[u8]) -> Bytes {
        Bytes::copy_from(value)
    }

    #[test]
    fn a_sum_grows_past_64_bits_and_comes_back() {
        let numbers = [1, i64::MAX].map(|number| bytes(&number.to_le_bytes()));
        let mut sum = MergeStrategy::Sum.gather(&numbers[0]).unwrap();
        assert!(sum.store_older(b"k", &numbers[1]));
        assert!(matches!(sum.clone().into_entry(false), (Kind::Operand, wide) if wide.len() == 16));
        let (kind, wide) = sum.into_entry(true);
        assert_eq!((kind, wide.len()), (Kind::WideSum, 16));
        assert!(wide_sum(b"k", &wide).unwrap_err().to_string().contains("9223372036854775808"));
        let mut back = MergeStrategy::Sum.gather(&bytes(&(-1i64).to_le_bytes())).unwrap();
        assert!(back.store_older(b"k", &wide));
        assert_eq!(back.into_entry(true), (Kind::Put, numbers[1].clone()));
    }

    #[test]
    fn an_appended_list_reads_back_and_a_torn_one_ends_in_an_error() {
        let list = append_list(&[b"a", b"", &[7; 300]]);
        let items: Vec<_> = append_items(&list).map(Result::unwrap).collect();
        assert_eq!(items, [b"a".as_slice(), b"", &[7; 300]]);
        for len in 1..list.len() {
            let items: Vec<_> = append_items(&list[..len]).collect();
            let whole = [2, 3].contains(&len);
            assert_eq!(items.iter().filter(|item| item.is_err()).count(), usize::from(!whole), "{len}");
        }
    }

    #[test]
    fn what_would_grow_too_long_or_cannot_be_combined_stays_apart() {
        let half = bytes(&vec![1; FOLD_LEN_MAX / 2 + 1]);
        let mut list = MergeStrategy::Append.gather(&half).unwrap();
        assert!(!list.store_older(b"k", &half));
        assert_eq!(list.into_entry(false), (Kind::Operand, half));
        let picky = MergeStrategy::custom("picky", Picky);
        for newer in ["panic", "error"] {
            let mut gathered = picky.gather(&bytes(newer.as_bytes())).unwrap();
            assert!(!gathered.store_older(b"k", &bytes(b"older")));
            assert_eq!(gathered.into_entry(true), (Kind::Put, bytes(newer.as_bytes())));
        }
        assert!(picky.fold(b"k", Some(&bytes(b"base")), &[bytes(b"error")]).unwrap_err().to_string().contains("never"));
    }
}
