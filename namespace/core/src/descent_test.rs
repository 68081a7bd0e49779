use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Bound;

use proptest::prelude::*;

use super::*;
use crate::records::Record;

#[derive(Clone, Debug, Default)]
struct Set(BTreeMap<Bytes, Bytes>);

impl Records for Set {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Record>, ReadError> {
        let bounds = (Bound::Included(Bytes::copy_from_slice(from)), Bound::Excluded(Bytes::copy_from_slice(to)));
        if from >= to {
            return Ok(Vec::new());
        }
        Ok(self.0.range(bounds).take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

/// Counts what it sends.
struct Peer<'a> {
    set: &'a Set,
    keys: usize,
    questions: usize,
}

impl Other for Peer<'_> {
    type Error = Infallible;

    fn sums(&mut self, ranges: &[KeyRange]) -> Result<Vec<Option<Sum>>, Infallible> {
        assert!(ranges.len() <= RANGES_MAX);
        self.questions += 1;
        Ok(sums(self.set, ranges).unwrap())
    }

    fn keys(&mut self, range: &KeyRange) -> Result<KeyPage, Infallible> {
        self.questions += 1;
        let page = keys(self.set, range).unwrap();
        self.keys += page.keys.len();
        Ok(page)
    }
}

fn key(number: u32) -> Bytes {
    // Tables, lengths and neighbours as real keys have them.
    let mut key = vec![1 + (number % 3) as u8];
    key.extend_from_slice(&(u64::from(number) / 3).to_be_bytes());
    key.extend(std::iter::repeat_n(b'x', number as usize % 5));
    key.into()
}

/// What differs, the plain way.
fn naive(own: &Set, other: &Set) -> Vec<(Bytes, How)> {
    let keys: std::collections::BTreeSet<&Bytes> = own.0.keys().chain(other.0.keys()).collect();
    let differ = keys.into_iter().filter(|key| own.0.get(*key) != other.0.get(*key));
    let how = |key: &Bytes| match (own.0.contains_key(key), other.0.contains_key(key)) {
        (true, true) => How::Changed,
        (true, false) => How::OnlyHere,
        _ => How::OnlyThere,
    };
    differ.map(|key| (key.clone(), how(key))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn exactly_what_differs_is_named(
        size in prop_oneof![Just(0_u32), 1..100_u32, 900..1200_u32, 3000..9000_u32],
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..3_u8), 0..12),
        bulk in prop_oneof![4 => Just(None), 1 => (0..9000_u32, 1..3000_u32, any::<bool>()).prop_map(Some)],
    ) {
        let own = Set((0..size).map(|number| (key(number), Bytes::from(vec![number as u8; number as usize % 9]))).collect());
        let mut other = own.clone();
        for (at, edit) in edits {
            let number = at.index(size as usize + 10) as u32;
            match edit {
                0 => _ = other.0.insert(key(number), Bytes::from_static(b"another")),
                1 => _ = other.0.remove(&key(number)),
                _ => _ = other.0.insert(key(number + 20_000), Bytes::from_static(b"new")),
            }
        }
        if let Some((from, count, add)) = bulk {
            for number in from..from + count {
                match add {
                    true => _ = other.0.insert(key(number), Bytes::from_static(b"bulk")),
                    false => _ = other.0.remove(&key(number)),
                }
            }
        }
        let expected = naive(&own, &other);
        let found = descend(&own, &mut Peer { set: &other, keys: 0, questions: 0 }, usize::MAX).unwrap();
        prop_assert_eq!(found, Found { count: expected.len() as u64, named: expected.clone(), complete: true });
        let few = descend(&own, &mut Peer { set: &other, keys: 0, questions: 0 }, 3).unwrap();
        prop_assert_eq!(few.count, expected.len() as u64);
        prop_assert_eq!(&few.named[..], &expected[..expected.len().min(3)]);
    }
}

#[test]
fn one_difference_among_many_costs_few_questions() {
    let own = Set((0..200_000).map(|number| (key(number), Bytes::from_static(b"value"))).collect());
    let mut other = own.clone();
    other.0.insert(key(123_456), Bytes::from_static(b"wrong"));
    let mut peer = Peer { set: &other, keys: 0, questions: 0 };
    let found = descend(&own, &mut peer, 100).unwrap();
    assert_eq!(found.named, [(key(123_456), How::Changed)]);
    // 196 ranges in four questions, 16 parts, one page of 64 keys.
    assert_eq!((peer.questions, peer.keys), (6, PART));
}

#[test]
fn a_replica_that_lost_nearly_all_is_told_from_one_that_has_more() {
    let full = Set((0..120_000).map(|number| (key(number), Bytes::new())).collect());
    let empty = Set::default();
    let lost = descend(&empty, &mut Peer { set: &full, keys: 0, questions: 0 }, 10).unwrap();
    assert!(!lost.complete && lost.count > 10_000 && lost.named.len() == 10, "{lost:?}");
    assert!(lost.named.iter().all(|(_, how)| *how == How::OnlyThere));
    let more = descend(&full, &mut Peer { set: &empty, keys: 0, questions: 0 }, 10).unwrap();
    assert_eq!((more.count, more.complete), (120_000, true));
    let huge = Set((0..300_000).map(|number| (key(number), Bytes::new())).collect());
    let more = descend(&huge, &mut Peer { set: &empty, keys: 0, questions: 0 }, 10).unwrap();
    assert!(!more.complete && more.count > 200_000, "{}", more.count);
}

/// Answers the same to everything.
struct Hostile {
    sums: Vec<Option<Sum>>,
    page: KeyPage,
    questions: usize,
    stem: Bytes,
    counter: u64,
}

impl Other for Hostile {
    type Error = Infallible;

    fn sums(&mut self, _ranges: &[KeyRange]) -> Result<Vec<Option<Sum>>, Infallible> {
        self.questions += 1;
        Ok(self.sums.clone())
    }

    fn keys(&mut self, range: &KeyRange) -> Result<KeyPage, Infallible> {
        self.questions += 1;
        let mut page = self.page.clone();
        if page.keys.len() == KEYS_MAX {
            // Always more keys before the range's end: it could go on for ever.
            if !range.from.starts_with(&self.stem) || self.stem.is_empty() {
                self.stem = range.from.clone();
            }
            for place in &mut page.keys {
                self.counter += 1;
                place.0 = [&self.stem[..], &[0], &self.counter.to_be_bytes()].concat().into();
            }
        }
        Ok(page)
    }
}

#[test]
fn a_hostile_other_is_cut_off() {
    let own = Set((0..5000).map(|number| (key(number), Bytes::new())).collect());
    let one = |key: &'static [u8]| (Bytes::from_static(key), [0; 32]);
    let run = |sums: Vec<Option<Sum>>, keys: Vec<Hashed>, more: bool| {
        let page = KeyPage { keys, more };
        let mut other = Hostile { sums, page, questions: 0, stem: Bytes::new(), counter: 0 };
        (descend(&own, &mut other, 100).map_err(|error| error.to_string()), other.questions)
    };
    assert!(run(vec![], vec![], false).0.unwrap_err().contains("not the sums"));
    assert!(run(vec![None; 100], vec![], false).0.unwrap_err().contains("not the sums"));
    assert!(run(vec![None], vec![], true).0.unwrap_err().contains("not the keys"));
    assert!(run(vec![None], vec![one(b"\xff\xff")], false).0.unwrap_err().contains("not the keys"));
    assert!(run(vec![None], vec![one(b"\x01"), one(b"\x01")], false).0.unwrap_err().contains("not the keys"));
    assert!(run(vec![None], vec![one(b"\x01")], true).0.unwrap_err().contains("not the keys"));
    let (endless, questions) = run(vec![None], vec![one(b""); KEYS_MAX], true);
    assert!(!endless.unwrap().complete);
    assert!(questions < 90 * 66, "{questions}");
}
