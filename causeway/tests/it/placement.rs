//! What a volume is declared to survive, it survives: sites, regions and nodes are lost, drained and replaced in use.

use std::path::Path;
use std::process::{Command, Stdio};

use causeway_base::NodeId;
use serde_json::Value;

use crate::cluster::{Cluster, PROGRAM, Placed, text, wait_until};
use crate::copies::noise;
use crate::load::Writer;
use crate::membership::address;

const FOUR: [&str; 4] = ["zurich", "westeurope", "eastus", "japan"];

fn replace(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    std::fs::write(file, text.replace(from, to)).unwrap();
}

/// Puts a file of noise into the volume `data`; its bytes.
fn put(cluster: &Cluster, site: &str, name: &str, seed: u8) -> Vec<u8> {
    let bytes = noise(seed, 300_000);
    let local = cluster.folder.path().join(name);
    std::fs::write(&local, &bytes).unwrap();
    cluster.ok(["--site", site, "put", local.to_str().unwrap(), &format!("/data/{name}")]);
    bytes
}

fn node_status(cluster: &Cluster, node: usize) -> Value {
    let output = cluster.run(["--output", "json", "status"]);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    status["nodes"][node - 1]["status"]["Ok"].clone()
}

/// The root group's voters, as a node knows them.
fn root_voters(cluster: &Cluster, node: usize) -> Vec<u64> {
    let status = node_status(cluster, node);
    let groups = status["groups"].as_array().cloned().unwrap_or_default();
    let root = groups.into_iter().find(|group| group["volume"] == 0).unwrap_or_default();
    serde_json::from_value(root["voters"].clone()).unwrap_or_default()
}

fn sorted(mut ids: Vec<u64>) -> Vec<u64> {
    ids.sort_unstable();
    ids
}

/// Waits until the group is where it was declared to be, with these voters.
async fn settles(cluster: &Cluster, voters: &[u64]) -> Placed {
    let there = |placed: &Placed| placed.leaving.is_empty() && sorted(placed.voters.clone()) == voters;
    wait_until("it is placed", || there(&cluster.placed("data"))).await;
    cluster.placed("data")
}

async fn led_by(cluster: &Cluster, node: u64) {
    wait_until("leadership is there", || cluster.placed("data").state.leader == Some(node)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sites_and_a_witness_survive_either_site() {
    let witness = |folder: &Path| {
        replace(&folder.join("causeway.toml"), "tls = \"tls/n3\"\n", "tls = \"tls/n3\"\nrole = \"witness\"\n");
    };
    let mut cluster = Cluster::start_of(&["zurich", "westeurope", "hub"], witness).await;
    let declared = ["--home", "zurich", "--replicas", "zurich,westeurope", "--survive", "site"];
    cluster.ok(["volume", "create", "data"].iter().chain(&declared).copied());
    let placed = cluster.placed("data");
    assert_eq!((sorted(placed.voters), placed.learners), (vec![1, 2, 3], vec![]));
    let first = put(&cluster, "zurich", "first", 1);
    cluster.ok(["sync", "wait", "data", "--at", "westeurope"]);

    // Home is lost; if the witness is elected, it hands over.
    cluster.nodes.kill(NodeId(1)).await.unwrap();
    cluster.ok(["mkdir", "/data/without-zurich"]);
    assert!(cluster.ok(["cat", "/data/first"]) == first);
    let second = put(&cluster, "westeurope", "second", 2);
    led_by(&cluster, 2).await;

    // It comes back and leads again, and the other site is lost.
    cluster.nodes.start([NodeId(1)]).await.unwrap();
    led_by(&cluster, 1).await;
    cluster.ok(["sync", "wait", "data", "--at", "zurich"]);
    cluster.nodes.kill(NodeId(2)).await.unwrap();
    cluster.ok(["mkdir", "/data/without-westeurope"]);
    assert!(cluster.ok(["cat", "/data/first"]) == first && cluster.ok(["cat", "/data/second"]) == second);

    // The witness lists names, and neither takes nor gives a byte.
    let listed = String::from_utf8(cluster.ok(["--site", "hub", "ls", "/data"])).unwrap();
    assert_eq!(listed.lines().count(), 4, "{listed}");
    let local = cluster.folder.path().join("first");
    let refused = cluster.run(["--timeout", "2s", "--site", "hub", "put", local.to_str().unwrap(), "/data/third"]);
    assert!(!refused.status.success() && text(&refused).contains("witness"), "{}", text(&refused));
    assert!(cluster.ok(["--site", "hub", "cat", "/data/first"]) == first, "another gives it");
    let stored = |node| -> u64 {
        let stores = node_status(&cluster, node)["stores"].as_array().cloned().unwrap();
        stores.iter().map(|store| store["stored_bytes"].as_u64().unwrap()).sum()
    };
    assert!(stored(1) >= 600_000, "{}", stored(1));
    assert_eq!(stored(3), 0);

    // One of three is no majority.
    cluster.nodes.kill(NodeId(3)).await.unwrap();
    assert!(!cluster.run(["--timeout", "2s", "mkdir", "/data/alone"]).status.success());
    cluster.nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_is_lost_with_both_its_sites() {
    let two_in_a_region = |folder: &Path| {
        let geneva = "name = \"geneva\"\nregion = \"geneva\"";
        for file in ["topology.toml", "causeway.toml"] {
            replace(&folder.join(file), geneva, "name = \"geneva\"\nregion = \"zurich\"");
        }
    };
    let mut cluster = Cluster::start_of(&["zurich", "geneva", "westeurope", "eastus"], two_in_a_region).await;
    let declared = ["--home", "zurich", "--replicas", "zurich,westeurope", "--survive", "region"];
    cluster.ok(["volume", "create", "data"].iter().chain(&declared).copied());
    let placed = settles(&cluster, &[1, 3, 4]).await;
    assert_eq!(placed.learners, [2]);
    let two = ["volume", "create", "two", "--home", "zurich", "--caches", "geneva", "--survive", "region"];
    let refused = cluster.fails(5, two.iter().chain(&["--regions", "zurich,westeurope"]).copied());
    assert!(refused.contains("3 regions") && refused.contains("add 1 more"), "{refused}");
    let bytes = put(&cluster, "zurich", "file", 3);
    cluster.ok(["sync", "wait", "data", "--at", "westeurope"]);
    // Of four founders, not the two of one region vote in the root group.
    wait_until("the root group is spread", || root_voters(&cluster, 3) == [1, 3, 4]).await;

    cluster.nodes.kill(NodeId(1)).await.unwrap();
    cluster.nodes.kill(NodeId(2)).await.unwrap();
    cluster.ok(["--site", "westeurope", "mkdir", "/data/without-zurich"]);
    assert!(cluster.ok(["--site", "westeurope", "cat", "/data/file"]) == bytes);
    let (grpc, quic) = address();
    let added = cluster.json(["--site", "eastus", "node", "add", "--at", "eastus", "--grpc", &grpc, "--quic", &quic]);
    assert_eq!(added["id"], 5, "the root group goes on too");

    cluster.nodes.start([NodeId(1), NodeId(2)]).await.unwrap();
    led_by(&cluster, 1).await;
    cluster.ok(["mkdir", "/data/afterwards"]);
    cluster.nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_only_learns_has_every_byte_and_no_vote() {
    let mut cluster = Cluster::start_of(&FOUR, |_| {}).await;
    let declared = ["--home", "zurich", "--replicas", "zurich,japan", "--survive", "site"];
    cluster.ok(["volume", "create", "data"].iter().chain(&declared).copied());
    let placed = settles(&cluster, &[1, 2, 3]).await;
    assert_eq!(placed.learners, [4]);
    let bytes = put(&cluster, "zurich", "file", 4);
    cluster.ok(["sync", "wait", "data", "--at", "japan"]);

    // Two of four answer, and one of them does not count.
    cluster.nodes.kill(NodeId(2)).await.unwrap();
    cluster.nodes.kill(NodeId(3)).await.unwrap();
    let refused = cluster.run(["--timeout", "2s", "mkdir", "/data/too-few"]);
    assert!(!refused.status.success(), "{}", text(&refused));
    cluster.nodes.kill(NodeId(1)).await.unwrap();
    assert!(cluster.ok(["--site", "japan", "cat", "/data/file", "--local"]) == bytes);

    // What was not acknowledged may have happened; what was, stays.
    cluster.nodes.start([1, 2, 3].map(NodeId)).await.unwrap();
    cluster.ok(["mkdir", "/data/afterwards"]);
    cluster.ok(["--site", "japan", "stat", "/data/afterwards"]);
    assert_eq!(settles(&cluster, &[1, 2, 3]).await.learners, [4]);
    cluster.nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_drained_and_takes_part_again_while_a_client_writes() {
    let mut cluster = Cluster::start_of(&FOUR, |_| {}).await;
    let declared = ["--home", "zurich", "--replicas", "zurich", "--caches", "japan", "--survive", "site"];
    cluster.ok(["volume", "create", "data"].iter().chain(&declared).copied());
    settles(&cluster, &[1, 2, 3]).await;
    let writer = Writer::start(cluster.config.path.clone());
    writer.writes(1).await;

    cluster.ok(["node", "drain", "2", "--deadline", "1m"]);
    let placed = cluster.placed("data");
    assert_eq!((sorted(placed.voters), placed.leaving), (vec![1, 3, 4], vec![]));
    assert!(!root_voters(&cluster, 1).contains(&2));
    writer.writes(1).await;
    cluster.ok(["node", "drain", "2", "--cancel"]);
    assert_eq!(settles(&cluster, &[1, 2, 3]).await.learners, [4]);

    // Before it is done.
    let told = cluster.fails(6, ["node", "drain", "3", "--deadline", "0s"]);
    assert!(told.contains("goes on draining"), "{told}");
    cluster.ok(["node", "drain", "3", "--cancel"]);
    settles(&cluster, &[1, 2, 3]).await;

    // The only node of home has nobody to give its place to; it stays, in use.
    let told = cluster.fails(6, ["node", "drain", "1", "--deadline", "1s"]);
    assert!(told.contains("site zurich has no node that holds file data") && told.contains("--cancel"), "{told}");
    writer.writes(1).await;
    cluster.ok(["node", "drain", "1", "--cancel"]);
    settles(&cluster, &[1, 2, 3]).await;
    led_by(&cluster, 1).await;
    writer.ends_with_all_there(&cluster, "japan");
    cluster.nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_runs_is_replaced_by_one_command_while_a_client_writes() {
    let mut cluster = Cluster::start().await;
    let bytes = put(&cluster, "zurich", "file", 5);
    let writer = Writer::start(cluster.config.path.clone());
    let (grpc, quic) = address();
    let mut command = Command::new(PROGRAM);
    command.args(["--output", "json", "--config"]).arg(&cluster.config.path);
    command.args(["node", "replace", "1", "--at", "zurich", "--grpc", &grpc, "--quic", &quic, "--deadline", "1m"]);
    command.env_remove("CAUSEWAY_SITE").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut replacing = command.spawn().unwrap();
    let told = replacing.stdout.take().unwrap();
    let told = std::thread::spawn(|| serde_json::Deserializer::from_reader(told).into_iter::<Value>().next());
    let added = told.join().unwrap().unwrap().unwrap();
    assert_eq!(added["id"], 4);
    writer.writes(1).await;
    assert!(replacing.try_wait().unwrap().is_none(), "it waits for the new node");

    // The leader, the only copy at home: its place is taken by one that has nothing yet.
    let folder = cluster.folder.path().join("node4");
    cluster.ok(["node", "join", added["token"].as_str().unwrap(), folder.to_str().unwrap()]);
    let config = causeway::config::Config::load(&folder.join("causeway.toml")).unwrap();
    let mut joined = causeway::cluster::LocalCluster::new(PROGRAM.into(), &config);
    joined.start([NodeId(4)]).await.unwrap();
    let replaced = replacing.wait_with_output().unwrap();
    assert!(replaced.status.success(), "{}", text(&replaced));
    writer.writes(1).await;
    let placed = cluster.placed("data");
    assert_eq!((sorted(placed.voters), placed.leaving), (vec![2, 3, 4], vec![]));
    assert!(!cluster.json(["topology", "show"])["nodes"].to_string().contains("\"id\":1,"));

    // Nothing is needed of it any more.
    cluster.nodes.kill(NodeId(1)).await.unwrap();
    led_by(&cluster, 4).await;
    cluster.ok(["sync", "wait", "data", "--at", "zurich"]);
    assert!(cluster.ok(["--site", "zurich", "cat", "/data/file"]) == bytes);
    writer.ends_with_all_there(&cluster, "zurich");
    joined.stop().await;
    cluster.nodes.stop().await;
}

/// Starts a command; its end is waited for later.
fn spawn(cluster: &Cluster, args: &[&str]) -> std::process::Child {
    let mut command = Command::new(PROGRAM);
    command.arg("--config").arg(&cluster.config.path).args(args).env_remove("CAUSEWAY_SITE");
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_killed_within_a_move_of_home() {
    let mut cluster = Cluster::start_of(&FOUR, |_| {}).await;
    let declared = ["--home", "zurich", "--replicas", "zurich", "--caches", "japan", "--survive", "site"];
    cluster.ok(["volume", "create", "data"].iter().chain(&declared).copied());
    settles(&cluster, &[1, 2, 3]).await;
    let writer = Writer::start(cluster.config.path.clone());
    writer.writes(1).await;

    // To a site that has no vote yet: the members change, and the leader dies in between.
    let moving = spawn(&cluster, &["volume", "move", "data", "--home", "japan", "--deadline", "1m"]);
    wait_until("the move has begun", || {
        let volumes = cluster.json(["volume", "list"]);
        volumes[0]["home"] == "japan"
    })
    .await;
    cluster.nodes.kill(NodeId(1)).await.unwrap();
    let moved = moving.wait_with_output().unwrap();
    assert!(moved.status.success(), "the move did not go on: {}", text(&moved));
    writer.writes(1).await;
    led_by(&cluster, 4).await;
    assert_eq!(cluster.placed("data").home, "japan");

    // Back, where nobody is: it is not done, and then it is undone.
    let told = cluster.fails(6, ["volume", "move", "data", "--home", "zurich", "--deadline", "1s"]);
    assert!(told.contains("is not led from zurich"), "{told}");
    writer.writes(1).await;
    cluster.ok(["volume", "set", "data", "--home", "japan"]);
    writer.writes(1).await;
    led_by(&cluster, 4).await;
    cluster.nodes.start([NodeId(1)]).await.unwrap();
    settles(&cluster, &[1, 2, 4]).await;
    writer.ends_with_all_there(&cluster, "japan");
    cluster.ok(["volume", "verify", "data"]);
    cluster.nodes.stop().await;
}
