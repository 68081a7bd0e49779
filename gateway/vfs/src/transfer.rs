//! The data half of a client: chunks to and from a node.

use async_trait::async_trait;
use bytes::Bytes;
use causeway_base::{ChunkId, RetryClass, SiteName};
use causeway_dedup::{EncodedChunk, Realm};
use tokio::sync::mpsc;

/// Why chunks did not come or go.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct TransferError {
    /// What was asked, of whom.
    pub what: String,
    /// Why it failed and what to do.
    pub reason: String,
    /// What the caller may do next.
    pub class: RetryClass,
    /// The cause, if it has one of its own.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl TransferError {
    /// What the caller may do next.
    #[must_use]
    pub const fn retry_class(&self) -> RetryClass {
        self.class
    }
}

/// Plain, verified chunks in the order in which they were asked for; ends after the first error.
pub type ChunkStream = mpsc::Receiver<Result<Bytes, TransferError>>;

/// Moves chunks between this client and a node. Implementations verify what they receive and bound what they hold.
///
/// `node` is the `host:port` of a node's gRPC, which names the node; `None` means whichever answers first.
#[async_trait]
pub trait ChunkTransfer: Send + Sync + std::fmt::Debug {
    /// Which of these chunks the node's site does not hold durably, each once, in the order asked.
    ///
    /// # Errors
    /// [`TransferError`]. Cancel safe.
    async fn missing(&self, node: Option<&str>, realm: &Realm, ids: &[ChunkId]) -> Result<Vec<ChunkId>, TransferError>;

    /// Stores chunks; they are durable on the node when it returns.
    ///
    /// # Errors
    /// [`TransferError`]; some may have been stored then, which harms nothing. Cancel safe in that sense.
    async fn upload(&self, node: Option<&str>, realm: &Realm, chunks: Vec<EncodedChunk>) -> Result<(), TransferError>;

    /// Reads chunks; the node fetches what it lacks, first from `origin`.
    ///
    /// # Errors
    /// [`TransferError`], at once or in the stream. Cancel safe: dropping the stream ends the transfer.
    async fn read(
        &self,
        realm: &Realm,
        ids: Vec<ChunkId>,
        origin: Option<SiteName>,
    ) -> Result<ChunkStream, TransferError>;
}
