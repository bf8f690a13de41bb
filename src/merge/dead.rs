//! Spans of keys that a scan has found to hold nothing: the next one jumps over them.
//!
//! A queue has its dead keys at the head: each was put and deleted, and until a compaction has taken them away, whoever asks for the first
//! key steps over all of them. What one reader has found out is true for all who come after, until somebody puts a key in between.
//!
//! ```text
//!   scan at 70     a ✗ b ✗ c ✗ … m ✗ n          found: a..n holds nothing from 70 on
//!   put g @71      before 71 becomes visible, the span ends at g
//!   scan at 80     a ▸ g
//! ```
//!
//! A span is noted only if nothing has been put, anywhere, since the moment of the scan: so no put inside can have been missed. (Rejected: range
//! tombstones made of runs of point tombstones while reading, as RocksDB has them since 2026. They would have to be kept apart from those that
//! users wrote.)

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::base::{KeySpan, KeyspaceId, Kind};

/// After so many dead keys in a row a scan looks whether somebody knows how many more there are.
pub(crate) const LOOK_AFTER: usize = 16;

/// So many in a row are worth a note.
const WORTH: usize = 64;

/// Spans remembered at most.
const SPANS_MAX: usize = 16;

/// The spans that are known to hold nothing.
#[derive(Debug, Default)]
pub(crate) struct DeadSpans {
    /// How many there are: zero spares everybody the lock.
    count: AtomicUsize,
    /// The newest commit that put anything.
    newest_put: AtomicU64,
    spans: Mutex<Vec<Dead>>,
}

#[derive(Debug)]
struct Dead {
    keyspace: KeyspaceId,
    span: KeySpan,
    /// Readers of this seqno and later ones find nothing inside.
    since: u64,
}

impl DeadSpans {
    /// Notes the writes of a commit before it becomes visible.
    pub(crate) fn wrote(&self, seqno: u64, keyspace: KeyspaceId, kind: Kind, key: &[u8]) {
        if matches!(kind, Kind::Delete | Kind::RangeDelete | Kind::Purge | Kind::RangePurge) {
            return;
        }
        self.newest_put.store(seqno, Ordering::SeqCst);
        if self.count.load(Ordering::SeqCst) > 0 {
            let mut spans = self.spans.lock();
            for dead in spans.iter_mut().filter(|dead| dead.keyspace == keyspace && dead.span.holds(key)) {
                dead.span.end = Some(key.to_vec());
            }
            spans.retain(|dead| !dead.span.is_empty());
            self.count.store(spans.len(), Ordering::SeqCst);
        }
    }

    /// The span around `key` in which a reader of `seqno` finds nothing.
    pub(crate) fn jump(&self, keyspace: KeyspaceId, key: &[u8], seqno: u64) -> Option<KeySpan> {
        if self.count.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let spans = self.spans.lock();
        let holds = |dead: &&Dead| dead.keyspace == keyspace && dead.since <= seqno && dead.span.holds(key);
        spans.iter().find(holds).map(|dead| dead.span.clone())
    }

    /// A reader of `seqno` has found nothing in `count` keys from `start` to before `end`.
    pub(crate) fn found(&self, keyspace: KeyspaceId, span: KeySpan, seqno: u64, count: usize) {
        let mut spans = self.spans.lock();
        // Under the lock: a put that is not seen here will find the span.
        self.count.store(spans.len() + 1, Ordering::SeqCst);
        if self.newest_put.load(Ordering::SeqCst) <= seqno && !span.is_empty() {
            let before = spans.iter_mut().find(|dead| {
                let goes_on = dead.span.end.as_ref().is_some_and(|end| *end >= span.start);
                dead.keyspace == keyspace && dead.span.start <= span.start && goes_on
            });
            match before {
                Some(dead) => {
                    if span.end.is_none() || span.end > dead.span.end {
                        dead.span.end = span.end;
                    }
                    dead.since = dead.since.max(seqno);
                }
                None if count >= WORTH => {
                    if spans.len() >= SPANS_MAX {
                        spans.remove(0);
                    }
                    spans.push(Dead { keyspace, span, since: seqno });
                }
                None => {}
            }
        }
        self.count.store(spans.len(), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KS: KeyspaceId = KeyspaceId(16);

    fn span(start: &str, end: &str) -> KeySpan {
        KeySpan { start: start.into(), end: Some(end.into()) }
    }

    fn end(dead: &DeadSpans, key: &str, seqno: u64) -> Option<String> {
        let span = dead.jump(KS, key.as_bytes(), seqno)?;
        Some(span.end.map_or("the end".to_owned(), |end| String::from_utf8(end).unwrap()))
    }

    #[test]
    fn a_span_is_jumped_over_until_somebody_puts_a_key_in_it() {
        let dead = DeadSpans::default();
        dead.found(KS, span("a", "n"), 70, 100);
        assert_eq!(end(&dead, "b", 70).as_deref(), Some("n"));
        assert_eq!(end(&dead, "b", 69), None);
        assert_eq!(end(&dead, "n", 80), None);
        dead.wrote(71, KS, Kind::Delete, b"g");
        dead.wrote(72, KeyspaceId(17), Kind::Put, b"g");
        assert_eq!(end(&dead, "b", 80).as_deref(), Some("n"));
        dead.wrote(73, KS, Kind::Put, b"g");
        assert_eq!(end(&dead, "b", 80).as_deref(), Some("g"));
        assert_eq!(end(&dead, "h", 80), None);
        dead.wrote(74, KS, Kind::Put, b"a");
        assert_eq!(end(&dead, "b", 80), None);
    }

    #[test]
    fn what_an_old_scan_has_found_counts_for_nothing_once_anything_was_put() {
        let dead = DeadSpans::default();
        dead.wrote(71, KS, Kind::Put, b"g");
        dead.found(KS, span("a", "n"), 70, 100);
        assert_eq!(end(&dead, "b", 80), None);
        dead.found(KS, span("a", "g"), 71, 100);
        dead.found(KS, span("c", "f"), 75, 20);
        assert_eq!(end(&dead, "b", 75).as_deref(), Some("g"));
    }

    #[test]
    fn a_span_grows_at_its_end() {
        let dead = DeadSpans::default();
        dead.found(KS, span("a", "g"), 70, 100);
        dead.found(KS, span("g", "k"), 80, 16);
        assert_eq!(end(&dead, "b", 80).as_deref(), Some("k"));
        dead.found(KS, KeySpan { start: b"k".to_vec(), end: None }, 90, 16);
        assert_eq!(end(&dead, "b", 90).as_deref(), Some("the end"));
    }
}
