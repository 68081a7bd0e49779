//! Throughput of one QUIC connection on loopback, both ends in this process with a runtime each.
//!
//! `cargo run --release -p causeway-transport --example quic_bench [MiB] [streams]`: MB/s and CPU seconds per GB, of both
//! ends together.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use causeway_base::{ClusterId, NodeId, SystemClock};
use causeway_transport::quic::{Endpoint, Handler, PeerAddr, QuicConfig, RecvStream, SendStream};
use causeway_transport::{CertificateAuthority, ExpectPeer, Identity, IdentityStore, PeerId};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Sends as many bytes as the request says.
struct Source;

#[async_trait]
impl Handler for Source {
    async fn handle(&self, _: PeerId, _: u16, request: Bytes, _: RecvStream, mut send: SendStream) {
        let piece = Bytes::from(vec![0x5a; 1 << 20]);
        let mib = request.iter().rev().fold(0_u64, |mib, byte| mib << 8 | u64::from(*byte));
        for _ in 0..mib {
            if send.write_all(piece.clone()).await.is_err() {
                return;
            }
        }
        let _ = send.finish();
    }
}

fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let mib: u64 = args.next().map_or(Ok(512), |text| text.parse())?;
    let streams: u64 = args.next().map_or(Ok(1), |text| text.parse())?;
    let ca = CertificateAuthority::create("bench".parse()?, Arc::new(SystemClock))?;
    let server_runtime = runtime()?;
    let server = server_runtime.block_on(async { endpoint(&ca, 1) })?;
    let to = PeerAddr { addr: server.local_addr()?.to_string(), expect: ExpectPeer::AnyNode };
    runtime()?.block_on(async {
        let client = endpoint(&ca, 2)?;
        client.connect(&to, Duration::from_secs(5)).await?;
        let (begun, cpu) = (Instant::now(), cpu_seconds()?);
        let each = (mib / streams).max(1);
        let reads = (0..streams).map(|_| read(client.clone(), to.clone(), each));
        let bytes: u64 = futures::future::try_join_all(reads).await?.iter().sum();
        let (took, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
        let gb = bytes as f64 / 1e9;
        let wire: u64 = client.traffic().values().map(|t| t.total.received_bytes).sum();
        let overhead = wire as f64 / bytes as f64 * 100.0 - 100.0;
        println!("{streams} stream(s): {:.0} MB/s, {:.2} CPU s/GB, {overhead:.2} % over", gb * 1e3 / took, cpu / gb);
        Ok(())
    })
}

async fn read(client: Endpoint, to: PeerAddr, mib: u64) -> Outcome<u64> {
    let (_send, mut recv) = client.call(&to, 1, mib.to_le_bytes().to_vec().into(), Duration::from_secs(5)).await?;
    let (mut pieces, mut bytes) = (Vec::new(), 0);
    while recv.read_pieces(&mut pieces).await? {
        bytes += pieces.drain(..).map(|piece| piece.len() as u64).sum::<u64>();
    }
    Ok(bytes)
}

fn endpoint(ca: &CertificateAuthority, node: u64) -> Outcome<Endpoint> {
    let issued = ca.issue(&PeerId::node("bench".parse()?, NodeId(node)), Duration::from_secs(3600))?;
    let identity = IdentityStore::new(Identity::from_issued(&issued)?, Arc::new(SystemClock));
    Ok(Endpoint::bind((Ipv4Addr::LOCALHOST, 0).into(), identity, QuicConfig::new(ClusterId(1)), Arc::new(Source))?)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

/// User and system time of this process so far.
fn cpu_seconds() -> Outcome<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks: u64 = after_name.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // Linux reports in hundredths of a second on every architecture that runs this.
    Ok(ticks as f64 / 100.0)
}
