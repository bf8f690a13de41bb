//! Compactions, and what must be gone from the files behind them.

use std::path::Path;

use chronolith::Seqno;

use crate::{
    outcome::{Outcome, ensure},
    script::{MARK_LEN, quoted},
    state::told,
    world::{Machine, World},
};

impl World {
    pub(crate) fn compact(&mut self) -> Outcome {
        self.say("compact", "compact".to_owned());
        let report = self.db()?.compact().map_err(told("compact"))?;
        let views = self.held.iter().map(|held| held.seqno).chain(self.ranges.iter().map(|range| range.opened));
        let readers: Vec<u64> = views.chain(self.pins.values().map(|(seqno, _)| *seqno)).collect();
        for seqno in &report.still_held_by {
            ensure!(readers.contains(&u64::from(*seqno)), "held by {seqno}, and there are only {readers:?}");
        }
        self.check_horizons()?;
        self.look_for_purged(&report.still_held_by)
    }

    /// That no file holds what was purged, unless a view that came before may read it, or an iterator that is told of
    /// still reads the file.
    fn look_for_purged(&mut self, held_by: &[Seqno]) -> Outcome {
        let Machine::Sim(sim) = self.machine.clone() else { return Ok(()) };
        let opened = self.held.iter().map(|held| held.opened).chain(self.ranges.iter().map(|range| range.opened));
        let oldest = opened.min().unwrap_or(u64::MAX);
        let gone: Vec<_> = self.purged.iter().rev().filter(|(purge, _)| *purge <= oldest).take(40).cloned().collect();
        let iterates = self.ranges.iter().any(|range| held_by.contains(&Seqno::from(range.opened)));
        if gone.is_empty() || iterates {
            return Ok(());
        }
        self.count("purged bytes looked for");
        for file in sim.files().into_iter().filter(|file| !is_copy(file)) {
            let bytes = sim.read_file(&file).unwrap_or_default();
            // Every mark begins with one of two bytes.
            for at in memchr(&bytes) {
                let found = gone.iter().find(|(_, mark)| bytes.get(at..at + MARK_LEN) == Some(mark.as_slice()));
                if let Some((purge, mark)) = found {
                    return Err(format!("{} holds {} @{at}, purged @{purge}", file.display(), quoted(mark)));
                }
            }
        }
        Ok(())
    }
}

fn is_copy(file: &Path) -> bool {
    file.components().any(|part| part.as_os_str().to_string_lossy().starts_with("copy-"))
}

/// Where a mark may begin.
fn memchr(bytes: &[u8]) -> impl Iterator<Item = usize> + '_ {
    bytes.iter().enumerate().filter(|(_, byte)| matches!(byte, b'v' | b'!')).map(|(at, _)| at)
}
