//! The repository without a cluster: finding, checking, and rehearsing a restore beside the one that runs.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cluster::{Cluster, text};

/// What `dr …` answers, with its exit code.
fn dr(cluster: &Cluster, code: i32, args: &[&str]) -> Value {
    let output = cluster.run([&["--output", "json", "dr"], args].concat());
    assert_eq!(output.status.code(), Some(code), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn names(rows: &Value) -> Vec<&str> {
    rows.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect()
}

/// Every object below a folder of the repository.
fn objects(folder: &Path) -> Vec<PathBuf> {
    walkdir::WalkDir::new(folder)
        .into_iter()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().is_file())
        .map(walkdir::DirEntry::into_path)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_is_rehearsed_beside_the_live_cluster_and_damage_is_told() {
    let mut cluster = Cluster::start().await;
    let local = cluster.folder.path().join("tree");
    std::fs::create_dir_all(local.join("runs/step-1")).unwrap();
    let noise: Vec<u8> = (0..700_000_u32).flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    std::fs::write(local.join("runs/step-1/weights.bin"), &noise).unwrap();
    std::fs::write(local.join("runs/notes.txt"), b"small enough to lie in the metadata").unwrap();
    std::os::unix::fs::symlink("notes.txt", local.join("runs/link.txt")).unwrap();
    cluster.ok(["cp", "-r", local.to_str().unwrap(), "cw:/data/tree"]);
    cluster.ok(["volume", "create", "scratch", "--home", "eastus", "--no-archive"]);
    cluster.ok(["volume", "create", "inner", "--mount", "/data/tree/inner", "--home", "zurich"]);
    cluster.ok(["put", local.join("runs/notes.txt").to_str().unwrap(), "/data/tree/inner/deep.txt"]);
    for volume in ["data", "inner"] {
        cluster.ok(["sync", "wait", volume, "--archive"]);
    }

    // Files are found by name, kind and size, in mounted volumes too.
    let find = |args: &[&str]| dr(&cluster, 0, &[&["find"], args].concat());
    assert_eq!(
        names(&find(&["/data", "--name", "*.txt"])),
        ["/data/tree/inner/deep.txt", "/data/tree/runs/link.txt", "/data/tree/runs/notes.txt"]
    );
    assert_eq!(names(&find(&["/data", "--at-least", "1MiB"])), ["/data/tree/runs/step-1/weights.bin"]);
    let all = dr(&cluster, 3, &["find", "/", "--kind", "symlink"]);
    assert_eq!(names(&all), ["/data/tree/runs/link.txt"], "the volume without an image is left out, and that is told");
    assert_eq!(names(&find(&["/data/tree", "--name", "step-?", "--newer", "1h"])), ["/data/tree/runs/step-1"]);
    assert_eq!(names(&find(&["/data/tree/runs/notes.txt"])), ["/data/tree/runs/notes.txt"]);
    cluster.fails(4, ["dr", "find", "/nowhere"]);
    let subset = dr(&cluster, 0, &["verify", "--read-data-subset", "100%"]);
    let of = |name: &str| subset.as_array().unwrap().iter().find(|volume| volume["volume"] == name).unwrap().clone();
    assert!(
        of("data")["chunks_read"].as_u64() == of("data")["chunks"].as_u64() && of("data")["chunks"] != 0,
        "{subset}"
    );

    // Nothing was rehearsed yet, which is said.
    let status = dr(&cluster, 3, &["status"]);
    assert!(status["last_drill"].is_null() && status["not_ready"].to_string().contains("ever rehearsed"), "{status}");

    // The volume that is not archived is a gap; all else comes back.
    let scratch = cluster.folder.path().join("drills");
    std::fs::create_dir(&scratch).unwrap();
    let drill = ["drill", "--sample", "100%", "--scratch", scratch.to_str().unwrap()];
    let drilled = dr(&cluster, 3, &drill);
    assert!(drilled["passed"] == true && drilled["kept"] == true, "{drilled}");
    assert!(
        drilled["gaps"].as_array().unwrap().len() == 1 && drilled["gaps"][0].to_string().contains("scratch"),
        "{drilled}"
    );
    let data = drilled["volumes"].as_array().unwrap().iter().find(|volume| volume["volume"] == "data").unwrap();
    assert!(data["digest_held"] == true && data["files"] == 2 && data["bytes_read"] == 2_800_000, "{data}");
    assert!(drilled["first_byte_seconds"].is_number());
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0, "the scratch folder is gone");
    let status = dr(&cluster, 3, &["status"]);
    assert_eq!(status["last_drill"]["passed"], true);
    assert!(!status["not_ready"].to_string().contains("drill"), "{status}");

    // The live cluster is not fenced: it writes and archives on.
    cluster.ok(["put", local.join("runs/notes.txt").to_str().unwrap(), "/data/after-the-drill"]);
    cluster.ok(["sync", "wait", "data", "--archive"]);

    // With a pack lost the drill fails, and so the repository is not ready.
    cluster.nodes.stop().await;
    let repository = cluster.folder.path().join("repository");
    let packs = objects(&repository.join("packs"));
    let largest = packs.iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    std::fs::remove_file(largest).unwrap();
    // Also if no chunk of it is among the sample: the first bytes were wanted.
    for sample in ["0%", "100%"] {
        let drilled = dr(&cluster, 8, &["drill", "--sample", sample, "--scratch", scratch.to_str().unwrap()]);
        assert!(drilled["passed"] == false && drilled["gaps"].as_array().unwrap().len() == 1, "{drilled}");
    }
    // What cannot be read is no reason to say nothing of the volumes.
    std::fs::write(repository.join("drills/0"), b"rubbish").unwrap();
    let status = dr(&cluster, 3, &["status"]);
    assert!(status["not_ready"].to_string().contains("failed"), "{status}");

    // Also if a whole image is gone.
    let runs = objects(&repository.join("volumes"));
    let run = runs.iter().filter(|path| path.components().any(|part| part.as_os_str() == "runs"));
    let largest = run.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let moved = cluster.folder.path().join("run");
    std::fs::rename(largest, &moved).unwrap();
    let drilled = dr(&cluster, 8, &drill);
    assert!(drilled["passed"] == false && drilled["kept"] == true, "{drilled}");
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0);
    std::fs::rename(&moved, largest).unwrap();

    // What may not be written is not kept, and the result is shown all the same.
    let kept = objects(&repository.join("drills")).len();
    dr(&cluster, 8, &[&drill[..], &["--no-record"]].concat());
    assert_eq!(objects(&repository.join("drills")).len(), kept);
    let empty = cluster.folder.path().join("nothing");
    std::fs::create_dir(&empty).unwrap();
    cluster.fails(1, ["dr", "drill", "--repository", empty.to_str().unwrap()]);
}
