//! Reads everything that is there, every way.

use std::collections::BTreeMap;

use chronolith::{Db, Error, Keyspace, Range, View};

use crate::{
    keyspaces::{Sort, stored_options_of},
    oracle::{Content, NOW, PINS, State, us},
    workload::key_of,
};

/// How much is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// That it opens, and what is there.
    Look,
    /// And that it goes on working: writes, closes, opens.
    Work,
    /// And that a power cut after all that was made durable takes nothing.
    CutAgain,
}

pub(crate) fn failed(what: &str) -> impl Fn(Error) -> String {
    move |error| format!("{what}: {error} ({error:?})")
}

/// Reads everything, every way, and checks that all ways agree.
pub(crate) fn observe(db: &Db, view: Option<&View>) -> Result<State, String> {
    let mut state = State::new();
    for name in db.keyspaces() {
        let keyspace = db.keyspace(&name, stored_options_of(&name)).map_err(failed("keyspace"))?;
        if Sort::of(&name) == Sort::Brief {
            let now = us(view.map_or_else(|| db.snapshot().time(), View::time));
            state.insert(NOW.to_owned(), Content::from([(Vec::new(), (0, now / 1_000_000 * 1_000_000))]));
        }
        state.insert(name, observe_keyspace(&keyspace, view)?);
    }
    let pins = db.pins();
    if !pins.is_empty() && view.is_none() {
        state.insert(PINS.to_owned(), pins.into_iter().map(|pin| (pin.name.into_bytes(), (0, 0))).collect());
    }
    Ok(state)
}

pub(crate) fn observe_keyspace(keyspace: &Keyspace, view: Option<&View>) -> Result<Content, String> {
    let range = || -> Range { view.map_or_else(|| keyspace.range(..), |view| view.range(keyspace, ..)) };
    let forward: Vec<_> = range().collect::<Result<_, _>>().map_err(failed("scan"))?;
    let mut backward: Vec<_> = range().rev().collect::<Result<_, _>>().map_err(failed("scan backward"))?;
    backward.reverse();
    if forward != backward {
        return Err(format!("forward there are {} keys, backward {}, or they differ", forward.len(), backward.len()));
    }
    let get = |key: &[u8]| match view {
        None => keyspace.get(key),
        Some(view) => view.get(keyspace, key),
    };
    let mut keys = BTreeMap::new();
    for (key, value) in &forward {
        if get(key).map_err(failed("get"))?.as_ref() != Some(value) {
            return Err(format!("the scan has key {}, and get says something else", key.escape_ascii()));
        }
        keys.insert(key.to_vec(), Sort::of(keyspace.name()).digest_of_read(value));
    }
    for absent in (0..12).map(key_of).filter(|key| !keys.contains_key(key)) {
        if get(&absent).map_err(failed("get"))?.is_some() {
            return Err(format!("get has key {}, and the scan has not", absent.escape_ascii()));
        }
    }
    Ok(keys)
}

pub(crate) fn verify(db: &Db) -> Result<(), String> {
    let report = db.verify().map_err(failed("verify"))?;
    if report.is_clean() { Ok(()) } else { Err(format!("verify: {report}")) }
}
