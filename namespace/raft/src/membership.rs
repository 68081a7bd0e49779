//! Driving a group's members to what is wanted of them, one committed step at a time.
//!
//! Every step is decided from the group's own state, so a new leader goes on where the last one stopped, also in the middle of
//! a joint configuration. New nodes come as learners; they vote only once they have nearly all of the log, so that a vote
//! never counts that cannot be relied on; a leader that shall not vote any more hands over before it is taken out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;

use causeway_base::NodeId;

use crate::error::ProposeError;
use crate::group::Group;
use crate::store::chain;

/// What is wanted of a group's members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Who votes.
    pub voters: BTreeSet<NodeId>,
    /// Who has everything and does not vote.
    pub learners: BTreeSet<NodeId>,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driven {
    /// The members are as wanted.
    There,
    /// A step was made; ask again soon.
    Stepped(&'static str),
    /// Nothing can be done until these nodes have caught up or answer.
    Waiting(Vec<NodeId>),
}

impl Group {
    /// Makes at most one step; of use on the leader only. `home` is preferred when leadership must go elsewhere. A voter
    /// counts as caught up if it has answered within `steady`.
    ///
    /// Cancel safety: dropped, the step may be made or not; ask again.
    ///
    /// # Errors
    /// [`ProposeError`]: leadership was lost, or the step did not commit within `deadline`.
    pub async fn drive(&self, wanted: &Members, steady: Duration, deadline: Duration) -> Result<Driven, ProposeError> {
        if !self.is_leader() {
            return Err(ProposeError::NotLeader { leader: self.leader() });
        }
        if wanted.voters.is_empty() {
            return Err(ProposeError::Refused("a group without voters".to_owned()));
        }
        let (configs, nodes) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let membership = metrics.membership_config.membership();
            let nodes: BTreeSet<u64> = membership.nodes().map(|(id, ())| *id).collect();
            (membership.get_joint_config().clone(), nodes)
        };
        let ids = |nodes: &BTreeSet<NodeId>| nodes.iter().map(|node| node.0).collect::<BTreeSet<u64>>();
        let (target, learners) = (ids(&wanted.voters), ids(&wanted.learners));
        let all: BTreeSet<u64> = target.union(&learners).copied().collect();
        let current: BTreeSet<u64> = configs.iter().flatten().copied().collect();

        let are_there = configs.len() == 1 && current == target && nodes == all;
        if are_there {
            return Ok(Driven::There);
        }
        self.stir(steady).await;
        let missing: BTreeMap<u64, ()> = all.difference(&nodes).map(|id| (*id, ())).collect();
        if !missing.is_empty() {
            self.change(ChangeMembers::AddNodes(missing), deadline).await?;
            return Ok(Driven::Stepped("new learners"));
        }
        let behind: Vec<NodeId> = target
            .difference(&current)
            .map(|id| NodeId(*id))
            .filter(|node| *node != self.node && !self.has_caught_up(*node, steady))
            .collect();
        if !behind.is_empty() {
            return Ok(Driven::Waiting(behind));
        }
        if configs.len() == 1 && current == target {
            let extra: BTreeSet<u64> = nodes.difference(&all).copied().collect();
            self.change(ChangeMembers::RemoveNodes(extra), deadline).await?;
            return Ok(Driven::Stepped("old members left"));
        }
        if target.contains(&self.node.0) {
            self.change(ChangeMembers::ReplaceAllVoters(target), deadline).await?;
            return Ok(Driven::Stepped("new voters"));
        }
        let mut with_self = target.clone();
        with_self.insert(self.node.0);
        if configs.len() > 1 || !target.is_subset(&current) {
            self.change(ChangeMembers::ReplaceAllVoters(with_self), deadline).await?;
            return Ok(Driven::Stepped("new voters beside the leader"));
        }
        let home = self.home().filter(|home| wanted.voters.contains(home));
        let able = |node: &NodeId| self.has_caught_up(*node, steady);
        match home.into_iter().chain(wanted.voters.iter().copied()).find(able) {
            Some(next) => {
                self.transfer_leader(next).await?;
                Ok(Driven::Stepped("leadership"))
            }
            None => Ok(Driven::Waiting(wanted.voters.iter().copied().collect())),
        }
    }

    /// Hands leadership to one of `able` that has nearly all of the log and has answered within `steady`, home first. `false`
    /// if this node does not lead, or nobody can take over now.
    ///
    /// Cancel safety: as [`Group::transfer_leader`].
    ///
    /// # Errors
    /// As [`Group::transfer_leader`].
    pub async fn hand_over_to(&self, able: &BTreeSet<NodeId>, steady: Duration) -> Result<bool, ProposeError> {
        if !self.is_leader() {
            return Ok(false);
        }
        let home = self.home().filter(|home| able.contains(home));
        let takes_over =
            |node: &NodeId| *node != self.node && !self.is_avoided(*node) && self.is_caught_up(*node, steady);
        match home.into_iter().chain(able.iter().copied()).find(takes_over) {
            Some(next) => self.transfer_leader(next).await.map(|()| true),
            None => Ok(false),
        }
    }

    async fn change(&self, members: ChangeMembers<u64, ()>, deadline: Duration) -> Result<(), ProposeError> {
        use openraft::errors::{ClientWriteError, RaftError};
        // Retained: a voter that leaves is a learner until the wanted members are known to hold.
        let changed = tokio::time::timeout(deadline, self.raft.change_membership(members, true)).await;
        match changed {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                Err(ProposeError::NotLeader { leader: forward.leader_id.map(NodeId) })
            }
            Ok(Err(RaftError::APIError(error))) => Err(ProposeError::Refused(chain(&error))),
            Ok(Err(RaftError::Fatal(fatal))) => Err(ProposeError::Stopped(chain(&fatal))),
            Err(_) => Err(ProposeError::Unknown),
        }
    }
}
