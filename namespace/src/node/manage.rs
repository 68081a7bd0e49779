//! The volume as a whole: operations on it, and what is told of it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use causeway_base::{Ino, Seq, Timestamp, VolumeId};
use causeway_namespace_core::command::{OPS_MAX, Op, RequestBody, SessionId};
use causeway_namespace_core::manage::ManageOp;
use causeway_namespace_core::query;
use causeway_namespace_core::records::ReadError;
use causeway_namespace_raft::Proposed;
use tokio::time::Instant;

use super::replica::view_error;
use super::{Namespace, Snapshot, blocking};
use crate::error::Error;
use crate::manage::{DirectoryQuota, HeldLock, Quotas, Snapshots, Version};
use crate::read::{Freshness, Read};

/// How often it is looked whether leases have ended: what only an ended hold keeps, stays as long.
const EXPIRE_EVERY: Duration = Duration::from_secs(2);

/// Directory entries that are looked through for the names of locked files: a few seconds at most.
const NAMES_MAX: usize = 1_000_000;

/// A request's place in its session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) session: SessionId,
    pub(crate) number: u64,
    pub(crate) acked_below: u64,
}

/// A batch under an id that the client chose.
#[derive(Clone, Debug)]
pub(crate) struct Once {
    pub(crate) id: u128,
    pub(crate) print: u128,
    pub(crate) ops: Vec<Op>,
}

impl Namespace {
    /// Applies an operation on the volume at most once. Every outcome of the volume is an `Ok`.
    pub(crate) async fn manage(
        &self,
        volume: VolumeId,
        place: Place,
        op: ManageOp,
        deadline: Duration,
    ) -> Result<Proposed, Error> {
        let started = Instant::now();
        let volume = self.find_volume(volume, deadline).await?;
        let Place { session, number, acked_below } = place;
        let body = RequestBody::Manage { session, number, acked_below, op };
        self.propose(&volume, body, deadline.saturating_sub(started.elapsed())).await
    }

    /// As [`Namespace::mutate`], under an id that the client chose.
    pub(crate) async fn once(&self, volume: VolumeId, once: Once, deadline: Duration) -> Result<Proposed, Error> {
        let started = Instant::now();
        let volume = self.find_volume(volume, deadline).await?;
        let Once { id, print, mut ops } = once;
        if ops.is_empty() || ops.len() > OPS_MAX {
            return Err(Error::Invalid(format!("a batch of {} operations, 1 to {OPS_MAX} are allowed", ops.len())));
        }
        let hold = self.check_contents(&volume, &mut ops, deadline).await?;
        let body = RequestBody::Once { id, print, ops };
        let proposed = self.propose(&volume, body, deadline.saturating_sub(started.elapsed())).await;
        if !matches!(&proposed, Err(error) if error.retry_class() == causeway_base::RetryClass::Unknown) {
            hold.settle();
        }
        proposed
    }

    pub(crate) async fn snapshots(
        &self,
        volume: VolumeId,
        freshness: Freshness,
        deadline: Duration,
    ) -> Result<Read<Snapshots>, Error> {
        let Snapshot { view, state } = self.snapshot(volume, freshness, deadline).await?;
        let read = move || {
            let meta = view.meta();
            let oldest_time = Some(meta.oldest_time).filter(|time| *time != Timestamp(0));
            let (snapshots, retention) = (query::snapshots(&view)?, query::retention(&view)?);
            Ok::<_, ReadError>(Snapshots { snapshots, oldest: meta.oldest, oldest_time, retention })
        };
        Ok(Read { state, value: blocking(read).await? })
    }

    /// The seq that a version stands for; `None` if there is no such snapshot.
    pub(crate) async fn find_version(
        &self,
        volume: VolumeId,
        version: Version,
        freshness: Freshness,
        deadline: Duration,
    ) -> Result<Option<Seq>, Error> {
        let view = self.snapshot(volume, freshness, deadline).await?.view;
        let read = move || match version {
            Version::Snapshot(name) => Ok(query::snapshot(&view, &name)?.map(|snapshot| snapshot.seq)),
            Version::Time(time) => view.seq_at(time).map(Some).map_err(|error| view_error(volume, error)),
        };
        blocking(read).await
    }

    pub(crate) async fn quotas(
        &self,
        volume: VolumeId,
        freshness: Freshness,
        deadline: Duration,
    ) -> Result<Read<Quotas>, Error> {
        let Snapshot { view, state } = self.snapshot(volume, freshness, deadline).await?;
        let read = move || {
            let mut directories = Vec::new();
            for (ino, record) in query::quotas(&view)? {
                let path = if ino == Ino::ROOT { Ok(Bytes::new()) } else { query::path_of(&view, ino)? };
                directories.push(DirectoryQuota { ino, path: path.unwrap_or_default(), record });
            }
            Ok::<_, ReadError>(Quotas { directories, owners: query::owners(&view)? })
        };
        Ok(Read { state, value: blocking(read).await? })
    }

    pub(crate) async fn locks(
        &self,
        volume: VolumeId,
        freshness: Freshness,
        deadline: Duration,
    ) -> Result<Read<Vec<HeldLock>>, Error> {
        let Snapshot { view, state } = self.snapshot(volume, freshness, deadline).await?;
        let now = self.clock.now();
        let read = move || {
            let locks = query::locks(&view, now)?;
            let inodes = locks.iter().map(|(ino, ..)| *ino).collect();
            let paths = query::paths_of(&view, inodes, NAMES_MAX)?;
            let held = |(ino, token, record)| HeldLock { ino, path: paths.get(&ino).cloned(), token, record };
            Ok::<_, ReadError>(locks.into_iter().map(held).collect())
        };
        Ok(Read { state, value: blocking(read).await? })
    }

    /// Has leases that have ended collected, in the volumes that are led here. Runs until the node shuts down.
    pub(crate) async fn expire_locks(self: std::sync::Arc<Self>) {
        let mut known: BTreeMap<VolumeId, FirstEnd> = BTreeMap::new();
        loop {
            tokio::select! {
                () = tokio::time::sleep(EXPIRE_EVERY) => {}
                () = self.stop.cancelled() => return,
            }
            let now = self.clock.now();
            let led: Vec<_> = self.groups.running().into_iter().filter(|group| group.is_leader()).collect();
            let ids: BTreeSet<VolumeId> = led.iter().map(|group| group.id()).collect();
            known.retain(|id, _| ids.contains(id));
            for group in led {
                let state = (group.applied(), group.generation());
                // What was read of the same state is still so: a volume at rest costs no look into it.
                let known = match known.entry(group.id()) {
                    Entry::Occupied(entry) if entry.get().state == state => entry.into_mut(),
                    entry => {
                        let Ok(view) = group.view() else { continue };
                        let Ok(end) = query::first_lock_end(&view) else { continue };
                        entry.insert_entry(FirstEnd { state, end }).into_mut()
                    }
                };
                if known.end.is_none_or(|end| end > now) {
                    continue;
                }
                let Ok(volume) = self.volume(group.id()) else { continue };
                let collected = self.propose(&volume, RequestBody::ExpireLocks, EXPIRE_EVERY);
                tokio::select! {
                    collected = collected => if let Err(error) = collected {
                        tracing::debug!(volume = %group.id(), %error, "ended locks were not collected, trying again");
                    },
                    () = self.stop.cancelled() => return,
                }
            }
        }
    }
}

/// When the first lease of a volume ends.
#[derive(Debug)]
struct FirstEnd {
    /// The seq, and the generation of the replica, of which that was read.
    state: (Seq, u64),
    end: Option<Timestamp>,
}
