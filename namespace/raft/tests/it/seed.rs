use std::collections::BTreeSet;

use causeway_base::{NodeId, Seq};
use causeway_namespace_core::digest::Digest;
use causeway_namespace_core::query;
use causeway_namespace_core::records::{Record, Records};
use causeway_namespace_raft::{Groups, Seed, SeedError};

use crate::cluster::{Cluster, GROUP};

fn records(view: &impl Records) -> Vec<Record> {
    view.scan(&[0], &[0xff], usize::MAX).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seeded_group_goes_on_behind_its_seq() {
    let old = Cluster::new(1).await;
    let session = old.session().await;
    for number in 1..=40 {
        old.put(session, number, &format!("file-{number}")).await;
    }
    let view = old.group(NodeId(1)).view().unwrap();
    let (seq, digest, records) = (view.seq(), view.digest().unwrap(), records(&view));
    let term = old.group(NodeId(1)).status().term;
    old.shutdown().await;

    let mut new = Cluster::stopped(3);
    let voters: BTreeSet<NodeId> = new.ids().collect();
    let seed = Seed { seq, term: term + 1, voters, digest };
    let list = move || records.clone().into_iter().map(Ok);
    for node in new.ids() {
        let groups = Groups::open(new.config(node)).await.unwrap();
        let wrong = Seed { digest: Digest::default(), ..seed.clone() };
        assert!(matches!(groups.seed(GROUP, wrong, list()).await, Err(SeedError::Store(_))));
        groups.seed(GROUP, seed.clone(), list()).await.unwrap();
        // Again is fine, other than before is not.
        groups.seed(GROUP, seed.clone(), list()).await.unwrap();
        let other = Seed { seq: Seq(seq.0 + 1), ..seed.clone() };
        assert!(matches!(groups.seed(GROUP, other, list()).await, Err(SeedError::Exists { .. })));
        groups.shutdown().await;
    }
    for node in new.ids() {
        new.start(node).await;
    }
    let leader = new.leader().await;
    assert!(leader.status().term > term + 1);
    let first = new.put(session, 41, "first of the new").await;
    assert!(first.seq > seq);
    new.converge().await;
    for group in new.groups() {
        assert_eq!(query::totals(&group.view().unwrap()).unwrap().files, 41);
        let seeded = group.view_at(seq).unwrap();
        assert_eq!(query::totals(&seeded).unwrap().files, 40);
    }
    new.shutdown().await;
}
