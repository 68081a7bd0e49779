//! Packs and metadata images in object storage; the reader that needs no cluster; restore.
//!
//! - [`Repository`] is an object-store prefix with a marker; every request to it has a deadline and is counted.
//! - [`image`] publishes a volume's metadata, incrementally, fenced by epoch, term and seq; a [`Head`] names each image.
//! - [`archive`] holds chunks in packs, with an index.
//! - [`dr`] reads all of it with no cluster alive.
//! - [`run`]: sorted, checksummed records, the form of metadata and of pack indexes.
//!
//! All objects but none are ever changed once written, so the layout suits containers that are write-once. Formats are in
//! `docs/formats/repository.md`.

pub mod archive;
mod backend;
pub mod dr;
mod drill;
mod error;
pub mod fault;
mod head;
pub mod image;
mod names;
mod options;
mod repository;
pub mod run;
mod store;

pub use drill::{DrillRecord, DrilledVolume};
pub use error::Error;
pub use head::{Head, ImageTotals, Run};
pub use options::{BYTES_PER_SECOND_MIN, RepositoryOptions};
pub use repository::Repository;
pub use store::RequestStats;
