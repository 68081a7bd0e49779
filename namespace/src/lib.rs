//! The namespace service of a node: volumes, paths, forwarding, gRPC; and the client of it.
//!
//! A node runs a [`Namespace`]: it opens log and state, joins its cluster, runs the groups of the volumes that have a
//! replica here, finds leaders, and serves gRPC. Everybody else uses a [`client::NamespaceClient`].
//!
//! The namespace knows a file's manifest root, never chunks: whether chunks are here says an injected [`ContentCheck`];
//! stores, watermarks and archives come into its status through a [`StatusSource`].

mod catalog;
pub mod client;
mod config;
mod content;
mod digest;
mod entry;
mod error;
mod incarnation;
pub mod manage;
mod metered;
mod node;
mod peers;
pub mod placement;
mod read;
mod rpc;
mod service;
mod status;
mod upkeep;
mod wire;

pub use catalog::Catalog;
pub use config::{Limits, NamespaceConfig, Parts};
pub use content::{ContentCheck, ContentError, ContentHold, Unchecked};
pub use digest::{
    DifferingRecord, DifferingRecords, DigestOptions, DigestReport, Divergence, RecordDiffers, Repaired, Verdict,
    VerifyReport,
};
pub use entry::{Entry, Found, Mutated, Page, Place, VolumeReport, VolumeTotals};
pub use error::Error;
pub use incarnation::{FILE as INCARNATION_FILE, Incarnation, IncarnationError};
pub use node::join::JoinError;
pub use node::{Aside, AsideLine, AsideSeq, Namespace, Promoted, RemoteListing, Snapshot, StartError, folder};
pub use read::{Consistency, Freshness, Read, ReadState};
pub use status::{
    ArchiveStatus, ClusterStatus, Deltas, GroupReport, NodeReport, NodeStatus, StatusSource, StoreStatus, SyncTarget,
    SyncWaited, Transfer, Watermark, WireBytes,
};
pub use upkeep::{GcAsk, Run, ScrubAsk, StoreKeeper, UpkeepStatus};
