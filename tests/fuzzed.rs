//! The bodies of the fuzz targets over the inputs that are kept, and over some thousand drawn ones.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[expect(unreachable_pub, reason = "the fuzz crate takes the same file as a public module")]
mod fuzz_bodies;

use std::{fs, path::Path};

use fuzz_bodies::{TARGETS, original};

/// Drawn inputs for each body.
const DRAWN: u64 = 1500;

struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[3]
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        (0..self.next() % most).map(|_| self.byte()).collect()
    }
}

/// An input for a body: calls, noise, patches of a real file, or such a file with some bytes changed.
fn draw(target: &str, draws: &mut Draws) -> Vec<u8> {
    let Some(mut file) = original(target) else { return draws.bytes(300) };
    match draws.next() % 8 {
        0 => draws.bytes(200),
        1 | 2 => {
            for _ in 0..=draws.next() % 3 {
                let at = usize::try_from(draws.next()).unwrap_or(0) % file.len();
                file.splice(at..at, draws.bytes(5));
                let end = file.len().min(at + usize::from(draws.byte() % 9));
                file.drain(at..end);
            }
            [vec![1], file].concat()
        }
        _ => {
            let mut input = vec![0];
            for _ in 0..=draws.next() % 3 {
                let at = draws.next() % file.len() as u64;
                let patch = draws.bytes(6);
                input.extend_from_slice(&u16::try_from(at).unwrap_or(0).to_le_bytes());
                input.push(u8::try_from(patch.len()).unwrap_or(0));
                input.extend(patch);
            }
            input
        }
    }
}

#[test]
fn every_kept_input_passes() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    for (target, body) in TARGETS {
        let mut paths: Vec<_> = fs::read_dir(corpus.join(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        assert!(!paths.is_empty(), "{target} has inputs");
        for path in &paths {
            body(&fs::read(path).unwrap());
        }
        println!("{target}: {} inputs", paths.len());
    }
}

#[test]
fn drawn_inputs_pass() {
    for (number, (target, body)) in (1..).zip(TARGETS) {
        let mut draws = Draws(0x9e37_79b9_7f4a_7c15 ^ number);
        for _ in 0..DRAWN {
            body(&draw(target, &mut draws));
        }
    }
}
