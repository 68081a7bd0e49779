//! Operations on the volume as a whole.

use bytes::Bytes;

use causeway_base::Ino;

use super::names::Tree;
use super::transaction::Fault;
use crate::command::{Errno, OpDone};
use crate::key;
use crate::manage::{ManageOp, SNAPSHOTS_MAX, SnapshotRecord};
use crate::path;

impl Tree<'_, '_> {
    /// Applies one operation on the volume.
    pub(super) fn manage(&mut self, op: &ManageOp) -> Result<OpDone, Fault> {
        match op {
            ManageOp::CreateSnapshot { name } => self.create_snapshot(name),
            ManageOp::DeleteSnapshot { name } => self.delete_snapshot(name),
            ManageOp::SetQuota { at, limit } => self.set_quota(at, *limit),
        }
    }

    fn create_snapshot(&mut self, name: &Bytes) -> Result<OpDone, Fault> {
        path::check_name(name)?;
        let (base, key, seq) = (self.transaction.base, key::snapshot(name), self.seq());
        if self.transaction.others.get::<SnapshotRecord>(base, &key)?.is_some() {
            return Err(Errno::Exists.into());
        }
        if self.transaction.meta.snapshots >= SNAPSHOTS_MAX {
            return Err(Errno::QuotaExceeded.into());
        }
        self.transaction.meta.snapshots += 1;
        self.transaction.others.set(base, key, Some(&SnapshotRecord { seq, at: self.at }))?;
        Ok(OpDone { ino: Ino::ROOT, version: seq })
    }

    fn delete_snapshot(&mut self, name: &Bytes) -> Result<OpDone, Fault> {
        let (base, key) = (self.transaction.base, key::snapshot(name));
        if self.transaction.others.get::<SnapshotRecord>(base, &key)?.is_none() {
            return Err(Errno::NotFound.into());
        }
        self.transaction.meta.snapshots -= 1;
        self.transaction.others.set::<SnapshotRecord>(base, key, None)?;
        Ok(OpDone { ino: Ino::ROOT, version: self.seq() })
    }
}
