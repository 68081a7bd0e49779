//! The types of this system in openraft's terms.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use openraft::RaftTypeConfig;
use openraft::impls::OneshotResponder;
use openraft::impls::leader_id_std;
use openraft_rt::deterministic_rng::DeterministicRng;
use openraft_rt_tokio::TokioRuntime;
use serde::{Deserialize, Serialize};

use causeway_namespace_core::command::Outcome;

use crate::store::Position;

use super::state_machine::StateMachine;

/// The types that openraft works with. At most one leader a term, so that `(epoch, term, seq)` orders images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = EncodedCommand;
    type R = Outcomes;
    type NodeId = u64;
    type Node = ();
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<EncodedCommand, u64, ()>;
    type Entry = openraft::type_config::alias::DefaultEntryOf<Self>;
    type AsyncRuntime = DeterministicRng<TokioRuntime>;
    type Responder<T>
        = OneshotResponder<Self, T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// A command as it stands in the log; only the state machine decodes it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EncodedCommand(pub(crate) Bytes);

impl fmt::Debug for EncodedCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncodedCommand({} bytes)", self.0.len())
    }
}

impl fmt::Display for EncodedCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.0.len())
    }
}

/// One outcome for each request of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcomes(pub(crate) Vec<Outcome>);

pub(crate) type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, ()>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, super::state_machine::SnapshotData>;
pub(crate) type AppendRequest = openraft::raft::AppendEntriesRequest<TypeConfig>;
pub(crate) type AppendResult = openraft::raft::StreamAppendResult<TypeConfig>;
pub(crate) type VoteRequest = openraft::raft::VoteRequest<TypeConfig>;
pub(crate) type VoteResponse = openraft::raft::VoteResponse<TypeConfig>;
pub(crate) type RpcError = openraft::errors::RPCError<TypeConfig>;
pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;

pub(crate) fn log_id(position: Position) -> LogId {
    LogId::new_term_index(position.term, position.index)
}

pub(crate) fn position(id: &LogId) -> Position {
    Position { term: id.committed_leader_id().term, index: id.index }
}

/// Members as they are stored: voter sets (two of them while they change), and all nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Members {
    /// The entry that set them.
    pub(crate) at: Option<Position>,
    pub(crate) voters: Vec<BTreeSet<u64>>,
    pub(crate) nodes: BTreeSet<u64>,
}

impl Members {
    pub(crate) fn of(at: Option<&LogId>, membership: &Membership) -> Self {
        Self {
            at: at.map(position),
            voters: membership.get_joint_config().clone(),
            nodes: membership.nodes().map(|(id, ())| *id).collect(),
        }
    }

    /// # Errors
    /// A voter that is no node.
    pub(crate) fn membership(&self) -> Result<Membership, String> {
        let nodes: BTreeMap<u64, ()> = self.nodes.iter().map(|id| (*id, ())).collect();
        Membership::new(self.voters.clone(), nodes).map_err(|error| error.to_string())
    }

    /// # Errors
    /// A voter that is no node.
    pub(crate) fn stored(&self) -> Result<StoredMembership, String> {
        Ok(StoredMembership::new(self.at.map(log_id), self.membership()?))
    }
}
