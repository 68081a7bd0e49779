//! zstd with the base as prefix.
//!
//! The base is a raw-content dictionary, which for one frame is the same as a prefix. zstd takes bytes that begin with its
//! dictionary magic for a trained dictionary; both sides do so alike, and where it is none the encoder fails, so that such a
//! base is merely not used.

use std::cell::RefCell;

use bytes::Bytes;
use zstd::zstd_safe::{CCtx, DCtx, compress_bound, get_error_name};

thread_local! {
    static ENCODER: RefCell<Option<(CCtx<'static>, Vec<u8>)>> = const { RefCell::new(None) };
    static DECODER: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

/// One frame; `None` if zstd fails.
pub(super) fn encode(plain: &[u8], base: &[u8], level: i32) -> Option<Bytes> {
    ENCODER.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some((CCtx::try_create()?, Vec::new()));
        }
        let (context, output) = slot.as_mut()?;
        output.clear();
        output.reserve(compress_bound(plain.len()));
        let len = context.compress_using_dict(output, plain, base, level).ok()?;
        Some(Bytes::copy_from_slice(output.get(..len)?))
    })
}

/// Decodes one frame to exactly `raw_len` bytes; allocates no more than that.
pub(super) fn decode(body: &[u8], base: &[u8], raw_len: usize) -> Result<Bytes, String> {
    DECODER.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = DCtx::try_create();
        }
        let Some(context) = slot.as_mut() else { return Err("no memory for a decoder".into()) };
        let mut plain = Vec::with_capacity(raw_len);
        let decoded = context.decompress_using_dict(&mut plain, body, base);
        decoded.map_err(|code| get_error_name(code).to_owned())?;
        if plain.len() == raw_len { Ok(plain.into()) } else { Err(format!("{} bytes", plain.len())) }
    })
}
