//! Keys and values of the spaces. The page is `docs/formats/state.md`.

use std::ops::Bound;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use causeway_base::envelope::{self, Kind};
use causeway_base::{Ino, Seq, Timestamp, VolumeId};
use causeway_namespace_core::digest::Digest;
use causeway_storage::kv::{Batch, KeyRange, KvRead};

use super::{META, StoreError};

/// A place in a group's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// The term of the leader that proposed it.
    pub term: u64,
    /// Its index.
    pub index: u64,
}

/// What a group has applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Last applied entry.
    pub applied: Option<Position>,
    /// Members as of then, encoded by the adaptor; empty if none were set.
    pub membership: Bytes,
    /// Digest of the records.
    pub digest: Digest,
    /// Number of records.
    pub records: u64,
    /// Oldest seq from which on there is a view of every seq; of earlier ones only snapshots are kept.
    pub oldest: Seq,
    /// The latest time that an applied command carried: never goes back, whatever the clocks of proposers say.
    pub time: Timestamp,
    /// What `time` was at `oldest`.
    pub oldest_time: Timestamp,
}

impl Meta {
    /// The applied seq; zero before the first.
    #[must_use]
    pub fn seq(&self) -> Seq {
        Seq(self.applied.map_or(0, |position| position.index))
    }
}

const META_KIND: Kind = Kind { magic: *b"CWSM", version: 1, payload_bytes_max: 1 << 20 };
const KEPT_KIND: Kind = Kind { magic: *b"CWSK", version: 1, payload_bytes_max: 1 << 17 };
const INSTALL_KIND: Kind = Kind { magic: *b"CWSI", version: 1, payload_bytes_max: 4096 };

fn group_key(group: VolumeId, rest: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(8 + rest.len());
    key.put_u64(group.0);
    key.put_slice(rest);
    key.freeze()
}

/// The range of everything of a group.
pub(super) fn group_range(group: VolumeId) -> KeyRange {
    causeway_storage::kv::prefix_range(&group.0.to_be_bytes())
}

/// Before everything of a group.
pub(super) fn group_start(group: VolumeId) -> Bytes {
    group_key(group, b"")
}

/// The group in a key.
pub(super) fn group_of(key: &[u8]) -> Option<VolumeId> {
    key.first_chunk().map(|bytes| VolumeId(u64::from_be_bytes(*bytes)))
}

// META

pub(super) fn meta_key(group: VolumeId) -> Bytes {
    group_key(group, b"m")
}

/// Names a snapshot file that is being installed.
pub(super) fn install_key(group: VolumeId) -> Bytes {
    group_key(group, b"i")
}

/// Marks a replica that is wrong.
pub(super) fn diverged_key(group: VolumeId) -> Bytes {
    group_key(group, b"d")
}

/// Marks a replica that a person declared right.
pub(super) fn trusted_key(group: VolumeId) -> Bytes {
    group_key(group, b"t")
}

/// Marks a line that was given up, under its storage id.
pub(super) fn forgotten_key(storage: VolumeId) -> Bytes {
    group_key(storage, b"f")
}

pub(super) fn encode_meta(group: VolumeId, meta: &Meta) -> Result<Bytes, StoreError> {
    let sealed = envelope::seal_value(META_KIND, meta);
    sealed.map(Bytes::from).map_err(|error| StoreError::Damaged { group, reason: error.to_string() })
}

pub(super) fn read_meta(kv: &dyn KvRead, group: VolumeId) -> Result<Meta, StoreError> {
    let sealed = kv.get(META, &meta_key(group)).map_err(|source| StoreError::Kv { group, source })?;
    let Some(sealed) = sealed else { return Ok(Meta::default()) };
    envelope::open_value(META_KIND, &sealed)
        .map_err(|error| StoreError::Damaged { group, reason: format!("its applied state: {error}") })
}

pub(super) fn encode_install(group: VolumeId, file: &str) -> Result<Bytes, StoreError> {
    let sealed = envelope::seal_value(INSTALL_KIND, &file);
    sealed.map(Bytes::from).map_err(|error| StoreError::Damaged { group, reason: error.to_string() })
}

pub(super) fn decode_install(group: VolumeId, sealed: &[u8]) -> Result<String, StoreError> {
    envelope::open_value(INSTALL_KIND, sealed)
        .map_err(|error| StoreError::Damaged { group, reason: format!("the mark of an installation: {error}") })
}

// CURRENT

pub(super) fn current_key(group: VolumeId, key: &[u8]) -> Bytes {
    group_key(group, key)
}

/// A record's key from its key in `CURRENT`.
pub(super) fn record_key(key: &Bytes) -> Bytes {
    key.slice(8.min(key.len())..)
}

/// Seq and value, as `CURRENT` and `OLD` store them.
pub(super) fn stamped(seq: Seq, value: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(8 + value.len());
    out.put_u64(seq.0);
    out.put_slice(value);
    out.freeze()
}

pub(super) fn unstamped(mut stored: Bytes) -> Option<(Seq, Bytes)> {
    if stored.len() < 8 {
        return None;
    }
    let seq = Seq(stored.get_u64());
    Some((seq, stored))
}

// OLD: a record's key is escaped and ended, so that the seq behind it does not mix the versions of one key with another's.

fn escape(out: &mut BytesMut, key: &[u8]) {
    for byte in key {
        out.put_u8(*byte);
        if *byte == 0 {
            out.put_u8(0xff);
        }
    }
}

/// Everything of a record's versions starts with this.
pub(super) fn old_prefix(group: VolumeId, key: &[u8]) -> BytesMut {
    let mut out = BytesMut::with_capacity(8 + 2 * key.len() + 10);
    out.put_u64(group.0);
    escape(&mut out, key);
    out.put_slice(&[0, 1]);
    out
}

/// The version of a record that `written` wrote. Newer versions sort first.
pub(super) fn old_key(group: VolumeId, key: &[u8], written: Seq) -> Bytes {
    let mut out = old_prefix(group, key);
    out.put_u64(!written.0);
    out.freeze()
}

/// Where the versions of keys from `key` on begin.
pub(super) fn old_bound(group: VolumeId, key: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(8 + 2 * key.len());
    out.put_u64(group.0);
    escape(&mut out, key);
    out.freeze()
}

/// A record's key and the seq that wrote the version.
pub(super) fn decode_old_key(stored: &[u8]) -> Option<(Bytes, Seq)> {
    let (body, written) = stored.get(8..)?.split_last_chunk::<8>()?;
    let escaped = body.strip_suffix(&[0, 1])?;
    let mut key = BytesMut::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(byte) = bytes.next() {
        key.put_u8(*byte);
        if *byte == 0 && bytes.next() != Some(&0xff) {
            return None;
        }
    }
    Some((key.freeze(), Seq(!u64::from_be_bytes(*written))))
}

// CHANGES

pub(super) fn changes_key(group: VolumeId, seq: Seq) -> Bytes {
    group_key(group, &seq.0.to_be_bytes())
}

pub(super) fn changes_range(group: VolumeId, after: Seq, until: Seq) -> KeyRange {
    (Bound::Excluded(changes_key(group, after)), Bound::Included(changes_key(group, until)))
}

/// The name by which an inode was changed: the directory and the name in it.
pub type Named = (Ino, Bytes);

/// A key that a seq changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ChangedKey {
    pub(super) key: Bytes,
    /// The seq of the version that it replaced; `None` if there was none.
    pub(super) replaced: Option<Seq>,
    /// Of an inode that was changed by a name: which.
    pub(super) name: Option<Named>,
}

/// What a seq changed, as `CHANGES` stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ChangesOf {
    /// [`Meta::time`] at the seq.
    pub(super) time: Timestamp,
    pub(super) keys: Vec<ChangedKey>,
}

/// Stands for "none" where a seq or the length of a name is expected.
const NONE_SEQ: u64 = u64::MAX;
const NONE_NAME: u16 = u16::MAX;

fn put_version(out: &mut BytesMut, replaced: Option<Seq>, name: Option<&Named>) {
    out.put_u64(replaced.map_or(NONE_SEQ, |seq| seq.0));
    match name {
        // Names are at most 255 bytes long.
        Some((dir, name)) => {
            out.put_u16(u16::try_from(name.len()).unwrap_or(u16::MAX - 1));
            out.put_u64(dir.0);
            out.put_slice(name);
        }
        None => out.put_u16(NONE_NAME),
    }
}

fn take_version(stored: &mut Bytes) -> Option<(Option<Seq>, Option<Named>)> {
    let replaced = stored.try_get_u64().ok()?;
    let replaced = (replaced != NONE_SEQ).then_some(Seq(replaced));
    let len = stored.try_get_u16().ok()?;
    if len == NONE_NAME {
        return Some((replaced, None));
    }
    let dir = Ino(stored.try_get_u64().ok()?);
    let len = usize::from(len);
    (stored.len() >= len).then(|| (replaced, Some((dir, stored.split_to(len)))))
}

pub(super) fn encode_changes(changes: &ChangesOf) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i64(changes.time.0);
    for ChangedKey { key, replaced, name } in &changes.keys {
        // Keys are at most KEY_BYTES_MAX long.
        out.put_u16(u16::try_from(key.len()).unwrap_or(u16::MAX));
        out.put_slice(key);
        put_version(&mut out, *replaced, name.as_ref());
    }
    out.freeze()
}

/// The time alone.
pub(super) fn changes_time(mut stored: &[u8]) -> Option<Timestamp> {
    stored.try_get_i64().ok().map(Timestamp)
}

pub(super) fn decode_changes(mut stored: Bytes) -> Option<ChangesOf> {
    let time = Timestamp(stored.try_get_i64().ok()?);
    let mut keys = Vec::new();
    while !stored.is_empty() {
        let len = usize::from(stored.try_get_u16().ok()?);
        if stored.len() < len {
            return None;
        }
        let key = stored.split_to(len);
        let (replaced, name) = take_version(&mut stored)?;
        keys.push(ChangedKey { key, replaced, name });
    }
    Some(ChangesOf { time, keys })
}

// KEPT: by snapshot, the keys that changed after it and before the next one (or before the oldest seq), each with the
// version that the snapshot sees.

pub(super) fn kept_key(group: VolumeId, snapshot: Seq, key: &[u8]) -> Bytes {
    let mut rest = BytesMut::with_capacity(8 + key.len());
    rest.put_u64(snapshot.0);
    rest.put_slice(key);
    group_key(group, &rest)
}

pub(super) fn kept_range(group: VolumeId, snapshot: Seq) -> KeyRange {
    causeway_storage::kv::prefix_range(&kept_key(group, snapshot, b""))
}

/// A record's key from its key in `KEPT`.
pub(super) fn kept_record_key(stored: &Bytes) -> Bytes {
    stored.slice(16.min(stored.len())..)
}

pub(super) fn encode_kept_version(written: Option<Seq>, name: Option<&Named>) -> Bytes {
    let mut out = BytesMut::new();
    put_version(&mut out, written, name);
    out.freeze()
}

pub(super) fn decode_kept_version(mut stored: Bytes) -> Option<(Option<Seq>, Option<Named>)> {
    let version = take_version(&mut stored)?;
    stored.is_empty().then_some(version)
}

/// A snapshot older than the oldest seq, whose state is whole here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) seq: Seq,
    /// Whether `KEPT` lists every key that changed after it; not on a replica that got it with a Raft snapshot.
    pub(super) listed: bool,
    /// Whether it was deleted, and what it alone sees is being given up: its state is not whole any more.
    pub(super) gone: bool,
}

fn kept_list_key(group: VolumeId) -> Bytes {
    group_key(group, b"k")
}

/// The kept snapshots, by seq.
pub(super) fn read_kept(kv: &dyn KvRead, group: VolumeId) -> Result<Vec<Kept>, StoreError> {
    let sealed = kv.get(META, &kept_list_key(group)).map_err(|source| StoreError::Kv { group, source })?;
    let Some(sealed) = sealed else { return Ok(Vec::new()) };
    envelope::open_value(KEPT_KIND, &sealed)
        .map_err(|error| StoreError::Damaged { group, reason: format!("its kept snapshots: {error}") })
}

pub(super) fn write_kept(batch: &mut Batch, group: VolumeId, kept: &[Kept]) -> Result<(), StoreError> {
    if kept.is_empty() {
        batch.delete(META, kept_list_key(group));
        return Ok(());
    }
    let sealed = envelope::seal_value(KEPT_KIND, &kept);
    let sealed = sealed.map_err(|error| StoreError::Damaged { group, reason: error.to_string() })?;
    batch.put(META, kept_list_key(group), Bytes::from(sealed));
    Ok(())
}

/// The seq in a key of `CHANGES`.
pub(super) fn changes_seq(key: &[u8]) -> Option<Seq> {
    key.get(8..)?.try_into().ok().map(|bytes| Seq(u64::from_be_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes of which many are 0, 1 or 255.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![Just(0), Just(1), Just(0xff), any::<u8>()], 0..12)
    }

    proptest! {
        #[test]
        fn versions_sort_by_key_and_then_newest_first(a in key(), b in key(), at in 0..9_u64, bt in 0..9_u64) {
            let group = VolumeId(3);
            let (left, right) = (old_key(group, &a, Seq(at)), old_key(group, &b, Seq(bt)));
            prop_assert_eq!(left.cmp(&right), (&a, std::cmp::Reverse(at)).cmp(&(&b, std::cmp::Reverse(bt))));
            prop_assert_eq!(decode_old_key(&left), Some((Bytes::from(a.clone()), Seq(at))));
            prop_assert_eq!(old_bound(group, &b) <= left, b <= a);
        }

        #[test]
        fn changes_read_back(changes in proptest::collection::vec((key(), proptest::option::of(0..100_u64), proptest::option::of((0..9_u64, key()))), 0..8)) {
            let keys: Vec<ChangedKey> = changes.into_iter().map(|(key, seq, name)| ChangedKey {
                key: key.into(),
                replaced: seq.map(Seq),
                name: name.map(|(dir, name)| (Ino(dir), name.into())),
            }).collect();
            for ChangedKey { replaced, name, .. } in &keys {
                let stored = encode_kept_version(*replaced, name.as_ref());
                prop_assert_eq!(decode_kept_version(stored), Some((*replaced, name.clone())));
            }
            let changes = ChangesOf { time: Timestamp(-7), keys };
            let stored = encode_changes(&changes);
            prop_assert_eq!(changes_time(&stored), Some(Timestamp(-7)));
            prop_assert_eq!(decode_changes(stored), Some(changes));
        }

        #[test]
        fn noise_is_no_panic(noise in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode_old_key(&noise);
            let _ = decode_kept_version(Bytes::from(noise.clone()));
            let _ = decode_changes(Bytes::from(noise));
        }
    }
}
