//! READ: these chunks in order, wherever they are.

use std::time::Duration;

use causeway_base::{ChunkId, RetryClass};
use causeway_dedup::{EncodedChunk, Realm};
use causeway_transport::quic::SendStream;

use super::{Call, ChunkService, Cut, Needed, refuse};
use crate::exchange::{self, Tally};
use crate::local::{self, blocking};
use crate::wire::{Cause, EndCounts, Frame, Refusal};

/// Chunks of the first window: few, so that the first byte comes soon.
const FIRST_WINDOW: usize = 8;
/// Each window is four times the one before, up to this. At the largest average it holds 64 MiB, usually 16.
const WINDOW_MAX: usize = 256;
/// Chunks read from the disk at once.
const BATCH: usize = 16;

impl ChunkService {
    /// While a window is sent, the next one is brought here.
    pub(super) async fn read(&self, call: Call) -> Result<(), Cut> {
        let _turn = match self.turn(&self.reads).await {
            Ok(turn) => turn,
            Err(refusal) => return refuse(call.send, refusal, &call.tally).await,
        };
        let Call { realm, request, tally, mut send, .. } = call;
        let needed = |ids: &[ChunkId], cause: Cause| Needed {
            realm: realm.clone(),
            volume: request.volume,
            cause,
            origin: request.origin.clone(),
            ids: ids.to_vec(),
        };
        let mut windows = Windows { rest: &request.ids, size: FIRST_WINDOW };
        let mut counts = EndCounts::default();
        let mut window = windows.next().unwrap_or_default();
        let mut first = 0;
        let mut here = self.bring(needed(window, Cause::Read)).await;
        while !window.is_empty() {
            if let Err(refusal) = here {
                return refuse(send, refusal, &tally).await;
            }
            let next = windows.next().unwrap_or_default();
            let sending = async {
                match self.send_window(&mut send, &realm, first, window, &mut counts, &tally).await {
                    Ok(damaged) if damaged.is_empty() => Ok(()),
                    Ok(damaged) => {
                        let ids: Vec<ChunkId> = damaged.iter().map(|(_, id)| *id).collect();
                        self.bring(needed(&ids, Cause::Repair)).await?;
                        self.send_repaired(&mut send, &realm, damaged, &mut counts, &tally).await
                    }
                    Err(cut) => Err(cut),
                }
            };
            let (sent, brought) = tokio::join!(sending, self.bring(needed(next, Cause::Read)));
            match sent {
                Err(Cut::Refused(refusal)) => return refuse(send, refusal, &tally).await,
                sent => sent?,
            }
            first += window.len();
            window = next;
            here = brought;
        }
        exchange::write(&mut send, &Frame::End(counts), &tally).await?;
        Ok(send.finish()?)
    }

    async fn bring(&self, needed: Needed) -> Result<(), Refusal> {
        let missing = local::missing(&self.local, needed.ids.clone()).await;
        let missing = missing.map_err(|error| Refusal { class: error.class, message: error.reason })?;
        if missing.is_empty() {
            return Ok(());
        }
        let limit: Duration = self.limits.ensure_timeout;
        self.elsewhere.ensure(Needed { ids: missing, ..needed }, limit).await
    }

    /// Sends a window; gives the chunks (place and name) that turned out to be damaged.
    async fn send_window(
        &self,
        send: &mut SendStream,
        realm: &Realm,
        first: usize,
        window: &[ChunkId],
        counts: &mut EndCounts,
        tally: &Tally,
    ) -> Result<Vec<(usize, ChunkId)>, Cut> {
        let mut damaged = Vec::new();
        let places: Vec<(usize, ChunkId)> = (first..).zip(window.iter().copied()).collect();
        for batch in places.chunks(BATCH) {
            for ((index, id), chunk) in self.verified(realm, batch.to_vec()).await? {
                match chunk {
                    Some(chunk) => send_chunk(send, index, chunk, counts, tally).await?,
                    None => damaged.push((index, id)),
                }
            }
        }
        Ok(damaged)
    }

    /// Sends chunks that had to be fetched again. They come after the rest of their window; the reader sorts them.
    async fn send_repaired(
        &self,
        send: &mut SendStream,
        realm: &Realm,
        places: Vec<(usize, ChunkId)>,
        counts: &mut EndCounts,
        tally: &Tally,
    ) -> Result<(), Cut> {
        for ((index, id), chunk) in self.verified(realm, places).await? {
            let gone = || Refusal { class: RetryClass::Damaged, message: format!("chunk {id} is damaged here") };
            send_chunk(send, index, chunk.ok_or_else(gone)?, counts, tally).await?;
        }
        Ok(())
    }

    /// Reads chunks and checks them against their names, off the reactor.
    async fn verified(
        &self,
        realm: &Realm,
        places: Vec<(usize, ChunkId)>,
    ) -> Result<Vec<((usize, ChunkId), Option<EncodedChunk>)>, Cut> {
        let (local, realm) = (self.local.clone(), realm.clone());
        let read = blocking(move || {
            let check = |(index, id): (usize, ChunkId)| {
                let chunk = local.get(&id)?.filter(|chunk| chunk.decode(&realm).is_ok());
                Ok(((index, id), chunk))
            };
            places.into_iter().map(check).collect::<Result<Vec<_>, local::LocalError>>()
        });
        Ok(read.await??)
    }
}

async fn send_chunk(
    send: &mut SendStream,
    index: usize,
    chunk: EncodedChunk,
    counts: &mut EndCounts,
    tally: &Tally,
) -> Result<(), Cut> {
    let EncodedChunk { codec, raw_len, payload, .. } = chunk;
    let index = u32::try_from(index).unwrap_or(u32::MAX); // below IDS_MAX
    exchange::write(send, &Frame::Chunk { index, codec, base: 0, raw_len, payload }, tally).await?;
    counts.chunks += 1;
    counts.plain_bytes += u64::from(raw_len);
    Ok(())
}

struct Windows<'a> {
    rest: &'a [ChunkId],
    size: usize,
}

impl<'a> Iterator for Windows<'a> {
    type Item = &'a [ChunkId];

    fn next(&mut self) -> Option<&'a [ChunkId]> {
        let (window, rest) = self.rest.split_at(self.size.min(self.rest.len()));
        self.rest = rest;
        self.size = (self.size * 4).min(WINDOW_MAX);
        (!window.is_empty()).then_some(window)
    }
}
