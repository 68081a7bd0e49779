//! Regions, sites, links and policies; placement, path choice and residency. Pure.
//!
//! [`Topology`] is what an operator declared, checked as a whole: a value of the type has no dangling name. On it stand
//! three decisions, each a function of its arguments: [`Topology::path`] (which links carry bytes between two sites),
//! [`placement::plan`] (which nodes vote, follow and witness so that a survival goal holds), and
//! [`Residency::check_site`] (whether a place may hold a byte at all).

pub mod model;
pub mod path;
pub mod placement;
pub mod residency;
pub mod topology;
pub mod units;

pub use model::{Jurisdiction, Link, LinkKind, LinkName, Node, Region, RegionName, Repository, Site};
pub use path::{Path, PathPolicy};
pub use placement::{Goal, Placement, Survive, Unplaceable};
pub use residency::{Residency, ResidencyViolation};
pub use topology::{Problem, Topology, TopologyError, TopologySpec};
pub use units::{BitRate, Price};
