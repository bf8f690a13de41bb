//! [`Options::open`]: from options to a database.

use std::path::Path;

use super::Db;
use crate::{base::Result, engine::Options};

impl Options {
    /// Opens the database in the directory `path`, creating it if need be, and recovers it after a crash.
    ///
    /// # Errors
    /// [`Locked`](crate::Error::Locked) while it is open elsewhere, also in this process or through a link;
    /// [`Invalid`](crate::Error::Invalid) for options that make no sense, for a path that leads to no directory, and
    /// for a folder of other files, which stays as it was; [`Corrupt`](crate::Error::Corrupt) when a file is damaged;
    /// [`NewerFormat`](crate::Error::NewerFormat) for a database of a later release; [`Io`](crate::Error::Io) and
    /// [`DiskFull`](crate::Error::DiskFull) from the system.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Db> {
        self.check()?;
        Db::open_with(self, path.as_ref())
    }
}
