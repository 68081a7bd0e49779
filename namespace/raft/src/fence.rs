//! Fences: which line of each group's history this node follows, kept durably, so that a line that was left is left for ever.
//!
//! A node that hears of a greater line, from a peer's message or from the root group's tables, writes its mark before it does
//! anything else, and stops the group. Nothing of a lesser line is started, answered or acknowledged any more. The log and
//! the state of a line that was left stay where they are, under their own storage id. The file is in
//! `docs/formats/lineage.md`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use causeway_base::envelope::{self, Kind};
use causeway_base::{NodeId, Seq, Timestamp, VolumeId};
use causeway_namespace_core::lineage::Lineage;
use causeway_storage::disk::{Disk, Open};

use crate::error::StartError;

const KIND: Kind = Kind { magic: *b"CWLN", version: 1, payload_bytes_max: 8192 };
/// Longest file: the largest payload and its envelope.
const FILE_BYTES_MAX: u64 = 8192 + 64;
/// Left lines that a node remembers of a group; the oldest is forgotten, its log and state stay.
const LEFT_MAX: usize = 64;

/// What a node remembers of a group's lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// Which group.
    pub group: VolumeId,
    /// The line that it follows.
    pub lineage: Lineage,
    /// The node from which it heard of it; this one if from the root group's tables.
    pub by: NodeId,
    /// When, by this node's clock.
    pub at: Timestamp,
    /// The lines that it followed before and left, oldest first.
    pub left: Vec<Lineage>,
    /// What the line begins with, if this node founds it and nobody else could say so later: of the root group.
    pub founding: Option<Founding>,
}

/// What a line of the root group begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founding {
    /// The line whose state it takes over.
    pub before: Lineage,
    /// That state's seq.
    pub fork: Seq,
    /// The seq of the new line's first state.
    pub seq: Seq,
    /// The command, encoded, that makes the one of the other.
    pub command: Bytes,
}

/// The fences of a node.
#[derive(Debug)]
pub(crate) struct Fences {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    known: Mutex<BTreeMap<VolumeId, Fence>>,
    /// Held by whoever writes: whoever asked for it may be gone, and another asks.
    raising: Mutex<u64>,
}

impl Fences {
    /// Reads those in `dir`.
    ///
    /// # Errors
    /// [`StartError::Fence`]: one is damaged. A node must not guess what it promised.
    pub(crate) fn open(disk: Arc<dyn Disk>, dir: PathBuf) -> Result<Self, StartError> {
        let error = |path: &Path, reason: String| StartError::Fence { path: path.to_owned(), reason };
        disk.create_dir_all(&dir).map_err(|source| error(&dir, source.to_string()))?;
        let mut known = BTreeMap::new();
        for name in disk.list(&dir).map_err(|source| error(&dir, source.to_string()))? {
            let path = dir.join(&name);
            if path.extension().is_some_and(|extension| extension == "new") {
                // Of a write that was cut off. If it stays, it harms nothing.
                let _ = disk.remove(&path);
            }
            if path.extension().is_none_or(|extension| extension != "lineage") {
                continue;
            }
            let fence = read(&disk, &path).map_err(|source| error(&path, source.to_string()))?;
            known.insert(fence.group, fence);
        }
        Ok(Self { disk, dir, known: Mutex::new(known), raising: Mutex::default() })
    }

    pub(crate) fn get(&self, group: VolumeId) -> Option<Fence> {
        self.lock().get(&group).cloned()
    }

    /// The line that this node follows.
    pub(crate) fn lineage(&self, group: VolumeId) -> Lineage {
        self.lock().get(&group).map(|fence| fence.lineage).unwrap_or_default()
    }

    /// Leaves all lesser lines; durable on return. Whether it did not follow this one already. Blocks, also while
    /// another call does.
    ///
    /// # Errors
    /// [`StartError::Fence`]; the mark may be written or not.
    pub(crate) fn raise(
        &self,
        group: VolumeId,
        lineage: Lineage,
        by: NodeId,
        at: Timestamp,
        founding: Option<Founding>,
    ) -> Result<bool, StartError> {
        let mut count = self.raising.lock().unwrap_or_else(PoisonError::into_inner);
        *count += 1;
        let before = self.get(group);
        let current = before.as_ref().map(|fence| fence.lineage).unwrap_or_default();
        if current >= lineage {
            return Ok(false);
        }
        let mut left = before.map(|fence| fence.left).unwrap_or_default();
        left.push(current);
        if left.len() > LEFT_MAX {
            left.remove(0);
        }
        let fence = Fence { group, lineage, by, at, left, founding };
        let path = self.dir.join(format!("{group}.lineage"));
        let written = self.write(&path, *count, &fence);
        written.map_err(|source| StartError::Fence { path, reason: source.to_string() })?;
        self.lock().insert(group, fence);
        Ok(true)
    }

    fn write(&self, path: &Path, count: u64, fence: &Fence) -> io::Result<()> {
        let sealed = envelope::seal_value(KIND, fence).map_err(io::Error::other)?;
        let new = path.with_extension(format!("{count}.new"));
        match self.disk.remove(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.disk.open(&new, Open::CreateNew)?;
        file.write_all_at(&sealed, 0)?;
        file.sync_data()?;
        self.disk.rename(&new, path)?;
        self.disk.sync_dir(&self.dir)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<VolumeId, Fence>> {
        // Valid after any single statement.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(disk: &Arc<dyn Disk>, path: &Path) -> io::Result<Fence> {
    let file = disk.open(path, Open::Read)?;
    let len = file.len()?.min(FILE_BYTES_MAX);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)?;
    envelope::open_value(KIND, &bytes).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use causeway_base::Epoch;
    use causeway_storage::disk::RealDisk;

    use super::*;

    fn line(epoch: u64) -> Lineage {
        Lineage { epoch: Epoch(epoch), founder: NodeId(3), ..Lineage::default() }
    }

    #[test]
    fn two_that_raise_at_once_leave_a_whole_mark_of_the_greater_line() {
        let dir = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let folder = dir.path().join("lineages");
        let fences = Fences::open(disk.clone(), folder.clone()).unwrap();
        let group = VolumeId(7);
        let raise = |first: u64| {
            for epoch in (first..400).step_by(2) {
                fences.raise(group, line(epoch), NodeId(2), Timestamp(5), None).unwrap();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| raise(1));
            scope.spawn(|| raise(2));
        });
        std::fs::write(folder.join("v7.3.new"), b"torn").unwrap();
        let again = Fences::open(disk, folder.clone()).unwrap();
        let fence = again.get(group).unwrap();
        assert_eq!(Some(&fence), fences.get(group).as_ref());
        assert_eq!(fence.lineage, line(399));
        assert!(fence.left.is_sorted() && fence.left.last().unwrap() < &line(399));
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1);
    }

    #[test]
    fn a_fence_only_rises_and_survives() {
        let dir = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let open = || Fences::open(disk.clone(), dir.path().join("lineages")).unwrap();
        let fences = open();
        let group = VolumeId(7);
        assert_eq!(fences.lineage(group), Lineage::default());
        assert!(fences.raise(group, line(4), NodeId(2), Timestamp(5), None).unwrap());
        assert!(!fences.raise(group, line(4), NodeId(1), Timestamp(6), None).unwrap());
        assert!(!fences.raise(group, line(3), NodeId(1), Timestamp(6), None).unwrap());
        assert!(fences.raise(group, line(5), NodeId(1), Timestamp(7), None).unwrap());
        for epoch in 6..200 {
            fences.raise(group, line(epoch), NodeId(1), Timestamp(7), None).unwrap();
        }
        let again = open();
        assert_eq!(again.get(group), fences.get(group));
        assert_eq!(again.lineage(group), line(199));
        assert_eq!(again.get(group).unwrap().left.len(), LEFT_MAX);

        let path = dir.path().join("lineages/v7.lineage");
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 6;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let damaged = Fences::open(disk.clone(), dir.path().join("lineages"));
        assert!(matches!(damaged, Err(StartError::Fence { .. })));
    }
}
