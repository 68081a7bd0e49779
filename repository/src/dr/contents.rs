//! Reads files of an image.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use tokio::runtime::Handle;

use causeway_base::ChunkId;
use causeway_dedup::manifest::Placed;
use causeway_dedup::{Extent, ManifestRoot, Realm};
use causeway_namespace_core::inode::{Body, Content, Inode};

use crate::archive::ChunkArchive;
use crate::error::Error;

/// Plain bytes fetched at once: the memory of a reader, twice.
const WINDOW_BYTES: u64 = 8 << 20;

/// Reads the bytes of files: manifests, chunks, verified; a cheap handle.
#[derive(Clone, Debug)]
pub struct Contents {
    archive: ChunkArchive,
    realm: Realm,
}

/// A piece of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes.
    Data(Bytes),
    /// So many zeros that were never written.
    Hole(u64),
}

impl Contents {
    /// Reads chunks of `realm` from `archive`.
    #[must_use]
    pub const fn new(archive: ChunkArchive, realm: Realm) -> Self {
        Self { archive, realm }
    }

    /// The archive.
    #[must_use]
    pub const fn archive(&self) -> &ChunkArchive {
        &self.archive
    }

    /// The realm.
    #[must_use]
    pub const fn realm(&self) -> &Realm {
        &self.realm
    }

    /// The bytes of a range of a file or symlink, fewer only at its end; fetches only the chunks that hold any of them.
    /// Memory: `len`; ask for a bounded number.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`Error::ChunkMissing`], [`Error::ChunkDamaged`], [`Error::Source`] for a manifest that does not decode; the store's.
    pub async fn read(&self, inode: &Inode, offset: u64, len: usize) -> Result<Bytes, Error> {
        let end = offset.saturating_add(len as u64).min(inode.size());
        let mut out = BytesMut::new();
        let mut at = offset;
        while at < end {
            let stop = end.min(at + WINDOW_BYTES);
            for piece in self.window(inode, at..stop).await? {
                match piece {
                    Piece::Data(bytes) => out.extend_from_slice(&bytes),
                    Piece::Hole(len) => out.resize(out.len() + usize::try_from(len).unwrap_or(0), 0),
                }
            }
            at = stop;
        }
        Ok(out.freeze())
    }

    /// The pieces of a range of at most [`WINDOW_BYTES`] that lies within the file.
    pub(super) async fn window(&self, inode: &Inode, range: Range<u64>) -> Result<Vec<Piece>, Error> {
        let root = match &inode.body {
            Body::File(Content::Inline(bytes)) | Body::Symlink(bytes) => {
                let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                return Ok(vec![Piece::Data(bytes.slice(at(range.start)..at(range.end)))]);
            }
            Body::Directory { .. } | Body::Mount { .. } => return Ok(Vec::new()),
            Body::File(Content::Manifest(manifest)) => manifest.root.clone(),
        };
        let placed = self.placed(&root, range.clone()).await?;
        let ids: Vec<_> = placed.iter().filter_map(|placed| placed.extent.chunk_id()).collect();
        let plain = self.plain(&ids).await?;
        let mut pieces = Vec::with_capacity(placed.len());
        for Placed { offset, extent } in placed {
            let (from, to) = (range.start.max(offset), range.end.min(offset + extent.len()));
            match extent {
                Extent::Hole { .. } => pieces.push(Piece::Hole(to - from)),
                Extent::Chunk { id, .. } => {
                    let bytes = plain.get(&id).ok_or(Error::ChunkMissing { id })?;
                    // Within a chunk, so it fits.
                    let at = |file: u64| usize::try_from(file - offset).unwrap_or(usize::MAX);
                    if bytes.len() as u64 != extent.len() {
                        let reason = "its length is not the manifest's".to_owned();
                        return Err(Error::ChunkDamaged { id, reason });
                    }
                    pieces.push(Piece::Data(bytes.slice(at(from)..at(to))));
                }
            }
        }
        Ok(pieces)
    }

    /// The extents that hold any of a range.
    async fn placed(&self, root: &Bytes, range: Range<u64>) -> Result<Vec<Placed>, Error> {
        let root = ManifestRoot::decode(root).map_err(|error| Error::Source(error.to_string()))?;
        if root.level() == 0 {
            // Everything is in the root: no chunk is fetched.
            let nothing = |id| Err(Error::ChunkMissing { id });
            return root.range(range.start, range.end - range.start, nothing).map_err(load_error);
        }
        let this = self.clone();
        let handle = Handle::current();
        let task = tokio::task::spawn_blocking(move || {
            let fetch = |id| handle.block_on(this.chunk(id));
            root.range(range.start, range.end - range.start, fetch).map_err(load_error)
        });
        task.await.map_err(|error| Error::Task(error.to_string()))?
    }

    /// The plain, verified bytes of one chunk.
    pub(super) async fn chunk(&self, id: ChunkId) -> Result<Bytes, Error> {
        self.plain(&[id]).await?.remove(&id).ok_or(Error::ChunkMissing { id })
    }

    /// The plain, verified bytes of chunks, which must all be archived.
    pub(super) async fn plain(&self, ids: &[ChunkId]) -> Result<BTreeMap<ChunkId, Bytes>, Error> {
        let mut wanted = ids.to_vec();
        wanted.sort_unstable();
        wanted.dedup();
        let encoded = self.archive.get_many(&wanted).await?;
        let realm = self.realm.clone();
        let task = tokio::task::spawn_blocking(move || {
            let decode = |(id, chunk): (ChunkId, Option<causeway_dedup::EncodedChunk>)| {
                let chunk = chunk.ok_or(Error::ChunkMissing { id })?;
                let plain = chunk.decode(&realm);
                Ok((id, plain.map_err(|error| Error::ChunkDamaged { id, reason: error.to_string() })?))
            };
            wanted.into_iter().zip(encoded).map(decode).collect()
        });
        task.await.map_err(|error| Error::Task(error.to_string()))?
    }
}

pub(super) fn load_error(error: causeway_dedup::manifest::LoadError<Error>) -> Error {
    match error {
        causeway_dedup::manifest::LoadError::Fetch { source, .. } => source,
        other => Error::Source(other.to_string()),
    }
}

/// The windows of a file, in order.
pub(super) fn windows(size: u64) -> impl Iterator<Item = Range<u64>> {
    (0..size.div_ceil(WINDOW_BYTES)).map(move |n| n * WINDOW_BYTES..((n + 1) * WINDOW_BYTES).min(size))
}
