//! Channels to other processes: TLS with the expected peer, connected on first use and again after a loss.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncBufReadExt;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use crate::net::{BoxStream, Dial, Tcp};
use crate::tls::{self, SERVER_NAME, TlsFailure};
use crate::{ExpectPeer, IdentityStore};

/// How a channel behaves.
#[derive(Clone, Copy, Debug)]
pub struct ChannelConfig {
    /// Time to connect, the TLS handshake included. Default 5 s.
    pub connect_timeout: Duration,
    /// Longest wait for the head of a response; a call's own deadline may be shorter. Default 60 s.
    pub request_timeout: Duration,
}

impl Default for ChannelConfig {
    fn default() -> Self {
        Self { connect_timeout: Duration::from_secs(5), request_timeout: Duration::from_secs(60) }
    }
}

/// Why a channel could not connect. Found in the chain of sources of a failed call's status.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectFailed {
    /// No connection: refused, unreachable, unknown name.
    #[error("cannot reach {address}")]
    Unreachable {
        /// Who was called.
        address: String,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// A connection, but no trust.
    #[error("TLS handshake with {address}")]
    Tls {
        /// Who was called.
        address: String,
        /// Who refused whom.
        #[source]
        source: TlsFailure,
    },
}

/// A channel to `address` (`host:port`) that talks only to the peer that is expected. Connects on first use, and again
/// when the connection was lost; a reloaded identity is used by the next connection.
///
/// # Errors
/// [`rustls::Error`] if the TLS configuration cannot be made.
pub fn channel(address: &str, identity: &Arc<IdentityStore>, expect: ExpectPeer) -> Result<Channel, rustls::Error> {
    channel_with(address, identity, expect, ChannelConfig::default(), Arc::new(Tcp))
}

/// As [`channel`], with other settings and over another network.
///
/// # Errors
/// As [`channel`].
pub fn channel_with(
    address: &str,
    identity: &Arc<IdentityStore>,
    expect: ExpectPeer,
    config: ChannelConfig,
    network: Arc<dyn Dial>,
) -> Result<Channel, rustls::Error> {
    let tls = tls::client_config(identity, expect, super::PROTOCOL)?;
    // The URI is what HTTP shows as authority; where to connect, the connector knows.
    let endpoint = Endpoint::from_static("http://causeway")
        .connect_timeout(config.connect_timeout)
        .timeout(config.request_timeout)
        .initial_stream_window_size(super::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(super::CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(super::HEADER_BYTES_MAX)
        .http2_keep_alive_interval(super::KEEPALIVE_INTERVAL)
        .keep_alive_timeout(super::KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let address: Arc<str> = address.into();
    let connector = tower::service_fn(move |_uri| {
        let (address, tls, network) = (address.clone(), tls.clone(), network.clone());
        async move { connect(&address, tls, network.as_ref()).await.map(TokioIo::new) }
    });
    Ok(endpoint.connect_with_connector_lazy(connector))
}

async fn connect(
    address: &str,
    tls: Arc<ClientConfig>,
    network: &dyn Dial,
) -> Result<TlsStream<BoxStream>, ConnectFailed> {
    let unreachable = |source| ConnectFailed::Unreachable { address: address.to_owned(), source };
    let tls_failed = |error: io::Error| match TlsFailure::find(&error) {
        Some(source) => ConnectFailed::Tls { address: address.to_owned(), source },
        None => unreachable(error),
    };
    let stream = network.dial(address).await.map_err(unreachable)?;
    let name = ServerName::try_from(SERVER_NAME).map_err(|error| unreachable(io::Error::other(error)))?;
    let mut stream = TlsConnector::from(tls).connect(name, stream).await.map_err(tls_failed)?;
    // In TLS 1.3 the client is done before the server has looked at the client's certificate. An HTTP/2 server speaks
    // at once, so waiting for its first bytes (they stay in the buffer) turns a refusal into an error of this attempt,
    // for one more round trip per connection.
    if stream.fill_buf().await.map_err(tls_failed)?.is_empty() {
        return Err(unreachable(io::Error::new(io::ErrorKind::ConnectionAborted, "closed after the handshake")));
    }
    Ok(stream)
}
