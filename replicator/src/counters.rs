//! Bytes on the wire, by whom they were exchanged with, for which volume, and what for.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use causeway_base::{SiteName, VolumeId};
use causeway_transport::PeerId;

use crate::wire::Cause;

/// The other end of a transfer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Nodes of a site.
    Site(SiteName),
    /// Clients, all together.
    Clients,
    /// The repository.
    Repository,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Site(site) => write!(f, "site/{site}"),
            Self::Clients => f.write_str("clients"),
            Self::Repository => f.write_str("repository"),
        }
    }
}

impl From<&PeerId> for Place {
    fn from(peer: &PeerId) -> Self {
        match peer {
            PeerId::Node { site, .. } => Self::Site(site.clone()),
            PeerId::Client { .. } => Self::Clients,
        }
    }
}

/// What bytes are counted under.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account {
    /// With whom.
    pub place: Place,
    /// For which volume, if it is known.
    pub volume: Option<VolumeId>,
    /// What for.
    pub cause: Cause,
}

/// Bytes of an account since the node started. Stream bytes: packet headers and retransmissions are the transport's to
/// count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireBytes {
    /// Requests, frame heads, lists of missing chunks and the like, sent.
    pub control_sent: u64,
    /// The same, received.
    pub control_received: u64,
    /// Chunks, as encoded on the wire, sent.
    pub chunk_sent: u64,
    /// The same, received.
    pub chunk_received: u64,
    /// The part of `chunk_sent` that went as deltas against what the other end has.
    pub delta_sent: u64,
    /// The part of `chunk_received` that came as deltas.
    pub delta_received: u64,
    /// Number of deltas sent.
    pub deltas_sent: u64,
    /// Number of deltas received.
    pub deltas_received: u64,
    /// Plain bytes of the chunks that went as deltas.
    pub delta_plain_sent: u64,
    /// Plain bytes of the chunks that came as deltas.
    pub delta_plain_received: u64,
    /// Plain bytes of the chunks received and verified.
    pub plain_received: u64,
    /// Number of chunks received and verified.
    pub chunks_received: u64,
}

/// The counts of a node. Accounts are as many as sites × volumes × causes.
#[derive(Debug, Default)]
pub struct Counters(Mutex<BTreeMap<Account, WireBytes>>);

impl Counters {
    /// Changes an account.
    pub fn add(&self, account: &Account, change: impl FnOnce(&mut WireBytes)) {
        let mut accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = accounts.get_mut(account) {
            change(bytes);
        } else {
            change(accounts.entry(account.clone()).or_default());
        }
    }

    /// All accounts.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<Account, WireBytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The sum of the accounts for which `of` holds.
    #[must_use]
    pub fn total(&self, of: impl Fn(&Account) -> bool) -> WireBytes {
        let accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.iter().filter(|(account, _)| of(account)).fold(WireBytes::default(), |sum, (_, bytes)| sum.plus(bytes))
    }
}

impl WireBytes {
    /// All bytes sent and received.
    #[must_use]
    pub fn wire(&self) -> u64 {
        self.control_sent + self.control_received + self.chunk_sent + self.chunk_received
    }

    /// The sum of two.
    #[must_use]
    pub fn plus(self, other: &Self) -> Self {
        Self {
            control_sent: self.control_sent + other.control_sent,
            control_received: self.control_received + other.control_received,
            chunk_sent: self.chunk_sent + other.chunk_sent,
            chunk_received: self.chunk_received + other.chunk_received,
            delta_sent: self.delta_sent + other.delta_sent,
            delta_received: self.delta_received + other.delta_received,
            deltas_sent: self.deltas_sent + other.deltas_sent,
            deltas_received: self.deltas_received + other.deltas_received,
            delta_plain_sent: self.delta_plain_sent + other.delta_plain_sent,
            delta_plain_received: self.delta_plain_received + other.delta_plain_received,
            plain_received: self.plain_received + other.plain_received,
            chunks_received: self.chunks_received + other.chunks_received,
        }
    }
}
