//! Many Raft groups in one process: the shared log, the state stores and the network of openraft.
//!
//! - [`Groups`] opens a node's log and states and runs its groups; [`Group`] proposes, reads and watches.
//! - [`wal`]: one write-ahead log for all groups.
//! - [`store`]: the states, versioned by seq, in a key-value store.
//! - [`digests`]: comparing replicas at equal seqs.
//! - [`link`]: the seam to the network; [`memory_link`] is one within a process, for tests and simulations.
//!
//! openraft decides; everything it needs from disk and network is in `consensus`, and nothing outside this crate names it.
//! `docs/raft.md` says how the parts work together and what is durable when.

mod coalesce;
mod consensus;
pub mod digests;
mod election;
pub mod error;
mod fence;
pub mod forget;
mod group;
mod groups;
mod left;
mod lines;
pub mod link;
mod membership;
pub mod memory_link;
mod moved;
mod read_index;
mod refound;
mod rejoin;
mod rest;
mod seed;
pub mod status;
pub mod store;
mod together;
mod upkeep;
pub mod wal;

pub use error::{HandleError, ProposeError, ReadIndexError, StartError, WaitError};
pub use fence::{Fence, Founding};
pub use group::Group;
pub use groups::{GroupSpec, Groups, GroupsConfig, Retention};
pub use left::LeftEntry;
pub use link::{LinkError, PeerLink, PeerRequest};
pub use membership::{Driven, Members};
pub use moved::Moved;
pub use refound::{Refounding, Rewritten};
pub use seed::{Seed, SeedError};
pub use status::{GroupState, GroupStatus, Proposed, Timing};
pub use store::{STATE_SPACES, StateStore, StateView};
