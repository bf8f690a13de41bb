//! Moments that are kept under a name.

use chronolith::Error;

use crate::{
    outcome::{Outcome, ensure},
    past::micros,
    script::PINS,
    state::told,
    world::{Held, World},
};

impl World {
    pub(crate) fn pin(&mut self, which: usize) -> Outcome {
        let Some(&name) = PINS.get(which) else { return Ok(()) };
        self.say("pin", format!("pin {name}"));
        let db = self.db()?.clone();
        let pinned = db.pin(name);
        if self.pins.contains_key(name) {
            ensure!(matches!(pinned, Err(Error::Invalid { .. })), "pinned a second time: {pinned:?}");
            return Ok(());
        }
        let seqno = u64::from(pinned.map_err(told("pin"))?);
        ensure!(seqno > self.newest(), "pinned at {seqno}, after {}", self.newest());
        let pin = db.pins().into_iter().find(|pin| pin.name == name).ok_or("the pin is not listed")?;
        self.changed(seqno)?;
        let time = micros(pin.time);
        let last = self.stamps.last().map_or(0, |stamp| stamp.time);
        ensure!(time == last, "pinned at the time {time}, and a view of it says {last}");
        self.pins.insert(name, (seqno, time));
        self.check_pins()
    }

    pub(crate) fn unpin(&mut self, which: usize) -> Outcome {
        let Some(&name) = PINS.get(which) else { return Ok(()) };
        self.say("unpin", format!("unpin {name}"));
        let db = self.db()?.clone();
        let unpinned = db.unpin(name);
        if self.pins.remove(name).is_none() {
            ensure!(matches!(unpinned, Err(Error::Invalid { .. })), "unpinned what is not there: {unpinned:?}");
            let view = db.pinned(name);
            ensure!(matches!(view, Err(Error::Invalid { .. })), "a view of a pin that is not there: {view:?}");
            return Ok(());
        }
        unpinned.map_err(told("unpin"))?;
        let seqno = u64::from(db.seqno());
        ensure!(seqno > self.newest(), "unpinned at {seqno}, after {}", self.newest());
        self.changed(seqno)?;
        self.check_pins()
    }

    fn check_pins(&self) -> Outcome {
        let told = self.db()?.pins();
        let told: Vec<_> =
            told.iter().map(|pin| (pin.name.as_str(), (u64::from(pin.seqno), micros(pin.time)))).collect();
        let wanted: Vec<_> = self.pins.iter().map(|(name, pin)| (*name, *pin)).collect();
        ensure!(told == wanted, "the pins are {told:?}, and the model says {wanted:?}");
        Ok(())
    }

    /// Reads a pinned moment, and holds it if asked to.
    pub(crate) fn read_pins(&mut self, which: usize, hold: bool) -> Outcome {
        self.check_pins()?;
        let Some((&name, &(seqno, time))) = self.pins.iter().nth(which % self.pins.len().max(1)) else { return Ok(()) };
        self.say(if hold { "hold a pin" } else { "read pins" }, format!("read what {name} pins"));
        for keep in [false, true] {
            if keep && !hold {
                break;
            }
            let view = self.db()?.pinned(name).map_err(told("pinned"))?;
            let pinned = Held { safe: true, pinned: true, ..self.held_at(view, seqno)? };
            ensure!(pinned.time == time, "a view of a pin of {time} says {}", pinned.time);
            if keep {
                self.held.push(pinned);
            } else {
                self.look_with(pinned, time)?;
            }
        }
        Ok(())
    }
}
