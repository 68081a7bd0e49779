//! Rename, in the order of checks that Linux's `renameat2` has.

use bytes::Bytes;

use causeway_base::Ino;

use super::names::{Spot, Tree};
use super::transaction::Fault;
use crate::command::{At, Errno, OpDone};
use crate::encode;
use crate::inode::{Body, Dirent, FileKind};
use crate::key;

/// How deep a directory may lie for another to be moved into it: the search for a cycle goes up from there. Twice what
/// fits into a path.
const DEPTH_MAX: usize = 4096;

impl Tree<'_, '_> {
    pub(super) fn rename(&mut self, from: &At, to: &At, no_replace: bool) -> Result<OpDone, Fault> {
        let (from_dir, from_name, moved) = self.named(from)?;
        let (to_dir, to_name, replaced) = match self.locate(to).map_err(Fault::at_second)? {
            Spot::Inode(Ino::ROOT) => return Err(Fault::from(Errno::Busy).at_second()),
            Spot::Inode(_) => return Err(Fault::from(Errno::Invalid).at_second()),
            Spot::Name { dir, name, entry } => (dir, name, entry),
        };
        if no_replace && replaced.is_some() {
            return Err(Fault::from(Errno::Exists).at_second());
        }
        if moved.kind == FileKind::Directory && to_dir != from_dir {
            self.check_not_below(to_dir, moved.ino)?;
        }
        if replaced.is_none_or(|replaced| replaced.ino != moved.ino) {
            if moved.kind == FileKind::Directory {
                self.check_nothing_mounted_below(moved.ino)?;
            }
            if let Some(replaced) = replaced {
                self.check_replaceable(moved, replaced).map_err(Fault::at_second)?;
                self.leave(to_dir, to_name.clone())?;
                self.release(replaced.ino)?;
            }
            if to_dir != from_dir {
                self.change_quota(moved.ino, to_dir).map_err(Fault::at_second)?;
            }
            self.leave(from_dir, from_name)?;
            self.enter(to_dir, to_name.clone(), moved)?;
            self.moved(moved.ino, to_dir, to_name)?;
        }
        Ok(OpDone { ino: moved.ino, version: self.transaction.inode(moved.ino)?.version })
    }

    /// Refuses to move the directory `moved` to below itself.
    fn check_not_below(&mut self, dir: Ino, moved: Ino) -> Result<(), Fault> {
        let mut above = dir;
        for _ in 0..DEPTH_MAX {
            if above == moved {
                return Err(Errno::Invalid.into());
            }
            if above == Ino::ROOT {
                return Ok(());
            }
            above = match self.transaction.inode(above)?.body {
                Body::Directory { parent, .. } => parent,
                Body::File(_) | Body::Symlink(_) | Body::Mount { .. } => {
                    return Err(encode::corrupt(&key::inode(above), "it has entries and is no directory").into());
                }
            };
        }
        Err(Fault::from(Errno::NameTooLong).at_second())
    }

    fn check_replaceable(&mut self, moved: Dirent, replaced: Dirent) -> Result<(), Fault> {
        match (moved.kind, replaced.kind) {
            (_, FileKind::Mount) => Err(Errno::Busy.into()),
            (FileKind::Directory, _) => self.check_empty(replaced),
            (_, FileKind::Directory) => Err(Errno::IsDirectory.into()),
            _ => Ok(()),
        }
    }

    /// Tells an inode its new place.
    fn moved(&mut self, ino: Ino, to_dir: Ino, to_name: Bytes) -> Result<(), Fault> {
        let at = self.at;
        let inode = self.transaction.inode_mut(ino)?;
        inode.attr.ctime = at;
        if let Body::Directory { parent, name, .. } = &mut inode.body {
            (*parent, *name) = (to_dir, to_name);
        }
        Ok(())
    }
}
