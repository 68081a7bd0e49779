//! A node's data folder: who uses it, and what stands in it.
//!
//! ```text
//! LOCK        held by the process that uses the folder
//! namespace/  the write-ahead log, snapshots, node.id
//! state/      records of all groups (ordered store)
//! packs/      chunks
//! index/      the index of the chunks (ordered store; can be rebuilt from packs/)
//! index.engine  the name of the engine that wrote it
//! sync/       how far each volume's bytes are here
//! ```

use std::fs::File;
use std::path::PathBuf;

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};

use crate::cli::exit::{Exit, Failure};

/// A data folder that belongs to this process until it is dropped.
#[derive(Debug)]
pub(crate) struct DataFolder {
    path: PathBuf,
    _lock: File,
}

impl DataFolder {
    /// Claims a folder that a node has used.
    pub(crate) fn claim_existing(path: PathBuf) -> anyhow::Result<Self> {
        if !path.join("packs").is_dir() {
            let message = format!(
                "{} is no node's data folder: it has no packs.\n  hint: `data` of the [[node]] in the configuration",
                path.display()
            );
            return Err(Failure::error(Exit::NotFound, message));
        }
        Self::claim(path)
    }

    /// Makes the folder if need be, and claims it.
    pub(crate) fn claim(path: PathBuf) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&path).with_context(|| format!("create the data folder {}", path.display()))?;
        let name = path.join("LOCK");
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&name)
            .with_context(|| format!("open {}", name.display()))?;
        if let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if error == rustix::io::Errno::WOULDBLOCK {
                let message = format!(
                    "the data folder {} is in use by another process.\n  hint: a node runs once; stop the other one first",
                    path.display()
                );
                return Err(Failure::error(Exit::Refused, message));
            }
            return Err(error).with_context(|| format!("lock {}", name.display()));
        }
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn namespace(&self) -> PathBuf {
        self.path.join("namespace")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path.join("state")
    }

    pub(crate) fn packs(&self) -> PathBuf {
        self.path.join("packs")
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.path.join("index")
    }

    pub(crate) fn index_engine(&self) -> PathBuf {
        self.path.join("index.engine")
    }

    /// Is there if the index was found damaged while it was in use; says how.
    pub(crate) fn index_damaged(&self) -> PathBuf {
        self.path.join("index.damaged")
    }

    pub(crate) fn sync(&self) -> PathBuf {
        self.path.join("sync")
    }
}
