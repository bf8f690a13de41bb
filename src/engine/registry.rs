//! The seqnos that somebody may still read: what flushes and compactions obey.
//!
//! ```text
//!   a job takes the list ──────── works ──────── installs its edit
//!             │                                        │
//!   view A at 12: in the list        view B at 15, registered meanwhile: not in the list.
//!   the job keeps what A sees        The job may have dropped what B sees: B keeps the files of its birth.
//! ```
//!
//! Rule J1 of `docs/versions.md`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// A registered reader.
#[derive(Debug)]
struct Reader {
    seqno: u64,
    /// Set when its files must stay those of its birth.
    frozen: Arc<AtomicBool>,
}

/// Who reads what, by the order of registration.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    readers: BTreeMap<u64, Reader>,
    next: u64,
}

/// The list that a job works by.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registered {
    /// Ascending, each once.
    pub(crate) seqnos: Vec<u64>,
    /// Readers registered from this ticket on are not in the list.
    upto: u64,
}

impl Registry {
    /// Registers a reader; the ticket ends the registration.
    pub(crate) fn register(&mut self, seqno: u64) -> (u64, Arc<AtomicBool>) {
        let frozen = Arc::new(AtomicBool::new(false));
        let ticket = self.next;
        self.next += 1;
        self.readers.insert(ticket, Reader { seqno, frozen: Arc::clone(&frozen) });
        (ticket, frozen)
    }

    pub(crate) fn release(&mut self, ticket: u64) {
        self.readers.remove(&ticket);
    }

    /// The list as of now.
    pub(crate) fn list(&self) -> Registered {
        let mut seqnos: Vec<u64> = self.readers.values().map(|reader| reader.seqno).collect();
        seqnos.sort_unstable();
        seqnos.dedup();
        Registered { seqnos, upto: self.next }
    }

    pub(crate) fn count(&self) -> usize {
        self.readers.len()
    }

    /// The oldest seqno that is read.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.readers.values().map(|reader| reader.seqno).min()
    }

    /// Freezes the readers that a job did not know of and whose past it may have dropped. To be called, under the lock, before
    /// the job's files become current.
    pub(crate) fn freeze(&self, list: &Registered, newest_superseder: u64) {
        for reader in self.readers.range(list.upto..).map(|(_, reader)| reader) {
            if reader.seqno < newest_superseder {
                reader.frozen.store(true, Ordering::SeqCst);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_came_after_the_list_and_reads_below_a_drop_is_frozen() {
        let mut registry = Registry::default();
        let (_, early) = registry.register(12);
        let list = registry.list();
        let (_, late) = registry.register(15);
        let (_, present) = registry.register(30);
        registry.freeze(&list, 30);
        let frozen = |flag: Arc<AtomicBool>| flag.load(Ordering::SeqCst);
        assert_eq!((frozen(early), frozen(late), frozen(present)), (false, true, false));
    }

    #[test]
    fn a_seqno_stays_until_its_last_reader_goes() {
        let mut registry = Registry::default();
        let (first, _) = registry.register(7);
        let (second, _) = registry.register(7);
        registry.release(first);
        assert_eq!(registry.list().seqnos, [7]);
        registry.release(second);
        assert_eq!(registry.list().seqnos, [0; 0]);
    }
}
