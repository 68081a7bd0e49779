//! The namespace service of a node: volumes, paths, forwarding, gRPC; and the client of it.

pub mod client;
mod entry;
mod read;
mod status;
mod wire;

pub use entry::{Entry, Found, Mutated, Page, Place, VolumeReport, VolumeTotals};
pub use read::{Consistency, Freshness, Read, ReadState};
pub use status::{
    ArchiveStatus, ClusterStatus, GroupReport, NodeReport, NodeStatus, StatusSource, StoreStatus, SyncTarget,
    SyncWaited, Watermark, WireBytes,
};
