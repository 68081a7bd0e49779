//! Disaster recovery: what is done with a repository alone, and the cluster that is made from it.

mod image;
mod restore;

pub(crate) use image::{Image, VolumeImage, blocking};
pub(crate) use restore::restore;
