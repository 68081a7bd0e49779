//! The planner and the path choice against a search over everything, on small random topologies.
#![allow(clippy::unwrap_used)] // helpers of tests may panic

use std::collections::BTreeSet;
use std::time::Duration;

use causeway_base::{NodeId, SiteName};
use causeway_topology::{
    BitRate, Goal, Jurisdiction, Link, LinkKind, LinkName, Node, PathPolicy, Price, Region, RegionName, Residency,
    Site, Survive, Topology, TopologySpec, placement,
};
use proptest::prelude::*;

fn site_name(index: usize) -> SiteName {
    format!("s{index}").parse().unwrap()
}

fn region_name(index: usize) -> RegionName {
    format!("r{index}").parse().unwrap()
}

prop_compose! {
    fn topologies()(
        regions in 1_usize..5,
        sites in prop::collection::vec((0_usize..5, any::<bool>()), 1..6),
        nodes in prop::collection::vec((0_usize..6, prop::bool::weighted(0.25)), 1..8),
        links in prop::collection::vec((0_usize..6, 0_usize..6, 1_u64..40, 0_u64..4, 0_u8..3), 0..12),
    ) -> Topology {
        let count = sites.len();
        let links = links.into_iter().enumerate().filter(|(_, (a, b, ..))| a % count != b % count);
        Topology::new(TopologySpec {
            regions: (0..regions).map(|at| Region {
                name: region_name(at),
                jurisdiction: ["ch", "eu"][at % 2].parse().unwrap(),
                provider: "azure".to_owned(),
            }).collect(),
            sites: sites.iter().enumerate().map(|(at, (region, transit))| Site {
                name: site_name(at),
                region: region_name(region % regions),
                lan_rtt: Duration::from_micros(200),
                transit: *transit,
            }).collect(),
            nodes: nodes.into_iter().enumerate().map(|(at, (site, witness))| Node {
                id: NodeId(at as u64 + 1),
                site: site_name(site % count),
                witness,
            }).collect(),
            links: links.map(|(at, (a, b, rtt, price, priority))| Link {
                name: format!("l{at}").parse().unwrap(),
                between: (site_name(a % count), site_name(b % count)),
                kind: LinkKind::Vpn,
                rate: BitRate(1_000_000),
                rtt: Duration::from_millis(rtt),
                price_per_gib: Price(price),
                priority,
            }).collect(),
            repositories: Vec::new(),
        }).unwrap()
    }
}

/// Every simple way from `from` to `to`, as links.
fn ways<'a>(topology: &'a Topology, from: &SiteName, to: &SiteName, down: &BTreeSet<LinkName>) -> Vec<Vec<&'a Link>> {
    fn walk<'a>(
        topology: &'a Topology,
        at: &SiteName,
        to: &SiteName,
        down: &BTreeSet<LinkName>,
        seen: &mut Vec<SiteName>,
        way: &mut Vec<&'a Link>,
        found: &mut Vec<Vec<&'a Link>>,
    ) {
        if at == to {
            found.push(way.clone());
            return;
        }
        if seen.len() > 1 && !topology.site(at).unwrap().transit {
            return;
        }
        for link in topology.links().filter(|link| !down.contains(&link.name)) {
            let Some(next) = link.other_end(at).filter(|next| !seen.contains(next)) else { continue };
            seen.push(next.clone());
            way.push(link);
            walk(topology, next, to, down, seen, way, found);
            way.pop();
            seen.pop();
        }
    }
    let mut found = Vec::new();
    walk(topology, from, to, down, &mut vec![from.clone()], &mut Vec::new(), &mut found);
    found
}

fn rtt(topology: &Topology, from: &Node, to: &Node) -> Option<Duration> {
    topology.path(&from.site, &to.site, PathPolicy::Fastest, &BTreeSet::new()).map(|path| path.rtt)
}

/// What a commit waits for with `leader` among `left` of a set that needs `majority` voters.
fn wait(topology: &Topology, leader: &Node, left: &[&Node], majority: usize) -> Option<Duration> {
    let others = left.iter().filter(|node| node.id != leader.id);
    let mut rtts: Vec<_> = others.filter_map(|node| rtt(topology, leader, node)).collect();
    rtts.sort();
    if majority == 1 { Some(Duration::ZERO) } else { rtts.get(majority - 2).copied() }
}

/// Commit latency from home of a voter set that holds the goal; `None` if it does not hold it, or if the leader at home
/// could not replicate to all of it.
fn latency_if_held(topology: &Topology, goal: &Goal, voters: &[&Node]) -> Option<Duration> {
    let leads = |node: &&&Node| node.site == goal.home && !node.witness;
    let follows = |node: &Node| voters.iter().filter(leads).any(|leader| rtt(topology, leader, node).is_some());
    if !voters.iter().all(|node| follows(node)) {
        return None;
    }
    let majority = voters.len() / 2 + 1;
    let domain = |node: &Node| match goal.survive {
        Survive::Node => node.id.to_string(),
        Survive::Site => node.site.to_string(),
        Survive::Region => topology.region_of(&node.site).unwrap().name.to_string(),
    };
    let best_wait = |left: &[&Node]| {
        left.iter().filter(|node| !node.witness).filter_map(|leader| wait(topology, leader, left, majority)).min()
    };
    for lost in voters.iter().map(|node| domain(node)).collect::<BTreeSet<_>>() {
        let left: Vec<&Node> = voters.iter().copied().filter(|node| domain(node) != lost).collect();
        best_wait(&left)?;
    }
    voters
        .iter()
        .filter(|node| node.site == goal.home && !node.witness)
        .filter_map(|leader| wait(topology, leader, voters, majority))
        .min()
}

fn goals() -> impl Strategy<Value = (Survive, usize, Vec<usize>, u8)> {
    let survive = prop_oneof![Just(Survive::Node), Just(Survive::Site), Just(Survive::Region)];
    (survive, 0_usize..6, prop::collection::vec(0_usize..6, 0..3), 0_u8..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn no_odd_set_of_voters_beats_the_plan((survive, home, members, label) in goals(), topology in topologies()) {
        let sites = topology.sites().count();
        let residency = if label == 0 {
            Residency::Jurisdictions(["ch".parse::<Jurisdiction>().unwrap()].into())
        } else {
            Residency::Anywhere
        };
        let members = members.into_iter().map(|at| site_name(at % sites)).collect();
        let goal = Goal { survive, home: site_name(home % sites), members, residency };
        let allowed: Vec<&Node> =
            topology.nodes().filter(|node| goal.residency.check_site(&topology, &node.site).is_ok()).collect();
        let best = (0_u32..1 << allowed.len())
            .filter(|set| matches!(set.count_ones(), 1 | 3 | 5 | 7))
            .filter_map(|set| {
                let voters: Vec<&Node> =
                    (0..allowed.len()).filter(|at| set >> at & 1 == 1).map(|at| allowed[at]).collect();
                latency_if_held(&topology, &goal, &voters)
            })
            .min();
        match placement::plan(&topology, &goal) {
            Ok(plan) => {
                let node = |id: &NodeId| topology.node(*id).unwrap();
                let voters: Vec<&Node> = plan.voters.iter().chain(&plan.witnesses).map(node).collect();
                prop_assert_eq!(latency_if_held(&topology, &goal, &voters), Some(plan.commit_latency));
                prop_assert_eq!(best, Some(plan.commit_latency));
                prop_assert!(plan.commit_latency_degraded >= plan.commit_latency);
                prop_assert_eq!(&node(&plan.voters[0]).site, &goal.home);
                prop_assert!(plan.witnesses.iter().all(|id| node(id).witness));
                for site in &goal.members {
                    let holds = plan.voters.iter().chain(&plan.learners).any(|id| node(id).site == *site);
                    prop_assert!(holds, "{} has no replica of the metadata", site);
                }
            }
            Err(refused) => {
                // Members can make a goal impossible that voters alone could hold.
                let alone = Goal { members: BTreeSet::new(), ..goal.clone() };
                let about_members = !goal.members.is_empty() && placement::plan(&topology, &alone).is_ok();
                prop_assert!(about_members || best.is_none(), "refused ({refused}), but {best:?} was possible");
                prop_assert!(!refused.to_string().is_empty());
            }
        }
    }

    #[test]
    fn no_way_is_better_than_the_path(
        topology in topologies(),
        (from, to) in (0_usize..6, 0_usize..6),
        lost in prop::collection::btree_set(0_usize..12, 0..4),
    ) {
        let sites = topology.sites().count();
        let (from, to) = (site_name(from % sites), site_name(to % sites));
        let down: BTreeSet<LinkName> = lost.into_iter().map(|at| format!("l{at}").parse().unwrap()).collect();
        let ways = ways(&topology, &from, &to, &down);
        for policy in [PathPolicy::Priority, PathPolicy::Cheapest, PathPolicy::Fastest] {
            let path = topology.path(&from, &to, policy, &down);
            prop_assert_eq!(path.is_some(), from == to || !ways.is_empty());
            let Some(path) = path.filter(|path| !path.links.is_empty()) else { continue };
            prop_assert!(path.links.iter().all(|name| !down.contains(name)));
            let key = |way: &[&Link]| {
                let rtt: Duration = way.iter().map(|link| link.rtt).sum();
                let price: u64 = way.iter().map(|link| link.price_per_gib.0).sum();
                let priority: u64 = way.iter().map(|link| u64::from(link.priority)).sum();
                match policy {
                    PathPolicy::Priority => (way.len() as u64, priority, price, rtt),
                    PathPolicy::Cheapest => (price, 0, 0, rtt),
                    PathPolicy::Fastest => (0, 0, 0, rtt),
                }
            };
            let mine = ways.iter().find(|way| way.iter().map(|link| &link.name).eq(&path.links)).expect("a real way");
            prop_assert_eq!(ways.iter().map(|way| key(way)).min(), Some(key(mine)));
            prop_assert_eq!(path.rtt, mine.iter().map(|link| link.rtt).sum::<Duration>());
        }
    }
}
