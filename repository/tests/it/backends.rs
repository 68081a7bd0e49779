//! One suite that every backend passes: memory and a local directory always; others where the environment names them.
//!
//! - `CAUSEWAY_TEST_AZURE=azure://container` with the settings that `object_store` reads from the environment, for Azurite
//!   on loopback `AZURE_STORAGE_USE_EMULATOR=true`. `tests/with-azurite` starts one and makes the container.
//! - `CAUSEWAY_TEST_S3=s3://bucket` with `AWS_ENDPOINT`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_ALLOW_HTTP`.
//! - `CAUSEWAY_TEST_GCS=gs://bucket`.
//!
//! Each run uses a prefix of its own and leaves its objects there.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use causeway_base::{ByteSize, ClusterId, Epoch, Seq, Timestamp, VolumeId};
use causeway_dedup::{EncodedChunk, Realm};
use causeway_namespace_core::digest::Digest;
use causeway_namespace_core::records::Records;
use causeway_repository::archive::{ChunkArchive, IndexMode};
use causeway_repository::dr::DrReader;
use causeway_repository::image::{CleanPolicy, ImageRecords, ImageSource, ImageWriter, WriterOptions};
use causeway_repository::{Error, ImageTotals, Repository, RepositoryOptions};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

const CLUSTER: ClusterId = ClusterId(1);
const VOLUME: VolumeId = VolumeId(2);

fn options(create: bool) -> RepositoryOptions {
    RepositoryOptions {
        create,
        segment_bytes: ByteSize::kib(64),
        pack_bytes: ByteSize::kib(256),
        ..RepositoryOptions::default()
    }
}

#[tokio::test]
async fn a_local_directory() {
    let directory = tempfile::tempdir().unwrap();
    conforms(&format!("file://{}", directory.path().join("a b/repository").display())).await;
    conforms(directory.path().join("plain").to_str().unwrap()).await;
}

#[tokio::test]
async fn azure() {
    from_environment("CAUSEWAY_TEST_AZURE").await;
}

#[tokio::test]
async fn s3() {
    from_environment("CAUSEWAY_TEST_S3").await;
}

#[tokio::test]
async fn gcs() {
    from_environment("CAUSEWAY_TEST_GCS").await;
}

#[tokio::test]
async fn what_is_no_repository_is_refused_with_a_reason() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("r");
    let url = path.to_str().unwrap();
    assert!(matches!(Repository::open(url, options(false)).await, Err(Error::NoRepository { .. })));
    assert!(!path.exists(), "a wrong address is not made");
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(Repository::open(url, options(false)).await, Err(Error::NoRepository { .. })));
    std::fs::write(path.join("thesis.txt"), "mine").unwrap();
    assert!(matches!(Repository::open(url, options(true)).await, Err(Error::NotEmpty { .. })));
    std::fs::write(path.join("causeway-repository"), "not a marker at all").unwrap();
    assert!(matches!(Repository::open(url, options(true)).await, Err(Error::Marker { .. })));
    for wrong in ["", "ftp://host/x", "file://relative/x", "azure://", "s3://"] {
        let error = Repository::open(wrong, RepositoryOptions { environment: false, ..options(true) }).await;
        assert!(matches!(error, Err(Error::Address { .. })), "{wrong:?}: {error:?}");
    }
}

async fn from_environment(variable: &str) {
    let Ok(url) = std::env::var(variable) else {
        eprintln!("{variable} is not set: this backend is not tested");
        return;
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    conforms(&format!("{}/conformance-{now}", url.trim_end_matches('/'))).await;
}

fn source(model: &Model, seq: u64, records: ImageRecords) -> ImageSource {
    ImageSource {
        cluster: CLUSTER,
        volume: VOLUME,
        name: "home".into(),
        epoch: Epoch(1),
        term: 1,
        seq: Seq(seq),
        digest: Digest::of(model.iter().map(|(key, value)| (&key[..], &value[..]))),
        at: Timestamp(1),
        spec: Bytes::new(),
        totals: ImageTotals { files: model.len() as u64, ..ImageTotals::default() },
        chunks_durable_to: Seq(seq),
        force_shrink: false,
        records,
    }
}

fn full(model: &Model) -> ImageRecords {
    let records: Vec<_> = model.iter().map(|(k, v)| Ok((k.clone().into(), v.clone().into()))).collect();
    ImageRecords::Full(Box::new(records.into_iter()))
}

/// All that the crate asks of a store, through its own interfaces.
async fn conforms(url: &str) {
    assert!(matches!(Repository::open(url, options(false)).await, Err(Error::NoRepository { .. })));
    let (a, b) = tokio::join!(Repository::open(url, options(true)), Repository::open(url, options(true)));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!(a.id(), b.id(), "of two that create it at once one wins, and both use it");
    assert_eq!(Repository::open(url, options(false)).await.unwrap().id(), a.id());
    chunks(&a, &b).await;
    images(url, &a, &b).await;
}

async fn chunks(a: &Repository, b: &Repository) {
    let realm = Realm::new("default", [9; 32]);
    let chunk = |n: u64| {
        let mut plain = vec![0; 30_000];
        blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut plain);
        EncodedChunk::encode(realm.chunk_id(&plain), plain.into(), 3)
    };
    let archives = [a, b].map(|repository| ChunkArchive::open(repository.clone(), IndexMode::Loaded));
    let [first, second] = archives;
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    let put = |archive: &ChunkArchive, numbers: std::ops::Range<u64>| {
        let chunks: Vec<_> = numbers.map(|n| Ok(chunk(n))).collect();
        let archive = archive.clone();
        async move { archive.put_chunks(Box::new(chunks.into_iter())).await.unwrap() }
    };
    let (one, two) = tokio::join!(put(&first, 0..40), put(&second, 20..60));
    assert!(one.packs > 1 && two.packs > 1);
    let ids: Vec<_> = (0..60).map(|n| chunk(n).id).collect();
    for archive in [&first, &second] {
        for (n, found) in (0..).zip(archive.get_many(&ids).await.unwrap()) {
            assert_eq!(found, Some(chunk(n)));
        }
    }
    for n in 100..120 {
        put(&first, n..n + 1).await;
    }
    assert!(first.merge_indexes().await.unwrap() > 1);
    assert_eq!(second.get(chunk(110).id).await.unwrap(), Some(chunk(110)));
}

async fn images(url: &str, a: &Repository, b: &Repository) {
    let writer = |repository: &Repository| {
        ImageWriter::new(repository.clone(), CLUSTER, VOLUME, WriterOptions { runs_max: 3, ..WriterOptions::default() })
    };
    let (old, new) = (writer(a), writer(b));
    // Several segments.
    let mut model: Model = (0..8_000_u32).map(|n| (n.to_be_bytes().to_vec(), format!("{n:0100}").into())).collect();
    assert!(old.publish(source(&model, 1, full(&model))).await.unwrap().new);
    for seq in 2..12_u64 {
        let key = u32::try_from(seq).unwrap().to_be_bytes().to_vec();
        let value = (seq % 3 > 0).then(|| seq.to_string().into_bytes());
        match value.clone() {
            Some(value) => model.insert(key.clone(), value),
            None => model.remove(&key),
        };
        let changes = Box::new(std::iter::once(Ok((key.into(), value.map(Bytes::from)))));
        let records = ImageRecords::Changes { since_epoch: Epoch(1), since: Seq(seq - 1), changes };
        assert!(old.publish(source(&model, seq, records)).await.unwrap().new);
        if let Some(compacted) = old.compact().await.unwrap() {
            assert!(compacted.runs <= 3);
        }
    }
    // Create-only: of two writers that put the same generation one loses, and is told whether it is deposed.
    assert_eq!(new.newest().await.unwrap().unwrap().seq, Seq(11));
    assert!(new.publish(ImageSource { term: 2, ..source(&model, 12, full(&model)) }).await.unwrap().new);
    let late = old.publish(source(&model, 13, full(&model))).await;
    assert!(matches!(late, Err(Error::Fenced { term: 2, seq: Seq(12), .. })), "{late:?}");
    assert_eq!(new.clean(CleanPolicy::default()).await.unwrap().heads, 0);

    let reader = DrReader::open(url, options(false)).await.unwrap();
    let volume = reader.volume("home", None).await.unwrap();
    assert_eq!(volume.head().seq, Seq(12));
    let expected: Vec<_> = model.iter().map(|(k, v)| (Bytes::from(k.clone()), Bytes::from(v.clone()))).collect();
    tokio::task::spawn_blocking(move || {
        assert_eq!(volume.records().collect::<Result<Vec<_>, _>>().unwrap(), expected);
        let (from, to) = (5_000_u32.to_be_bytes(), 5_100_u32.to_be_bytes());
        assert_eq!(volume.scan(&from, &to, 1000).unwrap().len(), 100);
        assert_eq!(volume.get(&3_u32.to_be_bytes()).unwrap(), None);
        assert_eq!(volume.get(&4_u32.to_be_bytes()).unwrap().as_deref(), Some(&b"4"[..]));
    })
    .await
    .unwrap();
}
