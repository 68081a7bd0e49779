//! The declared topology, checked as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use causeway_base::{NodeId, SiteName};
use serde::{Deserialize, Serialize};

use crate::model::{Link, LinkName, Node, Region, RegionName, Repository, Site};

/// Most regions, sites, nodes, links or repositories of one topology (each), so that no peer can make us plan for ever.
pub const ITEMS_MAX: usize = 4096;

/// A topology as it is written down, not yet checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TopologySpec {
    /// Places.
    pub regions: Vec<Region>,
    /// Clusters in them.
    pub sites: Vec<Site>,
    /// Processes of sites.
    pub nodes: Vec<Node>,
    /// Ways between sites.
    pub links: Vec<Link>,
    /// Object stores.
    pub repositories: Vec<Repository>,
}

/// A checked topology: names are unique, and every reference has its target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "TopologySpec", into = "TopologySpec")]
pub struct Topology {
    regions: BTreeMap<RegionName, Region>,
    sites: BTreeMap<SiteName, Site>,
    nodes: BTreeMap<NodeId, Node>,
    links: BTreeMap<LinkName, Link>,
    repositories: BTreeMap<String, Repository>,
    links_by_site: BTreeMap<SiteName, Vec<LinkName>>,
}

/// One thing that is wrong with a [`TopologySpec`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Two things of one kind share a name.
    #[error("{kind} {name} is declared twice")]
    Duplicate {
        /// `region`, `site`, `node`, `link` or `repository`.
        kind: &'static str,
        /// Their name.
        name: String,
    },
    /// A name that nothing bears.
    #[error("{by} names {kind} {name}, which is not declared")]
    Unknown {
        /// What names it.
        by: String,
        /// `region` or `site`.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// A link with one site at both ends.
    #[error("link {link} connects site {site} with itself")]
    SelfLink {
        /// Which link.
        link: LinkName,
        /// Both its ends.
        site: SiteName,
    },
    /// A link that carries nothing.
    #[error("link {0} has a rate of 0")]
    NoRate(LinkName),
    /// A text that is empty or too long.
    #[error("{what} is empty or longer than {bytes_max} bytes")]
    Text {
        /// Of what.
        what: String,
        /// The bound.
        bytes_max: usize,
    },
    /// More than [`ITEMS_MAX`] of a kind.
    #[error("{count} {kind}s are declared, at most {ITEMS_MAX} are allowed")]
    TooMany {
        /// Of what.
        kind: &'static str,
        /// Declared.
        count: usize,
    },
}

/// A topology that cannot be, with everything that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct TopologyError {
    /// At least one, in the order of the declaration.
    pub problems: Vec<Problem>,
}

impl fmt::Display for TopologyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            write!(f, "{}{problem}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl Topology {
    /// Checks a declaration.
    ///
    /// # Errors
    /// Every [`Problem`] found.
    pub fn new(spec: TopologySpec) -> Result<Self, TopologyError> {
        let mut problems = count_problems(&spec);
        if !problems.is_empty() {
            return Err(TopologyError { problems });
        }
        let regions = unique("region", spec.regions, |region| region.name.clone(), &mut problems);
        let sites = unique("site", spec.sites, |site| site.name.clone(), &mut problems);
        let nodes = unique("node", spec.nodes, |node| node.id, &mut problems);
        let links = unique("link", spec.links, |link| link.name.clone(), &mut problems);
        let repositories = unique("repository", spec.repositories, |one| one.name.clone(), &mut problems);
        let mut topology = Self { regions, sites, nodes, links, repositories, links_by_site: BTreeMap::new() };
        topology.check_references(&mut problems);
        topology.check_values(&mut problems);
        if !problems.is_empty() {
            return Err(TopologyError { problems });
        }
        for link in topology.links.values() {
            for end in [&link.between.0, &link.between.1] {
                topology.links_by_site.entry(end.clone()).or_default().push(link.name.clone());
            }
        }
        Ok(topology)
    }

    /// Regions by name.
    pub fn regions(&self) -> impl Iterator<Item = &Region> {
        self.regions.values()
    }

    /// Sites by name.
    pub fn sites(&self) -> impl Iterator<Item = &Site> {
        self.sites.values()
    }

    /// Nodes by id.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// Links by name.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// Repositories by name.
    pub fn repositories(&self) -> impl Iterator<Item = &Repository> {
        self.repositories.values()
    }

    /// A site.
    #[must_use]
    pub fn site(&self, name: &SiteName) -> Option<&Site> {
        self.sites.get(name)
    }

    /// A node.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id)
    }

    /// A repository.
    #[must_use]
    pub fn repository(&self, name: &str) -> Option<&Repository> {
        self.repositories.get(name)
    }

    /// A region.
    #[must_use]
    pub fn region(&self, name: &RegionName) -> Option<&Region> {
        self.regions.get(name)
    }

    /// The region of a site.
    #[must_use]
    pub fn region_of(&self, site: &SiteName) -> Option<&Region> {
        self.regions.get(&self.sites.get(site)?.region)
    }

    /// The links that end at a site, by name.
    pub fn links_of(&self, site: &SiteName) -> impl Iterator<Item = &Link> {
        self.links_by_site.get(site).into_iter().flatten().filter_map(|name| self.links.get(name))
    }

    fn check_references(&self, problems: &mut Vec<Problem>) {
        let mut region = |by: String, name: &RegionName| {
            if !self.regions.contains_key(name) {
                problems.push(Problem::Unknown { by, kind: "region", name: name.to_string() });
            }
        };
        for site in self.sites.values() {
            region(format!("site {}", site.name), &site.region);
        }
        for repository in self.repositories.values() {
            region(format!("repository {}", repository.name), &repository.region);
        }
        let mut site = |by: String, name: &SiteName| {
            if !self.sites.contains_key(name) {
                problems.push(Problem::Unknown { by, kind: "site", name: name.to_string() });
            }
        };
        for node in self.nodes.values() {
            site(format!("node {}", node.id), &node.site);
        }
        for link in self.links.values() {
            let ends: BTreeSet<_> = [&link.between.0, &link.between.1].into();
            for end in ends {
                site(format!("link {}", link.name), end);
            }
        }
    }

    fn check_values(&self, problems: &mut Vec<Problem>) {
        for link in self.links.values() {
            if link.between.0 == link.between.1 {
                problems.push(Problem::SelfLink { link: link.name.clone(), site: link.between.0.clone() });
            }
            if link.rate.0 == 0 {
                problems.push(Problem::NoRate(link.name.clone()));
            }
        }
        let mut text = |what: String, text: &str, bytes_max: usize| {
            if text.is_empty() || text.len() > bytes_max {
                problems.push(Problem::Text { what, bytes_max });
            }
        };
        for region in self.regions.values() {
            text(format!("the provider of region {}", region.name), &region.provider, 63);
        }
        for repository in self.repositories.values() {
            text("a repository's name".to_owned(), &repository.name, 63);
            text(format!("the URL of repository {}", repository.name), &repository.url, 2048);
        }
    }
}

fn count_problems(spec: &TopologySpec) -> Vec<Problem> {
    [
        ("region", spec.regions.len()),
        ("site", spec.sites.len()),
        ("node", spec.nodes.len()),
        ("link", spec.links.len()),
        ("repository", spec.repositories.len()),
    ]
    .into_iter()
    .filter(|(_, count)| *count > ITEMS_MAX)
    .map(|(kind, count)| Problem::TooMany { kind, count })
    .collect()
}

fn unique<K: Ord + Clone + fmt::Display, T>(
    kind: &'static str,
    items: Vec<T>,
    key: impl Fn(&T) -> K,
    problems: &mut Vec<Problem>,
) -> BTreeMap<K, T> {
    let mut unique = BTreeMap::new();
    for item in items {
        let key = key(&item);
        if unique.insert(key.clone(), item).is_some() {
            problems.push(Problem::Duplicate { kind, name: key.to_string() });
        }
    }
    unique
}

impl TryFrom<TopologySpec> for Topology {
    type Error = TopologyError;

    fn try_from(spec: TopologySpec) -> Result<Self, TopologyError> {
        Self::new(spec)
    }
}

impl From<Topology> for TopologySpec {
    fn from(topology: Topology) -> Self {
        Self {
            regions: topology.regions.into_values().collect(),
            sites: topology.sites.into_values().collect(),
            nodes: topology.nodes.into_values().collect(),
            links: topology.links.into_values().collect(),
            repositories: topology.repositories.into_values().collect(),
        }
    }
}
