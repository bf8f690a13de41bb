//! The vectors of `docs/format/chunking.md`: what a reader in another language must find too.
//!
//! `CHRONOLITH_GOLDEN=write cargo test vectors` writes them anew; that is a new format.

use std::{fmt::Write as _, fs, path::Path};

use super::{
    cut::CutPolicy,
    id::{ChunkKind, Scope},
    noise,
    tree::RecipeBuilder,
};

/// What the file says of itself.
const HEAD: &str = "\
# Chunking of format 1. An input is a line of the generator: `noise SEED LENGTH` are the bytes (state >> 33) mod 256 of
# state = state * 6364136223846793005 + 1442695040888963407 mod 2^64, beginning with SEED as state before the first
# step; `repeat BYTE LENGTH` is one byte again and again; inputs joined by + follow each other.
#
# For each input and policy (1 fixed, 2 content-defined, then the size): lengths of the chunks (a hole as 0:LENGTH; a text
# of more than 300 characters is told by its BLAKE3), the BLAKE3 of all ids one after the other (a hole has none), and
# the recipe: whole if it has no height and at most three references, otherwise its length and BLAKE3, and the number of
# nodes. The last column is the scope: - is the default, otherwise the secret is 32 bytes of 7 and this is the name.
";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn vector(input: &[u8], chunking: CutPolicy, scope: &Scope) -> String {
    let (mut lens, mut ids, mut nodes) = (Vec::new(), Vec::new(), 0);
    let mut builder = RecipeBuilder::new(chunking);
    let mut store = |node: Vec<u8>| {
        nodes += 1;
        Ok(scope.id(ChunkKind::Node, &node))
    };
    let mut rest = input;
    while !rest.is_empty() {
        let (chunk, behind) = rest.split_at(chunking.cut(rest, true).unwrap());
        rest = behind;
        if chunk.iter().all(|byte| *byte == 0) {
            lens.push(format!("0:{}", chunk.len()));
            builder.zeros(chunk.len() as u64).unwrap();
        } else {
            lens.push(chunk.len().to_string());
            let id = scope.id(ChunkKind::Data, chunk);
            ids.extend_from_slice(id.as_bytes());
            builder.chunk(id, chunk.len() as u64, &mut store).unwrap();
        }
    }
    let recipe = builder.finish(String::new(), &mut store).unwrap();
    let bytes = recipe.encode();
    let told = if recipe.references.len() <= 3 && recipe.height == 0 {
        hex(&bytes)
    } else {
        format!("{} bytes {} {nodes} nodes", bytes.len(), hex(blake3::hash(&bytes).as_bytes()))
    };
    // Cuts repeat where content does: a long list is told by its hash.
    let lens = lens.join(" ");
    let lens =
        if lens.len() > 300 { format!("BLAKE3 {}", hex(blake3::hash(lens.as_bytes()).as_bytes())) } else { lens };
    format!("{lens} | {} | {told}", hex(blake3::hash(&ids).as_bytes()))
}

#[test]
fn cuts_ids_and_recipes_are_those_of_the_format() {
    let inputs = [
        ("repeat 1 1", vec![1]),
        ("noise 1 600", noise(1, 600)),
        ("noise 1 100000", noise(1, 100_000)),
        ("noise 1 50000 + noise 2 10 + noise 3 50000", [noise(1, 50_000), noise(2, 10), noise(3, 50_000)].concat()),
        ("repeat 0 100000", vec![0; 100_000]),
        ("repeat 9 100000", vec![9; 100_000]),
        ("noise 4 20000 + repeat 0 40000 + noise 5 1", [noise(4, 20_000), vec![0; 40_000], noise(5, 1)].concat()),
        ("noise 6 6000000", noise(6, 6_000_000)),
    ];
    let policies = [
        CutPolicy::fixed(512),
        CutPolicy::fixed(4096),
        CutPolicy::WHOLE,
        CutPolicy::content_defined(1024),
        CutPolicy::content_defined(1027),
        CutPolicy::AUTOMATIC,
    ];
    let mut text = HEAD.to_owned();
    for (name, input) in &inputs {
        for chunking in policies {
            let (policy, size) = chunking.numbers();
            writeln!(text, "{name} | {policy} {size} | {} | -", vector(input, chunking, &Scope::Open)).unwrap();
        }
    }
    let tenant = Scope::keyed(&[7; 32], "tenant 7");
    // A list of chunks, and nodes, which have a key of their own.
    for (name, input) in [&inputs[2], &inputs[7]] {
        let told = vector(input, CutPolicy::content_defined(1024), &tenant);
        writeln!(text, "{name} | 2 1024 | {told} | tenant 7").unwrap();
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/chunking-1.txt");
    if std::env::var_os("CHRONOLITH_GOLDEN").is_some() {
        fs::write(&golden, &text).unwrap();
    }
    let kept = fs::read_to_string(golden).unwrap();
    for (kept, line) in kept.lines().zip(text.lines()) {
        assert_eq!(kept, line);
    }
    assert_eq!(kept.lines().count(), text.lines().count());
}
