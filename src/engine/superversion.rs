//! What reads go through: the memtables and the segments of one moment, as one immutable value.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;

use crate::{
    base::{KeySpan, KeyspaceId, Result, head},
    env::{Dir, Origin},
    format::name,
    manifest::Version,
    memtable::Memtable,
    segment::{Finished, IndexNumbers, Past, Segment},
};

/// Files that nobody reads any more and no manifest names: to be removed by background work.
#[derive(Debug, Default)]
pub(crate) struct Reclaim {
    /// In a process that was forked from this one nobody asks for the lock, and nothing is removed.
    pub(crate) origin: Origin,
    state: Mutex<ReclaimState>,
}

#[derive(Debug, Default)]
struct ReclaimState {
    names: Vec<String>,
    /// The directory may belong to somebody else by now.
    ended: bool,
}

impl Reclaim {
    pub(crate) fn add(&self, name: String) {
        if !self.origin.is_forked() {
            self.state.lock().names.push(name);
        }
    }

    pub(crate) fn add_segments(&self, numbers: impl IntoIterator<Item = u64>) {
        self.state.lock().names.extend(numbers.into_iter().map(name::segment));
    }

    /// Removes what it can, in order; what cannot be removed now stays for the next time.
    pub(crate) fn run(&self, dir: &dyn Dir) {
        let mut state = self.state.lock();
        if !state.ended {
            state.names.sort_unstable();
            state.names.retain(|name| matches!(dir.remove(name), Err(e) if e.kind() != std::io::ErrorKind::NotFound));
        }
    }

    /// Removes what it can for the last time.
    pub(crate) fn end(&self, dir: &dyn Dir) {
        self.run(dir);
        self.state.lock().ended = true;
    }
}

/// A segment of a version, opened when it is first read.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) meta: Arc<Finished>,
    dir: Arc<dyn Dir>,
    map: bool,
    segment: OnceLock<Arc<Segment>>,
    /// No version names it any more: the file goes with the last reader.
    obsolete: AtomicBool,
    reclaim: Arc<Reclaim>,
}

impl Table {
    /// The open segment.
    #[inline]
    pub(crate) fn segment(&self) -> Result<&Arc<Segment>> {
        match self.segment.get() {
            Some(segment) => Ok(segment),
            None => self.open(),
        }
    }

    /// The segment, if it is open already.
    #[inline]
    pub(crate) fn open_segment(&self) -> Option<&Segment> {
        self.segment.get().map(|segment| &**segment)
    }

    #[cold]
    fn open(&self) -> Result<&Arc<Segment>> {
        // Two threads may open it at once; one of the two stays.
        let segment = Arc::new(Segment::open(&*self.dir, &self.meta, self.map)?);
        Ok(self.segment.get_or_init(|| segment))
    }

    /// Memory that it keeps while it is open.
    pub(crate) fn memory(&self) -> usize {
        self.segment.get().map_or(0, |segment| segment.memory())
    }

    /// What its index takes in the file; nothing when it has none, or is not open.
    pub(crate) fn index_numbers(&self) -> Option<IndexNumbers> {
        self.segment.get()?.index_numbers()
    }

    /// Whether a read at `seqno` can be affected by what is here (K9).
    #[inline]
    pub(crate) fn matters_at(&self, seqno: u64) -> bool {
        seqno >= self.meta.summary.lowest_affected
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        if self.obsolete.load(Ordering::Acquire) {
            self.reclaim.add(name::segment(self.meta.number));
        }
    }
}

/// The segments of one keyspace.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// The keyspace was dropped: only views from before still read it.
    pub(crate) dropped: bool,
    /// Level 0 newest first, deeper levels by key.
    pub(crate) levels: Vec<Vec<Arc<Table>>>,
    /// The heads of the first keys of each level: most searches compare nothing else.
    heads: Vec<Vec<u64>>,
    /// Something in the levels hides the past.
    pub(crate) purges: bool,
    /// The history tier.
    pub(crate) past: Vec<PastRun>,
    /// The largest end of any interval there: a read from then on need not ask it.
    pub(crate) past_end: u64,
}

/// Segments of the history tier that share no key.
#[derive(Debug)]
pub(crate) struct PastRun {
    number: u64,
    /// By key.
    pub(crate) tables: Vec<Arc<Table>>,
    /// The smallest seqno inside, and where nothing ends or begins any more.
    begin: u64,
    end: u64,
}

impl PastRun {
    fn new(table: Arc<Table>, past: Past) -> Self {
        let mut run = Self { number: past.run, tables: Vec::new(), begin: u64::MAX, end: 0 };
        run.add(table, past);
        run
    }

    fn add(&mut self, table: Arc<Table>, past: Past) {
        self.begin = self.begin.min(table.meta.summary.lowest_affected);
        self.end = self.end.max(past.end).max(table.meta.summary.max_seqno);
        self.tables.push(table);
    }

    /// Whether a reader of a moment can learn anything here.
    #[inline]
    pub(crate) fn concerns(&self, seqno: u64) -> bool {
        self.begin <= seqno && seqno < self.end
    }

    /// The table that can hold a key.
    #[inline]
    pub(crate) fn holding(&self, key: &[u8]) -> Option<&Arc<Table>> {
        let after = self.tables.partition_point(|table| table.meta.summary.span.start.as_slice() <= key);
        self.tables.get(after.checked_sub(1)?).filter(|table| table.meta.summary.holds(key))
    }
}

impl Tree {
    /// All tables, those of the history tier too.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.levels.iter().flatten().chain(self.past.iter().flat_map(|run| &run.tables))
    }

    /// The tables that can hold a key, newest first.
    #[inline]
    pub(crate) fn holding<'t>(&'t self, key: &[u8]) -> impl Iterator<Item = &'t Arc<Table>> {
        let (top, deeper) = self.levels.split_at(self.levels.len().min(1));
        let top = top.iter().flatten().filter(move |table| table.meta.summary.holds(key));
        let wanted = head(key, 0);
        let deeper = deeper.iter().zip(self.heads.iter().skip(1)).filter_map(move |(level, heads)| {
            let low = heads.partition_point(|head| *head < wanted);
            let alike = level.get(low..).unwrap_or_default().iter().zip(heads.get(low..).unwrap_or_default());
            let starts_upto = |table: &Table| table.meta.summary.span.start.as_slice() <= key;
            let after = low + alike.take_while(|(table, head)| **head == wanted && starts_upto(table)).count();
            level.get(after.checked_sub(1)?).filter(|table| table.meta.summary.holds(key))
        });
        top.chain(deeper)
    }

    /// The sorted runs that overlap a span: each segment of level 0, and each deeper level.
    pub(crate) fn runs(&self, span: &KeySpan, seqno: u64) -> Vec<Vec<Arc<Table>>> {
        let wanted = |table: &&Arc<Table>| table.meta.summary.overlaps(span) && table.matters_at(seqno);
        let mut runs = Vec::new();
        for (number, level) in self.levels.iter().enumerate() {
            let tables = level.iter().filter(wanted).cloned();
            if number == 0 {
                runs.extend(tables.map(|table| vec![table]));
            } else {
                runs.push(tables.collect());
            }
        }
        runs.retain(|run| !run.is_empty());
        runs
    }
}

/// Memtables and segments of one moment.
#[derive(Debug)]
pub(crate) struct SuperVersion {
    /// Counts up with each change.
    pub(crate) generation: u64,
    pub(crate) active: Arc<Memtable>,
    /// Newest first.
    pub(crate) sealed: Vec<Arc<Memtable>>,
    pub(crate) version: Arc<Version>,
    pub(crate) trees: Arc<BTreeMap<KeyspaceId, Tree>>,
}

impl SuperVersion {
    pub(crate) fn new(active: Arc<Memtable>, sealed: Vec<Arc<Memtable>>) -> Self {
        Self { generation: 0, active, sealed, version: Arc::default(), trees: Arc::default() }
    }

    /// The memtables that can hold something at or below a seqno, newest first.
    #[inline]
    pub(crate) fn memtables(&self, seqno: u64) -> impl Iterator<Item = &Arc<Memtable>> {
        std::iter::once(&self.active).chain(&self.sealed).filter(move |table| table.matters_at(seqno))
    }

    /// The same memtables over another version; tables that both have are shared, those that went are marked.
    pub(crate) fn with_version(
        &self,
        version: &Arc<Version>,
        dir: &Arc<dyn Dir>,
        map: bool,
        reclaim: &Arc<Reclaim>,
    ) -> Self {
        let mut old: BTreeMap<u64, &Arc<Table>> = self.tables().map(|table| (table.meta.number, table)).collect();
        let mut table_of = |meta: &Arc<Finished>| match old.remove(&meta.number) {
            Some(table) => Arc::clone(table),
            None => Arc::new(Table {
                meta: Arc::clone(meta),
                dir: Arc::clone(dir),
                map,
                segment: OnceLock::new(),
                obsolete: AtomicBool::new(false),
                reclaim: Arc::clone(reclaim),
            }),
        };
        let mut trees = BTreeMap::new();
        for (&id, keyspace) in &version.keyspaces {
            let mut tree = Tree { dropped: keyspace.dropped.is_some(), ..Tree::default() };
            for segments in &keyspace.levels {
                let tables: Vec<Arc<Table>> = segments.iter().map(&mut table_of).collect();
                tree.purges |= tables.iter().any(|table| table.meta.summary.has_purges());
                tree.heads.push(tables.iter().map(|table| head(&table.meta.summary.span.start, 0)).collect());
                tree.levels.push(tables);
            }
            for meta in &keyspace.past {
                let Some(past) = meta.summary.past else { continue };
                let table = table_of(meta);
                match tree.past.last_mut() {
                    Some(run) if run.number == past.run => run.add(table, past),
                    _ => tree.past.push(PastRun::new(table, past)),
                }
            }
            tree.past_end = tree.past.iter().map(|run| run.end).max().unwrap_or(0);
            trees.insert(id, tree);
        }
        for gone in old.values() {
            gone.obsolete.store(true, Ordering::Release);
        }
        Self {
            generation: self.generation + 1,
            active: Arc::clone(&self.active),
            sealed: self.sealed.clone(),
            version: Arc::clone(version),
            trees: Arc::new(trees),
        }
    }

    /// The same segments under other memtables.
    pub(crate) fn with_memtables(&self, active: Arc<Memtable>, sealed: Vec<Arc<Memtable>>) -> Self {
        Self {
            generation: self.generation + 1,
            active,
            sealed,
            version: Arc::clone(&self.version),
            trees: Arc::clone(&self.trees),
        }
    }

    /// All tables.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.trees.values().flat_map(Tree::tables)
    }

    /// The largest number of level-0 segments of any keyspace.
    pub(crate) fn l0_max(&self) -> usize {
        self.trees.values().filter_map(|tree| tree.levels.first()).map(Vec::len).max().unwrap_or(0)
    }
}
