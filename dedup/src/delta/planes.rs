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

/// The planes, if a sample promises fewer than `rival` bytes.
pub(super) fn encode(plain: &[u8], base: &Base<'_>, rival: usize) -> Option<Bytes> {
    let mut best: Option<(f64, Shape)> = None;
    for shift in shifts(plain.len(), base) {
        if let Some((share, shape)) = trial(plain, base.plain, shift)
            && best.is_none_or(|(other, _)| share < other)
        {
            best = Some((share, shape));
        }
    }
    let (share, shape) = best?;
    if share * plain.len() as f64 >= rival as f64 {
        return None;
    }
    write(plain, base.plain, shape)
}

/// Where the base may lie beneath the chunk: where it is said to, or else there if it is about as long.
fn shifts(len: usize, base: &Base<'_>) -> impl Iterator<Item = i32> {
    let known = match base.align {
        Some(align) => i32::try_from(align).ok(),
        None => (base.plain.len() == len).then_some(0),
    };
    let overlaps = |shift: &i32| {
        let (from, to) = (i64::from(*shift), i64::from(*shift) + len as i64);
        (to.min(base.plain.len() as i64) - from.max(0)) * 2 > len as i64
    };
    known.filter(overlaps).into_iter()
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

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// Differences as small numbers whatever their sign: 0, -1, 1, -2, … become 0, 1, 2, 3, ….
const fn zigzag(difference: u64, bits: u32) -> u64 {
    let wide = (difference << (64 - bits)) as i64 >> (64 - bits);
    ((wide << 1) ^ (wide >> 63)) as u64 & (u64::MAX >> (64 - bits))
}

const fn unzigzag(coded: u64) -> u64 {
    (coded >> 1) ^ (coded & 1).wrapping_neg()
}

/// The best shape at a shift and the share of the plain bytes that it should come to, from the entropy of a sample's planes.
fn trial(plain: &[u8], base: &[u8], shift: i32) -> Option<(f64, Shape)> {
    let pieces: Vec<(&[u8], Vec<u8>)> = sample(plain.len())
        .map(|(at, len)| {
            let mut below = vec![0; len];
            beneath(base, shift, at, &mut below);
            (&plain[at..at + len], below)
        })
        .collect();
    let mut best: Option<(f64, Shape)> = None;
    for width_log2 in 0..=3 {
        let shape = Shape { width_log2, subtract: false, phase: 0, shift };
        // Where elements begin does not change their XOR's planes; for the difference it is where it is smallest.
        let phases = 0..shape.width() as u8;
        let significant = |phase: &u8| significant_bits(&pieces, Shape { phase: *phase, ..shape });
        let phase = phases.min_by_key(significant).unwrap_or(0);
        for shape in [shape, Shape { subtract: true, phase, ..shape }] {
            let bits = entropy_bits(&pieces, shape);
            let share = bits / (8 * pieces.iter().map(|(piece, _)| piece.len()).sum::<usize>()) as f64;
            if best.is_none_or(|(other, _)| share < other) {
                best = Some((share, shape));
            }
        }
    }
    best
}

/// Pieces to look at: place and length. Places are multiples of the largest element, so that phases are the chunk's.
fn sample(len: usize) -> impl Iterator<Item = (usize, usize)> {
    let piece = SAMPLE_PIECE_BYTES.min(len);
    let pieces = if len > SAMPLE_PIECES * SAMPLE_PIECE_BYTES { SAMPLE_PIECES } else { 1 };
    let step = (len - piece) / pieces;
    (0..pieces).map(move |n| ((step / 2 + n * step) / WIDTH_MAX * WIDTH_MAX, piece))
}

fn differences<'a>(plain: &'a [u8], below: &'a [u8], shape: Shape) -> impl Iterator<Item = u64> + 'a {
    let (phase, width) = (usize::from(shape.phase), shape.width());
    let pairs = plain.get(phase..).unwrap_or_default().chunks_exact(width);
    pairs.zip(below.get(phase..).unwrap_or_default().chunks_exact(width)).map(move |(new, old)| {
        let (new, old) = (word(new), word(old));
        if shape.subtract { zigzag(new.wrapping_sub(old), 8 * width as u32) } else { new ^ old }
    })
}

/// Bits of the differences up to the highest one that is set, as if each took a fixed width.
fn significant_bits(pieces: &[(&[u8], Vec<u8>)], shape: Shape) -> u64 {
    let subtract = Shape { subtract: true, ..shape };
    let bits = pieces.iter().flat_map(|(plain, below)| differences(plain, below, subtract));
    bits.map(|difference| u64::from(64 - difference.leading_zeros())).sum()
}

/// Entropy of the planes, each by itself, with the usual correction for small samples (Miller 1955).
fn entropy_bits(pieces: &[(&[u8], Vec<u8>)], shape: Shape) -> f64 {
    let mut counts = [[0_u32; 256]; WIDTH_MAX];
    let mut total = 0_u32;
    for (plain, below) in pieces {
        for difference in differences(plain, below, shape) {
            for (plane, counts) in counts.iter_mut().take(shape.width()).enumerate() {
                counts[(difference >> (8 * plane) & 0xff) as usize] += 1;
            }
            total += 1;
        }
    }
    let total = f64::from(total.max(1));
    let plane_bits = |counts: &[u32; 256]| {
        let (mut bits, mut kinds) = (0.0, 0.0);
        for count in counts.iter().filter(|count| **count > 0) {
            let count = f64::from(*count);
            bits += count * (total / count).log2();
            kinds += 1.0;
        }
        // zstd's Huffman codes take at least a bit a byte, unless all are the same.
        let bits = bits + (kinds - 1.0) / (2.0 * std::f64::consts::LN_2);
        if kinds > 1.0 { bits.max(total.min(bits * 4.0)) } else { 0.0 }.min(8.0 * total)
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
    let pairs = plain.chunks_exact(WIDTH).zip(below.chunks_exact(WIDTH));
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
    for (place, element) in below.chunks_exact_mut(WIDTH).enumerate() {
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
