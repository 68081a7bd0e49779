//! What the namespace must hold: built from the source folder and changed along with each edit, so that at the end every
//! file can be compared byte for byte with where its bytes came from.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use causeway_namespace_core::inode::{Body, FileKind};
use causeway_vfs::VfsError;
use causeway_vfs::fetch::{Entry, Sink};
use causeway_vfs::local::scan::{LocalKind, Scan};

/// An entry that must be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Want {
    /// A folder.
    Folder,
    /// A symlink to this target.
    Symlink(Bytes),
    /// A file with the bytes of this local one.
    File {
        /// Where the bytes are.
        source: PathBuf,
        /// How many.
        size: u64,
    },
}

/// Every entry below one folder of the namespace, by path below it.
#[derive(Debug, Clone, Default)]
pub(super) struct Expected {
    pub(super) entries: BTreeMap<Bytes, Want>,
}

impl Expected {
    /// What an import of `root` makes, but for the paths that it left out.
    pub(super) fn of_folder(root: &Path, left_out: &[Bytes]) -> io::Result<Self> {
        let mut entries = BTreeMap::new();
        let scan = Scan::new(root)?;
        let root = scan.root().to_owned();
        let mut sizes = BTreeMap::new();
        for entry in scan.filter_map(Result::ok) {
            if left_out.contains(&entry.path) {
                continue;
            }
            let local = |path: &Bytes| root.join(std::ffi::OsStr::from_bytes(path));
            let want = match entry.kind {
                LocalKind::Directory => Want::Folder,
                LocalKind::Symlink(target) => Want::Symlink(target),
                LocalKind::File { size } => {
                    sizes.insert(entry.path.clone(), size);
                    Want::File { source: local(&entry.path), size }
                }
                LocalKind::HardLink(first) => {
                    let size = sizes.get(&first).copied().unwrap_or_default();
                    Want::File { source: local(&first), size }
                }
            };
            entries.insert(entry.path, want);
        }
        Ok(Self { entries })
    }

    /// The files, with their sources and sizes.
    pub(super) fn files(&self) -> impl Iterator<Item = (&Bytes, &PathBuf, u64)> {
        self.entries.iter().filter_map(|(path, want)| match want {
            Want::File { source, size } => Some((path, source, *size)),
            _ => None,
        })
    }

    /// Sum of the lengths of all files.
    pub(super) fn logical_bytes(&self) -> u64 {
        self.files().map(|(_, _, size)| size).sum()
    }

    /// Moves a folder with all that is in it.
    pub(super) fn rename_folder(&mut self, from: &[u8], to: &[u8]) -> usize {
        let below = |path: &Bytes| path.starts_with(from) && matches!(path.get(from.len()), None | Some(b'/'));
        let moved: Vec<_> = self.entries.keys().filter(|path| below(path)).cloned().collect();
        for path in &moved {
            if let Some(want) = self.entries.remove(path) {
                let mut renamed = to.to_vec();
                renamed.extend_from_slice(&path[from.len()..]);
                self.entries.insert(renamed.into(), want);
            }
        }
        moved.len()
    }
}

/// Compares what is read with what is expected, byte for byte.
#[derive(Debug)]
pub(super) struct CompareSink {
    expected: Expected,
    open: Option<std::io::BufReader<std::fs::File>>,
    wrong: bool,
    buffer: Vec<u8>,
    /// Files that are equal.
    pub(super) equal: u64,
    /// Bytes compared.
    pub(super) bytes: u64,
    /// Every difference, for people.
    pub(super) differences: Vec<String>,
}

impl CompareSink {
    /// Compares with all of `expected`; an entry missing at the end is a difference.
    pub(super) fn new(expected: Expected) -> Self {
        Self { expected, open: None, wrong: false, buffer: Vec::new(), equal: 0, bytes: 0, differences: Vec::new() }
    }

    /// Adds what never came.
    pub(super) fn finish(mut self) -> Self {
        for path in std::mem::take(&mut self.expected.entries).into_keys() {
            self.differences.push(format!("{} is missing", String::from_utf8_lossy(&path)));
        }
        self
    }

    fn differs(&mut self, entry: &Entry, how: &str) {
        self.wrong = true;
        self.differences.push(format!("{} {how}", String::from_utf8_lossy(&entry.path)));
    }
}

impl Sink for CompareSink {
    fn start(&mut self, entry: &Entry) -> Result<bool, VfsError> {
        self.wrong = false;
        self.open = None;
        let Some(want) = self.expected.entries.remove(&entry.path) else {
            self.differs(entry, "should not be there");
            return Ok(false);
        };
        match (&want, &entry.inode.body) {
            (Want::Folder, Body::Directory { .. }) => Ok(false),
            (Want::Symlink(target), Body::Symlink(found)) => {
                if target != found {
                    self.differs(entry, "points elsewhere");
                }
                Ok(false)
            }
            (Want::File { source, size }, Body::File(_)) => {
                if *size != entry.inode.size() {
                    self.differs(entry, &format!("has {} bytes instead of {size}", entry.inode.size()));
                    return Ok(false);
                }
                let file = std::fs::File::open(source).map_err(|error| VfsError::Local {
                    what: "read",
                    path: source.clone(),
                    source: error,
                })?;
                self.open = Some(std::io::BufReader::with_capacity(1 << 18, file));
                Ok(true)
            }
            _ => {
                let found = match entry.inode.kind() {
                    FileKind::File => "is a file",
                    FileKind::Directory => "is a folder",
                    FileKind::Symlink => "is a symlink",
                    FileKind::Mount => "is another volume",
                };
                self.differs(entry, found);
                Ok(false)
            }
        }
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), VfsError> {
        let Some(source) = &mut self.open else { return Ok(()) };
        self.buffer.resize(bytes.len(), 0);
        let equal = source.read_exact(&mut self.buffer).is_ok() && self.buffer == bytes;
        self.wrong |= !equal;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn hole(&mut self, len: u64) -> Result<(), VfsError> {
        let zeros = [0; 1 << 16];
        let mut left = len;
        while left > 0 {
            let part = usize::try_from(left).unwrap_or(zeros.len()).min(zeros.len());
            self.data(&zeros[..part])?;
            left -= part as u64;
        }
        Ok(())
    }

    fn end(&mut self, entry: &Entry) -> Result<(), VfsError> {
        let Some(mut source) = self.open.take() else { return Ok(()) };
        let at_end = matches!(source.read(&mut [0]), Ok(0));
        if self.wrong || !at_end {
            self.differs(entry, "has other bytes");
        } else {
            self.equal += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use causeway_base::{Ino, Seq, Timestamp};
    use causeway_namespace_core::inode::{Attr, Content, Inode};

    use super::*;

    fn entry(path: &'static str, content: &'static [u8]) -> Entry {
        let attr = Attr { mode: 0o644, uid: 0, gid: 0, mtime: Timestamp(0), ctime: Timestamp(0) };
        let body = Body::File(Content::Inline(Bytes::from_static(content)));
        let inode = Inode { attr, nlink: 1, version: Seq(1), body, xattrs: Vec::new(), quota: None };
        Entry { path: Bytes::from_static(path.as_bytes()), ino: Ino(2), inode }
    }

    fn compare(files: &[(&'static str, &'static [u8])]) -> CompareSink {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("a"), "same").unwrap();
        std::fs::write(temp.path().join("b"), "four").unwrap();
        let mut expected = Expected::of_folder(temp.path(), &[]).unwrap();
        expected.entries.remove(&Bytes::new());
        let mut sink = CompareSink::new(expected);
        for (path, content) in files {
            let entry = entry(path, content);
            if sink.start(&entry).unwrap() {
                sink.data(content).unwrap();
            }
            sink.end(&entry).unwrap();
        }
        sink.finish()
    }

    #[test]
    fn every_kind_of_difference_is_told() {
        let good = compare(&[("a", b"same"), ("b", b"four")]);
        assert_eq!((good.equal, good.differences.len()), (2, 0), "{:?}", good.differences);
        for (files, expected) in [
            (&[("a", &b"same"[..])][..], "b is missing"),
            (&[("a", &b"same"[..]), ("b", b"fuor")][..], "b has other bytes"),
            (&[("a", &b"same"[..]), ("b", b"fou")][..], "b has 3 bytes instead of 4"),
            (&[("a", &b"same"[..]), ("b", b"four"), ("c", b"")][..], "c should not be there"),
        ] {
            assert_eq!(compare(files).differences, [expected]);
        }
    }

    #[test]
    fn a_folder_moves_with_what_is_in_it_and_nothing_else() {
        let mut expected = Expected::default();
        for path in ["x", "x/1", "x/2/3", "xy"] {
            expected.entries.insert(Bytes::from_static(path.as_bytes()), Want::Folder);
        }
        assert_eq!(expected.rename_folder(b"x", b"z"), 3);
        let paths: Vec<_> = expected.entries.keys().cloned().collect();
        assert_eq!(paths, ["xy", "z", "z/1", "z/2/3"]);
    }
}
