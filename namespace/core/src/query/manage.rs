//! Questions about a volume as a whole.

use bytes::Bytes;

use super::cluster::{get, pages};
use crate::key;
use crate::manage::SnapshotRecord;
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
