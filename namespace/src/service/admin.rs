//! The client API for operators and tools.

use std::time::Duration;

use causeway_base::{NodeId, Seq, VolumeId};
use causeway_namespace_core::audit::By;
use causeway_namespace_core::root::{RootOp, RootOutcome, TopologyRecord};
use causeway_namespace_core::{encode, query};
use causeway_proto::v1::{self, admin_server};
use tonic::{Request, Response, Status};

use super::Service;
use super::namespace::freshness;
use crate::error::Error;
use crate::node::blocking;
use crate::read::Consistency;
use crate::rpc;
use crate::status::{SyncTarget, SyncWaited};
use crate::upkeep::{GcAsk, ScrubAsk};
use crate::wire::{self, Wire};

/// Most audit records in one answer: each has at most some 2 KiB.
const AUDIT_MAX: usize = 256;

#[tonic::async_trait]
impl admin_server::Admin for Service {
    async fn volume_create(
        &self,
        request: Request<v1::VolumeCreateRequest>,
    ) -> Result<Response<v1::VolumeCreateResponse>, Status> {
        let admitted = self.guard.client(&request)?;
        let spec = wire::required(request.into_inner().spec, "spec").map_err(rpc::invalid)?;
        let by = self.namespace.by(admitted.peer.to_string());
        let volume = self.namespace.create_volume_by(spec, by, admitted.deadline).await?;
        Ok(Response::new(v1::VolumeCreateResponse { volume: Some(volume.into_wire()) }))
    }

    async fn volume_list(
        &self,
        request: Request<v1::VolumeListRequest>,
    ) -> Result<Response<v1::VolumeListResponse>, Status> {
        let admitted = self.guard.client(&request)?;
        let freshness = freshness(request.into_inner().consistency).map_err(rpc::invalid)?;
        let root = self.namespace.snapshot(VolumeId::ROOT, freshness, admitted.deadline).await?;
        let volumes = wire::all_into(query::volumes(&root.view).map_err(Error::Read)?);
        Ok(Response::new(v1::VolumeListResponse { volumes, root_seq: root.state.seq.0 }))
    }

    async fn volume_show(
        &self,
        request: Request<v1::VolumeShowRequest>,
    ) -> Result<Response<v1::VolumeShowResponse>, Status> {
        use v1::volume_show_request::Which;
        let admitted = self.guard.client(&request)?;
        let message = request.into_inner();
        let freshness = freshness(message.consistency).map_err(rpc::invalid)?;
        let volume = match message.which {
            Some(Which::Id(id)) => self.namespace.find_volume(VolumeId(id), admitted.deadline).await?,
            Some(Which::Name(name)) => self.namespace.volume_named(&name, admitted.deadline).await?,
            None => return Err(rpc::invalid("neither id nor name is set")),
        };
        let report = self.namespace.volume_report(volume, freshness, admitted.deadline).await?;
        Ok(Response::new(v1::VolumeShowResponse {
            volume: Some(report.volume.into_wire()),
            state: Some(report.totals.state.into_wire()),
            totals: Some(report.totals.value.into_wire()),
            digest: report.digest,
            leader: report.leader.map_or(0, |node| node.0),
        }))
    }

    async fn volume_set(
        &self,
        request: Request<v1::VolumeSetRequest>,
    ) -> Result<Response<v1::VolumeSetResponse>, Status> {
        let admitted = self.guard.client(&request)?;
        let message = request.into_inner();
        let spec = wire::required(message.spec, "spec").map_err(rpc::invalid)?;
        let by = self.namespace.by(admitted.peer.to_string());
        let set = self.namespace.set_volume(VolumeId(message.id), message.expected, spec, by, admitted.deadline);
        Ok(Response::new(v1::VolumeSetResponse { volume: Some(set.await?.into_wire()) }))
    }

    async fn topology_show(
        &self,
        request: Request<v1::TopologyShowRequest>,
    ) -> Result<Response<v1::TopologyShowResponse>, Status> {
        let admitted = self.guard.client(&request)?;
        let root = self.namespace.snapshot(VolumeId::ROOT, Consistency::Linearizable, admitted.deadline).await?;
        let record = encode::to_bytes(&query::topology(&root.view).map_err(Error::Read)?);
        let nodes = wire::all_into(query::nodes(&root.view).map_err(Error::Read)?);
        Ok(Response::new(v1::TopologyShowResponse { record, nodes }))
    }

    async fn topology_apply(
        &self,
        request: Request<v1::TopologyApplyRequest>,
    ) -> Result<Response<v1::TopologyApplyResponse>, Status> {
        let admitted = self.guard.client(&request)?;
        let message = request.into_inner();
        let declared: TopologyRecord =
            encode::from_bytes(&message.record, encode::RECORD_BYTES_MAX).map_err(rpc::invalid)?;
        let op = RootOp::SetTopology { expected: message.expected, spec: declared.spec };
        match self.namespace.audited(op, &admitted.peer, admitted.deadline).await? {
            RootOutcome::Topology(version) => Ok(Response::new(v1::TopologyApplyResponse { version })),
            other => Err(Error::Invalid(format!("the root group answered {other:?}")).into()),
        }
    }

    async fn node_add(&self, request: Request<v1::NodeAddRequest>) -> Result<Response<v1::NodeAddResponse>, Status> {
        let admitted = self.guard.client(&request)?;
        let v1::NodeAddRequest { site, grpc, quic, witness } = request.into_inner();
        let site = wire::site(site, "site").map_err(rpc::invalid)?;
        match self
            .namespace
            .audited(RootOp::AddNode { site, grpc, quic, witness }, &admitted.peer, admitted.deadline)
            .await?
        {
            RootOutcome::Node(id) => Ok(Response::new(v1::NodeAddResponse { id: id.0 })),
            other => Err(Error::Invalid(format!("the root group answered {other:?}")).into()),
        }
    }

    async fn node_drain(
        &self,
        request: Request<v1::NodeDrainRequest>,
    ) -> Result<Response<v1::NodeDrainResponse>, Status> {
        let admitted = self.guard.client(&request)?;
        let v1::NodeDrainRequest { id, draining } = request.into_inner();
        self.namespace
            .audited(RootOp::DrainNode { id: NodeId(id), draining }, &admitted.peer, admitted.deadline)
            .await?;
        Ok(Response::new(v1::NodeDrainResponse {}))
    }

    async fn node_remove(
        &self,
        request: Request<v1::NodeRemoveRequest>,
    ) -> Result<Response<v1::NodeRemoveResponse>, Status> {
        let admitted = self.guard.client(&request)?;
        let id = NodeId(request.into_inner().id);
        self.namespace.audited(RootOp::RemoveNode { id }, &admitted.peer, admitted.deadline).await?;
        Ok(Response::new(v1::NodeRemoveResponse {}))
    }

    async fn realm_key(&self, request: Request<v1::RealmKeyRequest>) -> Result<Response<v1::RealmKeyResponse>, Status> {
        let admitted = self.guard.client(&request)?;
        let key = self.namespace.realm_key(&request.into_inner().realm, admitted.deadline).await?;
        Ok(Response::new(v1::RealmKeyResponse { key: bytes::Bytes::copy_from_slice(&key.0) }))
    }

    async fn cluster_status(
        &self,
        request: Request<v1::ClusterStatusRequest>,
    ) -> Result<Response<v1::ClusterStatusResponse>, Status> {
        let admitted = self.guard.client(&request)?;
        let status = self.namespace.cluster_status(admitted.deadline).await;
        Ok(Response::new(status.into_wire()))
    }

    async fn node_status(
        &self,
        request: Request<v1::NodeStatusRequest>,
    ) -> Result<Response<v1::NodeStatusResponse>, Status> {
        let _admitted = self.guard.client(&request)?;
        Ok(Response::new(self.namespace.node_status().into_wire()))
    }

    async fn store_gc(&self, request: Request<v1::StoreGcRequest>) -> Result<Response<v1::StoreGcResponse>, Status> {
        let admitted = self.guard.lasting(&request)?;
        let v1::StoreGcRequest { node, ticket, dry_run, grace_millis } = request.into_inner();
        let ask = GcAsk { ticket, dry_run, grace: grace_millis.map(Duration::from_millis) };
        let run = self.namespace.store_gc(wire::node_or_none(node), ask, admitted.deadline).await?;
        Ok(Response::new(run.into_wire()))
    }

    async fn store_scrub(
        &self,
        request: Request<v1::StoreScrubRequest>,
    ) -> Result<Response<v1::StoreScrubResponse>, Status> {
        let admitted = self.guard.lasting(&request)?;
        let v1::StoreScrubRequest { node, ticket, now, deep } = request.into_inner();
        let ask = ScrubAsk { ticket, now, deep };
        let run = self.namespace.store_scrub(wire::node_or_none(node), ask, admitted.deadline).await?;
        Ok(Response::new(run.into_wire()))
    }

    async fn audit(&self, request: Request<v1::AuditRequest>) -> Result<Response<v1::AuditResponse>, Status> {
        let admitted = self.guard.client(&request)?;
        let v1::AuditRequest { before, limit } = request.into_inner();
        let root = self.namespace.snapshot(VolumeId::ROOT, Consistency::Linearizable, admitted.deadline).await?;
        let limit = usize::try_from(limit).unwrap_or(AUDIT_MAX).min(AUDIT_MAX);
        let before = (before != 0).then_some(before);
        let found = blocking(move || query::audit(&root.view, before, limit)).await.map_err(Error::Read)?;
        let entry = |(number, record)| v1::AuditEntry { number, record: encode::to_bytes(&record) };
        Ok(Response::new(v1::AuditResponse { entries: found.into_iter().map(entry).collect() }))
    }

    async fn volume_promote(
        &self,
        request: Request<v1::VolumePromoteRequest>,
    ) -> Result<Response<v1::VolumePromoteResponse>, Status> {
        let admitted = self.guard.lasting(&request)?;
        let v1::VolumePromoteRequest { name, site, root, reason } = request.into_inner();
        let site = wire::site(site, "site").map_err(rpc::invalid)?;
        let by = By { reason, ..self.namespace.by(admitted.peer.to_string()) };
        let namespace = self.namespace.clone();
        let promoted = namespace.promote_volume(&name, &site, root, by, admitted.deadline).await?;
        Ok(Response::new(v1::VolumePromoteResponse {
            volume: Some(promoted.volume.into_wire()),
            promotion: encode::to_bytes(&promoted.promotion),
            root: promoted.root.map(|root| encode::to_bytes(&root)).unwrap_or_default(),
            already: promoted.already,
        }))
    }

    async fn volume_aside(
        &self,
        request: Request<v1::VolumeAsideRequest>,
    ) -> Result<Response<v1::VolumeAsideResponse>, Status> {
        let admitted = self.guard.client(&request)?;
        let v1::VolumeAsideRequest { name, node, lineage, after } = request.into_inner();
        let node = wire::node_or_none(node);
        if lineage.is_empty() {
            let lines = self.namespace.aside_lines(&name, node, admitted.deadline).await?;
            let lines = lines.into_iter().map(wire::aside_line_message).collect();
            return Ok(Response::new(v1::VolumeAsideResponse { lines, end: true, ..Default::default() }));
        }
        let lineage = wire::lineage_from(&lineage, "lineage").map_err(rpc::invalid)?;
        let found = self.namespace.aside_seqs(&name, node, lineage, Seq(after), admitted.deadline).await?;
        let seqs = found.0.into_iter().map(wire::aside_seq_message).collect();
        Ok(Response::new(v1::VolumeAsideResponse { seqs, end: found.1, ..Default::default() }))
    }

    async fn volume_forget(
        &self,
        request: Request<v1::VolumeForgetRequest>,
    ) -> Result<Response<v1::VolumeForgetResponse>, Status> {
        let admitted = self.guard.lasting(&request)?;
        let v1::VolumeForgetRequest { name, node, lineage, reason } = request.into_inner();
        let lineage = wire::lineage_from(&lineage, "lineage").map_err(rpc::invalid)?;
        let by = By { reason, ..self.namespace.by(admitted.peer.to_string()) };
        self.namespace.forget_aside(&name, NodeId(node), lineage, by, admitted.deadline).await?;
        Ok(Response::new(v1::VolumeForgetResponse {}))
    }

    async fn volume_trust(
        &self,
        request: Request<v1::VolumeTrustRequest>,
    ) -> Result<Response<v1::VolumeTrustResponse>, Status> {
        let admitted = self.guard.lasting(&request)?;
        let v1::VolumeTrustRequest { name, node, reason } = request.into_inner();
        let by = By { reason, ..self.namespace.by(admitted.peer.to_string()) };
        let sum = self.namespace.trust_replica(&name, NodeId(node), by, admitted.deadline).await?;
        Ok(Response::new(v1::VolumeTrustResponse { seq: sum.seq.0, records: sum.records, right: sum.right }))
    }

    async fn volume_verify(
        &self,
        request: Request<v1::VolumeVerifyRequest>,
    ) -> Result<Response<v1::VolumeVerifyResponse>, Status> {
        let admitted = self.guard.lasting(&request)?;
        let v1::VolumeVerifyRequest { volume, node, ticket } = request.into_inner();
        let node = wire::node_or_none(node);
        let run = self.namespace.volume_verify(VolumeId(volume), node, ticket, admitted.deadline).await?;
        Ok(Response::new(run.into_wire()))
    }

    async fn volume_repair(
        &self,
        request: Request<v1::VolumeRepairRequest>,
    ) -> Result<Response<v1::VolumeRepairResponse>, Status> {
        let admitted = self.guard.lasting(&request)?;
        let v1::VolumeRepairRequest { volume, node, ticket } = request.into_inner();
        let node = wire::node_or_none(node);
        let run = self.namespace.volume_repair(VolumeId(volume), node, ticket, admitted.deadline).await?;
        Ok(Response::new(run.into_wire()))
    }

    async fn sync_wait(&self, request: Request<v1::SyncWaitRequest>) -> Result<Response<v1::SyncWaitResponse>, Status> {
        let admitted = self.guard.lasting(&request)?;
        let message = request.into_inner();
        let target = wire::required::<SyncTarget>(message.target, "target").map_err(rpc::invalid)?;
        let (volume, seq) = (VolumeId(message.volume), Seq(message.seq));
        let waited = if message.own_only {
            let watermark = self.namespace.own_watermark(volume, &target, seq, admitted.deadline).await;
            SyncWaited { reached: watermark >= seq, watermark, seq }
        } else {
            let seq = (seq != Seq::ZERO).then_some(seq);
            self.namespace.sync_wait(volume, &target, seq, admitted.deadline).await?
        };
        Ok(Response::new(waited.into_wire()))
    }
}
