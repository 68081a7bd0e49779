//! The serving side: handshakes, hellos, calls, each bounded.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use bytes::Buf;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Incoming, ServerConfig, VarInt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::congestion::LaneSlot;
use super::endpoint::HEAD_BYTES;
use super::error::close;
use super::hello::{self, Hello, PROTOCOL};
use super::ledger::{Ledger, Side};
use super::shaper::Shaper;
use super::stream::{RecvStream, SendStream};
use super::{Handler, QuicConfig};
use crate::{IdentityStore, PeerId, PeerRefused, tls};

/// First datagrams kept of a handshake that nobody has looked at yet, in bytes: without 0-RTT they are few.
const INCOMING_BUFFER_BYTES: u64 = 64 << 10;
const INCOMING_BUFFER_BYTES_TOTAL: u64 = 16 << 20;

/// Where a verifier notes why it refused.
pub(super) type Noted = Arc<OnceLock<PeerRefused>>;

#[derive(Clone)]
pub(super) struct Server {
    identity: Arc<IdentityStore>,
    config: Arc<QuicConfig>,
    ledger: Arc<Ledger>,
    handler: Arc<dyn Handler>,
    stopping: CancellationToken,
    shaper: Arc<Shaper>,
    handshakes: Arc<Semaphore>,
}

impl Server {
    pub(super) fn new(
        identity: Arc<IdentityStore>,
        config: Arc<QuicConfig>,
        ledger: Arc<Ledger>,
        handler: Arc<dyn Handler>,
        shaper: Arc<Shaper>,
        stopping: CancellationToken,
    ) -> Self {
        let handshakes = Arc::new(Semaphore::new(config.handshakes_max));
        Self { identity, config, ledger, handler, stopping, shaper, handshakes }
    }

    /// The settings of a connection from `remote`; its verifier notes refusals in `noted`.
    pub(super) fn config(&self, noted: Noted, lane: LaneSlot, remote: IpAddr) -> io::Result<ServerConfig> {
        let tls = tls::server_config_noting(&self.identity, self.config.accept.clone(), PROTOCOL, noted)
            .map_err(io::Error::other)?;
        let crypto = QuicServerConfig::try_from(tls).map_err(io::Error::other)?;
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        config
            .transport_config(self.config.transport(remote, lane))
            .max_incoming(self.config.handshakes_max)
            .incoming_buffer_size(INCOMING_BUFFER_BYTES)
            .incoming_buffer_size_total(INCOMING_BUFFER_BYTES_TOTAL);
        Ok(config)
    }

    /// Accepts until the endpoint is told to stop, then waits for the connections, which wait for their calls.
    pub(super) async fn run(self, endpoint: quinn::Endpoint) {
        let mut connections = JoinSet::new();
        loop {
            let incoming = tokio::select! {
                incoming = endpoint.accept() => incoming,
                () = self.stopping.cancelled() => break,
            };
            let Some(incoming) = incoming else { break };
            while connections.try_join_next().is_some() {}
            let pending = self.config.handshakes_max - self.handshakes.available_permits();
            if !incoming.remote_address_validated() && pending >= self.config.handshakes_before_retry {
                // Cannot fail: an unproven address may always be asked to prove itself.
                let _ = incoming.retry();
                continue;
            }
            let full = self.ledger.count(Side::Incoming) + pending >= self.config.connections_max;
            match self.handshakes.clone().try_acquire_owned() {
                Ok(place) if !full => {
                    connections.spawn(self.clone().connection(incoming, place));
                }
                _ => incoming.refuse(),
            }
        }
        endpoint.set_server_config(None);
        while connections.join_next().await.is_some() {}
    }

    async fn connection(self, incoming: Incoming, place: OwnedSemaphorePermit) {
        let address = incoming.remote_address();
        let noted = Noted::default();
        let limit = self.config.handshake_timeout;
        let lane = LaneSlot::default();
        let accepted = match self.config(noted.clone(), lane.clone(), address.ip()) {
            Ok(config) => incoming.accept_with(Arc::new(config)),
            Err(error) => {
                tracing::error!(%error, "no TLS configuration for an incoming connection");
                return;
            }
        };
        let handshake = async { accepted?.await };
        let connection = match tokio::time::timeout(limit, handshake).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                match noted.get() {
                    Some(refused) => tracing::warn!(%address, %refused, "QUIC peer refused"),
                    None => tracing::debug!(%address, %error, "QUIC handshake failed"),
                }
                return;
            }
            Err(_) => return tracing::debug!(%address, "QUIC handshake timed out"),
        };
        let chain = connection.peer_identity().and_then(|any| any.downcast::<Vec<_>>().ok());
        let Ok(peer) = tls::peer_of_chain(chain.as_deref().map(Vec::as_slice)) else {
            return connection.close(VarInt::from_u32(close::PROTOCOL), b"no identity");
        };
        if let Err(error) = hello::answer(&connection, Hello::new(self.config.cluster), limit).await {
            return tracing::warn!(%address, %peer, %error, "QUIC peer refused");
        }
        let max = self.config.connections_per_peer_max;
        let Some(_counted) = self.ledger.open(&peer, Side::Incoming, &connection, max) else {
            tracing::warn!(%address, %peer, max, "QUIC peer has too many connections");
            return connection.close(VarInt::from_u32(close::TOO_MANY), b"too many connections");
        };
        let to_peer = self.config.links.lane(&peer);
        let _assigned = self.shaper.assign(connection.remote_address(), to_peer.clone());
        let _ = lane.set(to_peer);
        drop(place);
        self.serve(&connection, &peer).await;
    }

    /// Serves calls until the connection ends or the endpoint stops; then waits for those that run.
    async fn serve(&self, connection: &Connection, peer: &PeerId) {
        let mut calls = JoinSet::new();
        let lost = loop {
            let stream = tokio::select! {
                stream = connection.accept_bi() => stream,
                () = self.stopping.cancelled() => break false,
            };
            let Ok((send, recv)) = stream else { break true };
            while calls.try_join_next().is_some() {}
            let send = SendStream::new(send, self.config.progress_timeout);
            let recv = RecvStream::new(recv, self.config.progress_timeout);
            calls.spawn(call(self.handler.clone(), self.config.clone(), peer.clone(), send, recv));
        };
        if lost {
            // Their streams are dead. Work that must not be cut is a task of the handler's own.
            calls.abort_all();
        }
        while calls.join_next().await.is_some() {}
        if !lost {
            connection.close(VarInt::from_u32(close::SHUTDOWN), b"shutting down");
        }
    }
}

async fn call(
    handler: Arc<dyn Handler>,
    config: Arc<QuicConfig>,
    peer: PeerId,
    send: SendStream,
    mut recv: RecvStream,
) {
    let head = async {
        let mut head = recv.read_exact(HEAD_BYTES).await?;
        let (service, _reserved, len) = (head.get_u16_le(), head.get_u16_le(), head.get_u32_le());
        if len > config.request_bytes_max {
            return Ok(Err(len));
        }
        Ok::<_, super::StreamError>(Ok((service, recv.read_exact(len as usize).await?)))
    };
    match tokio::time::timeout(config.request_timeout, head).await {
        Ok(Ok(Ok((service, request)))) => handler.handle(peer, service, request, recv, send).await,
        Ok(Ok(Err(len))) => {
            tracing::warn!(%peer, len, "request too large");
            recv.refuse(close::TOO_LARGE);
            send.refuse(close::TOO_LARGE);
        }
        Ok(Err(error)) => tracing::debug!(%peer, %error, "no head of a call"),
        Err(_) => {
            recv.refuse(close::STALLED);
            send.refuse(close::STALLED);
        }
    }
}
