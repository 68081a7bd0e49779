//! Chunks over QUIC: [`ChunkTransfer`] on the replicator's chunk client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use causeway_base::{ChunkId, ClusterId, NodeId, RetryClass, SiteName};
use causeway_dedup::{EncodedChunk, Realm};
use causeway_replicator::client::{About, ChunkClient, ClientError};
use causeway_replicator::counters::Counters;
use causeway_replicator::wire::Cause;
use causeway_transport::quic::{Endpoint, NoService, PeerAddr, QuicConfig};
use causeway_transport::{ExpectPeer, IdentityStore, PeerId};
use tokio::sync::mpsc;

use crate::transfer::{ChunkStream, ChunkTransfer, TransferError};

/// Chunks that a stream holds ready for a slow reader: at most so many MiB.
const CHUNKS_AHEAD: usize = 16;

/// A node as this client reaches it.
#[derive(Debug, Clone)]
pub struct NodeAddr {
    /// Its id.
    pub id: NodeId,
    /// Its site.
    pub site: SiteName,
    /// `host:port` of its gRPC, by which it is named.
    pub grpc: String,
    /// `host:port` of its QUIC.
    pub quic: String,
}

/// Chunks to and from the nodes of a cluster, in the order given: the first that can be reached.
#[derive(Debug)]
pub struct QuicTransfer {
    client: ChunkClient,
    nodes: Vec<(String, PeerAddr)>,
    endpoint: Endpoint,
}

impl QuicTransfer {
    /// A transfer with a UDP socket of its own. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The socket cannot be made, or the identity cannot be used for TLS.
    pub fn new(
        cluster: ClusterId,
        nodes: &[NodeAddr],
        identity: Arc<IdentityStore>,
        deadline: Duration,
    ) -> std::io::Result<Self> {
        // One socket serves one address family: the first node's.
        let first = nodes.first().map(|node| node.quic.as_str()).unwrap_or_default();
        let any: IpAddr = match first.parse::<SocketAddr>() {
            Ok(address) if address.is_ipv6() => Ipv6Addr::UNSPECIFIED.into(),
            _ => Ipv4Addr::UNSPECIFIED.into(),
        };
        let endpoint = Endpoint::bind((any, 0).into(), identity, QuicConfig::new(cluster), Arc::new(NoService))?;
        let client = ChunkClient::new(endpoint.clone(), Arc::new(Counters::default()), deadline);
        let peer = |node: &NodeAddr| {
            let expect = ExpectPeer::Exactly(PeerId::node(node.site.clone(), node.id));
            (node.grpc.clone(), PeerAddr { addr: node.quic.clone(), expect })
        };
        Ok(Self { client, nodes: nodes.iter().map(peer).collect(), endpoint })
    }

    /// The UDP endpoint, for its byte counts.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The nodes to ask, in order.
    fn candidates(&self, node: Option<&str>) -> impl Iterator<Item = &PeerAddr> {
        let chosen = self.nodes.iter().filter(move |(name, _)| node.is_none_or(|node| node == name));
        chosen.map(|(_, peer)| peer)
    }
}

fn about(realm: &Realm, cause: Cause) -> About {
    About { realm: realm.clone(), volume: None, cause }
}

fn failed(what: &str, peer: &PeerAddr, error: ClientError) -> TransferError {
    TransferError {
        what: format!("{what} (node at {})", peer.addr),
        reason: error.to_string(),
        class: error.retry_class(),
        source: std::error::Error::source(&error).map(|source| chain(source).into()),
    }
}

/// A chain of causes as one text: the causes themselves need not be kept.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn no_node(what: &str) -> TransferError {
    TransferError {
        what: what.to_owned(),
        reason: "no node of that name is configured".into(),
        class: RetryClass::Refused,
        source: None,
    }
}

/// Whether another node may do what this one did not.
fn elsewhere(error: &ClientError) -> bool {
    match error {
        ClientError::Call(_) => error.retry_class() != RetryClass::Refused,
        other => other.retry_class() == RetryClass::Transient,
    }
}

#[async_trait]
impl ChunkTransfer for QuicTransfer {
    async fn missing(&self, node: Option<&str>, realm: &Realm, ids: &[ChunkId]) -> Result<Vec<ChunkId>, TransferError> {
        let what = "ask which chunks are missing";
        let mut last = None;
        for peer in self.candidates(node) {
            match self.client.missing(peer, &about(realm, Cause::Query), ids).await {
                Ok(missing) => return Ok(missing),
                Err(error) if elsewhere(&error) => last = Some(failed(what, peer, error)),
                Err(error) => return Err(failed(what, peer, error)),
            }
        }
        Err(last.unwrap_or_else(|| no_node(what)))
    }

    async fn upload(&self, node: Option<&str>, realm: &Realm, chunks: Vec<EncodedChunk>) -> Result<(), TransferError> {
        let what = "upload chunks";
        let mut last = None;
        for peer in self.candidates(node) {
            let mut uploader = match self.client.upload(peer, &about(realm, Cause::Upload)).await {
                Ok(uploader) => uploader,
                Err(error) if elsewhere(&error) => {
                    last = Some(failed(what, peer, error));
                    continue;
                }
                Err(error) => return Err(failed(what, peer, error)),
            };
            for chunk in chunks {
                uploader.put(chunk).await.map_err(|error| failed(what, peer, error))?;
            }
            uploader.finish().await.map_err(|error| failed(what, peer, error))?;
            return Ok(());
        }
        Err(last.unwrap_or_else(|| no_node(what)))
    }

    async fn read(
        &self,
        realm: &Realm,
        ids: Vec<ChunkId>,
        origin: Option<SiteName>,
    ) -> Result<ChunkStream, TransferError> {
        let (out, stream) = mpsc::channel(CHUNKS_AHEAD);
        let peers: Vec<PeerAddr> = self.candidates(None).cloned().collect();
        let (client, about) = (self.client.clone(), about(realm, Cause::Read));
        // Ends when it has delivered all, failed, or the stream was dropped.
        tokio::spawn(async move {
            let mut delivered = 0;
            let mut last = None;
            for peer in &peers {
                let mut reader = client.read(peer, &about, origin.clone(), ids[delivered..].to_vec());
                let error = loop {
                    match reader.next().await {
                        Ok(Some(plain)) => {
                            delivered += 1;
                            if out.send(Ok(plain)).await.is_err() {
                                return;
                            }
                        }
                        Ok(None) => return,
                        Err(error) => break error,
                    }
                };
                // What one node cannot give, or no longer, another may.
                let retry = error.retry_class().may_retry_idempotent();
                last = Some(failed("read chunks", peer, error));
                if !retry {
                    break;
                }
            }
            let error = last.unwrap_or_else(|| no_node("read chunks"));
            // Nobody waits for it if this fails.
            let _ = out.send(Err(error)).await;
        });
        Ok(stream)
    }
}
