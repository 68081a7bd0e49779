//! Topologies as people write them: the demo's three sites, and what is refused.
#![allow(clippy::unwrap_used)] // helpers of tests may panic

use causeway_base::{NodeId, SiteName};
use causeway_topology::{
    Goal, PathPolicy, Problem, Residency, ResidencyViolation, Survive, Topology, TopologySpec, Unplaceable, placement,
};

const THREE_SITES: &str = r#"
regions = [
  { name = "ch-north", jurisdiction = "ch", provider = "on-prem" },
  { name = "westeurope", jurisdiction = "eu", provider = "azure" },
  { name = "eastus", jurisdiction = "us", provider = "azure" },
]
sites = [
  { name = "zurich", region = "ch-north", transit = true },
  { name = "westeurope", region = "westeurope" },
  { name = "eastus", region = "eastus" },
]
nodes = [{ id = 1, site = "zurich" }, { id = 2, site = "westeurope" }, { id = 3, site = "eastus" }]
repositories = [{ name = "dr", region = "westeurope", url = "azure://dr/causeway", read_price_per_gib = "0.01" }]

[[links]]
name = "circuit"
between = ["zurich", "westeurope"]
kind = "expressroute"
rate = "1Gbit/s"
rtt = "20ms"
priority = 0

[[links]]
name = "tunnel"
between = ["zurich", "westeurope"]
kind = "vpn"
rate = "200Mbit/s"
rtt = "26ms"
price_per_gib = "0.087"
priority = 1

[[links]]
name = "atlantic"
between = ["westeurope", "eastus"]
kind = "virtual-wan"
rate = "500Mbit/s"
rtt = "80ms"
price_per_gib = "0.02"
"#;

fn spec() -> TopologySpec {
    toml::from_str(THREE_SITES).unwrap()
}

fn site(name: &str) -> SiteName {
    name.parse().unwrap()
}

fn goal(survive: Survive) -> Goal {
    Goal { survive, home: site("zurich"), members: [site("eastus")].into(), residency: Residency::Anywhere }
}

#[test]
fn three_sites_survive_a_region_once_they_all_reach_each_other() {
    let mut spec = spec();
    // eastus reaches zurich only through westeurope, which carries nothing for others.
    let refused = placement::plan(&Topology::new(spec.clone()).unwrap(), &goal(Survive::Region)).unwrap_err();
    let expected =
        Unplaceable::TooFewDomains { survive: Survive::Region, usable: vec!["ch-north".into(), "westeurope".into()] };
    assert_eq!(refused, expected);
    assert!(refused.to_string().contains("add 1 more"), "{refused}");

    spec.sites[1].transit = true;
    let topology = Topology::new(spec.clone()).unwrap();
    let plan = placement::plan(&topology, &goal(Survive::Region)).unwrap();
    assert_eq!(plan.voters, [NodeId(1), NodeId(2), NodeId(3)]);
    assert_eq!(plan.commit_latency.as_millis(), 20);
    assert_eq!(plan.commit_latency_degraded.as_millis(), 100);
    assert!(plan.learners.is_empty() && plan.witnesses.is_empty());

    let swiss = Residency::Jurisdictions(["ch".parse().unwrap()].into());
    let restricted = Goal { residency: swiss, ..goal(Survive::Site) };
    let refused = placement::plan(&topology, &restricted).unwrap_err();
    assert!(matches!(refused, Unplaceable::Residency(ResidencyViolation::Forbidden { .. })), "{refused}");
}

#[test]
fn two_sites_hold_with_a_witness_and_not_without() {
    let mut spec = spec();
    spec.sites[1].transit = true;
    spec.nodes[2].witness = true;
    let no_members = Goal { members: [].into(), ..goal(Survive::Site) };
    let plan = placement::plan(&Topology::new(spec.clone()).unwrap(), &no_members).unwrap();
    assert_eq!((plan.voters, plan.witnesses), (vec![NodeId(1), NodeId(2)], vec![NodeId(3)]));
    let refused = placement::plan(&Topology::new(spec.clone()).unwrap(), &goal(Survive::Site)).unwrap_err();
    assert_eq!(refused, Unplaceable::NoNode(site("eastus")), "a member needs data");
    spec.nodes[1].witness = true;
    let refused = placement::plan(&Topology::new(spec).unwrap(), &no_members).unwrap_err();
    assert_eq!(refused, Unplaceable::NoDataLeft { survive: Survive::Site });
}

#[test]
fn the_tunnel_takes_over_when_the_circuit_is_cut() {
    let topology = Topology::new(spec()).unwrap();
    let names = |down: &[&str]| {
        let down = down.iter().map(|name| name.parse().unwrap()).collect();
        let path = topology.path(&site("zurich"), &site("westeurope"), PathPolicy::Priority, &down)?;
        Some(path.links.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(names(&[]), Some(vec!["circuit".to_owned()]));
    assert_eq!(names(&["circuit"]), Some(vec!["tunnel".to_owned()]));
    assert_eq!(names(&["circuit", "tunnel"]), None);
}

#[test]
fn every_mistake_is_named_at_once() {
    let mut spec = spec();
    spec.regions.push(spec.regions[0].clone());
    spec.sites[2].region = "mars".parse().unwrap();
    spec.nodes[1].site = site("berlin");
    spec.links[0].between.1 = site("zurich");
    spec.links[1].rate.0 = 0;
    spec.repositories[0].url = String::new();
    let problems = Topology::new(spec).unwrap_err().problems;
    let has = |wanted: fn(&Problem) -> bool| assert!(problems.iter().any(wanted), "{problems:?}");
    has(|it| matches!(it, Problem::Duplicate { kind: "region", name } if name == "ch-north"));
    has(|it| matches!(it, Problem::Unknown { kind: "region", name, .. } if name == "mars"));
    has(|it| matches!(it, Problem::Unknown { kind: "site", name, .. } if name == "berlin"));
    has(|it| matches!(it, Problem::SelfLink { .. }));
    has(|it| matches!(it, Problem::NoRate(_)));
    has(|it| matches!(it, Problem::Text { .. }));
    assert_eq!(problems.len(), 6);
}

#[test]
fn a_topology_survives_text_and_bad_text_is_refused() {
    let topology: Topology = toml::from_str(THREE_SITES).unwrap();
    let text = toml::to_string(&topology).unwrap();
    assert_eq!(toml::from_str::<Topology>(&text).unwrap(), topology);
    for (from, to) in [
        ("jurisdiction", "jurisdictionn"),
        ("\"20ms\"", "\"20 parsecs\""),
        ("\"1Gbit/s\"", "\"fast\""),
        ("site = \"zurich\"", "site = \"basel\""),
        ("expressroute", "carrier-pigeon"),
    ] {
        assert!(toml::from_str::<Topology>(&THREE_SITES.replace(from, to)).is_err(), "{from} -> {to}");
    }
}
