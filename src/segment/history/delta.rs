//! A value as a difference against a newer one, the first of its run: it saves space for old versions.
//!
//! ```text
//!   newer  {"name":"ann","age":26,"city":"x"}
//!   older  {"name":"ann","age":25,"city":"x"}
//!   steps  copy 20 · skip 1 · insert "5"          the rest follows as it is
//! ```
//!
//! Records mostly change in a few places of fixed length: so the two are compared place by place between their common
//! prefix and suffix. If the lengths of these middles differ, the middle is replaced as a whole. (Rejected: a search
//! for moved text as in VCDIFF, RFC 3284. It takes a table for each pair, and versions of one record hardly ever move
//! their parts.)

use crate::{
    base::Corruption,
    format::{Reader, Writer},
};

/// Minimum length of a run of equal bytes that is worth a step of its own.
const RUN_MIN: usize = 4;

/// Maximum length of a value that is read back from a difference.
const VALUE_MAX: usize = 1 << 20;

/// Encodes `older` as a difference against `newer`; `None` if that takes more than half the length of `older`.
pub(in crate::segment) fn encode(newer: &[u8], older: &[u8]) -> Option<Vec<u8>> {
    let prefix = newer.iter().zip(older).take_while(|(a, b)| a == b).count();
    let (newer_rest, older_rest) = (newer.get(prefix..)?, older.get(prefix..)?);
    let suffix = newer_rest.iter().rev().zip(older_rest.iter().rev()).take_while(|(a, b)| a == b).count();
    let newer_middle = newer_rest.get(..newer_rest.len() - suffix)?;
    let older_middle = older_rest.get(..older_rest.len() - suffix)?;
    let mut out = Writer::default();
    let limit = older.len() / 2;
    if newer_middle.len() == older_middle.len() {
        let (mut copied, mut at) = (prefix, 0);
        while at < older_middle.len() {
            let changed = change_len(newer_middle.get(at..)?, older_middle.get(at..)?);
            step(&mut out, copied, changed, older_middle.get(at..at + changed)?);
            at += changed;
            copied = equal_len(newer_middle.get(at..)?, older_middle.get(at..)?);
            at += copied;
            if out.len() > limit {
                return None;
            }
        }
    } else {
        step(&mut out, prefix, newer_middle.len(), older_middle);
    }
    (out.len() <= limit).then(|| out.into_bytes())
}

fn step(out: &mut Writer, copy: usize, skip: usize, insert: &[u8]) {
    out.varint(copy as u64);
    out.varint(skip as u64);
    out.prefixed(insert);
}

fn equal_len(newer: &[u8], older: &[u8]) -> usize {
    newer.iter().zip(older).take_while(|(a, b)| a == b).count()
}

/// Returns the length over which two pieces differ, including short runs of equal bytes in between.
fn change_len(newer: &[u8], older: &[u8]) -> usize {
    let mut len = 0;
    while let (Some(newer), Some(older)) = (newer.get(len..), older.get(len..))
        && !older.is_empty()
    {
        let equal = equal_len(newer, older);
        if equal >= RUN_MIN {
            break;
        }
        len += equal + 1;
    }
    len.min(older.len())
}

/// Appends the older value to `out`.
pub(super) fn apply(newer: &[u8], difference: &[u8], out: &mut Vec<u8>) -> Result<(), Corruption> {
    let mut reader = Reader::new(difference);
    let start = out.len();
    let mut rest = newer;
    while reader.remaining() > 0 {
        let copy = reader.varint("bytes to copy")?;
        let skip = reader.varint("bytes to skip")?;
        let insert = reader.prefixed("bytes to insert")?;
        let (copied, tail) = usize::try_from(copy)
            .ok()
            .and_then(|copy| rest.split_at_checked(copy))
            .ok_or_else(|| reader.corrupt("bytes to copy"))?;
        let skipped = usize::try_from(skip).ok().and_then(|skip| tail.get(skip..));
        rest = skipped.ok_or_else(|| reader.corrupt("bytes to skip"))?;
        if out.len() - start + copied.len() + insert.len() > VALUE_MAX {
            return Err(reader.corrupt("a value of a length that is ever stored"));
        }
        out.extend_from_slice(copied);
        out.extend_from_slice(insert);
    }
    out.extend_from_slice(rest);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(newer: &[u8], older: &[u8]) -> Option<usize> {
        let difference = encode(newer, older)?;
        let mut out = b"before".to_vec();
        apply(newer, &difference, &mut out).unwrap();
        assert_eq!(out, [b"before", older].concat());
        Some(difference.len())
    }

    #[test]
    fn any_two_values_lead_back_to_the_older_one() {
        let mut state = 7u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(state >> 40).unwrap()
        };
        let mut told = 0;
        for _ in 0..3000 {
            let newer: Vec<u8> = (0..next() % 80).map(|_| u8::try_from(next() % 3).unwrap()).collect();
            let mut older = newer.clone();
            for _ in 0..next() % 5 {
                let at = next() % (older.len() + 1);
                match next() % 3 {
                    0 => older.insert(at, 9),
                    1 if at < older.len() => drop(older.remove(at)),
                    _ => older.iter_mut().skip(at).take(1).for_each(|byte| *byte = 8),
                }
            }
            told += usize::from(there_and_back(&newer, &older).is_some());
        }
        assert!(told > 1000);
    }

    #[test]
    fn small_changes_in_several_places_take_few_bytes() {
        let newer =
            b"id=00000017 counter=0000000042 padding-padding-padding-padding-padding stamp=1700000000000".to_vec();
        let mut older = newer.clone();
        older[29] = b'1';
        older[80] = b'9';
        assert!(there_and_back(&newer, &older).unwrap() <= 8);
        assert_eq!(there_and_back(&newer, &newer), Some(0));
        assert_eq!(encode(b"abcdefgh", b"something else"), None);
    }

    #[test]
    fn a_difference_that_lies_is_corruption() {
        let difference =
            encode(b"0123456789012345678901234567890123456789", b"0123456789x12345678901234567890123456789");
        let difference = difference.unwrap();
        assert!(apply(b"012", &difference, &mut Vec::new()).is_err());
        for len in 1..difference.len() {
            let told = apply(&[b'0'; 40], &difference[..len], &mut Vec::new());
            assert!(told.is_err() || len % 4 == 0, "{len}");
        }
    }
}
