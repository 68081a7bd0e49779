//! Cuts, kills and hand-overs in an order given by a seed, under load; then everything heals and nothing acknowledged is gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{Mutex, RwLock};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use causeway_base::{NodeId, Seq};
use causeway_namespace_core::command::{Outcome, SessionId};
use causeway_namespace_core::query;
use causeway_namespace_raft::Group;

use crate::cluster::{Cluster, DEADLINE, create};

/// What was acknowledged: the name, and the seq that it was said to be of.
type Acknowledged = Arc<Mutex<BTreeMap<String, Seq>>>;

async fn any_leader(cluster: &RwLock<Cluster>) -> Option<Arc<Group>> {
    cluster.read().await.groups().find(|group| group.is_leader())
}

/// Writes one file after another; tries each again until it is acknowledged.
async fn client(
    cluster: Arc<RwLock<Cluster>>,
    session: SessionId,
    acknowledged: Acknowledged,
    stop: CancellationToken,
) {
    let mut number = 1;
    while !stop.is_cancelled() {
        let name = format!("{}-{number}", session.0);
        let Some(leader) = any_leader(&cluster).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        match leader.propose(create(session, number, &name), Duration::from_millis(500)).await {
            Ok(proposed) => {
                assert!(matches!(proposed.outcome, Outcome::Done(_)), "{:?}", proposed.outcome);
                acknowledged.lock().await.insert(name, proposed.seq);
                number += 1;
            }
            Err(error) if error.retry_class().may_retry_idempotent() => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

async fn nemesis(cluster: &RwLock<Cluster>, rng: &mut StdRng) {
    let node = NodeId(rng.random_range(1..=3));
    match rng.random_range(0..4) {
        0 => cluster.read().await.net.isolate(node),
        1 => {
            let other = NodeId(node.0 % 3 + 1);
            cluster.read().await.net.cut(node, other);
        }
        2 => {
            let mut cluster = cluster.write().await;
            cluster.kill(node).await;
            cluster.start(node).await;
        }
        _ => {
            if let Some(leader) = any_leader(cluster).await {
                // Not every wish is granted.
                let _ = leader.transfer_leader(node).await;
            }
        }
    }
    tokio::time::sleep(Duration::from_millis(rng.random_range(100..900))).await;
    cluster.read().await.net.heal();
    tokio::time::sleep(Duration::from_millis(rng.random_range(0..400))).await;
}

async fn run(seed: u64) {
    run_on(Cluster::new(3).await, seed).await;
}

async fn run_on(cluster: Cluster, seed: u64) {
    let mut sessions = Vec::new();
    for _ in 0..4 {
        sessions.push(cluster.session().await);
    }
    let cluster = Arc::new(RwLock::new(cluster));
    let (acknowledged, stop) = (Acknowledged::default(), CancellationToken::new());
    let clients: Vec<_> = sessions
        .into_iter()
        .map(|session| tokio::spawn(client(Arc::clone(&cluster), session, Arc::clone(&acknowledged), stop.clone())))
        .collect();
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..4 {
        nemesis(&cluster, &mut rng).await;
    }
    // However slow the machine: enough that there is something to lose.
    let end = Instant::now() + DEADLINE;
    while acknowledged.lock().await.len() <= 10 {
        assert!(Instant::now() < end, "seed {seed}: nothing is acknowledged after the faults");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.cancel();
    for client in clients {
        client.await.unwrap();
    }
    let cluster = cluster.read().await;
    cluster.net.heal();
    cluster.converge().await;
    let acknowledged = acknowledged.lock().await;
    for group in cluster.groups() {
        let view = group.view().unwrap();
        for (name, seq) in &*acknowledged {
            let path = format!("/{name}");
            let found = query::stat(&view, path.as_bytes()).unwrap();
            let (_, inode) = found.unwrap_or_else(|error| panic!("seed {seed}: {name} of {seq}: {error}"));
            // One that was tried again is answered later than it was written.
            assert!(inode.version <= *seq, "seed {seed}: {name}");
        }
    }
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_whatever_fails_1() {
    run(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_whatever_fails_2() {
    run(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_whatever_fails_3() {
    run(3).await;
}

/// It lies down whenever it can, between any two writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_while_the_group_keeps_going_to_rest() {
    run_on(Cluster::resting(Duration::ZERO).await, 4).await;
}
