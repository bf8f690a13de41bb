//! A queue: keys are put at its tail and deleted at its head, and what was deleted is kept for a week.

use chronolith::Policy;
use measure::{
    Random, Result,
    clock::{each, median},
    goal,
};

use crate::data::{Filled, VALUE_LEN, WEEK};

/// Keys alive at a time.
const LIVE: u64 = 1000;

/// While it works, every so many items the head is looked for.
const EVERY: u64 = 1000;

const SEEKS: usize = 200;
const ROUNDS: usize = 5;

/// Takes so many items through.
pub fn run(items: usize) -> Result<()> {
    let items = items as u64;
    let queue = Filled::new("queue", Policy::mvcc(1, WEEK))?;
    let mut random = Random::new(3);
    let mut value = [0; VALUE_LEN];
    let mut working = Vec::new();
    for item in 0..items + LIVE {
        random.fill(&mut value);
        queue.keyspace.put(key(item), value)?;
        let Some(head) = item.checked_sub(LIVE) else { continue };
        if head % EVERY == 0 {
            working.push(seek(&queue, head, 1)?);
        }
        queue.keyspace.delete(key(head))?;
    }
    let mut rows = vec![("right after", seeks(&queue, items)?)];
    queue.rest();
    rows.push(("background at rest", seeks(&queue, items)?));
    queue.settle()?;
    rows.push(("flushed", seeks(&queue, items)?));
    queue.compact()?;
    rows.push(("compacted", seeks(&queue, items)?));

    println!("\n{items} items through a queue of {LIVE}\n");
    println!("{:<34} {:>10}", "the head", "us");
    working.sort_by(f64::total_cmp);
    for (name, share) in [("at work, median", 0.5), ("at work, p99", 0.99), ("at work, most", 1.0)] {
        let at = ((working.len() as f64 * share) as usize).min(working.len() - 1);
        println!("{name:<34} {:>10.2}", working[at] / 1000.0);
    }
    for (name, ns) in &rows {
        println!("{name:<34} {:>10.2}", ns / 1000.0);
    }
    println!();
    goal::at_most("the head at work, median, us", median(&working) / 1000.0, 10.0);
    for (name, ns) in rows {
        goal::at_most(&format!("the head {name}, us"), ns / 1000.0, 10.0);
    }
    Ok(())
}

fn key(item: u64) -> [u8; 16] {
    u128::from(item).to_be_bytes()
}

/// Nanoseconds of looking for the head, the first time included.
fn seeks(queue: &Filled, head: u64) -> Result<f64> {
    let times: Vec<f64> = (0..ROUNDS).map(|_| seek(queue, head, SEEKS)).collect::<Result<_>>()?;
    Ok(median(&times))
}

fn seek(queue: &Filled, head: u64, count: usize) -> Result<f64> {
    let (found, time) = each(count, || (0..count).try_fold(None, |_, _| queue.keyspace.first()));
    let found = found?.map(|(key, _)| key.to_vec());
    assert_eq!(found.as_deref(), Some(&key(head)[..]), "the head of the queue");
    Ok(time)
}
