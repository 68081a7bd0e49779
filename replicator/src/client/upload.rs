//! Gives chunks to a node and learns that they are durable.

use causeway_dedup::EncodedChunk;
use causeway_transport::quic::{PeerAddr, RecvStream, SendStream, StreamError};

use super::{About, ChunkClient, ClientError, request};
use crate::exchange::{self, Tally};
use crate::wire::{Cause, Frame, UploadAck, service};

impl ChunkClient {
    /// Begins an upload to a node.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn upload(&self, to: &PeerAddr, about: &About) -> Result<Uploader, ClientError> {
        let about = About { cause: Cause::Upload, ..about.clone() };
        let tally = self.tally(to, &about);
        let (send, recv) = self.call(to, service::UPLOAD, request(&about, &[]).encode()?, &tally).await?;
        Ok(Uploader { send, recv, tally, token: 0, chunks: 0, payload_bytes: 0 })
    }
}

/// An upload: chunks go out as fast as the node takes them; what was sent before a [`Uploader::sync`] that returned is
/// durable there. Dropped before that, nothing is known of what was sent.
#[derive(Debug)]
pub struct Uploader {
    send: SendStream,
    recv: RecvStream,
    tally: Tally,
    token: u32,
    chunks: u64,
    payload_bytes: u64,
}

impl Uploader {
    /// Sends a chunk; the node verifies it.
    ///
    /// Not cancel safe: drop the upload then.
    ///
    /// # Errors
    /// [`ClientError`], with the node's own reason if it gave one. Of no use after an error.
    pub async fn put(&mut self, chunk: EncodedChunk) -> Result<(), ClientError> {
        self.chunks += 1;
        self.payload_bytes += chunk.payload.len() as u64;
        self.write(&Frame::Put(chunk)).await
    }

    /// Waits until everything sent so far is durable at the node.
    ///
    /// Not cancel safe: drop the upload then.
    ///
    /// # Errors
    /// As [`Uploader::put`]. What was sent may or may not be there: all of it may be sent again.
    pub async fn sync(&mut self) -> Result<UploadAck, ClientError> {
        self.token = self.token.wrapping_add(1);
        self.write(&Frame::Sync(self.token)).await?;
        match self.next_frame().await? {
            Some(Frame::Ack(ack)) if ack.token == self.token => Ok(ack),
            Some(Frame::Refused(refusal)) => Err(refusal.into()),
            Some(_) => Err(ClientError::OutOfTurn("an acknowledgement was expected")),
            None => Err(StreamError::Truncated.into()),
        }
    }

    /// Chunks and payload bytes sent so far, for progress.
    #[must_use]
    pub fn sent(&self) -> (u64, u64) {
        (self.chunks, self.payload_bytes)
    }

    /// Ends the upload after a last [`Uploader::sync`].
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// As [`Uploader::sync`].
    pub async fn finish(mut self) -> Result<UploadAck, ClientError> {
        let ack = self.sync().await?;
        self.send.finish()?;
        Ok(ack)
    }

    async fn write(&mut self, frame: &Frame) -> Result<(), ClientError> {
        let Err(error) = exchange::write(&mut self.send, frame, &self.tally).await else { return Ok(()) };
        // The node stopped reading; it may have said why before.
        while let Ok(Some(frame)) = self.next_frame().await {
            if let Frame::Refused(refusal) = frame {
                return Err(refusal.into());
            }
        }
        Err(error.into())
    }

    async fn next_frame(&mut self) -> Result<Option<Frame>, ClientError> {
        let Some(bytes) = exchange::read(&mut self.recv).await? else { return Ok(None) };
        let len = bytes.len();
        let frame = Frame::parse(bytes)?;
        self.tally.received(&frame, len);
        Ok(Some(frame))
    }
}
