//! The seam to what is in use: all volumes, and their states.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use causeway_base::VolumeId;

use crate::volume::VolumeView;

/// A volume whose chunks may be here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootVolume {
    /// Which.
    pub id: VolumeId,
    /// Its name, for people.
    pub name: String,
    /// Its realm.
    pub realm: String,
    /// Whether this site is to hold every byte of it.
    pub follows: bool,
}

/// What is in use cannot be known now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot be known now: {reason}")]
pub struct RootsError {
    /// The list of volumes, or the state of one.
    pub what: String,
    /// Why.
    pub reason: String,
}

/// All volumes, and their states.
#[async_trait]
pub trait Roots: Send + Sync + Debug {
    /// Every volume of the cluster, as of the call or later.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`RootsError`] if the newest table of volumes cannot be had.
    async fn volumes(&self, deadline: Duration) -> Result<Vec<RootVolume>, RootsError>;

    /// A state of a volume that has every commit that was settled before the call.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`RootsError`] if this node has no replica of it, or one that is not caught up.
    async fn view(&self, volume: VolumeId, deadline: Duration) -> Result<Arc<dyn VolumeView>, RootsError>;
}
