//! zstd with the base as prefix.
//!
//! The base is a raw-content dictionary, which for one frame is the same as a prefix. zstd takes bytes that begin with its
//! dictionary magic for a trained dictionary; both sides do so alike, and where it is none the encoder fails, so that such a
//! base is merely not used.

use std::cell::RefCell;

use bytes::Bytes;
use zstd::zstd_safe::{CCtx, CParameter, DCtx, Strategy, compress_bound, get_error_name};

/// Up to this level the base is indexed by one table of its own size ([`fast`]); above, as zstd does at that level.
const FAST_LEVEL_MAX: i32 = 2;
/// Buffers that grew beyond this are given back.
const KEPT_BYTES: usize = 1 << 20;

/// Base and plain bytes, one after the other; the frame.
#[derive(Default)]
struct Buffers {
    joined: Vec<u8>,
    output: Vec<u8>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
    static DECODER: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

/// One frame; `None` if zstd fails.
///
/// Base and plain bytes lie together, which spares zstd its slower way of matching over two places. The context is made anew,
/// since one that is kept cannot borrow a prefix; that costs about 30 µs.
pub(super) fn encode(plain: &[u8], base: &[u8], level: i32) -> Option<Bytes> {
    BUFFERS.with_borrow_mut(|buffers| {
        let Buffers { joined, output } = buffers;
        joined.clear();
        joined.extend_from_slice(base);
        joined.extend_from_slice(plain);
        let (base, plain) = joined.split_at(base.len());
        output.clear();
        output.reserve(compress_bound(plain.len()));
        let mut context = CCtx::try_create()?;
        context.set_parameter(CParameter::CompressionLevel(level)).ok()?;
        if level <= FAST_LEVEL_MAX {
            fast(&mut context, joined.len())?;
        }
        context.ref_prefix(base).ok()?;
        let len = context.compress2(output, plain).ok()?;
        let body = Bytes::copy_from_slice(output.get(..len)?);
        drop(context);
        if joined.capacity() > KEPT_BYTES {
            *joined = Vec::new();
        }
        Some(body)
    })
}

/// Parameters for base and plain bytes of so many bytes together. zstd's own for such sizes either index with a table in
/// which most of the base is overwritten (levels 1 and 2), or with two (level 3), which takes more than twice the time and
/// saves 2 to 3 % (docs/deltas.md). zstd indexes no more of a prefix than eight times the table, hence its size.
fn fast(context: &mut CCtx<'_>, len: usize) -> Option<()> {
    let log = len.max(2).ilog2();
    let parameters = [
        CParameter::WindowLog((log + 1).clamp(10, 23)),
        CParameter::Strategy(Strategy::ZSTD_fast),
        CParameter::HashLog((log - 1).clamp(12, 19)),
        CParameter::MinMatch(6),
    ];
    parameters.into_iter().try_for_each(|parameter| context.set_parameter(parameter).map(drop)).ok()
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
