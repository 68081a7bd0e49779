//! Garbage goes, what is in use stays; what went bad on a disk is named and healed.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use causeway::cluster::LocalCluster;
use causeway::config::Config;
use causeway_base::NodeId;

use crate::cluster::{Cluster, PROGRAM, new_config_of, text};
use crate::copies::noise;

const PATIENCE: Duration = Duration::from_secs(180);

/// A cluster whose nodes collect and scrub only when asked, at once, and keep two versions.
async fn start() -> Cluster {
    let cluster = start_sites(&["zurich", "westeurope", "eastus"]).await;
    cluster.ok(["volume", "create", "data", "--home", "zurich", "--replicas", "zurich,westeurope"]);
    cluster
}

async fn start_sites(sites: &[&str]) -> Cluster {
    start_with(sites, &[]).await
}

/// The same with other settings too, each in the place of what the configuration has.
async fn start_with(sites: &[&str], settings: &[(&str, &str)]) -> Cluster {
    let folder = tempfile::tempdir().unwrap();
    let config = new_config_of(folder.path().join("cluster"), sites);
    let mut text = std::fs::read_to_string(&config.path).unwrap();
    for (from, to) in [
        ("gc_every = \"6h\"", "gc_every = \"0s\""),
        ("gc_grace = \"1h\"", "gc_grace = \"0s\""),
        ("scrub_cycle = \"14d\"", "scrub_cycle = \"0s\""),
        ("versions = 100000", "versions = 2"),
    ]
    .iter()
    .chain(settings)
    {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    std::fs::write(&config.path, text).unwrap();
    let config = Config::load(&config.path).unwrap();
    let mut nodes = LocalCluster::new(PROGRAM.into(), &config);
    nodes.start((1..).take(sites.len()).map(NodeId)).await.unwrap();
    Cluster { nodes, config, folder }
}

fn packs(cluster: &Cluster, node: u64) -> Vec<PathBuf> {
    let dir = cluster.config.resolve(&cluster.config.node(NodeId(node)).unwrap().data).join("packs");
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut packs: Vec<PathBuf> = names.filter(|path| path.extension().is_some_and(|end| end == "pack")).collect();
    packs.sort();
    packs
}

fn pack_bytes(cluster: &Cluster, node: u64) -> u64 {
    packs(cluster, node).iter().map(|pack| pack.metadata().unwrap().len()).sum()
}

/// Flips `count` bits, each in another place of the packs.
fn flip(packs: &[PathBuf], count: u64, seed: u8) {
    for (at, random) in noise(seed, count as usize * 8).chunks_exact(8).enumerate() {
        let random = u64::from_le_bytes(random.try_into().unwrap());
        let pack = &packs[at % packs.len()];
        let file = std::fs::File::options().read(true).write(true).open(pack).unwrap();
        let len = file.metadata().unwrap().len();
        let offset = 64 + random % (len - 64);
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ (1 << (random >> 61))], offset).unwrap();
    }
}

fn tree(cluster: &Cluster) -> BTreeMap<String, Vec<u8>> {
    let source = cluster.folder.path().join("tree");
    std::fs::create_dir_all(source.join("below")).unwrap();
    let mut files = BTreeMap::new();
    for number in 0..20_u8 {
        let name = if number % 2 == 0 { format!("file-{number}") } else { format!("below/file-{number}") };
        let bytes = noise(100 + number, 200_000 + 40_000 * usize::from(number));
        std::fs::write(source.join(&name), &bytes).unwrap();
        files.insert(name, bytes);
    }
    cluster.ok(["cp", "-r", source.to_str().unwrap(), "cw:/data"]);
    cluster.ok(["sync", "wait", "data", "--at", "westeurope"]);
    files
}

fn assert_reads_right(cluster: &Cluster, site: &str, files: &BTreeMap<String, Vec<u8>>) {
    for (name, bytes) in files {
        let read = cluster.ok(["--site", site, "cat", &format!("/data/tree/{name}")]);
        assert!(read == *bytes, "{name} reads wrong at {site}");
    }
}

fn put(cluster: &Cluster, name: &str, bytes: &[u8]) {
    let local = cluster.folder.path().join("put");
    std::fs::write(&local, bytes).unwrap();
    cluster.ok(["put", local.to_str().unwrap(), &format!("/data/{name}")]);
}

/// Collects until a run removes something.
fn collect_until_removed(cluster: &Cluster, node: &str) -> serde_json::Value {
    let started = Instant::now();
    loop {
        // A commit, so that old versions are pruned further.
        cluster.ok(["mkdir", "-p", "/data/turn"]);
        cluster.ok(["rm", "-r", "/data/turn"]);
        let report = cluster.json(["store", "gc", "--node", node, "--grace", "0s"]);
        if report["removed"].as_u64().unwrap() > 0 {
            return report;
        }
        assert!(started.elapsed() < PATIENCE, "nothing was removed: {report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nothing_names_is_collected_and_everything_else_stays() {
    let mut cluster = start().await;
    let (kept, gone) = (noise(1, 3_000_000), noise(2, 9_000_000));
    put(&cluster, "kept", &kept);
    put(&cluster, "gone", &gone);
    cluster.ok(["sync", "wait", "data", "--at", "westeurope"]);
    let all_in_use = cluster.json(["store", "gc", "--node", "1", "--dry-run"]);
    assert_eq!((&all_in_use["condemned"], &all_in_use["dry_run"]), (&0.into(), &true.into()), "{all_in_use}");
    cluster.ok(["rm", "/data/gone"]);
    for node in ["1", "2"] {
        let before = pack_bytes(&cluster, node.parse().unwrap());
        let report = collect_until_removed(&cluster, node);
        let removed = report["removed_bytes"].as_u64().unwrap();
        assert!((8_900_000..9_500_000).contains(&removed), "{report}");
        let after = pack_bytes(&cluster, node.parse().unwrap());
        assert!(after + 8_000_000 < before, "node {node}: {before} bytes before, {after} after: {report}");
    }
    for site in ["zurich", "westeurope", "eastus"] {
        assert!(cluster.ok(["--site", site, "cat", "/data/kept"]) == kept, "{site}");
    }
    // The same content again: it is not there, so it is sent, and it is whole.
    put(&cluster, "again", &gone);
    assert!(cluster.ok(["cat", "/data/again"]) == gone);
    let status = cluster.json(["status"]);
    let upkeep = &status["nodes"][0]["status"]["Ok"]["upkeep"];
    assert!(
        upkeep["gc_last"]["epoch"].as_u64().unwrap() >= 2 && upkeep["freed_bytes"].as_u64().unwrap() > 0,
        "{upkeep}"
    );
    // A node that cannot know what is in use collects nothing.
    cluster.nodes.kill(NodeId(2)).await.unwrap();
    cluster.nodes.kill(NodeId(3)).await.unwrap();
    let refused = cluster.run(["--timeout", "50s", "store", "gc", "--node", "1", "--grace", "0s"]);
    assert_ne!(refused.status.code(), Some(0), "{}", text(&refused));
    assert!(
        text(&refused).contains("cannot be known now") || text(&refused).contains("no leader"),
        "{}",
        text(&refused)
    );
    cluster.nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_bits_are_found_named_and_healed() {
    let mut cluster = start().await;
    let files = tree(&cluster);
    let clean = cluster.json(["store", "scrub", "--node", "1", "--now"]);
    assert_eq!((&clean["bad"], &clean["bad_packs"]), (&0.into(), &0.into()), "{clean}");

    // While the node runs.
    flip(&packs(&cluster, 1), 12, 7);
    let healed = cluster.json(["store", "scrub", "--node", "1", "--now"]);
    let bad = healed["bad"].as_u64().unwrap();
    assert!(
        (1..=12).contains(&bad) && healed["healed"] == bad && healed["rewritten"].as_u64().unwrap() >= 1,
        "{healed}"
    );
    for chunk in healed["named"].as_array().unwrap() {
        let named = chunk["files"].as_array().unwrap();
        let known = |name: &serde_json::Value| {
            let path = name.as_str().unwrap().strip_prefix("data:tree/");
            path.is_some_and(|path| files.contains_key(path))
        };
        assert!(!named.is_empty() && named.iter().all(known), "{chunk}");
    }
    assert_reads_right(&cluster, "zurich", &files);
    let clean = cluster.json(["store", "scrub", "--node", "1", "--now"]);
    assert_eq!((&clean["bad"], &clean["bad_packs"]), (&0.into(), &0.into()), "{clean}");

    // While it is stopped.
    cluster.nodes.kill(NodeId(2)).await.unwrap();
    flip(&packs(&cluster, 2), 9, 8);
    cluster.nodes.start([NodeId(2)]).await.unwrap();
    // A node that has not caught up yet says that it could not check the volume.
    cluster.ok(["sync", "wait", "data", "--at", "westeurope"]);
    let healed = cluster.json(["store", "scrub", "--node", "2", "--now"]);
    assert!(healed["bad"].as_u64().unwrap() >= 1 && healed["healed"] == healed["bad"], "{healed}");
    assert_reads_right(&cluster, "westeurope", &files);
    let clean = cluster.json(["store", "scrub", "--node", "2", "--now"]);
    assert_eq!((&clean["bad"], &clean["bad_packs"]), (&0.into(), &0.into()), "{clean}");
    cluster.nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_healed_is_named_and_the_exit_code_says_so() {
    let mut cluster = start().await;
    cluster.ok(["volume", "create", "alone", "--home", "eastus", "--replicas", "eastus", "--no-archive"]);
    let bytes = noise(3, 2_000_000);
    let local: &Path = &cluster.folder.path().join("only");
    std::fs::write(local, &bytes).unwrap();
    cluster.ok(["--site", "eastus", "put", local.to_str().unwrap(), "/alone/only-copy"]);
    flip(&packs(&cluster, 3), 3, 9);
    let output = cluster.run(["--output", "json", "store", "scrub", "--node", "3", "--now"]);
    assert_eq!(output.status.code(), Some(8), "{}", text(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let named = &report["named"][0];
    assert_eq!(named["files"][0], "alone:only-copy", "{report}");
    assert!(named["unhealed"].is_string(), "{report}");
    // It comes back when someone has it: the same content put again heals it.
    cluster.ok(["--site", "eastus", "put", local.to_str().unwrap(), "/alone/second"]);
    let healed = cluster.json(["store", "scrub", "--node", "3", "--now"]);
    assert_eq!(healed["bad"], 0, "{healed}");
    assert!(cluster.ok(["--site", "eastus", "cat", "/alone/only-copy"]) == bytes);
    cluster.nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_keeps_its_chunks_until_it_is_deleted() {
    let mut cluster = start().await;
    let bytes = noise(5, 9_000_000);
    put(&cluster, "gone", &bytes);
    cluster.ok(["snapshot", "create", "data@before"]);
    cluster.ok(["rm", "/data/gone"]);
    let mut removed = 0;
    for _ in 0..4 {
        // Versions are pruned as far as they may be.
        cluster.ok(["mkdir", "-p", "/data/turn"]);
        cluster.ok(["rm", "-r", "/data/turn"]);
        let report = cluster.json(["store", "gc", "--node", "1", "--grace", "0s"]);
        removed += report["removed_bytes"].as_u64().unwrap();
    }
    assert!(removed < 1_000_000, "{removed} bytes went");
    assert!(cluster.ok(["cat", "/data/gone", "--at", "before"]) == bytes);
    cluster.ok(["snapshot", "delete", "data@before"]);
    let started = Instant::now();
    while removed < 8_900_000 {
        assert!(started.elapsed() < PATIENCE, "{removed} bytes went");
        removed += collect_until_removed(&cluster, "1")["removed_bytes"].as_u64().unwrap();
    }
    cluster.nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_pack_comes_back_from_another_site() {
    let mut cluster = start().await;
    tree(&cluster);
    cluster.nodes.kill(NodeId(2)).await.unwrap();
    let lost = packs(&cluster, 2).into_iter().max_by_key(|pack| pack.metadata().unwrap().len()).unwrap();
    assert!(lost.metadata().unwrap().len() > 1_000_000);
    std::fs::remove_file(lost).unwrap();
    cluster.nodes.start([NodeId(2)]).await.unwrap();
    cluster.ok(["sync", "wait", "data", "--at", "westeurope"]);
    let healed = cluster.json(["store", "scrub", "--node", "2", "--now"]);
    assert_eq!(healed["healed"], healed["bad"], "{healed}");
    assert!(pack_bytes(&cluster, 2) > 8_000_000, "all of it is here again: {healed}");
    let clean = cluster.json(["store", "scrub", "--node", "2", "--now"]);
    assert_eq!((&clean["bad"], &clean["bad_packs"]), (&0.into(), &0.into()), "{clean}");
    cluster.nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_bits_are_healed_from_the_repository_alone() {
    let mut cluster = start().await;
    cluster.ok(["volume", "create", "alone", "--home", "eastus", "--replicas", "eastus"]);
    let bytes = noise(6, 3_000_000);
    let local: &Path = &cluster.folder.path().join("only");
    std::fs::write(local, &bytes).unwrap();
    cluster.ok(["--site", "eastus", "put", local.to_str().unwrap(), "/alone/only-copy"]);
    cluster.ok(["sync", "wait", "alone", "--archive"]);
    flip(&packs(&cluster, 3), 5, 10);
    let healed = cluster.json(["store", "scrub", "--node", "3", "--now"]);
    assert!(healed["bad"].as_u64().unwrap() >= 1 && healed["healed"] == healed["bad"], "{healed}");
    assert!(cluster.ok(["--site", "eastus", "cat", "/alone/only-copy"]) == bytes);
    cluster.nodes.stop().await;
}

/// Changes the first record of one raw chunk in the packs, and makes its checksums anew (docs/formats/pack.md).
fn forge(packs: &[PathBuf]) {
    for pack in packs {
        let mut bytes = std::fs::read(pack).unwrap();
        let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let mut at = 64;
        while bytes.get(at..at + 4).is_some_and(|magic| magic == b"CWrc") {
            let end = at + 60 + word(&bytes, at + 8) as usize;
            if bytes[at + 4] == 1 && bytes[at + 5] == 0 {
                bytes[at + 60 + 100] ^= 1;
                let payload = crc32c::crc32c(&bytes[at + 60..end]);
                bytes[at + 52..at + 56].copy_from_slice(&payload.to_le_bytes());
                let header = crc32c::crc32c_append(crc32c::crc32c(&bytes[16..24]), &bytes[at..at + 56]);
                bytes[at + 56..at + 60].copy_from_slice(&header.to_le_bytes());
                let file = std::fs::File::options().write(true).open(pack).unwrap();
                file.write_all_at(&bytes[at..end], at as u64).unwrap();
                return;
            }
            at = end;
        }
    }
    panic!("no raw chunk in {packs:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_forged_with_its_checksums_is_found_by_its_name_and_healed() {
    let mut cluster = start().await;
    let files = tree(&cluster);
    forge(&packs(&cluster, 2));
    let unseen = cluster.json(["store", "scrub", "--node", "2", "--now"]);
    assert_eq!((&unseen["bad"], &unseen["bad_packs"]), (&0.into(), &0.into()), "every checksum holds: {unseen}");
    let healed = cluster.json(["store", "scrub", "--node", "2", "--now", "--deep"]);
    assert_eq!(
        (&healed["bad"], &healed["healed"], &healed["rewritten"]),
        (&1.into(), &1.into(), &1.into()),
        "{healed}"
    );
    assert!(healed["verified"].as_u64().unwrap() > 50, "{healed}");
    let named = healed["named"][0]["files"][0].as_str().unwrap();
    assert!(named.starts_with("data:tree/"), "{healed}");
    let clean = cluster.json(["store", "scrub", "--node", "2", "--now", "--deep"]);
    assert_eq!((&clean["bad"], &clean["bad_packs"]), (&0.into(), &0.into()), "{clean}");
    assert_reads_right(&cluster, "westeurope", &files);
    cluster.nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_replica_of_every_volume_collects_what_no_volume_names() {
    const SATELLITE: u64 = 4;
    let mut cluster = start_sites(&["zurich", "westeurope", "eastus", "satellite"]).await;
    cluster.ok(["volume", "create", "near", "--home", "zurich", "--replicas", "zurich"]);
    cluster.ok(["volume", "create", "own", "--home", "satellite", "--replicas", "satellite"]);
    let members = cluster.json(["volume", "show", "near"]);
    assert!(!members["voters"].as_array().unwrap().contains(&SATELLITE.into()), "{members}");
    let put = |site: &str, path: &str, bytes: &[u8]| {
        let local = cluster.folder.path().join("put");
        std::fs::write(&local, bytes).unwrap();
        cluster.ok(["--site", site, "put", local.to_str().unwrap(), path]);
    };
    // Of the volume that is not here: one that came through here, one that also did and is removed, one that is read here.
    let (mine, dropped, read) = (noise(11, 3_000_000), noise(12, 5_000_000), noise(13, 2_000_000));
    put("satellite", "/near/mine", &mine);
    put("satellite", "/near/dropped", &dropped);
    put("zurich", "/near/read", &read);
    assert!(cluster.ok(["--site", "satellite", "cat", "/near/read"]) == read);
    // Of the one that is.
    let (kept, gone) = (noise(14, 2_000_000), noise(15, 7_000_000));
    put("satellite", "/own/kept", &kept);
    put("satellite", "/own/gone", &gone);
    let all = mine.len() + dropped.len() + read.len() + kept.len() + gone.len();
    assert!(pack_bytes(&cluster, SATELLITE) as usize >= all, "all of it is here");
    let in_use = cluster.json(["store", "gc", "--node", "4", "--dry-run"]);
    assert_eq!(in_use["condemned"], 0, "{in_use}");

    cluster.ok(["rm", "/near/dropped"]);
    cluster.ok(["rm", "/own/gone"]);
    let (mut removed, started) = (0, Instant::now());
    while removed < 11_900_000 {
        for volume in ["near", "own"] {
            cluster.ok(["mkdir", "-p", &format!("/{volume}/turn")]);
            cluster.ok(["rm", "-r", &format!("/{volume}/turn")]);
        }
        let report = cluster.json(["store", "gc", "--node", "4", "--grace", "0s"]);
        removed += report["removed_bytes"].as_u64().unwrap();
        assert!(started.elapsed() < PATIENCE, "{removed} bytes were removed: {report}");
    }
    assert!(removed < 12_500_000, "{removed} bytes were removed");
    let left = pack_bytes(&cluster, SATELLITE) as usize;
    assert!(left >= mine.len() + read.len() + kept.len() && left + 10_000_000 < all, "{left} of {all} bytes are left");
    for (path, bytes) in [("/near/mine", &mine), ("/near/read", &read), ("/own/kept", &kept)] {
        assert!(cluster.ok(["--site", "satellite", "cat", path]) == *bytes, "{path}");
    }
    // What is damaged there is found without the volume's records, and comes back.
    flip(&packs(&cluster, SATELLITE), 4, 21);
    let healed = cluster.json(["store", "scrub", "--node", "4", "--now", "--deep"]);
    assert!(healed["bad"].as_u64().unwrap() >= 1, "{healed}");

    // With nobody there who has the other volume, nothing is known of it.
    for node in [1, 2, 3] {
        cluster.nodes.kill(NodeId(node)).await.unwrap();
    }
    let refused = cluster.run(["--timeout", "50s", "store", "gc", "--node", "4", "--grace", "0s"]);
    assert_ne!(refused.status.code(), Some(0), "{}", text(&refused));
    cluster.nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_keeps_to_its_capacity_and_reads_what_it_let_go_again() {
    const FILE: usize = 6 << 20;
    let sites = ["zurich", "westeurope", "eastus"];
    let cluster = start_with(&sites, &[("chunk_capacity = \"0B\"", "chunk_capacity = \"16MiB\"")]).await;
    cluster.ok(["volume", "create", "data", "--home", "zurich", "--replicas", "zurich,westeurope"]);
    let local = cluster.folder.path().join("local");
    for number in 0..6_u8 {
        std::fs::write(&local, noise(number, FILE)).unwrap();
        cluster.ok(["--site", "zurich", "put", local.to_str().unwrap(), &format!("/data/file-{number}")]);
    }
    // Written at the cache: nobody else may have it yet.
    std::fs::write(&local, noise(50, FILE)).unwrap();
    cluster.ok(["--site", "eastus", "put", local.to_str().unwrap(), "/data/own"]);
    let read = |number: u8| cluster.ok(["--site", "eastus", "cat", &format!("/data/file-{number}")]);
    for number in 0..6 {
        assert!(read(number) == noise(number, FILE));
    }
    let started = Instant::now();
    while pack_bytes(&cluster, 3) > 17 << 20 {
        let stuck = || format!("{} bytes of packs: {}", pack_bytes(&cluster, 3), cluster.json(["status"]));
        assert!(started.elapsed() < PATIENCE, "{}", stuck());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // Those of whom it is told to hold all keep all, though it is more than fits.
    assert!(pack_bytes(&cluster, 1) > 36 << 20);
    assert!(cluster.ok(["--site", "eastus", "cat", "/data/own"]) == noise(50, FILE));
    for number in 0..6 {
        assert!(read(number) == noise(number, FILE), "it comes again");
    }
    let report = cluster.json(["store", "scrub", "--now", "--node", "3"]);
    assert_eq!((&report["bad"], &report["bad_packs"]), (&0.into(), &0.into()), "{report}");
}
