//! The read side of the state machine: records by key, whoever stores them.
//!
//! A replica's store, a view of an earlier seq, and an image in a repository all implement [`Records`], so that one set of
//! queries serves them all.

use std::fmt::Debug;

use bytes::Bytes;

/// A key with its encoded record.
pub type Record = (Bytes, Bytes);

/// A consistent set of records at one seq.
pub trait Records: Debug {
    /// The record of a key.
    ///
    /// # Errors
    /// The store failed; nothing was changed.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError>;

    /// Up to `limit` records with `from <= key < to` in key order; fewer only if the range has no more.
    ///
    /// # Errors
    /// The store failed; nothing was changed.
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Record>, ReadError>;
}

/// The store below failed to read, or a record does not decode.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The store said so.
    #[error("read of a record failed: {0}")]
    Store(String),
    /// A stored record does not decode.
    #[error("record {key} does not decode: {reason}")]
    Corrupt {
        /// The key, in hexadecimal.
        key: String,
        /// What the decoder says.
        reason: String,
    },
}
