//! How fast to send, by the kind of the link.
//!
//! A private circuit has a provisioned rate: we send at that rate from the first moment and take single losses for what
//! they are, damage. Any other link is measured: an adaptive controller in the manner of BBR follows the delivery rate.
//! QUIC's controllers only state how much may be under way; the rate itself is kept by the socket
//! ([`super::shaper`]), one [`lane::Lane`] for all connections that share a link.

mod adaptive;
mod controller;
mod lane;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use causeway_base::SiteName;

use crate::PeerId;

pub(super) use controller::{LaneSlot, LinkController};
pub(super) use lane::Lane;

/// What decides the rate on a link. Rates are bits a second on the wire, IP and UDP headers included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkControl {
    /// A circuit with a provisioned rate, or a link whose owner says what we may use of it.
    Paced {
        /// That rate, at least 1 kbit/s.
        rate: u64,
    },
    /// A link that is shared or unknown: its rate is measured all the time.
    Adaptive {
        /// Never faster than this.
        ceiling: Option<u64>,
    },
}

impl Default for LinkControl {
    fn default() -> Self {
        Self::Adaptive { ceiling: None }
    }
}

/// The links of this node by the site at their other end. Clones are one table; changes take effect on open connections
/// within a round trip.
#[derive(Clone, Debug, Default)]
pub struct Links(Arc<Mutex<BTreeMap<SiteName, Arc<Lane>>>>);

impl Links {
    /// Sets what decides the rate towards a site.
    pub fn set(&self, site: &SiteName, control: LinkControl) {
        self.site(site).set(control);
    }

    /// What decides the rate towards a site. Adaptive without a ceiling unless set.
    #[must_use]
    pub fn get(&self, site: &SiteName) -> LinkControl {
        self.site(site).control()
    }

    /// The lane to a peer: one for all nodes of a site, one for each connection of a client.
    pub(super) fn lane(&self, peer: &PeerId) -> Arc<Lane> {
        peer.site().map_or_else(Arc::default, |site| self.site(site))
    }

    fn site(&self, site: &SiteName) -> Arc<Lane> {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.entry(site.clone()).or_default().clone()
    }
}
