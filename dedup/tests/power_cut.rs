//! A power cut under a pack store: an ext4 image on a loop device, shut down under load without a log flush
//! (`EXT4_IOC_SHUTDOWN`), mounted again. What was acknowledged must be there, and nothing that is served may be wrong.
//!
//! Needs root, loop devices, `mkfs.ext4`, `unshare` and `python3` (for the ioctl); without one of them the test says so and
//! passes. `CAUSEWAY_POWER_CUTS` sets the number of cuts (default 2).

#![allow(clippy::unwrap_used)] // what fails here fails the test

use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use causeway_dedup::{ChunkStore, EncodedChunk, INDEX_SPACES, Realm, RecoveryReport, StoreOptions};
use causeway_storage::disk::RealDisk;
use causeway_storage::kv::{FjallKv, FjallOptions};

const FOLDER: &str = "CAUSEWAY_POWER_CUT_FOLDER";
const FIRST: &str = "CAUSEWAY_POWER_CUT_FIRST";
const SHUTDOWN: &str = "import fcntl, os, struct, sys
folder = os.open(sys.argv[1], os.O_RDONLY)
print('ready', flush=True)
sys.stdin.read()
fcntl.ioctl(folder, 0x8004587d, struct.pack('I', 2))";

#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged() {
    if let Err(reason) = can_run() {
        eprintln!("skipped: {reason}");
        return;
    }
    // A mount namespace of its own takes the mount with it, however this ends.
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["inside", "--exact", "--ignored", "--nocapture"])
        .status()
        .unwrap();
    assert!(status.success(), "{status:?}");
}

#[test]
#[ignore = "started by another test"]
fn inside() {
    let root = tempfile::tempdir().unwrap();
    let (image, folder) = (root.path().join("image"), root.path().join("mounted"));
    std::fs::create_dir(&folder).unwrap();
    std::fs::File::create(&image).unwrap().set_len(1 << 30).unwrap();
    run(Command::new("mkfs.ext4").arg("-q").arg(&image)).unwrap();
    let mount = || run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&folder));
    if let Err(reason) = mount() {
        eprintln!("skipped: {reason}");
        return;
    }
    let cuts: u64 = std::env::var("CAUSEWAY_POWER_CUTS").ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(2);
    let mut acknowledged = 0;
    for cut in 0..cuts {
        let mut writer = Writer::start(&folder, acknowledged);
        writer.wait_for(acknowledged + 20 + cut * 13);
        acknowledged = cut_power(&folder, cut % 2 == 1, || writer.said());
        writer.kill();
        run(Command::new("umount").arg(&folder)).unwrap();
        mount().unwrap();
        let (store, report) = open(&folder);
        eprintln!("{acknowledged} batches were acknowledged; {report:?}");
        assert!(report.damaged.iter().all(|range| !range.acknowledged), "{report:?}");
        for number in 0..acknowledged {
            for chunk in batch(number) {
                let found = store.get(&chunk.id).unwrap().unwrap_or_else(|| panic!("batch {number}: {}", chunk.id));
                assert_eq!(found.decode(&realm()).unwrap(), chunk.payload, "batch {number}");
            }
        }
        for id in store.iter_ids() {
            store.get(&id.unwrap()).unwrap().unwrap().decode(&realm()).unwrap();
        }
    }
    run(Command::new("umount").arg(&folder)).unwrap();
}

/// The process that is killed with its disk: puts batch after batch and says which are durable.
#[test]
#[ignore = "started by another test"]
fn writer() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let (store, _) = open(Path::new(&folder));
    for number in first.. {
        // After the cut it fails; until it is killed it says no more.
        if store.put_many(&batch(number)).is_err() || store.sync().is_err() {
            std::thread::park();
        }
        writeln!(std::io::stdout(), "durable {}", number + 1).unwrap();
    }
}

fn realm() -> Realm {
    Realm::new("power", [3; 32])
}

fn open(folder: &Path) -> (ChunkStore, RecoveryReport) {
    let kv = FjallKv::open(&folder.join("index"), INDEX_SPACES, &FjallOptions::default()).unwrap();
    let options = StoreOptions { pack_bytes: 4 << 20, reserve_bytes: 0, seed: 5, ..StoreOptions::default() };
    ChunkStore::open(Arc::new(RealDisk), folder.join("packs"), Arc::new(kv), options).unwrap()
}

/// Chunks that share a block, and some that do not compress.
fn batch(number: u64) -> Vec<EncodedChunk> {
    let chunk = |at: u64| {
        let mut plain = vec![0; 1_000 + (number * 7_919 + at * 4_001) as usize % 60_000];
        let mut noise = blake3::Hasher::new().update(&(number << 8 | at).to_le_bytes()).finalize_xof();
        noise.fill(&mut plain);
        if at < 5 {
            let half = plain.len() / 2;
            plain[half..].fill(number as u8);
        }
        EncodedChunk::plain(realm().chunk_id(&plain), plain.into())
    };
    (0..8).map(chunk).collect()
}

struct Writer {
    child: Child,
    durable: Arc<AtomicU64>,
}

impl Writer {
    fn start(folder: &Path, first: u64) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["writer", "--exact", "--ignored", "--nocapture"])
            .env(FOLDER, folder)
            .env(FIRST, first.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let durable = Arc::new(AtomicU64::new(first));
        let (lines, said) = (BufReader::new(child.stdout.take().unwrap()).lines(), durable.clone());
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some(number) = line.strip_prefix("durable ").and_then(|number| number.parse().ok()) {
                    said.store(number, Ordering::SeqCst);
                }
            }
        });
        Self { child, durable }
    }

    fn said(&self) -> u64 {
        self.durable.load(Ordering::SeqCst)
    }

    fn wait_for(&mut self, number: u64) {
        let start = Instant::now();
        while self.said() < number {
            assert!(self.child.try_wait().unwrap().is_none(), "the writer ended");
            assert!(start.elapsed() < Duration::from_secs(300), "the writer hangs at {}", self.said());
            std::thread::sleep(Duration::from_millis(5)); // polls for the stated condition
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Cuts the power right after `before`; with `writing_back`, while the kernel writes back what was not synced.
fn cut_power<T>(folder: &Path, writing_back: bool, before: impl FnOnce() -> T) -> T {
    let mut switch = Command::new("python3")
        .args(["-c", SHUTDOWN])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    BufReader::new(switch.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    assert_eq!(ready, "ready\n");
    let write_back = writing_back.then(|| Command::new("sync").arg("-f").arg(folder).spawn().unwrap());
    let before = before();
    drop(switch.stdin.take());
    assert!(switch.wait().unwrap().success(), "the power cannot be cut");
    if let Some(mut write_back) = write_back {
        let _ = write_back.wait(); // fails when the power goes first
    }
    before
}

/// The reason if this machine cannot.
fn can_run() -> Result<(), String> {
    if std::fs::metadata("/proc/self").map_err(|error| error.to_string())?.uid() != 0 {
        return Err("mounting needs root".to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    for tool in ["mkfs.ext4", "mount", "umount", "unshare", "python3"] {
        if !folders.iter().any(|folder| folder.join(tool).is_file()) {
            return Err(format!("there is no {tool}"));
        }
    }
    run(Command::new("unshare").args(["--mount", "--propagation", "private", "true"]))
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
