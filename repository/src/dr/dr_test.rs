use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;

use bytes::Bytes;
use object_store::memory::InMemory;

use causeway_base::{ClientId, ClusterId, Epoch, Ino, NodeId, Seq, Timestamp, VolumeId};
use causeway_dedup::{ChunkSizes, Chunker, EncodedChunk, Extent, Manifest, Realm};
use causeway_namespace_core::command::{At, Command, Expect, Op, Outcome, Request, RequestBody, SessionId};
use causeway_namespace_core::digest::Digest;
use causeway_namespace_core::inode::{Attr, Content, ManifestRef};
use causeway_namespace_core::memory::MemoryRecords;
use causeway_namespace_core::query;
use causeway_namespace_core::root::{ClusterRecord, NodeRecord, RealmKey, RootOp, VolumeSpec};

use super::*;
use crate::ImageTotals;
use crate::image::{ImageRecords, ImageSource, ImageWriter, WriterOptions};

const CLUSTER: ClusterId = ClusterId(0xc1);

fn realm() -> Realm {
    Realm::new("default", [5; 32])
}

/// A state machine that counts its seqs.
struct Machine {
    id: VolumeId,
    records: MemoryRecords,
    seq: u64,
    requests: u64,
}

impl Machine {
    fn new(id: VolumeId) -> Self {
        Self { id, records: MemoryRecords::new(), seq: 0, requests: 0 }
    }

    fn apply(&mut self, body: RequestBody) -> Vec<causeway_namespace_core::apply::Change> {
        self.seq += 1;
        let command = Command { requests: vec![Request { at: Timestamp(1), body }] };
        let applied = self.records.apply(Seq(self.seq), &command).unwrap();
        assert!(!matches!(applied.outcomes[0], Outcome::Refused(_) | Outcome::Invalid(_)), "{:?}", applied.outcomes);
        applied.changes
    }

    fn ops(&mut self, ops: Vec<Op>) -> Vec<causeway_namespace_core::apply::Change> {
        if self.requests == 0 {
            self.apply(RequestBody::OpenSession { client: ClientId(1) });
        }
        self.requests += 1;
        let (number, acked_below) = (self.requests, self.requests);
        self.apply(RequestBody::Mutate { session: SessionId(1), number, acked_below, ops })
    }

    fn image(&self, records: ImageRecords) -> ImageSource {
        let totals = query::totals(&self.records).unwrap();
        ImageSource {
            cluster: CLUSTER,
            volume: self.id,
            name: if self.id == VolumeId::ROOT { "root" } else { "home" }.into(),
            epoch: Epoch(1),
            term: 1,
            seq: Seq(self.seq),
            digest: self.records.digest(),
            at: Timestamp(7),
            spec: Bytes::new(),
            totals: ImageTotals {
                files: totals.files,
                directories: totals.dirs,
                symlinks: totals.symlinks,
                logical_bytes: totals.logical_bytes,
            },
            chunks_durable_to: Seq(self.seq),
            force_shrink: false,
            records,
        }
    }

    fn full(&self) -> ImageSource {
        let records: Vec<_> = self.records.iter().map(|(k, v)| Ok((k.clone(), v.clone()))).collect();
        self.image(ImageRecords::Full(Box::new(records.into_iter())))
    }
}

fn at(path: &[u8]) -> At {
    At { dir: Ino::ROOT, path: Bytes::copy_from_slice(path) }
}

fn attr(mode: u32) -> Attr {
    Attr { mode, uid: 0, gid: 0, mtime: Timestamp(1_500_000_000_123_456_789), ctime: Timestamp(2) }
}

fn put(path: &[u8], content: Content) -> Op {
    Op::PutFile { at: at(path), attr: attr(0o640), content, expect: Expect::Any }
}

/// Cuts, encodes and collects the chunks of a content.
fn store(plain: &[u8], hole: u64, chunks: &mut Vec<(causeway_base::ChunkId, Bytes)>) -> Content {
    let mut extents = Vec::new();
    if hole > 0 {
        extents.push(Extent::Hole { len: hole });
    }
    for chunk in Chunker::new(plain, ChunkSizes::from_avg(16 << 10).unwrap()) {
        let chunk = chunk.unwrap();
        let id = realm().chunk_id(&chunk);
        extents.push(Extent::Chunk { id, len: u32::try_from(chunk.len()).unwrap() });
        chunks.push((id, chunk));
    }
    let manifest = Manifest::new(extents).unwrap();
    let root = manifest.store(&realm(), |id, bytes| chunks.push((id, bytes))).unwrap();
    let origin = "zurich".parse().unwrap();
    Content::Manifest(ManifestRef { size: manifest.size, root: root.as_bytes().clone(), origin })
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

struct Fixture {
    reader: DrReader,
    machine: Machine,
    files: BTreeMap<Vec<u8>, Vec<u8>>,
}

async fn publish(repository: &Repository, source: ImageSource) {
    let options = WriterOptions::default();
    let writer = ImageWriter::new(repository.clone(), CLUSTER, source.volume, options);
    writer.publish(source).await.unwrap();
}

/// A cluster with a volume of some files, archived: a full image, then changes on it.
async fn fixture() -> Fixture {
    let repository =
        Repository::with_store(Arc::new(InMemory::new()), "memory:", RepositoryOptions::creating()).await.unwrap();
    let site: causeway_base::SiteName = "zurich".parse().unwrap();
    let mut root = Machine::new(VolumeId::ROOT);
    let (grpc, quic) = (String::from("a:1"), String::from("a:2"));
    root.apply(RequestBody::Root(RootOp::Bootstrap {
        cluster: ClusterRecord { id: CLUSTER, epoch: Epoch(1) },
        nodes: vec![NodeRecord {
            id: NodeId(1),
            site: site.clone(),
            store: None,
            grpc,
            quic,
            witness: false,
            state: Default::default(),
        }],
        realm_key: RealmKey(realm().key),
        topology: Default::default(),
    }));
    let spec = VolumeSpec {
        name: "home".into(),
        mount: Bytes::from_static(b"/home"),
        home: site.clone(),
        survive: None,
        residency: Default::default(),
        learners: Vec::new(),
        voters: vec![NodeId(1)],
        replicas: vec![site],
        caches: Vec::new(),
        archive: true,
        chunk_bytes_avg: 16 << 10,
        inline_bytes_max: 4096,
        realm: "default".into(),
    };
    root.apply(RequestBody::Root(RootOp::CreateVolume { spec }));
    let id = query::volume_by_name(&root.records, "home").unwrap().unwrap().id;
    publish(&repository, root.full()).await;

    let mut machine = Machine::new(id);
    // In the order of the files, as an archiver finds them.
    let mut chunks = Vec::new();
    let mut files = BTreeMap::new();
    machine.ops(vec![Op::Mkdir { at: at(b"a/b"), attr: attr(0o750), parents: true }]);
    for n in 0..40_u64 {
        let (path, plain) = (format!("a/b/f{n}").into_bytes(), noise(usize::try_from(n * 3_000).unwrap(), n));
        let content =
            if plain.len() < 4096 { Content::Inline(plain.clone().into()) } else { store(&plain, 0, &mut chunks) };
        machine.ops(vec![put(&path, content)]);
        files.insert(path, plain);
    }
    publish(&repository, machine.full()).await;

    // What follows comes as changes.
    let since = machine.seq;
    let mut changes = BTreeMap::new();
    let sparse = noise(50_000, 99);
    let not_utf8 = b"a/\xff\xfe".to_vec();
    // Large enough that its manifest is in chunks itself.
    let large = noise(9 << 20, 77);
    for ops in [
        vec![put(b"a/sparse", store(&sparse, 1 << 20, &mut chunks))],
        vec![put(&not_utf8, Content::Inline(Bytes::from_static(b"x")))],
        vec![put(b"large", store(&large, 0, &mut chunks))],
        vec![Op::Symlink { at: at(b"link"), attr: attr(0o777), target: Bytes::from_static(b"a/b/f3") }],
        vec![Op::Link { from: at(b"a/b/f4"), to: at(b"hard") }],
        vec![Op::Unlink { at: at(b"a/b/f5"), expect: Expect::Any }],
        vec![Op::Rename { from: at(b"a/b/f6"), to: at(b"moved"), no_replace: true }],
    ] {
        for change in machine.ops(ops) {
            changes.insert(change.key, change.new);
        }
    }
    files.insert(b"a/sparse".to_vec(), [vec![0; 1 << 20], sparse].concat());
    files.insert(not_utf8, b"x".to_vec());
    files.insert(b"large".to_vec(), large);
    files.insert(b"hard".to_vec(), files[&b"a/b/f4"[..]].clone());
    files.remove(&b"a/b/f5"[..]);
    let moved = files.remove(&b"a/b/f6"[..]).unwrap();
    files.insert(b"moved".to_vec(), moved);

    let archive = ChunkArchive::open(repository.clone(), IndexMode::Loaded).await.unwrap();
    let encoded: Vec<_> = chunks.into_iter().map(|(id, plain)| Ok(EncodedChunk::encode(id, plain, 3))).collect();
    archive.put_chunks(Box::new(encoded.into_iter())).await.unwrap();
    let changes = Box::new(changes.into_iter().map(Ok));
    let records = ImageRecords::Changes { since_epoch: Epoch(1), since: Seq(since), changes };
    publish(&repository, machine.image(records)).await;
    Fixture { reader: DrReader::new(repository), machine, files }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test]
async fn the_image_answers_every_query_as_the_state_machine_does() {
    let Fixture { reader, machine, .. } = fixture().await;
    let volumes = reader.volumes().await.unwrap();
    let names: Vec<_> = volumes.iter().map(|v| v.head.as_ref().unwrap().name.clone()).collect();
    assert_eq!(names, ["root", "home"]);
    let volume = reader.volume("home", None).await.unwrap();
    let by_id = reader.volume(&machine.id.to_string(), Some(CLUSTER)).await.unwrap();
    assert_eq!(by_id.head(), volume.head());
    assert_eq!((volume.head().seq, volume.head().runs.len()), (Seq(machine.seq), 2));
    assert!(matches!(reader.volume("nope", None).await, Err(Error::NoImage { .. })));
    blocking(move || {
        let expected: Vec<_> = query::Walk::new(&machine.records, Ino::ROOT).collect::<Result<_, _>>().unwrap();
        let found: Vec<_> = query::Walk::new(&volume, Ino::ROOT).collect::<Result<_, _>>().unwrap();
        assert_eq!(found, expected);
        assert_eq!(query::totals(&volume).unwrap(), query::totals(&machine.records).unwrap());
        assert_eq!(query::stat(&volume, b"a/b/f5").unwrap(), Err(causeway_namespace_core::command::Errno::NotFound));
        let all: Vec<_> = volume.records().map(Result::unwrap).collect();
        let expected: Vec<_> = machine.records.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        assert_eq!(all, expected);
    })
    .await;
}

#[tokio::test]
async fn an_earlier_image_can_be_opened() {
    let Fixture { reader, .. } = fixture().await;
    let newest = reader.volume("home", None).await.unwrap();
    let generations = reader.generations(newest.directory()).await.unwrap();
    assert_eq!(generations, [2, 1]);
    let earlier = reader.volume_at(newest.directory(), 1).await.unwrap();
    let found = blocking(move || query::stat(&earlier, b"a/b/f5").unwrap().is_ok()).await;
    assert!(found, "it was not deleted yet");
}

#[tokio::test]
async fn files_are_read_by_range_and_only_their_chunks_are_fetched() {
    let Fixture { reader, files, .. } = fixture().await;
    let volume = reader.volume("home", None).await.unwrap();
    let contents = reader.contents(&volume, IndexMode::Lazy).await.unwrap();
    for (path, plain) in files {
        let (volume, asked) = (volume.clone(), path.clone());
        let (_, inode) = blocking(move || query::stat(&volume, &asked).unwrap().unwrap()).await;
        assert_eq!(contents.read(&inode, 0, usize::MAX).await.unwrap(), plain, "{:?}", String::from_utf8_lossy(&path));
        let middle = plain.len() / 3..plain.len() * 2 / 3;
        let before = reader.repository().requests();
        let read = contents.read(&inode, middle.start as u64, middle.len()).await.unwrap();
        assert_eq!(read, plain[middle.clone()]);
        let got = reader.repository().requests().bytes_got - before.bytes_got;
        assert!(got < middle.len() as u64 + (300 << 10), "{got} bytes fetched for {middle:?}");
        assert_eq!(contents.read(&inode, plain.len() as u64 + 5, 10).await.unwrap(), Bytes::new());
    }
}

#[tokio::test]
async fn verify_finds_what_is_missing_and_what_is_damaged() {
    let Fixture { reader, files, .. } = fixture().await;
    let volume = reader.volume("home", None).await.unwrap();
    let contents = reader.contents(&volume, IndexMode::Loaded).await.unwrap();
    let verify = |read| {
        let (volume, contents) = (volume.clone(), contents.clone());
        blocking(move || volume.verify(&contents, read).unwrap())
    };
    let whole = verify(ReadData::All).await;
    assert!(whole.is_whole() && whole.chunks_read == whole.chunks, "{whole:?}");
    assert_eq!(whole.files, files.len() as u64 - 1, "one has two names");
    let some = verify(ReadData::Share { share: 0.2, salt: 1 }).await;
    assert!(some.is_whole() && some.chunks_read > 0 && some.chunks_read < some.chunks / 2, "{some:?}");
    assert_eq!(verify(ReadData::No).await.chunks, whole.chunks);

    // One byte of a pack flips.
    let repository = reader.repository();
    let pack = repository.store.list(names::PACKS, 1).await.unwrap().remove(0);
    let path = names::pack(names::number(&pack.name).unwrap());
    let mut bytes = repository.store.get(&path, 80 << 20).await.unwrap().unwrap().to_vec();
    bytes[1_000] ^= 1;
    repository.store.delete(&path).await.unwrap();
    repository.store.create(&path, bytes.into()).await.unwrap();
    assert!(verify(ReadData::No).await.is_whole(), "the index alone cannot tell");
    let damaged = verify(ReadData::All).await;
    assert_eq!((damaged.problem_count, damaged.chunks), (1, whole.chunks), "{damaged:?}");

    // The indexes are gone.
    for listed in repository.store.list(names::INDEX, usize::MAX).await.unwrap() {
        repository.store.delete(&format!("index/{}", listed.name)).await.unwrap();
    }
    let blind = DrReader::new(repository.clone());
    let contents = blind.contents(&volume, IndexMode::Loaded).await.unwrap();
    let missing = blocking({
        let volume = volume.clone();
        move || volume.verify(&contents, ReadData::No).unwrap()
    });
    assert!(!missing.await.is_whole());

    // A segment of the image is damaged: no report, an error.
    let segment = volume.head().runs[0].segments[0].clone();
    let path = names::segment(volume.directory(), segment.name);
    let mut bytes = repository.store.get(&path, 1 << 30).await.unwrap().unwrap().to_vec();
    bytes[60] ^= 1;
    repository.store.delete(&path).await.unwrap();
    repository.store.create(&path, bytes.into()).await.unwrap();
    let contents = reader.contents(&volume, IndexMode::Loaded).await.unwrap();
    let error = blocking(move || volume.verify(&contents, ReadData::No).unwrap_err()).await;
    assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
}

#[tokio::test]
async fn an_image_that_contradicts_its_digest_is_not_taken_for_whole() {
    let Fixture { reader, .. } = fixture().await;
    let volume = reader.volume("home", None).await.unwrap();
    let mut head = volume.head().clone();
    head.digest = Digest::default();
    let lying = DrVolume::new(reader.repository().clone(), volume.directory().to_owned(), head);
    let last = blocking(move || lying.records().last().unwrap()).await;
    assert!(matches!(last, Err(Error::Digest { .. })));
}

#[tokio::test]
async fn an_export_is_the_tree() {
    let Fixture { reader, files, .. } = fixture().await;
    let volume = reader.volume("home", None).await.unwrap();
    let contents = reader.contents(&volume, IndexMode::Loaded).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let to = directory.path().join("out");
    let (report, to) = blocking(move || {
        let mut entries = 0;
        let report = volume.export(&contents, b"", &to, |_, _| entries += 1).unwrap();
        assert_eq!(entries, report.files + report.directories + report.symlinks);
        assert!(matches!(volume.export(&contents, b"", &to, |_, _| ()), Err(Error::Local { .. })), "not empty");
        let one = to.parent().unwrap().join("one");
        volume.export(&contents, b"moved", &one, |_, _| ()).unwrap();
        assert_eq!(std::fs::read(one).unwrap(), std::fs::read(to.join("moved")).unwrap());
        (report, to)
    })
    .await;
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert_eq!((report.files, report.directories, report.symlinks), (files.len() as u64, 2, 1));
    for (path, plain) in &files {
        let path = to.join(std::ffi::OsStr::from_bytes(path));
        assert_eq!(&std::fs::read(&path).unwrap(), plain);
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o640);
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_500_000_000, 123_456_789));
    }
    assert_eq!(std::fs::read_link(to.join("link")).unwrap(), std::path::Path::new("a/b/f3"));
    let ino = |name: &str| std::fs::metadata(to.join(name)).unwrap().ino();
    assert_eq!(ino("hard"), ino("a/b/f4"));
    assert!(std::fs::metadata(to.join("a/sparse")).unwrap().blocks() * 512 < 1 << 20, "the hole stayed one");
    assert_eq!(std::fs::metadata(to.join("a/b")).unwrap().permissions().mode() & 0o7777, 0o750);
}
