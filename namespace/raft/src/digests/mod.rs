//! Comparing replicas: whether they are the same at equal seqs, and in what they differ.
//!
//! Nothing here goes through the log. A node asks another about all groups that both have in one small message; the other
//! compares with the digests that it kept of recent seqs. `docs/digest.md` says what is made of the answers.

mod remote;
mod repair;
mod wire;

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use serde::Serialize;
use serde::de::DeserializeOwned;

use causeway_base::{NodeId, VolumeId};
use causeway_namespace_core::lineage::Lineage;

use crate::consensus::wire as encoding;
use crate::consensus::wire::kind;
use crate::error::HandleError;
use crate::group::Group;
use crate::groups::Groups;
use crate::link::{LinkError, PeerRequest};

pub use remote::{CompareError, NoAnswer};
pub use repair::RepairError;
pub use wire::{ASKS_MAX, Compared, DigestAnswer, DigestAsk};

/// Questions about ranges, and states sent, that a node answers at once: each may keep a thread and the disk busy.
pub(crate) const COMPARING_MAX: usize = 2;

/// Whether a kind of message is of this module.
pub(crate) fn is_about_digests(kind: u8) -> bool {
    matches!(kind, kind::DIGESTS | kind::SUMS | kind::KEYS)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    if bytes.len() > wire::BYTES_MAX {
        return Err(format!("{} bytes, at most {} are allowed", bytes.len(), wire::BYTES_MAX));
    }
    encoding::decode(bytes)
}

impl Groups {
    /// Asks another node whether its replicas are the same: at most [`ASKS_MAX`] groups, answered in their order.
    ///
    /// Cancel safety: may be dropped at any time.
    ///
    /// # Errors
    /// [`LinkError`]; a bad answer counts as refused.
    pub async fn ask_digests(
        &self,
        node: NodeId,
        asks: &[DigestAsk],
        deadline: Duration,
    ) -> Result<Vec<DigestAnswer>, LinkError> {
        let answers: Vec<DigestAnswer> =
            self.ask_about_digests(node, VolumeId::ROOT, Lineage::default(), kind::DIGESTS, &asks, deadline).await?;
        let in_order = answers.iter().map(|answer| answer.group).eq(asks.iter().map(|ask| ask.group));
        let answered = |(ask, answer): (&DigestAsk, &DigestAnswer)| match &answer.compared {
            Compared::Equal { at } => ask.marks.iter().any(|mark| mark.seq() == *at),
            Compared::Differs { theirs } => ask.marks.iter().any(|mark| mark.seq() == theirs.seq() && mark != theirs),
            Compared::NotHere | Compared::Unknown { .. } => true,
        };
        if !in_order || !asks.iter().zip(&answers).all(answered) {
            return Err(LinkError::Refused(format!("{node} answered something else than it was asked")));
        }
        Ok(answers)
    }

    /// Groups that another node found to differ from its own when it asked, with that node, since the last call.
    #[must_use]
    pub fn take_contested(&self) -> BTreeSet<(VolumeId, NodeId)> {
        std::mem::take(&mut *self.contested.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn ask_about_digests<T: Serialize, A: DeserializeOwned>(
        &self,
        node: NodeId,
        group: VolumeId,
        lineage: Lineage,
        kind: u8,
        ask: &T,
        deadline: Duration,
    ) -> Result<A, LinkError> {
        let request = PeerRequest { group, lineage, kind, payload: encoding::encode(ask) };
        let answer = self.config.link.call(node, request, deadline).await?;
        decode(&answer).map_err(|reason| LinkError::Refused(format!("a bad answer of {node}: {reason}")))
    }

    /// Answers another node.
    pub(crate) async fn handle_digests(&self, from: NodeId, request: &PeerRequest) -> Result<Bytes, HandleError> {
        let payload = &request.payload;
        if request.kind != kind::DIGESTS {
            // The line is checked as that of any message is: who hears of a greater one writes a fence first.
            let group = self.of_line(from, request.group, request.lineage).await?;
            return self.handle_ranges(from, group, request.kind, payload).await;
        }
        let asks: Vec<DigestAsk> = decode(payload).map_err(HandleError::Bad)?;
        if asks.len() > ASKS_MAX || !asks.iter().all(DigestAsk::is_valid) {
            return Err(HandleError::Bad(format!("{} groups, or too many seqs of one", asks.len())));
        }
        let answers: Vec<DigestAnswer> = asks.iter().map(|ask| self.compared(from, ask)).collect();
        Ok(encoding::encode(&answers))
    }

    fn compared(&self, from: NodeId, ask: &DigestAsk) -> DigestAnswer {
        // A replica of another line is no replica of this one: they part on purpose, and are never compared. Only messages of
        // the group itself tell of lines.
        let is_asked = |group: &Arc<Group>| {
            group.lineage() == ask.lineage && !group.is_fenced() && group.members().contains(&from)
        };
        let group = self.get(ask.group).filter(is_asked);
        let Some(group) = group else {
            return DigestAnswer { group: ask.group, compared: Compared::NotHere, diverged: false };
        };
        let known = ask.marks.iter().find_map(|mark| Some((mark, group.store.mark_at(mark.seq())?)));
        let compared = match known {
            None => Compared::Unknown { applied: group.applied() },
            Some((mark, known)) if known == *mark => Compared::Equal { at: mark.seq() },
            Some((_, theirs)) => {
                // Only members get here, so this is bounded.
                self.contested.lock().unwrap_or_else(PoisonError::into_inner).insert((ask.group, from));
                Compared::Differs { theirs }
            }
        };
        DigestAnswer { group: ask.group, compared, diverged: group.store.diverged().is_some() }
    }
}

impl Group {
    /// Voters and learners, as this node knows them.
    #[must_use]
    pub fn members(&self) -> BTreeSet<NodeId> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().nodes().map(|(id, ())| NodeId(*id)).collect()
    }

    /// Digests of recent seqs, to be compared with another replica's: the newest first.
    #[must_use]
    pub fn digest_marks(&self) -> Vec<crate::store::DigestMark> {
        self.store.marks()
    }
}
