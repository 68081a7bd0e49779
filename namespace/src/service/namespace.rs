//! The client API of the tree.

use std::time::Duration;

use causeway_base::{ClientId, Seq, VolumeId};
use causeway_namespace_core::command::{Outcome, SessionId};
use causeway_proto::v1::{self, namespace_server};
use futures::future::join_all;
use futures::stream::BoxStream;
use tonic::{Request, Response, Status};

use super::{Service, walk};
use crate::client::{ListPage, Numbered};
use crate::read::Freshness;
use crate::rpc;
use crate::wire::{self, Wire, WireError};
use causeway_namespace_raft::Proposed;

/// Most batches of one `MutateMany`.
const MANY_MAX: usize = 256;

/// Unset means linearizable.
pub(super) fn freshness(message: Option<v1::Consistency>) -> Result<Freshness, WireError> {
    message.map_or_else(|| Ok(Freshness::default()), Freshness::from_wire)
}

#[tonic::async_trait]
impl namespace_server::Namespace for Service {
    async fn open_session(
        &self,
        request: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        let admitted = self.guard.client(&request)?;
        let message = request.into_inner();
        let client = ClientId(wire::id_from_bytes(&message.client, "client").map_err(rpc::invalid)?);
        let volume = VolumeId(message.volume);
        let (session, proposed) = self.namespace.open_session(volume, client, admitted.deadline).await?;
        Ok(Response::new(v1::OpenSessionResponse { session: session.0, seq: proposed.seq.0 }))
    }

    async fn mutate(&self, request: Request<v1::MutateRequest>) -> Result<Response<v1::MutateResponse>, Status> {
        let admitted = self.guard.client(&request)?;
        self.mutate_one(request.into_inner(), admitted.deadline).await.map(Response::new)
    }

    async fn mutate_many(
        &self,
        request: Request<v1::MutateManyRequest>,
    ) -> Result<Response<v1::MutateManyResponse>, Status> {
        let admitted = self.guard.client(&request)?;
        let requests = request.into_inner().requests;
        if requests.len() > MANY_MAX {
            return Err(rpc::invalid(format!("{} batches at once, at most {MANY_MAX} are allowed", requests.len())));
        }
        let _places = self.guard.more(requests.len().saturating_sub(1))?;
        let each = requests.into_iter().map(|one| self.mutate_one(one, admitted.deadline));
        let answers = join_all(each).await.into_iter().map(wire::mutate_answer).collect();
        Ok(Response::new(v1::MutateManyResponse { answers }))
    }

    async fn stat(&self, request: Request<v1::StatRequest>) -> Result<Response<v1::StatResponse>, Status> {
        let admitted = self.guard.client(&request)?;
        let message = request.into_inner();
        let at = wire::required(message.at, "at").map_err(rpc::invalid)?;
        let freshness = freshness(message.consistency).map_err(rpc::invalid)?;
        let read = self.namespace.stat(VolumeId(message.volume), &at, freshness, admitted.deadline).await?;
        let state = Some(read.state.into_wire());
        Ok(Response::new(v1::StatResponse { state, result: Some(read.value.into_wire()) }))
    }

    async fn stat_many(&self, request: Request<v1::StatManyRequest>) -> Result<Response<v1::StatManyResponse>, Status> {
        let admitted = self.guard.client(&request)?;
        let message = request.into_inner();
        let at = wire::all(message.at).map_err(rpc::invalid)?;
        let freshness = freshness(message.consistency).map_err(rpc::invalid)?;
        let read = self.namespace.stat_many(VolumeId(message.volume), at, freshness, admitted.deadline).await?;
        let results = wire::all_into(read.value);
        Ok(Response::new(v1::StatManyResponse { state: Some(read.state.into_wire()), results }))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        let admitted = self.guard.client(&request)?;
        let message = request.into_inner();
        let dir = wire::required(message.at, "at").map_err(rpc::invalid)?;
        let freshness = freshness(message.consistency).map_err(rpc::invalid)?;
        let page = ListPage { after: message.after, limit: message.limit, plus: message.plus };
        let read = self.namespace.list(VolumeId(message.volume), dir, page, freshness, admitted.deadline).await?;
        let state = Some(read.state.into_wire());
        Ok(Response::new(match read.value {
            Ok(page) => v1::ListResponse { state, entries: wire::all_into(page.entries), more: page.more, missing: 0 },
            Err(errno) => v1::ListResponse { state, entries: Vec::new(), more: false, missing: errno.into_wire() },
        }))
    }

    type WalkStream = BoxStream<'static, Result<v1::WalkResponse, Status>>;

    async fn walk(&self, request: Request<v1::WalkRequest>) -> Result<Response<Self::WalkStream>, Status> {
        let admitted = self.guard.lasting(&request)?;
        let message = request.into_inner();
        let at = wire::required(message.at, "at").map_err(rpc::invalid)?;
        let freshness = freshness(message.consistency).map_err(rpc::invalid)?;
        let volume = VolumeId(message.volume);
        let snapshot = self.namespace.snapshot(volume, freshness, admitted.deadline).await?;
        let wanted = walk::Wanted { at, plus: message.plus, after: message.after };
        Ok(Response::new(walk::stream(snapshot, wanted, admitted, self.namespace.stop.clone())))
    }

    async fn resolve(&self, request: Request<v1::ResolveRequest>) -> Result<Response<v1::ResolveResponse>, Status> {
        let admitted = self.guard.client(&request)?;
        let path = request.into_inner().path;
        let place = self.namespace.resolve(&path, admitted.deadline).await?;
        let (place, seq) = place.map_err(|errno| rpc::invalid(format!("path: {errno}")))?;
        Ok(Response::new(v1::ResolveResponse { place: Some(place.into_wire()), root_seq: seq.0 }))
    }
}

impl Service {
    async fn mutate_one(&self, message: v1::MutateRequest, deadline: Duration) -> Result<v1::MutateResponse, Status> {
        let batch = Numbered {
            session: SessionId(message.session),
            number: message.number,
            acked_below: message.acked_below,
            ops: wire::all(message.ops).map_err(rpc::invalid)?,
        };
        Ok(mutated(self.namespace.mutate(VolumeId(message.volume), batch, deadline).await?))
    }
}

pub(super) fn mutated(proposed: Proposed) -> v1::MutateResponse {
    use v1::mutate_response::{Forgotten, Outcome as Theirs, SessionUnknown, WindowExceeded};
    let Proposed { seq: Seq(seq), outcome, .. } = proposed;
    let outcome = match outcome {
        Outcome::Done(done) => Theirs::Done(v1::Done { ops: wire::all_into(done) }),
        Outcome::Refused(refusal) => Theirs::Refused(refusal.into_wire()),
        Outcome::SessionUnknown => Theirs::SessionUnknown(SessionUnknown {}),
        Outcome::Forgotten => Theirs::Forgotten(Forgotten {}),
        Outcome::WindowExceeded => Theirs::WindowExceeded(WindowExceeded {}),
        Outcome::Invalid(reason) => Theirs::Invalid(reason),
        other => Theirs::Invalid(format!("the volume answered {other:?}")),
    };
    v1::MutateResponse { seq, outcome: Some(outcome) }
}
