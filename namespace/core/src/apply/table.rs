//! One table of records as a command sees it: what is stored, and over it what the command has changed so far.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use causeway_base::Ino;

use super::Change;
use crate::command::SessionId;
use crate::encode;
use crate::inode::{Dirent, Inode};
use crate::key;
use crate::manage::QuotaRecord;
use crate::records::{ReadError, Records};
use crate::session::Session;

/// A table's key, its stored form, and its value.
pub(super) trait Keyed: Ord + Clone {
    /// What is stored under it.
    type Value: Serialize + DeserializeOwned + Clone;
    /// The stored key.
    fn stored(&self) -> Bytes;
}

impl Keyed for Ino {
    type Value = Inode;

    fn stored(&self) -> Bytes {
        key::inode(*self)
    }
}

impl Keyed for (Ino, Bytes) {
    type Value = Dirent;

    fn stored(&self) -> Bytes {
        key::dirent(self.0, &self.1)
    }
}

/// The directory whose quota it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct QuotaOf(pub(super) Ino);

impl Keyed for QuotaOf {
    type Value = QuotaRecord;

    fn stored(&self) -> Bytes {
        key::quota(self.0)
    }
}

impl Keyed for SessionId {
    type Value = Session;

    fn stored(&self) -> Bytes {
        key::session(*self)
    }
}

/// Decoded records over the stored ones. A record is read and decoded once per command, and encoded once at its end.
#[derive(Debug)]
pub(super) struct Table<K: Keyed> {
    slots: BTreeMap<K, Slot<K::Value>>,
    /// What [`Table::roll_back`] puts back: the first state of each slot changed since the last begin.
    undo: Vec<(K, Option<K::Value>)>,
    /// Counts the requests, so that a slot is saved once in each.
    request: u32,
}

#[derive(Debug)]
struct Slot<V> {
    key: Bytes,
    old: Option<Bytes>,
    now: Option<V>,
    saved_in: u32,
}

impl<K: Keyed> Default for Table<K> {
    fn default() -> Self {
        Self { slots: BTreeMap::new(), undo: Vec::new(), request: 1 }
    }
}

impl<K: Keyed> Table<K> {
    fn slot(&mut self, base: &dyn Records, key: &K) -> Result<&mut Slot<K::Value>, ReadError> {
        if !self.slots.contains_key(key) {
            let stored = key.stored();
            let old = base.get(&stored)?;
            let now = old.as_ref().map(|value| encode::record(&stored, value)).transpose()?;
            self.slots.insert(key.clone(), Slot { key: stored, old, now, saved_in: 0 });
        }
        Ok(self.slots.get_mut(key).expect("it was inserted above"))
    }

    /// The record as it is now.
    pub(super) fn get(&mut self, base: &dyn Records, key: &K) -> Result<Option<&K::Value>, ReadError> {
        Ok(self.slot(base, key)?.now.as_ref())
    }

    /// The record as it is now, to be changed in place, or put or removed.
    pub(super) fn edit(&mut self, base: &dyn Records, key: &K) -> Result<&mut Option<K::Value>, ReadError> {
        let request = self.request;
        let slot = self.slot(base, key)?;
        if slot.saved_in != request {
            slot.saved_in = request;
            let before = slot.now.clone();
            self.undo.push((key.clone(), before));
        }
        Ok(&mut self.slot(base, key)?.now)
    }

    /// Puts a record under a key that was never given before, without looking whether it is there.
    pub(super) fn create(&mut self, key: &K, value: K::Value) {
        let vacant = || Slot { key: key.stored(), old: None, now: None, saved_in: 0 };
        let slot = self.slots.entry(key.clone()).or_insert_with(vacant);
        let before = slot.now.replace(value);
        if slot.saved_in != self.request {
            slot.saved_in = self.request;
            self.undo.push((key.clone(), before));
        }
    }

    /// Starts a request: what was changed so far stays.
    pub(super) fn begin(&mut self) {
        self.undo.clear();
        self.request += 1;
    }

    /// Undoes everything since [`Table::begin`].
    pub(super) fn roll_back(&mut self) {
        for (key, before) in self.undo.drain(..) {
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.now = before;
            }
        }
        self.request += 1;
    }

    /// The net changes, encoded.
    pub(super) fn into_changes(self, changes: &mut Vec<Change>) {
        for slot in self.slots.into_values().filter(|slot| slot.saved_in != 0) {
            let new = slot.now.as_ref().map(encode::to_bytes);
            if new != slot.old {
                changes.push(Change { key: slot.key, old: slot.old, new });
            }
        }
    }
}

/// Stored records by their stored keys, for the small tables that are scanned.
#[derive(Debug, Default)]
pub(super) struct RawTable {
    slots: BTreeMap<Bytes, (Option<Bytes>, Option<Bytes>)>,
    undo: Vec<(Bytes, Option<Bytes>)>,
}

impl RawTable {
    /// The record as it is now.
    pub(super) fn get<T: DeserializeOwned>(&self, base: &dyn Records, key: &Bytes) -> Result<Option<T>, ReadError> {
        let value = match self.slots.get(key) {
            Some((_, now)) => now.clone(),
            None => base.get(key)?,
        };
        value.map(|value| encode::record(key, &value)).transpose()
    }

    /// Puts (`Some`) or removes a record.
    pub(super) fn set<T: Serialize>(
        &mut self,
        base: &dyn Records,
        key: Bytes,
        value: Option<&T>,
    ) -> Result<(), ReadError> {
        if !self.slots.contains_key(&key) {
            let old = base.get(&key)?;
            self.slots.insert(key.clone(), (old.clone(), old));
        }
        if let Some((_, now)) = self.slots.get_mut(&key) {
            self.undo.push((key, now.take()));
            *now = value.map(encode::to_bytes);
        }
        Ok(())
    }

    /// The first record with `from <= key < to` as they are now.
    pub(super) fn first(
        &self,
        base: &dyn Records,
        from: &[u8],
        to: &[u8],
    ) -> Result<Option<(Bytes, Bytes)>, ReadError> {
        let mut stored = None;
        let mut after = Bytes::copy_from_slice(from);
        'pages: loop {
            let page = base.scan(&after, to, PAGE)?;
            let full = page.len() == PAGE;
            for (key, value) in page {
                after = successor(&key);
                if !self.slots.contains_key(&key) {
                    stored = Some((key, value));
                    break 'pages;
                }
            }
            if !full {
                break;
            }
        }
        let range = self.slots.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));
        let changed = range.filter_map(|(key, (_, now))| Some((key.clone(), now.clone()?))).next();
        Ok(match (stored, changed) {
            (Some(stored), Some(changed)) => Some(if stored.0 < changed.0 { stored } else { changed }),
            (stored, changed) => stored.or(changed),
        })
    }

    /// The first `max` records with `from <= key < to` as they are now.
    pub(super) fn entries(
        &self,
        base: &dyn Records,
        from: &[u8],
        to: &[u8],
        max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
        let mut found = Vec::new();
        let mut after = Bytes::copy_from_slice(from);
        while found.len() < max
            && let Some((key, value)) = self.first(base, &after, to)?
        {
            after = successor(&key);
            found.push((key, value));
        }
        Ok(found)
    }

    /// All records with `from <= key < to` as they are now.
    pub(super) fn all<T: DeserializeOwned>(
        &self,
        base: &dyn Records,
        from: &[u8],
        to: &[u8],
    ) -> Result<Vec<T>, ReadError> {
        let mut found = Vec::new();
        let mut after = Bytes::copy_from_slice(from);
        while let Some((key, value)) = self.first(base, &after, to)? {
            found.push(encode::record(&key, &value)?);
            after = successor(&key);
        }
        Ok(found)
    }

    /// Whether a record was changed since [`RawTable::begin`].
    pub(super) fn has_changed(&self) -> bool {
        let is_other =
            |(key, before): &(Bytes, Option<Bytes>)| self.slots.get(key).is_some_and(|(_, now)| now != before);
        self.undo.iter().any(is_other)
    }

    /// Starts a request: what was changed so far stays.
    pub(super) fn begin(&mut self) {
        self.undo.clear();
    }

    /// Undoes everything since [`RawTable::begin`].
    pub(super) fn roll_back(&mut self) {
        while let Some((key, before)) = self.undo.pop() {
            if let Some((_, now)) = self.slots.get_mut(&key) {
                *now = before;
            }
        }
    }

    /// The net changes.
    pub(super) fn into_changes(self, changes: &mut Vec<Change>) {
        for (key, (old, new)) in self.slots {
            if old != new {
                changes.push(Change { key, old, new });
            }
        }
    }
}

/// How many stored records a scan reads at once: the first is nearly always the one that is wanted.
const PAGE: usize = 8;

/// The smallest key above `key`.
fn successor(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}
