//! The bodies of the fuzz targets over the inputs that are kept, and over some thousand drawn ones.

#![expect(
    clippy::expect_used,
    clippy::print_stderr,
    clippy::exit,
    reason = "a test fails by panicking, and tells which input never ended"
)]

#[expect(unreachable_pub, reason = "the fuzz crate takes the same file as a public module")]
mod fuzz_bodies;

#[path = "support/dice.rs"]
#[expect(dead_code, reason = "a part of it is for other tests")]
mod dice;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    fs,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use dice::Dice;
use fuzz_bodies::{Body, TARGETS, original};

/// Drawn inputs for each body; more for those that are cheap.
fn drawn(target: &str) -> u64 {
    if let Some(count) = std::env::var("CHRONOLITH_FUZZ_DRAWN").ok().and_then(|count| count.parse().ok()) {
        return count;
    }
    match target {
        "mphf_open" | "map_open" | "chunker" => 15_000,
        "pack_open" => 500,
        _ => 1500,
    }
}

/// All bodies, or the one that is asked for.
fn targets() -> impl Iterator<Item = (&'static str, Body)> {
    let only = std::env::var("CHRONOLITH_FUZZ_TARGET").ok();
    TARGETS.into_iter().filter(move |(target, _)| only.as_deref().is_none_or(|only| only == *target))
}

/// No input of some kilobytes makes the process hold more than this at once, the threads of two tests together.
const MEMORY_MAX: usize = 64 << 20;

/// No input takes longer, whatever else the machine does.
const LONGEST: Duration = Duration::from_secs(60);

/// The system's allocator, counting what is held.
struct Counted;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn add(size: usize) {
    let held = HELD.fetch_add(size, Ordering::Relaxed).wrapping_add(size);
    if held > MOST.load(Ordering::Relaxed) {
        MOST.fetch_max(held, Ordering::Relaxed);
    }
}

#[expect(unsafe_code, reason = "only an allocator sees what a damaged length asks for")]
// SAFETY: every call goes on to the system's allocator unchanged; what is not overridden does through these.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTED: Counted = Counted;

fn byte(dice: &mut Dice) -> u8 {
    dice.next().to_le_bytes()[0]
}

/// Fewer bytes than `limit`.
fn bytes(dice: &mut Dice, limit: usize) -> Vec<u8> {
    let len = dice.below(limit);
    dice.bytes(len)
}

/// An input for a body: calls, noise, patches of a real file, or such a file with some bytes changed.
fn draw(target: &str, dice: &mut Dice) -> Vec<u8> {
    if target == "map_merge" {
        return draw_two(dice);
    }
    let Some(mut file) = original(target) else { return bytes(dice, 300) };
    // Which real file, and whether checksums are computed anew: bits that older bodies pass over.
    let how = byte(dice) & 0b1_1110;
    match dice.next() % 8 {
        0 => bytes(dice, 200),
        1 | 2 => {
            for _ in 0..=dice.next() % 3 {
                let at = usize::try_from(dice.next()).unwrap_or(0) % file.len();
                file.splice(at..at, bytes(dice, 5));
                let end = file.len().min(at + usize::from(byte(dice) % 9));
                file.drain(at..end);
            }
            [vec![how | 1], file].concat()
        }
        _ => {
            let mut input = vec![how];
            for _ in 0..=dice.next() % 3 {
                // Ends of files are full of meaning.
                let len = file.len() as u64;
                let at = if dice.next().is_multiple_of(2) {
                    dice.next() % len
                } else {
                    len - 1 - dice.next() % len.min(120)
                };
                let patch = bytes(dice, 6);
                input.extend_from_slice(&u16::try_from(at).unwrap_or(0).to_le_bytes());
                input.push(u8::try_from(patch.len()).unwrap_or(0));
                input.extend(patch);
            }
            input
        }
    }
}

/// An input for merging two maps, of which one or both are damaged, or none.
fn draw_two(dice: &mut Dice) -> Vec<u8> {
    let [first, second] = [(); 2]
        .map(|()| if dice.next().is_multiple_of(2) { draw("map_open", dice) } else { vec![byte(dice) & 0b1100] });
    let len = u16::try_from(first.len()).unwrap_or(0).to_le_bytes();
    [&[byte(dice)], len.as_slice(), &first, &second].concat()
}

/// What runs, for the one who watches.
type Now = Mutex<Option<(Instant, String)>>;

/// Runs a body over inputs; ends the process when one never ends.
fn run(target: &str, body: Body, inputs: impl Iterator<Item = (String, Vec<u8>)>) {
    let (now, done) = (Now::default(), AtomicBool::new(false));
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if let Some((since, what)) = &*now.lock().expect("no panic holds it")
                    && since.elapsed() > LONGEST
                {
                    eprintln!("it does not end: {what}");
                    std::process::exit(101);
                }
                thread::park_timeout(Duration::from_millis(500));
            }
        });
        let end = End(&done, watch.thread());
        for (name, input) in inputs {
            let what = format!("{target}: {name}");
            *now.lock().expect("no panic holds it") = Some((Instant::now(), what.clone()));
            body(&input);
            let most = MOST.load(Ordering::Relaxed);
            assert!(most < MEMORY_MAX, "{what}: {most} bytes of memory");
        }
        drop(end);
    });
}

/// Ends the watch, also when a body panics.
struct End<'a>(&'a AtomicBool, &'a thread::Thread);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.unpark();
    }
}

#[test]
fn every_kept_input_passes() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    for (target, body) in targets() {
        let mut paths: Vec<_> = fs::read_dir(corpus.join(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        assert!(!paths.is_empty(), "{target} has inputs");
        let count = paths.len();
        run(target, body, paths.into_iter().map(|path| (path.display().to_string(), fs::read(&path).unwrap())));
        println!("{target}: {count} inputs");
    }
}

/// Makes the folder that `CHRONOLITH_FUZZ_SEEDS` names, with one for each target and long inputs in it: a fuzzer that
/// begins with short ones stays with short ones for long.
#[test]
fn seeds_are_written_where_they_are_asked_for() {
    let asked = std::env::var_os("CHRONOLITH_FUZZ_SEEDS");
    let scratch = tempfile::tempdir().unwrap();
    let folder = asked.as_deref().map_or(scratch.path(), Path::new);
    for (target, _) in targets() {
        let mut dice = Dice(0);
        let whole = original(target).map(|file| [vec![1], file].concat());
        let seeds = (0..16).map(|_| {
            // Several of those that the tests draw: patches, calls and pieces go on one behind the other.
            let mut input = draw(target, &mut dice);
            while input.len() < 600 && original(target).is_none() && target != "map_merge" {
                input.extend(bytes(&mut dice, 600));
            }
            input
        });
        let folder = folder.join(target);
        fs::create_dir_all(&folder).unwrap();
        for (number, seed) in whole.into_iter().chain(seeds).enumerate() {
            fs::write(folder.join(format!("seed-{number}")), seed).unwrap();
        }
        assert!(fs::read_dir(&folder).unwrap().count() >= 16, "{target} has seeds");
    }
}

#[test]
fn every_byte_changed_behind_its_checksums_passes() {
    for (target, body) in
        targets().filter(|(target, _)| matches!(*target, "past_open" | "timeline_open" | "recipe_decode" | "pack_open"))
    {
        let (began, file) = (Instant::now(), original(target).expect("a real file"));
        // The low bit, the high one, or all of them: a length that is one off, one that goes on, one that is huge.
        let len = file.len();
        let some = (0..len).filter(|at| *at < 700 || at + 900 > len || at.is_multiple_of(13));
        let some = some.map(|at| (at, [1, 0x80, 0xff].get(at % 3).copied().unwrap_or(1)));
        let input = |at: usize, mask: u8| {
            let byte = file.get(at).copied().unwrap_or(0) ^ mask;
            let [low, high] = u16::try_from(at).unwrap_or(0).to_le_bytes();
            vec![2 | 32, low, high, 1, byte]
        };
        let inputs: Vec<_> =
            some.map(|(at, mask)| (format!("byte {at} of {len} changed by {mask:#04x}"), input(at, mask))).collect();
        let count = inputs.len();
        run(target, body, inputs.into_iter());
        println!("{target}: {count} changes, {:.1?}", began.elapsed());
    }
}

#[test]
fn drawn_inputs_pass() {
    for (target, body) in targets() {
        let number = (1..).zip(TARGETS).find(|(_, (other, _))| *other == target).map_or(0, |(number, _)| number);
        let began = Instant::now();
        let (mut dice, count) = (Dice(number), drawn(target));
        run(target, body, (0..count).map(|number| (format!("drawn input {number}"), draw(target, &mut dice))));
        println!("{target}: {count} inputs, {:.1?}", began.elapsed());
    }
    println!("at most {} KiB of memory", MOST.load(Ordering::Relaxed) >> 10);
}
