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
    /// # Errors
    /// [`ContentError`]; the batch is then not proposed.
    async fn check(&self, volume: &VolumeRecord, manifests: &[ManifestRef]) -> Result<(), ContentError>;
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
    async fn check(&self, _volume: &VolumeRecord, _manifests: &[ManifestRef]) -> Result<(), ContentError> {
        Ok(())
    }
}
