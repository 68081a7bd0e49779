//! Writing a file of the namespace to the local file system: under a temporary name, sparse where it was sparse, renamed
//! only when it is whole.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use causeway_namespace_core::inode::Attr;

use super::attr;

/// A local file being written. Dropped before [`Writing::finish`], it leaves nothing.
#[derive(Debug)]
pub struct Writing {
    file: File,
    temporary: Option<PathBuf>,
    path: PathBuf,
    at: u64,
}

impl Writing {
    /// Starts a file that will stand at `path`; one that is there stays as it is until [`Writing::finish`].
    ///
    /// # Errors
    /// As the operating system says.
    pub fn create(path: &Path) -> io::Result<Self> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        // Short and unrelated to the name, which may already be as long as a name can be.
        let named = tempfile::Builder::new().prefix(".causeway-").rand_bytes(12).tempfile_in(folder)?;
        let (file, temporary) = named.keep().map_err(|error| error.error)?;
        Ok(Self { file, temporary: Some(temporary), path: path.to_owned(), at: 0 })
    }

    /// Writes the next bytes.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Leaves the next `len` bytes a hole.
    pub fn hole(&mut self, len: u64) {
        self.at += len;
    }

    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.at
    }

    /// Whether nothing was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.at == 0
    }

    /// Sets length and attributes and gives the file its name, replacing what stood there.
    ///
    /// # Errors
    /// As the operating system says; nothing is left.
    pub fn finish(mut self, attributes: &Attr, xattrs: &[(Bytes, Bytes)]) -> io::Result<()> {
        self.file.set_len(self.at)?;
        let Some(temporary) = &self.temporary else { return Ok(()) };
        attr::apply(temporary, attributes, xattrs, false)?;
        std::fs::rename(temporary, &self.path)?;
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            // Best effort: the error that ended the write is the one to report.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use causeway_base::Timestamp;

    use super::*;

    const ATTR: Attr = Attr { mode: 0o640, uid: 0, gid: 0, mtime: Timestamp(-5_500_000_000), ctime: Timestamp(0) };

    #[test]
    fn holes_stay_holes_and_attributes_come_back() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("sparse");
        let mut writing = Writing::create(&path).unwrap();
        writing.data(b"head").unwrap();
        writing.hole(64 << 20);
        writing.data(b"tail").unwrap();
        writing.hole(1 << 20);
        writing.finish(&ATTR, &[]).unwrap();
        let metadata = path.metadata().unwrap();
        assert_eq!(metadata.len(), (65 << 20) + 8);
        assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
        assert_eq!(metadata.mode() & 0o7777, 0o640);
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (-6, 500_000_000));
    }

    #[test]
    fn a_write_that_ends_early_leaves_the_old_file_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        std::fs::write(&path, "old").unwrap();
        let mut writing = Writing::create(&path).unwrap();
        writing.data(b"new").unwrap();
        drop(writing);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
    }
}
