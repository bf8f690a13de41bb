//! What every set is given: an engine to open, phases that are timed and printed, and what they
//! share of keys and values.

use super::params::Params;
use crate::engine::*;
use crate::meter::*;
use anyhow::Result;
use std::cell::Cell;
use std::path::PathBuf;

pub struct Ctx {
    pub p: Params,
    pub entry: Entry,
    pub set: String,
    pub round: u32,
    pub dir: PathBuf,
}

thread_local!(static SINK: Cell<u64> = const { Cell::new(0) });

/// Reads a byte of every cache line, as a caller that uses the value would.
#[inline]
pub(super) fn touch(v: &[u8]) {
    let sum: u64 = v.iter().step_by(64).map(|&b| b as u64).sum();
    SINK.set(SINK.get().wrapping_add(sum));
}

pub(super) const SMALL: usize = 100;
/// A time cap, in seconds, that no phase reaches.
pub(super) const FOREVER: f64 = 1e6;

/// Writes in batches of `size`: `make(i, key, value)` makes the i-th entry.
pub(super) struct Batcher {
    entries: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Batcher {
    pub(super) fn new(size: usize, value_len: usize) -> Self {
        Batcher { entries: vec![(Vec::new(), vec![0; value_len]); size] }
    }

    pub(super) fn write(
        &mut self,
        m: &mut Meter,
        db: &dyn Engine,
        n: usize,
        mut make: impl FnMut(usize, &mut Vec<u8>, &mut [u8]),
    ) -> Result<()> {
        let used = &mut self.entries[..n];
        for (i, (k, v)) in used.iter_mut().enumerate() {
            make(i, k, v);
            m.user_bytes += (k.len() + v.len()) as u64;
        }
        let ops: Vec<Op> = used.iter().map(|(k, v)| Op { key: k, value: Some(v) }).collect();
        m.time_n(n as u64, || db.write(&ops))
    }
}

pub(super) fn set_key(to: &mut Vec<u8>, key: &[u8]) {
    to.clear();
    to.extend_from_slice(key);
}

impl Ctx {
    pub(super) fn opts(&self) -> OpenOpts {
        OpenOpts {
            sync: false,
            cache_bytes: self.p.cache_mb << 20,
            write_buffer: self.p.write_buffer_mb << 20,
            threads: self.p.threads,
            large_values: false,
            versions: self.entry.versions,
            cold: false,
        }
    }

    pub(super) fn open(&self, o: &OpenOpts) -> Result<Box<dyn Engine>> {
        (self.entry.open)(&self.dir, o)
    }

    pub(super) fn emit(&self, phase: &str, r: Record) {
        let r = Record {
            engine: self.entry.name.into(),
            set: self.set.clone(),
            phase: phase.into(),
            round: self.round,
            load1: load1(),
            ..r
        };
        println!("{}", serde_json::to_string(&r).expect("json"));
    }

    /// Runs `op` up to `max_ops` times within the time cap, and prints the record.
    pub(super) fn phase(
        &self,
        name: &str,
        max_ops: u64,
        cap_s: f64,
        mut op: impl FnMut(&mut Meter, u64) -> Result<()>,
    ) -> Result<u64> {
        let span = Span::start();
        let mut m = Meter::new(cap_s * self.p.time);
        let mut i = 0;
        while m.ops < max_ops && !m.over() {
            op(&mut m, i)?;
            i += 1;
        }
        let ops = m.ops;
        if max_ops > 0 {
            self.emit(name, span.finish(&m, max_ops));
        }
        Ok(ops)
    }

    /// Times `f` as one operation and prints the record with the size on disk.
    pub(super) fn once(
        &self,
        name: &str,
        ops: u64,
        f: impl FnOnce() -> Result<String>,
    ) -> Result<()> {
        let span = Span::start();
        let mut m = Meter::new(FOREVER);
        let note = m.time_n(ops.max(1), f)?;
        let r = span.finish(&m, ops);
        self.emit(name, Record { note, disk_bytes: disk_usage(&self.dir), ..r });
        Ok(())
    }

    /// Flushes and compacts, and prints the write volume of the process so far and the size.
    pub(super) fn settle(
        &self,
        db: &dyn Engine,
        name: &str,
        live_bytes: u64,
        written: u64,
    ) -> Result<()> {
        let span = Span::start();
        let mut m = Meter::new(FOREVER);
        let compacted = m.time(|| -> Result<bool> {
            db.flush()?;
            db.compact()
        })?;
        m.user_bytes = written;
        let r = span.finish(&m, 1);
        let total = Usage::now();
        self.emit(
            name,
            Record {
                write_bytes: total.write_bytes,
                wchar: total.wchar,
                disk_bytes: disk_usage(&self.dir),
                note: format!("live_bytes={live_bytes} compacted={compacted}"),
                ..r
            },
        );
        Ok(())
    }
}
