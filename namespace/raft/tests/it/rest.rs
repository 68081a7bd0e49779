//! Groups at rest.

use std::time::{Duration, Instant};

use causeway_base::NodeId;
use causeway_namespace_raft::ProposeError;

use crate::cluster::{Cluster, DEADLINE, until};

const SOON: Duration = Duration::from_millis(300);

async fn all_rest(cluster: &Cluster) {
    until("the group rests everywhere", || cluster.groups().all(|group| group.is_at_rest())).await;
}

fn terms(cluster: &Cluster) -> Vec<u64> {
    cluster.groups().map(|group| group.status().term).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_wakes_a_group_and_changes_no_leader() {
    let cluster = Cluster::resting(SOON).await;
    let session = cluster.session().await;
    let leader = cluster.leader().await;
    all_rest(&cluster).await;
    let before = terms(&cluster);
    // A proposal is taken at the first try, though the leader's lease ended long ago.
    let proposed = leader.propose(crate::cluster::create(session, 1, "a"), DEADLINE).await.unwrap();
    assert!(!leader.is_at_rest());
    for group in cluster.groups() {
        group.wait_applied(proposed.seq, DEADLINE).await.unwrap();
    }
    all_rest(&cluster).await;
    // So does a read, and many at once.
    let reads = (0..32).map(|_| leader.read_index(DEADLINE));
    for seq in futures::future::join_all(reads).await {
        assert!(seq.unwrap() >= proposed.seq);
    }
    all_rest(&cluster).await;
    let many = (2..34).map(|number| leader.propose(crate::cluster::create(session, number, "b"), DEADLINE));
    let taken = futures::future::join_all(many).await;
    assert!(taken.iter().all(Result::is_ok), "{taken:?}");
    cluster.converge().await;
    assert_eq!(terms(&cluster), before);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resting_group_notices_that_its_leader_is_gone() {
    let mut cluster = Cluster::resting(SOON).await;
    let session = cluster.session().await;
    cluster.put(session, 1, "a").await;
    all_rest(&cluster).await;
    let old = cluster.groups().position(|group| group.is_leader()).unwrap() as u64 + 1;
    cluster.kill(NodeId(old)).await;
    // Nobody asks anything: the others find out by themselves.
    until("another leads", || cluster.groups().any(|group| group.is_leader())).await;
    cluster.put(session, 2, "b").await;
    // Two of three rest too; the third wakes them when it comes back, and gets what it missed.
    all_rest(&cluster).await;
    cluster.start(NodeId(old)).await;
    until("it has caught up", || cluster.groups().all(|group| group.applied() == cluster.group(NodeId(old)).applied()))
        .await;
    cluster.converge().await;
    all_rest(&cluster).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_starts_anew_does_not_take_over_from_a_leader_at_rest() {
    let mut cluster = Cluster::resting(SOON).await;
    let session = cluster.session().await;
    cluster.put(session, 1, "a").await;
    all_rest(&cluster).await;
    let leader = cluster.groups().find(|group| group.is_leader()).unwrap();
    let (term, follower) =
        (leader.status().term, cluster.ids().find(|node| !cluster.group(*node).is_leader()).unwrap());
    cluster.kill(follower).await;
    cluster.start(follower).await;
    all_rest(&cluster).await;
    assert!(leader.is_leader());
    assert_eq!(leader.status().term, term);
    drop(leader);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_at_rest_serves_no_reads() {
    let cluster = Cluster::resting(SOON).await;
    let session = cluster.session().await;
    cluster.put(session, 1, "a").await;
    all_rest(&cluster).await;
    let old = cluster.ids().find(|node| cluster.group(*node).is_leader()).unwrap();
    cluster.net.isolate(old);
    // Nor does it take what nobody waits for any more: it cannot wake in time, and nothing has happened.
    let cut_off = cluster.group(old);
    let taken = (2..6)
        .map(|number| cut_off.propose(crate::cluster::create(session, number, "late"), Duration::from_millis(100)));
    for taken in futures::future::join_all(taken).await {
        assert!(matches!(taken, Err(ProposeError::NotLeader { leader: None })), "{taken:?}");
    }
    drop(cut_off);
    until("another leads", || {
        cluster.groups().any(|group| {
            group.is_leader() && group.id() == crate::cluster::GROUP && !std::ptr::eq(&*group, &*cluster.group(old))
        })
    })
    .await;
    cluster.put(session, 2, "b").await;
    assert!(cluster.group(old).read_index(Duration::from_secs(1)).await.is_err());
    cluster.net.heal();
    cluster.converge().await;
    all_rest(&cluster).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_rests_while_its_home_is_away_and_goes_home_when_it_is_back() {
    let home = NodeId(1);
    let mut cluster = Cluster::resting_at(SOON, home).await;
    let session = cluster.session().await;
    until("home leads", || cluster.group(home).is_leader()).await;
    cluster.put(session, 1, "a").await;
    all_rest(&cluster).await;
    // It stops, and starts again.
    cluster.kill(home).await;
    until("another leads", || cluster.groups().any(|group| group.is_leader())).await;
    cluster.put(session, 2, "b").await;
    // Without it they rest on: longer than the rounds in which leaders are told to go home.
    let mut awake = Instant::now();
    until("the others rest for long", || {
        if !cluster.groups().all(|group| group.is_at_rest()) {
            awake = Instant::now();
        }
        awake.elapsed() > Duration::from_millis(2500)
    })
    .await;
    cluster.start(home).await;
    until("home leads again", || cluster.group(home).is_leader()).await;
    all_rest(&cluster).await;
    // It is cut off while it leads at rest: it hears nothing of the leader after it.
    let term = cluster.group(home).status().term;
    cluster.net.isolate(home);
    let others = || cluster.ids().filter(|node| *node != home).map(|node| cluster.group(node));
    until("another leads", || others().any(|group| group.is_leader() && group.status().term > term)).await;
    until("the others rest", || others().all(|group| group.is_at_rest())).await;
    cluster.net.heal();
    until("home leads again", || cluster.group(home).leads().is_some_and(|led| led > term)).await;
    cluster.converge().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_starts_anew_wakes_nobody_if_nothing_has_happened() {
    let mut cluster = Cluster::resting(SOON).await;
    let session = cluster.session().await;
    cluster.put(session, 1, "a").await;
    all_rest(&cluster).await;
    let follower = cluster.ids().find(|node| !cluster.group(*node).is_leader()).unwrap();
    let others: Vec<_> = cluster.ids().filter(|node| *node != follower).map(|node| cluster.group(node)).collect();
    cluster.kill(follower).await;
    cluster.start(follower).await;
    // It rests from its first moment on, until it was asked about; a leader that did not vouch for it would have woken.
    let asked = cluster.nodes[&follower].clone();
    until("it was asked about", || asked.has_rejoined()).await;
    assert!(cluster.group(follower).is_at_rest() && others.iter().all(|group| group.is_at_rest()));
    drop((asked, others));
    // It is a member as before: what is written next reaches it.
    cluster.put(session, 2, "b").await;
    cluster.converge().await;
    cluster.shutdown().await;
}
