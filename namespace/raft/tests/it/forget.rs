//! What is aside of a line that ended is given up, for good.

use std::sync::Arc;

use causeway_base::{ClientId, Epoch, NodeId, Seq};
use causeway_namespace_core::command::{Outcome, RequestBody};
use causeway_namespace_core::lineage::Lineage;
use causeway_namespace_raft::forget::ForgetError;
use causeway_namespace_raft::store::META;
use causeway_namespace_raft::{Groups, STATE_SPACES, StartError};
use causeway_storage::disk::SimDisk;
use causeway_storage::kv::{Batch, Kv as _, KvRead as _, MemoryKv, prefix_range};

use crate::cluster::{Cluster, DEADLINE, GROUP, create, request, until};
use crate::promotion::{LINE, Lone, files, line_spec, refound};

const OLD: Lineage = Lineage { root_epoch: Epoch(0), root_founder: NodeId(0), epoch: Epoch(0), founder: NodeId(0) };

/// A founder of a new line that runs, with five files in the old one and a sixth in the new one.
async fn promoted(lone: &Lone) -> Arc<Groups> {
    let groups = Groups::open(lone.config()).await.unwrap();
    let group = groups.start(GROUP, lone.spec()).await.unwrap();
    until("it leads", || group.is_leader()).await;
    let opened = group.propose(request(RequestBody::OpenSession { client: ClientId(1) }), DEADLINE).await.unwrap();
    let Outcome::Session(session) = opened.outcome else { panic!("{opened:?}") };
    for number in 1..=5 {
        group.propose(create(session, number, &format!("file-{number}")), DEADLINE).await.unwrap();
    }
    let runs = groups.forget_line(GROUP, OLD).await;
    assert!(matches!(runs, Err(ForgetError::Runs { .. })), "{runs:?}");
    groups.persist_states().await.unwrap();
    let fork = group.applied();
    drop(group);
    groups.fence(GROUP, LINE, NodeId(3)).await.unwrap();
    let needed = groups.forget_line(GROUP, OLD).await;
    assert!(matches!(needed, Err(ForgetError::Needed { next: LINE, .. })), "{needed:?}");
    refound(&groups, fork).await.unwrap();
    let group = groups.start(GROUP, line_spec(LINE)).await.unwrap();
    until("it leads", || group.is_leader()).await;
    group.propose(create(session, 6, "file-6"), DEADLINE).await.unwrap();
    groups.persist_states().await.unwrap();
    groups
}

/// Records and newest seq of the old line here.
async fn left(groups: &Groups) -> (u64, Seq) {
    let view = groups.line_view(GROUP, OLD).await.unwrap();
    (view.meta().records, groups.line_last(GROUP, OLD).await.unwrap())
}

fn lone(seed: u64) -> Lone {
    Lone { disk: SimDisk::new(seed), kv: Arc::new(MemoryKv::new(STATE_SPACES)), cluster: Cluster::stopped(3) }
}

/// Nothing is left of the old line, and the new one goes on.
async fn is_gone(groups: &Arc<Groups>, lone: &Lone) {
    assert!(groups.is_forgotten(GROUP, OLD));
    assert_eq!(left(groups).await, (0, Seq::ZERO));
    assert!(groups.line_entries(GROUP, OLD, Seq::ZERO).await.unwrap().is_empty());
    assert!(matches!(groups.start(GROUP, lone.spec()).await, Err(StartError::Fenced { .. })));
    let group = groups.start(GROUP, line_spec(LINE)).await.unwrap();
    assert_eq!(files(&group), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_at_any_moment_leaves_all_that_is_aside_or_nothing() {
    let (mut at, mut kept, mut gone) = (0, 0, 0);
    loop {
        let mut lone = lone(at);
        let groups = promoted(&lone).await;
        let before = left(&groups).await;
        assert!(before.0 > 5 && before.1 > Seq(5));
        lone.disk.cut_power_at(at);
        let ended = groups.forget_line(GROUP, OLD).await;
        let went = lone.disk.is_off();
        lone.kv = Arc::new(lone.kv.after_power_cut());
        groups.shutdown().await;
        drop(groups);
        lone.disk.crash();

        let groups = Groups::open(lone.config()).await.unwrap();
        if groups.is_forgotten(GROUP, OLD) {
            gone += 1;
        } else {
            kept += 1;
            assert_eq!(left(&groups).await, before, "cut {at}");
            groups.forget_line(GROUP, OLD).await.unwrap();
        }
        is_gone(&groups, &lone).await;
        // The same again is fine.
        groups.forget_line(GROUP, OLD).await.unwrap();
        groups.shutdown().await;
        if !went {
            ended.unwrap();
            break;
        }
        at += 1;
    }
    assert!(gone > 1, "{kept} kept, {gone} gone");
}

/// The mark is what decides, not how much of the records had gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mark_without_its_work_is_finished_by_the_next_start() {
    let mut lone = lone(7);
    let groups = promoted(&lone).await;
    let before = lone.kv.after_power_cut();
    let marks = |kv: &MemoryKv| -> Vec<_> {
        let all = kv.scan(META, prefix_range(&GROUP.0.to_be_bytes()), false).map(Result::unwrap);
        all.filter(|(key, _)| key.get(8..) == Some(b"f")).collect()
    };
    groups.forget_line(GROUP, OLD).await.unwrap();
    let [(key, mark)] = marks(&lone.kv).try_into().unwrap();
    groups.shutdown().await;
    drop(groups);
    let mut batch = Batch::new();
    batch.put(META, key, mark);
    before.write(batch).unwrap();
    before.persist().unwrap();
    lone.kv = Arc::new(before);
    let groups = Groups::open(lone.config()).await.unwrap();
    is_gone(&groups, &lone).await;
    groups.shutdown().await;
}

/// What this node promised in a line that no table knows any more is forgotten with it: it takes no part in it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_was_given_up_is_not_started_again() {
    let cluster = Cluster::new(1).await;
    let session = cluster.session().await;
    cluster.put(session, 1, "file").await;
    let groups = &cluster.nodes[&NodeId(1)];
    groups.stop(GROUP).await;
    groups.forget_line(GROUP, OLD).await.unwrap();
    assert_eq!(left(groups).await, (0, Seq::ZERO));
    let started = groups.start(GROUP, cluster.spec()).await;
    assert!(matches!(&started, Err(StartError::Config(why)) if why.contains("given up")), "{started:?}");
    cluster.shutdown().await;
}
