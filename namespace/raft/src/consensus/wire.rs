//! Log entries, votes and messages as bytes. The page is `docs/formats/raft.md`.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::EntryPayload;
use openraft::raft::StreamAppendError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::store::Position;

use super::types::{
    AppendRequest, AppendResult, EncodedCommand, Entry, Members, Membership, Vote, VoteRequest, VoteResponse, log_id,
    position,
};

/// Kinds of message between peers.
pub(crate) mod kind {
    /// One append, answered: heartbeats.
    pub(crate) const APPEND: u8 = 1;
    /// A vote is asked for.
    pub(crate) const VOTE: u8 = 2;
    /// A vote would be asked for.
    pub(crate) const PRE_VOTE: u8 = 3;
    /// The leader hands over.
    pub(crate) const TRANSFER: u8 = 4;
    /// Groups are to rest; from node to node.
    pub(crate) const REST: u8 = 5;
    /// A sign of life; from node to node.
    pub(crate) const PING: u8 = 6;
    /// Groups of a node that has started, which may rest again; from node to node.
    pub(crate) const REJOIN: u8 = 7;
    /// Short messages of many groups; from node to node.
    pub(crate) const TOGETHER: u8 = 11;
    /// Whether replicas of many groups are the same; see [`crate::digests`].
    pub(crate) const DIGESTS: u8 = 8;
    /// Sums of ranges of keys.
    pub(crate) const SUMS: u8 = 9;
    /// Keys of a range.
    pub(crate) const KEYS: u8 = 10;
    /// A stream of appends.
    pub(crate) const APPEND_STREAM: u8 = 16;
    /// A stream of the blocks of a snapshot.
    pub(crate) const SNAPSHOT_STREAM: u8 = 17;
    /// Asks for a stream of the blocks of the whole state.
    pub(crate) const STATE_STREAM: u8 = 18;
}

/// Most entries in one message.
pub(crate) const ENTRIES_MAX: usize = 4096;

const VERSION: u8 = 1;
const BLANK: u8 = 0;
const COMMAND: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// Why bytes are not what they should be.
pub(crate) type Bad = String;

/// Version byte and postcard.
pub(crate) fn encode<T: Serialize>(value: &T) -> Bytes {
    // All these types are plain data: postcard fails only on unsized sequences and on a full buffer.
    postcard::to_extend(value, vec![VERSION]).expect("plain data has a postcard form and a Vec grows").into()
}

/// What [`encode`] made, no byte more.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Bad> {
    match bytes.split_first() {
        Some((&VERSION, payload)) => {
            let (value, rest) = postcard::take_from_bytes(payload).map_err(|error| error.to_string())?;
            if rest.is_empty() { Ok(value) } else { Err(format!("{} bytes follow", rest.len())) }
        }
        Some((version, _)) => Err(format!("version {version}, this program reads {VERSION}")),
        None => Err("no bytes".to_owned()),
    }
}

// Entries

fn payload_bytes(entry: &Entry) -> (u8, Bytes) {
    match &entry.payload {
        EntryPayload::Blank => (BLANK, Bytes::new()),
        EntryPayload::Normal(command) => (COMMAND, command.0.clone()),
        EntryPayload::Membership(membership) => (MEMBERSHIP, encode(&Members::of(None, membership))),
    }
}

fn payload(kind: u8, body: Bytes) -> Result<EntryPayload<EncodedCommand, u64, ()>, Bad> {
    Ok(match kind {
        BLANK => EntryPayload::Blank,
        COMMAND => EntryPayload::Normal(EncodedCommand(body)),
        MEMBERSHIP => EntryPayload::Membership(decode_membership(&body)?),
        other => return Err(format!("an entry of unknown kind {other}")),
    })
}

pub(crate) fn decode_membership(body: &[u8]) -> Result<Membership, Bad> {
    decode::<Members>(body)?.membership()
}

/// An entry as it stands in the log under its index.
pub(crate) fn encode_entry(entry: &Entry) -> Bytes {
    let (kind, body) = payload_bytes(entry);
    let mut out = BytesMut::with_capacity(9 + body.len());
    out.put_u64_le(position(&entry.log_id).term);
    out.put_u8(kind);
    out.put_slice(&body);
    out.freeze()
}

/// The entry of an index.
pub(crate) fn decode_entry(index: u64, mut bytes: Bytes) -> Result<Entry, Bad> {
    if bytes.len() < 9 {
        return Err(format!("entry {index} is cut"));
    }
    let term = bytes.get_u64_le();
    let kind = bytes.get_u8();
    Ok(Entry { log_id: log_id(Position { term, index }), payload: payload(kind, bytes)? })
}

/// The term of an entry as it stands in the log.
pub(crate) fn entry_term(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|term| u64::from_le_bytes(*term))
}

// Votes

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VoteWire {
    pub(crate) term: u64,
    pub(crate) node: u64,
    pub(crate) committed: bool,
}

impl From<&Vote> for VoteWire {
    fn from(vote: &Vote) -> Self {
        Self { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
    }
}

impl From<VoteWire> for Vote {
    fn from(wire: VoteWire) -> Self {
        if wire.committed { Self::new_committed(wire.term, wire.node) } else { Self::new(wire.term, wire.node) }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct VoteRequestWire {
    pub(crate) vote: VoteWire,
    last: Option<Position>,
    transfer: bool,
}

impl From<&VoteRequest> for VoteRequestWire {
    fn from(request: &VoteRequest) -> Self {
        Self {
            vote: (&request.vote).into(),
            last: request.last_log_id.as_ref().map(position),
            transfer: request.leadership_transfer,
        }
    }
}

impl From<VoteRequestWire> for VoteRequest {
    fn from(wire: VoteRequestWire) -> Self {
        let mut request = Self::new(wire.vote.into(), wire.last.map(log_id));
        request.leadership_transfer = wire.transfer;
        request
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct VoteResponseWire {
    vote: VoteWire,
    granted: bool,
    last: Option<Position>,
}

impl From<&VoteResponse> for VoteResponseWire {
    fn from(response: &VoteResponse) -> Self {
        Self {
            vote: (&response.vote).into(),
            granted: response.vote_granted,
            last: response.last_log_id.as_ref().map(position),
        }
    }
}

impl From<VoteResponseWire> for VoteResponse {
    fn from(wire: VoteResponseWire) -> Self {
        Self::new(Vote::from(wire.vote), wire.last.map(log_id), wire.granted)
    }
}

/// The leader hands over to a node.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TransferWire {
    pub(crate) from: VoteWire,
    pub(crate) to: u64,
    pub(crate) last: Option<Position>,
}

// Appends

#[derive(Debug, Serialize, Deserialize)]
struct AppendHead {
    vote: VoteWire,
    prev: Option<Position>,
    committed: Option<Position>,
}

pub(crate) fn encode_append(request: &AppendRequest) -> Bytes {
    let head = encode(&AppendHead {
        vote: (&request.vote).into(),
        prev: request.prev_log_id.as_ref().map(position),
        committed: request.leader_commit.as_ref().map(position),
    });
    let entries: Vec<_> = request.entries.iter().map(|entry| (position(&entry.log_id), payload_bytes(entry))).collect();
    let size: usize = entries.iter().map(|(_, (_, body))| body.len() + 21).sum();
    let mut out = BytesMut::with_capacity(6 + head.len() + size);
    // A head has some dozens of bytes.
    out.put_u16_le(u16::try_from(head.len()).unwrap_or(u16::MAX));
    out.put_slice(&head);
    out.put_u32_le(u32::try_from(entries.len()).unwrap_or(u32::MAX));
    for (at, (kind, body)) in entries {
        out.put_u32_le(u32::try_from(body.len()).unwrap_or(u32::MAX));
        out.put_u64_le(at.term);
        out.put_u64_le(at.index);
        out.put_u8(kind);
        out.put_slice(&body);
    }
    out.freeze()
}

pub(crate) fn decode_append(mut bytes: Bytes) -> Result<AppendRequest, Bad> {
    let short = || "an append is cut".to_owned();
    let head = usize::from(bytes.try_get_u16_le().map_err(|_| short())?);
    if bytes.len() < head {
        return Err(short());
    }
    let head: AppendHead = decode(&bytes.split_to(head))?;
    let count = bytes.try_get_u32_le().map_err(|_| short())? as usize;
    if count > ENTRIES_MAX {
        return Err(format!("{count} entries, at most {ENTRIES_MAX} are allowed"));
    }
    let mut entries = Vec::with_capacity(count.min(bytes.len() / 21));
    for _ in 0..count {
        if bytes.len() < 21 {
            return Err(short());
        }
        let len = bytes.get_u32_le() as usize;
        let at = Position { term: bytes.get_u64_le(), index: bytes.get_u64_le() };
        let kind = bytes.get_u8();
        if bytes.len() < len {
            return Err(short());
        }
        entries.push(Entry { log_id: log_id(at), payload: payload(kind, bytes.split_to(len))? });
    }
    if !bytes.is_empty() {
        return Err(format!("{} bytes follow an append", bytes.len()));
    }
    // What openraft takes for granted of a request, and a peer might not keep.
    let first = head.prev.map_or(0, |prev| prev.index.saturating_add(1));
    if entries.iter().zip(first..).any(|(entry, index)| entry.log_id.index != index) {
        return Err("entries of an append do not follow each other".to_owned());
    }
    Ok(AppendRequest {
        vote: head.vote.into(),
        prev_log_id: head.prev.map(log_id),
        entries,
        leader_commit: head.committed.map(log_id),
    })
}

#[derive(Debug, Serialize, Deserialize)]
enum AppendResultWire {
    Matching(Option<Position>),
    Conflict(Position),
    HigherVote(VoteWire),
}

pub(crate) fn encode_append_result(result: &AppendResult) -> Bytes {
    encode(&match result {
        Ok(matching) => AppendResultWire::Matching(matching.as_ref().map(position)),
        Err(StreamAppendError::Conflict(at)) => AppendResultWire::Conflict(position(at)),
        Err(StreamAppendError::HigherVote(vote)) => AppendResultWire::HigherVote(vote.into()),
    })
}

pub(crate) fn decode_append_result(bytes: &[u8]) -> Result<AppendResult, Bad> {
    Ok(match decode(bytes)? {
        AppendResultWire::Matching(matching) => Ok(matching.map(log_id)),
        AppendResultWire::Conflict(at) => Err(StreamAppendError::Conflict(log_id(at))),
        AppendResultWire::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote.into())),
    })
}

/// What the receiver of a snapshot says back.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SnapshotReply {
    /// It is at work: this many blocks are in.
    Progress(u64),
    /// The snapshot is installed, or was refused for a higher vote.
    Done(VoteWire),
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn entry() -> impl Strategy<Value = (u64, u8, Vec<u8>)> {
        (0..9_u64, 0..3_u8, proptest::collection::vec(any::<u8>(), 0..40))
    }

    fn made(index: u64, term: u64, kind: u8, body: Vec<u8>) -> Entry {
        let payload = match kind {
            0 => EntryPayload::Blank,
            1 => EntryPayload::Normal(EncodedCommand(body.into())),
            _ => {
                let nodes: BTreeSet<u64> = body.into_iter().map(u64::from).chain([1]).collect();
                EntryPayload::Membership(Members { at: None, voters: vec![nodes.clone()], nodes }.membership().unwrap())
            }
        };
        Entry { log_id: log_id(Position { term, index }), payload }
    }

    proptest! {
        #[test]
        fn appends_read_back(entries in proptest::collection::vec(entry(), 0..8), prev in proptest::option::of(0..50_u64)) {
            let first = prev.map_or(0, |prev| prev + 1);
            let entries: Vec<Entry> =
                entries.into_iter().zip(first..).map(|((term, kind, body), index)| made(index, term, kind, body)).collect();
            for entry in &entries {
                prop_assert_eq!(&decode_entry(entry.log_id.index, encode_entry(entry)).unwrap(), entry);
            }
            let request = AppendRequest {
                vote: Vote::new_committed(3, 4),
                prev_log_id: prev.map(|index| log_id(Position { term: 1, index })),
                entries,
                leader_commit: None,
            };
            let read = decode_append(encode_append(&request)).unwrap();
            prop_assert_eq!(format!("{read:?}"), format!("{request:?}"));
        }

        #[test]
        fn noise_is_an_error_and_no_panic(noise in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode_append(noise.clone().into());
            let _ = decode_entry(1, noise.clone().into());
            let _ = decode_append_result(&noise);
        }
    }

    #[test]
    fn a_gap_between_entries_is_refused() {
        let request = AppendRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: None,
            entries: vec![made(0, 1, 0, vec![]), made(2, 1, 0, vec![])],
            leader_commit: None,
        };
        assert!(decode_append(encode_append(&request)).unwrap_err().contains("do not follow"));
    }
}
