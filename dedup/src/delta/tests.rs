use std::collections::HashMap;

use causeway_base::ChunkId;
use proptest::prelude::*;

use super::*;
use crate::{ChunkError, EncodedChunk, Realm};

fn realm() -> Realm {
    Realm::new("golden", *b"causeway golden vectors, key 001")
}

fn noise(seed: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_derive_key("causeway golden vectors").update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn uniform(seed: &str, len: usize) -> Vec<f64> {
    let words = noise(seed, 8 * len);
    words.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()) as f64 / u64::MAX as f64).collect()
}

/// Weights as a network has them: normal, and a hundredth of one.
fn weights(seed: &str, len: usize) -> Vec<f32> {
    let uniform = uniform(seed, 2 * len);
    let normal = |pair: &[f64]| (-2.0 * pair[0].max(1e-12).ln()).sqrt() * (std::f64::consts::TAU * pair[1]).cos();
    uniform.chunks_exact(2).map(|pair| (0.02 * normal(pair)) as f32).collect()
}

/// All changed by up to a thousandth, either way.
fn drifted(weights: &[f32], seed: &str) -> Vec<f32> {
    weights.iter().zip(uniform(seed, weights.len())).map(|(w, u)| w * (1.0 + 1e-3 * (2.0 * u - 1.0)) as f32).collect()
}

fn float32(weights: &[f32]) -> Vec<u8> {
    weights.iter().flat_map(|weight| weight.to_le_bytes()).collect()
}

fn bf16(weights: &[f32]) -> Vec<u8> {
    let round = |weight: &f32| ((weight.to_bits() + 0x8000) >> 16) as u16;
    weights.iter().flat_map(|weight| round(weight).to_le_bytes()).collect()
}

fn round_trip(plain: &[u8], base: Base<'_>) -> Option<Delta> {
    let delta = encode(plain, &[base], plain.len(), LEVEL_DEFAULT)?;
    assert_eq!(decode(delta.codec, &delta.body, base.plain, plain.len() as u32).unwrap(), plain);
    Some(delta)
}

#[test]
fn an_edit_costs_a_hundred_bytes() {
    let old = noise("edit", 65_536);
    let mut new = old.clone();
    new[30_000] ^= 1;
    let delta = round_trip(&new, Base::like(&old)).unwrap();
    assert_eq!((delta.codec, delta.depth), (Codec::ZstdPrefix, 1));
    assert!(delta.body.len() < 120, "{}", delta.body.len());
    new.splice(5_000..5_000, noise("inserted", 100));
    let delta = round_trip(&new, Base::like(&old)).unwrap();
    assert!(delta.body.len() < 250, "{}", delta.body.len());
}

#[test]
fn drifted_tensors_cost_their_changed_bits() {
    let old = weights("weights", 40_000);
    let new = drifted(&old, "drift");
    let (old32, new32) = (float32(&old), float32(&new));
    // Cut elsewhere than the old chunks were, and not at an element's start.
    let base = Base { plain: &old32, align: Some(10_003), depth: 0 };
    let delta = round_trip(&new32[10_003..75_539], base).unwrap();
    assert_eq!(delta.codec, Codec::Planes);
    assert!(delta.body.len() * 100 < 65_536 * 55, "{}", delta.body.len());

    let (old16, new16) = (bf16(&old), bf16(&new));
    let delta = round_trip(&new16[1..65_537], Base { plain: &old16[..65_536], align: Some(1), depth: 2 }).unwrap();
    assert_eq!((delta.codec, delta.depth), (Codec::Planes, 3));
    assert!(delta.body.len() * 100 < 65_536 * 15, "{}", delta.body.len());
}

#[test]
fn counters_of_eight_bytes_are_subtracted() {
    let old: Vec<u8> = (0..8_000_u64).flat_map(|n| (n * 0x1_0001_0ff3).to_le_bytes()).collect();
    let new: Vec<u8> = (0..8_000_u64).flat_map(|n| (n * 0x1_0001_0ff3 + n % 7).to_le_bytes()).collect();
    let delta = round_trip(&new, Base { plain: &old, align: Some(0), depth: 0 }).unwrap();
    assert_eq!(delta.codec, Codec::Planes);
    assert!(delta.body.len() < 5_000, "{}", delta.body.len());
}

#[test]
fn a_delta_that_saves_nothing_is_none() {
    let (old, new) = (noise("one", 65_536), noise("two", 65_536));
    assert_eq!(encode(&new, &[Base::like(&old)], new.len(), 3), None);
    assert_eq!(encode(&new, &[], new.len(), 3), None);
    assert_eq!(encode(&[], &[Base::like(&old)], 100, 3), None);
    assert_eq!(encode(&old, &[Base { depth: DEPTH_MAX, ..Base::like(&old) }], old.len(), 3), None, "too deep");
    assert!(encode(&old, &[Base::like(&new), Base::like(&old)], old.len(), 3).is_some_and(|delta| delta.base == 1));
    assert_eq!(encode(&old, &[Base::like(&old)], 10, 3), None, "the rival is smaller");
    let long = vec![0; BASE_BYTES_MAX + 1];
    assert_eq!(encode(&old, &[Base::like(&long)], old.len(), 3), None);
}

/// Bodies written by the first version; they must decode for ever.
#[test]
fn bodies_are_a_format() {
    let base: Vec<u8> = (0..4_000_u16).flat_map(|n| n.to_le_bytes()).collect();
    let prefix = hex::decode("28b52ffd60eb02850000186e65770200f1467fd4899f3bf50001").unwrap();
    let planes = [
        // 4-byte elements from byte 1 on, subtracted, shift -1; a raw byte first and three last; planes: fill 2, raw, fill, fill
        &[0b110, 1, 0xff, 0xff, 0xff, 0xff, 7, 1, 2, 3][..],
        &[PLANE_FILL, 1, 0, 0, 2],
        &[PLANE_RAW, 2, 0, 0, 1, 0],
        &[PLANE_FILL, 1, 0, 0, 0],
        &[PLANE_FILL, 1, 0, 0, 0],
    ]
    .concat();
    let decoded = decode(Codec::Planes, &planes, &base, 12).unwrap();
    // Beneath: 0 | 00 00 01 00 | 02 00 03 00 | 04 00 05. Differences: 0x102 (129), 2 (1).
    assert_eq!(decoded[..], [7, 0x81, 0, 1, 0, 3, 0, 3, 0, 5, 2, 6]);
    let decoded = decode(Codec::ZstdPrefix, &prefix, &base, 1_003).unwrap();
    assert_eq!(decoded, [&base[2_000..2_500], b"new", &base[500..1_000]].concat());
}
const PLANE_RAW: u8 = 0;
const PLANE_FILL: u8 = 2;

#[test]
fn bombs_and_liars_are_refused() {
    let zeros = vec![0; 8 << 20];
    let bomb = zstd::bulk::compress(&zeros, 3).unwrap();
    assert!(matches!(decode(Codec::ZstdPrefix, &bomb, b"base", 1 << 20), Err(DeltaError::Body(_))));
    assert!(matches!(decode(Codec::ZstdPrefix, &bomb, b"base", 8 << 20), Err(DeltaError::Length { .. })));
    assert!(matches!(decode(Codec::ZstdPrefix, &bomb, b"base", 0), Err(DeltaError::Length { .. })));
    assert!(matches!(decode(Codec::ZstdPrefix, &bomb, &zeros, 100), Err(DeltaError::Length { .. })));
    assert!(matches!(decode(Codec::Zstd, &bomb, b"base", 100), Err(DeltaError::Codec(_))));
    let frame = zstd::bulk::compress(&zeros, 3).unwrap();
    let mut plane_bomb = vec![0, 0, 0, 0, 0, 0, 1];
    plane_bomb.extend_from_slice(&(frame.len() as u32).to_le_bytes()[..3]);
    plane_bomb.extend_from_slice(&frame);
    assert!(matches!(decode(Codec::Planes, &plane_bomb, b"base", 1 << 20), Err(DeltaError::Body(_))));
}

struct Shelf(HashMap<ChunkId, EncodedChunk>);

impl Shelf {
    fn put(&mut self, plain: &[u8], base: Option<(&[u8], u8)>) -> EncodedChunk {
        let id = realm().chunk_id(plain);
        let plain = Bytes::copy_from_slice(plain);
        let chunk = match base {
            None => EncodedChunk::encode(id, plain, 3),
            Some((base, depth)) => {
                let ids = [realm().chunk_id(base)];
                EncodedChunk::encode_against(id, plain, &[(&ids, Base { plain: base, align: None, depth })], 3)
            }
        };
        self.0.insert(id, chunk.clone());
        chunk
    }

    fn read(&self, chunk: &EncodedChunk) -> Result<Bytes, ChunkError> {
        Resolver::new(|id: &ChunkId| Ok::<_, ChunkError>(self.0.get(id).cloned())).plain(chunk)
    }
}

#[test]
fn chains_are_read_and_bounded() {
    let mut shelf = Shelf(HashMap::new());
    let mut versions = vec![noise("chain", 50_000)];
    shelf.put(&versions[0], None);
    for depth in 0..5 {
        let mut next = versions[depth].clone();
        next[depth * 9_000] ^= 0xff;
        let chunk = shelf.put(&next, Some((&versions[depth], depth as u8)));
        assert_eq!(chunk.codec == Codec::ZstdPrefix, depth < usize::from(DEPTH_MAX), "depth {depth}");
        assert_eq!(shelf.read(&chunk).unwrap(), next);
        if chunk.codec.is_delta() {
            let record = DeltaRecord::from_payload(&chunk.payload).unwrap();
            assert_eq!(usize::from(record.depth), depth + 1);
            assert_eq!(record.to_payload(), chunk.payload);
            assert!(chunk.decode(&realm()).is_err(), "it does not stand alone");
        }
        versions.push(next);
    }
    // A chain that lies about its depth is cut all the same, as is one that bites its tail.
    let mut lie = versions.clone();
    for link in 0..4 {
        let mut next = lie[link].clone();
        next[100 + link] ^= 1;
        lie.push(next.clone());
        lie.swap(link + 1, versions.len() + link);
        let chunk = shelf.put(&lie[link + 1], Some((&lie[link], 0)));
        assert_eq!(shelf.read(&chunk).is_ok(), link < usize::from(DEPTH_MAX), "link {link}");
    }
    let mut tail = shelf.put(&lie[1], Some((&lie[0], 0)));
    tail.id = realm().chunk_id(&lie[0]);
    shelf.0.insert(tail.id, tail.clone());
    assert!(matches!(shelf.read(&tail), Err(ChunkError::Payload { .. })));
    shelf.0.clear();
    assert!(matches!(shelf.read(&tail), Err(ChunkError::Base { .. })));
}

#[test]
fn at_rest_the_smaller_form_wins() {
    let text = "a line of text that comes again and again\n".repeat(2_000);
    let base = noise("unlike", 65_536);
    let ids = [realm().chunk_id(&base)];
    let id = realm().chunk_id(text.as_bytes());
    let chunk = EncodedChunk::encode_against(id, text.clone().into(), &[(&ids, Base::like(&base))], 3);
    assert_eq!(chunk, EncodedChunk::encode(id, text.into(), 3));
}

/// A mutation: what, where (of 65,536 of the length), how many bytes.
type Mutation = (u8, u16, usize);

fn mutate(mut bytes: Vec<u8>, mutations: &[Mutation]) -> Vec<u8> {
    for (n, (what, at, len)) in mutations.iter().enumerate() {
        let at = usize::from(*at) * bytes.len() / 65_536;
        let end = (at + len).min(bytes.len());
        let new = noise(&format!("mutation {n}"), *len);
        match what % 4 {
            0 => drop(bytes.splice(at..at, new)),
            1 => drop(bytes.drain(at..end)),
            2 => bytes[at..end].copy_from_slice(&new[..end - at]),
            _ => bytes[at..end].iter_mut().for_each(|byte| *byte = byte.wrapping_add(1)),
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_is_encoded_decodes(len in 1_usize..150_000, alphabet in 1_u8..=255, mutations in prop::collection::vec((any::<u8>(), any::<u16>(), 1_usize..3_000), 0..12), align in prop_oneof![Just(None), (-70_000_i64..70_000).prop_map(Some), Just(Some(0))]) {
        let old: Vec<u8> = noise("property", len).into_iter().map(|byte| byte % alphabet).collect();
        let mut new = mutate(old.clone(), &mutations);
        new.push(1);
        let base = Base { plain: &old, align, depth: 0 };
        let rival = EncodedChunk::encode(realm().chunk_id(&new), Bytes::copy_from_slice(&new), 3).payload.len();
        if let Some(delta) = encode(&new, &[base], rival, 3) {
            prop_assert!(delta.body.len() < rival);
            prop_assert_eq!(&decode(delta.codec, &delta.body, &old, new.len() as u32).unwrap(), &new);
            let wrong = decode(delta.codec, &delta.body, &old[..len / 2], new.len() as u32);
            prop_assert!(wrong.is_err() || wrong.unwrap().len() == new.len());
        }
        if let Some(trial) = planes::Sample::new(&new, &base).and_then(|sample| sample.trial(new.len())) {
            let body = planes::encode(&new, &base, &trial).unwrap();
            prop_assert_eq!(&planes::decode(&body, &old, new.len()).unwrap(), &new);
        }
        let ids = [realm().chunk_id(&old)];
        let at_rest = EncodedChunk::encode_against(realm().chunk_id(&new), new.clone().into(), &[(&ids, base)], 3);
        prop_assert!(at_rest.payload.len() <= rival + new.len() / 64);
    }

    #[test]
    fn noise_neither_panics_nor_allocates(mut body in prop::collection::vec(any::<u8>(), 0..400), base in prop::collection::vec(any::<u8>(), 0..300), raw_len in 0_u32..3_000_000, codec in 0_u8..4) {
        let codec = Codec::from_byte(codec).unwrap();
        if let Ok(plain) = decode(codec, &body, &base, raw_len) {
            prop_assert_eq!(plain.len(), raw_len as usize);
        }
        if let Some(first) = body.first_mut() {
            *first %= 8;
        }
        if let Ok(plain) = decode(codec, &body, &base, raw_len % 500) {
            prop_assert_eq!(plain.len(), raw_len as usize % 500);
        }
        let chunk = EncodedChunk { id: ChunkId([1; 32]), raw_len, codec, payload: body.into() };
        let mut resolver = Resolver::new(|_: &ChunkId| Ok::<_, ChunkError>(Some(chunk.clone())));
        if codec.is_delta() {
            prop_assert!(resolver.plain(&chunk).is_err());
        }
        let _ = DeltaRecord::from_payload(&chunk.payload);
    }

    #[test]
    fn a_damaged_delta_never_passes(at in any::<u16>(), bit in 0_u8..8, drift in any::<bool>()) {
        let old = weights("damage", 4_000);
        let (base, new) = (float32(&old), float32(&drifted(&old, "damage drift")));
        let new = if drift { new } else { mutate(base.clone(), &[(0, 30_000, 50)]) };
        let delta = encode(&new, &[Base { plain: &base, align: Some(0), depth: 0 }], new.len(), 3).unwrap();
        let mut body = delta.body.to_vec();
        let at = usize::from(at) % body.len();
        body[at] ^= 1 << bit;
        // What decodes all the same has another id, or the bit meant nothing: either way nobody is deceived.
        if let Ok(plain) = decode(delta.codec, &body, &base, new.len() as u32) {
            prop_assert_eq!(plain.len(), new.len());
            prop_assert!(plain == new || realm().chunk_id(&plain) != realm().chunk_id(&new));
        }
    }

    #[test]
    fn alignment_is_sound(edits in prop::collection::vec((0_u8..3, any::<u16>(), 1_usize..6), 0..6), lens in prop::collection::vec(1_u64..5_000, 1..60)) {
        let piece = |id: usize, len: u64| (id, len);
        let old: Vec<(usize, u64)> = lens.iter().enumerate().map(|(id, len)| piece(id % 50, *len + (id % 50) as u64)).collect();
        let mut new = old.clone();
        for (n, (what, at, count)) in edits.iter().enumerate() {
            let at = usize::from(*at) % (new.len() + 1);
            let end = (at + count).min(new.len());
            match what {
                0 => drop(new.splice(at..at, (0..*count).map(|k| piece(1_000 + 10 * n + k, 777)))),
                1 => drop(new.drain(at..end)),
                _ => new[at..end].iter_mut().enumerate().for_each(|(k, it)| it.0 = 2_000 + 10 * n + k),
            }
        }
        let (old, new) = (placed(&old), placed(&new));
        let found = align(&old, &new);
        let wanted = new.iter().enumerate().filter(|(_, it)| it.id.is_some() && !old.iter().any(|other| other.id == it.id));
        prop_assert_eq!(found.iter().map(|(place, _)| *place).collect::<Vec<_>>(), wanted.map(|(place, _)| place).collect::<Vec<_>>());
        for (place, ranges) in found {
            prop_assert!(ranges.len() <= RANGES_MAX);
            for (number, range) in ranges.iter().enumerate() {
                let base = &old[range.pieces.clone()];
                prop_assert!(!base.is_empty() && base.len() <= RANGE_PIECES_MAX);
                prop_assert!(base.iter().all(|it| it.id.is_some()));
                prop_assert!(base.windows(2).all(|two| two[0].end() == two[1].offset));
                let len: u64 = base.iter().map(|it| it.len).sum();
                // The last may be a wide one that lies elsewhere.
                let overlaps = range.align < len as i64 && range.align + new[place].len as i64 > 0;
                prop_assert!(overlaps || number + 1 == ranges.len(), "they overlap");
            }
        }
    }
}

/// Pieces one after the other; every 13th id is a hole.
fn placed(pieces: &[(usize, u64)]) -> Vec<Piece> {
    let mut offset = 0;
    let place = |(id, len): &(usize, u64)| {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&(*id as u64).to_le_bytes());
        let piece = Piece { id: (id % 13 != 12).then_some(ChunkId(bytes)), offset, len: *len };
        offset += len;
        piece
    };
    pieces.iter().map(place).collect()
}

#[test]
fn an_overwritten_chunk_lies_where_it_was() {
    let old = placed(&[(0, 100), (1, 200), (2, 300), (3, 50)]);
    let range = |pieces, align| BaseRange { pieces, align };
    let new = placed(&[(0, 100), (101, 200), (2, 300), (3, 50)]);
    assert_eq!(align(&old, &new), [(1, vec![range(1..2, 0)])], "of one alone no wide range is named");
    let new = placed(&[(0, 100), (101, 200), (102, 300), (3, 50)]);
    let wide = |align| range(0..4, align);
    assert_eq!(align(&old, &new), [(1, vec![range(1..2, 0), wide(100)]), (2, vec![range(2..3, 0), wide(300)])]);
    // Cut elsewhere: 150 bytes where 200 were.
    let new = placed(&[(0, 100), (101, 150), (102, 350), (3, 50)]);
    assert_eq!(align(&old, &new), [(1, vec![range(1..2, 0), wide(100)]), (2, vec![range(1..3, 150), wide(250)])]);
    // All is new, and 10 bytes are inserted: from the front, or from the back; what is near is one base.
    let new = placed(&[(100, 110), (101, 200), (102, 300), (103, 50)]);
    let found = align(&old, &new);
    assert_eq!(found[2], (2, vec![range(2..4, 10), range(2..4, 0), wide(300)]));
    assert_eq!(found[0], (0, vec![range(0..2, 0), range(0..2, -10), wide(-10)]));
    assert_eq!(align(&[], &new).iter().map(|(_, ranges)| ranges.len()).sum::<usize>(), 0);
    assert_eq!(align(&old, &[]), []);
}

#[test]
fn two_places_that_are_near_are_one_base_and_far_ones_are_two() {
    const KB: usize = 1_000;
    let old = placed(&(0..12).map(|id| (id, 100 * KB as u64)).collect::<Vec<_>>());
    let by = |inserted: usize| {
        let new = placed(&[(0, 100_000), (101, (200 * KB + inserted) as u64), (3, 100_000)]);
        align(&old[..4], &new)
    };
    let range = |pieces, align| BaseRange { pieces, align };
    assert_eq!(by(50_000), [(1, vec![range(1..3, 0), range(1..3, -50_000)])]);
    // 600 kB of nine chunks became 100 kB: its places are half a megabyte apart.
    let mut new = vec![(0, 100_000), (101, 100_000)];
    new.extend((8..12).map(|id| (id, 100_000)));
    let found = align(&old, &placed(&new));
    assert_eq!(found, [(1, vec![range(1..2, 0), range(7..8, 0), range(0..12, 700_000)])]);
    // Put in: nothing lies beneath, but what is around may hold it.
    let found = align(&old[..4], &placed(&[(0, 100_000), (1, 100_000), (101, 100_000), (2, 100_000), (3, 100_000)]));
    assert_eq!(found, [(2, vec![range(0..4, 100_000)])]);
}

#[test]
fn a_wide_range_is_bounded() {
    let old = placed(&(0..400).map(|id| (if id % 13 == 12 { 5_000 } else { id }, 60_000)).collect::<Vec<_>>());
    let new: Vec<(usize, u64)> =
        (0..400).map(|id| if (150..160).contains(&id) { (13 * id, 60_000) } else { (id, 60_000) }).collect();
    let found = align(&old, &placed(&new));
    let wide: Vec<&BaseRange> =
        found.iter().filter_map(|(_, ranges)| ranges.last().filter(|range| range.pieces.len() > 1)).collect();
    assert!(!wide.is_empty());
    for range in wide {
        let len: u64 = old[range.pieces.clone()].iter().map(|piece| piece.len).sum();
        assert!(len <= 2 << 20 && len > (2 << 20) - 2 * 60_000, "{len} bytes");
    }
}

#[test]
fn parts_of_versions_take_the_shifts_from_around_them() {
    // 7 bytes were inserted somewhere before; the parts are cut off elsewhere at both ends.
    let moved = |pieces: &[(usize, u64)], by: u64| {
        placed(pieces).into_iter().map(|piece| Piece { offset: piece.offset + by, ..piece }).collect::<Vec<_>>()
    };
    let old = moved(&[(0, 100), (1, 200), (2, 300), (3, 50)], 1000);
    let new = moved(&[(100, 250), (101, 150)], 1107);
    let found = align_between(&old, &new, (-7, -7));
    let range = |pieces, align| BaseRange { pieces, align };
    let wide = |align| range(0..4, align);
    assert_eq!(found, [(0, vec![range(1..3, 0), wide(100)]), (1, vec![range(2..3, 50), wide(350)])]);
}

#[test]
fn a_moved_chunk_does_not_pull_the_others_along() {
    let old = placed(&[(0, 100), (1, 100), (2, 100), (3, 100), (4, 100)]);
    let new = placed(&[(4, 100), (0, 100), (101, 100), (2, 100), (3, 100)]);
    assert_eq!(align(&old, &new), [(2, vec![BaseRange { pieces: 1..2, align: 0 }])]);
}
