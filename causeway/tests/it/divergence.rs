//! A replica of the metadata that differs: edited on the disk of a node that is stopped.

use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway_base::envelope::{self, Kind};
use causeway_base::{NodeId, VolumeId};
use causeway_namespace_core::key;
use causeway_namespace_raft::STATE_SPACES;
use causeway_namespace_raft::store::{CURRENT, META, Meta};
use causeway_storage::kv::{Batch, FjallKv, FjallOptions, Kv as _, KvRead as _, prefix_range};

use crate::cluster::{Cluster, text};

const PATIENCE: Duration = Duration::from_secs(120);
const META_KIND: Kind = Kind { magic: *b"CWSM", version: 1, payload_bytes_max: 1 << 20 };

/// Changes the content of a file in the state store of a node that does not run. With `digest` the replica's digest is made
/// to fit, as if it had applied something else.
fn edit(cluster: &Cluster, node: u64, volume: VolumeId, content: &[u8], digest: bool) {
    let folder = cluster.config.resolve(&cluster.config.node(NodeId(node)).unwrap().data).join("state");
    let kv = FjallKv::open(&folder, STATE_SPACES, &FjallOptions::default()).unwrap();
    let group = volume.0.to_be_bytes();
    let inodes = prefix_range(&[&group[..], &[key::INODE]].concat());
    let holds = |value: &[u8]| value.windows(content.len()).position(|window| window == content);
    let (stored_key, stored, at) = kv
        .scan(CURRENT, inodes, false)
        .map(Result::unwrap)
        .find_map(|(key, value)| holds(&value).map(|at| (key, value, at)))
        .expect("the file is in the state");
    let mut edited = stored.to_vec();
    edited[at] ^= 1;
    let mut batch = Batch::new();
    if digest {
        let meta_key = Bytes::from([&group[..], b"m"].concat());
        let sealed = kv.get(META, &meta_key).unwrap().unwrap();
        let mut meta: Meta = envelope::open_value(META_KIND, &sealed).unwrap();
        meta.digest.remove(&stored_key[8..], &stored[8..]);
        meta.digest.add(&stored_key[8..], &edited[8..]);
        batch.put(META, meta_key, Bytes::from(envelope::seal_value(META_KIND, &meta).unwrap()));
    }
    batch.put(CURRENT, stored_key, Bytes::from(edited));
    kv.write(batch).unwrap();
    kv.persist().unwrap();
}

/// What a node says of its replica.
fn digests(cluster: &Cluster, node: usize, volume: u64) -> serde_json::Value {
    // While a replica differs the exit code is not zero.
    let output = cluster.run(["--output", "json", "status"]);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let groups = status["nodes"][node - 1]["status"]["Ok"]["groups"].as_array().cloned().unwrap_or_default();
    groups
        .into_iter()
        .find(|group| group["volume"] == volume)
        .map_or(serde_json::Value::Null, |it| it["digests"].clone())
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_replica_is_found_named_and_repaired() {
    let mut cluster = Cluster::start().await;
    let volume = cluster.json(["volume", "show", "data"])["id"].as_u64().unwrap();
    cluster.ok(["mkdir", "-p", "/data/books/old"]);
    for number in 0..20 {
        let local = cluster.folder.path().join("page");
        std::fs::write(&local, format!("this is page {number}.")).unwrap();
        cluster.ok(["put", local.to_str().unwrap(), &format!("/data/books/old/page-{number}")]);
    }
    let right = cluster.json(["volume", "verify", "data"]);
    assert!(right.as_array().unwrap().len() == 3 && right[0]["report"]["right"] == true, "{right}");

    // As if a node had applied something else: its own sums fit, only the others tell.
    cluster.nodes.kill(NodeId(2)).await.unwrap();
    edit(&cluster, 2, VolumeId(volume), b"this is page 13.", true);
    cluster.nodes.start([NodeId(2)]).await.unwrap();
    let repaired = |cluster: &Cluster, node| digests(cluster, node, volume)["repaired"].clone();
    until("node 2 is repaired", || !repaired(&cluster, 2).is_null());
    let was = &repaired(&cluster, 2)["was"];
    assert_eq!((&was["verdict"], &was["records"]["count"]), (&"minority".into(), &1.into()), "{was}");
    assert_eq!(was["records"]["named"][0]["name"], "books/old/page-13", "{was}");
    until("nobody knows of a difference", || cluster.run(["status"]).status.code() == Some(0));
    let told = String::from_utf8(cluster.ok(["status"])).unwrap();
    assert!(told.contains("repaired: volume data on node 2") && told.contains("books/old/page-13"), "{told}");
    cluster.ok(["volume", "verify", "data"]);
    assert_eq!(cluster.ok(["--site", "westeurope", "cat", "/data/books/old/page-13"]), b"this is page 13.");

    // Damage at rest: no digest knows of it until the records are added up. On the node that leads.
    cluster.nodes.kill(NodeId(1)).await.unwrap();
    edit(&cluster, 1, VolumeId(volume), b"this is page 7.", false);
    cluster.nodes.start([NodeId(1)]).await.unwrap();
    let found = cluster.run(["volume", "verify", "data", "--node", "1"]);
    assert_eq!(found.status.code(), Some(8), "{}", text(&found));
    let found = String::from_utf8(found.stdout).unwrap();
    assert!(found.contains("WRONG") && found.contains("books/old/page-7\n"), "{found}");
    until("node 1 is repaired", || !repaired(&cluster, 1).is_null());
    cluster.ok(["volume", "verify", "data"]);
    cluster.ok(["mkdir", "/data/afterwards"]);
    assert_eq!(cluster.ok(["cat", "/data/books/old/page-7"]), b"this is page 7.");
    cluster.fails(5, ["volume", "repair", "data", "--node", "9"]);
    cluster.nodes.stop().await;
}
