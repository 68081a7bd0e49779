//! The tree: resolving paths, and the operations that give and take names.

use bytes::Bytes;

use causeway_base::{Ino, Seq, Timestamp};

use super::quotas::{Before, Usage};
use super::transaction::{Fault, Transaction, file_bytes};
use crate::command::{At, Errno, Expect, Op, OpDone};
use crate::encode;
use crate::inode::{
    Attr, Body, Content, Dirent, FILE_BYTES_MAX, FileKind, INLINE_BYTES_MAX, Inode, LINKS_MAX, MANIFEST_ROOT_BYTES_MAX,
    MODE_MASK, SYMLINK_BYTES_MAX,
};
use crate::key;
use crate::path;

/// A batch at work on the tree.
#[derive(Debug)]
pub(super) struct Tree<'t, 'a> {
    pub(super) transaction: &'t mut Transaction<'a>,
    /// The request's time.
    pub(super) at: Timestamp,
    /// The quotas before the operation.
    pub(super) before: Before,
}

/// Where a path leads.
#[derive(Debug)]
pub(super) enum Spot {
    /// The path has no name: the inode where it starts.
    Inode(Ino),
    /// A name in a directory, and what it names.
    Name { dir: Ino, name: Bytes, entry: Option<Dirent> },
}

impl<'t, 'a> Tree<'t, 'a> {
    /// Starts on a request.
    pub(super) fn new(transaction: &'t mut Transaction<'a>, at: Timestamp) -> Self {
        Self { transaction, at, before: Before::default() }
    }

    /// Applies one operation.
    pub(super) fn apply(&mut self, op: &Op) -> Result<OpDone, Fault> {
        self.limited(|tree| tree.change(op))
    }

    /// Does something that quotas limit.
    pub(super) fn limited(&mut self, change: impl FnOnce(&mut Self) -> Result<OpDone, Fault>) -> Result<OpDone, Fault> {
        self.remember_quotas();
        let done = change(self)?;
        self.check_quotas()?;
        Ok(done)
    }

    fn change(&mut self, op: &Op) -> Result<OpDone, Fault> {
        match op {
            Op::Mkdir { at, attr, parents: false } => self.mkdir(at, attr),
            Op::Mkdir { at, attr, parents: true } => self.mkdir_all(at, attr),
            Op::PutFile { at, attr, content, expect } => self.put_file(at, attr, content, *expect),
            Op::Symlink { at, attr, target } => self.symlink(at, attr, target),
            Op::Link { from, to } => self.link(from, to),
            Op::Unlink { at, expect } => self.unlink(at, *expect),
            Op::Rmdir { at } => self.rmdir(at),
            Op::Rename { from, to, no_replace } => self.rename(from, to, *no_replace),
            Op::SetAttr { at, mode, uid, gid, mtime, expect } => {
                self.set_attr(at, [*mode, *uid, *gid], *mtime, *expect)
            }
            Op::SetXattr { at, name, value } => self.set_xattr(at, name, value.as_ref()),
            Op::Check { at, expect } => self.check(at, *expect),
        }
    }

    fn mkdir(&mut self, at: &At, attr: &Attr) -> Result<OpDone, Fault> {
        check_attr(attr)?;
        let (dir, name) = self.free(at)?;
        self.create(dir, name.clone(), attr, Body::Directory { parent: dir, name, entries: 0 })
    }

    pub(super) fn mkdir_all(&mut self, at: &At, attr: &Attr) -> Result<OpDone, Fault> {
        check_attr(attr)?;
        let mut dir = at.dir;
        self.expect_directory(dir)?;
        let mut done = None;
        let names = path::names(&at.path)?;
        let last = names.len().saturating_sub(1);
        for (index, name) in names.into_iter().enumerate() {
            match self.entry(dir, &name)? {
                Some(entry) if entry.kind == FileKind::Directory => {
                    (dir, done) = (entry.ino, None);
                }
                Some(_) if index == last => return Err(Errno::Exists.into()),
                Some(entry) => return Err(not_a_way(entry.kind, Errno::SymlinkInPath).into()),
                None => {
                    let body = Body::Directory { parent: dir, name: name.clone(), entries: 0 };
                    let made = self.create(dir, name, attr, body)?;
                    (dir, done) = (made.ino, Some(made));
                }
            }
        }
        match done {
            Some(done) => Ok(done),
            None => Ok(OpDone { ino: dir, version: self.transaction.inode(dir)?.version }),
        }
    }

    fn put_file(&mut self, at: &At, attr: &Attr, content: &Content, expect: Expect) -> Result<OpDone, Fault> {
        check_attr(attr)?;
        check_content(content)?;
        let existing = match self.locate(at)? {
            Spot::Inode(ino) => ino,
            Spot::Name { dir, name, entry: Some(entry) } => {
                self.transaction.name(entry.ino, dir, name);
                entry.ino
            }
            Spot::Name { dir, name, entry: None } => {
                if matches!(expect, Expect::Version(_) | Expect::Token(_)) {
                    return Err(Errno::NotFound.into());
                }
                return self.create(dir, name, attr, Body::File(content.clone()));
            }
        };
        self.check_expect(existing, expect)?;
        let (ctime, version) = (self.at, self.transaction.seq);
        let inode = self.transaction.inode_mut(existing)?;
        match inode.kind() {
            FileKind::File => {}
            FileKind::Directory => return Err(Errno::IsDirectory.into()),
            FileKind::Symlink => return Err(Errno::SymlinkInPath.into()),
            FileKind::Mount => return Err(Errno::CrossesVolume.into()),
        }
        let (before, owner) = (file_bytes(inode), inode.attr.uid);
        inode.attr = Attr { ctime, ..*attr };
        inode.version = version;
        inode.body = Body::File(content.clone());
        let (after, quota) = (file_bytes(inode), inode.quota);
        let total = &mut self.transaction.meta.logical_bytes;
        *total = *total - before + after;
        self.account(quota, Usage { files: 0, bytes: before }, Usage { files: 0, bytes: after })?;
        let (before, after) = (Usage { files: 1, bytes: before }, Usage { files: 1, bytes: after });
        self.change_owner((owner, before), (attr.uid, after))?;
        Ok(OpDone { ino: existing, version })
    }

    fn symlink(&mut self, at: &At, attr: &Attr, target: &Bytes) -> Result<OpDone, Fault> {
        check_attr(attr)?;
        if target.is_empty() {
            return Err(Errno::NotFound.into());
        }
        if target.len() > SYMLINK_BYTES_MAX {
            return Err(Errno::NameTooLong.into());
        }
        if target.contains(&0) {
            return Err(Errno::Invalid.into());
        }
        let (dir, name) = self.free(at)?;
        self.create(dir, name, attr, Body::Symlink(target.clone()))
    }

    fn link(&mut self, from: &At, to: &At) -> Result<OpDone, Fault> {
        let ino = self.existing(from)?;
        let inode = self.transaction.inode(ino)?;
        let (kind, version, quota) = (inode.kind(), inode.version, inode.quota);
        if matches!(kind, FileKind::Directory | FileKind::Mount) {
            return Err(Errno::NotPermitted.into());
        }
        // Kept for those who have it open: it gets no name again.
        if inode.nlink == 0 {
            return Err(Errno::NotFound.into());
        }
        if inode.nlink >= LINKS_MAX {
            return Err(Errno::TooManyLinks.into());
        }
        let (dir, name) = self.free(to).map_err(Fault::at_second)?;
        if self.quota_below(dir)? != quota {
            return Err(Fault::from(Errno::CrossesQuota).at_second());
        }
        let ctime = self.at;
        let inode = self.transaction.inode_mut(ino)?;
        inode.nlink += 1;
        inode.attr.ctime = ctime;
        self.enter(dir, name, Dirent { ino, kind })?;
        Ok(OpDone { ino, version })
    }

    fn unlink(&mut self, at: &At, expect: Expect) -> Result<OpDone, Fault> {
        let (dir, name, entry) = self.named(at)?;
        self.check_expect(entry.ino, expect)?;
        if entry.kind == FileKind::Directory {
            return Err(Errno::IsDirectory.into());
        }
        self.leave(dir, name)?;
        self.release(entry.ino)?;
        Ok(OpDone { ino: entry.ino, version: self.transaction.seq })
    }

    fn rmdir(&mut self, at: &At) -> Result<OpDone, Fault> {
        let (dir, name, entry) = self.named(at)?;
        self.check_empty(entry)?;
        self.leave(dir, name)?;
        self.release(entry.ino)?;
        Ok(OpDone { ino: entry.ino, version: self.transaction.seq })
    }

    fn check(&mut self, at: &At, expect: Expect) -> Result<OpDone, Fault> {
        let ino = match (self.locate(at)?, expect) {
            (Spot::Name { dir, entry: None, .. }, Expect::Absent) => {
                return Ok(OpDone { ino: dir, version: self.transaction.inode(dir)?.version });
            }
            (Spot::Name { entry, .. }, _) => not_mounted(entry.ok_or(Errno::NotFound)?)?,
            (Spot::Inode(ino), _) => ino,
        };
        self.check_expect(ino, expect)?;
        Ok(OpDone { ino, version: self.transaction.inode(ino)?.version })
    }

    /// Follows a path to its last name.
    pub(super) fn locate(&mut self, at: &At) -> Result<Spot, Fault> {
        let mut names = path::names(&at.path)?;
        let Some(name) = names.pop() else {
            let known = self.transaction.inodes.get(self.transaction.base, &at.dir)?.is_some();
            return if known { Ok(Spot::Inode(at.dir)) } else { Err(Errno::NotFound.into()) };
        };
        let mut dir = at.dir;
        self.expect_directory(dir)?;
        for name in names {
            let entry = self.entry(dir, &name)?.ok_or(Errno::NotFound)?;
            if entry.kind != FileKind::Directory {
                return Err(not_a_way(entry.kind, Errno::SymlinkInPath).into());
            }
            dir = entry.ino;
        }
        let entry = self.entry(dir, &name)?;
        Ok(Spot::Name { dir, name, entry })
    }

    /// A path that must lead to something.
    pub(super) fn existing(&mut self, at: &At) -> Result<Ino, Fault> {
        match self.locate(at)? {
            Spot::Inode(ino) => Ok(ino),
            Spot::Name { entry, .. } => Ok(not_mounted(entry.ok_or(Errno::NotFound)?)?),
        }
    }

    /// The same for an operation that changes the inode itself, whose name is remembered for those who follow.
    pub(super) fn existing_to_change(&mut self, at: &At) -> Result<Ino, Fault> {
        match self.locate(at)? {
            Spot::Inode(ino) => Ok(ino),
            Spot::Name { dir, name, entry } => {
                let ino = not_mounted(entry.ok_or(Errno::NotFound)?)?;
                self.transaction.name(ino, dir, name);
                Ok(ino)
            }
        }
    }

    /// A path that must end in an existing name, to be taken away or changed.
    pub(super) fn named(&mut self, at: &At) -> Result<(Ino, Bytes, Dirent), Fault> {
        match self.locate(at)? {
            Spot::Inode(Ino::ROOT) => Err(Errno::Busy.into()),
            Spot::Inode(_) => Err(Errno::Invalid.into()),
            Spot::Name { dir, name, entry } => match entry.ok_or(Errno::NotFound)? {
                Dirent { kind: FileKind::Mount, .. } => Err(Errno::Busy.into()),
                entry => Ok((dir, name, entry)),
            },
        }
    }

    /// A path that must end in a name that is not there yet.
    fn free(&mut self, at: &At) -> Result<(Ino, Bytes), Fault> {
        match self.locate(at)? {
            Spot::Name { dir, name, entry: None } => Ok((dir, name)),
            Spot::Inode(_) | Spot::Name { .. } => Err(Errno::Exists.into()),
        }
    }

    fn entry(&mut self, dir: Ino, name: &Bytes) -> Result<Option<Dirent>, Fault> {
        Ok(self.transaction.dirents.get(self.transaction.base, &(dir, name.clone()))?.copied())
    }

    fn expect_directory(&mut self, ino: Ino) -> Result<(), Fault> {
        let inode = self.transaction.inodes.get(self.transaction.base, &ino)?.ok_or(Errno::NotFound)?;
        match inode.kind() {
            FileKind::Directory => Ok(()),
            kind => Err(not_a_way(kind, Errno::NotDirectory).into()),
        }
    }

    /// Compares what is there with what was expected.
    pub(super) fn check_expect(&mut self, ino: Ino, expect: Expect) -> Result<(), Fault> {
        match expect {
            Expect::Any => Ok(()),
            Expect::Absent => Err(Errno::Exists.into()),
            Expect::Version(version) if self.transaction.inode(ino)?.version == version => Ok(()),
            Expect::Version(_) => Err(Errno::Conflict.into()),
            Expect::Token(token) if self.is_held(ino, token)? => Ok(()),
            Expect::Token(_) => Err(Errno::Fenced.into()),
        }
    }

    /// An entry that must be a directory without entries.
    pub(super) fn check_empty(&mut self, entry: Dirent) -> Result<(), Fault> {
        match self.transaction.inode(entry.ino)?.body {
            Body::Directory { entries: 0, .. } => Ok(()),
            Body::Directory { .. } => Err(Errno::NotEmpty.into()),
            Body::Mount { .. } => Err(Errno::Busy.into()),
            Body::File(_) | Body::Symlink(_) => Err(Errno::NotDirectory.into()),
        }
    }

    /// A new inode under a name that is free.
    pub(super) fn create(&mut self, dir: Ino, name: Bytes, attr: &Attr, body: Body) -> Result<OpDone, Fault> {
        let (ino, version) = (self.transaction.meta.next_ino, self.transaction.seq);
        self.transaction.meta.next_ino = ino.next().ok_or(Errno::TooLarge)?;
        let attr = Attr { ctime: self.at, ..*attr };
        let quota = self.quota_below(dir)?;
        let inode = Inode { attr, nlink: 1, version, body, xattrs: Vec::new(), quota };
        self.transaction.count(&inode);
        self.account(quota, Usage::default(), Usage::of(&inode))?;
        self.account_owner(attr.uid, Usage::default(), Usage::of(&inode))?;
        self.enter(dir, name, Dirent { ino, kind: inode.kind() })?;
        self.transaction.inodes.create(&ino, inode);
        Ok(OpDone { ino, version })
    }

    /// Puts a name that is free into a directory.
    pub(super) fn enter(&mut self, dir: Ino, name: Bytes, entry: Dirent) -> Result<(), Fault> {
        *self.transaction.dirents.edit(self.transaction.base, &(dir, name))? = Some(entry);
        self.touch_directory(dir, 1)
    }

    /// Takes a name out of a directory.
    pub(super) fn leave(&mut self, dir: Ino, name: Bytes) -> Result<(), Fault> {
        *self.transaction.dirents.edit(self.transaction.base, &(dir, name))? = None;
        self.touch_directory(dir, -1)
    }

    fn touch_directory(&mut self, dir: Ino, change: i64) -> Result<(), Fault> {
        let (at, version) = (self.at, self.transaction.seq);
        let inode = self.transaction.inode_mut(dir)?;
        (inode.attr.mtime, inode.attr.ctime, inode.version) = (at, at, version);
        let counted = match &mut inode.body {
            Body::Directory { entries, .. } => entries.checked_add_signed(change).map(|count| *entries = count),
            Body::File(_) | Body::Symlink(_) | Body::Mount { .. } => None,
        };
        counted.ok_or_else(|| encode::corrupt(&key::inode(dir), "entries are miscounted").into())
    }

    /// Takes one name from an inode; with its last name it goes.
    pub(super) fn release(&mut self, ino: Ino) -> Result<(), Fault> {
        let at = self.at;
        let inode = self.transaction.inode_mut(ino)?;
        if inode.nlink > 1 {
            inode.nlink -= 1;
            inode.attr.ctime = at;
            return Ok(());
        }
        if self.keeps_nameless(ino)? {
            // Somebody has it open: it stays, without a name, until that ends.
            let inode = self.transaction.inode_mut(ino)?;
            (inode.nlink, inode.attr.ctime) = (0, at);
        } else if let Some(gone) = self.transaction.inodes.edit(self.transaction.base, &ino)?.take() {
            self.transaction.discount(&gone);
            self.account(gone.quota, Usage::of(&gone), Usage::default())?;
            self.account_owner(gone.attr.uid, Usage::of(&gone), Usage::default())?;
            self.forget_locks(ino)?;
            if gone.kind() == FileKind::Directory {
                self.forget_quota(ino)?;
            }
        }
        Ok(())
    }

    /// The seq of this command.
    pub(super) fn seq(&self) -> Seq {
        self.transaction.seq
    }
}

/// What stands in the way of a path that goes on.
fn not_a_way(kind: FileKind, symlink: Errno) -> Errno {
    match kind {
        FileKind::Symlink => symlink,
        FileKind::Mount => Errno::CrossesVolume,
        FileKind::File | FileKind::Directory => Errno::NotDirectory,
    }
}

/// The inode of an entry, if this volume goes on there.
fn not_mounted(entry: Dirent) -> Result<Ino, Errno> {
    if entry.kind == FileKind::Mount { Err(Errno::CrossesVolume) } else { Ok(entry.ino) }
}

fn check_attr(attr: &Attr) -> Result<(), Errno> {
    if attr.mode & !MODE_MASK == 0 { Ok(()) } else { Err(Errno::Invalid) }
}

fn check_content(content: &Content) -> Result<(), Errno> {
    let fits = match content {
        Content::Inline(bytes) => bytes.len() <= INLINE_BYTES_MAX,
        Content::Manifest(manifest) => {
            manifest.size <= FILE_BYTES_MAX && manifest.root.len() <= MANIFEST_ROOT_BYTES_MAX
        }
    };
    if fits { Ok(()) } else { Err(Errno::TooLarge) }
}
