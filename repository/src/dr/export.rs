//! Writes a tree of an image to a local directory.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;

use causeway_base::{Ino, Timestamp};
use causeway_namespace_core::inode::{Body, Inode};
use causeway_namespace_core::query::{self, Walk};

use super::contents::windows;
use super::{Contents, DrVolume, Piece};
use crate::error::Error;

/// What an export wrote.
#[derive(Debug, Default)]
pub struct ExportReport {
    /// Files written, further names of one included.
    pub files: u64,
    /// Directories made.
    pub directories: u64,
    /// Symlinks made.
    pub symlinks: u64,
    /// Bytes written, holes not included.
    pub bytes: u64,
    /// What could not be written; the rest was.
    pub failed: Vec<Unexported>,
}

/// Something that could not be exported.
#[derive(Debug)]
pub struct Unexported {
    /// Its path in the volume.
    pub path: Bytes,
    /// Why.
    pub error: Error,
}

impl DrVolume {
    /// Writes everything below `from` (a path in the volume, empty for all; a single file is fine) to `to`, which must not
    /// exist or be an empty directory. Modes, times, symlinks, hard links and holes come out as they went in; owners do not.
    /// A file that cannot be read is listed and left out. `progress` is told of each finished entry and its bytes.
    ///
    /// Blocks: call it on a blocking thread. Memory: 16 MiB and 100 bytes for each file with several names.
    ///
    /// # Errors
    /// [`Error::Path`] for `from`, [`Error::Local`] if `to` cannot be written at all, and what makes the walk impossible.
    pub fn export(
        &self,
        contents: &Contents,
        from: &[u8],
        to: &Path,
        mut progress: impl FnMut(&[u8], u64),
    ) -> Result<ExportReport, Error> {
        let path_error = |errno| Error::Path { path: String::from_utf8_lossy(from).into_owned(), errno };
        let (ino, inode) = query::stat(self, from)?.map_err(path_error)?;
        let mut export = Export { volume: self, contents, report: ExportReport::default(), linked: BTreeMap::new() };
        if !matches!(inode.body, Body::Directory { .. }) {
            export.entry(ino, &inode, to).map_err(|error| at(error, to))?;
            progress(from, inode.size());
            return Ok(export.report);
        }
        make_empty(to).map_err(|source| Error::Local { path: to.to_owned(), source })?;
        // Modes and times of directories are set when nothing is written into them any more.
        let mut directories = vec![(to.to_owned(), inode)];
        for entry in Walk::new(self, ino) {
            let entry = entry?;
            let target = to.join(OsStr::from_bytes(&entry.path));
            let done = if is_safe(&entry.entry.name) {
                export.entry(entry.entry.ino, &entry.inode, &target)
            } else {
                Err(Failure::Local(io::Error::new(io::ErrorKind::InvalidData, "not a name of a file")))
            };
            match done {
                Ok(()) => progress(&entry.path, entry.inode.size()),
                Err(error) => export.report.failed.push(Unexported { path: entry.path, error: at(error, &target) }),
            }
            if matches!(entry.inode.body, Body::Directory { .. }) {
                directories.push((target, entry.inode));
            }
        }
        for (path, inode) in directories.iter().rev() {
            if let Err(error) = finish(path, inode) {
                let error = Error::Local { path: path.clone(), source: error };
                let path = Bytes::copy_from_slice(path.as_os_str().as_bytes());
                export.report.failed.push(Unexported { path, error });
            }
        }
        Ok(export.report)
    }
}

struct Export<'a> {
    volume: &'a DrVolume,
    contents: &'a Contents,
    report: ExportReport,
    /// Where the first name of each file with several was written.
    linked: BTreeMap<Ino, PathBuf>,
}

enum Failure {
    Local(io::Error),
    Repository(Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Local(error)
    }
}

fn at(failure: Failure, path: &Path) -> Error {
    match failure {
        Failure::Local(source) => Error::Local { path: path.to_owned(), source },
        Failure::Repository(error) => error,
    }
}

impl Export<'_> {
    fn entry(&mut self, ino: Ino, inode: &Inode, to: &Path) -> Result<(), Failure> {
        match &inode.body {
            // What is mounted there is an image of its own; its place is an empty folder.
            Body::Directory { .. } | Body::Mount { .. } => {
                fs::create_dir(to)?;
                self.report.directories += 1;
            }
            Body::Symlink(target) => {
                symlink(OsStr::from_bytes(target), to)?;
                self.report.symlinks += 1;
            }
            Body::File(_) => {
                match self.linked.get(&ino) {
                    Some(first) => fs::hard_link(first, to)?,
                    None => self.file(inode, to)?,
                }
                if inode.nlink > 1 {
                    self.linked.entry(ino).or_insert_with(|| to.to_owned());
                }
                self.report.files += 1;
            }
        }
        Ok(())
    }

    fn file(&mut self, inode: &Inode, to: &Path) -> Result<(), Failure> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).open(to)?;
        let written = self.write(inode, &mut file);
        if written.is_err() {
            // Half a file must not look like a whole one.
            fs::remove_file(to)?;
        }
        written?;
        file.set_len(inode.size())?;
        drop(file);
        Ok(finish(to, inode)?)
    }

    fn write(&mut self, inode: &Inode, file: &mut fs::File) -> Result<(), Failure> {
        for window in windows(inode.size()) {
            let pieces = self.volume.handle.block_on(self.contents.window(inode, window));
            for piece in pieces.map_err(Failure::Repository)? {
                match piece {
                    Piece::Data(bytes) => {
                        file.write_all(&bytes)?;
                        self.report.bytes += bytes.len() as u64;
                    }
                    Piece::Hole(len) => {
                        file.seek(SeekFrom::Current(i64::try_from(len).unwrap_or(i64::MAX)))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// A hostile image must not write outside of the target.
fn is_safe(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0)
}

fn make_empty(to: &Path) -> io::Result<()> {
    match fs::create_dir_all(to) {
        Ok(()) if fs::read_dir(to)?.next().is_none() => Ok(()),
        Ok(()) => Err(io::Error::new(io::ErrorKind::DirectoryNotEmpty, "the directory is not empty")),
        Err(error) => Err(error),
    }
}

fn finish(path: &Path, inode: &Inode) -> io::Result<()> {
    let file = fs::File::open(path)?;
    file.set_modified(system_time(inode.attr.mtime))?;
    fs::set_permissions(path, fs::Permissions::from_mode(inode.attr.mode & 0o7777))
}

fn system_time(at: Timestamp) -> std::time::SystemTime {
    let distance = Duration::from_nanos(at.0.unsigned_abs());
    let time = if at.0 >= 0 { UNIX_EPOCH.checked_add(distance) } else { UNIX_EPOCH.checked_sub(distance) };
    time.unwrap_or(UNIX_EPOCH)
}
