//! Whole-system tests: the built binary under faults, and the invariants that must hold whatever happens.
//!
//! - [`program`]: finds (and builds, if need be) the binary under test.
//! - [`kill`]: nodes are killed at random moments under a workload; what was acknowledged must be there afterwards.
//! - [`takeover`]: how long a volume takes no writes when its leader is killed or moves.
//!
//! A failed request counts as *unknown*: its effect may or may not be seen.

pub mod kill;
pub mod program;
pub mod takeover;
mod three;
