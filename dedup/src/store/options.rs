//! What a store can be told, and what it says of itself.

use super::block::BLOCK_PLAIN_BYTES_MAX;
use crate::chunk::LEVEL_DEFAULT;

/// Bounds and behaviour of a store.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// A pack is sealed at about this size in bytes; 64 KiB to 1 GiB. The default, 64 MiB, keeps the files of 100 TB below
    /// two million and a pack's footer below 100 KB at average chunks.
    pub pack_bytes: u32,
    /// Bytes of the disk that stay free: the log and the index need space to go on when chunks do not.
    pub reserve_bytes: u64,
    /// A put syncs by itself when more than this is not durable. Bounds the kernel's dirty pages and the store's own list of
    /// un-synced chunks (about 100 bytes each).
    pub unsynced_bytes_max: u64,
    /// Most pack files that are open for reading at once.
    pub open_files_max: usize,
    /// Where packs' salts come from: draw it at random when the store is opened.
    pub seed: u64,
    /// Chunks that compress and come together share blocks of up to so many plain bytes (at most 1 MiB), which is what reading
    /// one of them decodes. 0: each chunk is compressed by itself. The default, 512 KiB, is near the best ratio
    /// (docs/measurements.md).
    pub block_bytes: u32,
    /// zstd level at rest.
    pub level: i32,
    /// Decoded blocks are kept in memory up to so many bytes, for who reads on.
    pub block_cache_bytes: usize,
    /// Which chunks may rest as their difference from others. Deltas that are there are read whatever this says.
    pub deltas: Deltas,
    /// Whether the index's engine keeps its promises over a crash. If not (sled), the index is built anew from the packs
    /// unless the last run closed the store.
    pub trust_index_after_crash: bool,
}

/// Which chunks may rest as their difference from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deltas {
    /// None.
    Off,
    /// Those for which the caller of a put names what was in their place before.
    Named,
    /// Also those that resemble a chunk that is here; see [`crate::sketch`].
    Similar,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            pack_bytes: 64 << 20,
            reserve_bytes: 256 << 20,
            unsynced_bytes_max: 128 << 20,
            open_files_max: 256,
            seed: 0,
            block_bytes: 512 << 10,
            level: LEVEL_DEFAULT,
            block_cache_bytes: 16 << 20,
            deltas: Deltas::Similar,
            trust_index_after_crash: true,
        }
    }
}

impl StoreOptions {
    /// With `pack_bytes` and `block_bytes` in their bounds.
    pub(super) fn bounded(mut self) -> Self {
        self.pack_bytes = self.pack_bytes.clamp(64 << 10, 1 << 30);
        self.block_bytes = self.block_bytes.min(BLOCK_PLAIN_BYTES_MAX);
        self
    }
}

/// What a put did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// The chunk was not there; it is durable after the next sync.
    New,
    /// The chunk was there before, durable or about to be: a sync covers it either way.
    Known,
}

/// Whether a store takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreState {
    /// It does.
    Ok,
    /// The disk was full at the last put; every put tries anew.
    Full,
    /// A write or sync failed, with the reason; only reads until the node is started again.
    ReadOnly(String),
}

/// Figures of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreStats {
    /// Chunks in packs. A chunk that was healed counts twice until its old pack is rewritten.
    pub chunks: u64,
    /// Bytes of their records, headers included.
    pub stored_bytes: u64,
    /// Plain bytes of the chunks.
    pub raw_bytes: u64,
    /// Of the chunks, those that rest as deltas.
    pub delta_chunks: u64,
    /// Bytes of their records.
    pub delta_stored_bytes: u64,
    /// Plain bytes of them.
    pub delta_raw_bytes: u64,
    /// Bytes by which deltas were smaller than what they replaced, since the store was opened.
    pub delta_saved_bytes: u64,
    /// Pack files.
    pub packs: u64,
    /// Packs that have bad bytes before good ones.
    pub damaged_packs: u64,
    /// Chunks that were found corrupt and were not put again.
    pub corrupt_chunks: u64,
    /// Bytes written that the next sync makes durable.
    pub unsynced_bytes: u64,
    /// Bytes of the index on disk, as far as its engine knows.
    pub index_bytes: u64,
    /// Whether it takes writes.
    pub state: StoreState,
}

/// What opening a store found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Pack files there are.
    pub packs: u64,
    /// Packs of which the footer or the records were read.
    pub packs_read: u64,
    /// Entries that were added to the index.
    pub indexed: u64,
    /// Incomplete records that were cut off: what a crash leaves, never acknowledged.
    pub tails_cut: Vec<TailCut>,
    /// Bad bytes before good ones. Nothing was cut, the good records are served.
    pub damaged: Vec<DamagedRange>,
    /// Packs that the index knows and that are not there. Their chunks count as missing.
    pub missing_packs: Vec<u32>,
    /// Why the whole index was built anew, if it was.
    pub rebuilt: Option<RebuildReason>,
}

/// The end of a pack that was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailCut {
    /// Number of the pack.
    pub pack: u32,
    /// New length of the pack; 0 if the file was removed.
    pub offset: u64,
    /// Bytes cut.
    pub bytes: u64,
}

/// Bad bytes that were found in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DamagedRange {
    /// Number of the pack.
    pub pack: u32,
    /// First bad byte.
    pub from: u64,
    /// Behind the last bad byte.
    pub to: u64,
    /// The bytes were durable once: acknowledged chunks may be lost. Otherwise they may be what a crash left of writes that
    /// nobody was told of.
    pub acknowledged: bool,
}

/// Why an index was built anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RebuildReason {
    /// It was empty, and packs were there.
    Empty,
    /// An entry could not be decoded, or was not there though its mark said so.
    Damaged,
    /// A pack that it refers to is gone or lost bytes.
    PacksChanged,
    /// The last run was not closed, and the engine is not trusted over a crash.
    Crash,
    /// Asked for.
    Asked,
}
