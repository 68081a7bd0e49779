//! Where bytes may lie.

use std::collections::BTreeSet;

use causeway_base::SiteName;
use serde::{Deserialize, Serialize};

use crate::model::{Jurisdiction, Region, RegionName};
use crate::topology::Topology;

/// The places that a label allows, for data, metadata, caches, bases, logs and images alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Residency {
    /// No restriction.
    #[default]
    Anywhere,
    /// Only regions of these jurisdictions; none at all if empty.
    Jurisdictions(BTreeSet<Jurisdiction>),
    /// Only these regions; none at all if empty.
    Regions(BTreeSet<RegionName>),
}

/// A place that may not hold the bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResidencyViolation {
    /// Not in the topology: what is not known is not allowed.
    #[error("{0} is not declared, so it may hold nothing that is restricted")]
    Unknown(String),
    /// Its region is not among those allowed.
    #[error("{place} lies in region {region} ({jurisdiction}), which the residency label does not allow")]
    Forbidden {
        /// Site or repository.
        place: String,
        /// Its region.
        region: RegionName,
        /// The region's jurisdiction.
        jurisdiction: Jurisdiction,
    },
}

impl Residency {
    /// Whether bytes may lie in a region.
    #[must_use]
    pub fn allows(&self, region: &Region) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Jurisdictions(allowed) => allowed.contains(&region.jurisdiction),
            Self::Regions(allowed) => allowed.contains(&region.name),
        }
    }

    /// Checks a site.
    ///
    /// # Errors
    /// The site is forbidden, or unknown under a label that restricts.
    pub fn check_site(&self, topology: &Topology, site: &SiteName) -> Result<(), ResidencyViolation> {
        self.check(format!("site {site}"), topology.region_of(site))
    }

    /// Checks a repository.
    ///
    /// # Errors
    /// The repository is forbidden, or unknown under a label that restricts.
    pub fn check_repository(&self, topology: &Topology, name: &str) -> Result<(), ResidencyViolation> {
        let region = topology.repository(name).and_then(|repository| topology.region(&repository.region));
        self.check(format!("repository {name}"), region)
    }

    fn check(&self, place: String, region: Option<&Region>) -> Result<(), ResidencyViolation> {
        match region {
            _ if *self == Self::Anywhere => Ok(()),
            None => Err(ResidencyViolation::Unknown(place)),
            Some(region) if self.allows(region) => Ok(()),
            Some(region) => Err(ResidencyViolation::Forbidden {
                place,
                region: region.name.clone(),
                jurisdiction: region.jurisdiction.clone(),
            }),
        }
    }
}
