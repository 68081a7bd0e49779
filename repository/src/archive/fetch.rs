//! Reads chunks back.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use causeway_base::ChunkId;
use causeway_dedup::EncodedChunk;

use super::ChunkArchive;
use super::pack::{PACK_BYTES_MAX, Place, open_record};
use crate::error::Error;
use crate::names;

/// Records this near in a pack are read together: the bytes between cost less than a request.
const GAP_BYTES_MAX: u64 = 128 << 10;
/// Most bytes of one range: as many again are in memory for each request under way.
const RANGE_BYTES_MAX: u64 = 8 << 20;

/// A stretch of a pack, with the chunks wanted from it (their index in the request).
#[derive(Debug)]
struct Stretch {
    pack: u128,
    start: u64,
    end: u64,
    /// Bytes of the wanted records.
    useful: u64,
    wanted: Vec<(usize, Place)>,
}

impl ChunkArchive {
    /// One chunk; `None` if it is not archived. Its bytes are checked against the record's checksum; the caller checks them
    /// against the id when decoding.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// As [`ChunkArchive::get_many`].
    pub async fn get(&self, id: ChunkId) -> Result<Option<EncodedChunk>, Error> {
        Ok(self.get_many(&[id]).await?.pop().flatten())
    }

    /// Several chunks, in the order asked; neighbours in a pack share a request. What is not found at first is looked for
    /// again in what other writers have added. Memory: all the chunks asked for, so ask for a bounded number.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`Error::ChunkDamaged`], [`Error::Missing`] (a pack that the index names), [`Error::Corrupt`]; the store's.
    pub async fn get_many(&self, ids: &[ChunkId]) -> Result<Vec<Option<EncodedChunk>>, Error> {
        match self.get_located(ids, false).await {
            Ok(found) if found.iter().all(Option::is_some) => Ok(found),
            // A pack may have been rewritten, or an index added, since the index was read.
            Ok(_) | Err(Error::Missing { .. }) => self.get_located(ids, true).await,
            Err(error) => Err(error),
        }
    }

    async fn get_located(&self, ids: &[ChunkId], refresh: bool) -> Result<Vec<Option<EncodedChunk>>, Error> {
        if refresh {
            self.index.refresh().await?;
        }
        let places = self.index.locate(ids).await?;
        let mut found = vec![None; ids.len()];
        let mut reads = std::pin::pin!(
            stream::iter(stretches(&places))
                .map(|stretch| self.read(stretch, ids))
                .buffer_unordered(self.repository.options.concurrency.max(1))
        );
        while let Some(chunks) = reads.try_next().await? {
            for (at, chunk) in chunks {
                found[at] = Some(chunk);
            }
        }
        Ok(found)
    }

    async fn read(&self, stretch: Stretch, ids: &[ChunkId]) -> Result<Vec<(usize, EncodedChunk)>, Error> {
        let path = names::pack(stretch.pack);
        let bytes = self.repository.store.get_range(&path, stretch.start..stretch.end).await?;
        let bytes: Bytes = bytes.ok_or_else(|| Error::Missing { path: path.clone() })?;
        let mut chunks = Vec::with_capacity(stretch.wanted.len());
        for (at, place) in stretch.wanted {
            let start = usize::try_from(u64::from(place.offset) - stretch.start).unwrap_or(usize::MAX);
            let record = bytes.slice(start..start + place.len as usize);
            let damaged = |reason: &str| Error::ChunkDamaged { id: ids[at], reason: format!("{reason}, in {path}") };
            let chunk = open_record(&record).map_err(damaged)?;
            if chunk.id != ids[at] {
                return Err(damaged("another chunk lies there"));
            }
            // A slice would keep the whole stretch in memory as long as any chunk of it lives.
            let payload = Bytes::copy_from_slice(&chunk.payload);
            chunks.push((at, EncodedChunk { payload, ..chunk }));
        }
        Ok(chunks)
    }
}

impl Stretch {
    /// Bytes read for nothing if it went on to a record at `start`.
    fn waste_with(&self, start: u64) -> u64 {
        (start.max(self.end) - self.start).saturating_sub(self.useful)
    }
}

/// Groups places by pack and nearness; chunks that lie scattered do not draw in what is between them.
fn stretches(places: &[Option<Place>]) -> Vec<Stretch> {
    let mut packs: BTreeMap<u128, Vec<(usize, Place)>> = BTreeMap::new();
    for (at, place) in places.iter().enumerate() {
        // A place past what a pack may be is a lie of the index; its range would be refused by the store.
        if let Some(place) = place.filter(|place| u64::from(place.offset) + u64::from(place.len) <= PACK_BYTES_MAX) {
            packs.entry(place.pack).or_default().push((at, place));
        }
    }
    let mut stretches: Vec<Stretch> = Vec::new();
    for (pack, mut wanted) in packs {
        wanted.sort_unstable_by_key(|(_, place)| place.offset);
        for (at, place) in wanted {
            let (start, end) = (u64::from(place.offset), u64::from(place.offset) + u64::from(place.len));
            match stretches.last_mut() {
                Some(last)
                    if last.pack == pack
                        && start <= last.end + GAP_BYTES_MAX
                        && end.max(last.end) - last.start <= RANGE_BYTES_MAX
                        && last.waste_with(start) <= GAP_BYTES_MAX.max(last.useful / 2) =>
                {
                    last.useful += u64::from(place.len);
                    last.end = last.end.max(end);
                    last.wanted.push((at, place));
                }
                _ => stretches.push(Stretch { pack, start, end, useful: end - start, wanted: vec![(at, place)] }),
            }
        }
    }
    stretches
}
