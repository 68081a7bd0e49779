//! What every part of Causeway stands on: ids, units, time, retry classes, the checksummed envelope,
//! and the reports of a store's upkeep.
//!
//! No I/O and no dependency on another crate of the workspace. A type lives here only once a second crate needs it.

pub mod chunk_id;
pub mod clock;
pub mod envelope;
pub mod id;
pub mod name;
pub mod retry;
pub mod units;
pub mod upkeep;

pub use chunk_id::ChunkId;
pub use clock::{Clock, SystemClock, Timestamp};
pub use id::{ClientId, ClusterId, Epoch, Ino, NodeId, Seq, StoreId, VolumeId};
pub use name::{NameError, SiteName};
pub use retry::RetryClass;
pub use units::ByteSize;
pub use upkeep::{BadChunk, GcReport, ScrubReport};
