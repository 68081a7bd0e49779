//! What a node tells a scraper.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use causeway::cluster::LocalCluster;
use causeway::config::Config;
use causeway_base::NodeId;

use crate::cluster::{Cluster, PROGRAM, new_config};
use crate::copies::noise;

const PATIENCE: Duration = Duration::from_secs(60);

/// Sends a request as it is; the status line and the body.
fn ask(address: &str, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

/// The samples of a scrape.
fn scrape(address: &str) -> BTreeMap<String, f64> {
    let (status, body) = ask(address, "GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n");
    assert!(status.contains("200"), "{status}");
    assert!(body.ends_with("# EOF\n"), "{body}");
    let lines = body.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

/// The names that the page has.
fn documented() -> BTreeSet<String> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `causeway_"));
    rows.map(|row| format!("causeway_{}", row.split('`').next().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrape_tells_what_the_node_did() {
    let folder = tempfile::tempdir().unwrap();
    let config = new_config(folder.path().join("cluster"));
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let written = std::fs::read_to_string(&config.path).unwrap();
    let section = "[[node]]\nid = 2\n";
    assert!(written.contains(section));
    let written = written.replace(section, &format!("{section}metrics = \"{address}\"\n"));
    std::fs::write(&config.path, written).unwrap();
    let config = Config::load(&config.path).unwrap();
    let mut nodes = LocalCluster::new(PROGRAM.into(), &config);
    nodes.start([1, 2, 3].map(NodeId)).await.unwrap();
    let mut cluster = Cluster { nodes, config, folder };
    cluster.ok(["volume", "create", "data", "--home", "westeurope", "--replicas", "zurich,westeurope"]);
    cluster.ok(["quota", "set", "/data", "--bytes", "1GiB"]);

    // A file written elsewhere, and a byte of it changed: the second version comes as a difference.
    let mut bytes = noise(31, 3_000_000);
    let local = cluster.folder.path().join("file");
    for version in 0..2 {
        bytes[1_500_000] ^= version;
        std::fs::write(&local, &bytes).unwrap();
        cluster.ok(["--site", "zurich", "put", local.to_str().unwrap(), "/data/file"]);
        cluster.ok(["sync", "wait", "data", "--at", "westeurope"]);
    }
    cluster.ok(["store", "gc", "--node", "2"]);
    cluster.ok(["store", "scrub", "--node", "2", "--now", "--deep"]);
    let started = Instant::now();
    // The image is published within seconds after.
    let found = loop {
        let found = scrape(&address);
        if found.get("causeway_archive_owed_seqs{volume=\"data\"}") == Some(&0.0) {
            break found;
        }
        assert!(started.elapsed() < PATIENCE, "{found:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };

    let value = |name: &str| *found.get(name).unwrap_or_else(|| panic!("{name} is not in {found:#?}"));
    let status = cluster.json(["status"]);
    let store = &status["nodes"][1]["status"]["Ok"]["stores"][0];
    assert_eq!(value("causeway_store_chunks"), store["chunks"].as_f64().unwrap());
    assert!(value("causeway_store_stored_bytes") > 3e6 && value("causeway_store_raw_bytes") > 3e6);
    assert_eq!((value("causeway_store_full"), value("causeway_store_read_only")), (0.0, 0.0));
    assert_eq!(value("causeway_gc_runs_total{outcome=\"done\"}"), 1.0);
    assert_eq!(value("causeway_gc_epoch"), 1.0);
    assert!(value("causeway_gc_last_success_timestamp_seconds") > 1.7e9);
    assert!(value("causeway_scrub_read_bytes_total") > 3e6 && value("causeway_scrub_verified_chunks_total") > 10.0);
    // The schedule makes one of the empty store.
    assert!(value("causeway_scrub_passes_total") >= 1.0);
    let from_zurich = "{place=\"site/zurich\",cause=\"replication\"";
    assert!(value(&format!("causeway_transfer_received_bytes_total{from_zurich}}}")) > 3e6);
    assert!(value(&format!("causeway_delta_chunks_total{from_zurich},direction=\"received\"}}")) >= 1.0);
    let saved = value(&format!("causeway_delta_saved_bytes_total{from_zurich},direction=\"received\"}}"));
    assert!(saved > 5_000.0, "{saved}");
    assert!(value("causeway_wire_received_bytes_total{peer=\"site/zurich/node/1\",protocol=\"quic\"}") > 3e6);
    assert_eq!(value("causeway_replication_lag_seqs{volume=\"data\"}"), 0.0);
    assert_eq!(value("causeway_replication_lag_seconds{volume=\"data\"}"), 0.0);
    assert_eq!(value("causeway_archive_rpo_seconds{volume=\"data\"}"), 0.0);
    assert_eq!(value("causeway_raft_leader{volume=\"data\"}"), 1.0);
    assert!(
        value("causeway_raft_applied_seq{volume=\"data\"}") >= 4.0
            && value("causeway_raft_term{volume=\"(root)\"}") >= 1.0
    );
    assert_eq!(value("causeway_volume_logical_bytes{volume=\"data\"}"), 3e6);
    assert_eq!(value("causeway_volume_quota_bytes{volume=\"data\"}"), f64::from(1 << 30));

    // Every metric of the page is told here but the ones of what is not there, and none that it lacks.
    let told: BTreeSet<String> = found.keys().map(|name| name.split('{').next().unwrap().to_owned()).collect();
    let documented = documented();
    assert_eq!(told.difference(&documented).collect::<Vec<_>>(), Vec::<&String>::new());
    let absent: Vec<&String> = documented.difference(&told).collect();
    assert_eq!(absent, ["causeway_volume_quota_files"]);
    // The deltas are in the status too.
    let shown = String::from_utf8(cluster.ok(["status"])).unwrap();
    assert!(shown.contains("DELTAS RECEIVED"), "{shown}");

    let refused = ask(&address, "POST /metrics HTTP/1.1\r\nHost: node\r\nContent-Length: 0\r\n\r\n");
    assert!(refused.0.contains("405"), "{refused:?}");
    assert!(ask(&address, "GET / HTTP/1.1\r\nHost: node\r\n\r\n").0.contains("404"));
    // One who sends no request is hung up on, and takes no place from others for long.
    let mut silent: Vec<TcpStream> = (0..16).map(|_| TcpStream::connect(&address).unwrap()).collect();
    let started = Instant::now();
    for stream in &mut silent {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest); // a reset is an end too
    }
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
    assert!(scrape(&address).len() > 50);
    cluster.nodes.stop().await;
}
