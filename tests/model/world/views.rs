//! Views, of now and of the past: each answer must be the model's, and each refusal one that is allowed.

use std::collections::BTreeSet;

use chronolith::{Error, Keyspace, View};

use crate::{
    dice::Dice,
    outcome::{Outcome, ensure},
    past::{Life, micros},
    script::{ALL, KEYS, Span, quoted},
    state::{State, differs, told},
    walk::{Manner, Walked},
    world::{Held, World},
};

impl World {
    /// Holds a view of the present.
    pub(crate) fn snapshot(&mut self) -> Outcome {
        let (newest, now) = (self.newest(), self.now());
        self.say("snapshot", format!("hold a snapshot @{newest}"));
        let held = Held { safe: true, ..self.held_at(self.db()?.snapshot(), newest)? };
        ensure!(
            held.time >= now && (held.time == now || !self.alone()),
            "a snapshot of {}, and it is {now}",
            held.time
        );
        self.held.push(held);
        Ok(())
    }

    pub(crate) fn as_of(&mut self, seqno: u64) -> Outcome {
        self.say("as_of", format!("hold a view as of {seqno}"));
        let mut held = self.view_as_of(seqno)?;
        // What a second view, opened after it, can answer, the first one can, now and as long as it lives.
        let mut second = self.view_as_of(seqno)?;
        self.examine(&mut second, false)?;
        (held.exact, held.exact_scans) = (second.exact, second.exact_scans);
        self.held.push(held);
        Ok(())
    }

    pub(crate) fn view_as_of(&self, seqno: u64) -> Outcome<Held> {
        let view = self.db()?.as_of(seqno).map_err(told("as_of"))?;
        let held = self.held_at(view, seqno)?;
        self.check_time_of(&held)?;
        Ok(held)
    }

    pub(crate) fn held_at(&self, view: View, seqno: u64) -> Outcome<Held> {
        ensure!(u64::from(view.seqno()) == seqno, "a view at {}, asked for {seqno}", view.seqno());
        let (time, opened) = (micros(view.time()), self.newest());
        let (exact, exact_scans) = (BTreeSet::new(), BTreeSet::new());
        Ok(Held { view, seqno, time, opened, safe: false, pinned: false, exact, exact_scans })
    }

    pub(crate) fn read_held_views(&mut self) -> Outcome {
        self.say("read held views", "read the held views".to_owned());
        let mut views = std::mem::take(&mut self.held);
        let read = views.iter_mut().try_for_each(|held| self.examine(held, false));
        self.held = views;
        read
    }

    /// Opens a view as of `seqno` and reads everything, by key and in ranges.
    pub(crate) fn look_back(&mut self, seqno: u64, dice: u64) -> Outcome {
        let fresh = self.view_as_of(seqno)?;
        self.look_with(fresh, dice)
    }

    /// Reads everything through a view, by key and in ranges.
    pub(crate) fn look_with(&mut self, mut fresh: Held, dice: u64) -> Outcome {
        self.examine(&mut fresh, true)?;
        let mut dice = Dice(dice);
        for at in 0..self.lives.len() {
            let Some(keyspace) = self.handle_in(&fresh, at)? else { continue };
            if self.is_refused_as_dropped(at, &fresh) {
                continue;
            }
            for _ in 0..2 {
                self.scan(Some(&fresh), at, &keyspace, &mut dice)?;
            }
            for backward in [false, true] {
                let end = if backward { fresh.view.last(&keyspace) } else { fresh.view.first(&keyspace) };
                self.check_end(Some(&fresh), at, &end, backward)?;
            }
        }
        Ok(())
    }

    /// Reads every key and scans every keyspace in both directions: each answer must be the model's; a refusal must
    /// be one that is allowed. With `follow`, the seqno that a refusal names must answer.
    pub(crate) fn examine(&mut self, held: &mut Held, follow: bool) -> Outcome {
        for at in 0..self.lives.len() {
            let Some(keyspace) = self.handle_in(held, at)? else { continue };
            let refused = self.examine_keys(held, at, &keyspace, follow)?;
            self.examine_scans(held, at, &keyspace, refused)?;
        }
        Ok(())
    }

    /// Reads every key of a keyspace; gives one that was refused.
    fn examine_keys(
        &mut self,
        held: &mut Held,
        at: usize,
        keyspace: &Keyspace,
        follow: bool,
    ) -> Outcome<Option<&'static [u8]>> {
        let whole = format!("{}: {}", held.words(), keyspace.name());
        let dropped = self.is_refused_as_dropped(at, held);
        let mut refused = None;
        for key in KEYS {
            self.count("checked gets of views");
            let wanted = self.expected(at, held, key);
            let words = || format!("{whole}: get {}", quoted(key));
            match held.view.get(keyspace, key) {
                Err(Error::Invalid { .. }) if dropped => {}
                got if dropped => return Err(format!("{} of a dropped keyspace: {got:?}", words())),
                got if wanted.is_told_by(key, &got) => {
                    held.exact.insert((at, key));
                }
                Err(Error::HistoryTrimmed { oldest }) => {
                    let oldest = u64::from(oldest);
                    self.check_refusal(held, at, Some(key), oldest).map_err(|e| words() + &e)?;
                    refused = Some(key);
                    self.count("refused gets");
                    if follow {
                        self.follow(oldest, at, keyspace, key).map_err(|e| format!("{}: {e}", words()))?;
                    }
                }
                got => return Err(format!("{} {}", words(), differs(&got, &wanted))),
            }
        }
        Ok(refused)
    }

    /// Scans a keyspace in both directions. Where nothing else runs, a scan is refused if a key was.
    fn examine_scans(
        &mut self,
        held: &mut Held,
        at: usize,
        keyspace: &Keyspace,
        refused: Option<&'static [u8]>,
    ) -> Outcome {
        let whole = format!("{}: {}", held.words(), keyspace.name());
        let dropped = self.is_refused_as_dropped(at, held);
        let expected = self.lives.get(at).map(|life| life.range_at(held.moment(), &ALL)).unwrap_or_default();
        for manner in [Manner::Forward, Manner::Backward] {
            let walked = Walked::of(held.view.range(keyspace, ..), manner, &mut Dice(0))?;
            self.count("checked scans of views");
            let words = || format!("{whole}: scan {manner:?}");
            match &walked.wrong {
                Some(Error::Invalid { .. }) if dropped => continue,
                _ if dropped => return Err(format!("{} of a dropped keyspace: {walked:?}", words())),
                None => {
                    if let Some(key) = refused.filter(|_| self.alone()) {
                        return Err(format!("{} is answered, and get {} is refused", words(), quoted(key)));
                    }
                }
                Some(Error::HistoryTrimmed { oldest }) => {
                    self.check_refusal(held, at, None, u64::from(*oldest)).map_err(|e| words() + &e)?;
                }
                // The check tells whether it is right.
                Some(_) => {}
            }
            walked.check(&expected).map_err(|e| format!("{} gives {e}", words()))?;
        }
        if !dropped && Walked::of(held.view.range(keyspace, ..), Manner::Forward, &mut Dice(0))?.wrong.is_none() {
            held.exact_scans.insert(at);
        }
        Ok(())
    }

    /// That a key may be refused, or a whole scan.
    fn check_refusal(&self, held: &Held, at: usize, key: Option<&'static [u8]>, oldest: u64) -> Outcome {
        let refused = format!(" is refused (oldest {oldest}), and");
        ensure!(!self.is_present(held, at), "{refused} it is the present");
        let known = key.map_or_else(|| held.exact_scans.contains(&at), |key| held.exact.contains(&(at, key)));
        ensure!(!known, "{refused} could be answered before");
        ensure!(oldest > held.seqno, " names {oldest} as readable");
        self.may_refuse(held, at, key, &ALL).map_err(|e| format!("{refused} {e}"))
    }

    /// That a key can be read at the seqno that a refusal named.
    fn follow(&mut self, oldest: u64, at: usize, keyspace: &Keyspace, key: &'static [u8]) -> Outcome {
        let mut oldest = oldest;
        loop {
            if oldest == self.newest() + 1 && self.lives.get(at).is_some_and(Life::has_ttl) {
                // What the newest commit left has expired: only the next one will be readable for ever.
                return Ok(());
            }
            ensure!(oldest <= self.newest(), "the oldest readable seqno {oldest} lies in the future");
            let view = self.view_as_of(oldest)?;
            self.count("followed refusals");
            let wanted = self.expected(at, &view, key);
            match view.view.get(keyspace, key) {
                got if wanted.is_told_by(key, &got) => return Ok(()),
                // A compaction on another thread has been there in between.
                Err(Error::HistoryTrimmed { oldest: later }) if !self.alone() && u64::from(later) > oldest => {
                    oldest = u64::from(later);
                }
                got => return Err(format!("as of the oldest readable seqno {oldest} {}", differs(&got, &wanted))),
            }
        }
    }

    fn expected(&self, life: usize, held: &Held, key: &'static [u8]) -> State {
        self.lives.get(life).map_or(State::Absent, |life| life.at(held.moment(), key))
    }

    /// A keyspace as this view can be asked for it.
    fn handle_in(&self, held: &Held, at: usize) -> Outcome<Option<Keyspace>> {
        let Some(life) = self.lives.get(at) else { return Ok(None) };
        let alive = life.born <= held.seqno && life.dropped.is_none_or(|dropped| dropped > held.seqno);
        if held.pinned && alive {
            return match held.view.keyspace(life.name) {
                Ok(keyspace) => Ok(Some(keyspace)),
                Err(Error::Invalid { .. }) if life.strategy.is_custom() && life.handle.is_none() => Ok(None),
                Err(error) => Err(format!("a pinned view does not give {}: {error}", life.name)),
            };
        }
        Ok(life.handle.clone())
    }

    /// Whether a view shows the present of its opening: nothing may be refused then.
    pub(crate) fn is_present(&self, held: &Held, at: usize) -> bool {
        // Where values expire, the moment of the newest commit lies before now.
        held.safe || held.seqno == held.opened && self.lives.get(at).is_none_or(|life| !life.has_ttl())
    }

    pub(crate) fn is_refused_as_dropped(&self, life: usize, held: &Held) -> bool {
        let until = if held.pinned { held.seqno } else { held.opened };
        self.lives.get(life).and_then(|life| life.dropped).is_some_and(|dropped| dropped <= until)
    }

    /// That nothing promises what was refused: a key, or something in a span.
    pub(crate) fn may_refuse(&self, held: &Held, at: usize, key: Option<&'static [u8]>, span: &Span) -> Outcome {
        ensure!(!held.safe, "what it shows was the present once, or is pinned");
        let Some(life) = self.lives.get(at) else { return Ok(()) };
        self.now();
        let latest = self.latest.get();
        let promised = match key {
            Some(key) => life.promises(held.moment(), key, latest),
            None => life.promises_all(held.moment(), span, latest),
        };
        // Where only samples of the times are left, what expired about then is known to nobody.
        let sampled = life.has_ttl() && held.seqno < self.exact_from_at_most();
        ensure!(!promised || sampled, "it is promised at {latest}: {:?}, ttls {:?}", life.eras, life.ttls);
        if let Some(keyspace) = life.handle.as_ref().filter(|_| life.dropped.is_none()) {
            let horizon = u64::from(keyspace.horizon());
            ensure!(held.seqno < horizon, "the horizon is {horizon}");
        }
        Ok(())
    }
}
