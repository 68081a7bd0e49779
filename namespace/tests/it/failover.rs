//! Leaders stop, nodes come back, requests are sent twice.

use std::collections::BTreeSet;
use std::time::Duration;

use causeway_base::{RetryClass, Seq};
use causeway_namespace::Consistency;
use causeway_namespace::client::{ClientError, ListPage, Numbered};
use causeway_namespace_core::command::Errno;
use futures::future::join_all;

use crate::cluster::{Cluster, LONG, at, create, mkdir, put, volume};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_when_the_leader_stops_and_it_catches_up_after() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client(&[0, 1, 2]).await;
    let id = volume(&client, "alpha").await.id;
    client.mutate(id, vec![put("before", "1")]).await.unwrap();

    let leader = cluster.leader(id).await;
    cluster.stop(leader).await;
    let during = client.mutate(id, vec![put("during", "2")]).await.unwrap();
    let read = client.stat(id, at("before"), Consistency::Linearizable).await.unwrap();
    assert!(read.value.is_ok() && read.state.seq >= during.seq);
    assert_ne!(cluster.leader(id).await, leader);

    cluster.launch(leader).await;
    cluster.node(leader).ready().await.unwrap();
    let back = cluster.client(&[leader]).await;
    let read = back.stat(id, at("during"), Consistency::Linearizable).await.unwrap();
    assert!(read.value.is_ok(), "a node that was away reads what was written meanwhile");
    cluster.assert_equal(id, during.seq).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_there_after_all_nodes_restart() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client(&[0, 1, 2]).await;
    let id = volume(&client, "alpha").await.id;
    let written = client.mutate(id, vec![mkdir("d"), put("d/f", "kept")]).await.unwrap();
    for node in 0..3 {
        cluster.stop(node).await;
    }
    cluster.launch_all().await;
    let read = client.stat(id, at("d/f"), Consistency::Linearizable).await.unwrap();
    assert!(read.value.is_ok() && read.state.seq >= written.seq);
    cluster.assert_equal(id, written.seq).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_number_applies_once_across_a_change_of_leader() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client(&[0, 1, 2]).await;
    let id = volume(&client, "alpha").await.id;
    let session = client.open_session(id).await.unwrap();
    // A second application of a create that expects absence would be refused.
    let batch = Numbered { session, number: 1, acked_below: 1, ops: vec![create("once")] };
    let first = client.mutate_once(id, batch.clone()).await.unwrap();

    let leader = cluster.leader(id).await;
    cluster.stop(leader).await;
    let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    for node in &others {
        let other = cluster.client(&[*node]).await;
        let again = other.mutate_once(id, batch.clone()).await.unwrap();
        assert_eq!(again.done, first.done, "the first answer again");
    }
    let elsewhere = cluster.client(&others).await;
    let next = Numbered { number: 2, acked_below: 2, ..batch.clone() };
    let refused = elsewhere.mutate_once(id, next).await.unwrap_err();
    assert_eq!(refused.refusal().map(|refusal| refusal.code), Some(Errno::Exists), "another number is another batch");
    let forgotten = elsewhere.mutate_once(id, batch).await.unwrap_err();
    assert_eq!(forgotten.retry_class(), RetryClass::Unknown, "{forgotten}");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_reads_and_writes_fail_and_say_so() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client(&[0]).await;
    let id = volume(&client, "alpha").await.id;
    let written = client.mutate(id, vec![put("f", "1")]).await.unwrap();
    cluster.node(0).group(id).unwrap().wait_applied(written.seq, LONG).await.unwrap();
    cluster.stop(1).await;
    cluster.stop(2).await;

    let short = client.with_deadline(Duration::from_millis(1500));
    let strict = short.stat(id, at("f"), Consistency::Linearizable).await.unwrap_err();
    assert!(strict.retry_class().may_retry_idempotent(), "{strict}");
    let write = short.mutate(id, vec![put("g", "2")]).await.unwrap_err();
    assert!(matches!(write, ClientError::Unknown { .. } | ClientError::Unavailable { .. }), "{write}");
    let local = short.stat(id, at("f"), Consistency::Local).await.unwrap();
    assert!(local.value.is_ok() && local.state.age.is_some(), "what is here is read, with its age");
    let bounded = short.stat(id, at("f"), Consistency::Bounded(Duration::from_secs(3600))).await.unwrap();
    assert!(bounded.value.is_ok());
    let stale = short.stat(id, at("f"), Consistency::Bounded(Duration::ZERO)).await;
    assert!(stale.is_err(), "{stale:?}");
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_clients_at_once_lose_nothing() {
    const EACH: usize = 5;
    let cluster = Cluster::start().await;
    let first = cluster.client(&[0]).await;
    let id = volume(&first, "alpha").await.id;
    let work = (0..100).map(|n| {
        let cluster = &cluster;
        async move {
            let order = [n % 3, (n + 1) % 3, (n + 2) % 3];
            let client = cluster.client(&order).await;
            let mut last = Seq::ZERO;
            for file in 0..EACH {
                let path = format!("c{n:03}-{file}");
                last = client.mutate(id, vec![create(&path)]).await.unwrap().seq;
                assert!(client.stat(id, at(&path), Consistency::Linearizable).await.unwrap().value.is_ok());
            }
            last
        }
    });
    let last = join_all(work).await.into_iter().max().unwrap();
    let page = ListPage { limit: 4096, ..ListPage::default() };
    let page = first.list_page(id, at(""), page, Consistency::Linearizable).await.unwrap().value.unwrap();
    let names: BTreeSet<_> = page.entries.into_iter().map(|entry| entry.name).collect();
    assert_eq!(names.len(), 100 * EACH);
    cluster.assert_equal(id, last).await;
    cluster.stop_all().await;
}
