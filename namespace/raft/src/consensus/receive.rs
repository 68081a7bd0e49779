//! What a peer receives: the other end of [`super::network`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use openraft::raft::TransferLeaderRequest;
use openraft_rt::deterministic_rng::DeterministicRng;
use openraft_rt_tokio::TokioRuntime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use causeway_base::{NodeId, VolumeId};

use crate::error::HandleError;
use crate::rest::Rest;
use crate::store::{GroupStore, SnapshotFile, StoreError, chain};
use crate::wal::{Wal, WalState};

use super::blocking::Blocking;
use super::state_machine::{SnapshotData, stored_membership};
use super::types::{AppendRequest, Raft, Snapshot, SnapshotMeta, Vote, VoteRequest, log_id};
use super::wire::{self, SnapshotReply, TransferWire, VoteRequestWire, VoteResponseWire, VoteWire, kind};

/// Answers that may wait for the link.
const ANSWERS: usize = 16;
/// How often the installation of a snapshot shows that it is alive.
const PROGRESS: Duration = Duration::from_secs(2);

/// The answers on a stream.
pub(crate) type Answers = BoxStream<'static, Result<Bytes, HandleError>>;

/// The receiving side of one group.
#[derive(Clone, Debug)]
pub(crate) struct Receiver {
    pub(crate) group: VolumeId,
    pub(crate) raft: Raft,
    pub(crate) store: Arc<GroupStore>,
    pub(crate) wal: Arc<Wal>,
    pub(crate) blocking: Blocking,
    /// One snapshot at a time.
    pub(crate) receiving: Arc<tokio::sync::Mutex<()>>,
    pub(crate) seed: u64,
    /// Woken by whatever comes.
    pub(crate) rest: Arc<Rest>,
    /// A greater line of the group was heard of: nothing is taken any more.
    pub(crate) fenced: Arc<AtomicBool>,
}

fn bad(reason: wire::Bad) -> HandleError {
    HandleError::Bad(reason)
}

/// A peer speaks for itself only.
fn check_sender(from: NodeId, claimed: u64) -> Result<(), HandleError> {
    if claimed == from.0 { Ok(()) } else { Err(HandleError::Impostor { from, claimed: NodeId(claimed) }) }
}

fn check_fence(fenced: &AtomicBool) -> Result<(), HandleError> {
    if fenced.load(Ordering::SeqCst) {
        return Err(HandleError::Stopped("the group was promoted elsewhere".to_owned()));
    }
    Ok(())
}

impl Receiver {
    fn wake(&self) {
        if self.rest.is_resting() {
            self.rest.rouse();
        }
    }

    fn stopped(&self, error: &dyn std::error::Error) -> HandleError {
        HandleError::Stopped(chain(error))
    }

    fn check_fence(&self) -> Result<(), HandleError> {
        check_fence(&self.fenced)
    }

    pub(crate) async fn handle(&self, from: NodeId, kind: u8, payload: Bytes) -> Result<Bytes, HandleError> {
        self.check_fence()?;
        self.wake();
        let answer = match kind {
            kind::APPEND => self.append(from, payload).await,
            kind::VOTE | kind::PRE_VOTE => self.vote(from, kind, &payload).await,
            kind::TRANSFER => self.transfer(from, &payload).await,
            other => Err(HandleError::UnknownKind(other)),
        };
        // The line may have ended meanwhile: then nothing of it is acknowledged.
        self.check_fence()?;
        answer
    }

    fn check_append(&self, from: NodeId, request: AppendRequest) -> Result<AppendRequest, HandleError> {
        check_sender(from, request.vote.leader_id.voted_for)?;
        self.check_fence()?;
        // At the door: the log refuses what does not fit, and openraft stops for ever at a refused write.
        if !request.entries.is_empty() && self.wal.state() == WalState::Full {
            return Err(HandleError::Full);
        }
        Ok(request)
    }

    async fn append(&self, from: NodeId, payload: Bytes) -> Result<Bytes, HandleError> {
        let request = self.check_append(from, wire::decode_append(payload).map_err(bad)?)?;
        let prev = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(prev);
        let response = self.raft.append_entries(request).await.map_err(|error| self.stopped(&error))?;
        // Only a named previous entry can conflict.
        if response.is_conflict() && prev.is_none() {
            return Err(HandleError::Bad("a conflict at the log's start".to_owned()));
        }
        Ok(wire::encode_append_result(&response.into_stream_result(prev, last)))
    }

    async fn vote(&self, from: NodeId, kind: u8, payload: &[u8]) -> Result<Bytes, HandleError> {
        let request: VoteRequestWire = wire::decode(payload).map_err(bad)?;
        check_sender(from, request.vote.node)?;
        let request = VoteRequest::from(request);
        let response =
            if kind == kind::VOTE { self.raft.vote(request).await } else { self.raft.pre_vote(request).await };
        let response = response.map_err(|error| self.stopped(&error))?;
        Ok(wire::encode(&VoteResponseWire::from(&response)))
    }

    async fn transfer(&self, from: NodeId, payload: &[u8]) -> Result<Bytes, HandleError> {
        let request: TransferWire = wire::decode(payload).map_err(bad)?;
        check_sender(from, request.from.node)?;
        let request = TransferLeaderRequest::new(request.from.into(), request.to, request.last.map(log_id));
        let response = self.raft.handle_transfer_leader(request).await.map_err(|error| self.stopped(&error))?;
        let refused = match response {
            Ok(()) => None,
            Err(_) => {
                let vote = self.raft.with_raft_state(|state| *state.vote_ref()).await;
                Some(VoteWire::from(&vote.map_err(|error| self.stopped(&error))?))
            }
        };
        Ok(wire::encode(&refused))
    }

    pub(crate) async fn handle_stream(
        &self,
        from: NodeId,
        kind: u8,
        payload: Bytes,
        incoming: BoxStream<'static, Bytes>,
    ) -> Result<Answers, HandleError> {
        self.check_fence()?;
        self.wake();
        let answers = match kind {
            kind::APPEND_STREAM => self.append_stream(from, incoming),
            kind::SNAPSHOT_STREAM => self.snapshot_stream(from, &payload, incoming).await?,
            other => return Err(HandleError::UnknownKind(other)),
        };
        // No more than that: a peer that is gone may keep the stream, and the group's store is not to be held by it.
        let fenced = Arc::clone(&self.fenced);
        Ok(answers.map(move |answer| answer.and_then(|answer| check_fence(&fenced).map(|()| answer))).boxed())
    }

    /// Appends in, answers out, in order; ends after the first that cannot be taken.
    fn append_stream(&self, from: NodeId, incoming: BoxStream<'static, Bytes>) -> Answers {
        let this = self.clone();
        let (failed, mut failure) = tokio::sync::oneshot::channel();
        let requests = futures::stream::unfold((incoming, Some(failed)), move |(mut incoming, mut failed)| {
            let this = this.clone();
            async move {
                let payload = incoming.next().await?;
                this.wake();
                let request = wire::decode_append(payload).map_err(bad);
                match request.and_then(|request| this.check_append(from, request)) {
                    Ok(request) => Some((request, (incoming, failed))),
                    Err(error) => {
                        // The stream of answers says it after those of the appends before.
                        failed.take().map(|failed| failed.send(error));
                        None
                    }
                }
            }
        });
        let (sender, answers) = mpsc::channel(ANSWERS);
        let raft = self.raft.clone();
        // Ends with the stream: owned by it through `sender`. openraft spawns a task too; its randomness comes from the scope.
        tokio::spawn(DeterministicRng::<TokioRuntime>::scope(self.seed, async move {
            let mut results = std::pin::pin!(raft.stream_append(requests));
            loop {
                let answer = tokio::select! {
                    answer = results.next() => answer,
                    () = sender.closed() => return,
                };
                let answer = match answer {
                    Some(Ok(result)) => Ok(wire::encode_append_result(&result)),
                    Some(Err(error)) => Err(HandleError::Stopped(chain(&error))),
                    None => break,
                };
                if sender.send(answer).await.is_err() {
                    return;
                }
            }
            // It was told before the appends ended. Where these go on and the group has stopped, nothing will be: the peer may send
            // nothing for long, and its connection would keep what the node has.
            if let Ok(error) = failure.try_recv() {
                // Nobody listens any more if this fails.
                let _ = sender.send(Err(error)).await;
            }
        }));
        ReceiverStream::new(answers).boxed()
    }

    async fn snapshot_stream(
        &self,
        from: NodeId,
        payload: &[u8],
        incoming: BoxStream<'static, Bytes>,
    ) -> Result<Answers, HandleError> {
        let vote: VoteWire = wire::decode(payload).map_err(bad)?;
        check_sender(from, vote.node)?;
        let (sender, answers) = mpsc::channel(ANSWERS);
        let this = self.clone();
        // Ends with the stream: owned by it through `sender`.
        tokio::spawn(async move {
            let work = this.receive_snapshot(vote.into(), incoming, &sender);
            let outcome = tokio::select! {
                done = work => done,
                () = sender.closed() => return,
            };
            let last = outcome.map(|vote| wire::encode(&SnapshotReply::Done((&vote).into())));
            if let Err(error) = &last {
                tracing::warn!(group = %this.group, %error, "a snapshot was not installed");
            }
            // Nobody listens any more if this fails.
            let _ = sender.send(last).await;
        });
        Ok(ReceiverStream::new(answers).boxed())
    }

    async fn receive_snapshot(
        &self,
        vote: Vote,
        incoming: BoxStream<'static, Bytes>,
        answers: &mpsc::Sender<Result<Bytes, HandleError>>,
    ) -> Result<Vote, HandleError> {
        let Ok(_one) = self.receiving.try_lock() else {
            return Err(HandleError::Bad("another snapshot is being received".to_owned()));
        };
        let current = self.raft.with_raft_state(|state| *state.vote_ref()).await;
        let current = current.map_err(|error| self.stopped(&error))?;
        if current > vote {
            return Ok(current);
        }
        self.check_fence()?;
        let file = self.write_file(incoming, answers).await?;
        // What is here may be what another line begins with: nothing replaces it any more.
        if let Err(error) = self.check_fence() {
            let store = Arc::clone(&self.store);
            self.blocking.run(move || store.discard(&file)).await;
            return Err(error);
        }
        let stored = stored_membership(&file.header.membership).map_err(|error| HandleError::Bad(error.to_string()))?;
        let meta = SnapshotMeta { last_log_id: Some(log_id(file.header.applied)), last_membership: stored };
        tracing::info!(group = %self.group, seq = file.header.applied.index, "installing a snapshot");
        let snapshot = Snapshot { meta, snapshot: SnapshotData::File(file) };
        let installed = self.raft.install_full_snapshot(vote, snapshot);
        tokio::pin!(installed);
        loop {
            tokio::select! {
                done = &mut installed => return Ok(done.map_err(|error| self.stopped(&error))?.vote),
                () = tokio::time::sleep(PROGRESS) => {
                    let _ = answers.try_send(Ok(wire::encode(&SnapshotReply::Progress(0))));
                }
            }
        }
    }

    async fn write_file(
        &self,
        mut incoming: BoxStream<'static, Bytes>,
        answers: &mpsc::Sender<Result<Bytes, HandleError>>,
    ) -> Result<SnapshotFile, HandleError> {
        let failed =
            |error: StoreError| if error.is_full() { HandleError::Full } else { HandleError::Bad(chain(&error)) };
        let store = Arc::clone(&self.store);
        let mut receiver = self.blocking.run(move || store.receive_snapshot()).await.map_err(failed)?;
        let mut blocks = 0_u64;
        while !receiver.is_complete() {
            let Some(block) = incoming.next().await else {
                return Err(HandleError::Bad("the snapshot ended before its end".to_owned()));
            };
            let pushed = self.blocking.run(move || receiver.push(&block).map(|()| receiver)).await;
            receiver = pushed.map_err(failed)?;
            blocks += 1;
            // A reader that lags needs no more than the newest.
            let _ = answers.try_send(Ok(wire::encode(&SnapshotReply::Progress(blocks))));
        }
        self.blocking.run(move || receiver.finish()).await.map_err(failed)
    }
}
