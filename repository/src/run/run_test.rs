use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{Repository, RepositoryOptions};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn build(model: &Model) -> Built {
    let mut builder = SegmentBuilder::new(RunKind::Image);
    for (key, value) in model {
        builder.push(key, value).unwrap();
    }
    builder.finish(7)
}

/// Large enough for several blocks, so that the index matters.
fn models() -> impl Strategy<Value = Model> {
    let key = proptest::collection::vec(0_u8..4, 0..6);
    let value = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        (any::<u8>(), 0_usize..60_000).prop_map(|(byte, len)| vec![byte; len]),
    ];
    proptest::collection::btree_map(key, value, 0..60)
}

async fn reader(built: &Built) -> (SegmentReader, Repository) {
    let object = Arc::new(object_store::memory::InMemory::new());
    let repository = Repository::with_store(object, "memory:", RepositoryOptions::creating()).await.unwrap();
    repository.store.create_unique("s", built.bytes.clone()).await.unwrap();
    let cache = Arc::new(BlockCache::new(100_000));
    (SegmentReader::new(repository.store.clone(), "s".into(), built.segment.clone(), RunKind::Image, cache), repository)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_segment_is_the_map_it_was_built_from(model in models(), probes in proptest::collection::vec(proptest::collection::vec(0_u8..4, 0..6), 8)) {
        let built = build(&model);
        let loaded = Loaded::open(built.bytes.clone(), RunKind::Image).unwrap();
        let read: Model = loaded.iter().map(|r| r.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap()).collect();
        prop_assert_eq!(&read, &model);
        prop_assert_eq!(loaded.records(), model.len() as u64);
        runtime().block_on(async {
            let (reader, _repository) = reader(&built).await;
            for key in model.keys().chain(&probes) {
                assert_eq!(reader.get(key).await.unwrap().as_deref(), model.get(key).map(|v| &v[..]));
            }
            for pair in probes.chunks(2) {
                let (from, to) = (pair[0].clone().min(pair[1].clone()), pair[0].clone().max(pair[1].clone()));
                let mut at = from.clone();
                let mut found = Vec::new();
                loop {
                    let page = reader.page(&at, &to).await.unwrap();
                    let Some((last, _)) = page.last() else { break };
                    at = [&last[..], &[0]].concat();
                    found.extend(page);
                }
                let expected: Vec<_> = model.range(from..to).map(|(k, v)| (Bytes::from(k.clone()), Bytes::from(v.clone()))).collect();
                assert_eq!(found, expected);
            }
        });
    }

    #[test]
    fn a_flip_of_any_bit_is_noticed(model in models(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let mut bytes = build(&model).bytes.to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        prop_assert!(Loaded::open(Bytes::from(bytes), RunKind::Image).is_err());
    }

    #[test]
    fn a_range_read_notices_a_flip_or_gives_the_truth(model in models(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let good = build(&model);
        let mut bytes = good.bytes.to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        let built = Built { bytes: Bytes::from(bytes), segment: good.segment };
        runtime().block_on(async {
            let (reader, _repository) = reader(&built).await;
            for (key, value) in &model {
                match reader.get(key).await {
                    Ok(found) => assert_eq!(found.as_deref(), Some(&value[..])),
                    Err(crate::Error::Corrupt { .. }) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
        });
    }

    #[test]
    fn noise_is_an_error_and_no_panic(noise in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Loaded::open(Bytes::from(noise), RunKind::Image).is_err());
    }

    /// Checksums that hold over lies: what a hostile writer could make.
    #[test]
    fn a_lying_footer_is_refused_without_a_panic(model in models(), records in any::<u64>(), index_offset in any::<u64>(), index_len in any::<u32>(), blocks in any::<u32>()) {
        let good = build(&model).bytes;
        let body = good.len() - format::FOOTER_LEN;
        let mut footer = format::Footer::decode(&good[body..], good.len() as u64, RunKind::Image).unwrap();
        (footer.records, footer.index_offset, footer.index_len, footer.blocks) = (records, index_offset, index_len, blocks);
        let bytes = [&good[..body], &footer.encode()].concat();
        let honest = Loaded::open(Bytes::from(bytes), RunKind::Image).map(|loaded| loaded.iter().all(|r| r.is_ok()));
        prop_assert!(!matches!(honest, Ok(true)) || records == model.len() as u64);
    }
}

#[test]
fn every_single_byte_is_covered() {
    let model: Model = (0..40_u8).map(|n| (vec![n], vec![n; 30])).collect();
    let good = build(&model).bytes;
    for at in 0..good.len() {
        let mut bytes = good.to_vec();
        bytes[at] ^= 0x40;
        assert!(Loaded::open(Bytes::from(bytes), RunKind::Image).is_err(), "byte {at} of {}", good.len());
    }
    for cut in 0..good.len() {
        assert!(Loaded::open(good.slice(..cut), RunKind::Image).is_err(), "cut at {cut}");
    }
}

#[test]
fn keys_that_do_not_rise_and_records_too_large_are_refused() {
    let mut builder = SegmentBuilder::new(RunKind::Image);
    builder.push(b"b", b"").unwrap();
    assert!(matches!(builder.push(b"b", b""), Err(RunError::Order { .. })));
    assert!(matches!(builder.push(b"a", b""), Err(RunError::Order { .. })));
    assert!(matches!(builder.push(&[9; KEY_BYTES_MAX + 1], b""), Err(RunError::TooLarge { .. })));
    builder.push(b"c", &vec![1; VALUE_BYTES_MAX]).unwrap();
    let loaded = Loaded::open(builder.finish(1).bytes, RunKind::Image).unwrap();
    assert_eq!(loaded.iter().map(|r| r.unwrap().0).collect::<Vec<_>>(), ["b", "c"]);
}

#[test]
fn a_run_of_another_kind_is_refused() {
    let built = build(&Model::from([(vec![1], vec![2])]));
    assert!(matches!(Loaded::open(built.bytes, RunKind::ChunkIndex), Err(FormatError::Kind(1))));
}

#[test]
fn a_point_read_of_a_large_segment_takes_few_requests_and_few_bytes() {
    runtime().block_on(async {
        let mut builder = SegmentBuilder::new(RunKind::Image);
        let mut noise = blake3::Hasher::new().finalize_xof();
        for n in 0..40_000_u32 {
            let mut value = [0; 100];
            noise.fill(&mut value);
            builder.push(&n.to_be_bytes(), &value).unwrap();
        }
        let (reader, repository) = reader(&builder.finish(7)).await;
        let before = repository.requests();
        assert!(reader.get(&12_345_u32.to_be_bytes()).await.unwrap().is_some());
        assert!(reader.get(&12_346_u32.to_be_bytes()).await.unwrap().is_some());
        let after = repository.requests();
        assert_eq!(after.gets - before.gets, 2, "the tail, and one stretch of blocks");
        assert!(after.bytes_got - before.bytes_got <= (128 << 10) + (256 << 10));
    });
}
