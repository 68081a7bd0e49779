//! A power cut on one machine: an ext4 image on a loop device, mounted; under load the `EXT4_IOC_SHUTDOWN` ioctl without a
//! log flush, then mount again and look. Needs root, loop devices, `mkfs.ext4`, `unshare` and `python3` (for the ioctl); without one
//! of them the test says so and passes.
//!
//! `CAUSEWAY_POWER_CUTS` sets the number of cuts (default 2).

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use causeway_storage::kv::{FjallKv, Kv, KvError, SledKv, SledOptions};
use rustix::process::geteuid;

use super::writer::{self, Engine, SPACES, Writer};

const IMAGE_BYTES: u64 = 512 << 20;

/// Says that it is ready, waits for the end of its input, and cuts the power of the file system in the folder given: flag 2
/// is `EXT4_GOING_FLAGS_NOLOGFLUSH`.
const SHUTDOWN: &str = "import fcntl, os, struct, sys
folder = os.open(sys.argv[1], os.O_RDONLY)
print('ready', flush=True)
sys.stdin.read()
fcntl.ioctl(folder, 0x8004587d, struct.pack('I', 2))";

#[test]
fn a_power_cut_loses_nothing_that_was_persisted() {
    if let Err(reason) = can_run() {
        eprintln!("skipped: {reason}");
        return;
    }
    // In a mount namespace of its own: a copy of the mount in a namespace that somebody else makes meanwhile would keep the
    // file system, shut down as it is, alive. It also takes the mount with it when it ends in whatever way.
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["power_cut::inside", "--exact", "--ignored", "--nocapture"])
        .status()
        .unwrap();
    assert!(status.success(), "{status:?}");
}

/// Started by the test above.
#[test]
#[ignore = "started by another test"]
fn inside() {
    let disk = match can_run().and_then(|()| LoopDisk::create()) {
        Ok(disk) => disk,
        Err(reason) => {
            eprintln!("skipped: {reason}");
            return;
        }
    };
    let cuts: u64 = std::env::var("CAUSEWAY_POWER_CUTS").ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(2);
    let (mut fjall_before, mut sled_rounds) = (0, Vec::new());
    for cut in 0..cuts {
        let (fjall, sled) = (disk.folder().join("fjall"), disk.folder().join(format!("sled-{cut}")));
        let mut fjall_writer = Writer::start(Engine::Fjall, &fjall);
        let mut sled_writer = Writer::start(Engine::Sled, &sled);
        sled_writer.wait_for_batches(100);
        fjall_writer.wait_for_batches(fjall_before + 100 + cut * 211);
        // What they say later does not count: after the shutdown, unlike after a power cut, they run on, and a sync that
        // was under way can come back with success although the file system has given up its end of it.
        let (fjall_said, sled_said) = disk.cut_power(cut % 2 == 1, || (fjall_writer.said(), sled_writer.said()));
        fjall_writer.kill();
        sled_writer.kill();
        disk.mount_again();

        let kv = FjallKv::open(&fjall, &SPACES, &writer::options()).unwrap();
        let found = writer::check(&kv).unwrap();
        eprintln!("fjall: {fjall_said:?}, found {found}");
        assert!(fjall_said.persisted > fjall_before, "{fjall_said:?}: nothing was persisted since {fjall_before}");
        assert!(found >= fjall_said.persisted, "found {found}, {fjall_said:?}");
        kv.persist().unwrap();
        fjall_before = found;

        // No promise here but this: a store that does not open says so, and does not take the process with it.
        let options = SledOptions::default();
        sled_rounds.push(match SledKv::open(&sled, &SPACES, &options) {
            Ok(kv) => format!("{sled_said:?}, found {:?}", writer::check(&kv)),
            Err(error @ KvError::Damaged { .. }) => error.to_string(),
            Err(error) => panic!("{error:?}"),
        });
    }
    eprintln!("sled: {sled_rounds:#?}");
}

/// The reason if this machine cannot.
fn can_run() -> Result<(), String> {
    if !geteuid().is_root() {
        return Err("mounting needs root".to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    for tool in ["mkfs.ext4", "mount", "umount", "unshare", "python3"] {
        if !std::env::split_paths(&path).any(|folder| folder.join(tool).is_file()) {
            return Err(format!("there is no {tool}"));
        }
    }
    run(Command::new("unshare").args(["--mount", "--propagation", "private", "true"]))
}

/// An ext4 file system in a file, mounted; unmounted and gone when dropped.
struct LoopDisk {
    root: tempfile::TempDir,
}

impl LoopDisk {
    /// The reason if this machine cannot.
    fn create() -> Result<Self, String> {
        let root = tempfile::tempdir().map_err(|error| error.to_string())?;
        let disk = Self { root };
        std::fs::create_dir(disk.folder()).map_err(|error| error.to_string())?;
        let image = std::fs::File::create(disk.image()).map_err(|error| error.to_string())?;
        image.set_len(IMAGE_BYTES).map_err(|error| error.to_string())?;
        run(Command::new("mkfs.ext4").arg("-q").arg(disk.image()))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(disk.image()).arg(disk.folder()))?;
        Ok(disk)
    }

    fn image(&self) -> PathBuf {
        self.root.path().join("image")
    }

    /// Where it is mounted.
    fn folder(&self) -> PathBuf {
        self.root.path().join("mounted")
    }

    /// Cuts the power right after `before`; with `writing_back`, while the kernel writes back what was not synced, so that
    /// some of it is there.
    fn cut_power<T>(&self, writing_back: bool, before: impl FnOnce() -> T) -> T {
        let mut switch = Command::new("python3")
            .args(["-c", SHUTDOWN])
            .arg(self.folder())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(switch.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        let write_back = writing_back.then(|| Command::new("sync").arg("-f").arg(self.folder()).spawn().unwrap());
        let before = before();
        drop(switch.stdin.take());
        assert!(switch.wait().unwrap().success(), "the power cannot be cut");
        if let Some(mut write_back) = write_back {
            // It fails when the power goes first.
            let _ = write_back.wait();
        }
        before
    }

    fn mount_again(&self) {
        unmount(&self.folder()).unwrap();
        run(Command::new("mount").args(["-o", "loop"]).arg(self.image()).arg(self.folder())).unwrap();
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        if unmount(&self.folder()).is_err() {
            // A writer that still runs, after a failed check.
            let _ = run(Command::new("umount").arg("-l").arg(self.folder()));
        }
    }
}

fn unmount(folder: &Path) -> Result<(), String> {
    run(Command::new("umount").arg(folder))
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
