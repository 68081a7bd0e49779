//! What differs between two states of a tree, in the words of those who follow it.

use std::collections::BTreeMap;

use bytes::Bytes;

use causeway_base::{Ino, Seq};

use super::tree::{path_of, stat_ino};
use crate::inode::{Body, Dirent, FileKind, Inode};
use crate::records::{ReadError, Records};
use crate::{encode, key};

/// What happened to a name or an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChangeKind {
    /// It is gone with its last name.
    Removed,
    /// It lost this name and has others.
    Unlinked,
    /// It has another path. What lies below a directory moves with it, and is not told.
    Renamed,
    /// It is new.
    Created,
    /// It got a further name.
    Linked,
    /// It has another content.
    Replaced,
    /// Its mode, owner, group, times or extended attributes differ. Of a directory's times nothing is told.
    Attributes,
}

/// A difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeChange {
    /// What happened.
    pub kind: ChangeKind,
    /// Its path now (of what is gone: before), relative to the volume; `None` if an open file was changed whose names are
    /// not known.
    pub path: Option<Bytes>,
    /// Its path before, if it was renamed.
    pub path_before: Option<Bytes>,
    /// The inode.
    pub ino: Ino,
    /// What it is.
    pub file: FileKind,
    /// Its length; of what is gone: before.
    pub size: u64,
    /// Its version; of what is gone: before.
    pub version: Seq,
}

impl TreeChange {
    /// Whether it concerns what is at or below a path (without a leading or trailing `/`; empty: everything).
    #[must_use]
    pub fn is_below(&self, prefix: &[u8]) -> bool {
        let below = |path: &Option<Bytes>| {
            let rest = path.as_ref().and_then(|path| path.strip_prefix(prefix));
            rest.is_some_and(|rest| prefix.is_empty() || rest.is_empty() || rest.starts_with(b"/"))
        };
        prefix.is_empty() || below(&self.path) || below(&self.path_before)
    }
}

/// The names of an inode that came and went.
#[derive(Debug, Default)]
struct Names {
    gone: Vec<(Ino, Bytes)>,
    come: Vec<(Ino, Bytes)>,
    /// By which it was changed.
    used: Option<(Ino, Bytes)>,
}

/// What differs between two states, given the keys of the records that may. The net effect, in this order: what is gone
/// (those below first), what is renamed, what is new (those above first), what has another content or other attributes.
///
/// # Errors
/// The store's.
pub fn tree_changes<'a>(
    before: &dyn Records,
    after: &dyn Records,
    changed: impl IntoIterator<Item = (&'a Bytes, Option<&'a (Ino, Bytes)>)>,
) -> Result<Vec<TreeChange>, ReadError> {
    let mut inodes: BTreeMap<Ino, Names> = BTreeMap::new();
    for (changed, used) in changed {
        if let Some(ino) = key::inode_of(changed) {
            let names = inodes.entry(ino).or_default();
            if let Some(used) = used {
                names.used = Some(used.clone());
            }
        } else if let Some((dir, name)) = key::dirent_of(changed) {
            let name = changed.slice_ref(name);
            let (old, new) = (entry(before, changed)?, entry(after, changed)?);
            if old == new {
                continue;
            }
            if let Some(old) = old {
                inodes.entry(old.ino).or_default().gone.push((dir, name.clone()));
            }
            if let Some(new) = new {
                inodes.entry(new.ino).or_default().come.push((dir, name));
            }
        }
    }
    let mut found = Found { before: Paths::of(before), after: Paths::of(after), changes: Vec::new() };
    for (ino, names) in inodes {
        found.inode(ino, names)?;
    }
    let mut changes = found.changes;
    changes.sort_by(|a, b| {
        let last = |change: &TreeChange| matches!(change.kind, ChangeKind::Removed | ChangeKind::Unlinked);
        match (last(a), last(b)) {
            (true, true) => b.path.cmp(&a.path),
            (false, false) => (group(a.kind), &a.path, a.kind).cmp(&(group(b.kind), &b.path, b.kind)),
            (gone, _) => {
                if gone {
                    std::cmp::Ordering::Less
                } else {
                    std::cmp::Ordering::Greater
                }
            }
        }
    });
    Ok(changes)
}

fn group(kind: ChangeKind) -> u8 {
    match kind {
        ChangeKind::Removed | ChangeKind::Unlinked => 0,
        ChangeKind::Renamed => 1,
        ChangeKind::Created | ChangeKind::Linked => 2,
        ChangeKind::Replaced | ChangeKind::Attributes => 3,
    }
}

fn entry(records: &dyn Records, key: &Bytes) -> Result<Option<Dirent>, ReadError> {
    records.get(key)?.map(|value| encode::record(key, &value)).transpose()
}

/// Paths of directories in a state, each looked up once.
struct Paths<'a> {
    records: &'a dyn Records,
    known: BTreeMap<Ino, Option<Bytes>>,
}

impl<'a> Paths<'a> {
    fn of(records: &'a dyn Records) -> Self {
        Self { records, known: BTreeMap::new() }
    }

    fn path(&mut self, (dir, name): &(Ino, Bytes)) -> Result<Option<Bytes>, ReadError> {
        let above = match self.known.get(dir) {
            Some(above) => above.clone(),
            None => {
                let above = path_of(self.records, *dir)?.ok();
                self.known.insert(*dir, above.clone());
                above
            }
        };
        Ok(above.map(|above| if above.is_empty() { name.clone() } else { [&above[..], b"/", name].concat().into() }))
    }
}

struct Found<'a> {
    before: Paths<'a>,
    after: Paths<'a>,
    changes: Vec<TreeChange>,
}

impl Found<'_> {
    fn inode(&mut self, ino: Ino, names: Names) -> Result<(), ReadError> {
        let old = stat_ino(self.before.records, ino)?;
        // Kept for those who have it open: gone for everybody else.
        let new = stat_ino(self.after.records, ino)?.filter(|new| new.nlink > 0);
        let (mut gone, mut come) = (names.gone.iter(), names.come.iter());
        match (&old, &new) {
            (Some(old), Some(new)) => {
                loop {
                    match (gone.next(), come.next()) {
                        (Some(from), Some(to)) => {
                            let path_before = self.before.path(from)?;
                            let path = self.after.path(to)?;
                            self.push(ChangeKind::Renamed, ino, new, path, path_before);
                        }
                        (Some(from), None) => {
                            let path = self.before.path(from)?;
                            self.push(ChangeKind::Unlinked, ino, new, path, None);
                        }
                        (None, Some(to)) => {
                            let path = self.after.path(to)?;
                            self.push(ChangeKind::Linked, ino, new, path, None);
                        }
                        (None, None) => break,
                    }
                }
                if let Some(kind) = difference(old, new) {
                    let path = self.path_now(ino, new, &names)?;
                    self.push(kind, ino, new, path, None);
                }
            }
            (Some(old), None) => {
                for from in gone {
                    let path = self.before.path(from)?;
                    self.push(ChangeKind::Removed, ino, old, path, None);
                }
            }
            (None, Some(new)) => {
                for (index, to) in come.enumerate() {
                    let path = self.after.path(to)?;
                    let kind = if index == 0 { ChangeKind::Created } else { ChangeKind::Linked };
                    self.push(kind, ino, new, path, None);
                }
            }
            (None, None) => {}
        }
        Ok(())
    }

    /// The path of an inode that was changed in place.
    fn path_now(&mut self, ino: Ino, inode: &Inode, names: &Names) -> Result<Option<Bytes>, ReadError> {
        if let Body::Directory { parent, name, .. } | Body::Mount { parent, name, .. } = &inode.body {
            return if ino == Ino::ROOT { Ok(Some(Bytes::new())) } else { self.after.path(&(*parent, name.clone())) };
        }
        for name in names.come.iter().chain(&names.used) {
            let key = key::dirent(name.0, &name.1);
            if entry(self.after.records, &key)?.is_some_and(|entry| entry.ino == ino) {
                return self.after.path(name);
            }
        }
        Ok(None)
    }

    fn push(&mut self, kind: ChangeKind, ino: Ino, inode: &Inode, path: Option<Bytes>, path_before: Option<Bytes>) {
        let (file, size, version) = (inode.kind(), inode.size(), inode.version);
        self.changes.push(TreeChange { kind, path, path_before, ino, file, size, version });
    }
}

fn difference(old: &Inode, new: &Inode) -> Option<ChangeKind> {
    let is_directory = new.kind() == FileKind::Directory;
    if !is_directory && old.body != new.body {
        return Some(ChangeKind::Replaced);
    }
    let ids = |inode: &Inode| (inode.attr.mode, inode.attr.uid, inode.attr.gid);
    let times = !is_directory && old.attr.mtime != new.attr.mtime;
    (ids(old) != ids(new) || old.xattrs != new.xattrs || times).then_some(ChangeKind::Attributes)
}
