//! Keys, values that change a little from version to version, and the database that holds them.

use std::{thread, time::Duration};

use chronolith::{Bytes, Db, Durability, Keyspace, KeyspaceOptions, Options, Policy, Seqno, View};
use measure::{Directory, Random, Result};

pub const KEY_LEN: usize = 16;
pub const VALUE_LEN: usize = 100;

/// Entries of a batch.
const BATCH: usize = 1000;

pub const WEEK: Duration = Duration::from_secs(7 * 86_400);

pub type Key = [u8; KEY_LEN];
pub type Value = [u8; VALUE_LEN];

/// The value of a key at a version, counted from 1: a record with a counter, the time of its last change, and an amount
/// that changes with every third version. The rest, random letters, stays.
///
/// ```text
///  user=qwertyuiopasdfghjklzxcvb visits=000042 seen=1700000000000 balance=00001234 mail=asdfghjklqwerty
/// ```
pub fn value(key: &Key, version: usize) -> Value {
    let mut value =
        *b"user=........................ visits=...... seen=............. balance=........ mail=...............";
    let own = own_number(key);
    let mut letters = Random::new(own);
    for place in [5..29, 85..100] {
        for letter in &mut value[place] {
            *letter = b'a' + letters.below(26) as u8;
        }
    }
    let day = 86_400_000;
    let within = Random::new(own ^ version as u64).below(day) as u64;
    let amount = Random::new(!own ^ (version / 3) as u64).below(100_000_000) as u64;
    digits(&mut value[37..43], own % 900_000 + version as u64);
    digits(&mut value[49..62], 1_700_000_000_000 + version as u64 * day as u64 + within);
    digits(&mut value[71..79], amount);
    value
}

fn own_number(key: &Key) -> u64 {
    key.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

fn digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// What is asked of a value: eight bytes of each of its cache lines, in places that change.
#[inline(always)]
pub fn answer(value: &[u8]) -> u64 {
    let word = |at: usize| {
        value.get(at..at + 8).and_then(|word| word.first_chunk()).map_or(0, |word| u64::from_le_bytes(*word))
    };
    word(36).wrapping_add(word(54)).wrapping_add(word(92))
}

/// A database in a directory that goes at the end, also of a run that fails.
pub struct Filled {
    pub db: Db,
    pub keyspace: Keyspace,
    /// The moments at which each version was complete.
    pub moments: Vec<Seqno>,
    /// Bytes of keys and values written.
    pub raw: u64,
    // The last field: files go once the database is closed.
    _directory: Directory,
}

impl Filled {
    /// An empty one, which leaves syncing to the operating system.
    pub fn new(name: &str, policy: Policy) -> Result<Self> {
        let directory = Directory::new(&format!("past-bench-{name}"))?;
        let db = Options::new().durability(Durability::Buffered).open(directory.path())?;
        let keyspace = db.keyspace("bench", KeyspaceOptions::new().policy(policy))?;
        Ok(Self { db, keyspace, moments: Vec::new(), raw: 0, _directory: directory })
    }

    /// Writes so many versions of each key, each time all keys in another order.
    pub fn fill(&mut self, keys: &[Key], versions: usize) -> Result<()> {
        for version in 1..=versions {
            let mut order: Vec<u32> = (0..u32::try_from(keys.len())?).collect();
            let mut random = Random::new(version as u64);
            for last in (1..order.len()).rev() {
                order.swap(last, random.below(last + 1));
            }
            let mut seqno = Seqno::default();
            for some in order.chunks(BATCH) {
                let mut batch = self.db.batch();
                for at in some {
                    let key = &keys[*at as usize];
                    batch.put(&self.keyspace, key, value(key, version));
                }
                seqno = batch.commit()?.seqno;
            }
            self.raw += (keys.len() * (KEY_LEN + VALUE_LEN)) as u64;
            self.moments.push(seqno);
        }
        Ok(())
    }

    /// Flushes, and waits until background work has done what it wants to do by itself.
    pub fn settle(&self) -> Result<()> {
        self.db.flush()?;
        self.rest();
        Ok(())
    }

    /// Waits until background work has come to rest.
    pub fn rest(&self) {
        let done = || {
            let stats = self.db.stats();
            (stats.flushes, stats.compactions, stats.sealed_memtables)
        };
        let (mut before, mut quiet) = (done(), 0);
        while quiet < 5 {
            thread::sleep(Duration::from_millis(100));
            let now = done();
            quiet = if now == before { quiet + 1 } else { 0 };
            before = now;
        }
    }

    /// Brings everything to its final shape.
    pub fn compact(&self) -> Result<()> {
        self.db.flush()?;
        self.db.compact()?;
        Ok(())
    }

    /// A reader of a version, or of the present.
    pub fn reader(&self, version: Option<usize>) -> Result<Reader> {
        let view = match version {
            Some(version) => Some(self.db.as_of(self.moments[version - 1])?),
            None => None,
        };
        let version = version.unwrap_or(self.moments.len());
        Ok(Reader { keyspace: self.keyspace.clone(), view, version })
    }
}

/// Reads a keyspace, now or as of a moment.
pub struct Reader {
    keyspace: Keyspace,
    view: Option<View>,
    /// What it finds.
    pub version: usize,
}

impl Reader {
    /// The answer for a key; 0 when there is none.
    #[inline(always)]
    pub fn ask(&self, key: &Key) -> u64 {
        let found = match &self.view {
            None => self.keyspace.get(key),
            Some(view) => view.get(&self.keyspace, key),
        };
        found.ok().flatten().map_or(0, |value: Bytes| answer(&value))
    }

    /// The sum of the answers for all keys, by one scan, and how many there are.
    pub fn scan(&self) -> chronolith::Result<(u64, usize)> {
        let mut cursor = match &self.view {
            None => self.keyspace.cursor(..),
            Some(view) => view.cursor(&self.keyspace, ..),
        };
        let (mut sum, mut count) = (0u64, 0);
        while let Some((key, value)) = cursor.next_ref()? {
            sum = sum.wrapping_add(answer(value)).wrapping_add(u64::from(key[KEY_LEN - 1]));
            count += 1;
        }
        Ok((sum, count))
    }
}
