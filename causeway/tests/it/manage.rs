//! Snapshots, differences, the feed, quotas, locks and batches as a user runs them.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;

use causeway_base::NodeId;
use serde_json::{Value, json};

use crate::cluster::{Cluster, PROGRAM};

fn local(cluster: &Cluster, name: &str, content: &[u8]) -> String {
    let path = cluster.folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

fn big(seed: u32) -> Vec<u8> {
    (0..60_000_u32).flat_map(|n| (n.wrapping_mul(2_654_435_761) ^ seed).to_le_bytes()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_states_are_read_at_every_site() {
    let mut cluster = Cluster::start().await;
    let (old, new) = (big(1), big(2));
    cluster.ok(["mkdir", "-p", "/data/d/e"]);
    cluster.ok(["put", &local(&cluster, "f", &old), "/data/d/f"]);
    cluster.ok(["put", &local(&cluster, "gone", b"small"), "/data/d/gone"]);
    let made = cluster.json(["snapshot", "create", "data@before"]);
    let seq = made["seq"].as_u64().unwrap();
    assert!(cluster.fails(5, ["snapshot", "create", "data@before"]).contains("exists"));
    cluster.ok(["put", &local(&cluster, "f", &new), "/data/d/f"]);
    cluster.ok(["rm", "/data/d/gone"]);
    cluster.ok(["mv", "/data/d/e", "/data/d/moved"]);
    cluster.ok(["touch", "/data/d/empty"]);

    for site in ["zurich", "westeurope", "eastus"] {
        let at = |args: &[&str]| cluster.ok(["--site", site].iter().chain(args).copied().collect::<Vec<_>>());
        assert_eq!(at(&["ls", "/data/d", "--at", "before"]), b"e/\nf\ngone\n", "{site}");
        assert_eq!(at(&["cat", "/data/d/f", "--at", "before"]), old, "{site}");
        assert_eq!(at(&["cat", "/data/d/gone", "--at", &format!("seq:{seq}")]), b"small", "{site}");
        assert_eq!(at(&["cat", "/data/d/f"]), new, "{site}");
    }
    let stat = cluster.json(["stat", "/data/d/f", "--at", "before"]);
    assert_eq!(stat["seq"], seq);
    let out = cluster.folder.path().join("out");
    cluster.ok(["cp", "-r", "cw:/data/d/", out.to_str().unwrap(), "--at", "before"]);
    assert_eq!(std::fs::read(out.join("f")).unwrap(), old);
    assert!(out.join("gone").exists() && !out.join("empty").exists());

    let diff = cluster.json(["diff", "data", "before"]);
    let told: Vec<(&str, &str)> = diff["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| (change["change"].as_str().unwrap(), change["path"].as_str().unwrap()))
        .collect();
    let expected = [
        ("removed", "/data/d/gone"),
        ("renamed", "/data/d/moved"),
        ("created", "/data/d/empty"),
        ("replaced", "/data/d/f"),
    ];
    assert_eq!(told, expected);
    assert_eq!(diff["changes"][1]["pathBefore"], "/data/d/e");
    let below = cluster.json(["diff", "data", "before", "now", "--prefix", "d/empty"]);
    assert_eq!(below["changes"].as_array().unwrap().len(), 1);
    cluster.fails(2, ["diff", "data", "now", "before"]);

    // Times: a moment ago everything is as it is; before there was anything, nothing is kept.
    assert_eq!(cluster.ok(["cat", "/data/d/f", "--at", "0s"]), new);
    cluster.fails(2, ["cat", "/data/d/f", "--at", "seq:x"]);
    cluster.fails(4, ["cat", "/data/d/f", "--at", "no-such-snapshot"]);
    let listed = cluster.json(["snapshot", "retention", "data", "--seqs", "5", "--time", "1h"]);
    assert_eq!(listed["retention"], json!({"seqs": 5, "seconds": 3600}));
    assert_eq!(listed["snapshots"][0]["name"], "before");

    // What only the retention kept goes; what the snapshot needs stays, after a restart and on every node.
    cluster.ok(["snapshot", "retention", "data", "--seqs", "1"]);
    let oldest = || cluster.json(["snapshot", "list", "data"])["oldest_seq"].as_u64().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while oldest() <= seq + 1 {
        assert!(std::time::Instant::now() < deadline, "nothing was pruned");
        cluster.ok(["touch", "/data/d/empty"]);
    }
    let told = refused_at_last(&cluster, &["cat", "/data/d/f", "--at", &format!("seq:{}", seq + 1)]);
    assert!(told.contains("not kept"), "{told}");
    assert_eq!(cluster.ok(["cat", "/data/d/f", "--at", "before"]), old);
    let pruned = cluster.json(["diff", "data", "before"]);
    assert_eq!(pruned["changes"].as_array().unwrap().len(), 4, "{pruned}");
    cluster.ok(["snapshot", "delete", "data@before"]);
    cluster.fails(4, ["cat", "/data/d/f", "--at", "before"]);
    cluster.nodes.stop().await;
}

/// Runs a command until it is refused: each node gives up old states for itself, and one that has them is asked in the end.
fn refused_at_last(cluster: &Cluster, args: &[&str]) -> String {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let output = cluster.run(args);
        if output.status.code() == Some(5) {
            return String::from_utf8_lossy(&output.stderr).into_owned();
        }
        assert!(output.status.success() && std::time::Instant::now() < deadline, "{}", crate::cluster::text(&output));
    }
}

/// The events on the standard output of a feed.
fn events(output: &[u8]) -> Vec<Value> {
    String::from_utf8_lossy(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ids(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["id"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_has_no_gap_and_no_repeat() {
    let mut cluster = Cluster::start().await;
    let cursor: PathBuf = cluster.folder.path().join("cursor");
    let cursor = cursor.to_str().unwrap();
    let feed = |cluster: &Cluster, args: &[&str]| {
        events(&cluster.ok(["feed", "data"].iter().chain(args).copied().collect::<Vec<_>>()))
    };
    assert!(feed(&cluster, &["--cursor", cursor]).is_empty());
    cluster.ok(["mkdir", "-p", "/data/a/b"]);
    cluster.ok(["touch", "/data/a/b/f"]);
    cluster.ok(["chmod", "0600", "/data/a/b/f"]);
    let first = feed(&cluster, &["--cursor", cursor]);
    let kinds: Vec<&str> = first.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["causeway.created", "causeway.created", "causeway.created", "causeway.attributes"]);
    assert_eq!(first[3]["subject"], "/data/a/b/f");
    assert_eq!(first[0]["specversion"], "1.0");

    // The leader goes; whoever leads then goes on, and so does the feed, at whatever node.
    cluster.nodes.kill(NodeId(1)).await.unwrap();
    cluster.ok(["mv", "/data/a/b/f", "/data/a/g"]);
    cluster.ok(["rm", "/data/a/g"]);
    let second = feed(&cluster, &["--cursor", cursor, "--prefix", "a"]);
    cluster.nodes.start([NodeId(1)]).await.unwrap();
    cluster.ok(["ln", "-s", "x", "/data/s"]);
    let third = feed(&cluster, &["--cursor", cursor]);
    assert_eq!(second[0]["data"]["pathBefore"], "/data/a/b/f");
    let pieces: Vec<&str> = [&first, &second, &third].iter().flat_map(|part| ids(part)).collect();
    for site in ["zurich", "westeurope", "eastus"] {
        let whole = events(&cluster.ok(["--site", site, "feed", "data", "--from", "oldest"]));
        let whole = ids(&whole);
        assert!(whole.ends_with(&pieces), "{site}: {whole:?} {pieces:?}");
    }

    // Whoever falls off is told.
    cluster.ok(["snapshot", "retention", "data", "--seqs", "1"]);
    let oldest = || cluster.json(["snapshot", "list", "data"])["oldest_seq"].as_u64().unwrap();
    let before = oldest();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while oldest() <= before + 1 {
        assert!(std::time::Instant::now() < deadline, "nothing was pruned");
        cluster.ok(["touch", "/data/t"]);
    }
    let told = refused_at_last(&cluster, &["feed", "data", "--from", "1"]);
    assert!(told.contains("fell off"), "{told}");
    cluster.nodes.stop().await;
}

/// A web server that answers the first requests with errors; the bodies that it took.
fn hook(failures: usize, requests: usize) -> (String, std::thread::JoinHandle<Vec<Value>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let serve = move || {
        let mut taken = Vec::new();
        let mut seen = 0;
        while taken.len() < requests {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = Vec::new();
            let body = loop {
                let mut part = [0; 4096];
                let read = stream.read(&mut part).unwrap();
                bytes.extend_from_slice(&part[..read]);
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length = head
                    .lines()
                    .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok());
                if body.len() >= length.unwrap() {
                    assert!(head.contains("application/cloudevents-batch+json"), "{head}");
                    break body.to_owned();
                }
            };
            seen += 1;
            let status = if seen <= failures { "503 Busy" } else { "204 No Content" };
            if seen > failures {
                taken.push(serde_json::from_str(&body).unwrap());
            }
            write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
        }
        taken
    };
    (url, std::thread::spawn(serve))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_gets_every_event_though_it_fails_at_first() {
    let mut cluster = Cluster::start().await;
    let cursor = cluster.folder.path().join("cursor");
    let cursor = cursor.to_str().unwrap();
    cluster.ok(["feed", "data", "--cursor", cursor]);
    cluster.ok(["mkdir", "/data/one"]);
    // Nobody listens: nothing is lost, and the next run goes on.
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    cluster.fails(6, ["feed", "data", "--cursor", cursor, "--post", &format!("http://{dead}/"), "--give-up", "1s"]);
    let (url, server) = hook(2, 1);
    cluster.ok(["feed", "data", "--cursor", cursor, "--post", &url]);
    let taken = server.join().unwrap();
    assert_eq!(taken[0][0]["subject"], "/data/one");
    assert_eq!(taken[0].as_array().unwrap().len(), 1);
    cluster.fails(2, ["feed", "data", "--post", "ftp://x/"]);
    cluster.nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_locks_and_batches() {
    let mut cluster = Cluster::start().await;
    let batch = |lines: &[Value]| {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        local(&cluster, "batch", text.as_bytes())
    };
    // Quotas: the one that stands against it is named.
    cluster.ok(["mkdir", "/data/team"]);
    cluster.ok(["quota", "set", "/data/team", "--files", "1"]);
    cluster.ok(["touch", "/data/team/f"]);
    assert!(cluster.fails(5, ["touch", "/data/team/g"]).contains("quota of a directory above it"));
    cluster.ok(["quota", "set", "--user", "data:4242", "--bytes", "10B"]);
    cluster.ok(["touch", "/data/owned"]);
    cluster.ok(["chown", "4242", "/data/owned"]);
    let put = batch(&[
        json!({"op": "put", "path": "/data/big", "text": "more than ten bytes"}),
        json!({"op": "setattr", "path": "/data/big", "uid": 4242}),
    ]);
    assert!(cluster.fails(5, ["batch", &put]).contains("quota of its owner"));
    cluster.ok(["quota", "set", "/data", "--files", "3"]);
    assert!(cluster.fails(5, ["touch", "/data/h"]).contains("quota of the volume"));
    let shown = cluster.json(["quota", "show", "data"]);
    let row = |on: &str| shown["quotas"].as_array().unwrap().iter().find(|row| row["on"] == on).unwrap().clone();
    assert_eq!((row("/data/team")["files"].clone(), row("/data/team")["files_max"].clone()), (json!(1), json!(1)));
    assert_eq!(row("user 4242")["files"], 1);
    cluster.ok(["quota", "clear", "/data"]);
    cluster.ok(["quota", "clear", "--user", "data:4242"]);

    // Locks: holders are seen, others wait or are refused, tokens fence.
    let token = cluster.json(["lock", "acquire", "/data/owned", "--lease", "1h", "--holder", "first"])["token"]
        .as_u64()
        .unwrap();
    assert!(cluster.fails(5, ["lock", "acquire", "/data/owned", "--shared"]).contains("locked by another"));
    let locks = cluster.json(["--site", "eastus", "lock", "list", "data"]);
    assert_eq!((locks[0]["holder"].clone(), locks[0]["token"].clone()), (json!("first"), json!(token)));
    assert_eq!(locks[0]["path"], "/data/owned");
    let guarded = batch(&[
        json!({"op": "check", "path": "/data/owned", "expect": {"token": token}}),
        json!({"op": "put", "path": "/data/guarded", "text": "x"}),
    ]);
    cluster.ok(["batch", &guarded]);
    cluster.ok(["lock", "release", "/data/owned", &token.to_string()]);
    assert!(cluster.fails(5, ["batch", &guarded]).contains("not held any more"));
    let ran = cluster.ok(["lock", "acquire", "/data/owned", "--lease", "2s", "--run", PROGRAM, "--version"]);
    assert!(String::from_utf8_lossy(&ran).contains("causeway"));
    assert_eq!(cluster.json(["lock", "list", "data"]), json!([]));
    assert_eq!(cluster.run(["lock", "acquire", "/data/owned", "--run", "false"]).status.code(), Some(1));

    // Batches: all or none, once for an id, whatever node.
    let made = batch(&[
        json!({"op": "mkdir", "path": "/data/once"}),
        json!({"op": "put", "path": "/data/once/f", "text": "1", "expect": "absent"}),
    ]);
    let first = cluster.json(["batch", &made, "--request-id", "job-1"]);
    let again = cluster.json(["--site", "eastus", "batch", &made, "--request-id", "job-1"]);
    assert_eq!(first["operations"], again["operations"]);
    assert!(cluster.fails(5, ["batch", &made]).contains("exists"));
    let other = batch(&[json!({"op": "mkdir", "path": "/data/other"})]);
    assert!(cluster.fails(5, ["batch", &other, "--request-id", "job-1"]).contains("another batch"));
    let half = batch(&[json!({"op": "mkdir", "path": "/data/half"}), json!({"op": "unlink", "path": "/data/none"})]);
    cluster.fails(4, ["batch", &half]);
    cluster.fails(4, ["stat", "/data/half"]);
    cluster.fails(2, ["batch", &local(&cluster, "bad", b"{\"op\":\"fly\"}")]);
    cluster.nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attributes_and_reading_ones_own_writes() {
    let mut cluster = Cluster::start().await;
    let token = cluster.folder.path().join("session");
    let token = token.to_str().unwrap();
    // Written through one site, read at once at another from what that has, never older.
    for round in 0..10 {
        let name = format!("/data/own-{round}");
        cluster.ok(["--session", token, "--site", "zurich", "touch", &name]);
        cluster.ok(["--session", token, "--site", "eastus", "stat", &name, "--local"]);
    }
    let read = cluster.json(["--site", "eastus", "ls", "/data", "--max-age", "1m"]);
    assert!(read["seq"].as_u64().is_some() && read["age_millis"].as_u64().unwrap() < 60_000, "{read}");
    std::fs::write(token, "not json").unwrap();
    cluster.fails(2, ["--session", token, "ls", "/data"]);

    cluster.ok(["xattr", "set", "/data/own-0", "user.k", "v\\xff"]);
    assert_eq!(cluster.ok(["xattr", "get", "/data/own-0", "user.k"]), b"v\xff");
    assert_eq!(cluster.ok(["xattr", "list", "/data/own-0"]), b"user.k=v\\xff\n");
    cluster.ok(["xattr", "rm", "/data/own-0", "user.k"]);
    cluster.fails(4, ["xattr", "get", "/data/own-0", "user.k"]);
    cluster.ok(["chmod", "0640", "/data/own-0"]);
    cluster.ok(["chown", "7:8", "/data/own-0"]);
    cluster.ok(["touch", "/data/own-0", "--time", "2020-01-02T03:04:05Z"]);
    cluster.ok(["ln", "/data/own-0", "/data/second"]);
    let stat = cluster.json(["stat", "/data/second"]);
    assert_eq!((stat["uid"].clone(), stat["gid"].clone(), stat["nlink"].clone()), (json!(7), json!(8), json!(2)));
    assert_eq!((stat["mode"].clone(), stat["mtime"].clone()), (json!("-rw-r-----"), json!("2020-01-02T03:04:05Z")));
    cluster.ok(["ln", "-s", "own-0", "/data/sym"]);
    assert_eq!(cluster.json(["stat", "/data/sym"])["target"], "own-0");
    // Names of any bytes, and of 255.
    let odd = "/data/\\xff\\x0a";
    cluster.ok(["touch", odd]);
    cluster.ok(["touch", &format!("/data/{}", "n".repeat(255))]);
    cluster.fails(5, ["touch", &format!("/data/{}", "n".repeat(256))]);
    cluster.ok(["rm", odd]);
    cluster.fails(2, ["chmod", "9", "/data/sym"]);
    cluster.nodes.stop().await;
}
