//! What lies in the way of a look: dead keys at both ends of one queue and of many, and versions of one key. Each look
//! beside the same one with nothing in its way.

use std::{hint::black_box, path::Path};

use chronolith::{Db, Durability, Keyspace, KeyspaceOptions, Options, Policy, Seqno};
use measure::{Directory, Random, Result, clock::each, goal};

use crate::data::WEEK;

/// So many times slower than with nothing in its way a look may be.
const SLOWER_MAX: f64 = 10.0;

const LOOKS: usize = 2000;
const VERSIONS: u64 = 100_000;

/// What is asked of a keyspace at a version, and how many entries answer.
type Ask<'a> = &'a dyn Fn(&Keyspace, Seqno) -> Result<usize>;

/// With so many dead keys at an end, of one queue or of all of them.
pub fn run(dead: usize) -> Result<()> {
    let directory = Directory::new("past-bench-walks")?;
    queues(directory.path(), dead)?;
    versions(directory.path())
}

fn open(path: &Path, name: &str) -> Result<Db> {
    Ok(Options::new().durability(Durability::Buffered).open(path.join(name))?)
}

fn fill(db: &Db, keyspace: &Keyspace, keys: impl Iterator<Item = String>, value: Option<&str>) -> Result<()> {
    let mut keys = keys.peekable();
    while keys.peek().is_some() {
        let mut batch = db.batch();
        for key in keys.by_ref().take(1000) {
            match value {
                Some(value) => batch.put(keyspace, key, value),
                None => batch.delete(keyspace, key),
            }
        }
        batch.commit()?;
    }
    Ok(())
}

fn queue(at: usize) -> String {
    format!("queue{at:05}/")
}

/// Microseconds of a look, as the better of two rounds behind a first one.
fn looks(count: usize, mut look: impl FnMut(usize) -> Result<()>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for round in 0..3 {
        let (done, ns) = each(count, || (0..count).try_for_each(&mut look));
        done?;
        best = if round == 0 { best } else { best.min(ns / 1000.0) };
    }
    Ok(best)
}

fn row(name: &str, us: f64, plain: f64) {
    println!("{name:<52} {us:>10.2} {plain:>10.2} {:>8.1}", us / plain);
    goal::at_most(name, us / plain, SLOWER_MAX);
}

fn queues(path: &Path, dead: usize) -> Result<()> {
    println!("\n{:<52} {:>10} {:>10} {:>8}", "queues", "us", "plain", "times");
    let kinds = [("", KeyspaceOptions::new()), ("ttl, ", KeyspaceOptions::new().ttl(WEEK))];
    for (kind, options) in kinds {
        for count in [1, 16, 17, 1000, 10_000] {
            let db = open(path, &format!("{count}{kind}"))?;
            let keyspace = db.keyspace("queues", options.clone())?;
            let plain = db.keyspace("plain", options.clone())?;
            let each = if count == 1 { dead } else { 100 };
            let row_of = |end: &'static str| {
                (0..count).flat_map(move |at| (0..each).map(move |item| format!("{}{end}{item:06}", queue(at))))
            };
            fill(&db, &keyspace, row_of("a").chain(row_of("z")), Some("dead"))?;
            for keyspace in [&keyspace, &plain] {
                fill(&db, keyspace, (0..count).map(|at| queue(at) + "m"), Some("alive"))?;
            }
            // Compactions leave the dead keys where they are.
            let held = db.snapshot();
            fill(&db, &keyspace, row_of("a").chain(row_of("z")), None)?;
            for (end, backward) in [("front", false), ("back", true)] {
                let time = |keyspace: &Keyspace| {
                    looks(count.max(LOOKS), |at| {
                        let mut range = keyspace.prefix(queue(at % count));
                        let told = if backward { range.next_back() } else { range.next() };
                        assert!(black_box(told.transpose()?).is_some_and(|(key, _)| key.ends_with(b"m")));
                        Ok(())
                    })
                };
                row(&format!("{kind}{end} of {count} queues, {each} dead"), time(&keyspace)?, time(&plain)?);
            }
            drop(held);
        }
        let db = open(path, &format!("short{kind}"))?;
        let short = |name: &str, turns: usize, dead: usize| -> Result<f64> {
            let keyspace = db.keyspace(name, options.clone())?;
            fill(&db, &keyspace, (0..dead).map(|item| format!("{item:06}")), Some("dead"))?;
            fill(&db, &keyspace, (0..dead).map(|item| format!("{item:06}")), None)?;
            keyspace.put("zz", "alive")?;
            let mut random = Random::new(5);
            let (done, ns) = each(turns, || -> Result<()> {
                for _ in 0..turns {
                    let key = format!("{:06}x", random.below(1_000_000));
                    assert!(keyspace.range(key.as_str()..).next().transpose()?.is_some());
                    keyspace.put(&key, "short")?;
                    keyspace.delete(&key)?;
                }
                Ok(())
            });
            done.map(|()| ns / 1000.0)
        };
        let plain = short("plain", 15, 0)?;
        row(&format!("{kind}15000 keys of a short life, each with a look"), short("short", 15_000, 0)?, plain);
        let pops = db.keyspace("pops", options)?;
        fill(&db, &pops, (0..dead).map(|item| format!("{item:06}")), Some("item"))?;
        for backward in [false, true] {
            let pop = |count: usize| {
                let (done, ns) = each(count, || -> Result<()> {
                    for _ in 0..count {
                        let told = if backward { pops.last()? } else { pops.first()? };
                        pops.delete(told.ok_or("an empty queue")?.0)?;
                    }
                    Ok(())
                });
                done.map(|()| ns / 1000.0)
            };
            let plain = pop(10)?;
            row(&format!("{kind}pops at the {}", if backward { "back" } else { "front" }), pop(dead * 2 / 5)?, plain);
        }
    }
    Ok(())
}

fn versions(path: &Path) -> Result<()> {
    let db = open(path, "versions")?;
    let keep = KeyspaceOptions::new().policy(Policy::mvcc(1, WEEK));
    let keyspace = db.keyspace("versions", keep.clone())?;
    let plain = db.keyspace("plain", keep)?;
    for key in ["a", "z"] {
        keyspace.put(key, "around")?;
        plain.put(key, "around")?;
    }
    let one = plain.put("hot", 0u64.to_le_bytes())?.seqno;
    let seqnos: Vec<Seqno> =
        (0..VERSIONS).map(|number| Ok(keyspace.put("hot", number.to_le_bytes())?.seqno)).collect::<Result<_>>()?;
    for place in ["in memory", "flushed", "compacted"] {
        match place {
            "flushed" => db.flush()?,
            "compacted" => drop(db.compact()?),
            _ => {}
        }
        println!("\n{:<52} {:>10} {:>10} {:>8}", format!("{VERSIONS} versions {place}"), "us", "plain", "times");
        for (name, at) in [("newest", seqnos.len() - 1), ("middle", seqnos.len() / 2), ("oldest", 0)] {
            let (view, begin) = (db.as_of(seqnos[at])?, db.as_of(one)?);
            let verbs: [(&str, Ask<'_>); 6] = [
                ("get", &|keyspace, _| Ok(view.get(keyspace, "hot")?.map_or(0, |value| value.len()))),
                ("scan", &|keyspace, _| Ok(view.range(keyspace, ..).count())),
                ("scan backward", &|keyspace, _| Ok(view.range(keyspace, ..).rev().count())),
                ("diff", &|keyspace, _| Ok(db.diff(&begin, &view, keyspace).count())),
                ("history", &|keyspace, _| Ok(view.history(keyspace, "hot").take(3).count())),
                ("history_between", &|keyspace, seqno| {
                    Ok(view.history_between(keyspace, "hot", seqno..=seqno).count())
                }),
            ];
            for (verb, ask) in verbs {
                let time = |keyspace: &Keyspace, seqno: Seqno| {
                    looks(20, |_| ask(keyspace, seqno).map(|told| assert!(black_box(told) <= 8)))
                };
                row(&format!("{verb} as of the {name}, {place}"), time(&keyspace, seqnos[at])?, time(&plain, one)?);
            }
        }
    }
    let (last, first) = (db.seqno(), seqnos[0]);
    let commits =
        |from: Seqno| looks(20, |_| db.commits(from..).take(3).try_for_each(|told| told.map(drop).map_err(Into::into)));
    row("commits from the first", commits(first)?, commits(last)?);
    println!();
    Ok(())
}
