//! Replicas: what they fetch, what they do not, and what they say of themselves.

use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use causeway_base::{ChunkId, Seq};
use causeway_dedup::{ChunkStore, EncodedChunk};
use causeway_namespace_core::command::Op;
use causeway_namespace_core::inode::Content;
use causeway_replicator::wire::Cause;
use causeway_replicator::{LocalChunks, LocalError, Needed, Place, PutCounts, WhyMissing, WireBytes};
use causeway_transport::PeerId;

use crate::cluster::*;
use crate::common::*;

/// Bytes that a node received as a replica.
pub(crate) fn replicated(node: &Node) -> WireBytes {
    node.replicator.counters().total(|account| account.cause == Cause::Replication)
}

pub(crate) struct Pair {
    pub(crate) trust: Trust,
    pub(crate) book: Arc<Book>,
    pub(crate) volume: Arc<Volume>,
    pub(crate) homes: [Home; 2],
    pub(crate) zurich: Node,
    pub(crate) westeurope: Node,
}

pub(crate) async fn pair() -> Pair {
    let trust = Trust::new();
    let book = Arc::<Book>::default();
    let volume = Volume::new("zurich", &["westeurope"]);
    *book.volume.lock().unwrap() = Some(volume.clone());
    let homes = [Home::new(), Home::new()];
    let zurich = Node::start(&trust, &book, &homes[0], "zurich", 1, None);
    let westeurope = Node::start(&trust, &book, &homes[1], "westeurope", 2, None);
    zurich.attach(&volume);
    westeurope.attach(&volume);
    Pair { trust, book, volume, homes, zurich, westeurope }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_gets_every_byte_once_and_says_up_to_where() {
    let Pair { volume, zurich, westeurope, homes, .. } = pair().await;
    // A file large enough that its manifest has nodes of its own, and small ones.
    let big = [text(1, 6 << 20), noise(2, 2 << 20)].concat();
    let small: Vec<Op> = (0..200).map(|at| put(&format!("f{at}"), zurich.write(&text(100 + at, 5000)))).collect();
    volume.mutate(vec![put("big", zurich.write(&big))]);
    let seq = volume.mutate(small);
    let status = westeurope.in_sync(seq).await;
    assert_eq!(status.watermark.unwrap().digest, *volume.digest().as_bytes());
    assert_eq!((status.lag.seqs, status.missing_count, status.error), (0, 0, None));
    assert_eq!(westeurope.chunk_ids(), zurich.chunk_ids());
    zurich.in_sync(seq).await;
    let first = replicated(&westeurope);
    assert_eq!(first.chunks_received, zurich.chunk_ids().len() as u64);
    assert!(first.wire() < first.plain_received, "{first:?}");
    assert_eq!(
        replicated(&zurich).wire(),
        replicated(&zurich).chunk_sent + replicated(&zurich).control_sent + replicated(&zurich).control_received
    );

    // A rename, a copy and what is inline cost no chunk bytes, and no call at all.
    let copy = zurich.write(&big);
    volume.mutate(vec![rename("big", "moved"), put("copy", copy)]);
    let seq = volume.mutate(vec![put("inline", Content::Inline("a few bytes".into()))]);
    westeurope.in_sync(seq).await;
    assert_eq!(replicated(&westeurope), first);

    // An edit costs the chunks around it (and the manifest's node).
    let mut edited = big.clone();
    edited[3 << 20..(3 << 20) + 10].copy_from_slice(b"ten bytes!");
    let seq = volume.mutate(vec![put("moved", zurich.write(&edited))]);
    westeurope.in_sync(seq).await;
    let after = replicated(&westeurope);
    assert!(after.chunks_received - first.chunks_received <= 8, "{after:?}");
    assert!(after.wire() - first.wire() < 200 << 10, "{after:?}");

    // Restarted, it knows where it was, also when the change list is gone; and nothing is fetched again.
    westeurope.stop().await;
    drop(westeurope);
    let trust = Trust::new();
    let book = Arc::<Book>::default();
    let lonely = Node::start(&trust, &book, &homes[1], "westeurope", 2, None);
    lonely.attach(&volume);
    assert_eq!(lonely.in_sync(seq).await.watermark.unwrap().seq, seq);
    volume.forget_changes();
    let seq = volume.mutate(vec![Op::Unlink { at: at("copy"), expect: Default::default() }]);
    volume.forget_changes();
    assert_eq!(lonely.in_sync(seq).await.watermark.unwrap().seq, seq);
    assert_eq!(replicated(&lonely), WireBytes::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_goes_on_where_it_stopped_when_the_source_dies() {
    let Pair { trust, book, volume, homes, zurich, westeurope } = pair().await;
    let files: Vec<Vec<u8>> = (0..16).map(|at| noise(at, 1 << 20)).collect();
    let ops = files.iter().enumerate().map(|(at, bytes)| put(&format!("f{at}"), zurich.write(bytes))).collect();
    let seq = volume.mutate(ops);
    // Killed in the middle, twice; each time it comes back at another port.
    let mut zurich = zurich;
    for share in [4_u64, 2] {
        let plain: u64 = 16 << 20;
        westeurope.status_until(|status| status.fetched_plain_bytes > plain / share).await;
        assert_ne!(westeurope.replicator.status(VOLUME).unwrap().follower.watermark.map(|it| it.seq), Some(seq));
        zurich.endpoint.shutdown(Duration::ZERO).await;
        zurich.stop().await;
        drop(zurich);
        zurich = Node::start(&trust, &book, &homes[0], "zurich", 1, None);
    }
    westeurope.in_sync(seq).await;
    let received = replicated(&westeurope);
    let unique = westeurope.store.stats().raw_bytes;
    let twice = received.plain_received - unique;
    println!("{twice} of {unique} bytes came twice");
    assert!(twice * 100 <= unique * 15, "{twice} of {unique} bytes came twice");
    assert_eq!(westeurope.chunk_ids(), zurich.chunk_ids());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_killed_fetches_nothing_twice_that_it_had_synced() {
    let Pair { trust, book, volume, homes, zurich, westeurope } = pair().await;
    let seq = volume.mutate((0..16).map(|at| put(&format!("f{at}"), zurich.write(&noise(at, 1 << 20)))).collect());
    westeurope.status_until(|status| status.fetched_plain_bytes > 4 << 20).await;
    westeurope.stop().await;
    let had = westeurope.store.stats().raw_bytes;
    let before = replicated(&westeurope).plain_received;
    drop(westeurope);
    let westeurope = Node::start(&trust, &book, &homes[1], "westeurope", 2, None);
    assert!(westeurope.store.stats().raw_bytes >= had.min(before));
    westeurope.attach(&volume);
    westeurope.in_sync(seq).await;
    let again = replicated(&westeurope).plain_received;
    assert_eq!(again + had, westeurope.store.stats().raw_bytes, "what was there was not fetched");
    assert_eq!(westeurope.chunk_ids(), zurich.chunk_ids());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_source_is_noticed_and_the_chunk_comes_from_another_site() {
    let Pair { trust, book, volume, homes, zurich, westeurope } = pair().await;
    let seq = volume.mutate(vec![put("f", zurich.write(&noise(7, 3 << 20)))]);
    westeurope.in_sync(seq).await;
    zurich.in_sync(seq).await;
    // A bit flips on zurich's disk, in the middle of the pack.
    let pack = homes[0].packs().into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut file = std::fs::OpenOptions::new().read(true).write(true).open(&pack).unwrap();
    let middle = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.seek(SeekFrom::Start(middle)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(middle)).unwrap();
    file.write_all(&[byte[0] ^ 4]).unwrap();
    // A third site becomes a replica, for which zurich is the nearest.
    *book.far.lock().unwrap() = Some(site("westeurope"));
    volume.spec.lock().unwrap().0.replicas.push(site("eastus"));
    let home = Home::new();
    let eastus = Node::start(&trust, &book, &home, "eastus", 3, None);
    eastus.attach(&volume);
    eastus.in_sync(seq).await;
    assert_eq!(eastus.chunk_ids(), westeurope.chunk_ids());
    let from = |name: &str| {
        let place = Place::Site(site(name));
        eastus.replicator.counters().total(|account| account.place == place).chunks_received
    };
    assert_eq!(from("westeurope"), 1, "the damaged chunk came from there");
    assert_eq!(from("zurich") + 1, westeurope.chunk_ids().len() as u64);

    // A client reads the damaged chunk through zurich, which heals itself.
    assert_eq!(zurich.store.corrupt_ids().len(), 1);
    let alice = trust.client(&PeerId::client("alice").unwrap());
    let wanted: Vec<ChunkId> = westeurope.chunk_ids().into_iter().collect();
    let mut reader = alice.read(&zurich.addr, &about(), Some(site("westeurope")), wanted.clone());
    for id in &wanted {
        assert_eq!(realm().chunk_id(&reader.next().await.unwrap().unwrap()), *id);
    }
    assert_eq!(zurich.chunk_ids(), westeurope.chunk_ids());
    zurich.store.sync().unwrap();
    assert!(zurich.store.corrupt_ids().is_empty());
}

/// A store that takes a chunk and does not give it, once asked to.
#[derive(Debug)]
struct Forgetful {
    store: Arc<ChunkStore>,
    gone: Arc<Mutex<Option<ChunkId>>>,
}

impl Forgetful {
    fn also(&self, mut ids: Vec<ChunkId>, asked: &[ChunkId]) -> Vec<ChunkId> {
        let gone = *self.gone.lock().unwrap();
        ids.extend(gone.filter(|gone| asked.contains(gone) && !ids.contains(gone)));
        ids
    }
}

impl LocalChunks for Forgetful {
    fn get(&self, id: &ChunkId) -> Result<Option<EncodedChunk>, LocalError> {
        Ok(LocalChunks::get(&*self.store, id)?.filter(|chunk| Some(chunk.id) != *self.gone.lock().unwrap()))
    }

    fn put_many(&self, chunks: &[EncodedChunk]) -> Result<PutCounts, LocalError> {
        LocalChunks::put_many(&*self.store, chunks)
    }

    fn sync(&self) -> Result<(), LocalError> {
        LocalChunks::sync(&*self.store)
    }

    fn missing(&self, ids: &[ChunkId]) -> Result<Vec<ChunkId>, LocalError> {
        Ok(self.also(LocalChunks::missing(&*self.store, ids)?, ids))
    }

    fn not_durable(&self, ids: &[ChunkId]) -> Result<Vec<ChunkId>, LocalError> {
        Ok(self.also(LocalChunks::not_durable(&*self.store, ids)?, ids))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_took_and_does_not_give_holds_the_watermark_up() {
    let (trust, book, volume) = (Trust::new(), Arc::<Book>::default(), Volume::new("zurich", &["westeurope"]));
    *book.volume.lock().unwrap() = Some(volume.clone());
    let homes = [Home::new(), Home::new()];
    let zurich = Node::start(&trust, &book, &homes[0], "zurich", 1, None);
    let gone = Arc::<Mutex<Option<ChunkId>>>::default();
    let forgets = gone.clone();
    let westeurope = Node::start_over(&trust, &book, &homes[1], ("westeurope", 2), None, |store| {
        Arc::new(Forgetful { store, gone: forgets })
    });
    zurich.attach(&volume);
    westeurope.attach(&volume);
    let seq = volume.mutate(vec![put("good", zurich.write(&text(1, 50_000)))]);
    westeurope.in_sync(seq).await;
    let before = zurich.chunk_ids();
    let content = zurich.write(&noise(2, 50_000));
    let lost = *zurich.chunk_ids().difference(&before).next().unwrap();
    *gone.lock().unwrap() = Some(lost);
    volume.mutate(vec![put("bad", content.clone())]);
    let status = westeurope.status_until(|status| status.error.is_some()).await;
    let error = status.error.unwrap();
    assert!(error.contains(&lost.to_string()) && error.contains("does not have"), "{error}");
    assert_eq!(status.watermark.unwrap().seq, seq, "it stays where everything is there");
    // A reader is told, and does not fetch it for ever.
    let needed = Needed {
        realm: realm(),
        volume: Some(VOLUME),
        origin: Some(site("zurich")),
        cause: Cause::Read,
        ids: vec![lost],
    };
    let refused = westeurope.replicator.elsewhere().ensure(needed, PATIENCE).await.unwrap_err();
    assert!(refused.message.contains("3 times"), "{refused:?}");
    *gone.lock().unwrap() = None;
    westeurope.in_sync(volume.seq()).await;
    for node in [zurich, westeurope] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_is_nowhere_is_named_and_the_watermark_waits_for_it() {
    let Pair { volume, zurich, westeurope, homes: _homes, .. } = pair().await;
    let seq = volume.mutate(vec![put("good", zurich.write(&text(1, 50_000)))]);
    westeurope.in_sync(seq).await;
    // Committed although its chunk is on no disk.
    let lost = noise(99, 10_000);
    let id = realm().chunk_id(&lost);
    let manifest = causeway_dedup::Manifest::new([causeway_dedup::Extent::Chunk { id, len: 10_000 }]).unwrap();
    let root = manifest.store(&realm(), |_, _| ()).unwrap().as_bytes().clone();
    let origin = site("zurich");
    let content = causeway_namespace_core::inode::ManifestRef { size: 10_000, root, origin };
    let check = zurich.replicator.content();
    let refused = check.check_durable("default", std::slice::from_ref(&content)).await.unwrap_err();
    assert!(refused.to_string().contains(&id.to_string()), "{refused}");
    volume.mutate(vec![put("bad", Content::Manifest(content.clone())), put("fine", zurich.write(&text(3, 50_000)))]);
    let status = westeurope.status_until(|status| status.missing_count > 0).await;
    assert_eq!(status.missing.len(), 1);
    assert_eq!((status.missing[0].id, status.missing[0].why), (id, WhyMissing::Nowhere));
    assert_eq!(status.watermark.unwrap().seq, seq, "it stays where everything is there");
    // When it turns up, the watermark moves by itself.
    zurich.store.put(&encode(lost)).unwrap();
    westeurope.in_sync(volume.seq()).await;
    assert_eq!(check.check_durable("default", &[content]).await.map(drop).map_err(|it| it.to_string()), Ok(()));
    assert_eq!(westeurope.chunk_ids(), zurich.chunk_ids());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_site_fetches_what_is_read_once_and_nothing_else() {
    let Pair { trust, book, volume, zurich, westeurope, homes: _homes } = pair().await;
    let contents: Vec<Content> = (0..10).map(|at| zurich.write(&text(at, 300_000))).collect();
    let seq = volume.mutate(contents.iter().enumerate().map(|(at, it)| put(&format!("f{at}"), it.clone())).collect());
    westeurope.in_sync(seq).await;
    let home = Home::new();
    let eastus = Node::start(&trust, &book, &home, "eastus", 3, None);
    eastus.attach(&volume);
    let Content::Manifest(manifest) = &contents[3] else { panic!("inline") };
    let root = causeway_dedup::ManifestRoot::decode(&manifest.root).unwrap();
    let mut ids = Vec::new();
    let nodes = root.load(|id| {
        ids.push(id);
        zurich.store.get(&id).unwrap().unwrap().decode(&realm()).map_err(|error| error.to_string())
    });
    ids.extend(nodes.unwrap().chunk_ids());
    let client = trust.client(&PeerId::client("alice").unwrap());
    // Many readers at once; each chunk crosses once.
    let readers = (0..8).map(|_| {
        let (client, addr, ids) = (client.clone(), eastus.addr.clone(), ids.clone());
        tokio::spawn(async move {
            let mut reader = client.read(&addr, &about(), Some(site("zurich")), ids.clone());
            for id in &ids {
                assert_eq!(realm().chunk_id(&reader.next().await.unwrap().unwrap()), *id);
            }
        })
    });
    for reader in readers.collect::<Vec<_>>() {
        reader.await.unwrap();
    }
    let unique: std::collections::BTreeSet<_> = ids.iter().copied().collect();
    assert_eq!(eastus.chunk_ids(), unique);
    let read =
        eastus.replicator.counters().total(|account| account.cause == Cause::Read && account.place != Place::Clients);
    assert_eq!(read.chunks_received, unique.len() as u64);
    assert_eq!(replicated(&eastus), WireBytes::default());
    // With every other site gone, what was read can still be, and what was not says so soon.
    zurich.stop().await;
    westeurope.stop().await;
    let mut reader = client.read(&eastus.addr, &about(), Some(site("zurich")), ids.clone());
    for _ in &ids {
        reader.next().await.unwrap().unwrap();
    }
    let other = westeurope.chunk_ids().into_iter().find(|id| !unique.contains(id)).unwrap();
    let mut reader = client.read(&eastus.addr, &about(), Some(site("zurich")), vec![other]);
    let error = tokio::time::timeout(Duration::from_secs(15), reader.next()).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("cannot be reached"), "{error}");
    assert!(!eastus.replicator.status(VOLUME).unwrap().follower.follows);
    assert_eq!(volume.seq(), seq.max(Seq(1)));
}
