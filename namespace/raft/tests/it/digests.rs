//! What nodes ask each other about their replicas, and what they do not answer.

use bytes::Bytes;
use futures::StreamExt;

use causeway_base::{NodeId, Seq, VolumeId};
use causeway_namespace_core::descent::Found;
use causeway_namespace_raft::digests::{Compared, DigestAsk, RepairError};
use causeway_namespace_raft::{HandleError, PeerRequest};

use crate::cluster::{Cluster, DEADLINE, GROUP};

const DIGESTS: u8 = 8;
const SUMS: u8 = 9;
const KEYS: u8 = 10;
const STATE: u8 = 18;

async fn filled(size: u64) -> Cluster {
    let cluster = Cluster::new(size).await;
    let session = cluster.session().await;
    for number in 1..=30 {
        cluster.put(session, number, &format!("file-{number}")).await;
    }
    cluster.converge().await;
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_replicas_say_so_and_are_compared_to_the_last_key() {
    let cluster = filled(3).await;
    let (one, other) = (&cluster.nodes[&NodeId(1)], NodeId(2));
    let group = cluster.group(NodeId(1));
    let marks = group.digest_marks();
    let ask_of = |group, marks| DigestAsk { group, lineage: Default::default(), marks };
    let ask = [ask_of(GROUP, marks), ask_of(VolumeId(99), vec![])];
    let answers = one.ask_digests(other, &ask, DEADLINE).await.unwrap();
    assert!(matches!(answers[0].compared, Compared::Equal { .. }) && !answers[0].diverged, "{answers:?}");
    assert_eq!(answers[1].compared, Compared::NotHere);
    let view = group.view().unwrap();
    let found = one.differing_records(other, &group, view, 10, DEADLINE, Default::default()).await.unwrap();
    assert_eq!(found, Found { complete: true, ..Found::default() });
    assert!(one.take_contested().is_empty());
    drop(group);
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_is_fetched_and_taken_over_and_the_log_goes_on() {
    let mut cluster = filled(3).await;
    let follower = cluster.ids().find(|id| !cluster.group(*id).is_leader()).unwrap();
    let source = cluster.leader().await.status().leader.unwrap();
    let groups = cluster.nodes[&follower].clone();
    let file = groups.fetch_state(source, GROUP).await.unwrap();
    let at = Seq(file.header.applied.index);
    // What is committed meanwhile is in the log only.
    let session = cluster.session().await;
    let mut last = Seq::ZERO;
    for number in 1..=20 {
        last = cluster.put(session, number, &format!("later-{number}")).await.seq;
    }
    groups.get(GROUP).unwrap().wait_applied(last, DEADLINE).await.unwrap();
    let vote = groups.get(GROUP).unwrap().status().term;
    assert_eq!(groups.replace_state(GROUP, file).await.unwrap(), at);
    assert!(groups.get(GROUP).is_none());
    let group = groups.start(GROUP, cluster.spec()).await.unwrap();
    group.wait_applied(last, DEADLINE).await.unwrap();
    assert!(group.status().term >= vote && group.view_at(last).is_ok());
    cluster.put(session, 21, "after").await;
    cluster.converge().await;

    let missing = groups.fetch_state(NodeId(77), GROUP).await;
    assert!(matches!(missing, Err(RepairError::Link { .. })), "{missing:?}");
    // The log and the new state also fit after a restart.
    drop(group);
    drop(groups);
    cluster.kill(follower).await;
    cluster.start(follower).await;
    cluster.converge().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_much_or_from_nobody_is_refused() {
    let cluster = filled(1).await;
    let groups = &cluster.nodes[&NodeId(1)];
    let ask = |from: u64, kind, payload: Vec<u8>| {
        groups.handle(
            NodeId(from),
            PeerRequest { group: GROUP, lineage: Default::default(), kind, payload: Bytes::from(payload) },
        )
    };
    for kind in [DIGESTS, SUMS, KEYS] {
        for payload in [vec![], vec![1], vec![9, 9], vec![1; 100], vec![0xff; 64], vec![1; (1 << 20) + 1]] {
            let len = payload.len();
            let answer = ask(1, kind, payload).await;
            assert!(matches!(answer, Err(HandleError::Bad(_))), "kind {kind}, {len} bytes: {answer:?}");
        }
    }
    // A list that claims to be endless.
    let endless = [&[1][..], &[0xff; 9], &[1]].concat();
    assert!(matches!(ask(1, DIGESTS, endless).await, Err(HandleError::Bad(_))));
    // 1,025 groups without a seq.
    let many = [&[1, 0x81, 0x08][..], &[7, 0, 0, 0, 0, 0].repeat(1025)].concat();
    assert!(matches!(ask(1, DIGESTS, many).await, Err(HandleError::Bad(_))));
    // A range of keys: who is no member learns nothing.
    let range = |seq: u8| vec![1, seq, 0, 2, 0xff, 0xff];
    let stranger = ask(2, KEYS, range(10)).await.unwrap();
    assert_eq!(stranger.as_ref(), [1, 1, 0], "not here");
    assert_eq!(ask(1, KEYS, range(127)).await.unwrap().as_ref(), [1, 1, 1], "not applied yet");
    assert_eq!(ask(1, KEYS, range(10)).await.unwrap()[..2], [1, 0], "a page");
    let request = PeerRequest { group: GROUP, lineage: Default::default(), kind: STATE, payload: Bytes::new() };
    let nothing = || futures::stream::pending().boxed();
    assert!(groups.handle_stream(NodeId(2), request.clone(), nothing()).await.is_err());
    assert!(groups.handle_stream(NodeId(1), request, nothing()).await.is_ok());
    cluster.shutdown().await;
}
