//! The usual sources: the other nodes of the cluster, and the repository.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use causeway_base::{NodeId, SiteName, VolumeId};
use causeway_namespace_core::root::{NodeRecord, VolumeSpec};
use causeway_replicator_core::{Source, SourceId};
use causeway_repository::archive::ChunkArchive;
use causeway_topology::{BitRate, Price};
use causeway_transport::quic::PeerAddr;
use causeway_transport::{ExpectPeer, PeerId};

use crate::client::ChunkClient;
use crate::counters::Place;
use crate::source::{ArchiveSource, Candidate, NodeSource, Sources};
use crate::wire::Form;

/// What is known of the way to a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Round-trip time.
    pub rtt: Duration,
    /// Rate.
    pub rate: BitRate,
    /// What a GiB costs.
    pub price_per_gib: Price,
}

impl Default for Way {
    /// A gigabit at 10 ms, for free.
    fn default() -> Self {
        Self { rtt: Duration::from_millis(10), rate: BitRate(1_000_000_000), price_per_gib: Price(0) }
    }
}

/// What this node knows of the cluster, of the moment.
pub trait Directory: Send + Sync + Debug {
    /// All registered nodes.
    fn nodes(&self) -> Vec<NodeRecord>;

    /// A volume's settings, if it is known.
    fn volume(&self, id: VolumeId) -> Option<VolumeSpec>;

    /// The way to a site.
    fn way(&self, to: &SiteName) -> Way {
        let _ = to;
        Way::default()
    }

    /// Whether bytes of a volume may come from a site.
    fn allowed(&self, volume: Option<VolumeId>, from: &SiteName) -> bool {
        let _ = (volume, from);
        true
    }
}

/// Other nodes and the repository as sources.
#[derive(Debug)]
pub struct PeerSources {
    own: (SiteName, NodeId),
    directory: Arc<dyn Directory>,
    client: ChunkClient,
    archive: Option<ArchiveSource>,
}

impl PeerSources {
    /// The sources of the node `own`.
    #[must_use]
    pub fn new(
        own: (SiteName, NodeId),
        directory: Arc<dyn Directory>,
        client: ChunkClient,
        archive: Option<ChunkArchive>,
    ) -> Self {
        let archive = archive.map(|archive| ArchiveSource::new(archive, client.counters().clone()));
        Self { own, directory, client, archive }
    }

    fn node(&self, node: &NodeRecord, figures: Source) -> Candidate {
        let expect = ExpectPeer::Exactly(PeerId::node(node.site.clone(), node.id));
        let to = PeerAddr { addr: node.quic.clone(), expect };
        // Within a site bytes are cheap and time is not.
        let form = if node.site == self.own.0 { Form::Stored } else { Form::WAN };
        let source = Arc::new(NodeSource::new(self.client.clone(), to, form));
        Candidate { place: Place::Site(node.site.clone()), figures, source }
    }
}

impl Sources for PeerSources {
    fn candidates(&self, volume: Option<VolumeId>, origin: Option<&SiteName>) -> Vec<Candidate> {
        let spec = volume.and_then(|id| self.directory.volume(id));
        let holds = |site: &SiteName| {
            origin == Some(site) || spec.as_ref().is_some_and(|spec| spec.home == *site || spec.replicas.contains(site))
        };
        let mut candidates = Vec::new();
        for node in self.directory.nodes() {
            if node.id == self.own.1 || node.quic.is_empty() {
                continue;
            }
            let way = self.directory.way(&node.site);
            let figures = Source {
                id: SourceId(0),
                rtt: way.rtt,
                rate: way.rate,
                price_per_gib: way.price_per_gib,
                allowed: self.directory.allowed(volume, &node.site),
                complete: holds(&node.site),
            };
            candidates.push(self.node(&node, figures));
        }
        if let Some(archive) = &self.archive {
            // Asked when no site has a chunk: it may lag behind the sites, and asking it for what it lacks costs listings.
            let figures = Source {
                id: SourceId(0),
                rtt: Duration::from_millis(50),
                rate: BitRate(500_000_000),
                price_per_gib: Price(0),
                allowed: true,
                complete: false,
            };
            candidates.push(Candidate { place: Place::Repository, figures, source: Arc::new(archive.clone()) });
        }
        candidates
    }
}
