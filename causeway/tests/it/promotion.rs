//! A volume goes on without the majority that it lost, and what had the majority comes back.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use causeway_base::NodeId;
use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::{Cluster, PROGRAM, text};

const WITHIN: Duration = Duration::from_secs(90);

fn signal(cluster: &Cluster, node: u64, signal: Signal) {
    let pid = cluster.nodes.pid(NodeId(node)).unwrap();
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
}

/// The names in the volume's top folder, as a site sees them.
fn names(cluster: &Cluster, site: &str) -> Option<BTreeSet<String>> {
    let output = cluster.run(["--timeout", "5s", "--site", site, "ls", "/data"]);
    let listed = String::from_utf8(output.stdout).unwrap();
    (output.status.code() == Some(0))
        .then(|| listed.lines().map(|line| line.trim_end_matches('/').to_owned()).collect())
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < WITHIN, "{what}: not within {WITHIN:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

const PROMOTE: [&str; 10] =
    ["volume", "promote", "data", "--at", "westeurope", "--root", "--confirm", "data", "--reason", "the others burnt"];

/// Starts a node that cannot say that it is ready, since the others are gone. It ends with the test.
fn start_alone(cluster: &Cluster, node: &str) -> Child {
    let mut command = Command::new(PROGRAM);
    command.arg("--config").arg(&cluster.config.path).args(["node", "--exit-with-parent", "--id", node]);
    let log = std::fs::OpenOptions::new().append(true).open(cluster.nodes.log(NodeId(node.parse().unwrap()))).unwrap();
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

/// Everything that a node keeps aside, as text.
fn aside(cluster: &Cluster, node: &str) -> String {
    let shown = cluster.json(["volume", "aside", "data", "--node", node]);
    shown["kept"].to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_majority_comes_back_fenced_and_what_it_had_alone_is_kept_aside() {
    let mut cluster = Cluster::start().await;
    let files = cluster.folder.path().join("files");
    std::fs::create_dir(&files).unwrap();
    let (large, local) = (files.join("large"), files.join("back"));
    let bytes: Vec<u8> = (0..300_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    std::fs::write(&large, &bytes).unwrap();
    cluster.ok(["mkdir", "/data/both"]);

    let refused = cluster.fails(5, PROMOTE);
    assert!(refused.contains("it has a leader that a majority follows"), "{refused}");
    let wrong = cluster.fails(2, ["volume", "promote", "data", "--at", "westeurope", "--confirm", "date"]);
    assert!(wrong.contains("nothing was done"), "{wrong}");
    cluster.fails(2, ["volume", "promote", "data", "--at", "westeurope"]);

    // The others go on without westeurope, and then they are gone.
    until("westeurope has it", || names(&cluster, "westeurope").is_some_and(|names| names.contains("both")));
    cluster.nodes.kill(NodeId(2)).await.unwrap();
    cluster.ok(["--site", "zurich", "mkdir", "/data/old-only"]);
    cluster.ok(["--site", "zurich", "put", large.to_str().unwrap(), "/data/old-only/large"]);
    // One that the surviving side will never have heard of.
    cluster.ok(["volume", "create", "lost", "--home", "zurich", "--replicas", "zurich"]);
    let seed = std::fs::read(&large).unwrap();
    let lost: Vec<u8> = seed.iter().rev().copied().collect();
    let unheard = files.join("unheard");
    std::fs::write(&unheard, &lost).unwrap();
    cluster.ok(["--site", "zurich", "put", unheard.to_str().unwrap(), "/lost/unheard"]);
    cluster.nodes.kill(NodeId(1)).await.unwrap();
    cluster.nodes.kill(NodeId(3)).await.unwrap();
    let mut survivor = start_alone(&cluster, "2");
    let address = cluster.config.node(NodeId(2)).unwrap().grpc.clone();
    until("it serves", || std::net::TcpStream::connect(&address).is_ok());

    let mut without_root = PROMOTE.to_vec();
    without_root.retain(|argument| *argument != "--root");
    let refused = cluster.fails(5, without_root);
    assert!(refused.contains("--root"), "{refused}");
    let promoted = cluster.json(PROMOTE);
    assert_eq!((promoted["already"].as_bool(), promoted["root"].is_object()), (Some(false), true), "{promoted}");
    let again = cluster.json(PROMOTE);
    assert_eq!((again["already"].as_bool(), &again["promotion"]), (Some(true), &promoted["promotion"]), "{again}");
    cluster.ok(["--site", "westeurope", "mkdir", "/data/new-only"]);
    let expected: BTreeSet<String> = ["both", "new-only"].map(str::to_owned).into();
    assert_eq!(names(&cluster, "westeurope").unwrap(), expected);
    let audit = cluster.json(["audit"]).to_string();
    for recorded in ["volume_promoted", "root_promoted", "the others burnt", "volume_created"] {
        assert!(audit.contains(recorded), "{audit}");
    }

    // They come back, hear of it, and follow.
    cluster.nodes.start([1, 3].map(NodeId)).await.unwrap();
    for site in ["zurich", "eastus"] {
        until("it follows the new line", || names(&cluster, site).as_ref() == Some(&expected));
    }
    for node in ["1", "3"] {
        let kept = aside(&cluster, node);
        assert!(kept.contains("old-only/large") && !kept.contains("new-only"), "node {node}: {kept}");
    }
    assert!(!aside(&cluster, "2").contains("old-only"), "it never had them");

    // What is aside is in use; its bytes are there for as long as it is.
    for _ in 0..3 {
        let report = cluster.json(["store", "gc", "--node", "1", "--grace", "0s"]);
        assert_eq!(report["condemned"], 0, "{report}");
    }
    let kept = cluster.json(["volume", "aside", "lost", "--node", "1"])["kept"].to_string();
    assert!(kept.contains("unheard"), "{kept}");
    let exported = files.join("lost");
    cluster.ok(["volume", "aside", "lost", "--node", "1", "--export", exported.to_str().unwrap()]);
    assert!(std::fs::read(exported.join("unheard")).unwrap() == lost);
    cluster.fails(5, ["--timeout", "5s", "ls", "/lost"]);
    // Also after another restart; and the bytes are there.
    cluster.nodes.kill(NodeId(1)).await.unwrap();
    cluster.nodes.start([NodeId(1)]).await.unwrap();
    until("it follows the new line", || names(&cluster, "zurich").as_ref() == Some(&expected));
    cluster.ok(["volume", "aside", "data", "--node", "1", "--export", local.to_str().unwrap()]);
    assert!(std::fs::read(local.join("old-only/large")).unwrap() == bytes);
    assert!(!local.join("new-only").exists());

    give_up(&mut cluster).await;

    // Everything is as before the fire: it survives a site again.
    cluster.ok(["volume", "set", "data", "--survive", "site"]);
    until("all vote", || cluster.json(["volume", "show", "data"])["voters"].as_array().unwrap().len() == 3);
    until("it is placed", || cluster.json(["volume", "show", "data"])["leaving"].as_array().unwrap().is_empty());
    cluster.ok(["volume", "create", "more", "--home", "zurich"]);
    survivor.kill().unwrap();
    survivor.wait().unwrap();
    cluster.ok(["--site", "zurich", "mkdir", "/data/after"]);
    cluster.nodes.stop().await;
}

/// What node 1 keeps aside is given up, by a person who names the volume.
async fn give_up(cluster: &mut Cluster) {
    let forget = |name: &'static str, more: &[&'static str]| {
        let mut args = vec!["volume", "aside", name, "--node", "1", "--forget", "0.0.0.0"];
        args.extend(more);
        args
    };
    let refused = cluster.fails(2, forget("data", &[]));
    assert!(refused.contains("nothing was done"), "{refused}");
    cluster.fails(2, forget("data", &["--confirm", "date"]));
    assert!(aside(cluster, "1").contains("old-only/large"));
    cluster.ok(forget("data", &["--confirm", "data", "--reason", "copied out"]));
    cluster.ok(forget("lost", &["--confirm", "lost"]));
    let again = cluster.fails(5, forget("data", &["--confirm", "data"]));
    assert!(again.contains("nothing aside"), "{again}");
    let nothing = |cluster: &Cluster| {
        let kept = |name| cluster.json(["volume", "aside", name, "--node", "1"])["kept"].to_string();
        assert_eq!((kept("data"), kept("lost")), ("[]".to_owned(), "[]".to_owned()));
    };
    nothing(cluster);
    assert!(aside(cluster, "3").contains("old-only/large"), "another node's is its own");
    let audit = cluster.json(["audit"]).to_string();
    assert!(audit.contains("aside_forgotten") && audit.contains("copied out"), "{audit}");
    cluster.nodes.kill(NodeId(1)).await.unwrap();
    cluster.nodes.start([NodeId(1)]).await.unwrap();
    nothing(cluster);
    // Nothing names the bytes any more.
    until("they are garbage", || {
        cluster.json(["store", "gc", "--node", "1", "--grace", "0s"])["condemned"].as_u64().unwrap() > 0
    });
}

/// At a terminal the name is asked for: `script` gives the command one.
fn typed(cluster: &Cluster, args: &[&str], line: &str) -> std::process::Output {
    use std::io::Write as _;
    let quoted: Vec<String> = [PROGRAM, "--config", cluster.config.path.to_str().unwrap()]
        .iter()
        .chain(args)
        .map(|word| format!("'{word}'"))
        .collect();
    let mut command = Command::new("script");
    command.args(["-qec", &quoted.join(" "), "/dev/null"]).env_remove("CAUSEWAY_CONFIG").env_remove("CAUSEWAY_SITE");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_types_the_name_of_what_is_promoted() {
    let mut cluster = Cluster::start().await;
    let promote = ["volume", "promote", "data", "--at", "westeurope"];
    let wrong = typed(&cluster, &promote, "date");
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong));
    assert!(text(&wrong).contains("The volume's name, to go on") && text(&wrong).contains("nothing was done"));
    // With the right one it goes on to the cluster, which refuses: all is well there.
    let right = typed(&cluster, &promote, "data");
    assert_eq!(right.status.code(), Some(5), "{}", text(&right));
    assert!(text(&right).contains("it has a leader that a majority follows"), "{}", text(&right));
    // A pipe is no person, whatever it says.
    let piped = crate::cluster::feed(&cluster, promote, b"data\n".to_vec()).join().unwrap();
    assert_eq!(piped.status.code(), Some(2), "{}", text(&piped));
    assert!(text(&piped).contains("--confirm NAME"), "{}", text(&piped));
    cluster.nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_majority_that_wakes_up_loses_nothing_that_is_not_listed() {
    let mut cluster = Cluster::start().await;
    cluster.ok(["mkdir", "/data/both"]);
    until("westeurope has it", || names(&cluster, "westeurope").is_some_and(|names| names.contains("both")));
    signal(&cluster, 1, Signal::STOP);
    signal(&cluster, 3, Signal::STOP);
    let promoted = cluster.json(PROMOTE);
    assert_eq!(promoted["already"].as_bool(), Some(false), "{promoted}");
    cluster.ok(["--site", "westeurope", "mkdir", "/data/new-only"]);

    // They wake up believing that they are the majority, and clients are there at once.
    signal(&cluster, 1, Signal::CONT);
    signal(&cluster, 3, Signal::CONT);
    let (mut acknowledged, started) = (Vec::new(), Instant::now());
    let mut number = 0;
    while started.elapsed() < Duration::from_secs(10) {
        let name = format!("w{number:03}");
        let path = format!("/data/{name}");
        let output = cluster.run(["--timeout", "3s", "--site", "zurich", "mkdir", &path]);
        match output.status.code() {
            Some(0) => acknowledged.push(name),
            Some(6 | 7) => {}
            _ => panic!("{}", text(&output)),
        }
        number += 1;
    }
    for site in ["zurich", "eastus", "westeurope"] {
        until("it follows the new line", || names(&cluster, site).is_some_and(|names| names.contains("new-only")));
    }
    cluster.ok(["--site", "zurich", "mkdir", "/data/after"]);
    let listed = names(&cluster, "zurich").unwrap();
    let kept = aside(&cluster, "1") + &aside(&cluster, "3");
    for name in &acknowledged {
        assert!(listed.contains(name) || kept.contains(name), "{name} was acknowledged, is gone and is not listed");
    }
    let epochs: BTreeSet<u64> = ["zurich", "eastus", "westeurope"]
        .iter()
        .map(|site| cluster.json(["--site", site, "volume", "show", "data"])["epoch"].as_u64().unwrap())
        .collect();
    assert_eq!(epochs.len(), 1);
    cluster.nodes.stop().await;
}

/// Each side is promoted while the other is gone, and neither knows of the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_sides_that_were_promoted_one_goes_on_and_the_other_is_aside() {
    let mut cluster = Cluster::start().await;
    cluster.ok(["mkdir", "/data/both"]);
    for site in ["zurich", "westeurope"] {
        until("it is there", || names(&cluster, site).is_some_and(|names| names.contains("both")));
    }
    for node in [1, 2, 3] {
        cluster.nodes.kill(NodeId(node)).await.unwrap();
    }
    let mut sides = Vec::new();
    for (node, site, name) in [("2", "westeurope", "/data/west"), ("1", "zurich", "/data/south")] {
        let side = start_alone(&cluster, node);
        let address = cluster.config.node(NodeId(node.parse().unwrap())).unwrap().grpc.clone();
        until("it serves", || std::net::TcpStream::connect(&address).is_ok());
        let promote = ["volume", "promote", "data", "--at", site, "--root", "--confirm", "data"];
        let promoted = cluster.json(promote);
        assert_eq!(promoted["already"].as_bool(), Some(false), "{promoted}");
        cluster.ok(["--site", site, "mkdir", name]);
        sides.push(side);
        if node == "2" {
            let mut side = sides.pop().unwrap();
            side.kill().unwrap();
            side.wait().unwrap();
        }
    }
    // They meet. The greater line is that of the greater founder, since both began the same epoch but for that.
    cluster.nodes.start([2, 3].map(NodeId)).await.unwrap();
    let expected: BTreeSet<String> = ["both", "west"].map(str::to_owned).into();
    for site in ["westeurope", "zurich", "eastus"] {
        until("it follows the greater line", || names(&cluster, site).as_ref() == Some(&expected));
    }
    assert!(aside(&cluster, "1").contains("south"), "{}", aside(&cluster, "1"));
    assert!(!aside(&cluster, "2").contains("west"), "{}", aside(&cluster, "2"));
    cluster.ok(["--site", "zurich", "mkdir", "/data/after"]);
    cluster.ok(["volume", "set", "data", "--survive", "site"]);
    until("all vote", || cluster.json(["volume", "show", "data"])["voters"].as_array().unwrap().len() == 3);
    for mut side in sides {
        side.kill().unwrap();
        side.wait().unwrap();
    }
    cluster.nodes.stop().await;
}
