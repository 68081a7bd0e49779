//! Walking a local folder: every entry in an order in which it can be created, what cannot be read listed beside it.

use std::collections::HashMap;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use causeway_namespace_core::inode::Attr;

use super::attr::{attr_of, xattrs_of};

/// An entry of a local folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalEntry {
    /// Path below the folder walked, bytes as the file system has them; empty for the folder itself.
    pub path: Bytes,
    /// What it is.
    pub kind: LocalKind,
    /// Its attributes.
    pub attr: Attr,
    /// Its `user.*` extended attributes.
    pub xattrs: Vec<(Bytes, Bytes)>,
}

/// What a local entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalKind {
    /// A directory; it comes before what is in it.
    Directory,
    /// A regular file of this many bytes when it was seen.
    File {
        /// Its length.
        size: u64,
    },
    /// A symlink and its target.
    Symlink(Bytes),
    /// Another name of a file that came before, under this path.
    HardLink(Bytes),
}

/// An entry that is left out, and why.
#[derive(Debug, Clone)]
pub struct LeftOut {
    /// Path below the folder walked.
    pub path: Bytes,
    /// Why, for a person.
    pub reason: String,
}

/// The walk of one folder (or the one step of a single file).
///
/// Memory: the names of one directory at each level, and one map entry for each file with several names.
#[derive(Debug)]
pub struct Scan {
    root: PathBuf,
    walk: walkdir::IntoIter,
    /// Device and inode of files with several names, and the first path of each.
    linked: HashMap<(u64, u64), Bytes>,
}

impl Scan {
    /// Walks `root` in the order of names; symlinks are not followed (but `root` itself may be one).
    ///
    /// # Errors
    /// `root` cannot be looked at.
    pub fn new(root: &Path) -> io::Result<Self> {
        let root = root.canonicalize()?;
        let walk = walkdir::WalkDir::new(&root).sort_by_file_name().into_iter();
        Ok(Self { root, walk, linked: HashMap::new() })
    }

    /// The folder walked, as an absolute path.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn relative(&self, path: &Path) -> Bytes {
        let path = path.strip_prefix(&self.root).unwrap_or(path);
        Bytes::copy_from_slice(path.as_os_str().as_bytes())
    }

    fn entry(&mut self, found: &walkdir::DirEntry) -> Result<LocalEntry, LeftOut> {
        let path = self.relative(found.path());
        let fail = |reason: String| LeftOut { path: path.clone(), reason };
        let failed = |error: io::Error| fail(format!("cannot be read: {error}"));
        let metadata = found.path().symlink_metadata().map_err(failed)?;
        let kind = metadata.file_type();
        let kind = if kind.is_dir() {
            LocalKind::Directory
        } else if kind.is_symlink() {
            let target = std::fs::read_link(found.path()).map_err(failed)?;
            LocalKind::Symlink(target.into_os_string().into_vec().into())
        } else if kind.is_file() {
            match self.first_name(&metadata, &path) {
                Some(first) => LocalKind::HardLink(first),
                None => LocalKind::File { size: metadata.len() },
            }
        } else {
            let what = match () {
                () if kind.is_fifo() => "a named pipe",
                () if kind.is_socket() => "a socket",
                () => "a device",
            };
            return Err(fail(format!("is {what}: only files, folders and symlinks are stored")));
        };
        let xattrs = match kind {
            LocalKind::Directory | LocalKind::File { .. } => xattrs_of(found.path()).map_err(failed)?,
            LocalKind::Symlink(_) | LocalKind::HardLink(_) => Vec::new(),
        };
        Ok(LocalEntry { path, kind, attr: attr_of(&metadata), xattrs })
    }

    fn first_name(&mut self, metadata: &std::fs::Metadata, path: &Bytes) -> Option<Bytes> {
        if metadata.nlink() < 2 {
            return None;
        }
        let key = (metadata.dev(), metadata.ino());
        match self.linked.entry(key) {
            std::collections::hash_map::Entry::Occupied(first) => Some(first.get().clone()),
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(path.clone());
                None
            }
        }
    }
}

impl Iterator for Scan {
    type Item = Result<LocalEntry, LeftOut>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.walk.next()?;
        Some(match found {
            Ok(found) => self.entry(&found),
            Err(error) => {
                let path = error.path().map(|path| self.relative(path)).unwrap_or_default();
                let reason =
                    error.into_io_error().map_or_else(|| "a loop of folders".to_owned(), |error| error.to_string());
                Err(LeftOut { path, reason: format!("cannot be read: {reason}") })
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_comes_in_an_order_in_which_it_can_be_made() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        let odd = PathBuf::from(std::ffi::OsString::from_vec(b"odd-\xff\xfe".to_vec()));
        std::fs::create_dir(root.join("b")).unwrap();
        std::fs::write(root.join("b").join(&odd), "content").unwrap();
        std::fs::hard_link(root.join("b").join(&odd), root.join("c")).unwrap();
        std::os::unix::fs::symlink("nowhere", root.join("a")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("d")).unwrap();

        let (entries, left_out): (Vec<_>, Vec<_>) = Scan::new(root).unwrap().partition(Result::is_ok);
        let entries: Vec<_> = entries.into_iter().map(Result::unwrap).map(|entry| (entry.path, entry.kind)).collect();
        let odd = Bytes::from_static(b"b/odd-\xff\xfe");
        assert_eq!(
            entries,
            [
                (Bytes::new(), LocalKind::Directory),
                (Bytes::from_static(b"a"), LocalKind::Symlink(Bytes::from_static(b"nowhere"))),
                (Bytes::from_static(b"b"), LocalKind::Directory),
                (odd.clone(), LocalKind::File { size: 7 }),
                (Bytes::from_static(b"c"), LocalKind::HardLink(odd)),
            ]
        );
        let left_out = left_out.into_iter().map(Result::unwrap_err).next().unwrap();
        assert_eq!(left_out.path, &b"d"[..]);
        assert!(left_out.reason.contains("socket"), "{}", left_out.reason);
    }

    #[test]
    fn a_missing_folder_is_an_error_and_a_file_is_walked_as_itself() {
        let temp = tempfile::tempdir().unwrap();
        assert!(Scan::new(&temp.path().join("none")).is_err());
        std::fs::write(temp.path().join("one"), "1").unwrap();
        let all: Vec<_> = Scan::new(&temp.path().join("one")).unwrap().map(Result::unwrap).collect();
        assert_eq!(all.len(), 1);
        assert!(all[0].path.is_empty());
        assert_eq!(all[0].kind, LocalKind::File { size: 1 });
    }
}
