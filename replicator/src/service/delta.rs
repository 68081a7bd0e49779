//! Sends a chunk as its difference from what the asker holds, where that is smaller and the link is slow enough for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use causeway_base::ChunkId;
use causeway_dedup::delta::{self, Base, Delta, DeltaSwitch, Step, WideSwitch};
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
    /// Of the bases after the first.
    wide: WideSwitch,
    meter: Arc<LinkMeter>,
    /// Chunks for which there was a base.
    offered: u32,
}

impl Deltas {
    pub(super) fn new(local: Arc<dyn LocalChunks>, realm: Realm, meter: Arc<LinkMeter>) -> Self {
        let switch = DeltaSwitch::new(1, RATE_UNKNOWN);
        Self { reader: BaseReader::new(local, realm), switch, wide: WideSwitch::default(), meter, offered: 0 }
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
        let rate = self.meter.rate();
        if let Some(rate) = rate {
            self.switch.link(rate);
        }
        let probe = self.offered.is_multiple_of(DeltaSwitch::PROBE_ONE_IN);
        if !self.switch.pays() && !probe {
            return None;
        }
        let wide = self.wide.pays(rate.unwrap_or(RATE_UNKNOWN)) || probe;
        let started = Instant::now();
        let plain = chunk.decode(realm).ok()?;
        // Hints of the same chunks share their bytes, so that only what depends on the place is tried twice. The others are
        // read only if those before them are not good enough.
        let mut left: Vec<(u8, &[ChunkId], i32)> =
            (0_u8..).zip(hints).map(|(number, (ids, align))| (number, ids, align)).collect();
        let hint_count = left.len();
        let mut best: Option<(u8, Delta)> = None;
        let mut smallest = rival.saturating_sub(HEAD_BYTES);
        while let Some((_, ids, _)) = left.first().copied() {
            let first = left.len() == hint_count;
            if !first && !wide {
                break;
            }
            let try_started = Instant::now();
            let before = smallest;
            let same: Vec<(u8, &[ChunkId], i32)>;
            (same, left) = left.into_iter().partition(|(_, other, _)| *other == ids);
            let Some(joined) = self.reader.join(ids) else { continue };
            let base = |(_, _, align): &(u8, &[ChunkId], i32)| Base {
                plain: &joined,
                align: Some(i64::from(*align)),
                depth: 0,
            };
            let tried: Vec<Base<'_>> = same.iter().map(base).collect();
            if let Some(delta) = delta::encode(&plain, &tried, smallest, delta::LEVEL_DEFAULT)
                && let Some((number, ..)) = same.get(delta.base)
            {
                smallest = delta.body.len();
                best = Some((*number, delta));
            }
            if !first {
                self.wide.tried((before - smallest) as u64, try_started.elapsed().as_secs_f64());
            }
            if best.as_ref().is_some_and(|(_, delta)| delta.suffices(plain.len(), rival)) {
                break;
            }
        }
        let wire_bytes = best.as_ref().map_or(rival, |(_, delta)| delta.body.len() + HEAD_BYTES);
        self.switch.delta(step(plain.len(), wire_bytes, started));
        let (base, delta) = best?;
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
