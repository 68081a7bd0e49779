//! A disk that fills up: a clear error, nothing acknowledged is lost, and work goes on when there is space again.

use std::path::{Path, PathBuf};
use std::process::Command;

use causeway::cluster::LocalCluster;
use causeway_base::NodeId;

use crate::cluster::{Cluster, PROGRAM, new_config};
use crate::copies::noise;

/// A file system of its own, unmounted when the test ends in whatever way.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, mib: u32) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={mib}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output().ok()?;
        mounted.status.success().then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn free_bytes(path: &Path) -> u64 {
    let stat = rustix::fs::statvfs(path).unwrap();
    stat.f_bavail * stat.f_frsize
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_clearly_loses_nothing_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let config = new_config(folder.path().join("cluster"));
    let text = std::fs::read_to_string(&config.path).unwrap();
    let reserve = "disk_reserve = \"64MiB\"";
    std::fs::write(&config.path, text.replace("disk_reserve = \"256MiB\"", reserve)).unwrap();
    let disk = config.resolve(&config.node(NodeId(1)).unwrap().data);
    let Some(_mounted) = SmallDisk::mount(&disk, 700) else {
        eprintln!("skipped: mounting a small file system needs root");
        return;
    };
    let mut nodes = LocalCluster::new(PROGRAM.into(), &config);
    nodes.start([1, 2, 3].map(NodeId)).await.unwrap();
    let mut cluster = Cluster { nodes, config, folder };
    cluster.ok(["volume", "create", "data", "--home", "zurich"]);

    let before = cluster.folder.path().join("before");
    std::fs::write(&before, noise(1, 1 << 20)).unwrap();
    cluster.ok(["put", before.to_str().unwrap(), "/data/before"]);

    // Something else fills the disk up to a little above the reserve.
    let ballast = disk.join("ballast");
    let leave = (64 + 24) << 20;
    let fill = usize::try_from(free_bytes(&disk) - leave).unwrap();
    std::fs::write(&ballast, vec![7; fill]).unwrap();
    let large = cluster.folder.path().join("large");
    std::fs::write(&large, noise(2, 64 << 20)).unwrap();
    let told = cluster.fails(6, ["put", large.to_str().unwrap(), "/data/large"]);
    assert!(told.contains("full"), "{told}");
    cluster.fails(4, ["stat", "/data/large"]);
    assert_eq!(cluster.ok(["cat", "/data/before"]), std::fs::read(&before).unwrap());
    // Chunks are refused before metadata is.
    cluster.ok(["mkdir", "/data/meanwhile"]);

    std::fs::remove_file(&ballast).unwrap();
    cluster.ok(["put", large.to_str().unwrap(), "/data/large"]);
    assert_eq!(cluster.ok(["cat", "/data/large"]), std::fs::read(&large).unwrap());
    cluster.nodes.stop().await;
}
