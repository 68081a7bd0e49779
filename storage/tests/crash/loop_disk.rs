//! An ext4 file system on a loop device whose power can be cut (`EXT4_IOC_SHUTDOWN` without a log flush). Also a part of the
//! tests of other crates, by its path.
//!
//! Needs root, loop devices, `mkfs.ext4`, `unshare` and `python3` (for the ioctl); [`in_namespace`] says so and gives up without one of
//! them.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Says that it is ready, waits for the end of its input, and cuts the power of the file system in the folder given: flag 2
/// is `EXT4_GOING_FLAGS_NOLOGFLUSH`.
const SHUTDOWN: &str = "import fcntl, os, struct, sys
folder = os.open(sys.argv[1], os.O_RDONLY)
print('ready', flush=True)
sys.stdin.read()
fcntl.ioctl(folder, 0x8004587d, struct.pack('I', 2))";

/// Cuts of a test: `CAUSEWAY_POWER_CUTS`, by default 2.
pub(crate) fn cuts() -> u64 {
    std::env::var("CAUSEWAY_POWER_CUTS").ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(2)
}

/// Runs an ignored test of this program in a mount namespace of its own: a copy of the mount in a namespace that somebody
/// else makes meanwhile would keep the file system, shut down as it is, alive. It also takes the mount with it when it ends
/// in whatever way.
pub(crate) fn in_namespace(test: &str) {
    if let Err(reason) = can_run() {
        eprintln!("skipped: {reason}");
        return;
    }
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--nocapture"])
        .status()
        .unwrap();
    assert!(status.success(), "{status:?}");
}

/// The reason if this machine cannot.
fn can_run() -> Result<(), String> {
    if std::fs::metadata("/proc/self").map_err(|error| error.to_string())?.uid() != 0 {
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
pub(crate) struct LoopDisk {
    root: tempfile::TempDir,
}

impl LoopDisk {
    /// The reason, said, if this machine cannot.
    pub(crate) fn create(bytes: u64) -> Option<Self> {
        let created = can_run().and_then(|()| Self::make(bytes));
        created.inspect_err(|reason| eprintln!("skipped: {reason}")).ok()
    }

    fn make(bytes: u64) -> Result<Self, String> {
        let root = tempfile::tempdir().map_err(|error| error.to_string())?;
        let disk = Self { root };
        std::fs::create_dir(disk.folder()).map_err(|error| error.to_string())?;
        let image = std::fs::File::create(disk.image()).map_err(|error| error.to_string())?;
        image.set_len(bytes).map_err(|error| error.to_string())?;
        run(Command::new("mkfs.ext4").arg("-q").arg(disk.image()))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(disk.image()).arg(disk.folder()))?;
        Ok(disk)
    }

    fn image(&self) -> PathBuf {
        self.root.path().join("image")
    }

    /// Where it is mounted.
    pub(crate) fn folder(&self) -> PathBuf {
        self.root.path().join("mounted")
    }

    /// Cuts the power right after `before`; with `writing_back`, while the kernel writes back what was not synced, so that
    /// some of it is there.
    pub(crate) fn cut_power<T>(&self, writing_back: bool, before: impl FnOnce() -> T) -> T {
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

    /// As after the power has come back.
    pub(crate) fn mount_again(&self) {
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
