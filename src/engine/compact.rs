//! Compacting: the task that is furthest over its bound, or everything on demand.

use std::sync::{Arc, atomic::Ordering};

use super::{
    Engine,
    keyspaces::readers_of,
    read::{Opened, dropped},
    registry::{JobInputs, Registered},
    scan::{RunCursor, VersionRunCursor},
    superversion::SuperVersion,
    timeline::Timeline,
    watch::Watch,
};
use crate::{
    base::{Error, KeySpan, KeyspaceId, Kind, Result, Seqno, TIMELINE},
    compaction::{
        Aging, Below, Demands, Job, Outcome, PastSurvivors, PastTask, Policy, Purges, Rules, Shape, Task, Waste,
        down_in_span, everything, pick, pick_past, run, run_past, score,
    },
    manifest::{Change, Edit, KeyspaceVersion, StoredPolicy},
    merge::{Direction, Source},
    segment::{Finished, SegmentCursor},
};

/// What [`Db::compact`](crate::Db::compact) reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compacted {
    /// Seqnos of open views and pins for whose sake old versions, or purges with the keys that they name, are still kept, and of iterators under way that
    /// still read older files. When those go, the next compaction lets the versions go.
    pub still_held_by: Vec<Seqno>,
    /// Bytes of segments before.
    pub bytes_before: u64,
    /// Bytes of segments after.
    pub bytes_after: u64,
}

/// What a compaction on demand is of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scope<'s> {
    All,
    Keyspace(&'s Opened),
    /// The keys of a span.
    Span(&'s Opened, &'s KeySpan),
}

impl Scope<'_> {
    fn holds(self, keyspace: KeyspaceId) -> bool {
        match self {
            Self::All => true,
            Self::Keyspace(opened) | Self::Span(opened, _) => opened.id == keyspace,
        }
    }
}

impl Engine {
    /// Brings everything in a scope that was written before the call to its final shape.
    pub(crate) fn compact(&self, scope: Scope<'_>, watch: &mut Watch<'_>) -> Result<Compacted> {
        self.check_writable()?;
        if let Scope::Keyspace(opened) | Scope::Span(opened, _) = scope
            && self.current().trees.get(&opened.id).is_none_or(|tree| tree.dropped)
        {
            return Err(dropped(opened));
        }
        let mut report = Compacted::default();
        self.flush()?;
        self.forget_dropped()?;
        report.bytes_before = self.segment_bytes_in(scope);
        watch.begin(report.bytes_before)?;
        let mut held: Vec<u64> = Vec::new();
        let ids: Vec<_> = self.current().version.keyspaces.keys().copied().filter(|id| scope.holds(*id)).collect();
        for id in ids {
            let _one = self.compacting.take(id)?;
            self.check_writable()?;
            let Some(keyspace) = self.current().version.keyspaces.get(&id).cloned() else { continue };
            watch.begin_part(keyspace.segments().map(|segment| segment.file_len).sum());
            match scope {
                Scope::Span(_, span) => self.compact_span(id, span, &mut held, watch)?,
                _ if id == TIMELINE && self.thin_timeline(true)? => {}
                _ => {
                    self.compact_whole(&keyspace, &mut held, watch)?;
                    self.work.note_compaction(id, None, 0);
                }
            }
            watch.end_part()?;
        }
        if self.names_purged.swap(false, Ordering::AcqRel) {
            // The manifest tells first and last keys of segments that are gone.
            self.manifest.lock().roll_at_next();
            self.touch_manifest().inspect_err(|_| self.names_purged.store(true, Ordering::Release))?;
        }
        watch.end();
        report.still_held_by = self.still_held_by(scope, held);
        report.bytes_after = self.segment_bytes_in(scope);
        self.reclaim.run(&*self.dir);
        Ok(report)
    }

    /// Brings a keyspace to its final shape, both tiers.
    fn compact_whole(&self, keyspace: &KeyspaceVersion, held: &mut Vec<u64>, watch: &mut Watch<'_>) -> Result<()> {
        let id = keyspace.id;
        let find = || self.current().version.keyspaces.get(&id).cloned();
        let task = |keyspace: &KeyspaceVersion| {
            everything(keyspace, &self.options.shape(), self.lapsed(keyspace, self.seen_from()))
        };
        // What purges hide goes from the main tree, then from the history tier; then the purges themselves may go.
        let hides = keyspace.main().any(|segment| segment.summary.has_purges());
        if let Some(task) = task(keyspace) {
            held.extend(self.run_task(&task, 0, watch)?.traces.held_by.iter().map(|(seqno, _)| seqno));
        }
        let Some(keyspace) = find() else { return Ok(()) };
        let (hidden, newest) = self.purges_of(&keyspace)?;
        held.extend(self.compact_past(&keyspace, &hidden, None, watch)?);
        let Some(keyspace) = find() else { return Ok(()) };
        if !hides {
            return Ok(());
        }
        if let Some(task) = task(&keyspace) {
            self.run_task(&task, newest, watch)?;
        }
        // A purge that stays holds the name of what it hid, for whoever came before it.
        let kept = find().map(|keyspace| self.purges_of(&keyspace)).transpose()?.map_or(0, |(_, newest)| newest);
        held.extend(self.registry.lock().seqnos().into_iter().filter(|seqno| *seqno < kept));
        Ok(())
    }

    /// Takes what segments hold of a span down to the deepest level, one level after the other, and writes what is dead there anew; in the history tier,
    /// merges the runs that reach into it.
    fn compact_span(&self, id: KeyspaceId, span: &KeySpan, held: &mut Vec<u64>, watch: &mut Watch<'_>) -> Result<()> {
        for level in 0..=self.options.shape().level_max {
            let Some(keyspace) = self.current().version.keyspaces.get(&id).cloned() else { return Ok(()) };
            let lapsed = self.lapsed(&keyspace, self.seen_from());
            if let Some(task) = down_in_span(&keyspace, level, span, lapsed) {
                held.extend(self.run_task(&task, 0, watch)?.traces.held_by.iter().map(|(seqno, _)| seqno));
            }
        }
        let Some(keyspace) = self.current().version.keyspaces.get(&id).cloned() else { return Ok(()) };
        held.extend(self.compact_past(&keyspace, &Purges::default(), Some(span), watch)?);
        Ok(())
    }

    /// Those among the readers there are for whom something is kept, after a compaction that kept it for `held`.
    fn still_held_by(&self, scope: Scope<'_>, mut held: Vec<u64>) -> Vec<Seqno> {
        let current = self.current();
        let keyspaces = || current.version.keyspaces.values().filter(|keyspace| scope.holds(keyspace.id));
        let segments = keyspaces().flat_map(|keyspace| keyspace.segments());
        let kept = segments.filter_map(|segment| current.version.held.get(&segment.number));
        held.extend(kept.flatten().map(|(seqno, _)| seqno));
        // Views that nobody asks go on to the new files; those that cannot keep the old ones.
        let (old, holding) = self.registry.lock().rebase(&current);
        drop(old);
        held.extend(holding);
        let registered = self.registry.lock().seqnos();
        let dropped = keyspaces().filter_map(|gone| Some((gone.born, gone.dropped?)));
        held.extend(dropped.flat_map(|(born, dropped)| readers_of(born, dropped, &registered)));
        held.sort_unstable();
        held.dedup();
        held.retain(|seqno| registered.binary_search(seqno).is_ok());
        held.into_iter().map(Seqno).collect()
    }

    /// The earliest time that anybody looks at, in microseconds.
    fn seen_from(&self) -> u64 {
        self.now_us().min(self.registry.lock().earliest().unwrap_or(u64::MAX))
    }

    /// Values written at or before this time, in microseconds, may have expired for everybody who looks at `seen_from` or later; nothing where
    /// none expire.
    fn lapsed(&self, keyspace: &KeyspaceVersion, seen_from: u64) -> Option<u64> {
        // Once values have lived for ever, nobody can tell by times which of them do.
        let first = keyspace.options.ttls.iter().position(|(_, ttl)| *ttl > 0)?;
        let since = keyspace.options.ttls.get(first..).unwrap_or_default();
        let longest = since.iter().map(|(_, ttl)| *ttl).max().filter(|_| since.iter().all(|(_, ttl)| *ttl > 0))?;
        let policy = self.policy_of(keyspace);
        // What a policy of the user's own says is not known.
        let own = matches!(keyspace.options.policy, StoredPolicy::Custom(_));
        seen_from.checked_sub(longest)?.checked_sub(policy.window()).filter(|_| !own)
    }

    /// An edit of nothing: the manifest says again what is in force.
    fn touch_manifest(&self) -> Result<()> {
        let mut manifest = self.manifest.lock();
        let next = Change::NextFile { number: self.next_file.load(Ordering::Relaxed) };
        let version = self.commit_edit(&mut manifest, &Edit::new([next]), &[])?;
        self.install(&version, None, None);
        Ok(())
    }

    /// Runs the most urgent compaction; `false` when every level is within its bounds and nothing in the history tier may go.
    ///
    /// One that fails holds up no other keyspace: its error is kept, and tried again a while later.
    pub(super) fn compact_most_urgent(&self) -> Result<bool> {
        let shape = self.options.shape();
        // What somebody else meets meanwhile is not forgotten here.
        let began = self.work.next_trouble();
        let version = Arc::clone(&self.current().version);
        let (seen_from, idle) = (self.seen_from(), self.is_idle());
        let mut urgent: Vec<_> = version
            .keyspaces
            .values()
            .filter_map(|keyspace| Some((score(keyspace, &shape, self.waste(keyspace, seen_from, idle))?, keyspace.id)))
            .collect();
        urgent.sort_unstable_by_key(|(score, _)| std::cmp::Reverse(*score));
        let mut failed = Vec::new();
        for (_, id) in urgent {
            if self.try_compaction(id, &mut failed, || self.compact_levels(id, &shape, (seen_from, idle)))? {
                return Ok(true);
            }
        }
        for keyspace in version.keyspaces.values().filter(|keyspace| !keyspace.past.is_empty()) {
            if self.try_compaction(keyspace.id, &mut failed, || self.compact_past_once(keyspace.id))? {
                return Ok(true);
            }
        }
        if self.try_compaction(TIMELINE, &mut failed, || self.thin_timeline(false))? {
            return Ok(true);
        }
        // All have been looked at: what was met before is over where it was not met again.
        let met = |id| failed.iter().any(|(at, _)| *at == id) || self.compacting.is_taken(id);
        self.work.keep_troubles(|id, number| number >= began || met(id));
        failed.into_iter().next().map_or(Ok(false), |(_, error)| Err(error))
    }

    /// Compacts a keyspace, unless somebody does, or it failed just now. Only what stops everything is an error: another one goes to `failed`.
    fn try_compaction(
        &self,
        id: KeyspaceId,
        failed: &mut Vec<(KeyspaceId, Error)>,
        compact: impl FnOnce() -> Result<bool>,
    ) -> Result<bool> {
        let now = self.env.monotonic_us();
        // On a machine without threads time does not go by while somebody waits for room.
        if let Some(error) = self.work.failed_just_now(id, now).filter(|_| !self.runs_inline()) {
            failed.push((id, error));
            return Ok(false);
        }
        // One that somebody is at work on already is not waited for.
        let Some(_one) = self.compacting.try_take(id) else { return Ok(false) };
        self.check_writable()?;
        match compact() {
            Ok(done) => {
                if done {
                    self.work.note_compaction(id, None, now);
                }
                Ok(done)
            }
            Err(error) => {
                self.work.note_compaction(id, Some(&error), now);
                failed.push((id, error));
                Ok(false)
            }
        }
    }

    /// Takes the level of a keyspace down that is furthest over its bound, or what is dead.
    fn compact_levels(&self, id: KeyspaceId, shape: &Shape, (seen_from, idle): (u64, bool)) -> Result<bool> {
        let Some(keyspace) = self.current().version.keyspaces.get(&id).cloned() else { return Ok(false) };
        let Some(task) = pick(&keyspace, shape, self.waste(&keyspace, seen_from, idle)) else { return Ok(false) };
        if task.clears_out && !self.may_clear_out(id) {
            return Ok(false);
        }
        if task.just_move {
            self.move_segment(&task)?;
        } else {
            self.run_task(&task, 0, &mut Watch::silent())?;
        }
        Ok(true)
    }

    /// Lets something of a keyspace's history tier go, or merges runs of it.
    fn compact_past_once(&self, id: KeyspaceId) -> Result<bool> {
        let inputs = JobInputs::take(self, "compact past: files, then list");
        let Some(keyspace) = inputs.files.version.keyspaces.get(&id) else { return Ok(false) };
        let Some(task) = pick_past(keyspace, &self.aging(keyspace, &inputs.registered)) else { return Ok(false) };
        self.run_past_task(&inputs, keyspace, task, &Purges::default(), &mut Watch::silent())?;
        Ok(true)
    }

    fn waste(&self, keyspace: &KeyspaceVersion, seen_from: u64, idle: bool) -> Waste {
        Waste { lapsed: self.lapsed(keyspace, seen_from), idle }
    }

    /// Takes level 0 of the timeline down where compactions of others have left it behind: each flush adds to it, and nobody who writes waits for it.
    pub(super) fn relieve_timeline(&self) -> Result<bool> {
        if self.current().l0_len(TIMELINE) < self.options.l0_threshold.saturating_mul(2) {
            return Ok(false);
        }
        let mut failed = Vec::new();
        let shape = self.options.shape();
        let done = self.try_compaction(TIMELINE, &mut failed, || self.compact_levels(TIMELINE, &shape, (0, false)))?;
        failed.pop().map_or(Ok(done), |(_, error)| Err(error))
    }

    /// Whether a keyspace may be cleared out for what is dead in it. Not again and again: something may keep it all there.
    fn may_clear_out(&self, keyspace: KeyspaceId) -> bool {
        let now = self.env.monotonic_us();
        let mut cleared = self.cleared.lock();
        let rested = cleared.get(&keyspace).is_none_or(|last| now.saturating_sub(*last) >= CLEAR_OUT_REST);
        if rested {
            // Those that have rested need not be remembered: so what is remembered is bounded by what is cleared out meanwhile.
            cleared.retain(|_, last| now.saturating_sub(*last) < CLEAR_OUT_REST);
            cleared.insert(keyspace, now);
        }
        rested
    }

    /// Whether nothing has been committed for a while.
    fn is_idle(&self) -> bool {
        let (now, visible) = (self.env.monotonic_us(), self.visible());
        let mut rest = self.rest.lock();
        if rest.visible != visible {
            *rest = Rest { visible, since: now };
        }
        now.saturating_sub(rest.since) >= CLEAR_OUT_REST
    }

    fn move_segment(&self, task: &Task) -> Result<()> {
        let edit = Edit::new(task.inputs.iter().flat_map(|segment| {
            let remove = Change::Remove { keyspace: task.keyspace, number: segment.number };
            [remove, Change::Add { level: task.output_level, segment: (**segment).clone() }]
        }));
        let mut manifest = self.manifest.lock();
        if manifest.version().keyspaces.contains_key(&task.keyspace) {
            let version = self.commit_edit(&mut manifest, &edit, &[])?;
            self.install(&version, None, None);
        }
        Ok(())
    }

    /// By what the versions of a keyspace are judged now.
    pub(super) fn rules(&self, keyspace: &KeyspaceVersion, current: &Arc<SuperVersion>, purged_upto: u64) -> Rules {
        let policy = self.policy_of(keyspace);
        let now = self.now_us();
        let timeline = Timeline::new(current);
        // A keyspace without a past has nothing that a purge would have to wait for.
        let purged_upto = if keyspace.past.is_empty() { u64::MAX } else { purged_upto };
        Rules {
            strategy: self.strategy_of(keyspace),
            now,
            ttls: Arc::clone(&keyspace.options.ttls),
            timed: self.keeps_time(keyspace),
            // What cannot be found counts as of now: it is kept rather longer.
            time_of: Box::new(move |seqno| timeline.time_of(seqno).unwrap_or(now)),
            purged_upto,
            policy,
        }
    }

    /// Whether entries of a keyspace carry their time.
    pub(super) fn keeps_time(&self, keyspace: &KeyspaceVersion) -> bool {
        keyspace.id == TIMELINE || self.policy_of(keyspace).keeps_past() || !keyspace.options.ttls.is_empty()
    }

    /// What the age of the history tier is measured by.
    fn aging(&self, keyspace: &KeyspaceVersion, registered: &Registered) -> Aging {
        let policy = self.policy_of(keyspace);
        Aging {
            window: policy.window(),
            only_age_counts: policy.only_age_counts(),
            now: self.now_us(),
            registered: registered.readers.seqnos().to_vec(),
        }
    }

    fn run_task(&self, task: &Task, purged_upto: u64, watch: &mut Watch<'_>) -> Result<Outcome> {
        let inputs = JobInputs::take(self, "compact: files, then list");
        let JobInputs { files: current, registered, .. } = &inputs;
        let Some(keyspace) = current.version.keyspaces.get(&task.keyspace) else { return Ok(Outcome::default()) };
        let Some(tree) = current.trees.get(&task.keyspace) else { return Ok(Outcome::default()) };

        // Inputs as runs: each segment of level 0 alone, those of a deeper level as one.
        let is_input = |number: u64| task.inputs.iter().any(|segment| segment.number == number);
        let mut sources = Vec::new();
        let mut tombstones = Vec::new();
        for (level, tables) in tree.levels.iter().enumerate() {
            let inputs: Vec<_> = tables.iter().filter(|table| is_input(table.meta.number)).cloned().collect();
            for table in &inputs {
                tombstones.push(Arc::clone(table.segment()?.ranges()));
            }
            if level == 0 {
                sources.extend(inputs.into_iter().map(|table| RunCursor::new(vec![table], Direction::Forward)));
            } else if !inputs.is_empty() {
                sources.push(RunCursor::new(inputs, Direction::Forward));
            }
        }
        let job = Job {
            sources,
            tombstones,
            rules: self.rules(keyspace, current, purged_upto),
            demands: demands(keyspace, registered),
            below: Below(task.below.clone()),
            output_len: self.options.segment_bytes(),
        };
        let (mut made, mut run_number) = (Vec::new(), None);
        let bases = Self::bases_of(&task.inputs);
        let goes_on = self.goes_on(&task.inputs, watch);
        let ran = run(job, |lane| self.new_segment(keyspace, lane, bases, &mut run_number, &mut made), goes_on);
        self.end_job(&inputs, keyspace, (&task.inputs, Some(task.output_level)), (ran, made))
    }

    /// Does something in the history tier.
    fn run_past_task(
        &self,
        job: &JobInputs,
        keyspace: &KeyspaceVersion,
        task: PastTask,
        purges: &Purges,
        watch: &mut Watch<'_>,
    ) -> Result<Outcome> {
        let inputs = match task {
            PastTask::Merge(inputs) => inputs,
            PastTask::Drop(inputs) => {
                let mut outcome = Outcome::default();
                for segment in &inputs {
                    let Some(past) = segment.summary.past else { continue };
                    // As if each version had left by itself.
                    let end = if past.open { past.end.max(segment.summary.max_seqno) } else { past.end };
                    outcome.traces.vanished = outcome.traces.vanished.max(end);
                    outcome.traces.horizon = outcome.traces.horizon.max(past.end);
                    outcome.traces.tombstones_left |= past.open;
                }
                return self.end_job(job, keyspace, (&inputs, None), (Ok(outcome), Vec::new()));
            }
        };
        let Some(tree) = job.files.trees.get(&keyspace.id) else { return Ok(Outcome::default()) };
        let is_input = |number: u64| inputs.iter().any(|segment| segment.number == number);
        let mut sources = Vec::new();
        for run in &tree.past {
            let tables: Vec<_> = run.tables.iter().filter(|table| is_input(table.meta.number)).cloned().collect();
            if !tables.is_empty() {
                sources.push(VersionRunCursor::new(tables));
            }
        }
        let demands = demands(keyspace, &job.registered);
        let survivors = PastSurvivors::new(self.policy_of(keyspace), self.now_us(), demands, purges.clone());
        let (mut made, mut run_number) = (Vec::new(), None);
        let bases = Self::bases_of(&inputs);
        let goes_on = self.goes_on(&inputs, watch);
        let create = |lane| self.new_segment(keyspace, lane, bases, &mut run_number, &mut made);
        let ran = run_past(sources, survivors, self.options.segment_bytes(), create, goes_on);
        self.end_job(job, keyspace, (&inputs, None), (ran, made))
    }

    /// Asks, while a job runs, whether it is to go on.
    fn goes_on<'g>(&'g self, inputs: &[Arc<Finished>], watch: &'g mut Watch<'_>) -> impl FnMut(u64) -> Result<()> {
        let all = inputs.iter().map(|segment| segment.summary.entries + segment.summary.tombstones).sum::<u64>();
        move |entries| {
            if self.stopping.load(Ordering::Relaxed) {
                return Err(Error::Closed);
            }
            watch.step(entries, all)
        }
    }

    /// Makes the edit of a job, and its outputs current.
    fn end_job(
        &self,
        job: &JobInputs,
        keyspace: &KeyspaceVersion,
        (inputs, output_level): (&[Arc<Finished>], Option<u8>),
        (ran, made): (Result<Outcome>, Vec<u64>),
    ) -> Result<Outcome> {
        let named = ran.and_then(|outcome| {
            if !made.is_empty() {
                self.sync_segment_names()?;
            }
            Ok(outcome)
        });
        let outcome = named.inspect_err(|_| self.discard(&made))?;

        let id = keyspace.id;
        let mut edit = Edit::default();
        for segment in inputs {
            edit.push(Change::Remove { keyspace: id, number: segment.number });
            self.counters.compacted_in.fetch_add(segment.file_len, Ordering::Relaxed);
        }
        for segment in &outcome.segments {
            let written = match segment.summary.past {
                Some(_) => &self.counters.past_out,
                None => &self.counters.compacted_out,
            };
            written.fetch_add(segment.file_len, Ordering::Relaxed);
            edit.push(Change::Add { level: output_level.unwrap_or(0), segment: segment.clone() });
        }
        for (number, bytes) in &outcome.held {
            edit.push(Change::Held { number: *number, bytes: bytes.clone() });
        }
        edit.push(outcome.traces.marks(id));
        edit.push(Change::NextFile { number: self.next_file.load(Ordering::Relaxed) });

        self.env.pass("compact: written, then installed");
        let mut manifest = self.manifest.lock();
        if let Some(keyspace) = manifest.version().keyspaces.get(&id) {
            let superseder = outcome.traces.newest_change(keyspace.vanished);
            let version = self.commit_edit(&mut manifest, &edit, &made)?;
            if inputs.iter().any(|segment| segment.summary.has_purges()) {
                self.names_purged.store(true, Ordering::Release);
            }
            self.install(&version, None, Some((job, superseder)));
        } else {
            self.discard(&made);
        }
        drop(manifest);
        self.env.pass("compact: installed, then reclaimed");
        self.reclaim.run(&*self.dir);
        self.counters.compactions.fetch_add(1, Ordering::Relaxed);
        Ok(outcome)
    }

    /// Brings the history tier of a keyspace to its final shape: one run in each bucket, with nothing left that may go; with a span, the buckets that
    /// hold keys of it. Gives the seqnos that something was kept for.
    fn compact_past(
        &self,
        keyspace: &KeyspaceVersion,
        purges: &Purges,
        span: Option<&KeySpan>,
        watch: &mut Watch<'_>,
    ) -> Result<Vec<u64>> {
        let mut held = Vec::new();
        let id = keyspace.id;
        {
            let job = JobInputs::take(self, "compact past: files, then list");
            let Some(keyspace) = job.files.version.keyspaces.get(&id) else { return Ok(held) };
            if let Some(task @ PastTask::Drop(_)) = pick_past(keyspace, &self.aging(keyspace, &job.registered)) {
                self.run_past_task(&job, keyspace, task, purges, watch)?;
            }
        }
        let job = JobInputs::take(self, "compact past: files, then list");
        let Some(keyspace) = job.files.version.keyspaces.get(&id) else { return Ok(held) };
        let aging = self.aging(keyspace, &job.registered);
        for runs in aging.buckets(keyspace) {
            let several = runs.len() > 1;
            let inputs: Vec<_> = runs.into_iter().flatten().collect();
            if span.is_some_and(|span| !inputs.iter().any(|segment| segment.summary.overlaps(span))) {
                continue;
            }
            let may_go = |segment: &Arc<Finished>| {
                let Some(past) = segment.summary.past else { return false };
                let aged = aging.now.saturating_sub(past.until_min) >= aging.window;
                let held_for = job.files.version.held.get(&segment.number);
                let is_released = |(seqno, _): &(u64, u64)| aging.registered.binary_search(seqno).is_err();
                let released = held_for.is_some_and(|held| held.iter().any(is_released));
                aged || released || purges.touch(&segment.summary.span, segment.summary.min_seqno)
            };
            if several || inputs.iter().any(may_go) {
                let outcome = self.run_past_task(&job, keyspace, PastTask::Merge(inputs), purges, watch)?;
                held.extend(outcome.traces.held_by.iter().map(|(seqno, _)| seqno));
            }
        }
        Ok(held)
    }

    /// What purges in the main tree hide, and the newest of them.
    fn purges_of(&self, keyspace: &KeyspaceVersion) -> Result<(Purges, u64)> {
        let current = self.current();
        let mut purges = Vec::new();
        let Some(tree) = current.trees.get(&keyspace.id).filter(|tree| tree.purges) else {
            return Ok((Purges::default(), 0));
        };
        for table in tree.levels.iter().flatten().filter(|table| table.meta.summary.has_purges()) {
            let segment = table.segment()?;
            let ranges = segment.ranges().to_vec().into_iter().filter(|range| range.mark.purge);
            purges.extend(ranges.map(|range| (range.span, range.mark.seqno)));
            let mut cursor = SegmentCursor::new(Arc::clone(segment), Direction::Forward);
            cursor.seek(Some(&[]))?;
            while let Some(entry) = cursor.entry() {
                if entry.kind == Kind::Purge {
                    let span = KeySpan { start: entry.key.to_vec(), end: Some([entry.key, &[0]].concat()) };
                    purges.push((span, entry.seqno));
                }
                cursor.advance()?;
            }
        }
        let newest = purges.iter().map(|(_, seqno)| *seqno).max().unwrap_or(0);
        Ok((Purges::new(purges), newest))
    }

    /// The policy of a keyspace.
    pub(super) fn policy_of(&self, keyspace: &KeyspaceVersion) -> Policy {
        Policy::of(&keyspace.options.policy, self.custom_policies.lock().get(&keyspace.id))
    }

    fn segment_bytes_in(&self, scope: Scope<'_>) -> u64 {
        let current = self.current();
        let keyspaces = current.version.keyspaces.values().filter(|keyspace| scope.holds(keyspace.id));
        keyspaces.flat_map(|keyspace| keyspace.segments()).map(|segment| segment.file_len).sum()
    }
}

/// A keyspace is cleared out no more often than this, and wholly when nothing has been written for as long, in microseconds.
const CLEAR_OUT_REST: u64 = 10_000_000;

/// Since when nothing has been committed.
#[derive(Debug, Default)]
pub(super) struct Rest {
    visible: u64,
    /// In monotonic microseconds.
    since: u64,
}

/// What a job must not drop.
pub(super) fn demands(keyspace: &KeyspaceVersion, registered: &Registered) -> Demands {
    Demands::new(&registered.readers, keyspace.vanished, keyspace.lapsed)
}
