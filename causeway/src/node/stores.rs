//! The stores of a node: opened before anything serves, closed after everything has stopped.

use std::sync::Arc;

use anyhow::Context as _;
use causeway_base::ByteSize;
use causeway_dedup::store::{ChunkStore, INDEX_SPACES, RecoveryReport, StoreError, StoreOptions};
use causeway_namespace_raft::STATE_SPACES;
use causeway_storage::disk::{Disk, RealDisk};
use causeway_storage::kv::{FjallKv, FjallOptions, Kv, KvError, SledKv, SledOptions};

use super::folder::DataFolder;
use crate::config::{IndexEngine, LimitsSection};

/// The stores of one node.
#[derive(Debug, Clone)]
pub(super) struct Stores {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) state: Arc<dyn Kv>,
    pub(super) chunks: Arc<ChunkStore>,
}

impl Stores {
    /// Opens them; blocking, and takes as long as the recovery of the last run does.
    pub(super) fn open(folder: &DataFolder, limits: &LimitsSection, seed: u64) -> anyhow::Result<Self> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let state = FjallKv::open(&folder.state(), STATE_SPACES, &kv_options(limits, limits.metadata_cache))
            .with_context(|| format!("open the metadata store {}", folder.state().display()))?;
        let (chunks, report) = open_chunks(&disk, folder, limits, seed)?;
        tell(&report);
        Ok(Self { disk, state: Arc::new(state), chunks: Arc::new(chunks) })
    }
}

/// Chunks are refused first: the metadata must still have space when data does not.
pub(crate) fn kv_options(limits: &LimitsSection, cache: ByteSize) -> FjallOptions {
    FjallOptions { cache, reserve: ByteSize(limits.disk_reserve.bytes() / 2), ..FjallOptions::default() }
}

/// Opens the chunk store of a folder. An index that is damaged is removed and filled from the packs.
pub(crate) fn open_chunks(
    disk: &Arc<dyn Disk>,
    folder: &DataFolder,
    limits: &LimitsSection,
    seed: u64,
) -> anyhow::Result<(ChunkStore, RecoveryReport)> {
    let options = StoreOptions {
        reserve_bytes: limits.disk_reserve.bytes(),
        seed,
        trust_index_after_crash: limits.index_engine == IndexEngine::Fjall,
        ..StoreOptions::default()
    };
    let open = || -> Result<(ChunkStore, RecoveryReport), StoreError> {
        let index = open_index(folder, limits)?;
        ChunkStore::open(disk.clone(), folder.packs(), index, options.clone())
    };
    forget_other_engine(folder, limits.index_engine)?;
    let opened = match open() {
        Err(StoreError::Index(KvError::Damaged { reason, .. })) => {
            // It holds nothing that the packs do not: made anew, never repaired.
            tracing::error!(%reason, "the chunk index is damaged; it is built anew from the packs");
            remove_index(folder)?;
            open()
        }
        opened => opened,
    };
    opened.with_context(|| format!("open the chunk store {}", folder.packs().display()))
}

fn open_index(folder: &DataFolder, limits: &LimitsSection) -> Result<Arc<dyn Kv>, KvError> {
    let fjall = kv_options(limits, limits.index_cache);
    match limits.index_engine {
        IndexEngine::Fjall => Ok(Arc::new(FjallKv::open(&folder.index(), INDEX_SPACES, &fjall)?)),
        IndexEngine::Sled => {
            let sled = SledOptions { cache: limits.index_cache, reserve: fjall.reserve };
            Ok(Arc::new(SledKv::open(&folder.index(), INDEX_SPACES, &sled)?))
        }
    }
}

/// Removes the index if another engine wrote it. The engine that did is named in a file beside its own.
fn forget_other_engine(folder: &DataFolder, engine: IndexEngine) -> anyhow::Result<()> {
    let name = folder.index_engine();
    let wanted = match engine {
        IndexEngine::Fjall => "fjall",
        IndexEngine::Sled => "sled",
    };
    let written = match std::fs::read_to_string(&name) {
        Ok(written) => Some(written.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("read {}", name.display())),
    };
    if written.as_deref() == Some(wanted) {
        return Ok(());
    }
    // Removed first: if this is cut short, the next start finds the old name and does it again.
    if folder.index().exists() {
        tracing::warn!(wanted, written, "the chunk index is another engine's; it is built anew from the packs");
        remove_index(folder)?;
    }
    std::fs::write(&name, wanted).with_context(|| format!("write {}", name.display()))
}

/// Removes the index: it is filled from the packs when the store is opened.
pub(crate) fn remove_index(folder: &DataFolder) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(folder.index()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", folder.index().display()))
        }
        _ => Ok(()),
    }
}

fn tell(report: &RecoveryReport) {
    tracing::info!(?report, "chunk store opened");
}
