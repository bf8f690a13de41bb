//! Two chunkings compared on the data at hand.

use chronolith::{ArmStats, TrialStats};

use super::*;

const CONTROL: Chunking = Chunking::content_defined(2048);
const TRIED: Chunking = Chunking::fixed(4096);

/// Writes by every way in: each key falls on its side, all its versions with it.
#[test]
fn all_values_of_a_key_are_cut_on_one_side_and_the_statistics_tell_of_both() {
    let machine = Sim::new(1);
    let db = open(&machine);
    let options = KeyspaceOptions::new().chunk_threshold(4096).compression(Compression::None);
    let k = db.keyspace("k", options.chunking(CONTROL.trial(TRIED, 0.4)).policy(Policy::mvcc(9, HOUR))).unwrap();
    assert_eq!(k.chunking(), Some(CONTROL.trial(TRIED, 0.4)));
    assert!(db.stats().trials.is_empty(), "nothing was written");
    let (mut sides, mut bytes) = ([0u64; 2], [0u64; 2]);
    for seed in 0..60u64 {
        let key = format!("{seed}");
        let value = noise(seed, 20_000);
        let mut batch = db.batch();
        batch.put(&k, &key, &value);
        batch.commit().unwrap();
        let side = match k.stat(&key).unwrap().unwrap().chunking.unwrap() {
            CONTROL => 0,
            TRIED => 1,
            other => panic!("cut by {other}"),
        };
        let mut writer = k.writer(&key).unwrap();
        writer.write_all(&noise(1000 + seed, 30_000)).unwrap();
        writer.finish().unwrap();
        // The same again: nothing is new.
        k.put(&key, noise(1000 + seed, 30_000)).unwrap();
        k.put(&key, "short").unwrap();
        sides[side] += 3;
        bytes[side] += 50_000;
        for version in k.history(&key).take(4).skip(1) {
            let then = db.as_of(version.unwrap().seqno).unwrap();
            let cut = then.recipe(&k, &key).unwrap().unwrap().chunking();
            assert_eq!(cut, [CONTROL, TRIED][side], "{key}");
        }
    }
    let stats = db.stats();
    let [TrialStats { keyspace, control, trial, .. }] = &stats.trials[..] else { panic!("{:?}", stats.trials) };
    assert_eq!(keyspace, "k");
    assert_eq!((control.chunking, trial.chunking), (CONTROL, TRIED));
    assert_eq!([control.values, trial.values], sides);
    assert!(sides.iter().all(|side| *side > 20), "{sides:?}");
    assert_eq!([control.new_bytes, trial.new_bytes], bytes, "each value is new once");
    for ArmStats { values, value_bytes, stored_bytes, new_chunks, chunks, new_bytes, .. } in [control, trial] {
        assert_eq!(*value_bytes, values / 3 * 80_000);
        assert!(stored_bytes > new_bytes && *stored_bytes < new_bytes + 200 * new_chunks);
        assert!(chunks >= new_chunks);
    }
    assert!(trial.new_chunks < control.new_chunks * trial.values / control.values * 2 / 3, "larger chunks");
    assert!((trial.dedup_ratio() - 1.6).abs() < 1e-9 && trial.stored_ratio() < trial.dedup_ratio());
    assert_eq!((trial.time, trial.bytes_per_second()), (Duration::ZERO, 0.0), "the clock of the simulation stands");
    let (text, json) = (stats.to_string(), stats.to_json());
    assert!(text.contains("k: control content_defined(2048): ") && text.contains("; trial fixed(4096): "), "{text}");
    assert!(json.contains("\"trials\":[{\"keyspace\":\"k\",\"control\":{\"chunking\":\"content_defined(2048)\""));
    let metric = "chronolith_trial_values_total{keyspace=\"k\",side=\"trial\",chunking=\"fixed(4096)\"}";
    assert!(stats.to_prometheus().contains(&format!("{metric} {}\n", trial.values)));
    drop(k);
    db.close().unwrap();

    // It goes on in the next process, which counts anew, and ends with another chunking.
    let db = open(&machine);
    let k = db.keyspace("k", KeyspaceOptions::new()).unwrap();
    assert_eq!(k.chunking(), Some(CONTROL.trial(TRIED, 0.4)));
    k.put("1", noise(1, 50_000)).unwrap();
    assert_eq!(db.stats().trials.iter().map(|trial| trial.control.values + trial.trial.values).sum::<u64>(), 1);
    let done = db.rechunk(&k, TRIED).unwrap();
    assert!(done.values >= 30 && db.stats().trials.is_empty(), "{done}");
    for seed in 0..60u64 {
        for version in k.history(format!("{seed}")).skip(1) {
            let version = version.unwrap();
            let recipe = db.as_of(version.seqno).unwrap().recipe(&k, format!("{seed}")).unwrap();
            assert!(recipe.is_none_or(|recipe| recipe.chunking() == TRIED));
        }
    }
}

#[test]
fn both_sides_of_a_trial_take_time() {
    let db = Options::new().env(Memory::new()).open("/db").unwrap();
    let k = db.keyspace("k", KeyspaceOptions::new().chunking(CONTROL.trial(TRIED, 0.5))).unwrap();
    for seed in 0..20 {
        k.put(format!("{seed}"), noise(seed, 200_000)).unwrap();
    }
    let stats = db.stats();
    for arm in stats.trials.iter().flat_map(|of| [of.control, of.trial]) {
        assert!(arm.time > Duration::ZERO && arm.bytes_per_second() > 0.0, "{arm}");
    }
}

/// Two keyspaces have trials of their own; another trial begins with nothing.
#[test]
fn a_trial_that_is_changed_begins_with_nothing() {
    let db = open(&Sim::new(1));
    let [one, other] = ["one", "other"].map(|name| {
        let options = KeyspaceOptions::new().chunking(CONTROL.trial(TRIED, 0.5));
        db.keyspace(name, options).unwrap()
    });
    for seed in 0..10 {
        one.put(format!("{seed}"), noise(seed, 50_000)).unwrap();
        other.put(format!("{seed}"), noise(seed, 50_000)).unwrap();
    }
    let values = || db.stats().trials.iter().map(|of| of.control.values + of.trial.values).collect::<Vec<_>>();
    assert_eq!(values(), [10, 10]);
    // A stream that began under the former trial is no part of this one.
    let mut writer = one.writer("late").unwrap();
    db.keyspace("one", KeyspaceOptions::new().chunking(CONTROL.trial(TRIED, 0.25))).unwrap();
    assert_eq!(values(), [10]);
    one.put("a", noise(21, 50_000)).unwrap();
    assert_eq!(values(), [1, 10]);
    writer.write_all(&noise(20, 50_000)).unwrap();
    writer.finish().unwrap();
    assert_eq!(values(), [1, 10]);
    db.drop_keyspace("other").unwrap();
    assert_eq!(values(), [1]);
}

#[test]
fn a_trial_is_refused_where_there_is_no_key_to_draw_by_and_outside_its_bounds() {
    let db = open(&Sim::new(1));
    let trial = CONTROL.trial(TRIED, 0.5);
    let k = db.keyspace("k", KeyspaceOptions::new().chunking(trial)).unwrap();
    let refused = [
        db.rechunk(&k, trial).unwrap_err().to_string(),
        db.chunks().put_stream(&[7; 10_000][..], trial).unwrap_err().to_string(),
    ];
    for error in refused {
        assert!(error.contains("give one chunking without `trial`"), "{error}");
    }
    for bad in [
        CONTROL.trial(TRIED, 0.0),
        CONTROL.trial(TRIED, 1.5),
        CONTROL.trial(Chunking::fixed(1), 0.5),
        trial.trial(TRIED, 0.5),
    ] {
        let error = db.keyspace("bad", KeyspaceOptions::new().chunking(bad)).unwrap_err();
        assert!(error.to_string().contains("keyspace \"bad\": "), "{error}");
    }
    assert!(!db.keyspaces().contains(&"bad".to_owned()));
}
