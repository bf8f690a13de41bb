//! What reads go through: the memtables and the segments of one moment, as one immutable value.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;

use super::worker::Work;
use crate::{
    base::{KeySpan, KeyspaceId, Result, TIMELINE, head},
    env::{Dir, Files, Origin},
    format::name,
    manifest::{KeyspaceVersion, Version},
    memtable::Memtable,
    segment::{Finished, IndexNumbers, Past, Segment},
};

/// Files that nobody reads any more and no manifest names: to be removed by background work, which is woken for it.
#[derive(Debug)]
pub(crate) struct Reclaim {
    /// In a process that was forked from this one nobody asks for the lock, and nothing is removed.
    pub(crate) origin: Origin,
    state: Mutex<ReclaimState>,
    /// Held while files are removed.
    removing: Mutex<()>,
    work: Arc<Work>,
}

#[derive(Debug, Default)]
struct ReclaimState {
    names: Vec<String>,
    /// The directory may belong to somebody else by now.
    ended: bool,
}

impl Reclaim {
    pub(crate) fn new(work: &Arc<Work>) -> Self {
        let (origin, state, removing) = Default::default();
        Self { origin, state, removing, work: Arc::clone(work) }
    }

    /// Adds a file whose last reader has gone.
    fn add_unread(&self, name: String) {
        if !self.origin.is_forked() {
            self.add(name);
            self.work.wake();
        }
    }

    pub(crate) fn add(&self, name: String) {
        if !self.origin.is_forked() {
            self.state.lock().names.push(name);
        }
    }

    pub(crate) fn add_segments(&self, numbers: impl IntoIterator<Item = u64>) {
        self.state.lock().names.extend(numbers.into_iter().map(name::segment));
    }

    /// Removes what it can, in order; what cannot be removed now stays for the next time. Readers that let files go meanwhile do not wait.
    pub(crate) fn run(&self, dir: &dyn Dir) {
        let _one = self.removing.lock();
        let mut names = {
            let mut state = self.state.lock();
            if state.ended { Vec::new() } else { std::mem::take(&mut state.names) }
        };
        names.sort_unstable();
        names.retain(|name| matches!(dir.remove(name), Err(e) if e.kind() != std::io::ErrorKind::NotFound));
        if !names.is_empty() {
            self.state.lock().names.append(&mut names);
        }
    }

    /// Removes what it can for the last time.
    pub(crate) fn end(&self, dir: &dyn Dir) {
        self.run(dir);
        let _one = self.removing.lock();
        self.state.lock().ended = true;
    }
}

/// A segment of a version, opened when it is first read.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) meta: Arc<Finished>,
    files: Arc<Files>,
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
        let segment = self.open_anew()?;
        Ok(self.segment.get_or_init(|| segment))
    }

    /// Opens the file for the caller alone.
    pub(crate) fn open_anew(&self) -> Result<Arc<Segment>> {
        Segment::open(&self.files, &self.meta, self.map).map(Arc::new)
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
            self.reclaim.add_unread(name::segment(self.meta.number));
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
    /// The largest seqno in any segment.
    newest: u64,
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
    /// The tree of a keyspace, with the tables of the one before that are still there.
    fn of(keyspace: &KeyspaceVersion, before: &Self, new_table: impl Fn(&Arc<Finished>) -> Arc<Table>) -> Self {
        let old: BTreeMap<u64, &Arc<Table>> = before.tables().map(|table| (table.meta.number, table)).collect();
        let table_of =
            |meta: &Arc<Finished>| old.get(&meta.number).map_or_else(|| new_table(meta), |table| Arc::clone(table));
        let mut tree = Self { dropped: keyspace.dropped.is_some(), ..Self::default() };
        for segments in &keyspace.levels {
            let tables: Vec<Arc<Table>> = segments.iter().map(table_of).collect();
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
        tree.newest = tree.tables().map(|table| table.meta.summary.max_seqno).max().unwrap_or(0);
        tree
    }

    /// Marks the tables that the next tree has no more: their files go with the last reader.
    fn let_go(&self, next: &Self) {
        let kept: HashSet<u64> = next.tables().map(|table| table.meta.number).collect();
        for gone in self.tables().filter(|table| !kept.contains(&table.meta.number)) {
            gone.obsolete.store(true, Ordering::Release);
        }
    }

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

/// The database just after a commit, as far as the manifest tells of it: which keyspaces there were, with which options, and which pins.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) seqno: u64,
    pub(crate) time_us: u64,
    pub(crate) version: Arc<Version>,
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
    /// Of every keyspace of the version.
    pub(crate) trees: Arc<BTreeMap<KeyspaceId, Arc<Tree>>>,
    /// When memtables were sealed, by the number of their logs: everything up to the moment is in that memtable and older ones.
    pub(crate) sealed_at: BTreeMap<u64, Moment>,
    /// The newest moment of which everything is in segments, and nothing newer is; nothing while what was recovered is in memtables.
    pub(crate) settled: Option<Moment>,
}

impl SuperVersion {
    pub(crate) fn new(active: Arc<Memtable>, sealed: Vec<Arc<Memtable>>) -> Self {
        Self {
            generation: 0,
            active,
            sealed,
            version: Arc::default(),
            trees: Arc::default(),
            sealed_at: BTreeMap::new(),
            settled: None,
        }
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
        files: &Arc<Files>,
        map: bool,
        reclaim: &Arc<Reclaim>,
    ) -> Self {
        let new_table = |meta: &Arc<Finished>| {
            Arc::new(Table {
                meta: Arc::clone(meta),
                files: Arc::clone(files),
                map,
                segment: OnceLock::new(),
                obsolete: AtomicBool::new(false),
                reclaim: Arc::clone(reclaim),
            })
        };
        let none = Tree::default();
        let mut before = self.version.keyspaces.iter().zip(self.trees.values()).peekable();
        let mut trees: Vec<(KeyspaceId, Arc<Tree>)> = Vec::with_capacity(version.keyspaces.len());
        for (&id, keyspace) in &version.keyspaces {
            while let Some((_, forgotten)) = before.next_if(|((old, _), _)| **old < id) {
                forgotten.let_go(&none);
            }
            trees.push(match before.next_if(|((old, _), _)| **old == id) {
                // Of thousands of keyspaces an edit changes a few.
                Some(((_, old), tree)) if Arc::ptr_eq(old, keyspace) => (id, Arc::clone(tree)),
                Some((_, tree)) => {
                    let next = Tree::of(keyspace, tree, new_table);
                    tree.let_go(&next);
                    (id, Arc::new(next))
                }
                None => (id, Arc::new(Tree::of(keyspace, &none, new_table))),
            });
        }
        before.for_each(|(_, forgotten)| forgotten.let_go(&none));
        Self {
            generation: self.generation + 1,
            active: Arc::clone(&self.active),
            sealed: self.sealed.clone(),
            version: Arc::clone(version),
            trees: Arc::new(trees.into_iter().collect()),
            sealed_at: self.sealed_at.clone(),
            settled: self.settled.clone(),
        }
    }

    /// The same for a walk that goes on in these files: of one keyspace, and the timeline. It holds no file of another.
    pub(crate) fn of_keyspace(&self, keyspace: KeyspaceId) -> Arc<Self> {
        let of = |id: KeyspaceId| self.trees.get(&id).map(|tree| (id, Arc::clone(tree)));
        let trees = [keyspace, TIMELINE].into_iter().filter_map(of).collect();
        Arc::new(Self { generation: self.generation, trees: Arc::new(trees), ..self.with_moments(BTreeMap::new()) })
    }

    /// The same with the active memtable sealed at a moment, and a new one.
    pub(crate) fn with_sealed(&self, active: Arc<Memtable>, moment: Moment) -> Self {
        let mut next = self.with_moment(self.active.log(), moment);
        next.sealed.insert(0, std::mem::replace(&mut next.active, active));
        next
    }

    /// The same when nothing has been written to the active memtable by a moment: it is the moment of what is older.
    pub(crate) fn with_idle_moment(&self, moment: Moment) -> Self {
        match self.sealed.first() {
            Some(newest) => self.with_moment(newest.log(), moment),
            None => Self { settled: Some(moment), ..self.with_moments(self.sealed_at.clone()) },
        }
    }

    fn with_moment(&self, log: u64, moment: Moment) -> Self {
        let mut sealed_at = self.sealed_at.clone();
        sealed_at.insert(log, moment);
        self.with_moments(sealed_at)
    }

    fn with_moments(&self, sealed_at: BTreeMap<u64, Moment>) -> Self {
        Self {
            generation: self.generation + 1,
            active: Arc::clone(&self.active),
            sealed: self.sealed.clone(),
            version: Arc::clone(&self.version),
            trees: Arc::clone(&self.trees),
            sealed_at,
            settled: self.settled.clone(),
        }
    }

    /// Takes a memtable out that is in segments now.
    pub(crate) fn settle(&mut self, flushed: &Arc<Memtable>) {
        self.sealed.retain(|table| !Arc::ptr_eq(table, flushed));
        if let Some(moment) = self.sealed_at.remove(&flushed.log()) {
            self.settled = Some(moment);
        }
    }

    /// No sealed memtable and no segment holds anything newer.
    pub(crate) fn newest_settled(&self) -> u64 {
        let sealed = self.sealed.first().map_or(0, |table| table.last_seqno());
        self.trees.values().map(|tree| tree.newest).max().unwrap_or(0).max(sealed)
    }

    /// All tables.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.trees.values().flat_map(|tree| tree.tables())
    }

    /// How many segments level 0 of a keyspace has.
    pub(crate) fn l0_len(&self, keyspace: KeyspaceId) -> usize {
        self.trees.get(&keyspace).and_then(|tree| tree.levels.first()).map_or(0, Vec::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyspaceOptions, Options, env::Memory};

    #[test]
    fn an_edit_of_one_keyspace_leaves_the_trees_of_all_others_as_they_are() {
        let db = Options::new().env(Memory::new()).open("db").unwrap();
        let open = |at: u32| db.keyspace(format!("k{at}"), KeyspaceOptions::new()).unwrap();
        let keyspaces: Vec<_> = (0..50).map(open).collect();
        for keyspace in &keyspaces {
            keyspace.put("k", "v").unwrap();
        }
        db.flush().unwrap();
        let before = db.engine().current();
        keyspaces[7].put("k", "v").unwrap();
        db.drop_keyspace("k8").unwrap();
        db.flush().unwrap();
        let after = db.engine().current();
        let changed = |id: &&KeyspaceId| {
            let shared = before.trees.get(id).zip(after.trees.get(id));
            shared.is_none_or(|(before, after)| !Arc::ptr_eq(before, after))
        };
        let changed: Vec<_> = before.trees.keys().chain(after.trees.keys()).filter(changed).collect();
        let number = |name: &str| before.version.by_name(name).unwrap().id;
        let expected = [number("k7"), number("k8"), TIMELINE];
        assert!(changed.iter().all(|id| expected.contains(id)), "{changed:?} beside {expected:?}");
        assert!(changed.contains(&&expected[0]));
    }
}
