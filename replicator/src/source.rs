//! Where chunks are fetched from.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use causeway_base::{ChunkId, SiteName, VolumeId};
use causeway_dedup::Realm;
use causeway_replicator_core::Source;
use causeway_repository::archive::ChunkArchive;
use causeway_transport::quic::PeerAddr;

use crate::bases::BaseReader;
use crate::client::{ChunkClient, ClientError};
use crate::counters::{Account, Counters, Place};
use crate::local::{LocalChunks, blocking};
use crate::wire::{Bases, Cause, ChunkRequest, Form, ReadBase, Received};

/// What is asked of a source at once.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Where the ids are names.
    pub realm: Realm,
    /// For the books.
    pub volume: Option<VolumeId>,
    /// What for.
    pub cause: Cause,
    /// The chunks, in the order in which they should come.
    pub ids: Vec<ChunkId>,
    /// Their plain lengths, where known.
    pub lens: Vec<Option<u32>>,
    /// What they may be sent against: chunks of `held_in`. A source that makes no deltas ignores it.
    pub bases: Bases,
    /// Whether they may also come against chunks that the source chooses, which may be here or not.
    pub any_base: bool,
    /// Where the bases are read.
    pub held_in: Arc<dyn LocalChunks>,
}

/// Takes what comes. Called on a blocking thread only.
pub trait Consumer: Send {
    /// Takes one; false when nothing more is wanted.
    fn take(&mut self, received: Received) -> bool;

    /// Called once after the last, also of a transfer that broke off; not if the transfer was cancelled between two.
    fn finish(&mut self) {}
}

impl<F: FnMut(Received) -> bool + Send> Consumer for F {
    fn take(&mut self, received: Received) -> bool {
        self(received)
    }
}

impl Consumer for Box<dyn Consumer> {
    fn take(&mut self, received: Received) -> bool {
        (**self).take(received)
    }

    fn finish(&mut self) {
        (**self).finish();
    }
}

/// A place that may have chunks.
#[async_trait]
pub trait ChunkSource: Send + Sync + Debug {
    /// Gives each chunk of `ask`, verified, to `consume`, or says that it is missing. Finished before this
    /// returns.
    ///
    /// Cancel safe: what was consumed stays so.
    ///
    /// # Errors
    /// The source failed; what was consumed before is good.
    async fn fetch(&self, ask: Ask, consume: Box<dyn Consumer>) -> Result<(), SourceError>;
}

/// A source failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A node.
    #[error("fetch from {address}")]
    Node {
        /// Which.
        address: String,
        /// Why.
        source: ClientError,
    },
    /// The repository.
    #[error("fetch from the repository")]
    Repository(#[from] causeway_repository::Error),
    /// A worker of this process.
    #[error(transparent)]
    Local(#[from] crate::local::LocalError),
}

/// A source with its figures for the planner; `figures.id` is set by whoever numbers the sources of a run.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The site, or the repository.
    pub place: Place,
    /// For the planner.
    pub figures: Source,
    /// The source.
    pub source: Arc<dyn ChunkSource>,
}

/// Who may have chunks of a volume, of the moment. Nodes come and go; each run asks anew.
pub trait Sources: Send + Sync + Debug {
    /// The sources for a volume (`None`: not known which), this node not among them. Those of `origin` are marked as
    /// complete.
    fn candidates(&self, volume: Option<VolumeId>, origin: Option<&SiteName>) -> Vec<Candidate>;
}

/// Another node's chunk service.
#[derive(Clone, Debug)]
pub struct NodeSource {
    client: ChunkClient,
    to: PeerAddr,
    form: Form,
}

impl NodeSource {
    /// Chunks of a node, in the form that suits the link to it.
    #[must_use]
    pub fn new(client: ChunkClient, to: PeerAddr, form: Form) -> Self {
        Self { client, to, form }
    }
}

#[async_trait]
impl ChunkSource for NodeSource {
    async fn fetch(&self, ask: Ask, consume: Box<dyn Consumer>) -> Result<(), SourceError> {
        let Ask { realm, volume, cause, ids, lens, bases, any_base, held_in } = ask;
        let mut reader = BaseReader::new(held_in, realm.clone());
        let read: ReadBase = Box::new(move |chunks| reader.join(chunks));
        let name = realm.name.clone();
        let request = ChunkRequest { realm: name, volume, cause, origin: None, form: self.form, ids, bases, any_base };
        let fetched = self.client.fetch(&self.to, realm, request, &lens, Some(read), consume).await;
        fetched.map(|_| ()).map_err(|source| SourceError::Node { address: self.to.addr.clone(), source })
    }
}

/// The chunks of a repository.
#[derive(Clone, Debug)]
pub struct ArchiveSource {
    archive: ChunkArchive,
    counters: Arc<Counters>,
}

/// Chunks asked of the repository at once: neighbours in a pack share a request, and at most 64 MiB are in memory.
const ARCHIVE_BATCH: usize = 64;

impl ArchiveSource {
    /// Chunks of an archive.
    #[must_use]
    pub fn new(archive: ChunkArchive, counters: Arc<Counters>) -> Self {
        Self { archive, counters }
    }
}

#[async_trait]
impl ChunkSource for ArchiveSource {
    async fn fetch(&self, ask: Ask, mut consume: Box<dyn Consumer>) -> Result<(), SourceError> {
        let account = Account { place: Place::Repository, volume: ask.volume, cause: ask.cause };
        let mut ended = Ok(());
        for (first, ids) in (0..).step_by(ARCHIVE_BATCH).zip(ask.ids.chunks(ARCHIVE_BATCH)) {
            let found = match self.archive.get_many(ids).await {
                Ok(found) => found,
                Err(error) => {
                    ended = Err(error.into());
                    break;
                }
            };
            let (realm, counters, account) = (ask.realm.clone(), self.counters.clone(), account.clone());
            let (go_on, returned) = blocking(move || {
                let go_on = (first..).zip(found).all(|(index, chunk)| {
                    let Some(encoded) = chunk else { return consume.take(Received::Missing { index }) };
                    let Ok(plain) = encoded.decode(&realm) else { return consume.take(Received::Corrupt { index }) };
                    counters.add(&account, |bytes| {
                        bytes.chunk_received += encoded.payload.len() as u64;
                        bytes.plain_received += plain.len() as u64;
                        bytes.chunks_received += 1;
                    });
                    consume.take(Received::Chunk { index, plain, encoded: Some(encoded) })
                });
                (go_on, consume)
            })
            .await?;
            consume = returned;
            if !go_on {
                break;
            }
        }
        blocking(move || consume.finish()).await?;
        ended
    }
}
