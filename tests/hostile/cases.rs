//! Every case: which file of which database is damaged, and how.

use std::{collections::BTreeMap, path::PathBuf};

use crate::{
    damage::{Damage, noise},
    files::{LOG_HEADER_LEN, kind, records},
    templates::{PAST, Template},
};

#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) template: usize,
    pub(crate) file: usize,
    pub(crate) damage: Damage,
    pub(crate) mmap: bool,
}

/// Every case of a template.
pub(crate) fn cases(index: usize, template: &Template, foreign: &BTreeMap<PathBuf, Vec<u8>>, full: bool) -> Vec<Case> {
    let mut all = Vec::new();
    for (file, (path, bytes)) in template.files.iter().enumerate() {
        let len = bytes.len();
        let mut damages = vec![Damage::None, Damage::Noise, Damage::Delete];
        // A large segment has more of the same; at its end are filter, index and sections.
        // Of a past more is read in each case.
        let step = if template.spaces == PAST { 5 } else { 1 };
        let near_end = |at: usize| at + 9_000 > len && at.is_multiple_of(7 * step);
        let sampled = |at: usize| {
            full || len < 16_000 && (at + index).is_multiple_of(step) || at.is_multiple_of(61 * step) || near_end(at)
        };
        for at in (0..len).filter(|at| sampled(*at)) {
            if full {
                damages.extend((0..8).map(|bit| Damage::Flip(at, 1 << bit)));
            } else {
                damages.push(Damage::Flip(at, noise(at as u64, (index * 100 + file) as u64).max(1)));
            }
        }
        let starts = if kind(path) == "log" || kind(path) == "manifest" { records(bytes) } else { Vec::new() };
        let near = |at: usize| {
            let edges = [0, LOG_HEADER_LEN, len].into_iter().chain(starts.iter().map(|record| record.start));
            edges.into_iter().any(|edge| at.abs_diff(edge) <= 8)
        };
        let cut = |at: &usize| full || len <= 600 || near(*at) || sampled(*at) && (at / step).is_multiple_of(5);
        damages.extend((0..len).filter(cut).map(Damage::Cut));
        for by in [1, 8, 24, 44, 512, 4096] {
            damages.extend([Damage::Zeros(by), Damage::Garbage(by)]);
        }
        damages.extend((0..len).step_by(512).map(|at| Damage::Hole(at, 512)));
        let alike = |other: &&(PathBuf, Vec<u8>)| kind(&other.0) == kind(path) && other.0 != *path;
        for (other, bytes) in template.files.iter().filter(alike) {
            damages.extend([Damage::Replace("another file", bytes.clone()), Damage::Swap(other.clone())]);
        }
        // Kinds crossed over, once each.
        for (other, bytes) in template.files.iter().filter(|other| kind(&other.0) != kind(path)).take(4) {
            damages.extend([Damage::Replace("a file of another kind", bytes.clone()), Damage::Swap(other.clone())]);
        }
        for old in template.older.get(path).into_iter().flatten().filter(|old| *old != bytes) {
            damages.push(Damage::Replace("its older version", old.clone()));
        }
        // Older files of the kind that exist no more.
        for (other, versions) in template.older.iter().filter(|(other, _)| kind(other) == kind(path) && *other != path)
        {
            let gone = !template.files.iter().any(|(there, _)| there == other);
            damages
                .extend(versions.last().filter(|_| gone).map(|old| Damage::Replace("a file that went", old.clone())));
        }
        damages.extend(foreign.get(path).map(|bytes| Damage::Replace("another database's", bytes.clone())));
        for (n, damage) in damages.into_iter().enumerate() {
            // Only segments are mapped, but what opens them is not theirs alone.
            let both = full || !matches!(damage, Damage::Flip(..) | Damage::Cut(_));
            let wanted = |mmap: bool| match kind(path) {
                "segment" => mmap || n % 4 == 0,
                _ => mmap == (n % 2 == 0),
            };
            for mmap in [true, false].into_iter().filter(|mmap| both || wanted(*mmap)) {
                all.push(Case { template: index, file, damage: damage.clone(), mmap });
            }
        }
    }
    all
}
