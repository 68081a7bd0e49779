//! Which links carry bytes between two sites.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use causeway_base::SiteName;

use crate::model::{Link, LinkName};
use crate::topology::Topology;
use crate::units::{BitRate, Price};

/// What a path is chosen by. Ties are broken by the other figures, at last by the links' names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PathPolicy {
    /// Fewest links, then the declared priorities, then price, then round-trip time.
    #[default]
    Priority,
    /// Lowest price, then round-trip time.
    Cheapest,
    /// Lowest round-trip time, then price.
    Fastest,
}

/// A way from one site to another. Between nodes of one site it has no links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// In the order of travel.
    pub links: Vec<LinkName>,
    /// Sum of the links' round-trip times; within a site its own.
    pub rtt: Duration,
    /// The slowest link's rate; `None` within a site.
    pub rate: Option<BitRate>,
    /// Sum of the links' prices.
    pub price_per_gib: Price,
}

/// Sums link by link, compared in order: an ordered monoid, so the shortest-path argument of Dijkstra holds.
type Cost = [u128; 4];

/// A cost, then the names along the way.
type Rank<'a> = (Cost, Vec<&'a LinkName>);

impl PathPolicy {
    fn cost(self, link: &Link) -> Cost {
        let (priority, price) = (u128::from(link.priority), u128::from(link.price_per_gib.0));
        let rtt = link.rtt.as_nanos();
        match self {
            Self::Priority => [1, priority, price, rtt],
            Self::Cheapest => [price, rtt, 1, priority],
            Self::Fastest => [rtt, price, 1, priority],
        }
    }
}

impl Topology {
    /// The best path over links that are not `down`, through transit sites only; `None` if there is none or a site is
    /// unknown.
    #[must_use]
    pub fn path(&self, from: &SiteName, to: &SiteName, policy: PathPolicy, down: &BTreeSet<LinkName>) -> Option<Path> {
        let start = self.site(from)?;
        self.site(to)?;
        if from == to {
            return Some(Path { links: Vec::new(), rtt: start.lan_rtt, rate: None, price_per_gib: Price(0) });
        }
        let links = self.shortest(from, to, policy, down)?;
        Some(Path {
            rtt: links.iter().map(|link| link.rtt).fold(Duration::ZERO, Duration::saturating_add),
            rate: links.iter().map(|link| link.rate).min(),
            price_per_gib: Price(links.iter().fold(0, |sum, link| sum.saturating_add(link.price_per_gib.0))),
            links: links.into_iter().map(|link| link.name.clone()).collect(),
        })
    }

    /// Dijkstra; the frontier is ordered by cost and then by the names along the way, so equal costs have one answer.
    fn shortest<'a>(
        &'a self,
        from: &'a SiteName,
        to: &SiteName,
        policy: PathPolicy,
        down: &BTreeSet<LinkName>,
    ) -> Option<Vec<&'a Link>> {
        let mut frontier: BTreeMap<Rank<'a>, (&SiteName, Vec<&Link>)> = BTreeMap::new();
        frontier.insert(([0; 4], Vec::new()), (from, Vec::new()));
        let mut reached = BTreeSet::new();
        while let Some(((cost, names), (site, way))) = frontier.pop_first() {
            if site == to {
                return Some(way);
            }
            let may_pass = site == from || self.site(site).is_some_and(|site| site.transit);
            if !reached.insert(site) || !may_pass {
                continue;
            }
            for link in self.links_of(site).filter(|link| !down.contains(&link.name)) {
                let Some(next) = link.other_end(site).filter(|next| !reached.contains(next)) else { continue };
                let step = policy.cost(link);
                let cost = std::array::from_fn(|at| cost[at] + step[at]);
                let (mut names, mut way) = (names.clone(), way.clone());
                names.push(&link.name);
                way.push(link);
                frontier.insert((cost, names), (next, way));
            }
        }
        None
    }
}
