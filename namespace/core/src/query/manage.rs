//! Questions about a volume as a whole.

use bytes::Bytes;

use causeway_base::Ino;

use super::cluster::{get, pages};
use super::tree::meta;
use crate::key;
use crate::manage::{QuotaRecord, SnapshotRecord};
use crate::records::{ReadError, Records};

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
