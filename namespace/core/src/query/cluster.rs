//! Questions to the root group's records.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use causeway_base::VolumeId;

use crate::encode;
use crate::key;
use crate::promotion::PromotionRecord;
use crate::records::{ReadError, Records};
use crate::root::{ClusterRecord, NodeRecord, RealmKey, TopologyRecord, VolumeRecord};

/// Records read at once.
const PAGE: usize = 256;

/// The cluster; `None` before it is set up.
///
/// # Errors
/// The store's.
pub fn cluster(records: &dyn Records) -> Result<Option<ClusterRecord>, ReadError> {
    get(records, &key::cluster())
}

/// The declared topology; version 0 and empty if none was.
///
/// # Errors
/// The store's.
pub fn topology(records: &dyn Records) -> Result<TopologyRecord, ReadError> {
    Ok(get(records, &key::topology())?.unwrap_or_default())
}

/// All nodes by id.
///
/// # Errors
/// The store's.
pub fn nodes(records: &dyn Records) -> Result<Vec<NodeRecord>, ReadError> {
    all(records, key::NODE)
}

/// All volumes by id.
///
/// # Errors
/// The store's.
pub fn volumes(records: &dyn Records) -> Result<Vec<VolumeRecord>, ReadError> {
    all(records, key::VOLUME)
}

/// The newest promotion of each group that was promoted.
///
/// # Errors
/// The store's.
pub fn promotions(records: &dyn Records) -> Result<BTreeMap<VolumeId, PromotionRecord>, ReadError> {
    let mut found = BTreeMap::new();
    pages(records, key::PROMOTION, |key, record| found.extend(key::promotion_of(&key).map(|group| (group, record))))?;
    Ok(found)
}

/// A volume by its id.
///
/// # Errors
/// The store's.
pub fn volume(records: &dyn Records, id: VolumeId) -> Result<Option<VolumeRecord>, ReadError> {
    get(records, &key::volume(id))
}

/// A volume by its name.
///
/// # Errors
/// The store's.
pub fn volume_by_name(records: &dyn Records, name: &str) -> Result<Option<VolumeRecord>, ReadError> {
    follow(records, &key::volume_by_name(name))
}

/// The volume that an absolute path of the namespace lies in (the one mounted nearest above it), and the rest of the path
/// within it, without a leading `/`. Empty and `.` components are skipped.
///
/// # Errors
/// The store's.
pub fn volume_by_mount(records: &dyn Records, path: &[u8]) -> Result<Option<(VolumeRecord, Bytes)>, ReadError> {
    let skipped = |name: &&[u8]| !matches!(*name, b"" | b".");
    let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(skipped).collect();
    let canonical: Bytes = names.iter().flat_map(|name| [&b"/"[..], name]).collect::<Vec<_>>().concat().into();
    let mut end = canonical.len();
    loop {
        if end <= crate::root::MOUNT_BYTES_MAX
            && let Some(volume) = follow(records, &key::volume_by_mount(&canonical[..end]))?
        {
            return Ok(Some((volume, canonical.slice((end + 1).min(canonical.len())..))));
        }
        match canonical[..end].iter().rposition(|byte| *byte == b'/') {
            Some(cut) => end = cut,
            None => return Ok(None),
        }
    }
}

/// The key of a dedup realm.
///
/// # Errors
/// The store's.
pub fn realm_key(records: &dyn Records, name: &str) -> Result<Option<RealmKey>, ReadError> {
    get(records, &key::realm(name))
}

/// All dedup realms, by name.
///
/// # Errors
/// The store's.
pub fn realms(records: &dyn Records) -> Result<Vec<(String, RealmKey)>, ReadError> {
    let mut found = Vec::new();
    pages(records, key::REALM, |key, realm| found.extend(key::realm_of(&key).map(|name| (name.to_owned(), realm))))?;
    Ok(found)
}

pub(super) fn get<T: DeserializeOwned>(records: &dyn Records, key: &[u8]) -> Result<Option<T>, ReadError> {
    records.get(key)?.map(|value| encode::record(key, &value)).transpose()
}

/// From an index record to its volume.
fn follow(records: &dyn Records, key: &[u8]) -> Result<Option<VolumeRecord>, ReadError> {
    get(records, key)?.map_or(Ok(None), |id| volume(records, id))
}

fn all<T: DeserializeOwned>(records: &dyn Records, table: u8) -> Result<Vec<T>, ReadError> {
    let mut found = Vec::new();
    pages(records, table, |_, value| found.push(value))?;
    Ok(found)
}

/// Hands over every record of a table, in key order.
pub(super) fn pages<T: DeserializeOwned>(
    records: &dyn Records,
    table: u8,
    mut each: impl FnMut(Bytes, T),
) -> Result<(), ReadError> {
    let (mut from, to) = key::table(table);
    loop {
        let page = records.scan(&from, &to, PAGE)?;
        let full = page.len() == PAGE;
        for (key, value) in page {
            from = [&key, &b"\0"[..]].concat().into();
            each(key.clone(), encode::record(&key, &value)?);
        }
        if !full {
            return Ok(());
        }
    }
}
