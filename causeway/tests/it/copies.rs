//! Odd trees go in and come out as they were, through another site too.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::cluster::Cluster;

/// Bytes that no compressor shrinks and no two files share.
pub(crate) fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

fn odd_name() -> PathBuf {
    PathBuf::from(OsString::from_vec(b"not-utf8-\xff\xfe\x01".to_vec()))
}

fn odd_tree(root: &Path) {
    std::fs::create_dir_all(root.join("deep/er/still")).unwrap();
    std::fs::create_dir(root.join("empty-folder")).unwrap();
    std::fs::write(root.join("empty"), "").unwrap();
    std::fs::write(root.join("small"), "a few bytes").unwrap();
    std::fs::write(root.join("at-the-limit"), noise(1, 4096)).unwrap();
    std::fs::write(root.join("above-the-limit"), noise(2, 4097)).unwrap();
    // Larger than a group of the import, and with a manifest of several levels.
    std::fs::write(root.join("deep/large"), noise(3, 20 << 20)).unwrap();
    std::fs::write(root.join("deep/er/still/twin"), noise(3, 20 << 20)).unwrap();
    std::fs::write(root.join(odd_name()), noise(4, 70_000)).unwrap();
    std::fs::write(root.join("n".repeat(255)), "the longest name").unwrap();
    symlink("../somewhere/that/is/not", root.join("dangling")).unwrap();
    symlink("small", root.join("pointing")).unwrap();
    std::fs::hard_link(root.join("small"), root.join("deep/second-name")).unwrap();
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(&noise(5, 10_000), 0).unwrap();
    sparse.write_all_at(&noise(6, 10_000), 300 << 20).unwrap();
    sparse.set_len(400 << 20).unwrap();
    std::fs::set_permissions(root.join("above-the-limit"), PermissionsExt::from_mode(0o4711)).unwrap();
    let old = SystemTime::UNIX_EPOCH - Duration::from_millis(12_345_678);
    std::fs::File::options().write(true).open(root.join("small")).unwrap().set_modified(old).unwrap();
}

#[derive(Debug, PartialEq, Eq)]
struct Seen {
    kind: &'static str,
    mode: u32,
    mtime: (i64, i64),
    len: u64,
    nlink: u64,
    content: Vec<u8>,
}

/// Everything below a folder: attributes, and content by its hash.
fn seen(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut all = BTreeMap::new();
    for found in walkdir::WalkDir::new(root) {
        let found = found.unwrap();
        let metadata = found.path().symlink_metadata().unwrap();
        let (kind, content) = if metadata.is_dir() {
            ("folder", Vec::new())
        } else if metadata.is_symlink() {
            ("symlink", std::fs::read_link(found.path()).unwrap().into_os_string().into_vec())
        } else {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(std::fs::File::open(found.path()).unwrap()).unwrap();
            ("file", hasher.finalize().as_bytes().to_vec())
        };
        let seen = Seen {
            kind,
            mode: metadata.mode(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            len: if metadata.is_dir() { 0 } else { metadata.len() },
            nlink: if metadata.is_dir() { 0 } else { metadata.nlink() },
            content,
        };
        all.insert(found.path().strip_prefix(root).unwrap().to_owned(), seen);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_odd_tree_comes_out_as_it_went_in_at_another_site() {
    let mut cluster = Cluster::start().await;
    let source = cluster.folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    odd_tree(&source);

    let copied = cluster.json(["cp".as_ref(), "-r".as_ref(), source.as_os_str(), "cw:/data".as_ref()]);
    assert_eq!(copied["files"], 9, "{copied}");
    assert_eq!(copied["links"], 1, "{copied}");
    assert_eq!(copied["symlinks"], 2, "{copied}");
    // Two files of 20 MiB are equal, 400 MiB are mostly a hole.
    let stored = copied["sent"]["stored_bytes"].as_u64().unwrap();
    assert!(stored < 24 << 20, "{stored} bytes were stored for 20 MiB of distinct data");

    let copy = cluster.folder.path().join("copy");
    // A cache: it has nothing yet, so every chunk comes from another site.
    cluster.ok(["--site", "eastus", "cp", "-r", "cw:/data/source", copy.to_str().unwrap()]);
    let (went_in, came_out) = (seen(&source), seen(&copy));
    assert_eq!(went_in.keys().collect::<Vec<_>>(), came_out.keys().collect::<Vec<_>>());
    for (path, expected) in &went_in {
        assert_eq!(&came_out[path], expected, "{}", path.display());
    }
    let blocks = copy.join("sparse").metadata().unwrap().blocks();
    assert!(blocks * 512 < 1 << 20, "the copy is sparse: {blocks} blocks");

    // The same again: nothing is sent twice, nothing is in the way.
    let again = cluster.json(["cp".as_ref(), "-r".as_ref(), source.as_os_str(), "cw:/data".as_ref()]);
    assert_eq!(again["sent"]["new_chunks"], 0, "{again}");
    assert_eq!(again["left_out"].as_array().unwrap().len(), 0, "{again}");
    cluster.nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_stored_is_listed_and_the_rest_goes_on() {
    let mut cluster = Cluster::start().await;
    let source = cluster.folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("good"), "good").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap();
    // A file stands where the tree has a folder.
    std::fs::create_dir(source.join("taken")).unwrap();
    std::fs::write(source.join("taken/inside"), "inside").unwrap();
    let file = cluster.folder.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    cluster.ok(["mkdir", "/data/source"]);
    cluster.ok(["put", file.to_str().unwrap(), "/data/source/taken"]);

    let told = cluster.fails(3, ["cp", "-r", source.to_str().unwrap(), "cw:/data"]);
    for path in ["socket", "taken", "taken/inside"] {
        assert!(told.contains(&format!("left out: {path}: ")), "{path}: {told}");
    }
    assert_eq!(cluster.ok(["cat", "/data/source/good"]), b"good");
    assert_eq!(cluster.ok(["cat", "/data/source/taken"]), b"in the way");
    cluster.nodes.stop().await;
}
