//! The stores of a node: opened before anything serves, closed after everything has stopped.

use std::sync::Arc;

use anyhow::Context as _;
use causeway_base::ByteSize;
use causeway_dedup::store::{
    ChunkStore, CorruptList, Deltas, FILTERED_SPACES, INDEX_SPACES, RecoveryReport, StoreError, StoreOptions,
};
use causeway_namespace_raft::STATE_SPACES;
use causeway_storage::disk::{Disk, RealDisk};
use causeway_storage::kv::{FjallKv, FjallOptions, Kv, KvError, SledKv, SledOptions, WatchedKv};

use super::folder::DataFolder;
use crate::config::{DeltasAtRest, IndexEngine, LimitsSection};

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
        let chunks = if limits.chunk_capacity.bytes() > 0 { chunks.noting_reads() } else { chunks };
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
    let open = || open_store(disk, folder, limits, seed, &mut |_| {});
    forget_other_engine(folder, limits)?;
    forget_damaged(folder, limits)?;
    let opened = match open() {
        Err(StoreError::Index(KvError::Damaged { reason, .. })) => {
            // It holds little that the packs do not: made anew, never repaired.
            tracing::error!(%reason, "the chunk index is damaged; it is built anew from the packs");
            replace_index(folder, limits)?;
            open()
        }
        opened => opened,
    };
    opened.with_context(|| format!("open the chunk store {}", folder.packs().display()))
}

/// Opens the chunk store of a folder with an index that is built anew from the packs. `progress` is told the report so far
/// after each pack.
pub(crate) fn rebuild_chunks(
    disk: &Arc<dyn Disk>,
    folder: &DataFolder,
    limits: &LimitsSection,
    seed: u64,
    progress: &mut dyn FnMut(&RecoveryReport),
) -> anyhow::Result<(ChunkStore, RecoveryReport)> {
    replace_index(folder, limits)?;
    name_engine(folder, limits.index_engine)?;
    unmark_damaged(folder)?;
    open_store(disk, folder, limits, seed, progress)
        .with_context(|| format!("open the chunk store {}", folder.packs().display()))
}

fn open_store(
    disk: &Arc<dyn Disk>,
    folder: &DataFolder,
    limits: &LimitsSection,
    seed: u64,
    progress: &mut dyn FnMut(&RecoveryReport),
) -> Result<(ChunkStore, RecoveryReport), StoreError> {
    let options = StoreOptions {
        reserve_bytes: limits.disk_reserve.bytes(),
        seed,
        deltas: match limits.deltas_at_rest {
            DeltasAtRest::Off => Deltas::Off,
            DeltasAtRest::Place => Deltas::Named,
            DeltasAtRest::Like => Deltas::Similar,
        },
        trust_index_after_crash: limits.index_engine == IndexEngine::Fjall,
        ..StoreOptions::default()
    };
    let index = watched(open_index(folder, limits, limits.index_engine)?, folder);
    ChunkStore::open_watched(disk.clone(), folder.packs(), Arc::new(index), options, progress)
}

/// Leaves a mark when the index turns out to be damaged.
fn watched(index: Arc<dyn Kv>, folder: &DataFolder) -> WatchedKv {
    let mark = folder.index_damaged();
    WatchedKv::new(index, move |error| {
        tracing::error!(%error, "the chunk index is damaged: start the node again, which builds it anew from the packs");
        // Without it the damage is found again, or by a look at samples when the store is opened.
        if let Err(error) = std::fs::write(&mark, error.to_string()) {
            tracing::error!(mark = %mark.display(), %error, "this could not be noted: `causeway store rebuild` builds it anew");
        }
    })
}

/// Removes the index if it was found to be damaged while it was in use: opening it may not show that.
fn forget_damaged(folder: &DataFolder, limits: &LimitsSection) -> anyhow::Result<()> {
    let reason = match std::fs::read_to_string(folder.index_damaged()) {
        Ok(reason) => reason,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => format!("what was wrong cannot be read: {error}"),
    };
    tracing::warn!(%reason, "the chunk index was found damaged before; it is built anew from the packs");
    // Replaced first: if this is cut short, it is done again.
    replace_index(folder, limits)?;
    unmark_damaged(folder)
}

fn unmark_damaged(folder: &DataFolder) -> anyhow::Result<()> {
    match std::fs::remove_file(folder.index_damaged()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", folder.index_damaged().display()))
        }
        _ => Ok(()),
    }
}

fn open_index(folder: &DataFolder, limits: &LimitsSection, engine: IndexEngine) -> Result<Arc<dyn Kv>, KvError> {
    let fjall = FjallOptions { filtered: FILTERED_SPACES, ..kv_options(limits, limits.index_cache) };
    match engine {
        IndexEngine::Fjall => Ok(Arc::new(FjallKv::open(&folder.index(), INDEX_SPACES, &fjall)?)),
        IndexEngine::Sled => {
            let sled = SledOptions { cache: limits.index_cache, reserve: fjall.reserve };
            Ok(Arc::new(SledKv::open(&folder.index(), INDEX_SPACES, &sled)?))
        }
    }
}

/// Removes the index if another engine wrote it. The engine that did is named in a file beside its own.
fn forget_other_engine(folder: &DataFolder, limits: &LimitsSection) -> anyhow::Result<()> {
    let (written, wanted) = (named_engine(folder)?, limits.index_engine);
    if written == Some(wanted) {
        return Ok(());
    }
    // Replaced first: if this is cut short, the next start finds the old name and does it again.
    if folder.index().exists() {
        tracing::warn!(?wanted, ?written, "the chunk index is another engine's; it is built anew from the packs");
        replace_index(folder, limits)?;
    }
    name_engine(folder, wanted)
}

/// The engine that wrote the index; `None` if it is not named, or by no name that there is.
fn named_engine(folder: &DataFolder) -> anyhow::Result<Option<IndexEngine>> {
    let name = folder.index_engine();
    match std::fs::read_to_string(&name) {
        Ok(written) => {
            Ok([IndexEngine::Fjall, IndexEngine::Sled].into_iter().find(|engine| engine.name() == written.trim()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", name.display())),
    }
}

fn name_engine(folder: &DataFolder, engine: IndexEngine) -> anyhow::Result<()> {
    let name = folder.index_engine();
    std::fs::write(&name, engine.name()).with_context(|| format!("write {}", name.display()))
}

/// Replaces the index by one with nothing but the old one's list of corrupt chunks, if that can be read: it is filled from
/// the packs when the store is opened.
fn replace_index(folder: &DataFolder, limits: &LimitsSection) -> anyhow::Result<()> {
    let corrupt = match corrupt_list(folder, limits) {
        Ok(corrupt) => corrupt,
        Err(error) => {
            tracing::warn!(%error, "which chunks are corrupt is not known any more: it is found again when they are read");
            CorruptList::default()
        }
    };
    match std::fs::remove_dir_all(folder.index()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", folder.index().display()));
        }
        _ => {}
    }
    if !corrupt.is_empty() {
        let index = open_index(folder, limits, limits.index_engine);
        index
            .and_then(|index| corrupt.write(&*index))
            .with_context(|| format!("keep the list of {} corrupt chunks", corrupt.len()))?;
    }
    Ok(())
}

fn corrupt_list(folder: &DataFolder, limits: &LimitsSection) -> anyhow::Result<CorruptList> {
    match named_engine(folder)? {
        Some(engine) if folder.index().exists() => Ok(CorruptList::read(&*open_index(folder, limits, engine)?)?),
        _ => Ok(CorruptList::default()),
    }
}

fn tell(report: &RecoveryReport) {
    tracing::info!(?report, "chunk store opened");
}

#[cfg(test)]
mod tests {
    use causeway_dedup::{EncodedChunk, Realm};
    use causeway_storage::kv::{KvRead as _, LostKv};

    use super::*;

    /// Damage that opening the engine does not show is met by a read; from then on the next start makes the index anew.
    #[test]
    fn an_index_found_damaged_while_in_use_is_made_anew_at_the_next_start() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = DataFolder::claim(temporary.path().join("node")).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let realm = Realm::new("test", [7; 32]);
        let chunks: Vec<EncodedChunk> = (0..50_u32)
            .map(|number| {
                let plain = number.to_le_bytes().repeat(500);
                EncodedChunk::plain(realm.chunk_id(&plain), plain.into())
            })
            .collect();
        for engine in [IndexEngine::Fjall, IndexEngine::Sled] {
            let limits = LimitsSection { disk_reserve: ByteSize(0), index_engine: engine, ..LimitsSection::default() };
            let (store, _) = open_chunks(&disk, &folder, &limits, 1).unwrap();
            store.put_many(&chunks).unwrap();
            store.close().unwrap();
            drop(store);
            let (store, report) = open_chunks(&disk, &folder, &limits, 1).unwrap();
            assert!(report.rebuilt.is_none(), "{engine:?}: {report:?}");
            store.close().unwrap();
            drop(store);
            assert!(!folder.index_damaged().exists());
            let lost = watched(Arc::new(LostKv), &folder);
            assert!(lost.get(INDEX_SPACES[0], b"any").is_err());
            assert!(std::fs::read_to_string(folder.index_damaged()).unwrap().contains("a checksum does not hold"));
            let (store, report) = open_chunks(&disk, &folder, &limits, 1).unwrap();
            assert!(report.rebuilt.is_some(), "{engine:?}: {report:?}");
            assert!(!folder.index_damaged().exists());
            assert!(chunks.iter().all(|chunk| store.get(&chunk.id).unwrap().is_some()));
            store.close().unwrap();
        }
    }

    /// What replaces an index, for whatever reason, knows what the old one knew of corrupt chunks.
    #[test]
    fn the_list_of_corrupt_chunks_outlives_its_index() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = DataFolder::claim(temporary.path().join("node")).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let limits = LimitsSection { disk_reserve: ByteSize(0), ..LimitsSection::default() };
        let realm = Realm::new("test", [7; 32]);
        let chunks: Vec<EncodedChunk> = (0..20_u32)
            .map(|number| {
                let mut plain = vec![0; 300_000];
                blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut plain);
                EncodedChunk::plain(realm.chunk_id(&plain), plain.into())
            })
            .collect();
        let (store, _) = open_chunks(&disk, &folder, &limits, 1).unwrap();
        store.put_many(&chunks).unwrap();
        store.close().unwrap();
        let pack = folder.packs().join("00000000.pack");
        let mut bytes = std::fs::read(&pack).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&pack, bytes).unwrap();
        let failed = chunks.iter().filter(|chunk| store.get(&chunk.id).is_err()).count();
        let corrupt = store.corrupt_ids();
        assert!(failed == corrupt.len() && (1..20).contains(&failed), "{failed}");
        drop(store);

        let mut told = Vec::new();
        let mut progress = |report: &RecoveryReport| told.push((report.packs_read, report.packs, report.indexed));
        let (store, _) = rebuild_chunks(&disk, &folder, &limits, 1, &mut progress).unwrap();
        assert_eq!(told, [(1, 1, 20 - failed as u64)], "what is corrupt is not told to be here");
        assert_eq!(store.corrupt_ids(), corrupt);
        assert!(!store.contains(&corrupt[0]).unwrap());
        store.close().unwrap();
        drop(store);

        let limits = LimitsSection { index_engine: IndexEngine::Sled, ..limits };
        let (store, report) = open_chunks(&disk, &folder, &limits, 1).unwrap();
        assert!(report.rebuilt.is_some(), "another engine");
        assert_eq!(store.corrupt_ids(), corrupt);
        store.put_many(&chunks).unwrap();
        store.close().unwrap();
        assert_eq!(store.corrupt_ids(), [], "healed");
        drop(store);
        let (store, _) = rebuild_chunks(&disk, &folder, &limits, 1, &mut |_| {}).unwrap();
        assert_eq!(store.corrupt_ids(), []);
        assert!(chunks.iter().all(|chunk| store.get(&chunk.id).unwrap().is_some()));
    }
}
