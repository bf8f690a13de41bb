//! The seqnos that may still be read, which flushes and compactions respect.
//!
//! ```text
//!   a job takes the list ──────── works ──────── installs its edit
//!             │                                        │
//!   view A at 12: in the list        view B at 15, registered meanwhile: not in the list.
//!   the job keeps what A sees        The job may have dropped what B sees: B keeps its files.
//! ```
//!
//! Rule J1 of `docs/versions.md`. A job takes the files that it works on, then the list ([`JobInputs`]): so every
//! reader that could read anything in those files when they were taken is in the list. The same holds for pins, which
//! are never frozen.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use super::superversion::SuperVersion;
use crate::{
    base::{Micros, Seqno},
    compaction::{Reader, Readers},
    engine::locks::RwLock,
};

/// A registered reader.
#[derive(Debug)]
struct Registration {
    reader: Reader,
    /// Set when it must keep the files that it has.
    frozen: Arc<AtomicBool>,
    held: Held,
}

/// Files and iterators of a reader.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    /// Files that it reads next.
    pub(crate) files: Weak<RwLock<Arc<SuperVersion>>>,
    /// Cloned by each running iterator; iterators stay on the files that they began with.
    pub(crate) iterators: Arc<()>,
}

impl Held {
    /// Returns whether iterators are running: two clones belong to the view and its registration.
    fn iterates(&self) -> bool {
        Arc::strong_count(&self.iterators) > 2
    }
}

/// A view, as the statistics report it.
pub(crate) struct ViewHold {
    pub(crate) seqno: Seqno,
    /// Running iterators.
    pub(crate) iterators: u64,
    /// Files that it reads next; running iterators may be on older ones.
    pub(crate) files: Option<Arc<SuperVersion>>,
}

/// Registered readers, in order of registration, and pins.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    readers: BTreeMap<u64, Registration>,
    next: u64,
    /// Pinned moments: kept readable without a registered reader.
    pins: Vec<Reader>,
}

/// The readers that a job respects.
#[derive(Debug)]
pub(crate) struct ReaderList {
    pub(crate) readers: Arc<Readers>,
    /// First ticket that is not in the list.
    upto: u64,
}

/// The files that a job works on and the readers that it must not drop anything from; jobs get either only through
/// this.
#[derive(Debug)]
pub(crate) struct JobInputs {
    pub(crate) files: Arc<SuperVersion>,
    pub(crate) registered: ReaderList,
    /// Newest seqno in the sealed memtables and segments.
    pub(super) newest: Seqno,
}

impl Registry {
    /// Registers a reader; returns the ticket that ends the registration, and the flag that freezes it.
    pub(crate) fn register(&mut self, reader: Reader, held: Held) -> (u64, Arc<AtomicBool>) {
        let frozen = Arc::new(AtomicBool::new(false));
        let ticket = self.next;
        self.next += 1;
        self.readers.insert(ticket, Registration { reader, frozen: Arc::clone(&frozen), held });
        (ticket, frozen)
    }

    pub(crate) fn release(&mut self, ticket: u64) {
        self.readers.remove(&ticket);
    }

    /// Replaces the pinned moments.
    pub(crate) fn set_pins(&mut self, pins: Vec<Reader>) {
        self.pins = pins;
    }

    /// Returns the seqnos of registered readers and pins, ascending, without duplicates.
    pub(crate) fn seqnos(&self) -> Vec<Seqno> {
        self.list().readers.seqnos().to_vec()
    }

    /// Returns the earliest time that a registered reader or a pin reads at, in microseconds.
    pub(crate) fn earliest(&self) -> Option<Micros> {
        let times = self.readers.values().map(|registration| registration.reader.time);
        times.chain(self.pins.iter().map(|pin| pin.time)).min()
    }

    /// Returns the current list; for [`JobInputs`] alone.
    pub(super) fn list(&self) -> ReaderList {
        let readers: Vec<Reader> =
            self.readers.values().map(|registration| registration.reader).chain(self.pins.iter().copied()).collect();
        ReaderList { readers: Arc::new(Readers::new(readers)), upto: self.next }
    }

    pub(crate) fn count(&self) -> usize {
        self.readers.len()
    }

    /// Gives `current` to the readers that are not frozen, so that idle views hold no old files. Returns the files that
    /// they had, to be dropped outside the lock, and the seqnos of the readers that hold old files nevertheless.
    pub(crate) fn rebase(&self, current: &Arc<SuperVersion>) -> (Vec<Arc<SuperVersion>>, Vec<Seqno>) {
        let (mut old, mut holding) = (Vec::with_capacity(self.readers.len()), Vec::new());
        for Registration { reader, frozen, held } in self.readers.values() {
            let frozen = frozen.load(Ordering::SeqCst);
            if let Some(files) = held.files.upgrade().filter(|_| !frozen) {
                old.push(std::mem::replace(&mut *files.write(), Arc::clone(current)));
            }
            if frozen || held.iterates() {
                holding.push(reader.seqno);
            }
        }
        (old, holding)
    }

    /// Returns each view with what it holds.
    pub(crate) fn holders(&self) -> impl Iterator<Item = ViewHold> {
        self.readers.values().map(|Registration { reader, held, .. }| ViewHold {
            seqno: reader.seqno,
            iterators: Arc::strong_count(&held.iterators).saturating_sub(2) as u64,
            files: held.files.upgrade().map(|files| Arc::clone(&files.read())),
        })
    }

    /// Returns the oldest seqno of a registered reader.
    pub(crate) fn oldest(&self) -> Option<Seqno> {
        self.readers.values().map(|registration| registration.reader.seqno).min()
    }

    /// Freezes the readers that a job did not know of and whose history it may have dropped. Called under the lock,
    /// before the job's files become current.
    pub(crate) fn freeze(&self, inputs: &JobInputs, newest_superseder: Seqno) {
        let JobInputs { registered, newest, .. } = inputs;
        for pin in self.pins.iter().filter(|pin| registered.readers.seqnos().binary_search(&pin.seqno).is_err()) {
            assert!(pin.seqno > *newest, "a pin at {} below {newest} that a job did not know of", pin.seqno);
        }
        for registration in self.readers.range(registered.upto..).map(|(_, registration)| registration) {
            if registration.reader.seqno < newest_superseder {
                registration.frozen.store(true, Ordering::SeqCst);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::{
        base::FileNumber,
        engine::{files::chunks::ChunkSet, locks::LockOrder},
        memtable::Memtable,
    };

    fn at(seqno: u64) -> Reader {
        let seqno = Seqno(seqno);
        Reader { seqno, purge_horizon: seqno, time: Micros::ZERO }
    }

    fn inputs(registry: &Registry, newest: Seqno) -> JobInputs {
        let chunks = ChunkSet::none(LockOrder::new());
        let files = Arc::new(SuperVersion::new(Arc::new(Memtable::new(FileNumber(1))), Vec::new(), chunks));
        JobInputs { files, registered: registry.list(), newest }
    }

    #[test]
    #[should_panic(expected = "a pin at 12 below 12 that a job did not know of")]
    fn a_pin_that_a_job_did_not_know_of_and_may_have_taken_from_is_never_installed_over() {
        let mut registry = Registry::default();
        let inputs = inputs(&registry, Seqno(12));
        registry.set_pins(vec![at(12)]);
        registry.freeze(&inputs, Seqno(30));
    }

    #[test]
    fn a_reader_that_came_after_the_list_and_reads_below_a_drop_is_frozen() {
        let mut registry = Registry::default();
        let (_, early) = registry.register(at(12), Held::default());
        let inputs = inputs(&registry, Seqno(12));
        let (_, late) = registry.register(at(15), Held::default());
        let (_, present) = registry.register(at(30), Held::default());
        registry.freeze(&inputs, Seqno(30));
        let frozen = |flag: Arc<AtomicBool>| flag.load(Ordering::SeqCst);
        assert_eq!((frozen(early), frozen(late), frozen(present)), (false, true, false));
    }

    #[test]
    fn a_seqno_stays_until_its_last_reader_goes() {
        let mut registry = Registry::default();
        let (first, _) = registry.register(at(7), Held::default());
        let (second, _) = registry.register(at(7), Held::default());
        registry.release(first);
        assert_eq!(registry.seqnos(), [Seqno(7)]);
        registry.release(second);
        assert_eq!(registry.seqnos(), [Seqno(0); 0]);
    }
}
