//! An engine against a plain map.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::single::{all, get, scan};
use super::{Engine, SPACES};
use crate::kv::{Batch, Entry, KeyRange, KvRead, Space, range_is_empty};

/// One step of a run. Keys are few and short, so that steps meet.
#[derive(Clone, Debug)]
pub enum Step {
    /// One batch: space number, key, value or a delete.
    Write(Vec<(usize, Vec<u8>, Option<Vec<u8>>)>),
    /// [`crate::kv::Kv::persist`].
    Persist,
    /// Closes and opens the store, after a persist.
    Reopen,
    /// Takes a snapshot, which is compared with its moment at the end and again at each later `Compare`.
    Snapshot,
    /// Drops the oldest snapshot.
    DropSnapshot,
    /// Scans a range of a space, in a direction.
    Scan(usize, Bound<Vec<u8>>, Bound<Vec<u8>>, bool),
    /// Compares everything.
    Compare,
}

type Model = BTreeMap<(Space, Bytes), Bytes>;

/// Takes the steps on a fresh store at `path` and compares what it shows with a plain map.
///
/// # Panics
/// If they differ.
pub fn check(engine: &dyn Engine, path: &Path, steps: &[Step]) {
    let mut kv = engine.open(path);
    let mut model = Model::new();
    let mut snapshots: Vec<(Box<dyn KvRead>, Model)> = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        match step {
            Step::Write(ops) => {
                let mut batch = Batch::new();
                for (space, key, value) in ops {
                    let (space, key) = (SPACES[space % SPACES.len()], Bytes::from(key.clone()));
                    match value {
                        Some(value) => {
                            batch.put(space, key.clone(), value.clone());
                            model.insert((space, key), value.clone().into());
                        }
                        None => {
                            batch.delete(space, key.clone());
                            model.remove(&(space, key));
                        }
                    }
                }
                kv.write(batch).expect("a write");
            }
            Step::Persist => kv.persist().expect("persist"),
            Step::Reopen => {
                kv.persist().expect("persist");
                snapshots.clear();
                drop(kv);
                kv = engine.open(path);
            }
            Step::Snapshot if engine.has_snapshots() => snapshots.push((kv.snapshot(), model.clone())),
            Step::DropSnapshot if !snapshots.is_empty() => drop(snapshots.remove(0)),
            Step::Snapshot | Step::DropSnapshot => {}
            Step::Scan(space, low, high, reverse) => {
                let space = SPACES[space % SPACES.len()];
                let range = (low.clone().map(Bytes::from), high.clone().map(Bytes::from));
                let mut expected = select(&model, space, &range);
                if *reverse {
                    expected.reverse();
                }
                assert_eq!(scan(&*kv, space, range, *reverse), expected, "step {at}: {step:?}");
            }
            Step::Compare => {
                compare(&*kv, &model, at);
                for (snapshot, model) in &snapshots {
                    compare(&**snapshot, model, at);
                }
            }
        }
    }
    compare(&*kv, &model, steps.len());
    for (snapshot, model) in &snapshots {
        compare(&**snapshot, model, steps.len());
    }
}

/// `count` steps from a seed.
#[must_use]
pub fn random(seed: u64, count: usize) -> Vec<Step> {
    let mut rng = SmallRng::seed_from_u64(seed);
    (0..count)
        .map(|_| match rng.random_range(0..20) {
            0..10 => {
                let ops = rng.random_range(0..12);
                Step::Write((0..ops).map(|_| random_op(&mut rng)).collect())
            }
            10 => Step::Persist,
            11 => Step::Reopen,
            12 | 13 => Step::Snapshot,
            14 => Step::DropSnapshot,
            15..18 => {
                let (low, high) = (random_bound(&mut rng), random_bound(&mut rng));
                Step::Scan(rng.random_range(0..2), low, high, rng.random())
            }
            _ => Step::Compare,
        })
        .collect()
}

fn random_op(rng: &mut SmallRng) -> (usize, Vec<u8>, Option<Vec<u8>>) {
    let value = rng.random_bool(0.7).then(|| {
        let length = rng.random_range(0..64);
        (0..length).map(|_| rng.random()).collect()
    });
    (rng.random_range(0..2), random_key(rng), value)
}

fn random_key(rng: &mut SmallRng) -> Vec<u8> {
    let length = rng.random_range(1..4);
    (0..length).map(|_| [0, 1, b'a', 0xff][rng.random_range(0..4)]).collect()
}

fn random_bound(rng: &mut SmallRng) -> Bound<Vec<u8>> {
    match rng.random_range(0..3) {
        0 => Bound::Unbounded,
        1 => Bound::Included(random_key(rng)),
        _ => Bound::Excluded(random_key(rng)),
    }
}

fn compare(kv: &dyn KvRead, model: &Model, at: usize) {
    for space in SPACES {
        let expected = select(model, space, &(Bound::Unbounded, Bound::Unbounded));
        assert_eq!(all(kv, space), expected, "space {} after {at} steps", space.0);
    }
    for ((space, key), value) in model {
        assert_eq!(get(kv, *space, key).as_ref(), Some(value), "{}/{key:?} after {at} steps", space.0);
    }
}

fn select(model: &Model, space: Space, range: &KeyRange) -> Vec<Entry> {
    if range_is_empty(range) {
        return Vec::new();
    }
    let keys: BTreeMap<&Bytes, &Bytes> =
        model.iter().filter(|((of, _), _)| *of == space).map(|((_, key), value)| (key, value)).collect();
    keys.range::<Bytes, _>((range.0.as_ref(), range.1.as_ref()))
        .map(|(key, value)| ((*key).clone(), (*value).clone()))
        .collect()
}
