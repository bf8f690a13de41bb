//! What may be there after a crash: it follows from what was answered.
//!
//! ```text
//!  steps ─▶ events: sure, unknown or void ─▶ the state after each of them
//!                                              └─▶ one of those, not below the floor, is what is seen
//! ```

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    keyspaces::{Digest, Sort, TTL_US, digest},
    strategies::Strategy,
    workload::{Op, key_of},
};

/// The keys of a keyspace.
pub(crate) type Content = BTreeMap<Vec<u8>, Digest>;

/// The keyspaces of a database.
pub(crate) type State = BTreeMap<String, Content>;

/// The digests of values by what they were made from, so that each is made once.
pub(crate) type Values = BTreeMap<(Sort, usize, u16, usize), Digest>;

#[derive(Clone, Debug)]
pub(crate) enum What {
    Create(&'static str),
    Drop(&'static str),
    Write(Vec<Op>),
    Pin(&'static str),
    Unpin(&'static str),
}

/// In a state: the pins, when each value of a brief keyspace was written, and what time it is, in whole seconds.
pub(crate) const PINS: &str = "\0pins";
pub(crate) const NOW: &str = "\0now";
const TIMES: &str = "\0times of ";

fn times_of(name: &str) -> String {
    format!("{TIMES}{name}")
}

pub(crate) fn us(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
}

/// What a keyspace of a state shows at a time.
pub(crate) fn shown<'a>(
    state: &'a State,
    name: &'a str,
    now_us: u64,
) -> impl Iterator<Item = (&'a Vec<u8>, &'a Digest)> {
    let times = state.get(&times_of(name));
    let lives =
        move |key: &Vec<u8>| times.and_then(|times| times.get(key)).is_none_or(|(_, time)| time + TTL_US > now_us);
    state.get(name).into_iter().flatten().filter(move |(key, _)| lives(key))
}

/// Whether a state is what was seen.
fn is_seen(state: &State, seen: &State) -> bool {
    let now_us = seen.get(NOW).and_then(|now| now.values().next()).map_or(0, |(_, us)| *us);
    let names = state.keys().filter(|name| !name.starts_with(TIMES));
    names.eq(seen.keys().filter(|name| *name != NOW))
        && seen.iter().filter(|(name, _)| *name != NOW).all(|(name, keys)| shown(state, name, now_us).eq(keys))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Sure,
    /// It returned an error: there or not.
    Unknown,
    /// It was looked for, and is not there.
    Void,
}

#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) number: usize,
    pub(crate) what: What,
    pub(crate) fate: Fate,
    /// The seqno and time that were given out, and the time by the clock before.
    pub(crate) receipt: Option<(u64, u64)>,
    pub(crate) began_us: u64,
}

/// The key that only this commit writes, in the keyspace of its first operation.
pub(crate) fn mark_of(number: usize) -> Vec<u8> {
    format!("~{number:04}").into_bytes()
}

impl Event {
    pub(crate) fn apply(&self, state: &mut State, values: &mut Values) {
        match &self.what {
            What::Create(name) => {
                state.entry((*name).to_owned()).or_default();
            }
            What::Drop(name) => {
                state.remove(*name);
                state.remove(&times_of(name));
            }
            What::Pin(name) => {
                state.entry(PINS.to_owned()).or_default().insert(name.as_bytes().to_vec(), (0, 0));
            }
            What::Unpin(name) => {
                let pins = state.entry(PINS.to_owned()).or_default();
                pins.remove(name.as_bytes());
                if pins.is_empty() {
                    state.remove(PINS);
                }
            }
            What::Write(ops) => {
                for op in ops {
                    let sort = Sort::of(op.keyspace());
                    if let (Sort::Brief, Op::Put { key, .. }) = (sort, *op) {
                        let time = self.receipt.map_or(self.began_us, |(_, time)| time);
                        state.entry(times_of(op.keyspace())).or_default().insert(key_of(key), (0, time));
                    }
                    let keys = state.entry(op.keyspace().to_owned()).or_default();
                    match *op {
                        Op::Put { key, .. } | Op::Merge { key, .. }
                            if sort.strategy().decides() && keys.contains_key(&key_of(key)) => {}
                        Op::Merge { key, len, .. } if sort.strategy().folds() => {
                            let operand = sort.value(self.number, key, len);
                            let nothing = if sort == Sort::Sum { (8, 0) } else { (0, 0) };
                            let value = keys.entry(key_of(key)).or_insert(nothing);
                            *value = sort.then(*value, &operand);
                        }
                        Op::Put { key, len, .. } if sort.strategy() != Strategy::LastWins => {
                            keys.insert(key_of(key), sort.digest_of_put(&sort.value(self.number, key, len)));
                        }
                        Op::Put { key, len, .. } | Op::Merge { key, len, .. } => {
                            let value = values
                                .entry((sort, self.number, key, len))
                                .or_insert_with(|| digest(&sort.value(self.number, key, len)));
                            keys.insert(key_of(key), *value);
                        }
                        Op::Delete { key, .. } => {
                            keys.remove(&key_of(key));
                        }
                        Op::DeleteRange { start, end, .. } => {
                            let gone = key_of(start)..key_of(end);
                            keys.retain(|key, _| !gone.contains(key));
                        }
                        Op::Purge { .. } | Op::PurgePrefix { .. } => keys.retain(|key, _| !op.purges(key)),
                    }
                }
                if let Some(first) = ops.first() {
                    let sort = Sort::of(first.keyspace());
                    let mark = sort.digest_of_put(sort.plain_value(b""));
                    state.entry(first.keyspace().to_owned()).or_default().insert(mark_of(self.number), mark);
                }
            }
        }
    }

    fn is_marked(&self, seen: &State) -> bool {
        let What::Write(ops) = &self.what else { return false };
        let keys = ops.first().and_then(|op| seen.get(op.keyspace()));
        keys.is_some_and(|keys| keys.contains_key(&mark_of(self.number)))
    }
}

/// What a run was told.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) events: Vec<Event>,
    /// So many of the events are acknowledged as durable.
    pub(crate) floor: usize,
    pub(crate) newest: u64,
    /// Batches that should have been refused and were not: they may be where what they collide with failed.
    pub(crate) accepted: usize,
    /// How many events the checkpoint must hold, and whether it was acknowledged.
    pub(crate) copied: Option<(usize, bool)>,
    pub(crate) errors: Vec<String>,
    pub(crate) values: Mutex<Values>,
    /// Times that were asked for, each with the number of events before.
    pub(crate) asked: Vec<(SystemTime, usize)>,
    /// The highest horizon that each keyspace told, by the event that created it.
    pub(crate) horizons: BTreeMap<usize, u64>,
    /// Which of the moments are looked at closely.
    pub(crate) salt: usize,
}

/// How what was seen came to be.
pub(crate) struct Explained {
    /// Which events happened.
    pub(crate) happened: Vec<bool>,
}

impl Run {
    /// Which events make up what was seen: at least the first `floor`, of the first `upto`.
    pub(crate) fn explain(&self, seen: &State, floor: usize, upto: usize) -> Result<Explained, String> {
        let events = self.events.get(..upto).unwrap_or(&self.events);
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let open = events.iter().filter(|event| event.fate == Fate::Unknown && !matches!(event.what, What::Write(_)));
        let open: Vec<usize> = open.map(|event| event.number).collect();
        for choice in 0..1_u32 << open.len().min(8) {
            let mut state = State::new();
            let mut all_happened = Vec::new();
            for count in 0..=events.len() {
                if count >= floor && is_seen(&state, seen) {
                    return Ok(Explained { happened: all_happened });
                }
                let Some(event) = events.get(count) else { break };
                let chosen = open.iter().position(|number| *number == event.number);
                let happened = match event.fate {
                    Fate::Sure => true,
                    Fate::Void => false,
                    Fate::Unknown => chosen.map_or(event.is_marked(seen), |bit| choice >> bit & 1 == 1),
                };
                all_happened.push(happened);
                if happened {
                    event.apply(&mut state, &mut values);
                }
            }
        }
        let mut text =
            format!("expected a prefix of {} events with at least the first {floor}; there is", events.len());
        for (name, keys) in seen {
            let _ = write!(text, " {name}:");
            for (key, (len, _)) in keys {
                let _ = write!(text, " {}={len}", key.escape_ascii());
            }
        }
        let _ = write!(text, "; the events were");
        for Event { number, what, fate, .. } in events {
            let what = format!("{what:?}");
            let _ = write!(text, "\n    {number} {fate:?} {}", what.get(..160).unwrap_or(&what));
        }
        Err(text)
    }

    pub(crate) fn all(&self) -> usize {
        self.events.len()
    }

    /// Finds out about what returned an error.
    pub(crate) fn resolve(&mut self, seen: &State) {
        for event in &mut self.events {
            if event.fate == Fate::Unknown && matches!(event.what, What::Write(_)) {
                event.fate = if event.is_marked(seen) { Fate::Sure } else { Fate::Void };
            }
        }
    }
}
