//! What can go wrong with a repository, and what the caller may do about it.

use std::time::Duration;

use causeway_base::envelope::EnvelopeError;
use causeway_base::{ChunkId, ClusterId, Epoch, RetryClass, Seq, VolumeId};
use causeway_namespace_core::records::ReadError;

/// A failed operation on a repository. [`Error::retry_class`] says what may be done next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address of the repository, or an option of its backend.
    #[error("{url:?} is not a usable repository address: {reason}")]
    Address {
        /// As given.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The store answered, after all retries, with an error.
    #[error("{op} of {path} failed")]
    Store {
        /// `put`, `get`, `list` or `delete`.
        op: &'static str,
        /// Within the repository.
        path: String,
        /// What the store said last.
        #[source]
        source: object_store::Error,
    },
    /// The store did not answer in time; a write may have happened.
    #[error("{op} of {path} was not answered within {after:?}")]
    Deadline {
        /// `put`, `get`, `list` or `delete`.
        op: &'static str,
        /// Within the repository.
        path: String,
        /// The last attempt's limit.
        after: Duration,
    },
    /// Nothing is at this address.
    #[error("there is no repository at {url}: it has no marker object; create one first")]
    NoRepository {
        /// As given.
        url: String,
    },
    /// Something is at this address, but no repository.
    #[error("{url} holds other objects (such as {found:?}) and no repository marker: refusing to use it")]
    NotEmpty {
        /// As given.
        url: String,
        /// One of them.
        found: String,
    },
    /// The marker is there and is not one that this program knows.
    #[error("the repository marker of {url} cannot be read")]
    Marker {
        /// As given.
        url: String,
        /// Why.
        #[source]
        source: EnvelopeError,
    },
    /// An object that must be there is not.
    #[error("object {path} is missing from the repository")]
    Missing {
        /// Within the repository.
        path: String,
    },
    /// An object's bytes are not those that were written.
    #[error("object {path} is damaged: {reason}")]
    Corrupt {
        /// Within the repository.
        path: String,
        /// What does not hold.
        reason: String,
    },
    /// Another writer with higher authority, or further on, has published: this one must not.
    #[error(
        "volume {volume}: an image at epoch {epoch}, term {term}, seq {seq} is published already; this writer is deposed or behind"
    )]
    Fenced {
        /// Which volume.
        volume: VolumeId,
        /// Of the newest image.
        epoch: Epoch,
        /// Of the newest image.
        term: u64,
        /// Of the newest image.
        seq: Seq,
    },
    /// The changes do not start where the newest image ends: give those since `expected`, or everything if `None`.
    #[error("volume {volume}: the changes do not continue the newest image")]
    Base {
        /// Which volume.
        volume: VolumeId,
        /// Seq of the newest image that they must continue.
        expected: Option<Seq>,
    },
    /// The caller did not show that every chunk of this seq is in the repository.
    #[error("volume {volume}: chunks are durable up to seq {durable}, the image is at seq {seq}")]
    ChunksNotDurable {
        /// Which volume.
        volume: VolumeId,
        /// Shown.
        durable: Seq,
        /// Needed.
        seq: Seq,
    },
    /// The image would be abnormally smaller than the last one. It is not published; the last good one stays.
    #[error("volume {volume}: the image shrank from {before} to {after} {what}: not published")]
    Shrunk {
        /// Which volume.
        volume: VolumeId,
        /// `files` or `bytes`.
        what: &'static str,
        /// Of the newest image.
        before: u64,
        /// Of the refused one.
        after: u64,
    },
    /// The records do not add up to the digest that they should have.
    #[error("volume {volume}: the records at seq {seq} have digest {found}, expected {expected}")]
    Digest {
        /// Which volume.
        volume: VolumeId,
        /// Of the image.
        seq: Seq,
        /// Stated.
        expected: String,
        /// Computed.
        found: String,
    },
    /// The volume has no image in this repository.
    #[error("the repository has no image of volume {volume}")]
    NoImage {
        /// As asked for.
        volume: String,
    },
    /// Several volumes answer to the name: name the cluster too.
    #[error("{volume:?} is in the images of several clusters: {clusters:?}")]
    Ambiguous {
        /// As asked for.
        volume: String,
        /// Whose.
        clusters: Vec<ClusterId>,
    },
    /// The newest head of a volume is damaged; an older one can be opened by its generation.
    #[error(
        "the newest head of volume directory {directory} (generation {generation}) is damaged; readable older generation: {older:?}"
    )]
    HeadDamaged {
        /// The volume's directory in the repository.
        directory: String,
        /// Of the damaged head.
        generation: u64,
        /// The next older readable one.
        older: Option<u64>,
        /// What is wrong with the newest.
        #[source]
        source: Box<Error>,
    },
    /// A chunk is not in the repository.
    #[error("chunk {id} is not in the repository")]
    ChunkMissing {
        /// Which.
        id: ChunkId,
    },
    /// A chunk's bytes are not what its name says.
    #[error("chunk {id} is damaged in the repository: {reason}")]
    ChunkDamaged {
        /// Which.
        id: ChunkId,
        /// What does not hold.
        reason: String,
    },
    /// What the caller gives (records, chunks) could not be read.
    #[error("the source of the data failed: {0}")]
    Source(String),
    /// A record did not decode, or the state store failed.
    #[error(transparent)]
    Records(#[from] ReadError),
    /// A query of the tree was answered with an error, for example "no such file".
    #[error("{path}: {errno}")]
    Path {
        /// Asked for, lossy if not UTF-8.
        path: String,
        /// The answer.
        errno: causeway_namespace_core::command::Errno,
    },
    /// A local file could not be written by an export.
    #[error("write of {path}")]
    Local {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A background task of this crate died; a fault of the program.
    #[error("internal task failed: {0}")]
    Task(String),
}

impl Error {
    /// What the caller may do next.
    #[must_use]
    pub fn retry_class(&self) -> RetryClass {
        match self {
            Self::Store { op: "put" | "delete", source, .. } if is_transient(source) => RetryClass::Unknown,
            Self::Deadline { op: "put" | "delete", .. } => RetryClass::Unknown,
            Self::Store { source, .. } if is_transient(source) => RetryClass::Transient,
            Self::Deadline { .. } | Self::Base { .. } | Self::ChunksNotDurable { .. } => RetryClass::Transient,
            Self::Corrupt { .. }
            | Self::Missing { .. }
            | Self::Digest { .. }
            | Self::HeadDamaged { .. }
            | Self::ChunkMissing { .. }
            | Self::ChunkDamaged { .. } => RetryClass::Damaged,
            _ => RetryClass::Refused,
        }
    }
}

/// Whether the same request may be answered otherwise later. The store's own client has retried already where it could.
pub(crate) fn is_transient(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::Generic { .. } | object_store::Error::JoinError { .. })
}
