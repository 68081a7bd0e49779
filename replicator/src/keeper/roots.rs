//! The seam to what is in use: all volumes, and their states.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use causeway_base::VolumeId;
use causeway_namespace_core::listing::Listed;

use super::Pages;
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
    /// Whether this node is to hold every byte of it.
    pub follows: bool,
    /// Whether what is here of it, and came from other sites, may go when room is needed.
    pub evictable: bool,
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

    /// What a volume names in a state that has every commit that was settled before the call, and in all versions that are
    /// kept beside it; from `since` on if that is still known (see [`super::list`]). Of a volume without a replica here, a
    /// node that has one is asked.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`RootsError`] if no such state can be had; a listing may also fail later.
    async fn manifests(&self, volume: VolumeId, since: Option<Listed>, deadline: Duration)
    -> Result<Pages, RootsError>;

    /// Another number than before: what was listed of a volume until then may have been wrong, as
    /// [`crate::VolumeSource::generation`] has it of the replica here. Zero if it was always right.
    fn generation(&self, volume: VolumeId) -> u64 {
        let _ = volume;
        0
    }

    /// Whether another site that is to hold every byte of the volume, and can be reached, is verified in sync up to its newest
    /// commit, and always was in the line of its history. Without that, a copy here may be the last one.
    ///
    /// Cancel safe.
    async fn is_held_elsewhere(&self, volume: VolumeId, deadline: Duration) -> bool;

    /// A state of a volume that has every commit that was settled before the call; `None` if this node has no replica of
    /// its metadata.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`RootsError`] if the replica is not caught up.
    async fn view(&self, volume: VolumeId, deadline: Duration) -> Result<Option<Arc<dyn VolumeView>>, RootsError>;
}
