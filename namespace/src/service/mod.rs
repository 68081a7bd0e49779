//! The gRPC services of a node.

mod admin;
mod changes;
mod cut;
mod guard;
mod manage;
mod namespace;
mod peer;
mod walk;

pub(crate) use changes::events as seq_events;

use std::sync::Arc;

use causeway_namespace_raft::link::MESSAGE_BYTES_MAX as RAFT_BYTES_MAX;
use causeway_proto::peer::v1::peer_server::PeerServer;
use causeway_proto::v1::admin_server::AdminServer;
use causeway_proto::v1::manage_server::ManageServer;
use causeway_proto::v1::namespace_server::NamespaceServer;
use causeway_transport::grpc::{self, MESSAGE_BYTES_MAX};
use causeway_transport::{ExpectPeer, IdentityStore};
use futures::StreamExt as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::node::Namespace;
use cut::Cut;
use guard::Guard;

/// Room for the fields around a Raft payload.
const ENVELOPE_BYTES: usize = 64;

/// A service of a node: what it serves, and who may ask.
#[derive(Clone, Debug)]
struct Service {
    namespace: Arc<Namespace>,
    guard: Arc<Guard>,
}

/// Serves until the node shuts down; requests in work are given a moment then.
pub(crate) fn serve(
    namespace: &Arc<Namespace>,
    listener: TcpListener,
    identity: &Arc<IdentityStore>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let limits = namespace.config.limits;
    let incoming = grpc::incoming(listener, identity, ExpectPeer::Any, limits.incoming)?;
    let service = Service { namespace: namespace.clone(), guard: Arc::new(Guard::new(namespace)) };
    let raft_bytes = RAFT_BYTES_MAX + ENVELOPE_BYTES;
    let router = grpc::server()
        .add_service(NamespaceServer::new(service.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .add_service(ManageServer::new(service.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .add_service(AdminServer::new(service.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .add_service(
            PeerServer::new(service).max_decoding_message_size(raft_bytes).max_encoding_message_size(raft_bytes),
        );
    let stop = namespace.stop.clone();
    namespace.tasks.spawn(async move {
        let closed = CancellationToken::new();
        // Whatever way this ends, connections that are still open break then.
        let _closing = closed.clone().drop_guard();
        let incoming = incoming.map(move |io| io.map(|io| Cut::new(io, &closed)));
        let serving = router.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        let drained = async {
            stop.cancelled().await;
            tokio::time::sleep(limits.drain).await;
        };
        tokio::select! {
            served = serving => if let Err(error) = served {
                tracing::error!(%error, "the gRPC server ended");
            },
            () = drained => tracing::debug!("connections were still open at the end"),
        }
    });
    Ok(())
}
