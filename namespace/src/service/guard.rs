//! Who may ask, of which cluster, for how long, and how much at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use causeway_base::{ClusterId, NodeId, RetryClass, StoreId};
use causeway_proto::{PROTOCOL_VERSION, metadata};
use causeway_transport::{PeerId, grpc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Status};

use crate::catalog::Catalog;
use crate::node::Namespace;
use crate::rpc;

/// Checks every request before anything is done for it.
#[derive(Debug)]
pub(super) struct Guard {
    cluster: ClusterId,
    catalog: watch::Receiver<Arc<Catalog>>,
    requests: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    /// The store under which a node that is not registered yet came first: until it is, no other may come in its name.
    pinned: Mutex<BTreeMap<NodeId, StoreId>>,
}

/// A request that was let in. Its place is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Admitted {
    /// How long may be worked on it.
    pub(super) deadline: Duration,
    /// Who asks, by its certificate.
    pub(super) peer: PeerId,
    _place: OwnedSemaphorePermit,
}

/// A node that was let in.
#[derive(Debug)]
pub(super) struct AdmittedNode {
    pub(super) node: NodeId,
    pub(super) store: StoreId,
    pub(super) deadline: Option<Duration>,
}

impl Guard {
    pub(super) fn new(namespace: &Namespace) -> Self {
        let limits = namespace.config.limits;
        Self {
            cluster: namespace.config.cluster,
            catalog: namespace.watch_catalog(),
            requests: Arc::new(Semaphore::new(limits.requests_max)),
            streams: Arc::new(Semaphore::new(limits.streams_max)),
            pinned: Mutex::default(),
        }
    }

    /// A call of the client API: clients and nodes may make it.
    #[allow(clippy::result_large_err)] // a handler returns it as it is
    pub(super) fn client<T>(&self, request: &Request<T>) -> Result<Admitted, Status> {
        self.conversation(request.metadata())?;
        let peer = grpc::peer(request)?.clone();
        let deadline = rpc::work_time(request.metadata()).ok_or_else(no_deadline)?;
        Ok(Admitted { deadline, peer, _place: place(&self.requests, "requests")? })
    }

    /// Places for more requests that came within one call.
    #[allow(clippy::result_large_err)]
    pub(super) fn more(&self, count: usize) -> Result<Option<OwnedSemaphorePermit>, Status> {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if count == 0 {
            return Ok(None);
        }
        let places = self.requests.clone().try_acquire_many_owned(count);
        places.map(Some).map_err(|_| overloaded("requests"))
    }

    /// As [`Self::client`], for walks and waits: they last, so they have places of their own. A walk needs no deadline.
    #[allow(clippy::result_large_err)]
    pub(super) fn lasting<T>(&self, request: &Request<T>) -> Result<Admitted, Status> {
        self.conversation(request.metadata())?;
        let peer = grpc::peer(request)?.clone();
        let deadline = rpc::work_time(request.metadata()).unwrap_or(rpc::DEADLINE_MAX);
        Ok(Admitted { deadline, peer, _place: place(&self.streams, "walks and waits")? })
    }

    /// A call between nodes: only of a node, in its own name, with the disk that it registered.
    #[allow(clippy::result_large_err)]
    pub(super) fn node<T>(&self, request: &Request<T>) -> Result<AdmittedNode, Status> {
        let admitted = self.introduced(request)?;
        self.same_store(admitted.node, admitted.store)?;
        Ok(admitted)
    }

    /// As [`Self::node`], of a node that asks what is known of its disk.
    #[allow(clippy::result_large_err)]
    pub(super) fn introduced<T>(&self, request: &Request<T>) -> Result<AdmittedNode, Status> {
        let map = request.metadata();
        self.conversation(map)?;
        let PeerId::Node { node, site } = grpc::peer(request)? else {
            let message = "only nodes may ask this; the caller's certificate is a client's";
            return Err(rpc::failure(Code::PermissionDenied, RetryClass::Refused, "not-a-node", message));
        };
        let claimed = rpc::text(map, metadata::NODE_ID).parse().map(NodeId);
        if claimed != Ok(*node) {
            let message = format!("the caller says that it is not {node}, which its certificate names");
            return Err(rpc::failure(Code::PermissionDenied, RetryClass::Refused, "wrong-node", message));
        }
        if let Some(known) = self.catalog.borrow().nodes.get(node)
            && known.site != *site
        {
            let message = format!("{node} is of site {}, the caller's certificate says {site}", known.site);
            return Err(rpc::failure(Code::PermissionDenied, RetryClass::Refused, "wrong-site", message));
        }
        {
            let catalog = self.catalog.borrow();
            if catalog.cluster.is_some() && !catalog.nodes.contains_key(node) {
                // It may be new and not known here yet, so it may ask again.
                let message = format!("{node} is no member of this cluster: it was removed, or never added");
                return Err(rpc::failure(Code::Unavailable, RetryClass::Transient, "no-member", message));
            }
        }
        let store = rpc::text(map, metadata::STORE_ID).parse().map_err(rpc::invalid)?;
        Ok(AdmittedNode { node: *node, store, deadline: rpc::work_time(map) })
    }

    #[allow(clippy::result_large_err)]
    fn same_store(&self, node: NodeId, store: StoreId) -> Result<(), Status> {
        let registered = self.catalog.borrow().nodes.get(&node).and_then(|node| node.store);
        let known = match registered {
            Some(registered) => {
                self.pinned.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
                registered
            }
            None => *self.pinned.lock().unwrap_or_else(PoisonError::into_inner).entry(node).or_insert(store),
        };
        if known == store {
            return Ok(());
        }
        let message = format!(
            "{node} is known here with store {known}, it came with {store}: its disk was lost or swapped. A node that \
             lost its disk cannot come back under its old id; add it as a new node"
        );
        Err(rpc::failure(Code::PermissionDenied, RetryClass::Refused, "wrong-store", message))
    }

    /// Cluster and protocol, compared before anything else.
    #[allow(clippy::result_large_err)]
    fn conversation(&self, map: &MetadataMap) -> Result<(), Status> {
        let protocol = rpc::text(map, metadata::PROTOCOL);
        if protocol != PROTOCOL_VERSION.to_string() {
            let message = format!(
                "wrong version: the caller speaks protocol {:?}, this node {PROTOCOL_VERSION}; run the same release",
                protocol
            );
            return Err(rpc::failure(Code::FailedPrecondition, RetryClass::Refused, "wrong-version", message));
        }
        let cluster = rpc::text(map, metadata::CLUSTER_ID);
        if cluster != self.cluster.to_string() {
            let message = format!(
                "wrong cluster: the caller asks for {cluster:?}, this node belongs to {}; check address and configuration",
                self.cluster
            );
            return Err(rpc::failure(Code::FailedPrecondition, RetryClass::Refused, "wrong-cluster", message));
        }
        Ok(())
    }
}

fn no_deadline() -> Status {
    rpc::invalid("the call has no deadline (grpc-timeout)")
}

#[allow(clippy::result_large_err)]
fn place(places: &Arc<Semaphore>, what: &str) -> Result<OwnedSemaphorePermit, Status> {
    places.clone().try_acquire_owned().map_err(|_| overloaded(what))
}

fn overloaded(what: &str) -> Status {
    let message = format!("too many {what} at once; try again, or another node");
    rpc::failure(Code::ResourceExhausted, RetryClass::Transient, "overloaded", message)
}
