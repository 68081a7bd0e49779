//! Three nodes at three sites of one cluster, as processes.

use std::path::Path;
use std::time::Duration;

use causeway::cluster::{LocalCluster, NewCluster, create};
use causeway::config::Config;
use causeway_base::{NodeId, SiteName};

use crate::program::program;

pub(crate) const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

/// The nodes' sites, in the order of the nodes.
pub(crate) fn sites() -> anyhow::Result<[SiteName; 3]> {
    Ok(["zurich".parse()?, "westeurope".parse()?, "eastus".parse()?])
}

/// Starts a new cluster below a folder; on any free ports of loopback.
pub(crate) async fn start(folder: &Path) -> anyhow::Result<(LocalCluster, Config)> {
    let config = create(&NewCluster {
        dir: folder.join("cluster"),
        id: None,
        realm_key: None,
        sites: sites()?.into(),
        first_node: NODES[0],
        host: "127.0.0.1".into(),
        base_port: 0,
        repository: "../repository".into(),
        certificate_life: Duration::from_secs(24 * 3600),
    })?;
    let mut nodes = LocalCluster::new(program()?, &config);
    nodes.start(NODES).await?;
    Ok((nodes, config))
}
