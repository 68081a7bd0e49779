//! The root group's tables as this node has applied them: cluster, nodes, volumes, mounts.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use causeway_base::{NodeId, Seq, VolumeId};
use causeway_namespace_core::command::Errno;
use causeway_namespace_core::lineage::Lineage;
use causeway_namespace_core::path;
use causeway_namespace_core::promotion::PromotionRecord;
use causeway_namespace_core::query;
use causeway_namespace_core::records::{ReadError, Records};
use causeway_namespace_core::root::{ClusterRecord, NodeRecord, TopologyRecord, VolumeRecord};

use crate::entry::Place;

/// A consistent state of the root group's tables. Small: a cluster has few nodes and some thousand volumes at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    /// At which seq of the root group.
    pub seq: Seq,
    /// `None` until the cluster is set up.
    pub cluster: Option<ClusterRecord>,
    /// What was declared.
    pub topology: TopologyRecord,
    /// By id.
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    /// By id.
    pub volumes: BTreeMap<VolumeId, VolumeRecord>,
    /// The newest promotion of each group that was promoted.
    pub promotions: BTreeMap<VolumeId, PromotionRecord>,
    /// Volumes by the names of their mount points.
    mounts: BTreeMap<Vec<Bytes>, VolumeId>,
    /// Of each volume that others are mounted in: where in it, and what they are called.
    nested: BTreeMap<VolumeId, BTreeMap<Bytes, String>>,
}

impl Catalog {
    /// Reads all of it.
    ///
    /// # Errors
    /// The store's.
    pub fn read(records: &dyn Records, seq: Seq) -> Result<Self, ReadError> {
        let cluster = query::cluster(records)?;
        let nodes = query::nodes(records)?.into_iter().map(|node| (node.id, node)).collect();
        let volumes: BTreeMap<_, _> = query::volumes(records)?.into_iter().map(|volume| (volume.id, volume)).collect();
        let topology = query::topology(records)?;
        let promotions = query::promotions(records)?;
        let (mounts, nested) = (mounts(&volumes), BTreeMap::new());
        let mut catalog = Self { seq, cluster, topology, nodes, promotions, mounts, volumes, nested };
        catalog.nested = catalog.nest();
        Ok(catalog)
    }

    fn nest(&self) -> BTreeMap<VolumeId, BTreeMap<Bytes, String>> {
        let mut nested: BTreeMap<VolumeId, BTreeMap<Bytes, String>> = BTreeMap::new();
        for volume in self.volumes.values() {
            if let Some((above, path)) = self.above(&volume.spec.mount) {
                nested.entry(above.id).or_default().insert(path, volume.spec.name.clone());
            }
        }
        nested
    }

    /// The volume in which a mount point lies, and where in it; `None` if in none, or at `/`.
    #[must_use]
    pub fn above(&self, mount: &Bytes) -> Option<(&VolumeRecord, Bytes)> {
        let names = path::names(mount).ok()?;
        (0..names.len()).rev().find_map(|len| {
            let volume = self.volumes.get(self.mounts.get(&names[..len])?)?;
            Some((volume, names[len..].join(&b"/"[..]).into()))
        })
    }

    /// The volumes that are mounted in this one: where in it, and what they are called.
    pub(crate) fn mounted_in(&self, volume: VolumeId) -> impl Iterator<Item = (&Bytes, &str)> {
        self.nested.get(&volume).into_iter().flatten().map(|(path, name)| (path, name.as_str()))
    }

    /// Whether a volume is as it was in `before`, and so is what is mounted in it.
    pub(crate) fn is_same(&self, before: &Self, volume: VolumeId) -> bool {
        self.volumes.get(&volume) == before.volumes.get(&volume)
            && self.nested.get(&volume) == before.nested.get(&volume)
    }

    /// The line of a volume that the root group has decided.
    #[must_use]
    pub fn lineage(&self, volume: VolumeId) -> Lineage {
        self.promotions.get(&volume).map(|promotion| promotion.lineage).unwrap_or_default()
    }

    /// A volume by its name.
    #[must_use]
    pub fn volume_named(&self, name: &str) -> Option<&VolumeRecord> {
        self.volumes.values().find(|volume| volume.spec.name == name)
    }

    /// Where an absolute path of the namespace leads: into the volume mounted nearest above it, or to a directory that
    /// exists because of mounts below it. The root directory is there even without any mount.
    ///
    /// # Errors
    /// The rules for paths: [`Errno::NameTooLong`], [`Errno::Invalid`].
    pub fn resolve(&self, absolute: &Bytes) -> Result<Place, Errno> {
        let names = path::names(absolute)?;
        for len in (0..=names.len()).rev() {
            let volume = self.mounts.get(&names[..len]).and_then(|id| self.volumes.get(id));
            if let Some(volume) = volume {
                let path = names[len..].join(&b"/"[..]).into();
                return Ok(Place::InVolume { volume: Box::new(volume.clone()), path });
            }
        }
        let below: BTreeSet<&Bytes> = self
            .mounts
            .keys()
            .filter(|mount| mount.starts_with(&names))
            .filter_map(|mount| mount.get(names.len()))
            .collect();
        if below.is_empty() && !names.is_empty() {
            return Ok(Place::Nowhere);
        }
        Ok(Place::Above { names: below.into_iter().cloned().collect() })
    }
}

fn mounts(volumes: &BTreeMap<VolumeId, VolumeRecord>) -> BTreeMap<Vec<Bytes>, VolumeId> {
    // The root group has checked the mounts: none is skipped.
    volumes.values().filter_map(|volume| Some((path::names(&volume.spec.mount).ok()?, volume.id))).collect()
}

#[cfg(test)]
mod tests {
    use causeway_base::Epoch;
    use causeway_namespace_core::root::VolumeSpec;

    use super::*;

    fn catalog(mounts_at: &[&str]) -> Catalog {
        let volume = |(at, mount): (usize, &&str)| {
            let id = VolumeId(at as u64 + 1);
            let spec = VolumeSpec {
                name: format!("volume-{at}"),
                mount: Bytes::copy_from_slice(mount.as_bytes()),
                home: "zurich".parse().unwrap(),
                survive: None,
                residency: Default::default(),
                voters: vec![],
                learners: vec![],
                replicas: vec![],
                caches: vec![],
                archive: false,
                chunk_bytes_avg: 65_536,
                inline_bytes_max: 4096,
                realm: "default".to_owned(),
            };
            (id, VolumeRecord::new(id, Epoch(1), spec))
        };
        let volumes: BTreeMap<_, _> = mounts_at.iter().enumerate().map(volume).collect();
        Catalog { mounts: mounts(&volumes), volumes, ..Catalog::default() }
    }

    fn told(catalog: &Catalog, path: &str) -> String {
        match catalog.resolve(&Bytes::copy_from_slice(path.as_bytes())) {
            Ok(Place::InVolume { volume, path }) => format!("{} + {}", volume.id, String::from_utf8_lossy(&path)),
            Ok(Place::Above { names }) => format!("above {names:?}"),
            Ok(Place::Nowhere) => "nowhere".to_owned(),
            Err(errno) => errno.to_string(),
        }
    }

    #[test]
    fn the_nearest_mount_above_wins() {
        let catalog = catalog(&["/projects/alpha", "/projects/alpha/jobs/7", "/home"]);
        assert_eq!(told(&catalog, "/projects/alpha"), "v1 + ");
        assert_eq!(told(&catalog, "//projects/./alpha/jobs/8/x"), "v1 + jobs/8/x");
        assert_eq!(told(&catalog, "/projects/alpha/jobs/7/out"), "v2 + out");
        assert_eq!(told(&catalog, "/projects/alphabet"), "nowhere");
        assert_eq!(told(&catalog, "/projects/../home"), Errno::Invalid.to_string());
        let above = |mount: &'static str| catalog.above(&mount.into()).map(|(volume, path)| (volume.id.0, path));
        assert_eq!(above("/projects/alpha/jobs/7"), Some((1, "jobs/7".into())));
        assert_eq!(above("/projects/alpha/jobs/7/x"), Some((2, "x".into())));
        assert_eq!((above("/projects/alpha"), above("/")), (None, None));
        assert_eq!(catalog.nest(), [(VolumeId(1), [("jobs/7".into(), "volume-1".to_owned())].into())].into());
    }

    #[test]
    fn above_the_mounts_there_are_directories() {
        let catalog = catalog(&["/projects/alpha", "/projects/beta/x", "/home"]);
        assert_eq!(told(&catalog, "/"), r#"above [b"home", b"projects"]"#);
        assert_eq!(told(&catalog, "/projects/"), r#"above [b"alpha", b"beta"]"#);
        assert_eq!(told(&catalog, "/projects/beta"), r#"above [b"x"]"#);
        assert_eq!(told(&catalog, "/projects/gamma"), "nowhere");
        assert_eq!(told(&super::Catalog::default(), "/"), "above []");
    }

    #[test]
    fn a_volume_at_the_root_has_everything() {
        let catalog = catalog(&["/"]);
        assert_eq!(told(&catalog, "/a/b"), "v1 + a/b");
        assert_eq!(told(&catalog, "/"), "v1 + ");
    }
}
