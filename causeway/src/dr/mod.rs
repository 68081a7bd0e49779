//! Disaster recovery: what is done with a repository alone, and the cluster that is made from it.

mod drill;
mod image;
mod restore;

pub(crate) use drill::{Drill, drill};
pub(crate) use image::{Found, Image, VolumeImage, blocking};
pub(crate) use restore::restore;
