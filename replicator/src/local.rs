//! The seam to this node's chunk store, and to what it knows of realms.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use causeway_base::{ChunkId, RetryClass};
use causeway_dedup::store::gc::Lease;
use causeway_dedup::store::{PutHints, PutOutcome, StoreError};
use causeway_dedup::{ChunkStore, EncodedChunk, Realm};
use causeway_transport::PeerId;

/// The chunk store failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct LocalError {
    /// What may be done.
    pub class: RetryClass,
    /// What the store says.
    pub reason: String,
}

/// What a put came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PutCounts {
    /// Chunks that were not there.
    pub new: u64,
    /// Chunks that were.
    pub known: u64,
    /// Plain bytes of the new ones.
    pub new_plain_bytes: u64,
}

/// This node's chunks. Every call blocks: async code calls from a blocking thread.
pub trait LocalChunks: Send + Sync + Debug {
    /// A chunk as it is stored; `None` if it is not there, or is damaged (it is [`LocalChunks::missing`] then).
    ///
    /// # Errors
    /// The store failed.
    fn get(&self, id: &ChunkId) -> Result<Option<EncodedChunk>, LocalError>;

    /// A chunk as it rests, if it rests as a delta, with what it stands on named: [`ChunkStore::get_delta`].
    ///
    /// # Errors
    /// The store failed.
    fn get_delta(&self, id: &ChunkId) -> Result<Option<EncodedChunk>, LocalError> {
        let _ = id;
        Ok(None)
    }

    /// Keeps chunks that the caller has verified. Durable after the next [`LocalChunks::sync`].
    ///
    /// # Errors
    /// The store failed or is full; none or some were kept.
    fn put_many(&self, chunks: &[EncodedChunk]) -> Result<PutCounts, LocalError>;

    /// As [`LocalChunks::put_many`], with what is known of the chunks: a store may keep one as its difference from another.
    ///
    /// # Errors
    /// As there.
    fn put_with(&self, chunks: &[EncodedChunk], hints: &PutHints<'_>) -> Result<PutCounts, LocalError> {
        let _ = hints;
        self.put_many(chunks)
    }

    /// Makes everything put before durable.
    ///
    /// # Errors
    /// The sync failed: the store takes no writes any more.
    fn sync(&self) -> Result<(), LocalError>;

    /// Those that are not here, each once, in the order of their first mention.
    ///
    /// # Errors
    /// The store failed.
    fn missing(&self, ids: &[ChunkId]) -> Result<Vec<ChunkId>, LocalError>;

    /// Those that are not here, or that a power cut at this moment could take.
    ///
    /// # Errors
    /// The store failed.
    fn not_durable(&self, ids: &[ChunkId]) -> Result<Vec<ChunkId>, LocalError>;

    /// Forgets how far an interrupted collection came, as [`ChunkStore::forget_mark`]: what it went by was wrong.
    ///
    /// # Errors
    /// The store failed.
    fn forget_mark(&self) -> Result<(), LocalError> {
        Ok(())
    }

    /// Begins a lease on what is here, as [`ChunkStore::lease`]; `None` if nothing is ever collected here.
    fn lease(&self, holder: Option<&str>, linger: Duration) -> Option<Lease> {
        let _ = (holder, linger);
        None
    }
}

/// What this node knows of dedup realms.
pub trait Realms: Send + Sync + Debug {
    /// The realm of a name; `None` if there is none.
    fn realm(&self, name: &str) -> Option<Realm>;

    /// All realms that chunks here may be of.
    ///
    /// # Errors
    /// They cannot be read.
    fn all(&self) -> Result<Vec<Realm>, LocalError>;

    /// Whether a peer may use a realm. Nodes of the cluster may; what clients may is for policies to say.
    fn allows(&self, peer: &PeerId, realm: &str) -> bool {
        let _ = (peer, realm);
        true
    }
}

/// Runs blocking work off the reactor.
///
/// Cancel safe: the work itself goes on to its end.
///
/// # Errors
/// The work panicked, or the runtime shuts down.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, LocalError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| LocalError { class: RetryClass::Unknown, reason: format!("a worker stopped: {error}") })
}

/// [`LocalChunks::missing`] off the reactor.
///
/// # Errors
/// As there.
pub(crate) async fn missing(local: &Arc<dyn LocalChunks>, ids: Vec<ChunkId>) -> Result<Vec<ChunkId>, LocalError> {
    let local = local.clone();
    blocking(move || local.missing(&ids)).await?
}

impl From<StoreError> for LocalError {
    fn from(error: StoreError) -> Self {
        let mut reason = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            reason = format!("{reason}: {cause}");
            source = cause.source();
        }
        Self { class: error.retry_class(), reason }
    }
}

impl LocalChunks for ChunkStore {
    fn get(&self, id: &ChunkId) -> Result<Option<EncodedChunk>, LocalError> {
        match Self::get(self, id) {
            Err(error @ StoreError::Corrupt { .. }) => {
                tracing::warn!(%error, "a damaged chunk counts as missing now");
                Ok(None)
            }
            found => Ok(found?),
        }
    }

    fn get_delta(&self, id: &ChunkId) -> Result<Option<EncodedChunk>, LocalError> {
        match Self::get_delta(self, id) {
            Err(StoreError::Corrupt { .. }) => Ok(None), // told to whoever reads it whole
            found => Ok(found?),
        }
    }

    fn put_many(&self, chunks: &[EncodedChunk]) -> Result<PutCounts, LocalError> {
        Ok(counts(chunks, Self::put_many(self, chunks)?))
    }

    fn put_with(&self, chunks: &[EncodedChunk], hints: &PutHints<'_>) -> Result<PutCounts, LocalError> {
        Ok(counts(chunks, Self::put_with(self, chunks, Some(hints))?))
    }

    fn sync(&self) -> Result<(), LocalError> {
        Ok(Self::sync(self)?)
    }

    fn missing(&self, ids: &[ChunkId]) -> Result<Vec<ChunkId>, LocalError> {
        let mut seen = HashSet::with_capacity(ids.len());
        let mut missing = Self::missing(self, ids)?;
        missing.retain(|id| seen.insert(*id));
        Ok(missing)
    }

    fn not_durable(&self, ids: &[ChunkId]) -> Result<Vec<ChunkId>, LocalError> {
        Ok(Self::not_durable(self, ids)?)
    }

    fn forget_mark(&self) -> Result<(), LocalError> {
        Ok(Self::forget_mark(self)?)
    }

    fn lease(&self, holder: Option<&str>, linger: Duration) -> Option<Lease> {
        Some(Self::lease(self, holder, linger))
    }
}

fn counts(chunks: &[EncodedChunk], outcomes: Vec<PutOutcome>) -> PutCounts {
    let mut counts = PutCounts::default();
    for (outcome, chunk) in outcomes.into_iter().zip(chunks) {
        match outcome {
            PutOutcome::New => {
                counts.new += 1;
                counts.new_plain_bytes += u64::from(chunk.raw_len);
            }
            PutOutcome::Known => counts.known += 1,
        }
    }
    counts
}
