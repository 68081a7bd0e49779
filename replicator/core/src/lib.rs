//! The replication planner. Pure: no clock, no randomness, no I/O.
//!
//! [`Planner`] is told what is wanted and who may have it, and what became of each request; it answers with what to ask of
//! whom next. The shell (`causeway-replicator`) runs its commands and reports events. The same events at the same times
//! give the same commands. [`Watermark`] says what a site holds, and when that statement may move.

pub mod limits;
pub mod planner;
pub mod source;
pub mod watermark;

pub use limits::{Limits, LimitsError};
pub use planner::{BatchId, Command, Event, FetchBatch, Missing, Planner, Time, Want, WhyMissing};
pub use source::{Source, SourceId};
pub use watermark::{Lag, SyncState, Watermark};
