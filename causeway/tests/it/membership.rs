//! Nodes that come and go, homes that move, topologies that change: while a client writes.

use std::collections::BTreeMap;
use std::net::{TcpListener, UdpSocket};

use causeway_base::NodeId;

use crate::cluster::{Cluster, PROGRAM};
use crate::load::Writer;

pub(crate) fn address() -> (String, String) {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    (tcp.local_addr().unwrap().to_string(), udp.local_addr().unwrap().to_string())
}

/// Nodes by the volume `data`'s role.
fn placed(cluster: &Cluster) -> (Vec<u64>, Vec<u64>) {
    let volume = cluster.json(["volume", "show", "data"]);
    let list = |key: &str| -> Vec<u64> { serde_json::from_value(volume[key].clone()).unwrap() };
    (list("voters"), list("leaving"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_replaced_while_a_client_writes() {
    let mut cluster = Cluster::start().await;
    let writer = Writer::start(cluster.config.path.clone());
    let (grpc, quic) = address();
    let added = cluster.json(["node", "add", "--at", "eastus", "--grpc", &grpc, "--quic", &quic]);
    assert_eq!(added["id"], 4);

    // On its own machine, from the token alone.
    let folder = cluster.folder.path().join("node4");
    cluster.ok(["node", "join", added["token"].as_str().unwrap(), folder.to_str().unwrap()]);
    let config = causeway::config::Config::load(&folder.join("causeway.toml")).unwrap();
    let mut joined = causeway::cluster::LocalCluster::new(PROGRAM.into(), &config);
    joined.start([NodeId(4)]).await.unwrap();

    // Dead, not only drained: nothing is needed from the one that goes.
    cluster.nodes.kill(NodeId(3)).await.unwrap();
    cluster.ok(["node", "drain", "3", "--deadline", "2m"]);
    let (voters, leaving) = placed(&cluster);
    assert!(voters.contains(&4) && !voters.contains(&3) && leaving.is_empty(), "{voters:?}, leaving {leaving:?}");
    cluster.fails(5, ["node", "remove", "1"]);
    cluster.ok(["node", "remove", "3"]);
    cluster.fails(4, ["node", "remove", "3"]);

    writer.ends_with_all_there(&cluster, "eastus");
    let audit = cluster.json(["audit"]);
    let actions: Vec<String> = audit.as_array().unwrap().iter().map(|entry| entry["action"].to_string()).collect();
    assert_eq!(actions.len(), 4, "{actions:?}");
    for (action, what) in actions.iter().zip(["node_removed", "node_drained", "node_added", "volume_created"]) {
        assert!(action.contains(what), "{actions:?}");
    }
    assert!(audit[0]["by"]["who"].as_str().unwrap().contains("client/"), "{audit}");

    // The removed one comes back and is not let in again; the cluster does not mind.
    assert!(!cluster.json(["topology", "show"])["nodes"].to_string().contains("\"id\":3"));
    cluster.ok(["mkdir", "/data/afterwards"]);
    joined.stop().await;
    cluster.nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn home_moves_while_a_client_writes_and_topologies_are_compared() {
    let mut cluster = Cluster::start().await;
    let writer = Writer::start(cluster.config.path.clone());
    let moved = cluster.json(["volume", "move", "data", "--home", "westeurope", "--deadline", "2m"]);
    assert_eq!(moved["leader"], 2);
    assert!(moved["longest_write_ms"].as_f64().unwrap() > 0.0);
    writer.ends_with_all_there(&cluster, "zurich");

    // What it survives is held or refused, with what is missing.
    let refused = cluster.fails(5, ["volume", "create", "swiss", "--home", "zurich", "--jurisdictions", "zurich"]);
    assert!(refused.contains("residency") || refused.contains("add"), "{refused}");

    let shown = String::from_utf8(cluster.ok(["topology", "show"])).unwrap();
    let file = cluster.folder.path().join("topology.toml");
    let path = file.to_str().unwrap();
    std::fs::write(&file, shown.replacen("priority = 0", "priority = 7", 1)).unwrap();
    let plan = String::from_utf8(cluster.ok(["topology", "plan", path])).unwrap();
    assert!(plan.contains("priority 0 -> 7"), "{plan}");
    cluster.ok(["topology", "apply", path, "--version", "1"]);
    std::fs::write(&file, shown.replacen("priority = 0", "priority = 8", 1)).unwrap();
    let late = cluster.fails(5, ["topology", "apply", path, "--version", "1"]);
    assert!(late.contains("somebody else"), "{late}");
    std::fs::write(&file, shown.replacen("rate = \"1Gbit/s\"", "rate = \"0bit/s\"", 1)).unwrap();
    let bad = cluster.fails(2, ["topology", "apply", path, "--version", "2"]);
    assert!(bad.contains("topology.toml:") && bad.contains("rate of 0"), "{bad}");
    let versions: BTreeMap<String, serde_json::Value> =
        serde_json::from_value(cluster.json(["topology", "show"])).unwrap();
    assert_eq!(versions["version"], 2);
    cluster.nodes.stop().await;
}
