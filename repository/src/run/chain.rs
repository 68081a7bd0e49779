//! Reads runs from end to end, one or several merged, on a blocking thread.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::loaded::{Loaded, LoadedRecords};
use super::{RunKind, SEGMENT_BYTES_MAX, SegmentRef};
use crate::error::Error;
use crate::store::Store;

/// Fetches a whole segment and verifies it against its reference.
pub(crate) async fn load(store: Store, path: String, segment: SegmentRef, kind: RunKind) -> Result<Loaded, Error> {
    if segment.bytes > SEGMENT_BYTES_MAX {
        return Err(Error::Corrupt { path, reason: format!("{} bytes are no segment", segment.bytes) });
    }
    let bytes = store.get_range(&path, 0..segment.bytes).await?;
    let bytes = bytes.ok_or_else(|| Error::Missing { path: path.clone() })?;
    let task = tokio::task::spawn_blocking(move || Loaded::open(bytes, kind));
    let loaded = task.await.map_err(|error| Error::Task(error.to_string()))?;
    let loaded = loaded.map_err(|error| Error::Corrupt { path: path.clone(), reason: error.to_string() })?;
    if loaded.blake3() != &segment.blake3 || loaded.records() != segment.records {
        return Err(Error::Corrupt { path, reason: "it is not the segment that was referred to".to_owned() });
    }
    Ok(loaded)
}

/// The records of one run in key order: its segments one after the other, the next fetched while one is read.
///
/// `next` blocks on the network: use it on a blocking thread. Memory: two segments.
#[derive(Debug)]
pub(crate) struct RunRecords {
    handle: Handle,
    store: Store,
    kind: RunKind,
    waiting: VecDeque<(String, SegmentRef)>,
    fetching: Option<(String, JoinHandle<Result<Loaded, Error>>)>,
    current: Option<(String, LoadedRecords)>,
    failed: bool,
}

impl RunRecords {
    /// `segments` with their paths, in key order. Must be called within a runtime, which does the fetching.
    pub(crate) fn new(handle: Handle, store: Store, kind: RunKind, segments: Vec<(String, SegmentRef)>) -> Self {
        let mut run =
            Self { handle, store, kind, waiting: segments.into(), fetching: None, current: None, failed: false };
        run.fetch_next();
        run
    }

    fn fetch_next(&mut self) {
        self.fetching = self.waiting.pop_front().map(|(path, segment)| {
            let task = self.handle.spawn(load(self.store.clone(), path.clone(), segment, self.kind));
            (path, task)
        });
    }

    fn advance(&mut self) -> Result<Option<(Bytes, Bytes)>, Error> {
        loop {
            if let Some((path, records)) = &mut self.current {
                match records.next().transpose() {
                    Ok(Some(record)) => return Ok(Some(record)),
                    Ok(None) => self.current = None,
                    Err(error) => return Err(Error::Corrupt { path: path.clone(), reason: error.to_string() }),
                }
            }
            let Some((path, task)) = self.fetching.take() else { return Ok(None) };
            let loaded = self.handle.block_on(task).map_err(|error| Error::Task(error.to_string()))??;
            self.current = Some((path, loaded.iter()));
            self.fetch_next();
        }
    }
}

impl Drop for RunRecords {
    fn drop(&mut self) {
        if let Some((_, task)) = &self.fetching {
            task.abort();
        }
    }
}

impl Iterator for RunRecords {
    type Item = Result<(Bytes, Bytes), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.advance().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}

/// Several sources of rising keys as one: of equal keys the record of the last source (the newest run) is given.
#[derive(Debug)]
pub(crate) struct Merged<I> {
    sources: Vec<I>,
    /// Smallest key first; of equal keys the newest source first.
    heap: BinaryHeap<Reverse<(Bytes, Reverse<usize>, Bytes)>>,
    started: bool,
    last: Option<Bytes>,
}

impl<I: Iterator<Item = Result<(Bytes, Bytes), Error>>> Merged<I> {
    /// Oldest source first.
    pub(crate) fn new(sources: Vec<I>) -> Self {
        Self { sources, heap: BinaryHeap::new(), started: false, last: None }
    }

    fn pull(&mut self, source: usize) -> Result<(), Error> {
        if let Some(record) = self.sources[source].next() {
            let (key, value) = record?;
            self.heap.push(Reverse((key, Reverse(source), value)));
        }
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<(Bytes, Bytes)>, Error> {
        if !self.started {
            self.started = true;
            for source in 0..self.sources.len() {
                self.pull(source)?;
            }
        }
        while let Some(Reverse((key, Reverse(source), value))) = self.heap.pop() {
            self.pull(source)?;
            if self.last.as_ref() != Some(&key) {
                self.last = Some(key.clone());
                return Ok(Some((key, value)));
            }
        }
        Ok(None)
    }
}

impl<I: Iterator<Item = Result<(Bytes, Bytes), Error>>> Iterator for Merged<I> {
    type Item = Result<(Bytes, Bytes), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}
