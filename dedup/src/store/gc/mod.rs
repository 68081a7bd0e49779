//! Garbage collection of chunks, in two phases by epochs; the protocol is in `docs/gc.md`.
//!
//! A **mark** is one look at everything that is reached. Phase 1 of its epoch condemns the chunks that it did not reach. Phase
//! 2, in a later epoch, removes those that are still condemned: after a grace, by a mark that began after they were condemned
//! and did not reach them either. Whoever is told that a chunk is here (by a put, [`super::ChunkStore::missing`], ...) revives
//! it, atomically with regard to phase 2: a chunk is either gone, and its absence is told, or it stays.
//!
//! Marks that a crash loses only delay the collection. What was revived before a crash may be condemned after it; but then the
//! grace begins anew, and nothing goes without another mark.

mod bases;
mod collect;
pub(super) mod files;
mod leases;
mod marks;
mod progress;
mod reached;
mod repack;

use std::time::{Duration, Instant};

pub use collect::{Collected, Copies, Mark};
pub use leases::Lease;
pub use progress::{Marked, Progress};
pub use reached::Reached;
pub use repack::{RepackOptions, Repacked};

pub(super) use collect::Gc;

/// How long a lease of unknown end is kept: that of a commit whose outcome nobody knows, and what a run that crashed may have
/// had open. Far longer than any request is under way (at most a minute).
pub const UNKNOWN_LEASE: Duration = Duration::from_secs(600);

/// Work is paced by this: called with bytes read or written since the last call; waits as needed, and says whether to go on.
pub type Pace<'a> = &'a mut dyn FnMut(u64) -> bool;

/// Time since the store was opened. Tests let it pass.
#[derive(Debug)]
pub(super) struct Uptime {
    opened: Instant,
    #[cfg(test)]
    passed: std::sync::Mutex<Duration>,
}

impl Default for Uptime {
    fn default() -> Self {
        Self {
            opened: Instant::now(),
            #[cfg(test)]
            passed: std::sync::Mutex::default(),
        }
    }
}

impl Uptime {
    pub(super) fn now(&self) -> Duration {
        let now = self.opened.elapsed();
        #[cfg(test)]
        let now = now + *super::lock(&self.passed);
        now
    }

    #[cfg(test)]
    pub(super) fn pass(&self, time: Duration) {
        *super::lock(&self.passed) += time;
    }
}
