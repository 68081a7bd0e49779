//! What a view knows of other seqs: which records differ between two of them, and which seq was newest at a time.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};

use causeway_base::{Seq, Timestamp};
use causeway_namespace_core::records::ReadError;

use super::layout::{
    Named, changes_range, changes_seq, changes_time, decode_changes, decode_kept_version, kept_range, kept_record_key,
    read_kept,
};
use super::view::{StateView, corrupt, read_error};
use super::{CHANGES, KEPT, ViewError, chain};

/// Records read at once where two whole states are compared.
const READ: usize = 512;

/// Keys of records that changed, each with the last name by which it was, if it is an inode that was changed by one.
pub type ChangedRecords = BTreeMap<Bytes, Option<Named>>;

/// What a seq changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeqChanges {
    /// The seq.
    pub seq: Seq,
    /// The latest time that a command carried up to then.
    pub time: Timestamp,
    /// The keys of the records that it wrote or removed, and the names by which inodes were changed.
    pub keys: Vec<(Bytes, Option<Named>)>,
}

impl StateView {
    /// Whether the state at `seq` can be read from this view's snapshot of the store.
    ///
    /// # Errors
    /// [`ViewError::TooOld`], [`ViewError::NotYet`].
    pub(super) fn check_kept(&self, seq: Seq) -> Result<(), ViewError> {
        let (oldest, applied) = (self.meta().oldest, self.meta().seq());
        if seq > applied {
            return Err(ViewError::NotYet { wanted: seq, applied });
        }
        if seq < oldest {
            let kept = read_kept(self.kv(), self.group()).map_err(|error| ReadError::Store(chain(&error)))?;
            if !kept.iter().any(|kept| kept.seq == seq && !kept.gone) {
                return Err(ViewError::TooOld { wanted: seq, oldest });
            }
        }
        Ok(())
    }

    /// The seqs after `after` and up to `until` that changed something, in order, at most `limit` of them; with the names
    /// by which inodes were changed. Unlike [`super::GroupStore::changes`] it is of the view's own snapshot of the store, so
    /// nothing is pruned away while it is read.
    ///
    /// # Errors
    /// [`ViewError::TooOld`]: the reader fell off.
    pub fn changes(&self, after: Seq, until: Seq, limit: usize) -> Result<Vec<SeqChanges>, ViewError> {
        let oldest = self.meta().oldest;
        if after < oldest {
            return Err(ViewError::TooOld { wanted: after, oldest });
        }
        let mut found = Vec::new();
        for entry in self.kv().scan(CHANGES, changes_range(self.group(), after, until), false).take(limit) {
            let (key, stored) = entry.map_err(read_error)?;
            let (seq, changes) = changes_seq(&key).zip(decode_changes(stored)).ok_or_else(|| corrupt(&key))?;
            let keys = changes.keys.into_iter().map(|changed| (changed.key, changed.name)).collect();
            found.push(SeqChanges { seq, time: changes.time, keys });
        }
        Ok(found)
    }

    /// The keys of the records that were written or removed between two states, `from` the earlier, and perhaps some more.
    /// Costs in proportion to them, but where `from` is a snapshot that this replica got with a Raft snapshot: then two
    /// whole states are compared. `None` if they are more than `max`.
    ///
    /// # Errors
    /// [`ViewError::TooOld`], [`ViewError::NotYet`].
    pub fn changed_between(&self, from: Seq, to: Seq, max: usize) -> Result<Option<ChangedRecords>, ViewError> {
        self.check_kept(from)?;
        self.check_kept(to)?;
        let oldest = self.meta().oldest;
        let mut found = ChangedRecords::new();
        if from < oldest {
            let kept = read_kept(self.kv(), self.group()).map_err(|error| ReadError::Store(chain(&error)))?;
            for kept in kept.iter().filter(|kept| from <= kept.seq && kept.seq < to) {
                if !kept.listed {
                    return self.compare(from, to, max);
                }
                for entry in self.kv().scan(KEPT, kept_range(self.group(), kept.seq), false) {
                    let (key, stored) = entry.map_err(read_error)?;
                    let (_, name) = decode_kept_version(stored).ok_or_else(|| corrupt(&key))?;
                    add(&mut found, kept_record_key(&key), name);
                    if found.len() > max {
                        return Ok(None);
                    }
                }
            }
        }
        if to <= oldest {
            return Ok(Some(found));
        }
        for entry in self.kv().scan(CHANGES, changes_range(self.group(), from.max(oldest), to), false) {
            let (key, stored) = entry.map_err(read_error)?;
            let changes = decode_changes(stored).ok_or_else(|| corrupt(&key))?;
            for changed in changes.keys {
                add(&mut found, changed.key, changed.name);
            }
            if found.len() > max {
                return Ok(None);
            }
        }
        Ok(Some(found))
    }

    /// The same by reading both states.
    fn compare(&self, from: Seq, to: Seq, max: usize) -> Result<Option<ChangedRecords>, ViewError> {
        let (mut before, mut after) = (Reader::of(self.at(from)?), Reader::of(self.at(to)?));
        let mut found = ChangedRecords::new();
        loop {
            let (old, new) = (before.peek()?, after.peek()?);
            let Some(least) = old.iter().chain(&new).map(|(key, _)| key).min().cloned() else { return Ok(Some(found)) };
            let at = |side: Option<(Bytes, Seq)>| side.filter(|(key, _)| *key == least).map(|(_, written)| written);
            let (old, new) = (at(old), at(new));
            if old != new {
                found.insert(least, None);
            }
            before.pass(old.is_some());
            after.pass(new.is_some());
            if found.len() > max {
                return Ok(None);
            }
        }
    }

    /// The newest seq whose commands all carry times up to `time`.
    ///
    /// # Errors
    /// [`ViewError::TooEarly`].
    pub fn seq_at(&self, time: Timestamp) -> Result<Seq, ViewError> {
        let meta = self.meta();
        if time >= meta.time {
            return Ok(meta.seq());
        }
        if time < meta.oldest_time || meta.applied.is_none() {
            return Err(ViewError::TooEarly { oldest: meta.oldest, since: meta.oldest_time });
        }
        // Times never go back, so the first later one is found by halving. It lies in (low, high].
        let (mut low, mut high) = (meta.oldest, meta.seq());
        let mut later = high.next().unwrap_or(high);
        while low < high {
            let middle = Seq(low.0 + (high.0 - low.0) / 2);
            match self.first_change(middle, high)? {
                Some((seq, at)) if at <= time => low = seq,
                Some((seq, _)) => (high, later) = (middle, seq),
                None => high = middle,
            }
        }
        Ok(Seq(later.0.saturating_sub(1)))
    }

    fn first_change(&self, after: Seq, until: Seq) -> Result<Option<(Seq, Timestamp)>, ViewError> {
        let mut scan = self.kv().scan(CHANGES, changes_range(self.group(), after, until), false);
        let Some(entry) = scan.next() else { return Ok(None) };
        let (key, stored) = entry.map_err(read_error)?;
        Ok(Some(changes_seq(&key).zip(changes_time(&stored)).ok_or_else(|| corrupt(&key))?))
    }
}

fn add(found: &mut ChangedRecords, key: Bytes, name: Option<Named>) {
    let kept = found.entry(key).or_default();
    if name.is_some() {
        *kept = name;
    }
}

/// Reads the keys of a state in order.
struct Reader {
    view: StateView,
    from: Bytes,
    ahead: std::collections::VecDeque<(Bytes, Seq)>,
    ended: bool,
}

impl Reader {
    fn of(view: StateView) -> Self {
        Self { view, from: Bytes::new(), ahead: std::collections::VecDeque::new(), ended: false }
    }

    fn peek(&mut self) -> Result<Option<(Bytes, Seq)>, ReadError> {
        if self.ahead.is_empty() && !self.ended {
            let found = self.view.scan_versioned(&self.from, None, READ)?;
            self.ended = found.len() < READ;
            if let Some((last, _, _)) = found.last() {
                let mut next = BytesMut::from(last.as_ref());
                next.put_u8(0);
                self.from = next.freeze();
            }
            self.ahead.extend(found.into_iter().map(|(key, written, _)| (key, written)));
        }
        Ok(self.ahead.front().cloned())
    }

    fn pass(&mut self, one: bool) {
        if one {
            self.ahead.pop_front();
        }
    }
}
