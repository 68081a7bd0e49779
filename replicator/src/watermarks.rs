//! Watermarks on disk: `docs/formats/watermark.md`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use causeway_base::envelope::{self, Kind};
use causeway_base::{Epoch, VolumeId};
use causeway_replicator_core::Watermark;
use causeway_storage::disk::{Disk, Open};
use serde::{Deserialize, Serialize};

const KIND: Kind = Kind { magic: *b"CWWM", version: 1, payload_bytes_max: 256 };

#[derive(Serialize, Deserialize)]
struct Stored {
    volume: VolumeId,
    epoch: Epoch,
    watermark: Watermark,
}

/// One small file a volume. A lost or damaged one costs a walk over the volume, nothing else.
#[derive(Clone, Debug)]
pub(crate) struct Watermarks {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

impl Watermarks {
    /// Blocks.
    pub(crate) fn open(disk: Arc<dyn Disk>, dir: PathBuf) -> io::Result<Self> {
        disk.create_dir_all(&dir)?;
        Ok(Self { disk, dir })
    }

    /// The watermark of a volume in an epoch; `None` if there is none that can be trusted. Blocks.
    pub(crate) fn load(&self, volume: VolumeId, epoch: Epoch) -> Option<Watermark> {
        let stored = self.read(&self.path(volume)).ok()?;
        match envelope::open_value::<Stored>(KIND, &stored) {
            Ok(stored) if stored.volume == volume && stored.epoch == epoch => Some(stored.watermark),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(%volume, %error, "the watermark cannot be read; checking the whole volume");
                None
            }
        }
    }

    /// Whether the volume has one, of whatever epoch, or may have. Blocks.
    pub(crate) fn exists(&self, volume: VolumeId) -> bool {
        !matches!(self.read(&self.path(volume)), Err(error) if error.kind() == io::ErrorKind::NotFound)
    }

    /// Replaces the watermark of a volume; durable on return. The chunks must be durable before. Blocks.
    pub(crate) fn store(&self, volume: VolumeId, epoch: Epoch, watermark: Watermark) -> io::Result<()> {
        let sealed = envelope::seal_value(KIND, &Stored { volume, epoch, watermark }).map_err(io::Error::other)?;
        let path = self.path(volume);
        let aside = path.with_extension("new");
        match self.disk.remove(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.disk.open(&aside, Open::CreateNew)?;
        file.write_all_at(&sealed, 0)?;
        file.sync_data()?;
        self.disk.rename(&aside, &path)?;
        self.disk.sync_dir(&self.dir)
    }

    /// Removes the watermark of a volume, if it has one; durable on return. Blocks.
    pub(crate) fn remove(&self, volume: VolumeId) -> io::Result<()> {
        match self.disk.remove(&self.path(volume)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => self.disk.sync_dir(&self.dir),
        }
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.disk.open(path, Open::Read)?;
        let most = u64::from(KIND.payload_bytes_max) + envelope::OVERHEAD as u64;
        let len = file.len()?;
        if len > most {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{len} bytes")));
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    fn path(&self, volume: VolumeId) -> PathBuf {
        self.dir.join(format!("{volume}.watermark"))
    }
}

#[cfg(test)]
mod tests {
    use causeway_base::Seq;
    use causeway_storage::disk::RealDisk;

    use super::*;

    #[test]
    fn a_watermark_survives_and_another_epoch_or_damage_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("watermarks");
        let watermarks = Watermarks::open(Arc::new(RealDisk), dir.clone()).unwrap();
        let volume = VolumeId(7);
        assert_eq!(watermarks.load(volume, Epoch(1)), None);
        for seq in [3, 9] {
            let watermark = Watermark { seq: Seq(seq), digest: [5; 32] };
            watermarks.store(volume, Epoch(1), watermark).unwrap();
            assert_eq!(watermarks.load(volume, Epoch(1)), Some(watermark));
        }
        assert_eq!(watermarks.load(volume, Epoch(2)), None);
        assert_eq!(watermarks.load(VolumeId(8), Epoch(1)), None);
        watermarks.store(VolumeId(8), Epoch(1), Watermark { seq: Seq(1), digest: [5; 32] }).unwrap();
        watermarks.remove(VolumeId(8)).unwrap();
        watermarks.remove(VolumeId(8)).unwrap();
        assert_eq!(watermarks.load(VolumeId(8), Epoch(1)), None);
        let path = dir.join("v7.watermark");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(watermarks.load(volume, Epoch(1)), None);
    }
}
