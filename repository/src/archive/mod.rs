//! Chunks in a repository: packs, and indexes that say where each chunk lies.
//!
//! A pack and an index object are written once under random names. A chunk counts as archived when an index object that
//! names it is there; its pack was put before. Any number of writers may put at once: at worst a chunk is there twice.
//! When index objects grow many, some are merged into a new one, which is put before the old ones are deleted.

mod fetch;
mod index;
mod merge;
mod pack;
mod put;
mod sweep;

#[cfg(test)]
mod archive_test;

use std::sync::Arc;

use causeway_base::ChunkId;

use crate::error::Error;
use crate::repository::Repository;

use index::{Index, Located};
pub use put::{ChunkIter, PutReport};
pub use sweep::Swept;

/// How much of the chunk index is read ahead of need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexMode {
    /// All of it, into memory as far as [`crate::RepositoryOptions::index_bytes`] allows: for writers, restores and checks.
    Loaded,
    /// Only what a look-up needs: for a cold reader of a few files.
    Lazy,
}

/// The chunks of a repository; a cheap handle.
#[derive(Clone, Debug)]
pub struct ChunkArchive {
    repository: Repository,
    index: Arc<Index>,
}

/// What an archive holds, as far as its index was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArchiveStats {
    /// Index objects.
    pub index_objects: u64,
    /// Their length together.
    pub index_bytes: u64,
    /// Entries that are in memory; a chunk that several objects name counts for each.
    pub entries_in_memory: u64,
}

impl ChunkArchive {
    /// Opens the archive and reads its index as `mode` says.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a damaged index; the store's.
    pub async fn open(repository: Repository, mode: IndexMode) -> Result<Self, Error> {
        let index = Arc::new(Index::new(repository.clone(), mode));
        index.refresh().await?;
        Ok(Self { repository, index })
    }

    /// Reads the index objects that other writers have added.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// As [`ChunkArchive::open`].
    pub async fn refresh(&self) -> Result<(), Error> {
        self.index.refresh().await
    }

    /// Which of `ids` are archived, as far as the index was read: what another writer added since may be told as absent.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a damaged index; the store's.
    pub async fn contains(&self, ids: &[ChunkId]) -> Result<Vec<bool>, Error> {
        Ok(self.index.locate(ids).await?.iter().map(Option::is_some).collect())
    }

    /// Those of `ids` that are not archived, in their order; see [`ChunkArchive::contains`].
    ///
    /// # Errors
    /// As [`ChunkArchive::contains`].
    pub async fn missing(&self, ids: &[ChunkId]) -> Result<Vec<ChunkId>, Error> {
        let found = self.index.locate(ids).await?;
        Ok(ids.iter().zip(found).filter(|(_, place)| place.is_none()).map(|(id, _)| *id).collect())
    }

    /// The lengths, stored and plain, of those of `ids` that are archived.
    ///
    /// # Errors
    /// As [`ChunkArchive::contains`].
    pub async fn lengths(&self, ids: &[ChunkId]) -> Result<Vec<Option<(u32, u32)>>, Error> {
        let lengths = |place: Option<Located>| place.map(|place| (place.len, place.raw_len));
        Ok(self.index.locate(ids).await?.into_iter().map(lengths).collect())
    }

    /// What is known of the archive.
    #[must_use]
    pub fn stats(&self) -> ArchiveStats {
        self.index.stats()
    }

    /// Where it is.
    #[must_use]
    pub const fn repository(&self) -> &Repository {
        &self.repository
    }
}
