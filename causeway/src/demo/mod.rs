//! `causeway demo`: the whole path on real input, with every claim measured and compared.
//!
//! Three sites run as separate processes with folders and certificates of their own. The source folder is never written:
//! edits are made through the namespace, and what must come back is tracked in [`expected`].

mod data;
mod edits;
mod expected;
mod recovery;
mod report;
mod sites;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use causeway_base::{NodeId, SiteName};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::args::{DemoArgs, Global, Output};
use crate::cli::exit::{Exit, Failure};
use crate::cluster::{LocalCluster, NewCluster, create};
use crate::config::Config;
use crate::output;

use expected::Expected;
use report::Report;
use sites::Sites;

/// The volume of the demo, and where it is mounted.
const VOLUME: &str = "data";
/// Where the input goes.
const TARGET: &str = "/data/input";

/// Runs the demo; the data of the sites goes with it unless it is kept.
pub(crate) async fn run(global: &Global, args: DemoArgs) -> anyhow::Result<Exit> {
    let input = match &args.dir {
        Some(dir) => dir.clone(),
        None => registry_sources()?,
    };
    if !input.is_dir() {
        let message = format!("{} is no folder: name one to import", input.display());
        return Err(Failure::error(Exit::NotFound, message));
    }
    let output = if args.json { Output::Json } else { global.output };
    // From here on, before there is anything to take down: else an early Ctrl-C would leave it.
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for Ctrl-C")?;
    let work = match &args.workdir {
        Some(dir) => {
            std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
            tempfile::Builder::new().prefix("causeway-demo-").tempdir_in(dir)
        }
        None => tempfile::Builder::new().prefix("causeway-demo-").tempdir(),
    };
    let work = Arc::new(work.context("create the demo's folder")?);
    let mut demo = Demo::new(input, &args, work.path().to_owned())?;
    // Ctrl-C ends the steps wherever they are; what they hold is then taken down below, in order.
    let ended = tokio::select! {
        done = demo.steps() => done.map(|()| None),
        _ = interrupt.recv() => Ok(Some(Exit::Interrupted)),
    };
    let keep = args.keep && matches!(ended, Ok(None));
    if keep {
        demo.announce();
        tokio::select! {
            _ = interrupt.recv() => {}
            (node, status) = demo.sites.cluster.any_exit() => {
                eprintln!("node {node} ended: {status:?}");
            }
        }
    }
    demo.sites.cluster.stop().await;
    let mut report = std::mem::take(&mut demo.report);
    drop(demo);
    match Arc::try_unwrap(work).map(tempfile::TempDir::close) {
        Ok(closed) => closed.context("remove the demo's folder")?,
        Err(shared) => drop(shared),
    }
    if let Some(exit) = ended? {
        eprintln!("interrupted: no process and no file is left");
        return Ok(exit);
    }
    report.held = report.differences.is_empty() && report.steps.iter().all(|step| step.held);
    output::print(output, &report, Report::table)?;
    for difference in report.differences.iter().take(20) {
        eprintln!("difference: {difference}");
    }
    Ok(if report.held { Exit::Done } else { Exit::Failed })
}

/// Real input that every machine with Rust has.
fn registry_sources() -> anyhow::Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let sources = home.map(|home| home.join("registry/src")).filter(|path| path.is_dir());
    sources.ok_or_else(|| {
        Failure::error(Exit::NotFound, "the cargo registry's sources are not there: name a folder, `causeway demo DIR`")
    })
}

struct Demo {
    input: PathBuf,
    /// New contents of edited files.
    overlay: PathBuf,
    work: PathBuf,
    repository: String,
    sites: Sites,
    expected: Expected,
    report: Report,
}

/// The sites of the demo: home, replica, cache.
fn site_names() -> anyhow::Result<[SiteName; 3]> {
    Ok(["zurich".parse()?, "westeurope".parse()?, "eastus".parse()?])
}

impl Demo {
    fn new(input: PathBuf, args: &DemoArgs, work: PathBuf) -> anyhow::Result<Self> {
        let overlay = work.join("edited");
        std::fs::create_dir_all(&overlay).with_context(|| format!("create {}", overlay.display()))?;
        // Outside of the cluster's folder: it is what is left when that is destroyed.
        let repository =
            args.repository.clone().unwrap_or_else(|| work.join("repository").to_string_lossy().into_owned());
        let config = create(&NewCluster {
            dir: work.join("cluster"),
            id: None,
            realm_key: None,
            sites: site_names()?.into(),
            first_node: NodeId(1),
            host: "127.0.0.1".into(),
            base_port: 0,
            repository: repository.clone(),
            certificate_life: std::time::Duration::from_secs(24 * 3600),
        })?;
        let report = Report { input: input.display().to_string(), ..Report::default() };
        let sites = Sites::new(config)?;
        Ok(Self { input, overlay, work, repository, sites, expected: Expected::default(), report })
    }

    async fn steps(&mut self) -> anyhow::Result<()> {
        self.start().await?;
        self.import().await?;
        self.replicate().await?;
        self.latency().await?;
        self.edit().await?;
        self.cache().await?;
        self.takeover().await?;
        self.archive().await?;
        self.destroy().await?;
        self.read_without_cluster().await?;
        self.restore().await
    }

    fn announce(&self) {
        let config = self.sites.config();
        eprintln!("\nthe sites are running; Ctrl-C ends them. To talk to them:");
        eprintln!("  export CAUSEWAY_CONFIG={}", config.path.display());
        eprintln!("  causeway ls {TARGET}\n  causeway status");
        for node in config.nodes() {
            let log = self.sites.cluster.log(node.node_id());
            eprintln!("  {}: gRPC {}, QUIC {}, log {}", node.site, node.grpc, node.quic, log.display());
        }
    }
}

/// A line of narration.
fn tell(text: &str) {
    eprintln!("== {text}");
}

/// This very program, to be run as a node.
fn program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("find this program's own file")
}

/// A cluster of nodes that are not running yet.
fn local_cluster(config: &Config) -> anyhow::Result<LocalCluster> {
    Ok(LocalCluster::new(program()?, config))
}
