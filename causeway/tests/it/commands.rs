//! Commands as a user runs them, with their exit codes.

use crate::cluster::Cluster;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_at_the_command_line() {
    let mut cluster = Cluster::start().await;
    let file = cluster.folder.path().join("file");
    let content: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&file, &content).unwrap();
    let file = file.to_str().unwrap();

    cluster.ok(["mkdir", "-p", "/data/a/b"]);
    cluster.ok(["put", file, "/data/a/b"]);
    assert_eq!(cluster.ok(["ls", "/data/a/b"]), b"file\n");
    assert_eq!(cluster.ok(["ls", "/"]), b"data/\n");
    assert_eq!(cluster.ok(["cat", "/data/a/b/file"]), content);
    assert_eq!(cluster.ok(["cat", "/data/a/b/file", "--offset", "70000", "--length", "100"]), &content[70_000..70_100]);
    assert_eq!(cluster.ok(["cat", "/data/a/b/file", "--offset", "99999999"]), b"");

    // Written at one site, read linearizably at each.
    for site in ["zurich", "westeurope", "eastus"] {
        assert_eq!(cluster.ok(["--site", site, "cat", "/data/a/b/file"]), content, "{site}");
    }
    let stat = cluster.json(["stat", "/data/a/b/file"]);
    assert_eq!(stat["size"], content.len());
    assert!(stat["seq"].as_u64().unwrap() > 0);

    cluster.ok(["mv", "/data/a/b/file", "/data/a/renamed"]);
    cluster.fails(4, ["cat", "/data/a/b/file"]);
    let got = cluster.folder.path().join("got");
    cluster.ok(["get", "/data/a/renamed", got.to_str().unwrap()]);
    assert_eq!(std::fs::read(&got).unwrap(), content);

    // What is refused says so, with its code, and changes nothing.
    cluster.fails(5, ["mkdir", "/data/a"]);
    cluster.fails(5, ["rm", "/data/a"]);
    cluster.fails(5, ["mv", "/data/a", "/data/a/b/into-itself"]);
    cluster.fails(5, ["cat", "/data/a"]);
    cluster.fails(2, ["cat", "relative"]);
    cluster.fails(2, ["cp", "local", "other"]);
    let told = cluster.fails(5, ["ls", "/nowhere"]);
    assert!(told.contains("volume list"), "{told}");

    let waited = cluster.json(["sync", "wait", "data", "--at", "westeurope"]);
    assert_eq!(waited["reached"], true, "{waited}");
    cluster.ok(["rm", "-r", "/data/a"]);
    assert_eq!(cluster.ok(["ls", "/data"]), b"");

    // The same volume again is no error; another of its name is.
    cluster.ok(["volume", "create", "data", "--home", "zurich", "--replicas", "zurich,westeurope"]);
    cluster.fails(5, ["volume", "create", "data", "--home", "eastus"]);
    let volumes = cluster.json(["volume", "list"]);
    assert_eq!(volumes.as_array().unwrap().len(), 1);
    let status = cluster.json(["status"]);
    assert_eq!(status["nodes"].as_array().unwrap().len(), 3);
    cluster.nodes.stop().await;
}
