//! The archive: images behind the leader, fencing, and reading back with no site left.

use std::sync::Arc;
use std::time::Duration;

use causeway_base::{NodeId, Seq};
use causeway_namespace_core::command::Op;
use causeway_replicator::wire::Cause;
use causeway_replicator::{ArchiveStatus, Place};
use causeway_repository::archive::{ChunkArchive, IndexMode};
use causeway_repository::image::{ImageWriter, WriterOptions};
use causeway_repository::{Repository, RepositoryOptions};
use causeway_transport::PeerId;

use crate::cluster::*;
use crate::common::*;

async fn repository(folder: &std::path::Path) -> Repository {
    let url = format!("file://{}", folder.display());
    Repository::open(&url, RepositoryOptions::creating()).await.unwrap()
}

async fn archive(folder: &std::path::Path) -> ChunkArchive {
    ChunkArchive::open(repository(folder).await, IndexMode::Loaded).await.unwrap()
}

async fn archived(node: &Node, until: impl FnMut(&ArchiveStatus) -> bool) -> ArchiveStatus {
    let mut status = node.replicator.watch_archive(VOLUME).unwrap();
    let reached = tokio::time::timeout(PATIENCE, status.wait_for(until)).await;
    match reached {
        Ok(status) => status.unwrap().clone(),
        Err(_) => panic!("{:?}", node.replicator.status(VOLUME)),
    }
}

fn published(seq: Seq) -> impl FnMut(&ArchiveStatus) -> bool {
    move |status| status.published >= Some(seq) && status.owed_seqs == 0
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_follows_the_leader_and_holds_every_chunk() {
    let trust = Trust::new();
    let book = Arc::<Book>::default();
    let volume = Volume::new("zurich", &[]);
    *book.volume.lock().unwrap() = Some(volume.clone());
    let folder = tempfile::tempdir().unwrap();
    let homes = [Home::new(), Home::new(), Home::new()];
    let zurich = Node::start(&trust, &book, &homes[0], "zurich", 1, Some(archive(folder.path()).await));
    let westeurope = Node::start(&trust, &book, &homes[1], "westeurope", 2, Some(archive(folder.path()).await));
    // Written through westeurope: the leader has to fetch before it can archive.
    let seq =
        volume.mutate(vec![put("a", westeurope.write(&text(1, 400_000))), put("b", zurich.write(&noise(2, 90_000)))]);
    zurich.attach(&volume);
    westeurope.attach(&volume);
    let status = archived(&zurich, published(seq)).await;
    assert!(status.publishes && status.fenced.is_none() && status.rpo.is_zero(), "{status:?}");
    let writer = ImageWriter::new(repository(folder.path()).await, CLUSTER, VOLUME, WriterOptions::default());
    let head = writer.newest().await.unwrap().unwrap();
    assert_eq!((head.seq, head.digest, head.term), (seq, volume.digest(), 1));
    assert_eq!(head.totals.files, 2);
    let chunks: Vec<_> = zurich.chunk_ids().union(&westeurope.chunk_ids()).copied().collect();
    assert_eq!(archive(folder.path()).await.missing(&chunks).await.unwrap(), []);
    assert!(!westeurope.replicator.status(VOLUME).unwrap().archive.publishes);

    // Small changes make small images; a rename and a delete archive no chunks.
    let sent = |node: &Node| {
        node.replicator
            .counters()
            .total(|account| account.cause == Cause::Archive && account.place == Place::Repository)
    };
    let before = sent(&zurich);
    let mut last = seq;
    for step in 0..12 {
        last = volume.mutate(vec![rename(
            &format!("a{}", if step == 0 { String::new() } else { step.to_string() }),
            &format!("a{}", step + 1),
        )]);
        archived(&zurich, published(last)).await;
    }
    last = volume.mutate(vec![Op::Unlink { at: at("b"), expect: Default::default() }]).max(last);
    archived(&zurich, published(last)).await;
    let after = sent(&zurich);
    assert_eq!(after.chunk_sent, before.chunk_sent);
    let head = writer.refresh().await.unwrap().unwrap();
    assert_eq!((head.seq, head.digest), (last, volume.digest()));
    assert!(head.runs.len() <= 9, "{} runs", head.runs.len());

    // With both sites gone, a new one reads through the repository.
    zurich.stop().await;
    westeurope.stop().await;
    book.nodes.lock().unwrap().clear();
    let fresh = Node::start(&trust, &book, &homes[2], "eastus", 9, Some(archive(folder.path()).await));
    let client = trust.client(&PeerId::client("alice").unwrap());
    let mut reader = client.read(&fresh.addr, &about(), None, chunks.clone());
    for id in &chunks {
        assert_eq!(realm().chunk_id(&reader.next().await.unwrap().unwrap()), *id);
    }
    let from = fresh.replicator.counters().total(|account| account.place == Place::Repository);
    assert_eq!(from.chunks_received, chunks.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposed_leader_is_fenced_and_goes_on_in_a_later_term() {
    let trust = Trust::new();
    let book = Arc::<Book>::default();
    let volume = Volume::new("zurich", &[]);
    *book.volume.lock().unwrap() = Some(volume.clone());
    let folder = tempfile::tempdir().unwrap();
    let homes = [Home::new(), Home::new()];
    let zurich = Node::start(&trust, &book, &homes[0], "zurich", 1, Some(archive(folder.path()).await));
    zurich.attach(&volume);
    let seq = volume.mutate(vec![put("a", zurich.write(&text(1, 40_000)))]);
    archived(&zurich, published(seq)).await;
    // Another voter leads in term 2 and publishes.
    let westeurope = Node::start(&trust, &book, &homes[1], "westeurope", 2, Some(archive(folder.path()).await));
    *volume.leader.lock().unwrap() = (NodeId(2), 2);
    westeurope.attach(&volume);
    let seq = volume.mutate(vec![put("b", westeurope.write(&text(2, 40_000)))]);
    archived(&westeurope, published(seq)).await;
    // zurich believes that it still leads in term 1.
    *volume.leader.lock().unwrap() = (NodeId(1), 1);
    let seq = volume.mutate(vec![rename("a", "c")]);
    let status = archived(&zurich, |status| status.fenced.is_some()).await;
    assert!(status.published < Some(seq), "{status:?}");
    // And then it does, in term 3.
    *volume.leader.lock().unwrap() = (NodeId(1), 3);
    let status = archived(&zurich, published(seq)).await;
    assert_eq!(status.fenced, None);
    assert!(status.rpo < Duration::from_secs(5));
}
