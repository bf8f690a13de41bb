//! A directory for the files of a run.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A directory of this process below the temporary one, removed at the end, also of a run that fails.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// Creates an empty one; the name tells it from others of the same process.
    ///
    /// # Errors
    /// When it is there already, or cannot be created.
    pub fn new(name: &str) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} is still there: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_goes_with_its_files() {
        let directory = Directory::new("measure-test").unwrap();
        let path = directory.path().to_path_buf();
        fs::write(path.join("file"), "bytes").unwrap();
        assert!(Directory::new("measure-test").is_err(), "two would share their files");
        drop(directory);
        assert!(!path.exists());
    }
}
