//! The paths of files by their inodes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use causeway_base::Ino;
use causeway_namespace_core::inode::Dirent;
use causeway_namespace_core::records::{ReadError, Records};
use causeway_namespace_core::{encode, key, query};

/// Directory entries read at once.
const PAGE: usize = 4096;

/// A path of each of these files, from the volume's top, without a leading `/`; a scan of all directory entries. Files that
/// are in older versions only have none. Blocks.
pub(super) fn paths(records: &dyn Records, files: &BTreeSet<Ino>) -> Result<BTreeMap<Ino, String>, ReadError> {
    let (mut from, end) = key::table(key::DIRENT);
    let mut found = BTreeMap::new();
    while found.len() < files.len() {
        let page = records.scan(&from, &end, PAGE)?;
        let Some((last, _)) = page.last() else { break };
        from = [last.as_ref(), &[0]].concat().into();
        for (key, value) in &page {
            let entry: Dirent = encode::record(key, value)?;
            if files.contains(&entry.ino) && !found.contains_key(&entry.ino) {
                found.insert(entry.ino, path(records, key)?);
            }
        }
    }
    Ok(found)
}

fn path(records: &dyn Records, dirent: &Bytes) -> Result<String, ReadError> {
    let (parent, name) = match dirent.get(1..9).and_then(|bytes| bytes.try_into().ok()) {
        Some(parent) => (Ino(u64::from_be_bytes(parent)), &dirent[9..]),
        None => return Ok(String::new()),
    };
    let name = String::from_utf8_lossy(name);
    Ok(match query::path_of(records, parent)? {
        Ok(above) if above.is_empty() => name.into_owned(),
        Ok(above) => format!("{}/{name}", String::from_utf8_lossy(&above)),
        Err(_) => format!("…/{name}"),
    })
}
