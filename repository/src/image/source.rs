//! What a publisher gives.

use std::fmt;

use bytes::Bytes;

use causeway_base::{ClusterId, Epoch, Seq, Timestamp, VolumeId};
use causeway_namespace_core::digest::Digest;
use causeway_namespace_core::records::ReadError;

use crate::head::ImageTotals;

/// Records in strictly rising key order.
pub type RecordIter = Box<dyn Iterator<Item = Result<(Bytes, Bytes), ReadError>> + Send>;
/// Keys that changed, in strictly rising order, with their value now; `None` if the record is gone.
pub type ChangeIter = Box<dyn Iterator<Item = Result<(Bytes, Option<Bytes>), ReadError>> + Send>;

/// The records of an image. The iterators are read on a blocking thread and may block.
pub enum ImageRecords {
    /// All of them. Their digest is recomputed and must be the stated one.
    Full(RecordIter),
    /// The net changes since an image: the one at `(epoch, seq)` must be the newest.
    Changes {
        /// Epoch of the image that they continue. Another than the source's own only just after a restore from it.
        since_epoch: Epoch,
        /// Seq of the image that they continue.
        since: Seq,
        /// The changes.
        changes: ChangeIter,
    },
}

impl fmt::Debug for ImageRecords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(_) => f.write_str("Full"),
            Self::Changes { since_epoch, since, .. } => write!(f, "Changes(since {since_epoch} {since})"),
        }
    }
}

/// A volume's state at one seq, to be published.
#[derive(Debug)]
pub struct ImageSource {
    /// Whose volume.
    pub cluster: ClusterId,
    /// Which volume.
    pub volume: VolumeId,
    /// Its name, for people.
    pub name: String,
    /// Authority under which this is published.
    pub epoch: Epoch,
    /// The Raft term in which the publisher leads.
    pub term: u64,
    /// The commit that the records show, exactly.
    pub seq: Seq,
    /// Set digest of all records at `seq`, from the state machine.
    pub digest: Digest,
    /// When `seq` was read as the current state.
    pub at: Timestamp,
    /// The volume's settings as the publisher encodes them; kept as they are.
    pub spec: Bytes,
    /// Counts of the whole tree at `seq`.
    pub totals: ImageTotals,
    /// The archive's watermark: every chunk of every seq up to this one is durable in this repository. An image past it is
    /// refused.
    pub chunks_durable_to: Seq,
    /// Publish although the image shrank abnormally: a person has looked.
    pub force_shrink: bool,
    /// The records.
    pub records: ImageRecords,
}
