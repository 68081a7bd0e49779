//! A new cluster's files: configuration, authority, certificates, realm key.
//!
//! The folder is built under another name beside its place and renamed at the end, so that an interrupted `init` leaves
//! nothing that looks like a cluster.

use std::collections::BTreeSet;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use causeway_base::{ClusterId, NodeId, SiteName, SystemClock};
use causeway_transport::{CertificateAuthority, PeerId, TrustDomain};
use rand::Rng as _;

use crate::cli::exit::{Exit, Failure};
use crate::config::{Config, StarterNode, starter, topology};

/// What a new cluster is to be.
#[derive(Debug, Clone)]
pub struct NewCluster {
    /// Its folder; must not exist, or be empty.
    pub dir: PathBuf,
    /// Its id; `None` draws one. A restore keeps the old one.
    pub id: Option<ClusterId>,
    /// Key of the realm `default`; `None` draws one. A restore keeps the old one.
    pub realm_key: Option<[u8; 32]>,
    /// Sites, one node each.
    pub sites: Vec<SiteName>,
    /// Id of the first node: above every id that the cluster ever had.
    pub first_node: NodeId,
    /// Address on which the nodes listen.
    pub host: String,
    /// First port; 0 picks free ones.
    pub base_port: u16,
    /// The repository's address; a relative folder lies in the cluster's.
    pub repository: String,
    /// How long the certificates are valid.
    pub certificate_life: Duration,
}

/// What stands above a new cluster's topology.
const TOPOLOGY_COMMENTS: [&str; 5] = [
    "Regions, sites and the links between them. Rates, round trips, prices and jurisdictions are guesses: put in the real",
    "ones before the first start, or later with `causeway topology plan topology.toml` and `causeway topology apply`.",
    "jurisdiction: whose law holds; volumes can be kept to some. kind: expressroute, virtual-wan, vpn, internet or lan.",
    "price_per_gib: in the currency of your choice. priority: lower is preferred. transit = true lets bytes between two",
    "other sites pass through a site.",
];

/// Name of the configuration in a cluster's folder.
pub(crate) const CONFIG_FILE: &str = "causeway.toml";

/// Writes a new cluster and returns its configuration.
///
/// # Errors
/// The folder is in use, a site stands twice, or a file cannot be written; nothing is left behind.
pub fn create(new: &NewCluster) -> anyhow::Result<Config> {
    check(new)?;
    let parent = new.dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    std::fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    let building = tempfile::Builder::new()
        .prefix(".causeway-init-")
        .tempdir_in(parent)
        .with_context(|| format!("create a folder in {}", parent.display()))?;
    write(new, building.path())?;
    // An empty folder at the destination is replaced by the rename.
    std::fs::rename(building.path(), &new.dir)
        .with_context(|| format!("move the new cluster to {}", new.dir.display()))?;
    drop(building.keep());
    let path = new.dir.join(CONFIG_FILE);
    let path = path.canonicalize().with_context(|| format!("find {}", path.display()))?;
    Ok(Config::load(&path)?)
}

fn check(new: &NewCluster) -> anyhow::Result<()> {
    let in_use = match std::fs::read_dir(&new.dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(error).with_context(|| format!("look into {}", new.dir.display())),
    };
    if in_use {
        let message = format!(
            "{} is not empty: a new cluster needs a folder of its own.\n  hint: name one that does not exist yet",
            new.dir.display()
        );
        return Err(Failure::error(Exit::Refused, message));
    }
    let distinct: BTreeSet<_> = new.sites.iter().collect();
    if new.sites.is_empty() || distinct.len() != new.sites.len() {
        return Err(Failure::error(Exit::Usage, "--sites needs at least one site, and each only once"));
    }
    if new.sites.len() > 9 {
        return Err(Failure::error(Exit::Usage, format!("{} sites: at most 9 can vote", new.sites.len())));
    }
    Ok(())
}

fn write(new: &NewCluster, dir: &Path) -> anyhow::Result<()> {
    let mut rng = rand::rng();
    let cluster = new.id.unwrap_or_else(|| ClusterId(rng.random()));
    let realm_key = new.realm_key.unwrap_or_else(|| rng.random());
    let trust = format!("c{:08x}.causeway", (cluster.0 >> 96) as u32);
    let nodes = starter_nodes(new)?;

    let file =
        |path: PathBuf, text: &str| std::fs::write(&path, text).with_context(|| format!("write {}", path.display()));
    file(dir.join(CONFIG_FILE), &starter(cluster, &trust, &new.repository, &nodes))?;
    let mut sites: Vec<(causeway_base::SiteName, String, String)> = Vec::new();
    for node in &nodes {
        if sites.iter().all(|(site, ..)| *site != node.site) {
            sites.push((node.site.clone(), node.region.clone(), node.provider.clone()));
        }
    }
    file(
        dir.join("topology.toml"),
        &topology::text(&topology::starter(&sites), &TOPOLOGY_COMMENTS.map(str::to_owned))?,
    )?;
    write_secret(&dir.join("realm.key"), &format!("{}\n", hex::encode(realm_key)))?;

    let folder = |name: String| -> anyhow::Result<PathBuf> {
        let path = dir.join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(path)
    };
    let trust: TrustDomain = trust.parse().context("the trust domain")?;
    let ca = CertificateAuthority::create(trust, Arc::new(SystemClock)).context("create the certificate authority")?;
    ca.save(&folder("ca".into())?).context("save the certificate authority")?;
    let life = new.certificate_life;
    for node in &nodes {
        let peer = PeerId::node(node.site.clone(), NodeId(node.id));
        let issued = ca.issue(&peer, life).with_context(|| format!("issue the certificate of node {}", node.id))?;
        issued.save(&folder(format!("tls/n{}", node.id))?)?;
    }
    let admin = PeerId::client("admin").context("the admin's name")?;
    let issued = ca.issue(&admin, life).context("issue the admin's certificate")?;
    issued.save(&folder("tls/admin".into())?)?;
    Ok(())
}

fn write_secret(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("write {}", path.display()))
}

fn starter_nodes(new: &NewCluster) -> anyhow::Result<Vec<StarterNode>> {
    let count = u16::try_from(new.sites.len()).context("too many sites")?;
    let (grpc, quic) = if new.base_port == 0 {
        free_ports(&new.host, new.sites.len())?
    } else {
        let Some(last) = new.base_port.checked_add(100 + count) else {
            bail!(Failure { exit: Exit::Usage, message: format!("--base-port {} is too high", new.base_port) });
        };
        let quic = last - count;
        ((new.base_port..new.base_port + count).collect(), (quic..last).collect::<Vec<_>>())
    };
    let ids = new.first_node.get()..;
    let nodes =
        new.sites.iter().zip(ids).zip(grpc.into_iter().zip(quic)).map(|((site, id), (grpc, quic))| StarterNode {
            id,
            site: site.clone(),
            region: site.to_string(),
            provider: if id == new.first_node.get() { "on-prem".into() } else { "azure".into() },
            grpc: format!("{}:{grpc}", new.host),
            quic: format!("{}:{quic}", new.host),
        });
    Ok(nodes.collect())
}

/// Ports that are free now, all held until the last one is known so that none is given twice.
fn free_ports(host: &str, count: usize) -> anyhow::Result<(Vec<u16>, Vec<u16>)> {
    let tcp: Vec<_> =
        (0..count).map(|_| TcpListener::bind((host, 0))).collect::<Result<_, _>>().context("find free ports")?;
    let udp: Vec<_> =
        (0..count).map(|_| UdpSocket::bind((host, 0))).collect::<Result<_, _>>().context("find free ports")?;
    let grpc = tcp.iter().map(|socket| Ok(socket.local_addr()?.port())).collect::<std::io::Result<_>>()?;
    let quic = udp.iter().map(|socket| Ok(socket.local_addr()?.port())).collect::<std::io::Result<_>>()?;
    Ok((grpc, quic))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn new(dir: PathBuf) -> NewCluster {
        NewCluster {
            dir,
            id: None,
            realm_key: None,
            sites: ["zurich", "westeurope", "eastus"].map(|name| name.parse().unwrap()).into(),
            first_node: NodeId(1),
            host: "127.0.0.1".into(),
            base_port: 0,
            repository: "repository".into(),
            certificate_life: Duration::from_secs(3600),
        }
    }

    #[test]
    fn a_new_cluster_is_whole_and_its_secrets_are_private() {
        let temp = tempfile::tempdir().unwrap();
        let config = create(&new(temp.path().join("cluster"))).unwrap();
        assert_eq!(config.nodes().map(|node| node.id).collect::<Vec<_>>(), [1, 2, 3]);
        let secrets = ["realm.key", "ca/ca.key.pem", "tls/admin/key.pem", "tls/n3/key.pem"];
        for secret in secrets {
            let mode = config.base.join(secret).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{secret} is readable by others: {mode:o}");
        }
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1, "no temporary folder is left");
    }

    #[test]
    fn a_folder_in_use_is_refused_and_kept() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("mine"), "precious").unwrap();
        let error = create(&new(temp.path().to_owned())).unwrap_err();
        assert_eq!(error.downcast_ref::<Failure>().unwrap().exit, Exit::Refused);
        assert_eq!(std::fs::read(temp.path().join("mine")).unwrap(), b"precious");
    }

    #[test]
    fn two_sites_of_one_name_are_refused() {
        let temp = tempfile::tempdir().unwrap();
        let mut bad = new(temp.path().join("cluster"));
        bad.sites[1] = bad.sites[0].clone();
        assert!(create(&bad).is_err());
        assert!(!temp.path().join("cluster").exists());
    }
}
