//! The seam to a volume's metadata, as this node has it applied.

use std::collections::BTreeSet;
use std::fmt::Debug;

use bytes::Bytes;
use causeway_base::{Epoch, Ino, Seq, VolumeId};
use causeway_namespace_core::digest::Digest;
use causeway_namespace_core::lineage::Lineage;
use causeway_namespace_core::records::{ReadError, Record, Records};
use causeway_namespace_core::root::VolumeSpec;
use tokio::sync::watch;

/// The records of a volume at one seq, whatever is applied meanwhile.
pub trait VolumeView: Records + Send + Sync {
    /// Which seq.
    fn seq(&self) -> Seq;

    /// The digest of the records at that seq.
    fn digest(&self) -> Digest;

    /// Older versions of records of a table (keys from `table.0` on, below `table.1`) that are kept: some that lie at `from`
    /// or after (empty: from the start), and where to go on; `None` at the end. A page may be empty before the end.
    ///
    /// # Errors
    /// The store failed.
    fn older(
        &self,
        table: &(Bytes, Bytes),
        from: &[u8],
        limit: usize,
    ) -> Result<(Vec<Record>, Option<Bytes>), ReadError>;

    /// The line of the volume's history that it is of.
    fn line(&self) -> Lineage;

    /// Whether the state at a seq can be read: every version of it is kept.
    fn keeps(&self, seq: Seq) -> bool;

    /// The inodes that changed after a seq, up to this state; `None` if that is not known any more, or they are many.
    ///
    /// # Errors
    /// The store failed.
    fn changed_inodes(&self, after: Seq) -> Result<Option<BTreeSet<Ino>>, ReadError> {
        let _ = after;
        Ok(None)
    }
}

/// The records of a volume at an older seq.
pub trait PastView: Records + Send + Sync {}

impl<T: Records + Send + Sync> PastView for T {}

/// The change list was asked for something it does not have.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ChangesError {
    /// The seq is older than what is kept: everything must be walked.
    #[error("changes after seq {0} are not kept any more")]
    TooOld(Seq),
    /// The store failed.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Keys that changed, seq by seq; a key may come many times. Reads as it goes, so an error may come late.
pub type ChangedKeys = Box<dyn Iterator<Item = Result<Bytes, ChangesError>> + Send>;

/// A volume of which this node has a replica of the metadata. Reading calls block.
pub trait VolumeSource: Send + Sync + Debug {
    /// Which volume.
    fn id(&self) -> VolumeId;

    /// Its settings and epoch, as of now. The root group has some too (its realm is not used).
    fn spec(&self) -> (VolumeSpec, Epoch);

    /// What is applied here, as it moves.
    fn watch_applied(&self) -> watch::Receiver<Seq>;

    /// Wakes up when settings, epoch or line may be others than before. Whoever has none to tell ends it.
    fn watch_settings(&self) -> watch::Receiver<()> {
        watch::channel(()).1
    }

    /// The newest state. Taken briefly: the store keeps replaced data while it lives.
    ///
    /// # Errors
    /// The store failed.
    fn view(&self) -> Result<Box<dyn VolumeView>, ReadError>;

    /// The state at an older seq; `None` if it is not kept any more. It gives the versions from which files changed, so
    /// that they come as their difference: without it they come whole.
    ///
    /// # Errors
    /// The store failed.
    fn view_at(&self, seq: Seq) -> Result<Option<Box<dyn PastView>>, ReadError> {
        let _ = seq;
        Ok(None)
    }

    /// Another number than before: what was read until then may have been wrong, since the replica of the metadata was
    /// found to be wrong, or was replaced. Zero if neither was so. [`VolumeSource::watch_applied`] wakes up for it.
    fn generation(&self) -> u64 {
        0
    }

    /// The keys that changed after one seq, up to and with another.
    ///
    /// # Errors
    /// [`ChangesError`].
    fn changes(&self, after: Seq, until: Seq) -> Result<ChangedKeys, ChangesError>;

    /// The Raft term in which this node leads the volume now, if it does. Term and leadership must come from one look: a
    /// term read after leadership was lost would be the next leader's, and the repository would fence nobody.
    fn leads(&self) -> Option<u64>;
}

/// Waits for a change; for ever if there will be none.
pub(crate) async fn changed(settings: &mut watch::Receiver<()>) {
    if settings.changed().await.is_err() {
        std::future::pending().await
    }
}
