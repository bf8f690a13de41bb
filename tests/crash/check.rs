//! Opens what a crash left, and holds it against the oracle.

use std::collections::BTreeSet;

use chronolith::env::{Loss, Sim};

use crate::{
    keyspaces::{Sort, stored_options_of},
    observe::{Depth, failed, observe, verify},
    oracle::{Run, us},
    past::Past,
    workload::Workload,
    workloads::COPY,
};

/// Opens what a crash left, and checks that it is right.
pub(crate) fn check(sim: &Sim, workload: &Workload, run: &Run, floor: usize, depth: Depth) -> Result<(), String> {
    let db = workload.open(sim).map_err(failed("open"))?;
    let mut seen = observe(&db, None)?;
    let explained = run.explain(&seen, floor, run.all())?;
    let past = workload.has_past().then(|| Past::new(run, &explained));
    if let Some(past) = &past {
        past.check(&db, depth)?;
    }
    verify(&db)?;
    if depth == Depth::Look {
        drop(db);
        return check_copy(sim, workload, run);
    }

    let mut newest = run.newest;
    let names: BTreeSet<String> =
        seen.keys().filter(|name| !name.starts_with('\0')).cloned().chain(["after".to_owned()]).collect();
    for name in names {
        let sort = Sort::of(&name);
        let value = sort.plain_value(b"once more");
        let keyspace = db.keyspace(&name, stored_options_of(&name)).map_err(failed("create afterwards"))?;
        let receipt = keyspace.put("~after", value).map_err(failed("put afterwards"))?;
        let seqno = u64::from(receipt.seqno);
        if seqno <= newest {
            return Err(format!("seqno {seqno} was given out, and {newest} before the crash"));
        }
        newest = seqno;
        if let Some(past) = &past {
            past.check_later(us(receipt.time))?;
        }
        seen.entry(name).or_default().insert(b"~after".to_vec(), sort.digest_of_put(value));
    }
    db.persist().map_err(failed("persist afterwards"))?;
    if depth == Depth::CutAgain {
        let cut = sim.fork();
        cut.cut_power_with(Loss::Everything);
        let again = workload.open(&cut).map_err(failed("open after a cut behind persist"))?;
        if observe(&again, None)? != seen {
            return Err("a power cut behind persist lost something".to_owned());
        }
        verify(&again)?;
        if let Some(past) = &past {
            past.check(&again, Depth::Look).map_err(|e| format!("after another cut: {e}"))?;
        }
    }
    if let Some(past) = past.as_ref().filter(|_| run.salt.is_multiple_of(2)) {
        // What was recovered is moved and merged like anything else.
        db.compact().map_err(failed("compact afterwards"))?;
        past.check_purged(sim)?;
        past.check(&db, Depth::Look).map_err(|e| format!("compacted afterwards: {e}"))?;
    }
    db.close().map_err(failed("close afterwards"))?;
    let db = workload.open(sim).map_err(failed("open again"))?;
    if observe(&db, None)? != seen {
        return Err("closing and opening again changed something".to_owned());
    }
    verify(&db)?;
    if let Some(past) = &past {
        past.check(&db, Depth::Look).map_err(|e| format!("opened again: {e}"))?;
    }
    drop(db);
    check_copy(sim, workload, run)
}

/// A copy that was acknowledged opens; one that opens is complete.
fn check_copy(sim: &Sim, workload: &Workload, run: &Run) -> Result<(), String> {
    let Some((events, acknowledged)) = run.copied else { return Ok(()) };
    match workload.options(sim.clone()).read_only(true).open(COPY) {
        Ok(copy) => {
            let seen = observe(&copy, None).map_err(|e| format!("the copy: {e}"))?;
            run.explain(&seen, events, events).map_err(|e| format!("the copy: {e}"))?;
            verify(&copy).map_err(|e| format!("the copy: {e}"))
        }
        Err(error) if acknowledged => Err(format!("the copy does not open: {error} ({error:?})")),
        Err(_) => Ok(()),
    }
}
