//! One folder of many entries.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_base::NodeId;
use causeway_namespace_core::command::{Expect, Op};
use causeway_namespace_core::query;
use causeway_namespace_raft::memory_link::MemoryNet;
use causeway_namespace_raft::{Group, Retention};

use super::node::{self, Session, at, attr};
use super::steps::put;

/// Entries of a batch, and of a page.
const BATCH: u64 = 1000;
const LOOKUPS: u64 = 100_000;

pub(crate) fn all(base: &Path, counts: Vec<u64>) {
    println!("{}", node::load_average());
    println!(
        "| entries | create/s | first, last tenth | list/s, pages of 1,000 | page p99 ms | lookup/s | remove/s | first, last tenth |"
    );
    println!("|{}", "---|".repeat(8));
    for count in counts {
        let dir = tempfile::tempdir_in(base).unwrap();
        node::block_on(one(dir.path(), count));
    }
}

async fn one(dir: &Path, count: u64) {
    let (groups, group) = node::open(dir, NodeId(1), &MemoryNet::default(), Retention::default()).await;
    node::serving(&group).await;
    let mut session = Session::open(&group).await;
    session.batch(vec![Op::Mkdir { at: at("folder"), attr: attr(), parents: false }]).await;
    let name = |number: u64| format!("folder/file-{number:08}.dat");
    // In an order that is not that of the names.
    let nth = |n: u64| (n * 7_919) % count;
    assert!(!count.is_multiple_of(7_919), "7,919 steps through all numbers below a count that it does not divide");
    let created = batches(&group, count, |n| put(name(nth(n)), n)).await;
    let (listed, pages) = list(&group, count);
    let started = Instant::now();
    let (mut state, view) = (1, group.view().unwrap());
    for _ in 0..LOOKUPS {
        let path = name(node::random(&mut state) % count);
        query::stat(&view, path.as_bytes()).unwrap().unwrap();
    }
    let looked_up = LOOKUPS as f64 / started.elapsed().as_secs_f64();
    drop(view);
    let removed = batches(&group, count, |n| Op::Unlink { at: at(name(nth(n))), expect: Expect::Any }).await;
    println!(
        "| {count} | {} | {} | {} | {} | {} | {} | {} |",
        node::short(created.0),
        created.1,
        node::short(listed),
        node::short(node::percentile(&pages, 0.99)),
        node::short(looked_up),
        node::short(removed.0),
        removed.1,
    );
    groups.shutdown().await;
}

/// Does one operation for each number, four batches at once; operations a second, and those of the first and the last tenth.
async fn batches(group: &Arc<Group>, count: u64, op: impl Fn(u64) -> Op + Copy) -> (f64, String) {
    let started = Instant::now();
    let mut sessions = Vec::new();
    for _ in 0..4 {
        sessions.push(Session::open(group).await);
    }
    let (mut next, mut done) = (0, Vec::new());
    while next < count {
        let mut under_way = Vec::new();
        for session in &mut sessions {
            let ops: Vec<Op> = (next..(next + BATCH).min(count)).map(op).collect();
            next = (next + BATCH).min(count);
            if !ops.is_empty() {
                under_way.push(session.batch(ops));
            }
        }
        futures::future::join_all(under_way).await;
        done.push((next, started.elapsed().as_secs_f64()));
    }
    let tenth = (done.len() / 10).max(1);
    let (first, before, last) = (done[tenth - 1], done[(done.len() - 1).saturating_sub(tenth)], done[done.len() - 1]);
    let first = first.0 as f64 / first.1;
    let last = (last.0 - before.0) as f64 / (last.1 - before.1).max(1e-9);
    (count as f64 / started.elapsed().as_secs_f64(), format!("{}, {}", node::short(first), node::short(last)))
}

/// All entries in pages: entries a second, and how long each page took, sorted.
fn list(group: &Group, count: u64) -> (f64, Vec<Duration>) {
    let dir = query::resolve(&group.view().unwrap(), b"folder").unwrap().unwrap();
    let (mut after, mut found, mut pages) = (None, 0, Vec::new());
    let all = Instant::now();
    loop {
        let started = Instant::now();
        let page = query::list(&group.view().unwrap(), dir, after.as_deref(), BATCH as usize).unwrap();
        pages.push(started.elapsed());
        let Some(last) = page.last() else { break };
        found += page.len() as u64;
        after = Some(last.name.clone());
    }
    assert_eq!(found, count);
    let seconds = all.elapsed().as_secs_f64();
    pages.sort_unstable();
    (count as f64 / seconds, pages)
}
