//! Checks with one thread.

use std::ops::Bound;

use bytes::Bytes;

use super::{Check, LEFT, Place, RIGHT};
use crate::kv::{
    Batch, Entry, KEY_BYTES_MAX, KeyRange, Kv, KvError, KvRead, Space, VALUE_BYTES_MAX, prefix_range, range_is_empty,
};

pub(super) const CHECKS: &[(&str, Check)] = &[
    ("a_new_store_is_empty", a_new_store_is_empty),
    ("what_is_written_is_read", what_is_written_is_read),
    ("the_last_operation_on_a_key_wins", the_last_operation_on_a_key_wins),
    ("spaces_are_apart", spaces_are_apart),
    ("scans_keep_order_and_bounds", scans_keep_order_and_bounds),
    ("keys_sort_as_bytes", keys_sort_as_bytes),
    ("sizes_up_to_the_bounds", sizes_up_to_the_bounds),
    ("bad_use_is_refused_whole", bad_use_is_refused_whole),
    ("a_snapshot_stays", a_snapshot_stays),
    ("a_scan_is_of_one_moment", a_scan_is_of_one_moment),
    ("what_was_persisted_is_there_again", what_was_persisted_is_there_again),
    ("many_entries_survive_flush_and_reopen", many_entries_survive_flush_and_reopen),
];

fn a_new_store_is_empty(place: &Place<'_>) {
    let kv = place.open();
    assert_eq!(get(&*kv, LEFT, b"a"), None, "{}", place.name);
    assert_eq!(all(&*kv, LEFT), [], "{}", place.name);
    kv.write(Batch::new()).expect("an empty batch is fine");
    kv.persist().expect("nothing to persist is fine");
}

fn what_is_written_is_read(place: &Place<'_>) {
    let kv = place.open();
    put(&*kv, LEFT, "a", "1");
    put(&*kv, LEFT, "b", "");
    assert_eq!(get(&*kv, LEFT, b"a").as_deref(), Some(&b"1"[..]));
    assert_eq!(get(&*kv, LEFT, b"b").as_deref(), Some(&b""[..]), "an empty value is a value");
    assert_eq!(get(&*kv, LEFT, b""), None, "no key is empty");
    put(&*kv, LEFT, "a", "2");
    assert_eq!(get(&*kv, LEFT, b"a").as_deref(), Some(&b"2"[..]));
    let mut batch = Batch::new();
    batch.delete(LEFT, "a");
    batch.delete(LEFT, "never there");
    kv.write(batch).expect("deletes");
    assert_eq!(all(&*kv, LEFT), [entry("b", "")]);
}

fn the_last_operation_on_a_key_wins(place: &Place<'_>) {
    let kv = place.open();
    put(&*kv, LEFT, "put then delete", "before");
    let mut batch = Batch::new();
    batch.put(LEFT, "delete then put", "no");
    batch.put(LEFT, "put then delete", "no");
    batch.put(LEFT, "put twice", "no");
    batch.delete(LEFT, "delete then put");
    batch.delete(LEFT, "put then delete");
    batch.put(LEFT, "put twice", "yes");
    batch.put(LEFT, "delete then put", "yes");
    // The same key elsewhere is another key.
    batch.delete(RIGHT, "put twice");
    kv.write(batch).expect("batch");
    assert_eq!(all(&*kv, LEFT), [entry("delete then put", "yes"), entry("put twice", "yes")]);
}

fn spaces_are_apart(place: &Place<'_>) {
    let kv = place.open();
    let mut batch = Batch::new();
    batch.put(LEFT, "k", "left");
    batch.put(RIGHT, "k", "right");
    kv.write(batch).expect("batch");
    let mut batch = Batch::new();
    batch.delete(LEFT, "k");
    kv.write(batch).expect("batch");
    assert_eq!(all(&*kv, LEFT), []);
    assert_eq!(all(&*kv, RIGHT), [entry("k", "right")]);
}

fn scans_keep_order_and_bounds(place: &Place<'_>) {
    let kv = place.open();
    let keys = ["a", "b", "bb", "c", "d"];
    let mut batch = Batch::new();
    for key in keys.iter().rev() {
        batch.put(LEFT, *key, *key);
    }
    // Neighbours that must not show up.
    batch.put(RIGHT, "b", "other space");
    kv.write(batch).expect("batch");

    let edges = ["", "a", "aa", "b", "bb", "c", "cc", "d", "e"];
    let bounds: Vec<Bound<Bytes>> = std::iter::once(Bound::Unbounded)
        .chain(edges.iter().flat_map(|edge| [Bound::Included(bytes(edge)), Bound::Excluded(bytes(edge))]))
        .collect();
    for low in &bounds {
        for high in &bounds {
            let range: KeyRange = (low.clone(), high.clone());
            let mut expected: Vec<Entry> = keys
                .iter()
                .filter(|key| !range_is_empty(&range) && contains(&range, key.as_bytes()))
                .map(|key| entry(key, key))
                .collect();
            assert_eq!(scan(&*kv, LEFT, range.clone(), false), expected, "{range:?}");
            expected.reverse();
            assert_eq!(scan(&*kv, LEFT, range.clone(), true), expected, "{range:?} in reverse");
        }
    }
    assert_eq!(scan(&*kv, LEFT, prefix_range(b"b"), false), [entry("b", "b"), entry("bb", "bb")]);
    assert_eq!(scan(&*kv, LEFT, prefix_range(b"x"), false), []);

    let mut ended = kv.scan(LEFT, prefix_range(b"d"), false);
    assert!(ended.next().is_some());
    assert!(ended.next().is_none());
    assert!(ended.next().is_none(), "an ended scan stays ended");
}

fn keys_sort_as_bytes(place: &Place<'_>) {
    let kv = place.open();
    let mut keys: Vec<Vec<u8>> =
        vec![vec![0], vec![0, 0], vec![0, 0xff], vec![1], vec![0x7f], vec![0x80], vec![0xff], vec![0xff, 0xff]];
    keys.extend((0..=255).map(|byte| vec![b'k', byte]));
    let mut batch = Batch::new();
    for key in keys.iter().rev() {
        batch.put(LEFT, key.clone(), key.clone());
    }
    kv.write(batch).expect("batch");
    keys.sort();
    let found: Vec<Vec<u8>> = all(&*kv, LEFT).into_iter().map(|(key, _)| key.to_vec()).collect();
    assert_eq!(found, keys);
    assert_eq!(scan(&*kv, LEFT, prefix_range(&[0xff]), false).len(), 2);
}

fn sizes_up_to_the_bounds(place: &Place<'_>) {
    let kv = place.open();
    let key = Bytes::from(vec![0xff; KEY_BYTES_MAX]);
    let value = Bytes::from((0..VALUE_BYTES_MAX).map(|i| (i % 251) as u8).collect::<Vec<_>>());
    let mut batch = Batch::new();
    batch.put(LEFT, key.clone(), value.clone());
    kv.write(batch).expect("the longest key and value");
    kv.persist().expect("persist");
    drop(kv);
    let kv = place.open();
    assert!(get(&*kv, LEFT, &key).is_some_and(|found| found == value), "the longest value came back differently");
}

fn bad_use_is_refused_whole(place: &Place<'_>) {
    let kv = place.open();
    let nowhere = Space("nowhere");
    let bad: [(Space, Vec<u8>, usize); 4] = [
        (nowhere, b"k".to_vec(), 1),
        (LEFT, Vec::new(), 1),
        (LEFT, vec![b'k'; KEY_BYTES_MAX + 1], 1),
        (LEFT, b"k".to_vec(), VALUE_BYTES_MAX + 1),
    ];
    for (space, key, value_bytes) in bad {
        let mut batch = Batch::new();
        batch.put(LEFT, "good", "good");
        batch.put(space, key, vec![0; value_bytes]);
        let refused = kv.write(batch).expect_err("must be refused");
        assert!(matches!(refused, KvError::Usage { .. }), "{refused:?}");
        assert_eq!(all(&*kv, LEFT), [], "a refused batch left something");
    }
    assert!(matches!(kv.get(nowhere, b"k"), Err(KvError::Usage { .. })));
    let everything = (Bound::Unbounded, Bound::Unbounded);
    let scanned: Vec<_> = kv.scan(nowhere, everything, false).collect();
    assert!(matches!(scanned[..], [Err(KvError::Usage { .. })]), "{scanned:?}");
    put(&*kv, LEFT, "good", "good");
}

fn a_snapshot_stays(place: &Place<'_>) {
    if !place.engine.has_snapshots() {
        return;
    }
    let kv = place.open();
    let mut batch = Batch::new();
    batch.put(LEFT, "a", "1");
    batch.put(LEFT, "b", "1");
    batch.put(RIGHT, "a", "1");
    kv.write(batch).expect("batch");
    let before = kv.snapshot();
    let mut batch = Batch::new();
    batch.put(LEFT, "a", "2");
    batch.delete(LEFT, "b");
    batch.put(LEFT, "c", "2");
    batch.delete(RIGHT, "a");
    kv.write(batch).expect("batch");
    let between = kv.snapshot();
    // Enough to move what the snapshots hold out of memory.
    for round in 0..4_u8 {
        let mut batch = Batch::new();
        for i in 0..500_u32 {
            batch.put(LEFT, i.to_be_bytes().to_vec(), vec![round; 200]);
        }
        batch.put(LEFT, "a", vec![round]);
        kv.write(batch).expect("batch");
        kv.persist().expect("persist");
    }
    assert_eq!(all(&*before, LEFT), [entry("a", "1"), entry("b", "1")]);
    assert_eq!(all(&*before, RIGHT), [entry("a", "1")]);
    assert_eq!(get(&*before, LEFT, b"b").as_deref(), Some(&b"1"[..]));
    assert_eq!(get(&*before, LEFT, b"c"), None);
    assert_eq!(all(&*between, LEFT), [entry("a", "2"), entry("c", "2")]);
    assert_eq!(all(&*between, RIGHT), []);
    drop(before);
    assert_eq!(get(&*between, LEFT, b"a").as_deref(), Some(&b"2"[..]), "a younger snapshot does not need the older");
    assert_eq!(get(&*kv, LEFT, b"a").as_deref(), Some(&[3][..]));
}

fn a_scan_is_of_one_moment(place: &Place<'_>) {
    if !place.engine.has_stable_scans() {
        return;
    }
    let kv = place.open();
    for key in ["a", "b", "c", "d"] {
        put(&*kv, LEFT, key, "old");
    }
    let snapshot = kv.snapshot();
    for reader in [&*kv as &dyn KvRead, &*snapshot] {
        let everything = (Bound::Unbounded, Bound::Unbounded);
        let mut scan = reader.scan(LEFT, everything, false);
        let first = scan.next().expect("an entry").expect("a read");
        assert_eq!(first, entry("a", "old"));
        let mut batch = Batch::new();
        batch.put(LEFT, "b", "new");
        batch.delete(LEFT, "c");
        batch.put(LEFT, "e", "new");
        kv.write(batch).expect("batch");
        let rest: Vec<Entry> = scan.map(|entry| entry.expect("a read")).collect();
        assert_eq!(rest, [entry("b", "old"), entry("c", "old"), entry("d", "old")]);
        let mut batch = Batch::new();
        batch.put(LEFT, "b", "old");
        batch.put(LEFT, "c", "old");
        batch.delete(LEFT, "e");
        kv.write(batch).expect("batch");
    }
}

fn what_was_persisted_is_there_again(place: &Place<'_>) {
    let kv = place.open();
    let mut batch = Batch::new();
    batch.put(LEFT, "kept", "1");
    batch.put(RIGHT, "kept", "1");
    batch.put(RIGHT, "deleted later", "1");
    kv.write(batch).expect("batch");
    kv.persist().expect("persist");
    let mut batch = Batch::new();
    batch.delete(RIGHT, "deleted later");
    batch.put(LEFT, "kept", "2");
    kv.write(batch).expect("batch");
    kv.persist().expect("persist");
    drop(kv);
    for _ in 0..2 {
        let kv = place.open();
        assert_eq!(all(&*kv, LEFT), [entry("kept", "2")]);
        assert_eq!(all(&*kv, RIGHT), [entry("kept", "1")]);
    }
}

fn many_entries_survive_flush_and_reopen(place: &Place<'_>) {
    const COUNT: u32 = 6_000;
    let value = |i: u32| vec![(i % 251) as u8; 300 + (i % 400) as usize];
    let kv = place.open();
    for start in (0..COUNT).step_by(500) {
        let mut batch = Batch::new();
        for i in start..start + 500 {
            // Not in key order.
            let i = i.wrapping_mul(7_919) % COUNT;
            batch.put(LEFT, i.to_be_bytes().to_vec(), value(i));
        }
        kv.write(batch).expect("batch");
    }
    let mut batch = Batch::new();
    for i in (0..COUNT).step_by(3) {
        batch.delete(LEFT, i.to_be_bytes().to_vec());
    }
    kv.write(batch).expect("batch");
    kv.persist().expect("persist");
    let check = |kv: &dyn Kv| {
        let expected: Vec<u32> = (0..COUNT).filter(|i| i % 3 != 0).collect();
        let found = all(kv, LEFT);
        assert_eq!(found.len(), expected.len());
        for ((key, found), i) in found.iter().zip(expected) {
            assert_eq!(key[..], i.to_be_bytes());
            assert_eq!(found[..], value(i));
        }
    };
    check(&*kv);
    drop(kv);
    check(&*place.open());
}

pub(super) fn get(kv: &dyn KvRead, space: Space, key: &[u8]) -> Option<Bytes> {
    kv.get(space, key).expect("a read")
}

pub(super) fn put(kv: &dyn Kv, space: Space, key: &str, value: &str) {
    let mut batch = Batch::new();
    batch.put(space, key.to_owned(), value.to_owned());
    kv.write(batch).expect("a write");
}

pub(super) fn scan(kv: &dyn KvRead, space: Space, range: KeyRange, reverse: bool) -> Vec<Entry> {
    kv.scan(space, range, reverse).map(|entry| entry.expect("a read")).collect()
}

pub(super) fn all(kv: &dyn KvRead, space: Space) -> Vec<Entry> {
    scan(kv, space, (Bound::Unbounded, Bound::Unbounded), false)
}

fn entry(key: &str, value: &str) -> Entry {
    (bytes(key), bytes(value))
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// By the definition, apart from what engines use.
fn contains((low, high): &KeyRange, key: &[u8]) -> bool {
    let above = match low {
        Bound::Unbounded => true,
        Bound::Included(low) => key >= &low[..],
        Bound::Excluded(low) => key > &low[..],
    };
    let below = match high {
        Bound::Unbounded => true,
        Bound::Included(high) => key <= &high[..],
        Bound::Excluded(high) => key < &high[..],
    };
    above && below
}
