//! Clusters on this machine: writing a new one to disk, and running its nodes as children.

mod create;
mod local;

pub(crate) use create::CONFIG_FILE;
pub use create::{NewCluster, create};
pub use local::{LocalCluster, READY};
