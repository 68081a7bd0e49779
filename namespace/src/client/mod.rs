//! The typed client: what the command line, the gateways and the tests talk to a cluster with.
//!
//! A [`NamespaceClient`] is a cheap handle; clones share connections and sessions. Every call goes to one of the configured
//! nodes, which forwards to a leader where it must. A call that failed without effect, or whose repetition is harmless, is
//! tried again, at the next node, with growing pauses, until its deadline. Batches carry a session and a number, so that
//! trying again after an unknown outcome applies them at most once; sessions are opened and replaced behind the scenes.
//! Stats and batches that callers of one client have at the same time share messages, each with its own answer.
//!
//! ```no_run
//! # async fn example(identity: std::sync::Arc<causeway_transport::IdentityStore>) -> Result<(), Box<dyn std::error::Error>> {
//! use causeway_base::{ClientId, ClusterId, Seq};
//! use causeway_namespace::client::{ClientConfig, NamespaceClient};
//! use causeway_namespace::Consistency;
//!
//! let config = ClientConfig::new("00ff00ff00ff00ff00ff00ff00ff00ff".parse()?, vec!["127.0.0.1:7401".to_owned()], ClientId(7));
//! let client = NamespaceClient::connect(config, &identity).await?;
//! for volume in client.volumes().await? {
//!     println!("{} at {}", volume.spec.name, String::from_utf8_lossy(&volume.spec.mount));
//! }
//! # Ok(()) }
//! ```

mod admin;
mod attempt;
mod error;
mod feed;
mod lines;
mod manage;
mod mutate;
mod reads;
mod sessions;
mod together;
mod walk;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use causeway_base::{ClientId, ClusterId, Seq, VolumeId};
use causeway_transport::grpc::{self, MESSAGE_BYTES_MAX};
use causeway_transport::{ExpectPeer, IdentityStore};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tonic::Status;
use tonic::transport::Channel;

use causeway_proto::v1;
use causeway_proto::v1::admin_client::AdminClient as AdminStub;
use causeway_proto::v1::manage_client::ManageClient as ManageStub;
use causeway_proto::v1::namespace_client::NamespaceClient as NamespaceStub;

use together::{Carrier, Together};

pub use error::ClientError;
pub use feed::Feed;
pub use manage::Diff;
pub use mutate::Numbered;
pub use reads::ListPage;
pub use walk::{Walk, WalkBatch};

/// How a client finds its cluster and how long it tries.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The cluster that must answer.
    pub cluster: ClusterId,
    /// `host:port` of the gRPC of one or more nodes; the first is preferred until it fails.
    pub nodes: Vec<String>,
    /// The client's random name for itself, shown to people who look at sessions; also seeds the jitter of its pauses.
    pub client: ClientId,
    /// How long a call is tried. Default 30 s. [`NamespaceClient::with_deadline`] makes a handle with another.
    pub deadline: Duration,
    /// How long one node may take for an attempt before the next is asked. Default 5 s.
    pub attempt: Duration,
    /// First pause between attempts; doubled each time up to 1 s, with jitter. Default 10 ms.
    pub pause: Duration,
}

impl ClientConfig {
    /// With the defaults.
    #[must_use]
    pub fn new(cluster: ClusterId, nodes: Vec<String>, client: ClientId) -> Self {
        Self {
            cluster,
            nodes,
            client,
            deadline: Duration::from_secs(30),
            attempt: Duration::from_secs(5),
            pause: Duration::from_millis(10),
        }
    }
}

/// A client of one cluster. Clones share connections and sessions.
#[derive(Clone, Debug)]
pub struct NamespaceClient {
    shared: Arc<Shared>,
    deadline: Duration,
}

#[derive(Debug)]
struct Shared {
    config: ClientConfig,
    nodes: Vec<Node>,
    /// Index of the node that answered last.
    preferred: AtomicUsize,
    sessions: Mutex<BTreeMap<VolumeId, Arc<sessions::Session>>>,
    jitter: Mutex<StdRng>,
    /// Where the newest line of each volume began, of those that were promoted.
    lines: Mutex<BTreeMap<VolumeId, Seq>>,
}

#[derive(Clone, Debug)]
struct Node {
    address: String,
    channel: Channel,
    carrier: Carrier,
    calls: Arc<Calls>,
}

/// The calls to a node that travel together.
#[derive(Debug)]
struct Calls {
    stats: Together<v1::StatRequest, v1::StatResponse>,
    batches: Together<v1::MutateRequest, v1::MutateResponse>,
}

impl Node {
    fn namespace(&self) -> NamespaceStub<Channel> {
        NamespaceStub::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    async fn stat(&self, ask: v1::StatRequest, limit: Duration) -> Result<v1::StatResponse, Status> {
        self.calls.stats.ask(ask, limit, &self.carrier).await
    }

    async fn mutate(&self, ask: v1::MutateRequest, limit: Duration) -> Result<v1::MutateResponse, Status> {
        self.calls.batches.ask(ask, limit, &self.carrier).await
    }

    fn manage(&self) -> ManageStub<Channel> {
        ManageStub::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn admin(&self) -> AdminStub<Channel> {
        AdminStub::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

impl NamespaceClient {
    /// A client to which a node of the cluster has answered, with a leader or without: a wrong address, certificate or
    /// cluster is told here.
    ///
    /// # Errors
    /// [`ClientError::Config`] without a node; else [`ClientError`].
    pub async fn connect(config: ClientConfig, identity: &Arc<IdentityStore>) -> Result<Self, ClientError> {
        let client = Self::lazy(config, identity)?;
        client.node_status().await?;
        Ok(client)
    }

    /// A client that connects with its first call.
    ///
    /// # Errors
    /// [`ClientError::Config`] without a node, or if the identity cannot be used for TLS.
    pub fn lazy(config: ClientConfig, identity: &Arc<IdentityStore>) -> Result<Self, ClientError> {
        if config.nodes.is_empty() {
            return Err(ClientError::Config("no address of a node is given".to_owned()));
        }
        let mut nodes = Vec::with_capacity(config.nodes.len());
        for address in &config.nodes {
            let channel = grpc::channel(address, identity, ExpectPeer::AnyNode)
                .map_err(|error| ClientError::Config(format!("TLS towards {address}: {error}")))?;
            let carrier = Carrier::new(channel.clone(), config.cluster);
            let calls = Arc::new(Calls { stats: Together::new(), batches: Together::new() });
            nodes.push(Node { address: address.clone(), channel, carrier, calls });
        }
        let id = config.client.0;
        // Both halves, so that ids that differ in one only jitter differently.
        #[allow(clippy::cast_possible_truncation)]
        let seed = (id >> 64) as u64 ^ id as u64;
        let deadline = config.deadline;
        let shared = Shared {
            config,
            nodes,
            preferred: AtomicUsize::new(0),
            sessions: Mutex::default(),
            jitter: Mutex::new(StdRng::seed_from_u64(seed)),
            lines: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared), deadline })
    }

    /// A handle of the same client whose calls are tried for `deadline`.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { shared: self.shared.clone(), deadline }
    }

    /// The cluster that must answer.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.shared.config.cluster
    }

    fn session(&self, volume: VolumeId) -> Arc<sessions::Session> {
        let mut sessions = self.shared.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.entry(volume).or_insert_with(|| Arc::new(sessions::Session::new())).clone()
    }
}
