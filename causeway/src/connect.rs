//! From a configuration to a client.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use causeway_base::{ClientId, SiteName};
use causeway_namespace::client::{ClientConfig, NamespaceClient};
use causeway_transport::IdentityStore;
use causeway_vfs::Vfs;
use causeway_vfs::quic::{NodeAddr, QuicTransfer};
use rand::Rng as _;

use crate::config::{Config, NodeSection, Role};

/// Connects as the configuration's client; nodes of `site` are asked before the others. Witnesses, which hold
/// no file data, are asked only if `site` is theirs alone. `deadline` bounds each request.
///
/// # Errors
/// The identity cannot be loaded, no node answers, or the cluster refuses this client.
pub async fn connect(config: &Config, site: Option<&SiteName>, deadline: Duration) -> anyhow::Result<Vfs> {
    let full = |node: &&NodeSection| node.role == Role::Full;
    let at_site = |node: &&NodeSection| Some(&node.site) == site;
    let witnesses_only = site.is_some() && !config.nodes().filter(at_site).any(|node| full(&node));
    let mut nodes: Vec<_> = config
        .nodes()
        .filter(|node| full(node) || witnesses_only && at_site(node))
        .map(|node| NodeAddr {
            id: node.node_id(),
            site: node.site.clone(),
            grpc: node.grpc.clone(),
            quic: node.quic.clone(),
        })
        .collect();
    nodes.sort_by_key(|node| Some(&node.site) != site);
    let tls = config.resolve(&config.client.tls);
    let identity = IdentityStore::load(&tls).with_context(|| format!("load the identity in {}", tls.display()))?;
    let grpc = nodes.iter().map(|node| node.grpc.clone()).collect();
    let mut client = ClientConfig::new(config.cluster.id, grpc, ClientId(rand::rng().random()));
    client.deadline = deadline;
    let names = NamespaceClient::connect(client, &identity).await?;
    let chunks = QuicTransfer::new(config.cluster.id, &nodes, identity, deadline).context("open a socket for data")?;
    Ok(Vfs::new(names, Arc::new(chunks)))
}
