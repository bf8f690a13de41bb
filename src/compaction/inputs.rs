//! Entries as they enter a job, checked for all that the later steps rely on.
//!
//! Rules and writers assert properties of entries: their order, their seqnos, the ends of intervals. But entries come
//! from files, and no assertion may depend on the contents of a file. So each entry is checked here first: a violation
//! is reported as corruption of the file that the entry was read from. Entries from memory are ours, and are asserted.

use std::{cmp::Ordering, path::Path};

use crate::{
    base::{Corruption, Error, Result, Seqno},
    merge::{EntryRef, Source, Until},
};

/// Progress of the entries that came in so far.
#[derive(Debug)]
pub(super) struct Inputs {
    /// Lower bound of all seqnos: the outputs store theirs relative to it.
    base: Seqno,
    /// Previous entry; meaningless before the first.
    key: Vec<u8>,
    seqno: Seqno,
    count: u64,
}

impl Inputs {
    pub(super) fn new(base: Seqno) -> Self {
        Self { base, key: Vec::new(), seqno: Seqno::MAX, count: 0 }
    }

    /// Checks the current entry of a source: keys ascend, and the seqnos of a key descend. Returns whether the entry
    /// begins a key.
    #[inline]
    pub(super) fn admit(&mut self, entry: &EntryRef<'_>, source: &impl Source) -> Result<bool> {
        let order = if self.count == 0 { Ordering::Greater } else { entry.key.cmp(&self.key) };
        let in_order = match order {
            Ordering::Greater => true,
            // Several entries of one commit may be adjacent.
            Ordering::Equal => entry.seqno <= self.seqno,
            Ordering::Less => false,
        };
        let is_sound = entry.seqno >= self.base && entry.gap_start.is_none_or(|gap| gap <= entry.seqno);
        if !in_order || !is_sound {
            self.refuse(entry, source.file(), "entries in order, inside the segment's span")?;
        }
        if order == Ordering::Greater {
            self.key.clear();
            self.key.extend_from_slice(entry.key);
        }
        self.seqno = entry.seqno;
        self.count += 1;
        Ok(order == Ordering::Greater)
    }

    /// Checks a version of the history tier in the same way. It must also have a time, and an interval that is not
    /// empty or has no end.
    #[inline]
    pub(super) fn admit_version(&mut self, entry: &EntryRef<'_>, source: &impl Source) -> Result<bool> {
        let has_interval = match entry.time.zip(entry.until) {
            Some((began, Until::At { seqno, time })) => entry.seqno < seqno && began <= time,
            Some((_, Until::Open)) => true,
            None => false,
        };
        if !has_interval {
            self.refuse(entry, source.file(), "a version with a time and an interval")?;
        }
        self.admit(entry, source)
    }

    /// Returns the number of entries that came in.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    #[cold]
    fn refuse(&self, entry: &EntryRef<'_>, file: Option<&Path>, what: &'static str) -> Result<(), Error> {
        let EntryRef { key, seqno, gap_start, time, until, .. } = entry;
        let (before, last, base) = (self.key.escape_ascii(), self.seqno, self.base);
        assert!(
            file.is_some(),
            "memory has \"{}\"@{seqno} behind \"{before}\"@{last}, base {base}, gap {gap_start:?}, time {time:?}, {until:?}",
            key.escape_ascii()
        );
        file.map_or(Ok(()), |file| Err(Corruption { offset: 0, what }.of(file, 0)))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::base::{Bytes, Kind, Micros};

    /// A source without entries, of a file or in memory.
    struct Of(Option<PathBuf>);

    impl Source for Of {
        fn seek(&mut self, _: Option<&[u8]>) -> Result<()> {
            Ok(())
        }

        fn entry(&self) -> Option<EntryRef<'_>> {
            None
        }

        fn value(&self) -> Bytes {
            Bytes::default()
        }

        fn advance(&mut self) -> Result<()> {
            Ok(())
        }

        fn skip_newer(&mut self, _: &[u8], _: Seqno, _: Seqno) -> Result<()> {
            Ok(())
        }

        fn turned(&self) -> Self {
            Self(self.0.clone())
        }

        fn newest(&self) -> Seqno {
            Seqno(0)
        }

        fn file(&self) -> Option<&Path> {
            self.0.as_deref()
        }
    }

    fn entry(key: &str, seqno: Seqno) -> EntryRef<'_> {
        EntryRef {
            key: key.as_bytes(),
            seqno,
            ordinal: 0,
            kind: Kind::Put,
            gap_start: None,
            moved: false,
            time: Some(Micros(1)),
            until: None,
            value: &[],
        }
    }

    #[test]
    fn what_a_file_says_wrongly_is_corruption_of_that_file() {
        let file = Of(Some(PathBuf::from("segments/9.seg")));
        let mut inputs = Inputs::new(Seqno(5));
        for (key, seqno, begins) in [("", 7, true), ("a", 9, true), ("a", 9, false), ("a", 6, false), ("b", 8, true)] {
            assert_eq!(inputs.admit(&entry(key, Seqno(seqno)), &file).unwrap(), begins, "{key}@{seqno}");
        }
        let above = EntryRef { gap_start: Some(Seqno(10)), ..entry("c", Seqno(9)) };
        for wrong in [entry("b", Seqno(9)), entry("a", Seqno(9)), entry("c", Seqno(4)), above] {
            let refused = inputs.admit(&wrong, &file).unwrap_err();
            assert!(matches!(&refused, Error::Corrupt { path, .. } if path.ends_with("9.seg")), "{refused}");
        }
        let until = |until, time| EntryRef { time, until, ..entry("c", Seqno(9)) };
        let at = |seqno| Some(Until::At { seqno, time: Micros(1) });
        let backwards = until(at(Seqno(10)), Some(Micros(2)));
        let endless = until(None, Some(Micros(1)));
        for wrong in [endless, until(at(Seqno(9)), Some(Micros(1))), until(at(Seqno(10)), None), backwards] {
            assert!(inputs.admit_version(&wrong, &file).is_err(), "{wrong:?}");
        }
        assert!(inputs.admit_version(&until(at(Seqno(10)), Some(Micros(1))), &file).unwrap());
        assert_eq!(inputs.count(), 6);
    }

    #[test]
    #[should_panic(expected = "\"a\"@9 behind \"b\"@8")]
    fn memory_out_of_order_stops_the_job() {
        let mut inputs = Inputs::new(Seqno(0));
        assert!(inputs.admit(&entry("b", Seqno(8)), &Of(None)).unwrap());
        let _refused = inputs.admit(&entry("a", Seqno(9)), &Of(None));
    }
}
