//! What a key is at some moment, and whether an answer says so.

use chronolith::{Bytes, Error};

use crate::{
    past::{Said, What},
    script::{FOLDED_MAX, Value, quoted, shown},
    strategies::Strategy,
};

/// What a key is at some moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Absent,
    Is(Value),
    /// There is something, and no value for it: a read answers an error that names the key.
    Unfoldable,
}

impl State {
    pub(crate) fn is_absent(&self) -> bool {
        *self == Self::Absent
    }

    /// Whether this is what a read of the key must answer.
    pub(crate) fn is_told_by(&self, key: &[u8], got: &chronolith::Result<Option<Bytes>>) -> bool {
        match (self, got) {
            (Self::Absent, Ok(None)) => true,
            (Self::Is(value), Ok(Some(got))) => **got == **value,
            (Self::Unfoldable, Err(error)) => names(error, key),
            _ => false,
        }
    }

    pub(crate) fn words(&self) -> String {
        match self {
            Self::Absent => shown(None),
            Self::Is(value) => shown(Some(value)),
            Self::Unfoldable => "an error".to_owned(),
        }
    }
}

/// Whether a put or merge can have this value.
pub(crate) fn takes(strategy: Strategy, value: &[u8]) -> bool {
    (strategy != Strategy::Sum || value.len() == 8) && (!strategy.folds() || value.len() <= FOLDED_MAX)
}

/// What all that was said of a key amounts to.
pub(crate) fn fold(strategy: Strategy, said: &[Said]) -> State {
    let deleted = said.iter().rposition(|said| matches!(said.what, What::Delete));
    let since = said.get(deleted.map_or(0, |at| at + 1)..).unwrap_or_default();
    let base = since.iter().rposition(|said| matches!(said.what, What::Put(_)));
    let counting = if strategy.folds() {
        since.get(base.unwrap_or(0)..).unwrap_or_default()
    } else {
        // What came second where the first counts was never said.
        since.last_chunk::<1>().map_or(&[][..], |last| last)
    };
    if counting.is_empty() {
        return State::Absent;
    }
    let values = counting.iter().filter_map(|said| match &said.what {
        What::Put(value) | What::Merge(value) => Some(&**value),
        What::Delete => None,
    });
    strategy.fold(values).map_or(State::Unfoldable, |value| State::Is(value.into()))
}

/// Whether an error says that this key's values cannot be folded.
pub(crate) fn names(error: &Error, key: &[u8]) -> bool {
    matches!(error, Error::Invalid { what } if what.contains(&quoted(key)))
}

/// Whether an error says that of some key: a walk goes on behind it.
pub(crate) fn is_of_a_key(error: &Error) -> bool {
    matches!(error, Error::Invalid { what } if what.contains("key \""))
}

/// That an answer is not the model's.
pub(crate) fn differs(got: &chronolith::Result<Option<Bytes>>, wanted: &State) -> String {
    let got = match got {
        Ok(got) => shown(got.as_deref()),
        Err(error) => format!("an error ({error})"),
    };
    format!("answers {got}, and the model says {}", wanted.words())
}

/// A key and its state in words.
pub(crate) fn stated((key, state): &(&'static [u8], State)) -> String {
    format!("{}={}", quoted(key), state.words())
}

pub(crate) fn told(what: &str) -> impl Fn(Error) -> String {
    move |error| format!("{what}: {error}")
}
