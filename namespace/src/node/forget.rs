//! Giving up what a node keeps aside, because a person said so. It is recorded first; then that node does it.

use std::sync::Arc;
use std::time::Duration;

use causeway_base::{NodeId, RetryClass, VolumeId};
use causeway_namespace_core::audit::By;
use causeway_namespace_core::encode;
use causeway_namespace_core::lineage::Lineage;
use causeway_namespace_core::root::{Note, RootOp};
use causeway_namespace_raft::forget::ForgetError;
use causeway_proto::peer::v1 as proto;
use tokio::time::Instant;

use super::Namespace;
use super::aside::Named;
use crate::error::Error;
use crate::{rpc, wire};

/// What is left of a deadline for the way back.
const MARGIN: Duration = Duration::from_millis(250);

impl Namespace {
    /// Gives up log and state of a line of a volume that ended, on a node, for good; what only that named is garbage there
    /// afterwards. Of a volume that no table knows also by its id.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the node keeps nothing of that line, or still needs it; else [`Error`]. Cancel safety: dropped, it
    /// may happen. The same again says that there is nothing.
    pub async fn forget_aside(
        &self,
        name: &str,
        node: NodeId,
        lineage: Lineage,
        by: By,
        deadline: Duration,
    ) -> Result<(), Error> {
        if node == self.id() {
            return self.forget_here(name, lineage, by, deadline).await;
        }
        let mut stub = self.peers.control(node).map_err(|error| Error::Invalid(error.to_string()))?;
        let (name, line) = (name.to_owned(), wire::lineage_message(lineage));
        let message = proto::ForgetRequest { name, line, by: encode::to_bytes(&by) };
        let answer = stub.forget(self.peers.request(message, Some(deadline.saturating_sub(MARGIN)))).await;
        answer.map(drop).map_err(|status| told_by(node, &status))
    }

    /// As [`Namespace::forget_aside`], on this node.
    pub(crate) async fn forget_here(
        &self,
        name: &str,
        lineage: Lineage,
        by: By,
        deadline: Duration,
    ) -> Result<(), Error> {
        let started = Instant::now();
        let Named { group, of, lines } = self.named_group(name).await?;
        let Some(of) = of else {
            // By its tables it is known which volumes only the other side had.
            let message = "what is aside of the root group stays: it tells which volumes only the side that ended had";
            return Err(Error::Invalid(message.to_owned()));
        };
        if !lines.contains(&lineage) {
            return Err(Error::Invalid(format!("{} has nothing aside of line {lineage} of volume {name}", self.id())));
        }
        self.groups.check_forgettable(group, lineage).await.map_err(not_forgotten)?;
        let note = Note::ForgetAside { id: group, name: of.spec.name, node: self.id(), line: lineage };
        tracing::warn!(volume = %group, %lineage, who = by.who, reason = by.reason, "giving up what is aside");
        self.audited_by(RootOp::Note(note), by, deadline.saturating_sub(started.elapsed())).await?;
        // To its end, though nobody may wait for it any more.
        let groups = Arc::clone(&self.groups);
        let forgetting = self.tasks.spawn(async move { groups.forget_line(group, lineage).await });
        let ended = forgetting.await.map_err(|_| Error::ShuttingDown)?;
        ended.map_err(not_forgotten)
    }

    /// Whether this node gave up what it had of some line of a group.
    pub(super) fn has_forgotten(&self, group: VolumeId) -> bool {
        let left = self.groups.fence_of(group).map(|fence| fence.left).unwrap_or_default();
        left.into_iter().chain([self.groups.lineage(group)]).any(|line| self.groups.is_forgotten(group, line))
    }
}

/// What a node answered that was told to do something to its own disk.
pub(super) fn told_by(node: NodeId, status: &tonic::Status) -> Error {
    let message = format!("{node}: {}", rpc::message_of(status));
    match rpc::class_of(status) {
        RetryClass::Refused => Error::Invalid(message),
        _ => Error::Unknown { group: VolumeId::ROOT, reason: message },
    }
}

fn not_forgotten(error: ForgetError) -> Error {
    match error {
        ForgetError::Store(_) | ForgetError::Wal { .. } => {
            Error::Read(causeway_namespace_core::records::ReadError::Store(rpc::chain(&error)))
        }
        error => Error::Invalid(error.to_string()),
    }
}
