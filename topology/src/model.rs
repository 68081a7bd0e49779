//! What an operator declares.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use causeway_base::{NameError, NodeId, SiteName};
use serde::{Deserialize, Serialize};

use crate::units::{BitRate, Price, rtt_text};

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(SiteName);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                text.parse().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

name!(
    /// A region's name, by the same rule as a site's.
    RegionName
);
name!(
    /// Whose law holds in a region, such as `ch`, `eu` or `us`.
    Jurisdiction
);
name!(
    /// A link's name.
    LinkName
);

/// A place with a jurisdiction and a provider: what fails together in a disaster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// Unique.
    pub name: RegionName,
    /// Whose law holds there.
    pub jurisdiction: Jurisdiction,
    /// Who runs it, such as `on-prem`, `azure`, `aws`; free text of at most 63 bytes.
    pub provider: String,
}

/// A cluster of nodes in a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Unique.
    pub name: SiteName,
    /// Where it is.
    pub region: RegionName,
    /// Round-trip time between its own nodes.
    #[serde(with = "rtt_text", default = "lan_rtt")]
    pub lan_rtt: Duration,
    /// Whether bytes between two other sites may pass through it (a Virtual WAN hub, say).
    #[serde(default)]
    pub transit: bool,
}

/// Within one machine room; used where nothing is declared.
fn lan_rtt() -> Duration {
    Duration::from_micros(200)
}

/// A process of a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Unique; never reused.
    pub id: NodeId,
    /// Its site.
    pub site: SiteName,
    /// Whether it only votes and holds no file data.
    #[serde(default)]
    pub witness: bool,
}

/// What a link is made of; the transport chooses its congestion control by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkKind {
    /// A private circuit with a provisioned rate.
    Expressroute,
    /// Through a provider's wide-area network and its hubs.
    VirtualWan,
    /// An encrypted tunnel over the internet.
    Vpn,
    /// The open internet.
    Internet,
    /// Two sites in one building or campus.
    Lan,
}

/// A two-way connection between two sites.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Unique.
    pub name: LinkName,
    /// The two sites, in any order.
    pub between: (SiteName, SiteName),
    /// What it is made of.
    pub kind: LinkKind,
    /// Bits per second each way.
    pub rate: BitRate,
    /// Round-trip time.
    #[serde(with = "rtt_text")]
    pub rtt: Duration,
    /// What a GiB costs.
    #[serde(default)]
    pub price_per_gib: Price,
    /// Lower is preferred.
    #[serde(default)]
    pub priority: u8,
}

impl Link {
    /// The site at the other end; `None` if `site` is not an end.
    #[must_use]
    pub fn other_end(&self, site: &SiteName) -> Option<&SiteName> {
        let (a, b) = &self.between;
        if site == a {
            Some(b)
        } else if site == b {
            Some(a)
        } else {
            None
        }
    }
}

/// An object-store prefix that holds packs and images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repository {
    /// Unique.
    pub name: String,
    /// Where its bytes lie.
    pub region: RegionName,
    /// `file:///…`, `azure://…`, `s3://…` or `gs://…`.
    pub url: String,
    /// What a GiB costs to read.
    #[serde(default)]
    pub read_price_per_gib: Price,
}
