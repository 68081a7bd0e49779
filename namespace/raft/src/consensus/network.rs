//! openraft's network over the links: what a leader or candidate sends.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use openraft::errors::{NetworkError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential};
use openraft::raft::{SnapshotResponse, TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use causeway_base::{NodeId, VolumeId};
use causeway_namespace_core::lineage::Lineage;

use crate::link::{Incoming, LinkError, PeerLink, PeerRequest};
use crate::store::{SnapshotBlocks, StateView, chain};
use crate::together::Together;

use super::blocking::Blocking;
use super::state_machine::SnapshotData;
use super::types::{
    AppendRequest, AppendResult, RpcError, Snapshot, TypeConfig, Vote, VoteRequest, VoteResponse, position,
};
use super::wire::{self, SnapshotReply, TransferWire, VoteRequestWire, VoteResponseWire, VoteWire, kind};

/// Appends that may be unanswered on a stream.
const INFLIGHT_MAX: usize = 64;
/// Bytes of appends that may be unanswered on a stream: what one follower may cost a leader in memory.
const INFLIGHT_BYTES_MAX: usize = 16 << 20;
/// Blocks of a snapshot read ahead of the link.
const BLOCKS_AHEAD: usize = 4;
/// A peer that takes no part of a snapshot for this long has failed; installing reports progress too.
const SNAPSHOT_STALL: Duration = Duration::from_secs(30);

/// What the networks of all groups of a node share.
#[derive(Clone, Debug)]
pub(crate) struct NetworkFactory {
    pub(crate) link: Arc<dyn PeerLink>,
    /// The way of heartbeats and votes.
    pub(crate) together: Together,
    pub(crate) group: VolumeId,
    pub(crate) node: NodeId,
    pub(crate) blocking: Blocking,
    /// How long a stream of appends may owe an answer.
    pub(crate) stall: Duration,
    /// The line that the group is of.
    pub(crate) lineage: Lineage,
    /// What is heard of greater ones goes there.
    pub(crate) heard: mpsc::Sender<Heard>,
    /// Set at once when one is heard of: nothing more is acknowledged.
    pub(crate) fenced: Arc<AtomicBool>,
}

/// A peer follows a greater line of a group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    pub(crate) group: VolumeId,
    pub(crate) lineage: Lineage,
    pub(crate) from: NodeId,
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: u64, (): &()) -> Network {
        Network { shared: self.clone(), target: NodeId(target), pipelined: true }
    }

    async fn new_heartbeat_client(&mut self, target: u64, (): &()) -> Network {
        Network { shared: self.clone(), target: NodeId(target), pipelined: false }
    }
}

/// The way to one peer.
#[derive(Debug)]
pub(crate) struct Network {
    shared: NetworkFactory,
    target: NodeId,
    pipelined: bool,
}

impl Network {
    fn request(&self, kind: u8, payload: Bytes) -> PeerRequest {
        PeerRequest { group: self.shared.group, lineage: self.shared.lineage, kind, payload }
    }

    async fn call(&self, kind: u8, payload: Bytes, what: RPCTypes, option: &RPCOption) -> Result<Bytes, RpcError> {
        let deadline = option.soft_ttl();
        let called = self.shared.together.call(self.target, self.request(kind, payload), deadline);
        // The link keeps the deadline; this is for one that does not.
        match tokio::time::timeout(option.hard_ttl(), called).await {
            Ok(answer) => answer.map_err(|error| self.rpc_error(&error, what, deadline)),
            Err(_) => Err(self.timeout(what, deadline).into()),
        }
    }

    fn timeout(&self, action: RPCTypes, timeout: Duration) -> Timeout<TypeConfig> {
        Timeout { action, id: self.shared.node.0, target: self.target.0, timeout }
    }

    fn rpc_error(&self, error: &LinkError, action: RPCTypes, deadline: Duration) -> RpcError {
        match error {
            LinkError::Timeout => self.timeout(action, deadline).into(),
            LinkError::Unreachable(_) => Unreachable::new(error).into(),
            LinkError::Refused(_) => Unreachable::new(error).into(),
            LinkError::Fenced(lineage) => {
                if *lineage > self.shared.lineage {
                    self.shared.fenced.store(true, Ordering::SeqCst);
                    let heard = Heard { group: self.shared.group, lineage: *lineage, from: self.target };
                    // Full: others say the same, and the next message hears it again.
                    let _ = self.shared.heard.try_send(heard);
                }
                Unreachable::new(error).into()
            }
        }
    }
}

/// An answer that does not decode.
fn bad_answer(reason: &str) -> RpcError {
    NetworkError::from_string(format!("bad answer: {reason}")).into()
}

/// An unanswered append; its permits bound how many there are.
#[derive(Debug)]
struct Unanswered {
    sent: Instant,
    _room: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

#[derive(Clone, Debug, Default)]
struct Inflight(Arc<Mutex<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    unanswered: VecDeque<Unanswered>,
    /// openraft has no more to send on this stream.
    ended: bool,
}

impl Inflight {
    fn with<T>(&self, work: impl FnOnce(&mut VecDeque<Unanswered>) -> T) -> T {
        work(&mut self.queue().unanswered)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether everything was sent and answered.
    fn is_complete(&self) -> bool {
        let queue = self.queue();
        queue.ended && queue.unanswered.is_empty()
    }
}

/// Appends as they go out: at most so many and so large before answers come.
fn outgoing<S>(input: S, inflight: Inflight) -> BoxStream<'static, Bytes>
where
    S: Stream<Item = AppendRequest> + Send + Unpin + 'static,
{
    let room = (Arc::new(Semaphore::new(INFLIGHT_MAX)), Arc::new(Semaphore::new(INFLIGHT_BYTES_MAX)));
    stream::unfold((input, inflight, room), |(mut input, inflight, room)| async move {
        let Some(append) = input.next().await else {
            inflight.queue().ended = true;
            return None;
        };
        let bytes = wire::encode_append(&append);
        let size = u32::try_from(bytes.len().min(INFLIGHT_BYTES_MAX)).unwrap_or(u32::MAX);
        let one = Arc::clone(&room.0).acquire_owned().await.ok()?;
        let size = Arc::clone(&room.1).acquire_many_owned(size).await.ok()?;
        inflight.with(|queue| queue.push_back(Unanswered { sent: Instant::now(), _room: (one, size) }));
        Some((bytes, (input, inflight, room)))
    })
    .boxed()
}

impl Network {
    /// The next answer; `None` when all were sent and answered; an error if one has been owed for too long.
    async fn answer(&self, incoming: &mut Incoming, inflight: &Inflight) -> Option<Result<AppendResult, RpcError>> {
        match self.next_answer(incoming, inflight).await {
            Ok(answer) => answer.map(Ok),
            Err(error) => Some(Err(error)),
        }
    }

    async fn next_answer(
        &self,
        incoming: &mut Incoming,
        inflight: &Inflight,
    ) -> Result<Option<AppendResult>, RpcError> {
        let stall = self.shared.stall;
        let answer = loop {
            match tokio::time::timeout(stall / 4, incoming.next()).await {
                Ok(Some(answer)) => {
                    break answer.map_err(|error| self.rpc_error(&error, RPCTypes::AppendEntries, stall))?;
                }
                Ok(None) if inflight.is_complete() => return Ok(None),
                Ok(None) => return Err(Unreachable::from_string("the stream of appends ended").into()),
                Err(_) => {
                    if inflight.with(|queue| queue.front().is_some_and(|first| first.sent.elapsed() > stall)) {
                        return Err(self.timeout(RPCTypes::AppendEntries, stall).into());
                    }
                }
            }
        };
        if inflight.with(VecDeque::pop_front).is_none() {
            return Err(bad_answer("more answers than appends"));
        }
        wire::decode_append_result(&answer).map(Some).map_err(|reason| bad_answer(&reason))
    }
}

impl RaftNetworkV2<TypeConfig> for Network {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendRequest,
        option: RPCOption,
    ) -> Result<openraft::raft::AppendEntriesResponse<TypeConfig>, RpcError> {
        let answer = self.call(kind::APPEND, wire::encode_append(&rpc), RPCTypes::AppendEntries, &option).await?;
        wire::decode_append_result(&answer).map(Into::into).map_err(|reason| bad_answer(&reason))
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<AppendResult, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendRequest> + Send + Unpin + 'static,
    {
        if !self.pipelined {
            return stream_append_sequential(self, input, option);
        }
        Box::pin(async move {
            // openraft waits out its backoff in the stream of requests: a stream that is opened before the first of them
            // comes would be tried again at once, thousands of times a second, while a peer is away.
            let mut input = input;
            let Some(first) = input.next().await else { return Ok(stream::empty().boxed()) };
            let input = stream::iter([first]).chain(input);
            let inflight = Inflight::default();
            let request = self.request(kind::APPEND_STREAM, Bytes::new());
            let messages = outgoing(input, inflight.clone());
            let deadline = self.shared.stall;
            let opened = self.shared.link.open(self.target, request, messages, deadline).await;
            let incoming = opened.map_err(|error| self.rpc_error(&error, RPCTypes::AppendEntries, deadline))?;
            let this: &'s Self = self;
            let answers = stream::unfold(Some((incoming, inflight)), move |state| async move {
                let (mut incoming, inflight) = state?;
                let answer = this.answer(&mut incoming, &inflight).await?;
                let goes_on = matches!(answer, Ok(Ok(_)));
                Some((answer, goes_on.then_some((incoming, inflight))))
            });
            Ok(answers.boxed())
        })
    }

    async fn vote(&mut self, rpc: VoteRequest, option: RPCOption) -> Result<VoteResponse, RpcError> {
        let payload = wire::encode(&VoteRequestWire::from(&rpc));
        let answer = self.call(kind::VOTE, payload, RPCTypes::Vote, &option).await?;
        wire::decode::<VoteResponseWire>(&answer).map(Into::into).map_err(|reason| bad_answer(&reason))
    }

    async fn pre_vote(&mut self, rpc: VoteRequest, option: RPCOption) -> Result<VoteResponse, RpcError> {
        let payload = wire::encode(&VoteRequestWire::from(&rpc));
        let answer = self.call(kind::PRE_VOTE, payload, RPCTypes::Vote, &option).await?;
        wire::decode::<VoteResponseWire>(&answer).map(Into::into).map_err(|reason| bad_answer(&reason))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = self.send_snapshot(vote, snapshot) => sent.map_err(streaming_error),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let payload = wire::encode(&TransferWire {
            from: req.from_leader().into(),
            to: *req.to_node_id(),
            last: req.last_log_id().map(position),
        });
        let answer = self.call(kind::TRANSFER, payload, RPCTypes::TransferLeader, &option).await?;
        let taken: Option<VoteWire> = wire::decode(&answer).map_err(|reason| bad_answer(&reason))?;
        Ok(match taken {
            None => Ok(()),
            Some(actual) => {
                Err(TransferLeaderError::VoteChanged { expected: *req.from_leader(), actual: actual.into() })
            }
        })
    }
}

fn streaming_error(error: RpcError) -> StreamingError<TypeConfig> {
    match error {
        RpcError::Timeout(error) => error.into(),
        RpcError::Unreachable(error) => error.into(),
        RpcError::Network(error) => error.into(),
        RpcError::RemoteError(error) => NetworkError::new(&error).into(),
    }
}

impl Network {
    /// Streams the blocks; the deadline is on progress, so that a large state may take its time.
    async fn send_snapshot(&self, vote: Vote, snapshot: Snapshot) -> Result<SnapshotResponse<TypeConfig>, RpcError> {
        let SnapshotData::View(view) = snapshot.snapshot else {
            return Err(bad_answer("a received snapshot is not sent on"));
        };
        if view.is_diverged() {
            return Err(bad_answer("the replica here is known to be wrong: its state is not sent"));
        }
        let failed = Arc::new(Mutex::new(None));
        let blocks = self.blocks(&view, Arc::clone(&failed));
        let request = self.request(kind::SNAPSHOT_STREAM, wire::encode(&VoteWire::from(&vote)));
        let opened = self.shared.link.open(self.target, request, blocks, SNAPSHOT_STALL);
        let mut replies =
            opened.await.map_err(|error| self.rpc_error(&error, RPCTypes::InstallSnapshot, SNAPSHOT_STALL))?;
        loop {
            let reply = tokio::time::timeout(SNAPSHOT_STALL, replies.next()).await;
            let reply = reply.map_err(|_| self.timeout(RPCTypes::InstallSnapshot, SNAPSHOT_STALL))?;
            let Some(reply) = reply else {
                let reason = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
                let reason = reason.unwrap_or_else(|| "the stream of the snapshot ended".to_owned());
                return Err(Unreachable::from_string(reason).into());
            };
            let reply = reply.map_err(|error| self.rpc_error(&error, RPCTypes::InstallSnapshot, SNAPSHOT_STALL))?;
            match wire::decode(&reply).map_err(|reason| bad_answer(&reason))? {
                SnapshotReply::Progress(blocks) => tracing::trace!(blocks, "snapshot"),
                SnapshotReply::Done(vote) => return Ok(SnapshotResponse::new(vote.into())),
            }
        }
    }

    /// The blocks of a snapshot; what goes wrong is left in `failed`.
    fn blocks(&self, view: &StateView, failed: Arc<Mutex<Option<String>>>) -> BoxStream<'static, Bytes> {
        let keep = move |error: String| *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        let blocks = SnapshotBlocks::of(view).map_err(|error| keep(chain(&error))).ok().flatten();
        let blocks =
            blocks.into_iter().flatten().map_while(move |block| block.map_err(|error| keep(chain(&error))).ok());
        if self.shared.blocking == Blocking::Inline {
            return stream::iter(blocks).boxed();
        }
        let (sender, receiver) = mpsc::channel(BLOCKS_AHEAD);
        // Ends by itself when the receiver goes.
        tokio::task::spawn_blocking(move || {
            for block in blocks {
                if sender.blocking_send(block).is_err() {
                    return;
                }
            }
        });
        ReceiverStream::new(receiver).boxed()
    }
}
