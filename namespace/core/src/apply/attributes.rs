//! Attributes and extended attributes.

use bytes::Bytes;

use causeway_base::Timestamp;

use super::names::Tree;
use super::quotas::Usage;
use super::transaction::Fault;
use crate::command::{At, Errno, Expect, OpDone};
use crate::inode::{MODE_MASK, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX, XATTRS_BYTES_MAX};

impl Tree<'_, '_> {
    /// `[mode, uid, gid]` and the content time; where all are `None` nothing changes.
    pub(super) fn set_attr(
        &mut self,
        at: &At,
        [mode, uid, gid]: [Option<u32>; 3],
        mtime: Option<Timestamp>,
        expect: Expect,
    ) -> Result<OpDone, Fault> {
        if mode.is_some_and(|mode| mode & !MODE_MASK != 0) {
            return Err(Errno::Invalid.into());
        }
        let ino = self.existing_to_change(at)?;
        self.check_expect(ino, expect)?;
        if mode.or(uid).or(gid).is_none() && mtime.is_none() {
            return Ok(OpDone { ino, version: self.transaction.inode(ino)?.version });
        }
        let (ctime, version) = (self.at, self.seq());
        let inode = self.transaction.inode_mut(ino)?;
        let (usage, owner) = (Usage::of(inode), inode.attr.uid);
        let attr = &mut inode.attr;
        attr.mode = mode.unwrap_or(attr.mode);
        attr.uid = uid.unwrap_or(attr.uid);
        attr.gid = gid.unwrap_or(attr.gid);
        attr.mtime = mtime.unwrap_or(attr.mtime);
        attr.ctime = ctime;
        inode.version = version;
        self.change_owner((owner, usage), (uid.unwrap_or(owner), usage))?;
        Ok(OpDone { ino, version })
    }

    pub(super) fn set_xattr(&mut self, at: &At, name: &Bytes, value: Option<&Bytes>) -> Result<OpDone, Fault> {
        if name.len() > XATTR_NAME_BYTES_MAX {
            return Err(Errno::NameTooLong.into());
        }
        if name.is_empty() || name.contains(&0) {
            return Err(Errno::Invalid.into());
        }
        if value.is_some_and(|value| value.len() > XATTR_VALUE_BYTES_MAX) {
            return Err(Errno::TooLarge.into());
        }
        let ino = self.existing_to_change(at)?;
        let (ctime, version) = (self.at, self.seq());
        let inode = self.transaction.inode_mut(ino)?;
        let place = inode.xattrs.binary_search_by(|(kept, _)| kept.cmp(name));
        match (place, value) {
            (Err(_), None) => return Err(Errno::NoAttribute.into()),
            (Ok(index), None) => {
                inode.xattrs.remove(index);
            }
            (Ok(index), Some(value)) => inode.xattrs[index].1 = value.clone(),
            (Err(index), Some(value)) => inode.xattrs.insert(index, (name.clone(), value.clone())),
        }
        // Checked after the change: a refused batch is rolled back whole.
        if inode.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > XATTRS_BYTES_MAX {
            return Err(Errno::TooLarge.into());
        }
        inode.attr.ctime = ctime;
        inode.version = version;
        Ok(OpDone { ino, version })
    }
}
