//! The two directions of a call: bounded frames, and an end to waiting.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use quinn::VarInt;
use tokio::time::timeout;

use super::error::{StreamError, close};

/// Bytes that a frame adds to its content: its length, u32 little-endian.
pub const FRAME_HEAD_BYTES: usize = 4;

/// Pieces taken from the connection at once; each is at most a datagram.
const PIECES: usize = 32;
/// Most that is allocated on the word of a length.
const ALLOCATED_AHEAD: usize = 1 << 20;

/// The direction from us. Dropped before [`SendStream::finish`] it is reset, so the reader never takes a part for the
/// whole.
#[derive(Debug)]
pub struct SendStream {
    inner: quinn::SendStream,
    progress_timeout: Duration,
    open: bool,
}

impl SendStream {
    pub(super) fn new(inner: quinn::SendStream, progress_timeout: Duration) -> Self {
        Self { inner, progress_timeout, open: true }
    }

    /// Writes all of `bytes`, waiting for the reader as need be.
    ///
    /// Not cancel safe: a dropped write may have written a part. Drop the stream then.
    ///
    /// # Errors
    /// [`StreamError::Stalled`] if the reader takes nothing for the progress timeout, or as the stream ended.
    pub async fn write_all(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.write_pieces(&mut [bytes]).await
    }

    /// Writes a frame: the length of `content`, then `content`.
    ///
    /// Not cancel safe, as [`SendStream::write_all`].
    ///
    /// # Errors
    /// [`StreamError::FrameTooLarge`] over `u32::MAX`; otherwise as [`SendStream::write_all`].
    pub async fn write_frame(&mut self, content: Bytes) -> Result<(), StreamError> {
        let len = u32::try_from(content.len())
            .map_err(|_| StreamError::FrameTooLarge { len: content.len() as u64, max: u32::MAX })?;
        let head = Bytes::copy_from_slice(&len.to_le_bytes());
        self.write_pieces(&mut [head, content]).await
    }

    /// Writes pieces one after the other without joining them.
    ///
    /// Not cancel safe, as [`SendStream::write_all`].
    ///
    /// # Errors
    /// As [`SendStream::write_all`].
    pub async fn write_pieces(&mut self, mut pieces: &mut [Bytes]) -> Result<(), StreamError> {
        if !self.open {
            return Err(StreamError::Closed);
        }
        while pieces.iter().any(|piece| !piece.is_empty()) {
            let Ok(written) = timeout(self.progress_timeout, self.inner.write_chunks(pieces)).await else {
                self.reset(close::STALLED);
                return Err(StreamError::Stalled(self.progress_timeout));
            };
            pieces = &mut pieces[written?.chunks..];
        }
        Ok(())
    }

    /// Ends the stream: the reader sees its end after the last byte. Does not wait.
    ///
    /// # Errors
    /// [`StreamError`] if it was over already.
    pub fn finish(mut self) -> Result<(), StreamError> {
        self.end()
    }

    /// As [`SendStream::finish`], and waits until the reader's machine has all bytes. Whether its program has read
    /// them, only an answer of it can tell.
    ///
    /// Cancel safe: dropped, the stream is finished all the same.
    ///
    /// # Errors
    /// As the stream ended, or [`StreamError::Stalled`].
    pub async fn finish_delivered(mut self) -> Result<(), StreamError> {
        self.end()?;
        match timeout(self.progress_timeout, self.inner.stopped()).await {
            Err(_) => Err(StreamError::Stalled(self.progress_timeout)),
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(code))) => Err(StreamError::Reset(code.into_inner())),
            Ok(Err(error)) => Err(StreamError::Lost(error.to_string())),
        }
    }

    /// Gives up the stream with a code that the reader sees, see [`close`].
    pub fn refuse(mut self, code: u32) {
        self.reset(code);
    }

    /// Waits until the reader gives up or everything was delivered; for work that is of no use without a reader.
    ///
    /// Cancel safe.
    pub async fn stopped(&self) {
        let _ = self.inner.stopped().await;
    }

    /// Among the streams of a connection, higher ones are sent first. Default 0.
    pub fn set_priority(&self, priority: i32) {
        // Fails only for a stream that is over.
        let _ = self.inner.set_priority(priority);
    }

    /// Another limit for a wait without progress than the endpoint's.
    pub const fn set_progress_timeout(&mut self, limit: Duration) {
        self.progress_timeout = limit;
    }

    fn end(&mut self) -> Result<(), StreamError> {
        self.open = false;
        self.inner.finish().map_err(|_| StreamError::Closed)
    }

    fn reset(&mut self, code: u32) {
        if std::mem::take(&mut self.open) {
            let _ = self.inner.reset(VarInt::from_u32(code));
        }
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        self.reset(close::ABANDONED);
    }
}

/// The direction to us. Dropped before its end, the writer is told to stop.
#[derive(Debug)]
pub struct RecvStream {
    inner: quinn::RecvStream,
    progress_timeout: Duration,
    /// Taken from the connection, not yet read: at most [`PIECES`] datagrams' worth.
    taken: VecDeque<Bytes>,
    ended: bool,
}

impl RecvStream {
    pub(super) const fn new(inner: quinn::RecvStream, progress_timeout: Duration) -> Self {
        Self { inner, progress_timeout, taken: VecDeque::new(), ended: false }
    }

    /// The next bytes, at most `bytes_max` of them and as many as have arrived in one piece; `None` at the end.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`StreamError::Stalled`] if nothing comes for the progress timeout, or as the stream ended.
    pub async fn read(&mut self, bytes_max: usize) -> Result<Option<Bytes>, StreamError> {
        if self.taken.is_empty() {
            self.take().await?;
        }
        let Some(front) = self.taken.front_mut() else { return Ok(None) };
        if front.len() > bytes_max {
            return Ok(Some(front.split_to(bytes_max)));
        }
        Ok(self.taken.pop_front())
    }

    /// All pieces that have arrived, appended to `out`; false at the end. Saves copies where the reader takes pieces.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// As [`RecvStream::read`].
    pub async fn read_pieces(&mut self, out: &mut Vec<Bytes>) -> Result<bool, StreamError> {
        if self.taken.is_empty() {
            self.take().await?;
        }
        let any = !self.taken.is_empty();
        out.extend(self.taken.drain(..));
        Ok(any)
    }

    /// Exactly `len` bytes. Memory grows with what arrives, not with `len`.
    ///
    /// Not cancel safe: what was read is lost. Drop the stream then.
    ///
    /// # Errors
    /// [`StreamError::Truncated`] if the stream ends before, otherwise as [`RecvStream::read`].
    pub async fn read_exact(&mut self, len: usize) -> Result<Bytes, StreamError> {
        if len == 0 {
            return Ok(Bytes::new());
        }
        let first = self.read(len).await?.ok_or(StreamError::Truncated)?;
        if first.len() == len {
            return Ok(first);
        }
        let mut whole = BytesMut::with_capacity(len.min(ALLOCATED_AHEAD));
        whole.extend_from_slice(&first);
        while whole.len() < len {
            let more = self.read(len - whole.len()).await?.ok_or(StreamError::Truncated)?;
            whole.extend_from_slice(&more);
        }
        Ok(whole.freeze())
    }

    /// The next frame's content, of at most `bytes_max`; `None` if the stream ends before it.
    ///
    /// Not cancel safe, as [`RecvStream::read_exact`].
    ///
    /// # Errors
    /// [`StreamError::FrameTooLarge`] (the stream is given up then), [`StreamError::Truncated`] if it ends within the
    /// frame, otherwise as [`RecvStream::read`].
    pub async fn read_frame(&mut self, bytes_max: u32) -> Result<Option<Bytes>, StreamError> {
        let Some(mut head) = self.read(FRAME_HEAD_BYTES).await? else { return Ok(None) };
        if head.len() < FRAME_HEAD_BYTES {
            let mut joined = BytesMut::from(head.as_ref());
            joined.extend_from_slice(&self.read_exact(FRAME_HEAD_BYTES - head.len()).await?);
            head = joined.freeze();
        }
        let len = head.get_u32_le();
        if len > bytes_max {
            self.give_up(close::TOO_LARGE);
            return Err(StreamError::FrameTooLarge { len: u64::from(len), max: bytes_max });
        }
        self.read_exact(len as usize).await.map(Some)
    }

    /// Everything to the end, if it is at most `bytes_max`.
    ///
    /// Not cancel safe, as [`RecvStream::read_exact`].
    ///
    /// # Errors
    /// [`StreamError::FrameTooLarge`] over the bound, otherwise as [`RecvStream::read`].
    pub async fn read_to_end(&mut self, bytes_max: u32) -> Result<Bytes, StreamError> {
        let mut whole = BytesMut::new();
        while let Some(more) = self.read(usize::MAX).await? {
            let len = (whole.len() + more.len()) as u64;
            if len > u64::from(bytes_max) {
                self.give_up(close::TOO_LARGE);
                return Err(StreamError::FrameTooLarge { len, max: bytes_max });
            }
            whole.extend_from_slice(&more);
        }
        Ok(whole.freeze())
    }

    /// Tells the writer to stop, with a code, see [`close`].
    pub fn refuse(mut self, code: u32) {
        self.give_up(code);
    }

    /// Another limit for a wait without progress than the endpoint's.
    pub const fn set_progress_timeout(&mut self, limit: Duration) {
        self.progress_timeout = limit;
    }

    /// Waits for pieces, unless the stream has ended.
    async fn take(&mut self) -> Result<(), StreamError> {
        if self.ended {
            return Ok(());
        }
        let mut pieces = [const { Bytes::new() }; PIECES];
        let Ok(read) = timeout(self.progress_timeout, self.inner.read_chunks(&mut pieces)).await else {
            self.give_up(close::STALLED);
            return Err(StreamError::Stalled(self.progress_timeout));
        };
        let read = read?;
        self.ended = read.is_none();
        self.taken.extend(pieces.into_iter().take(read.unwrap_or(0)));
        Ok(())
    }

    fn give_up(&mut self, code: u32) {
        self.taken.clear();
        if !std::mem::replace(&mut self.ended, true) {
            let _ = self.inner.stop(VarInt::from_u32(code));
        }
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        self.give_up(close::ABANDONED);
    }
}
