//! Another replica at one seq: sums and keys of ranges, asked for and answered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use causeway_base::{NodeId, Seq, VolumeId};
use causeway_namespace_core::descent::{self, DescentError, Found, KeyPage, KeyRange, Other, RANGES_MAX, Sum};
use causeway_namespace_core::lineage::Lineage;
use causeway_namespace_core::records::ReadError;
use causeway_storage::kv::KEY_BYTES_MAX;

use super::{decode, encoding};
use crate::consensus::wire::kind;
use crate::error::HandleError;
use crate::group::Group;
use crate::groups::Groups;
use crate::link::LinkError;
use crate::store::{StateView, ViewError, chain};

/// Deadline of one question.
const ASK: Duration = Duration::from_secs(15);

#[derive(Debug, Serialize, Deserialize)]
struct SumsAsk {
    seq: Seq,
    ranges: Vec<KeyRange>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeysAsk {
    seq: Seq,
    range: KeyRange,
}

/// Why the other does not answer; of use to try again, at another seq or with another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum NoAnswer {
    /// The group does not run there, or the asker is no member of it.
    #[error("it has no replica that it would show")]
    NotHere,
    /// The seq is not applied there yet.
    #[error("it has not applied that seq yet")]
    NotYet,
    /// The seq is not kept there any more.
    #[error("it does not keep that seq any more")]
    TooOld,
    /// It knows itself to be wrong.
    #[error("it is known to be wrong itself")]
    Diverged,
    /// It answers others.
    #[error("it is busy with other comparisons")]
    Busy,
    /// Its store failed.
    #[error("its store failed")]
    Failed,
}

/// Why replicas were not compared record by record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// No answer came.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The other says no.
    #[error("{0}")]
    NoAnswer(#[from] NoAnswer),
    /// It took too long.
    #[error("it took longer than {0:?}")]
    Deadline(Duration),
    /// The node shuts down.
    #[error("the node shuts down")]
    Stopped,
}

fn is_valid(range: &KeyRange) -> bool {
    range.from.len() <= KEY_BYTES_MAX + 1 && range.to.len() <= KEY_BYTES_MAX + 1
}

impl Groups {
    /// Compares all records of a view of a group with those of another node's replica at the same seq: how many differ, and the first
    /// `named_max` of their keys. Takes as long as reading all records on both sides.
    ///
    /// Cancel safety: dropped, it ends by itself within one question.
    ///
    /// # Errors
    /// [`DescentError`].
    pub async fn differing_records(
        self: &Arc<Self>,
        node: NodeId,
        group: &Group,
        view: StateView,
        named_max: usize,
        deadline: Duration,
        stop: CancellationToken,
    ) -> Result<Found, DescentError<CompareError>> {
        let mut other = Remote {
            groups: Arc::clone(self),
            runtime: tokio::runtime::Handle::current(),
            node,
            group: group.id(),
            lineage: group.lineage(),
            seq: view.seq(),
            started: Instant::now(),
            deadline,
            stop,
        };
        // A shutdown waits for it, so that the store is closed after it.
        let token = self.tasks.token();
        let work = move || {
            let found = descent::descend(&view, &mut other, named_max);
            drop((view, other));
            drop(token);
            found
        };
        self.blocking.run(work).await
    }

    /// Answers a question about ranges.
    pub(super) async fn handle_ranges(
        &self,
        from: NodeId,
        group: Arc<Group>,
        kind: u8,
        payload: &[u8],
    ) -> Result<Bytes, HandleError> {
        if kind == kind::SUMS {
            let SumsAsk { seq, ranges } = decode(payload).map_err(HandleError::Bad)?;
            if ranges.len() > RANGES_MAX || !ranges.iter().all(is_valid) {
                return Err(HandleError::Bad(format!("{} ranges, or too long ones", ranges.len())));
            }
            let answer = self.on_view(from, group, seq, move |view| descent::sums(view, &ranges)).await;
            return Ok(encoding::encode(&answer));
        }
        let KeysAsk { seq, range } = decode(payload).map_err(HandleError::Bad)?;
        if !is_valid(&range) {
            return Err(HandleError::Bad("a range with too long keys".to_owned()));
        }
        let answer = self.on_view(from, group, seq, move |view| descent::keys(view, &range)).await;
        Ok(encoding::encode(&answer))
    }

    async fn on_view<T: Send + 'static>(
        &self,
        from: NodeId,
        group: Arc<Group>,
        seq: Seq,
        read: impl FnOnce(&StateView) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, NoAnswer> {
        if !group.members().contains(&from) {
            return Err(NoAnswer::NotHere);
        }
        let id = group.id();
        if group.store.diverged().is_some() {
            return Err(NoAnswer::Diverged);
        }
        let _place = self.comparing.try_acquire().map_err(|_| NoAnswer::Busy)?;
        let store = Arc::clone(&group.store);
        let work = move || {
            let view = store.view_at(seq).map_err(|error| match error {
                ViewError::NotYet { .. } => NoAnswer::NotYet,
                ViewError::TooOld { .. } => NoAnswer::TooOld,
                _ => NoAnswer::Failed,
            })?;
            read(&view).map_err(|error| {
                tracing::error!(group = %id, error = chain(&error), "records cannot be read to compare them");
                NoAnswer::Failed
            })
        };
        self.blocking.run(work).await
    }
}

/// Asks from a blocking thread.
struct Remote {
    groups: Arc<Groups>,
    runtime: tokio::runtime::Handle,
    node: NodeId,
    group: VolumeId,
    lineage: Lineage,
    seq: Seq,
    started: Instant,
    deadline: Duration,
    stop: CancellationToken,
}

impl Remote {
    fn ask<T: Serialize + Sync, A: DeserializeOwned>(&self, kind: u8, ask: &T) -> Result<A, CompareError> {
        let left = self.deadline.saturating_sub(self.started.elapsed());
        if left.is_zero() {
            return Err(CompareError::Deadline(self.deadline));
        }
        let asked = self.groups.ask_about_digests(self.node, self.group, self.lineage, kind, ask, ASK.min(left));
        let answer: Result<A, NoAnswer> = self.runtime.block_on(async {
            tokio::select! {
                answer = asked => answer.map_err(CompareError::Link),
                () = self.stop.cancelled() => Err(CompareError::Stopped),
            }
        })?;
        answer.map_err(CompareError::NoAnswer)
    }
}

impl Other for Remote {
    type Error = CompareError;

    fn sums(&mut self, ranges: &[KeyRange]) -> Result<Vec<Option<Sum>>, CompareError> {
        self.ask(kind::SUMS, &SumsAsk { seq: self.seq, ranges: ranges.to_vec() })
    }

    fn keys(&mut self, range: &KeyRange) -> Result<KeyPage, CompareError> {
        self.ask(kind::KEYS, &KeysAsk { seq: self.seq, range: range.clone() })
    }
}
