//! `causeway init`

use causeway_base::NodeId;
use serde::Serialize;

use super::args::{Global, InitArgs};
use super::exit::Exit;
use crate::cluster::{NewCluster, create};
use crate::output;

#[derive(Serialize)]
struct Written {
    config: String,
    cluster: String,
    nodes: Vec<u64>,
}

pub(super) fn run(global: &Global, args: InitArgs) -> anyhow::Result<Exit> {
    let config = create(&NewCluster {
        dir: args.dir,
        id: None,
        realm_key: None,
        sites: args.sites,
        first_node: NodeId(1),
        host: args.host,
        base_port: args.base_port,
        repository: args.repository,
        certificate_life: args.certificate_life,
    })?;
    let written = Written {
        config: config.path.display().to_string(),
        cluster: config.cluster.id.to_string(),
        nodes: config.nodes().map(|node| node.id).collect(),
    };
    output::print(global.output, &written, |written| {
        let first = written.nodes.first().copied().unwrap_or(1);
        format!(
            "wrote {config}\n\n\
             Start each node on its machine (the folder must be there; `ca/` may stay at home):\n  \
             causeway --config {config} node --id {first}\n\
             or all of them here:\n  \
             causeway dev {dir}\n\
             then:\n  \
             export CAUSEWAY_CONFIG={config}\n  \
             causeway volume create data --home {home}\n  \
             causeway cp -r ./folder cw:/data/folder",
            config = written.config,
            dir = config.base.display(),
            home = config.sites().next().map_or("SITE", |site| site.name.as_str()),
        )
    })?;
    Ok(Exit::Done)
}
