//! The threads that put a map together: workers make ranges of it, whichever is free, and the caller writes them in
//! order.
//!
//! ```text
//!   Window ─ take ─▶ worker ─ a range made ─▶ channel ─▶ writer: waits for the next in order ─ wrote one ─▶ Window
//! ```
//!
//! The bytes of the result depend on what goes in and the seed; not on memory or threads.

use std::{
    any::Any,
    collections::BTreeMap,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use super::{
    range::{Combine, Inputs, different_keys, make_range},
    reader::Map,
    refs::REF_LEN,
    writer::{MapWriter, Packed},
};
use crate::{
    base::{Error, Result},
    phash::{build::Builder, partition::partition_count},
};

/// Memory for building and merging, by default.
pub(super) const BUDGET_DEFAULT: u64 = 256 << 20;

/// The smallest budget that is used, whatever is asked for.
pub(super) const BUDGET_MIN: u64 = 1 << 20;

/// References that one range has at most: with more, its tables leave the caches.
const RANGE_REFS_MAX: u64 = 1 << 18;

/// Bytes of entries in a partition, on average, at most.
const PARTITION_BYTES: u64 = 1 << 20;

/// More threads than any machine has use for.
const THREADS_MAX: usize = 256;

/// A worker that waits looks this often whether it should go on.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// As many threads as the machine runs at once.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// How far a merge has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Entries of the maps that are merged and written.
    pub entries: u64,
    /// Entries of all maps.
    pub total: u64,
}

/// Work on ranges, some at a time: the writer is never far behind, so that what waits for it is bounded.
struct Window {
    state: Mutex<WindowState>,
    moved: Condvar,
}

struct WindowState {
    next: u64,
    written: u64,
    stopped: bool,
}

impl Window {
    /// The next range to work on; nothing at the end, or when the work is broken off.
    fn take(&self, ranges: u64, ahead: u64) -> Option<u64> {
        let mut state = self.state.lock();
        loop {
            if state.stopped || state.next >= ranges {
                return None;
            }
            if state.next < state.written + ahead {
                state.next += 1;
                return Some(state.next - 1);
            }
            self.moved.wait_for(&mut state, LOOK_AGAIN);
        }
    }

    fn wrote_one(&self) {
        self.state.lock().written += 1;
        self.moved.notify_all();
    }
}

/// Ends the work when it goes: also when whoever writes unwinds.
struct StopAtEnd<'a>(&'a Window);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.state.lock().stopped = true;
        self.0.moved.notify_all();
    }
}

/// What a worker made of a range: its partitions, and how many entries went in.
type Made = Result<(Vec<Packed>, u64), Broken>;

/// Why the work was broken off.
enum Broken {
    Error(Error),
    /// The user's own strategy panicked: the caller carries it on.
    Panic(Box<dyn Any + Send>),
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// Writes a map of everything in `inputs`, with as much memory and as many threads.
pub(super) fn write_map(
    path: &Path,
    seed: u64,
    inputs: &impl Inputs,
    combine: &Combine<'_>,
    (memory, threads): (u64, usize),
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Map> {
    let total = inputs.count();
    // A partition is put together in memory: where entries are long, there are fewer in one. Whatever the budget, so
    // that it changes no byte.
    let partitions = partition_count(different_keys(inputs, total)?).max(inputs.bytes() / PARTITION_BYTES);
    let threads = threads.min(THREADS_MAX);
    let mut writer = MapWriter::create(path, seed)?;

    // References twice over, entries as they come and as they go; in every thread, and waiting for the writer.
    let entry_len = inputs.bytes() / total.max(1) + 1;
    let memory_refs = memory / (3 * threads as u64) / (2 * REF_LEN + 2 * entry_len);
    let range_refs = memory_refs.min(RANGE_REFS_MAX).min(total / (4 * threads as u64));
    let per_range = (range_refs * partitions / total.max(1)).max(1);
    let ranges = partitions.div_ceil(per_range);
    let threads = threads.min(usize::try_from(ranges).unwrap_or(usize::MAX));

    let window =
        Window { state: Mutex::new(WindowState { next: 0, written: 0, stopped: false }), moved: Condvar::new() };
    let work = |builder: &mut Builder, range: u64| {
        let (from, to) = (range * per_range, ((range + 1) * per_range).min(partitions));
        make_range(builder, inputs, combine, (from, to), partitions)
    };
    let (sender, receiver) = sync_channel::<(u64, Made)>(threads);
    let written = std::thread::scope(|scope| {
        // Workers that wait or send when this ends must not do so for ever: the receiver goes first, then the work
        // ends.
        let _stop = StopAtEnd(&window);
        let receiver = receiver;
        for number in 0..threads {
            let (window, work, sender) = (&window, &work, sender.clone());
            let worker = std::thread::Builder::new().name(format!("chronolith-map-{number}"));
            let spawned =
                worker.spawn_scoped(scope, move || run_worker(window, work, &sender, ranges, threads as u64 + 1));
            if let Err(error) = spawned {
                return Err(Broken::Error(Error::io("start a thread for", path, error)));
            }
        }
        drop(sender);
        write_in_order(&mut writer, &receiver, &window, total, progress)
    });
    match written {
        Ok(()) => writer.finish(combine.shape),
        Err(Broken::Error(error)) => Err(error),
        Err(Broken::Panic(panic)) => resume_unwind(panic),
    }
}

fn run_worker(
    window: &Window,
    work: &(impl Fn(&mut Builder, u64) -> Result<(Vec<Packed>, u64)> + Sync),
    sender: &SyncSender<(u64, Made)>,
    ranges: u64,
    ahead: u64,
) {
    let mut builder = Builder::default();
    while let Some(range) = window.take(ranges, ahead) {
        let made = catch_unwind(AssertUnwindSafe(|| work(&mut builder, range)));
        let made = made.map_err(Broken::Panic).and_then(|made| Ok(made?));
        // Nobody receives any more when the work was broken off.
        if sender.send((range, made)).is_err() {
            return;
        }
    }
}

/// Writes ranges in their order. The first error in that order is the one that is told, whichever came first.
fn write_in_order(
    writer: &mut MapWriter,
    receiver: &Receiver<(u64, Made)>,
    window: &Window,
    total: u64,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(), Broken> {
    let mut early = BTreeMap::new();
    let mut next = 0;
    let mut entries = 0;
    for (range, made) in receiver {
        early.insert(range, made);
        while let Some(made) = early.remove(&next) {
            let (packed, count) = made?;
            for packed in &packed {
                writer.add(packed)?;
            }
            next += 1;
            window.wrote_one();
            entries += count;
            if progress(Progress { entries, total }).is_break() {
                return Err(Error::Cancelled.into());
            }
        }
    }
    Ok(())
}
