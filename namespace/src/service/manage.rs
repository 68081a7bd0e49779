//! The client API of the volume as a whole.

use causeway_base::{Seq, Timestamp, VolumeId};
use causeway_namespace_core::command::SessionId;
use causeway_proto::v1::{self, manage_server};
use futures::stream::BoxStream;
use tonic::{Request, Response, Status};

use super::namespace::{freshness, mutated};
use super::{Service, changes};
use crate::manage::{FeedPlace, Version};
use crate::node::manage::{Once, Place};
use crate::read::{Consistency, Freshness};
use crate::rpc;
use crate::wire::{self, Wire};

#[tonic::async_trait]
impl manage_server::Manage for Service {
    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::MutateResponse>, Status> {
        let admitted = self.guard.client(&request)?;
        let v1::ApplyRequest { volume, session, number, acked_below, op } = request.into_inner();
        let op = wire::required(op, "op").map_err(rpc::invalid)?;
        let place = Place { session: SessionId(session), number, acked_below };
        let proposed = self.namespace.manage(VolumeId(volume), place, op, admitted.deadline).await?;
        Ok(Response::new(mutated(proposed)))
    }

    async fn once(&self, request: Request<v1::OnceRequest>) -> Result<Response<v1::MutateResponse>, Status> {
        let admitted = self.guard.client(&request)?;
        let message = request.into_inner();
        let once = Once {
            id: wire::id_from_bytes(&message.id, "id").map_err(rpc::invalid)?,
            print: wire::id_from_bytes(&message.print, "print").map_err(rpc::invalid)?,
            ops: wire::all(message.ops).map_err(rpc::invalid)?,
        };
        let proposed = self.namespace.once(VolumeId(message.volume), once, admitted.deadline).await?;
        Ok(Response::new(mutated(proposed)))
    }

    async fn snapshots(
        &self,
        request: Request<v1::SnapshotsRequest>,
    ) -> Result<Response<v1::SnapshotsResponse>, Status> {
        let admitted = self.guard.client(&request)?;
        let message = request.into_inner();
        let freshness = freshness(message.consistency).map_err(rpc::invalid)?;
        let read = self.namespace.snapshots(VolumeId(message.volume), freshness, admitted.deadline).await?;
        Ok(Response::new(v1::SnapshotsResponse {
            state: Some(read.state.into_wire()),
            snapshots: wire::all_into(read.value.snapshots),
            oldest: read.value.oldest.0,
            oldest_time: read.value.oldest_time.map_or(0, |time| time.0),
            retention: read.value.retention.map(Wire::into_wire),
        }))
    }

    async fn find_version(
        &self,
        request: Request<v1::FindVersionRequest>,
    ) -> Result<Response<v1::FindVersionResponse>, Status> {
        use v1::find_version_request::Which;
        let admitted = self.guard.client(&request)?;
        let message = request.into_inner();
        let freshness = freshness(message.consistency).map_err(rpc::invalid)?;
        let version = match message.which {
            Some(Which::Name(name)) => Version::Snapshot(name),
            Some(Which::Time(time)) => Version::Time(Timestamp(time)),
            None => return Err(rpc::invalid("neither name nor time is set")),
        };
        let volume = VolumeId(message.volume);
        let seq = self.namespace.find_version(volume, version, freshness, admitted.deadline).await?;
        Ok(Response::new(v1::FindVersionResponse { seq: seq.map_or(0, |seq| seq.0) }))
    }

    async fn quotas(&self, request: Request<v1::QuotasRequest>) -> Result<Response<v1::QuotasResponse>, Status> {
        let admitted = self.guard.client(&request)?;
        let message = request.into_inner();
        let freshness = freshness(message.consistency).map_err(rpc::invalid)?;
        let read = self.namespace.quotas(VolumeId(message.volume), freshness, admitted.deadline).await?;
        Ok(Response::new(v1::QuotasResponse {
            state: Some(read.state.into_wire()),
            directories: wire::all_into(read.value.directories),
            owners: wire::all_into(read.value.owners),
        }))
    }

    async fn locks(&self, request: Request<v1::LocksRequest>) -> Result<Response<v1::LocksResponse>, Status> {
        let admitted = self.guard.client(&request)?;
        let message = request.into_inner();
        let freshness = freshness(message.consistency).map_err(rpc::invalid)?;
        let read = self.namespace.locks(VolumeId(message.volume), freshness, admitted.deadline).await?;
        let state = Some(read.state.into_wire());
        Ok(Response::new(v1::LocksResponse { state, locks: wire::all_into(read.value) }))
    }

    type DiffStream = BoxStream<'static, Result<v1::DiffResponse, Status>>;

    async fn diff(&self, request: Request<v1::DiffRequest>) -> Result<Response<Self::DiffStream>, Status> {
        let admitted = self.guard.lasting(&request)?;
        let message = request.into_inner();
        let volume = VolumeId(message.volume);
        let (from, to) = (Seq(message.from), Seq(message.to));
        if from > to {
            return Err(rpc::invalid(format!("from {from} is later than to {to}")));
        }
        // Applied here up to the later one; both are read from one snapshot of the store.
        let freshness = Freshness::from(Consistency::Local).after(to);
        let view = self.namespace.snapshot(volume, freshness, admitted.deadline).await?.view;
        let wanted = changes::Compare { volume, from, to, prefix: message.prefix };
        Ok(Response::new(changes::diff(view, wanted, admitted, self.namespace.stop.clone())))
    }

    type FeedStream = BoxStream<'static, Result<v1::FeedResponse, Status>>;

    async fn feed(&self, request: Request<v1::FeedRequest>) -> Result<Response<Self::FeedStream>, Status> {
        let admitted = self.guard.lasting(&request)?;
        let message = request.into_inner();
        let volume = VolumeId(message.volume);
        let place = FeedPlace { after: Seq(message.after), skip: message.skip };
        // Whoever does not follow wants all that there is.
        let kind = if message.follow { Consistency::Local } else { Consistency::Linearizable };
        let freshness = Freshness::from(kind).after(place.after);
        // Also tells a node that has no replica.
        self.namespace.snapshot(volume, freshness, admitted.deadline).await?;
        let group = self.namespace.group(volume).ok_or_else(|| Status::unavailable("the volume does not run here"))?;
        let wanted = changes::Follow { group, place, prefix: message.prefix, follow: message.follow };
        Ok(Response::new(changes::feed(wanted, admitted, self.namespace.stop.clone())))
    }
}
