//! `causeway node add|join|drain|remove|replace`
//!
//! A node is added with the cluster's certificate authority, which lies where `init` was run: the cluster gives it an id that
//! was never used, the authority a certificate for exactly that id and site. Both travel to the new machine as a token.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use causeway_base::{NodeId, SystemClock, VolumeId};
use causeway_namespace::client::NamespaceClient;
use causeway_namespace::placement;
use causeway_namespace_core::root::{NodeRecord, NodeState};
use causeway_transport::{CertificateAuthority, PeerId};
use serde::{Deserialize, Serialize};

use super::args::{Global, NewNodeArgs, NodeCommand};
use super::exit::{Exit, Failure};
use super::session::Session;
use crate::config::{Config, StarterNode, node_section};
use crate::output;

/// What a token begins with.
const TOKEN: &str = "causeway-join-1:";
/// Largest token in bytes.
const TOKEN_BYTES_MAX: usize = 4 << 20;
/// Between two looks at how far a drain is.
const LOOK: Duration = Duration::from_millis(500);

/// What the new machine needs. The certificate's key is in it: it is as secret as the node.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    id: u64,
    config: String,
    cert: String,
    key: String,
    ca: String,
}

pub(super) async fn run(global: &Global, command: NodeCommand) -> anyhow::Result<Exit> {
    match command {
        NodeCommand::Add(args) => {
            let session = Session::connect(global).await?;
            let added = add(&session, &args).await?;
            print_added(global, &added)
        }
        NodeCommand::Join { token, dir } => join(global, &token, &dir),
        NodeCommand::Drain { id, cancel, deadline } => {
            let session = Session::connect(global).await?;
            let names = session.vfs.names();
            names.drain_node(NodeId(id), !cancel).await?;
            if cancel {
                output::print(global.output, &id, |id| format!("node {id} takes part again"))?;
                return Ok(Exit::Done);
            }
            let seconds = await_empty(names, NodeId(id), deadline).await?;
            output::print(global.output, &seconds, |seconds| {
                format!("node {id} is empty after {seconds:.1} s; `causeway node remove {id}` takes it out")
            })?;
            Ok(Exit::Done)
        }
        NodeCommand::Remove { id } => {
            let session = Session::connect(global).await?;
            remove(session.vfs.names(), NodeId(id)).await?;
            output::print(global.output, &id, |id| {
                format!(
                    "node {id} is out, and its id is never used again; its process may be stopped and its disk wiped"
                )
            })?;
            Ok(Exit::Done)
        }
        NodeCommand::Replace { id, new, deadline } => {
            let session = Session::connect(global).await?;
            let added = add(&session, &new).await?;
            print_added(global, &added)?;
            let names = session.vfs.names();
            eprintln!("waiting for node {} to start (at most {deadline:?})", added.id);
            let started = Instant::now();
            loop {
                let (_, nodes) = names.topology().await?;
                if nodes.iter().any(|node| node.id.get() == added.id && node.state == NodeState::Active) {
                    break;
                }
                late(started, deadline, || format!("node {} has not started; node {id} is as it was", added.id))?;
                tokio::time::sleep(LOOK).await;
            }
            names.drain_node(NodeId(id), true).await?;
            await_empty(names, NodeId(id), deadline.saturating_sub(started.elapsed())).await?;
            remove(names, NodeId(id)).await?;
            eprintln!("node {} has taken the place of node {id}", added.id);
            Ok(Exit::Done)
        }
    }
}

#[derive(Debug, Serialize)]
struct Added {
    id: u64,
    site: String,
    token: String,
    config: String,
}

fn print_added(global: &Global, added: &Added) -> anyhow::Result<Exit> {
    output::print(global.output, added, |added| {
        format!(
            "node {id} of site {site} may join. On its machine:\n  causeway node join TOKEN ./node{id}\n  \
             causeway --config ./node{id}/causeway.toml node --id {id}\nor here:\n  causeway --config {config} node --id \
             {id}\nThe token holds its private key:\n{token}",
            id = added.id,
            site = added.site,
            config = added.config,
            token = added.token
        )
    })?;
    Ok(Exit::Done)
}

async fn add(session: &Session, new: &NewNodeArgs) -> anyhow::Result<Added> {
    let config = &session.config;
    let folder = config.resolve(Path::new("ca"));
    let ca = CertificateAuthority::load(&folder, Arc::new(SystemClock)).with_context(|| {
        format!("load the certificate authority in {} (add nodes where `init` was run)", folder.display())
    })?;
    let names = session.vfs.names();
    let id = names.add_node(&new.site, &new.grpc, &new.quic, new.witness).await?;
    let peer = PeerId::node(new.site.clone(), id);
    let issued = ca.issue(&peer, new.certificate_life).context("issue the node's certificate")?;
    let tls = config.resolve(Path::new(&format!("tls/n{id}", id = id.get())));
    std::fs::create_dir_all(&tls).with_context(|| format!("create {}", tls.display()))?;
    issued.save(&tls).context("save the node's certificate")?;
    let (_, nodes) = names.topology().await?;
    remember(config, &nodes, id)?;
    let read = |name: &str| {
        let path = tls.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    };
    let token = Token {
        id: id.get(),
        config: joined_config(config, &nodes, id)?,
        cert: read("cert.pem")?,
        key: read("key.pem")?,
        ca: read("ca.pem")?,
    };
    let token = format!("{TOKEN}{}", hex::encode(serde_json::to_vec(&token)?));
    Ok(Added { id: id.get(), site: new.site.to_string(), token, config: config.path.display().to_string() })
}

fn starter_node(node: &NodeRecord) -> StarterNode {
    StarterNode {
        id: node.id.get(),
        site: node.site.clone(),
        region: node.site.to_string(),
        provider: "unknown".to_owned(),
        grpc: node.grpc.clone(),
        quic: node.quic.clone(),
    }
}

/// The sections that a configuration lacks for nodes, `site` and `node` apart.
fn sections(config: &Config, nodes: &[&NodeRecord], known: bool) -> String {
    let mut text = String::new();
    let mut sites: Vec<_> = if known { config.sites().map(|site| site.name.clone()).collect() } else { Vec::new() };
    for node in nodes {
        if !sites.contains(&node.site) {
            sites.push(node.site.clone());
            let site = config.sites().find(|site| site.name == node.site);
            let (region, provider) =
                site.map_or((node.site.as_str(), "unknown"), |site| (&site.region, &site.provider));
            text.push_str(&format!(
                "\n[[site]]\nname = \"{}\"\nregion = {region:?}\nprovider = {provider:?}\n",
                node.site
            ));
        }
    }
    for node in nodes {
        text.push('\n');
        text.push_str(&node_section(&starter_node(node), node.witness, true));
    }
    text
}

/// Puts the new node into the configuration that it was added with, so that its commands know where it is.
fn remember(config: &Config, nodes: &[NodeRecord], id: NodeId) -> anyhow::Result<()> {
    if config.node(id).is_some() {
        return Ok(());
    }
    let new: Vec<&NodeRecord> = nodes.iter().filter(|node| node.id == id).collect();
    let path = &config.path;
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let text = format!("{}\n{}", text.trim_end(), sections(config, &new, true));
    Config::parse(path, &text)?;
    replace(path, &text)
}

/// Writes a file whole or not at all.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().with_context(|| format!("write {}", path.display()))
}

/// The configuration of the new node's machine: the same cluster, all nodes as they are now, none of them a founder.
fn joined_config(config: &Config, nodes: &[NodeRecord], id: NodeId) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(&config.path).with_context(|| format!("read {}", config.path.display()))?;
    let mut table: toml::Table = text.parse().context("the configuration")?;
    for key in ["site", "node"] {
        table.remove(key);
    }
    let section = |table: &mut toml::Table, name: &str| -> anyhow::Result<toml::Table> {
        let found = table.remove(name).with_context(|| format!("no [{name}] in the configuration"))?;
        toml::Table::try_from(found).context("a section")
    };
    let mut cluster = section(&mut table, "cluster")?;
    cluster.remove("topology_file");
    cluster.insert("realm_key_file".to_owned(), toml::Value::String("realm.key".to_owned()));
    table.insert("cluster".to_owned(), toml::Value::Table(cluster));
    let mut client = section(&mut table, "client")?;
    client.insert("tls".to_owned(), toml::Value::String(format!("tls/n{}", id.get())));
    table.insert("client".to_owned(), toml::Value::Table(client));
    // A relative folder would be another one there.
    if let Some(url) = config.repository_url() {
        let repository: toml::Table = [("url".to_owned(), toml::Value::String(url))].into_iter().collect();
        table.insert("repository".to_owned(), toml::Value::Table(repository));
    }
    let all: Vec<&NodeRecord> = nodes.iter().collect();
    Ok(format!("{}{}", toml::to_string(&table)?, sections(config, &all, false)))
}

fn join(global: &Global, token: &str, dir: &Path) -> anyhow::Result<Exit> {
    let bad = |why: &str| Failure::error(Exit::Usage, format!("this is no token of `causeway node add`: {why}"));
    let text = if token == "-" { std::io::read_to_string(std::io::stdin())? } else { token.to_owned() };
    let encoded = text.trim().strip_prefix(TOKEN).ok_or_else(|| bad("it begins otherwise"))?;
    if encoded.len() > TOKEN_BYTES_MAX {
        return Err(bad("it is too long"));
    }
    let bytes = hex::decode(encoded).map_err(|error| bad(&error.to_string()))?;
    let token: Token = serde_json::from_slice(&bytes).map_err(|error| bad(&error.to_string()))?;
    if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Failure::error(Exit::Refused, format!("{} is not empty: name a new folder", dir.display())));
    }
    let tls = dir.join(format!("tls/n{}", token.id));
    std::fs::create_dir_all(&tls).with_context(|| format!("create {}", tls.display()))?;
    secret(&tls.join("key.pem"), &token.key)?;
    replace(&tls.join("cert.pem"), &token.cert)?;
    replace(&tls.join("ca.pem"), &token.ca)?;
    // Counts only when a cluster is set up, which an added node never does.
    secret(&dir.join("realm.key"), &format!("{}\n", "0".repeat(64)))?;
    let path: PathBuf = dir.join("causeway.toml");
    Config::parse(&path, &token.config)?;
    replace(&path, &token.config)?;
    output::print(global.output, &token.id, |id| {
        format!("wrote {path}; start the node:\n  causeway --config {path} node --id {id}", path = path.display())
    })?;
    Ok(Exit::Done)
}

fn secret(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.with_context(|| format!("write {}", path.display()))
}

fn late(started: Instant, deadline: Duration, what: impl FnOnce() -> String) -> anyhow::Result<()> {
    if started.elapsed() < deadline {
        return Ok(());
    }
    Err(Failure::error(Exit::Unavailable, format!("after {deadline:?}: {}", what())))
}

/// Waits until nothing is left on a node, and says what is in the way if it takes too long.
async fn await_empty(names: &NamespaceClient, id: NodeId, deadline: Duration) -> anyhow::Result<f64> {
    let started = Instant::now();
    loop {
        let mut left = Vec::new();
        let (record, nodes) = names.topology().await?;
        let topology = placement::topology(&record, &nodes);
        for volume in names.volumes().await?.into_iter().filter(|volume| volume.members.contains(&id)) {
            let planned = volume.spec.survive.map(|survive| {
                let topology = topology.as_ref().map_err(Clone::clone)?;
                placement::plan(topology, &volume.spec, survive)
            });
            left.push(match planned {
                Some(Err(error)) => error.to_string(),
                _ => format!("volume {:?} is still moving", volume.spec.name),
            });
        }
        let status = names.status().await?;
        let votes = status.nodes.iter().filter_map(|node| node.status.as_ref().ok()).any(|up| {
            let leads = |group: &&causeway_namespace::GroupReport| group.leader == Some(up.node.id);
            let root = up.groups.iter().find(|group| group.volume == VolumeId::ROOT);
            root.filter(leads).is_some_and(|group| group.voters.contains(&id))
        });
        if votes {
            left.push("it still votes in the root group".to_owned());
        }
        if left.is_empty() {
            return Ok(started.elapsed().as_secs_f64());
        }
        late(started, deadline, || {
            format!(
                "node {} is not empty yet, and goes on draining:\n  {}\n  hint: add a node that can take its place, or \
                 `causeway node drain {} --cancel`",
                id.get(),
                left.join("\n  "),
                id.get()
            )
        })?;
        tokio::time::sleep(LOOK).await;
    }
}

async fn remove(names: &NamespaceClient, id: NodeId) -> anyhow::Result<()> {
    let (_, nodes) = names.topology().await?;
    match nodes.iter().find(|node| node.id == id) {
        None => Err(Failure::error(Exit::NotFound, format!("node {} is no member of the cluster", id.get()))),
        Some(_) => Ok(names.remove_node(id).await?),
    }
}
