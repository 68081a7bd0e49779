//! TLS around gRPC: the stream of incoming connections for a tonic server, and channels for its clients.
//!
//! gRPC carries control and Raft; no bulk data goes over it.

mod channel;
mod incoming;

pub use channel::{ChannelConfig, ConnectFailed, channel, channel_with};
pub use incoming::{Incoming, IncomingLimits, PeerConnection, TlsIo, incoming, incoming_from, peer};

use std::time::Duration;

/// The ALPN protocol of gRPC.
pub const PROTOCOL: &[u8] = b"h2";
/// Largest message that is decoded, in bytes: pass it to `max_decoding_message_size` of every client and server.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// HTTP/2 window of a stream, in bytes: one large message on its way.
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// HTTP/2 window of a connection, in bytes: what a peer can make us hold.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Streams that a peer may have open on one connection: a Raft group keeps one to each member, and a node has thousands.
pub const STREAMS_MAX: u32 = 16_384;
/// A connection that is silent this long is asked for a sign of life.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// A connection that gives no sign of life for this long is closed.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest header list of a request, in bytes.
pub const HEADER_BYTES_MAX: u32 = 16 << 10;

/// A tonic server with the bounds of this module: windows, streams, keepalive, header size. Serve [`Incoming`] with it.
#[must_use]
pub fn server() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}
