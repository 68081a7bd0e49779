//! The compressed stream: one zstd frame over many chunks, so that what resembles an earlier chunk costs little.
//!
//! Inside are records: place in the request (u32), length (u32), bytes. The window is what the reader must keep; it is
//! bounded by [`WINDOW_LOG_MAX`] at both ends.

use std::io;

use bytes::Bytes;
use causeway_dedup::CHUNK_BYTES_MAX;
use zstd::stream::raw::{self, CParameter, DParameter, Operation};

use super::frame::PIECE_BYTES;

/// Log2 of the largest window in bytes that is written or read.
pub const WINDOW_LOG_MAX: u8 = 24;

const RECORD_HEAD_BYTES: usize = 8;
/// Decoded at once.
const OUTPUT_BYTES: usize = 128 << 10;

/// Compresses chunks into pieces. Memory: the window and about as much for the tables.
pub struct StreamEncoder {
    zstd: zstd::stream::write::Encoder<'static, Vec<u8>>,
}

impl std::fmt::Debug for StreamEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StreamEncoder")
    }
}

impl StreamEncoder {
    /// An encoder at a zstd level with a window of `2^window_log` bytes. Long-distance matching is on only for the largest
    /// window: at smaller ones it costs a quarter of the speed for 2 % of the bytes.
    ///
    /// # Errors
    /// zstd refuses the parameters or finds no memory.
    pub fn new(level: i8, window_log: u8) -> io::Result<Self> {
        let mut zstd = zstd::stream::write::Encoder::new(Vec::with_capacity(PIECE_BYTES), i32::from(level))?;
        zstd.set_parameter(CParameter::WindowLog(u32::from(window_log.min(WINDOW_LOG_MAX))))?;
        zstd.set_parameter(CParameter::EnableLongDistanceMatching(window_log >= 24))?;
        zstd.set_parameter(CParameter::ContentSizeFlag(false))?;
        Ok(Self { zstd })
    }

    /// Adds a chunk; gives a piece when there is enough for one.
    ///
    /// # Errors
    /// zstd failed.
    pub fn push(&mut self, index: u32, plain: &[u8]) -> io::Result<Option<Bytes>> {
        let len = u32::try_from(plain.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut head = [0; RECORD_HEAD_BYTES];
        head[..4].copy_from_slice(&index.to_le_bytes());
        head[4..].copy_from_slice(&len.to_le_bytes());
        io::Write::write_all(&mut self.zstd, &head)?;
        io::Write::write_all(&mut self.zstd, plain)?;
        Ok((self.zstd.get_ref().len() >= PIECE_BYTES).then(|| self.take()))
    }

    /// What has been pushed so far, readable at once; costs a few bytes.
    ///
    /// # Errors
    /// zstd failed.
    pub fn flush(&mut self) -> io::Result<Bytes> {
        io::Write::flush(&mut self.zstd)?;
        Ok(self.take())
    }

    /// The last piece.
    ///
    /// # Errors
    /// zstd failed.
    pub fn finish(self) -> io::Result<Bytes> {
        Ok(self.zstd.finish()?.into())
    }

    fn take(&mut self) -> Bytes {
        std::mem::replace(self.zstd.get_mut(), Vec::with_capacity(PIECE_BYTES)).into()
    }
}

/// Reads what [`StreamEncoder`] wrote, or what a hostile peer says it did. Memory: the window, one chunk and a buffer.
pub struct StreamDecoder {
    zstd: raw::Decoder<'static>,
    output: Vec<u8>,
    head: Vec<u8>,
    body: Vec<u8>,
    /// Of the record being read; `None` while its head is not complete.
    record: Option<(u32, usize)>,
}

impl std::fmt::Debug for StreamDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamDecoder").field("record", &self.record).finish_non_exhaustive()
    }
}

impl StreamDecoder {
    /// A decoder that accepts windows up to [`WINDOW_LOG_MAX`].
    ///
    /// # Errors
    /// zstd finds no memory.
    pub fn new() -> io::Result<Self> {
        let mut zstd = raw::Decoder::new()?;
        zstd.set_parameter(DParameter::WindowLogMax(u32::from(WINDOW_LOG_MAX)))?;
        Ok(Self { zstd, output: vec![0; OUTPUT_BYTES], head: Vec::new(), body: Vec::new(), record: None })
    }

    /// Decodes a piece. `begin` is asked about each record before its bytes are taken (place, length), `done` gets it
    /// whole; the first error of either ends the decoding, so that a stream is not decoded further than it is wanted.
    ///
    /// # Errors
    /// The stream is damaged ([`io::Error`] made into `E`), or as `begin` or `done` say. The decoder is of no use then.
    pub fn feed<E: From<io::Error>>(
        &mut self,
        piece: &[u8],
        mut begin: impl FnMut(u32, usize) -> Result<(), E>,
        mut done: impl FnMut(u32, Bytes) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut output = std::mem::take(&mut self.output);
        let mut read = 0;
        loop {
            let status = self.zstd.run_on_buffers(&piece[read..], &mut output)?;
            read += status.bytes_read;
            self.records(&output[..status.bytes_written], &mut begin, &mut done)?;
            if read == piece.len() && status.bytes_written < output.len() {
                break;
            }
            if status.bytes_read == 0 && status.bytes_written == 0 {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "bytes follow the end of the stream").into());
            }
        }
        self.output = output;
        Ok(())
    }

    /// Whether the stream stands between two records.
    #[must_use]
    pub fn is_between_records(&self) -> bool {
        self.record.is_none() && self.head.is_empty()
    }

    fn records<E: From<io::Error>>(
        &mut self,
        mut bytes: &[u8],
        begin: &mut impl FnMut(u32, usize) -> Result<(), E>,
        done: &mut impl FnMut(u32, Bytes) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            let Some((index, len)) = self.record else {
                let (now, rest) = bytes.split_at(bytes.len().min(RECORD_HEAD_BYTES - self.head.len()));
                self.head.extend_from_slice(now);
                bytes = rest;
                if let [a, b, c, d, e, f, g, h] = *self.head {
                    let (index, len) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
                    if len == 0 || len > CHUNK_BYTES_MAX {
                        let said = format!("a chunk of {len} bytes");
                        return Err(io::Error::new(io::ErrorKind::InvalidData, said).into());
                    }
                    begin(index, len as usize)?;
                    self.head.clear();
                    self.body = Vec::with_capacity(len as usize);
                    self.record = Some((index, len as usize));
                }
                continue;
            };
            let (now, rest) = bytes.split_at(bytes.len().min(len - self.body.len()));
            self.body.extend_from_slice(now);
            bytes = rest;
            if self.body.len() == len {
                self.record = None;
                done(index, std::mem::take(&mut self.body).into())?;
            }
        }
        Ok(())
    }
}
