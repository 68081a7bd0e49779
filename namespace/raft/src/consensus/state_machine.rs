//! openraft's state machine over a group's state.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, RaftSnapshotBuilder};

use crate::store::{self, Era, GroupStore, SnapshotBlocks, SnapshotFile, StateStore, StateView, StoreError, chain};

use super::blocking::Blocking;
use super::types::{LogId, Members, Outcomes, Snapshot, SnapshotMeta, StoredMembership, TypeConfig, log_id, position};
use super::wire;

/// Most entries applied in one batch of the store.
const APPLY_MAX: usize = 256;
/// So few entries are applied where they come.
const APPLY_HERE_MAX: usize = 4;
/// How long a full disk is waited for between two tries.
const FULL_RETRY: Duration = Duration::from_millis(500);

/// A snapshot: here to be sent, or received and to be installed.
#[derive(Debug)]
pub(crate) enum SnapshotData {
    /// Of this node's state.
    View(StateView),
    /// In a file.
    File(SnapshotFile),
}

/// A group's state, as openraft sees it.
#[derive(Clone, Debug)]
pub(crate) struct StateMachine {
    states: Arc<StateStore>,
    group: Arc<GroupStore>,
    era: Era,
    blocking: Blocking,
}

impl StateMachine {
    /// Whatever applied to the state before is out from now on.
    pub(crate) fn new(states: Arc<StateStore>, group: Arc<GroupStore>, blocking: Blocking) -> Self {
        let era = group.enter();
        Self { states, group, era, blocking }
    }

    /// Applies, however long the disk is full: the entries are committed and may not be lost.
    async fn apply_all(&self, entries: Vec<store::Entry>) -> io::Result<Vec<Outcomes>> {
        let entries = Arc::new(entries);
        let first = entries.first().map_or(0, |entry| entry.position.index);
        let era = self.era;
        let mut outcomes = Vec::with_capacity(entries.len());
        loop {
            let (group, work) = (Arc::clone(&self.group), Arc::clone(&entries));
            let done = outcomes.len();
            let apply = move || group.apply_in(era, &work[done..]);
            let applied = match entries.len() {
                ..=APPLY_HERE_MAX => self.blocking.run_short(apply).await,
                _ => self.blocking.run(apply).await,
            };
            match applied {
                Ok(applied) => {
                    outcomes.extend(applied.into_iter().map(Outcomes));
                    if outcomes.len() == entries.len() {
                        return Ok(outcomes);
                    }
                }
                Err(error) if error.is_full() => {
                    tracing::error!(group = %self.group.id(), first, "the disk is full: applying waits for space");
                    tokio::time::sleep(FULL_RETRY).await;
                }
                Err(error) => return Err(io_error(&error)),
            }
        }
    }

    async fn view(&self) -> io::Result<StateView> {
        let group = Arc::clone(&self.group);
        self.blocking.run(move || group.view()).await.map_err(|error| io_error(&error))
    }

    /// The newest state; everything in it is durable, so that the log may give it up.
    async fn snapshot(&self) -> io::Result<Snapshot> {
        let view = self.view().await?;
        let states = Arc::clone(&self.states);
        self.blocking.run(move || states.persist()).await.map_err(|error| io_error(&error))?;
        let meta = view.meta();
        let last_membership = stored_membership(&meta.membership)?;
        let meta = SnapshotMeta { last_log_id: meta.applied.map(log_id), last_membership };
        Ok(Snapshot { meta, snapshot: SnapshotData::View(view) })
    }
}

fn io_error(error: &(impl std::error::Error + 'static)) -> io::Error {
    io::Error::other(chain(error))
}

/// Members from the form in which the store keeps them.
pub(crate) fn stored_membership(bytes: &[u8]) -> io::Result<StoredMembership> {
    if bytes.is_empty() {
        return Ok(StoredMembership::default());
    }
    let members: Result<StoredMembership, String> = wire::decode::<Members>(bytes).and_then(|members| members.stored());
    members.map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, format!("stored membership: {reason}")))
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let meta = self.group.meta();
        Ok((meta.applied.map(log_id), stored_membership(&meta.membership)?))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        let mut chunks = entries.ready_chunks(APPLY_MAX);
        while let Some(chunk) = chunks.next().await {
            let mut batch = Vec::with_capacity(chunk.len());
            let mut responders = Vec::with_capacity(chunk.len());
            for item in chunk {
                let (entry, responder) = item?;
                let payload = match entry.payload {
                    EntryPayload::Blank => store::Payload::Blank,
                    EntryPayload::Normal(command) => store::Payload::Command(command.0),
                    EntryPayload::Membership(membership) => {
                        store::Payload::Membership(wire::encode(&Members::of(Some(&entry.log_id), &membership)))
                    }
                };
                batch.push(store::Entry { position: position(&entry.log_id), payload });
                responders.push(responder);
            }
            let outcomes = self.apply_all(batch).await?;
            for (responder, outcomes) in responders.into_iter().zip(outcomes) {
                if let Some(responder) = responder {
                    responder.send(outcomes);
                }
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> io::Result<()> {
        let group = Arc::clone(&self.group);
        let era = self.era;
        let expected = meta.last_log_id.as_ref().map(position);
        let install = move || -> Result<(), StoreError> {
            let file = match snapshot {
                SnapshotData::File(file) => file,
                SnapshotData::View(view) => {
                    let mut receiver = group.receive_snapshot()?;
                    let blocks = SnapshotBlocks::of(&view);
                    let blocks = blocks.map_err(|source| StoreError::Read { group: group.id(), source })?;
                    for block in blocks.into_iter().flatten() {
                        receiver.push(&block?)?;
                    }
                    receiver.finish()?
                }
            };
            if Some(file.header.applied) != expected {
                let reason = format!("it is of {:?}, {expected:?} was announced", file.header.applied);
                return Err(StoreError::Snapshot { group: group.id(), reason });
            }
            group.install_in(era, &file)
        };
        self.blocking.run(install).await.map_err(|error| io_error(&error))
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(Some(self.snapshot().await?).filter(|snapshot| snapshot.meta.last_log_id.is_some()))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        self.snapshot().await
    }
}
