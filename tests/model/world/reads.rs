//! Reads the present by every verb, and ranges that are held half read.

use chronolith::{Bytes, Error, Keyspace, merge::append_items};

use crate::{
    dice::Dice,
    outcome::{Outcome, ensure},
    past::{Moment, What},
    script::{ALL, KEYS, NAMES, Span, Value, quoted, with_range},
    state::{State, differs, names, stated, told},
    strategies::Strategy,
    walk::{MANNERS, Manner, Walked},
    world::{Held, HeldRange, World},
};

impl World {
    pub(crate) fn read_the_present(&mut self, dice: u64) -> Outcome {
        self.check_horizons()?;
        let db = self.db()?.clone();
        let mut dice = Dice(dice);
        let mut names: Vec<&str> = self.slots.iter().zip(NAMES).filter_map(|(life, name)| life.map(|_| name)).collect();
        names.sort_unstable();
        ensure!(db.keyspaces() == names, "the keyspaces are {:?}, and the model says {names:?}", db.keyspaces());
        let newest = self.newest();
        ensure!(u64::from(db.snapshot().seqno()) == newest, "a snapshot at {}, not {newest}", db.snapshot().seqno());
        let future = db.as_of(newest + 1);
        ensure!(matches!(future, Err(Error::InTheFuture)), "as_of({}) after {newest} is opened", newest + 1);
        db.health().map_err(told("health"))?;
        for slot in 0..NAMES.len() {
            let Some((at, keyspace)) = self.alive(slot) else { continue };
            self.read_every_key(at, &keyspace)?;
            self.check_end(None, at, &keyspace.first(), false)?;
            self.check_end(None, at, &keyspace.last(), true)?;
            for _ in 0..4 {
                self.scan(None, at, &keyspace, &mut dice)?;
            }
        }
        let mut present = self.view_as_of(newest)?;
        self.examine(&mut present, false)?;
        let mut snapshot = Held { safe: true, ..self.held_at(db.snapshot(), newest)? };
        self.examine(&mut snapshot, false)
    }

    fn read_every_key(&mut self, at: usize, keyspace: &Keyspace) -> Outcome {
        let name = keyspace.name();
        let together = keyspace.multi_get(KEYS);
        let unfoldable = |key: &&'static [u8]| self.value_now(at, key) == State::Unfoldable;
        match (&together, KEYS.into_iter().filter(unfoldable).collect::<Vec<_>>()) {
            (Ok(together), none) if none.is_empty() && together.len() == KEYS.len() => {}
            (Err(error), some) if some.iter().any(|key| names(error, key)) => {}
            (_, some) => {
                return Err(format!("{name}: multi_get answers {together:?}, and what cannot be folded is {some:?}"));
            }
        }
        for (number, key) in KEYS.into_iter().enumerate() {
            self.count("checked gets");
            let wanted = self.value_now(at, key);
            let got = keyspace.get(key);
            ensure!(wanted.is_told_by(key, &got), "{name}: get {} {}", quoted(key), differs(&got, &wanted));
            let there = keyspace.contains(key);
            let same = match &there {
                Ok(there) => wanted != State::Unfoldable && *there != wanted.is_absent(),
                Err(error) => wanted == State::Unfoldable && names(error, key),
            };
            ensure!(same, "{name}: contains {} is {there:?}, and the model says {}", quoted(key), wanted.words());
            if let Ok(together) = &together {
                let got = Ok(together.get(number).cloned().flatten());
                ensure!(wanted.is_told_by(key, &got), "{name}: multi_get {} {}", quoted(key), differs(&got, &wanted));
            }
            match &wanted {
                State::Unfoldable => self.count("values that cannot be folded"),
                State::Is(_) if self.strategy(at) == Strategy::Append => self.read_list(at, key, got)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// That an appended list reads back item by item.
    fn read_list(&mut self, at: usize, key: &'static [u8], got: chronolith::Result<Option<Bytes>>) -> Outcome {
        self.count("appended lists read");
        let list = got.ok().flatten().unwrap_or_default();
        let items: Vec<&[u8]> = append_items(&list).collect::<Result<_, _>>().map_err(|e| format!("a list: {e}"))?;
        let mut wanted: Vec<&Value> = Vec::new();
        for said in self.lives.get(at).and_then(|life| life.keys.get(key)).into_iter().flatten() {
            match &said.what {
                What::Put(value) => wanted = vec![value],
                What::Merge(value) => wanted.push(value),
                What::Delete => wanted.clear(),
            }
        }
        let same = items.len() == wanted.len() && items.iter().zip(&wanted).all(|(got, wanted)| **got == ***wanted);
        ensure!(same, "the list of {} has {} items, and the model's {}", quoted(key), items.len(), wanted.len());
        Ok(())
    }

    /// Walks through a drawn range in a drawn manner, of a view or of the present.
    pub(crate) fn scan(&mut self, held: Option<&Held>, at: usize, keyspace: &Keyspace, dice: &mut Dice) -> Outcome {
        let moment = held.map_or(Moment::present(self.now()), Held::moment);
        let seqno = moment.seqno;
        let present = held.is_none_or(|held| self.is_present(held, at));
        let view = held.map(|held| &held.view);
        let mut span = Span::draw(dice);
        let manner = dice.of(&MANNERS).unwrap_or(Manner::Forward);
        let (mut words, walked);
        match dice.below(6) {
            0 => {
                words = format!("cursor {}", span.words());
                let cursor = with_range!(span, |range| match view {
                    Some(view) => view.cursor(keyspace, range),
                    None => keyspace.cursor(range),
                });
                walked = Walked::of_cursor(cursor);
            }
            1 => {
                let prefix = dice.of(&KEYS).unwrap_or_default();
                words = format!("prefix {} {manner:?}", quoted(prefix));
                let range = view.map_or_else(|| keyspace.prefix(prefix), |view| view.prefix(keyspace, prefix));
                walked = Walked::of(range, manner, dice)?;
                span = ALL;
                let expected = self.lives.get(at).map(|life| life.range_at(moment, &span)).unwrap_or_default();
                let expected: Vec<_> = expected.into_iter().filter(|(key, _)| key.starts_with(prefix)).collect();
                walked.check(&expected).map_err(|e| format!("{}: {words} as of {seqno} gives {e}", keyspace.name()))?;
            }
            _ => {
                words = format!("range {} {manner:?}", span.words());
                let range = with_range!(span, |range| match view {
                    Some(view) => view.range(keyspace, range),
                    None => keyspace.range(range),
                });
                walked = Walked::of(range, manner, dice)?;
            }
        }
        words =
            format!("{}: {words} as of {}", keyspace.name(), held.map_or("now".to_owned(), |h| h.seqno.to_string()));
        self.count("checked ranges");
        match &walked.wrong {
            None => {}
            Some(Error::HistoryTrimmed { oldest }) if !present => {
                ensure!(u64::from(*oldest) > seqno, "{words} names {oldest} as readable");
                if let Some(held) = held {
                    let may = self.may_refuse(held, at, None, &span);
                    may.map_err(|e| format!("{words} is refused (oldest {oldest}), and {e}"))?;
                }
                self.count("refused ranges");
            }
            Some(Error::HistoryTrimmed { oldest }) => {
                return Err(format!("{words} is refused (oldest {oldest}), and it is the present"));
            }
            // The check tells whether it is right.
            Some(_) => self.count("ranges that end at what cannot be folded"),
        }
        if !words.contains("prefix") {
            let expected = self.lives.get(at).map(|life| life.range_at(moment, &span)).unwrap_or_default();
            walked.check(&expected).map_err(|e| format!("{words} gives {e}"))?;
        }
        Ok(())
    }

    /// That the first or last item is the model's.
    pub(crate) fn check_end(
        &self,
        held: Option<&Held>,
        at: usize,
        end: &chronolith::Result<Option<(Bytes, Bytes)>>,
        backward: bool,
    ) -> Outcome {
        let moment = held.map_or(Moment::present(self.now()), Held::moment);
        let seqno = moment.seqno;
        let present = held.is_none_or(|held| self.is_present(held, at));
        let expected = self.lives.get(at).map(|life| life.range_at(moment, &ALL)).unwrap_or_default();
        let wanted = if backward { expected.last() } else { expected.first() };
        let which = if backward { "last" } else { "first" };
        match (end, wanted) {
            (Err(Error::HistoryTrimmed { .. }), _) if !present => {}
            (Ok(None), None) => {}
            (Ok(Some(got)), Some((key, State::Is(value)))) if *got.0 == **key && *got.1 == **value => {}
            (Err(error), Some((key, State::Unfoldable))) if names(error, key) => {}
            _ => {
                let wanted = wanted.map_or("nothing".to_owned(), stated);
                return Err(format!("{which} as of {seqno} is {end:?}, and the model says {wanted}"));
            }
        }
        Ok(())
    }

    pub(crate) fn hold_range(&mut self, slot: usize, span: &Span) {
        let Some((at, keyspace)) = self.alive(slot) else { return };
        let words = format!("hold the range {} of {}", span.words(), keyspace.name());
        self.say("hold a range", words.clone());
        let now = Moment::present(self.now());
        let rest = self.lives.get(at).map(|life| life.range_at(now, span)).unwrap_or_default().into();
        let range = with_range!(span, |range| keyspace.range(range));
        self.ranges.push(HeldRange { range, rest, opened: self.newest(), words });
    }

    /// Steps at both ends of a held range: what comes is of the moment of its opening.
    pub(crate) fn move_range(&mut self, which: usize, front: usize, back: usize) -> Outcome {
        if self.ranges.is_empty() {
            return Ok(());
        }
        let which = which % self.ranges.len();
        let mut held = self.ranges.swap_remove(which);
        self.say(
            "move a range",
            format!("move on in \"{}\": {front} from the front, {back} from the back", held.words),
        );
        for step in 0..front + back {
            let (got, wanted) = if step < front {
                (held.range.next(), held.rest.pop_front())
            } else {
                (held.range.next_back(), held.rest.pop_back())
            };
            let same = match (&got, &wanted) {
                (None, None) => true,
                (Some(Ok(got)), Some((key, State::Is(value)))) => *got.0 == **key && *got.1 == **value,
                (Some(Err(error)), Some((key, State::Unfoldable))) => names(error, key),
                _ => false,
            };
            let words = || wanted.as_ref().map_or("nothing".to_owned(), stated);
            ensure!(same, "the next item of \"{}\" is {got:?}, and the model says {}", held.words, words());
            if got.is_none() {
                self.count("held ranges read to the end");
                let ended = held.range.next().is_none() && held.range.next_back().is_none();
                ensure!(ended, "an item after the end of \"{}\"", held.words);
                return Ok(());
            }
        }
        self.ranges.push(held);
        Ok(())
    }
}
