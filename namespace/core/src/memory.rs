//! Records in memory: for tests, simulations and benches.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use causeway_base::Seq;

use crate::apply::{Applied, Change, apply};
use crate::command::Command;
use crate::digest::Digest;
use crate::records::{ReadError, Record, Records};

/// A state machine in memory: its records, and the digest that their changes gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryRecords {
    records: BTreeMap<Bytes, Bytes>,
    digest: Digest,
}

impl MemoryRecords {
    /// No records.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies a command and takes its changes in.
    ///
    /// # Errors
    /// A record does not decode; nothing was changed.
    pub fn apply(&mut self, seq: Seq, command: &Command) -> Result<Applied, ReadError> {
        let applied = apply(self, seq, command)?;
        self.take(&applied.changes);
        Ok(applied)
    }

    /// Takes changes in.
    ///
    /// # Panics
    /// If an old value is not the one that is there, or a change changes nothing: the changes are wrong.
    pub fn take(&mut self, changes: &[Change]) {
        for change in changes {
            assert_ne!(change.old, change.new, "a change that changes nothing: {:?}", change.key);
            let old = match &change.new {
                Some(new) => self.records.insert(change.key.clone(), new.clone()),
                None => self.records.remove(&change.key),
            };
            assert_eq!(old, change.old, "the old value of {:?}", change.key);
            self.digest.apply(change);
        }
    }

    /// Puts a record as it is, to begin a test in a state that commands reach only slowly.
    pub fn put(&mut self, key: Bytes, value: Bytes) {
        if let Some(old) = self.records.insert(key.clone(), value.clone()) {
            self.digest.remove(&key, &old);
        }
        self.digest.add(&key, &value);
    }

    /// The digest that the changes gave.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// All records in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.records.iter()
    }
}

impl Records for MemoryRecords {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        Ok(self.records.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Record>, ReadError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let range = self.records.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));
        Ok(range.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}
