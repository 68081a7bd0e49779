//! FETCH, UPLOAD, MISSING and READ, with good peers and bad ones.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use causeway_base::{ChunkId, RetryClass};
use causeway_dedup::store::INDEX_SPACES;
use causeway_dedup::{ChunkStore, Codec, EncodedChunk, Realm, StoreOptions};
use causeway_replicator::wire::{
    Bases, CORRUPT_MAX, Cause, ChunkRequest, EndCounts, Form, Frame, IDS_MAX, Received, Refusal, StreamEncoder, service,
};
use causeway_replicator::{ClientError, Needed, Place, ReadThrough};
use causeway_storage::disk::RealDisk;
use causeway_storage::kv::MemoryKv;
use causeway_transport::PeerId;
use causeway_transport::quic::{Handler, RecvStream, SendStream};

use crate::common::*;

fn request(ids: Vec<ChunkId>, form: Form) -> ChunkRequest {
    ChunkRequest {
        realm: "default".to_owned(),
        volume: None,
        cause: Cause::Replication,
        origin: None,
        form,
        ids,
        bases: Bases::default(),
        any_base: false,
    }
}

/// What a fetch gave.
#[derive(Clone, Debug, Default)]
struct Got {
    chunks: Vec<(ChunkId, Bytes)>,
    missing: Vec<usize>,
    corrupt: Vec<usize>,
    baseless: Vec<usize>,
}

/// Collects what a fetch gives.
fn collect(wanted: Vec<ChunkId>) -> (Arc<Mutex<Got>>, impl FnMut(Received) -> bool + Send + 'static) {
    let got = Arc::new(Mutex::new(Got::default()));
    let sink = got.clone();
    let consume = move |received| {
        let mut got = sink.lock().unwrap();
        match received {
            Received::Chunk { index, plain, .. } => got.chunks.push((wanted[index], plain)),
            Received::Missing { index } => got.missing.push(index),
            Received::Corrupt { index } => got.corrupt.push(index),
            Received::Baseless { index } => got.baseless.push(index),
        }
        true
    };
    (got, consume)
}

#[tokio::test]
async fn a_fetch_brings_what_there_is_and_names_what_is_not() {
    let trust = Trust::new();
    let chunks = mixed(200);
    let store = MemoryChunks::with(&chunks);
    let (to, _server, served) = trust.serve(&node("zurich", 1), store);
    let client = trust.client(&node("eastus", 2));
    let mut wanted = ids(&chunks);
    wanted.insert(3, ChunkId([1; 32]));
    wanted.push(ChunkId([2; 32]));
    let mut wire = Vec::new();
    for form in [Form::Stored, Form::WAN] {
        let (got, consume) = collect(wanted.clone());
        let before = client.counters().total(|_| true).wire();
        let counts = client.fetch(&to, realm(), request(wanted.clone(), form), &[], None, consume).await.unwrap();
        wire.push(client.counters().total(|_| true).wire() - before);
        let got = got.lock().unwrap().clone();
        let plain: u64 = chunks.iter().map(|chunk| u64::from(chunk.raw_len)).sum();
        assert_eq!(counts, EndCounts { chunks: 200, missing: 2, plain_bytes: plain });
        assert_eq!(got.missing, [3, 201]);
        let expected: BTreeSet<_> = chunks.iter().map(|it| (it.id, it.decode(&realm()).unwrap())).collect();
        assert_eq!(got.chunks.into_iter().collect::<BTreeSet<_>>(), expected);
    }
    assert!(wire[1] < wire[0], "one stream is shorter than chunks by themselves: {wire:?}");
    let both = client.counters().total(|account| account.place == Place::Site("zurich".parse().unwrap()));
    let other = served.total(|account| account.place == Place::Site("eastus".parse().unwrap()));
    assert_eq!((both.chunk_received, both.control_sent), (other.chunk_sent, other.control_received));
    assert_eq!(both.chunks_received, 400);
}

#[tokio::test]
async fn a_damaged_chunk_of_the_source_is_missing_in_a_stream_and_corrupt_by_itself() {
    let trust = Trust::new();
    let chunks = mixed(8);
    let store = MemoryChunks::with(&chunks);
    store.falsify(&chunks[0].id); // does not compress: goes by itself
    store.falsify(&chunks[1].id); // goes in the stream
    let (to, _server, _) = trust.serve(&node("zurich", 1), store);
    let client = trust.client(&node("eastus", 2));
    let (got, consume) = collect(ids(&chunks));
    let counts = client.fetch(&to, realm(), request(ids(&chunks), Form::WAN), &[], None, consume).await.unwrap();
    let got = got.lock().unwrap();
    assert_eq!((counts.chunks, &got.missing[..], &got.corrupt[..]), (6, &[1][..], &[0][..]));
}

#[tokio::test]
async fn what_is_uploaded_is_durable_once_acknowledged() {
    let trust = Trust::new();
    let store = Arc::new(MemoryChunks::default());
    let (to, _server, _) = trust.serve(&node("zurich", 1), store.clone());
    let client = trust.client(&PeerId::client("alice").unwrap());
    let chunks = mixed(300);
    let wanted = ids(&chunks);
    assert_eq!(client.missing(&to, &about(), &wanted).await.unwrap(), wanted);
    let mut upload = client.upload(&to, &about()).await.unwrap();
    for chunk in &chunks[..100] {
        upload.put(chunk.clone()).await.unwrap();
    }
    let ack = upload.sync().await.unwrap();
    assert_eq!((ack.new, ack.known), (100, 0));
    assert!(wanted[..100].iter().all(|id| store.is_durable(id)));
    assert_eq!(client.missing(&to, &about(), &wanted).await.unwrap(), wanted[100..]);
    for chunk in &chunks[50..] {
        upload.put(chunk.clone()).await.unwrap();
    }
    let ack = upload.finish().await.unwrap();
    assert_eq!((ack.new, ack.known), (200, 50));
    assert!(wanted.iter().all(|id| store.is_durable(id)));
    assert_eq!(client.missing(&to, &about(), &wanted).await.unwrap(), []);
}

#[tokio::test]
async fn an_upload_of_wrong_bytes_or_to_a_full_disk_says_why() {
    let trust = Trust::new();
    let store = Arc::new(MemoryChunks::default());
    let (to, _server, _) = trust.serve(&node("zurich", 1), store.clone());
    let client = trust.client(&PeerId::client("mallory").unwrap());
    let good = encode(text(1, 5000));
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    for bad in [
        EncodedChunk { id: ChunkId([9; 32]), ..good.clone() },
        EncodedChunk { raw_len: 4999, ..good.clone() },
        EncodedChunk { raw_len: 1 << 20, codec: Codec::Zstd, payload: bomb.into(), ..good.clone() },
    ] {
        let mut upload = client.upload(&to, &about()).await.unwrap();
        upload.put(bad.clone()).await.unwrap();
        let error = upload.finish().await.unwrap_err();
        assert!(matches!(&error, ClientError::Refused(refusal) if refusal.class == RetryClass::Refused), "{error:?}");
        assert!(!store.has(&bad.id));
    }
    *store.full.lock().unwrap() = true;
    let mut upload = client.upload(&to, &about()).await.unwrap();
    let mut error = None;
    for seed in 0..10_000 {
        if let Err(failed) = upload.put(encode(noise(seed, 60_000))).await {
            error = Some(failed);
            break;
        }
    }
    let error = error.expect("the node stops reading long before");
    assert!(error.to_string().contains("the disk is full"), "{error}");
    assert_eq!(error.retry_class(), RetryClass::Transient);
}

#[tokio::test]
async fn who_may_not_is_not_told_what_there_is() {
    let trust = Trust::new();
    let chunks = mixed(4);
    let (to, _server, _) = trust.serve(&node("zurich", 1), MemoryChunks::with(&chunks));
    let stranger = trust.client(&PeerId::client("stranger").unwrap());
    let refused = stranger.missing(&to, &about(), &ids(&chunks)).await.unwrap_err();
    let other = causeway_replicator::About { realm: causeway_dedup::Realm::new("none", [0; 32]), ..about() };
    let alice = trust.client(&PeerId::client("alice").unwrap());
    let unknown = alice.missing(&to, &other, &ids(&chunks)).await.unwrap_err();
    assert!(refused.to_string().contains("no realm"), "{refused}");
    assert!(unknown.to_string().contains("no realm"), "{unknown}");
    let (_, consume) = collect(ids(&chunks));
    let fetch = alice.fetch(&to, realm(), request(ids(&chunks), Form::WAN), &[], None, consume).await.unwrap_err();
    assert!(fetch.to_string().contains("no node"), "{fetch}");
}

/// Has chunks elsewhere, brings them when asked.
#[derive(Debug)]
struct Elsewhere {
    far: Arc<MemoryChunks>,
    near: Arc<MemoryChunks>,
    asked: Mutex<Vec<(Cause, usize)>>,
}

#[async_trait]
impl ReadThrough for Elsewhere {
    async fn ensure(&self, needed: Needed, _deadline: Duration) -> Result<(), Refusal> {
        use causeway_replicator::LocalChunks;
        self.asked.lock().unwrap().push((needed.cause, needed.ids.len()));
        for id in &needed.ids {
            let nowhere = || Refusal { class: RetryClass::Transient, message: format!("chunk {id} is nowhere") };
            let chunk = self.far.get(id).unwrap().ok_or_else(nowhere)?;
            self.near.put_many(&[chunk]).unwrap();
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_read_comes_in_order_through_a_node_that_lacks_half() {
    let trust = Trust::new();
    let chunks = mixed(700);
    let half: Vec<_> = chunks.iter().step_by(2).cloned().collect();
    let near = MemoryChunks::with(&half);
    let far = MemoryChunks::with(&chunks);
    let elsewhere = Arc::new(Elsewhere { far, near: near.clone(), asked: Mutex::default() });
    let (to, _server, _) = trust.serve_with(&node("eastus", 3), near.clone(), elsewhere.clone());
    let client = trust.client(&PeerId::client("alice").unwrap());
    let mut wanted = ids(&chunks);
    wanted.extend_from_slice(&ids(&chunks[..5])); // a file may hold a chunk twice
    for pass in 0..2 {
        let mut reader = client.read(&to, &about(), None, wanted.clone());
        for id in &wanted {
            let plain = reader.next().await.unwrap().unwrap();
            assert_eq!(realm().chunk_id(&plain), *id);
        }
        assert_eq!(reader.next().await.unwrap(), None);
        let brought: usize = elsewhere.asked.lock().unwrap().iter().map(|(_, count)| count).sum();
        assert_eq!(brought, 350, "pass {pass}: each is fetched once");
    }
    // A damaged chunk is noticed before it leaves the node, and fetched again.
    near.damage(&wanted[20]);
    let mut reader = client.read(&to, &about(), None, wanted.clone());
    for id in &wanted {
        assert_eq!(realm().chunk_id(&reader.next().await.unwrap().unwrap()), *id);
    }
    assert_eq!(elsewhere.asked.lock().unwrap().last(), Some(&(Cause::Repair, 1)));
    // What is nowhere is said by name.
    let mut reader = client.read(&to, &about(), None, vec![wanted[0], ChunkId([3; 32])]);
    let error = reader.next().await.unwrap_err();
    assert!(error.to_string().contains("is nowhere"), "{error}");
}

/// Answers every call with the frames that it was given.
struct Scripted(Vec<Frame>);

#[async_trait]
impl Handler for Scripted {
    async fn handle(&self, _: PeerId, _: u16, _: Bytes, _recv: RecvStream, mut send: SendStream) {
        for frame in &self.0 {
            if send.write_frame(frame.pieces().concat().into()).await.is_err() {
                return;
            }
        }
        let _ = send.finish();
    }
}

fn stream(records: &[(u32, &[u8])]) -> Frame {
    let mut encoder = StreamEncoder::new(3, 20).unwrap();
    let mut bytes = Vec::new();
    for (index, plain) in records {
        bytes.extend_from_slice(&encoder.push(*index, plain).unwrap().unwrap_or_default());
    }
    bytes.extend_from_slice(&encoder.finish().unwrap());
    Frame::Stream(bytes.into())
}

#[tokio::test]
async fn a_hostile_source_is_cut_off_and_nothing_of_it_is_kept() {
    let trust = Trust::new();
    let chunks = mixed(40);
    let wanted = ids(&chunks);
    let end = Frame::End(EndCounts::default());
    let plain = chunks[0].decode(&realm()).unwrap();
    let alone = |index, chunk: &EncodedChunk| Frame::Chunk {
        index,
        codec: chunk.codec,
        base: 0,
        raw_len: chunk.raw_len,
        payload: chunk.payload.clone(),
    };
    let bomb = zstd::stream::encode_all(std::io::Read::take(std::io::repeat(0), 1 << 28), 1).unwrap();
    let wide = {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.set_parameter(zstd::stream::raw::CParameter::WindowLog(27)).unwrap();
        std::io::Write::write_all(&mut encoder, &vec![1; 1 << 20]).unwrap();
        encoder.finish().unwrap()
    };
    let scripts: Vec<(&str, Vec<Frame>)> = vec![
        ("not asked for", vec![stream(&[(4000, &plain)]), end.clone()]),
        ("comes twice", vec![stream(&[(0, &plain), (0, &plain)]), end.clone()]),
        ("comes twice", vec![alone(0, &chunks[0]), alone(0, &chunks[0]), end.clone()]),
        ("has 40000", vec![stream(&[(0, &plain[..1000])]), end.clone()]),
        ("a chunk of 0 bytes", vec![Frame::Stream(bomb.into()), end.clone()]),
        ("does not decode", vec![Frame::Stream(wide.into()), end.clone()]),
        ("does not decode", vec![Frame::Stream(Bytes::from_static(b"no zstd frame at all")), end.clone()]),
        ("cannot be missing", vec![Frame::Missing(vec![0, 0]), end.clone()]),
        ("another service", vec![Frame::Sync(1), end.clone()]),
        (
            "was not offered",
            vec![Frame::Chunk { index: 0, codec: Codec::Planes, base: 0, raw_len: 40_000, payload: plain.clone() }],
        ),
        ("the stream ends before", vec![alone(0, &chunks[0])]),
        ("were not what their ids say", (0..40).map(|at| alone(at, &encode(noise(900, 77)))).collect()),
    ];
    assert!(scripts.last().is_some_and(|(_, frames)| frames.len() > CORRUPT_MAX));
    let client = trust.client(&node("eastus", 2));
    for (expected, frames) in scripts {
        let peer = node("zurich", 1);
        let server = trust.endpoint(&peer, Arc::new(Scripted(frames)));
        let (got, consume) = collect(wanted.clone());
        let lens: Vec<Option<u32>> = if expected.contains("not what") {
            Vec::new()
        } else {
            chunks.iter().map(|chunk| Some(chunk.raw_len)).collect()
        };
        let to = address(&server, &peer);
        let error =
            client.fetch(&to, realm(), request(wanted.clone(), Form::WAN), &lens, None, consume).await.unwrap_err();
        let mut chain = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            chain.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        assert!(chain.contains(expected), "{expected}: {chain}");
        for (id, plain) in &got.lock().unwrap().chunks {
            assert_eq!(realm().chunk_id(plain), *id, "unverified bytes were given out");
        }
    }
}

#[tokio::test]
async fn a_request_out_of_bounds_is_refused() {
    let trust = Trust::new();
    let (to, _server, _) = trust.serve(&node("zurich", 1), Arc::new(MemoryChunks::default()));
    let caller = trust.endpoint(&node("eastus", 2), Arc::new(causeway_transport::quic::NoService));
    let good = request(vec![ChunkId([1; 32])], Form::WAN).encode().unwrap();
    let mut long = good.to_vec();
    long.extend(std::iter::repeat_n(0, 32 * IDS_MAX));
    let mut newer = good.to_vec();
    newer[0] = 9;
    for (bytes, expected) in [(long, "hints"), (newer, "version 9"), (vec![1, 2, 3], "malformed")] {
        let (_send, mut recv) = caller.call(&to, service::FETCH, bytes.into(), PATIENCE).await.unwrap();
        let frame = recv.read_frame(4096).await.unwrap().unwrap();
        let Ok(Frame::Refused(refusal)) = Frame::parse(frame) else { panic!("not refused") };
        assert!(refusal.message.contains(expected), "{refusal}");
    }
    let (_send, mut recv) = caller.call(&to, 99, good, PATIENCE).await.unwrap();
    assert!(recv.read_frame(4096).await.is_err());
}

/// Two realms on one node: whoever may use one learns nothing of the other's content, by no call. (A chunk's name is a keyed
/// hash: without the other realm's key nobody can tell the name of a content.)
#[tokio::test]
async fn one_realm_cannot_tell_whether_another_has_a_content() {
    let trust = Trust::new();
    let (ours, theirs) = (realm(), Realm::new("theirs", [8; 32]));
    let (shared, secret) = (noise(1, 20_000), noise(2, 20_000));
    let in_theirs = |plain: &[u8]| EncodedChunk::encode(theirs.chunk_id(plain), Bytes::copy_from_slice(plain), 3);
    let chunks = [in_theirs(&shared), in_theirs(&secret)];
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions { reserve_bytes: 0, ..StoreOptions::default() };
    let kv = Arc::new(MemoryKv::new(INDEX_SPACES));
    let (store, _) = ChunkStore::open(Arc::new(RealDisk), folder.path().join("chunks"), kv, options).unwrap();
    let store = Arc::new(store);
    store.put_many(&chunks).unwrap();
    store.sync().unwrap();
    let (to, _server, _) = trust.serve(&node("zurich", 1), store.clone());
    let client = trust.client(&PeerId::client("ours").unwrap());

    // What the other realm has is missing under this realm's name for it, as what nobody has.
    let names: Vec<ChunkId> = [&shared, &secret, &noise(3, 20_000)].iter().map(|plain| ours.chunk_id(plain)).collect();
    assert_eq!(client.missing(&to, &about(), &names).await.unwrap(), names);
    // It has to be sent, and is stored a second time: an upload that were spared would tell.
    let upload = EncodedChunk::encode(ours.chunk_id(&shared), shared.clone().into(), 3);
    let mut uploader = client.upload(&to, &about()).await.unwrap();
    uploader.put(upload.clone()).await.unwrap();
    let ack = uploader.finish().await.unwrap();
    assert_eq!((ack.new, ack.known), (1, 0));
    assert_eq!(client.missing(&to, &about(), &names).await.unwrap(), names[1..]);

    // Even with one of the other realm's names in hand, nothing is read by it, nothing is put under it.
    let foreign = chunks[1].id;
    let first = client.read(&to, &about(), None, vec![foreign]).next().await;
    assert!(!matches!(first, Ok(Some(_))), "{first:?}");
    let mut uploader = client.upload(&to, &about()).await.unwrap();
    let put = uploader.put(chunks[1].clone()).await;
    let done = uploader.finish().await;
    assert!(put.is_err() || done.is_err(), "bytes whose name is of another realm are not this realm's");
    // A node gets nothing that it would take for good either.
    let peer = trust.client(&node("eastus", 2));
    let (got, consume) = collect(vec![foreign]);
    let fetched = peer.fetch(&to, ours.clone(), request(vec![foreign], Form::WAN), &[None], None, consume).await;
    assert!(got.lock().unwrap().chunks.is_empty(), "{fetched:?}");
    assert_eq!(store.get(&foreign).unwrap().unwrap(), chunks[1], "the other realm's chunk is as it was");
    assert_eq!(store.get(&upload.id).unwrap().unwrap().decode(&ours).unwrap(), shared);
}
