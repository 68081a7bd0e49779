//! Questions about the tree.

use std::collections::BTreeMap;

use bytes::Bytes;

use causeway_base::{Epoch, Ino};

use crate::command::{Errno, ListEntry};
use crate::encode;
use crate::inode::{Body, Dirent, FileKind, Inode};
use crate::key;
use crate::meta::{GroupKind, Meta, blank_top};
use crate::path;
use crate::records::{ReadError, Records};

/// What the store says, and in it what POSIX says.
pub type Answer<T> = Result<Result<T, Errno>, ReadError>;

/// A found inode with its number, or why there is none.
pub type Found = Result<(Ino, Inode), Errno>;

/// What a volume holds in total.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// What the group holds.
    pub kind: GroupKind,
    /// Regular files; one with several names counts once.
    pub files: u64,
    /// Directories, the top included.
    pub dirs: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Sum of the lengths of all files in bytes; stops at `u64::MAX`.
    pub logical_bytes: u64,
    /// The number of the next inode: those below were given.
    pub next_ino: Ino,
    /// The generation of authority.
    pub epoch: Epoch,
    /// Open sessions.
    pub sessions: u64,
}

/// The inode that a path leads to.
///
/// # Errors
/// The store's; inside [`Errno::NotFound`], [`Errno::NotDirectory`], [`Errno::SymlinkInPath`], or a rule for paths.
pub fn resolve(records: &dyn Records, path: &[u8]) -> Answer<Ino> {
    resolve_at(records, Ino::ROOT, path)
}

/// The inode that a path leads to from a directory; without any name in it, `dir` itself (which is not looked up).
///
/// # Errors
/// As [`resolve`].
pub fn resolve_at(records: &dyn Records, dir: Ino, path: &[u8]) -> Answer<Ino> {
    Ok(entry_at(records, dir, path)?.map(|entry| entry.ino))
}

fn entry_at(records: &dyn Records, dir: Ino, path: &[u8]) -> Answer<Dirent> {
    let mut names = Vec::new();
    if let Err(errno) = path::components(path, |name| names.push(name)) {
        return Ok(Err(errno));
    }
    let mut at = Dirent { ino: dir, kind: FileKind::Directory };
    for name in names {
        match step(records, at, name)? {
            Ok(next) => at = next,
            Err(errno) => return Ok(Err(errno)),
        }
    }
    Ok(Ok(at))
}

/// One name further.
fn step(records: &dyn Records, at: Dirent, name: &[u8]) -> Answer<Dirent> {
    match at.kind {
        FileKind::Directory => Ok(lookup(records, at.ino, name)?.ok_or(Errno::NotFound)),
        FileKind::Symlink => Ok(Err(Errno::SymlinkInPath)),
        FileKind::File => Ok(Err(Errno::NotDirectory)),
        FileKind::Mount => Ok(Err(Errno::CrossesVolume)),
    }
}

/// The entry of a name in a directory; `None` also if there is no such directory.
///
/// # Errors
/// The store's.
pub fn lookup(records: &dyn Records, dir: Ino, name: &[u8]) -> Result<Option<Dirent>, ReadError> {
    let key = key::dirent(dir, name);
    records.get(&key)?.map(|value| encode::record(&key, &value)).transpose()
}

/// The inode at a path.
///
/// # Errors
/// As [`resolve`].
pub fn stat(records: &dyn Records, path: &[u8]) -> Answer<(Ino, Inode)> {
    match resolve(records, path)? {
        Ok(ino) => Ok(Ok((ino, referred(records, ino)?))),
        Err(errno) => Ok(Err(errno)),
    }
}

/// An inode by its number; `None` if there is none. The top of a blank volume is there.
///
/// # Errors
/// The store's.
pub fn stat_ino(records: &dyn Records, ino: Ino) -> Result<Option<Inode>, ReadError> {
    let key = key::inode(ino);
    match records.get(&key)? {
        Some(value) => encode::record(&key, &value).map(Some),
        None if ino == Ino::ROOT => Ok((meta(records)?.kind != GroupKind::Root).then(blank_top)),
        None => Ok(None),
    }
}

/// An inode that an entry refers to.
pub(super) fn referred(records: &dyn Records, ino: Ino) -> Result<Inode, ReadError> {
    let missing = || encode::corrupt(&key::inode(ino), "an entry refers to it and it is not there");
    stat_ino(records, ino)?.ok_or_else(missing)
}

/// Up to `limit` entries of a directory in byte order of their names, those after the name `after`. Nothing is skipped or
/// seen twice across pages that stays in the directory meanwhile; an empty page is the end (also where `dir` is no
/// directory).
///
/// # Errors
/// The store's.
pub fn list(records: &dyn Records, dir: Ino, after: Option<&[u8]>, limit: usize) -> Result<Vec<ListEntry>, ReadError> {
    let from = match after {
        None => key::dirent(dir, b""),
        // No name contains NUL: this is the next possible key.
        Some(name) => key::dirent(dir, &[name, b"\0"].concat()),
    };
    let page = records.scan(&from, &key::dirent_end(dir), limit)?;
    let entry = |(key, value): (Bytes, Bytes)| {
        let Dirent { ino, kind } = encode::record(&key, &value)?;
        Ok(ListEntry { name: key.slice(NAME_AT.min(key.len())..), ino, kind })
    };
    page.into_iter().map(entry).collect()
}

/// Where the name stands in an entry's key: after the table and the directory.
const NAME_AT: usize = 9;

/// [`list`], each entry with its inode.
///
/// # Errors
/// The store's.
pub fn readdir_plus(
    records: &dyn Records,
    dir: Ino,
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<(ListEntry, Inode)>, ReadError> {
    let entries = list(records, dir, after, limit)?;
    entries.into_iter().map(|entry| referred(records, entry.ino).map(|inode| (entry, inode))).collect()
}

/// [`stat`] of many paths, each directory on the way looked up once. Answers are in the order of the paths.
///
/// # Errors
/// The store's.
pub fn lookup_many<P: AsRef<[u8]>>(records: &dyn Records, paths: &[P]) -> Result<Vec<Found>, ReadError> {
    let mut known: BTreeMap<&[u8], Result<Dirent, Errno>> = BTreeMap::new();
    let mut answers = Vec::with_capacity(paths.len());
    for path in paths {
        let path = path.as_ref();
        let (above, last) =
            path.iter().rposition(|byte| *byte == b'/').map_or((&b""[..], path), |at| path.split_at(at));
        let dir = match known.get(above) {
            Some(dir) => *dir,
            None => *known.entry(above).or_insert(entry_at(records, Ino::ROOT, above)?),
        };
        let found = match dir {
            Ok(dir) => onward(records, dir, path, last)?,
            Err(errno) => Err(errno),
        };
        answers.push(match found {
            Ok(entry) => Ok((entry.ino, referred(records, entry.ino)?)),
            Err(errno) => Err(errno),
        });
    }
    Ok(answers)
}

/// From a path's directory to what its last part (at most one name) leads to.
fn onward(records: &dyn Records, dir: Dirent, path: &[u8], last: &[u8]) -> Answer<Dirent> {
    let (mut found, mut refused) = (None, None);
    if path.len() > crate::inode::PATH_BYTES_MAX {
        refused = Some(Errno::NameTooLong);
    } else if let Err(errno) = path::components(last, |name| found = Some(name)) {
        refused = Some(errno);
    }
    match (refused, found) {
        (Some(errno), _) => Ok(Err(errno)),
        (None, Some(name)) => step(records, dir, name),
        (None, None) => Ok(Ok(dir)),
    }
}

/// The path of a directory from the top, `/` between the names and none before them; of the top it is empty.
///
/// # Errors
/// The store's; inside [`Errno::NotFound`], [`Errno::NotDirectory`] (files may have several paths and keep none).
pub fn path_of(records: &dyn Records, dir: Ino) -> Answer<Bytes> {
    let mut names = Vec::new();
    let mut at = dir;
    while at != Ino::ROOT {
        match stat_ino(records, at)?.map(|inode| inode.body) {
            None => return Ok(Err(Errno::NotFound)),
            Some(Body::File(_) | Body::Symlink(_)) => return Ok(Err(Errno::NotDirectory)),
            Some(Body::Directory { parent, name, .. } | Body::Mount { parent, name, .. }) => {
                names.push(name);
                at = parent;
            }
        }
    }
    names.reverse();
    Ok(Ok(names.join(&b"/"[..]).into()))
}

/// What the volume holds in total.
///
/// # Errors
/// The store's.
pub fn totals(records: &dyn Records) -> Result<Totals, ReadError> {
    let meta = meta(records)?;
    Ok(Totals {
        kind: meta.kind,
        files: meta.files,
        // The top of a blank volume is there, though not yet written.
        dirs: if meta.kind == GroupKind::Blank { 1 } else { meta.dirs },
        symlinks: meta.symlinks,
        logical_bytes: u64::try_from(meta.logical_bytes).unwrap_or(u64::MAX),
        next_ino: meta.next_ino,
        epoch: meta.epoch,
        sessions: meta.sessions,
    })
}

pub(super) fn meta(records: &dyn Records) -> Result<Meta, ReadError> {
    let key = key::meta();
    Ok(records.get(&key)?.map(|value| encode::record(&key, &value)).transpose()?.unwrap_or_default())
}
