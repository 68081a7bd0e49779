//! Replacing a replica's state by another's: the whole state is fetched first, then the group is stopped, its state replaced
//! as by a Raft snapshot, and the group started again by the caller. Log and vote stay as they are; what the log has behind
//! the new state is applied again from there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_stream::wrappers::ReceiverStream;

use causeway_base::{NodeId, Seq, VolumeId};

use crate::consensus::wire::{self, kind};
use crate::error::HandleError;
use crate::group::Group;
use crate::groups::Groups;
use crate::link::{LinkError, PeerRequest};
use crate::store::{DivergedMark, Position, SnapshotBlocks, SnapshotFile, StateView, StoreError, chain};
use crate::wal::WalError;

/// Deadline of the opening, and longest wait for the next block.
const STALL: Duration = Duration::from_secs(15);
/// Blocks that are read ahead of the link.
const AHEAD: usize = 4;

/// Why a state was not replaced.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// The other node does not send its state.
    #[error("{node} does not send its state")]
    Link {
        /// Which.
        node: NodeId,
        /// Why.
        #[source]
        source: LinkError,
    },
    /// The stream ended before the state was whole.
    #[error("the state of {0} ended before its end")]
    Cut(NodeId),
    /// What came does not check out, or the disk failed.
    #[error("the state store")]
    Store(#[source] StoreError),
    /// The log of this node does not go on from that state.
    #[error("the log goes on from {oldest}, the state is of {state}")]
    Purged {
        /// The first entry in the log.
        oldest: Seq,
        /// Of the state.
        state: Seq,
    },
    /// The log of this node has another entry at the state's seq.
    #[error("the log has an entry of term {log} at seq {seq}, the state one of term {state}")]
    OtherEntry {
        /// Which seq.
        seq: Seq,
        /// In the log.
        log: u64,
        /// In the state.
        state: u64,
    },
    /// The log cannot be read.
    #[error("the write-ahead log")]
    Wal(#[source] WalError),
    /// The group does not run here.
    #[error("group {0} does not run on this node")]
    NotHere(VolumeId),
}

impl Groups {
    /// Fetches the whole state of a group from another node, checks it, and makes it durable in a file beside the state.
    ///
    /// Cancel safety: dropped, what has come is thrown away.
    ///
    /// # Errors
    /// Any [`RepairError`]; nothing was changed.
    pub async fn fetch_state(&self, from: NodeId, id: VolumeId) -> Result<SnapshotFile, RepairError> {
        let group = self.get(id).ok_or(RepairError::NotHere(id))?;
        // Not together with a snapshot that the leader sends: both go to one file.
        let _one = group.receiver.receiving.lock().await;
        let request =
            PeerRequest { group: id, lineage: group.lineage, kind: kind::STATE_STREAM, payload: wire::encode(&()) };
        let link = |source| RepairError::Link { node: from, source };
        let mut blocks = self.config.link.open(from, request, stream::pending().boxed(), STALL).await.map_err(link)?;
        let store = Arc::clone(&group.store);
        let mut receiver = self.blocking.run(move || store.receive_snapshot()).await.map_err(RepairError::Store)?;
        while !receiver.is_complete() {
            let block = tokio::time::timeout(STALL, blocks.next()).await.map_err(|_| link(LinkError::Timeout))?;
            let block = block.ok_or(RepairError::Cut(from))?.map_err(link)?;
            let pushed = self.blocking.run(move || receiver.push(&block).map(|()| receiver)).await;
            receiver = pushed.map_err(RepairError::Store)?;
        }
        self.blocking.run(move || receiver.finish()).await.map_err(RepairError::Store)
    }

    /// Stops a group and replaces its state by that of a file. Start it again afterwards, whatever this came to: without
    /// success it is as it was, or the start finishes what was begun. A group that was promoted since the state was fetched
    /// is left alone.
    ///
    /// Cancel safety: as a crash.
    ///
    /// # Errors
    /// Any [`RepairError`].
    pub async fn replace_state(&self, id: VolumeId, file: SnapshotFile) -> Result<Seq, RepairError> {
        let _one = self.starting.lock().await;
        let group = self.get(id).ok_or(RepairError::NotHere(id))?;
        // Of another line: its store is not the one that the file was received for.
        if file.header.group != group.store.id() {
            let fetched_for = self.blocking.run(move || group.store.discard(&file));
            fetched_for.await;
            return Err(RepairError::NotHere(id));
        }
        self.end(&group).await;
        // What still works for the group that was must not write any more.
        let era = group.store.enter();
        let log = group.log.clone();
        let applied = file.header.applied;
        let work = move || {
            check_log(&log, applied).inspect_err(|_| group.store.discard(&file))?;
            group.store.install_in(era, &file).map_err(RepairError::Store)
        };
        self.blocking.run(work).await?;
        Ok(Seq(applied.index))
    }

    /// Sends the whole state of a group to another member of it.
    pub(crate) async fn send_state(
        &self,
        to: NodeId,
        group: Arc<Group>,
    ) -> Result<BoxStream<'static, Result<Bytes, HandleError>>, HandleError> {
        let id = group.id();
        if !group.members().contains(&to) {
            return Err(HandleError::UnknownGroup(id));
        }
        let refused = |error: StoreError| HandleError::Bad(chain(&error));
        let place = Arc::clone(&self.comparing).try_acquire_owned();
        let place = place.map_err(|_| HandleError::Bad("the node is busy with other comparisons".to_owned()))?;
        let reader = Arc::clone(&group);
        let view = self.blocking.run(move || reader.view()).await.map_err(refused)?;
        tracing::info!(group = %id, %to, seq = %view.seq(), "sends its state for a repair");
        let (sender, receiver) = mpsc::channel(AHEAD);
        let blocks = move || {
            let _place = place;
            send_blocks(&view, &sender);
        };
        // Ends by itself when the receiver goes.
        let blocking = self.blocking;
        tokio::spawn(async move { blocking.run(blocks).await });
        Ok(ReceiverStream::new(receiver).boxed())
    }
}

fn send_blocks(view: &StateView, sender: &mpsc::Sender<Result<Bytes, HandleError>>) {
    let failed = |error: &dyn std::error::Error| Err(HandleError::Bad(chain(error)));
    let blocks = match SnapshotBlocks::of(view) {
        Ok(blocks) => blocks,
        Err(error) => {
            // Nobody listens any more if this fails.
            let _ = send(sender, failed(&error));
            return;
        }
    };
    for block in blocks.into_iter().flatten() {
        let block = block.or_else(|error| failed(&error));
        let last = block.is_err();
        if !send(sender, block) || last {
            return;
        }
    }
}

/// Hands a block over; `false` if nobody takes it. Whoever asked for a state and does not read it holds a place, a thread
/// and a view here, so it is not waited for longer than for a link.
fn send(sender: &mpsc::Sender<Result<Bytes, HandleError>>, mut block: Result<Bytes, HandleError>) -> bool {
    let started = std::time::Instant::now();
    loop {
        match sender.try_send(block) {
            Ok(()) => return true,
            Err(TrySendError::Closed(_)) => return false,
            Err(TrySendError::Full(back)) if started.elapsed() < STALL => block = back,
            Err(TrySendError::Full(_)) => return false,
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// That the log goes on from a state, or ends before it.
fn check_log(log: &crate::wal::GroupLog, state: Position) -> Result<(), RepairError> {
    let range = log.range();
    if range.end <= state.index {
        return Ok(());
    }
    let purged = log.purged().map(|(index, name)| (index, wire::decode::<Position>(&name)));
    let in_log = match purged {
        Some((index, _)) if index > state.index => {
            return Err(RepairError::Purged { oldest: Seq(range.start), state: Seq(state.index) });
        }
        Some((index, Ok(position))) if index == state.index => Some(position.term),
        _ => {
            let read = log.read(state.index..state.index + 1, usize::MAX).map_err(RepairError::Wal)?;
            read.first().and_then(|(_, bytes)| wire::entry_term(bytes))
        }
    };
    match in_log {
        Some(term) if term == state.term => Ok(()),
        // Not even its first entries: nothing was ever applied here.
        None if range.start > state.index => {
            Err(RepairError::Purged { oldest: Seq(range.start), state: Seq(state.index) })
        }
        term => {
            Err(RepairError::OtherEntry { seq: Seq(state.index), log: term.unwrap_or_default(), state: state.term })
        }
    }
}

impl Group {
    /// Marks the replica here as wrong, durably: it is not read any more, and hands leadership over. `false` if it is of
    /// another generation than was judged: nothing is known of that one.
    ///
    /// # Errors
    /// The store failed; the mark holds until the node ends.
    pub fn mark_diverged(&self, generation: u64, mark: DivergedMark) -> Result<bool, StoreError> {
        self.store.mark_diverged(generation, mark)
    }

    /// Takes the mark of a wrong replica back; what its records come to. Blocks the thread. See [`GroupStore::trust`].
    ///
    /// # Errors
    /// As there.
    ///
    /// [`GroupStore::trust`]: crate::store::GroupStore::trust
    pub fn trust(&self, at: causeway_base::Timestamp) -> Result<crate::store::AddedUp, StoreError> {
        self.store.trust(at)
    }

    /// Whether a person took its mark back, and it was not the same as all others since.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.store.trusted().is_some()
    }

    /// It is the same as all others: the next difference is judged like any.
    ///
    /// # Errors
    /// The store failed; try again.
    pub fn end_trust(&self) -> Result<(), StoreError> {
        self.store.end_trust()
    }

    /// Whether the replica here is marked as wrong.
    #[must_use]
    pub fn diverged(&self) -> Option<DivergedMark> {
        self.store.diverged()
    }

    /// Another number than before: what was read of the replica here until then may have been wrong, for it was marked or
    /// its state was replaced. Zero if neither was so since before the node started.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.store.generation()
    }

    /// The newest state as it is on the disk now, also of a replica that is marked as wrong: to check it, not to serve it.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub fn unsound_view(&self) -> Result<StateView, StoreError> {
        self.store.fresh_view()
    }
}
