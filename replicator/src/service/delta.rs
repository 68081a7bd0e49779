//! Sends a chunk as its difference from what the asker holds, where that is smaller and the link is slow enough for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use causeway_base::ChunkId;
use causeway_dedup::delta::{self, Base, DeltaSwitch, Step};
use causeway_dedup::{EncodedChunk, Realm};

use crate::bases::BaseReader;
use crate::local::LocalChunks;
use crate::wire::{Bases, Frame};

/// What a delta costs beside its body: the frame's head.
const HEAD_BYTES: usize = 16;
/// The link's rate says nothing before so many bytes went out: buffers take them at once.
const RATE_AFTER_BYTES: u64 = 8 << 20;
/// Bytes a second taken for the link's rate until it is known: so slow that deltas are tried, also by a debug build.
const RATE_UNKNOWN: u64 = 125_000;

/// How fast an answer goes out: bytes, and the time that they were waited for.
#[derive(Debug, Default)]
pub(super) struct LinkMeter {
    bytes: AtomicU64,
    nanos: AtomicU64,
}

impl LinkMeter {
    pub(super) fn sent(&self, bytes: usize, took: Duration) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Bytes a second, once that can be told.
    fn rate(&self) -> Option<u64> {
        let (bytes, nanos) = (self.bytes.load(Ordering::Relaxed), self.nanos.load(Ordering::Relaxed));
        (bytes >= RATE_AFTER_BYTES).then(|| (bytes as f64 * 1e9 / nanos.max(1) as f64) as u64)
    }
}

/// Makes the deltas of one answer.
#[derive(Debug)]
pub(super) struct Deltas {
    reader: BaseReader,
    switch: DeltaSwitch,
    meter: Arc<LinkMeter>,
    /// Chunks for which there was a base.
    offered: u32,
}

impl Deltas {
    pub(super) fn new(local: Arc<dyn LocalChunks>, realm: Realm, meter: Arc<LinkMeter>) -> Self {
        let switch = DeltaSwitch::new(1, RATE_UNKNOWN);
        Self { reader: BaseReader::new(local, realm), switch, meter, offered: 0 }
    }

    /// The chunk as a delta; `None` if it is better sent whole, at about `rival` bytes. Blocks.
    pub(super) fn of(
        &mut self,
        index: u32,
        chunk: &EncodedChunk,
        realm: &Realm,
        bases: &Bases,
        rival: usize,
    ) -> Option<Frame> {
        let mut hints = bases.of(index).peekable();
        hints.peek()?;
        self.offered = self.offered.wrapping_add(1);
        if let Some(rate) = self.meter.rate() {
            self.switch.link(rate);
        }
        if !self.switch.pays() && !self.offered.is_multiple_of(DeltaSwitch::PROBE_ONE_IN) {
            return None;
        }
        let started = Instant::now();
        let plain = chunk.decode(realm).ok()?;
        // Two hints of the same chunks share their bytes, so that only what depends on the place is tried twice.
        let mut read: Vec<(&[ChunkId], Vec<u8>)> = Vec::new();
        let mut aligned: Vec<(u8, usize, i32)> = Vec::new();
        for (number, (ids, align)) in (0_u8..).zip(hints) {
            let known = read.iter().position(|(other, _)| *other == ids);
            let at = match known {
                Some(at) => at,
                None => match self.reader.join(ids) {
                    Some(joined) => {
                        read.push((ids, joined));
                        read.len() - 1
                    }
                    None => continue,
                },
            };
            aligned.push((number, at, align));
        }
        let tried: Vec<Base<'_>> = aligned
            .iter()
            .map(|(_, at, align)| Base { plain: &read[*at].1, align: Some(i64::from(*align)), depth: 0 })
            .collect();
        let delta = delta::encode(&plain, &tried, rival.saturating_sub(HEAD_BYTES), delta::LEVEL_DEFAULT);
        let wire_bytes = delta.as_ref().map_or(rival, |delta| delta.body.len() + HEAD_BYTES);
        self.switch.delta(step(plain.len(), wire_bytes, started));
        let delta = delta?;
        let (base, ..) = *aligned.get(delta.base)?;
        Some(Frame::Chunk { index, codec: delta.codec, base, raw_len: chunk.raw_len, payload: delta.body })
    }

    /// A chunk went whole, as so many bytes.
    pub(super) fn whole(&mut self, plain_len: usize, wire_bytes: usize, started: Instant) {
        self.switch.whole(step(plain_len, wire_bytes, started));
    }
}

fn step(plain_len: usize, wire_bytes: usize, started: Instant) -> Step {
    Step {
        plain_bytes: plain_len as u64,
        wire_bytes: wire_bytes as u64,
        core_seconds: started.elapsed().as_secs_f64().max(1e-9),
    }
}
