//! A cluster whose nodes are child processes of this one: for `dev`, `demo` and tests.
//!
//! Every child is started with `--exit-with-parent`: it ends when its standard input does, so that no node outlives this
//! process, however it ends.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use causeway_base::NodeId;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use crate::config::Config;

/// How long a node may take from its start to its ready line: it replays its log and opens its stores first.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a node may take to end after it was asked to.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// The line on standard output with which a node says that it serves.
pub const READY: &str = "causeway node ready";

/// Nodes of one configuration, run as children.
#[derive(Debug)]
pub struct LocalCluster {
    program: PathBuf,
    config: PathBuf,
    logs: PathBuf,
    nodes: BTreeMap<NodeId, Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    /// Held open: its end is the signal to end.
    _stdin: ChildStdin,
}

impl LocalCluster {
    /// A cluster with no node running yet. The nodes' logs go to `nodeN.log` beside the configuration.
    #[must_use]
    pub fn new(program: PathBuf, config: &Config) -> Self {
        Self { program, config: config.path.clone(), logs: config.base.join("logs"), nodes: BTreeMap::new() }
    }

    /// Starts nodes at once and waits until all of them serve.
    ///
    /// # Errors
    /// A node did not start or ended before it was ready; the message holds the end of its log.
    pub async fn start(&mut self, ids: impl IntoIterator<Item = NodeId>) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.logs).with_context(|| format!("create {}", self.logs.display()))?;
        let mut starting = Vec::new();
        for id in ids {
            starting.push((id, self.spawn(id)?));
        }
        for (id, (running, output)) in starting {
            self.nodes.insert(id, running);
            self.await_ready(id, output).await?;
        }
        Ok(())
    }

    fn spawn(&self, id: NodeId) -> anyhow::Result<(Running, tokio::process::ChildStdout)> {
        let log = self.log(id);
        let stderr = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("open {}", log.display()))?;
        let mut child = Command::new(&self.program)
            .arg("--config")
            .arg(&self.config)
            .args(["node", "--exit-with-parent", "--id", &id.get().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            // A Ctrl-C at the terminal reaches this process alone, which then ends its children in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", self.program.display()))?;
        let stdin = child.stdin.take().context("no pipe to the node")?;
        let stdout = child.stdout.take().context("no pipe from the node")?;
        Ok((Running { child, _stdin: stdin }, stdout))
    }

    async fn await_ready(&mut self, id: NodeId, output: tokio::process::ChildStdout) -> anyhow::Result<()> {
        let mut lines = BufReader::new(output).lines();
        let ready = timeout(READY_WITHIN, async {
            while let Some(line) = lines.next_line().await? {
                if line.starts_with(READY) {
                    return anyhow::Ok(true);
                }
            }
            Ok(false)
        })
        .await;
        match ready {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => bail!("node {id} ended before it was ready:\n{}", self.log_tail(id)),
            Ok(Err(error)) => Err(error).with_context(|| format!("read from node {id}")),
            Err(_) => bail!("node {id} was not ready within {READY_WITHIN:?}:\n{}", self.log_tail(id)),
        }
    }

    /// Ends a node at once, as a power switch does to a process.
    ///
    /// # Errors
    /// The node does not run.
    pub async fn kill(&mut self, id: NodeId) -> anyhow::Result<()> {
        let mut running = self.nodes.remove(&id).with_context(|| format!("node {id} does not run"))?;
        running.child.kill().await.with_context(|| format!("kill node {id}"))
    }

    /// Asks every node to end, and kills those that do not.
    pub async fn stop(&mut self) {
        let nodes = std::mem::take(&mut self.nodes);
        let mut children = Vec::new();
        for (id, Running { child, _stdin: stdin }) in nodes {
            drop(stdin);
            children.push((id, child));
        }
        for (id, mut child) in children {
            if timeout(STOP_WITHIN, child.wait()).await.is_err() {
                tracing::warn!(node = %id, "node did not end in time and was killed");
                let _ = child.kill().await;
            }
        }
    }

    /// Waits until any node ends; its id and how it ended. Pending for ever without nodes.
    ///
    /// Cancel safe: nothing is lost when the future is dropped.
    pub async fn any_exit(&mut self) -> (NodeId, std::io::Result<std::process::ExitStatus>) {
        let waits = self.nodes.iter_mut().map(|(id, running)| {
            let id = *id;
            Box::pin(async move { (id, running.child.wait().await) })
        });
        let waits: Vec<_> = waits.collect();
        if waits.is_empty() {
            return std::future::pending().await;
        }
        futures::future::select_all(waits).await.0
    }

    /// Process id of a running node.
    #[must_use]
    pub fn pid(&self, id: NodeId) -> Option<u32> {
        self.nodes.get(&id)?.child.id()
    }

    /// Most memory that a running node has held, in bytes (`VmHWM`).
    #[must_use]
    pub fn peak_memory_bytes(&self, id: NodeId) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid(id)?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
    }

    /// A node's log file.
    #[must_use]
    pub fn log(&self, id: NodeId) -> PathBuf {
        self.logs.join(format!("node{}.log", id.get()))
    }

    fn log_tail(&self, id: NodeId) -> String {
        let path = self.log(id);
        let text = std::fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(12)..].join("\n");
        format!("{tail}\n(the end of {})", path.display())
    }

    /// The configuration file.
    #[must_use]
    pub fn config_path(&self) -> &Path {
        &self.config
    }
}
