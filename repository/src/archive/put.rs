//! Archives chunks.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;

use causeway_base::ChunkId;
use causeway_dedup::{CHUNK_BYTES_MAX, EncodedChunk};

use super::ChunkArchive;
use super::pack::{BuiltPack, PackBuilder, Place};
use super::sweep::PUT_TIME_MAX;
use crate::error::Error;
use crate::names;
use crate::run::{RunKind, write_run};

/// Chunks to be archived, in any order; read on a blocking thread, may block. An error ends the call.
pub type ChunkIter = Box<dyn Iterator<Item = Result<EncodedChunk, Box<dyn std::error::Error + Send + Sync>>> + Send>;

/// Bounds of a pack in bytes.
const PACK_BYTES: std::ops::RangeInclusive<u64> = 64 << 10..=64 << 20;

/// What [`ChunkArchive::put_chunks`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PutReport {
    /// Chunks that are new in the archive.
    pub new_chunks: u64,
    /// Chunks that were there, or came twice.
    pub known_chunks: u64,
    /// Packs written.
    pub packs: u64,
    /// Length of the packs and index objects written.
    pub stored_bytes: u64,
    /// Plain length of the new chunks.
    pub raw_bytes: u64,
}

impl ChunkArchive {
    /// Archives the chunks that are not there yet. On return all of them are durable and indexed: an image that needs them
    /// may be published.
    ///
    /// The caller has verified the chunks. Memory: one pack being filled, one waiting, `concurrency` under way, and 64 bytes
    /// for each new chunk. Dropping the future leaves packs that no index names: garbage, no harm.
    ///
    /// # Errors
    /// [`Error::Source`] if the iterator fails or a chunk is too large; the store's. Of the chunks none, some or all are
    /// archived then; the call can be repeated.
    pub async fn put_chunks(&self, chunks: ChunkIter) -> Result<PutReport, Error> {
        let started = Instant::now();
        let (sender, receiver) = mpsc::channel(1);
        let archive = self.clone();
        let handle = Handle::current();
        let packing = tokio::task::spawn_blocking(move || archive.fill_packs(chunks, &handle, &sender));
        let received = stream::unfold(receiver, |mut r| async move { r.recv().await.map(|pack: BuiltPack| (pack, r)) });
        let mut puts = std::pin::pin!(
            received
                .map(|pack| async move {
                    let bytes = pack.bytes.len() as u64;
                    self.repository.store.create_unique(&names::pack(pack.name), pack.bytes).await?;
                    Ok::<_, Error>((bytes, pack.places))
                })
                .buffer_unordered(self.repository.options.concurrency.max(1))
        );
        let mut report = PutReport::default();
        let mut entries = BTreeMap::new();
        let mut failed = None;
        while let Some(put) = puts.next().await {
            match put {
                Ok((bytes, places)) => {
                    report.packs += 1;
                    report.stored_bytes += bytes;
                    entries.extend(places);
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        report.known_chunks = packing.await.map_err(|error| Error::Task(error.to_string()))??;
        report.new_chunks = entries.len() as u64;
        report.raw_bytes = entries.values().map(|place| u64::from(place.raw_len)).sum();
        if started.elapsed() >= PUT_TIME_MAX {
            // Its packs may be swept before the index names them.
            return Err(Error::Deadline { op: "put", path: names::INDEX.to_owned(), after: PUT_TIME_MAX });
        }
        report.stored_bytes += self.put_index(entries.into_iter().collect()).await?;
        Ok(report)
    }

    /// Puts an index of the entries, which are sorted; gives the length of its objects.
    pub(super) async fn put_index(&self, entries: Vec<(ChunkId, Place)>) -> Result<u64, Error> {
        if entries.is_empty() {
            return Ok(0);
        }
        let records: Vec<_> =
            entries.iter().map(|(id, place)| Ok((Bytes::copy_from_slice(id.as_bytes()), place.encode()))).collect();
        let segments = write_run(&self.repository, RunKind::ChunkIndex, names::index, records.into_iter()).await?;
        let mut bytes = 0;
        let mut rest = entries.into_iter();
        for segment in &segments {
            bytes += segment.bytes;
            let count = usize::try_from(segment.records).unwrap_or(usize::MAX);
            self.index.insert_own(segment, rest.by_ref().take(count).collect());
        }
        Ok(bytes)
    }

    /// Runs on a blocking thread. Gives the number of chunks that were known.
    fn fill_packs(&self, chunks: ChunkIter, handle: &Handle, packs: &mpsc::Sender<BuiltPack>) -> Result<u64, Error> {
        let pack_bytes = self.repository.options.pack_bytes.bytes().clamp(*PACK_BYTES.start(), *PACK_BYTES.end());
        let names = self.repository.store.names();
        let mut builder = PackBuilder::new(names.draw());
        let mut taken = std::collections::BTreeSet::new();
        let mut known = 0;
        for chunk in chunks {
            let chunk = chunk.map_err(|error| Error::Source(error.to_string()))?;
            if chunk.payload.len() > CHUNK_BYTES_MAX as usize || chunk.raw_len > CHUNK_BYTES_MAX {
                return Err(Error::Source(format!("chunk {} is too large", chunk.id)));
            }
            if taken.contains(&chunk.id) || self.is_archived(&chunk.id, handle)? {
                known += 1;
                continue;
            }
            taken.insert(chunk.id);
            builder.push(&chunk);
            if builder.len() as u64 >= pack_bytes {
                let full = std::mem::replace(&mut builder, PackBuilder::new(names.draw()));
                if packs.blocking_send(full.finish()).is_err() {
                    return Ok(known); // the other side has failed and says why
                }
            }
        }
        if !builder.is_empty() {
            let _ = packs.blocking_send(builder.finish());
        }
        Ok(known)
    }

    fn is_archived(&self, id: &ChunkId, handle: &Handle) -> Result<bool, Error> {
        match self.index.known(id) {
            Some(known) => Ok(known),
            None => Ok(handle.block_on(self.contains(&[*id]))?[0]),
        }
    }
}
