//! Replicas that differ, in a cluster that runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use causeway_base::envelope::{self, Kind};
use causeway_base::{Ino, NodeId, VolumeId};
use causeway_namespace::client::NamespaceClient;
use causeway_namespace::{Consistency, DifferingRecord, DigestReport, Error, RecordDiffers, Verdict};
use causeway_namespace_core::audit::AuditAction;
use causeway_namespace_core::key;
use causeway_namespace_raft::STATE_SPACES;
use causeway_namespace_raft::store::{CURRENT, META, Meta};
use causeway_storage::kv::{Batch, FjallKv, FjallOptions, Kv as _, KvRead as _};
use tokio::time::Instant;

use crate::cluster::{Cluster, LONG, at, mkdir, put, volume};

const META_KIND: Kind = Kind { magic: *b"CWSM", version: 1, payload_bytes_max: 1 << 20 };

fn in_group(group: VolumeId, key: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u64(group.0);
    out.put_slice(key);
    out.freeze()
}

/// Changes a record in a store. With `digest` its digest is made to fit, as if the state machine had applied something
/// else: of use in the store of a node that does not run.
fn edit(kv: &FjallKv, group: VolumeId, key: &[u8], edit: impl Fn(&[u8]) -> Vec<u8>, digest: bool) {
    let stored = kv.get(CURRENT, &in_group(group, key)).unwrap().expect("the record is there");
    let (seq, old) = stored.split_at(8);
    let new = edit(old);
    assert_ne!(old, new);
    let mut batch = Batch::new();
    batch.put(CURRENT, in_group(group, key), Bytes::from([seq, &new].concat()));
    if digest {
        let sealed = kv.get(META, &in_group(group, b"m")).unwrap().unwrap();
        let mut meta: Meta = envelope::open_value(META_KIND, &sealed).unwrap();
        meta.digest.remove(key, old);
        meta.digest.add(key, &new);
        batch.put(META, in_group(group, b"m"), Bytes::from(envelope::seal_value(META_KIND, &meta).unwrap()));
    }
    kv.write(batch).unwrap();
    kv.persist().unwrap();
}

/// Has a node that does not run differ in a file.
fn plant(cluster: &Cluster, node: usize, group: VolumeId, file: Ino, content: &[u8]) {
    let folder = cluster.folder(node).join("state");
    let kv = FjallKv::open(&folder, STATE_SPACES, &FjallOptions::default()).unwrap();
    edit(&kv, group, &key::inode(file), |value| flip(value, content), true);
}

/// Flips a bit of an inline file's content.
fn flip(value: &[u8], content: &[u8]) -> Vec<u8> {
    let at = value.windows(content.len()).position(|window| window == content).expect("the content is inline");
    let mut value = value.to_vec();
    value[at] ^= 1;
    value
}

fn reports(cluster: &Cluster, group: VolumeId) -> BTreeMap<NodeId, DigestReport> {
    let nodes = cluster.nodes.iter().flatten();
    nodes.filter_map(|node| Some((node.id(), node.node_status().group(group)?.digests.clone()))).collect()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within {LONG:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn filled(cluster: &Cluster) -> (NamespaceClient, VolumeId) {
    let client = cluster.client(&[0, 1, 2]).await;
    let id = volume(&client, "data").await.id;
    client.mutate(id, vec![mkdir("a/b")]).await.unwrap();
    for number in 0..40 {
        client.mutate(id, vec![put(format!("a/b/file-{number}"), &format!("content {number}"))]).await.unwrap();
    }
    (client, id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_compared_and_what_rests_costs_nothing() {
    let cluster = Cluster::start().await;
    let (client, id) = filled(&cluster).await;
    let all_equal = |least: u64| {
        let reports = reports(&cluster, id);
        reports.len() == 3 && reports.values().all(|known| known.equal_at.0 >= least && known.divergence.is_none())
    };
    let applied = cluster.node(0).group(id).unwrap().applied().0;
    until("all replicas were compared", || all_equal(applied)).await;

    // Two looks between which every node had its turn several times and sent nothing.
    let messages = || cluster.nodes.iter().flatten().map(|node| node.node_status().digest_messages).sum::<u64>();
    let mut before = messages();
    let end = Instant::now() + LONG;
    loop {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let now = messages();
        if now == before {
            break;
        }
        assert!(Instant::now() < end, "nothing changes and {} messages were sent", now - before);
        before = now;
    }
    client.mutate(id, vec![put("one-more", "x")]).await.unwrap();
    until("the next commit is compared", || all_equal(applied + 1)).await;
    assert!(messages() > before);
    cluster.stop_all().await;
}

fn report(cluster: &Cluster, at: usize, group: VolumeId) -> DigestReport {
    reports(cluster, group).remove(&cluster.node(at).id()).unwrap_or_default()
}

async fn ino(client: &NamespaceClient, volume: VolumeId, path: &str) -> Ino {
    client.stat(volume, at(path), Consistency::Linearizable).await.unwrap().value.unwrap().ino
}

/// Waits until a node's replica is repaired, and checks what was found, and that all replicas are whole and the same.
async fn repaired(cluster: &Cluster, wrong: usize, id: VolumeId, verdict: Verdict, path: &str) {
    until("it is repaired", || report(cluster, wrong, id).repaired.is_some()).await;
    let repaired = report(cluster, wrong, id).repaired.unwrap();
    assert_eq!(repaired.was.verdict, verdict, "{repaired:?}");
    assert_ne!(repaired.from, cluster.node(wrong).id());
    let records = repaired.was.records.clone().unwrap();
    let expected = DifferingRecord { name: path.to_owned(), how: RecordDiffers::Changed };
    assert_eq!((records.count, records.more, records.named), (1, false, vec![expected]), "{repaired:?}");
    until("nobody knows of a difference any more", || {
        let reports = reports(cluster, id);
        reports.len() == 3 && reports.values().all(|report| report.divergence.is_none())
    })
    .await;
    let seq = cluster.nodes.iter().flatten().filter_map(|node| Some(node.group(id)?.applied())).max().unwrap();
    cluster.assert_equal(id, seq).await;
    for node in cluster.nodes.iter().flatten() {
        let run = node.volume_verify(id, None, 0, LONG).await.unwrap();
        assert!(run.outcome.unwrap().unwrap().right, "{}", node.id());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_applied_something_else_is_found_named_and_repaired_while_clients_write() {
    let mut cluster = Cluster::start().await;
    let (client, id) = filled(&cluster).await;
    for (round, content) in [(0, "content 7"), (1, "content 8")] {
        let path = format!("a/b/file-{}", 7 + round);
        let file = ino(&client, id, &path).await;
        // First a follower, then the node that leads and will lead again: home.
        let wrong = if round == 0 { 1 } else { 0 };
        cluster.stop(wrong).await;
        plant(&cluster, wrong, id, file, content.as_bytes());
        let stop = Arc::new(AtomicBool::new(false));
        let writer = tokio::spawn(write_until(cluster.client(&[0, 1, 2]).await, id, format!("w{round}"), stop.clone()));
        cluster.launch(wrong).await;
        repaired(&cluster, wrong, id, Verdict::Minority, &path).await;
        stop.store(true, Ordering::Relaxed);
        let written = writer.await.unwrap();
        assert!(written > 0);
        // The repaired one serves, and has everything.
        let own = cluster.client(&[wrong]).await;
        for number in 0..written {
            ino(&own, id, &format!("w{round}-{number}")).await;
        }
        ino(&own, id, &path).await;
    }
    cluster.stop_all().await;
}

async fn write_until(client: NamespaceClient, id: VolumeId, prefix: String, stop: Arc<AtomicBool>) -> u64 {
    let mut written = 0;
    while !stop.load(Ordering::Relaxed) {
        client.mutate(id, vec![put(format!("{prefix}-{written}"), "x")]).await.unwrap();
        written += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    written
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_was_damaged_on_the_leaders_disk_is_found_and_repaired() {
    let cluster = Cluster::start().await;
    let (client, id) = filled(&cluster).await;
    let (leader, file) = (cluster.leader(id).await, ino(&client, id, "a/b/file-3").await);
    // Nothing that compares digests sees this.
    let kv = cluster.kvs[leader].clone().unwrap();
    edit(&kv, id, &key::inode(file), |value| flip(value, b"content 3"), false);
    drop(kv);
    let other = (leader + 1) % 3;
    let whole = client.volume_verify(id, Some(cluster.node(other).id())).await.unwrap().outcome.unwrap().unwrap();
    assert!(whole.right && whole.records > 80 && whole.divergence.is_none(), "{whole:?}");
    let wrong = client.volume_verify(id, Some(cluster.node(leader).id())).await.unwrap().outcome.unwrap().unwrap();
    assert_eq!((wrong.right, wrong.records), (false, whole.records), "{wrong:?}");
    let divergence = wrong.divergence.unwrap();
    assert_eq!(
        (divergence.verdict, divergence.records.unwrap().named[0].name.as_str()),
        (Verdict::Damaged, "a/b/file-3")
    );
    client.mutate(id, vec![put("a/b/file-3", "new")]).await.unwrap();
    repaired(&cluster, leader, id, Verdict::Damaged, "a/b/file-3").await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_replica_is_not_read_and_a_restart_does_not_forget_it() {
    let mut cluster = Cluster::start().await;
    let (client, id) = filled(&cluster).await;
    let file = ino(&client, id, "a/b/file-3").await;
    for other in [1, 2] {
        cluster.stop(other).await;
    }
    let kv = cluster.kvs[0].clone().unwrap();
    edit(&kv, id, &key::inode(file), |value| flip(value, b"content 3"), false);
    drop(kv);
    let run = cluster.node(0).volume_verify(id, None, 0, LONG).await.unwrap();
    assert!(!run.outcome.unwrap().unwrap().right);
    for round in 0..2 {
        let read = cluster.node(0).snapshot(id, Consistency::Local, LONG).await;
        assert!(matches!(read, Err(Error::Diverged { .. })), "round {round}: {read:?}");
        assert!(cluster.node(0).group(id).unwrap().view().is_err());
        until("its repair is tried and told", || {
            let divergence = report(&cluster, 0, id).divergence;
            divergence.is_some_and(|it| it.verdict.is_own() && it.repair.is_some_and(|it| it.starts_with("failed")))
        })
        .await;
        cluster.stop(0).await;
        cluster.launch(0).await;
        until("the group runs", || cluster.node(0).group(id).is_some()).await;
    }
    for other in [1, 2] {
        cluster.launch(other).await;
    }
    repaired(&cluster, 0, id, Verdict::Declared, "a/b/file-3").await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_majority_tells_a_person_decides() {
    let mut cluster = Cluster::start().await;
    let (client, id) = filled(&cluster).await;
    let file = ino(&client, id, "a/b/file-3").await;
    cluster.stop(1).await;
    cluster.stop(2).await;
    plant(&cluster, 1, id, file, b"content 3");
    cluster.launch(1).await;
    until("both know, and neither is condemned", || {
        let known = |at| {
            let divergence = report(&cluster, at, id).divergence?;
            let named = divergence.records.as_ref()?.named.first()?.name == "a/b/file-3";
            Some(divergence.verdict == Verdict::Undecided && named)
        };
        known(0) == Some(true) && known(1) == Some(true)
    })
    .await;
    assert!(cluster.node(1).group(id).unwrap().diverged().is_none());
    // Neither is a ground to collect anything.
    assert!(cluster.node(0).may_be_wrong(id) && cluster.node(1).may_be_wrong(id));
    let client = cluster.client(&[0]).await;
    let run = client.volume_repair(id, NodeId(2)).await.unwrap();
    let done = run.outcome.unwrap().unwrap();
    assert_eq!((run.node, done.from, done.was.verdict), (NodeId(2), NodeId(1), Verdict::Declared));
    cluster.launch(2).await;
    repaired(&cluster, 1, id, Verdict::Declared, "a/b/file-3").await;
    cluster.stop_all().await;
}

/// What adds up to something else on every replica may be the fault of who adds up: one is still read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_of_all_replicas_is_not_taken_away() {
    let cluster = Cluster::start().await;
    let (client, id) = filled(&cluster).await;
    let file = ino(&client, id, "a/b/file-3").await;
    for at in 0..3 {
        let kv = cluster.kvs[at].clone().unwrap();
        edit(&kv, id, &key::inode(file), |value| flip(value, b"content 3"), false);
    }
    let marked = |at: usize| cluster.node(at).group(id).is_some_and(|group| group.diverged().is_some());
    for at in 0..3 {
        let run = cluster.node(at).volume_verify(id, None, 0, LONG).await.unwrap();
        assert!(!run.outcome.unwrap().unwrap().right);
        // Those before stay marked: none has a state that another would take.
        assert_eq!([marked(0), marked(1), marked(2)], [true, at > 0, false], "after {at}");
    }
    assert!(cluster.node(2).snapshot(id, Consistency::Local, LONG).await.is_ok());
    assert_eq!(report(&cluster, 2, id).divergence.map(|it| it.verdict), Some(Verdict::Damaged));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_takes_the_mark_of_a_right_replica_back() {
    let cluster = Cluster::start().await;
    let (client, id) = filled(&cluster).await;
    let refused = client.trust_replica("data", cluster.node(0).id(), "").await.unwrap_err();
    assert!(refused.to_string().contains("not marked"), "{refused}");
    let file = ino(&client, id, "a/b/file-3").await;
    // No replica comes to its digest, so none is repaired from another; one is read as long as nobody decides.
    for at in 0..3 {
        let kv = cluster.kvs[at].clone().unwrap();
        edit(&kv, id, &key::inode(file), |value| flip(value, b"content 3"), false);
    }
    for at in 0..3 {
        cluster.node(at).volume_verify(id, None, 0, LONG).await.unwrap();
    }
    let group = |at: usize| cluster.node(at).group(id).unwrap();
    assert!(group(0).diverged().is_some() && group(2).diverged().is_none());
    let generation = group(0).generation();

    let (_, records, right) = client.trust_replica("data", cluster.node(0).id(), "seen by eye").await.unwrap();
    assert!(!right && records > 80, "{records} records, right: {right}");
    assert!(group(0).diverged().is_none() && group(0).generation() > generation);
    assert!(cluster.node(0).snapshot(id, Consistency::Local, LONG).await.is_ok());
    let run = cluster.node(0).volume_verify(id, None, 0, LONG).await.unwrap();
    assert!(run.outcome.unwrap().unwrap().right, "the digest is made that of the records");

    // Now there is a source, and the others follow it.
    until("all are the same", || {
        let reports = reports(&cluster, id);
        reports.len() == 3 && reports.values().all(|report| report.divergence.is_none())
    })
    .await;
    for at in [1, 2] {
        let from = report(&cluster, at, id).repaired.unwrap().from;
        assert!(from == cluster.node(0).id() || at == 2, "node {at} from {from}");
    }
    client.mutate(id, vec![put("afterwards", "x")]).await.unwrap();
    until("what a person said is over", || !group(0).is_trusted()).await;
    let seq = (0..3).map(|at| group(at).applied()).max().unwrap();
    cluster.assert_equal(id, seq).await;
    let audit = client.audit(None, 10).await.unwrap();
    let (_, newest) = &audit[0];
    assert!(matches!(&newest.action, AuditAction::ReplicaTrusted { name, .. } if name == "data"), "{newest:?}");
    assert_eq!(newest.by.reason, "seen by eye");
    cluster.stop_all().await;
}
