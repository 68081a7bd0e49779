//! The chunks that a volume's files refer to, in batches.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use causeway_base::{ChunkId, Ino, SiteName};
use causeway_dedup::manifest::{NodeContent, NodeRef};
use causeway_dedup::{ManifestError, ManifestRoot, Realm};
use causeway_namespace_core::encode;
use causeway_namespace_core::inode::{Body, Content, Inode, ManifestRef};
use causeway_namespace_core::key;
use causeway_namespace_core::listing::Listed;
use causeway_namespace_core::records::{ReadError, Record};
use causeway_replicator_core::Missing;

use crate::fetcher::{Fetcher, Job, Need};
use crate::keeper::{Pages, RootsError};
use crate::local::{self, LocalChunks, LocalError, blocking};
use crate::previous::{Child, NeedBase, Old, children};
use crate::volume::{PastView, VolumeView};

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
    /// A volume's files cannot be listed.
    #[error(transparent)]
    Listing(#[from] RootsError),
    /// Chunks that hold manifests cannot be had, so what they list is not known.
    #[error("{} chunks that hold manifests cannot be had, such as {}", missing.len(), missing[0].id)]
    Missing {
        /// At least one.
        missing: Vec<Missing>,
    },
}

/// A manifest node that is to be opened.
struct Node {
    ino: Ino,
    origin: SiteName,
    node: NodeRef,
    /// Where in the file it begins.
    offset: u64,
    bases: Vec<NeedBase>,
    /// What lay there in the version before.
    old: Option<Arc<Old>>,
}

/// The files to look at.
pub(crate) enum Files {
    /// Those whose inodes are among these keys.
    Changed(std::collections::btree_set::IntoIter<Bytes>),
    /// All of them; the key from which to go on.
    All(Bytes),
    /// What a listing names: all of them, and every older version that is kept.
    Listed(Pages),
}

impl Files {
    pub(crate) fn all() -> Self {
        Self::All(key::inode(Ino(0)))
    }

    /// Up to [`INODES`] manifests; empty at the end. Blocks. Of a listing there are none: its pages are waited for.
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
                    let read = page(view, from)?;
                    (!read.is_empty()).then_some(read)
                }
                Self::Listed(_) => None,
            };
            let Some(records) = records else { return Ok(Vec::new()) };
            let found = manifests_of(records)?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
    }
}

/// The files in chunks among inodes.
pub(crate) fn manifests_of(records: Vec<Record>) -> Result<Vec<(Ino, ManifestRef)>, ReadError> {
    let mut found = Vec::new();
    for (key, value) in records {
        let inode: Inode = encode::record(&key, &value)?;
        if let (Some(ino), Body::File(Content::Manifest(manifest))) = (key::inode_of(&key), inode.body) {
            found.push((ino, manifest));
        }
    }
    Ok(found)
}

/// The next inodes, and where to go on.
fn page(view: &dyn VolumeView, from: &mut Bytes) -> Result<Vec<Record>, ReadError> {
    let (_, end) = key::table(key::INODE);
    let read = view.scan(from, &end, INODES)?;
    if let Some((last, _)) = read.last() {
        *from = [last.as_ref(), &[0]].concat().into();
    }
    Ok(read)
}

/// Nodes that were opened, and whether they had to be.
pub(crate) type Opened = HashSet<(ChunkId, bool)>;

/// Walks files, manifests and their nodes; brings nodes here as it meets them.
pub(crate) struct Walk<'a> {
    fetcher: &'a Fetcher,
    job: &'a Job,
    /// Not needed for a listing.
    view: Option<Arc<dyn VolumeView>>,
    files: Option<Files>,
    /// How far the listing is, as of its last page.
    listed: Option<Listed>,
    /// Comes after what was found before it.
    failed: Option<WalkError>,
    /// The state of which everything is here: versions from which files changed.
    before: Option<Arc<dyn PastView>>,
    nodes: Vec<Node>,
    /// Of this batch, and whether a file names them that this site has to have.
    seen: BTreeSet<(ChunkId, bool)>,
    needs: Vec<Need>,
    /// Nodes that need not be opened again, if the walk is to meet each once.
    opened: Option<Opened>,
    /// Chunks whose files are to be told.
    watched: BTreeSet<ChunkId>,
    watched_in: Vec<(Ino, ChunkId)>,
    /// A site that only caches: what manifests lie elsewhere, and not here, it does not fetch to look into.
    caches_at: Option<SiteName>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(fetcher: &'a Fetcher, job: &'a Job, view: Arc<dyn VolumeView>, files: Files) -> Self {
        Self { view: Some(view), files: Some(files), ..Self::without(fetcher, job) }
    }

    /// Over what a listing names.
    pub(crate) fn listed(fetcher: &'a Fetcher, job: &'a Job, pages: Pages) -> Self {
        Self { files: Some(Files::Listed(pages)), ..Self::without(fetcher, job) }
    }

    fn without(fetcher: &'a Fetcher, job: &'a Job) -> Self {
        Self {
            fetcher,
            job,
            view: None,
            files: None,
            listed: None,
            failed: None,
            before: None,
            nodes: Vec::new(),
            seen: BTreeSet::new(),
            needs: Vec::new(),
            opened: None,
            watched: BTreeSet::new(),
            watched_in: Vec::new(),
            caches_at: None,
        }
    }

    /// Files are compared with their version in this state, so that what is wanted can come as its difference from what is
    /// here.
    pub(crate) fn since(self, before: Option<Arc<dyn PastView>>) -> Self {
        Self { before, ..self }
    }

    /// Opens each node once, those in `opened` not at all; a caller that only wants to know which chunks there are needs no
    /// more. [`Walk::opened`] gives the set back.
    pub(crate) fn once(mut self, opened: Opened) -> Self {
        self.opened = Some(opened);
        self
    }

    /// The nodes that were opened by a walk that opens each once.
    pub(crate) fn opened(self) -> Opened {
        self.opened.unwrap_or_default()
    }

    /// Leaves out what lies below nodes that are not here and came from another site than this.
    pub(crate) fn caches_at(mut self, site: SiteName) -> Self {
        self.caches_at = Some(site);
        self
    }

    /// Notes in which files these chunks are.
    pub(crate) fn watch(mut self, chunks: BTreeSet<ChunkId>) -> Self {
        self.watched = chunks;
        self
    }

    /// Where watched chunks were found since this was asked last.
    pub(crate) fn found(&mut self) -> Vec<(Ino, ChunkId)> {
        std::mem::take(&mut self.watched_in)
    }

    /// The next chunks that files refer to, manifest nodes included, each once a batch (of what is only cached also once for this
    /// site's own files); `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Need>>, WalkError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        while self.needs.len() < BATCH {
            match self.step().await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if self.needs.is_empty() => return Err(error),
                // What was found before is given out before.
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            }
        }
        self.seen.clear();
        let needs = std::mem::take(&mut self.needs);
        Ok((!needs.is_empty()).then_some(needs))
    }

    /// Whether there may be more.
    async fn step(&mut self) -> Result<bool, WalkError> {
        if self.nodes.is_empty() && !self.read_files().await? {
            return Ok(false);
        }
        self.open_nodes().await?;
        Ok(true)
    }

    async fn read_files(&mut self) -> Result<bool, WalkError> {
        let Some(mut files) = self.files.take() else { return Ok(false) };
        let page = match &mut files {
            Files::Listed(pages) => Some(self.next_page(pages).await?),
            _ => None,
        };
        let (view, before) = (self.view.clone(), self.before.clone());
        let (local, realm) = (self.fetcher.local().clone(), self.job.realm.clone());
        let opened = blocking(move || {
            let mut opened = Vec::new();
            let manifests = match (page, view) {
                (Some(manifests), _) => manifests,
                (None, Some(view)) => files.next(view.as_ref())?,
                (None, None) => Vec::new(),
            };
            for (ino, manifest) in manifests {
                let wrong = |source| WalkError::Manifest { ino, source };
                let root = ManifestRoot::decode(&manifest.root).map_err(wrong)?;
                let content = root.content().map_err(wrong)?;
                let old = before.as_ref().and_then(|before| previous(before.as_ref(), ino, root.size()));
                let children = children(&content, 0, old, local.as_ref(), &realm);
                opened.push((ino, manifest.origin, children));
            }
            Ok::<_, WalkError>((opened, files))
        });
        let (opened, files) = opened.await??;
        if opened.is_empty() {
            return Ok(false);
        }
        self.files = Some(files);
        for (ino, origin, children) in opened {
            self.add(ino, &origin, children);
        }
        Ok(true)
    }

    /// The next page of a listing that names anything; empty at the end.
    async fn next_page(&mut self, pages: &mut Pages) -> Result<Vec<(Ino, ManifestRef)>, WalkError> {
        loop {
            let page = pages.recv().await.unwrap_or_else(|| {
                let reason = "the list of its files was cut off".to_owned();
                Err(RootsError { what: "what a volume names".to_owned(), reason })
            })?;
            self.listed = Some(page.listed);
            if page.end || !page.manifests.is_empty() {
                return Ok(page.manifests);
            }
        }
    }

    /// How far the listing is of which everything was given out: nodes to open, and chunks not given out yet, make it
    /// `None`.
    pub(crate) fn complete(&self) -> Option<Listed> {
        // A page that does not come takes nothing with it; nodes that were to be opened would be lost.
        let whole = matches!(self.failed, None | Some(WalkError::Listing(_)));
        self.listed.filter(|_| whole && self.nodes.is_empty() && self.needs.is_empty())
    }

    async fn open_nodes(&mut self) -> Result<(), WalkError> {
        let mut some = self.nodes.split_off(self.nodes.len().saturating_sub(NODES));
        if some.is_empty() {
            return Ok(());
        }
        let ids: BTreeSet<ChunkId> = some.iter().map(|node| node.node.id).collect();
        let lacking = local::missing(self.fetcher.local(), ids.into_iter().collect()).await?;
        let lacking = match &self.caches_at {
            Some(own) => {
                let elsewhere: BTreeSet<ChunkId> = lacking.iter().copied().collect();
                let (absent, wanted): (Vec<_>, Vec<_>) =
                    some.into_iter().partition(|node| node.origin != *own && elsewhere.contains(&node.node.id));
                some = wanted;
                tracing::trace!(nodes = absent.len(), "manifests of cached files are not here");
                let wanted: BTreeSet<ChunkId> = some.iter().map(|node| node.node.id).collect();
                lacking.into_iter().filter(|id| wanted.contains(id)).collect()
            }
            None => lacking,
        };
        if !lacking.is_empty() {
            let origin = some.first().map(|node| node.origin.clone());
            let mut bases: BTreeMap<ChunkId, &[NeedBase]> = BTreeMap::new();
            for node in &some {
                bases.entry(node.node.id).or_insert(&node.bases);
            }
            let bases = |id: &ChunkId| bases.get(id).map_or_else(Vec::new, |bases| bases.to_vec());
            let need = |id: ChunkId| Need { id, len: None, origin: origin.clone(), bases: bases(&id) };
            let needs = lacking.into_iter().map(need).collect();
            let fetched = self.fetcher.run(self.job, needs, &|_, _| ()).await?;
            if !fetched.missing.is_empty() {
                return Err(WalkError::Missing { missing: fetched.missing });
            }
        }
        let (local, realm) = (self.fetcher.local().clone(), self.job.realm.clone());
        let opened = blocking(move || {
            let open = |Node { ino, origin, node, offset, old, .. }: Node| {
                let content = open_node(local.as_ref(), &realm, ino, &node)?;
                Ok((ino, origin, children(&content, offset, old, local.as_ref(), &realm)))
            };
            some.into_iter().map(open).collect::<Result<Vec<_>, WalkError>>()
        });
        for (ino, origin, children) in opened.await?? {
            self.add(ino, &origin, children);
        }
        Ok(())
    }

    fn add(&mut self, ino: Ino, origin: &SiteName, children: Vec<Child>) {
        for Child { id, len, bases, node } in children {
            if self.watched.contains(&id) {
                self.watched_in.push((ino, id));
            }
            // What is only looked into if it is here may have to be fetched, or kept, for another file.
            let must = self.caches_at.as_ref().is_none_or(|own| own == origin);
            if self.seen.insert((id, must)) {
                self.needs.push(Need { id, len, origin: Some(origin.clone()), bases: bases.clone() });
            }
            let opened = self.opened.as_mut();
            if let Some((node, offset, old)) = node
                && opened.is_none_or(|opened| opened.insert((node.id, must)))
            {
                self.nodes.push(Node { ino, origin: origin.clone(), node, offset, bases, old });
            }
        }
    }
}

/// What a file held in an older state, if it was one with a manifest. What cannot be read is done without: only bytes are
/// saved by it.
fn previous(before: &dyn PastView, ino: Ino, new_size: u64) -> Option<Arc<Old>> {
    let key = key::inode(ino);
    let inode: Inode = encode::record(&key, &before.get(&key).ok()??).ok()?;
    let Body::File(Content::Manifest(manifest)) = inode.body else { return None };
    let root = ManifestRoot::decode(&manifest.root).ok()?;
    Some(Arc::new(Old::of_root(&root.content().ok()?, root.size(), new_size)))
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
