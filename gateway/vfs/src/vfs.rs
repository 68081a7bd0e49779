//! The handle that everything starts from.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use causeway_base::{Ino, Seq};
use causeway_dedup::Realm;
use causeway_namespace::client::NamespaceClient;
use causeway_namespace::{Freshness, Mutated, Place, Read};
use causeway_namespace_core::command::{At, Errno, Op};
use causeway_namespace_core::inode::Inode;
use causeway_namespace_core::root::VolumeRecord;

use crate::error::{VfsError, show};
use crate::transfer::ChunkTransfer;

/// A client's read-write path. Clones are cheap and share connections.
#[derive(Debug, Clone)]
pub struct Vfs {
    pub(crate) names: NamespaceClient,
    pub(crate) chunks: Arc<dyn ChunkTransfer>,
    realms: Arc<Mutex<BTreeMap<String, Realm>>>,
}

/// A path of the namespace, and the volume that it lies in.
#[derive(Debug, Clone)]
pub struct Located {
    /// The volume.
    pub volume: VolumeRecord,
    /// Relative to the volume; empty for its top.
    pub path: Bytes,
    /// The absolute path, for messages.
    pub shown: String,
}

impl Located {
    /// The place as operations name it.
    #[must_use]
    pub fn at(&self) -> At {
        At { dir: Ino::ROOT, path: self.path.clone() }
    }

    /// The absolute path.
    #[must_use]
    pub fn absolute(&self) -> Bytes {
        let mount: &[u8] = if self.volume.spec.mount == "/" { b"" } else { &self.volume.spec.mount };
        [mount, b"/", &self.path].concat().into()
    }

    /// A place below this one.
    #[must_use]
    pub fn join(&self, below: &[u8]) -> Self {
        let path = join(&self.path, below);
        let shown = if below.is_empty() { self.shown.clone() } else { show(&join(self.shown.as_bytes(), below)) };
        Self { volume: self.volume.clone(), path, shown }
    }

    /// A POSIX error about this place.
    #[must_use]
    pub fn error(&self, code: Errno) -> VfsError {
        VfsError::Posix { path: self.shown.clone(), code }
    }
}

/// Two parts of a path, of which either may be empty.
#[must_use]
pub fn join(above: &[u8], below: &[u8]) -> Bytes {
    let slash = usize::from(!above.is_empty() && !below.is_empty() && !above.ends_with(b"/"));
    let mut path = Vec::with_capacity(above.len() + slash + below.len());
    path.extend_from_slice(above);
    path.extend_from_slice(&b"/"[..slash]);
    path.extend_from_slice(below);
    path.into()
}

impl Vfs {
    /// A path over these two halves.
    #[must_use]
    pub fn new(names: NamespaceClient, chunks: Arc<dyn ChunkTransfer>) -> Self {
        Self { names, chunks, realms: Arc::default() }
    }

    /// The metadata half.
    #[must_use]
    pub const fn names(&self) -> &NamespaceClient {
        &self.names
    }

    /// Where an absolute path lies.
    ///
    /// # Errors
    /// [`VfsError::NoVolume`] above or beside the mounts; [`VfsError::Client`].
    pub async fn locate(&self, path: &[u8]) -> Result<Located, VfsError> {
        match self.names.resolve(path).await? {
            Place::InVolume { volume, path: relative } => {
                Ok(Located { volume: *volume, path: relative, shown: show(path) })
            }
            Place::Above { .. } | Place::Nowhere => Err(VfsError::NoVolume { path: show(path) }),
        }
    }

    /// The realm of a volume's chunks.
    ///
    /// # Errors
    /// [`VfsError::Client`].
    pub async fn realm(&self, volume: &VolumeRecord) -> Result<Realm, VfsError> {
        let name = &volume.spec.realm;
        let known = self.realms.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if let Some(realm) = known {
            return Ok(realm);
        }
        let realm = Realm::new(name.clone(), self.names.realm_key(name).await?.0);
        self.realms.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), realm.clone());
        Ok(realm)
    }

    /// The inode at a place.
    ///
    /// # Errors
    /// [`VfsError::Posix`] if there is none; [`VfsError::Client`].
    pub async fn stat(&self, place: &Located, freshness: impl Into<Freshness>) -> Result<Read<(Ino, Inode)>, VfsError> {
        let read = self.names.stat(place.volume.id, place.at(), freshness).await?;
        let state = read.state;
        let found = read.value.map_err(|code| place.error(code))?;
        Ok(Read { state, value: (found.ino, found.inode) })
    }

    /// Applies operations to a volume, all or none.
    ///
    /// # Errors
    /// [`VfsError::Client`].
    pub async fn mutate(&self, place: &Located, ops: Vec<Op>) -> Result<Mutated, VfsError> {
        Ok(self.names.mutate(place.volume.id, ops).await?)
    }

    /// The seq of the newest commit that the namespace acknowledges now.
    ///
    /// # Errors
    /// [`VfsError::Client`].
    pub async fn seq(&self, volume: &VolumeRecord) -> Result<Seq, VfsError> {
        let report = self.names.volume_by_id(volume.id, Freshness::default()).await?;
        Ok(report.totals.state.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_join_with_one_slash() {
        assert_eq!(join(b"", b"a"), "a");
        assert_eq!(join(b"a", b""), "a");
        assert_eq!(join(b"a", b"b/c"), "a/b/c");
        assert_eq!(join(b"/", b"b"), "/b");
    }
}
