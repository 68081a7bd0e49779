//! Byte planes: the difference of elements that lie at the same place, its bytes sorted by significance.
//!
//! A tensor whose values all changed a little keeps hardly an exact string of bytes, but the upper bytes of the differences
//! are nearly all zero. Each plane (all lowest bytes, all second bytes, …) is compressed by itself, since each has its own
//! distribution.

use std::cell::RefCell;

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};

use super::{Base, DeltaError};

const HEADER_BYTES: usize = 6;
/// Of a plane: method, length of what follows.
const PLANE_HEADER_BYTES: usize = 4;
/// Largest element.
const WIDTH_MAX: usize = 8;
/// What the elements of a chunk are judged by: pieces of this size, [`SAMPLE_PIECES`] of them.
const SAMPLE_PIECE_BYTES: usize = 4 << 10;
const SAMPLE_PIECES: usize = 2;
/// Planes are compressed for their entropy: no more matches are looked for than level 1 does.
const LEVEL: i32 = 1;

/// How the elements of a chunk are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    /// Log2 of the bytes of an element: 0 to 3.
    width_log2: u8,
    /// Whether elements are subtracted as little-endian integers (and the difference zigzag-coded), else XORed.
    subtract: bool,
    /// Bytes before the first whole element.
    phase: u8,
    /// Byte `i` of the chunk lies where byte `i + shift` of the base does.
    shift: i32,
}

impl Shape {
    const fn width(self) -> usize {
        1 << self.width_log2
    }
}

/// What a sample says of the planes against a base.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trial {
    shape: Shape,
    /// About what the planes take.
    pub(super) bytes: usize,
    /// The share of the sample's words of eight bytes that is the same in both; of its pieces the one with most.
    same: f64,
    /// Whether more than one piece was looked at.
    large: bool,
}

impl Trial {
    /// Whether zstd with the base as prefix would be work in vain: every part of the chunk changed, and the planes do well.
    /// An insertion is not mistaken for that: what is before it is all the same, and what is after it makes bad planes.
    pub(super) fn beats_prefix(&self, rival: usize) -> bool {
        self.large
            && ((self.same < 0.03 && self.bytes < rival / 4 * 3) || (self.same < SAME_MAX && self.bytes < rival / 2))
    }
}

/// A part of a chunk, and what lies beneath it.
pub(super) struct Sample<'a> {
    pieces: Vec<(&'a [u8], Vec<u8>)>,
    shift: i32,
    /// The share of the words of eight bytes that is the same in both; of the pieces the one with most.
    same: f64,
}

impl<'a> Sample<'a> {
    /// Takes a sample; `None` if it is not known where the base lies beneath the chunk.
    pub(super) fn new(plain: &'a [u8], base: &Base<'_>) -> Option<Self> {
        let shift = shift(plain.len(), base)?;
        let piece = |(at, len): (usize, usize)| {
            let mut below = vec![0; len];
            beneath(base.plain, shift, at, &mut below);
            (&plain[at..at + len], below)
        };
        let pieces: Vec<(&[u8], Vec<u8>)> = sample(plain.len()).map(piece).collect();
        let same = pieces.iter().map(|(plain, below)| {
            let words = plain.as_chunks::<8>().0.iter().zip(below.as_chunks::<8>().0);
            words.filter(|(new, old)| new == old).count() as f64 * 8.0 / plain.len().max(1) as f64
        });
        let same = same.fold(0.0, f64::max);
        Some(Self { pieces, shift, same })
    }

    /// Whether so much changed in each piece that zstd with the base as prefix might be work in vain.
    pub(super) fn changed(&self) -> bool {
        self.same < SAME_MAX
    }

    /// Finds how elements of a chunk of `len` bytes are best taken.
    pub(super) fn trial(&self, len: usize) -> Option<Trial> {
        let (shape, share) = best_shape(&self.pieces, self.shift)?;
        Some(Trial { shape, bytes: (share * len as f64) as usize, same: self.same, large: self.pieces.len() > 1 })
    }
}

/// Of a sample of which more is the same the planes never make prefixes vain.
const SAME_MAX: f64 = 0.75;

/// The planes as the trial found best.
pub(super) fn encode(plain: &[u8], base: &Base<'_>, trial: &Trial) -> Option<Bytes> {
    write(plain, base.plain, trial.shape)
}

/// Where the base lies beneath the chunk: where it is said to, or else there if it is as long.
fn shift(len: usize, base: &Base<'_>) -> Option<i32> {
    let known = match base.align {
        Some(align) => i32::try_from(align).ok(),
        None => (base.plain.len() == len).then_some(0),
    };
    let overlaps = |shift: &i32| {
        let (from, to) = (i64::from(*shift), i64::from(*shift) + len as i64);
        (to.min(base.plain.len() as i64) - from.max(0)) * 2 > len as i64
    };
    known.filter(overlaps)
}

/// The base's bytes beneath `plain[at..at + into.len()]`, zeros where there are none.
fn beneath(base: &[u8], shift: i32, at: usize, into: &mut [u8]) {
    let from = at as i64 + i64::from(shift);
    let skip = usize::try_from(-from).unwrap_or(0).min(into.len());
    let (outside, into) = into.split_at_mut(skip);
    outside.fill(0);
    let rest = base.get(usize::try_from(from).unwrap_or(0)..).unwrap_or_default();
    let len = rest.len().min(into.len());
    into[..len].copy_from_slice(&rest[..len]);
    into[len..].fill(0);
}

#[inline]
fn word<const WIDTH: usize>(bytes: &[u8; WIDTH]) -> u64 {
    let mut wide = [0; WIDTH_MAX];
    wide[..WIDTH].copy_from_slice(bytes);
    u64::from_le_bytes(wide)
}

/// Differences as small numbers whatever their sign: 0, -1, 1, -2, … become 0, 1, 2, 3, ….
const fn zigzag(difference: u64, bits: u32) -> u64 {
    let wide = (difference << (64 - bits)) as i64 >> (64 - bits);
    ((wide << 1) ^ (wide >> 63)) as u64 & (u64::MAX >> (64 - bits))
}

const fn unzigzag(coded: u64) -> u64 {
    (coded >> 1) ^ (coded & 1).wrapping_neg()
}

/// The best shape at a shift by the entropy of a sample's planes, and the share of its bytes that they take.
fn best_shape(pieces: &[(&[u8], Vec<u8>)], shift: i32) -> Option<(Shape, f64)> {
    let sample_bytes: usize = pieces.iter().map(|(piece, _)| piece.len()).sum();
    // Where elements begin does not change their XOR's planes; for the difference it is where it is smallest. Differences are
    // looked at closely only at the two widths at which they are smallest.
    let mut widths: Vec<(u64, Shape)> = (0..=3)
        .flat_map(|width_log2| {
            let shapes = (0..1 << width_log2).map(move |phase| Shape { width_log2, subtract: true, phase, shift });
            shapes.map(|shape| (significant_bits(pieces, shape), shape)).min_by_key(|(bits, _)| *bits)
        })
        .collect();
    widths.sort_by_key(|(bits, _)| *bits);
    let subtracted = widths.iter().take(2).map(|(_, shape)| *shape);
    let shapes = (0..=3).map(|width_log2| Shape { width_log2, subtract: false, phase: 0, shift }).chain(subtracted);
    let (bits, shape) =
        shapes.map(|shape| (entropy_bits(pieces, shape), shape)).min_by(|(one, _), (two, _)| one.total_cmp(two))?;
    Some((shape, bits / (8 * sample_bytes.max(1)) as f64))
}

/// Pieces to look at: place and length. Places are multiples of the largest element, so that phases are the chunk's.
fn sample(len: usize) -> impl Iterator<Item = (usize, usize)> {
    let piece = SAMPLE_PIECE_BYTES.min(len);
    let pieces = if len > SAMPLE_PIECES * SAMPLE_PIECE_BYTES { SAMPLE_PIECES } else { 1 };
    let step = (len - piece) / pieces;
    (0..pieces).map(move |n| ((step / 2 + n * step) / WIDTH_MAX * WIDTH_MAX, piece))
}

/// Calls `each` with the difference of each whole element. The width is a constant in each loop: words are loaded at once.
fn differences(plain: &[u8], below: &[u8], shape: Shape, mut each: impl FnMut(u64)) {
    fn wide<const WIDTH: usize>(plain: &[u8], below: &[u8], subtract: bool, each: &mut impl FnMut(u64)) {
        for (new, old) in plain.as_chunks::<WIDTH>().0.iter().zip(below.as_chunks::<WIDTH>().0) {
            let (new, old) = (word(new), word(old));
            each(if subtract { zigzag(new.wrapping_sub(old), 8 * WIDTH as u32) } else { new ^ old });
        }
    }
    let phase = usize::from(shape.phase);
    let (plain, below) = (plain.get(phase..).unwrap_or_default(), below.get(phase..).unwrap_or_default());
    match shape.width_log2 {
        0 => wide::<1>(plain, below, shape.subtract, &mut each),
        1 => wide::<2>(plain, below, shape.subtract, &mut each),
        2 => wide::<4>(plain, below, shape.subtract, &mut each),
        _ => wide::<8>(plain, below, shape.subtract, &mut each),
    }
}

/// Bits of the differences up to the highest one that is set, as if each took a fixed width.
fn significant_bits(pieces: &[(&[u8], Vec<u8>)], shape: Shape) -> u64 {
    let mut bits = 0;
    for (plain, below) in pieces {
        differences(plain, below, shape, |difference| bits += u64::from(64 - difference.leading_zeros()));
    }
    bits
}

/// Entropy of the planes, each by itself, with the usual correction for small samples (Miller 1955).
fn entropy_bits(pieces: &[(&[u8], Vec<u8>)], shape: Shape) -> f64 {
    let mut counts = [[0_u32; 256]; WIDTH_MAX];
    let mut total = 0_u32;
    for (plain, below) in pieces {
        differences(plain, below, shape, |difference| {
            for (plane, counts) in counts.iter_mut().take(shape.width()).enumerate() {
                counts[(difference >> (8 * plane) & 0xff) as usize] += 1;
            }
            total += 1;
        });
    }
    let total = f64::from(total.max(1));
    let plane_bits = |counts: &[u32; 256]| {
        let (mut bits, mut kinds) = (0.0, 0.0);
        for count in counts.iter().filter(|count| **count > 0) {
            let count = f64::from(*count);
            bits += count * (total / count).log2();
            kinds += 1.0;
        }
        // zstd's Huffman codes take at least a bit a byte, but for long runs.
        let bits = bits + (kinds - 1.0) / (2.0 * std::f64::consts::LN_2);
        if kinds > 1.0 { bits.max(total.min(bits * 4.0)).min(8.0 * total) } else { 0.0 }
    };
    counts.iter().take(shape.width()).map(plane_bits).sum()
}

/// Splits differences into planes, lowest first.
fn split<const WIDTH: usize>(plain: &[u8], below: &[u8], shape: Shape, planes: &mut [u8]) {
    let elements = plain.len() / WIDTH;
    if elements == 0 {
        return;
    }
    let mut rows = planes.chunks_exact_mut(elements);
    let mut rows: [&mut [u8]; WIDTH] = std::array::from_fn(|_| rows.next().unwrap_or_default());
    let pairs = plain.as_chunks::<WIDTH>().0.iter().zip(below.as_chunks::<WIDTH>().0);
    for (place, (new, old)) in pairs.enumerate() {
        let (new, old) = (word(new), word(old));
        let coded = if shape.subtract { zigzag(new.wrapping_sub(old), 8 * WIDTH as u32) } else { new ^ old };
        for (plane, row) in rows.iter_mut().enumerate() {
            row[place] = (coded >> (8 * plane)) as u8;
        }
    }
}

/// The reverse of [`split`]: changes `below` to the new elements.
fn join<const WIDTH: usize>(below: &mut [u8], shape: Shape, planes: &[u8]) {
    let elements = below.len() / WIDTH;
    if elements == 0 {
        return;
    }
    let mut rows = planes.chunks_exact(elements);
    let rows: [&[u8]; WIDTH] = std::array::from_fn(|_| rows.next().unwrap_or_default());
    for (place, element) in below.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate() {
        let coded = rows.iter().rev().fold(0_u64, |coded, row| coded << 8 | u64::from(row[place]));
        let old = word(element);
        let new = if shape.subtract { old.wrapping_add(unzigzag(coded)) } else { old ^ coded };
        for (plane, byte) in element.iter_mut().enumerate() {
            *byte = (new >> (8 * plane)) as u8;
        }
    }
}

/// Where whole elements lie in a chunk: bytes before the first, and the end of the last.
fn whole(len: usize, shape: Shape) -> (usize, usize) {
    let start = usize::from(shape.phase).min(len);
    (start, start + (len - start) / shape.width() * shape.width())
}

fn write(plain: &[u8], base: &[u8], shape: Shape) -> Option<Bytes> {
    let mut below = vec![0; plain.len()];
    beneath(base, shape.shift, 0, &mut below);
    let (start, end) = whole(plain.len(), shape);
    let mut planes = vec![0; end - start];
    let (new, old) = (&plain[start..end], &below[start..end]);
    match shape.width_log2 {
        0 => split::<1>(new, old, shape, &mut planes),
        1 => split::<2>(new, old, shape, &mut planes),
        2 => split::<4>(new, old, shape, &mut planes),
        _ => split::<8>(new, old, shape, &mut planes),
    }
    let mut body = vec![shape.width_log2 | u8::from(shape.subtract) << 2, shape.phase];
    body.extend_from_slice(&shape.shift.to_le_bytes());
    body.extend((0..start).chain(end..plain.len()).map(|at| plain[at] ^ below[at]));
    let elements = planes.len() / shape.width();
    if elements > 0 {
        for plane in planes.chunks_exact(elements) {
            write_plane(plane, &mut body)?;
        }
    }
    Some(body.into())
}

/// Methods of a plane.
const PLANE_RAW: u8 = 0;
const PLANE_ZSTD: u8 = 1;
const PLANE_FILL: u8 = 2;

thread_local! {
    static ENCODER: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECODER: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

fn write_plane(plane: &[u8], body: &mut Vec<u8>) -> Option<()> {
    let first = *plane.first()?;
    if plane.iter().all(|byte| *byte == first) {
        body.extend_from_slice(&[PLANE_FILL, 1, 0, 0, first]);
        return Some(());
    }
    let frame = ENCODER.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(Compressor::new(LEVEL).ok()?);
        }
        slot.as_mut()?.compress(plane).ok()
    })?;
    let (method, content) = if frame.len() < plane.len() { (PLANE_ZSTD, frame.as_slice()) } else { (PLANE_RAW, plane) };
    let [a, b, c, _] = u32::try_from(content.len()).ok()?.to_le_bytes();
    body.extend_from_slice(&[method, a, b, c]);
    body.extend_from_slice(content);
    Some(())
}

/// The plain bytes of a body.
pub(super) fn decode(body: &[u8], base: &[u8], raw_len: usize) -> Result<Bytes, DeltaError> {
    let wrong = |what: &str| DeltaError::Body(what.into());
    let (header, mut rest) = body.split_first_chunk::<HEADER_BYTES>().ok_or_else(|| wrong("it is cut off"))?;
    let [kind, phase, a, b, c, d] = *header;
    let shape = Shape { width_log2: kind & 3, subtract: kind & 4 != 0, phase, shift: i32::from_le_bytes([a, b, c, d]) };
    if kind > 7 || usize::from(phase) >= shape.width() {
        return Err(wrong("the elements are of no known shape"));
    }
    let (start, end) = whole(raw_len, shape);
    let edges = start + raw_len - end;
    if rest.len() < edges {
        return Err(wrong("it is cut off"));
    }
    let mut plain = vec![0; raw_len];
    beneath(base, shape.shift, 0, &mut plain);
    for (at, byte) in (0..start).chain(end..raw_len).zip(&rest[..edges]) {
        plain[at] ^= byte;
    }
    rest = &rest[edges..];
    let mut planes = vec![0; end - start];
    let elements = planes.len() / shape.width();
    if elements > 0 {
        for plane in planes.chunks_exact_mut(elements) {
            rest = read_plane(rest, plane)?;
        }
    }
    if !rest.is_empty() {
        return Err(wrong("bytes follow its end"));
    }
    let inner = &mut plain[start..end];
    match shape.width_log2 {
        0 => join::<1>(inner, shape, &planes),
        1 => join::<2>(inner, shape, &planes),
        2 => join::<4>(inner, shape, &planes),
        _ => join::<8>(inner, shape, &planes),
    }
    Ok(plain.into())
}

/// Reads one plane and gives what follows it.
fn read_plane<'a>(body: &'a [u8], plane: &mut [u8]) -> Result<&'a [u8], DeltaError> {
    let wrong = |what: String| DeltaError::Body(what);
    let cut_off = || wrong("a plane is cut off".into());
    let (header, rest) = body.split_first_chunk::<PLANE_HEADER_BYTES>().ok_or_else(cut_off)?;
    let [method, a, b, c] = *header;
    let len = u32::from_le_bytes([a, b, c, 0]) as usize;
    let (content, rest) = rest.split_at_checked(len).ok_or_else(cut_off)?;
    match (method, content) {
        (PLANE_FILL, [byte]) => plane.fill(*byte),
        (PLANE_RAW, content) if content.len() == plane.len() => plane.copy_from_slice(content),
        (PLANE_ZSTD, content) => {
            let decoded = DECODER.with_borrow_mut(|slot| {
                if slot.is_none() {
                    *slot = Some(Decompressor::new().map_err(|error| error.to_string())?);
                }
                let Some(decoder) = slot.as_mut() else { return Err("no decoder".into()) };
                decoder.decompress_to_buffer(content, plane).map_err(|error| error.to_string())
            });
            let len = decoded.map_err(wrong)?;
            if len != plane.len() {
                return Err(wrong(format!("a plane of {len} bytes, {} are due", plane.len())));
            }
        }
        _ => return Err(wrong("a plane has no known form".into())),
    }
    Ok(rest)
}
