//! The namespace state machine: what a committed command does to the records of a volume or of the root group.
//!
//! Pure. A command and a read-only view of the records go in; record changes and a response come out. No clock (times come
//! in the command), no randomness, no I/O, no unordered map: the same commands give the same records on every replica and
//! in a simulation. `clippy.toml` holds it.

pub mod apply;
pub mod audit;
pub mod command;
pub mod descent;
pub mod digest;
pub mod encode;
pub mod inode;
pub mod key;
pub mod lineage;
pub mod listing;
pub mod manage;
pub mod memory;
pub mod meta;
pub mod path;
pub mod promotion;
pub mod query;
pub mod records;
pub mod root;
pub mod session;

#[cfg(test)]
mod model;
