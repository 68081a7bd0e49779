//! The workers that run the planner's plans over transport, dedup and repository.

pub mod client;
pub mod counters;
mod exchange;
pub mod local;
pub mod service;
pub mod wire;

pub use client::{About, ChunkClient, ChunkReader, ClientError, Uploader};
pub use counters::{Account, Counters, Place, WireBytes};
pub use local::{LocalChunks, LocalError, PutCounts, Realms};
pub use service::{ChunkService, Needed, ReadThrough, ServiceLimits};
