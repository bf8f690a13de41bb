//! Threads that put a map together: workers build ranges of it, whichever is free, and the caller writes them in order.
//!
//! ```text
//!   Window ─ take ─▶ worker ─ a range made ─▶ channel ─▶ writer: waits for the next in order ─ wrote one ─▶ Window
//! ```
//!
//! The bytes of the result depend on the inputs and the seed; not on memory or threads.

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

/// Default memory for building and merging.
pub(super) const BUDGET_DEFAULT: u64 = 256 << 20;

/// Minimum budget, whatever is requested.
pub(super) const BUDGET_MIN: u64 = 1 << 20;

/// Maximum number of references in one range: with more, its tables no longer fit the caches.
const RANGE_REFS_MAX: u64 = 1 << 18;

/// Maximum average size of the entries in a partition, in bytes.
const PARTITION_BYTES: u64 = 1 << 20;

/// Maximum number of threads, more than any machine can use.
const THREADS_MAX: usize = 256;

/// Interval at which a waiting worker checks whether it should go on.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Returns the number of threads that the machine runs at once.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Progress of a merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Entries of the maps that have been merged and written.
    pub entries: u64,
    /// Entries of all maps.
    pub total: u64,
}

/// Ranges being worked on: workers are never far ahead of the writer, so that finished ranges waiting for it are
/// bounded.
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
    /// Takes the next range to work on; `None` at the end, or after the work was stopped.
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

/// Stops the work on drop, also when the writer unwinds.
struct StopAtEnd<'a>(&'a Window);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.state.lock().stopped = true;
        self.0.moved.notify_all();
    }
}

/// Result of a worker for a range: its partitions, and the number of entries that went in.
type Made = Result<(Vec<Packed>, u64), Broken>;

/// Reason why the work was stopped.
enum Broken {
    Error(Error),
    /// The user's strategy panicked: the caller resumes the panic.
    Panic(Box<dyn Any + Send>),
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// Writes a map of everything in `inputs`, with the given memory and threads.
pub(super) fn write_map(
    path: &Path,
    seed: u64,
    inputs: &impl Inputs,
    combine: &Combine<'_>,
    memory: u64,
    threads: usize,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Map> {
    let total = inputs.count();
    // A partition is put together in memory: if entries are long, it holds fewer of them. That does not depend on the
    // budget, which must not change a byte.
    let partitions = partition_count(different_keys(inputs, total)?).max(inputs.bytes() / PARTITION_BYTES);
    let threads = threads.min(THREADS_MAX);
    let mut writer = MapWriter::create(path, seed)?;

    // References twice, entries as read and as written; in every thread, and waiting for the writer.
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
        make_range(builder, inputs, combine, from..to, partitions)
    };
    let (sender, receiver) = sync_channel::<(u64, Made)>(threads);
    let written = std::thread::scope(|scope| {
        // Workers must not wait or send for ever once this ends: the receiver is dropped first, then the work is
        // stopped.
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
        // The receiver is gone once the work was stopped.
        if sender.send((range, made)).is_err() {
            return;
        }
    }
}

/// Writes ranges in order. The first error in that order is returned, whichever occurred first.
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
