//! A CA, identities and servers for the tests.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use causeway_base::{ClusterId, NodeId, SystemClock};
use causeway_transport::quic::{Endpoint, Handler, PeerAddr, QuicConfig, RecvStream, SendStream};
use causeway_transport::{CertificateAuthority, ExpectPeer, Identity, IdentityStore, PeerId};

/// Long enough for a loaded machine; a test that reaches it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
pub(crate) const CLUSTER: ClusterId = ClusterId(0xcafe);

pub(crate) fn ca() -> CertificateAuthority {
    ca_of("test.example")
}

pub(crate) fn ca_of(trust: &str) -> CertificateAuthority {
    CertificateAuthority::create(trust.parse().unwrap(), Arc::new(SystemClock)).unwrap()
}

pub(crate) fn node(site: &str, node: u64) -> PeerId {
    PeerId::node(site.parse().unwrap(), NodeId(node))
}

pub(crate) fn identity(ca: &CertificateAuthority, peer: &PeerId) -> Arc<IdentityStore> {
    let issued = ca.issue(peer, Duration::from_secs(3600)).unwrap();
    IdentityStore::new(Identity::from_issued(&issued).unwrap(), Arc::new(SystemClock))
}

pub(crate) fn localhost() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

pub(crate) fn config() -> QuicConfig {
    QuicConfig::new(CLUSTER)
}

/// Answers with the caller's name, the service and the request, then echoes frames.
pub(crate) struct Echo;

#[async_trait]
impl Handler for Echo {
    async fn handle(&self, peer: PeerId, service: u16, request: Bytes, mut recv: RecvStream, mut send: SendStream) {
        let head = format!("{peer} {service} {}", String::from_utf8_lossy(&request));
        if send.write_frame(head.into()).await.is_err() {
            return;
        }
        loop {
            match recv.read_frame(1 << 20).await {
                Ok(Some(frame)) if send.write_frame(frame.clone()).await.is_ok() => {}
                Ok(None) => break,
                _ => return,
            }
        }
        let _ = send.finish();
    }
}

pub(crate) fn endpoint(identity: Arc<IdentityStore>) -> Endpoint {
    Endpoint::bind(localhost(), identity, config(), Arc::new(Echo)).unwrap()
}

pub(crate) fn to(endpoint: &Endpoint, expect: ExpectPeer) -> PeerAddr {
    PeerAddr { addr: endpoint.local_addr().unwrap().to_string(), expect }
}
