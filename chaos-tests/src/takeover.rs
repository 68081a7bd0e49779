//! How long a volume takes no writes: after SIGKILL of its leader, and while leadership moves on purpose.
//!
//! Three nodes as processes, one writer through each node, each waiting for every answer. An outage is the longest time that
//! a writer spent without an acknowledgement, from the moment of the fault until a write that began after it is acknowledged;
//! of all writers the worst counts. So it holds all that a client waits for: the election, its own pauses, broken connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use causeway::cluster::LocalCluster;
use causeway::config::Config;
use causeway_base::{Ino, NodeId, Timestamp, VolumeId};
use causeway_namespace::client::NamespaceClient;
use causeway_namespace_core::command::{At, Expect, Op};
use causeway_namespace_core::inode::{Attr, Content};
use causeway_namespace_core::root::VolumeSpec;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::three::{self, sites};

/// Longest time without writes after SIGKILL of the leader, at the 99th percentile.
const KILL_GOAL: Duration = Duration::from_secs(2);
/// Longest stall of writes when leadership moves on purpose.
const TRANSFER_GOAL: Duration = Duration::from_millis(100);
/// How long a write may be tried.
const REQUEST: Duration = Duration::from_secs(30);
/// How long the cluster may take to do what is waited for.
const SETTLE: Duration = Duration::from_secs(90);
/// Between two looks at the cluster.
const LOOK: Duration = Duration::from_millis(100);

/// What is done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// SIGKILLs of the leader.
    pub kills: usize,
    /// Moves of home, and so of leadership.
    pub transfers: usize,
    /// Seconds in which nothing is done but writing: no leader should change.
    pub calm: u64,
    /// Threads that only burn CPU in that time.
    pub burn: usize,
}

/// Runs the plan and prints the figures.
///
/// # Errors
/// The cluster does not start, or does not recover.
pub async fn run(plan: Plan) -> anyhow::Result<()> {
    let mut cluster = Cluster::start().await?;
    let writers = cluster.writers().await?;
    println!("load {}", load());
    let calm = cluster.calm(&writers, plan.calm, plan.burn).await?;
    println!(
        "calm, {} s with {} busy threads beside: {} changes of leader, longest wait for an answer {:.0} ms",
        plan.calm,
        plan.burn,
        calm.0,
        millis(calm.1)
    );
    let mut stalls = Vec::new();
    for _ in 0..plan.transfers {
        stalls.push(cluster.transfer(&writers).await?);
    }
    report("transfer", stalls, TRANSFER_GOAL);
    let mut outages = Vec::new();
    for _ in 0..plan.kills {
        outages.push(cluster.kill_leader(&writers).await?);
    }
    report("SIGKILL of the leader", outages, KILL_GOAL);
    println!("load {}", load());
    writers.stop().await?;
    cluster.nodes.stop().await;
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn report(what: &str, mut times: Vec<Duration>, goal: Duration) {
    if times.is_empty() {
        return;
    }
    times.sort_unstable();
    // The smallest that at least so many are not above.
    let at = |percent: usize| times[(times.len() * percent).div_ceil(100).max(1) - 1];
    println!(
        "{what}, {} times: without writes p50 {:.0} ms, p90 {:.0} ms, p99 {:.0} ms, max {:.0} ms; p99 is {:.2} of the goal of {} ms",
        times.len(),
        millis(at(50)),
        millis(at(90)),
        millis(at(99)),
        millis(at(100)),
        at(99).as_secs_f64() / goal.as_secs_f64(),
        goal.as_millis(),
    );
}

/// One acknowledged write.
#[derive(Clone, Copy, Debug)]
struct Acked {
    began: Instant,
    ended: Instant,
    /// When the one before ended.
    before: Instant,
    /// Longest wait since the last [`Writers::forget`].
    longest: Duration,
}

/// One writer through each node.
struct Writers {
    acked: Vec<watch::Receiver<Acked>>,
    forget: Arc<watch::Sender<u64>>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Writers {
    /// Begins to look for the longest wait anew.
    fn forget(&self) {
        self.forget.send_modify(|count| *count += 1);
    }

    /// The longest wait of any writer since [`Writers::forget`], once each has an answer to a write that began after `since`.
    async fn longest(&self, since: Instant) -> anyhow::Result<Duration> {
        let mut longest = Duration::ZERO;
        for acked in &self.acked {
            let mut acked = acked.clone();
            let waited = tokio::time::timeout(SETTLE, acked.wait_for(|acked| acked.began > since));
            let acked = *waited.await.context("no write was acknowledged")?.context("a writer has ended")?;
            longest = longest.max(acked.longest).max(acked.ended - acked.before);
        }
        Ok(longest)
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(())
    }
}

async fn write(
    names: NamespaceClient,
    volume: VolumeId,
    path: String,
    acked: watch::Sender<Acked>,
    mut forget: watch::Receiver<u64>,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let (mut before, mut longest) = (Instant::now(), Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let attr = Attr { mode: 0o644, uid: 0, gid: 0, mtime: Timestamp(0), ctime: Timestamp(0) };
        let at = At { dir: Ino::ROOT, path: Bytes::copy_from_slice(path.as_bytes()) };
        let content = Content::Inline(Bytes::from_static(&[7; 256]));
        let began = Instant::now();
        names.mutate(volume, vec![Op::PutFile { at, attr, content, expect: Expect::Any }]).await?;
        let ended = Instant::now();
        longest = longest.max(ended - before);
        if forget.has_changed()? {
            forget.mark_unchanged();
            longest = ended - before;
        }
        acked.send_replace(Acked { began, ended, before, longest });
        before = ended;
        // What a client does beside: the nodes are to wait for it, and not the other way round.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

struct Cluster {
    nodes: LocalCluster,
    config: Config,
    volume: VolumeId,
    admin: NamespaceClient,
    _folder: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let (nodes, config) = three::start(folder.path()).await?;
        let admin = causeway::connect(&config, None, REQUEST).await?.names().clone();
        let spec = VolumeSpec {
            name: "takeover".into(),
            mount: "/takeover".into(),
            home: sites()?[0].clone(),
            survive: None,
            residency: Default::default(),
            learners: Vec::new(),
            voters: [1, 2, 3].map(NodeId).into(),
            replicas: sites()?.into(),
            caches: Vec::new(),
            archive: false,
            chunk_bytes_avg: 64 << 10,
            inline_bytes_max: 4096,
            realm: "default".into(),
        };
        let volume = admin.create_volume(spec).await?.id;
        Ok(Self { nodes, config, volume, admin, _folder: folder })
    }

    async fn writers(&self) -> anyhow::Result<Writers> {
        let (stop, forget) = (Arc::new(AtomicBool::new(false)), Arc::new(watch::Sender::new(0)));
        let mut writers =
            Writers { acked: Vec::new(), forget: forget.clone(), stop: stop.clone(), tasks: JoinSet::new() };
        for (number, site) in sites()?.iter().enumerate() {
            let names = causeway::connect(&self.config, Some(site), REQUEST).await?.names().clone();
            let now = Instant::now();
            let (acked, watched) =
                watch::channel(Acked { began: now, ended: now, before: now, longest: Duration::ZERO });
            let path = format!("file-{number}");
            writers.tasks.spawn(write(names, self.volume, path, acked, forget.subscribe(), stop.clone()));
            writers.acked.push(watched);
        }
        Ok(writers)
    }

    /// The leader and its term, once all nodes that run agree on them.
    async fn leader(&self, wanted: Option<NodeId>) -> anyhow::Result<(NodeId, u64)> {
        let until = Instant::now() + SETTLE;
        loop {
            let status = self.admin.status().await?;
            let seen: Vec<_> = status
                .nodes
                .iter()
                .filter_map(|report| report.status.as_ref().ok()?.group(self.volume))
                .map(|group| (group.leader, group.term))
                .collect();
            if let Some((Some(leader), term)) = seen.first().copied()
                && seen.len() == 3
                && seen.iter().all(|one| *one == seen[0])
                && wanted.is_none_or(|wanted| wanted == leader)
            {
                return Ok((leader, term));
            }
            ensure!(Instant::now() < until, "the nodes do not agree on a leader ({wanted:?} is wanted): {seen:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn home(&self) -> anyhow::Result<NodeId> {
        let volumes = self.admin.volumes().await?;
        let home = volumes.iter().find(|volume| volume.id == self.volume).map(|volume| volume.spec.home.clone());
        let at = sites()?.iter().position(|site| Some(site) == home.as_ref()).context("home is one of the sites")?;
        Ok(NodeId(at as u64 + 1))
    }

    /// How often the leader changed, and the longest wait.
    async fn calm(&self, writers: &Writers, seconds: u64, burn: usize) -> anyhow::Result<(u64, Duration)> {
        let (_, before) = self.leader(Some(self.home().await?)).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let burn = (0..burn).map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || while !stop.load(Ordering::Relaxed) {})
        });
        let burn: Vec<_> = burn.collect();
        writers.forget();
        tokio::time::sleep(Duration::from_secs(seconds)).await; // the measurement itself
        let longest = writers.longest(Instant::now()).await;
        stop.store(true, Ordering::Relaxed);
        for thread in burn {
            let _ = thread.join();
        }
        let (_, after) = self.leader(None).await?;
        Ok((after - before, longest?))
    }

    /// Moves home to the next site; the longest wait for an answer until it is led from there.
    async fn transfer(&self, writers: &Writers) -> anyhow::Result<Duration> {
        let home = self.home().await?;
        self.leader(Some(home)).await?;
        let next = NodeId(home.get() % 3 + 1);
        let volumes = self.admin.volumes().await?;
        let volume = volumes.iter().find(|volume| volume.id == self.volume).context("the volume is there")?;
        let spec = VolumeSpec { home: sites()?[usize::try_from(next.get())? - 1].clone(), ..volume.spec.clone() };
        writers.forget();
        self.admin.set_volume(self.volume, volume.revision, spec).await?;
        self.leader(Some(next)).await?;
        writers.longest(Instant::now()).await
    }

    async fn kill_leader(&mut self, writers: &Writers) -> anyhow::Result<Duration> {
        let home = self.home().await?;
        let (leader, _) = self.leader(Some(home)).await?;
        writers.forget();
        self.nodes.kill(leader).await?;
        let outage = writers.longest(Instant::now()).await;
        self.nodes.start([leader]).await?;
        outage
    }
}
