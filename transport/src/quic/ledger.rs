//! Bytes on the wire, by peer: of open connections, and of those that have ended.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quinn::{Connection, ConnectionStats};

use crate::PeerId;

/// What crossed the wire. Bytes are UDP payload; each datagram is 28 bytes (IPv4) or 48 bytes (IPv6) more on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Sent, retransmissions included.
    pub sent_bytes: u64,
    /// Received.
    pub received_bytes: u64,
    /// Sent.
    pub sent_datagrams: u64,
    /// Received.
    pub received_datagrams: u64,
    /// Of the sent bytes, those that were taken for lost.
    pub lost_bytes: u64,
    /// Times that the path was taken for congested.
    pub congestion_events: u64,
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, more: Self) {
        self.sent_bytes += more.sent_bytes;
        self.received_bytes += more.received_bytes;
        self.sent_datagrams += more.sent_datagrams;
        self.received_datagrams += more.received_datagrams;
        self.lost_bytes += more.lost_bytes;
        self.congestion_events += more.congestion_events;
    }
}

impl From<ConnectionStats> for Traffic {
    fn from(stats: ConnectionStats) -> Self {
        Self {
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
            sent_datagrams: stats.udp_tx.datagrams,
            received_datagrams: stats.udp_rx.datagrams,
            lost_bytes: stats.path.lost_bytes,
            congestion_events: stats.path.congestion_events,
        }
    }
}

/// The traffic with one peer, in both directions of calling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerTraffic {
    /// Since the endpoint was made.
    pub total: Traffic,
    /// Open connections.
    pub connections: usize,
    /// The shortest current round trip among them.
    pub rtt: Option<Duration>,
}

/// Which connections there are and what those before them have carried.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    open: BTreeMap<u64, (PeerId, Side, Connection)>,
    /// One entry per identity that ever proved itself: the CA bounds them.
    ended: BTreeMap<PeerId, Traffic>,
}

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The peer.
    Incoming,
    /// We.
    Outgoing,
}

impl Ledger {
    /// Counts a connection until the guard is dropped; `None` if the peer has `max` on that side already.
    pub(super) fn open(
        self: &Arc<Self>,
        peer: &PeerId,
        side: Side,
        connection: &Connection,
        max: usize,
    ) -> Option<Entry> {
        let mut entries = self.entries();
        if entries.open.values().filter(|(other, its_side, _)| other == peer && *its_side == side).count() >= max {
            return None;
        }
        let id = entries.next;
        entries.next += 1;
        entries.open.insert(id, (peer.clone(), side, connection.clone()));
        Some(Entry { ledger: self.clone(), id })
    }

    /// Connections on one side.
    pub(super) fn count(&self, side: Side) -> usize {
        self.entries().open.values().filter(|(_, its_side, _)| *its_side == side).count()
    }

    pub(super) fn traffic(&self) -> BTreeMap<PeerId, PeerTraffic> {
        let entries = self.entries();
        let mut all: BTreeMap<PeerId, PeerTraffic> = BTreeMap::new();
        for (peer, total) in &entries.ended {
            all.entry(peer.clone()).or_default().total += *total;
        }
        for (peer, _, connection) in entries.open.values() {
            let of_peer = all.entry(peer.clone()).or_default();
            let stats = connection.stats();
            of_peer.total += stats.into();
            of_peer.connections += 1;
            of_peer.rtt = Some(of_peer.rtt.map_or(stats.path.rtt, |rtt| rtt.min(stats.path.rtt)));
        }
        all
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection in the ledger.
#[derive(Debug)]
pub(super) struct Entry {
    ledger: Arc<Ledger>,
    id: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut entries = self.ledger.entries();
        if let Some((peer, _, connection)) = entries.open.remove(&self.id) {
            *entries.ended.entry(peer).or_default() += connection.stats().into();
        }
    }
}
