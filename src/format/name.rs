//! File names, made from numbers and parsed back into them. No stored text ever becomes part of a path.

use crate::base::FileNumber;

pub(crate) const LOCK: &str = "LOCK";
pub(crate) const CURRENT: &str = "CURRENT";
pub(crate) const CURRENT_NEW: &str = "CURRENT.new";
pub(crate) const LOGS: &str = "wal";
pub(crate) const SEGMENTS: &str = "segments";
pub(crate) const PACKS: &str = "packs";

/// Files are numbered from 1; a name with a number this large is not ours.
const NUMBER_MAX: u64 = 1 << 62;

/// Names that later parts of the format use, listed so that they are not taken for foreign files.
const RESERVED: [&str; 3] = ["TIMELINE", "KEYS", PACKS];

pub(crate) fn manifest(number: FileNumber) -> String {
    format!("MANIFEST-{number}")
}

pub(crate) fn log(number: FileNumber) -> String {
    format!("{LOGS}/{number}.wal")
}

pub(crate) fn segment(number: FileNumber) -> String {
    format!("{SEGMENTS}/{number}.seg")
}

pub(crate) fn pack(number: FileNumber) -> String {
    format!("{PACKS}/{number}.pack")
}

/// Returns the number of a file in its sub-directory, from its bare name.
pub(crate) fn parse(name: &str, ending: &str) -> Option<FileNumber> {
    number(name.strip_suffix(ending)?)
}

/// Returns the number of a manifest, from its name.
pub(crate) fn parse_manifest(name: &str) -> Option<FileNumber> {
    number(name.strip_prefix("MANIFEST-")?)
}

/// Returns whether a name at the top of the directory can be one of ours.
pub(crate) fn is_ours(name: &str) -> bool {
    [LOCK, CURRENT, CURRENT_NEW, LOGS, SEGMENTS].contains(&name)
        || RESERVED.contains(&name)
        || parse_manifest(name).is_some()
}

/// Parses digits exactly as a number prints: `007` and `+7` are not ours, nor are numbers that counting never reaches.
fn number(text: &str) -> Option<FileNumber> {
    text.parse().ok().filter(|number: &u64| *number < NUMBER_MAX && number.to_string() == text).map(FileNumber)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_strangers_do_not() {
        assert_eq!(log(FileNumber(7)), "wal/7.wal");
        assert_eq!(parse("7.wal", ".wal"), Some(FileNumber(7)));
        assert_eq!(parse_manifest(&manifest(FileNumber(3))), Some(FileNumber(3)));
        for stranger in ["07.wal", "18446744073709551615.wal", "+7.wal", "7.wal.bak", ".wal", "7.seg"] {
            assert_eq!(parse(stranger, ".wal"), None, "{stranger}");
        }
        assert!(is_ours("CURRENT") && !is_ours("notes.txt"));
    }
}
