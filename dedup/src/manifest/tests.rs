use std::collections::HashMap;
use std::convert::Infallible;

use proptest::prelude::*;

use super::root::{NODE_BYTES_MAX, NODE_TAG};
use super::*;

fn realm() -> Realm {
    Realm::new("test", [3; 32])
}

fn id(number: u64) -> ChunkId {
    realm().chunk_id(&number.to_le_bytes())
}

fn chunk(number: u64, len: u32) -> Extent {
    Extent::Chunk { id: id(number), len }
}

#[derive(Default)]
struct Chunks(HashMap<ChunkId, Bytes>);

impl Chunks {
    fn store(&mut self, manifest: &Manifest) -> ManifestRoot {
        manifest
            .store(&realm(), |id, plain| {
                assert!(plain.len() <= NODE_BYTES_MAX);
                assert_eq!(realm().chunk_id(&plain), id);
                self.0.insert(id, plain);
            })
            .unwrap()
    }

    fn fetch(&self) -> impl FnMut(ChunkId) -> Result<Bytes, ()> + '_ {
        |id| self.0.get(&id).cloned().ok_or(())
    }
}

/// Extents: mostly chunks, some holes, also next to each other.
fn extents(most: usize) -> impl Strategy<Value = Vec<Extent>> {
    let extent = prop_oneof![
        9 => (0_u64..10_000, 1_u32..=1 << 20).prop_map(|(number, len)| chunk(number, len)),
        1 => (1_u64..1 << 41).prop_map(|len| Extent::Hole { len }),
    ];
    prop::collection::vec(extent, 0..most)
}

/// The naive model of a range: look at each extent.
fn naive_range(manifest: &Manifest, offset: u64, len: u64) -> Vec<Placed> {
    let mut at = 0;
    let mut found = Vec::new();
    for extent in &manifest.extents {
        let (start, end) = (at, at + extent.len());
        at = end;
        if len > 0 && start < offset.saturating_add(len) && end > offset {
            found.push(Placed { offset: start, extent: *extent });
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_stored_is_loaded(list in extents(4000), seek in any::<prop::sample::Index>(), len in 0_u64..50_000_000) {
        let manifest = Manifest::new(list.clone()).unwrap();
        prop_assert_eq!(manifest.size, list.iter().map(Extent::len).sum::<u64>());
        let mut chunks = Chunks::default();
        let root = chunks.store(&manifest);
        prop_assert!(root.as_bytes().len() <= ROOT_BYTES_MAX);
        prop_assert_eq!(root.level() == 0, chunks.0.is_empty());
        prop_assert_eq!(&ManifestRoot::decode(root.as_bytes()).unwrap(), &root);
        prop_assert_eq!(&root.load(chunks.fetch()).unwrap(), &manifest);

        let offset = seek.index(usize::try_from(manifest.size).unwrap() + 2) as u64;
        let expected = naive_range(&manifest, offset, len);
        prop_assert_eq!(&root.range(offset, len, chunks.fetch()).unwrap(), &expected);
        prop_assert_eq!(&manifest.range(offset, len).collect::<Vec<_>>(), &expected);
    }

    #[test]
    fn noise_and_flipped_roots_neither_panic_nor_pass(list in extents(200), at in any::<prop::sample::Index>(), bit in 0_u32..8, noise in prop::collection::vec(any::<u8>(), 0..100)) {
        let root = Chunks::default().store(&Manifest::new(list).unwrap());
        let mut bytes = root.as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        prop_assert!(ManifestRoot::decode(&bytes).is_err());
        prop_assert!(ManifestRoot::decode(&bytes[..at]).is_err());
        prop_assert!(ManifestRoot::decode(&noise).is_err());
        // A node has no checksum of its own (its id is one), so noise must be survived by the decoder itself.
        for level in 0..3 {
            let _ = NodeRef { id: id(0), span: 1 << 40, level }.open(&[&[NODE_TAG, level], &noise[..]].concat());
        }
    }
}

#[test]
fn a_small_edit_of_a_large_file_makes_few_new_nodes() {
    let mut manifest = Manifest::new((0..20_000).map(|number| chunk(number, 65_536))).unwrap();
    let mut chunks = Chunks::default();
    let before = chunks.store(&manifest);
    let nodes = chunks.0.len();
    assert!((80..400).contains(&nodes), "{nodes}");

    manifest.extents[7_000] = chunk(1_000_000, 60_000);
    manifest.extents.insert(7_001, chunk(1_000_001, 5_536));
    let after = chunks.store(&manifest);
    assert_ne!(before, after);
    let new = chunks.0.len() - nodes;
    assert!(new <= 6, "{new} new nodes");
    assert_eq!(after.load(chunks.fetch()).unwrap().extents, manifest.extents);
}

#[test]
fn two_tebibytes_are_built_and_read_in_small_memory() {
    // Few distinct chunks, so that the test's own store stays small; the tree is as deep as it would be.
    let mut chunks = Chunks::default();
    let mut builder = ManifestBuilder::new(realm());
    let len = 1 << 20;
    let extents: Vec<Extent> = (0..10_000).map(|number| chunk(number, len)).collect();
    let total = 2 << 20; // × 1 MiB
    for number in 0..total {
        let extent = extents[number % extents.len()];
        builder.push(extent, |id, plain| drop(chunks.0.insert(id, plain))).unwrap();
    }
    let root = builder.finish(|id, plain| drop(chunks.0.insert(id, plain))).unwrap();
    assert_eq!(root.size(), 2 << 40);
    assert!(root.level() >= 2, "{root:?}");

    let mut fetched = 0;
    let offset = 1 << 40 | 123;
    let found = root
        .range(offset, 3 << 20, |id| {
            fetched += 1;
            chunks.0.get(&id).cloned().ok_or(())
        })
        .unwrap();
    let first = usize::try_from(offset >> 20).unwrap();
    let expected: Vec<Extent> = (first..first + 4).map(|number| extents[number % extents.len()]).collect();
    assert_eq!(found.iter().map(|placed| placed.extent).collect::<Vec<_>>(), expected);
    assert!(fetched <= 2 * usize::from(root.level()), "{fetched} nodes fetched");
}

#[test]
fn an_empty_file_and_a_file_of_one_hole() {
    let empty = Chunks::default().store(&Manifest::default());
    assert_eq!((empty.size(), empty.level()), (0, 0));
    assert_eq!(empty.load(|_| Err(())).unwrap(), Manifest::default());
    let hole = Manifest::new([Extent::Hole { len: 5 << 40 }, Extent::Hole { len: 1 }]).unwrap();
    assert_eq!(hole.extents, [Extent::Hole { len: (5 << 40) + 1 }]);
    let root = Chunks::default().store(&hole);
    assert!(root.as_bytes().len() < 40);
    assert_eq!(root.load(|_| Err(())).unwrap(), hole);
}

/// Seals entries as an attacker would: with a checksum that holds.
fn forge(level: u8, size: u64, entries: &[u8]) -> Vec<u8> {
    let mut bytes = b"CWMR".to_vec();
    bytes.extend_from_slice(&[1, level, 0, 0]);
    bytes.extend_from_slice(&size.to_le_bytes());
    bytes.extend_from_slice(entries);
    let sum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

#[test]
fn hostile_roots_are_refused() {
    let entry = |number: &[u8]| [number, &[9; 32]].concat();
    let good = entry(&[200, 1]); // 100 bytes
    assert!(ManifestRoot::decode(&forge(0, 100, &good)).is_ok());
    for (what, bytes) in [
        ("size too small", forge(0, 99, &good)),
        ("size too large", forge(0, 101, &good)),
        ("size over the limit", forge(0, u64::MAX, &good)),
        ("empty chunk", forge(0, 0, &entry(&[0]))),
        ("huge chunk", forge(0, 1 << 30, &entry(&[0x80, 0x80, 0x80, 0x80, 0x08]))),
        ("overflowing number", forge(0, 100, &entry(&[0xff; 11]))),
        ("longer form of a number", forge(0, 100, &entry(&[200, 0x81, 0]))),
        ("empty hole", forge(0, 0, &[1])),
        ("holes in a row", forge(0, 2, &[3, 3])),
        ("cut off", forge(0, 100, &good[..20])),
        ("too many levels", forge(7, 100, &entry(&[100]))),
        ("empty node", forge(1, 0, &entry(&[0]))),
        ("nodes that do not add up", forge(1, 100, &[entry(&[60]), entry(&[41])].concat())),
        ("too long", forge(0, 8_400, &good.repeat(300))),
    ] {
        assert!(ManifestRoot::decode(&bytes).is_err(), "{what}");
    }
}

#[test]
fn a_node_that_lies_is_refused_and_a_missing_one_is_named() {
    let manifest = Manifest::new((0..2_000).map(|number| chunk(number, 4_096))).unwrap();
    let mut chunks = Chunks::default();
    let root = chunks.store(&manifest);
    let NodeContent::Nodes(nodes) = root.content().unwrap() else { panic!("{root:?}") };
    let missing = root.load(|id| if id == nodes[2].id { Err("gone") } else { Ok(chunks.0[&id].clone()) });
    assert!(matches!(missing, Err(LoadError::Fetch { id, source: "gone" }) if id == nodes[2].id), "{missing:?}");
    // Another valid node in its place covers other bytes.
    let other = nodes.iter().find(|node| node.span != nodes[1].span).unwrap();
    let swapped =
        root.load(|id| Ok::<_, Infallible>(chunks.0[if id == nodes[1].id { &other.id } else { &id }].clone()));
    assert!(matches!(swapped, Err(LoadError::Manifest(ManifestError::Size { .. }))), "{swapped:?}");
}

#[test]
fn a_tree_that_refers_to_itself_many_times_is_bounded() {
    // 512 references to one node, six levels deep: 10^16 extents in a few kilobytes.
    let mut store = HashMap::new();
    let mut plain = vec![NODE_TAG, 0];
    codec::put_extent(&mut plain, &Extent::Chunk { id: id(1), len: 1 });
    let mut span = 1;
    let mut top = realm().chunk_id(&plain);
    store.insert(top, Bytes::from(plain));
    for level in 1..6 {
        let mut plain = vec![NODE_TAG, level];
        for _ in 0..400 {
            codec::put_child(&mut plain, top, span);
        }
        span *= 400;
        top = realm().chunk_id(&plain);
        store.insert(top, plain.into());
    }
    let mut entries = Vec::new();
    codec::put_child(&mut entries, top, span);
    let root = ManifestRoot::decode(&forge(6, span, &entries)).unwrap();
    let loaded = root.load(|id| Ok::<_, Infallible>(store[&id].clone()));
    assert!(matches!(loaded, Err(LoadError::Manifest(ManifestError::TooMany))));
}

#[test]
fn golden_root() {
    let manifest = Manifest::new([
        Extent::Chunk { id: ChunkId([0xab; 32]), len: 65_536 },
        Extent::Hole { len: 1 << 20 },
        Extent::Chunk { id: ChunkId([0xcd; 32]), len: 1 },
    ])
    .unwrap();
    let root = Chunks::default().store(&manifest);
    assert_eq!(
        hex::encode(root.as_bytes()),
        "43574d52010000000100110000000000808008abababababababababababababababababababababababababababababababab8180800102cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd6b6532dd"
    );
    let manifest = Manifest::new((0..2_000).map(|number| chunk(number, 65_536))).unwrap();
    let mut chunks = Chunks::default();
    let root = chunks.store(&manifest);
    assert_eq!((root.level(), chunks.0.len()), (1, 14));
    assert_eq!(blake3::hash(root.as_bytes()).to_string()[..32], *"346267de58b8ee4c451b210b4606c900");
}

/// One file with everything in it: noise, a hole, zeros that are data, text. For each average chunk size its root as a
/// full pass makes it (`docs/formats/chunking.md` has these values too).
#[test]
fn golden_files() {
    use crate::chunker::tests::golden_bytes;
    use crate::{ChunkSizes, chunker};

    let realm = Realm::new("golden", *b"causeway golden vectors, key 001");
    let line = |n: u32| format!("{n} {}\n", n.wrapping_mul(2_654_435_761)).into_bytes();
    let before = golden_bytes("file", 4 << 20);
    let behind: Vec<u8> = vec![0; 600_000].into_iter().chain((0..200_000).flat_map(line)).collect();
    let found = [16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10].map(|avg| {
        let sizes = ChunkSizes::from_avg(avg).unwrap();
        let mut builder = ManifestBuilder::new(realm.clone());
        let mut nodes = 0;
        let mut push = |extent| builder.push(extent, |_, _| nodes += 1).unwrap();
        let mut chunks = 0;
        let mut run = |bytes: &[u8], push: &mut dyn FnMut(Extent)| {
            for plain in chunker::chunks(Bytes::copy_from_slice(bytes), sizes) {
                chunks += 1;
                push(Extent::Chunk { id: realm.chunk_id(&plain), len: u32::try_from(plain.len()).unwrap() });
            }
        };
        run(&before, &mut push);
        push(Extent::Hole { len: 1 << 20 });
        run(&behind, &mut push);
        let root = builder.finish(|_, _| nodes += 1).unwrap();
        let hash = blake3::hash(root.as_bytes()).to_hex();
        format!("{} KiB: {} bytes, {chunks} chunks, {nodes} nodes, root {}", avg >> 10, root.size(), &hash[..32])
    });
    assert_eq!(found, GOLDEN_FILES);
}

const GOLDEN_FILES: [&str; 5] = [
    "16 KiB: 9280024 bytes, 396 chunks, 2 nodes, root 52f2291c1f60f0e91fa14e154828017d",
    "32 KiB: 9280024 bytes, 192 chunks, 0 nodes, root 67dd66ade7b5b62a63e2ffe66e2ab1c3",
    "64 KiB: 9280024 bytes, 92 chunks, 0 nodes, root 59d75e392945aabfb44f123b84d2b8b5",
    "128 KiB: 9280024 bytes, 48 chunks, 0 nodes, root a0e2043e42e9d2e3f132d5cdbef9620e",
    "256 KiB: 9280024 bytes, 22 chunks, 0 nodes, root 101b798a697a96cfba7ac6f654aacb15",
];
