//! What every engine must do, as a suite that each of them runs.
//!
//! A failed expectation panics with the name of the check, so call [`run`] from a test. [`steps`] compares an engine with
//! a plain map over any list of steps; property tests make the lists.

mod concurrent;
mod single;
pub mod steps;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Kv, Space};

/// The spaces that the suite opens.
pub const SPACES: [Space; 2] = [LEFT, RIGHT];

const LEFT: Space = Space("left");
const RIGHT: Space = Space("right");

/// An engine under test.
pub trait Engine: Sync {
    /// Opens the store at `path` with [`SPACES`], creating it if there is nothing. Stores opened before at this path
    /// are closed. An engine without files keeps its stores by path itself and gives back what is durable.
    fn open(&self, path: &Path) -> Arc<dyn Kv>;

    /// Whether [`Kv::snapshot`] works. Without, the checks that need it are left out.
    fn has_snapshots(&self) -> bool {
        true
    }

    /// Whether a scan sees one moment however long it runs. Without, it is checked only while nothing is written.
    fn has_stable_scans(&self) -> bool {
        true
    }
}

/// Runs all checks, each on a fresh store in a folder of its own below `root`.
///
/// # Panics
/// If the engine does not do what it must.
pub fn run(engine: &dyn Engine, root: &Path) {
    for (name, check) in single::CHECKS.iter().chain(concurrent::CHECKS) {
        tracing::debug!(name, "conformance");
        check(&Place { engine, path: root.join(name), name });
    }
    for seed in 0..8 {
        let steps = steps::random(seed, 120);
        steps::check(engine, &root.join(format!("steps-{seed}")), &steps);
    }
}

type Check = fn(&Place<'_>);

/// Where a check works.
struct Place<'a> {
    engine: &'a dyn Engine,
    path: PathBuf,
    /// The check's name, for messages.
    name: &'static str,
}

impl Place<'_> {
    fn open(&self) -> Arc<dyn Kv> {
        self.engine.open(&self.path)
    }
}
