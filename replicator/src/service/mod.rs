//! The chunk service of a node: what other nodes and clients ask over QUIC.
//!
//! Each call has a task, made by the transport; disk, hashing and compression run on blocking threads that hand frames to
//! it through bounded channels. Memory of a call: a fetch holds the compressor's window (4 MiB by default) and a few
//! frames; an upload at most [`upload::IN_FLIGHT_BYTES_MAX`]; a read at most a window of chunks. The number of calls at
//! once is bounded by [`ServiceLimits`].

mod delta;
mod fetch;
mod missing;
mod read;
pub mod upload;

use std::fmt::Debug;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use causeway_base::{ChunkId, RetryClass, SiteName, VolumeId};
use causeway_dedup::Realm;
use causeway_dedup::store::gc::Lease;
use causeway_transport::PeerId;
use causeway_transport::quic::{Handler, RecvStream, SendStream, StreamError, close};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::counters::{Account, Counters, Place};
use crate::exchange::{self, Tally};
use crate::local::{LocalChunks, LocalError, Realms};
use crate::wire::{Cause, ChunkRequest, Frame, Refusal, service};

/// Bounds of a [`ChunkService`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceLimits {
    /// Fetches at once; each may hold two windows of the compressor (8 MiB by default).
    pub fetches_max: usize,
    /// Uploads at once.
    pub uploads_max: usize,
    /// Reads at once; each may hold two windows of chunks.
    pub reads_max: usize,
    /// Queries at once.
    pub queries_max: usize,
    /// How long a call waits for its turn before it is told to come back.
    pub turn_timeout: Duration,
    /// How long a read waits for chunks from elsewhere.
    pub ensure_timeout: Duration,
    /// An upload that sends nothing for this long is cut.
    pub upload_idle_timeout: Duration,
    /// How long what a caller was told is here, or has uploaded, is kept for the commit that should follow.
    pub lease_linger: Duration,
    /// Whether file data may come here. `false` at a witness: uploads and reads are sent to other nodes.
    pub holds_data: bool,
}

impl Default for ServiceLimits {
    fn default() -> Self {
        Self {
            fetches_max: 8,
            uploads_max: 16,
            reads_max: 32,
            queries_max: 64,
            turn_timeout: Duration::from_secs(10),
            ensure_timeout: Duration::from_secs(30),
            upload_idle_timeout: Duration::from_secs(120),
            lease_linger: Duration::from_secs(3600),
            holds_data: true,
        }
    }
}

/// Chunks that are to be had here.
#[derive(Clone, Debug)]
pub struct Needed {
    /// Their realm.
    pub realm: Realm,
    /// The volume, for the books.
    pub volume: Option<VolumeId>,
    /// What for.
    pub cause: Cause,
    /// The site that should have them.
    pub origin: Option<SiteName>,
    /// Their names.
    pub ids: Vec<ChunkId>,
}

/// Brings chunks here that are elsewhere.
#[async_trait]
pub trait ReadThrough: Send + Sync + Debug {
    /// Returns when all are in the local store (not necessarily durable).
    ///
    /// Cancel safe: what arrived is kept.
    ///
    /// # Errors
    /// A [`Refusal`] that names a chunk that could not be had, and why.
    async fn ensure(&self, needed: Needed, deadline: Duration) -> Result<(), Refusal>;
}

/// A [`ReadThrough`] that is told later what it is: an endpoint needs its handler before there is a client to read through
/// with. Until then, and after that is dropped, nothing is to be had elsewhere.
#[derive(Debug, Default)]
pub struct Later(OnceLock<Weak<dyn ReadThrough>>);

impl Later {
    /// Says what it is; only the first call counts. Held weakly, so that no cycle keeps an endpoint alive.
    pub fn set(&self, elsewhere: &Arc<dyn ReadThrough>) {
        let _ = self.0.set(Arc::downgrade(elsewhere));
    }
}

#[async_trait]
impl ReadThrough for Later {
    async fn ensure(&self, needed: Needed, deadline: Duration) -> Result<(), Refusal> {
        match self.0.get().and_then(Weak::upgrade) {
            Some(elsewhere) => elsewhere.ensure(needed, deadline).await,
            None => {
                Err(Refusal { class: RetryClass::Transient, message: "the node is starting or stopping".to_owned() })
            }
        }
    }
}

/// Serves chunks. See the module's documentation.
#[derive(Debug)]
pub struct ChunkService {
    local: Arc<dyn LocalChunks>,
    realms: Arc<dyn Realms>,
    elsewhere: Arc<dyn ReadThrough>,
    counters: Arc<Counters>,
    limits: ServiceLimits,
    fetches: Semaphore,
    uploads: Semaphore,
    reads: Semaphore,
    queries: Semaphore,
}

/// Why a call ended before its time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cut {
    /// The caller is told.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The caller is gone.
    #[error(transparent)]
    Gone(#[from] StreamError),
}

impl From<LocalError> for Cut {
    fn from(error: LocalError) -> Self {
        Self::Refused(Refusal { class: error.class, message: error.reason })
    }
}

/// One call, past its checks.
pub(crate) struct Call {
    pub(crate) realm: Realm,
    pub(crate) request: ChunkRequest,
    pub(crate) tally: Tally,
    pub(crate) send: SendStream,
    /// Whoever asks may commit what it is told is here.
    pub(crate) lease: Option<Lease>,
}

impl ChunkService {
    /// A service over a store.
    #[must_use]
    pub fn new(
        local: Arc<dyn LocalChunks>,
        realms: Arc<dyn Realms>,
        elsewhere: Arc<dyn ReadThrough>,
        counters: Arc<Counters>,
        limits: ServiceLimits,
    ) -> Self {
        Self {
            local,
            realms,
            elsewhere,
            counters,
            limits,
            fetches: Semaphore::new(limits.fetches_max),
            uploads: Semaphore::new(limits.uploads_max),
            reads: Semaphore::new(limits.reads_max),
            queries: Semaphore::new(limits.queries_max),
        }
    }

    async fn turn<'a>(&self, turns: &'a Semaphore) -> Result<SemaphorePermit<'a>, Refusal> {
        let busy = || Refusal { class: RetryClass::Transient, message: "too many calls at once".to_owned() };
        timeout(self.limits.turn_timeout, turns.acquire()).await.map_err(|_| busy())?.map_err(|_| busy())
    }

    fn admit(&self, peer: &PeerId, service: u16, request: &[u8]) -> Result<(ChunkRequest, Realm), Refusal> {
        let refuse = |message: String| Refusal { class: RetryClass::Refused, message };
        let request = ChunkRequest::decode(request).map_err(|error| refuse(format!("malformed request: {error}")))?;
        if !self.limits.holds_data && matches!(service, service::UPLOAD | service::READ) {
            let message = "this node is a witness and holds no file data: ask another".to_owned();
            return Err(Refusal { class: RetryClass::Transient, message });
        }
        if service == service::FETCH && peer.node_id().is_none() {
            return Err(refuse(format!("{peer} is no node: clients read, they do not fetch")));
        }
        // Whoever may not use a realm is not told whether there is one. And a node that has just started does not know
        // its realms yet: the same answer must not make a caller give up.
        let realm = self.realms.realm(&request.realm).filter(|_| self.realms.allows(peer, &request.realm));
        let realm = realm.ok_or_else(|| Refusal {
            class: RetryClass::Transient,
            message: format!("no realm {:?} for {peer} (the node may be starting)", request.realm),
        })?;
        Ok((request, realm))
    }
}

#[async_trait]
impl Handler for ChunkService {
    async fn handle(&self, peer: PeerId, service: u16, request: Bytes, recv: RecvStream, mut send: SendStream) {
        if !(service::FETCH..=service::READ).contains(&service) {
            send.refuse(close::NO_SERVICE);
            return;
        }
        let account = Account { place: Place::from(&peer), volume: None, cause: Cause::Query };
        let mut tally = Tally { counters: self.counters.clone(), account };
        let len = request.len();
        let (request, realm) = match self.admit(&peer, service, &request) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                tracing::warn!(%peer, service, %refusal, "call refused");
                if exchange::write(&mut send, &Frame::Refused(refusal), &tally).await.is_ok() {
                    let _ = send.finish();
                }
                return;
            }
        };
        tally.account.volume = request.volume;
        tally.account.cause = match service {
            service::UPLOAD => Cause::Upload,
            service::MISSING => Cause::Query,
            service::READ => Cause::Read,
            _ => request.cause,
        };
        tally.request_received(len);
        let lease = match service {
            service::UPLOAD | service::MISSING => {
                self.local.lease(Some(&format!("{peer} {}", realm.name)), self.limits.lease_linger)
            }
            _ => None,
        };
        let call = Call { realm, request, tally, send, lease };
        let cut = match service {
            service::FETCH => self.fetch(call).await,
            service::UPLOAD => self.upload(call, recv).await,
            service::MISSING => self.missing(call).await,
            _ => self.read(call).await,
        };
        if let Err(cut) = cut {
            tracing::debug!(%peer, service, %cut, "call ended early");
        }
    }
}

/// Tells the caller why, and ends the answer.
pub(crate) async fn refuse(mut send: SendStream, refusal: Refusal, tally: &Tally) -> Result<(), Cut> {
    exchange::write(&mut send, &Frame::Refused(refusal.clone()), tally).await?;
    send.finish()?;
    Err(refusal.into())
}
