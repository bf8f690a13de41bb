//! Code of the user that the engine calls: what it may call itself, and what is left of it when it panics.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    cell::RefCell,
    panic::catch_unwind,
    sync::{Arc, Condvar, Mutex, OnceLock, mpsc},
    thread,
    time::{Duration, Instant, SystemTime},
};

use chronolith::{
    Batch, Commits, CompactionPolicy, Cursor, Db, Diff, Error, History, HistoryRange, Keyspace, KeyspaceOptions, Merge,
    MergeStrategy, Options, Policy, Range, RangeKeys, Result, VersionInfo, View, env,
};

/// Fails when something takes too long: a hang would never tell.
fn in_time(run: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let runs = thread::spawn(move || {
        run();
        done.send(()).unwrap();
    });
    match wait.recv_timeout(Duration::from_secs(60)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        _ => runs.join().unwrap(),
    }
}

/// A database with what callbacks of it might call.
type Handles = Arc<OnceLock<(Db, Keyspace, View)>>;

/// Everything that answers, from within a callback; what did not answer as it should.
fn call_back((db, data, view): &(Db, Keyspace, View)) -> Option<String> {
    fn told<T>(answer: Result<T>) -> Option<Error> {
        answer.err()
    }
    let answers = [
        told(data.get("k")),
        told(data.put("k", "v")),
        told(data.delete_range(..)),
        told(data.update("k", |_| Some("v"))),
        told(data.first()),
        told(data.history("k").next().unwrap()),
        told(data.explain("k")),
        told(db.keyspace("other", KeyspaceOptions::new())),
        told(db.drop_keyspace("data")),
        told(db.batch().commit()),
        told(db.as_of(1)),
        told(db.as_of_time(SystemTime::now())),
        told(db.pin("p")),
        told(db.persist()),
        told(db.flush()),
        told(db.compact()),
        told(db.verify()),
        told(db.health()),
        told(db.clone().close()),
        told(view.get(data, "k")),
        told(view.range(data, ..).next().unwrap()),
    ];
    // What gives no error takes no lock that the caller might hold.
    drop((db.snapshot(), db.stats(), db.keyspaces(), db.pins(), data.horizon(), data.approximate_len()));
    let is_right =
        |error: &Option<Error>| matches!(error, Some(Error::Invalid { what }) if what.contains("called from within"));
    let wrong = answers.iter().enumerate().find(|(_, error)| !is_right(error));
    wrong.map(|(at, error)| format!("answer {at}: {error:?}"))
}

struct CallsBack {
    handles: Handles,
    wrong: Arc<Mutex<Option<String>>>,
    calls: Arc<Mutex<u64>>,
}

impl CallsBack {
    fn call(&self) {
        if let Some(handles) = self.handles.get() {
            *self.calls.lock().unwrap() += 1;
            if let Some(wrong) = call_back(handles) {
                self.wrong.lock().unwrap().get_or_insert(wrong);
            }
        }
    }
}

impl Merge for CallsBack {
    fn merge(&self, _key: &[u8], older: &[u8], newer: &[u8]) -> Result<Vec<u8>> {
        self.call();
        Ok([older, newer].concat())
    }
}

impl CompactionPolicy for CallsBack {
    fn keep(&self, _version: &VersionInfo, _now: SystemTime) -> bool {
        self.call();
        true
    }
}

fn with_handles(options: impl FnOnce(CallsBack) -> KeyspaceOptions, use_it: impl FnOnce(&Db, &Keyspace)) {
    let (handles, wrong, calls) = (Handles::default(), Arc::default(), Arc::default());
    let back = CallsBack { handles: Arc::clone(&handles), wrong: Arc::clone(&wrong), calls: Arc::clone(&calls) };
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path()).unwrap();
    let data = db.keyspace("data", options(back)).unwrap();
    handles.set((db.clone(), data.clone(), db.snapshot())).unwrap();
    use_it(&db, &data);
    // They hold the database open, and it holds them.
    db.close().unwrap();
    assert_eq!(*wrong.lock().unwrap(), None);
    assert!(*calls.lock().unwrap() > 0);
}

#[test]
fn a_merge_that_calls_its_database_is_refused_and_nothing_hangs() {
    in_time(|| {
        let options = |back| KeyspaceOptions::new().merge(MergeStrategy::custom("calls back", back));
        with_handles(options, |db, data| {
            // Longer than the chains that are ended under the lock of commits.
            for _ in 0..300 {
                data.merge("k", "+").unwrap();
            }
            assert_eq!(data.get("k").unwrap().unwrap().len(), 300);
            assert_eq!(data.last().unwrap().unwrap().1.len(), 300);
            data.merge("k", "+").unwrap();
            db.flush().unwrap();
            db.compact().unwrap();
            assert_eq!(data.get("k").unwrap().unwrap().len(), 301);
        });
    });
}

#[test]
fn a_policy_that_calls_its_database_is_refused_and_nothing_hangs() {
    in_time(|| {
        let options = |back| KeyspaceOptions::new().policy(Policy::custom("calls back", back));
        with_handles(options, |db, data| {
            for round in ["1", "2", "3"] {
                data.put("k", round).unwrap();
                db.flush().unwrap();
            }
            db.compact().unwrap();
            assert_eq!(data.get("k").unwrap().unwrap(), "3");
        });
    });
}

/// Lets go of the last handle of the database that asks it.
#[derive(Clone, Default)]
struct LetsGo(Arc<Mutex<Option<Db>>>);

impl CompactionPolicy for LetsGo {
    fn keep(&self, _version: &VersionInfo, _now: SystemTime) -> bool {
        drop(self.0.lock().unwrap().take());
        false
    }
}

#[test]
fn a_policy_that_drops_the_last_handle_closes_the_database() {
    in_time(|| {
        let dir = tempfile::tempdir().unwrap();
        let policy = LetsGo::default();
        let db = Options::new().memory_budget(4 << 20).open(dir.path()).unwrap();
        let policy_of = KeyspaceOptions::new().policy(Policy::custom("lets go", policy.clone()));
        let data = db.keyspace("data", policy_of).unwrap();
        for _ in 0..100 {
            data.put("k", [7; 4000]).unwrap();
        }
        // The handle inside is the last once the others are gone; the next memtable is flushed after that.
        *policy.0.lock().unwrap() = Some(db.clone());
        for _ in 0..100 {
            data.put("k", [7; 4000]).unwrap();
        }
        drop((data, db));
        let began = Instant::now();
        while let Err(error) = Db::open(dir.path()) {
            assert!(matches!(error, Error::Locked { .. }), "{error}");
            assert!(began.elapsed() < Duration::from_secs(30), "it stays open");
            // Whoever has not been asked yet lets go here; not under the lock, since a close waits for the flush that
            // asks.
            let last = policy.0.lock().unwrap().take();
            drop(last);
            thread::yield_now();
        }
    });
}

thread_local!(static KEPT: RefCell<Option<Db>> = const { RefCell::new(None) });

#[test]
fn a_database_may_close_with_the_thread_that_holds_its_last_handle() {
    in_time(|| {
        let ended = thread::spawn(|| {
            // Touched before the database: destroyed after what the engine keeps of this thread.
            KEPT.with_borrow_mut(|kept| *kept = None);
            let db = Options::new().env(env::Memory::new()).open("db").unwrap();
            db.keyspace("data", KeyspaceOptions::new()).unwrap().put("k", "v").unwrap();
            KEPT.with_borrow_mut(|kept| *kept = Some(db));
        });
        ended.join().unwrap();
    });
}

/// Owns a database, and asks for a successor while a compaction asks it.
struct OwnsAnother {
    _other: Db,
    successor: Mutex<(mpsc::Sender<()>, mpsc::Receiver<()>)>,
}

impl CompactionPolicy for OwnsAnother {
    fn keep(&self, _version: &VersionInfo, _now: SystemTime) -> bool {
        let asks = self.successor.lock().unwrap();
        asks.0.send(()).unwrap();
        asks.1.recv_timeout(Duration::from_secs(5)).is_ok()
    }
}

#[test]
fn a_policy_may_own_another_database_and_be_replaced_while_it_is_asked() {
    in_time(|| {
        let open = |path| Options::new().env(env::Memory::new()).open(path).unwrap();
        let (db, other) = (open("db"), open("other"));
        let ((ask, asked), (done, wait)) = (mpsc::channel(), mpsc::channel());
        let owner = OwnsAnother { _other: other, successor: Mutex::new((ask, wait)) };
        let data = db.keyspace("data", KeyspaceOptions::new().policy(Policy::custom("owner", owner))).unwrap();
        let beside = db.clone();
        let replaces = thread::spawn(move || {
            while asked.recv().is_ok() {
                let successor = KeyspaceOptions::new().policy(Policy::custom("owner", LetsGo::default()));
                beside.keyspace("data", successor).unwrap();
                done.send(()).unwrap();
            }
        });
        for value in 0..3 {
            data.put("k", [value]).unwrap();
            db.flush().unwrap();
        }
        // The compaction drops the last of the old policy, and so closes the other database.
        data.compact().unwrap();
        db.health().unwrap();
        replaces.join().unwrap();
    });
}

struct Panics;

impl Merge for Panics {
    fn merge(&self, _key: &[u8], older: &[u8], newer: &[u8]) -> Result<Vec<u8>> {
        assert_ne!(newer, b"panic", "as it was told");
        Ok([older, newer].concat())
    }
}

#[test]
fn a_panic_of_a_callback_goes_to_whoever_reads_and_leaves_the_database_whole() {
    in_time(|| {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(dir.path()).unwrap();
        let data = db.keyspace("data", KeyspaceOptions::new().merge(MergeStrategy::custom("panics", Panics))).unwrap();
        data.merge("a", "1").unwrap();
        data.merge("b", "1").unwrap();
        data.merge("b", "panic").unwrap();
        let view = db.snapshot();
        for _ in 0..300 {
            data.merge("b", "panic").unwrap();
        }
        // Handles are moved across, not wrapped: they are safe to go on with.
        assert!(catch_unwind(|| data.get("b")).is_err());
        assert!(catch_unwind(|| view.get(&data, "b")).is_err());
        assert!(catch_unwind(|| data.range(..).last()).is_err());
        assert!(catch_unwind(|| data.range(..).next_back()).is_err());
        assert!(catch_unwind(|| data.update("a", |_| -> Option<&str> { panic!("as it was told") })).is_err());
        assert_eq!(data.get("a").unwrap().unwrap(), "1");
        data.merge("a", "2").unwrap();
        data.update("a", |old| old.map(|old| [old, b"3"].concat())).unwrap();
        assert_eq!(data.get("a").unwrap().unwrap(), "123");
        db.flush().unwrap();
        db.compact().unwrap();
        db.persist().unwrap();
        data.put("b", "again").unwrap();
        assert_eq!(data.range(..).count(), 2);
        db.health().unwrap();
        assert!(db.verify().unwrap().is_clean());
        db.close().unwrap();
    });
}

#[test]
fn the_closure_of_an_update_may_call_the_database() {
    let db = Options::new().env(env::Memory::new()).open("my.db").unwrap();
    let data = db.keyspace("data", KeyspaceOptions::new()).unwrap();
    data.put("price", "3").unwrap();
    let mut runs = 0;
    data.update("total", |_| {
        runs += 1;
        if runs == 1 {
            // Also the key itself: then it runs again.
            data.put("total", "0").unwrap();
            db.flush().unwrap();
        }
        data.get("price").unwrap()
    })
    .unwrap();
    assert_eq!((runs, data.get("total").unwrap().unwrap()), (2, "3".into()));
}

#[test]
fn handles_are_shared_among_threads_and_carried_across_panics() {
    fn shared<T: Send + Sync + Clone + std::panic::UnwindSafe + std::panic::RefUnwindSafe + 'static>() {}
    fn told<T: Send + Sync + std::error::Error + 'static>() {}
    fn sent<T: Send + std::panic::UnwindSafe + std::panic::RefUnwindSafe + 'static>() {}
    shared::<Db>();
    shared::<Keyspace>();
    shared::<View>();
    shared::<Options>();
    shared::<KeyspaceOptions>();
    shared::<Policy>();
    shared::<MergeStrategy>();
    sent::<Batch>();
    sent::<Range>();
    sent::<RangeKeys>();
    sent::<Cursor>();
    sent::<Diff>();
    sent::<History>();
    sent::<HistoryRange>();
    sent::<Commits>();
    // Errors are told across threads.
    told::<Error>();
}

/// Answers once it is let go.
#[derive(Clone, Default)]
struct Waits(Arc<(Mutex<(bool, u32)>, Condvar)>);

impl Waits {
    fn asked(&self) -> u32 {
        self.0.0.lock().unwrap().1
    }

    fn let_go(&self) {
        self.0.0.lock().unwrap().0 = true;
        self.0.1.notify_all();
    }
}

impl CompactionPolicy for Waits {
    fn keep(&self, _version: &VersionInfo, _now: SystemTime) -> bool {
        let mut state = self.0.0.lock().unwrap();
        state.1 += 1;
        while !state.0 {
            state = self.0.1.wait(state).unwrap();
        }
        false
    }
}

/// Level 0 of any keyspace stopped the writers of all, and one background compaction kept those of all others waiting.
#[test]
fn a_compaction_that_takes_long_stops_no_writer_and_no_compaction_of_another_keyspace() {
    in_time(|| {
        let dir = tempfile::tempdir().unwrap();
        let db = Options::new().l0_threshold(1).open(dir.path()).unwrap();
        let waits = Waits::default();
        let policy = Policy::custom("waits", waits.clone());
        let long = db.keyspace("long", KeyspaceOptions::new().policy(policy)).unwrap();
        let other = db.keyspace("other", KeyspaceOptions::new()).unwrap();
        let l0_of = |name: &str| {
            let levels = db.stats().levels;
            levels.iter().find(|level| level.keyspace == name && level.level == 0).map_or(0, |level| level.segments)
        };
        // Writers of this one would be stopped from eight segments on.
        for round in 0..8_u8 {
            long.put("k", [round]).unwrap();
            db.flush().unwrap();
            if round == 1 {
                while waits.asked() == 0 {
                    thread::yield_now();
                }
            }
        }
        assert!(l0_of("long") >= 7, "{}", l0_of("long"));
        // Many more of the other, each with a segment of the timeline.
        for round in 0..50_u8 {
            other.put("k", [round]).unwrap();
            db.flush().unwrap();
        }
        while l0_of("other") > 1 {
            thread::yield_now();
        }
        assert_eq!(waits.asked(), 1, "the first is still under way");
        waits.let_go();
        long.put("k", "last").unwrap();
        db.compact().unwrap();
        db.close().unwrap();
    });
}
