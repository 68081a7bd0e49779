//! The seam to the network: how bytes reach a peer node.
//!
//! A link authenticates its peer, so that the receiving side can tell `Groups::handle` who asks. It needs no
//! knowledge of Raft. A message may be lost, doubled or delayed on a call; on a stream messages arrive in order or the
//! stream ends.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use causeway_base::{NodeId, VolumeId};
use causeway_namespace_core::lineage::Lineage;

/// Largest message in bytes, either way. A link refuses larger ones before it allocates for them.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// A message to a group of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRequest {
    /// The group it is for.
    pub group: VolumeId,
    /// The line of the group's history that the sender follows.
    pub lineage: Lineage,
    /// What it is; a `Groups` of the same protocol version knows it. Opaque to the link.
    pub kind: u8,
    /// At most [`MESSAGE_BYTES_MAX`].
    pub payload: Bytes,
}

/// Messages of one direction of a stream to a peer.
pub type Outgoing = BoxStream<'static, Bytes>;

/// Messages that come back on a stream; it ends after the first error.
pub type Incoming = BoxStream<'static, Result<Bytes, LinkError>>;

/// Why a peer did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The peer could not be reached; the request may have arrived if the connection broke under it.
    #[error("peer is unreachable: {0}")]
    Unreachable(String),
    /// No answer before the deadline; the request may have arrived.
    #[error("no answer from the peer before the deadline")]
    Timeout,
    /// The peer answered that it will not: another cluster, an unknown group, a bad message.
    #[error("peer refused: {0}")]
    Refused(String),
    /// The peer follows a greater line of the group: the sender's is fenced.
    #[error("the peer follows line {0} of the group, this node's is fenced")]
    Fenced(Lineage),
}

/// How bytes reach a peer node. Implemented over gRPC by the namespace service and in memory by tests.
#[async_trait]
pub trait PeerLink: Send + Sync + Debug + 'static {
    /// Sends one request and waits for its answer.
    ///
    /// Cancel safety: may be dropped at any time; the request may then have arrived or not.
    ///
    /// # Errors
    /// [`LinkError`]; after `Unreachable` and `Timeout` the request may have arrived.
    async fn call(&self, to: NodeId, request: PeerRequest, deadline: Duration) -> Result<Bytes, LinkError>;

    /// Opens a stream: the peer's `Groups::handle_stream` gets `request` and then the messages of `outgoing`, in
    /// order, and what it answers comes back in order. `outgoing` is polled only as fast as the peer takes (a bounded number
    /// of messages in flight). The stream ends when either side ends its direction, and when the connection breaks.
    ///
    /// Cancel safety: dropping the future or the returned stream closes both directions.
    ///
    /// # Errors
    /// [`LinkError`] if it could not be opened within `deadline`, which does not bound the life of the stream.
    async fn open(
        &self,
        to: NodeId,
        request: PeerRequest,
        outgoing: Outgoing,
        deadline: Duration,
    ) -> Result<Incoming, LinkError>;
}
