use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::Handle;

use causeway_base::{ByteSize, ClusterId, Epoch, Seq, Timestamp, VolumeId};
use causeway_namespace_core::digest::Digest;

use super::*;
use crate::fault::{FaultPlan, FaultyStore};
use crate::head::{self, Head, ImageTotals};
use crate::run::{Merged, RunKind, RunRecords};
use crate::{Error, Repository, RepositoryOptions, names};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

const CLUSTER: ClusterId = ClusterId(0xc1);
const VOLUME: VolumeId = VolumeId(3);

fn options() -> RepositoryOptions {
    RepositoryOptions {
        segment_bytes: ByteSize(2_000),
        request_timeout: Duration::from_secs(2),
        seed: Some(1),
        ..RepositoryOptions::creating()
    }
}

async fn repository(object: Arc<dyn ObjectStore>) -> Repository {
    Repository::with_store(object, "memory:", options()).await.unwrap()
}

fn writer(repository: &Repository) -> ImageWriter {
    ImageWriter::new(repository.clone(), CLUSTER, VOLUME, WriterOptions { runs_max: 4, ..WriterOptions::default() })
}

fn digest(model: &Model) -> Digest {
    Digest::of(model.iter().map(|(key, value)| (&key[..], &value[..])))
}

fn source(model: &Model, seq: u64, records: ImageRecords) -> ImageSource {
    ImageSource {
        cluster: CLUSTER,
        volume: VOLUME,
        name: "home".into(),
        epoch: Epoch(1),
        term: 1,
        seq: Seq(seq),
        digest: digest(model),
        at: Timestamp(i64::try_from(seq).unwrap()),
        spec: Bytes::from_static(b"spec"),
        totals: ImageTotals { files: model.len() as u64, ..ImageTotals::default() },
        chunks_durable_to: Seq(seq),
        force_shrink: false,
        records,
    }
}

fn full(model: &Model) -> ImageRecords {
    let records: Vec<_> = model.iter().map(|(k, v)| Ok((k.clone().into(), v.clone().into()))).collect();
    ImageRecords::Full(Box::new(records.into_iter()))
}

/// The net changes from one model to the next.
fn changes(before: &Model, after: &Model, since: u64) -> ImageRecords {
    let mut keys: Vec<_> = before.keys().chain(after.keys()).collect();
    keys.sort();
    keys.dedup();
    let changed = keys.into_iter().filter(|key| before.get(*key) != after.get(*key));
    let changes: Vec<_> =
        changed.map(|key| Ok((key.clone().into(), after.get(key).map(|v| v.clone().into())))).collect();
    ImageRecords::Changes { since_epoch: Epoch(1), since: Seq(since), changes: Box::new(changes.into_iter()) }
}

/// The records of an image, read run by run.
async fn read(repository: &Repository, head: &Head) -> Model {
    let directory = names::volume_directory(CLUSTER, VOLUME);
    let sources = head.runs.iter().map(|run| {
        let path = |s: &crate::run::SegmentRef| (names::segment(&directory, s.name), s.clone());
        RunRecords::new(
            Handle::current(),
            repository.store.clone(),
            RunKind::Image,
            run.segments.iter().map(path).collect(),
        )
    });
    let merged = complete(Merged::new(sources.collect()));
    let read = tokio::task::spawn_blocking(move || merged.map(|r| r.map(|(k, v)| (k.to_vec(), v.to_vec()))).collect());
    let model: Result<Model, Error> = read.await.unwrap();
    let model = model.unwrap();
    assert_eq!(digest(&model), head.digest, "an image is an exact prefix");
    model
}

fn step(model: &Model, rng: &mut StdRng) -> Model {
    let mut next = model.clone();
    for _ in 0..rng.random_range(0..12) {
        let key = vec![rng.random_range(0..8), rng.random_range(0..16)];
        if rng.random_bool(0.3) {
            next.remove(&key);
        } else {
            next.insert(key, vec![rng.random(); rng.random_range(0..300)]);
        }
    }
    next
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_published_image_is_the_model_at_its_seq(seed in any::<u64>()) {
        runtime().block_on(async move {
            let repository = repository(Arc::new(InMemory::new())).await;
            let writer = writer(&repository);
            let mut rng = StdRng::seed_from_u64(seed);
            let mut model = step(&Model::new(), &mut rng);
            writer.publish(source(&model, 1, full(&model))).await.unwrap();
            let mut history = vec![(1, model.clone())];
            for seq in 2..25 {
                let next = step(&model, &mut rng);
                let published = writer.publish(source(&next, seq, changes(&model, &next, seq - 1))).await.unwrap();
                assert!(published.new);
                model = next;
                if rng.random_bool(0.5) {
                    writer.compact().await.unwrap();
                    assert!(writer.newest().await.unwrap().unwrap().runs.len() <= 4);
                }
                let head = writer.newest().await.unwrap().unwrap();
                assert_eq!(head.seq, Seq(seq));
                history.push((head.generation, model.clone()));
            }
            // Every older image, too, as long as nothing is cleaned.
            let directory = names::volume_directory(CLUSTER, VOLUME);
            for (generation, model) in history {
                let head = head::read(&repository.store, &directory, generation).await.unwrap().unwrap().unwrap();
                assert_eq!(read(&repository, &head).await, model);
            }
        });
    }
}

#[tokio::test]
async fn a_publish_costs_one_request_for_the_run_and_one_for_the_head() {
    let repository = repository(Arc::new(InMemory::new())).await;
    let writer = writer(&repository);
    let a = Model::from([(vec![1], vec![1])]);
    let b = Model::from([(vec![1], vec![2])]);
    writer.publish(source(&a, 1, full(&a))).await.unwrap();
    let before = repository.requests();
    writer.publish(source(&b, 2, changes(&a, &b, 1))).await.unwrap();
    let after = repository.requests();
    assert_eq!((after.puts - before.puts, after.requests() - before.requests()), (2, 2));
    assert!(!writer.publish(source(&b, 2, changes(&a, &b, 1))).await.unwrap().new, "again is no new image");
}

#[tokio::test]
async fn a_deposed_leader_cannot_publish() {
    let object: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (old, new) = (writer(&repository(Arc::clone(&object)).await), writer(&repository(object).await));
    let a = Model::from([(vec![1], vec![1])]);
    let b = Model::from([(vec![1], vec![2])]);
    old.publish(source(&a, 10, full(&a))).await.unwrap();
    new.publish(ImageSource { term: 2, ..source(&b, 11, full(&b)) }).await.unwrap();
    // It still believes that its own head is the newest.
    for (seq, epoch, term) in [(12, 1, 1), (10, 1, 3), (99, 0, 9)] {
        let source = ImageSource { epoch: Epoch(epoch), term, ..source(&b, seq, full(&b)) };
        assert!(matches!(old.publish(source).await, Err(Error::Fenced { seq: Seq(11), .. })), "{seq} {epoch} {term}");
    }
    assert!(matches!(old.publish(source(&b, 12, changes(&a, &b, 10))).await, Err(Error::Fenced { .. })));
    assert_eq!(new.refresh().await.unwrap().unwrap().seq, Seq(11));
    // A new epoch may start behind: the volume went back to an earlier seq.
    let restored = ImageSource { epoch: Epoch(2), term: 1, ..source(&a, 5, full(&a)) };
    assert!(old.publish(restored).await.unwrap().new);
    let behind = ImageSource { term: 3, ..source(&b, 500, full(&b)) };
    assert!(matches!(new.publish(behind).await, Err(Error::Fenced { epoch: Epoch(2), .. })));
}

#[tokio::test]
async fn what_must_not_be_published_is_not_and_the_last_good_image_stays() {
    let repository = repository(Arc::new(InMemory::new())).await;
    let writer = writer(&repository);
    let model: Model = (0..40_u8).map(|n| (vec![n], vec![n])).collect();
    let totals = |files, logical_bytes| ImageTotals { files, logical_bytes, ..ImageTotals::default() };
    writer.publish(ImageSource { totals: totals(2_000, 1 << 30), ..source(&model, 5, full(&model)) }).await.unwrap();

    let early = ImageSource { chunks_durable_to: Seq(5), ..source(&model, 6, full(&model)) };
    assert!(matches!(writer.publish(early).await, Err(Error::ChunksNotDurable { durable: Seq(5), seq: Seq(6), .. })));
    let wrong =
        ImageSource { digest: Digest::default(), totals: totals(2_000, 1 << 30), ..source(&model, 6, full(&model)) };
    assert!(matches!(writer.publish(wrong).await, Err(Error::Digest { .. })));
    let diverged = ImageSource { term: 2, digest: Digest::default(), ..source(&model, 5, full(&model)) };
    assert!(matches!(writer.publish(diverged).await, Err(Error::Digest { .. })));
    let fewer = ImageSource { totals: totals(900, 1 << 30), ..source(&model, 6, full(&model)) };
    assert!(matches!(writer.publish(fewer).await, Err(Error::Shrunk { what: "files", before: 2_000, after: 900, .. })));
    let smaller = ImageSource { totals: totals(1_900, 1 << 20), ..source(&model, 6, full(&model)) };
    assert!(matches!(writer.publish(smaller).await, Err(Error::Shrunk { what: "bytes", .. })));
    let gap = ImageSource { totals: totals(2_000, 1 << 30), ..source(&model, 8, changes(&model, &model, 7)) };
    assert!(matches!(writer.publish(gap).await, Err(Error::Base { expected: Some(Seq(5)), .. })));
    assert_eq!(writer.refresh().await.unwrap().unwrap().seq, Seq(5));

    let forced = ImageSource { totals: totals(900, 0), force_shrink: true, ..source(&model, 6, full(&model)) };
    assert!(writer.publish(forced).await.unwrap().new);
}

#[tokio::test]
async fn a_damaged_newest_head_is_named_with_an_older_one() {
    let object = Arc::new(InMemory::new());
    let repository = repository(Arc::clone(&object) as Arc<dyn ObjectStore>).await;
    let writer = writer(&repository);
    let model = Model::from([(vec![1], vec![1])]);
    for seq in 1..4 {
        writer.publish(source(&model, seq, full(&model))).await.unwrap();
    }
    let directory = names::volume_directory(CLUSTER, VOLUME);
    let path = names::head(&directory, 3);
    let mut sealed = repository.store.get(&path, 1 << 20).await.unwrap().unwrap().to_vec();
    sealed[20] ^= 1;
    repository.store.delete(&path).await.unwrap();
    repository.store.create(&path, sealed.into()).await.unwrap();
    match writer.refresh().await {
        Err(Error::HeadDamaged { generation: 3, older: Some(2), .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn cleaning_leaves_every_kept_image_whole() {
    let repository = repository(Arc::new(InMemory::new())).await;
    let writer = writer(&repository);
    let mut rng = StdRng::seed_from_u64(5);
    let mut model = step(&Model::new(), &mut rng);
    writer.publish(source(&model, 1, full(&model))).await.unwrap();
    for seq in 2..60 {
        let next = step(&model, &mut rng);
        writer.publish(source(&next, seq, changes(&model, &next, seq - 1))).await.unwrap();
        writer.compact().await.unwrap();
        model = next;
    }
    let policy = CleanPolicy { heads_min: 5, keep_for: Duration::ZERO, spare_segments_for: Duration::ZERO };
    assert_eq!(writer.clean(policy).await.unwrap(), Cleaned::default(), "everything is younger than the floors");
    let cleaned = writer.clean_with_floors(policy, Duration::ZERO, Duration::ZERO).await.unwrap();
    assert!(cleaned.heads > 50 && cleaned.segments > 20, "{cleaned:?}");
    let directory = names::volume_directory(CLUSTER, VOLUME);
    let newest = writer.refresh().await.unwrap().unwrap();
    for generation in newest.generation - 4..=newest.generation {
        let head = head::read(&repository.store, &directory, generation).await.unwrap().unwrap().unwrap();
        read(&repository, &head).await;
    }
    assert_eq!(read(&repository, &newest).await, model);
    assert!(head::read(&repository.store, &directory, newest.generation - 5).await.unwrap().is_none());
    assert_eq!(writer.clean_with_floors(policy, Duration::ZERO, Duration::ZERO).await.unwrap(), Cleaned::default());
}

/// Two leaders of rising terms publish through a store with every fault. Each image that becomes the newest must be the
/// model at its seq, generations must not repeat, and what was reported as published must be there.
async fn publish_through_faults(seed: u64) -> (u64, u64) {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    repository(Arc::clone(&memory)).await;
    let faulty = FaultyStore::new(Arc::clone(&memory), FaultPlan::all(0.04), seed);
    let open = |n| {
        let object: Arc<dyn ObjectStore> = Arc::new(faulty.clone());
        async move {
            loop {
                let options = RepositoryOptions {
                    request_timeout: Duration::from_millis(40),
                    backoff: Duration::from_millis(1),
                    attempts: 3,
                    seed: Some(seed + n),
                    ..options()
                };
                if let Ok(repository) = Repository::with_store(Arc::clone(&object), "memory:", options).await {
                    break repository;
                }
            }
        }
    };
    let writers = [writer(&open(100).await), writer(&open(200).await)];
    let mut rng = StdRng::seed_from_u64(seed);
    let mut states = BTreeMap::from([(0, Model::new())]);
    let (mut published, mut unknown) = (BTreeMap::new(), 0);
    let mut term = 1;
    for seq in 1..40_u64 {
        let model = step(&states[&(seq - 1)], &mut rng);
        states.insert(seq, model.clone());
        if rng.random_bool(0.1) {
            term += 1;
        }
        let leader = &writers[usize::try_from(term % 2).unwrap()];
        if rng.random_bool(0.2) {
            // The deposed one tries, too.
            let deposed = &writers[usize::try_from((term + 1) % 2).unwrap()];
            let tried = deposed.publish(ImageSource { term: term - 1, ..source(&model, seq, full(&model)) }).await;
            if let Ok(done) = tried {
                published.insert(done.generation, done.seq);
            }
        }
        let Ok(newest) = leader.newest().await else { continue };
        let records = match &newest {
            Some(head) if head.seq.0 <= seq => changes(&states[&head.seq.0], &model, head.seq.0),
            _ => full(&model),
        };
        match leader.publish(ImageSource { term, ..source(&model, seq, records) }).await {
            Ok(done) => {
                assert_eq!(done.seq, Seq(seq));
                published.insert(done.generation, done.seq);
            }
            Err(Error::Store { .. } | Error::Deadline { .. }) => unknown += 1,
            // An earlier put of unknown outcome turned out to be there.
            Err(Error::Base { .. }) => unknown += 1,
            Err(other) => panic!("seed {seed}, seq {seq}: a false conflict: {other:?}"),
        }
        if rng.random_bool(0.2) {
            let _ = leader.compact().await;
        }
    }
    faulty.set_plan(FaultPlan::default());
    faulty.settle().await;
    let honest = repository(memory).await;
    let directory = names::volume_directory(CLUSTER, VOLUME);
    let newest = head::newest_readable(&honest.store, &directory, None).await.unwrap().unwrap();
    let mut last = (Epoch(0), 0, Seq(0));
    for generation in 1..=newest.generation {
        let head = head::read(&honest.store, &directory, generation).await.unwrap().unwrap().unwrap();
        assert!(head.authority() >= last, "seed {seed}: generation {generation} goes back");
        last = head.authority();
        assert_eq!(read(&honest, &head).await, states[&head.seq.0], "seed {seed}, generation {generation}");
        if let Some(seq) = published.remove(&generation) {
            assert_eq!(head.seq, seq, "seed {seed}: generation {generation} was reported for another state");
        }
    }
    assert!(published.is_empty(), "seed {seed}: reported as published, yet not there: {published:?}");
    (newest.generation, unknown)
}

/// In real time with short deadlines: a blocking thread that waits for a request would stop paused time.
#[test]
fn no_false_conflict_and_no_double_publish_through_faults() {
    let runs = (0..12).map(|seed| {
        std::thread::spawn(move || {
            let runtime = runtime();
            let found = runtime.block_on(publish_through_faults(seed));
            runtime.shutdown_background();
            found
        })
    });
    let found: Vec<_> = runs.collect::<Vec<_>>().into_iter().map(|run| run.join().unwrap()).collect();
    let generations: u64 = found.iter().map(|(generations, _)| generations).sum();
    let unknown: u64 = found.iter().map(|(_, unknown)| unknown).sum();
    assert!(generations > 200 && unknown > 0, "{generations} images, {unknown} unknown outcomes: the faults must bite");
}

#[tokio::test]
async fn a_writer_that_dies_at_any_request_leaves_the_last_image_or_the_new_one() {
    let models = [Model::from([(vec![1], vec![1; 5_000])]), (0..30_u8).map(|n| (vec![n], vec![n; 400])).collect()];
    let mut outcomes = std::collections::BTreeSet::new();
    for dies_after in 0..40 {
        let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let honest = repository(Arc::clone(&memory)).await;
        writer(&honest).publish(source(&models[0], 1, full(&models[0]))).await.unwrap();
        let faulty = FaultyStore::new(memory, FaultPlan::default(), 1);
        let options = RepositoryOptions { attempts: 1, seed: Some(9), ..options() };
        let dying = Repository::with_store(Arc::new(faulty.clone()), "memory:", options).await.unwrap();
        faulty.die_after(dies_after);
        let died = writer(&dying).publish(source(&models[1], 2, full(&models[1]))).await;
        let newest = writer(&honest).refresh().await.unwrap().unwrap();
        let seq = usize::try_from(newest.seq.0).unwrap();
        assert_eq!(read(&honest, &newest).await, models[seq - 1]);
        assert!(died.is_err() || seq == 2);
        outcomes.insert((died.is_ok(), seq));
    }
    assert_eq!(outcomes.into_iter().collect::<Vec<_>>(), [(false, 1), (true, 2)]);
}
