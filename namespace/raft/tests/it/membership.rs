//! Members that come and go while the group is written to.

use std::time::Duration;

use causeway_base::NodeId;
use causeway_namespace_raft::{Driven, GroupSpec, Groups, Members, ProposeError};
use tokio::time::Instant;

use crate::cluster::{Cluster, DEADLINE, GROUP};

const STEADY: Duration = Duration::from_secs(2);

/// A node of the cluster that runs the group and never begins it.
async fn join(cluster: &mut Cluster, node: NodeId) {
    let groups = Groups::open(cluster.config(node)).await.unwrap();
    cluster.net.attach(&groups);
    groups.start(GROUP, GroupSpec::default()).await.unwrap();
    cluster.nodes.insert(node, groups);
}

/// Drives until nothing is left to do, whoever leads.
async fn drive(cluster: &Cluster, wanted: &Members) {
    let end = Instant::now() + DEADLINE;
    loop {
        let leader = cluster.leader().await;
        match leader.drive(wanted, STEADY, DEADLINE).await {
            Ok(Driven::There) => return,
            Ok(_) | Err(ProposeError::NotLeader { .. } | ProposeError::Unknown | ProposeError::Refused(_)) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(Instant::now() < end, "not there: {:?}", leader.status());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_voter_is_replaced_and_nothing_is_lost() {
    let mut cluster = Cluster::new(3).await;
    let session = cluster.session().await;
    for number in 1..=10 {
        cluster.put(session, number, &format!("before-{number}")).await;
    }
    for node in [4, 5, 6].map(NodeId) {
        join(&mut cluster, node).await;
    }
    let wanted = Members { voters: [4, 5, 6].map(NodeId).into(), learners: [NodeId(1)].into() };
    let (writes, ()) = tokio::join!(
        async {
            for number in 11..=40 {
                cluster.put(session, number, &format!("during-{number}")).await;
            }
            30
        },
        drive(&cluster, &wanted)
    );
    assert_eq!(writes, 30);
    let leader = cluster.leader().await;
    assert!(wanted.voters.contains(&leader.status().leader.unwrap()));
    assert_eq!((leader.status().voters, leader.status().learners), (wanted.voters, wanted.learners));
    // The ones that left are no part of it; the rest, the learner too, has everything.
    for node in [2, 3].map(NodeId) {
        cluster.kill(node).await;
    }
    cluster.put(session, 41, "after").await;
    cluster.converge().await;
    let view = cluster.group(NodeId(1)).view().unwrap();
    assert_eq!(causeway_namespace_core::query::totals(&view).unwrap().files, 41);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_has_not_caught_up_never_votes() {
    let cluster = Cluster::new(3).await;
    let wanted = Members { voters: [1, 2, 9].map(NodeId).into(), learners: [NodeId(3)].into() };
    // Only a leader that has committed something knows that the first members are.
    cluster.session().await;
    let leader = cluster.leader().await;
    assert_eq!(leader.drive(&wanted, STEADY, DEADLINE).await, Ok(Driven::Stepped("new learners")));
    for _ in 0..10 {
        assert_eq!(leader.drive(&wanted, STEADY, DEADLINE).await, Ok(Driven::Waiting(vec![NodeId(9)])));
    }
    assert_eq!(leader.status().voters, [1, 2, 3].map(NodeId).into());
    assert_eq!(leader.status().learners, [NodeId(9)].into());
    cluster.shutdown().await;
}
