//! The feed, chosen ids and holds, over real nodes that come and go.

use bytes::Bytes;
use causeway_base::Seq;
use causeway_namespace::Consistency;
use causeway_namespace::client::NamespaceClient;
use causeway_namespace::manage::{FeedEvent, FeedPlace, Version};
use causeway_namespace_core::command::{At, Errno, Expect, Op};
use causeway_namespace_core::manage::{LockKind, ManageOp};
use causeway_namespace_core::query::ChangeKind;

use crate::cluster::{Cluster, LONG, at, mkdir, put, volume};

/// What a feed tells in `messages` messages, or to its end; and where it is then.
async fn told(
    client: &NamespaceClient,
    id: causeway_base::VolumeId,
    from: FeedPlace,
    messages: usize,
) -> (Vec<FeedEvent>, FeedPlace) {
    let mut feed = client.feed(id, from, b"", false);
    let mut events = Vec::new();
    for _ in 0..messages {
        let Some(batch) = feed.next().await.unwrap() else { break };
        events.extend(batch.events);
    }
    (events, feed.place())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_goes_on_in_the_middle_of_a_commit_at_another_node() {
    let cluster = Cluster::start().await;
    let clients = [cluster.client(&[0]).await, cluster.client(&[1]).await, cluster.client(&[2]).await];
    let id = volume(&clients[0], "alpha").await.id;
    let start = clients[0].mutate(id, vec![mkdir("d")]).await.unwrap().seq;
    // More than fit into one message, in one commit; then some more.
    clients[0].mutate(id, (0..700).map(|n| put(format!("d/{n:03}"), "x")).collect()).await.unwrap();
    clients[1].mutate(id, vec![put("d/000", "replaced")]).await.unwrap();
    let rename = Op::Rename { from: at("d"), to: at("e"), no_replace: false };
    clients[2].mutate(id, vec![rename]).await.unwrap();

    let from = FeedPlace { after: start, skip: 0 };
    let (whole, _) = told(&clients[0], id, from, usize::MAX).await;
    assert_eq!(whole.len(), 702);
    assert!(whole.windows(2).all(|pair| (pair[0].seq, pair[0].index) < (pair[1].seq, pair[1].index)));
    assert_eq!(whole[700].change.path.as_deref(), Some(&b"d/000"[..]));
    assert_eq!((whole[700].change.kind, whole[701].change.kind), (ChangeKind::Replaced, ChangeKind::Renamed));

    // One message from each node in turn: no gap, no repeat.
    let (mut pieces, mut place) = (Vec::new(), from);
    for turn in 0.. {
        let (events, next) = told(&clients[turn % 3], id, place, 1).await;
        if events.is_empty() {
            break;
        }
        assert!(next > place);
        pieces.extend(events);
        place = next;
    }
    assert_eq!(pieces, whole);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_of_the_feed_outlives_its_node() {
    let mut cluster = Cluster::start().await;
    let writer = cluster.client(&[0, 1, 2]).await;
    let follower = cluster.client(&[1, 2, 0]).await;
    let id = volume(&writer, "alpha").await.id;
    let start = writer.mutate(id, vec![mkdir("d")]).await.unwrap().seq;
    let mut feed = follower.feed(id, FeedPlace { after: start, skip: 0 }, b"d", true);
    let mut paths = Vec::new();
    for round in 0..6 {
        writer.mutate(id, vec![put(format!("d/{round}"), "x"), put(format!("other-{round}"), "x")]).await.unwrap();
        if round == 2 {
            // The node that tells, and with luck the leader.
            cluster.stop(1).await;
        }
        let deadline = tokio::time::Instant::now() + LONG;
        while paths.len() <= round {
            assert!(tokio::time::Instant::now() < deadline);
            let batch = feed.next().await.unwrap().unwrap();
            paths.extend(batch.events.into_iter().filter_map(|event| event.change.path));
        }
    }
    let expected: Vec<Bytes> = (0..6).map(|round| Bytes::from(format!("d/{round}"))).collect();
    assert_eq!(paths, expected);
    drop(feed);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_hold_is_collected_and_past_states_stay() {
    let cluster = Cluster::start().await;
    let client = cluster.client(&[2]).await;
    let id = volume(&client, "alpha").await.id;
    let made = client.mutate(id, vec![put("f", "open")]).await.unwrap();
    let ino = made.done[0].ino;
    let itself = || At { dir: ino, path: Bytes::new() };
    let hold = |lease_millis| ManageOp::AcquireLock {
        at: at("f"),
        kind: LockKind::Hold,
        start: 0,
        len: 0,
        holder: Bytes::from_static(b"test"),
        lease_millis,
    };
    client.manage(id, hold(1500)).await.unwrap();
    let snapshot = client.manage(id, ManageOp::CreateSnapshot { name: "s".into() }).await.unwrap();
    client.mutate(id, vec![Op::Unlink { at: at("f"), expect: Expect::Any }]).await.unwrap();
    let open = client.stat(id, itself(), Consistency::Linearizable).await.unwrap();
    assert_eq!(open.value.unwrap().inode.nlink, 0);
    // The leader collects it once its lease has ended.
    let deadline = tokio::time::Instant::now() + LONG;
    while client.stat(id, itself(), Consistency::Linearizable).await.unwrap().value != Err(Errno::NotFound) {
        assert!(tokio::time::Instant::now() < deadline, "the hold was not collected");
    }
    let seq = client.find_version(id, Version::Snapshot("s".into()), Consistency::Linearizable).await.unwrap();
    assert_eq!(seq, Some(snapshot.done[0].version));
    let past = client.stat(id, at("f"), causeway_namespace::Freshness::at(seq.unwrap_or(Seq::ZERO))).await.unwrap();
    assert_eq!((past.state.seq, past.value.unwrap().ino), (seq.unwrap(), ino));
    let none = client.find_version(id, Version::Snapshot("none".into()), Consistency::Linearizable).await.unwrap();
    assert_eq!(none, None);
    cluster.stop_all().await;
}
