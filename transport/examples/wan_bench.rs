//! One bulk transfer over a real or emulated link, by our endpoint or by the QUIC library as it comes.
//!
//! ```text
//! wan_bench init DIR                                   certificates for both ends
//! wan_bench serve DIR ADDRESS paced MBIT_PER_SECOND    site a, which sends
//! wan_bench serve DIR ADDRESS adaptive
//! wan_bench serve DIR ADDRESS library
//! wan_bench serve DIR ADDRESS tcp                      plain TCP, as a neighbour
//! wan_bench fetch DIR ADDRESS SECONDS [library|tcp]    site b; prints Mbit/s of payload, without the first 2 s
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use causeway_base::{ClusterId, NodeId, SystemClock};
use causeway_transport::quic::{Endpoint, Handler, LinkControl, PROTOCOL, PeerAddr, QuicConfig};
use causeway_transport::quic::{NoService, RecvStream, SendStream};
use causeway_transport::{CertificateAuthority, ExpectPeer, IdentityStore, PeerId, tls};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Not counted: slow start, MTU discovery.
const WARM_UP: Duration = Duration::from_secs(2);

struct Source;

#[async_trait]
impl Handler for Source {
    async fn handle(&self, peer: PeerId, _: u16, _: Bytes, _: RecvStream, mut send: SendStream) {
        let piece = Bytes::from(vec![0x5a; 1 << 20]);
        while send.write_all(piece.clone()).await.is_ok() {}
        eprintln!("{peer} has enough");
    }
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["init", dir] => init(Path::new(dir)),
        ["serve", dir, address, "library"] => serve_library(Path::new(dir), address.parse()?).await,
        ["serve", _, address, "tcp"] => serve_tcp(address).await,
        ["fetch", _, address, seconds, "tcp"] => fetch_tcp(address, seconds.parse()?).await,
        ["serve", dir, address, "adaptive"] => serve(Path::new(dir), address.parse()?, LinkControl::default()).await,
        ["serve", dir, address, "paced", mbit] => {
            let rate = mbit.parse::<u64>()? * 1_000_000;
            serve(Path::new(dir), address.parse()?, LinkControl::Paced { rate }).await
        }
        ["fetch", dir, address, seconds] => fetch(Path::new(dir), address, seconds.parse()?).await,
        ["fetch", dir, address, seconds, "library"] => {
            fetch_library(Path::new(dir), address.parse()?, seconds.parse()?).await
        }
        _ => Err("see the first lines of wan_bench.rs".into()),
    }
}

fn init(dir: &Path) -> Outcome<()> {
    let ca = CertificateAuthority::create("bench".parse()?, Arc::new(SystemClock))?;
    for (site, node) in [("a", 1), ("b", 2)] {
        std::fs::create_dir_all(dir.join(site))?;
        ca.issue(&PeerId::node(site.parse()?, NodeId(node)), Duration::from_secs(86400))?.save(&dir.join(site))?;
    }
    Ok(())
}

async fn serve(dir: &Path, address: SocketAddr, control: LinkControl) -> Outcome<()> {
    let config = QuicConfig::new(ClusterId(1));
    config.links.set(&"b".parse()?, control);
    let _endpoint = Endpoint::bind(address, IdentityStore::load(dir.join("a"))?, config, Arc::new(Source))?;
    std::future::pending().await
}

async fn fetch(dir: &Path, address: &str, seconds: u64) -> Outcome<()> {
    let identity = IdentityStore::load(dir.join("b"))?;
    let any = (Ipv4Addr::UNSPECIFIED, 0).into();
    let endpoint = Endpoint::bind(any, identity, QuicConfig::new(ClusterId(1)), Arc::new(NoService))?;
    let to = PeerAddr { addr: address.to_owned(), expect: ExpectPeer::AnyNodeOfSite("a".parse()?) };
    let (_send, mut recv) = endpoint.call(&to, 1, Bytes::new(), Duration::from_secs(10)).await?;
    let mut meter = Meter::new(seconds);
    let mut pieces = Vec::new();
    while recv.read_pieces(&mut pieces).await? && meter.goes_on(pieces.drain(..).map(|piece| piece.len()).sum()) {}
    meter.print();
    let patience = Duration::from_millis(10);
    endpoint.shutdown(patience).await;
    Ok(())
}

async fn serve_library(dir: &Path, address: SocketAddr) -> Outcome<()> {
    let tls = tls::server_config(&IdentityStore::load(dir.join("a"))?, ExpectPeer::Any, PROTOCOL)?;
    let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    let endpoint = quinn::Endpoint::server(config, address)?;
    while let Some(incoming) = endpoint.accept().await {
        let connection = incoming.await?;
        let (mut send, _recv) = connection.accept_bi().await?;
        let piece = vec![0x5a; 1 << 20];
        while send.write_all(&piece).await.is_ok() {}
    }
    Ok(())
}

async fn fetch_library(dir: &Path, address: SocketAddr, seconds: u64) -> Outcome<()> {
    let tls = tls::client_config(&IdentityStore::load(dir.join("b"))?, ExpectPeer::Any, PROTOCOL)?;
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    let endpoint = quinn::Endpoint::client((Ipv4Addr::UNSPECIFIED, 0).into())?;
    let connection = endpoint.connect_with(config, address, "x")?.await?;
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(b"go").await?;
    let mut meter = Meter::new(seconds);
    let mut buffer = vec![0; 1 << 20];
    while recv.read(&mut buffer).await?.is_some_and(|read| meter.goes_on(read)) {}
    meter.print();
    connection.close(0_u32.into(), b"");
    endpoint.wait_idle().await;
    Ok(())
}

async fn serve_tcp(address: &str) -> Outcome<()> {
    let listener = TcpListener::bind(address).await?;
    let piece = vec![0x5a; 1 << 20];
    loop {
        let (mut stream, _) = listener.accept().await?;
        while stream.write_all(&piece).await.is_ok() {}
    }
}

async fn fetch_tcp(address: &str, seconds: u64) -> Outcome<()> {
    let mut stream = TcpStream::connect(address).await?;
    let mut meter = Meter::new(seconds);
    let mut buffer = vec![0; 1 << 20];
    while meter.goes_on(stream.read(&mut buffer).await?) {}
    meter.print();
    Ok(())
}

struct Meter {
    counts_from: Instant,
    until: Instant,
    bytes: u64,
}

impl Meter {
    fn new(seconds: u64) -> Self {
        let counts_from = Instant::now() + WARM_UP;
        Self { counts_from, until: counts_from + Duration::from_secs(seconds), bytes: 0 }
    }

    fn goes_on(&mut self, read: usize) -> bool {
        let now = Instant::now();
        if now > self.counts_from {
            self.bytes += read as u64;
        }
        now < self.until
    }

    fn print(&self) {
        println!("{:.2}", self.bytes as f64 * 8e-6 / self.counts_from.elapsed().as_secs_f64());
    }
}
