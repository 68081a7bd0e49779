//! Taking the mark of a wrong replica back, because a person knows that it is right. It is recorded first.

use std::time::Duration;

use causeway_base::{NodeId, VolumeId};
use causeway_namespace_core::audit::By;
use causeway_namespace_core::encode;
use causeway_namespace_core::root::{Note, RootOp};
use causeway_namespace_raft::store::AddedUp;
use causeway_proto::peer::v1 as proto;
use tokio::time::Instant;

use crate::error::Error;
use crate::node::forget::told_by;
use crate::node::{Namespace, blocking};
use crate::rpc;

/// What is left of a deadline for the way back.
const MARGIN: Duration = Duration::from_millis(250);

impl Namespace {
    /// Takes the mark of a volume's wrong replica on a node back: its records, as they are, are the volume there from now on.
    /// It is read again, and no majority of others marks it anew before it was once the same as all of them.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not marked, or its records cannot be read, [`Error::Busy`] while it is being repaired; else
    /// [`Error`]. Cancel safety: dropped, it may happen.
    pub async fn trust_replica(&self, name: &str, node: NodeId, by: By, deadline: Duration) -> Result<AddedUp, Error> {
        let started = Instant::now();
        let volume = self.volume_named(name, deadline).await?;
        let left = deadline.saturating_sub(started.elapsed());
        if node == self.id() {
            return self.trust_here(volume.id, by, left).await;
        }
        let mut stub = self.peers.control(node).map_err(|error| Error::Invalid(error.to_string()))?;
        let message = proto::TrustRequest { group: volume.id.0, by: encode::to_bytes(&by) };
        let answer = stub.trust(self.peers.request(message, Some(left.saturating_sub(MARGIN)))).await;
        let proto::TrustResponse { seq, records, right } =
            answer.map_err(|status| told_by(node, &status))?.into_inner();
        Ok(AddedUp { seq: causeway_base::Seq(seq), records, bytes: 0, right })
    }

    /// As [`Namespace::trust_replica`], of this node's.
    pub(crate) async fn trust_here(&self, id: VolumeId, by: By, deadline: Duration) -> Result<AddedUp, Error> {
        if id == VolumeId::ROOT {
            return Err(Error::Invalid("the root group's replica is not trusted by hand: repair it".to_owned()));
        }
        let started = Instant::now();
        let busy = |_| Error::Busy("a replica on this node is being repaired; try again".to_owned());
        let idle = tokio::time::timeout(deadline / 2, self.digests.repairing.lock());
        let _no_repair = idle.await.map_err(busy)?;
        let group = self.group(id).ok_or_else(|| Error::Invalid(format!("{id} does not run on {}", self.id())))?;
        if group.diverged().is_none() {
            return Err(Error::Invalid(format!("the replica on {} is not marked as wrong", self.id())));
        }
        let note = Note::TrustReplica { id, name: self.name_of(id), node: self.id() };
        tracing::warn!(volume = %id, who = by.who, reason = by.reason, "the mark of a wrong replica is taken back");
        self.audited_by(RootOp::Note(note), by, deadline.saturating_sub(started.elapsed())).await?;
        let (trusted, now) = (group.clone(), self.clock.now());
        let sum = blocking(move || trusted.trust(now)).await;
        let sum = sum.map_err(|error| Error::Invalid(format!("it stays marked: {}", rpc::chain(&error))))?;
        self.digests.change(id, |known| {
            known.equal.clear();
            known.settled = None;
            known.sound.clear();
            known.repair_after = None;
            known.report.divergence = None;
        });
        Ok(sum)
    }
}
