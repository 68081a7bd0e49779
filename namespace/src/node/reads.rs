//! Reads of the tree, on a view of this node's replica.

use std::time::Duration;

use bytes::Bytes;
use causeway_base::{Ino, Seq, VolumeId};
use causeway_namespace_core::command::{At, Errno};
use causeway_namespace_core::inode::FileKind;
use causeway_namespace_core::query;
use causeway_namespace_core::records::{ReadError, Records};
use causeway_namespace_core::root::VolumeRecord;
use tokio::time::Instant;

use super::replica::view_error;
use super::{Namespace, blocking};
use crate::entry::{Entry, Found, Page, Place};
use crate::error::Error;
use crate::read::{Freshness, Read, ReadState};
use causeway_namespace_raft::StateView;

/// Most entries of a page, and those of one that names no limit.
pub(crate) const PAGE_MAX: u32 = 4096;
pub(crate) const PAGE_DEFAULT: u32 = 1000;
/// A page ends when its entries take this much, in bytes.
pub(crate) const PAGE_BYTES: usize = 2 << 20;
/// Most paths of one `stat_many`.
pub(crate) const STATS_MAX: usize = 4096;
/// So many are read where they are asked for, as a single one is.
const STATS_HERE: usize = 64;
/// Longest wait for the root group where what is known here would do.
const REFRESH_MAX: Duration = Duration::from_secs(1);
/// Entries read from the store at once.
const STEP: usize = 256;

/// A consistent view of a group's records, and what it stands for.
#[derive(Debug)]
pub struct Snapshot {
    /// The records.
    pub view: StateView,
    /// Their seq and age.
    pub state: ReadState,
}

impl Namespace {
    /// A view of a volume (or of the root group) that is as fresh as asked.
    ///
    /// # Errors
    /// [`Error::NoReplica`] if the volume is not on this node; else [`Error`]. Cancel safe.
    pub async fn snapshot(
        &self,
        volume: VolumeId,
        freshness: impl Into<Freshness>,
        deadline: Duration,
    ) -> Result<Snapshot, Error> {
        let started = Instant::now();
        if volume.0 >> 63 == 1 {
            let view = self.aside_view(volume).await?;
            let freshness = freshness.into();
            let view = match freshness.at {
                Some(at) => view.at(at).map_err(|error| view_error(volume, error))?,
                None => view,
            };
            let state = ReadState { seq: view.seq(), age: None, node: self.id() };
            return Ok(Snapshot { view, state });
        }
        let replica = match self.replica(volume) {
            Some(replica) => replica,
            None => self.find_replica(volume, deadline).await?,
        };
        let (view, state) = replica.view(freshness.into(), deadline.saturating_sub(started.elapsed())).await?;
        Ok(Snapshot { view, state })
    }

    /// One inode. Reads some records of the store where it is called: they are few, and mostly cached.
    ///
    /// # Errors
    /// As [`Namespace::snapshot`].
    pub async fn stat(
        &self,
        volume: VolumeId,
        at: &At,
        freshness: impl Into<Freshness>,
        deadline: Duration,
    ) -> Result<Read<Result<Found, Errno>>, Error> {
        let snapshot = self.snapshot(volume, freshness, deadline).await?;
        Ok(Read { state: snapshot.state, value: found(&snapshot.view, at)? })
    }

    /// Many inodes at one seq.
    ///
    /// # Errors
    /// As [`Namespace::snapshot`]; [`Error::Invalid`] for more than 4,096.
    pub async fn stat_many(
        &self,
        volume: VolumeId,
        at: Vec<At>,
        freshness: impl Into<Freshness>,
        deadline: Duration,
    ) -> Result<Read<Vec<Result<Found, Errno>>>, Error> {
        if at.len() > STATS_MAX {
            return Err(Error::Invalid(format!("{} paths at once, at most {STATS_MAX} are allowed", at.len())));
        }
        let Snapshot { view, state } = self.snapshot(volume, freshness, deadline).await?;
        let few = at.len() <= STATS_HERE;
        let read = move || at.iter().map(|at| found(&view, at)).collect::<Result<Vec<_>, _>>();
        Ok(Read { state, value: if few { read()? } else { blocking(read).await? } })
    }

    /// A page of a directory: entries after the name `after` in byte order, at most `limit` (zero: 1,000; 4,096 at most),
    /// and no more than fill 2 MiB.
    ///
    /// # Errors
    /// As [`Namespace::snapshot`].
    pub async fn list(
        &self,
        volume: VolumeId,
        dir: At,
        page: crate::client::ListPage,
        freshness: impl Into<Freshness>,
        deadline: Duration,
    ) -> Result<Read<Result<Page, Errno>>, Error> {
        let Snapshot { view, state } = self.snapshot(volume, freshness, deadline).await?;
        let limit = match page.limit {
            0 => PAGE_DEFAULT,
            limit => limit.min(PAGE_MAX),
        };
        let read = move || list(&view, &dir, &page.after, limit as usize, page.plus);
        Ok(Read { state, value: blocking(read).await? })
    }

    /// Whether a path goes on in a volume that is mounted below this one, as far as this node's own replica tells. If it has
    /// none, the volume's leader will say so to whoever acts on the path.
    async fn leaves(&self, volume: &VolumeRecord, path: Bytes) -> bool {
        if path.is_empty() {
            return false;
        }
        let Some(view) = self.group(volume.id).and_then(|group| group.view().ok()) else { return false };
        let read = move || query::resolve(&view, &path);
        matches!(blocking(read).await, Ok(Err(Errno::CrossesVolume)))
    }

    /// Where an absolute path of the namespace leads, and the seq of the root group at which it does. What is in no volume
    /// that this node knows is looked up again once the root group was asked. Where that is out of reach for a second, what
    /// is known here must do for a directory above mounts; but that a path lies nowhere is never said on such grounds, since
    /// the volume may be new, or this node only just started.
    ///
    /// # Errors
    /// [`Error`] if that needs the root group and it is out of reach; inside, the rules for paths. Cancel safe.
    pub async fn resolve(&self, path: &Bytes, deadline: Duration) -> Result<Result<(Place, Seq), Errno>, Error> {
        let catalog = self.catalog();
        match catalog.resolve(path) {
            Ok(Place::Above { .. } | Place::Nowhere) => {}
            Ok(Place::InVolume { volume, path }) if self.leaves(&volume, path.clone()).await => {}
            known => return Ok(known.map(|place| (place, catalog.seq))),
        }
        let refreshed = self.refresh_catalog(deadline.min(REFRESH_MAX)).await;
        let catalog = self.catalog();
        match (catalog.resolve(path), refreshed) {
            (Ok(Place::Nowhere), Err(error)) => Err(error),
            (Ok(Place::Above { .. }), Err(error)) if catalog.cluster.is_none() => Err(error),
            (place, _) => Ok(place.map(|place| (place, catalog.seq))),
        }
    }
}

/// The inode at a place.
pub(crate) fn found(records: &dyn Records, at: &At) -> Result<Result<Found, Errno>, ReadError> {
    let ino = match query::resolve_at(records, at.dir, &at.path)? {
        Ok(ino) => ino,
        Err(errno) => return Ok(Err(errno)),
    };
    let inode = query::stat_ino(records, ino)?;
    Ok(match inode {
        Some(inode) if inode.kind() == FileKind::Mount => Err(Errno::CrossesVolume),
        Some(inode) => Ok(Found { ino, inode }),
        None => Err(Errno::NotFound),
    })
}

fn list(
    records: &dyn Records,
    dir: &At,
    after: &Bytes,
    limit: usize,
    plus: bool,
) -> Result<Result<Page, Errno>, ReadError> {
    let dir = match found(records, dir)? {
        Ok(found) if found.inode.kind() == FileKind::Directory => found.ino,
        Ok(_) => return Ok(Err(Errno::NotDirectory)),
        Err(errno) => return Ok(Err(errno)),
    };
    let mut page = Page::default();
    let mut last = (!after.is_empty()).then(|| after.clone());
    let mut bytes = 0;
    loop {
        // One more than fits tells whether there are more.
        let step = STEP.min(limit - page.entries.len() + 1);
        let entries = entries(records, dir, last.as_deref(), step, plus)?;
        let ended = entries.len() < step;
        for entry in entries {
            if page.entries.len() == limit || bytes >= PAGE_BYTES {
                page.more = true;
                return Ok(Ok(page));
            }
            bytes += entry.bytes();
            last = Some(entry.name.clone());
            page.entries.push(entry);
        }
        if ended {
            return Ok(Ok(page));
        }
    }
}

fn entries(
    records: &dyn Records,
    dir: Ino,
    after: Option<&[u8]>,
    limit: usize,
    plus: bool,
) -> Result<Vec<Entry>, ReadError> {
    if !plus {
        let entries = query::list(records, dir, after, limit)?;
        return Ok(entries
            .into_iter()
            .map(|e| Entry { name: e.name, ino: e.ino, kind: e.kind, inode: None })
            .collect());
    }
    let entries = query::readdir_plus(records, dir, after, limit)?;
    let entry = |(e, inode): (causeway_namespace_core::command::ListEntry, _)| Entry {
        name: e.name,
        ino: e.ino,
        kind: e.kind,
        inode: Some(inode),
    };
    Ok(entries.into_iter().map(entry).collect())
}
