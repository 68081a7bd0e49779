//! The two seams to durable storage, and what stands behind them.
//!
//! - [`disk::Disk`]: files, as a write-ahead log or a pack store needs them. [`disk::RealDisk`] is the operating system.
//! - [`kv::Kv`]: an ordered key-value store with atomic batches and snapshots.
//!
//! Nothing else in the workspace opens a data file or a database, so that a simulation can stand in for both.

pub mod disk;
pub mod kv;
