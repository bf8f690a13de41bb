//! Every way to lose, every fault, and the counts that tests go by.

use std::{
    collections::BTreeSet,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    Fault, Loss, Sim,
    faults::{EIO, EMFILE, ENOSPC},
    machine::START_US,
};
use crate::env::{Dir, Env, File, Region};

fn open(sim: &Sim) -> Arc<dyn Dir> {
    sim.open_dir(Path::new("db"), true).unwrap()
}

fn read(sim: &Sim, name: &str) -> Option<Vec<u8>> {
    sim.read_file(&Path::new("db").join(name))
}

fn kind<T>(result: io::Result<T>) -> ErrorKind {
    result.err().expect("an error").kind()
}

fn put(dir: &dyn Dir, name: &str, bytes: &[u8]) -> Arc<dyn File> {
    let file = dir.create(name).unwrap();
    file.write_at(0, bytes).unwrap();
    file
}

/// A machine with "a" = `old`, durable; then unsynced: more bytes in "a", the name of a synced "b", all of "c".
fn half_synced(seed: u64) -> Sim {
    let sim = Sim::new(seed);
    let dir = open(&sim);
    let a = put(&*dir, "a", b"old");
    a.sync().unwrap();
    dir.sync_dir("").unwrap();
    a.write_at(3, b"new").unwrap();
    put(&*dir, "b", b"b").sync().unwrap();
    put(&*dir, "c", b"c");
    sim
}

fn after(loss: Loss) -> [Option<Vec<u8>>; 3] {
    let sim = half_synced(1);
    sim.cut_power_with(loss);
    ["a", "b", "c"].map(|name| read(&sim, name))
}

#[expect(clippy::unnecessary_wraps, reason = "stands beside what a file may hold")]
fn some(bytes: &[u8]) -> Option<Vec<u8>> {
    Some(bytes.to_vec())
}

#[test]
fn losing_nothing_keeps_what_was_never_synced() {
    assert_eq!(after(Loss::Nothing), [some(b"oldnew"), some(b"b"), some(b"c")]);
}

#[test]
fn losing_everything_leaves_what_was_synced_under_synced_names() {
    assert_eq!(after(Loss::Everything), [some(b"old"), None, None]);
}

#[test]
fn losing_data_only_keeps_the_names_of_empty_files() {
    assert_eq!(after(Loss::NamesKept), [some(b"old"), some(b"b"), some(b"")]);
}

#[test]
fn losing_names_only_keeps_the_bytes_behind_synced_names() {
    assert_eq!(after(Loss::DataOnly), [some(b"oldnew"), None, None]);
}

#[test]
fn a_prefix_ends_at_each_moment_and_never_has_holes() {
    let moments = [
        [some(b"old"), None, None],
        [some(b"oldnew"), None, None],
        [some(b"oldnew"), some(b"b"), None],
        [some(b"oldnew"), some(b"b"), some(b"")],
        [some(b"oldnew"), some(b"b"), some(b"c")],
    ];
    let mut seen = [false; 5];
    for seed in 0..200 {
        let sim = half_synced(seed);
        sim.cut_power_with(Loss::Prefix);
        let left = ["a", "b", "c"].map(|name| read(&sim, name));
        let moment = moments.iter().position(|m| *m == left);
        seen[moment.unwrap_or_else(|| panic!("seed {seed}: no moment was {left:?}"))] = true;
    }
    assert_eq!(seen, [true; 5]);
}

#[test]
fn a_torn_write_mixes_sectors_and_spares_what_was_synced() {
    let (mut lengths, mut sectors) = (BTreeSet::new(), BTreeSet::new());
    for seed in 0..300 {
        let sim = Sim::new(seed);
        let dir = open(&sim);
        let file = put(&*dir, "a", &[1; 700]);
        file.sync().unwrap();
        dir.sync_dir("").unwrap();
        file.write_at(700, &[2; 2000]).unwrap();
        sim.cut_power_with(Loss::Torn);

        let left = read(&sim, "a").unwrap();
        assert_eq!(left[..700], [1; 700], "seed {seed}");
        lengths.insert(left.len());
        // The write begins inside the second sector; the third one is all its own.
        if let Some(sector) = left.get(1024..1536) {
            let uniform = sector.iter().all(|byte| *byte == sector[0]);
            sectors.insert(if uniform { Some(sector[0]) } else { None });
        }
    }
    assert!(lengths.contains(&700) && lengths.contains(&2700) && lengths.len() > 10, "{lengths:?}");
    assert_eq!(sectors, [None, Some(0), Some(2)].into());
}

#[test]
fn torn_names_are_kept_or_lost_one_by_one() {
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let sim = half_synced(seed);
        sim.cut_power_with(Loss::Torn);
        seen.insert((read(&sim, "b").is_some(), read(&sim, "c").is_some()));
    }
    assert_eq!(seen.len(), 4);
}

#[test]
fn a_rename_over_current_leaves_the_old_or_the_new_one_whole() {
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        for loss in Loss::ALL {
            let sim = Sim::new(seed);
            let dir = open(&sim);
            put(&*dir, "CURRENT", b"old").sync().unwrap();
            dir.sync_dir("").unwrap();
            put(&*dir, "CURRENT.tmp", b"new").sync().unwrap();
            dir.rename("CURRENT.tmp", "CURRENT").unwrap();
            assert_eq!(dir.list("").unwrap(), ["CURRENT"]);
            assert_eq!(read(&sim, "CURRENT"), some(b"new"));
            sim.cut_power_with(loss);
            seen.insert(read(&sim, "CURRENT").unwrap());
        }
    }
    assert_eq!(seen, [b"new".to_vec(), b"old".to_vec()].into());
}

#[test]
fn what_was_synced_survives_every_loss() {
    for loss in Loss::ALL {
        let sim = Sim::new(3);
        let dir = open(&sim);
        dir.create_dir("wal").unwrap();
        let file = put(&*dir, "wal/1.wal", b"log");
        file.allocate(8).unwrap();
        file.sync().unwrap();
        dir.sync_dir("wal").unwrap();
        dir.sync_dir("").unwrap();
        sim.cut_power_with(loss);
        assert_eq!(read(&sim, "wal/1.wal"), some(b"log\0\0\0\0\0"), "{loss:?}");
    }
}

#[test]
fn a_lost_directory_takes_its_files_along() {
    let sim = Sim::new(1);
    let dir = open(&sim);
    dir.create_dir("wal").unwrap();
    put(&*dir, "wal/1.wal", b"log").sync().unwrap();
    dir.sync_dir("wal").unwrap();
    sim.cut_power_with(Loss::Everything);
    assert_eq!(sim.files(), Vec::<PathBuf>::new());
    assert_eq!(kind(open(&sim).list("wal")), ErrorKind::NotFound);
}

#[test]
fn a_removed_name_comes_back_unless_its_directory_was_synced() {
    let sim = Sim::new(1);
    let dir = open(&sim);
    put(&*dir, "a", b"x").sync().unwrap();
    dir.sync_dir("").unwrap();
    dir.remove("a").unwrap();
    let synced = sim.fork();
    sim.cut_power_with(Loss::Everything);
    assert_eq!(read(&sim, "a"), some(b"x"));

    open(&synced).sync_dir("").unwrap();
    synced.cut_power_with(Loss::Everything);
    assert_eq!(read(&synced, "a"), None);
}

#[test]
fn a_second_name_shares_the_bytes() {
    let sim = half_synced(1);
    let copy = sim.open_dir(Path::new("copy/one"), true).unwrap();
    open(&sim).link("b", &*copy, "b2").unwrap();
    copy.sync_dir("").unwrap();
    sim.cut_power_with(Loss::Everything);
    assert_eq!(read(&sim, "b"), None);
    assert_eq!(sim.read_file(Path::new("./copy//one/b2")), some(b"b"));
}

#[test]
fn after_a_failed_sync_a_good_one_proves_nothing() {
    let sim = Sim::new(1);
    let dir = open(&sim);
    let file = put(&*dir, "a", b"lost");
    dir.sync_dir("").unwrap();
    sim.fail_at(sim.calls(), Fault::Eio);
    assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(EIO));
    assert_eq!(read(&sim, "a"), some(b"lost"));
    file.write_at(4, b"kept").unwrap();
    file.sync().unwrap();
    sim.cut_power_with(Loss::Nothing);
    assert_eq!(read(&sim, "a"), some(b"\0\0\0\0kept"));
}

#[test]
fn the_power_stays_off_until_it_comes_back() {
    let sim = half_synced(1);
    let dir = open(&sim);
    sim.fail_at(sim.calls() + 1, Fault::Cut);
    let file = dir.create("d").unwrap();
    assert_eq!(kind(file.write_at(0, b"x")), ErrorKind::Other);
    assert_eq!(kind(file.sync()), ErrorKind::Other);
    assert_eq!(kind(dir.list("")), ErrorKind::Other);
    sim.clear_faults();
    assert_eq!(kind(sim.open_dir(Path::new("db"), true)), ErrorKind::Other);
    assert_eq!(kind(sim.fork().open_dir(Path::new("db"), true)), ErrorKind::Other);
    sim.cut_power_with(Loss::Nothing);
    assert_eq!(open(&sim).list("").unwrap(), ["a", "b", "c", "d"]);
    assert_eq!(read(&sim, "d"), some(b""));
}

#[test]
fn handles_from_before_a_cut_are_dead_and_regions_are_not() {
    let sim = Sim::new(1);
    let dir = open(&sim);
    let file = put(&*dir, "a", b"x");
    let region = file.map().unwrap();
    assert!(dir.try_lock(true).unwrap());
    sim.cut_power();
    let calls = (sim.calls(), sim.reads());
    assert_eq!(kind(file.len()), ErrorKind::Other);
    assert_eq!(kind(file.write_at(0, b"y")), ErrorKind::Other);
    assert_eq!(kind(dir.sync_dir("")), ErrorKind::Other);
    assert_eq!(kind(dir.try_lock(true)), ErrorKind::Other);
    assert_eq!(kind(dir.unlock()), ErrorKind::Other);
    assert_eq!((sim.calls(), sim.reads()), calls);
    assert_eq!(&*region, b"x");

    let next = open(&sim);
    assert!(next.try_lock(true).unwrap());
    drop((dir, file));
    assert!(!open(&sim).try_lock(true).unwrap());
}

#[test]
fn faults_meet_the_call_they_were_planned_for() {
    let sim = Sim::new(1);
    let dir = open(&sim);
    sim.fail_at(1, Fault::ShortWrite);
    sim.fail_at(2, Fault::Enospc);
    sim.fail_read_at(0);
    let file = dir.create("a").unwrap();
    assert_eq!(kind(file.write_at(0, &[7; 100])), ErrorKind::WriteZero);
    assert_eq!(dir.create("b").unwrap_err().raw_os_error(), Some(ENOSPC));
    assert_eq!(file.len().unwrap_err().raw_os_error(), Some(EIO));
    assert!(file.len().unwrap() < 100);
    assert_eq!(dir.list("").unwrap(), ["a"]);
    assert_eq!((sim.calls(), sim.reads()), (3, 3));
}

#[test]
fn no_more_files_are_open_than_there_may_be() {
    let sim = half_synced(1);
    assert_eq!(sim.open_files(), 0);
    sim.set_open_files(Some(2));
    let dir = open(&sim);
    let a = dir.open("a").unwrap();
    let refused = |error: io::Error| assert_eq!(error.raw_os_error(), Some(EMFILE));
    refused(dir.open("b").unwrap_err());
    refused(dir.create("d").unwrap_err());
    refused(sim.open_dir(Path::new("db"), true).unwrap_err());
    assert_eq!(dir.list("").unwrap(), ["a", "b", "c"]);
    assert_eq!(dir.file_len("b").unwrap(), 1);
    drop(a);
    drop(dir.create("d").unwrap());
    assert_eq!((sim.open_files(), sim.fork().open_files()), (1, 0));
    let b = dir.open("b").unwrap();
    sim.cut_power_with(Loss::Nothing);
    drop((b, dir));
    assert_eq!(sim.open_files(), 0);
    let _two = [open(&sim), open(&sim)];
    assert_eq!(sim.open_files(), 2);
}

#[test]
fn a_call_without_an_open_file_changes_nothing() {
    let sim = half_synced(1);
    let dir = open(&sim);
    let file = dir.create("d").unwrap();
    for call in 0..3 {
        sim.fail_at(sim.calls() + call, Fault::Emfile);
    }
    let failed = [file.write_at(0, b"x"), file.sync(), dir.sync_dir("")];
    assert!(failed.iter().all(|failed| failed.as_ref().unwrap_err().raw_os_error() == Some(EMFILE)));
    assert_eq!(file.len().unwrap(), 0);
    sim.fail_read_with(sim.reads(), Fault::Emfile);
    assert_eq!(dir.open("a").unwrap_err().raw_os_error(), Some(EMFILE));
    dir.sync_dir("").unwrap();
    sim.cut_power_with(Loss::Everything);
    assert_eq!(read(&sim, "d"), some(b""));
}

#[test]
fn a_map_is_refused_and_the_bytes_can_still_be_read() {
    let sim = half_synced(1);
    let file = open(&sim).open("a").unwrap();
    sim.refuse_maps(true);
    let refused = file.map().unwrap_err();
    assert_eq!((refused.kind(), Region::is_refused(&refused)), (ErrorKind::OutOfMemory, true));
    file.read_at(0, &mut [0; 6]).unwrap();
    sim.refuse_maps(false);
    assert_eq!(&*file.map().unwrap(), b"oldnew");
}

#[test]
fn a_standing_fault_goes_when_it_is_cleared() {
    let sim = Sim::new(1);
    let dir = open(&sim);
    sim.fail_at(0, Fault::EnospcForever);
    for _ in 0..3 {
        assert_eq!(dir.create("a").unwrap_err().raw_os_error(), Some(ENOSPC));
    }
    sim.clear_faults();
    dir.create("a").unwrap();
}

#[test]
fn files_grow_as_far_as_there_is_space() {
    let sim = Sim::new(1);
    let dir = open(&sim);
    assert_eq!(dir.available_space().unwrap_err().kind(), ErrorKind::Unsupported);
    sim.set_space(Some(10));
    let a = put(&*dir, "a", b"1234");
    let b = dir.create("b").unwrap();
    assert_eq!(b.write_at(0, b"12345678").unwrap_err().raw_os_error(), Some(ENOSPC));
    assert_eq!(read(&sim, "b"), some(b"123456"));
    assert_eq!(dir.available_space().unwrap(), 0);
    a.write_at(0, b"4321").unwrap();
    assert_eq!(a.allocate(5).unwrap_err().raw_os_error(), Some(ENOSPC));
    assert_eq!(a.set_len(5).unwrap_err().raw_os_error(), Some(ENOSPC));
    dir.remove("b").unwrap();
    a.set_len(10).unwrap();
    sim.set_space(Some(3));
    a.set_len(9).unwrap();
}

#[test]
fn a_fork_goes_its_own_way() {
    let sim = half_synced(5);
    let dir = open(&sim);
    assert!(dir.try_lock(true).unwrap());
    sim.fail_at(sim.calls(), Fault::Eio);
    let fork = sim.fork();
    assert_eq!(fork.calls(), sim.calls());
    assert_eq!(fork.entropy(), sim.entropy());

    let other = open(&fork);
    assert!(other.try_lock(true).unwrap());
    put(&*other, "only here", b"");
    fork.set_time(fork.now() + Duration::from_secs(1));
    fork.cut_power_with(Loss::Everything);
    assert_eq!(read(&fork, "a"), some(b"old"));

    dir.create("d").unwrap_err();
    assert_eq!(dir.list("").unwrap(), ["a", "b", "c"]);
    assert_eq!(read(&sim, "a"), some(b"oldnew"));
    assert_eq!(sim.wall_us(), START_US);
}

#[test]
fn the_same_seed_loses_the_same() {
    let run = |seed| {
        let sim = Sim::new(seed);
        let dir = open(&sim);
        let drawn = (sim.entropy(), sim.draw(1000), sim.draw(0));
        let file = put(&*dir, "a", &[3; 5000]);
        file.sync().unwrap();
        dir.sync_dir("").unwrap();
        for i in 0..20_u8 {
            file.write_at(u64::from(i) * 400, &[i; 900]).unwrap();
            dir.create(&format!("{i}")).unwrap();
        }
        sim.fail_at(sim.calls(), Fault::Eio);
        file.write_at(9000, &[9; 300]).unwrap_err();
        sim.cut_power();
        let left: Vec<_> = sim.files().iter().map(|path| (path.clone(), sim.read_file(path))).collect();
        (drawn, left)
    };
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
        assert_ne!(run(seed), run(seed + 1), "seed {seed}");
    }
}

#[test]
fn clocks_move_only_when_they_are_told_to() {
    let sim = Sim::new(1);
    let second = Duration::from_secs(1);
    let start = sim.now();
    assert_eq!((sim.wall_us(), sim.monotonic_us()), (START_US, 0));
    sim.set_time(start + second);
    assert_eq!((sim.wall_us(), sim.monotonic_us()), (START_US + 1_000_000, 1_000_000));
    sim.set_time(start);
    sim.step_wall(second * 2);
    sim.step_wall_back(second);
    assert_eq!((sim.wall_us(), sim.monotonic_us()), (START_US + 1_000_000, 1_000_000));
    assert_eq!(sim.now(), start + second);
}

#[test]
fn a_damaged_file_is_durable_under_open_handles() {
    let sim = half_synced(1);
    let file = open(&sim).open("a").unwrap();
    sim.write_file(Path::new("db/a"), b"bad".to_vec());
    sim.write_file(Path::new("db/c"), b"there".to_vec());
    sim.write_file(Path::new("db/sub/d"), b"made".to_vec());
    sim.remove_file(Path::new("db/b"));
    assert_eq!(&*file.map().unwrap(), b"bad");
    sim.cut_power_with(Loss::Everything);
    assert_eq!(sim.files(), ["db/a", "db/c", "db/sub/d"].map(PathBuf::from));
    assert_eq!(read(&sim, "a"), some(b"bad"));
    assert_eq!(read(&sim, "c"), some(b"there"));
}

#[test]
fn a_file_without_a_name_lives_while_it_is_open() {
    let sim = half_synced(1);
    let dir = open(&sim);
    let file = dir.open("a").unwrap();
    dir.remove("a").unwrap();
    dir.sync_dir("").unwrap();
    assert_eq!(file.len().unwrap(), 6);
    assert_eq!(kind(dir.open("a")), ErrorKind::NotFound);
    assert_eq!(kind(file.write_at(0, b"x")), ErrorKind::PermissionDenied);
}
