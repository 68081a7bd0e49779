//! Volumes mounted in others, as a user runs them.

use crate::cluster::Cluster;

fn names(listing: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(listing).lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_has_a_volume_of_its_own_below_the_project() {
    let cluster = Cluster::start().await;
    let local = cluster.folder.path().join("f");
    std::fs::write(&local, b"content").unwrap();
    let file = local.to_str().unwrap();
    cluster.ok(["mkdir", "-p", "/data/jobs/full"]);
    cluster.ok(["put", file, "/data/jobs/full/f"]);

    // Homed where the job runs; the folders above the mount come by themselves.
    cluster.ok(["volume", "create", "job-7", "--mount", "/data/jobs/7/out", "--home", "westeurope"]);
    for site in ["zurich", "westeurope", "eastus"] {
        let listed = cluster.ok(["--site", site, "ls", "/data/jobs/7"]);
        assert_eq!(names(&listed), ["out/"], "{site}");
        let name = format!("/data/jobs/7/out/{site}");
        cluster.ok(["--site", site, "put", file, &name]);
    }
    for site in ["zurich", "westeurope", "eastus"] {
        assert_eq!(names(&cluster.ok(["--site", site, "ls", "/data/jobs/7/out"])), ["eastus", "westeurope", "zurich"]);
        assert_eq!(cluster.ok(["--site", site, "cat", "/data/jobs/7/out/eastus"]), b"content");
    }
    let stat = cluster.json(["stat", "/data/jobs/7/out/zurich"]);
    assert_eq!(stat["volume"], "job-7");

    // Two levels, and a whole tree at once.
    cluster.ok(["volume", "create", "deep", "--mount", "/data/jobs/7/out/a/b", "--home", "zurich"]);
    cluster.ok(["put", file, "/data/jobs/7/out/a/b/g"]);
    let tree = names(&cluster.ok(["ls", "-R", "/data/jobs"]));
    for wanted in ["full/f", "7/out/", "7/out/zurich", "7/out/a/b/", "7/out/a/b/g"] {
        assert!(tree.iter().any(|line| line == wanted), "{wanted} in {tree:?}");
    }
    let out = cluster.folder.path().join("copy");
    cluster.ok(["cp", "-r", "cw:/data/jobs/", out.to_str().unwrap()]);
    for wanted in ["full/f", "7/out/zurich", "7/out/a/b/g"] {
        assert_eq!(std::fs::read(out.join(wanted)).unwrap(), b"content", "{wanted}");
    }

    // Between volumes nothing is renamed or linked, and no path of a mount changes.
    assert!(cluster.fails(5, ["mv", "/data/jobs/full/f", "/data/jobs/7/out/f"]).contains("different volumes"));
    assert!(cluster.fails(5, ["ln", "/data/jobs/full/f", "/data/jobs/7/out/f"]).contains("volume"));
    assert!(cluster.fails(5, ["mv", "/data/jobs", "/data/work"]).contains("mounted below"));
    assert!(cluster.fails(5, ["rm", "-r", "/data/jobs"]).contains("mounted below"));
    assert_eq!(cluster.ok(["cat", "/data/jobs/full/f"]), b"content");
    cluster.ok(["mv", "/data/jobs/full", "/data/moved"]);

    // A mount hides nothing: what is there already must go first.
    let refused = cluster.fails(5, ["volume", "create", "bad", "--mount", "/data/moved", "--home", "zurich"]);
    assert!(refused.contains("not empty") && refused.contains("moved"), "{refused}");
    let refused = cluster.fails(5, ["volume", "create", "bad", "--mount", "/data/moved/f/x", "--home", "zurich"]);
    assert!(refused.contains("exists already"), "{refused}");
    // One that is refused for another reason leaves no mount.
    cluster.fails(5, ["volume", "create", "bad", "--mount", "/data/left", "--home", "nowhere"]);
    cluster.fails(4, ["stat", "/data/left"]);
    // The same again is no error; another at that place is.
    cluster.ok(["volume", "create", "job-7", "--mount", "/data/jobs/7/out", "--home", "westeurope"]);
    assert!(
        cluster
            .fails(5, ["volume", "create", "two", "--mount", "/data/jobs/7/out", "--home", "zurich"])
            .contains("job-7")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_comes_above_others() {
    let cluster = Cluster::start().await;
    cluster.ok(["volume", "create", "inner", "--mount", "/top/a/b", "--home", "zurich"]);
    cluster.ok(["mkdir", "/top/a/b/kept"]);
    cluster.ok(["volume", "create", "outer", "--mount", "/top", "--home", "westeurope"]);
    // Its leader makes the entry of what was mounted there before; until then the table alone tells.
    assert_eq!(names(&cluster.ok(["ls", "/top/a/b"])), ["kept/"]);
    crate::cluster::wait_until("the entry of the inner mount", || {
        let listed = cluster.run(["ls", "/top/a"]);
        listed.status.success() && names(&listed.stdout) == ["b/"]
    })
    .await;
    assert!(cluster.fails(5, ["mv", "/top/a", "/top/c"]).contains("mounted below"));
    assert_eq!(names(&cluster.ok(["ls", "/top"])), ["a/"]);
}
