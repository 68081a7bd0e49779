//! The stores of a node: opened before anything serves, closed after everything has stopped.

use std::sync::Arc;

use anyhow::Context as _;
use causeway_base::ByteSize;
use causeway_dedup::store::{ChunkStore, INDEX_SPACES, RecoveryReport, StoreError, StoreOptions};
use causeway_namespace_raft::STATE_SPACES;
use causeway_storage::disk::{Disk, RealDisk};
use causeway_storage::kv::{FjallKv, FjallOptions, Kv, KvError};

use super::folder::DataFolder;
use crate::config::LimitsSection;

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
        let options = StoreOptions { reserve_bytes: limits.disk_reserve.bytes(), seed, ..StoreOptions::default() };
        let (chunks, report) = open_chunks(&disk, folder, limits, &options)?;
        tell(&report);
        Ok(Self { disk, state: Arc::new(state), chunks: Arc::new(chunks) })
    }
}

/// Chunks are refused first: the metadata must still have space when data does not.
pub(crate) fn kv_options(limits: &LimitsSection, cache: ByteSize) -> FjallOptions {
    FjallOptions { cache, reserve: ByteSize(limits.disk_reserve.bytes() / 2), ..FjallOptions::default() }
}

fn open_chunks(
    disk: &Arc<dyn Disk>,
    folder: &DataFolder,
    limits: &LimitsSection,
    options: &StoreOptions,
) -> anyhow::Result<(ChunkStore, RecoveryReport)> {
    let open = || -> Result<(ChunkStore, RecoveryReport), StoreError> {
        let options_of_index = kv_options(limits, limits.index_cache);
        let index = FjallKv::open(&folder.index(), INDEX_SPACES, &options_of_index).map_err(StoreError::Index)?;
        ChunkStore::open(disk.clone(), folder.packs(), Arc::new(index), options.clone())
    };
    let opened = match open() {
        Err(StoreError::Index(KvError::Damaged { reason, .. })) => {
            // It holds nothing that the packs do not: made anew, never repaired.
            tracing::error!(%reason, "the chunk index is damaged; it is built anew from the packs");
            std::fs::remove_dir_all(folder.index()).with_context(|| format!("remove {}", folder.index().display()))?;
            open()
        }
        opened => opened,
    };
    opened.with_context(|| format!("open the chunk store {}", folder.packs().display()))
}

fn tell(report: &RecoveryReport) {
    tracing::info!(?report, "chunk store opened");
}
