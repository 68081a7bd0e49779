//! Which nodes vote, follow and witness, so that a survival goal holds at the lowest commit latency.
//!
//! Three voters in three failure domains are enough, and none can commit faster: any set that survives the loss of home's
//! domain has less than a majority in it, so every commit waits for a node outside of home's domain; the nearest of
//! those is what three voters wait for. The planner therefore looks only at threes; its tests compare it with a search
//! over all odd sets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use causeway_base::{NodeId, SiteName};
use serde::{Deserialize, Serialize};

use crate::model::Node;
use crate::path::PathPolicy;
use crate::residency::{Residency, ResidencyViolation};
use crate::topology::Topology;

/// The class of failure that a volume survives with no acknowledged write lost and no person needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Survive {
    /// Any one node.
    Node,
    /// Any one site.
    Site,
    /// Any one region.
    Region,
}

impl fmt::Display for Survive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Node => "node",
            Self::Site => "site",
            Self::Region => "region",
        })
    }
}

/// What is asked of a placement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goal {
    /// What is survived.
    pub survive: Survive,
    /// Where the leader should be.
    pub home: SiteName,
    /// Sites that hold the metadata beside the voters: replicas and caches.
    pub members: BTreeSet<SiteName>,
    /// Where the volume may lie.
    pub residency: Residency,
}

/// Who does what for a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Full voters, home's first, then by id.
    pub voters: Vec<NodeId>,
    /// Voters without file data, by id.
    pub witnesses: Vec<NodeId>,
    /// Full replicas of the metadata without a vote, by id.
    pub learners: Vec<NodeId>,
    /// Round trip that a commit at home waits for.
    pub commit_latency: Duration,
    /// The longest such wait after the loss of any one domain, with the best leader left.
    pub commit_latency_degraded: Duration,
}

/// Why a goal cannot be held, and what is missing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unplaceable {
    /// A site that is not declared.
    #[error("site {0} is not declared")]
    UnknownSite(SiteName),
    /// A site without a node that holds file data.
    #[error("site {0} has no node that holds file data; add one")]
    NoNode(SiteName),
    /// A site that the residency label forbids.
    #[error(transparent)]
    Residency(#[from] ResidencyViolation),
    /// No way from home to a site that should follow.
    #[error("no link leads from home {home} to site {site}")]
    Unreachable {
        /// Home.
        home: SiteName,
        /// The site.
        site: SiteName,
    },
    /// Three failure domains are needed.
    #[error(
        "surviving the loss of a {survive} needs voters in 3 {survive}s that are allowed and reachable; there {} {} ({}): add {} more, a witness is enough for one",
        if usable.len() == 1 { "is" } else { "are" }, usable.len(), usable.join(", "), 3_usize.saturating_sub(usable.len())
    )]
    TooFewDomains {
        /// The goal.
        survive: Survive,
        /// The domains that can vote.
        usable: Vec<String>,
    },
    /// With home's domain lost, only witnesses would be left.
    #[error(
        "after the loss of home's {survive} only witnesses would be left: add a node with file data in another {survive}"
    )]
    NoDataLeft {
        /// The goal.
        survive: Survive,
    },
    /// The voters outside of home cannot reach each other.
    #[error("after the loss of home's {survive} no two voters left could reach each other: add a link between them")]
    SurvivorsApart {
        /// The goal.
        survive: Survive,
    },
}

/// Plans a placement; the same arguments give the same answer. Every voter can be reached from home (over transit sites, if
/// need be): a voter that its leader cannot replicate to counts for nothing.
///
/// # Errors
/// [`Unplaceable`] with what is missing.
pub fn plan(topology: &Topology, goal: &Goal) -> Result<Placement, Unplaceable> {
    for site in std::iter::once(&goal.home).chain(&goal.members) {
        topology.site(site).ok_or_else(|| Unplaceable::UnknownSite(site.clone()))?;
        goal.residency.check_site(topology, site)?;
    }
    let full = |site: &SiteName| topology.nodes().find(|node| node.site == *site && !node.witness);
    let leader = full(&goal.home).ok_or_else(|| Unplaceable::NoNode(goal.home.clone()))?;
    let rtts = Rtts::new(topology);

    let mut candidates = Vec::new();
    for node in topology.nodes().filter(|node| node.id != leader.id) {
        let allowed = goal.residency.check_site(topology, &node.site).is_ok();
        if allowed && rtts.between(leader, node).is_some() {
            candidates.push(node);
        }
    }
    let domains = Domains { topology, survive: goal.survive };
    let best = choose(leader, &candidates, &domains, &rtts)?;

    let mut learners = BTreeSet::new();
    for site in &goal.members {
        let node = full(site).ok_or_else(|| Unplaceable::NoNode(site.clone()))?;
        if rtts.between(leader, node).is_none() {
            return Err(Unplaceable::Unreachable { home: goal.home.clone(), site: site.clone() });
        }
        if !best.voters.iter().any(|voter| voter.site == *site && !voter.witness) {
            learners.insert(node.id);
        }
    }
    let ids = |witness: bool| best.voters.iter().filter(move |node| node.witness == witness).map(|node| node.id);
    Ok(Placement {
        voters: ids(false).collect(),
        witnesses: ids(true).collect(),
        learners: learners.into_iter().collect(),
        commit_latency: best.latency,
        commit_latency_degraded: best.degraded,
    })
}

struct Chosen<'a> {
    voters: Vec<&'a Node>,
    latency: Duration,
    degraded: Duration,
}

/// Commit latency, the same after a failure, witnesses, ids.
type Rank = (Duration, Duration, usize, [NodeId; 2]);

/// The best pair beside the leader: lowest commit latency, then lowest after a failure, then fewest witnesses, then ids.
fn choose<'a>(
    leader: &'a Node,
    candidates: &[&'a Node],
    domains: &Domains<'_>,
    rtts: &Rtts,
) -> Result<Chosen<'a>, Unplaceable> {
    let survive = domains.survive;
    let usable: BTreeSet<String> =
        std::iter::once(leader).chain(candidates.iter().copied()).map(|node| domains.of(node)).collect();
    if usable.len() < 3 {
        return Err(Unplaceable::TooFewDomains { survive, usable: usable.into_iter().collect() });
    }
    let candidates = nearest_alike(leader, candidates, rtts);
    let mut best: Option<(Rank, [&Node; 2])> = None;
    let mut apart = false;
    for (at, first) in candidates.iter().enumerate() {
        for second in &candidates[at + 1..] {
            let of = [domains.of(leader), domains.of(first), domains.of(second)];
            if of[0] == of[1] || of[0] == of[2] || of[1] == of[2] || (first.witness && second.witness) {
                continue;
            }
            let pair = (rtts.between(leader, first), rtts.between(leader, second), rtts.between(first, second));
            let (Some(to_first), Some(to_second), Some(across)) = pair else {
                apart = true;
                continue;
            };
            let degraded = to_first.max(to_second).max(across);
            let witnesses = usize::from(first.witness) + usize::from(second.witness);
            let rank = (to_first.min(to_second), degraded, witnesses, [first.id, second.id]);
            if best.as_ref().is_none_or(|(least, _)| rank < *least) {
                best = Some((rank, [first, second]));
            }
        }
    }
    let none = if apart { Unplaceable::SurvivorsApart { survive } } else { Unplaceable::NoDataLeft { survive } };
    let ((latency, degraded, ..), [first, second]) = best.ok_or(none)?;
    Ok(Chosen { voters: vec![leader, first, second], latency, degraded })
}

/// Nodes of one site and kind are interchangeable: the first two of each are enough to choose from.
fn nearest_alike<'a>(leader: &Node, candidates: &[&'a Node], rtts: &Rtts) -> Vec<&'a Node> {
    let mut seen: BTreeMap<(&SiteName, bool), usize> = BTreeMap::new();
    let mut kept: Vec<&Node> = candidates
        .iter()
        .copied()
        .filter(|node| {
            let count = seen.entry((&node.site, node.witness)).or_default();
            *count += 1;
            *count <= 2
        })
        .collect();
    kept.sort_by_key(|node| (rtts.between(leader, node), node.id));
    kept
}

struct Domains<'a> {
    topology: &'a Topology,
    survive: Survive,
}

impl Domains<'_> {
    fn of(&self, node: &Node) -> String {
        match self.survive {
            Survive::Node => node.id.to_string(),
            Survive::Site => node.site.to_string(),
            Survive::Region => self.topology.region_of(&node.site).map_or_else(String::new, |it| it.name.to_string()),
        }
    }
}

/// Fastest round trips between sites that have nodes.
struct Rtts(BTreeMap<(SiteName, SiteName), Duration>);

impl Rtts {
    fn new(topology: &Topology) -> Self {
        let sites: BTreeSet<&SiteName> = topology.nodes().map(|node| &node.site).collect();
        let mut rtts = BTreeMap::new();
        for from in &sites {
            for to in &sites {
                if let Some(path) = topology.path(from, to, PathPolicy::Fastest, &BTreeSet::new()) {
                    rtts.insert(((*from).clone(), (*to).clone()), path.rtt);
                }
            }
        }
        Self(rtts)
    }

    fn between(&self, from: &Node, to: &Node) -> Option<Duration> {
        self.0.get(&(from.site.clone(), to.site.clone())).copied()
    }
}
