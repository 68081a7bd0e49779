//! Operations on the volume as a whole.

use bytes::Bytes;

use causeway_base::Ino;

use super::locks::ByteRange;
use super::names::Tree;
use super::transaction::Fault;
use crate::command::{Errno, OpDone};
use crate::key;
use crate::manage::{ManageOp, RetentionRecord, SNAPSHOTS_MAX, SnapshotRecord};
use crate::path;

impl Tree<'_, '_> {
    /// Applies one operation on the volume.
    pub(super) fn manage(&mut self, op: &ManageOp) -> Result<OpDone, Fault> {
        match op {
            ManageOp::CreateSnapshot { name } => self.create_snapshot(name),
            ManageOp::DeleteSnapshot { name } => self.delete_snapshot(name),
            ManageOp::SetQuota { at, limit } => self.set_quota(at, *limit),
            ManageOp::SetOwnerQuota { uid, limit } => self.set_owner_quota(*uid, *limit),
            ManageOp::SetRetention { keep } => self.set_retention(*keep),
            ManageOp::AcquireLock { at, kind, start, len, holder, lease_millis } => {
                let range = ByteRange { start: *start, len: *len };
                self.acquire_lock(at, *kind, range, holder, *lease_millis)
            }
            ManageOp::RenewLock { at, token, lease_millis } => self.renew_lock(at, *token, *lease_millis),
            ManageOp::ReleaseLock { at, token } => self.release_lock(at, *token),
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

    fn set_retention(&mut self, keep: Option<RetentionRecord>) -> Result<OpDone, Fault> {
        if keep.is_some_and(|keep| keep.seqs == 0 && keep.seconds == 0) {
            return Err(Errno::Invalid.into());
        }
        let base = self.transaction.base;
        self.transaction.others.set(base, key::retention(), keep.as_ref())?;
        Ok(OpDone { ino: Ino::ROOT, version: self.seq() })
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
