//! The volume as a whole.

use causeway_base::{Ino, Seq, Timestamp};
use causeway_namespace_core::inode::FileKind;
use causeway_namespace_core::manage::{
    LockKind, LockRecord, ManageOp, OwnerRecord, QuotaLimit, QuotaRecord, RetentionRecord, SnapshotRecord,
};
use causeway_namespace_core::query::{ChangeKind, TreeChange};
use causeway_proto::v1;

use super::{Wire, WireError, all, all_into, required};
use crate::manage::{DirectoryQuota, FeedBatch, FeedEvent, HeldLock};

/// Pairs of ours and theirs, written once for both directions.
macro_rules! kinds {
    ($type:ident, $field:literal, $($name:ident),+ $(,)?) => {
        impl Wire for $type {
            type Message = i32;

            fn into_wire(self) -> i32 {
                match self { $(Self::$name => v1::$type::$name.into()),+ }
            }

            fn from_wire(message: i32) -> Result<Self, WireError> {
                match v1::$type::try_from(message) {
                    $(Ok(v1::$type::$name) => Ok(Self::$name),)+
                    Ok(v1::$type::Unspecified) | Err(_) => Err(WireError::bad($field, message)),
                }
            }
        }
    };
}

kinds!(LockKind, "lock.kind", Shared, Exclusive, Hold);
kinds!(ChangeKind, "change.kind", Removed, Unlinked, Renamed, Created, Linked, Replaced, Attributes);

impl Wire for QuotaLimit {
    type Message = v1::QuotaLimit;

    fn into_wire(self) -> v1::QuotaLimit {
        v1::QuotaLimit { bytes: self.bytes, files: self.files }
    }

    fn from_wire(message: v1::QuotaLimit) -> Result<Self, WireError> {
        Ok(Self { bytes: message.bytes, files: message.files })
    }
}

impl Wire for RetentionRecord {
    type Message = v1::Retention;

    fn into_wire(self) -> v1::Retention {
        v1::Retention { seqs: self.seqs, seconds: self.seconds }
    }

    fn from_wire(message: v1::Retention) -> Result<Self, WireError> {
        Ok(Self { seqs: message.seqs, seconds: message.seconds })
    }
}

impl Wire for ManageOp {
    type Message = v1::ManageOp;

    fn into_wire(self) -> v1::ManageOp {
        use v1::manage_op::{
            AcquireLock, CreateSnapshot, DeleteSnapshot, Kind, ReleaseLock, RenewLock, SetOwnerQuota, SetQuota,
            SetRetention,
        };
        let some = |limit: Option<QuotaLimit>| limit.map(Wire::into_wire);
        let kind = match self {
            Self::CreateSnapshot { name } => Kind::CreateSnapshot(CreateSnapshot { name }),
            Self::DeleteSnapshot { name } => Kind::DeleteSnapshot(DeleteSnapshot { name }),
            Self::SetQuota { at, limit } => Kind::SetQuota(SetQuota { at: Some(at.into_wire()), limit: some(limit) }),
            Self::SetOwnerQuota { uid, limit } => Kind::SetOwnerQuota(SetOwnerQuota { uid, limit: some(limit) }),
            Self::SetRetention { keep } => Kind::SetRetention(SetRetention { keep: keep.map(Wire::into_wire) }),
            Self::AcquireLock { at, kind, start, len, holder, lease_millis } => Kind::AcquireLock(AcquireLock {
                at: Some(at.into_wire()),
                kind: kind.into_wire(),
                start,
                len,
                holder,
                lease_millis,
            }),
            Self::RenewLock { at, token, lease_millis } => {
                Kind::RenewLock(RenewLock { at: Some(at.into_wire()), token, lease_millis })
            }
            Self::ReleaseLock { at, token } => Kind::ReleaseLock(ReleaseLock { at: Some(at.into_wire()), token }),
        };
        v1::ManageOp { kind: Some(kind) }
    }

    fn from_wire(message: v1::ManageOp) -> Result<Self, WireError> {
        use v1::manage_op::Kind;
        let limit = |limit: Option<v1::QuotaLimit>| limit.map(QuotaLimit::from_wire).transpose();
        Ok(match message.kind.ok_or(WireError::Unset("op.kind"))? {
            Kind::CreateSnapshot(op) => Self::CreateSnapshot { name: op.name },
            Kind::DeleteSnapshot(op) => Self::DeleteSnapshot { name: op.name },
            Kind::SetQuota(op) => Self::SetQuota { at: required(op.at, "set_quota.at")?, limit: limit(op.limit)? },
            Kind::SetOwnerQuota(op) => Self::SetOwnerQuota { uid: op.uid, limit: limit(op.limit)? },
            Kind::SetRetention(op) => Self::SetRetention { keep: op.keep.map(RetentionRecord::from_wire).transpose()? },
            Kind::AcquireLock(op) => Self::AcquireLock {
                at: required(op.at, "acquire_lock.at")?,
                kind: LockKind::from_wire(op.kind)?,
                start: op.start,
                len: op.len,
                holder: op.holder,
                lease_millis: op.lease_millis,
            },
            Kind::RenewLock(op) => Self::RenewLock {
                at: required(op.at, "renew_lock.at")?,
                token: op.token,
                lease_millis: op.lease_millis,
            },
            Kind::ReleaseLock(op) => Self::ReleaseLock { at: required(op.at, "release_lock.at")?, token: op.token },
        })
    }
}

impl Wire for (bytes::Bytes, SnapshotRecord) {
    type Message = v1::Snapshot;

    fn into_wire(self) -> v1::Snapshot {
        v1::Snapshot { name: self.0, seq: self.1.seq.0, at: self.1.at.0 }
    }

    fn from_wire(message: v1::Snapshot) -> Result<Self, WireError> {
        Ok((message.name, SnapshotRecord { seq: Seq(message.seq), at: Timestamp(message.at) }))
    }
}

impl Wire for DirectoryQuota {
    type Message = v1::DirectoryQuota;

    fn into_wire(self) -> v1::DirectoryQuota {
        v1::DirectoryQuota {
            ino: self.ino.0,
            path: self.path,
            limit: Some(self.record.limit.into_wire()),
            files: self.record.files,
            bytes: u64::try_from(self.record.bytes).unwrap_or(u64::MAX),
        }
    }

    fn from_wire(message: v1::DirectoryQuota) -> Result<Self, WireError> {
        let limit = required(message.limit, "quota.limit")?;
        let record = QuotaRecord { limit, files: message.files, bytes: message.bytes.into() };
        Ok(Self { ino: Ino(message.ino), path: message.path, record })
    }
}

impl Wire for (u32, OwnerRecord) {
    type Message = v1::OwnerUse;

    fn into_wire(self) -> v1::OwnerUse {
        let (uid, OwnerRecord { limit, files, bytes }) = self;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        v1::OwnerUse { uid, limit: limit.map(Wire::into_wire), files, bytes }
    }

    fn from_wire(message: v1::OwnerUse) -> Result<Self, WireError> {
        let limit = message.limit.map(QuotaLimit::from_wire).transpose()?;
        Ok((message.uid, OwnerRecord { limit, files: message.files, bytes: message.bytes.into() }))
    }
}

impl Wire for HeldLock {
    type Message = v1::Lock;

    fn into_wire(self) -> v1::Lock {
        let LockRecord { kind, start, end, holder, since, ends } = self.record;
        let (ino, kind) = (self.ino.0, kind.into_wire());
        let (since, ends) = (since.0, ends.0);
        v1::Lock { ino, token: self.token, kind, start, end, holder, since, ends, path: self.path }
    }

    fn from_wire(message: v1::Lock) -> Result<Self, WireError> {
        let record = LockRecord {
            kind: LockKind::from_wire(message.kind)?,
            start: message.start,
            end: message.end,
            holder: message.holder,
            since: Timestamp(message.since),
            ends: Timestamp(message.ends),
        };
        Ok(Self { ino: Ino(message.ino), path: message.path, token: message.token, record })
    }
}

impl Wire for TreeChange {
    type Message = v1::Change;

    fn into_wire(self) -> v1::Change {
        v1::Change {
            kind: self.kind.into_wire(),
            path: self.path,
            path_before: self.path_before,
            ino: self.ino.0,
            file: self.file.into_wire(),
            size: self.size,
            version: self.version.0,
        }
    }

    fn from_wire(message: v1::Change) -> Result<Self, WireError> {
        Ok(Self {
            kind: ChangeKind::from_wire(message.kind)?,
            path: message.path,
            path_before: message.path_before,
            ino: Ino(message.ino),
            file: FileKind::from_wire(message.file)?,
            size: message.size,
            version: Seq(message.version),
        })
    }
}

impl Wire for FeedEvent {
    type Message = v1::FeedEvent;

    fn into_wire(self) -> v1::FeedEvent {
        let change = Some(self.change.into_wire());
        v1::FeedEvent { seq: self.seq.0, index: self.index, at: self.at.0, change }
    }

    fn from_wire(message: v1::FeedEvent) -> Result<Self, WireError> {
        let change = required(message.change, "event.change")?;
        Ok(Self { seq: Seq(message.seq), index: message.index, at: Timestamp(message.at), change })
    }
}

impl Wire for FeedBatch {
    type Message = v1::FeedResponse;

    fn into_wire(self) -> v1::FeedResponse {
        let through = self.through.map_or(0, |seq| seq.0);
        v1::FeedResponse { events: all_into(self.events), through, newest: self.newest }
    }

    fn from_wire(message: v1::FeedResponse) -> Result<Self, WireError> {
        let through = (message.through != 0).then_some(Seq(message.through));
        Ok(Self { events: all(message.events)?, through, newest: message.newest })
    }
}
