//! The other nodes: channels to them, and Raft's link over those.
//!
//! A channel is made for exactly one node: its certificate must name the node and site that the catalog has. Raft has a
//! channel of its own, so that a heartbeat never waits behind a large forwarded batch on the same connection.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use causeway_base::{ClusterId, NodeId, RetryClass, SiteName, StoreId};
use causeway_namespace_core::root::NodeRecord;
use causeway_namespace_raft::link::{
    Incoming, LinkError, MESSAGE_BYTES_MAX as RAFT_BYTES_MAX, Outgoing, PeerLink, PeerRequest,
};
use causeway_proto::metadata;
use causeway_proto::peer::v1::StreamRequest;
use causeway_proto::peer::v1::peer_client::PeerClient as PeerStub;
use causeway_proto::v1::admin_client::AdminClient as AdminStub;
use causeway_transport::grpc::{self, ChannelConfig, MESSAGE_BYTES_MAX};
use causeway_transport::net::Dial;
use causeway_transport::{ExpectPeer, IdentityStore, PeerId};
use futures::{Stream, StreamExt};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::metered::{Counter, Metered};
use crate::rpc;
use crate::status::WireBytes;
use crate::wire;

/// Room for the fields around a Raft payload.
const ENVELOPE_BYTES: usize = 64;
/// Time to connect to a peer: a dead address must not eat the deadline of what is forwarded to it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Channels to the other nodes of the cluster.
pub(crate) struct Peers {
    own: NodeId,
    cluster: ClusterId,
    store: StoreId,
    identity: Arc<IdentityStore>,
    network: Arc<dyn Dial>,
    peers: RwLock<BTreeMap<NodeId, Peer>>,
}

#[derive(Clone)]
struct Peer {
    site: SiteName,
    address: String,
    raft: Channel,
    control: Channel,
    counter: Arc<Counter>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").field("own", &self.own).finish_non_exhaustive()
    }
}

impl Peers {
    pub(crate) fn new(
        own: NodeId,
        cluster: ClusterId,
        store: StoreId,
        identity: Arc<IdentityStore>,
        network: Arc<dyn Dial>,
    ) -> Self {
        Self { own, cluster, store, identity, network, peers: RwLock::default() }
    }

    /// Takes over the nodes' sites and addresses; channels to unchanged ones stay. Nodes that are not named stay too.
    pub(crate) fn update<'a>(&self, nodes: impl IntoIterator<Item = &'a NodeRecord>) {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        for node in nodes.into_iter().filter(|node| node.id != self.own) {
            let known = peers.get(&node.id);
            if known.is_some_and(|known| known.site == node.site && known.address == node.grpc) {
                continue;
            }
            // A moved node keeps its count.
            let counter = known.map(|known| known.counter.clone()).unwrap_or_default();
            match self.peer(node, counter) {
                Ok(peer) => {
                    peers.insert(node.id, peer);
                }
                Err(error) => tracing::error!(node = %node.id, %error, "no TLS configuration towards a peer"),
            }
        }
    }

    fn peer(&self, node: &NodeRecord, counter: Arc<Counter>) -> Result<Peer, String> {
        let config = ChannelConfig { connect_timeout: CONNECT_TIMEOUT, ..ChannelConfig::default() };
        let network: Arc<dyn Dial> = Arc::new(Metered { network: self.network.clone(), counter: counter.clone() });
        let channel = || {
            let expect = ExpectPeer::Exactly(PeerId::node(node.site.clone(), node.id));
            grpc::channel_with(&node.grpc, &self.identity, expect, config, network.clone())
                .map_err(|error| error.to_string())
        };
        Ok(Peer { site: node.site.clone(), address: node.grpc.clone(), raft: channel()?, control: channel()?, counter })
    }

    /// Bytes on the connections that this node made, since its start.
    pub(crate) fn wire(&self) -> Vec<WireBytes> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        let bytes = |(node, peer): (&NodeId, &Peer)| WireBytes {
            peer: PeerId::node(peer.site.clone(), *node).to_string(),
            protocol: "grpc".to_owned(),
            sent: peer.counter.sent(),
            received: peer.counter.received(),
        };
        peers.iter().map(bytes).collect()
    }

    fn known(&self, node: NodeId) -> Result<Peer, LinkError> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.get(&node).cloned().ok_or_else(|| LinkError::Unreachable(format!("no address of {node} is known")))
    }

    /// For Raft messages.
    fn raft(&self, node: NodeId) -> Result<PeerStub<Channel>, LinkError> {
        let limit = RAFT_BYTES_MAX + ENVELOPE_BYTES;
        let stub = PeerStub::new(self.known(node)?.raft);
        Ok(stub.max_decoding_message_size(limit).max_encoding_message_size(limit))
    }

    /// For everything else between nodes.
    pub(crate) fn control(&self, node: NodeId) -> Result<PeerStub<Channel>, LinkError> {
        Ok(PeerStub::new(self.known(node)?.control).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// The client API of a node.
    pub(crate) fn admin(&self, node: NodeId) -> Result<AdminStub<Channel>, LinkError> {
        Ok(AdminStub::new(self.known(node)?.control).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// A request with the metadata of a node.
    pub(crate) fn request<T>(&self, message: T, deadline: Option<Duration>) -> Request<T> {
        let mut request = Request::new(message);
        rpc::stamp(&mut request, self.cluster, deadline);
        rpc::put(request.metadata_mut(), metadata::NODE_ID, &self.own.0.to_string());
        rpc::put(request.metadata_mut(), metadata::STORE_ID, &self.store.to_string());
        request
    }
}

/// What a failed call to a peer means.
pub(crate) fn link_error(status: &Status) -> LinkError {
    if let Some(lineage) = rpc::fenced_by(status) {
        return LinkError::Fenced(lineage);
    }
    match (rpc::class_of(status), status.code()) {
        (RetryClass::Refused, _) => LinkError::Refused(rpc::message_of(status)),
        (_, Code::DeadlineExceeded | Code::Cancelled) => LinkError::Timeout,
        _ => LinkError::Unreachable(rpc::message_of(status)),
    }
}

#[async_trait]
impl PeerLink for Peers {
    async fn call(&self, to: NodeId, request: PeerRequest, deadline: Duration) -> Result<Bytes, LinkError> {
        let request = self.request(wire::call_request(request), Some(deadline));
        let answer = self.raft(to)?.call(request).await.map_err(|status| link_error(&status))?;
        Ok(answer.into_inner().payload)
    }

    async fn open(
        &self,
        to: NodeId,
        request: PeerRequest,
        outgoing: Outgoing,
        deadline: Duration,
    ) -> Result<Incoming, LinkError> {
        let request = self.request(Outbound { open: Some(wire::stream_open(request)), outgoing }, None);
        let mut stub = self.raft(to)?;
        let opened = tokio::time::timeout(deadline, stub.stream(request)).await;
        let stream = opened.map_err(|_| LinkError::Timeout)?.map_err(|status| link_error(&status))?.into_inner();
        Ok(stream.map(|item| item.map(|answer| answer.message).map_err(|status| link_error(&status))).boxed())
    }
}

/// The request side of a Raft stream: what it is about, then the messages.
struct Outbound {
    open: Option<StreamRequest>,
    outgoing: Outgoing,
}

impl Stream for Outbound {
    type Item = StreamRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<StreamRequest>> {
        match self.open.take() {
            Some(open) => Poll::Ready(Some(open)),
            None => self.outgoing.poll_next_unpin(cx).map(|message| message.map(wire::stream_message)),
        }
    }
}
