//! The one read-write path of clients: importing, exporting, reading and writing files of the namespace.
//!
//! [`Vfs`] joins the two halves that a client talks to: metadata by `causeway_namespace::client` (gRPC) and chunks by a
//! [`ChunkTransfer`] (QUIC). Files are cut, hashed and compressed here, so that what a site has already never travels to
//! it; the node verifies everything again.
//!
//! What is in memory at once is bounded: a few batches of [`import::BATCH_BYTES`] a thread while writing,
//! [`fetch::IN_FLIGHT_MAX`] batches of [`fetch::BATCH_BYTES`] while reading.

pub mod edit;
pub mod error;
pub mod export;
pub mod fetch;
pub mod import;
pub mod local;
mod node_sink;
mod progress;
pub mod quic;
pub mod transfer;
pub mod tree;
mod vfs;

pub use error::VfsError;
pub use progress::Progress;
pub use transfer::{ChunkTransfer, TransferError};
pub use vfs::{Located, Vfs, join};
