//! What a node and a cluster must refuse.

use causeway::cluster::LocalCluster;
use causeway_base::NodeId;

use crate::cluster::{Cluster, PROGRAM, new_config, run_with, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blank_disk_under_a_known_id_is_refused() {
    let mut cluster = Cluster::start().await;
    let node = NodeId(2);
    cluster.nodes.kill(node).await.unwrap();
    let data = cluster.config.resolve(&cluster.config.node(node).unwrap().data);
    std::fs::rename(&data, cluster.folder.path().join("lost")).unwrap();
    let error = cluster.nodes.start([node]).await.unwrap_err().to_string();
    assert!(error.contains("node id") || error.contains("lost"), "{error}");
    assert!(error.contains("new"), "it says what to do: {error}");
    // The others go on, and the node comes back with its disk.
    cluster.ok(["mkdir", "/data/meanwhile"]);
    std::fs::remove_dir_all(&data).ok();
    std::fs::rename(cluster.folder.path().join("lost"), &data).unwrap();
    cluster.nodes.start([node]).await.unwrap();
    cluster.ok(["--site", "westeurope", "ls", "/data/meanwhile"]);
    cluster.nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_is_refused() {
    let mut cluster = Cluster::start().await;
    let other = new_config(cluster.folder.path().join("other"));
    let text_of = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
    let ours = text_of(&cluster.config.path);

    // The certificate of another cluster.
    let stranger = cluster.config.base.join("stranger.toml");
    let tls = other.resolve(&other.client.tls);
    let bad = ours.replacen("tls = \"tls/admin\"", &format!("tls = {:?}", tls.to_str().unwrap()), 1);
    std::fs::write(&stranger, bad).unwrap();
    let output = run_with(&stranger, ["--timeout", "5s", "status"]);
    assert_ne!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("certificate"), "{}", text(&output));

    // Another cluster id.
    let (found, wrong) = (cluster.config.cluster.id.to_string(), other.cluster.id.to_string());
    std::fs::write(&stranger, ours.replacen(&found, &wrong, 1)).unwrap();
    let output = run_with(&stranger, ["--timeout", "5s", "status"]);
    assert_eq!(output.status.code(), Some(5), "{}", text(&output));
    assert!(text(&output).contains("cluster"), "{}", text(&output));
    cluster.nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_on_one_folder_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let config = new_config(temp.path().join("cluster"));
    let mut first = LocalCluster::new(PROGRAM.into(), &config);
    first.start([NodeId(1), NodeId(2), NodeId(3)]).await.unwrap();
    let output = run_with(&config.path, ["node", "--id", "1"]);
    assert_eq!(output.status.code(), Some(5), "{}", text(&output));
    assert!(text(&output).contains("in use"), "{}", text(&output));
    first.stop().await;
}
