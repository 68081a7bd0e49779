//! How a node becomes part of its cluster.
//!
//! 1. A data folder that never joined asks the other nodes what they know of its node id, before the node takes part in
//!    anything. It goes on if the root group, asked linearizably by a peer, has no other store registered for it, or if all
//!    other first nodes have seen no commit yet (then the cluster is being born). Another store registered means that this
//!    disk replaced a lost one: a voter must not vote again without its memory, so the node refuses to start.
//! 2. The folder is marked as joined, durably; later starts begin here. The root group starts.
//! 3. The cluster's records are proposed if there are none, then the node's registration if it is not as it should be. Both
//!    are idempotent, so an unknown outcome is simply tried again.
//! 4. The root group's tables are followed.

use std::sync::Arc;
use std::time::Duration;

use causeway_base::{ClusterId, NodeId, RetryClass, StoreId, VolumeId};
use causeway_namespace_core::command::Outcome;
use causeway_namespace_core::root::{ClusterRecord, NodeRecord, RootOp, RootOutcome, RootRefusal};
use causeway_proto::peer::v1::{HelloRequest, hello_response::Registration};
use futures::future::join_all;

use super::{Namespace, Pause, blocking, may_retry};
use crate::catalog::Catalog;
use crate::config::Parts;
use crate::error::Error;
use crate::incarnation::Incarnation;
use crate::read::Consistency;
use crate::rpc;
use crate::wire;

/// Time for one answer of a peer, and for one try of a root operation.
const STEP: Duration = Duration::from_secs(5);

/// Whether the node is part of its cluster.
#[derive(Clone, Debug)]
pub(crate) enum Joined {
    NotYet,
    Yes,
    Never(JoinError),
}

/// Why a node cannot be part of its cluster as it is.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The disk is not the one that the node had.
    #[error(
        "node {node} has joined the cluster with store {registered}, but its data folder is store {found}: the disk was \
         lost, wiped or swapped. A node that lost its disk cannot come back under its old id, since it forgot what it \
         voted for: bring the old disk back, or add it as a new node"
    )]
    OtherStore {
        /// This node.
        node: NodeId,
        /// What the cluster knows.
        registered: StoreId,
        /// What is here.
        found: StoreId,
    },
    /// The root group belongs to another cluster.
    #[error("the data belongs to cluster {found}, the configuration says {asked}")]
    OtherCluster {
        /// Stored.
        found: ClusterId,
        /// Configured.
        asked: ClusterId,
    },
    /// A peer refused this node for good.
    #[error("{peer} refuses this node: {reason}")]
    RefusedBy {
        /// Which peer.
        peer: NodeId,
        /// What it says.
        reason: String,
    },
    /// The root group refused the registration.
    #[error("the cluster refuses this node: {0}")]
    Refused(RootRefusal),
    /// The disk or the groups failed.
    #[error("the node cannot join: {0}")]
    Failed(String),
    /// The node is being shut down.
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// What the peers know of this node, all in all.
enum Introduction {
    MayJoin,
    TryAgain(String),
}

pub(crate) async fn run(namespace: Arc<Namespace>, parts: Parts, incarnation: Incarnation) {
    let joining = join(&namespace, parts, incarnation);
    let joined = tokio::select! {
        joined = joining => joined,
        () = namespace.stop.cancelled() => Err(JoinError::ShuttingDown),
    };
    match joined {
        Ok(()) => {
            tracing::info!(node = %namespace.id(), "joined the cluster");
            namespace.joined.send_replace(Joined::Yes);
        }
        Err(JoinError::ShuttingDown) => {}
        Err(error) => {
            tracing::error!(node = %namespace.id(), %error, "cannot join the cluster");
            namespace.joined.send_replace(Joined::Never(error));
        }
    }
}

async fn join(namespace: &Arc<Namespace>, parts: Parts, incarnation: Incarnation) -> Result<(), JoinError> {
    if !incarnation.joined {
        introduce(namespace, incarnation.store).await?;
        let joined = Incarnation { joined: true, ..incarnation };
        let write = move || joined.write(&parts.disk, &parts.dir);
        blocking(write).await.map_err(|error| JoinError::Failed(rpc::chain(&error)))?;
    }
    namespace.start_root().await?;
    let mut pause = Pause::new();
    loop {
        match register(namespace).await {
            Ok(true) => return Ok(()),
            // Proposed; the next round sees it.
            Ok(false) => {}
            Err(Step::Never(error)) => return Err(error),
            Err(Step::Again(error)) => {
                tracing::debug!(%error, "not registered yet");
                if !pause.wait(&namespace.stop).await {
                    return Err(JoinError::ShuttingDown);
                }
            }
        }
    }
}

async fn introduce(namespace: &Namespace, store: StoreId) -> Result<(), JoinError> {
    let mut pause = Pause::new();
    let mut told = String::new();
    loop {
        match ask_all(namespace, store).await? {
            Introduction::MayJoin => return Ok(()),
            Introduction::TryAgain(why) => {
                if why != told {
                    tracing::info!(node = %namespace.id(), why, "new data folder: waiting for peers to know it");
                    told = why;
                }
            }
        }
        if !pause.wait(&namespace.stop).await {
            return Err(JoinError::ShuttingDown);
        }
    }
}

async fn ask_all(namespace: &Namespace, store: StoreId) -> Result<Introduction, JoinError> {
    let others: Vec<NodeId> =
        namespace.config.initial.iter().map(|node| node.id).filter(|id| *id != namespace.id()).collect();
    let answers = join_all(others.iter().map(|node| hello(namespace, *node))).await;
    let mut newborn = 0;
    let mut why = String::new();
    for (node, answer) in others.iter().zip(answers) {
        match answer {
            Ok(Registration::Registered(known)) => {
                let registered = wire::id_from_bytes(&known, "registered").map_err(|error| JoinError::RefusedBy {
                    peer: *node,
                    reason: format!("its answer does not decode: {error}"),
                })?;
                if registered == store.0 {
                    return Ok(Introduction::MayJoin);
                }
                let registered = StoreId(registered);
                return Err(JoinError::OtherStore { node: namespace.id(), registered, found: store });
            }
            Ok(Registration::Unregistered(_)) => return Ok(Introduction::MayJoin),
            Ok(Registration::Pristine(_)) => newborn += 1,
            Ok(Registration::Undecided(_)) => why = format!("{node} finds no leader of the root group"),
            Err((RetryClass::Refused, reason)) => return Err(JoinError::RefusedBy { peer: *node, reason }),
            Err((_, reason)) => why = format!("{node} does not answer: {reason}"),
        }
    }
    Ok(if newborn == others.len() { Introduction::MayJoin } else { Introduction::TryAgain(why) })
}

async fn hello(namespace: &Namespace, node: NodeId) -> Result<Registration, (RetryClass, String)> {
    let unreached = |error: causeway_namespace_raft::LinkError| (RetryClass::Transient, error.to_string());
    let mut stub = namespace.peers.control(node).map_err(unreached)?;
    let request = namespace.peers.request(HelloRequest {}, Some(STEP));
    match stub.hello(request).await {
        Ok(answer) => {
            answer.into_inner().registration.ok_or_else(|| (RetryClass::Refused, "it says nothing".to_owned()))
        }
        Err(status) => Err((rpc::class_of(&status), rpc::message_of(&status))),
    }
}

enum Step {
    Again(String),
    Never(JoinError),
}

impl From<Error> for Step {
    fn from(error: Error) -> Self {
        if may_retry(&error) {
            Self::Again(error.to_string())
        } else {
            Self::Never(JoinError::Failed(error.to_string()))
        }
    }
}

/// Whether the cluster knows the node's disk and addresses; the rest is the cluster's to say.
fn is_as_registered(known: &NodeRecord, node: &NodeRecord) -> bool {
    let told = |node: &NodeRecord| (node.store, node.grpc.clone(), node.quic.clone());
    told(known) == told(node)
}

/// One round; `true` if the node is registered as it is.
async fn register(namespace: &Arc<Namespace>) -> Result<bool, Step> {
    let config = &namespace.config;
    let snapshot = namespace.snapshot(VolumeId::ROOT, Consistency::Linearizable, STEP).await?;
    let catalog = Catalog::read(&snapshot.view, snapshot.state.seq).map_err(Error::Read)?;
    let op = match &catalog.cluster {
        None if !config.founders.contains(&namespace.id()) => {
            return Err(Step::Again("the cluster is not set up yet".to_owned()));
        }
        None => RootOp::Bootstrap {
            cluster: ClusterRecord { id: config.cluster, epoch: config.epoch },
            nodes: config
                .initial
                .iter()
                .filter(|node| config.founders.contains(&node.id))
                .map(|node| NodeRecord { store: None, ..node.clone() })
                .collect(),
            realm_key: config.realm_key.clone(),
            topology: config.topology.clone(),
        },
        Some(cluster) if cluster.id != config.cluster => {
            return Err(Step::Never(JoinError::OtherCluster { found: cluster.id, asked: config.cluster }));
        }
        Some(_) if catalog.nodes.get(&namespace.id()).is_some_and(|known| is_as_registered(known, &namespace.node)) => {
            namespace.wait_catalog(snapshot.state.seq).await;
            return Ok(true);
        }
        Some(_) => RootOp::RegisterNode { node: namespace.node.clone() },
    };
    let proposed = namespace.propose_root(op, STEP).await?;
    match proposed.outcome {
        Outcome::Root(RootOutcome::Refused(RootRefusal::StoreMismatch { node, registered, asked })) => {
            Err(Step::Never(JoinError::OtherStore { node, registered, found: asked }))
        }
        Outcome::Root(RootOutcome::Refused(RootRefusal::OtherCluster { found, asked })) => {
            Err(Step::Never(JoinError::OtherCluster { found, asked }))
        }
        Outcome::Root(RootOutcome::Refused(refusal)) => Err(Step::Never(JoinError::Refused(refusal))),
        Outcome::Root(_) => Ok(false),
        other => Err(Step::Never(JoinError::Failed(format!("the root group answered {other:?}")))),
    }
}
