//! What chunks leave in memory once they are flushed: anonymous memory, without the cache of decoded chunks.

use std::{fs, thread, time::Duration};

use chronolith::Stats;
use measure::{Random, Result, SEED};

use crate::{
    store::{Store, Way},
    table::{Goal::AtMost, Table},
};

/// Bytes of a chunk, and chunks of a value.
const CHUNK: usize = 1 << 10;
const OF_VALUE: usize = 1 << 10;

/// Time for background work to come to rest after a flush.
const REST: Duration = Duration::from_secs(2);

pub fn run(table: &mut Table, chunks: usize) -> Result<()> {
    let store = Store::new(Way { fixed: Some(CHUNK as u64), level: None })?;
    let mut random = Random::new(SEED);
    let mut value = vec![0; CHUNK * OF_VALUE];
    // The value that is written is ours; before it is filled it has no memory.
    let (resident_before, in_use_before) = (anonymous()? + value.len() as f64, in_use());
    let mut written = 0;
    let mut fill = |until: usize| -> Result<[f64; 3]> {
        while written < until {
            random.fill(&mut value);
            store.keyspace.put(format!("{written}"), &value)?;
            written += OF_VALUE;
        }
        store.db.flush()?;
        thread::sleep(REST);
        let stats = store.db.stats();
        eprintln!("{}", told(&stats));
        let cached = stats.chunks.cache_bytes as f64;
        Ok([written as f64, anonymous()? - resident_before - cached, in_use() - in_use_before - cached])
    };
    let [_, resident_at_half, _] = fill(chunks / 2)?;
    let [all, resident, in_use] = fill(chunks)?;
    let mib = f64::from(1 << 20);
    table.number("memory at half of the chunks, MiB", resident_at_half / mib, None);
    table.number("memory at all of the chunks, MiB", resident / mib, Some(AtMost(64.0)));
    table.number("memory for each chunk, bytes", resident / all, Some(AtMost(2.0)));
    table.number("allocated for each chunk, bytes", in_use / all, None);
    Ok(store.db.close()?)
}

/// Returns the bytes that are allocated, without those that the allocator keeps for later.
pub fn in_use() -> f64 {
    // SAFETY: it takes nothing, returns a struct of numbers, and may be called at any time.
    let told = unsafe { libc::mallinfo2() };
    (told.uordblks + told.hblkhd) as f64
}

fn told(stats: &Stats) -> String {
    let Stats { index_bytes, memtable_bytes, chunks, .. } = stats;
    format!("index {index_bytes}, memtables {memtable_bytes}, cache {}, packs {}", chunks.cache_bytes, chunks.packs)
}

/// Returns the bytes of anonymous memory of this process that are resident.
fn anonymous() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib: f64 = line.and_then(|line| line.split_whitespace().next()).ok_or("no RssAnon in the status")?.parse()?;
    Ok(kib * 1024.0)
}
