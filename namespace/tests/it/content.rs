//! Contents in chunks: committed only when they are here.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use causeway_base::{RetryClass, Seq, VolumeId};
use causeway_namespace::client::ClientError;
use causeway_namespace::{
    Consistency, ContentCheck, ContentError, ContentHold, StatusSource, StoreStatus, SyncTarget, Watermark,
};
use causeway_namespace_core::command::{Expect, Op};
use causeway_namespace_core::inode::{Body, Content, ManifestRef};
use causeway_namespace_core::root::VolumeRecord;
use tokio::sync::watch;

use crate::cluster::{Cluster, LONG, at, attr, volume};

/// Has every chunk of manifests whose root says so.
#[derive(Debug)]
struct Chunks;

#[async_trait]
impl ContentCheck for Chunks {
    async fn check(&self, _volume: &VolumeRecord, manifests: &[ManifestRef]) -> Result<ContentHold, ContentError> {
        match manifests.iter().filter(|manifest| manifest.root != "here").count() as u64 {
            0 => Ok(ContentHold::default()),
            chunks => Err(ContentError::Missing { chunks }),
        }
    }
}

fn manifest(path: &str, root: &'static str) -> Op {
    let manifest =
        ManifestRef { size: 1 << 20, root: Bytes::from_static(root.as_bytes()), origin: "eastus".parse().unwrap() };
    Op::PutFile { at: at(path), attr: attr(), content: Content::Manifest(manifest), expect: Expect::Any }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contents_that_are_not_here_are_not_committed() {
    let cluster = Cluster::start_with(Arc::new(Chunks)).await;
    let client = cluster.client(&[1]).await;
    let id = volume(&client, "alpha").await.id;
    let missing = client.mutate(id, vec![manifest("a", "here"), manifest("b", "gone"), manifest("c", "gone")]).await;
    let missing = missing.unwrap_err();
    assert!(matches!(missing, ClientError::ContentMissing { missing: 2, .. }), "{missing}");
    assert_eq!(missing.retry_class(), RetryClass::Transient);
    client.mutate(id, vec![manifest("a", "here")]).await.unwrap();
    let found = client.stat(id, at("a"), Consistency::Linearizable).await.unwrap().value.unwrap();
    let Body::File(Content::Manifest(manifest)) = found.inode.body else { panic!("no manifest") };
    assert_eq!(manifest.origin.as_str(), "westeurope", "the site that checked it");

    let large = Content::Inline(Bytes::from(vec![0; 4097]));
    let large = Op::PutFile { at: at("large"), attr: attr(), content: large, expect: Expect::Any };
    let refused = client.mutate(id, vec![large]).await.unwrap_err();
    assert_eq!(refused.retry_class(), RetryClass::Refused);
    assert!(refused.to_string().contains("4096"), "{refused}");
    cluster.stop_all().await;
}

/// A site whose watermark a test moves.
#[derive(Debug)]
struct Site(watch::Sender<Seq>);

#[async_trait]
impl StatusSource for Site {
    fn stores(&self) -> Vec<StoreStatus> {
        vec![StoreStatus { name: "chunks".to_owned(), state: "ok".to_owned(), ..StoreStatus::default() }]
    }

    fn watermarks(&self) -> Vec<Watermark> {
        vec![Watermark { volume: VolumeId(1), seq: *self.0.borrow(), ..Watermark::default() }]
    }

    async fn wait_watermark(&self, _volume: VolumeId, seq: Seq, deadline: Duration) -> Option<Seq> {
        let mut watermark = self.0.subscribe();
        let _ = tokio::time::timeout(deadline, watermark.wait_for(|watermark| *watermark >= seq)).await;
        Some(*self.0.borrow())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waits_end_when_a_site_has_every_byte() {
    let cluster = Cluster::start().await;
    let client = cluster.client(&[0]).await;
    let id = volume(&client, "alpha").await.id;
    let written = client.mutate(id, vec![crate::cluster::put("f", "1")]).await.unwrap();
    let site = Arc::new(Site(watch::Sender::new(Seq::ZERO)));
    cluster.node(1).attach_status(site.clone());

    let target = SyncTarget::Site("westeurope".parse().unwrap());
    let soon = client.sync_wait(id, target.clone(), Some(written.seq), Duration::from_millis(300)).await.unwrap();
    assert_eq!((soon.reached, soon.watermark), (false, Seq::ZERO));

    let waiting = tokio::spawn({
        let (client, target) = (client.clone(), target.clone());
        async move { client.sync_wait(id, target, None, LONG).await.unwrap() }
    });
    site.0.send_replace(Seq(1_000_000));
    let waited = waiting.await.unwrap();
    assert!(waited.reached && waited.seq >= written.seq);

    let status = client.status().await.unwrap();
    assert_eq!(status.site_watermarks(id)[&"westeurope".parse().unwrap()], Seq(1_000_000));
    assert_eq!(status.nodes[1].status.as_ref().unwrap().stores[0].name, "chunks");
    let nowhere = client.sync_wait(id, SyncTarget::Site("mars".parse().unwrap()), None, LONG).await.unwrap_err();
    assert!(nowhere.to_string().contains("mars"), "{nowhere}");
    cluster.stop_all().await;
}
