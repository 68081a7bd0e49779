//! The incarnation of a node's data folder: which cluster, which node, which store.
//!
//! A folder that is empty gets a new store id. The node then asks its peers what store they know it by before it takes part
//! in anything ([`crate::Namespace`] does): a Raft voter that lost its disk must not vote again under its old id. Only after
//! that the folder is marked as joined, durably, and later starts ask nobody.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use causeway_base::envelope::{self, EnvelopeError, Kind};
use causeway_base::{ClusterId, NodeId, StoreId};
use causeway_storage::disk::{Disk, Open};
use serde::{Deserialize, Serialize};

/// Name of the file in the data folder; `docs/formats/node-id.md`.
pub const FILE: &str = "node.id";
const FILE_NEW: &str = "node.id.new";

const KIND: Kind = Kind { magic: *b"CWNI", version: 1, payload_bytes_max: 256 };

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incarnation {
    /// The cluster that the folder belongs to.
    pub cluster: ClusterId,
    /// The node whose folder it is.
    pub node: NodeId,
    /// Drawn when the folder was first used.
    pub store: StoreId,
    /// Peers have agreed that this store may take part under the node's id.
    pub joined: bool,
}

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IncarnationError {
    /// It belongs to another cluster.
    #[error("the data folder belongs to cluster {found}, the configuration says {asked}")]
    OtherCluster {
        /// In the folder.
        found: ClusterId,
        /// In the configuration.
        asked: ClusterId,
    },
    /// It belongs to another node.
    #[error("the data folder belongs to node {found}, the configuration says {asked}")]
    OtherNode {
        /// In the folder.
        found: NodeId,
        /// In the configuration.
        asked: NodeId,
    },
    /// The file is damaged.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How.
        #[source]
        source: EnvelopeError,
    },
    /// The disk failed.
    #[error("{}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// What happened.
        #[source]
        source: io::Error,
    },
}

impl Incarnation {
    /// Reads the folder's incarnation, or gives an empty folder the new store id `fresh`, not joined. Blocking.
    ///
    /// # Errors
    /// [`IncarnationError`].
    pub fn open(
        disk: &Arc<dyn Disk>,
        folder: &Path,
        cluster: ClusterId,
        node: NodeId,
        fresh: StoreId,
    ) -> Result<Self, IncarnationError> {
        match read(disk, folder)? {
            None => {
                let new = Self { cluster, node, store: fresh, joined: false };
                new.write(disk, folder)?;
                Ok(new)
            }
            Some(found) if found.cluster != cluster => {
                Err(IncarnationError::OtherCluster { found: found.cluster, asked: cluster })
            }
            Some(found) if found.node != node => Err(IncarnationError::OtherNode { found: found.node, asked: node }),
            Some(found) => Ok(found),
        }
    }

    /// Writes the file anew, whole or not at all. Blocking; durable on return.
    ///
    /// # Errors
    /// [`IncarnationError::Disk`].
    pub fn write(&self, disk: &Arc<dyn Disk>, folder: &Path) -> Result<(), IncarnationError> {
        let path = folder.join(FILE);
        let write = || -> io::Result<()> {
            let sealed = envelope::seal_value(KIND, self).map_err(io::Error::other)?;
            let new = folder.join(FILE_NEW);
            disk.create_dir_all(folder)?;
            match disk.remove(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let file = disk.open(&new, Open::CreateNew)?;
            file.write_all_at(&sealed, 0)?;
            file.sync_data()?;
            disk.rename(&new, &path)?;
            disk.sync_dir(folder)
        };
        write().map_err(|source| IncarnationError::Disk { path: path.clone(), source })
    }
}

fn read(disk: &Arc<dyn Disk>, folder: &Path) -> Result<Option<Incarnation>, IncarnationError> {
    let path = folder.join(FILE);
    let bytes = || -> io::Result<Option<Vec<u8>>> {
        let file = match disk.open(&path, Open::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // A longer file is no incarnation; what is read of it does not open.
        let len = file.len()?.min(1024);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(Some(bytes))
    };
    let bytes = bytes().map_err(|source| IncarnationError::Disk { path: path.clone(), source })?;
    let Some(bytes) = bytes else { return Ok(None) };
    let found = envelope::open_value(KIND, &bytes);
    found.map(Some).map_err(|source| IncarnationError::Damaged { path: path.clone(), source })
}

#[cfg(test)]
mod tests {
    use causeway_storage::disk::RealDisk;

    use super::*;

    #[test]
    fn a_folder_keeps_its_incarnation() {
        let dir = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let folder = dir.path().join("data");
        let open =
            |cluster, node, fresh| Incarnation::open(&disk, &folder, ClusterId(cluster), NodeId(node), StoreId(fresh));
        let first = open(1, 1, 10).unwrap();
        assert_eq!((first.store, first.joined), (StoreId(10), false));
        Incarnation { joined: true, ..first }.write(&disk, &folder).unwrap();
        let second = open(1, 1, 11).unwrap();
        assert_eq!((second.store, second.joined), (StoreId(10), true));
        assert!(matches!(open(2, 1, 12), Err(IncarnationError::OtherCluster { .. })));
        assert!(matches!(open(1, 2, 12), Err(IncarnationError::OtherNode { .. })));

        let mut bytes = std::fs::read(folder.join(FILE)).unwrap();
        bytes[13] ^= 1;
        std::fs::write(folder.join(FILE), bytes).unwrap();
        assert!(matches!(open(1, 1, 12), Err(IncarnationError::Damaged { .. })));
    }
}
