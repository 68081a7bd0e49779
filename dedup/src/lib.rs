//! Chunker, manifest, pack store and chunk index of one site. Local; knows no network.
//!
//! The way of the bytes: [`chunker`] cuts a file where its content says, [`Realm`] names each chunk, [`EncodedChunk`] is
//! the form in which a chunk rests and travels, [`Manifest`] lists a file's chunks and holes, [`ChunkStore`] keeps chunks.
//!
//! Every call blocks; async code calls from a blocking thread.

pub mod chunk;
pub mod chunker;
pub mod delta;
mod filter;
pub mod manifest;
pub mod pipeline;
pub mod realm;
pub mod rechunk;
pub mod sketch;
pub mod sparse;
pub mod store;

pub use chunk::{CHUNK_BYTES_MAX, ChunkError, Codec, EncodedChunk};
pub use chunker::{ChunkSizes, Chunker};
pub use manifest::{Extent, Manifest, ManifestBuilder, ManifestError, ManifestRoot};
pub use realm::Realm;
pub use store::{
    ChunkStore, INDEX_SPACES, PutOutcome, RecoveryReport, StoreError, StoreOptions, StoreState, StoreStats,
};
