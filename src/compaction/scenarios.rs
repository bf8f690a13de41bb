//! What the policies keep, as `scenarios.txt` lists it: versions, readers and older segments go in; what survives and
//! what was dropped come out.
//!
//! | line | means |
//! | --- | --- |
//! | `scenario …` | begins anew: last-writer-wins, at 10 h, no older segments, no views |
//! | `policy mvcc 2 1h` · `tombstones 1h` · `last_writer_wins` · `keep_even` | the policy |
//! | `now 12h` · `ttl 1h` · `strategy Sum` · `views 12 25` · `vanished 30` · `below` | what else decides; `below`: older entries may be outside the job |
//! | `put@20 9h gap 10 moved` | a version of the key, newest first, written at that time; kinds are `put`, `delete`, `operand`, `purge` |
//! | `range_delete@30 9h` · `range_purge@30 9h` | a range tombstone over the key |
//! | `history put@20 5h until 30 6h` · `history delete@30 6h open` | a version of the history tier: one such line makes the scenario a merge there |
//! | `= main put@50 gap 20 moved` · `= history put@20 until 42` · `= history delete@30 open` | what comes out, in order |
//! | `= tombstone 30 gap 12` | a range tombstone that stays |
//! | `= vanished 30` · `= horizon 30` · `= expired_upto 9h` | watermarks to raise, if not 0 |

use super::{
    history::{HistorySurvivors, Purges},
    output::{Output, Tier},
    policy::{CompactionPolicy, Policy, VersionInfo},
    rules::{Demands, OlderSegments, Reader, Readers, Retention, Rules},
    survivors::Survivors,
};
use crate::{
    base::{Bytes, FileNumber, KeySpan, KeyspaceId, Kind, Micros, Result, Seqno},
    merge::{EntryRef, MergeStrategy, RangeTombstone, Tombstone, Tombstones, Until},
    segment::{Entry, SegmentMeta, Summary},
};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

struct KeepEven;

impl CompactionPolicy for KeepEven {
    fn keep(&self, version: &VersionInfo, _now: SystemTime) -> bool {
        version.seqno.0.is_multiple_of(2)
    }
}

/// Parses `9h`, `30m`.
fn time(word: &str) -> Duration {
    let (number, unit) = word.split_at(word.len() - 1);
    let minutes = if unit == "h" { 60 } else { 1 };
    Duration::from_secs(60 * minutes * number.parse::<u64>().unwrap())
}

fn us(word: &str) -> Micros {
    Micros(u64::try_from(time(word).as_micros()).unwrap())
}

#[derive(Clone)]
struct Version {
    kind: Kind,
    seqno: Seqno,
    time: Micros,
    gap_start: Option<Seqno>,
    moved: bool,
    until: Option<Until>,
}

struct Case {
    title: String,
    policy: Policy,
    strategy: MergeStrategy,
    now: Micros,
    ttl: Micros,
    views: Vec<Seqno>,
    vanished: Seqno,
    below: bool,
    versions: Vec<Version>,
    tombstones: Vec<Tombstone>,
    expected: Vec<String>,
}

impl Case {
    fn new(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            policy: Policy::last_writer_wins(),
            strategy: MergeStrategy::LastWins,
            now: us("10h"),
            ttl: Micros::ZERO,
            views: Vec::new(),
            vanished: Seqno(0),
            below: false,
            versions: Vec::new(),
            tombstones: Vec::new(),
            expected: Vec::new(),
        }
    }

    fn line(&mut self, words: &[&str]) {
        match words {
            ["policy", "mvcc", versions, age] => self.policy = Policy::mvcc(versions.parse().unwrap(), time(age)),
            ["policy", "tombstones", age] => self.policy = Policy::tombstones(time(age)),
            ["policy", "last_writer_wins"] => self.policy = Policy::last_writer_wins(),
            ["policy", "keep_even"] => self.policy = Policy::custom("keep even", KeepEven),
            ["now", now] => self.now = us(now),
            ["ttl", ttl] => self.ttl = us(ttl),
            ["strategy", "Sum"] => self.strategy = MergeStrategy::Sum,
            ["views", seqnos @ ..] => self.views = seqnos.iter().map(|seqno| seqno.parse().unwrap()).collect(),
            ["vanished", seqno] => self.vanished = seqno.parse().unwrap(),
            ["below"] => self.below = true,
            ["=", expected @ ..] => self.expected.push(expected.join(" ")),
            [first, rest @ ..] => {
                let (history, version, rest) = match (*first, rest) {
                    ("history", [version, rest @ ..]) => (true, *version, rest),
                    _ => (false, *first, rest),
                };
                let (what, seqno) = version.split_once('@').unwrap();
                let seqno = seqno.parse().unwrap();
                let [at, rest @ ..] = rest else { panic!("when was {version}?") };
                let at = us(at);
                let kind = match what {
                    "put" => Kind::Put,
                    "delete" => Kind::Delete,
                    "operand" => Kind::Operand,
                    "purge" => Kind::Purge,
                    _ => {
                        let purge = what == "range_purge";
                        self.tombstones.push(Tombstone { seqno, ordinal: 0, gap_start: None, time: at, purge });
                        return;
                    }
                };
                let mut version = Version { kind, seqno, time: at, gap_start: None, moved: false, until: None };
                let mut rest = rest;
                while let [word, more @ ..] = rest {
                    rest = match (*word, more) {
                        ("gap", [gap, more @ ..]) => {
                            version.gap_start = Some(gap.parse().unwrap());
                            more
                        }
                        ("until", [seqno, at, more @ ..]) => {
                            version.until = Some(Until::At { seqno: seqno.parse().unwrap(), time: us(at) });
                            more
                        }
                        ("open", more) => {
                            version.until = Some(Until::Open);
                            more
                        }
                        ("moved", more) => {
                            version.moved = true;
                            more
                        }
                        _ => panic!("no such word: {word}"),
                    };
                }
                assert_eq!(history, version.until.is_some(), "{}", self.title);
                self.versions.push(version);
            }
            [] => {}
        }
    }

    fn run(self) {
        if self.title.is_empty() {
            return;
        }
        let mut told = Vec::new();
        let whole = KeySpan { start: Vec::new(), end: None };
        let reader = |seqno: &Seqno| Reader { seqno: *seqno, purge_horizon: *seqno, time: Micros::ZERO };
        let readers = Arc::new(Readers::new(self.views.iter().map(reader).collect()));
        let demands = Demands::new(&readers, self.vanished, Micros::ZERO);
        let mut values: Vec<[u8; 8]> = Vec::new();
        for version in &self.versions {
            values.push(version.seqno.0.to_le_bytes());
        }
        let entries = self.versions.iter().zip(&values).map(|(version, value)| EntryRef {
            key: b"k",
            seqno: version.seqno,
            ordinal: 0,
            kind: version.kind,
            gap_start: version.gap_start,
            moved: version.moved,
            time: Some(version.time),
            until: version.until,
            value,
        });
        let dropped = if self.versions.iter().any(|version| version.until.is_some()) {
            let mut survivors = HistorySurvivors::new(self.policy, self.now, demands, Purges::default());
            survivors.begin_key();
            for entry in entries {
                told.extend(survivors.take(&entry).map(|entry| words(Tier::History, &entry)));
            }
            survivors.into_dropped()
        } else {
            let tombstone = |tombstone: &Tombstone| RangeTombstone { span: whole.clone(), tombstone: *tombstone };
            let tombstones = [Arc::new(Tombstones::new(self.tombstones.iter().map(tombstone)))];
            let ttls = if self.ttl > Micros::ZERO { [(Seqno(0), self.ttl)].into() } else { Arc::default() };
            let rules = Rules {
                policy: self.policy,
                strategy: Some(self.strategy),
                now: self.now,
                timed: true,
                ttls,
                time_of: Box::new(|_| Micros::ZERO),
                purged_upto: Seqno::MAX,
            };
            let older = OlderSegments(self.below.then(|| Arc::new(segment(&whole))).into_iter().collect());
            let mut survivors = Survivors::new(Retention { rules, demands, older }, &tombstones);
            for (at, (entry, value)) in entries.zip(&values).enumerate() {
                survivors.take(&entry, at == 0, || Bytes::copy_from(value), &mut told).unwrap();
            }
            survivors.end_key(&mut told).unwrap();
            for (.., tombstone) in survivors.tombstones_before(None).iter().collect::<Vec<_>>().into_iter().rev() {
                let gap = tombstone.gap_start.map(|gap| format!(" gap {gap}")).unwrap_or_default();
                told.push(format!("tombstone {}{gap}", tombstone.seqno));
            }
            survivors.into_dropped()
        };
        for (name, seqno) in [("vanished", dropped.vanished), ("horizon", dropped.horizon)] {
            told.extend((seqno > Seqno(0)).then(|| format!("{name} {seqno}")));
        }
        told.extend(
            (dropped.expired_upto > Micros::ZERO)
                .then(|| format!("expired_upto {}h", dropped.expired_upto.0 / us("1h").0)),
        );
        assert_eq!(told, self.expected, "{}", self.title);
    }
}

impl Output for Vec<String> {
    fn add(&mut self, tier: Tier, entry: &Entry, _key: &[u8], _value: &[u8]) -> Result<()> {
        self.push(words(tier, entry));
        Ok(())
    }
}

fn words(tier: Tier, entry: &Entry) -> String {
    let tier = if tier == Tier::Main { "main" } else { "history" };
    let kind = match entry.kind {
        Kind::Put => "put",
        Kind::Delete => "delete",
        Kind::Operand => "operand",
        Kind::Purge => "purge",
        Kind::WideSum => "sum",
        _ => "other",
    };
    let mut words = format!("{tier} {kind}@{}", entry.seqno);
    words += &entry.gap_start.map(|gap| format!(" gap {gap}")).unwrap_or_default();
    words += if entry.moved { " moved" } else { "" };
    words
        + &match entry.until {
            Some(Until::At { seqno, .. }) => format!(" until {seqno}"),
            Some(Until::Open) => " open".to_owned(),
            None => String::new(),
        }
}

fn segment(span: &KeySpan) -> SegmentMeta {
    let summary = Summary {
        keyspace: KeyspaceId(16),
        span: span.clone(),
        keys: 1,
        entries: 1,
        tombstones: 0,
        range_tombstones: 0,
        raw_bytes: 1,
        min_seqno: Seqno(1),
        max_seqno: Seqno(1),
        lowest_affected: Seqno(1),
        recipes: false,
        times: None,
        history: None,
    };
    SegmentMeta { number: FileNumber(1), file_id: 1, file_len: 1, footer_digest: 1, summary }
}

#[test]
fn policies_keep_and_drop_as_the_scenarios_say() {
    let mut case = Case::new("");
    let mut count = 0;
    for line in include_str!("scenarios.txt").lines().map(str::trim) {
        if let Some(title) = line.strip_prefix("scenario ") {
            std::mem::replace(&mut case, Case::new(title)).run();
            count += 1;
        } else if !line.starts_with('#') {
            case.line(&line.split_whitespace().collect::<Vec<_>>());
        }
    }
    case.run();
    assert!(count > 20, "only {count} scenarios");
}
