//! What one byte, inserted anywhere into a value of 1 GiB, stores anew: bytes of chunks and nodes in packs.

use std::io::Write;

use measure::{Random, Result, SEED, clock::median};

use crate::{
    corpus::PIECE,
    store::{Store, Way},
    table::{Goal::AtMost, Table},
};

const LEN: usize = 1 << 30;

pub fn run(table: &mut Table, places: usize) -> Result<()> {
    let store = Store::new(Way { fixed: None, level: None })?;
    let mut random = Random::new(SEED);
    let mut value = vec![0; LEN];
    random.fill(&mut value);
    store.write("before", &value)?;
    let stored_bytes = || store.db.stats().chunks.stored_bytes;
    let mut added = Vec::new();
    for number in 0..places {
        let before = stored_bytes();
        let (head, tail) = value.split_at(random.below(LEN));
        let mut writer = store.keyspace.writer(format!("after {number}"))?;
        for piece in head.chunks(PIECE).chain([&b"+"[..]]).chain(tail.chunks(PIECE)) {
            writer.write_all(piece)?;
        }
        writer.finish()?;
        added.push((stored_bytes() - before) as f64);
    }
    let most = added.iter().copied().fold(0.0, f64::max);
    table.number("KiB stored anew for one byte inserted into 1 GiB", median(&added) / 1024.0, Some(AtMost(64.0)));
    table.number("the same, at the worst place", most / 1024.0, None);
    Ok(store.db.close()?)
}
