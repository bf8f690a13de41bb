//! Writes, and what may become of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use chronolith::{Durability, Error, Receipt};

use crate::{
    outcome::{Outcome, ensure},
    past::{Life, What, micros},
    script::{Fill, KEYS, MARK_LEN, Value, Write, pair, quoted, shown, with_range, write_words},
    state::{State, names, takes},
    strategies::Strategy,
    world::{World, times::Stamp},
};

impl World {
    pub(crate) fn write(&mut self, slot: usize, write: &Write) -> Outcome {
        let Some((life, keyspace)) = self.alive(slot) else { return Ok(()) };
        let kind = match write {
            Write::Put { .. } => "put",
            Write::Merge { .. } => "merge",
            Write::Delete { .. } => "delete",
            Write::DeleteRange { .. } => "delete_range",
            Write::Purge { .. } => "purge",
            Write::PurgePrefix { .. } => "purge_prefix",
        };
        let strategy = self.strategy(life);
        self.say(kind, format!("{}: {}", keyspace.name(), write_words(write, strategy)));
        let writes = [(life, write.clone())];
        let judged = self.judge(&writes);
        let result = match write {
            Write::Put { key, fill } => keyspace.put(key, fill.bytes(strategy)),
            Write::Merge { key, fill } => keyspace.merge(key, fill.bytes(strategy)),
            Write::Delete { key } => keyspace.delete(key),
            Write::DeleteRange { span } => with_range!(span, |range| keyspace.delete_range(range)),
            Write::Purge { key } => keyspace.purge(key),
            Write::PurgePrefix { prefix } => keyspace.purge_prefix(prefix),
        };
        self.settle(result, judged, &writes, None).map_err(|e| format!("{kind}: {e}"))
    }

    pub(crate) fn batch(&mut self, writes: &[(usize, Write)], durability: Option<Durability>) -> Outcome {
        let mut batch = self.db()?.batch();
        let mut done = Vec::new();
        let mut words = String::from("batch");
        for (slot, write) in writes {
            let Some((life, keyspace)) = self.alive(*slot) else { continue };
            let strategy = self.strategy(life);
            match write {
                Write::Put { key, fill } => batch.put(&keyspace, key, fill.bytes(strategy)),
                Write::Merge { key, fill } => batch.merge(&keyspace, key, fill.bytes(strategy)),
                Write::Delete { key } => batch.delete(&keyspace, key),
                Write::DeleteRange { span } => with_range!(span, |range| batch.delete_range(&keyspace, range)),
                Write::Purge { key } => batch.purge(&keyspace, key),
                Write::PurgePrefix { prefix } => batch.purge_prefix(&keyspace, prefix),
            }
            let _infallible = write!(words, " [{}: {}]", keyspace.name(), write_words(write, strategy));
            done.push((life, write.clone()));
        }
        self.say("batch", words);
        let judged = self.judge(&done);
        let result = match durability {
            Some(durability) => batch.commit_with(durability),
            None => batch.commit(),
        };
        self.settle(result, judged, &done, durability).map_err(|e| format!("commit: {e}"))
    }

    /// Many operands of one key, so that states are written between them.
    pub(crate) fn operands(
        &mut self,
        slot: usize,
        key: &'static [u8],
        fill: Fill,
        (count, each): (usize, usize),
    ) -> Outcome {
        let Some((life, keyspace)) = self.alive(slot) else { return Ok(()) };
        let strategy = self.strategy(life);
        let fill = |number: usize| Fill { tag: fill.tag + number, ..fill };
        let first = pair(key, Some(&fill(0).bytes(strategy)));
        self.say("many operands", format!("{}: {count} times merge {first} and on, by {each}", keyspace.name()));
        for start in (0..count).step_by(each.max(1)) {
            let numbers = start..(start + each).min(count);
            let writes: Vec<_> = numbers.map(|number| (life, Write::Merge { key, fill: fill(number) })).collect();
            let mut batch = self.db()?.batch();
            for (_, write) in &writes {
                if let Write::Merge { key, fill } = write {
                    batch.merge(&keyspace, key, fill.bytes(strategy));
                }
            }
            let judged = self.judge(&writes);
            let said = self.words.last().map_or(0, String::len);
            self.settle(batch.commit(), judged, &writes, None).map_err(|e| format!("operands: {e}"))?;
            // Of all the receipts the last one is enough.
            if let Some(last) = self.words.last_mut()
                && start + each < count
            {
                last.truncate(said);
            }
        }
        Ok(())
    }

    pub(crate) fn compare_and_swap(
        &mut self,
        slot: usize,
        key: &'static [u8],
        right: bool,
        new: Option<Fill>,
    ) -> Outcome {
        let Some((life, keyspace)) = self.alive(slot) else { return Ok(()) };
        let (old, strategy) = (self.value_now(life, key), self.strategy(life));
        let expected = match &old {
            _ if !right => Some(Value::from(&b"nothing like it"[..])),
            State::Is(value) => Some(Value::clone(value)),
            State::Absent | State::Unfoldable => None,
        };
        let (name, new_value) = (keyspace.name(), new.map(|fill| fill.bytes(strategy)));
        let (was, is) = (shown(expected.as_deref()), shown(new_value.as_deref()));
        self.say("compare_and_swap", format!("{name}: compare_and_swap {} {was} to {is}", quoted(key)));
        let swapped = keyspace.compare_and_swap(key, expected, new_value);
        if old == State::Unfoldable {
            let told = swapped.as_ref().is_err_and(|error| names(error, key));
            ensure!(told, "compare_and_swap of what cannot be folded: {swapped:?}");
            return Ok(());
        }
        if strategy == Strategy::FirstWins && right && !old.is_absent() && new.is_some() {
            ensure!(matches!(swapped, Err(Error::Invalid { .. })), "a first value was swapped: {swapped:?}");
            return Ok(());
        }
        self.settle_swap(swapped, right, &[(life, as_write(key, new))])
    }

    pub(crate) fn insert_if_absent(&mut self, slot: usize, key: &'static [u8], fill: Fill) -> Outcome {
        let Some((life, keyspace)) = self.alive(slot) else { return Ok(()) };
        let (old, value) = (self.value_now(life, key), fill.bytes(self.strategy(life)));
        self.say("insert_if_absent", format!("{}: insert_if_absent {}", keyspace.name(), pair(key, Some(&value))));
        let inserted = keyspace.insert_if_absent(key, value);
        if old == State::Unfoldable {
            let told = inserted.as_ref().is_err_and(|error| names(error, key));
            ensure!(told, "insert_if_absent of what cannot be folded: {inserted:?}");
            return Ok(());
        }
        self.settle_swap(inserted, old.is_absent(), &[(life, Write::Put { key, fill })])
    }

    pub(crate) fn update(&mut self, slot: usize, key: &'static [u8], new: Option<Fill>) -> Outcome {
        let Some((life, keyspace)) = self.alive(slot) else { return Ok(()) };
        let (wanted, strategy) = (self.value_now(life, key), self.strategy(life));
        let value = new.map(|fill| fill.bytes(strategy));
        self.say("update", format!("{}: update {} to {}", keyspace.name(), quoted(key), shown(value.as_deref())));
        let mut seen = None;
        let updated = keyspace.update(key, |old| {
            seen = Some(old.map_or(State::Absent, |old| State::Is(old.into())));
            value.clone()
        });
        if wanted == State::Unfoldable {
            let told = seen.is_none() && updated.as_ref().is_err_and(|error| names(error, key));
            ensure!(told, "update of what cannot be folded: {updated:?}");
            return Ok(());
        }
        let was = seen.as_ref().map_or("nothing at all".to_owned(), State::words);
        ensure!(seen.as_ref() == Some(&wanted), "update was shown {was}, and the model says {}", wanted.words());
        if strategy == Strategy::FirstWins && !wanted.is_absent() && new.is_some() {
            ensure!(matches!(updated, Err(Error::Invalid { .. })), "a first value was updated: {updated:?}");
            return Ok(());
        }
        let writes = [(life, as_write(key, new))];
        let judged = self.judge(&writes);
        self.settle(updated, judged, &writes, None).map_err(|e| format!("update: {e}"))
    }

    /// Which outcomes a batch may have.
    pub(crate) fn judge(&self, writes: &[(usize, Write)]) -> Judged {
        let mut there: BTreeMap<(usize, &[u8]), bool> = BTreeMap::new();
        // Of keys with a base in the batch: the sum, and whether an overflow has to be seen.
        let mut sums: BTreeMap<(usize, &[u8]), (i128, bool)> = BTreeMap::new();
        let mut duplicate = None;
        for (life, write) in writes {
            let (life, strategy) = (*life, self.strategy(*life));
            match write {
                Write::Put { key, fill } | Write::Merge { key, fill } => {
                    let value = fill.bytes(strategy);
                    if !takes(strategy, &value) {
                        return Judged { applied: false, invalid: true, duplicate: None };
                    }
                    if strategy.decides() {
                        let is_there =
                            there.entry((life, key)).or_insert_with(|| !self.value_now(life, key).is_absent());
                        if *is_there && strategy == Strategy::ErrorOnDuplicate {
                            duplicate = duplicate.or(Some(*key));
                        }
                        *is_there = true;
                    }
                    if strategy == Strategy::Sum {
                        let number = i128::from(<[u8; 8]>::try_from(&*value).map_or(0, i64::from_le_bytes));
                        if matches!(write, Write::Put { .. }) {
                            sums.insert((life, key), (number, true));
                        } else if let Some((sum, _)) = sums.get_mut(&(life, *key)) {
                            *sum += number;
                        }
                    }
                }
                Write::Delete { key } => {
                    there.insert((life, key), false);
                    sums.insert((life, key), (0, true));
                }
                Write::DeleteRange { span } => {
                    for key in KEYS.into_iter().filter(|key| span.holds(key)) {
                        there.insert((life, key), false);
                        sums.insert((life, key), (0, false));
                    }
                }
                Write::Purge { .. } | Write::PurgePrefix { .. } => {
                    for key in KEYS.into_iter().filter(|key| write.purges(key)) {
                        there.insert((life, key), false);
                        sums.insert((life, key), (0, matches!(write, Write::Purge { .. })));
                    }
                }
            }
        }
        let mut overflowing = sums.values().filter(|(sum, _)| i64::try_from(*sum).is_err()).map(|(_, seen)| *seen);
        let seen = overflowing.next().map(|seen| seen || overflowing.any(|seen| seen));
        Judged { applied: duplicate.is_none() && seen != Some(true), invalid: seen.is_some(), duplicate }
    }

    /// Holds what became of a batch against what may, and takes a commit into the model.
    pub(crate) fn settle(
        &mut self,
        result: chronolith::Result<Receipt>,
        judged: Judged,
        writes: &[(usize, Write)],
        durability: Option<Durability>,
    ) -> Outcome {
        match result {
            Ok(receipt) if judged.applied => return self.committed(receipt, writes, durability),
            Err(Error::Invalid { .. }) if judged.invalid => self.refused("refused as invalid")?,
            Err(Error::Duplicate { key }) if judged.duplicate == Some(&*key) => {
                self.refused("refused as a duplicate")?;
            }
            Ok(receipt) => return Err(format!("committed at {}, and it must be {judged:?}", receipt.seqno)),
            Err(error) => return Err(format!("{error}; and it must be {judged:?}")),
        }
        Ok(())
    }

    /// As `settle`, for a write that is made only if the key `fits`.
    fn settle_swap(
        &mut self,
        swapped: chronolith::Result<Option<Receipt>>,
        fits: bool,
        writes: &[(usize, Write)],
    ) -> Outcome {
        let judged = self.judge(writes);
        let result = match swapped {
            Ok(None) => {
                ensure!(!fits, "nothing was swapped");
                return Ok(());
            }
            Ok(Some(receipt)) => Ok(receipt),
            Err(error) => Err(error),
        };
        ensure!(fits, "the key is something else, and it answers {result:?}");
        self.settle(result, judged, writes, None)
    }

    /// A batch was refused: nothing of it may be there.
    pub(crate) fn refused(&mut self, how: &'static str) -> Outcome {
        self.count(how);
        self.add(&format!(" ({how})"));
        let newest = u64::from(self.db()?.snapshot().seqno());
        ensure!(newest == self.newest(), "after a refused batch the newest commit is {newest}, not {}", self.newest());
        Ok(())
    }

    /// Takes a commit into the model.
    fn committed(&mut self, receipt: Receipt, writes: &[(usize, Write)], durability: Option<Durability>) -> Outcome {
        let seqno = u64::from(receipt.seqno);
        self.add(&format!(" @{seqno}"));
        let void = writes.iter().all(|(_, write)| matches!(write, Write::DeleteRange { span } if span.is_void()));
        if void && (seqno == self.newest() || !writes.iter().any(|(life, _)| self.strategy(*life).decides())) {
            ensure!(seqno == self.newest(), "nothing was committed at {seqno}, after {}", self.newest());
            return Ok(());
        }
        ensure!(seqno > self.newest(), "committed at {seqno}, after {}", self.newest());
        let time = micros(receipt.time);
        let last = self.stamps.last().map_or(0, |stamp| stamp.time);
        ensure!(time >= last, "committed at the time {time}, after {last}");
        ensure!(time > self.fixed, "committed at the time {time}, and {} was asked for", self.fixed);
        let mut kept = 0;
        for (life, write) in writes {
            if let Write::Put { key, .. } | Write::Merge { key, .. } = write
                && self.strategy(*life) == Strategy::FirstWins
                && !self.value_now(*life, key).is_absent()
            {
                self.count("first values kept");
                kept += 1;
            }
        }
        self.commits.push(seqno);
        let chains = writes.iter().filter(|(life, _)| self.strategy(*life).folds()).count();
        // Several words on one key are one operation, or several.
        let said: BTreeSet<_> = writes.iter().filter_map(|(life, write)| Some((*life, write.key()?))).collect();
        let fewest = said.len().saturating_sub(kept);
        self.stamps.push(Stamp { seqno, time, writes: (fewest, writes.len() + chains), decides: false });
        self.unsynced = durability.unwrap_or(self.setup.durability) != Durability::Sync;
        let now = self.now();
        for (at, write) in writes {
            if let Some(life) = self.lives.get_mut(*at) {
                life.note_purged(seqno, write, &mut self.purged);
                life.apply((seqno, time), now, write);
            }
        }
        Ok(())
    }
}

impl Life {
    /// Notes which values a write purges, if they can be told from others.
    fn note_purged(&self, seqno: u64, write: &Write, purged: &mut Vec<(u64, Vec<u8>)>) {
        if matches!(self.strategy, Strategy::Sum | Strategy::Ends) {
            return;
        }
        for key in KEYS.into_iter().filter(|key| write.purges(key)) {
            for said in self.keys.get(key).into_iter().flatten().filter(|said| said.seqno < seqno) {
                if let What::Put(value) | What::Merge(value) = &said.what
                    && let Some(mark) = value.get(..MARK_LEN)
                {
                    purged.push((seqno, mark.to_vec()));
                }
            }
        }
    }
}

/// The outcomes that a batch may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judged {
    applied: bool,
    invalid: bool,
    /// A duplicate of this key.
    duplicate: Option<&'static [u8]>,
}

fn as_write(key: &'static [u8], new: Option<Fill>) -> Write {
    new.map_or(Write::Delete { key }, |fill| Write::Put { key, fill })
}
