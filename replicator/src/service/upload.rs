//! UPLOAD: take these chunks and make them durable.

use std::sync::Arc;

use bytes::Bytes;
use causeway_base::RetryClass;
use causeway_dedup::store::PutHints;
use causeway_dedup::{EncodedChunk, Realm};
use causeway_transport::quic::RecvStream;
use tokio::sync::mpsc;

use super::{Call, ChunkService, Cut, refuse};
use crate::exchange::{self, Tally};
use crate::local::{LocalChunks, LocalError, PutCounts, blocking};
use crate::wire::{Frame, Refusal, UploadAck};

/// Chunks are verified and put in batches of about this many payload bytes.
const BATCH_BYTES: usize = 2 << 20;
/// Batches between the task that reads and the thread that puts.
const BATCHES_AHEAD: usize = 2;
/// A batch is put earlier if it decodes to about this many bytes.
const BATCH_PLAIN_BYTES: usize = 8 << 20;
/// Most memory of an upload: the batches ahead, the one being read and the one being put, each one chunk over its size, and
/// the plain bytes of the last.
pub const IN_FLIGHT_BYTES_MAX: usize = (BATCHES_AHEAD + 2) * (BATCH_BYTES + (1 << 20)) + BATCH_PLAIN_BYTES + (1 << 20);

struct Batch {
    chunks: Vec<EncodedChunk>,
    /// Sync after them, and say so with this number.
    sync: Option<u32>,
}

impl ChunkService {
    pub(super) async fn upload(&self, call: Call, mut recv: RecvStream) -> Result<(), Cut> {
        let _turn = match self.turn(&self.uploads).await {
            Ok(turn) => turn,
            Err(refusal) => return refuse(call.send, refusal, &call.tally).await,
        };
        let Call { realm, tally, mut send, lease, .. } = call;
        recv.set_progress_timeout(self.limits.upload_idle_timeout);
        let (batches, waiting) = mpsc::channel(BATCHES_AHEAD);
        let (answers, mut ready) = mpsc::channel::<Frame>(BATCHES_AHEAD);
        let worker = Worker { local: self.local.clone(), realm, tally: tally.clone(), answers: answers.clone() };
        let work = blocking(move || worker.run(waiting));
        let reading = async {
            let read = read_batches(recv, batches, &tally).await;
            if let Err(Cut::Refused(refusal)) = &read {
                let _ = answers.send(Frame::Refused(refusal.clone())).await;
            }
            drop(answers);
            read
        };
        let answering = async {
            while let Some(frame) = ready.recv().await {
                exchange::write(&mut send, &frame, &tally).await?;
            }
            send.finish()
        };
        let (worked, read, answered) = tokio::join!(work, reading, answering);
        drop(lease);
        worked?;
        answered?;
        read
    }
}

/// Reads until the end of the stream, or until the worker has given up.
async fn read_batches(mut recv: RecvStream, batches: mpsc::Sender<Batch>, tally: &Tally) -> Result<(), Cut> {
    let mut chunks = Vec::new();
    let (mut bytes, mut plain_bytes) = (0, 0);
    while let Some(frame) = exchange::read(&mut recv).await? {
        let len = frame.len();
        let frame = parse(frame)?;
        tally.received(&frame, len);
        let sync = match frame {
            Frame::Put(chunk) => {
                bytes += chunk.payload.len();
                plain_bytes += chunk.raw_len as usize;
                chunks.push(chunk);
                None
            }
            Frame::Sync(token) => Some(token),
            _ => return Err(malformed("a frame of another service").into()),
        };
        if sync.is_some() || bytes >= BATCH_BYTES || plain_bytes >= BATCH_PLAIN_BYTES {
            (bytes, plain_bytes) = (0, 0);
            let batch = Batch { chunks: std::mem::take(&mut chunks), sync };
            if batches.send(batch).await.is_err() {
                return Ok(()); // the worker has said why
            }
        }
    }
    // What was not synced is kept if it can be, and acknowledged to nobody.
    let _ = batches.send(Batch { chunks, sync: None }).await;
    Ok(())
}

fn parse(frame: Bytes) -> Result<Frame, Refusal> {
    Frame::parse(frame).map_err(|error| malformed(&error.to_string()))
}

fn malformed(what: &str) -> Refusal {
    Refusal { class: RetryClass::Refused, message: format!("malformed upload: {what}") }
}

struct Worker {
    local: Arc<dyn LocalChunks>,
    realm: Realm,
    tally: Tally,
    answers: mpsc::Sender<Frame>,
}

impl Worker {
    /// Blocks until the batches end or one fails.
    fn run(self, mut waiting: mpsc::Receiver<Batch>) {
        let mut since_ack = PutCounts::default();
        while let Some(batch) = waiting.blocking_recv() {
            let sync = batch.sync;
            match self.keep(batch) {
                Ok(counts) => {
                    since_ack.new += counts.new;
                    since_ack.known += counts.known;
                    since_ack.new_plain_bytes += counts.new_plain_bytes;
                }
                Err(refusal) => {
                    let _ = self.answers.blocking_send(Frame::Refused(refusal));
                    return;
                }
            }
            if let Some(token) = sync {
                let PutCounts { new, known, new_plain_bytes } = std::mem::take(&mut since_ack);
                let ack = Frame::Ack(UploadAck { token, new, known, plain_bytes: new_plain_bytes });
                if self.answers.blocking_send(ack).is_err() {
                    return;
                }
            }
        }
    }

    fn keep(&self, batch: Batch) -> Result<PutCounts, Refusal> {
        let mut chunks = Vec::with_capacity(batch.chunks.len());
        for chunk in &batch.chunks {
            let plain = chunk.decode(&self.realm).map_err(|error| malformed(&error.to_string()))?;
            self.tally.verified(plain.len());
            // The store compresses what comes together as one; what is plain need not be decoded for that again.
            chunks.push(EncodedChunk::plain(chunk.id, plain));
        }
        let refuse = |error: LocalError| Refusal { class: error.class, message: error.reason };
        let counts = match chunks.is_empty() {
            true => PutCounts::default(),
            // What was there before, the client does not say: the store may find chunks that are alike.
            false => self.local.put_with(&chunks, &PutHints::of(&self.realm)).map_err(refuse)?,
        };
        if batch.sync.is_some() {
            self.local.sync().map_err(refuse)?;
        }
        Ok(counts)
    }
}
