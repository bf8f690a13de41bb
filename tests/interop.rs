//! What this library writes is read in Go, and the other way round: `tests/interop/go`, written from the pages of the
//! format alone. Skipped where Go or its packages are not installed: `tests/interop/go/README.md` names them.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and says what it skips")]

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use chronolith::{Chunking, Compression, Db, HaveYou, Keyspace, KeyspaceOptions, WriteOptions};
use tempfile::TempDir;

/// Where Debian's packages of Go sources are.
const PACKAGES: &str = "/usr/share/gocode";

/// The command, built in a folder of its own.
struct Go {
    folder: TempDir,
}

impl Go {
    /// Builds the command; `None` where Go or one of the packages is not installed.
    fn build() -> Option<Self> {
        let needed = ["src/lukechampine.com/blake3", "src/github.com/klauspost/compress/zstd"];
        let has_go = Command::new("go").arg("version").output().is_ok_and(|told| told.status.success());
        if !has_go || !needed.iter().all(|package| Path::new(PACKAGES).join(package).is_dir()) {
            println!("skipped: Go and the packages that tests/interop/go/README.md names are not installed");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/go");
        let built = Command::new("go")
            .args(["build", "-o"])
            .arg(folder.path().join("exchange"))
            .arg("chronolith/cmd/chronolith-exchange")
            .envs([("GO111MODULE", "off"), ("GOFLAGS", "")])
            .env("GOPATH", format!("{}:{PACKAGES}", own.display()))
            .env("GOCACHE", folder.path().join("cache"))
            .current_dir(&own)
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        Some(Self { folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run<const N: usize>(&self, args: [&Path; N]) -> Output {
        Command::new(self.path("exchange")).args(args).output().unwrap()
    }

    /// Runs the command, which must succeed; returns what it writes.
    fn told<const N: usize>(&self, args: [&Path; N]) -> Vec<u8> {
        let told = self.run(args);
        assert!(told.status.success(), "{args:?}: {}", String::from_utf8_lossy(&told.stderr));
        told.stdout
    }
}

/// Bytes that look random.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

/// A value of parts of several natures: noise, text, holes, what came before.
fn value(seed: u64) -> Vec<u8> {
    let mut value = Vec::new();
    for (at, dice) in noise(seed, 12).into_iter().enumerate() {
        let len = 1 + usize::from(dice) * 400;
        match dice % 4 {
            0 => value.resize(value.len() + len, 0),
            1 => value.extend(noise(seed + at as u64, len).iter().map(|byte| b'a' + byte % 4)),
            2 => value.extend_from_within(value.len().saturating_sub(len)..),
            _ => value.extend(noise(seed + at as u64, len)),
        }
    }
    value.push(1);
    value
}

const POLICIES: [(&str, Chunking); 4] = [
    ("automatic", Chunking::automatic()),
    ("whole", Chunking::whole()),
    ("fixed:512", Chunking::fixed(512)),
    ("content-defined:1024", Chunking::content_defined(1024)),
];

fn keyspace(db: &Db, name: &str, chunking: Chunking) -> Keyspace {
    let options = KeyspaceOptions::new().chunk_threshold(4096).chunking(chunking);
    let plain = if name.starts_with("fixed") { options.compression(Compression::None) } else { options };
    db.keyspace(name, plain).unwrap()
}

#[test]
fn go_reads_the_values_of_a_closed_database_and_tells_what_is_damaged() {
    let Some(go) = Go::build() else { return };
    let database = go.path("db");
    let db = Db::open(&database).unwrap();
    let mut recipes = Vec::new();
    for (name, chunking) in POLICIES {
        let k = keyspace(&db, name, chunking);
        for seed in 1..8 {
            let key = format!("{seed}");
            let mut writer = k.writer_with(&key, WriteOptions::new().origin("crawler 7")).unwrap();
            writer.write_all(&value(seed)).unwrap();
            writer.finish().unwrap();
            let file = go.path(&format!("{seed}.recipe"));
            let Some(recipe) = k.recipe(&key).unwrap() else { continue };
            fs::write(&file, recipe.encode()).unwrap();
            recipes.push((recipe.encode(), value(seed)));
            if seed == 4 {
                db.flush().unwrap();
            }
        }
    }
    db.compact().unwrap();
    let question =
        HaveYou::new(db.chunks().iter().map(|id| id.unwrap()).chain([chronolith::ChunkId::from_bytes([7; 32])]));
    let question = question.unwrap();
    let answer = db.chunks().answer(&question).unwrap();
    db.close().unwrap();
    fs::write(go.path("question"), question.encode()).unwrap();
    assert_eq!(go.told([Path::new("answer"), &database, &go.path("question")]), answer.encode());
    assert!(recipes.len() > 20, "{} recipes", recipes.len());
    for (recipe, value) in recipes {
        fs::write(go.path("recipe"), recipe).unwrap();
        assert!(go.told([Path::new("read"), &database, &go.path("recipe")]) == value);
    }
    go.told([Path::new("verify"), &database]);
    let pack = fs::read_dir(database.join("packs")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let told = go.run([Path::new("verify"), &database]);
    let said = [told.stdout, told.stderr].concat();
    assert!(told.status.code() == Some(1), "{}", String::from_utf8_lossy(&said));
    let name = pack.file_name().unwrap().to_str().unwrap();
    assert!(String::from_utf8_lossy(&said).contains(name), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn what_go_cuts_is_cut_the_same_way_here_and_adopted_by_what_is_missing() {
    let Some(go) = Go::build() else { return };
    let db = Db::open(go.path("db")).unwrap();
    for (name, chunking) in POLICIES {
        let k = keyspace(&db, name, chunking);
        for seed in 1..8u64 {
            let (file, folder) = (go.path("file"), go.path(&format!("{seed}-{name}")));
            let value = value(seed);
            fs::write(&file, &value).unwrap();
            let flags = [Path::new("cut"), Path::new("-chunking"), Path::new(name), Path::new("-origin")];
            let [cut, policy, policy_name, origin] = flags;
            go.told([cut, policy, policy_name, origin, Path::new("go"), &file, &folder]);
            // What is asked in Go is answered here.
            let question = HaveYou::decode(&go.told([Path::new("ask"), &folder])).unwrap();
            let answer = k.chunks().answer(&question).unwrap();
            let mut leases = Vec::new();
            for id in question.missing(&answer).unwrap() {
                let chunk = folder.join("chunks").join(id.to_string());
                let lease = match fs::read(chunk) {
                    Ok(bytes) => k.chunks().put(bytes),
                    Err(_) => k.chunks().put_node(fs::read(folder.join("nodes").join(id.to_string())).unwrap()),
                };
                let lease = lease.unwrap();
                assert_eq!(lease.id(), id);
                leases.push(lease);
            }
            let encoded = fs::read(folder.join("recipe")).unwrap();
            let recipe = k.chunks().recipe(&encoded).unwrap();
            assert_eq!((recipe.chunking(), recipe.origin(), recipe.encode()), (chunking, Some("go"), encoded.clone()));
            let key = format!("{seed}");
            k.adopt(&key, &recipe).unwrap();
            assert!(k.get(&key).unwrap().unwrap() == value);
            // The same bytes written here: the same recipe, and no new chunk.
            let mut writer = k.writer_with("own", WriteOptions::new().origin("go")).unwrap();
            writer.write_all(&value).unwrap();
            let stored = writer.finish().unwrap();
            if let Some(own) = k.recipe("own").unwrap() {
                assert_eq!((own.encode(), stored.new_chunks), (encoded, 0), "{name} {seed}");
            }
            assert!(go.told([Path::new("cat"), &folder]) == value);
        }
    }
    assert!(db.verify().unwrap().is_clean());
}
