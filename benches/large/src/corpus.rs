//! Files of a folder, in memory: reading them is not measured, but for one line that says what it would add.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use measure::Result;

/// Bytes that are read, written or handed over at once.
pub const PIECE: usize = 1 << 20;

/// Files in the order of their names.
pub struct Corpus {
    pub files: Vec<(String, Vec<u8>)>,
    paths: Vec<PathBuf>,
}

impl Corpus {
    pub fn read(folder: &Path) -> Result<Self> {
        let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        paths.sort_unstable();
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let files = paths.iter().map(|path| Ok((name(path), fs::read(path)?))).collect::<Result<Vec<_>>>()?;
        if files.is_empty() {
            return Err(format!("{} has no files", folder.display()).into());
        }
        Ok(Self { files, paths })
    }

    /// Returns the bytes of all files.
    pub fn len(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// Reads all files again, from the page cache, in pieces; hands over each.
    pub fn stream(&self, mut piece: impl FnMut(usize, &[u8]) -> Result<()>) -> Result<()> {
        let mut room = vec![0; PIECE];
        for (number, path) in self.paths.iter().enumerate() {
            let mut file = File::open(path)?;
            loop {
                let count = file.read(&mut room)?;
                if count == 0 {
                    break;
                }
                piece(number, &room[..count])?;
            }
        }
        Ok(())
    }
}
