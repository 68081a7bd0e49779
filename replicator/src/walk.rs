//! The chunks that a volume's files refer to, in batches.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use causeway_base::{ChunkId, Ino, SiteName};
use causeway_dedup::manifest::{NodeContent, NodeRef};
use causeway_dedup::{Extent, ManifestError, ManifestRoot, Realm};
use causeway_namespace_core::encode;
use causeway_namespace_core::inode::{Body, Content, Inode, ManifestRef};
use causeway_namespace_core::key;
use causeway_namespace_core::records::ReadError;
use causeway_replicator_core::Missing;

use crate::fetcher::{Fetcher, Job, Need};
use crate::local::{self, LocalChunks, LocalError, blocking};
use crate::volume::VolumeView;

/// A batch has about this many chunks, and memory for as many ids.
const BATCH: usize = 32 << 10;
/// Inodes read at once.
const INODES: usize = 1024;
/// Manifest nodes brought here and opened at once.
const NODES: usize = 4096;

/// Why a walk ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum WalkError {
    /// The records cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The local store failed.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// A file's manifest is not one.
    #[error("the manifest of {ino} cannot be read")]
    Manifest {
        /// Which file.
        ino: Ino,
        /// Why.
        source: ManifestError,
    },
    /// Chunks that hold manifests cannot be had, so what they list is not known.
    #[error("{} chunks that hold manifests cannot be had, such as {}", missing.len(), missing[0].id)]
    Missing {
        /// At least one.
        missing: Vec<Missing>,
    },
}

/// The files to look at.
pub(crate) enum Files {
    /// Those whose inodes are among these keys.
    Changed(std::collections::btree_set::IntoIter<Bytes>),
    /// All of them; the key from which to go on.
    All(Bytes),
}

impl Files {
    pub(crate) fn all() -> Self {
        Self::All(key::inode(Ino(0)))
    }

    /// Up to [`INODES`] manifests; empty at the end. Blocks.
    fn next(&mut self, view: &dyn VolumeView) -> Result<Vec<(Ino, ManifestRef)>, ReadError> {
        loop {
            let records = match self {
                Self::Changed(keys) => {
                    let keys: Vec<Bytes> = keys.filter(|it| key::inode_of(it).is_some()).take(INODES).collect();
                    let read = |key: Bytes| Ok(view.get(&key)?.map(|value| (key, value)));
                    let ended = keys.is_empty();
                    let read = keys.into_iter().map(read).collect::<Result<Vec<_>, ReadError>>()?;
                    (!ended).then(|| read.into_iter().flatten().collect::<Vec<_>>())
                }
                Self::All(from) => {
                    let (_, end) = key::table(key::INODE);
                    let read = view.scan(from, &end, INODES)?;
                    if let Some((last, _)) = read.last() {
                        *from = [last.as_ref(), &[0]].concat().into();
                    }
                    (!read.is_empty()).then_some(read)
                }
            };
            let Some(records) = records else { return Ok(Vec::new()) };
            let mut found = Vec::new();
            for (key, value) in records {
                let inode: Inode = encode::record(&key, &value)?;
                if let (Some(ino), Body::File(Content::Manifest(manifest))) = (key::inode_of(&key), inode.body) {
                    found.push((ino, manifest));
                }
            }
            if !found.is_empty() {
                return Ok(found);
            }
        }
    }
}

/// Walks files, manifests and their nodes; brings nodes here as it meets them.
pub(crate) struct Walk<'a> {
    fetcher: &'a Fetcher,
    job: &'a Job,
    view: Arc<dyn VolumeView>,
    files: Option<Files>,
    nodes: Vec<(Ino, NodeRef, SiteName)>,
    seen: BTreeSet<ChunkId>,
    needs: Vec<Need>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(fetcher: &'a Fetcher, job: &'a Job, view: Arc<dyn VolumeView>, files: Files) -> Self {
        Self { fetcher, job, view, files: Some(files), nodes: Vec::new(), seen: BTreeSet::new(), needs: Vec::new() }
    }

    /// The next chunks that files refer to, manifest nodes included, each once a batch; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Need>>, WalkError> {
        while self.needs.len() < BATCH {
            if self.nodes.is_empty() && !self.read_files().await? {
                break;
            }
            self.open_nodes().await?;
        }
        self.seen.clear();
        let needs = std::mem::take(&mut self.needs);
        Ok((!needs.is_empty()).then_some(needs))
    }

    async fn read_files(&mut self) -> Result<bool, WalkError> {
        let Some(mut files) = self.files.take() else { return Ok(false) };
        let view = self.view.clone();
        let (read, files) = blocking(move || (files.next(view.as_ref()), files)).await?;
        let read = read?;
        if read.is_empty() {
            return Ok(false);
        }
        self.files = Some(files);
        for (ino, manifest) in read {
            let wrong = |source| WalkError::Manifest { ino, source };
            let root = ManifestRoot::decode(&manifest.root).map_err(wrong)?;
            let content = root.content().map_err(wrong)?;
            self.add(ino, &manifest.origin, content);
        }
        Ok(true)
    }

    async fn open_nodes(&mut self) -> Result<(), WalkError> {
        let some = self.nodes.split_off(self.nodes.len().saturating_sub(NODES));
        if some.is_empty() {
            return Ok(());
        }
        let ids: BTreeSet<ChunkId> = some.iter().map(|(_, node, _)| node.id).collect();
        let lacking = local::missing(self.fetcher.local(), ids.into_iter().collect()).await?;
        if !lacking.is_empty() {
            let origin = some.first().map(|(.., origin)| origin.clone());
            let needs = lacking.into_iter().map(|id| Need { id, len: None, origin: origin.clone() }).collect();
            let fetched = self.fetcher.run(self.job, needs, &|_, _| ()).await?;
            if !fetched.missing.is_empty() {
                return Err(WalkError::Missing { missing: fetched.missing });
            }
        }
        let (local, realm) = (self.fetcher.local().clone(), self.job.realm.clone());
        let opened = blocking(move || {
            let open = |(ino, node, origin): (Ino, NodeRef, SiteName)| {
                open_node(local.as_ref(), &realm, ino, &node).map(|content| (ino, origin, content))
            };
            some.into_iter().map(open).collect::<Result<Vec<_>, WalkError>>()
        });
        for (ino, origin, content) in opened.await?? {
            self.add(ino, &origin, content);
        }
        Ok(())
    }

    fn add(&mut self, ino: Ino, origin: &SiteName, content: NodeContent) {
        let mut need = |id: ChunkId, len: Option<u32>| {
            if self.seen.insert(id) {
                self.needs.push(Need { id, len, origin: Some(origin.clone()) });
            }
        };
        match content {
            NodeContent::Extents(extents) => {
                for extent in extents {
                    if let Extent::Chunk { id, len } = extent {
                        need(id, Some(len));
                    }
                }
            }
            NodeContent::Nodes(nodes) => {
                for node in nodes {
                    need(node.id, None);
                    self.nodes.push((ino, node, origin.clone()));
                }
            }
        }
    }
}

/// Reads a manifest node from the local store. Blocks.
pub(crate) fn open_node(
    local: &dyn LocalChunks,
    realm: &Realm,
    ino: Ino,
    node: &NodeRef,
) -> Result<NodeContent, WalkError> {
    let gone = || LocalError {
        class: causeway_base::RetryClass::Transient,
        reason: format!("chunk {}, which holds a manifest, is damaged here", node.id),
    };
    let plain = local.get(&node.id)?.and_then(|chunk| chunk.decode(realm).ok()).ok_or_else(gone)?;
    node.open(&plain).map_err(|source| WalkError::Manifest { ino, source })
}
