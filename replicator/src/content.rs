//! Whether the content of a file that is about to be committed is durable here.

use std::collections::BTreeSet;
use std::sync::Arc;

use causeway_base::{ChunkId, Ino};
use causeway_dedup::manifest::NodeContent;
use causeway_dedup::store::gc::{Lease, UNKNOWN_LEASE};
use causeway_dedup::{Extent, ManifestRoot, Realm};
use causeway_namespace_core::inode::ManifestRef;

use crate::local::{LocalChunks, LocalError, Realms, blocking};
use crate::walk::{WalkError, open_node};

/// Chunks asked about at once.
const BATCH: usize = 16 << 10;

/// Why a content cannot be committed here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContentProblem {
    /// Chunks are not here, or not durable.
    #[error("{chunks} chunks are not here, such as {first}")]
    Missing {
        /// How many of those that were looked at.
        chunks: u64,
        /// One of them.
        first: ChunkId,
    },
    /// The manifest is not one, or says another length than its reference.
    #[error("{0}")]
    Invalid(String),
    /// The store failed.
    #[error(transparent)]
    Local(#[from] LocalError),
}

/// Checks that every chunk of a manifest is durable in this node's store.
#[derive(Clone, Debug)]
pub struct DurableContent {
    local: Arc<dyn LocalChunks>,
    realms: Arc<dyn Realms>,
}

impl DurableContent {
    /// Over a store.
    #[must_use]
    pub fn new(local: Arc<dyn LocalChunks>, realms: Arc<dyn Realms>) -> Self {
        Self { local, realms }
    }

    /// Checks manifests of a realm, their nodes included. What is here and not durable yet is made durable. Nothing of it is
    /// collected while the lease lives: settle it when the outcome of the commit is known; dropped, it is kept for as long as
    /// a commit of unknown outcome may still come to pass.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// The first [`ContentProblem`].
    pub async fn check_durable(&self, realm: &str, manifests: &[ManifestRef]) -> Result<Option<Lease>, ContentProblem> {
        let realm = self.realms.realm(realm);
        let realm = realm.ok_or_else(|| ContentProblem::Invalid("the volume's realm is not known".to_owned()))?;
        // Before anything is looked at: what is found here then stays until the commit is settled.
        let lease = self.local.lease(None, UNKNOWN_LEASE);
        let (local, manifests) = (self.local.clone(), manifests.to_vec());
        let checked = blocking(move || {
            let mut check = Check { local, realm, ids: BTreeSet::new() };
            for manifest in &manifests {
                check.manifest(manifest)?;
            }
            check.settle()
        });
        match checked.await? {
            Ok(()) => Ok(lease),
            Err(problem) => {
                if let Some(lease) = lease {
                    lease.settle();
                }
                Err(problem)
            }
        }
    }
}

struct Check {
    local: Arc<dyn LocalChunks>,
    realm: Realm,
    ids: BTreeSet<ChunkId>,
}

impl Check {
    /// Blocks.
    fn manifest(&mut self, manifest: &ManifestRef) -> Result<(), ContentProblem> {
        let invalid = |error: &dyn std::fmt::Display| ContentProblem::Invalid(error.to_string());
        let root = ManifestRoot::decode(&manifest.root).map_err(|error| invalid(&error))?;
        if root.size() != manifest.size {
            return Err(ContentProblem::Invalid(format!("{} bytes, said to be {}", root.size(), manifest.size)));
        }
        let mut open = vec![root.content().map_err(|error| invalid(&error))?];
        while let Some(content) = open.pop() {
            match content {
                NodeContent::Extents(extents) => {
                    let ids = extents.iter().filter_map(Extent::chunk_id);
                    self.ids.extend(ids);
                }
                NodeContent::Nodes(nodes) => {
                    // They are opened, so they must be here.
                    self.ids.extend(nodes.iter().map(|node| node.id));
                    self.settle()?;
                    for node in &nodes {
                        let opened = open_node(self.local.as_ref(), &self.realm, Ino(0), node);
                        open.push(opened.map_err(|error| match error {
                            WalkError::Local(error) => ContentProblem::Local(error),
                            WalkError::Manifest { source, .. } => invalid(&source),
                            other => invalid(&other),
                        })?);
                    }
                }
            }
            if self.ids.len() >= BATCH {
                self.settle()?;
            }
        }
        Ok(())
    }

    /// Blocks.
    fn settle(&mut self) -> Result<(), ContentProblem> {
        let ids: Vec<ChunkId> = std::mem::take(&mut self.ids).into_iter().collect();
        let mut lacking = self.local.not_durable(&ids)?;
        if !lacking.is_empty() && self.local.missing(&lacking)?.is_empty() {
            // Another upload brought them, and has not synced yet.
            self.local.sync()?;
            lacking = self.local.not_durable(&lacking)?;
        }
        match lacking.first() {
            None => Ok(()),
            Some(first) => Err(ContentProblem::Missing { chunks: lacking.len() as u64, first: *first }),
        }
    }
}
