//! The root group.

use std::collections::BTreeMap;

use bytes::Bytes;

use causeway_base::{ClientId, ClusterId, Epoch, NodeId, Seq, SiteName, StoreId, Timestamp, VolumeId};
use causeway_namespace_core::audit::{self, AuditAction, By};
use causeway_namespace_core::command::{Command, Outcome, Request, RequestBody};
use causeway_namespace_core::lineage::Lineage;
use causeway_namespace_core::memory::MemoryRecords;
use causeway_namespace_core::promotion;
use causeway_namespace_core::query;
use causeway_namespace_core::root::{
    ClusterRecord, NodeRecord, Note, RealmKey, RootOp, RootOutcome, RootRefusal, VolumeSpec,
};

use causeway_topology::TopologySpec;

use crate::support::Volume;

struct Root {
    records: MemoryRecords,
    seq: Seq,
}

fn node(id: u64, site: &str) -> NodeRecord {
    let address = format!("10.0.0.{id}:7000");
    NodeRecord {
        id: NodeId(id),
        site: site.parse().unwrap(),
        store: None,
        grpc: address.clone(),
        quic: address,
        witness: false,
        state: Default::default(),
    }
}

fn cluster(epoch: u64) -> ClusterRecord {
    ClusterRecord { id: ClusterId(7), epoch: Epoch(epoch) }
}

fn spec(name: &str, mount: &'static str) -> VolumeSpec {
    VolumeSpec {
        name: name.to_owned(),
        mount: Bytes::from_static(mount.as_bytes()),
        home: "zurich".parse().unwrap(),
        survive: None,
        residency: Default::default(),
        learners: Vec::new(),
        voters: vec![NodeId(1), NodeId(2)],
        replicas: vec!["zurich".parse().unwrap()],
        caches: vec!["eastus".parse().unwrap()],
        archive: true,
        chunk_bytes_avg: 64 << 10,
        inline_bytes_max: 4096,
        realm: "default".to_owned(),
    }
}

fn bootstrap() -> RootOp {
    let nodes = vec![node(1, "zurich"), node(2, "eastus")];
    RootOp::Bootstrap { cluster: cluster(1), nodes, realm_key: RealmKey([7; 32]), topology: TopologySpec::default() }
}

impl Root {
    fn new() -> Self {
        let mut root = Self { records: MemoryRecords::new(), seq: Seq(0) };
        assert_eq!(root.op(bootstrap()), RootOutcome::Done);
        root
    }

    fn body(&mut self, body: RequestBody) -> Outcome {
        self.seq = self.seq.next().unwrap();
        let command = Command { requests: vec![Request { at: Timestamp(0), body }] };
        let before = self.records.clone();
        let outcome = self.records.apply(self.seq, &command).unwrap().outcomes.remove(0);
        if matches!(outcome, Outcome::Root(RootOutcome::Refused(_)) | Outcome::Invalid(_)) {
            assert_eq!(self.records, before, "a refusal leaves nothing");
        }
        outcome
    }

    fn op(&mut self, op: RootOp) -> RootOutcome {
        match self.body(RequestBody::Root(op)) {
            Outcome::Root(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    fn refused(&mut self, op: RootOp) -> RootRefusal {
        match self.op(op) {
            RootOutcome::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    }

    fn create(&mut self, spec: VolumeSpec) -> RootOutcome {
        self.op(RootOp::CreateVolume { spec })
    }
}

#[test]
fn bootstrap_happens_once_and_only_to_one_cluster() {
    let mut root = Root::new();
    assert_eq!(root.op(bootstrap()), RootOutcome::Done);
    let other = ClusterRecord { id: ClusterId(8), epoch: Epoch(1) };
    let op = RootOp::Bootstrap {
        cluster: other,
        nodes: vec![node(1, "zurich")],
        realm_key: RealmKey([0; 32]),
        topology: TopologySpec::default(),
    };
    let refusal = root.refused(op);
    assert_eq!(refusal, RootRefusal::OtherCluster { found: ClusterId(7), asked: ClusterId(8) });
    assert_eq!(query::cluster(&root.records).unwrap(), Some(cluster(1)));
    assert_eq!(query::realm_key(&root.records, "default").unwrap(), Some(RealmKey([7; 32])));
    assert_eq!(query::nodes(&root.records).unwrap().len(), 2);
}

#[test]
fn bad_first_nodes_leave_the_group_blank() {
    let mut root = Root { records: MemoryRecords::new(), seq: Seq(0) };
    let known = NodeRecord { store: Some(StoreId(1)), ..node(1, "zurich") };
    for nodes in [vec![], vec![node(1, "zurich"), node(1, "eastus")], vec![known]] {
        let op = RootOp::Bootstrap {
            cluster: cluster(1),
            nodes,
            realm_key: RealmKey([7; 32]),
            topology: TopologySpec::default(),
        };
        assert!(matches!(root.refused(op), RootRefusal::Invalid(_)));
    }
    assert_eq!(root.refused(RootOp::CreateVolume { spec: spec("a", "/a") }), RootRefusal::NoCluster);
    assert_eq!(root.records, MemoryRecords::new());
}

#[test]
fn a_lost_disk_is_refused() {
    let mut root = Root::new();
    let with =
        |store, grpc: &str| NodeRecord { store: Some(StoreId(store)), grpc: grpc.to_owned(), ..node(1, "zurich") };
    assert_eq!(root.op(RootOp::RegisterNode { node: with(11, "a:1") }), RootOutcome::Done);
    assert_eq!(root.op(RootOp::RegisterNode { node: with(11, "b:1") }), RootOutcome::Done);
    assert_eq!(query::nodes(&root.records).unwrap()[0], with(11, "b:1"));
    let mismatch = RootRefusal::StoreMismatch { node: NodeId(1), registered: StoreId(11), asked: StoreId(12) };
    assert_eq!(root.refused(RootOp::RegisterNode { node: with(12, "a:1") }), mismatch);
    let unknown = NodeRecord { id: NodeId(9), ..with(13, "a:1") };
    assert_eq!(root.refused(RootOp::RegisterNode { node: unknown }), RootRefusal::UnknownNode(NodeId(9)));
    let moved = NodeRecord { site: "eastus".parse().unwrap(), ..with(11, "a:1") };
    assert!(matches!(root.refused(RootOp::RegisterNode { node: moved }), RootRefusal::Invalid(_)));
}

#[test]
fn volumes_are_created_once_and_found_by_name_and_mount() {
    let mut root = Root::new();
    assert_eq!(root.create(spec("data", "/data")), RootOutcome::Volume(VolumeId(1)));
    assert_eq!(root.create(spec("data", "/data")), RootOutcome::Volume(VolumeId(1)));
    assert_eq!(root.create(spec("deep", "/a/b")), RootOutcome::Volume(VolumeId(2)));
    let other = VolumeSpec { archive: false, ..spec("data", "/data") };
    assert_eq!(root.refused(RootOp::CreateVolume { spec: other }), RootRefusal::NameTaken("data".into()));
    let find = |path: &[u8]| {
        let found = query::volume_by_mount(&root.records, path).unwrap();
        found.map(|(volume, rest)| (volume.spec.name, rest.to_vec()))
    };
    assert_eq!(find(b"/data"), Some(("data".into(), vec![])));
    assert_eq!(find(b"//data/./x/\xff/"), Some(("data".into(), b"x/\xff".to_vec())));
    assert_eq!(find(b"/a/b/c"), Some(("deep".into(), b"c".to_vec())));
    for path in [&b"/"[..], b"/a", b"/database", b"/dat"] {
        assert_eq!(find(path), None);
    }
    assert_eq!(query::volume_by_name(&root.records, "deep").unwrap().unwrap().id, VolumeId(2));
    assert_eq!(query::volumes(&root.records).unwrap().len(), 2);
    assert_eq!(query::volumes(&root.records).unwrap()[0].epoch, Epoch(1));
}

#[test]
fn volumes_nest_and_the_nearest_above_a_path_has_it() {
    let mut root = Root::new();
    for (name, mount) in [("deep", "/a/b"), ("deeper", "/a/b/c/d"), ("above", "/a"), ("top", "/")] {
        assert!(matches!(root.create(spec(name, mount)), RootOutcome::Volume(_)), "{mount}");
    }
    match root.create(spec("again", "/a/b")) {
        RootOutcome::Refused(RootRefusal::MountTaken { volume, mount }) => {
            assert_eq!((volume.as_str(), mount.as_str()), ("deep", "/a/b"));
        }
        other => panic!("{other:?}"),
    }
    for (path, volume, rest) in [
        ("/a/b/c/d/e", "deeper", "e"),
        ("/a/b/c/de", "deep", "c/de"),
        ("/a/b", "deep", ""),
        ("/a/bc", "above", "bc"),
        ("/x/y", "top", "x/y"),
    ] {
        let (found, left) = query::volume_by_mount(&root.records, path.as_bytes()).unwrap().unwrap();
        assert_eq!((found.spec.name.as_str(), &left[..]), (volume, rest.as_bytes()), "{path}");
    }
}

#[test]
fn a_spec_that_breaks_a_rule_is_refused() {
    let mut root = Root::new();
    let good = || spec("data", "/data");
    let long = Bytes::from([b"/".to_vec(), vec![b'x'; 255]].concat().repeat(5));
    let bad = [
        VolumeSpec { name: String::new(), ..good() },
        VolumeSpec { name: "Data".into(), ..good() },
        VolumeSpec { name: "-x".into(), ..good() },
        VolumeSpec { name: "x".repeat(64), ..good() },
        VolumeSpec { mount: "data".into(), ..good() },
        VolumeSpec { mount: "/data/".into(), ..good() },
        VolumeSpec { mount: "/a//b".into(), ..good() },
        VolumeSpec { mount: "/a/../b".into(), ..good() },
        VolumeSpec { mount: "".into(), ..good() },
        VolumeSpec { mount: long, ..good() },
        VolumeSpec { voters: vec![], ..good() },
        VolumeSpec { voters: vec![NodeId(1), NodeId(1)], ..good() },
        VolumeSpec { caches: vec!["zurich".parse().unwrap()], ..good() },
        VolumeSpec { chunk_bytes_avg: 8 << 10, ..good() },
        VolumeSpec { chunk_bytes_avg: 100_000, ..good() },
        VolumeSpec { inline_bytes_max: 4097, ..good() },
        VolumeSpec { realm: "other".into(), ..good() },
    ];
    for spec in bad {
        assert!(
            matches!(root.refused(RootOp::CreateVolume { spec: spec.clone() }), RootRefusal::Invalid(_)),
            "{spec:?}"
        );
    }
    let unknown = VolumeSpec { voters: vec![NodeId(3)], ..good() };
    assert_eq!(root.refused(RootOp::CreateVolume { spec: unknown }), RootRefusal::UnknownNode(NodeId(3)));
    let nowhere = VolumeSpec { home: "mars".parse().unwrap(), ..good() };
    let refusal = root.refused(RootOp::CreateVolume { spec: nowhere });
    assert_eq!(refusal, RootRefusal::UnknownSite("mars".parse().unwrap()));
    // Refusals used no id.
    assert_eq!(root.create(good()), RootOutcome::Volume(VolumeId(1)));
}

#[test]
fn a_reseed_raises_every_epoch_and_replaces_the_nodes() {
    let mut root = Root::new();
    root.create(spec("a", "/a"));
    root.create(spec("b", "/b"));
    let nodes = vec![node(4, "zurich"), node(5, "eastus")];
    let on = |name: &str, mount| VolumeSpec { voters: vec![NodeId(4)], ..spec(name, mount) };
    let both =
        BTreeMap::from([(VolumeId(1), on("b", "/b")), (VolumeId(2), on("a", "/a")), (VolumeId(9), on("c", "/c"))]);
    let reseed = |epoch, volumes: &BTreeMap<VolumeId, VolumeSpec>| RootOp::Reseed {
        cluster: cluster(epoch),
        nodes: nodes.clone(),
        volumes: volumes.clone(),
    };
    let missing = BTreeMap::from([(VolumeId(1), on("a", "/a"))]);
    let stale = BTreeMap::from([(VolumeId(1), spec("a", "/a")), (VolumeId(2), on("b", "/b"))]);
    let twice = BTreeMap::from([(VolumeId(1), on("a", "/a")), (VolumeId(2), on("a", "/b"))]);
    for bad in [&missing, &twice] {
        assert!(matches!(root.refused(reseed(2, bad)), RootRefusal::Invalid(_)));
    }
    assert_eq!(root.refused(reseed(2, &stale)), RootRefusal::UnknownNode(NodeId(1)));
    assert!(matches!(root.refused(reseed(1, &both)), RootRefusal::Invalid(_)));
    assert_eq!(root.op(reseed(2, &both)), RootOutcome::Done);
    let registered = NodeRecord { store: Some(StoreId(1)), ..node(4, "zurich") };
    assert_eq!(root.op(RootOp::RegisterNode { node: registered }), RootOutcome::Done);
    assert_eq!(root.op(reseed(2, &both)), RootOutcome::Done, "again, after a lost answer");
    assert_eq!(query::nodes(&root.records).unwrap().len(), 2);
    assert!(query::volumes(&root.records).unwrap().iter().all(|volume| volume.epoch == Epoch(2)));
    assert_eq!(query::volume_by_name(&root.records, "a").unwrap().unwrap().id, VolumeId(2));
    assert_eq!(query::totals(&root.records).unwrap().epoch, Epoch(2));
    assert_eq!(root.create(on("d", "/d")), RootOutcome::Volume(VolumeId(10)));
}

#[test]
fn what_is_for_the_other_kind_of_group_is_invalid() {
    let mut root = Root::new();
    let session = causeway_namespace_core::command::SessionId(1);
    let mutate = RequestBody::Mutate { session, number: 1, acked_below: 0, ops: vec![] };
    for body in [RequestBody::OpenSession { client: ClientId(1) }, mutate] {
        assert!(matches!(root.body(body), Outcome::Invalid(_)));
    }
    let mut volume = Volume::new();
    assert!(matches!(volume.one(RequestBody::Root(bootstrap())), Outcome::Invalid(_)));
}

/// Two sites in two regions.
fn declared() -> TopologySpec {
    use causeway_topology::{Region, Site};
    let region = |name: &str| Region {
        name: name.parse().unwrap(),
        jurisdiction: "ch".parse().unwrap(),
        provider: "on-prem".to_owned(),
    };
    let site = |name: &str| Site {
        name: name.parse().unwrap(),
        region: name.parse().unwrap(),
        lan_rtt: std::time::Duration::from_micros(200),
        transit: false,
    };
    let (regions, sites) = (["zurich", "eastus"].map(region).into(), ["zurich", "eastus"].map(site).into());
    TopologySpec { regions, sites, ..TopologySpec::default() }
}

#[test]
fn the_topology_changes_only_from_the_version_that_was_seen() {
    let mut root = Root::new();
    let set = |expected, spec| RootOp::SetTopology { expected, spec };
    assert_eq!(root.op(set(0, declared())), RootOutcome::Topology(1));
    assert_eq!(root.op(set(0, declared())), RootOutcome::Topology(1), "the same again, its answer was lost");
    let mut other = declared();
    other.sites[0].transit = true;
    let refusal = root.refused(set(0, other.clone()));
    assert!(matches!(refusal, RootRefusal::Changed { expected: 0, found: 1, .. }), "{refusal:?}");
    assert_eq!(root.op(set(1, other.clone())), RootOutcome::Topology(2));
    assert_eq!(query::topology(&root.records).unwrap().spec, other);
    let mut without = declared();
    without.sites.truncate(1);
    let refusal = root.refused(set(2, without)).to_string();
    assert!(refusal.contains("n2") && refusal.contains("eastus"), "a node would have no site: {refusal}");
    assert_eq!(query::topology(&root.records).unwrap().version, 2);
}

#[test]
fn node_ids_are_never_given_twice() {
    let mut root = Root::new();
    let add = |port: u16| {
        let address = format!("h:{port}");
        RootOp::AddNode { site: "eastus".parse().unwrap(), grpc: address.clone(), quic: address, witness: false }
    };
    assert_eq!(root.op(add(1)), RootOutcome::Node(NodeId(3)));
    assert_eq!(root.op(add(1)), RootOutcome::Node(NodeId(3)), "the same again, before it has started");
    assert_eq!(root.op(RootOp::RemoveNode { id: NodeId(3) }), RootOutcome::Done);
    assert_eq!(root.op(add(1)), RootOutcome::Node(NodeId(4)));
    let nowhere =
        RootOp::AddNode { site: "mars".parse().unwrap(), grpc: "a:1".into(), quic: "a:1".into(), witness: false };
    assert!(matches!(root.refused(nowhere), RootRefusal::UnknownSite(_)));
}

#[test]
fn a_node_leaves_only_when_it_is_empty() {
    let mut root = Root::new();
    let RootOutcome::Volume(id) = root.create(spec("data", "/data")) else { panic!("no volume") };
    assert!(matches!(root.refused(RootOp::RemoveNode { id: NodeId(2) }), RootRefusal::NotEmpty { .. }));
    assert_eq!(root.op(RootOp::DrainNode { id: NodeId(2), draining: true }), RootOutcome::Done);
    assert!(matches!(root.refused(RootOp::RemoveNode { id: NodeId(2) }), RootRefusal::NotEmpty { .. }));
    let moved = VolumeSpec { voters: vec![NodeId(1)], ..spec("data", "/data") };
    let op = RootOp::SetVolume { id, expected: 0, spec: moved.clone() };
    assert_eq!(root.op(op.clone()), RootOutcome::Volume(id));
    assert_eq!(root.op(op), RootOutcome::Volume(id), "the same again");
    let stale = RootOp::SetVolume { id, expected: 0, spec: spec("data", "/data") };
    assert!(matches!(root.refused(stale), RootRefusal::Changed { expected: 0, found: 1, .. }));
    let volume = query::volume(&root.records, id).unwrap().unwrap();
    assert_eq!(volume.members, [NodeId(1), NodeId(2)].into(), "until it has moved both run it");
    assert!(matches!(root.refused(RootOp::RemoveNode { id: NodeId(2) }), RootRefusal::NotEmpty { .. }));
    assert_eq!(root.op(RootOp::Placed { id, revision: 0 }), RootOutcome::Done);
    assert!(!query::volume(&root.records, id).unwrap().unwrap().is_placed(), "of an older revision");
    assert_eq!(root.op(RootOp::Placed { id, revision: 1 }), RootOutcome::Done);
    let volume = query::volume(&root.records, id).unwrap().unwrap();
    assert!(volume.is_placed() && volume.founders.is_empty());
    assert_eq!(root.op(RootOp::RemoveNode { id: NodeId(2) }), RootOutcome::Done);
    let renamed = VolumeSpec { mount: "/other".into(), ..moved };
    assert!(matches!(root.refused(RootOp::SetVolume { id, expected: 1, spec: renamed }), RootRefusal::Invalid(_)));
}

#[test]
fn what_people_change_is_recorded_once_and_only_if_it_changed() {
    let mut root = Root::new();
    let by = |reason: &str| By { who: "client/ann".to_owned(), node: NodeId(1), reason: reason.to_owned() };
    let ask = |root: &mut Root, op: RootOp| root.body(RequestBody::Audited { op, by: by("why") });
    let create = RootOp::CreateVolume { spec: spec("a", "/a") };
    assert_eq!(ask(&mut root, create.clone()), Outcome::Root(RootOutcome::Volume(VolumeId(1))));
    // The answer was lost, and the request comes again: nothing changes, nothing is recorded.
    assert_eq!(ask(&mut root, create), Outcome::Root(RootOutcome::Volume(VolumeId(1))));
    assert_eq!(ask(&mut root, RootOp::RemoveNode { id: NodeId(9) }), Outcome::Root(RootOutcome::Done));
    let drain = |draining| RootOp::DrainNode { id: NodeId(2), draining };
    ask(&mut root, drain(true));
    ask(&mut root, drain(true));
    // What the cluster does by itself is not recorded.
    root.op(drain(false));
    assert!(matches!(
        ask(&mut root, RootOp::RemoveNode { id: NodeId(1) }),
        Outcome::Root(RootOutcome::Refused(RootRefusal::NotEmpty { .. }))
    ));
    let moved = VolumeSpec { home: "eastus".parse().unwrap(), ..spec("a", "/a") };
    ask(&mut root, RootOp::SetVolume { id: VolumeId(1), expected: 0, spec: moved });

    let found = query::audit(&root.records, None, 100).unwrap();
    let actions: Vec<_> = found.iter().map(|(number, record)| (*number, record.action.clone())).collect();
    let (zurich, eastus): (SiteName, SiteName) = ("zurich".parse().unwrap(), "eastus".parse().unwrap());
    let set = AuditAction::VolumeSet {
        id: VolumeId(1),
        name: "a".to_owned(),
        revision: 1,
        home_before: zurich.clone(),
        home: eastus,
    };
    let created = AuditAction::VolumeCreated { id: VolumeId(1), name: "a".to_owned(), home: zurich };
    let drained = AuditAction::NodeDrained { id: NodeId(2), draining: true };
    assert_eq!(actions, [(3, set), (2, drained), (1, created)]);
    assert_eq!(found[2].1.by, by("why"));
    assert_eq!(query::audit(&root.records, Some(3), 1).unwrap()[0].0, 2, "pages go on below");

    let long = By { reason: "x".repeat(audit::REASON_BYTES_MAX + 1), ..by("") };
    let refused = root.body(RequestBody::Audited { op: drain(true), by: long });
    assert!(matches!(refused, Outcome::Invalid(_)), "{refused:?}");
}

#[test]
fn a_note_is_recorded_and_changes_nothing_else() {
    let mut root = Root::new();
    let note = |node: u64, name: &str| {
        RootOp::Note(Note::TrustReplica { id: VolumeId(7), name: name.to_owned(), node: NodeId(node) })
    };
    let by = By { who: "client/ann".to_owned(), node: NodeId(1), reason: "seen".to_owned() };
    let ask = |root: &mut Root, at: i64, op: RootOp| {
        root.seq = root.seq.next().unwrap();
        let body = RequestBody::Audited { op, by: by.clone() };
        let command = Command { requests: vec![Request { at: Timestamp(at), body }] };
        root.records.apply(root.seq, &command).unwrap().outcomes.remove(0)
    };
    let recorded = |root: &Root| query::audit(&root.records, None, 100).unwrap();
    // Asked for twice with the same request, since an answer was lost; and once more, later.
    for (at, count) in [(5, 1), (5, 1), (6, 2)] {
        assert_eq!(ask(&mut root, at, note(1, "data")), Outcome::Root(RootOutcome::Done));
        assert_eq!(recorded(&root).len(), count, "at {at}");
    }
    let trusted = AuditAction::ReplicaTrusted { id: VolumeId(7), name: "data".to_owned(), node: NodeId(1) };
    assert_eq!((&recorded(&root)[0].1.action, &recorded(&root)[0].1.by), (&trusted, &by));
    let before = root.records.clone();
    let unknown = ask(&mut root, 7, note(9, "data"));
    assert_eq!(unknown, Outcome::Root(RootOutcome::Refused(RootRefusal::UnknownNode(NodeId(9)))));
    let long = ask(&mut root, 7, note(1, &"n".repeat(64)));
    assert!(matches!(long, Outcome::Root(RootOutcome::Refused(RootRefusal::Invalid(_)))), "{long:?}");
    assert_eq!(recorded(&root).len(), 2);
    let others = |records: &MemoryRecords| -> Vec<_> {
        let tables = records.iter().filter(|(key, _)| key[0] != causeway_namespace_core::key::META);
        tables.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    assert_eq!(others(&before), others(&root.records), "what is refused leaves nothing");
}

#[test]
fn the_audit_keeps_the_newest_records() {
    let mut root = Root::new();
    let requests = |from: u64, to: u64| -> Vec<Request> {
        let op = |draining| RootOp::DrainNode { id: NodeId(2), draining };
        let body = |number: u64| RequestBody::Audited { op: op(number % 2 == 1), by: By::default() };
        (from..to).map(|number| Request { at: Timestamp(0), body: body(number) }).collect()
    };
    let mut number = 1;
    while number < audit::RECORDS_MAX + 8 {
        root.seq = root.seq.next().unwrap();
        let command = Command { requests: requests(number, number + 500) };
        root.records.apply(root.seq, &command).unwrap();
        number += 500;
    }
    let found = query::audit(&root.records, None, usize::MAX).unwrap();
    assert_eq!(found.len() as u64, audit::RECORDS_MAX);
    assert_eq!((found[0].0, found[found.len() - 1].0), (number - 1, number - audit::RECORDS_MAX));
    let stored = root.records.iter().filter(|(key, _)| key[0] == causeway_namespace_core::key::AUDIT).count();
    assert_eq!(stored as u64, audit::RECORDS_MAX, "older ones are gone");
}

fn promote(before: Lineage, site: &str, founder: u64, fork: u64) -> RootOp {
    let (site, founder) = (site.parse().unwrap(), NodeId(founder));
    RootOp::PromoteVolume { id: VolumeId(1), before, site, founder, fork: Seq(fork), last: Seq(fork + 2) }
}

#[test]
fn a_promoted_volume_stays_at_the_site_with_a_greater_epoch() {
    let mut root = Root::new();
    root.create(spec("a", "/a"));
    let first = Lineage::default();
    assert!(matches!(root.refused(promote(first, "zurich", 2, 40)), RootRefusal::Invalid(_)), "not of that site");
    assert!(matches!(root.refused(promote(first, "eastus", 9, 40)), RootRefusal::UnknownNode(_)));
    assert!(matches!(root.refused(promote(first, "eastus", 2, 0)), RootRefusal::Invalid(_)), "nothing to go on with");
    let RootOutcome::Promoted(begun) = root.op(promote(first, "eastus", 2, 40)) else { panic!() };
    assert_eq!(begun, Lineage { epoch: Epoch(65_538), founder: NodeId(2), ..first });
    let volume = query::volume(&root.records, VolumeId(1)).unwrap().unwrap();
    assert_eq!((volume.epoch, volume.spec.home.as_str()), (Epoch(65_538), "eastus"));
    assert_eq!((volume.spec.voters, volume.spec.learners), (vec![NodeId(2)], vec![NodeId(1)]));
    assert!(volume.founders.is_empty(), "nobody begins the first line again");
    assert_eq!(volume.spec.replicas.len(), 2, "its new home has every byte");
    let promotion = query::promotions(&root.records).unwrap()[&VolumeId(1)].clone();
    assert_eq!((promotion.fork, promotion.last, promotion.seq), (Seq(40), Seq(42), Seq(6_553_800_000_000_000)));
    assert_eq!(query::cluster(&root.records).unwrap(), Some(cluster(65_538)), "what comes later is above it");

    // The same again is fine; from the same line elsewhere is not.
    let before = root.records.clone();
    assert_eq!(root.op(promote(first, "eastus", 2, 40)), RootOutcome::Promoted(begun));
    assert_eq!(root.records, before);
    assert!(matches!(root.refused(promote(first, "zurich", 1, 40)), RootRefusal::Changed { .. }));
    let RootOutcome::Promoted(next) = root.op(promote(begun, "zurich", 1, 6_553_800_000_000_007)) else { panic!() };
    assert!(next > begun && query::promotions(&root.records).unwrap()[&VolumeId(1)].seq.0 == 13_107_300_000_000_000);
}

#[test]
fn the_root_group_is_promoted_at_the_seq_of_its_new_line_only() {
    let mut root = Root::new();
    root.create(spec("a", "/a"));
    let (before, site) = (Lineage::default(), "eastus".parse().unwrap());
    let op = RootOp::PromoteRoot { before, site, founder: NodeId(2), fork: root.seq, last: root.seq };
    assert!(matches!(root.refused(op.clone()), RootRefusal::Invalid(_)), "not through the log");
    root.seq = Seq(6_553_800_000_000_000 - 1);
    let op = match op {
        RootOp::PromoteRoot { before, site, founder, fork: _, last } => {
            RootOp::PromoteRoot { before, site, founder, fork: last, last }
        }
        other => other,
    };
    let by = By { who: "client/ann".to_owned(), node: NodeId(2), reason: "fire".to_owned() };
    let begun = promotion::root_lineage(Epoch(65_538), NodeId(2));
    assert_eq!(root.body(RequestBody::Audited { op, by }), Outcome::Root(RootOutcome::Promoted(begun)));
    assert_eq!(query::cluster(&root.records).unwrap(), Some(cluster(65_538)));
    let audited = query::audit(&root.records, None, 1).unwrap().remove(0).1;
    assert!(matches!(audited.action, AuditAction::RootPromoted { .. }) && audited.by.reason == "fire");
    // Numbers that the other side may give out meanwhile are not given out again.
    let RootOutcome::Volume(id) = root.create(spec("b", "/b")) else { panic!() };
    assert_eq!(id, VolumeId(1_000_002));
    // A volume's line that is begun now is above any that the other side begins.
    let RootOutcome::Promoted(next) = root.op(promote(before, "zurich", 1, 9)) else { panic!() };
    assert!(next > Lineage { epoch: Epoch(1000), founder: NodeId(9), ..before });
    // A restore begins with first lines again.
    let specs = query::volumes(&root.records).unwrap().into_iter().map(|volume| (volume.id, volume.spec)).collect();
    let nodes = vec![node(1, "zurich"), node(2, "eastus")];
    root.op(RootOp::Reseed { cluster: cluster(1 << 20), nodes, volumes: specs });
    assert!(query::promotions(&root.records).unwrap().is_empty());
}
