//! A client that writes while something happens to the cluster.

use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use tokio::sync::watch;

use crate::cluster::{Cluster, PROGRAM, text};

/// Between two writes: each starts a process, and the nodes need the machine too.
const PACE: Duration = Duration::from_millis(100);

/// Makes folders `/data/wNNNNNN` one by one through the built binary, until it is told to end.
pub(crate) struct Writer {
    stop: mpsc::Sender<()>,
    acknowledged: watch::Receiver<usize>,
    thread: std::thread::JoinHandle<Vec<String>>,
}

impl Writer {
    /// Every write must be acknowledged within the command's default time.
    pub(crate) fn start(config: PathBuf) -> Self {
        let (stop, ended) = mpsc::channel();
        let (count, acknowledged) = watch::channel(0);
        let thread = std::thread::spawn(move || {
            let mut written = Vec::new();
            while ended.recv_timeout(PACE) == Err(mpsc::RecvTimeoutError::Timeout) {
                let name = format!("w{:06}", written.len());
                let mut command = Command::new(PROGRAM);
                command.arg("--config").arg(&config).args(["mkdir", &format!("/data/{name}")]);
                let output = command.env_remove("CAUSEWAY_SITE").output().unwrap();
                assert_eq!(output.status.code(), Some(0), "a write ended with an error: {}", text(&output));
                written.push(name);
                count.send_replace(written.len());
            }
            written
        });
        Self { stop, acknowledged, thread }
    }

    /// Waits until some more writes were acknowledged than are now.
    pub(crate) async fn writes(&self, more: usize) {
        let mut acknowledged = self.acknowledged.clone();
        let until = *acknowledged.borrow() + more;
        let wait = acknowledged.wait_for(|count| *count >= until);
        tokio::time::timeout(Duration::from_secs(60), wait)
            .await
            .expect("no writes for a minute")
            .expect("a write failed");
    }

    fn end(self) -> Vec<String> {
        // One that has failed hears nothing; its panic comes next.
        let _ = self.stop.send(());
        let written = self.thread.join().unwrap();
        assert!(!written.is_empty());
        written
    }

    /// Ends, and every name that was acknowledged must be there, as a site sees it.
    pub(crate) fn ends_with_all_there(self, cluster: &Cluster, site: &str) {
        let written = self.end();
        let listed = String::from_utf8(cluster.ok(["--site", site, "ls", "/data"])).unwrap();
        let listed: std::collections::BTreeSet<&str> = listed.lines().map(|line| line.trim_end_matches('/')).collect();
        for name in &written {
            assert!(listed.contains(name.as_str()), "{name} was acknowledged and is gone: {listed:?}");
        }
    }
}
