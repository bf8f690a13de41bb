//! Copies of a moment, read like the database itself.

use chronolith::{Error, Options};

use crate::{
    dice::Dice,
    outcome::{Outcome, ensure},
    past::{Moment, micros},
    script::{ALL, KEYS, quoted},
    state::{State, differs, told},
    world::{Held, Machine, World},
};

impl World {
    /// Copies a moment to a database of its own, and reads that.
    pub(crate) fn copy_moment(&mut self, seqno: u64, dice: u64) -> Outcome {
        let which = usize::try_from(dice % 64).unwrap_or(0);
        let mut held = self.view_as_of(seqno)?;
        if let Some(older) = self.held.get(which) {
            let Held { ref view, seqno, time, opened, safe, pinned, .. } = *older;
            held = Held { view: view.clone(), seqno, time, opened, safe, pinned, ..held };
        }
        let there: Vec<usize> = (0..self.lives.len())
            .filter(|at| !self.is_refused_as_dropped(*at, &held))
            .filter(|at| self.lives.get(*at).is_some_and(|life| life.born <= held.seqno))
            .collect();
        let given =
            |at: &usize| self.lives.get(*at).is_some_and(|life| life.handle.is_some() || !life.strategy.is_custom());
        // The copy of nothing at all begins with a commit of its own.
        if held.seqno == 0 || !there.iter().all(given) {
            return Ok(());
        }
        self.say("copy a moment", format!("copy the view as of {} opened at {}", held.seqno, held.opened));
        self.copies += 1;
        let path = format!("copy-{}.db", self.copies);
        let moment = held.moment();
        match held.view.checkpoint(&path) {
            Ok(()) => {}
            Err(Error::HistoryTrimmed { .. }) => {
                let may = |at: &usize| !self.is_present(&held, *at) && self.may_refuse(&held, *at, None, &ALL).is_ok();
                ensure!(there.iter().any(may), "a copy is refused, and all of it is promised");
                self.count("refused copies");
                return Ok(());
            }
            Err(Error::Invalid { what }) => {
                let is = |at: &usize| {
                    let life = self.lives.get(*at);
                    life.is_some_and(|life| KEYS.into_iter().any(|key| life.at(moment, key) == State::Unfoldable))
                };
                ensure!(there.iter().any(is), "a copy is refused: {what}");
                return Ok(());
            }
            Err(error) => return Err(format!("checkpoint: {error}")),
        }
        self.check_copy(&path, &there, held.moment(), dice)
    }

    /// Opens a copy, which has these keyspaces as of its moment, and reads it before and after a compaction.
    fn check_copy(&self, path: &str, there: &[usize], moment: Moment, dice: u64) -> Outcome {
        let options = match &self.machine {
            Machine::Sim(sim) => Options::new().env(sim.clone()),
            Machine::Memory(memory) => Options::new().env(memory.clone()),
            Machine::Disk(_) => Options::new(),
        };
        let copy = options.open(path).map_err(|e| format!("open the copy: {e}"))?;
        let lives = || there.iter().filter_map(|at| self.lives.get(*at));
        let mut names: Vec<&str> = lives().map(|life| life.name).collect();
        names.sort_unstable();
        ensure!(copy.keyspaces() == names, "the copy has {:?}, and the model says {names:?}", copy.keyspaces());
        ensure!(u64::from(copy.seqno()) == moment.seqno, "the copy is at {}, not {}", copy.seqno(), moment.seqno);
        let mut dice = Dice(dice);
        for round in 0..2 {
            for life in lives() {
                let keyspace = copy.keyspace(life.name, life.options(false)).map_err(told("keyspace of the copy"))?;
                let earlier = self.moment(dice.below(1 << 20)).min(moment.seqno);
                for seqno in [None, Some(moment.seqno), Some(earlier), Some(moment.seqno / 2)] {
                    let view = match seqno {
                        None => copy.snapshot(),
                        Some(seqno) => copy.as_of(seqno).map_err(told("as_of in the copy"))?,
                    };
                    let then = Moment { seqno: view.seqno().into(), time: micros(view.time()), ..moment };
                    for key in KEYS {
                        let wanted = life.at(then, key);
                        let got = view.get(&keyspace, key);
                        let trimmed = matches!(got, Err(Error::HistoryTrimmed { .. }))
                            && seqno.is_some_and(|seqno| seqno < moment.seqno || life.has_ttl());
                        ensure!(
                            trimmed || wanted.is_told_by(key, &got),
                            "the copy as of {seqno:?}, round {round}: {}: get {} {}",
                            life.name,
                            quoted(key),
                            differs(&got, &wanted)
                        );
                    }
                }
            }
            copy.compact().map(drop).map_err(told("compact the copy"))?;
        }
        let report = copy.verify().map_err(told("verify the copy"))?;
        ensure!(report.is_clean(), "verify of the copy finds {report}");
        copy.close().map_err(told("close the copy"))
    }
}
