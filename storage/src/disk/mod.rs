//! The seam to files.
//!
//! Calls block: async code calls them from a blocking thread. Durability is explicit: nothing is promised to survive a
//! power cut before [`DiskFile::sync_data`] (contents) or [`Disk::sync_dir`] (names) returned. Only folders are durable
//! as soon as they are made.

pub mod conformance;
mod real;
pub mod sim;

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use real::RealDisk;
pub use sim::SimDisk;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A new file, for reading and writing; fails with `AlreadyExists` if there is one.
    CreateNew,
}

/// A folder of a disk that this process owns.
pub trait Disk: Send + Sync + Debug {
    /// Opens or creates a file.
    ///
    /// # Errors
    /// As the operating system says; `NotFound`, `AlreadyExists` and `StorageFull` are told apart by kind.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates a folder and the missing ones above it; an existing one is fine. What it created is durable on return
    /// (folders are made seldom, and a forgotten sync above one loses all that is in it).
    ///
    /// # Errors
    /// As the operating system says.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// The names in a folder, sorted. A missing folder is `NotFound`.
    ///
    /// # Errors
    /// As the operating system says.
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>>;

    /// Renames a file, replacing `to` atomically. Durable after [`Disk::sync_dir`] of the folder.
    ///
    /// # Errors
    /// As the operating system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Durable after [`Disk::sync_dir`] of the folder.
    ///
    /// # Errors
    /// As the operating system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names of a folder (creations, renames, removals) durable.
    ///
    /// # Errors
    /// As the operating system says. After a failure the caller stops writing.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Bytes that can still be written to the file system of `path`.
    ///
    /// # Errors
    /// As the operating system says.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// An open file. Shared: reads and writes at different places may run at once.
pub trait DiskFile: Send + Sync + Debug {
    /// Fills `buffer` from `offset` on; `UnexpectedEof` if the file ends before.
    ///
    /// # Errors
    /// As the operating system says.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, growing the file as needed. After an error any part may have been written.
    ///
    /// # Errors
    /// As the operating system says.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// The file's length in bytes.
    ///
    /// # Errors
    /// As the operating system says.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// As the operating system says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts or extends (with zeros) the file.
    ///
    /// # Errors
    /// As the operating system says.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes the contents and the length durable. After a failure nothing is known about what was written since the last
    /// success (the kernel may have dropped it): the caller stops writing and says so.
    ///
    /// # Errors
    /// As the operating system says.
    fn sync_data(&self) -> io::Result<()>;
}
