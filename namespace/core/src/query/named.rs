//! What records are, for people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use bytes::Bytes;

use causeway_base::Ino;

use super::tree::path_of;
use crate::encode;
use crate::inode::Dirent;
use crate::key;
use crate::records::{ReadError, Records};

/// Directory entries read at once.
const STEP: usize = 1024;

/// What the records of some keys are: by path where they belong to one. Files do not know their names, so for each inode
/// that is no directory the entries are looked through, once for all of them.
///
/// Made for replicas that are damaged: what cannot be read is named by its number. Bytes of a name that are not UTF-8 are
/// shown as `\xff`.
///
/// # Errors
/// The store's, of a scan of the directory entries.
pub fn names_of(records: &dyn Records, keys: &[Bytes]) -> Result<Vec<String>, ReadError> {
    let inodes = keys.iter().filter_map(|key| key::inode_of(key).or_else(|| inode_beside(key))).collect();
    let found = places_of(records, inodes, usize::MAX)?;
    let paths = found.into_iter().map(|(ino, place)| {
        let path = match place {
            Place::Known(path) => shown(&path),
            Place::Entry { dir, name } => below(records, dir, &name),
        };
        (ino, path)
    });
    let paths: BTreeMap<Ino, String> = paths.collect();
    Ok(keys.iter().map(|key| name_of(records, key, &paths)).collect())
}

/// The paths of inodes, below the top directory and without a `/` in front; of an inode with several names one of them.
/// Directories know where they are; for the rest at most `entries_max` directory entries are looked through, once for all of
/// them: what is not found so has no path here.
///
/// # Errors
/// The store's, of a scan of the directory entries.
pub fn paths_of(
    records: &dyn Records,
    inodes: BTreeSet<Ino>,
    entries_max: usize,
) -> Result<BTreeMap<Ino, Bytes>, ReadError> {
    let found = places_of(records, inodes, entries_max)?;
    let path = |place: Place| match place {
        Place::Known(path) => Some(path),
        Place::Entry { dir, name } => {
            let above = path_of(records, dir).ok()?.ok()?;
            Some(if above.is_empty() { name } else { [&above[..], &name[..]].join(&b'/').into() })
        }
    };
    Ok(found.into_iter().filter_map(|(ino, place)| Some((ino, path(place)?))).collect())
}

/// Where an inode is.
enum Place {
    /// A directory's path.
    Known(Bytes),
    /// A name of another inode.
    Entry { dir: Ino, name: Bytes },
}

fn places_of(
    records: &dyn Records,
    inodes: BTreeSet<Ino>,
    mut entries_max: usize,
) -> Result<BTreeMap<Ino, Place>, ReadError> {
    let mut places = BTreeMap::new();
    for ino in &inodes {
        if let Ok(Ok(path)) = path_of(records, *ino) {
            places.insert(*ino, Place::Known(path));
        }
    }
    let mut wanted: BTreeSet<Ino> = inodes.into_iter().filter(|ino| !places.contains_key(ino)).collect();
    let (mut from, to) = key::table(key::DIRENT);
    while !wanted.is_empty() && entries_max > 0 {
        let page = records.scan(&from, &to, STEP.min(entries_max))?;
        for (key, value) in &page {
            // A damaged entry names nothing.
            let Ok(entry) = encode::record::<Dirent>(key, value) else { continue };
            if let Some((dir, name)) = key::dirent_of(key)
                && wanted.remove(&entry.ino)
            {
                places.insert(entry.ino, Place::Entry { dir, name: Bytes::copy_from_slice(name) });
            }
        }
        entries_max -= page.len();
        match page.last() {
            Some((last, _)) if page.len() == STEP => from = [last, &b"\0"[..]].concat().into(),
            _ => break,
        }
    }
    Ok(places)
}

/// The inode that a record beside the tree is about.
fn inode_beside(key: &[u8]) -> Option<Ino> {
    key::quota_of(key).or_else(|| key::lock_of(key).map(|(ino, _)| ino))
}

fn name_of(records: &dyn Records, key: &[u8], paths: &BTreeMap<Ino, String>) -> String {
    let path = |ino: Ino| paths.get(&ino).cloned().unwrap_or_else(|| format!("inode {}", ino.0));
    if let Some(ino) = key::inode_of(key) {
        return path(ino);
    }
    if let Some((dir, name)) = key::dirent_of(key) {
        return format!("{} (its name)", below(records, dir, name));
    }
    if let Some(dir) = key::quota_of(key) {
        return format!("{} (its quota)", path(dir));
    }
    if let Some((ino, token)) = key::lock_of(key) {
        return format!("{} (lock {token})", path(ino));
    }
    let table = match key.first() {
        Some(&key::META) => return "the counters and totals".to_owned(),
        Some(&key::SESSION) => "session",
        Some(&key::SESSION_BY_USE) => "session by use",
        Some(&key::SNAPSHOT) => return format!("snapshot {}", shown(key.get(1..).unwrap_or_default())),
        Some(&key::RETENTION) => return "the retention".to_owned(),
        Some(&key::OWNER) => "owner",
        Some(&key::LOCK_BY_END) => "lock by its end",
        Some(&(key::CLUSTER..=key::AUDIT_RANGE)) => "record of the cluster",
        _ => "record",
    };
    let rest = key.get(1..).unwrap_or_default().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}"); // to a String: never fails
        hex
    });
    format!("{table} {rest}")
}

fn below(records: &dyn Records, dir: Ino, name: &[u8]) -> String {
    match path_of(records, dir) {
        Ok(Ok(path)) if path.is_empty() => shown(name),
        Ok(Ok(path)) => format!("{}/{}", shown(&path), shown(name)),
        _ => format!("{} in directory {}", shown(name), dir.0),
    }
}

fn shown(path: &[u8]) -> String {
    let mut text = String::new();
    for chunk in path.utf8_chunks() {
        // No control characters: the text goes to logs and terminals.
        for c in chunk.valid().chars() {
            match c.is_control() {
                true => text.extend(c.escape_default()),
                false => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}"); // to a String: never fails
        }
    }
    if text.is_empty() { "the top directory".to_owned() } else { text }
}
