//! A consistent state at one seq.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use causeway_base::{Seq, VolumeId};
use causeway_namespace_core::digest::Digest;
use causeway_namespace_core::records::{ReadError, Record, Records};
use causeway_storage::kv::{Kv, KvError, KvRead};

use super::cache::{RecordCache, Tenant};
use super::layout::{
    Meta, current_key, decode_old_key, old_bound, old_key, old_prefix, read_meta, record_key, unstamped,
};
use super::{CURRENT, OLD, StoreError, ViewError};

/// A snapshot of the store and what it holds of a group.
pub(super) struct ViewState {
    pub(super) group: VolumeId,
    pub(super) kv: Box<dyn KvRead>,
    pub(super) meta: Meta,
    /// Where records of the newest state may be found sooner; not for who looks what the store really holds.
    cache: Option<(Arc<RecordCache>, Tenant)>,
}

impl ViewState {
    pub(super) fn take(kv: &dyn Kv, group: VolumeId) -> Result<Self, StoreError> {
        let kv = kv.snapshot();
        let meta = read_meta(kv.as_ref(), group)?;
        Ok(Self { group, kv, meta, cache: None })
    }

    pub(super) fn cached(self, cache: &Arc<RecordCache>, tenant: Tenant) -> Self {
        Self { cache: Some((Arc::clone(cache), tenant)), ..self }
    }
}

/// The records of a group at one seq, whatever is applied meanwhile. Cheap to clone; keep it briefly, since the store keeps
/// replaced data for as long as a view may see it.
#[derive(Clone)]
pub struct StateView {
    state: Arc<ViewState>,
    seq: Seq,
}

impl fmt::Debug for StateView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateView").field("group", &self.state.group).field("seq", &self.seq).finish_non_exhaustive()
    }
}

impl StateView {
    pub(super) fn newest(state: Arc<ViewState>) -> Self {
        Self { seq: state.meta.seq(), state }
    }

    /// The same snapshot of the store, at its newest seq.
    pub(super) fn newest_of(&self) -> Self {
        Self::newest(Arc::clone(&self.state))
    }

    /// Which group.
    #[must_use]
    pub fn group(&self) -> VolumeId {
        self.state.group
    }

    /// At which seq.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// The digest of the records; known for the newest seq of when the view was taken, not for earlier ones.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.is_newest().then_some(self.state.meta.digest)
    }

    /// What was applied when the view was taken.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.state.meta
    }

    /// The same snapshot of the store, at an earlier seq: one from the oldest on, or that of a snapshot.
    ///
    /// # Errors
    /// [`ViewError::TooOld`], [`ViewError::NotYet`].
    pub fn at(&self, seq: Seq) -> Result<Self, ViewError> {
        self.check_kept(seq)?;
        Ok(Self { state: Arc::clone(&self.state), seq })
    }

    fn is_newest(&self) -> bool {
        self.seq == self.state.meta.seq()
    }

    pub(super) fn kv(&self) -> &dyn KvRead {
        self.state.kv.as_ref()
    }

    /// A record and the seq that wrote it.
    ///
    /// # Errors
    /// The store failed.
    pub fn get_versioned(&self, key: &[u8]) -> Result<Option<(Seq, Bytes)>, ReadError> {
        let place = current_key(self.group(), key);
        if let Some((cache, tenant)) = &self.state.cache
            && let Some(found) = cache.get(*tenant, &place, self.seq)
        {
            return Ok(Some(found));
        }
        let stored = self.kv().get(CURRENT, &place).map_err(read_error)?;
        let current = stored.map(|stored| unstamped(stored).ok_or_else(|| corrupt(key))).transpose()?;
        if let (Some((cache, tenant)), Some((written, value))) = (&self.state.cache, &current) {
            cache.keep(*tenant, place, self.state.meta.seq(), *written, value);
        }
        match current {
            Some((written, value)) if written <= self.seq => Ok(Some((written, value))),
            None if self.is_newest() => Ok(None),
            _ => self.old_version(key),
        }
    }

    /// The version of a replaced record that was valid at this seq.
    fn old_version(&self, key: &[u8]) -> Result<Option<(Seq, Bytes)>, ReadError> {
        let from = Bound::Included(old_key(self.group(), key, self.seq));
        let mut end = old_prefix(self.group(), key);
        end.extend_from_slice(&[0xff; 8]);
        let to = Bound::Included(end.freeze());
        let Some(entry) = self.kv().scan(OLD, (from, to), false).next() else { return Ok(None) };
        let (stored_key, stored) = entry.map_err(read_error)?;
        let (_, written) = decode_old_key(&stored_key).ok_or_else(|| corrupt(key))?;
        let (replaced, value) = unstamped(stored).ok_or_else(|| corrupt(key))?;
        Ok((replaced > self.seq).then_some((written, value)))
    }

    /// Replaced versions that are kept, of the keys from `table.0` on and below `table.1`: at most `limit`, from the place `from` on
    /// (empty: the first), with the place to go on at; `None` at the end. All versions that any view from
    /// [`Meta::oldest`] on can see are among them and in the newest state.
    ///
    /// # Errors
    /// The store failed.
    pub fn replaced(
        &self,
        table: &(Bytes, Bytes),
        from: &[u8],
        limit: usize,
    ) -> Result<(Vec<Record>, Option<Bytes>), ReadError> {
        let group = self.group();
        let start = match from.is_empty() {
            true => Bound::Included(old_bound(group, &table.0)),
            false => Bound::Excluded(Bytes::copy_from_slice(from)),
        };
        let range = (start, Bound::Excluded(old_bound(group, &table.1)));
        let (mut found, mut last) = (Vec::new(), None);
        for entry in self.kv().scan(OLD, range, false).take(limit) {
            let (stored_key, stored) = entry.map_err(read_error)?;
            let (key, _) = decode_old_key(&stored_key).ok_or_else(|| corrupt(&stored_key))?;
            let (_, value) = unstamped(stored).ok_or_else(|| corrupt(&key))?;
            found.push((key, value));
            last = Some(stored_key);
        }
        Ok((found, last))
    }

    /// Records with the seqs that wrote them, from `from` on and below `to` (`None`: to the end), at most `limit`.
    ///
    /// # Errors
    /// The store failed.
    pub fn scan_versioned(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Seq, Bytes)>, ReadError> {
        let group = self.group();
        if to.is_some_and(|to| to <= from) {
            return Ok(Vec::new());
        }
        let group_end = super::layout::group_range(group).1;
        let end = to.map_or_else(|| group_end.clone(), |to| Bound::Excluded(current_key(group, to)));
        let mut current = self.kv().scan(CURRENT, (Bound::Included(current_key(group, from)), end), false).peekable();
        let mut out = Vec::new();
        if self.is_newest() {
            for entry in current.take(limit) {
                let (key, stored) = entry.map_err(read_error)?;
                let key = record_key(&key);
                let (written, value) = unstamped(stored).ok_or_else(|| corrupt(&key))?;
                out.push((key, written, value));
            }
            return Ok(out);
        }
        let end = to.map_or(group_end, |to| Bound::Excluded(old_bound(group, to)));
        let range = (Bound::Included(old_bound(group, from)), end);
        let mut old = self.kv().scan(OLD, range, false).peekable();
        // Versions valid at this seq of keys that the newest state's iterator has not reached yet; they sort behind `out`.
        let mut replaced: BTreeMap<Bytes, (Seq, Bytes)> = BTreeMap::new();
        while out.len() < limit {
            let next = match current.peek() {
                Some(Ok((key, _))) => Some(record_key(key)),
                Some(Err(error)) => return Err(ReadError::Store(error.to_string())),
                None => None,
            };
            self.versions_until(&mut old, next.as_ref(), limit - out.len(), &mut replaced)?;
            if out.len() + replaced.len() < limit
                && let (Some(next), Some(entry)) = (&next, current.next())
            {
                let (_, stored) = entry.map_err(read_error)?;
                let (written, value) = unstamped(stored).ok_or_else(|| corrupt(next))?;
                if written <= self.seq {
                    replaced.insert(next.clone(), (written, value));
                }
            }
            out.extend(std::mem::take(&mut replaced).into_iter().map(|(key, (written, value))| (key, written, value)));
            if next.is_none() {
                break;
            }
        }
        out.truncate(limit);
        Ok(out)
    }

    /// Takes the versions valid at this seq of keys up to and with `last`, at most `limit` of them.
    fn versions_until(
        &self,
        old: &mut std::iter::Peekable<causeway_storage::kv::Scan<'_>>,
        last: Option<&Bytes>,
        limit: usize,
        found: &mut BTreeMap<Bytes, (Seq, Bytes)>,
    ) -> Result<(), ReadError> {
        while found.len() < limit
            && let Some(entry) = old.peek()
        {
            let (key, written) = match entry {
                Ok((stored, _)) => decode_old_key(stored).ok_or_else(|| corrupt(stored))?,
                Err(error) => return Err(ReadError::Store(error.to_string())),
            };
            if last.is_some_and(|last| key > *last) {
                break;
            }
            let Some(entry) = old.next() else { break };
            let (_, stored) = entry.map_err(read_error)?;
            let (end, value) = unstamped(stored).ok_or_else(|| corrupt(&key))?;
            if written <= self.seq && self.seq < end {
                found.insert(key, (written, value));
            }
        }
        Ok(())
    }
}

impl Records for StateView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        Ok(self.get_versioned(key)?.map(|(_, value)| value))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Record>, ReadError> {
        let found = self.scan_versioned(from, Some(to), limit)?;
        Ok(found.into_iter().map(|(key, _, value)| (key, value)).collect())
    }
}

#[allow(clippy::needless_pass_by_value)] // for map_err
pub(super) fn read_error(error: KvError) -> ReadError {
    ReadError::Store(error.to_string())
}

pub(super) fn corrupt(key: &[u8]) -> ReadError {
    let hex = key.iter().fold(String::new(), |mut text, byte| {
        use std::fmt::Write as _;
        let _ = write!(text, "{byte:02x}");
        text
    });
    ReadError::Corrupt { key: hex, reason: "its stored form is too short".to_owned() }
}
