//! The check of a file's content before it is committed.

use async_trait::async_trait;

use causeway_namespace_core::inode::ManifestRef;
use causeway_namespace_core::root::VolumeRecord;

/// Says whether this node's chunk store durably holds what a manifest refers to. Injected: the namespace knows a manifest's
/// root, never chunks.
#[async_trait]
pub trait ContentCheck: Send + Sync + std::fmt::Debug {
    /// Succeeds if every chunk of every manifest (those of the manifest itself too) is durable on this node.
    ///
    /// The chunks stay here at least until the hold that is returned is settled.
    ///
    /// # Errors
    /// [`ContentError`]; the batch is then not proposed.
    async fn check(&self, volume: &VolumeRecord, manifests: &[ManifestRef]) -> Result<ContentHold, ContentError>;
}

/// Keeps the contents of a batch until its outcome is known. Dropped without being settled (the outcome is unknown, or nobody
/// waits for it), it goes on for as long as the batch may still be committed.
#[derive(Default)]
pub struct ContentHold(Option<Box<dyn FnOnce() + Send + Sync>>);

impl ContentHold {
    /// A hold that `settle` ends. What it captured must know by itself what to do when it is only dropped.
    #[must_use]
    pub fn new(settle: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(settle)))
    }

    /// The outcome is known: the batch was committed, or surely never will be.
    pub fn settle(self) {
        if let Some(settle) = self.0 {
            settle();
        }
    }
}

impl std::fmt::Debug for ContentHold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContentHold").finish_non_exhaustive()
    }
}

/// Why contents cannot be committed through this node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// Upload them, then try again.
    #[error("{chunks} chunks are not on this node; upload them first")]
    Missing {
        /// How many distinct chunks are missing.
        chunks: u64,
    },
    /// A manifest does not decode, or says something else than its reference.
    #[error("manifest: {0}")]
    Invalid(String),
    /// The store cannot tell.
    #[error("the chunk store cannot tell: {0}")]
    Store(String),
}

/// Accepts everything: for clusters without file data, such as a witness' tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unchecked;

#[async_trait]
impl ContentCheck for Unchecked {
    async fn check(&self, _volume: &VolumeRecord, _manifests: &[ManifestRef]) -> Result<ContentHold, ContentError> {
        Ok(ContentHold::default())
    }
}
