//! Walks through ranges, in every manner, and what they must give.

use chronolith::{Bytes, Cursor, Error, Range};

use crate::{
    dice::Dice,
    outcome::{Outcome, ensure},
    script::{KEYS, pair},
    state::{State, is_of_a_key, names, stated},
};

/// How a range is walked through.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Manner {
    Forward,
    Backward,
    BothEnds,
    Keys,
    KeysBackward,
}

pub(crate) const MANNERS: [Manner; 5] =
    [Manner::Forward, Manner::Backward, Manner::BothEnds, Manner::Keys, Manner::KeysBackward];

/// A key with its value, which is missing where only keys were asked for; or the error in its place.
pub(crate) type Item = chronolith::Result<(Bytes, Option<Bytes>)>;

/// What a walk gave: from the front, from the back, and the error that ended it.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    pub(crate) front: Vec<Item>,
    pub(crate) back: Vec<Item>,
    pub(crate) wrong: Option<Error>,
}

impl Walked {
    pub(crate) fn take(&mut self, backward: bool, item: Item) -> Outcome {
        ensure!(self.wrong.is_none(), "an item after {:?}: {item:?}", self.wrong);
        match item {
            Err(error) if !is_of_a_key(&error) => self.wrong = Some(error),
            item if backward => self.back.push(item),
            item => self.front.push(item),
        }
        ensure!(self.front.len() + self.back.len() <= KEYS.len(), "a walk that does not end");
        Ok(())
    }

    pub(crate) fn of(mut range: Range, manner: Manner, dice: &mut Dice) -> Outcome<Self> {
        let mut walked = Self::default();
        match manner {
            Manner::Keys | Manner::KeysBackward => {
                let mut keys = range.keys();
                let backward = matches!(manner, Manner::KeysBackward);
                while let Some(item) = if backward { keys.next_back() } else { keys.next() } {
                    walked.take(backward, item.map(|key| (key, None)))?;
                }
                ensure!(keys.next().is_none() && keys.next_back().is_none(), "an item after the end");
            }
            _ => {
                loop {
                    let backward = match manner {
                        Manner::Backward => true,
                        Manner::BothEnds => dice.one_in(2),
                        _ => false,
                    };
                    let item = if backward { range.next_back() } else { range.next() };
                    let Some(item) = item else { break };
                    walked.take(backward, item.map(|(key, value)| (key, Some(value))))?;
                }
                ensure!(range.next().is_none() && range.next_back().is_none(), "an item after the end");
            }
        }
        Ok(walked)
    }

    pub(crate) fn of_cursor(mut cursor: Cursor) -> Self {
        let mut walked = Self::default();
        loop {
            match cursor.next_ref() {
                Ok(Some((key, value))) => walked.front.push(Ok((key.into(), Some(value.into())))),
                Ok(None) => break,
                Err(error) if is_of_a_key(&error) => walked.front.push(Err(error)),
                Err(error) => {
                    walked.wrong = Some(error);
                    break;
                }
            }
        }
        walked
    }

    /// That the items are those expected: all of them, or before a refusal a part at either end. In the place of a key
    /// that cannot be folded is an error.
    pub(crate) fn check(&self, expected: &[(&'static [u8], State)]) -> Outcome {
        let fits = |got: &Item, wanted: &(&'static [u8], State)| match (got, &wanted.1) {
            (Ok((key, got)), State::Is(value)) => **key == *wanted.0 && got.as_ref().is_none_or(|got| **got == **value),
            (Err(error), State::Unfoldable) => names(error, wanted.0),
            _ => false,
        };
        let left = expected.len().checked_sub(self.front.len() + self.back.len());
        let ended = match &self.wrong {
            None => left == Some(0),
            Some(Error::HistoryTrimmed { .. }) => left.is_some(),
            Some(_) => false,
        };
        let front = self.front.iter().zip(expected).all(|(got, wanted)| fits(got, wanted));
        let back = self.back.iter().zip(expected.iter().rev()).all(|(got, wanted)| fits(got, wanted));
        let got = || {
            let wrong = self.wrong.iter().map(|error| format!("({error})"));
            let told = |item: &Item| match item {
                Ok((key, value)) => pair(key, value.as_deref()),
                Err(error) => format!("({error})"),
            };
            let front = self.front.iter().map(told);
            let back = self.back.iter().rev().map(told);
            front.chain(wrong).chain(back).collect::<Vec<_>>().join(" ")
        };
        let wanted = || expected.iter().map(stated).collect::<Vec<_>>().join(" ");
        ensure!(ended && front && back, "[{}], and the model says [{}]", got(), wanted());
        Ok(())
    }
}
