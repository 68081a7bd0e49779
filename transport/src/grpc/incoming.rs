//! Incoming gRPC connections: accepted, shaken hands with, bounded, and named.
//!
//! One task accepts; handshakes run beside each other with a time limit, so that a silent peer holds nobody up; what is
//! done waits in a short queue. Dropping [`Incoming`] ends the task and with it the listener.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::Status;
use tonic::transport::server::Connected;

use crate::net::{Accept, BoxStream};
use crate::tls::{self, TlsFailure};
use crate::{ExpectPeer, IdentityStore, PeerId};

/// How long the accept loop waits after an error such as "too many open files", which lasts.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// Finished handshakes that may wait for the server to take them.
const READY_MAX: usize = 16;

/// Bounds of a listener.
#[derive(Clone, Copy, Debug)]
pub struct IncomingLimits {
    /// Open connections, those in handshake included. Each may hold [`super::CONNECTION_WINDOW_BYTES`]. Default 1,024.
    pub connections_max: usize,
    /// Open connections of one peer identity; more are closed after the handshake. Default 256.
    pub connections_per_peer_max: usize,
    /// Handshakes at once from one IP address; more are closed unanswered, so that one silent host cannot take all
    /// places. Default 128.
    pub handshakes_per_address_max: usize,
    /// Time for a handshake. Default 5 s.
    pub handshake_timeout: Duration,
}

impl Default for IncomingLimits {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            connections_per_peer_max: 256,
            handshakes_per_address_max: 128,
            handshake_timeout: Duration::from_secs(5),
        }
    }
}

/// Who is at the other end of a gRPC connection; stands in the extensions of every request of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConnection {
    /// From its certificate, verified.
    pub peer: PeerId,
    /// Where it called from.
    pub address: SocketAddr,
}

/// Who sent a request.
///
/// # Errors
/// `UNAUTHENTICATED` if the request did not come through [`Incoming`].
#[allow(clippy::result_large_err)] // a handler returns it as it is
pub fn peer<T>(request: &tonic::Request<T>) -> Result<&PeerId, Status> {
    let connection = request.extensions().get::<PeerConnection>();
    connection.map(|c| &c.peer).ok_or_else(|| Status::unauthenticated("the connection has no verified peer"))
}

/// The stream of connections that `serve_with_incoming` takes. Never ends and never yields an error.
#[derive(Debug)]
pub struct Incoming {
    ready: mpsc::Receiver<TlsIo>,
    accepting: AbortHandle,
}

/// Accepts connections of `listener` from peers that `accept` allows. Must be called within a tokio runtime.
///
/// # Errors
/// [`rustls::Error`] if the TLS configuration cannot be made.
pub fn incoming(
    listener: TcpListener,
    identity: &Arc<IdentityStore>,
    accept: ExpectPeer,
    limits: IncomingLimits,
) -> Result<Incoming, rustls::Error> {
    incoming_from(Box::new(listener), identity, accept, limits)
}

/// As [`incoming`], from any source of streams.
///
/// # Errors
/// As [`incoming`].
pub fn incoming_from(
    listener: Box<dyn Accept>,
    identity: &Arc<IdentityStore>,
    accept: ExpectPeer,
    limits: IncomingLimits,
) -> Result<Incoming, rustls::Error> {
    let config = tls::server_config(identity, accept, super::PROTOCOL)?;
    let (sender, ready) = mpsc::channel(READY_MAX);
    let acceptor = Acceptor {
        tls: TlsAcceptor::from(config),
        limits,
        places: Arc::new(Semaphore::new(limits.connections_max)),
        handshakes: Arc::default(),
        peers: Arc::default(),
        ready: sender,
    };
    let accepting = tokio::spawn(acceptor.run(listener)).abort_handle();
    Ok(Incoming { ready, accepting })
}

impl futures::Stream for Incoming {
    type Item = Result<TlsIo, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx).map(|io| io.map(Ok))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

struct Acceptor {
    tls: TlsAcceptor,
    limits: IncomingLimits,
    places: Arc<Semaphore>,
    handshakes: Arc<Counts<IpAddr>>,
    peers: Arc<Counts<PeerId>>,
    ready: mpsc::Sender<TlsIo>,
}

impl Acceptor {
    async fn run(self, mut listener: Box<dyn Accept>) {
        let mut handshakes = JoinSet::new();
        loop {
            while handshakes.try_join_next().is_some() {}
            // Closed only with the acceptor itself.
            let Ok(place) = self.places.clone().acquire_owned().await else { return };
            let (stream, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accept failed, trying again");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                    continue;
                }
            };
            let Some(counted) = self.handshakes.enter(address.ip(), self.limits.handshakes_per_address_max) else {
                tracing::debug!(%address, "too many handshakes at once from one address, closed");
                continue;
            };
            let handshake = handshake(
                self.tls.clone(),
                stream,
                address,
                place,
                (self.peers.clone(), self.limits.connections_per_peer_max),
            );
            let ready = self.ready.clone();
            let timeout = self.limits.handshake_timeout;
            handshakes.spawn(async move {
                let done = tokio::time::timeout(timeout, handshake).await;
                drop(counted);
                match done {
                    // Fails only when the server has gone.
                    Ok(Ok(io)) => drop(ready.send(io).await),
                    Ok(Err(error)) => {
                        tracing::warn!(%address, error = %told(&error), "gRPC handshake failed");
                    }
                    Err(_) => tracing::debug!(%address, "gRPC handshake timed out"),
                }
            });
        }
    }
}

async fn handshake(
    tls: TlsAcceptor,
    stream: BoxStream,
    address: SocketAddr,
    place: OwnedSemaphorePermit,
    (peers, per_peer_max): (Arc<Counts<PeerId>>, usize),
) -> io::Result<TlsIo> {
    let stream = tls.accept(stream).await?;
    let peer =
        tls::peer_of(stream.get_ref().1).map_err(|refused| io::Error::other(TlsFailure::PeerRefused(refused)))?;
    let counted = peers
        .enter(peer.clone(), per_peer_max)
        .ok_or_else(|| io::Error::other(format!("{peer} has {per_peer_max} connections, no more are taken")))?;
    let connection = PeerConnection { peer, address };
    Ok(TlsIo { stream, connection, _held: (place, counted) })
}

fn told(error: &io::Error) -> String {
    match TlsFailure::find(error) {
        Some(TlsFailure::PeerRefused(refused)) => refused.to_string(),
        Some(failure) => failure.to_string(),
        None => error.to_string(),
    }
}

/// How many of each key there are now.
#[derive(Debug)]
struct Counts<K: Ord>(Mutex<BTreeMap<K, usize>>);

impl<K: Ord> Default for Counts<K> {
    fn default() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }
}

impl<K: Ord + Clone> Counts<K> {
    /// Counts one more until the guard is dropped; `None` if there are `max` already.
    fn enter(self: &Arc<Self>, key: K, max: usize) -> Option<Counted<K>> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key.clone()).or_insert(0);
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Counted { counts: self.clone(), key })
    }
}

#[derive(Debug)]
struct Counted<K: Ord> {
    counts: Arc<Counts<K>>,
    key: K,
}

impl<K: Ord> Drop for Counted<K> {
    fn drop(&mut self) {
        let mut counts = self.counts.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

/// A connection after its handshake.
pub struct TlsIo {
    stream: TlsStream<BoxStream>,
    connection: PeerConnection,
    _held: (OwnedSemaphorePermit, Counted<PeerId>),
}

impl TlsIo {
    /// Who is at the other end.
    #[must_use]
    pub const fn peer(&self) -> &PeerId {
        &self.connection.peer
    }
}

impl std::fmt::Debug for TlsIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsIo").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl Connected for TlsIo {
    type ConnectInfo = PeerConnection;

    fn connect_info(&self) -> PeerConnection {
        self.connection.clone()
    }
}

impl AsyncRead for TlsIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
