//! Settings of an endpoint and what they become in QUIC.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use causeway_base::{ByteSize, ClusterId};
use quinn::{IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use super::congestion::{LaneSlot, LinkController, Links};
use crate::ExpectPeer;

/// UDP payload that fits an Ethernet frame, by the IP version.
const ETHERNET_PAYLOAD_V4: u16 = 1472;
const ETHERNET_PAYLOAD_V6: u16 = 1452;
/// UDP payload on the machine itself, where no wire bounds it. Measured with `examples/quic_bench`: larger gains little.
const LOOPBACK_PAYLOAD: u16 = 8192;

/// Settings of an [`super::Endpoint`].
#[derive(Clone, Debug)]
pub struct QuicConfig {
    /// Ours; a peer of another is refused in the hello.
    pub cluster: ClusterId,
    /// Who may connect. Default: whoever the CA vouches for; handlers look at who it is.
    pub accept: ExpectPeer,
    /// The fastest link that is to be filled, in bits a second. With [`QuicConfig::rtt`] it sizes the windows. Default
    /// 1 Gbit/s.
    pub rate: u64,
    /// The longest round trip at that rate. Default 200 ms.
    pub rtt: Duration,
    /// Calls that a peer may have open on one connection. Default 256.
    pub streams_max: u32,
    /// Incoming connections. Each may hold twice [`QuicConfig::window`] of received bytes. Default 256.
    pub connections_max: usize,
    /// Incoming connections of one peer identity. Default 32.
    pub connections_per_peer_max: usize,
    /// Handshakes of unproven addresses at once; from then on callers must prove theirs by a retry. Default 32.
    pub handshakes_before_retry: usize,
    /// Handshakes at once; more are refused. Default 256.
    pub handshakes_max: usize,
    /// Time for a handshake and the hello, on each side. Default 5 s.
    pub handshake_timeout: Duration,
    /// Time for the head of a call to arrive, after its first byte. Default 10 s.
    pub request_timeout: Duration,
    /// Largest request in the head of a call, in bytes. Default 4 MiB.
    pub request_bytes_max: u32,
    /// A read or write of a stream that makes no progress for this long fails, and the stream is reset. Default 30 s.
    pub progress_timeout: Duration,
    /// A connection without a sign of life for this long is lost. Default 10 s.
    pub idle_timeout: Duration,
    /// A silent connection asks for a sign of life this often. Default 3 s.
    pub keep_alive: Duration,
    /// Outgoing connections kept. Default 256.
    pub pool_max: usize,
    /// What decides the rate to each site. Default: measured.
    pub links: Links,
    /// Makes connection ids and packet numbers repeatable, for simulations only.
    pub seed: Option<u64>,
}

/// Packets by which one must be overtaken to count as lost at once; below it, time decides (9/8 of a round trip). The
/// library's 3 takes the slightest reordering for loss; at 100 Mbit/s 64 packets are 8 ms.
const PACKET_THRESHOLD: u32 = 64;

impl QuicConfig {
    /// The defaults, for one cluster.
    #[must_use]
    pub fn new(cluster: ClusterId) -> Self {
        Self {
            cluster,
            accept: ExpectPeer::Any,
            rate: 1_000_000_000,
            rtt: Duration::from_millis(200),
            streams_max: 256,
            connections_max: 256,
            connections_per_peer_max: 32,
            handshakes_before_retry: 32,
            handshakes_max: 256,
            handshake_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            request_bytes_max: 4 << 20,
            progress_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(3),
            pool_max: 256,
            links: Links::default(),
            seed: None,
        }
    }

    /// What must be on its way to fill the link: rate × round trip, between 1 MiB and 256 MiB. The window of a stream.
    #[must_use]
    pub fn window(&self) -> ByteSize {
        let bytes = u128::from(self.rate) * self.rtt.as_micros() / 8_000_000;
        ByteSize(u64::try_from(bytes).unwrap_or(u64::MAX).clamp(1 << 20, 256 << 20))
    }

    /// The transport settings towards `remote`, whose lane is known later.
    pub(super) fn transport(&self, remote: IpAddr, lane: LaneSlot) -> Arc<TransportConfig> {
        let mut transport = TransportConfig::default();
        let window = self.window().bytes();
        // `window` is at most 2^28 and its double 2^29: both fit.
        let bounded = |bytes: u64| VarInt::from_u64(bytes).unwrap_or(VarInt::MAX);
        transport
            .max_concurrent_bidi_streams(self.streams_max.into())
            .max_concurrent_uni_streams(0_u32.into())
            .datagram_receive_buffer_size(None)
            // A quarter over rate × round trip, since credit comes back late; and twice that for all streams, so that
            // one whose reader has stopped does not stop the others.
            .stream_receive_window(bounded(window + window / 4))
            .receive_window(bounded(2 * (window + window / 4)))
            .send_window(2 * window)
            .max_idle_timeout(IdleTimeout::try_from(self.idle_timeout).ok())
            .keep_alive_interval(Some(self.keep_alive))
            .packet_threshold(PACKET_THRESHOLD)
            .congestion_controller_factory(Arc::new(LinkController(lane)));
        let payload = udp_payload(remote);
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(payload);
        transport.mtu_discovery_config(Some(discovery));
        if remote.to_canonical().is_loopback() {
            transport.initial_mtu(payload);
        }
        Arc::new(transport)
    }
}

/// Largest UDP payload that is received.
pub(super) const UDP_PAYLOAD_MAX: u16 = LOOPBACK_PAYLOAD;

fn udp_payload(remote: IpAddr) -> u16 {
    match remote.to_canonical() {
        loopback if loopback.is_loopback() => LOOPBACK_PAYLOAD,
        IpAddr::V4(_) => ETHERNET_PAYLOAD_V4,
        IpAddr::V6(_) => ETHERNET_PAYLOAD_V6,
    }
}
