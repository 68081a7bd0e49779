//! The endpoint: serves calls and makes them.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, VarInt};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::congestion::LaneSlot;
use super::error::{CallError, close};
use super::hello::{self, Hello, HelloError, PROTOCOL};
use super::ledger::{Ledger, PeerTraffic, Side};
use super::pool::{Link, PeerAddr, Pool};
use super::server::Server;
use super::shaper::Shaper;
use super::stream::{RecvStream, SendStream};
use super::{Handler, QuicConfig, UdpSettings, bind_udp, keys};
use crate::net::{Resolve, SystemResolver};
use crate::tls::{self, SERVER_NAME};
use crate::{IdentityStore, PeerId};

/// Bytes of a call's head before the request: service u16, reserved u16, length u32, little-endian.
pub(super) const HEAD_BYTES: usize = 8;

/// A QUIC endpoint of this node. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Endpoint(Arc<Inner>);

struct Inner {
    quic: quinn::Endpoint,
    identity: Arc<IdentityStore>,
    config: Arc<QuicConfig>,
    resolver: Arc<dyn Resolve>,
    ledger: Arc<Ledger>,
    shaper: Arc<Shaper>,
    pool: Pool,
    stopping: CancellationToken,
    serving: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    /// Without a shutdown, serving ends with the last clone.
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("local", &self.quic.local_addr().ok()).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// Binds a UDP socket and serves on it. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Any I/O error of binding, or of the TLS configuration.
    pub fn bind(
        address: SocketAddr,
        identity: Arc<IdentityStore>,
        config: QuicConfig,
        handler: Arc<dyn Handler>,
    ) -> io::Result<Self> {
        let runtime: Arc<dyn Runtime> = Arc::new(TokioRuntime);
        let socket = bind_udp(address, UdpSettings::default(), &runtime)?;
        Self::with_socket(socket, runtime, Arc::new(SystemResolver), identity, config, handler)
    }

    /// As [`Endpoint::bind`], over any socket, runtime and name service: how a simulation enters. Must be called within
    /// a tokio runtime.
    ///
    /// # Errors
    /// As [`Endpoint::bind`].
    pub fn with_socket(
        socket: Arc<dyn AsyncUdpSocket>,
        runtime: Arc<dyn Runtime>,
        resolver: Arc<dyn Resolve>,
        identity: Arc<IdentityStore>,
        config: QuicConfig,
        handler: Arc<dyn Handler>,
    ) -> io::Result<Self> {
        let config = Arc::new(config);
        let ledger = Arc::new(Ledger::default());
        let stopping = CancellationToken::new();
        let shaper = Shaper::new(socket, runtime.clone());
        let server =
            Server::new(identity.clone(), config.clone(), ledger.clone(), handler, shaper.clone(), stopping.clone());
        let endpoint_config = keys::endpoint_config(identity.current().reset_secret(), config.seed);
        let server_config = server.config(Arc::default(), Arc::default(), std::net::Ipv4Addr::UNSPECIFIED.into())?;
        let shaped = shaper.clone();
        let quic = quinn::Endpoint::new_with_abstract_socket(endpoint_config, Some(server_config), shaped, runtime)?;
        let serving = std::sync::Mutex::new(Some(tokio::spawn(server.run(quic.clone()))));
        Ok(Self(Arc::new(Inner {
            quic,
            identity,
            config,
            resolver,
            ledger,
            shaper,
            pool: Pool::default(),
            stopping,
            serving,
        })))
    }

    /// The address of the socket.
    ///
    /// # Errors
    /// As the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.quic.local_addr()
    }

    /// Begins a call: connects if need be, opens a stream and sends its head. Says nothing of whether the service has
    /// seen it; the streams do. A connection that turns out to be lost is remade once.
    ///
    /// `deadline` bounds all of this; waits on the streams are bounded by the progress timeout.
    ///
    /// Cancel safe: a half-sent head is reset, and a connection that is being made is finished for others only if they
    /// wait for it.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call(
        &self,
        to: &PeerAddr,
        service: u16,
        request: Bytes,
        deadline: Duration,
    ) -> Result<(SendStream, RecvStream), CallError> {
        let max = self.0.config.request_bytes_max;
        let len = u32::try_from(request.len()).ok().filter(|len| *len <= max);
        let len = len.ok_or(CallError::TooLarge { len: request.len(), max })?;
        let mut head = BytesMut::with_capacity(HEAD_BYTES);
        head.put_u16_le(service);
        head.put_u16_le(0);
        head.put_u32_le(len);
        let head = head.freeze();
        let until = Instant::now() + deadline;
        let mut again = true;
        loop {
            let link = self.link(to, until, deadline).await?;
            let began = begin(&link, &self.0.config, head.clone(), request.clone());
            match tokio::time::timeout_at(until, began).await {
                Ok(Ok(streams)) => return Ok(streams),
                Ok(Err(reason)) => {
                    self.0.pool.forget(to, link.connection.stable_id());
                    if !std::mem::take(&mut again) {
                        return Err(CallError::Lost { address: to.addr.clone(), reason });
                    }
                }
                Err(_) => return Err(CallError::deadline(&to.addr, "begun (the peer takes no more calls)", deadline)),
            }
        }
    }

    /// Makes sure that there is a connection, and tells who answered: for checks of health and for warming up.
    ///
    /// Cancel safe, as [`Endpoint::call`].
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn connect(&self, to: &PeerAddr, deadline: Duration) -> Result<PeerId, CallError> {
        Ok(self.link(to, Instant::now() + deadline, deadline).await?.peer)
    }

    /// Traffic by peer since the endpoint was made.
    #[must_use]
    pub fn traffic(&self) -> BTreeMap<PeerId, PeerTraffic> {
        self.0.ledger.traffic()
    }

    /// Takes no more connections and calls, waits up to `patience` for calls that are being served, then closes
    /// everything and says so to the peers. Waits at most another second for them to hear it.
    ///
    /// Not cancel safe: dropped, connections stay open until the last clone is dropped.
    pub async fn shutdown(&self, patience: Duration) {
        self.0.stopping.cancel();
        let serving = self.0.serving.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(mut serving) = serving
            && tokio::time::timeout(patience, &mut serving).await.is_err()
        {
            serving.abort();
        }
        self.0.pool.clear();
        self.0.quic.close(VarInt::from_u32(close::SHUTDOWN), b"shutting down");
        let _ = tokio::time::timeout(Duration::from_secs(1), self.0.quic.wait_idle()).await;
    }

    async fn link(&self, to: &PeerAddr, until: Instant, deadline: Duration) -> Result<Link, CallError> {
        if self.0.stopping.is_cancelled() {
            return Err(CallError::Stopped);
        }
        let connecting = self.0.pool.get(to, self.0.config.pool_max, || attempt(self.0.clone(), to.clone()));
        match tokio::time::timeout_at(until, connecting).await {
            Ok(outcome) => outcome,
            Err(_) => Err(CallError::deadline(&to.addr, "connected", deadline)),
        }
    }
}

/// Opens a stream and sends the head and the request.
async fn begin(
    link: &Link,
    config: &QuicConfig,
    head: Bytes,
    request: Bytes,
) -> Result<(SendStream, RecvStream), String> {
    let (send, recv) = link.connection.open_bi().await.map_err(|error| error.to_string())?;
    let mut send = SendStream::new(send, config.progress_timeout);
    let recv = RecvStream::new(recv, config.progress_timeout);
    send.write_pieces(&mut [head, request]).await.map_err(|error| error.to_string())?;
    Ok((send, recv))
}

/// One attempt to connect, in a task of its own: it goes on when the first caller has lost patience, since others may
/// wait for it too. Ends by the handshake timeout or when the endpoint stops.
fn attempt(endpoint: Arc<Inner>, to: PeerAddr) -> BoxFuture<'static, Result<Link, CallError>> {
    let stopping = endpoint.stopping.clone();
    let attempt = tokio::spawn(async move {
        tokio::select! {
            outcome = connect(endpoint, to) => outcome,
            () = stopping.cancelled() => Err(CallError::Stopped),
        }
    });
    // The task ends without an outcome only with the runtime.
    attempt.map(|outcome| outcome.unwrap_or(Err(CallError::Stopped))).boxed()
}

fn connect(endpoint: Arc<Inner>, to: PeerAddr) -> BoxFuture<'static, Result<Link, CallError>> {
    async move {
        let limit = endpoint.config.handshake_timeout;
        let address = |reason: String| CallError::Address { address: to.addr.clone(), reason };
        let resolved = tokio::time::timeout(limit, endpoint.resolver.resolve(&to.addr))
            .await
            .map_err(|_| CallError::deadline(&to.addr, "resolved", limit))?
            .map_err(|error| address(error.to_string()))?;
        let mut last = address("the name has no address".to_owned());
        for remote in resolved.into_iter().take(ADDRESSES_MAX) {
            match connect_one(&endpoint, &to, remote).await {
                Ok(link) => return Ok(link),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
    .boxed()
}

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;

async fn connect_one(endpoint: &Inner, to: &PeerAddr, remote: SocketAddr) -> Result<Link, CallError> {
    let limit = endpoint.config.handshake_timeout;
    let ours = Hello::new(endpoint.config.cluster);
    let address = |reason: String| CallError::Address { address: to.addr.clone(), reason };
    let refused = Arc::new(OnceLock::new());
    let tls = tls::client_config_noting(&endpoint.identity, to.expect.clone(), PROTOCOL, refused.clone())
        .map_err(|error| address(error.to_string()))?;
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| address(error.to_string()))?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    let lane = LaneSlot::default();
    config.transport_config(endpoint.config.transport(remote.ip(), lane.clone()));
    let failed =
        |error: &quinn::ConnectionError| CallError::from_connection(&to.addr, ours, refused.get().cloned(), error);
    let connecting = endpoint.quic.connect_with(config, remote, SERVER_NAME).map_err(|error| match error {
        quinn::ConnectError::EndpointStopping => CallError::Stopped,
        other => address(other.to_string()),
    })?;
    let connection = tokio::time::timeout(limit, connecting)
        .await
        .map_err(|_| CallError::Lost { address: to.addr.clone(), reason: format!("no answer within {limit:?}") })?
        .map_err(|error| failed(&error))?;
    let chain = connection.peer_identity().and_then(|any| any.downcast::<Vec<_>>().ok());
    let peer = tls::peer_of_chain(chain.as_deref().map(Vec::as_slice)).map_err(|refused| CallError::Tls {
        address: to.addr.clone(),
        source: tls::TlsFailure::PeerRefused(refused),
    })?;
    hello::say(&connection, ours, limit).await.map_err(|error| match error {
        HelloError::Lost(error) => failed(&error),
        HelloError::WrongVersion { ours, theirs } => {
            CallError::WrongVersion { address: to.addr.clone(), ours, theirs: theirs.to_string() }
        }
        HelloError::WrongCluster { ours, theirs } => {
            CallError::WrongCluster { address: to.addr.clone(), ours, theirs: theirs.to_string() }
        }
        other => CallError::Lost { address: to.addr.clone(), reason: other.to_string() },
    })?;
    // Our own calls decide how many connections we make: no bound here.
    let counted = endpoint.ledger.open(&peer, Side::Outgoing, &connection, usize::MAX);
    let counted = counted.ok_or(CallError::Stopped)?;
    let to_peer = endpoint.config.links.lane(&peer);
    let assigned = endpoint.shaper.assign(connection.remote_address(), to_peer.clone());
    let _ = lane.set(to_peer);
    Ok(Link { connection, peer, _held: Arc::new((counted, assigned)) })
}
