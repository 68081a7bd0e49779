//! Chunks to a node, for the threads of the chunk engine's pipeline.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use causeway_base::ChunkId;
use causeway_dedup::{EncodedChunk, Realm};
use tokio::runtime::Handle;

use crate::transfer::{ChunkTransfer, TransferError};

/// Asks a node what it lacks and uploads it, and counts. The calls block: they are for threads that are not the runtime's.
#[derive(Debug)]
pub(crate) struct NodeSink {
    chunks: Arc<dyn ChunkTransfer>,
    /// `None`: whichever answers first.
    node: Option<String>,
    realm: Realm,
    runtime: Handle,
    asked: AtomicU64,
    sent: AtomicU64,
    sent_bytes: AtomicU64,
    stored_bytes: AtomicU64,
}

fn none_came(id: ChunkId) -> TransferError {
    TransferError {
        what: format!("read chunk {id}"),
        reason: "the node sent nothing; try again".into(),
        class: causeway_base::RetryClass::Transient,
        source: None,
    }
}

/// What a [`NodeSink`] did.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sent {
    /// Chunks that the node had.
    pub(crate) known: u64,
    /// Chunks uploaded.
    pub(crate) chunks: u64,
    /// Their plain bytes.
    pub(crate) plain_bytes: u64,
    /// Their bytes as they travelled.
    pub(crate) stored_bytes: u64,
}

impl NodeSink {
    /// Must be called within a tokio runtime.
    pub(crate) fn new(chunks: Arc<dyn ChunkTransfer>, node: Option<String>, realm: Realm) -> Self {
        Self {
            chunks,
            node,
            realm,
            runtime: Handle::current(),
            asked: AtomicU64::default(),
            sent: AtomicU64::default(),
            sent_bytes: AtomicU64::default(),
            stored_bytes: AtomicU64::default(),
        }
    }

    pub(crate) fn missing(&self, ids: &[ChunkId]) -> Result<Vec<ChunkId>, TransferError> {
        self.asked.fetch_add(ids.len() as u64, Ordering::Relaxed);
        self.runtime.block_on(self.chunks.missing(self.node.as_deref(), &self.realm, ids))
    }

    pub(crate) fn store(&self, chunks: Vec<EncodedChunk>) -> Result<(), TransferError> {
        let count = chunks.len() as u64;
        let plain: u64 = chunks.iter().map(|chunk| u64::from(chunk.raw_len)).sum();
        let stored: u64 = chunks.iter().map(|chunk| chunk.payload.len() as u64).sum();
        self.runtime.block_on(self.chunks.upload(self.node.as_deref(), &self.realm, chunks))?;
        self.sent.fetch_add(count, Ordering::Relaxed);
        self.sent_bytes.fetch_add(plain, Ordering::Relaxed);
        self.stored_bytes.fetch_add(stored, Ordering::Relaxed);
        Ok(())
    }

    /// One chunk, plain and verified; the node fetches it if it lacks it.
    pub(crate) fn read(&self, id: ChunkId, origin: Option<causeway_base::SiteName>) -> Result<Bytes, TransferError> {
        self.runtime.block_on(async {
            let mut stream = self.chunks.read(&self.realm, vec![id], origin).await?;
            stream.recv().await.unwrap_or_else(|| Err(none_came(id)))
        })
    }

    pub(crate) fn counts(&self) -> Sent {
        let sent = self.sent.load(Ordering::Relaxed);
        Sent {
            known: self.asked.load(Ordering::Relaxed) - sent,
            chunks: sent,
            plain_bytes: self.sent_bytes.load(Ordering::Relaxed),
            stored_bytes: self.stored_bytes.load(Ordering::Relaxed),
        }
    }
}
