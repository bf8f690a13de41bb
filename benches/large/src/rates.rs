//! Rates: values written, read, written again under other keys and under the same, each beside the bare loop.

use std::{hint::black_box, io::Write, path::Path};

use chronolith::ValueWriter;
use measure::{Result, clock::median};

use crate::{
    bare::{Bare, Recipe},
    corpus::Corpus,
    store::{Store, Way, rate, rate_of_storing},
    table::{
        Goal::{AtLeast, AtMost},
        Table,
    },
};

/// One corpus in one way, and its goals.
struct Case {
    name: &'static str,
    corpus: &'static str,
    way: Way,
    /// Bytes stored by bytes in.
    stored_max: Option<f64>,
    ingest_min: Option<f64>,
    read_min: Option<f64>,
    again_min: Option<f64>,
    same_min: Option<f64>,
}

const CASES: [Case; 5] = [
    Case {
        name: "mixed, default",
        corpus: "real",
        way: Way { fixed: None, level: Some(1) },
        stored_max: Some(0.21),
        ingest_min: Some(500.0),
        read_min: Some(800.0),
        again_min: Some(1900.0),
        same_min: Some(3000.0),
    },
    Case {
        name: "30 %, default",
        corpus: "seed30",
        way: Way { fixed: None, level: Some(1) },
        stored_max: None,
        ingest_min: None,
        read_min: Some(1200.0),
        again_min: None,
        same_min: None,
    },
    Case {
        name: "30 %, fixed 64 KiB",
        corpus: "seed30",
        way: Way { fixed: Some(64 << 10), level: Some(1) },
        stored_max: Some(0.48),
        ingest_min: None,
        read_min: None,
        again_min: None,
        same_min: None,
    },
    Case {
        name: "30 %, raw",
        corpus: "seed30",
        way: Way { fixed: None, level: None },
        stored_max: None,
        ingest_min: Some(1100.0),
        read_min: Some(2300.0),
        again_min: None,
        same_min: None,
    },
    Case {
        name: "30 %, raw, fixed 64 KiB",
        corpus: "seed30",
        way: Way { fixed: Some(64 << 10), level: None },
        stored_max: None,
        ingest_min: Some(1500.0),
        read_min: Some(3000.0),
        again_min: None,
        same_min: None,
    },
];

/// Measures all cases, or one of them, counted from 1.
pub fn run(table: &mut Table, corpus: &Path, rounds: usize, only: Option<usize>) -> Result<()> {
    for folder in ["real", "seed30"] {
        let cases =
            CASES.iter().enumerate().filter(|(at, case)| case.corpus == folder && only.is_none_or(|n| n == at + 1));
        let mut cases = cases.map(|(_, case)| case).peekable();
        if cases.peek().is_none() {
            continue;
        }
        let corpus = Corpus::read(&corpus.join(folder))?;
        for case in cases {
            measure_case(table, case, &corpus, rounds)?;
        }
        if folder == "real" {
            from_files(table, &corpus, rounds)?;
        }
    }
    Ok(())
}

/// Rates of one verb, by round.
#[derive(Default)]
struct Beside {
    store: Vec<f64>,
    bare: Vec<f64>,
}

/// What the rounds of a case have told so far.
#[derive(Default)]
struct Told {
    stored: f64,
    ingest: Beside,
    read: Beside,
    again: Beside,
    same: Vec<f64>,
}

fn measure_case(table: &mut Table, case: &Case, corpus: &Corpus, rounds: usize) -> Result<()> {
    let mut told = Told::default();
    for round in 0..rounds {
        eprintln!("{}, round {}", case.name, round + 1);
        told.add_round(case.way, corpus, round == 0)?;
    }
    told.print();
    let Told { stored, ingest, read, again, same } = told;
    let Case { name, stored_max, ingest_min, read_min, again_min, same_min, .. } = *case;
    table.number(&format!("stored / in, {name}"), stored, stored_max.map(AtMost));
    // Without compression an ingest is little but hashing and writing: there the rate itself is the goal.
    let ingest_share = case.way.level.map(|_| 0.85);
    let rows = [
        ("ingest", ingest, ingest_min, ingest_share),
        ("read", read, read_min, Some(0.9)),
        ("again", again, again_min, Some(0.85)),
    ];
    for (verb, Beside { store, bare }, least, share) in rows {
        table.rates(&format!("{verb}, {name}"), &store, &bare, [least.map(AtLeast), share.map(AtLeast)]);
    }
    table.number(&format!("same key, {name}"), median(&same), same_min.map(AtLeast));
    Ok(())
}

impl Told {
    /// Prints the rounds, to tell an unsteady machine from a slow program.
    fn print(&self) {
        for (verb, Beside { store, bare }) in [("ingest", &self.ingest), ("read", &self.read), ("again", &self.again)] {
            eprintln!("  {verb}: {store:.0?} bare {bare:.0?}");
        }
        eprintln!("  same key: {:.0?}", self.same);
    }

    /// Adds a round: an empty database beside an empty file. The first one also checks every answer.
    fn add_round(&mut self, way: Way, corpus: &Corpus, check: bool) -> Result<()> {
        let (store, mut bare) = (Store::new(way)?, Bare::new(way)?);
        let bytes = corpus.len();
        let write = |suffix: &str| {
            for (name, value) in &corpus.files {
                store.write(&format!("{name}{suffix}"), value)?;
            }
            Ok(store.db.flush()?)
        };
        let write_bare = |bare: &mut Bare| {
            let recipes = corpus.files.iter().map(|(_, value)| bare.write(value)).collect::<Result<Vec<Recipe>>>()?;
            bare.flush().map(|()| recipes)
        };
        let mut recipes = Vec::new();
        self.ingest.store.push(rate_of_storing(bytes, || write(""))?);
        self.ingest.bare.push(rate_of_storing(bytes, || write_bare(&mut bare).map(|written| recipes = written))?);
        let space = store.db.stats().space;
        self.stored = (space.chunks + space.places + space.live) as f64 / bytes as f64;

        self.again.store.push(rate(bytes, || write(" again"))?);
        self.again.bare.push(rate(bytes, || write_bare(&mut bare).map(drop))?);
        if check {
            check_answers(corpus, &store, &mut bare, &recipes)?;
        }

        let mut room = Vec::new();
        let read = || {
            for (name, value) in &corpus.files {
                if store.read(name, value.len(), &mut room, |piece| _ = black_box(piece))? != value.len() {
                    return Err(format!("{name} has another length").into());
                }
            }
            Ok(())
        };
        self.read.store.push(rate(bytes, read)?);
        let read_bare =
            || recipes.iter().try_for_each(|recipe| bare.read(recipe, &mut room, |piece| _ = black_box(piece)));
        self.read.bare.push(rate(bytes, read_bare)?);

        let put = || {
            for (name, value) in &corpus.files {
                store.keyspace.put(name, value)?;
            }
            Ok(store.db.flush()?)
        };
        self.same.push(rate(bytes, put)?);
        Ok(store.db.close()?)
    }
}

/// Fails unless every byte of every value is as it was written; this is not measured.
fn check_answers(corpus: &Corpus, store: &Store, bare: &mut Bare, recipes: &[Recipe]) -> Result<()> {
    let mut room = Vec::new();
    for ((name, value), recipe) in corpus.files.iter().zip(recipes) {
        for key in [Some(name.clone()), Some(format!("{name} again")), None] {
            let (mut at, mut same) = (0, true);
            let told = |piece: &[u8]| {
                same &= value.get(at..at + piece.len()) == Some(piece);
                at += piece.len();
            };
            match &key {
                Some(key) => _ = store.read(key, value.len(), &mut room, told)?,
                None => bare.read(recipe, &mut room, told)?,
            }
            if !same || at != value.len() {
                return Err(format!("{} is not what was written", key.unwrap_or(format!("the bare {name}"))).into());
            }
        }
    }
    Ok(())
}

/// The mixed corpus once more, read from the page cache meanwhile, as programs that back up files do.
fn from_files(table: &mut Table, corpus: &Corpus, rounds: usize) -> Result<()> {
    let way = Way { fixed: None, level: Some(1) };
    let (mut files, mut ingest) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let look = |_, piece: &[u8]| {
            black_box(piece);
            Ok(())
        };
        files.push(rate(corpus.len(), || corpus.stream(look))?);
        let store = Store::new(way)?;
        ingest.push(rate_of_storing(corpus.len(), || {
            let mut open: Option<(usize, ValueWriter)> = None;
            corpus.stream(|number, piece| {
                if open.as_ref().is_none_or(|(of, _)| *of != number) {
                    if let Some((_, done)) = open.take() {
                        done.finish()?;
                    }
                    open = Some((number, store.keyspace.writer(&corpus.files[number].0)?));
                }
                let (_, writer) = open.as_mut().ok_or("no writer")?;
                Ok(writer.write_all(piece)?)
            })?;
            if let Some((_, last)) = open {
                last.finish()?;
            }
            Ok(store.db.flush()?)
        })?);
        store.db.close()?;
    }
    table.number("reading the files of mixed", median(&files), None);
    table.number("ingest, mixed, default, read from files", median(&ingest), Some(AtLeast(500.0)));
    Ok(())
}
