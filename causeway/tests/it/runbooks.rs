//! The runbooks: their commands, as they stand in docs/runbooks/.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use causeway_base::NodeId;

use crate::cluster::{Cluster, PROGRAM, text};

/// The commands of a page, in the order in which they stand.
fn commands(page: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/runbooks").join(page);
    let page = std::fs::read_to_string(&path).unwrap();
    let (mut commands, mut within) = (String::new(), false);
    for line in page.lines() {
        match line {
            "```sh" => within = true,
            "```" => within = false,
            line if within => commands.extend([line, "\n"]),
            _ => {}
        }
    }
    assert!(commands.lines().count() > 3, "{} has no commands", path.display());
    commands
}

/// Runs a page in an empty folder, as somebody with a shell and the program would. What it left running ends with it.
fn run(page: &str, folder: &Path, variables: &[(&str, PathBuf)]) -> String {
    let program = Path::new(PROGRAM);
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let script = format!("set -eux\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait || true' EXIT\n{}", commands(page));
    let mut command = Command::new("timeout");
    command.args(["--signal=TERM", "120", "bash", "-c", &script]).current_dir(folder).env("PATH", path);
    command
        .env_remove("CAUSEWAY_CONFIG")
        .env_remove("CAUSEWAY_SITE")
        .envs(variables.iter().map(|(name, at)| (name, at)));
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{page}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_sites_lost() {
    let mut cluster = Cluster::start().await;
    let report = cluster.folder.path().join("report.txt");
    std::fs::write(&report, "what somebody needs at once\n".repeat(5000)).unwrap();
    cluster.ok(["mkdir", "/data/reports"]);
    cluster.ok(["put", report.to_str().unwrap(), "/data/reports/report.txt"]);
    cluster.ok(["sync", "wait", "data", "--archive"]);
    cluster.nodes.stop().await;
    std::fs::remove_dir_all(&cluster.config.base).unwrap();

    let folder = cluster.folder.path().join("operator");
    std::fs::create_dir(&folder).unwrap();
    let repository = cluster.folder.path().join("repository");
    let told = tokio::task::spawn_blocking({
        let folder = folder.clone();
        move || run("all-sites-lost.md", &folder, &[("CAUSEWAY_REPOSITORY", repository)])
    });
    let told = tokio::time::timeout(Duration::from_secs(180), told).await.unwrap().unwrap();
    assert!(told.contains("everything comes back"), "{told}");
    assert!(std::fs::read(folder.join("report.txt")).unwrap() == std::fs::read(&report).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ransomware() {
    let cluster = Cluster::start().await;
    let docs = cluster.folder.path().join("source");
    std::fs::create_dir_all(docs.join("deep")).unwrap();
    let letter = "Dear customer,\n".repeat(2000);
    std::fs::write(docs.join("letter.txt"), &letter).unwrap();
    std::fs::write(docs.join("deep/short"), "short").unwrap();
    cluster.ok(["cp", "-r", docs.to_str().unwrap(), "cw:/data/docs"]);
    cluster.ok(["snapshot", "create", "data@yesterday"]);
    let noise: Vec<u8> = (0..9000_u32).flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    std::fs::write(docs.join("letter.txt"), &noise).unwrap();
    cluster.ok(["put", docs.join("letter.txt").to_str().unwrap(), "/data/docs/letter.txt"]);
    cluster.ok(["rm", "/data/docs/deep/short"]);

    let folder = cluster.folder.path().join("operator");
    std::fs::create_dir(&folder).unwrap();
    let config = cluster.config.path.clone();
    let at = folder.clone();
    tokio::task::spawn_blocking(move || run("ransomware.md", &at, &[("CAUSEWAY_CONFIG", config)])).await.unwrap();
    assert_eq!(std::fs::read_to_string(folder.join("again/letter.txt")).unwrap(), letter);
    assert_eq!(std::fs::read_to_string(folder.join("again/deep/short")).unwrap(), "short");
    let damage = std::fs::read_to_string(folder.join("damage.txt")).unwrap();
    assert!(damage.contains("letter.txt") && damage.contains("deep/short"), "{damage}");
    assert!(cluster.ok(["cat", "/data/docs.damaged/letter.txt"]) == noise, "the evidence is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn region_lost() {
    let mut cluster = Cluster::start().await;
    let log = cluster.folder.path().join("log.txt");
    std::fs::write(&log, "written before the loss\n").unwrap();
    cluster.ok(["put", log.to_str().unwrap(), "/data/log.txt"]);
    cluster.ok(["sync", "wait", "data", "--at", "westeurope"]);
    for node in [1, 3] {
        cluster.nodes.kill(NodeId(node)).await.unwrap();
    }
    let folder = cluster.folder.path().join("operator");
    std::fs::create_dir(&folder).unwrap();
    let config = cluster.config.path.clone();
    let told = tokio::task::spawn_blocking(move || run("region-lost.md", &folder, &[("CAUSEWAY_CONFIG", config)]));
    let told = told.await.unwrap();
    assert!(told.contains("written before the loss\nwritten after the loss\n"), "{told}");
    assert!(told.contains("zurich burnt down"), "{told}");
}
