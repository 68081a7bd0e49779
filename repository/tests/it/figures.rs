//! Figures of the whole path on a volume of a million files. Run by hand, in release:
//! `cargo test --release -p causeway-repository --test it -- --ignored --nocapture figures`

use std::time::Instant;

use bytes::Bytes;

use causeway_base::{ClusterId, Epoch, Ino, Seq, SiteName, Timestamp, VolumeId};
use causeway_namespace_core::digest::Digest;
use causeway_namespace_core::inode::{Attr, Body, Content, Dirent, FileKind, Inode, ManifestRef};
use causeway_namespace_core::{encode, key, query};
use causeway_repository::dr::DrReader;
use causeway_repository::image::{ImageRecords, ImageSource, ImageWriter, WriterOptions};
use causeway_repository::{ImageTotals, Repository, RepositoryOptions};

const FILES_PER_FOLDER: u64 = 100;

fn attr() -> Attr {
    Attr { mode: 0o644, uid: 1000, gid: 1000, mtime: Timestamp(1_600_000_000_000_000_000), ctime: Timestamp(0) }
}

fn inode(n: u64, version: u64) -> Inode {
    let mut root = vec![0; 60];
    blake3::Hasher::new().update(&n.to_le_bytes()).update(&version.to_le_bytes()).finalize_xof().fill(&mut root);
    let origin: SiteName = "zurich".parse().unwrap();
    let content = Content::Manifest(ManifestRef { size: 100_000, root: root.into(), origin });
    Inode { attr: attr(), nlink: 1, version: Seq(version), body: Body::File(content), xattrs: Vec::new(), quota: None }
}

fn directory(parent: Ino, entries: u64) -> Inode {
    let body = Body::Directory { parent, entries, name: Bytes::new() };
    Inode { attr: attr(), nlink: 1, version: Seq(1), body, xattrs: Vec::new(), quota: None }
}

/// A tree as an import would make it: folders of 100 files under the top, inodes numbered as they come.
fn records(files: u64) -> impl Iterator<Item = (Bytes, Bytes)> {
    let folders = files / FILES_PER_FOLDER;
    let block = FILES_PER_FOLDER + 1;
    let folder_ino = move |folder: u64| Ino(2 + folder * block);
    let top = std::iter::once((key::inode(Ino::ROOT), encode::to_bytes(&directory(Ino::ROOT, folders))));
    let inodes = (0..folders).flat_map(move |folder| {
        let ino = folder_ino(folder);
        let this = std::iter::once((key::inode(ino), encode::to_bytes(&directory(Ino::ROOT, FILES_PER_FOLDER))));
        this.chain(
            (1..=FILES_PER_FOLDER).map(move |n| (key::inode(Ino(ino.0 + n)), encode::to_bytes(&inode(ino.0 + n, 1)))),
        )
    });
    let entry = |dir: Ino, name: String, ino: Ino, kind: FileKind| {
        (key::dirent(dir, name.as_bytes()), encode::to_bytes(&Dirent { ino, kind }))
    };
    let tops =
        (0..folders).map(move |f| entry(Ino::ROOT, format!("folder-{f:08}"), folder_ino(f), FileKind::Directory));
    let names = (0..folders).flat_map(move |f| {
        let dir = folder_ino(f);
        (1..=FILES_PER_FOLDER).map(move |n| entry(dir, format!("file-{n:05}.bin"), Ino(dir.0 + n), FileKind::File))
    });
    top.chain(inodes).chain(tops).chain(names)
}

fn source(files: u64, seq: u64, digest: Digest, records: ImageRecords) -> ImageSource {
    ImageSource {
        cluster: ClusterId(1),
        volume: VolumeId(1),
        name: "big".into(),
        epoch: Epoch(1),
        term: 1,
        seq: Seq(seq),
        digest,
        at: Timestamp(0),
        spec: Bytes::new(),
        totals: ImageTotals { files, ..ImageTotals::default() },
        chunks_durable_to: Seq(seq),
        force_shrink: false,
        records,
    }
}

/// An image as a running volume has it: a complete run, and as many runs of changes as are left uncompacted, or more.
async fn publish_all(repository: &Repository, files: u64, publishes: u64, per_publish: u64) -> ImageWriter {
    let writer = ImageWriter::new(repository.clone(), ClusterId(1), VolumeId(1), WriterOptions::default());
    let mut digest = Digest::default();
    let mut count = 0_u64;
    for (key, value) in records(files) {
        digest.add(&key, &value);
        count += 1;
    }
    let started = Instant::now();
    let full = ImageRecords::Full(Box::new(records(files).map(Ok)));
    let published = writer.publish(source(files, 1, digest, full)).await.unwrap();
    let took = started.elapsed().as_secs_f64();
    let bytes = published.bytes;
    println!(
        "full image: {files} files, {count} records, {bytes} bytes, {took:.2} s, {:.0} records/s",
        count as f64 / took
    );

    let before = repository.requests();
    let started = Instant::now();
    let mut bytes = 0;
    for seq in 2..2 + publishes {
        let mut changes = std::collections::BTreeMap::new();
        for n in 0..per_publish {
            // All over the tree; each inode at most once, else the digest would need its last value.
            let folder = (seq * per_publish + n) * 7919 % (files / FILES_PER_FOLDER);
            let ino = 2 + folder * (FILES_PER_FOLDER + 1) + 1 + seq % FILES_PER_FOLDER;
            let key = key::inode(Ino(ino));
            let new = encode::to_bytes(&inode(ino, seq));
            digest.remove(&key, &encode::to_bytes(&inode(ino, 1)));
            digest.add(&key, &new);
            changes.insert(key, Some(new));
        }
        let changes = Box::new(changes.into_iter().map(Ok));
        let records = ImageRecords::Changes { since_epoch: Epoch(1), since: Seq(seq - 1), changes };
        bytes += writer.publish(source(files, seq, digest, records)).await.unwrap().bytes;
        if let Some(compacted) = writer.compact().await.unwrap() {
            bytes += compacted.bytes;
        }
    }
    let after = repository.requests();
    println!(
        "{publishes} publishes of {per_publish} changes, compaction included: {:.2} s, {bytes} bytes, {} puts, {} gets, {} lists",
        started.elapsed().as_secs_f64(),
        after.puts - before.puts,
        after.gets - before.gets,
        after.lists - before.lists,
    );
    writer
}

/// `ls -l` of one folder with nothing known but the address. Gives the requests.
async fn cold_listing(url: &str, folder: &'static str) -> u64 {
    let started = Instant::now();
    let reader = DrReader::open(url, RepositoryOptions::default()).await.unwrap();
    let volume = reader.volume("big", None).await.unwrap();
    let listing = tokio::task::spawn_blocking({
        let volume = volume.clone();
        move || {
            let (ino, _) = query::stat(&volume, folder.as_bytes()).unwrap().unwrap();
            query::readdir_plus(&volume, ino, None, 1000).unwrap().len()
        }
    });
    assert_eq!(listing.await.unwrap() as u64, FILES_PER_FOLDER);
    let cold = reader.repository().requests();
    println!(
        "cold ls -l of a folder of {FILES_PER_FOLDER}: {:.3} s, {} requests, {} bytes, {} runs",
        started.elapsed().as_secs_f64(),
        cold.requests(),
        cold.bytes_got,
        volume.head().runs.len(),
    );
    cold.requests()
}

#[tokio::test]
async fn a_cold_listing_takes_at_most_twenty_requests() {
    let directory = tempfile::tempdir().unwrap();
    let url = directory.path().to_str().unwrap();
    let repository = Repository::open(url, RepositoryOptions::creating()).await.unwrap();
    let writer = publish_all(&repository, 60_000, 7, 12).await;
    assert_eq!(writer.newest().await.unwrap().unwrap().runs.len(), 8, "as many as there may be");
    let requests = cold_listing(url, "folder-00000042").await;
    assert!(requests <= 20, "{requests}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn figures() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path().to_str().unwrap().to_owned();
    let url = std::env::var("CAUSEWAY_FIGURES_URL").unwrap_or(here);
    let files: u64 = std::env::var("CAUSEWAY_FIGURES_FILES").map_or(1_000_000, |files| files.parse().unwrap());
    let repository = Repository::open(&url, RepositoryOptions::creating()).await.unwrap();
    // A minute's worth.
    publish_all(&repository, files, 60, 17).await;
    cold_listing(&url, "folder-00004321").await;

    let reader = DrReader::open(&url, RepositoryOptions::default()).await.unwrap();
    let volume = reader.volume("big", None).await.unwrap();
    let started = Instant::now();
    let read = tokio::task::spawn_blocking(move || volume.records().map(Result::unwrap).count()).await.unwrap();
    let took = started.elapsed().as_secs_f64();
    println!("records() verified: {read} in {took:.2} s, {:.0} records/s", read as f64 / took);
}
