//! QUIC for data: one endpoint per node that serves and calls.
//!
//! A connection begins with a hello on its first stream, by which both sides learn that they speak of the same cluster
//! in the same version. After it, every stream that the caller opens is one call: a head with the service number and
//! the request, then whatever the two sides agreed on. The layout is in `docs/formats/wire-quic.md`.
//!
//! Who owns what: [`Endpoint`] owns a task that accepts; each accepted connection has a task, which owns one task per
//! call. [`Endpoint::shutdown`] waits for all of them. Outgoing connections are pooled per address and expected peer,
//! made once for however many callers want them, and remade when they were lost.

mod config;
mod congestion;
mod endpoint;
mod error;
mod hello;
mod keys;
mod ledger;
mod pool;
mod server;
mod shaper;
mod socket;
mod stream;

use async_trait::async_trait;
use bytes::Bytes;

pub use config::QuicConfig;
pub use congestion::{LinkControl, Links};
pub use endpoint::Endpoint;
pub use error::{CallError, StreamError, close};
pub use hello::{Hello, PROTOCOL, VERSION};
pub use ledger::{PeerTraffic, Traffic};
pub use pool::PeerAddr;
pub use socket::{UdpSettings, bind_udp};
pub use stream::{FRAME_HEAD_BYTES, RecvStream, SendStream};

use crate::PeerId;

/// What serves the calls of other nodes and of clients.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Serves one call; runs in a task of its own, and is dropped when the connection is lost or the endpoint shuts
    /// down. `peer` is verified; whether it may do this is the handler's to decide. A `send` that is dropped without
    /// [`SendStream::finish`] is reset, so that the caller never takes a broken answer for a whole one.
    async fn handle(&self, peer: PeerId, service: u16, request: Bytes, recv: RecvStream, send: SendStream);
}

/// Serves nothing: every call is reset. For endpoints that only call.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoService;

#[async_trait]
impl Handler for NoService {
    async fn handle(&self, _peer: PeerId, _service: u16, _request: Bytes, _recv: RecvStream, send: SendStream) {
        send.refuse(close::NO_SERVICE);
    }
}
