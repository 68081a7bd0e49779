//! The workers that run the planner's plans over transport, dedup and repository.
//!
//! - [`service`] and [`client`]: the chunk protocol over QUIC, see `docs/formats/wire-chunks.md`;
//! - [`fetcher`]: brings wanted chunks here from whoever has them; [`ensure`]: the same for reads, each chunk once;
//! - [`keeper`]: collects garbage in this node's store, scrubs and heals it;
//! - [`Replicator`]: owns a follower for each volume (replicas, watermarks) and an archiver (images in the repository).
//!
//! What the workers stand on enters through narrow traits: [`LocalChunks`], [`Realms`], [`VolumeSource`], [`Sources`].
//! Which task owns what, and what a crash loses, is in `docs/replication.md`.

mod archiver;
mod bases;
pub mod client;
pub mod content;
pub mod counters;
pub mod ensure;
mod exchange;
pub mod fetcher;
mod follower;
pub mod keeper;
pub mod local;
pub mod peers;
pub mod previous;
mod replicator;
pub mod service;
pub mod source;
pub mod volume;
mod walk;
mod watermarks;
pub mod wire;

pub use archiver::ArchiveStatus;
pub use causeway_replicator_core::{Lag, Limits, Missing, Watermark, WhyMissing};
pub use client::{About, ChunkClient, ChunkReader, ClientError, Uploader};
pub use content::{ContentProblem, DurableContent};
pub use counters::{Account, Counters, Place, WireBytes};
pub use ensure::Ensure;
pub use fetcher::{Fetched, Fetcher, Job, Need};
pub use follower::FollowerStatus;
pub use keeper::{Keeper, KeeperOptions, KeeperParts, KeeperStatus};
pub use local::{LocalChunks, LocalError, PutCounts, Realms};
pub use peers::{Directory, PeerSources, Way};
pub use previous::NeedBase;
pub use replicator::{Options, Parts, Replicator, VolumeStatus};
pub use service::{ChunkService, Later, Needed, ReadThrough, ServiceLimits};
pub use source::{ArchiveSource, Ask, Candidate, ChunkSource, Consumer, NodeSource, SourceError, Sources};
pub use volume::{ChangedKeys, ChangesError, PastView, VolumeSource, VolumeView};
