//! Questions about a volume as a whole.

use bytes::Bytes;

use causeway_base::{Ino, Timestamp};

use super::cluster::{get, pages};
use super::tree::{meta, path_of, referred};
use crate::inode::{Body, Inode};
use crate::manage::{LockRecord, OwnerRecord, QuotaRecord, RetentionRecord, SnapshotRecord};
use crate::records::{ReadError, Records};
use crate::{encode, key};

/// All snapshots by name. Their seqs are those that must not be pruned.
///
/// # Errors
/// The store's.
pub fn snapshots(records: &dyn Records) -> Result<Vec<(Bytes, SnapshotRecord)>, ReadError> {
    let mut found = Vec::new();
    pages(records, key::SNAPSHOT, |key, snapshot| found.push((key.slice(1..), snapshot)))?;
    Ok(found)
}

/// A snapshot by its name.
///
/// # Errors
/// The store's.
pub fn snapshot(records: &dyn Records, name: &[u8]) -> Result<Option<SnapshotRecord>, ReadError> {
    get(records, &key::snapshot(name))
}

/// The quota of a directory with what it uses; `None` if it has none of its own.
///
/// # Errors
/// The store's.
pub fn quota(records: &dyn Records, dir: Ino) -> Result<Option<QuotaRecord>, ReadError> {
    let found: Option<QuotaRecord> = get(records, &key::quota(dir))?;
    Ok(match found {
        Some(top) if dir == Ino::ROOT => Some(top.of_volume(&meta(records)?)),
        other => other,
    })
}

/// All users that own something or have a quota.
///
/// # Errors
/// The store's.
pub fn owners(records: &dyn Records) -> Result<Vec<(u32, OwnerRecord)>, ReadError> {
    let mut found = Vec::new();
    pages(records, key::OWNER, |key, owner| found.extend(key::owner_of(&key).map(|uid| (uid, owner))))?;
    Ok(found)
}

/// The places where other volumes are mounted.
///
/// # Errors
/// The store's.
pub fn mounts(records: &dyn Records) -> Result<Vec<Mount>, ReadError> {
    let mut inos = Vec::new();
    pages(records, key::MOUNT, |key, ()| inos.extend(key::mount_of(&key)))?;
    let mut found = Vec::with_capacity(inos.len());
    for ino in inos {
        let Inode { attr, body: Body::Mount { volume, .. }, .. } = referred(records, ino)? else {
            return Err(encode::corrupt(&key::mount(ino), "no volume is mounted there"));
        };
        let path = path_of(records, ino)?.map_err(|errno| encode::corrupt(&key::mount(ino), errno))?;
        found.push(Mount { path, volume, since: attr.ctime });
    }
    Ok(found)
}

/// A place where another volume is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its path from the top.
    pub path: Bytes,
    /// The other volume's name.
    pub volume: String,
    /// When it was made.
    pub since: Timestamp,
}

/// How long old states are kept; `None`: as the node likes.
///
/// # Errors
/// The store's.
pub fn retention(records: &dyn Records) -> Result<Option<RetentionRecord>, ReadError> {
    get(records, &key::retention())
}

/// All locks that have not ended at `now` (which is held against the latest time that locks have seen), by inode and token.
///
/// # Errors
/// The store's.
pub fn locks(records: &dyn Records, now: Timestamp) -> Result<Vec<(Ino, u64, LockRecord)>, ReadError> {
    let now = now.max(meta(records)?.clock);
    let mut found = Vec::new();
    pages(records, key::LOCK, |key, lock: LockRecord| {
        let held = key::lock_of(&key).filter(|_| lock.ends > now);
        found.extend(held.map(|(ino, token)| (ino, token, lock)));
    })?;
    Ok(found)
}

/// When the first lock ends; `None` if there is none.
///
/// # Errors
/// The store's.
pub fn first_lock_end(records: &dyn Records) -> Result<Option<Timestamp>, ReadError> {
    let (from, to) = key::table(key::LOCK_BY_END);
    let first = records.scan(&from, &to, 1)?;
    Ok(first.first().and_then(|(key, _)| key::lock_by_end_of(key)).map(|(ends, _, _)| ends))
}

/// All quotas by directory, with what they use.
///
/// # Errors
/// The store's.
pub fn quotas(records: &dyn Records) -> Result<Vec<(Ino, QuotaRecord)>, ReadError> {
    let mut dirs = Vec::new();
    pages(records, key::QUOTA, |key, _: QuotaRecord| dirs.extend(key::quota_of(&key)))?;
    let mut found = Vec::with_capacity(dirs.len());
    for dir in dirs {
        found.extend(quota(records, dir)?.map(|record| (dir, record)));
    }
    Ok(found)
}
