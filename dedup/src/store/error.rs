//! What can go wrong in a chunk store.

use std::io;
use std::path::PathBuf;

use causeway_base::{ByteSize, ChunkId, RetryClass};
use causeway_storage::kv::KvError;

use crate::ChunkError;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The disk is full up to the reserve. Nothing of the call was kept; the store recovers by itself when space returns.
    #[error("the disk of the chunk store is full: {} free, {} are kept in reserve", ByteSize(*free), ByteSize(*reserve))]
    Full {
        /// Bytes free when it was last looked.
        free: u64,
        /// Bytes that stay free.
        reserve: u64,
    },
    /// A write or sync failed before: nothing is written any more, reads go on.
    #[error("the chunk store takes no writes: {reason}")]
    ReadOnly {
        /// What happened.
        reason: String,
    },
    /// A stored chunk is not what was written. It counts as missing from now on, so that it can be fetched again.
    #[error("chunk {id} is corrupt in pack {pack} at {offset}: {damage}")]
    Corrupt {
        /// The chunk.
        id: ChunkId,
        /// Number of its pack.
        pack: u32,
        /// Offset of its record.
        offset: u32,
        /// What was seen.
        damage: Damage,
    },
    /// Not a chunk that can be stored.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// A file operation failed.
    #[error("{what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// The index failed. It holds nothing that the packs do not: a new one is built when the store opens on an empty one.
    #[error("the chunk index")]
    Index(#[from] KvError),
}

impl StoreError {
    /// What the caller may do.
    #[must_use]
    pub fn retry_class(&self) -> RetryClass {
        match self {
            Self::Full { .. } | Self::Index(KvError::Full { .. }) => RetryClass::Transient,
            Self::ReadOnly { .. } | Self::Corrupt { .. } | Self::Index(_) => RetryClass::Damaged,
            Self::Chunk(_) => RetryClass::Refused,
            Self::Io { .. } => RetryClass::Unknown,
        }
    }
}

/// What is wrong with bytes of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// No record starts here.
    #[error("no record starts here")]
    Marker,
    /// The header's checksum does not hold.
    #[error("the header's checksum does not hold")]
    HeaderChecksum,
    /// The payload's checksum does not hold.
    #[error("the payload's checksum does not hold")]
    PayloadChecksum,
    /// A length that cannot be.
    #[error("a length is out of bounds")]
    Length,
    /// The file ends before.
    #[error("the file ends before")]
    CutOff,
    /// Written by a newer program.
    #[error("version {0} is not known")]
    Version(u16),
    /// Written by a newer program.
    #[error("kind or codec {0} is not known")]
    Kind(u8),
    /// The checksum holds, and yet the compressed bytes do not decode.
    #[error("the compressed bytes do not decode")]
    Undecodable,
    /// The disk gives an error for it.
    #[error("the disk cannot read it")]
    Unreadable,
    /// The file is not there.
    #[error("the pack is gone")]
    Gone,
    /// A good record, but another chunk's.
    #[error("the record is another chunk's")]
    OtherChunk,
    /// A good record, but the bytes are not those that the chunk is named by.
    #[error("its checksums hold, and yet its bytes are not those of its name")]
    OtherBytes,
}
