//! What nodes ask of each other.

use causeway_base::{NodeId, RetryClass, Seq, VolumeId};
use causeway_namespace_core::command::Request as Proposal;
use causeway_namespace_core::listing::Listed;
use causeway_namespace_core::{encode, query};
use causeway_proto::peer::v1::{self, hello_response::Registration, peer_server};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::Service;
use crate::error::Error;
use crate::node::forward::propose_error;
use crate::read::Consistency;
use crate::rpc;
use crate::wire::{self, Wire};
use causeway_namespace_raft::{HandleError, ProposeError, ReadIndexError};

#[tonic::async_trait]
impl peer_server::Peer for Service {
    async fn hello(&self, request: Request<v1::HelloRequest>) -> Result<Response<v1::HelloResponse>, Status> {
        let caller = self.guard.introduced(&request)?;
        let registration = self.registration(caller.node, caller.deadline.unwrap_or(rpc::DEADLINE_MAX)).await?;
        let store = self.namespace.store().map(|store| wire::id_bytes(store.0)).unwrap_or_default();
        let node = self.namespace.id().0;
        Ok(Response::new(v1::HelloResponse { node, store, registration: Some(registration) }))
    }

    async fn call(&self, request: Request<v1::CallRequest>) -> Result<Response<v1::CallResponse>, Status> {
        let caller = self.guard.node(&request)?;
        let message = wire::peer_request(request.into_inner()).map_err(rpc::invalid)?;
        let payload = self.namespace.groups.handle(caller.node, message).await.map_err(not_handled)?;
        Ok(Response::new(v1::CallResponse { payload }))
    }

    type StreamStream = BoxStream<'static, Result<v1::StreamResponse, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<v1::StreamRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        use v1::stream_request::Frame;
        let caller = self.guard.node(&request)?;
        let mut messages = request.into_inner();
        let open = match messages.message().await?.and_then(|message| message.frame) {
            Some(Frame::Open(open)) => wire::peer_request(open).map_err(rpc::invalid)?,
            _ => return Err(rpc::invalid("a stream begins with what it is about")),
        };
        // The first error or stray frame ends the stream, as the link promises.
        let incoming = messages
            .map(|message| match message {
                Ok(v1::StreamRequest { frame: Some(Frame::Message(message)) }) => Some(message),
                _ => None,
            })
            .take_while(|message| futures::future::ready(message.is_some()))
            .filter_map(futures::future::ready)
            .boxed();
        let outgoing = self.namespace.groups.handle_stream(caller.node, open, incoming).await.map_err(not_handled)?;
        let stop = self.namespace.stop.clone().cancelled_owned();
        let answer = |message| v1::StreamResponse { message };
        let outgoing = outgoing.map(move |item| item.map(answer).map_err(not_handled)).take_until(stop);
        Ok(Response::new(outgoing.boxed()))
    }

    type ManifestsStream = BoxStream<'static, Result<v1::ManifestsResponse, Status>>;

    async fn manifests(
        &self,
        request: Request<v1::ManifestsRequest>,
    ) -> Result<Response<Self::ManifestsStream>, Status> {
        self.guard.node(&request)?;
        let admitted = self.guard.lasting(&request)?;
        let message = request.into_inner();
        let since = message.since.map(Listed::from_wire).transpose().map_err(rpc::invalid)?;
        let volume = VolumeId(message.volume);
        let unavailable = |why: String| rpc::failure(Code::Unavailable, RetryClass::Transient, "no-listing", why);
        let keeper = self.namespace.keeper().ok_or_else(|| unavailable("this node keeps no chunks".to_owned()))?;
        let pages = keeper.manifests(volume, since, admitted.deadline).await.map_err(unavailable)?;
        let stop = self.namespace.stop.clone().cancelled_owned();
        // Its place is taken as long as it lasts.
        let pages = ReceiverStream::new(pages).map(move |page| {
            let _place = &admitted;
            page.map(Wire::into_wire).map_err(unavailable)
        });
        Ok(Response::new(pages.take_until(stop).boxed()))
    }

    async fn propose(&self, request: Request<v1::ProposeRequest>) -> Result<Response<v1::ProposeResponse>, Status> {
        use v1::propose_response::{Committed, Result as Answer};
        let caller = self.guard.node(&request)?;
        let deadline = caller.deadline.ok_or_else(|| rpc::invalid("the call has no deadline (grpc-timeout)"))?;
        let message = request.into_inner();
        let proposal = Proposal::decode(&message.request).map_err(rpc::invalid)?;
        let id = VolumeId(message.group);
        self.check_line(caller.node, id, message.lineage).await?;
        let group = self.namespace.group(id).ok_or_else(|| not_here(id))?;
        let answer = match group.propose(proposal, deadline).await {
            Ok(proposed) => Answer::Committed(Committed { seq: proposed.seq.0, outcome: proposed.outcome.encode() }),
            Err(ProposeError::NotLeader { leader }) => Answer::NotLeader(leader.map_or(0, |node| node.0)),
            Err(error) => return Err(propose_error(id, error).into()),
        };
        Ok(Response::new(v1::ProposeResponse { result: Some(answer) }))
    }

    async fn read_index(
        &self,
        request: Request<v1::ReadIndexRequest>,
    ) -> Result<Response<v1::ReadIndexResponse>, Status> {
        use v1::read_index_response::Result as Answer;
        let caller = self.guard.node(&request)?;
        let deadline = caller.deadline.ok_or_else(|| rpc::invalid("the call has no deadline (grpc-timeout)"))?;
        let message = request.into_inner();
        let id = VolumeId(message.group);
        self.check_line(caller.node, id, message.lineage).await?;
        let group = self.namespace.group(id).ok_or_else(|| not_here(id))?;
        let answer = match group.read_index(deadline).await {
            Ok(seq) => Answer::Seq(seq.0),
            Err(ReadIndexError::NotLeader { leader }) => Answer::NotLeader(leader.map_or(0, |node| node.0)),
            Err(error) => {
                return Err(rpc::failure(Code::Unavailable, RetryClass::Transient, "no-quorum", error.to_string()));
            }
        };
        Ok(Response::new(v1::ReadIndexResponse { result: Some(answer) }))
    }

    async fn promote(&self, request: Request<v1::PromoteRequest>) -> Result<Response<v1::PromoteResponse>, Status> {
        let caller = self.guard.node(&request)?;
        let deadline = caller.deadline.ok_or_else(|| rpc::invalid("the call has no deadline (grpc-timeout)"))?;
        let v1::PromoteRequest { group, site, last, by } = request.into_inner();
        let site = wire::site(site, "site").map_err(rpc::invalid)?;
        let by = encode::from_bytes(&by, encode::RECORD_BYTES_MAX).map_err(rpc::invalid)?;
        let promoted = self.namespace.promote_here(VolumeId(group), &site, Seq(last), by, deadline).await?;
        Ok(Response::new(v1::PromoteResponse { record: encode::to_bytes(&promoted) }))
    }

    async fn forget(&self, request: Request<v1::ForgetRequest>) -> Result<Response<v1::ForgetResponse>, Status> {
        let caller = self.guard.node(&request)?;
        let deadline = caller.deadline.ok_or_else(|| rpc::invalid("the call has no deadline (grpc-timeout)"))?;
        let v1::ForgetRequest { name, line, by } = request.into_inner();
        let by = encode::from_bytes(&by, encode::RECORD_BYTES_MAX).map_err(rpc::invalid)?;
        self.namespace.forget_here(&name, wire::lineage(line), by, deadline).await?;
        Ok(Response::new(v1::ForgetResponse {}))
    }

    async fn trust(&self, request: Request<v1::TrustRequest>) -> Result<Response<v1::TrustResponse>, Status> {
        let caller = self.guard.node(&request)?;
        let deadline = caller.deadline.ok_or_else(|| rpc::invalid("the call has no deadline (grpc-timeout)"))?;
        let v1::TrustRequest { group, by } = request.into_inner();
        let by = encode::from_bytes(&by, encode::RECORD_BYTES_MAX).map_err(rpc::invalid)?;
        let sum = self.namespace.trust_here(VolumeId(group), by, deadline).await?;
        Ok(Response::new(v1::TrustResponse { seq: sum.seq.0, records: sum.records, right: sum.right }))
    }
}

impl Service {
    /// A proposal or read of a line that has ended is refused, and a greater line ends this node's.
    async fn check_line(&self, from: NodeId, id: VolumeId, line: Option<v1::Lineage>) -> Result<(), Status> {
        self.namespace.groups.check_line(from, id, wire::lineage(line)).await.map_err(not_handled)
    }

    /// What this node can say of another's registration: by the root group asked linearizably, or that this node's root
    /// log never saw a commit.
    async fn registration(&self, node: NodeId, deadline: std::time::Duration) -> Result<Registration, Error> {
        use v1::hello_response::{Pristine, Undecided, Unregistered};
        let Some(root) = self.namespace.group(VolumeId::ROOT) else {
            // A folder that joined before has a root log, though it does not run yet.
            return Ok(match self.namespace.has_joined_before() {
                true => Registration::Undecided(Undecided {}),
                false => Registration::Pristine(Pristine {}),
            });
        };
        // The initial membership is the first entry; anything after it came from a leader.
        if root.lineage().is_first() && root.status().last_log.0 <= 1 {
            return Ok(Registration::Pristine(Pristine {}));
        }
        let snapshot = match self.namespace.snapshot(VolumeId::ROOT, Consistency::Linearizable, deadline).await {
            Ok(snapshot) => snapshot,
            Err(Error::NoLeader { .. } | Error::Behind { .. } | Error::Overloaded(_)) => {
                return Ok(Registration::Undecided(Undecided {}));
            }
            Err(error) => return Err(error),
        };
        let known = query::nodes(&snapshot.view)?.into_iter().find(|known| known.id == node);
        Ok(match known.and_then(|known| known.store) {
            Some(store) => Registration::Registered(wire::id_bytes(store.0)),
            None => Registration::Unregistered(Unregistered {}),
        })
    }
}

fn not_here(group: VolumeId) -> Status {
    let message = format!("group {group} does not run on this node");
    rpc::failure(Code::Unavailable, RetryClass::Transient, "no-replica", message)
}

fn not_handled(error: HandleError) -> Status {
    if let HandleError::Fenced { group, lineage } = error {
        return rpc::fenced(group, lineage);
    }
    let code = match error {
        HandleError::UnknownGroup(_) | HandleError::Stopped(_) | HandleError::Full => Code::FailedPrecondition,
        HandleError::Impostor { .. } => Code::PermissionDenied,
        _ => Code::InvalidArgument,
    };
    rpc::failure(code, RetryClass::Refused, "not-handled", error.to_string())
}
