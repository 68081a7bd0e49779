//! Calls of the chunk service: used by replicas among themselves, and by clients.

mod answer;
mod error;
mod missing;
mod read;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use causeway_base::{ChunkId, VolumeId};
use causeway_dedup::Realm;
use causeway_transport::ExpectPeer;
use causeway_transport::quic::{Endpoint, PeerAddr, RecvStream, SendStream};

use crate::counters::{Account, Counters, Place};
use crate::exchange::Tally;
use crate::source::Consumer;
use crate::wire::{Bases, Cause, ChunkRequest, EndCounts, ReadBase, Receiver, service};

pub use error::ClientError;
pub use read::ChunkReader;
pub use upload::Uploader;

/// Calls the chunk service of nodes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ChunkClient {
    endpoint: Endpoint,
    counters: Arc<Counters>,
    deadline: Duration,
}

/// What a call is about, beside its chunks.
#[derive(Clone, Debug)]
pub struct About {
    /// The realm in which the ids are names.
    pub realm: Realm,
    /// The volume, for the books.
    pub volume: Option<VolumeId>,
    /// What for.
    pub cause: Cause,
}

impl ChunkClient {
    /// A client that begins each call within `deadline`; waits within a call are bounded by the endpoint's progress
    /// timeout.
    #[must_use]
    pub fn new(endpoint: Endpoint, counters: Arc<Counters>, deadline: Duration) -> Self {
        Self { endpoint, counters, deadline }
    }

    /// The counts to which this client adds.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Fetches what a node has of `request.ids`; `read_base` gives the chunks that the request offers as bases (without it,
    /// none are offered); `lens` are their plain lengths, where known. Each chunk is verified, and
    /// given to `consume` (a closure will do) on a blocking thread in the order of arrival, until that answers false.
    ///
    /// Cancel safe: what was consumed stays so; the rest is not sent.
    ///
    /// # Errors
    /// [`ClientError`]; what was consumed before is good all the same.
    pub async fn fetch(
        &self,
        to: &PeerAddr,
        realm: Realm,
        mut request: ChunkRequest,
        lens: &[Option<u32>],
        read_base: Option<ReadBase>,
        consume: impl Consumer + 'static,
    ) -> Result<EndCounts, ClientError> {
        let about = About { realm: realm.clone(), volume: request.volume, cause: request.cause };
        let wanted = request.ids.iter().copied().zip(lens.iter().copied().chain(std::iter::repeat(None))).collect();
        let tally = self.tally(to, &about);
        if read_base.is_none() {
            request.bases = Bases::default();
            request.any_base = false;
        }
        let any_base = request.any_base;
        let (send, recv) = self.call(to, service::FETCH, request.encode()?, &tally).await?;
        send.finish()?;
        let mut receiver = Receiver::new(realm, wanted);
        if let Some(read) = read_base {
            receiver = receiver.with_bases(request.bases, any_base, read);
        }
        answer::run(recv, receiver, tally, consume).await
    }

    async fn call(
        &self,
        to: &PeerAddr,
        service: u16,
        request: Bytes,
        tally: &Tally,
    ) -> Result<(SendStream, RecvStream), ClientError> {
        tally.request_sent(request.len());
        Ok(self.endpoint.call(to, service, request, self.deadline).await?)
    }

    fn tally(&self, to: &PeerAddr, about: &About) -> Tally {
        let place = match &to.expect {
            ExpectPeer::Exactly(peer) => Place::from(peer),
            ExpectPeer::AnyNodeOfSite(site) => Place::Site(site.clone()),
            ExpectPeer::AnyNode | ExpectPeer::Any => Place::Clients,
        };
        let account = Account { place, volume: about.volume, cause: about.cause };
        Tally { counters: self.counters.clone(), account }
    }
}

/// A request of `about` for `ids`.
fn request(about: &About, ids: &[ChunkId]) -> ChunkRequest {
    ChunkRequest {
        realm: about.realm.name.clone(),
        volume: about.volume,
        cause: about.cause,
        origin: None,
        form: crate::wire::Form::Stored,
        ids: ids.to_vec(),
        bases: Bases::default(),
        any_base: false,
    }
}
