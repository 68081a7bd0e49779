//! The pack files of a store, of which a bounded number is open.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use causeway_storage::disk::{Disk, DiskFile, Open};

use super::StoreError;
use super::pack::{ReadError, read_pack_header, read_trailer};

/// An open pack.
#[derive(Clone, Debug)]
pub(super) struct OpenPack {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) salt: u64,
}

/// Names, opens and keeps open the pack files.
#[derive(Debug)]
pub(super) struct PackFiles {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    open_max: usize,
    open: Mutex<OpenFiles>,
}

#[derive(Debug, Default)]
struct OpenFiles {
    packs: HashMap<u32, (OpenPack, u64)>,
    /// Counts uses: the pack with the smallest one is closed first.
    clock: u64,
}

impl PackFiles {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: PathBuf, open_max: usize) -> Self {
        Self { disk, dir, open_max: open_max.max(1), open: Mutex::default() }
    }

    pub(super) fn path(&self, pack: u32) -> PathBuf {
        self.dir.join(format!("{pack:08x}.pack"))
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn disk(&self) -> &dyn Disk {
        self.disk.as_ref()
    }

    /// The numbers of all packs, ascending. Files of other names are left alone.
    pub(super) fn list(&self) -> Result<Vec<u32>, StoreError> {
        let names = self.disk.list(&self.dir).map_err(|source| self.dir_error("list", source))?;
        let mut packs: Vec<u32> = names.iter().filter_map(|name| pack_number(name)).collect();
        packs.sort_unstable();
        Ok(packs)
    }

    /// Opens a pack for writing; not kept open here.
    pub(super) fn open(&self, pack: u32, how: Open) -> Result<Arc<dyn DiskFile>, StoreError> {
        self.disk.open(&self.path(pack), how).map_err(|source| self.error("open", pack, source))
    }

    /// A pack for reading.
    pub(super) fn get(&self, pack: u32) -> Result<OpenPack, ReadError> {
        if let Some(found) = self.touch(pack) {
            return Ok(found);
        }
        let file = self.disk.open(&self.path(pack), Open::Read).map_err(ReadError::Io)?;
        let salt = match read_pack_header(file.as_ref()) {
            Ok(header) => header.salt,
            // Its end says it too: one bad bit at the start must not take all the chunks.
            Err(ReadError::Damage(damage)) => match read_trailer(file.as_ref(), file.len()?)? {
                Some(trailer) if trailer.pack == pack => trailer.salt,
                _ => return Err(damage.into()),
            },
            Err(error) => return Err(error),
        };
        let opened = OpenPack { file, salt };
        self.insert(pack, opened.clone());
        Ok(opened)
    }

    fn touch(&self, pack: u32) -> Option<OpenPack> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.clock += 1;
        let now = open.clock;
        let (found, used) = open.packs.get_mut(&pack)?;
        *used = now;
        Some(found.clone())
    }

    /// Keeps an open file; closes the one that was not used for longest if there are too many.
    pub(super) fn insert(&self, pack: u32, opened: OpenPack) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.clock += 1;
        let now = open.clock;
        if open.packs.len() >= self.open_max && !open.packs.contains_key(&pack) {
            let oldest = open.packs.iter().min_by_key(|(_, (_, used))| *used).map(|(pack, _)| *pack);
            if let Some(oldest) = oldest {
                open.packs.remove(&oldest);
            }
        }
        open.packs.insert(pack, (opened, now));
    }

    #[cfg(test)]
    pub(super) fn open_count(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).packs.len()
    }

    /// Closes a pack.
    pub(super) fn forget(&self, pack: u32) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).packs.remove(&pack);
    }

    pub(super) fn error(&self, what: &'static str, pack: u32, source: io::Error) -> StoreError {
        StoreError::Io { what, path: self.path(pack), source }
    }

    pub(super) fn dir_error(&self, what: &'static str, source: io::Error) -> StoreError {
        StoreError::Io { what, path: self.dir.clone(), source }
    }
}

fn pack_number(name: &Path) -> Option<u32> {
    let digits = name.to_str()?.strip_suffix(".pack")?;
    let good = digits.len() == 8 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    good.then(|| u32::from_str_radix(digits, 16).ok())?
}
