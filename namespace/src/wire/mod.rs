//! Between our types and the generated ones. Nothing else in this crate but the services and the client's calls names a
//! generated type.
//!
//! What comes in is checked here: lengths, unset fields, unknown enum values. A message is bounded by the size limit of its
//! connection before it gets here.

mod answers;
mod digest;
mod listing;
mod manage;
mod status;
#[cfg(test)]
mod tests;
mod tree;
mod upkeep;

use std::time::Duration;

use causeway_base::{Epoch, NodeId, Seq, SiteName, Timestamp, VolumeId};
use causeway_namespace_core::lineage::Lineage;
use causeway_namespace_core::root::VolumeRecord;
use causeway_namespace_raft::link::PeerRequest;
use causeway_proto::peer::v1 as peer;
use causeway_proto::v1;

pub(crate) use self::answers::{answered, mutate_answer};

use crate::node::{AsideLine, AsideSeq};
use crate::read::{Consistency, Freshness, ReadState};

/// Why a message is not what it should be. Its text goes back to the sender.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    /// A field that must be set is not.
    #[error("{0} is not set")]
    Unset(&'static str),
    /// A field breaks its rule.
    #[error("{field}: {reason}")]
    Bad {
        /// Which.
        field: &'static str,
        /// What is wrong.
        reason: String,
    },
}

impl WireError {
    pub(crate) fn bad(field: &'static str, reason: impl ToString) -> Self {
        Self::Bad { field, reason: reason.to_string() }
    }
}

/// A type with a message form.
pub(crate) trait Wire: Sized {
    /// The generated type.
    type Message;

    /// Its message.
    fn into_wire(self) -> Self::Message;

    /// From a message of a peer.
    fn from_wire(message: Self::Message) -> Result<Self, WireError>;
}

/// Runs that are asked for by a ticket: a report while it is there. Their messages differ in type alone.
macro_rules! runs {
    ($($report:ident in $response:ident, $module:ident;)+) => {$(
        impl Wire for Run<$report> {
            type Message = v1::$response;

            fn into_wire(self) -> v1::$response {
                use v1::$module::Outcome;
                let outcome = match self.outcome {
                    None => Outcome::Running(v1::RunUnderWay {}),
                    Some(Ok(report)) => Outcome::Done(report.into_wire()),
                    Some(Err(why)) => Outcome::Failed(why),
                };
                v1::$response { node: self.node.0, ticket: self.ticket, outcome: Some(outcome) }
            }

            fn from_wire(message: v1::$response) -> Result<Self, WireError> {
                use v1::$module::Outcome;
                let outcome = match message.outcome {
                    None => return Err(WireError::bad("outcome", "it is not set")),
                    Some(Outcome::Running(_)) => None,
                    Some(Outcome::Done(report)) => Some(Ok($report::from_wire(report)?)),
                    Some(Outcome::Failed(why)) => Some(Err(why)),
                };
                Ok(Self { node: NodeId(message.node), ticket: message.ticket, outcome })
            }
        }
    )+};
}
use runs;

/// The value of a message field, which proto3 lets a peer leave out.
pub(crate) fn required<T: Wire>(field: Option<T::Message>, name: &'static str) -> Result<T, WireError> {
    T::from_wire(field.ok_or(WireError::Unset(name))?)
}

/// All of a list.
pub(crate) fn all<T: Wire>(messages: Vec<T::Message>) -> Result<Vec<T>, WireError> {
    messages.into_iter().map(T::from_wire).collect()
}

/// All of a list, as messages.
pub(crate) fn all_into<T: Wire>(values: impl IntoIterator<Item = T>) -> Vec<T::Message> {
    values.into_iter().map(Wire::into_wire).collect()
}

/// 16 bytes of a random id.
pub(crate) fn id_bytes(id: u128) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(&id.to_be_bytes())
}

/// A random id from its 16 bytes.
pub(crate) fn id_from_bytes(bytes: &[u8], field: &'static str) -> Result<u128, WireError> {
    bytes.try_into().map(u128::from_be_bytes).map_err(|_| WireError::bad(field, "16 bytes are expected"))
}

/// A site's name.
pub(crate) fn site(name: String, field: &'static str) -> Result<SiteName, WireError> {
    SiteName::try_from(name).map_err(|error| WireError::bad(field, error))
}

/// Node ids where zero stands for none.
pub(crate) fn node_or_none(id: u64) -> Option<NodeId> {
    (id != 0).then_some(NodeId(id))
}

/// Texts where an empty one stands for none.
pub(crate) fn text_or_none(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Wire for Freshness {
    type Message = v1::Consistency;

    fn into_wire(self) -> v1::Consistency {
        use v1::consistency::{Kind, Local};
        let kind = match self.consistency {
            Consistency::Linearizable => None,
            Consistency::Bounded(age) => Some(Kind::BoundedAgeMillis(millis(age))),
            Consistency::Local => Some(Kind::Local(Local {})),
        };
        v1::Consistency { kind, seq_min: self.seq_min.0, at_seq: self.at.map_or(0, |seq| seq.0) }
    }

    fn from_wire(message: v1::Consistency) -> Result<Self, WireError> {
        use v1::consistency::Kind;
        let consistency = match message.kind {
            None => Consistency::Linearizable,
            Some(Kind::BoundedAgeMillis(age)) => Consistency::Bounded(Duration::from_millis(age)),
            Some(Kind::Local(_)) => Consistency::Local,
        };
        let at = (message.at_seq != 0).then_some(Seq(message.at_seq));
        Ok(Self { consistency, seq_min: Seq(message.seq_min), at })
    }
}

impl Wire for ReadState {
    type Message = v1::ReadState;

    fn into_wire(self) -> v1::ReadState {
        v1::ReadState {
            seq: self.seq.0,
            age_nanos: self.age.map_or(0, nanos),
            age_known: self.age.is_some(),
            node: self.node.0,
        }
    }

    fn from_wire(message: v1::ReadState) -> Result<Self, WireError> {
        let age = message.age_known.then(|| Duration::from_nanos(message.age_nanos));
        Ok(Self { seq: Seq(message.seq), age, node: NodeId(message.node) })
    }
}

/// A Raft request to a peer.
pub(crate) fn call_request(request: PeerRequest) -> peer::CallRequest {
    let lineage = lineage_message(request.lineage);
    peer::CallRequest { group: request.group.0, kind: u32::from(request.kind), payload: request.payload, lineage }
}

/// A Raft request from a peer.
pub(crate) fn peer_request(message: peer::CallRequest) -> Result<PeerRequest, WireError> {
    let kind = u8::try_from(message.kind).map_err(|_| WireError::bad("kind", message.kind))?;
    let lineage = lineage(message.lineage);
    Ok(PeerRequest { group: VolumeId(message.group), lineage, kind, payload: message.payload })
}

/// A line of a group's history; the first is left out.
pub(crate) fn lineage_message(lineage: Lineage) -> Option<peer::Lineage> {
    let message = peer::Lineage {
        root_epoch: lineage.root_epoch.0,
        root_founder: lineage.root_founder.0,
        epoch: lineage.epoch.0,
        founder: lineage.founder.0,
    };
    (!lineage.is_first()).then_some(message)
}

/// A line of a group's history from a peer.
pub(crate) fn lineage(message: Option<peer::Lineage>) -> Lineage {
    let message = message.unwrap_or_default();
    Lineage {
        root_epoch: Epoch(message.root_epoch),
        root_founder: NodeId(message.root_founder),
        epoch: Epoch(message.epoch),
        founder: NodeId(message.founder),
    }
}

/// A line of a group's history as text; the first is empty.
pub(crate) fn lineage_text(lineage: Lineage) -> String {
    if lineage.is_first() { String::new() } else { lineage.to_string() }
}

/// A line of a group's history from text.
pub(crate) fn lineage_from(text: &str, field: &'static str) -> Result<Lineage, WireError> {
    if text.is_empty() { Ok(Lineage::default()) } else { text.parse().map_err(|error| WireError::bad(field, error)) }
}

/// A line that a node has left.
pub(crate) fn aside_line(message: v1::AsideLine) -> Result<AsideLine, WireError> {
    Ok(AsideLine {
        lineage: lineage_from(&message.lineage, "lineage")?,
        volume: VolumeId(message.volume),
        fork: (message.fork != 0).then_some(Seq(message.fork)),
        applied: Seq(message.applied),
        last: Seq(message.last),
        of: message.of.map(VolumeRecord::from_wire).transpose()?,
    })
}

/// As [`aside_line`], as a message.
pub(crate) fn aside_line_message(line: AsideLine) -> v1::AsideLine {
    v1::AsideLine {
        lineage: line.lineage.to_string(),
        volume: line.volume.0,
        fork: line.fork.map_or(0, |seq| seq.0),
        applied: line.applied.0,
        last: line.last.0,
        of: line.of.map(Wire::into_wire),
    }
}

/// A seq of a line that a node has left.
pub(crate) fn aside_seq(message: v1::AsideSeq) -> AsideSeq {
    let at = (message.at != 0).then_some(Timestamp(message.at));
    AsideSeq { seq: Seq(message.seq), at, applied: message.applied, changes: message.changes }
}

/// As [`aside_seq`], as a message.
pub(crate) fn aside_seq_message(seq: AsideSeq) -> v1::AsideSeq {
    let at = seq.at.map_or(0, |at| at.0);
    v1::AsideSeq { seq: seq.seq.0, at, applied: seq.applied, changes: seq.changes }
}

/// The first message of a Raft stream.
pub(crate) fn stream_open(request: PeerRequest) -> peer::StreamRequest {
    peer::StreamRequest { frame: Some(peer::stream_request::Frame::Open(call_request(request))) }
}

/// Any later message of a Raft stream.
pub(crate) fn stream_message(message: bytes::Bytes) -> peer::StreamRequest {
    peer::StreamRequest { frame: Some(peer::stream_request::Frame::Message(message)) }
}
