//! How TCP streams are made: the seam through which a simulated network enters.

use std::io;
use std::net::SocketAddr;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// A byte stream in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Any byte stream.
pub type BoxStream = Box<dyn Stream>;

/// Makes outgoing streams.
#[async_trait]
pub trait Dial: Send + Sync {
    /// Connects to `host:port`, resolving the name each time. Cancel safe: dropping it abandons the attempt.
    async fn dial(&self, address: &str) -> io::Result<BoxStream>;
}

/// Yields incoming streams.
#[async_trait]
pub trait Accept: Send {
    /// The next stream and its peer's address. Cancel safe: no stream is lost.
    async fn accept(&mut self) -> io::Result<(BoxStream, SocketAddr)>;
}

/// The machine's own TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

#[async_trait]
impl Dial for Tcp {
    async fn dial(&self, address: &str) -> io::Result<BoxStream> {
        let stream = TcpStream::connect(address).await?;
        // Requests are small and waited for: Nagle's algorithm would hold them back.
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}

#[async_trait]
impl Accept for TcpListener {
    async fn accept(&mut self) -> io::Result<(BoxStream, SocketAddr)> {
        let (stream, address) = TcpListener::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok((Box::new(stream), address))
    }
}

/// Resolves names.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// The addresses of `host:port`, best first. Cancel safe.
    async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>>;
}

/// The machine's own name service.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host(address).await?.collect())
    }
}
