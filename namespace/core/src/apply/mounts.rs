//! Places where other volumes are mounted.
//!
//! The root group's table of volumes decides what is mounted where, by path, so that a path is resolved without the volume
//! above being in reach. The entry in the volume above makes that safe: an operation whose sender does not know of the
//! mount yet meets it and is refused, instead of going on in what the mounted volume hides. So such an entry does not
//! move, and neither does a directory above it.

use std::collections::BTreeSet;

use bytes::Bytes;

use causeway_base::{Ino, Timestamp};

use super::names::{Spot, Tree};
use super::sessions::become_volume;
use super::transaction::{Fault, Transaction};
use crate::command::{At, Errno, OpDone, Outcome, Refusal};
use crate::encode;
use crate::inode::{Attr, Body, Dirent, FileKind, PATH_BYTES_MAX};
use crate::key;
use crate::manage::{MOUNTS_MAX, MountOp};
use crate::meta::GroupKind;
use crate::path;
use crate::records::ReadError;
use crate::root::is_volume_name;

/// Brings the place to where the request wants it, or refuses.
pub(super) fn apply(transaction: &mut Transaction<'_>, op: &MountOp, at: Timestamp) -> Result<Outcome, ReadError> {
    if transaction.meta.kind == GroupKind::Blank {
        become_volume(transaction, at)?;
        transaction.begin();
    }
    let place = At { dir: Ino::ROOT, path: op.path.clone() };
    let mut tree = Tree::new(transaction, at);
    let done = tree.limited(|tree| match op.mounted {
        true => tree.mount(&place, &op.volume),
        false => tree.unmount(&place, &op.volume),
    });
    match done {
        Ok(done) => Ok(Outcome::Done(vec![done])),
        Err(Fault::Refused(code, _)) => {
            transaction.roll_back();
            let path = op.path.slice(..op.path.len().min(PATH_BYTES_MAX));
            Ok(Outcome::Refused(Refusal { op: 0, code, path }))
        }
        Err(Fault::Read(error)) => Err(error),
    }
}

/// As many could be mounted once, and all of them count.
const READ_MAX: usize = 16_384;

impl Tree<'_, '_> {
    fn mount(&mut self, at: &At, volume: &str) -> Result<OpDone, Fault> {
        if !is_volume_name(volume) {
            return Err(Errno::Invalid.into());
        }
        let mut above = path::names(&at.path)?;
        above.pop().ok_or(Errno::Busy)?;
        let attr = Attr { mode: 0o755, uid: 0, gid: 0, mtime: self.at, ctime: self.at };
        self.mkdir_all(&At { dir: at.dir, path: above.join(&b"/"[..]).into() }, &attr)?;
        let Spot::Name { dir, name, entry } = self.locate(at)? else { return Err(Errno::Invalid.into()) };
        match entry {
            None => {}
            Some(Dirent { ino, kind: FileKind::Mount }) => {
                let inode = self.transaction.inode(ino)?;
                let same = matches!(&inode.body, Body::Mount { volume: there, .. } if there == volume);
                let version = inode.version;
                return if same { Ok(OpDone { ino, version }) } else { Err(Errno::Exists.into()) };
            }
            Some(entry @ Dirent { kind: FileKind::Directory, .. }) => {
                self.check_empty(entry)?;
                self.leave(dir, name.clone())?;
                self.release(entry.ino)?;
            }
            Some(Dirent { kind: FileKind::File | FileKind::Symlink, .. }) => return Err(Errno::Exists.into()),
        }
        if self.mounts()?.len() >= MOUNTS_MAX {
            return Err(Errno::QuotaExceeded.into());
        }
        let body = Body::Mount { parent: dir, name: name.clone(), volume: volume.to_owned() };
        let done = self.create(dir, name, &attr, body)?;
        self.transaction.others.set(self.transaction.base, key::mount(done.ino), Some(&()))?;
        Ok(done)
    }

    fn unmount(&mut self, at: &At, volume: &str) -> Result<OpDone, Fault> {
        let Spot::Name { dir, name, entry: Some(Dirent { ino, kind: FileKind::Mount }) } = self.locate(at)? else {
            return Err(Errno::NotFound.into());
        };
        match &self.transaction.inode(ino)?.body {
            Body::Mount { volume: there, .. } if there == volume => {}
            _ => return Err(Errno::Conflict.into()),
        }
        self.leave(dir, name)?;
        self.release(ino)?;
        self.transaction.others.set::<()>(self.transaction.base, key::mount(ino), None)?;
        Ok(OpDone { ino, version: self.seq() })
    }

    /// Refuses to give a directory another path while a volume is mounted below it.
    ///
    /// Climbs from each mount, every directory once: as many reads as there are mounts and directories above them.
    pub(super) fn check_nothing_mounted_below(&mut self, moved: Ino) -> Result<(), Fault> {
        let mut seen = BTreeSet::from([Ino::ROOT]);
        for mount in self.mounts()? {
            let mut at = mount;
            while seen.insert(at) {
                if at == moved {
                    return Err(Errno::Busy.into());
                }
                at = match self.transaction.inode(at)?.body {
                    Body::Directory { parent, .. } | Body::Mount { parent, .. } => parent,
                    Body::File(_) | Body::Symlink(_) => {
                        return Err(encode::corrupt(&key::mount(mount), "what is above it is no directory").into());
                    }
                };
            }
        }
        Ok(())
    }

    /// The inodes of all mounts.
    fn mounts(&self) -> Result<Vec<Ino>, Fault> {
        let (from, to) = key::table(key::MOUNT);
        let found = self.transaction.others.entries(self.transaction.base, &from, &to, READ_MAX)?;
        let ino = |key: &Bytes| key::mount_of(key).ok_or_else(|| encode::corrupt(key, "no key of a mount").into());
        found.iter().map(|(key, _)| ino(key)).collect()
    }
}
