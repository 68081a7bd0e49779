//! Frames over a call's streams, counted.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use causeway_transport::quic::{FRAME_HEAD_BYTES, RecvStream, SendStream, StreamError};

use crate::counters::{Account, Counters};
use crate::wire::{FRAME_BYTES_MAX, Frame};

/// Where the bytes of a call are counted.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    pub(crate) counters: Arc<Counters>,
    pub(crate) account: Account,
}

impl Tally {
    /// A frame's bytes, as chunk or as control.
    fn split(frame: &Frame, len: usize) -> (u64, u64) {
        let chunk = match frame {
            Frame::Stream(bytes) => bytes.len(),
            Frame::Chunk { payload, .. } => payload.len(),
            Frame::Put(chunk) => chunk.payload.len(),
            _ => 0,
        };
        (chunk as u64, (FRAME_HEAD_BYTES + len - chunk) as u64)
    }

    /// Of a delta its bytes, and those of the chunk.
    fn delta(frame: &Frame) -> Option<(u64, u64)> {
        match frame {
            Frame::Chunk { codec, payload, raw_len, .. } if codec.is_delta() => {
                Some((payload.len() as u64, u64::from(*raw_len)))
            }
            _ => None,
        }
    }

    pub(crate) fn sent(&self, frame: &Frame, len: usize) {
        let (chunk, control) = Self::split(frame, len);
        self.counters.add(&self.account, |bytes| {
            bytes.chunk_sent += chunk;
            bytes.control_sent += control;
            if let Some((delta, plain)) = Self::delta(frame) {
                bytes.deltas_sent += 1;
                bytes.delta_sent += delta;
                bytes.delta_plain_sent += plain;
            }
        });
    }

    pub(crate) fn received(&self, frame: &Frame, len: usize) {
        let (chunk, control) = Self::split(frame, len);
        self.counters.add(&self.account, |bytes| {
            bytes.chunk_received += chunk;
            bytes.control_received += control;
            if let Some((delta, plain)) = Self::delta(frame) {
                bytes.deltas_received += 1;
                bytes.delta_received += delta;
                bytes.delta_plain_received += plain;
            }
        });
    }

    pub(crate) fn request_sent(&self, len: usize) {
        self.counters.add(&self.account, |bytes| bytes.control_sent += len as u64);
    }

    pub(crate) fn request_received(&self, len: usize) {
        self.counters.add(&self.account, |bytes| bytes.control_received += len as u64);
    }

    pub(crate) fn verified(&self, plain_len: usize) {
        self.counters.add(&self.account, |bytes| {
            bytes.plain_received += plain_len as u64;
            bytes.chunks_received += 1;
        });
    }
}

/// Writes a frame and gives its length. Not cancel safe, as [`SendStream::write_pieces`].
pub(crate) async fn write(send: &mut SendStream, frame: &Frame, tally: &Tally) -> Result<usize, StreamError> {
    let [head, body] = frame.pieces();
    let len = head.len() + body.len();
    // Frames are bounded far below 4 GiB.
    let prefix = u32::try_from(len).unwrap_or(u32::MAX);
    let mut joined = BytesMut::with_capacity(FRAME_HEAD_BYTES + head.len());
    joined.put_u32_le(prefix);
    joined.put_slice(&head);
    send.write_pieces(&mut [joined.freeze(), body]).await?;
    tally.sent(frame, len);
    Ok(FRAME_HEAD_BYTES + len)
}

/// Reads a frame's bytes; `None` at the end of the stream. Not cancel safe.
pub(crate) async fn read(recv: &mut RecvStream) -> Result<Option<Bytes>, StreamError> {
    recv.read_frame(FRAME_BYTES_MAX).await
}
