//! The model's tree.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use causeway_base::{Ino, Seq, Timestamp};

use crate::command::{At, Errno, Expect, Op, OpDone};
use crate::inode::{Attr, Body, Content, FileKind, Inode};
use crate::manage::{ManageOp, QuotaLimit};

/// The names on the way from the top.
pub(super) type Path = Vec<Vec<u8>>;

/// What is at an inode; the number of names is counted when it is asked for.
#[derive(Clone, Debug)]
pub(super) struct Node {
    attr: Attr,
    version: Seq,
    body: What,
    xattrs: BTreeMap<Bytes, Bytes>,
}

#[derive(Clone, Debug)]
enum What {
    File(Content),
    Directory,
    Symlink(Bytes),
}

#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) paths: BTreeMap<Path, u64>,
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) next_ino: u64,
    pub(super) quotas: BTreeMap<u64, QuotaLimit>,
    pub(super) owner_quotas: BTreeMap<u32, QuotaLimit>,
}

/// A refusal, and whether it is about the second path.
pub(super) type Refused = (Errno, bool);

enum Spot {
    Itself(u64),
    Path(Path),
}

fn first<T>(result: Result<T, Errno>) -> Result<T, Refused> {
    result.map_err(|errno| (errno, false))
}

fn second<T>(result: Result<T, Errno>) -> Result<T, Refused> {
    result.map_err(|errno| (errno, true))
}

fn bytes_of(node: &Node) -> u128 {
    match &node.body {
        What::File(Content::Inline(bytes)) => bytes.len() as u128,
        What::File(Content::Manifest(manifest)) => u128::from(manifest.size),
        What::Directory | What::Symlink(_) => 0,
    }
}

impl Tree {
    pub(super) fn new(at: Timestamp, seq: Seq) -> Self {
        let attr = Attr { mode: 0o755, uid: 0, gid: 0, mtime: at, ctime: at };
        let top = Node { attr, version: seq, body: What::Directory, xattrs: BTreeMap::new() };
        let (quotas, owner_quotas) = (BTreeMap::new(), BTreeMap::new());
        Self { paths: [(vec![], 1)].into(), nodes: [(1, top)].into(), next_ino: 2, quotas, owner_quotas }
    }

    /// The inode as it should be stored.
    pub(super) fn inode(&self, ino: u64) -> Inode {
        let node = &self.nodes[&ino];
        let names: Vec<_> = self.paths.iter().filter(|(_, named)| **named == ino).map(|(path, _)| path).collect();
        let body = match &node.body {
            What::File(content) => Body::File(content.clone()),
            What::Symlink(target) => Body::Symlink(target.clone()),
            What::Directory => Body::Directory {
                parent: Ino(self.paths[&names[0][..names[0].len().saturating_sub(1)]]),
                name: names[0].last().cloned().unwrap_or_default().into(),
                entries: self.children(names[0]) as u64,
            },
        };
        let xattrs = node.xattrs.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        Inode {
            attr: node.attr,
            nlink: names.len() as u32,
            version: node.version,
            body,
            xattrs,
            quota: self.quota_above(names[0]),
        }
    }

    pub(super) fn kind(&self, ino: u64) -> FileKind {
        match self.nodes[&ino].body {
            What::File(_) => FileKind::File,
            What::Directory => FileKind::Directory,
            What::Symlink(_) => FileKind::Symlink,
        }
    }

    fn children(&self, dir: &[Vec<u8>]) -> usize {
        self.paths.keys().filter(|path| path.len() == dir.len() + 1 && path.starts_with(dir)).count()
    }

    fn locate(&self, at: &At) -> Result<Spot, Errno> {
        if at.path.len() > 4096 {
            return Err(Errno::NameTooLong);
        }
        let mut names = Path::new();
        for name in at.path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".") {
            if name == b".." {
                return Err(Errno::Invalid);
            }
            if name.len() > 255 {
                return Err(Errno::NameTooLong);
            }
            if name.contains(&0) {
                return Err(Errno::Invalid);
            }
            names.push(name.to_vec());
        }
        if !self.nodes.contains_key(&at.dir.0) {
            return Err(Errno::NotFound);
        }
        if names.is_empty() {
            return Ok(Spot::Itself(at.dir.0));
        }
        if self.kind(at.dir.0) != FileKind::Directory {
            return Err(Errno::NotDirectory);
        }
        let start = self.paths.iter().find(|(_, ino)| **ino == at.dir.0).unwrap().0.clone();
        let whole: Path = start.iter().cloned().chain(names).collect();
        for len in start.len()..whole.len() {
            let ino = self.paths.get(&whole[..len]).ok_or(Errno::NotFound)?;
            match self.kind(*ino) {
                FileKind::Directory => {}
                FileKind::File => return Err(Errno::NotDirectory),
                FileKind::Symlink => return Err(Errno::SymlinkInPath),
                FileKind::Mount => return Err(Errno::CrossesVolume),
            }
        }
        Ok(Spot::Path(whole))
    }

    fn existing(&self, at: &At) -> Result<u64, Errno> {
        match self.locate(at)? {
            Spot::Itself(ino) => Ok(ino),
            Spot::Path(path) => self.paths.get(&path).copied().ok_or(Errno::NotFound),
        }
    }

    fn named(&self, at: &At) -> Result<(Path, u64), Errno> {
        match self.locate(at)? {
            Spot::Itself(1) => Err(Errno::Busy),
            Spot::Itself(_) => Err(Errno::Invalid),
            Spot::Path(path) => self.paths.get(&path).copied().map(|ino| (path, ino)).ok_or(Errno::NotFound),
        }
    }

    fn free(&self, at: &At) -> Result<Path, Errno> {
        match self.locate(at)? {
            Spot::Path(path) if !self.paths.contains_key(&path) => Ok(path),
            _ => Err(Errno::Exists),
        }
    }

    fn expected(&self, ino: u64, expect: Expect) -> Result<(), Errno> {
        match expect {
            Expect::Any => Ok(()),
            Expect::Absent => Err(Errno::Exists),
            Expect::Version(version) if version == self.nodes[&ino].version => Ok(()),
            Expect::Version(_) => Err(Errno::Conflict),
            // Without locks no token is held.
            Expect::Token(_) => Err(Errno::Fenced),
        }
    }

    /// The directory that a path is in has changed.
    fn touch(&mut self, path: &[Vec<u8>], now: Now) {
        let parent = self.nodes.get_mut(&self.paths[&path[..path.len() - 1]]).unwrap();
        (parent.attr.mtime, parent.attr.ctime, parent.version) = (now.at, now.at, now.seq);
    }

    fn create(&mut self, path: Path, attr: &Attr, body: What, now: Now) -> OpDone {
        self.touch(&path, now);
        let ino = self.next_ino;
        self.next_ino += 1;
        let attr = Attr { ctime: now.at, ..*attr };
        self.nodes.insert(ino, Node { attr, version: now.seq, body, xattrs: BTreeMap::new() });
        self.paths.insert(path, ino);
        OpDone { ino: Ino(ino), version: now.seq }
    }

    fn remove(&mut self, path: &Path, now: Now) -> OpDone {
        self.touch(path, now);
        let ino = self.paths.remove(path).unwrap();
        if self.paths.values().any(|other| *other == ino) {
            self.nodes.get_mut(&ino).unwrap().attr.ctime = now.at;
        } else {
            self.nodes.remove(&ino);
            self.quotas.remove(&ino);
        }
        OpDone { ino: Ino(ino), version: now.seq }
    }

    fn done(&self, ino: u64) -> OpDone {
        OpDone { ino: Ino(ino), version: self.nodes[&ino].version }
    }

    /// The nearest directory above a path, but the top, that has a quota.
    fn quota_above(&self, path: &[Vec<u8>]) -> Option<Ino> {
        let above = (1..path.len()).rev().map(|len| self.paths[&path[..len]]);
        above.into_iter().find(|dir| self.quotas.contains_key(dir)).map(Ino)
    }

    /// What is below each directory with a quota: inodes and bytes.
    pub(super) fn used(&self) -> BTreeMap<u64, (u64, u128)> {
        let used = |dir: &u64| {
            let top = self.paths.iter().find(|(_, ino)| *ino == dir).unwrap().0;
            let below = self.paths.iter().filter(|(path, _)| path.len() > top.len() && path.starts_with(top));
            let inodes: BTreeSet<u64> = below.map(|(_, ino)| *ino).collect();
            let bytes = inodes.iter().map(|ino| bytes_of(&self.nodes[ino]));
            (*dir, (inodes.len() as u64, bytes.sum()))
        };
        self.quotas.keys().map(used).collect()
    }

    /// What each user owns: inodes and bytes.
    pub(super) fn owned(&self) -> BTreeMap<u32, (u64, u128)> {
        let mut owned: BTreeMap<u32, (u64, u128)> = self.owner_quotas.keys().map(|uid| (*uid, (0, 0))).collect();
        for node in self.nodes.values() {
            let of = owned.entry(node.attr.uid).or_default();
            *of = (of.0 + 1, of.1 + bytes_of(node));
        }
        owned
    }

    /// Applies an operation, and refuses what uses more than a quota allows.
    pub(super) fn apply(&mut self, op: &Op, now: Now) -> Result<OpDone, Refused> {
        let (before, owned_before) = (self.used(), self.owned());
        let done = self.change(op, now)?;
        let over = |(files, bytes): (u64, u128), before: (u64, u128), limit: QuotaLimit| {
            let files_over = files > before.0 && limit.files.is_some_and(|limit| files > limit);
            files_over || bytes > before.1 && limit.bytes.is_some_and(|limit| bytes > u128::from(limit))
        };
        let owned = self.owned();
        let limits = self.owner_quotas.iter();
        if limits.clone().any(|(uid, limit)| over(owned[uid], owned_before[uid], *limit)) {
            return Err((Errno::OwnerQuotaExceeded, false));
        }
        let used = self.used();
        let mut full =
            used.iter().filter(|(dir, used)| over(**used, before[dir], self.quotas[dir])).map(|(dir, _)| *dir);
        match (full.next(), full.next()) {
            (None, _) => {}
            (Some(1), None) => return Err((Errno::QuotaExceeded, false)),
            _ => return Err((Errno::TreeQuotaExceeded, false)),
        }
        Ok(done)
    }

    pub(super) fn manage(&mut self, op: &ManageOp, now: Now) -> Result<OpDone, Refused> {
        match op {
            ManageOp::SetQuota { at, limit } => {
                let dir = first(self.existing(at))?;
                if self.kind(dir) != FileKind::Directory {
                    return Err((Errno::NotDirectory, false));
                }
                let path = self.paths.iter().find(|(_, ino)| **ino == dir).unwrap().0.clone();
                let free = dir == 1 || self.children(&path) == 0;
                match (self.quotas.contains_key(&dir), limit) {
                    (false, None) => return Err((Errno::NotFound, false)),
                    (false, Some(_)) if !free => return Err((Errno::NotEmpty, false)),
                    (true, None) if free => drop(self.quotas.remove(&dir)),
                    (_, limit) => drop(self.quotas.insert(dir, limit.unwrap_or_default())),
                }
                Ok(OpDone { ino: Ino(dir), version: now.seq })
            }
            ManageOp::SetOwnerQuota { uid, limit } => {
                match limit {
                    Some(limit) => drop(self.owner_quotas.insert(*uid, *limit)),
                    None => drop(self.owner_quotas.remove(uid).ok_or((Errno::NotFound, false))?),
                }
                Ok(OpDone { ino: Ino(1), version: now.seq })
            }
            other => panic!("the model does not know {other:?}"),
        }
    }

    /// Changes the tree; after a refusal the tree may be half changed, the caller has a copy.
    fn change(&mut self, op: &Op, now: Now) -> Result<OpDone, Refused> {
        let mode = |attr: &Attr| if attr.mode > 0o7777 { Err((Errno::Invalid, false)) } else { Ok(()) };
        match op {
            Op::Mkdir { at, attr, parents: false } => {
                mode(attr)?;
                let path = first(self.free(at))?;
                Ok(self.create(path, attr, What::Directory, now))
            }
            Op::Mkdir { at, attr, parents: true } => {
                mode(attr)?;
                first(self.mkdir_all(at, attr, now))
            }
            Op::PutFile { at, attr, content, expect } => {
                mode(attr)?;
                first(self.put_file(at, attr, content, *expect, now))
            }
            Op::Symlink { at, attr, target } => {
                mode(attr)?;
                match target.len() {
                    0 => return Err((Errno::NotFound, false)),
                    1..=4095 if !target.contains(&0) => {}
                    1..=4095 => return Err((Errno::Invalid, false)),
                    _ => return Err((Errno::NameTooLong, false)),
                }
                let path = first(self.free(at))?;
                Ok(self.create(path, attr, What::Symlink(target.clone()), now))
            }
            Op::Link { from, to } => {
                let ino = first(self.existing(from))?;
                if self.kind(ino) == FileKind::Directory {
                    return Err((Errno::NotPermitted, false));
                }
                let path = second(self.free(to))?;
                let name = self.paths.iter().find(|(_, named)| **named == ino).unwrap().0;
                if self.quota_above(name) != self.quota_above(&path) {
                    return Err((Errno::CrossesQuota, true));
                }
                self.touch(&path, now);
                self.paths.insert(path, ino);
                self.nodes.get_mut(&ino).unwrap().attr.ctime = now.at;
                Ok(self.done(ino))
            }
            Op::Unlink { at, expect } => {
                let (path, ino) = first(self.named(at))?;
                first(self.expected(ino, *expect))?;
                if self.kind(ino) == FileKind::Directory {
                    return Err((Errno::IsDirectory, false));
                }
                Ok(self.remove(&path, now))
            }
            Op::Rmdir { at } => {
                let (path, ino) = first(self.named(at))?;
                if self.kind(ino) != FileKind::Directory {
                    return Err((Errno::NotDirectory, false));
                }
                if self.children(&path) > 0 {
                    return Err((Errno::NotEmpty, false));
                }
                Ok(self.remove(&path, now))
            }
            Op::Rename { from, to, no_replace } => self.rename(from, to, *no_replace, now),
            Op::SetAttr { at, mode, uid, gid, mtime, expect } => {
                if mode.is_some_and(|mode| mode > 0o7777) {
                    return Err((Errno::Invalid, false));
                }
                let ino = first(self.existing(at))?;
                first(self.expected(ino, *expect))?;
                let node = self.nodes.get_mut(&ino).unwrap();
                if mode.is_some() || uid.is_some() || gid.is_some() || mtime.is_some() {
                    node.attr.mode = mode.unwrap_or(node.attr.mode);
                    node.attr.uid = uid.unwrap_or(node.attr.uid);
                    node.attr.gid = gid.unwrap_or(node.attr.gid);
                    node.attr.mtime = mtime.unwrap_or(node.attr.mtime);
                    (node.attr.ctime, node.version) = (now.at, now.seq);
                }
                Ok(self.done(ino))
            }
            Op::Check { at, expect } => {
                let ino = match (first(self.locate(at))?, expect) {
                    (Spot::Path(path), Expect::Absent) if !self.paths.contains_key(&path) => {
                        self.paths[&path[..path.len() - 1]]
                    }
                    _ => {
                        let ino = first(self.existing(at))?;
                        first(self.expected(ino, *expect))?;
                        ino
                    }
                };
                Ok(self.done(ino))
            }
            Op::SetXattr { at, name, value } => first(self.set_xattr(at, name, value.as_ref(), now)),
        }
    }

    fn mkdir_all(&mut self, at: &At, attr: &Attr, now: Now) -> Result<OpDone, Errno> {
        let names: Vec<&[u8]> = at.path.split(|byte| *byte == b'/').collect();
        let (mut done, mut dir) = (None, At { dir: at.dir, path: Bytes::new() });
        let ino = self.existing(&dir)?;
        if self.kind(ino) != FileKind::Directory {
            return Err(Errno::NotDirectory);
        }
        // The whole path's form is checked before any of it is made.
        if let Err(errno @ (Errno::Invalid | Errno::NameTooLong)) = self.locate(at) {
            return Err(errno);
        }
        for len in 1..=names.len() {
            dir.path = names[..len].join(&b"/"[..]).into();
            let last = names[len..].iter().all(|name| name.is_empty() || *name == b".");
            let path = match self.locate(&dir)? {
                Spot::Itself(_) => continue,
                Spot::Path(path) => path,
            };
            done = match self.paths.get(&path) {
                Some(ino) if self.kind(*ino) == FileKind::Directory => Some(self.done(*ino)),
                Some(_) if last => return Err(Errno::Exists),
                Some(ino) if self.kind(*ino) == FileKind::File => return Err(Errno::NotDirectory),
                Some(_) => return Err(Errno::SymlinkInPath),
                None => Some(self.create(path, attr, What::Directory, now)),
            };
        }
        Ok(done.unwrap_or_else(|| self.done(at.dir.0)))
    }

    fn put_file(&mut self, at: &At, attr: &Attr, content: &Content, expect: Expect, now: Now) -> Result<OpDone, Errno> {
        let fits = match content {
            Content::Inline(bytes) => bytes.len() <= 4096,
            Content::Manifest(manifest) => manifest.root.len() <= 8192 && manifest.size <= i64::MAX as u64,
        };
        if !fits {
            return Err(Errno::TooLarge);
        }
        let ino = match self.locate(at)? {
            Spot::Itself(ino) => ino,
            Spot::Path(path) => match self.paths.get(&path) {
                Some(ino) => *ino,
                None if matches!(expect, Expect::Version(_)) => return Err(Errno::NotFound),
                None => return Ok(self.create(path, attr, What::File(content.clone()), now)),
            },
        };
        self.expected(ino, expect)?;
        match self.kind(ino) {
            FileKind::File => {}
            FileKind::Directory => return Err(Errno::IsDirectory),
            FileKind::Symlink => return Err(Errno::SymlinkInPath),
            FileKind::Mount => return Err(Errno::CrossesVolume),
        }
        let node = self.nodes.get_mut(&ino).unwrap();
        node.attr = Attr { ctime: now.at, ..*attr };
        (node.version, node.body) = (now.seq, What::File(content.clone()));
        Ok(self.done(ino))
    }

    fn rename(&mut self, from: &At, to: &At, no_replace: bool, now: Now) -> Result<OpDone, Refused> {
        let (old, ino) = first(self.named(from))?;
        let new = match second(self.locate(to))? {
            Spot::Itself(1) => return Err((Errno::Busy, true)),
            Spot::Itself(_) => return Err((Errno::Invalid, true)),
            Spot::Path(path) => path,
        };
        let replaced = self.paths.get(&new).copied();
        if no_replace && replaced.is_some() {
            return Err((Errno::Exists, true));
        }
        let is_dir = self.kind(ino) == FileKind::Directory;
        if is_dir && new.len() > old.len() && new.starts_with(&old) {
            return Err((Errno::Invalid, false));
        }
        if replaced == Some(ino) {
            return Ok(self.done(ino));
        }
        let cross = self.quota_above(&old) != self.quota_above(&new);
        let names = self.paths.values().filter(|named| **named == ino).count();
        let whole = if is_dir { self.children(&old) == 0 || self.quotas.contains_key(&ino) } else { names == 1 };
        if let Some(replaced) = replaced {
            match (is_dir, self.kind(replaced) == FileKind::Directory) {
                (true, false) => return Err((Errno::NotDirectory, true)),
                (false, true) => return Err((Errno::IsDirectory, true)),
                (true, true) if self.children(&new) > 0 => return Err((Errno::NotEmpty, true)),
                _ => self.remove(&new, now),
            };
        }
        if cross && !whole {
            return Err((Errno::CrossesQuota, true));
        }
        self.touch(&old, now);
        self.touch(&new, now);
        let moved: Vec<Path> = self.paths.keys().filter(|path| path.starts_with(&old)).cloned().collect();
        for path in moved {
            let ino = self.paths.remove(&path).unwrap();
            self.paths.insert(new.iter().chain(&path[old.len()..]).cloned().collect(), ino);
        }
        self.nodes.get_mut(&ino).unwrap().attr.ctime = now.at;
        Ok(self.done(ino))
    }

    fn set_xattr(&mut self, at: &At, name: &Bytes, value: Option<&Bytes>, now: Now) -> Result<OpDone, Errno> {
        match name.len() {
            0 => return Err(Errno::Invalid),
            256.. => return Err(Errno::NameTooLong),
            _ if name.contains(&0) => return Err(Errno::Invalid),
            _ if value.is_some_and(|value| value.len() > 4096) => return Err(Errno::TooLarge),
            _ => {}
        }
        let ino = self.existing(at)?;
        let node = self.nodes.get_mut(&ino).unwrap();
        match value {
            Some(value) => drop(node.xattrs.insert(name.clone(), value.clone())),
            None => drop(node.xattrs.remove(name).ok_or(Errno::NoAttribute)?),
        }
        if node.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > 65536 {
            return Err(Errno::TooLarge);
        }
        (node.attr.ctime, node.version) = (now.at, now.seq);
        Ok(self.done(ino))
    }
}

/// When an operation happens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) at: Timestamp,
    pub(super) seq: Seq,
}
