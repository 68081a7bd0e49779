//! `causeway dev`

use anyhow::Context as _;
use causeway_base::NodeId;

use super::args::DevArgs;
use super::exit::{Exit, Failure};
use crate::cluster::{CONFIG_FILE, LocalCluster, NewCluster, create};
use crate::config::Config;

pub(super) async fn run(args: DevArgs) -> anyhow::Result<Exit> {
    let path = args.dir.join(CONFIG_FILE);
    let config = if path.exists() {
        let path = path.canonicalize().with_context(|| format!("find {}", path.display()))?;
        Config::load(&path)?
    } else {
        let sites = ["zurich", "westeurope", "eastus"].map(str::parse).into_iter().collect::<Result<_, _>>()?;
        create(&NewCluster {
            dir: args.dir.clone(),
            id: None,
            realm_key: None,
            sites,
            first_node: NodeId(1),
            host: "127.0.0.1".into(),
            base_port: 0,
            repository: "repository".into(),
            certificate_life: std::time::Duration::from_secs(30 * 24 * 3600),
        })?
    };
    let program = std::env::current_exe().context("find this program's own file")?;
    let mut cluster = LocalCluster::new(program, &config);
    let ids: Vec<_> = config.nodes().map(|node| node.node_id()).collect();
    let run = async {
        cluster.start(ids).await?;
        eprintln!("{} nodes serve; Ctrl-C ends them (the data stays in {})", config.nodes.len(), args.dir.display());
        eprintln!("  export CAUSEWAY_CONFIG={}", config.path.display());
        eprintln!(
            "  causeway volume create data --home {}",
            config.sites().next().map_or("SITE", |site| site.name.as_str())
        );
        eprintln!("  causeway status");
        let (node, status) = cluster.any_exit().await;
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        let message = format!("node {node} ended ({status}); its log is {}", cluster.log(node).display());
        Err(Failure::error(Exit::Failed, message))
    };
    let ended = tokio::select! {
        ended = run => ended,
        signal = tokio::signal::ctrl_c() => signal.map(|()| Exit::Done).context("wait for Ctrl-C"),
    };
    cluster.stop().await;
    ended
}
