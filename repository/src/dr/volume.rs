//! One image of a volume.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::try_join_all;
use tokio::runtime::Handle;

use causeway_dedup::Realm;
use causeway_namespace_core::query;
use causeway_namespace_core::records::{ReadError, Record, Records};

use super::DrReader;
use crate::error::Error;
use crate::head::{Head, Run};
use crate::image::decode;
use crate::names;
use crate::repository::Repository;
use crate::run::{RunKind, SegmentReader};
use causeway_base::VolumeId;

/// A volume as it was at its image's seq.
///
/// The methods of [`Records`] block on range requests: call them, and every query on them, from a blocking thread
/// (`spawn_blocking`), never from within async code. Blocks once read are kept, within the repository's cache.
#[derive(Clone)]
pub struct DrVolume {
    pub(super) repository: Repository,
    pub(super) directory: String,
    pub(super) head: Arc<Head>,
    /// Newest run first; the segments of each in key order.
    runs: Arc<Vec<Vec<SegmentReader>>>,
    pub(super) handle: Handle,
}

impl DrVolume {
    /// Must be called within a runtime, which does the requests.
    pub(super) fn new(repository: Repository, directory: String, head: Head) -> Self {
        let reader = |segment: &crate::run::SegmentRef| {
            let path = names::segment(&directory, segment.name);
            let cache = Arc::clone(&repository.cache);
            SegmentReader::new(repository.store.clone(), path, segment.clone(), RunKind::Image, cache)
        };
        let runs = head.runs.iter().rev().map(|run: &Run| run.segments.iter().map(reader).collect()).collect();
        Self { runs: Arc::new(runs), head: Arc::new(head), handle: Handle::current(), repository, directory }
    }

    /// What the image stands for: cluster, volume, epoch, term, seq, time, digest, runs.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The volume's folder under `volumes/`.
    #[must_use]
    pub fn directory(&self) -> &str {
        &self.directory
    }

    /// As [`Records::get`], for async code.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`Error::Corrupt`] and [`Error::Missing`] for a damaged image; the store's.
    pub async fn record(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        for run in self.runs.iter() {
            let at = run.partition_point(|segment| &segment.segment().last[..] < key);
            if let Some(segment) = run.get(at)
                && let Some(stored) = segment.get(key).await?
            {
                return decode(&stored);
            }
        }
        Ok(None)
    }

    /// As [`Records::scan`], for async code.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// As [`DrVolume::record`].
    pub async fn records_between(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Record>, Error> {
        let mut found = Vec::new();
        if from >= to {
            return Ok(found);
        }
        let mut cursors: Vec<_> = self.runs.iter().map(|run| Cursor::new(run, from)).collect();
        while found.len() < limit {
            // All runs that have come to the end of a page get their next one at once.
            try_join_all(cursors.iter_mut().map(|cursor| cursor.fill(to))).await?;
            let Some(key) = cursors.iter().filter_map(Cursor::key).min().cloned() else { break };
            let mut newest = None;
            for cursor in &mut cursors {
                if cursor.key() == Some(&key) {
                    let stored = cursor.page.pop_front().map(|(_, stored)| stored);
                    newest = newest.or(stored);
                }
            }
            if let Some(value) = newest.as_ref().map(decode).transpose()?.flatten() {
                found.push((key, value));
            }
        }
        Ok(found)
    }
}

/// A place in one run.
struct Cursor<'a> {
    run: &'a [SegmentReader],
    from: Vec<u8>,
    page: VecDeque<(Bytes, Bytes)>,
    ended: bool,
}

impl<'a> Cursor<'a> {
    fn new(run: &'a [SegmentReader], from: &[u8]) -> Self {
        Self { run, from: from.to_vec(), page: VecDeque::new(), ended: false }
    }

    fn key(&self) -> Option<&Bytes> {
        self.page.front().map(|(key, _)| key)
    }

    /// Makes sure that there is a page, unless the run has no more below `to`.
    async fn fill(&mut self, to: &[u8]) -> Result<(), Error> {
        while self.page.is_empty() && !self.ended {
            let at = self.run.partition_point(|segment| segment.segment().last[..] < self.from[..]);
            let Some(segment) = self.run.get(at).filter(|segment| segment.segment().overlaps(&self.from, to)) else {
                self.ended = true;
                break;
            };
            let page = segment.page(&self.from, to).await?;
            let last = page.last().map_or_else(|| &segment.segment().last, |(key, _)| key);
            self.from = [&last[..], &[0]].concat();
            self.page = page.into();
        }
        Ok(())
    }
}

impl Records for DrVolume {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        self.handle.block_on(self.record(key)).map_err(read_error)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Record>, ReadError> {
        self.handle.block_on(self.records_between(from, to, limit)).map_err(read_error)
    }
}

/// The whole chain in one line: a [`ReadError`] has no source.
fn read_error(error: Error) -> ReadError {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(below) = source {
        text = format!("{text}: {below}");
        source = below.source();
    }
    ReadError::Store(text)
}

impl fmt::Debug for DrVolume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DrVolume({} at {})", self.head.volume, self.head.seq)
    }
}

impl DrReader {
    pub(super) async fn realm(&self, volume: &DrVolume) -> Result<Realm, Error> {
        let root = self.volume_of(volume.head.cluster, VolumeId::ROOT).await?;
        let id = volume.head.volume;
        let asked = tokio::task::spawn_blocking(move || {
            let unknown = |what: String| Error::NoImage { volume: format!("{what} (in the image of the root group)") };
            let record = query::volume(&root, id)?.ok_or_else(|| unknown(id.to_string()))?;
            let name = record.spec.realm;
            let key = query::realm_key(&root, &name)?.ok_or_else(|| unknown(format!("realm {name:?}")))?;
            Ok(Realm::new(name, key.0))
        });
        asked.await.map_err(|error| Error::Task(error.to_string()))?
    }
}
