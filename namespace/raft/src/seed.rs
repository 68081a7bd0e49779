//! Beginning a group at a seq with given records: what a restore does on each voter before the group is started.

use std::collections::BTreeSet;
use std::sync::Arc;

use causeway_base::{NodeId, Seq, Timestamp, VolumeId};
use causeway_namespace_core::digest::Digest;
use causeway_namespace_core::records::{ReadError, Record};

use crate::consensus::types::Members;
use crate::consensus::wire::{self, VoteWire};
use crate::groups::Groups;
use crate::store::{GroupStore, Position, SnapshotHeader, StoreError, chain};
use crate::wal::{GroupLog, WalError};

/// What a group begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// The seq that the records are the state of. The group's next entry is the one behind it.
    pub seq: Seq,
    /// The term that they count as written in; above every term of the cluster that they come from.
    pub term: u64,
    /// Who votes; the same on every voter.
    pub voters: BTreeSet<NodeId>,
    /// The digest that the records must have.
    pub digest: Digest,
}

/// Why a group was not seeded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeedError {
    /// It runs, or has another state already; nothing was changed.
    #[error("group {group} exists already, at seq {at}")]
    Exists {
        /// Which.
        group: VolumeId,
        /// Its newest seq.
        at: Seq,
    },
    /// The seed cannot be: no voters, or seq or term zero.
    #[error("bad seed: {0}")]
    Invalid(String),
    /// The records are not sorted, or have another digest; nothing was changed. Or the store failed.
    #[error("the state store")]
    Store(#[source] StoreError),
    /// The log failed; seed again.
    #[error("the write-ahead log")]
    Wal(#[source] WalError),
}

impl Groups {
    /// Begins a group that is not there yet with `records`, sorted by key. A crash at any moment leaves either nothing or
    /// what the same call finishes; the same call again is fine. Start the group afterwards.
    ///
    /// Cancel safety: as a crash.
    ///
    /// # Errors
    /// Any [`SeedError`].
    pub async fn seed(
        &self,
        id: VolumeId,
        seed: Seed,
        records: impl Iterator<Item = Result<Record, ReadError>> + Send + 'static,
    ) -> Result<(), SeedError> {
        let _one = self.starting.lock().await;
        if seed.voters.is_empty() || seed.seq == Seq::ZERO || seed.term == 0 {
            return Err(SeedError::Invalid("voters, a seq and a term are needed".to_owned()));
        }
        let states = Arc::clone(&self.states);
        let store = self.blocking.run(move || states.group(id)).await.map_err(SeedError::Store)?;
        let position = Position { term: seed.term, index: seed.seq.0 };
        let log = self.wal.group(id);
        let meta = store.meta();
        let is_seeded = meta.applied == Some(position) && meta.digest == seed.digest;
        let is_blank = meta.applied.is_none() && log.range().is_empty() && log.vote().is_none();
        if self.get(id).is_some() || !(is_seeded || is_blank) {
            return Err(SeedError::Exists { group: id, at: meta.seq() });
        }
        if !is_seeded {
            let header = header(id, position, &seed);
            let work = move || install(&store, header, records);
            self.blocking.run(work).await.map_err(SeedError::Store)?;
        }
        begin_log(&log, self.config.node, position).await.map_err(SeedError::Wal)
    }
}

fn header(group: VolumeId, applied: Position, seed: &Seed) -> SnapshotHeader {
    let nodes: BTreeSet<u64> = seed.voters.iter().map(|node| node.0).collect();
    let members = Members { at: Some(applied), voters: vec![nodes.clone()], nodes };
    SnapshotHeader {
        group,
        applied,
        membership: wire::encode(&members),
        digest: seed.digest,
        records: None,
        time: Timestamp(0),
        kept: Vec::new(),
    }
}

fn install(
    store: &GroupStore,
    header: SnapshotHeader,
    records: impl Iterator<Item = Result<Record, ReadError>> + Send + 'static,
) -> Result<(), StoreError> {
    let (group, seq) = (header.group, Seq(header.applied.index));
    let records = records.map(move |record| {
        let (key, value) = record.map_err(|error| StoreError::Snapshot { group, reason: chain(&error) })?;
        Ok((key, seq, value))
    });
    store.install(&store.snapshot_of(header, records)?)
}

/// An empty log that goes on behind the seed, and a vote that no term before the seed's can win against.
pub(crate) async fn begin_log(log: &GroupLog, node: NodeId, seeded: Position) -> Result<(), WalError> {
    if log.purged().is_none() {
        log.purge(seeded.index, wire::encode(&seeded))?;
    }
    if log.vote().is_none() {
        let vote = VoteWire { term: seeded.term, node: node.0, committed: false };
        log.save_vote(wire::encode(&vote)).await?;
    }
    log.flush().await
}
