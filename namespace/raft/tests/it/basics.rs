use std::sync::Arc;
use std::time::Duration;

use causeway_base::{NodeId, Seq, VolumeId};
use causeway_namespace_core::query;
use causeway_namespace_raft::{
    GroupState, HandleError, PeerRequest, ProposeError, ReadIndexError, Retention, STATE_SPACES,
};
use causeway_storage::kv::{Kv, MemoryKv};

use crate::cluster::{Cluster, DEADLINE, GROUP, create, create_with, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_commit_and_agree() {
    let cluster = Cluster::new(3).await;
    let session = cluster.session().await;
    let mut seqs = Vec::new();
    for number in 1..=20 {
        seqs.push(cluster.put(session, number, &format!("file-{number}")).await.seq);
    }
    assert!(seqs.is_sorted());
    let seq = cluster.converge().await;
    assert!(seq >= *seqs.last().unwrap());
    for group in cluster.groups() {
        let view = group.view().unwrap();
        assert_eq!(query::totals(&view).unwrap().files, 20);
        // The past is there too, on every replica.
        let earlier = group.view_at(seqs[9]).unwrap();
        assert_eq!(query::totals(&earlier).unwrap().files, 10);
        let changed: Vec<_> = group.changes(seqs[9], seqs[11]).unwrap().map(|changed| changed.unwrap().seq).collect();
        assert_eq!(changed, seqs[10..=11]);
        assert_eq!(group.state(), GroupState::Running);
        assert_eq!(group.status().voters.len(), 3);
    }
    let follower = cluster.groups().find(|group| !group.is_leader()).unwrap();
    let refused = follower.propose(create(session, 21, "x"), DEADLINE).await.unwrap_err();
    assert!(matches!(refused, ProposeError::NotLeader { leader: Some(_) }), "{refused:?}");
    assert!(matches!(follower.read_index(DEADLINE).await, Err(ReadIndexError::NotLeader { .. })));
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_proposals_share_entries_and_each_gets_its_answer() {
    let cluster = Arc::new(Cluster::new(3).await);
    let mut sessions = Vec::new();
    for _ in 0..50 {
        sessions.push(cluster.session().await);
    }
    let leader = cluster.leader().await;
    let before = leader.status().last_log;
    let tasks: Vec<_> = sessions
        .into_iter()
        .enumerate()
        .map(|(client, session)| {
            let cluster = Arc::clone(&cluster);
            tokio::spawn(async move {
                for number in 1..=10 {
                    cluster.put(session, number, &format!("{client}-{number}")).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let entries = leader.status().last_log.0 - before.0;
    assert!(entries < 400, "{entries} entries for 500 requests");
    cluster.converge().await;
    assert_eq!(query::totals(&leader.view().unwrap()).unwrap().files, 500);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_killed_and_comes_back() {
    let mut cluster = Cluster::new(3).await;
    let leader = cluster.leader().await;
    let session = cluster.session().await;
    cluster.put(session, 1, "before").await;
    let (old, term) = (cluster.ids().find(|id| cluster.group(*id).is_leader()).unwrap(), leader.status().term);
    drop(leader);
    cluster.kill(old).await;
    let leader = cluster.leader().await;
    assert!(leader.status().term > term);
    cluster.put(session, 2, "after").await;
    cluster.start(old).await;
    cluster.converge().await;
    assert_eq!(query::totals(&cluster.group(old).view().unwrap()).unwrap().files, 2);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_restart_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::new(3).await;
    let leader = cluster.leader().await;
    let session = cluster.session().await;
    for number in 1..=30 {
        cluster.put(session, number, &format!("file-{number}")).await;
    }
    drop(leader);
    for node in cluster.ids() {
        cluster.kill(node).await;
    }
    for node in cluster.ids() {
        cluster.start(node).await;
    }
    cluster.converge().await;
    for group in cluster.groups() {
        assert_eq!(query::totals(&group.view().unwrap()).unwrap().files, 30);
    }
    cluster.put(session, 31, "more").await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_off_leader_neither_commits_nor_serves_a_read() {
    let cluster = Cluster::new(3).await;
    let leader = cluster.leader().await;
    let session = cluster.session().await;
    cluster.put(session, 1, "before").await;
    let old = cluster.ids().find(|id| cluster.group(*id).is_leader()).unwrap();
    cluster.net.isolate(old);
    let short = Duration::from_millis(300);
    let lost = leader.propose(create(session, 2, "lost"), short).await.unwrap_err();
    assert_eq!(lost, ProposeError::Unknown);
    assert!(leader.read_index(short).await.is_err());
    // The others go on.
    let others: Vec<NodeId> = cluster.ids().filter(|id| *id != old).collect();
    until("another leads", || others.iter().any(|id| cluster.group(*id).is_leader())).await;
    let new = cluster.leader().await;
    assert_ne!(new.status().leader, Some(old));
    cluster.put(session, 3, "kept").await;
    let term = new.status().term;
    cluster.net.heal();
    cluster.converge().await;
    let names: Vec<_> = query::list(&cluster.group(old).view().unwrap(), causeway_base::Ino::ROOT, None, 10)
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect();
    assert!(names.contains(&"kept".into()) && !names.contains(&"lost".into()), "{names:?}");
    // Pre-vote: who was away did not raise the term.
    assert_eq!(new.status().term, term);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_fell_behind_gets_a_snapshot() {
    let retention = Retention { log_entries: 20, log_bytes: 1 << 20, seqs: 1000 };
    let mut cluster = Cluster::with(3, None, retention).await;
    let leader = cluster.leader().await;
    let session = cluster.session().await;
    cluster.put(session, 1, "before").await;
    cluster.converge().await;
    let away = cluster.ids().find(|id| !cluster.group(*id).is_leader()).unwrap();
    let had = cluster.group(away).applied();
    cluster.kill(away).await;
    for number in 2..=150 {
        let name = format!("file-{}", number % 100);
        leader.propose(create_with(session, number, &name, 4000), DEADLINE).await.unwrap();
    }
    until("the log is purged", || leader.status().purged > Seq(had.0 + 5)).await;
    cluster.start(away).await;
    let seq = cluster.converge().await;
    let group = cluster.group(away);
    let meta = group.view().unwrap().meta().clone();
    assert!(meta.oldest > had, "it came by snapshot: {meta:?}");
    assert!(group.view_at(had).is_err());
    assert_eq!(group.view_at(seq).unwrap().seq(), seq);
    // It goes on from there, also after a restart.
    cluster.put(session, 151, "last").await;
    cluster.converge().await;
    drop(group);
    cluster.kill(away).await;
    cluster.start(away).await;
    cluster.converge().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_goes_home_and_can_be_handed_over() {
    let home = NodeId(2);
    let mut cluster = Cluster::with(3, Some(home), Retention::default()).await;
    until("home leads", || cluster.group(home).is_leader()).await;
    let session = cluster.session().await;
    cluster.kill(home).await;
    cluster.put(session, 1, "away").await;
    cluster.start(home).await;
    until("home leads again", || cluster.group(home).is_leader()).await;
    cluster.put(session, 2, "home").await;
    cluster.group(home).transfer_leader(NodeId(1)).await.unwrap();
    until("the other leads", || cluster.group(NodeId(1)).is_leader()).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_is_a_cluster() {
    let mut cluster = Cluster::new(1).await;
    let session = cluster.session().await;
    cluster.put(session, 1, "a").await;
    cluster.kill(NodeId(1)).await;
    cluster.start(NodeId(1)).await;
    cluster.put(session, 2, "b").await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_lost_in_a_power_cut_comes_back_from_the_log() {
    let mut cluster = Cluster::stopped(1);
    let kv = Arc::new(MemoryKv::new(STATE_SPACES));
    cluster.start_on(cluster.config_on(NodeId(1), Arc::clone(&kv) as Arc<dyn Kv>)).await;
    let session = cluster.session().await;
    for number in 1..=20 {
        cluster.put(session, number, &format!("file-{number}")).await;
    }
    let digest = cluster.group(NodeId(1)).status().digest;
    let left = kv.after_power_cut();
    drop(kv);
    cluster.kill(NodeId(1)).await;
    cluster.start_on(cluster.config_on(NodeId(1), Arc::new(left))).await;
    cluster.converge().await;
    assert_eq!(cluster.group(NodeId(1)).status().digest, digest);
    cluster.put(session, 21, "more").await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_cannot_speak_for_another_nor_of_what_is_not_here() {
    let cluster = Cluster::new(3).await;
    cluster.put(cluster.session().await, 1, "a").await;
    let groups = &cluster.nodes[&NodeId(1)];
    let request = |group, kind, payload: &'static [u8]| PeerRequest {
        group,
        lineage: Default::default(),
        kind,
        payload: payload.into(),
    };
    // A vote request of node 9, in postcard: vote (term 200, node 9, not committed), no log, no transfer.
    let vote = request(GROUP, 2, &[1, 200, 1, 9, 0, 0, 0]);
    let answer = groups.handle(NodeId(2), vote.clone()).await;
    assert!(matches!(answer, Err(HandleError::Impostor { .. })), "{answer:?}");
    assert!(groups.handle(NodeId(9), vote).await.is_ok());
    let unknown = groups.handle(NodeId(2), request(VolumeId(99), 2, &[])).await;
    assert_eq!(unknown, Err(HandleError::UnknownGroup(VolumeId(99))));
    assert_eq!(groups.handle(NodeId(2), request(GROUP, 77, &[])).await, Err(HandleError::UnknownKind(77)));
    for kind in [1, 2, 3, 4] {
        let noise = groups.handle(NodeId(2), request(GROUP, kind, &[1, 255, 255, 255, 255])).await;
        assert!(matches!(noise, Err(HandleError::Bad(_))), "{kind}: {noise:?}");
    }
    cluster.converge().await;
    cluster.shutdown().await;
}
