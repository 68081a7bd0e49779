//! Volumes, status, waiting.

use std::time::Duration;

use causeway_base::{GcReport, NodeId, ScrubReport, Seq, SiteName, VolumeId};
use causeway_namespace_core::audit::AuditRecord;
use causeway_namespace_core::encode;
use causeway_namespace_core::lineage::Lineage;
use causeway_namespace_core::root::{NodeRecord, RealmKey, TopologyRecord, VolumeRecord, VolumeSpec};
use causeway_proto::v1;
use causeway_topology::TopologySpec;

use super::attempt::bad_answer;
use super::{ClientError, NamespaceClient, Node};
use crate::digest::{Repaired, VerifyReport};
use crate::entry::VolumeReport;
use crate::node::{AsideLine, AsideSeq, Promoted};
use crate::read::{Consistency, Freshness, Read};
use crate::status::{ClusterStatus, NodeStatus, SyncTarget, SyncWaited};
use crate::upkeep::Run;
use crate::wire::{self, Wire, WireError};

/// Longest attempt of a promotion: a node works no longer on one call.
const PROMOTE_MAX: Duration = Duration::from_secs(60);

impl NamespaceClient {
    /// All volumes, by id.
    ///
    /// # Errors
    /// [`ClientError`]. Cancel safety: may be dropped at any time.
    pub async fn volumes(&self) -> Result<Vec<VolumeRecord>, ClientError> {
        self.volumes_as(Consistency::Linearizable).await
    }

    /// As [`NamespaceClient::volumes`], as fresh as asked.
    ///
    /// # Errors
    /// As [`NamespaceClient::volumes`].
    pub async fn volumes_as(&self, freshness: impl Into<Freshness>) -> Result<Vec<VolumeRecord>, ClientError> {
        let message = v1::VolumeListRequest { consistency: Some(freshness.into().into_wire()) };
        let attempt = |node: Node, limit| {
            let request = self.request(message, limit);
            async move { node.admin().volume_list(request).await }
        };
        let answer = self.try_all("list volumes", attempt).await?;
        wire::all(answer.volumes).map_err(|error| bad_answer("list volumes", &error))
    }

    /// Creates a volume and waits until it takes writes; the same name with the same spec again answers with the existing one.
    ///
    /// # Errors
    /// [`ClientError::Rejected`] with the reason if the spec cannot be; else [`ClientError`].
    pub async fn create_volume(&self, spec: VolumeSpec) -> Result<VolumeRecord, ClientError> {
        let what = format!("create volume {:?}", spec.name);
        let message = v1::VolumeCreateRequest { spec: Some(spec.into_wire()) };
        let attempt = |node: Node, limit| {
            let request = self.request(message.clone(), limit);
            async move { node.admin().volume_create(request).await }
        };
        let answer = self.try_all(what.as_str(), attempt).await?;
        wire::required(answer.volume, "volume").map_err(|error| bad_answer(&what, &error))
    }

    /// Changes a volume's settings, if they are still of the expected revision; its placement follows.
    ///
    /// # Errors
    /// [`ClientError::Rejected`] with the reason if they cannot be, or somebody else was faster; else [`ClientError`].
    pub async fn set_volume(&self, id: VolumeId, expected: u64, spec: VolumeSpec) -> Result<VolumeRecord, ClientError> {
        let what = format!("change volume {:?}", spec.name);
        let message = v1::VolumeSetRequest { id: id.0, expected, spec: Some(spec.into_wire()) };
        let attempt = |node: Node, limit| {
            let request = self.request(message.clone(), limit);
            async move { node.admin().volume_set(request).await }
        };
        let answer = self.try_all(what.as_str(), attempt).await?;
        wire::required(answer.volume, "volume").map_err(|error| bad_answer(&what, &error))
    }

    /// The declared topology, and the nodes.
    ///
    /// # Errors
    /// [`ClientError`]. Cancel safety: may be dropped at any time.
    pub async fn topology(&self) -> Result<(TopologyRecord, Vec<NodeRecord>), ClientError> {
        let what = "read the topology";
        let attempt = |node: Node, limit| {
            let request = self.request(v1::TopologyShowRequest {}, limit);
            async move { node.admin().topology_show(request).await }
        };
        let answer = self.try_all(what, attempt).await?;
        let record = encode::from_bytes(&answer.record, encode::RECORD_BYTES_MAX);
        let record = record.map_err(|error| bad_answer(what, &WireError::bad("record", error)))?;
        Ok((record, wire::all(answer.nodes).map_err(|error| bad_answer(what, &error))?))
    }

    /// Replaces the topology if its version is still `expected`; the new version.
    ///
    /// # Errors
    /// [`ClientError::Rejected`] with the reason if it cannot be, or somebody else was faster; else [`ClientError`].
    pub async fn apply_topology(&self, expected: u64, spec: TopologySpec) -> Result<u64, ClientError> {
        let record = encode::to_bytes(&TopologyRecord { version: expected, spec });
        let attempt = |node: Node, limit| {
            let request = self.request(v1::TopologyApplyRequest { expected, record: record.clone() }, limit);
            async move { node.admin().topology_apply(request).await }
        };
        Ok(self.try_all("apply the topology", attempt).await?.version)
    }

    /// Adds a node; its id. The same again, before it has started, answers with the same id.
    ///
    /// # Errors
    /// [`ClientError::Rejected`] with the reason if it cannot be; else [`ClientError`].
    pub async fn add_node(
        &self,
        site: &SiteName,
        grpc: &str,
        quic: &str,
        witness: bool,
    ) -> Result<NodeId, ClientError> {
        let (grpc, quic) = (grpc.to_owned(), quic.to_owned());
        let message = v1::NodeAddRequest { site: site.to_string(), grpc, quic, witness };
        let attempt = |node: Node, limit| {
            let request = self.request(message.clone(), limit);
            async move { node.admin().node_add(request).await }
        };
        Ok(NodeId(self.try_all("add a node", attempt).await?.id))
    }

    /// Begins or ends the emptying of a node.
    ///
    /// # Errors
    /// [`ClientError::Rejected`] if there is none; else [`ClientError`].
    pub async fn drain_node(&self, node: NodeId, draining: bool) -> Result<(), ClientError> {
        let attempt = |at: Node, limit| {
            let request = self.request(v1::NodeDrainRequest { id: node.0, draining }, limit);
            async move { at.admin().node_drain(request).await }
        };
        self.try_all(format!("drain {node}"), attempt).await.map(|_| ())
    }

    /// Takes an empty node out, for ever.
    ///
    /// # Errors
    /// [`ClientError::Rejected`] if it is not empty; else [`ClientError`].
    pub async fn remove_node(&self, node: NodeId) -> Result<(), ClientError> {
        let attempt = |at: Node, limit| {
            let request = self.request(v1::NodeRemoveRequest { id: node.0 }, limit);
            async move { at.admin().node_remove(request).await }
        };
        self.try_all(format!("remove {node}"), attempt).await.map(|_| ())
    }

    /// Break glass: a volume whose majority is gone goes on with what a site has of it; with `root` the root group before it,
    /// if it has lost its majority too. The same again is fine.
    ///
    /// # Errors
    /// [`ClientError::Rejected`] with what stands against it; else [`ClientError`].
    pub async fn promote_volume(
        &self,
        name: &str,
        site: &SiteName,
        root: bool,
        reason: &str,
    ) -> Result<Promoted, ClientError> {
        let what = format!("promote volume {name:?}");
        let (name, reason) = (name.to_owned(), reason.to_owned());
        let message = v1::VolumePromoteRequest { name, site: site.to_string(), root, reason };
        let attempt = |node: Node, limit: Duration| {
            // Longer than other calls: a node looks for leaders that are gone first.
            let request = self.request(message.clone(), limit.max(self.deadline.min(PROMOTE_MAX)));
            async move { node.admin().volume_promote(request).await }
        };
        let answer = self.try_all(what.as_str(), attempt).await?;
        let bad = |error: encode::DecodeError| bad_answer(&what, &WireError::bad("promotion", error));
        let record = |bytes: &[u8]| encode::from_bytes(bytes, encode::RECORD_BYTES_MAX).map_err(bad);
        Ok(Promoted {
            volume: wire::required(answer.volume, "volume").map_err(|error| bad_answer(&what, &error))?,
            promotion: record(&answer.promotion)?,
            root: if answer.root.is_empty() { None } else { Some(record(&answer.root)?) },
            already: answer.already,
        })
    }

    /// The lines of a volume (empty: of the root group) that a node (`None`: the one that answers) left, oldest first.
    ///
    /// # Errors
    /// [`ClientError`]. Cancel safety: may be dropped at any time.
    pub async fn aside_lines(&self, name: &str, node: Option<NodeId>) -> Result<Vec<AsideLine>, ClientError> {
        let message =
            v1::VolumeAsideRequest { name: name.to_owned(), node: node.map_or(0, |node| node.0), ..Default::default() };
        let answer = self.aside(message).await?;
        let lines: Result<_, _> = answer.lines.into_iter().map(wire::aside_line).collect();
        lines.map_err(|error| bad_answer("read what is aside", &error))
    }

    /// What a node has behind the fork of a line that it left, and behind `after`: some seqs in order, and whether nothing
    /// follows.
    ///
    /// # Errors
    /// [`ClientError`]. Cancel safety: may be dropped at any time.
    pub async fn aside_seqs(
        &self,
        name: &str,
        node: NodeId,
        lineage: Lineage,
        after: Seq,
    ) -> Result<(Vec<AsideSeq>, bool), ClientError> {
        let (name, lineage) = (name.to_owned(), lineage.to_string());
        let answer = self.aside(v1::VolumeAsideRequest { name, node: node.0, lineage, after: after.0 }).await?;
        Ok((answer.seqs.into_iter().map(wire::aside_seq).collect(), answer.end))
    }

    /// Gives up what a node has of a line of a volume that ended, for good; recorded with the reason.
    ///
    /// # Errors
    /// [`ClientError::Rejected`] with what stands against it; else [`ClientError`]. Cancel safety: dropped, it may happen.
    pub async fn forget_aside(
        &self,
        name: &str,
        node: NodeId,
        lineage: Lineage,
        reason: &str,
    ) -> Result<(), ClientError> {
        let (name, reason) = (name.to_owned(), reason.to_owned());
        let message = v1::VolumeForgetRequest { name, node: node.0, lineage: lineage.to_string(), reason };
        let attempt = |peer: Node, limit: Duration| {
            let request = self.request(message.clone(), limit.max(self.deadline.min(PROMOTE_MAX)));
            async move { peer.admin().volume_forget(request).await }
        };
        self.try_all("give up what is aside", attempt).await.map(drop)
    }

    /// Takes the mark of a volume's wrong replica on a node back; recorded with the reason. The number of its records, and
    /// whether they came to its own digest.
    ///
    /// # Errors
    /// As [`NamespaceClient::forget_aside`].
    pub async fn trust_replica(&self, name: &str, node: NodeId, reason: &str) -> Result<(Seq, u64, bool), ClientError> {
        let message = v1::VolumeTrustRequest { name: name.to_owned(), node: node.0, reason: reason.to_owned() };
        let attempt = |peer: Node, limit: Duration| {
            let request = self.request(message.clone(), limit.max(self.deadline.min(PROMOTE_MAX)));
            async move { peer.admin().volume_trust(request).await }
        };
        let answer = self.try_all("take the mark of a replica back", attempt).await?;
        Ok((Seq(answer.seq), answer.records, answer.right))
    }

    async fn aside(&self, message: v1::VolumeAsideRequest) -> Result<v1::VolumeAsideResponse, ClientError> {
        let attempt = |node: Node, limit| {
            let request = self.request(message.clone(), limit);
            async move { node.admin().volume_aside(request).await }
        };
        self.try_all("read what is aside", attempt).await
    }

    /// At most `limit` records of the audit with their numbers, newest first, of those below `before` (`None`: of all). A node
    /// gives no more than 256 at once.
    ///
    /// # Errors
    /// [`ClientError`]. Cancel safety: may be dropped at any time.
    pub async fn audit(&self, before: Option<u64>, limit: u32) -> Result<Vec<(u64, AuditRecord)>, ClientError> {
        let what = "read the audit";
        let message = v1::AuditRequest { before: before.unwrap_or(0), limit };
        let attempt = |node: Node, limit| {
            let request = self.request(message, limit);
            async move { node.admin().audit(request).await }
        };
        let answer = self.try_all(what, attempt).await?;
        let record = |entry: v1::AuditEntry| {
            let record = encode::from_bytes(&entry.record, encode::RECORD_BYTES_MAX);
            record
                .map(|record| (entry.number, record))
                .map_err(|error| bad_answer(what, &WireError::bad("record", error)))
        };
        answer.entries.into_iter().map(record).collect()
    }

    /// A volume by name, with its totals and digest.
    ///
    /// # Errors
    /// [`ClientError::Rejected`] with reason `no-volume` if there is none; else [`ClientError`].
    pub async fn volume(&self, name: &str, freshness: impl Into<Freshness>) -> Result<VolumeReport, ClientError> {
        let which = v1::volume_show_request::Which::Name(name.to_owned());
        self.show(format!("show volume {name:?}"), which, freshness.into()).await
    }

    /// As [`NamespaceClient::volume`], by id.
    ///
    /// # Errors
    /// As [`NamespaceClient::volume`].
    pub async fn volume_by_id(
        &self,
        id: VolumeId,
        freshness: impl Into<Freshness>,
    ) -> Result<VolumeReport, ClientError> {
        let which = v1::volume_show_request::Which::Id(id.0);
        self.show(format!("show volume {id}"), which, freshness.into()).await
    }

    async fn show(
        &self,
        what: String,
        which: v1::volume_show_request::Which,
        freshness: Freshness,
    ) -> Result<VolumeReport, ClientError> {
        let message = v1::VolumeShowRequest { which: Some(which), consistency: Some(freshness.into_wire()) };
        let attempt = |node: Node, limit| {
            let request = self.request(message.clone(), limit);
            async move { node.admin().volume_show(request).await }
        };
        let answer = self.try_all(what.as_str(), attempt).await?;
        report(answer).map_err(|error| bad_answer(&what, &error))
    }

    /// The key under which chunk ids of a realm are made. Secret: whoever has it can probe which content exists.
    ///
    /// # Errors
    /// [`ClientError::Rejected`] with reason `no-realm` if there is none; else [`ClientError`].
    pub async fn realm_key(&self, realm: &str) -> Result<RealmKey, ClientError> {
        let what = format!("read the key of realm {realm:?}");
        let message = v1::RealmKeyRequest { realm: realm.to_owned() };
        let attempt = |node: Node, limit| {
            let request = self.request(message.clone(), limit);
            async move { node.admin().realm_key(request).await }
        };
        let answer = self.try_all(what.as_str(), attempt).await?;
        let key = answer.key.as_ref().try_into().map(RealmKey);
        key.map_err(|_| bad_answer(&what, &WireError::bad("key", "32 bytes are expected")))
    }

    /// Every node, as the answering node reaches it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status(&self) -> Result<ClusterStatus, ClientError> {
        let attempt = |node: Node, limit| {
            let request = self.request(v1::ClusterStatusRequest {}, limit);
            async move { node.admin().cluster_status(request).await }
        };
        let answer = self.try_all("read the cluster's status", attempt).await?;
        ClusterStatus::from_wire(answer).map_err(|error| bad_answer("read the cluster's status", &error))
    }

    /// The node that answers.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn node_status(&self) -> Result<NodeStatus, ClientError> {
        let attempt = |node: Node, limit| {
            let request = self.request(v1::NodeStatusRequest {}, limit);
            async move { node.admin().node_status(request).await }
        };
        let answer = self.try_all("read the node's status", attempt).await?;
        NodeStatus::from_wire(answer).map_err(|error| bad_answer("read the node's status", &error))
    }

    /// Collects the chunks of a node (`None`: the one that answers) that nothing names, and waits for the end of it. A grace
    /// replaces that of the node's settings.
    ///
    /// # Errors
    /// [`ClientError`]; in the run's outcome, why it stopped. Cancel safety: the run goes on.
    pub async fn store_gc(
        &self,
        node: Option<NodeId>,
        dry_run: bool,
        grace: Option<Duration>,
    ) -> Result<Run<GcReport>, ClientError> {
        let what = "collect garbage";
        let grace_millis = grace.map(|grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
        let mut message = v1::StoreGcRequest { node: node.map_or(0, |node| node.0), ticket: 0, dry_run, grace_millis };
        loop {
            let attempt = |node: Node, limit| {
                let request = self.request(message, limit);
                async move { node.admin().store_gc(request).await }
            };
            let run: Run<GcReport> =
                Run::from_wire(self.try_all(what, attempt).await?).map_err(|error| bad_answer(what, &error))?;
            if run.outcome.is_some() {
                return Ok(run);
            }
            (message.node, message.ticket) = (run.node.0, run.ticket);
        }
    }

    /// Scrubs the store of a node (`None`: the one that answers), and waits for the end of it. With `now` every pack is read;
    /// with `deep` each chunk is compared with its name too.
    ///
    /// # Errors
    /// As [`NamespaceClient::store_gc`].
    pub async fn store_scrub(
        &self,
        node: Option<NodeId>,
        now: bool,
        deep: bool,
    ) -> Result<Run<ScrubReport>, ClientError> {
        let what = "scrub";
        let mut message = v1::StoreScrubRequest { node: node.map_or(0, |node| node.0), ticket: 0, now, deep };
        loop {
            let attempt = |node: Node, limit| {
                let request = self.request(message, limit);
                async move { node.admin().store_scrub(request).await }
            };
            let run: Run<ScrubReport> =
                Run::from_wire(self.try_all(what, attempt).await?).map_err(|error| bad_answer(what, &error))?;
            if run.outcome.is_some() {
                return Ok(run);
            }
            (message.node, message.ticket) = (run.node.0, run.ticket);
        }
    }

    /// Adds up the records of a volume's replica on a node (`None`: the one that answers), and waits for the end of it.
    ///
    /// # Errors
    /// As [`NamespaceClient::store_gc`].
    pub async fn volume_verify(&self, volume: VolumeId, on: Option<NodeId>) -> Result<Run<VerifyReport>, ClientError> {
        let what = format!("verify {volume}");
        let mut message = v1::VolumeVerifyRequest { volume: volume.0, node: on.map_or(0, |node| node.0), ticket: 0 };
        loop {
            let attempt = |node: Node, limit| {
                let request = self.request(message, limit);
                async move { node.admin().volume_verify(request).await }
            };
            let answer = self.try_all(what.as_str(), attempt).await?;
            let run: Run<VerifyReport> = Run::from_wire(answer).map_err(|error| bad_answer(&what, &error))?;
            if run.outcome.is_some() {
                return Ok(run);
            }
            (message.node, message.ticket) = (run.node.0, run.ticket);
        }
    }

    /// Declares a volume's replica on a node wrong, has it replaced by another's, and waits for the end of it.
    ///
    /// # Errors
    /// As [`NamespaceClient::store_gc`].
    pub async fn volume_repair(&self, volume: VolumeId, on: NodeId) -> Result<Run<Repaired>, ClientError> {
        let what = format!("repair {volume}");
        let mut message = v1::VolumeRepairRequest { volume: volume.0, node: on.0, ticket: 0 };
        loop {
            let attempt = |node: Node, limit| {
                let request = self.request(message, limit);
                async move { node.admin().volume_repair(request).await }
            };
            let answer = self.try_all(what.as_str(), attempt).await?;
            let run: Run<Repaired> = Run::from_wire(answer).map_err(|error| bad_answer(&what, &error))?;
            if run.outcome.is_some() {
                return Ok(run);
            }
            (message.node, message.ticket) = (run.node.0, run.ticket);
        }
    }

    /// Waits until every node of a site, or the repository, holds every byte of a volume up to `seq` (`None`: the newest
    /// now), at most `deadline`. That time passing is no error: [`SyncWaited::reached`] tells.
    ///
    /// # Errors
    /// [`ClientError`] if the wait itself failed. Cancel safety: may be dropped at any time.
    pub async fn sync_wait(
        &self,
        volume: VolumeId,
        target: SyncTarget,
        seq: Option<Seq>,
        deadline: Duration,
    ) -> Result<SyncWaited, ClientError> {
        let started = tokio::time::Instant::now();
        let mut seq = seq.unwrap_or(Seq::ZERO);
        loop {
            let left = deadline.saturating_sub(started.elapsed());
            let waited = self.wait_once(volume, &target, seq, left).await?;
            if waited.reached || started.elapsed() >= deadline {
                return Ok(waited);
            }
            seq = waited.seq;
        }
    }

    /// Waits for as long as one attempt may last: a node that dies meanwhile is noticed.
    async fn wait_once(
        &self,
        volume: VolumeId,
        target: &SyncTarget,
        seq: Seq,
        left: Duration,
    ) -> Result<SyncWaited, ClientError> {
        let what = format!("wait for {volume} to be in sync");
        let target = Some(target.clone().into_wire());
        let message = v1::SyncWaitRequest { volume: volume.0, seq: seq.0, target, own_only: false };
        let attempt = |node: Node, limit: Duration| {
            // The server answers shortly before this ends.
            let request = self.request(message.clone(), limit.min(left.max(Duration::from_millis(100))));
            async move { node.admin().sync_wait(request).await }
        };
        let answer = self.try_all(what.as_str(), attempt).await?;
        SyncWaited::from_wire(answer).map_err(|error| bad_answer(&what, &error))
    }
}

fn report(answer: v1::VolumeShowResponse) -> Result<VolumeReport, WireError> {
    let totals =
        Read { state: wire::required(answer.state, "state")?, value: wire::required(answer.totals, "totals")? };
    Ok(VolumeReport {
        volume: wire::required(answer.volume, "volume")?,
        totals,
        digest: answer.digest,
        leader: wire::node_or_none(answer.leader),
    })
}
