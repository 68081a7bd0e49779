//! The chunk store of a node: its index is damaged, lost or another engine's, and nothing else is lost with it.

use std::path::Path;

use causeway::cluster::LocalCluster;
use causeway_base::NodeId;

use crate::cluster::{Cluster, PROGRAM, new_config};
use crate::copies::noise;

/// Overwrites the middle of each file of an index with noise.
fn damage(index: &Path) -> usize {
    let mut files = 0;
    let mut folders = vec![index.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let mut bytes = std::fs::read(&path).unwrap();
            let len = bytes.len();
            bytes[len / 4..].copy_from_slice(&noise(9, len - len / 4));
            std::fs::write(&path, bytes).unwrap();
            files += 1;
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_on_sled_is_killed_its_index_damaged_and_it_serves_all() {
    let folder = tempfile::tempdir().unwrap();
    let config = new_config(folder.path().join("cluster"));
    let text = std::fs::read_to_string(&config.path).unwrap();
    std::fs::write(&config.path, text.replace("index_engine = \"fjall\"", "index_engine = \"sled\"")).unwrap();
    let mut nodes = LocalCluster::new(PROGRAM.into(), &config);
    nodes.start([1, 2, 3].map(NodeId)).await.unwrap();
    let mut cluster = Cluster { nodes, config, folder };
    cluster.ok(["volume", "create", "data", "--home", "zurich"]);
    let source = cluster.folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    for number in 0..20 {
        std::fs::write(source.join(format!("file{number}")), noise(number, 200_000 + number as usize)).unwrap();
    }
    cluster.ok(["cp", "-r", source.to_str().unwrap(), "cw:/data/files"]);

    let data = cluster.config.resolve(&cluster.config.node(NodeId(1)).unwrap().data);
    assert_eq!(std::fs::read_to_string(data.join("index.engine")).unwrap(), "sled");
    let refused = cluster.fails(5, ["store", "rebuild", "--node", "1"]);
    assert!(refused.contains("in use by another process"), "{refused}");

    cluster.nodes.kill(NodeId(1)).await.unwrap();
    assert!(damage(&data.join("index")) > 0);
    cluster.nodes.start([NodeId(1)]).await.unwrap();
    let copy = cluster.folder.path().join("copy");
    cluster.ok(["cp", "-r", "cw:/data/files", copy.to_str().unwrap()]);
    for number in 0..20 {
        let name = format!("file{number}");
        assert!(std::fs::read(source.join(&name)).unwrap() == std::fs::read(copy.join(&name)).unwrap(), "{name}");
    }

    // Offline, with nothing left of the index, and then with another engine.
    cluster.nodes.kill(NodeId(1)).await.unwrap();
    std::fs::remove_dir_all(data.join("index")).unwrap();
    let output = cluster.run(["--output", "json", "store", "rebuild", "--node", "1"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains(" packs, ") && told.contains(" chunks/s"), "{told}");
    let rebuilt: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let chunks = rebuilt["chunks"].as_u64().unwrap();
    assert!(chunks >= 40 && rebuilt["chunks_per_second"].as_f64().unwrap() > 0.0, "{rebuilt}");
    let text = std::fs::read_to_string(&cluster.config.path).unwrap();
    std::fs::write(&cluster.config.path, text.replace("index_engine = \"sled\"", "index_engine = \"fjall\"")).unwrap();
    let stats = cluster.json(["store", "stats", "--node", "1"]);
    assert_eq!(stats["chunks"].as_u64(), Some(chunks), "{stats}");
    assert_eq!(std::fs::read_to_string(data.join("index.engine")).unwrap(), "fjall");

    // A pack that is gone is named, and the exit code says that data is damaged.
    let packs = data.join("packs");
    let mut names: Vec<_> = std::fs::read_dir(&packs).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    std::fs::remove_file(&names[0]).unwrap();
    cluster.fails(8, ["store", "stats", "--node", "1"]);
    let nothing = cluster.fails(4, ["store", "rebuild", "--data", cluster.folder.path().to_str().unwrap()]);
    assert!(nothing.contains("no node's data folder"), "{nothing}");
}
