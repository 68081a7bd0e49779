//! Many Raft groups in one process: the shared log, the state stores and the network of openraft.

pub mod error;
pub mod link;
pub mod status;
pub mod wal;

pub use error::{HandleError, ProposeError, ReadIndexError, WaitError};
pub use link::{LinkError, PeerLink, PeerRequest};
pub use status::{GroupState, GroupStatus, Proposed, Timing};
