//! Parts of files are changed in place: what is read and sent, and that the result is what a local edit makes.

use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use crate::cluster::{Cluster, feed, text};
use crate::copies::noise;

/// Runs an editing command that must succeed; its report.
fn edit<const N: usize>(cluster: &Cluster, args: [&str; N], input: &[u8]) -> serde_json::Value {
    let output = feed(cluster, args, input.to_vec()).join().unwrap();
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused<const N: usize>(cluster: &Cluster, code: i32, args: [&str; N], input: &[u8]) -> String {
    let output = feed(cluster, args, input.to_vec()).join().unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn hash(path: &Path) -> blake3::Hash {
    blake3::Hasher::new().update_reader(std::fs::File::open(path).unwrap()).unwrap().finalize()
}

/// Fetches a file through a site and compares it with a local one.
fn same(cluster: &Cluster, site: &str, path: &str, local: &Path) {
    let got = cluster.folder.path().join("got");
    cluster.ok(["--site", site, "get", path, got.to_str().unwrap()]);
    assert_eq!(got.metadata().unwrap().len(), local.metadata().unwrap().len());
    assert_eq!(hash(&got), hash(local), "{path} through {site}");
    std::fs::remove_file(got).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_byte_of_a_large_file_costs_a_few_chunks() {
    let mut cluster = Cluster::start().await;
    let local = cluster.folder.path().join("large");
    let size: usize = 200 << 20;
    std::fs::write(&local, noise(1, size)).unwrap();
    let file = std::fs::File::options().write(true).open(&local).unwrap();
    cluster.ok(["put", local.to_str().unwrap(), "/data/large"]);
    let before = cluster.json(["stat", "/data/large"]);

    file.write_all_at(b"!", 123_456_789).unwrap();
    let report = edit(&cluster, ["write", "/data/large", "--offset", "123456789"], b"!");
    let bytes = |name: &str| report[name].as_u64().unwrap();
    assert_eq!((bytes("size"), bytes("attempts")), (size as u64, 1));
    // A few chunks of 256 KiB at most, and the nodes above them.
    assert!(bytes("bytes_read") <= 1 << 20, "{report}");
    assert!(bytes("manifest_bytes_read") <= 128 << 10, "{report}");
    assert!(bytes("bytes_uploaded") <= 1 << 20, "{report}");
    same(&cluster, "zurich", "/data/large", &local);
    let after = cluster.json(["stat", "/data/large"]);
    assert_eq!(after["mode"], before["mode"]);
    assert_eq!(after["ino"], before["ino"]);
    assert!(after["version"].as_u64() > before["version"].as_u64());

    // A full pass over the same bytes finds nothing new: the manifests and all chunks are the same.
    let again = cluster.json(["put", local.to_str().unwrap(), "/data/again"]);
    assert_eq!(again["sent"]["new_chunks"], 0, "{again}");

    // Inserted, behind the end, and cut; compared with a local file that is edited in the same way.
    let mut bytes = std::fs::read(&local).unwrap();
    bytes.splice(77..77, *b"seventeen bytes!!");
    std::fs::write(&local, &bytes).unwrap();
    let report = edit(&cluster, ["write", "/data/large", "--offset", "77", "--insert"], b"seventeen bytes!!");
    assert!(report["bytes_uploaded"].as_u64().unwrap() <= 1 << 20, "{report}");
    let more = noise(2, 10 << 20);
    file.write_all_at(&more, bytes.len() as u64).unwrap();
    edit(&cluster, ["append", "/data/large"], &more);
    file.set_len(150_000_001).unwrap();
    let report = edit(&cluster, ["truncate", "/data/large", "150000001"], b"");
    assert_eq!(report["size"], 150_000_001);
    // A cache fetches it.
    same(&cluster, "eastus", "/data/large", &local);
    cluster.nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_and_sparse_files_and_what_is_refused() {
    let mut cluster = Cluster::start().await;
    let local = cluster.folder.path().join("small");
    std::fs::write(&local, "hello").unwrap();
    cluster.ok(["put", local.to_str().unwrap(), "/data/small"]);
    edit(&cluster, ["write", "/data/small", "--offset", "1"], b"a");
    assert_eq!(cluster.ok(["cat", "/data/small"]), b"hallo");
    edit(&cluster, ["append", "/data/small"], b" there");
    edit(&cluster, ["write", "/data/small", "--offset", "5", "--insert"], b",");
    assert_eq!(cluster.ok(["cat", "/data/small"]), b"hallo, there");
    // Out of the inode into chunks, and back.
    let long = noise(3, 50_000);
    edit(&cluster, ["append", "/data/small"], &long);
    assert_eq!(cluster.ok(["cat", "/data/small"]), [b"hallo, there", &long[..]].concat());
    edit(&cluster, ["truncate", "/data/small", "5"], b"");
    assert_eq!(cluster.ok(["cat", "/data/small"]), b"hallo");
    edit(&cluster, ["truncate", "/data/small", "0"], b"");
    edit(&cluster, ["append", "/data/small"], b"");
    assert_eq!(cluster.ok(["cat", "/data/small"]), b"");

    // Holes cost nothing, and come out as holes.
    let report = edit(&cluster, ["write", "/data/small", "--offset", "1073741824"], b"far out");
    assert!(report["bytes_uploaded"].as_u64().unwrap() < 4096, "{report}");
    edit(&cluster, ["truncate", "/data/small", "2GiB"], b"");
    let got = cluster.folder.path().join("sparse");
    cluster.ok(["get", "/data/small", got.to_str().unwrap()]);
    let metadata = got.metadata().unwrap();
    assert_eq!(metadata.len(), 2 << 30);
    assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
    assert_eq!(cluster.ok(["cat", "/data/small", "--offset", "1073741823", "--length", "9"]), b"\0far out\0");

    // Written at a site that has nothing of the file: what is kept of it is brought there before the commit.
    let far = cluster.folder.path().join("far");
    let mut bytes = noise(5, 3 << 20);
    std::fs::write(&far, &bytes).unwrap();
    cluster.ok(["put", far.to_str().unwrap(), "/data/far"]);
    edit(&cluster, ["--site", "eastus", "append", "/data/far"], b"from afar");
    bytes.extend_from_slice(b"from afar");
    assert!(cluster.ok(["--site", "westeurope", "cat", "/data/far"]) == bytes);

    // Refused, with nothing changed.
    refused(&cluster, 4, ["append", "/data/none"], b"x");
    refused(&cluster, 5, ["append", "/data"], b"x");
    let told = refused(&cluster, 5, ["write", "/data/small", "--offset", "9000000000", "--insert"], b"x");
    assert!(told.contains("behind the end"), "{told}");
    refused(&cluster, 5, ["truncate", "/data/small", "0", "--if-version", "1"], b"");
    let version = cluster.json(["stat", "/data/small"])["version"].to_string();
    edit(&cluster, ["truncate", "/data/small", "7", "--if-version", &version], b"");
    cluster.nodes.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_at_once_are_all_kept() {
    let mut cluster = Cluster::start().await;
    let local = cluster.folder.path().join("log");
    std::fs::write(&local, noise(4, 300_000)).unwrap();
    cluster.ok(["put", local.to_str().unwrap(), "/data/log"]);
    // Long lines, so that the file's last chunks change each time.
    let line = |number: u8| noise(number + 10, 20_000);
    let writers: Vec<_> = (0..6).map(|number| feed(&cluster, ["append", "/data/log"], line(number))).collect();
    for writer in writers {
        let output = writer.join().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    }
    let all = cluster.ok(["cat", "/data/log"]);
    assert_eq!(all.len(), 300_000 + 6 * 20_000);
    assert_eq!(all[..300_000], noise(4, 300_000));
    let mut found: Vec<&[u8]> = all[300_000..].chunks(20_000).collect();
    let mut expected: Vec<Vec<u8>> = (0..6).map(line).collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert!(found == expected, "each line is there once and whole");
    cluster.nodes.stop().await;
}
