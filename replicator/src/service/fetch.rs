//! FETCH: these chunks, as far as the node has them.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use causeway_base::{ChunkId, RetryClass};
use causeway_dedup::chunk::LEVEL_DEFAULT;
use causeway_dedup::delta::DeltaRecord;
use causeway_dedup::{EncodedChunk, Realm};
use tokio::sync::mpsc;

use super::delta::{Deltas, LinkMeter};
use super::{Call, ChunkService, Cut, refuse};
use crate::exchange;
use crate::local::{LocalChunks, blocking};
use crate::wire::{BASE_NAMED, ChunkRequest, EndCounts, Form, Frame, Refusal, StreamEncoder, is_incompressible};

/// Frames between the thread that makes them and the task that sends them: at most as many chunks of 1 MiB.
const FRAMES_AHEAD: usize = 4;
/// A delta at rest that is so many times smaller than the chunk goes without a look at what else there is.
const SURELY: usize = 16;
/// Missing chunks are told in lists of at most this length.
const MISSING_AT_ONCE: usize = 1024;

impl ChunkService {
    pub(super) async fn fetch(&self, call: Call) -> Result<(), Cut> {
        let _turn = match self.turn(&self.fetches).await {
            Ok(turn) => turn,
            Err(refusal) => return refuse(call.send, refusal, &call.tally).await,
        };
        let Call { realm, request, tally, mut send, .. } = call;
        let (frames, mut ready) = mpsc::channel(FRAMES_AHEAD);
        let local = self.local.clone();
        let meter = Arc::<LinkMeter>::default();
        let deltas = Deltas::new(local.clone(), realm.clone(), meter.clone());
        let work = blocking(move || {
            let (counts, missing) = (EndCounts::default(), Vec::new());
            let mut answer = Answer { local, realm, frames, deltas, counts, missing };
            match answer.chunks(&request) {
                Ok(()) | Err(Stop::Gone) => {}
                Err(Stop::Refused(refusal)) => drop(answer.frames.blocking_send(Frame::Refused(refusal))),
            }
        });
        let sending = async move {
            while let Some(frame) = ready.recv().await {
                let started = Instant::now();
                let len = exchange::write(&mut send, &frame, &tally).await?;
                meter.sent(len, started.elapsed());
            }
            send.finish()
        };
        let (worked, sent) = tokio::join!(work, sending);
        sent?;
        Ok(worked?)
    }
}

struct Answer {
    local: Arc<dyn LocalChunks>,
    realm: Realm,
    frames: mpsc::Sender<Frame>,
    deltas: Deltas,
    counts: EndCounts,
    missing: Vec<u32>,
}

enum Stop {
    /// Nobody listens any more.
    Gone,
    Refused(Refusal),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        let message = format!("compression: {error}");
        Self::Refused(Refusal { class: RetryClass::Transient, message })
    }
}

impl Answer {
    /// Makes the answer; blocks.
    fn chunks(&mut self, request: &ChunkRequest) -> Result<(), Stop> {
        let ChunkRequest { ids, form, bases, any_base, .. } = request;
        let mut encoder = None;
        // Who asks for a chunk does not have it yet.
        let lacks: HashSet<&ChunkId> = if *any_base { ids.iter().collect() } else { HashSet::new() };
        for (index, id) in (0_u32..).zip(ids) {
            let at_rest = if *any_base { self.at_rest(id, &lacks) } else { None };
            if let Some(delta) = at_rest.as_ref().filter(|delta| delta.payload.len() <= delta.raw_len as usize / SURELY)
            {
                self.send(named(index, delta))?;
                self.count(delta.raw_len as usize);
                continue;
            }
            let stored = self.local.get(id).map_err(|error| {
                Stop::Refused(Refusal { class: error.class, message: format!("chunk {id}: {error}") })
            })?;
            let Some(chunk) = stored else {
                self.missing(index)?;
                continue;
            };
            let streamed = matches!(form, Form::Stream { .. }) && !is_incompressible(&chunk);
            let has_rival = at_rest.is_some() || bases.of(index).next().is_some();
            let whole = if streamed && has_rival { in_stream(&chunk) } else { chunk.payload.len() };
            let at_rest = at_rest.filter(|delta| delta.payload.len() < whole);
            let rival = at_rest.as_ref().map_or(whole, |delta| delta.payload.len());
            let delta = self.deltas.of(index, &chunk, &self.realm, bases, rival);
            if let Some(delta) = delta.or_else(|| at_rest.map(|delta| named(index, &delta))) {
                self.send(delta)?;
                self.count(chunk.raw_len as usize);
                continue;
            }
            let started = Instant::now();
            match *form {
                Form::Stream { level, window_log } if !is_incompressible(&chunk) => {
                    // A damaged chunk is as good as none: the asker finds it elsewhere.
                    let Ok(plain) = chunk.decode(&self.realm) else {
                        self.missing(index)?;
                        continue;
                    };
                    if encoder.is_none() {
                        encoder = Some(StreamEncoder::new(level, window_for(window_log, ids.len()))?);
                    }
                    let piece = encoder.as_mut().map(|encoder| encoder.push(index, &plain)).transpose()?.flatten();
                    self.deltas.whole(plain.len(), piece.as_ref().map_or(0, Bytes::len), started);
                    if let Some(piece) = piece {
                        self.send(Frame::Stream(piece))?;
                    }
                    self.count(plain.len());
                }
                Form::Stored | Form::Stream { .. } => {
                    let EncodedChunk { codec, raw_len, payload, .. } = chunk;
                    self.send(Frame::Chunk { index, codec, base: 0, raw_len, payload })?;
                    self.count(raw_len as usize);
                }
            }
        }
        if let Some(encoder) = encoder {
            self.send(Frame::Stream(encoder.finish()?))?;
        }
        self.tell_missing()?;
        self.send(Frame::End(self.counts))
    }

    /// The chunk as it rests, if that is as a delta from what the asker may have. A store that fails is noticed when it is
    /// asked for the whole chunk.
    fn at_rest(&self, id: &ChunkId, lacks: &HashSet<&ChunkId>) -> Option<EncodedChunk> {
        let chunk = self.local.get_delta(id).ok()??;
        let delta = DeltaRecord::from_payload(&chunk.payload).ok()?;
        (!delta.base.chunks.iter().any(|base| lacks.contains(base))).then_some(chunk)
    }

    fn count(&mut self, plain_len: usize) {
        self.counts.chunks += 1;
        self.counts.plain_bytes += plain_len as u64;
    }

    fn missing(&mut self, index: u32) -> Result<(), Stop> {
        self.counts.missing += 1;
        self.missing.push(index);
        if self.missing.len() < MISSING_AT_ONCE { Ok(()) } else { self.tell_missing() }
    }

    fn tell_missing(&mut self) -> Result<(), Stop> {
        let missing = std::mem::take(&mut self.missing);
        if missing.is_empty() { Ok(()) } else { self.send(Frame::Missing(missing)) }
    }

    fn send(&self, frame: Frame) -> Result<(), Stop> {
        self.frames.blocking_send(frame).map_err(|_| Stop::Gone)
    }
}

/// A delta that rests, as a frame.
fn named(index: u32, delta: &EncodedChunk) -> Frame {
    let EncodedChunk { codec, raw_len, ref payload, .. } = *delta;
    Frame::Chunk { index, codec, base: BASE_NAMED, raw_len, payload: payload.clone() }
}

/// About what a chunk takes in the stream, and a delta must save on: from half of what it takes by itself if it compresses
/// well (docs/replication.md) to nearly all of it if it hardly does. What is sent as a delta is lacking in the stream's window.
fn in_stream(chunk: &EncodedChunk) -> usize {
    // Out of a block of the store it comes plain.
    let len = chunk.clone().compacted(LEVEL_DEFAULT).payload.len();
    let raw_len = chunk.raw_len.max(1) as usize;
    len / 2 + len * len / raw_len / 2
}

/// No larger a window than the chunks can fill, so that small answers need little memory at both ends.
fn window_for(asked: u8, chunks: usize) -> u8 {
    let bytes = chunks.saturating_mul(128 << 10).next_power_of_two();
    // At most 63.
    let enough = u8::try_from(bytes.trailing_zeros()).unwrap_or(u8::MAX);
    asked.min(enough.max(17))
}
