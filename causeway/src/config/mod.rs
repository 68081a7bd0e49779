//! The one configuration file: a cluster's sites, nodes, links and repository, read by every node and by the command line.
//!
//! Relative paths are relative to the file. Unknown keys are refused. [`Config::load`] reports the file and line of what
//! is wrong; [`starter`] writes the commented file that `causeway init` leaves.

mod check;
mod duration;
mod starter;
pub mod topology;

use std::path::{Path, PathBuf};

use causeway_base::{ByteSize, ClusterId, NodeId, SiteName};
use serde::Deserialize;
use toml::Spanned;

pub use check::ConfigError;
pub use duration::HumanDuration;
pub use starter::{StarterNode, node_section, starter};

/// A cluster's configuration, checked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The cluster as a whole.
    pub cluster: ClusterSection,
    /// How the command line introduces itself.
    pub client: ClientSection,
    /// Where packs and metadata images are archived; without it volumes cannot be archived.
    pub repository: Option<RepositorySection>,
    /// Raft timing.
    #[serde(default)]
    pub timing: TimingSection,
    /// Bounds of a node.
    #[serde(default)]
    pub limits: LimitsSection,
    /// Collection of garbage, scrub.
    #[serde(default)]
    pub upkeep: UpkeepSection,
    /// Sites, at least one.
    #[serde(rename = "site")]
    pub sites: Vec<Spanned<SiteSection>>,
    /// Nodes, at least one; an odd number of them votes.
    #[serde(rename = "node")]
    pub nodes: Vec<Spanned<NodeSection>>,
    /// The folder that relative paths start from: the file's.
    #[serde(skip)]
    pub base: PathBuf,
    /// The file itself.
    #[serde(skip)]
    pub path: PathBuf,
}

/// `[cluster]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSection {
    /// 32 hexadecimal digits, drawn by `init`.
    pub id: ClusterId,
    /// The trust domain of the cluster's certificates.
    pub trust_domain: String,
    /// Key of the dedup realm `default`, 64 hexadecimal digits, used once: when the cluster is set up.
    pub realm_key_file: PathBuf,
    /// The topology, used once: when the cluster is set up. Without it one is made of the `[[site]]` sections.
    pub topology_file: Option<PathBuf>,
}

/// `[client]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientSection {
    /// Folder with `cert.pem`, `key.pem` and `ca.pem`.
    pub tls: PathBuf,
}

/// `[repository]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositorySection {
    /// `azure://container/prefix`, `s3://bucket/prefix`, `gs://bucket/prefix`, `file:///folder` or a folder.
    pub url: Spanned<String>,
}

/// `[timing]`
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimingSection {
    /// Between two heartbeats of a leader.
    pub heartbeat: HumanDuration,
    /// Time without a word of its leader after which a node does not hold to it any more; and the shortest that it then waits before it
    /// stands for election.
    pub election_min: HumanDuration,
    /// The longest that it then waits.
    pub election_max: HumanDuration,
}

impl Default for TimingSection {
    fn default() -> Self {
        let ms = |ms| HumanDuration(std::time::Duration::from_millis(ms));
        Self { heartbeat: ms(100), election_min: ms(500), election_max: ms(1000) }
    }
}

/// `[limits]`
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// Memory for cached blocks of the metadata store.
    pub metadata_cache: ByteSize,
    /// Memory for cached blocks of the chunk index.
    pub index_cache: ByteSize,
    /// Engine of the chunk index.
    pub index_engine: IndexEngine,
    /// Which chunks may rest as their difference from others.
    pub deltas_at_rest: DeltasAtRest,
    /// Bytes of chunks above which a node evicts copies of what other sites have; 0: no limit.
    pub chunk_capacity: ByteSize,
    /// Free disk space that a node keeps: below it, data writes are refused.
    pub disk_reserve: ByteSize,
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self {
            metadata_cache: ByteSize::mib(128),
            index_cache: ByteSize::mib(64),
            index_engine: IndexEngine::Fjall,
            deltas_at_rest: DeltasAtRest::Like,
            chunk_capacity: ByteSize(0),
            disk_reserve: ByteSize::mib(256),
        }
    }
}

/// Engine of the chunk index. Another one than before starts with an empty index, which is filled from the packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexEngine {
    /// Survives a crash.
    Fjall,
    /// Does not, so after one the index is built anew from the packs (docs/kv.md has both on the same work).
    Sled,
}

impl IndexEngine {
    /// As it is written in the configuration.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Fjall => "fjall",
            Self::Sled => "sled",
        }
    }
}

/// Which chunks may rest as their difference from others; docs/deltas.md has what it saves and costs. Those that do are read
/// whatever this says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeltasAtRest {
    /// None.
    Off,
    /// Those of a file of which the version before is here.
    Place,
    /// Also those that resemble any chunk of their realm that is here.
    Like,
}

/// `[upkeep]`
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpkeepSection {
    /// Between two collections of garbage; 0: only by `causeway store gc`.
    pub gc_every: HumanDuration,
    /// A chunk that nothing names is removed this long after that was first seen, at the earliest.
    pub gc_grace: HumanDuration,
    /// Each byte of each pack is read once in this time; 0: only by `causeway store scrub`.
    pub scrub_cycle: HumanDuration,
    /// Bytes a second that both read and write at most.
    pub rate: ByteSize,
    /// Seqs of each volume that can be read back to; the chunks of all of them are kept.
    pub versions: u64,
    /// Between two comparisons of this node's replicas of the metadata with the others'; 0: none, and no repairs.
    pub compare_every: HumanDuration,
    /// The records of each replica are added up once in this time; 0: only by `causeway volume verify`.
    pub verify_cycle: HumanDuration,
}

impl Default for UpkeepSection {
    fn default() -> Self {
        let hours = |hours: u64| HumanDuration(std::time::Duration::from_secs(hours * 3600));
        Self {
            gc_every: hours(6),
            gc_grace: hours(1),
            scrub_cycle: hours(14 * 24),
            rate: ByteSize::mib(64),
            versions: 100_000,
            compare_every: HumanDuration(std::time::Duration::from_secs(5)),
            verify_cycle: hours(24),
        }
    }
}

/// `[[site]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteSection {
    /// Its name.
    pub name: SiteName,
    /// Region, for placement and residency.
    pub region: String,
    /// Who runs it: `on-prem`, `azure`, ...
    pub provider: String,
}

/// `[[node]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSection {
    /// Never reused, not even after the node is gone.
    pub id: u64,
    /// Its site.
    pub site: SiteName,
    /// `host:port` of gRPC (control, metadata).
    pub grpc: String,
    /// `host:port` of QUIC (data).
    pub quic: String,
    /// Its data folder.
    pub data: PathBuf,
    /// Folder with its `cert.pem`, `key.pem` and `ca.pem`.
    pub tls: PathBuf,
    /// `host:port` on which it tells its metrics over HTTP; without it, it does not.
    pub metrics: Option<String>,
    /// What it does.
    #[serde(default)]
    pub role: Role,
    /// Added to a cluster that ran already: it never sets one up.
    #[serde(default)]
    pub added: bool,
}

/// What a node does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Everything.
    #[default]
    Full,
    /// Votes, and holds no file data.
    Witness,
}

impl NodeSection {
    /// Its id.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        NodeId(self.id)
    }
}

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`] with the file, the line and what to do.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::read(path, source))?;
        Self::parse(path, &text)
    }

    /// Checks the text of a configuration file.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let mut config: Self = toml::from_str(text).map_err(|error| ConfigError::syntax(path, text, &error))?;
        config.base = path.parent().map(Path::to_path_buf).unwrap_or_default();
        config.path = path.to_path_buf();
        check::check(&config, text)?;
        Ok(config)
    }

    /// A path of the file, made absolute against its folder.
    #[must_use]
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.base.join(path)
    }

    /// The nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeSection> {
        self.nodes.iter().map(Spanned::get_ref)
    }

    /// The sites.
    pub fn sites(&self) -> impl Iterator<Item = &SiteSection> {
        self.sites.iter().map(Spanned::get_ref)
    }

    /// What the cluster declares when it is set up.
    ///
    /// # Errors
    /// The topology's file cannot be used.
    pub fn topology(&self) -> Result<causeway_topology::TopologySpec, ConfigError> {
        match &self.cluster.topology_file {
            Some(file) => topology::load(&self.resolve(file)),
            None => {
                let sites: Vec<_> =
                    self.sites().map(|site| (site.name.clone(), site.region.clone(), site.provider.clone())).collect();
                Ok(topology::starter(&sites))
            }
        }
    }

    /// The node of an id.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&NodeSection> {
        self.nodes().find(|node| node.node_id() == id)
    }

    /// The repository's address; a plain relative folder is made absolute.
    #[must_use]
    pub fn repository_url(&self) -> Option<String> {
        let url = self.repository.as_ref()?.url.get_ref();
        if url.contains("://") {
            return Some(url.clone());
        }
        Some(self.resolve(Path::new(url)).to_string_lossy().into_owned())
    }
}

#[cfg(test)]
mod tests;
