//! What the processes do, and tell line by line.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use causeway_base::NodeId;
use causeway_namespace_core::command::{Expect, Op};
use causeway_namespace_core::inode::{Content, ManifestRef};
use causeway_namespace_core::query;
use causeway_namespace_raft::memory_link::MemoryNet;
use causeway_namespace_raft::{Group, Members, Retention};

use super::node::{self, Session, at, attr};

/// Files of a folder.
const FOLDER: u64 = 100;
/// Folders of a batch: with their files not more than a request may have.
const FOLDERS: u64 = 10;
/// Sessions that load at once.
const LOADERS: u64 = 4;
/// Entries of a folder that is listed, and how many such folders there are.
const LISTED: u64 = 1000;
const LISTS: u64 = 20;
/// How long is read for one figure.
const READING: Duration = Duration::from_secs(3);

fn mkdir(path: String) -> Op {
    Op::Mkdir { at: at(path), attr: attr(), parents: false }
}

pub(crate) fn put(path: String, number: u64) -> Op {
    let manifest = ManifestRef { size: 1 << 20, root: node::noise(number, 40), origin: "bench".parse().unwrap() };
    Op::PutFile { at: at(path), attr: attr(), content: Content::Manifest(manifest), expect: Expect::Absent }
}

fn folder(number: u64) -> String {
    format!("folder-{number:06}")
}

fn file(number: u64) -> String {
    format!("{}/file-{number:08}.dat", folder(number / FOLDER))
}

/// The folders from `first` on with their files.
fn batch(first: u64, files: u64) -> Vec<Op> {
    let last = (first + FOLDERS).min(files.div_ceil(FOLDER));
    let one = |number: u64| {
        let files = number * FOLDER..((number + 1) * FOLDER).min(files);
        std::iter::once(mkdir(folder(number))).chain(files.map(|number| put(file(number), number)))
    };
    (first..last).flat_map(one).collect()
}

/// Loads, then writes until it is killed.
pub(crate) async fn load(dir: &Path, files: u64) {
    let (_groups, group) = node::open(dir, NodeId(1), &MemoryNet::default(), Retention::default()).await;
    node::serving(&group).await;
    let next = Arc::new(AtomicU64::new(0));
    let (started, cpu) = (Instant::now(), node::process_cpu());
    let loaders = (0..LOADERS).map(|_| {
        let (group, next) = (Arc::clone(&group), Arc::clone(&next));
        tokio::spawn(async move {
            let mut session = Session::open(&group).await;
            let mut done = Vec::new();
            loop {
                let first = next.fetch_add(FOLDERS, Ordering::Relaxed);
                if first * FOLDER >= files {
                    return done;
                }
                session.batch(batch(first, files)).await;
                done.push(started.elapsed());
            }
        })
    });
    let mut done = Vec::new();
    for loader in loaders.collect::<Vec<_>>() {
        done.extend(loader.await.unwrap());
    }
    done.sort_unstable();
    let seconds = started.elapsed().as_secs_f64();
    let tenth = (done.len() / 10).max(1);
    let part = (files as f64) * (tenth as f64) / (done.len() as f64);
    println!("load, files/s: {}", files as f64 / seconds);
    println!("load, files a CPU second: {}", files as f64 / (node::process_cpu() - cpu));
    println!("of that its first tenth, files/s: {}", part / done[tenth - 1].as_secs_f64());
    let last = done[done.len() - 1] - done[(done.len() - 1).saturating_sub(tenth)];
    println!("of that its last tenth, files/s: {}", part / last.as_secs_f64().max(1e-9));
    println!("memory after the load, MiB: {}", node::memory("VmRSS"));
    println!("most memory of the load, MiB: {}", node::memory("VmHWM"));
    println!("disk after the load, B a file: {}", node::disk(&dir.join("kv")) as f64 / files as f64);
    let mut session = Session::open(&group).await;
    for list in 0..LISTS {
        session.batch(vec![mkdir(format!("list-{list}"))]).await;
        session.batch((0..LISTED).map(|n| put(format!("list-{list}/file-{n:08}.dat"), n)).collect()).await;
    }
    for number in 0.. {
        session.batch(vec![mkdir(format!("more-{number}"))]).await;
        if number == 100 {
            println!("loaded");
        }
    }
}

/// Opens what a killed process left, reads it, and gives it to a new node.
pub(crate) async fn serve(dir: &Path, files: u64) {
    let net = MemoryNet::default();
    // So that the new node cannot be brought up from the log.
    let retention = Retention { log_entries: 8, log_bytes: 1 << 10, ..Retention::default() };
    let (groups, group) = node::open(dir, NodeId(1), &net, retention).await;
    node::serving(&group).await;
    let found = query::stat(&group.view().unwrap(), file(files / 2).as_bytes()).unwrap();
    found.expect("an acknowledged file");
    println!("restart after SIGKILL, CPU s: {}", node::process_cpu());
    println!("serving");
    let totals = query::totals(&group.view().unwrap()).unwrap();
    assert_eq!(totals.files, files + LISTS * LISTED, "files were acknowledged and are not there");
    println!("memory after the restart, MiB: {}", node::memory("VmRSS"));
    stats(&group, files);
    lists(&group);
    install(dir, &net, &group).await;
    println!("disk at rest, B a file: {}", node::disk(&dir.join("kv")) as f64 / files as f64);
    groups.shutdown().await;
    println!("done");
}

/// Lookups of paths, one after the other on this thread.
fn stats(group: &Group, files: u64) {
    let any = |state: &mut u64| node::random(state) % files;
    let few = |state: &mut u64| node::random(state) % files.min(1000);
    let rate = |pick: &dyn Fn(&mut u64) -> u64| {
        let (mut state, mut count) = (1, 0_u64);
        let (started, cpu) = (Instant::now(), node::thread_cpu());
        while started.elapsed() < READING {
            for _ in 0..100 {
                let path = file(pick(&mut state));
                query::stat(&group.view().unwrap(), path.as_bytes()).unwrap().unwrap();
            }
            count += 100;
        }
        let seconds = |time: Duration| count as f64 / time.as_secs_f64();
        (seconds(started.elapsed()), seconds(node::thread_cpu() - cpu))
    };
    rate(&few); // brings them into memory
    let (wall, cpu) = rate(&few);
    println!("stats/s, 1,000 files: {wall}");
    println!("stats a CPU second, 1,000 files: {cpu}");
    println!("stats a CPU second, any file: {}", rate(&any).1);
}

fn lists(group: &Group) {
    let times = |plus: bool| {
        let (mut times, mut ran) = (Vec::new(), Vec::new());
        for turn in 0..1000 {
            let (started, cpu) = (Instant::now(), node::thread_cpu());
            let view = group.view().unwrap();
            let dir = query::resolve(&view, format!("list-{}", turn % LISTS).as_bytes()).unwrap().unwrap();
            let found = match plus {
                true => query::readdir_plus(&view, dir, None, LISTED as usize).unwrap().len(),
                false => query::list(&view, dir, None, LISTED as usize).unwrap().len(),
            };
            assert_eq!(found as u64, LISTED);
            times.push(started.elapsed());
            ran.push(node::thread_cpu() - cpu);
        }
        times.sort_unstable();
        ran.sort_unstable();
        (times, ran)
    };
    let (names, plus) = (times(false), times(true));
    println!("list of 1,000, p50 ms: {}", node::percentile(&names.0, 0.5));
    println!("list of 1,000, p99 ms: {}", node::percentile(&names.0, 0.99));
    println!("list of 1,000, p99 CPU ms: {}", node::percentile(&names.1, 0.99));
    println!("with inodes, p99 ms: {}", node::percentile(&plus.0, 0.99));
    println!("with inodes, p99 CPU ms: {}", node::percentile(&plus.1, 0.99));
}

/// A new node gets the whole state.
async fn install(dir: &Path, net: &MemoryNet, group: &Group) {
    // The log is shortened by the upkeep, which looks each second.
    while group.status().purged.0 + 64 < group.applied().0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (second, replica) = node::open(&dir.join("second"), NodeId(2), net, Retention::default()).await;
    let wanted = Members { voters: [NodeId(1)].into(), learners: [NodeId(2)].into() };
    let (started, cpu) = (Instant::now(), node::process_cpu());
    group.drive(&wanted, Duration::from_secs(1), node::DEADLINE).await.unwrap();
    let applied = group.applied();
    let mut watched = replica.watch_applied();
    watched.wait_for(|seq| *seq >= applied).await.unwrap();
    let (seconds, cpu) = (started.elapsed().as_secs_f64(), node::process_cpu() - cpu);
    let (ours, theirs) = (group.view().unwrap(), replica.view().unwrap());
    assert_eq!(ours.digest(), theirs.digest(), "the new node has something else");
    println!("snapshot to a new node, s: {seconds}");
    println!("snapshot to a new node, records/s: {}", ours.meta().records as f64 / seconds);
    println!("the same, records a CPU second: {}", ours.meta().records as f64 / cpu);
    second.shutdown().await;
}
