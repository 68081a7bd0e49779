use std::sync::Arc;

use causeway_base::ChunkId;
use causeway_storage::kv::{KvRead, MemoryKv, prefix_range};
use proptest::prelude::*;

use super::*;
use crate::Realm;

fn golden_realm() -> Realm {
    Realm::new("golden", *b"causeway golden vectors, key 001")
}

fn noise(seed: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_derive_key("causeway golden vectors").update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn text(lines: u32) -> Vec<u8> {
    (0..lines).flat_map(|n| format!("{n} {}\n", n.wrapping_mul(2_654_435_761)).into_bytes()).collect()
}

fn hex(sketch: Option<Sketch>) -> String {
    sketch.map_or_else(|| "none".into(), |sketch| hex::encode(sketch.to_bytes()))
}

#[test]
fn sketches_are_a_format() {
    let sketcher = Sketcher::new(&golden_realm());
    let floats: Vec<u8> = (0..16_384_u32).flat_map(|n| ((n as f32).sin() * 0.02).to_bits().to_le_bytes()).collect();
    let found = [
        hex(sketcher.sketch(&noise("sketch", 65_536))),
        hex(sketcher.sketch(&noise("sketch", 65_537)[1..])),
        hex(sketcher.sketch(&noise("sketch", 5_001))),
        hex(sketcher.sketch(&text(4_000))),
        hex(sketcher.sketch(&floats)),
        hex(sketcher.sketch(&noise("sketch", 2_047))),
        hex(sketcher.sketch(&[0; 65_536])),
    ];
    assert_eq!(found, GOLDEN);
}

const GOLDEN: [&str; 7] = [
    "9790c6b91a922050abd7c29a45054bfd892c739507125e2b",
    "9790c6b91a922050abd7c29a45054bfd892c739507125e2b", // the byte that left was in no sample that counted
    "49ae2b73459cf714c06caa3f3cf8f202efddf56d2a09fa6b",
    "f758f2a14ef1642c5b8a25ca1a22d881f2a5f955d86172da",
    "d6c9d0a8878bc7ff08310d8d745bfc5488ce09091849be15",
    "none",
    "none",
];

#[test]
fn a_sketch_survives_its_encoding() {
    let sketch = Sketch([1, u64::MAX, 0x0123_4567_89ab_cdef]);
    assert_eq!(Sketch::from_bytes(&sketch.to_bytes()), sketch);
}

#[test]
fn runs_of_a_few_bytes_have_no_sketch_and_every_length_is_fine() {
    let sketcher = Sketcher::new(&golden_realm());
    for byte in [0_u8, 1, 0x55, 0x80, 0xff] {
        assert_eq!(sketcher.sketch(&vec![byte; 100_000]), None, "{byte}");
    }
    let bytes = noise("lengths", 3_000);
    for len in 0..bytes.len() {
        let sketch = sketcher.sketch(&bytes[..len]);
        assert!(len >= SKETCHED_BYTES_MIN || sketch.is_none());
    }
}

#[test]
fn sixty_four_edits_leave_a_sketch_alike() {
    let sketcher = Sketcher::new(&golden_realm());
    let mut kept = 0;
    for case in 0..100 {
        let bytes = noise(&format!("edits {case}"), 65_536);
        let before = sketcher.sketch(&bytes).unwrap();
        let mut after = bytes.clone();
        for edit in 0..64 {
            let at = (edit * 1021 + case * 7919) % after.len();
            after[at] ^= 0x5a;
        }
        kept += usize::from(sketcher.sketch(&after).unwrap().resembles(&before));
    }
    assert!(kept >= 90, "{kept} of 100 still resemble after 64 edits");
}

#[test]
fn what_moved_still_resembles_and_what_differs_does_not() {
    let sketcher = Sketcher::new(&golden_realm());
    let bytes = noise("moved", 70_000);
    let before = sketcher.sketch(&bytes[..65_536]).unwrap();
    assert!(sketcher.sketch(&bytes[1_001..66_537]).unwrap().resembles(&before));
    let others = (0..200).map(|n| sketcher.sketch(&noise(&format!("other {n}"), 65_536)).unwrap());
    assert_eq!(others.filter(|other| other.resembles(&before)).count(), 0);
}

#[test]
fn realms_share_no_feature() {
    let bytes = text(4_000);
    let one = Sketcher::new(&golden_realm()).sketch(&bytes).unwrap();
    let two = Sketcher::new(&Realm::new("golden", [9; 32])).sketch(&bytes).unwrap();
    assert_eq!(one.shared(&two), 0);
    assert_eq!(format!("{:?}", Sketcher::new(&golden_realm())), "Sketcher(…)");
}

fn index(slots_log2: u8) -> (Arc<MemoryKv>, SimilarityIndex) {
    let kv = Arc::new(MemoryKv::new(&[SIMILARITY_SPACE]));
    (kv.clone(), SimilarityIndex::new(kv, SIMILARITY_SPACE, slots_log2))
}

#[test]
fn the_newest_chunk_with_most_features_comes_first() {
    let (kv, index) = index(20);
    let (a, b, c) = (ChunkId([1; 32]), ChunkId([2; 32]), ChunkId([3; 32]));
    let wide = |n: u64| n << 40 | n;
    index.insert(a, &Sketch([wide(1), wide(2), wide(3)])).unwrap();
    index.insert(b, &Sketch([wide(1), wide(9), wide(8)])).unwrap();
    assert_eq!(index.candidates(&Sketch([wide(1), wide(2), wide(3)]), 3).unwrap(), [a, b]);
    assert_eq!(index.candidates(&Sketch([wide(1), wide(2), wide(3)]), 1).unwrap(), [a]);
    assert_eq!(index.candidates(&Sketch([1 << 41 | 1, wide(4), wide(5)]), 3).unwrap(), [], "same slot, another tag");
    assert_eq!(index.candidates(&Sketch([wide(2), wide(3), wide(1)]), 3).unwrap(), [], "other tables");

    index.insert(c, &Sketch([wide(1), wide(2), wide(3)])).unwrap();
    index.remove(&a, &Sketch([wide(1), wide(2), wide(3)])).unwrap();
    assert_eq!(index.candidates(&Sketch([wide(1), wide(2), wide(3)]), 3).unwrap(), [c], "only its own are removed");
    index.clear().unwrap();
    assert_eq!(kv.scan(SIMILARITY_SPACE, prefix_range(&[]), false).count(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_index_is_bounded_and_tells_only_what_was_entered(sketches in prop::collection::vec(any::<[u64; 3]>(), 1..200), slots in 0_u8..5) {
        let (kv, index) = index(slots);
        for (n, sketch) in sketches.iter().enumerate() {
            index.insert(ChunkId([n as u8; 32]), &Sketch(*sketch)).unwrap();
        }
        prop_assert!(kv.scan(SIMILARITY_SPACE, prefix_range(&[]), false).count() <= 3 << slots);
        let last = sketches.len() - 1;
        prop_assert_eq!(index.candidates(&Sketch(sketches[last]), 1).unwrap(), [ChunkId([last as u8; 32])]);
        for sketch in &sketches {
            for id in index.candidates(&Sketch(*sketch), 3).unwrap() {
                prop_assert!(Sketch(sketches[id.0[0] as usize]).resembles(&Sketch(*sketch)));
            }
        }
    }
}

/// One that is opened over what another entered knows nothing at first, and learns from look-ups.
#[test]
fn the_index_finds_what_was_entered_before_it_was_opened() {
    for slots in [3, 12] {
        let (kv, index) = index(slots);
        let sketch = |n: u64| {
            Sketch(std::array::from_fn(|table| (n * 3 + table as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        };
        let of = |n: u64| ChunkId([n as u8; 32]);
        index.insert_all((0..200).map(|n| (of(n), sketch(n)))).unwrap();
        let reopened = SimilarityIndex::new(kv.clone(), SIMILARITY_SPACE, slots);
        for n in 1_000..9_000 {
            assert_eq!(reopened.candidates(&sketch(n), 3).unwrap(), []);
        }
        for n in 0..200 {
            assert_eq!(reopened.candidates(&sketch(n), 3).unwrap(), index.candidates(&sketch(n), 3).unwrap(), "{n}");
        }
        assert_eq!(index.candidates(&sketch(199), 3).unwrap(), [of(199)]);
        reopened.insert(of(250), &sketch(250)).unwrap();
        assert_eq!(reopened.candidates(&sketch(250), 1).unwrap(), [of(250)]);
    }
}
