//! To the leader, wherever it is.
//!
//! The node that a client asked does the looking: it proposes here, and where it is told who leads, there; a node that is
//! asked by another only tries itself. So a request makes one hop at a time, and never goes in circles.

use std::sync::Arc;
use std::time::Duration;

use causeway_base::{NodeId, RetryClass, Seq, VolumeId};
use causeway_namespace_core::command::{Outcome, Request};
use causeway_namespace_core::lineage::Lineage;
use causeway_proto::peer::v1 as proto;
use tokio::time::Instant;

use crate::error::Error;
use crate::peers::{Peers, link_error};
use crate::rpc;
use crate::wire;
use causeway_namespace_raft::{Group, Groups, LinkError, ProposeError, Proposed, ReadIndexError};

/// First and longest pause before the leader is looked for again.
const PAUSE: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// Longest hop of a read index, which costs nothing to repeat.
const READ_HOP_MAX: Duration = Duration::from_secs(1);

/// Finds leaders and asks them.
#[derive(Clone, Debug)]
pub(crate) struct Forward {
    pub(crate) own: NodeId,
    pub(crate) groups: Arc<Groups>,
    pub(crate) peers: Arc<Peers>,
}

/// A search for the leader under way.
struct Search {
    group: VolumeId,
    started: Instant,
    deadline: Duration,
    pause: Duration,
    /// Whom to ask next; ourselves if `None`.
    next: Option<NodeId>,
    last: String,
}

impl Search {
    fn new(group: VolumeId, deadline: Duration) -> Self {
        let last = "none was asked".to_owned();
        Self { group, started: Instant::now(), deadline, pause: PAUSE, next: None, last }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_sub(self.started.elapsed())
    }

    /// The one asked does not lead. Goes where it points, at once the first time, later after a pause.
    async fn follow(&mut self, own: NodeId, pointed: Option<NodeId>, last: String) -> Result<(), Error> {
        let pointed = pointed.filter(|node| *node != own);
        let onward = self.next.is_none() && pointed.is_some();
        self.next = pointed;
        self.last = last;
        if onward {
            return Ok(());
        }
        self.wait().await
    }

    /// Starts again from ourselves, after a pause.
    async fn restart(&mut self, last: String) -> Result<(), Error> {
        self.next = None;
        self.last = last;
        self.wait().await
    }

    async fn wait(&mut self) -> Result<(), Error> {
        if self.left() <= self.pause {
            let last = std::mem::take(&mut self.last);
            return Err(Error::NoLeader { group: self.group, waited: self.started.elapsed(), last });
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Ok(())
    }
}

impl Forward {
    /// Has `request` committed, whoever leads. `voters` are asked in turn if the group is not here.
    ///
    /// Cancel safety: dropping it leaves the outcome unknown.
    pub(crate) async fn propose(
        &self,
        group: VolumeId,
        voters: &[NodeId],
        request: &Request,
        deadline: Duration,
    ) -> Result<Proposed, Error> {
        let here = self.groups.get(group);
        let mut search = Search::new(group, deadline);
        let mut turn = voters.iter().copied().filter(|node| *node != self.own).cycle();
        loop {
            let asked = match (search.next, &here) {
                (Some(node), _) => node,
                (None, Some(local)) => match local.propose(request.clone(), search.left()).await {
                    Err(ProposeError::NotLeader { leader }) => {
                        let last =
                            leader.map_or_else(|| "it knows none".to_owned(), |node| format!("it points at {node}"));
                        let leader = match leader {
                            Some(leader) => Some(leader),
                            None => self.look(local, &mut turn, search.left()).await,
                        };
                        search.follow(self.own, leader, format!("this node does not lead, {last}")).await?;
                        continue;
                    }
                    other => return other.map_err(|error| propose_error(group, error)),
                },
                (None, None) => match turn.next() {
                    Some(node) => node,
                    None => return Err(Error::NoReplica { volume: group, voters: voters.to_vec() }),
                },
            };
            match self.propose_at(asked, group, request, search.left()).await? {
                Ok(proposed) => return Ok(proposed),
                Err(Elsewhere::NotLeader(leader)) => {
                    let last = format!("{asked} does not lead");
                    search.follow(self.own, leader, last).await?;
                }
                Err(Elsewhere::Unreached(reason)) => search.restart(format!("{asked}: {reason}")).await?,
            }
        }
    }

    /// Who leads, as the next one knows: of a group at rest a node that starts hears nothing, and being asked wakes the
    /// leader. Nothing is proposed on a guess. Ends when it is known here.
    async fn look(&self, local: &Group, turn: &mut impl Iterator<Item = NodeId>, deadline: Duration) -> Option<NodeId> {
        let asked = turn.next()?;
        let known = async {
            while local.leader().is_none() {
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::select! {
            answer = self.read_index_at(asked, local.id(), deadline.min(READ_HOP_MAX)) => match answer {
                Ok(Ok(_)) => Some(asked),
                Ok(Err(leader)) => leader,
                Err(_) => None,
            },
            () = known => local.leader(),
        }
    }

    /// The line that this node follows, as a message.
    fn line(&self, group: VolumeId) -> Option<proto::Lineage> {
        wire::lineage_message(self.groups.lineage(group))
    }

    /// A peer follows a greater line: this node's ends.
    async fn heard(&self, group: VolumeId, lineage: Lineage, from: NodeId) {
        if let Err(error) = self.groups.fence(group, lineage, from).await {
            tracing::error!(%group, error = rpc::chain(&error), "a fence was not written");
        }
    }

    /// One hop. The inner error says that it surely did not happen there.
    async fn propose_at(
        &self,
        node: NodeId,
        group: VolumeId,
        request: &Request,
        deadline: Duration,
    ) -> Result<Result<Proposed, Elsewhere>, Error> {
        let message = proto::ProposeRequest { group: group.0, request: request.encode(), lineage: self.line(group) };
        let request = self.peers.request(message, Some(deadline));
        let mut stub = match self.peers.control(node) {
            Ok(stub) => stub,
            Err(error) => return Ok(Err(Elsewhere::Unreached(error.to_string()))),
        };
        let answer = match stub.propose(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                let reason = rpc::message_of(&status);
                if let Some(lineage) = rpc::fenced_by(&status) {
                    self.heard(group, lineage, node).await;
                    return Ok(Err(Elsewhere::Unreached(reason)));
                }
                return match rpc::class_of(&status) {
                    RetryClass::Transient => Ok(Err(Elsewhere::Unreached(reason))),
                    RetryClass::Refused => Err(Error::Invalid(format!("{node} refused: {reason}"))),
                    _ => Err(Error::Unknown { group, reason: format!("{node}: {reason}") }),
                };
            }
        };
        use proto::propose_response::Result as Answer;
        match answer.result {
            Some(Answer::Committed(committed)) => {
                // It is committed; that its outcome cannot be read does not undo it.
                let unreadable = |error| Error::Unknown { group, reason: format!("outcome from {node}: {error}") };
                let outcome = Outcome::decode(&committed.outcome).map_err(unreadable)?;
                Ok(Ok(Proposed { seq: Seq(committed.seq), outcome }))
            }
            Some(Answer::NotLeader(leader)) => Ok(Err(Elsewhere::NotLeader(wire::node_or_none(leader)))),
            None => Err(Error::Unknown { group, reason: format!("{node} answered nothing") }),
        }
    }

    /// The seq that a linearizable read of a group that is here must wait for.
    pub(crate) async fn read_index(&self, group: &Group, deadline: Duration) -> Result<Seq, Error> {
        let id = group.id();
        let mut search = Search::new(id, deadline);
        let others: Vec<NodeId> = group.members().into_iter().filter(|node| *node != self.own).collect();
        let mut turn = others.iter().copied().cycle();
        loop {
            let Some(node) = search.next else {
                match group.read_index(search.left()).await {
                    Ok(seq) => return Ok(seq),
                    Err(ReadIndexError::NotLeader { leader }) => {
                        let leader = match leader {
                            Some(leader) => Some(leader),
                            None => self.look(group, &mut turn, search.left()).await,
                        };
                        search.follow(self.own, leader, "this node does not lead".to_owned()).await?;
                    }
                    Err(ReadIndexError::Stopped(reason)) => return Err(Error::Stopped { group: id, reason }),
                    Err(error) => search.restart(error.to_string()).await?,
                }
                continue;
            };
            match self.read_index_at(node, id, search.left().min(READ_HOP_MAX)).await {
                Ok(Ok(seq)) => return Ok(seq),
                Ok(Err(leader)) => search.follow(self.own, leader, format!("{node} does not lead")).await?,
                Err(error) => search.restart(format!("{node}: {error}")).await?,
            }
        }
    }

    /// One hop. The inner error is who leads instead, if that is known there.
    async fn read_index_at(
        &self,
        node: NodeId,
        group: VolumeId,
        deadline: Duration,
    ) -> Result<Result<Seq, Option<NodeId>>, LinkError> {
        let request =
            self.peers.request(proto::ReadIndexRequest { group: group.0, lineage: self.line(group) }, Some(deadline));
        let answer = match self.peers.control(node)?.read_index(request).await {
            Ok(answer) => answer,
            Err(status) => {
                if let Some(lineage) = rpc::fenced_by(&status) {
                    self.heard(group, lineage, node).await;
                }
                return Err(link_error(&status));
            }
        };
        use proto::read_index_response::Result as Answer;
        match answer.into_inner().result {
            Some(Answer::Seq(seq)) => Ok(Ok(Seq(seq))),
            Some(Answer::NotLeader(leader)) => Ok(Err(wire::node_or_none(leader))),
            None => Err(LinkError::Refused("it answered nothing".to_owned())),
        }
    }
}

/// Why a hop surely had no effect.
enum Elsewhere {
    NotLeader(Option<NodeId>),
    Unreached(String),
}

pub(crate) fn propose_error(group: VolumeId, error: ProposeError) -> Error {
    match error {
        ProposeError::NotLeader { .. } => {
            Error::NoLeader { group, waited: Duration::ZERO, last: "this node does not lead".to_owned() }
        }
        ProposeError::Overloaded => Error::Overloaded(group),
        ProposeError::Full => Error::Full(group),
        ProposeError::Refused(reason) => Error::Invalid(reason),
        error @ ProposeError::Fenced(_) => Error::NoLeader { group, waited: Duration::ZERO, last: error.to_string() },
        error @ ProposeError::Unknown => Error::Unknown { group, reason: error.to_string() },
        // It may have waited in the group when that stopped.
        ProposeError::Stopped(reason) => Error::Unknown { group, reason: format!("the group is stopped: {reason}") },
        other => Error::Unknown { group, reason: other.to_string() },
    }
}
