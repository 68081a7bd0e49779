//! Applying committed entries.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use causeway_base::{Ino, Seq, VolumeId};
use causeway_namespace_core::apply::{Applied, apply};
use causeway_namespace_core::command::{Command, Outcome};
use causeway_namespace_core::key;
use causeway_namespace_core::records::{ReadError, Record, Records};
use causeway_storage::kv::{Batch, KvRead};

use super::cache::{RecordCache, Tenant};
use super::layout::{
    ChangedKey, ChangesOf, Meta, Position, changes_key, current_key, encode_changes, encode_meta, meta_key, old_key,
    record_key, stamped, unstamped,
};
use super::view::{corrupt, read_error};
use super::{CHANGES, CURRENT, DigestMark, Era, GroupStore, META, OLD, StoreError, lock};

/// Bytes of a batch after which the next entry begins a new one.
const BATCH_BYTES: usize = 4 << 20;

/// A committed entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place; the index is the seq.
    pub position: Position,
    /// What it holds.
    pub payload: Payload,
}

/// What an entry holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing: a new leader's first.
    Blank,
    /// An encoded command.
    Command(Bytes),
    /// Members, encoded by the adaptor.
    Membership(Bytes),
}

impl GroupStore {
    /// Applies entries that follow what is applied, atomically; the outcomes of each one's requests. So that a batch stays
    /// small, it may stop after some of them, at least one: fewer outcomes than entries say so.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if an entry does not follow or does not decode, and whatever the store says; nothing was
    /// applied then.
    pub fn apply(&self, entries: &[Entry]) -> Result<Vec<Vec<Outcome>>, StoreError> {
        self.apply_in(self.era(), entries)
    }

    /// As [`GroupStore::apply`], for one that [`GroupStore::enter`] let in.
    ///
    /// # Errors
    /// Also [`StoreError::Replaced`].
    pub(crate) fn apply_in(&self, era: Era, entries: &[Entry]) -> Result<Vec<Vec<Outcome>>, StoreError> {
        let mut current = lock(&self.meta);
        self.check_era(era)?;
        let mut meta = current.clone();
        let mut work = Work::new(self, meta.seq());
        let mut outcomes = Vec::with_capacity(entries.len());
        let mut marks = Vec::with_capacity(entries.len());
        for entry in entries {
            if meta.applied.is_some_and(|applied| entry.position.index <= applied.index) {
                let applied = meta.seq();
                return Err(self.damaged(format!("entry {} is not above {applied}", entry.position.index)));
            }
            outcomes.push(self.apply_one(&mut work, &mut meta, entry)?);
            meta.applied = Some(entry.position);
            marks.push(DigestMark { position: entry.position, digest: meta.digest });
            if work.bytes > BATCH_BYTES {
                break;
            }
        }
        self.write(work, &meta)?;
        self.publish(&mut current, meta);
        let mut ring = lock(&self.ring);
        marks.into_iter().for_each(|mark| ring.push(mark));
        drop(ring);
        let seq = current.seq();
        drop(current);
        self.applied.send_replace(seq);
        Ok(outcomes)
    }

    fn apply_one(&self, work: &mut Work, meta: &mut Meta, entry: &Entry) -> Result<Vec<Outcome>, StoreError> {
        let seq = Seq(entry.position.index);
        let bytes = match &entry.payload {
            Payload::Blank => return Ok(Vec::new()),
            Payload::Membership(membership) => {
                meta.membership = membership.clone();
                return Ok(Vec::new());
            }
            Payload::Command(bytes) => bytes,
        };
        let command = Command::decode(bytes).map_err(|error| self.damaged(format!("the command of {seq}: {error}")))?;
        let read = |source| StoreError::Read { group: self.id, source };
        let Applied { outcomes, changes, named } = apply(&work.overlay, seq, &command).map_err(read)?;
        // Once, in order: the last name by which an inode was changed counts.
        let mut names: BTreeMap<Bytes, (Ino, Bytes)> =
            named.into_iter().map(|named| (key::inode(named.ino), (named.dir, named.name))).collect();
        meta.time = command.requests.iter().fold(meta.time, |time, request| time.max(request.at));
        let mut keys: Vec<ChangedKey> = Vec::with_capacity(changes.len());
        for change in changes {
            // What was not there when the command looked is not looked for again.
            let before = match &change.old {
                Some(_) => work.overlay.versioned(&change.key).map_err(read)?,
                None => None,
            };
            debug_assert_eq!(before.as_ref().map(|(_, value)| value), change.old.as_ref(), "{:?}", change.key);
            meta.digest.apply(&change);
            match (&before, &change.new) {
                (None, Some(_)) => meta.records += 1,
                (Some(_), None) => meta.records = meta.records.saturating_sub(1),
                _ => {}
            }
            if let Some((written, value)) = &before {
                work.bytes += change.key.len() + value.len();
                work.batch.put(OLD, old_key(self.id, &change.key, *written), stamped(seq, value));
            }
            work.bytes += change.key.len() + change.new.as_ref().map_or(0, Bytes::len) + 64;
            let (replaced, name) = (before.map(|(written, _)| written), names.remove(&change.key));
            keys.push(ChangedKey { key: change.key.clone(), replaced, name });
            work.overlay.set(change.key, change.new.map(|value| (seq, value)));
        }
        if !keys.is_empty() {
            work.batch.put(CHANGES, changes_key(self.id, seq), encode_changes(&ChangesOf { time: meta.time, keys }));
        }
        Ok(outcomes)
    }

    fn write(&self, work: Work, meta: &Meta) -> Result<(), StoreError> {
        let Work { overlay, mut batch, .. } = work;
        let (seq, tenant) = (meta.seq(), *lock(&self.tenant));
        let mut hot = Vec::new();
        overlay.drain_into(&mut batch, |place, record| {
            if self.cache.forget(tenant, place, seq)
                && let Some(record) = record
            {
                hot.push((place.clone(), record.clone()));
            }
        });
        batch.put(META, meta_key(self.id), encode_meta(self.id, meta)?);
        self.kv.write(batch).map_err(|source| self.kv_error(source))?;
        for (place, (written, value)) in hot {
            self.cache.keep(tenant, place, seq, written, &value);
        }
        Ok(())
    }
}

/// A batch in the making.
struct Work {
    overlay: Overlay,
    batch: Batch,
    bytes: usize,
}

impl Work {
    fn new(store: &GroupStore, seq: Seq) -> Self {
        Self { overlay: Overlay::new(store, seq), batch: Batch::new(), bytes: 0 }
    }
}

#[derive(Clone, Debug)]
struct Cached {
    record: Option<(Seq, Bytes)>,
    dirty: bool,
}

/// The newest records with what the batch in the making changes.
#[derive(Debug)]
struct Overlay {
    /// Nobody else writes this group's records meanwhile. One moment for the batch costs less than one for each read.
    kv: Box<dyn KvRead>,
    /// The newest seq in it.
    seq: Seq,
    records: Arc<RecordCache>,
    tenant: Tenant,
    group: VolumeId,
    /// Also what was read, so that hot records are read once a batch.
    cache: Mutex<BTreeMap<Bytes, Cached>>,
}

impl Overlay {
    fn new(store: &GroupStore, seq: Seq) -> Self {
        let (kv, records, tenant) = (store.kv.snapshot(), Arc::clone(&store.cache), *lock(&store.tenant));
        Self { kv, seq, records, tenant, group: store.id, cache: Mutex::default() }
    }

    fn versioned(&self, key: &[u8]) -> Result<Option<(Seq, Bytes)>, ReadError> {
        if let Some(cached) = lock(&self.cache).get(key) {
            return Ok(cached.record.clone());
        }
        let place = current_key(self.group, key);
        let record = match self.records.get(self.tenant, &place, Seq(u64::MAX)) {
            Some(record) => Some(record),
            None => {
                let stored = self.kv.get(CURRENT, &place).map_err(read_error)?;
                let record = stored.map(|stored| unstamped(stored).ok_or_else(|| corrupt(key))).transpose()?;
                if let Some((written, value)) = &record {
                    self.records.keep(self.tenant, place, self.seq, *written, value);
                }
                record
            }
        };
        let cached = Cached { record: record.clone(), dirty: false };
        lock(&self.cache).insert(Bytes::copy_from_slice(key), cached);
        Ok(record)
    }

    fn set(&self, key: Bytes, record: Option<(Seq, Bytes)>) {
        lock(&self.cache).insert(key, Cached { record, dirty: true });
    }

    /// Puts what was changed into a batch; `each` is told of it.
    fn drain_into(self, batch: &mut Batch, mut each: impl FnMut(&Bytes, Option<&(Seq, Bytes)>)) {
        let cache = self.cache.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (key, cached) in cache.into_iter().filter(|(_, cached)| cached.dirty) {
            let key = current_key(self.group, &key);
            each(&key, cached.record.as_ref());
            match cached.record {
                Some((seq, value)) => batch.put(CURRENT, key, stamped(seq, &value)),
                None => batch.delete(CURRENT, key),
            }
        }
    }
}

impl Records for Overlay {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        Ok(self.versioned(key)?.map(|(_, value)| value))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Record>, ReadError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let cache = lock(&self.cache);
        let low = Bound::Included(Bytes::copy_from_slice(from));
        let high = Bound::Excluded(Bytes::copy_from_slice(to));
        let mut changed = cache.range((low, high)).filter(|(_, cached)| cached.dirty).peekable();
        let range = (Bound::Included(current_key(self.group, from)), Bound::Excluded(current_key(self.group, to)));
        let mut stored = self.kv.scan(CURRENT, range, false);
        let mut next = stored.next().transpose().map_err(read_error)?;
        let mut out = Vec::new();
        while out.len() < limit {
            let stored_key = next.as_ref().map(|(key, _)| record_key(key));
            let take_changed = match (changed.peek(), &stored_key) {
                (None, None) => break,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (Some((key, _)), Some(stored_key)) => *key <= stored_key,
            };
            if !take_changed {
                if let (Some(key), Some((_, value))) = (stored_key, next) {
                    let (_, value) = unstamped(value).ok_or_else(|| corrupt(&key))?;
                    out.push((key, value));
                }
                next = stored.next().transpose().map_err(read_error)?;
                continue;
            }
            if let Some((key, cached)) = changed.next() {
                if Some(key) == stored_key.as_ref() {
                    next = stored.next().transpose().map_err(read_error)?;
                }
                if let Some((_, value)) = &cached.record {
                    out.push((key.clone(), value.clone()));
                }
            }
        }
        Ok(out)
    }
}
