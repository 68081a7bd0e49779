//! Merges index objects, and makes them anew from packs.

use std::collections::BTreeMap;

use tokio::runtime::Handle;

use super::ChunkArchive;
use super::index::Part;
use super::pack::{PACK_BYTES_MAX, Place, scan};
use crate::error::Error;
use crate::names;
use crate::run::{Loaded, RunKind};
use causeway_base::ChunkId;

/// Small index objects above which some are merged.
const PARTS_MAX: usize = 16;

impl ChunkArchive {
    /// Merges index objects if there are more than 16 that are smaller than half a segment: of those the smaller ones, each at
    /// most twice as large as all before it. Gives the number merged.
    ///
    /// The new object is put before the old ones are deleted, so at every moment each chunk is in some object; several
    /// writers may merge the same ones at once.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a damaged index; the store's. Nothing is lost.
    pub async fn merge_indexes(&self) -> Result<usize, Error> {
        self.index.refresh().await?;
        let small = self.repository.options.segment_bytes.bytes() / 2;
        let mut parts: Vec<_> = self.index.parts().into_iter().filter(|part| part.bytes < small).collect();
        if parts.len() <= PARTS_MAX {
            return Ok(0);
        }
        parts.sort_by_key(|part| (part.bytes, part.name));
        let mut sum = 0;
        let mut count = 0;
        for part in &parts {
            if part.bytes > 2 * sum && count >= parts.len() / 2 {
                break;
            }
            sum += part.bytes;
            count += 1;
        }
        parts.truncate(count);
        let mut entries = BTreeMap::new();
        for part in &parts {
            match self.entries(part).await {
                Ok(found) => entries.extend(found),
                // Another writer merged it away a moment ago.
                Err(Error::Missing { .. }) => return Ok(0),
                Err(error) => return Err(error),
            }
        }
        self.put_index(entries.into_iter().collect()).await?;
        let merged: Vec<u128> = parts.iter().map(|part| part.name).collect();
        for name in &merged {
            self.repository.store.delete(&names::index(*name)).await?;
        }
        self.index.forget(&merged);
        Ok(merged.len())
    }

    /// All entries of an index object, from the store.
    pub(super) async fn entries(&self, part: &Part) -> Result<Vec<(ChunkId, Place)>, Error> {
        let path = names::index(part.name);
        let object = self.repository.store.get_range(&path, 0..part.bytes).await?;
        let object = object.ok_or_else(|| Error::Missing { path: path.clone() })?;
        let damaged = |reason: &str| Error::Corrupt { path: path.clone(), reason: reason.to_owned() };
        let loaded = Loaded::open(object, RunKind::ChunkIndex).map_err(|error| damaged(&error.to_string()))?;
        let decode = |record: Result<(bytes::Bytes, bytes::Bytes), _>| {
            let (key, value) = record.map_err(|error: crate::run::FormatError| damaged(&error.to_string()))?;
            let entry = ChunkId::from_slice(&key).zip(Place::decode(&value));
            entry.ok_or_else(|| damaged("an entry does not decode"))
        };
        loaded.iter().map(decode).collect()
    }

    /// Makes an index from all packs, for when index objects were lost or damaged: reads every pack whole. Damaged packs are
    /// listed and skipped. Gives the number of chunks indexed.
    ///
    /// # Errors
    /// The store's.
    pub async fn rebuild_index(&self) -> Result<(u64, Vec<String>), Error> {
        let store = &self.repository.store;
        let mut entries = BTreeMap::new();
        let mut damaged = Vec::new();
        for listed in store.list(names::PACKS, usize::MAX).await? {
            let Some(name) = names::number(&listed.name) else { continue };
            let path = names::pack(name);
            if listed.bytes > PACK_BYTES_MAX {
                damaged.push(path);
                continue;
            }
            let Some(pack) = store.get_range(&path, 0..listed.bytes).await? else { continue };
            let scanned = Handle::current().spawn_blocking(move || scan(name, &pack)).await;
            match scanned.map_err(|error| Error::Task(error.to_string()))? {
                Ok(places) => entries.extend(places),
                Err(_) => damaged.push(path),
            }
        }
        let count = entries.len() as u64;
        self.put_index(entries.into_iter().collect()).await?;
        Ok((count, damaged))
    }
}
