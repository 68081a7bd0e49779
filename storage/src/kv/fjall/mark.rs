//! Remembers how much was persisted, so that its loss is noticed.
//!
//! Each batch carries its number in a record of its own; after each sync the number that it covers is written to the
//! file `persisted`, which is not synced itself. So the file may be behind, but never ahead: a store whose newest batch
//! has a lower number has lost what a sync had confirmed (a disk that lies, a journal that rotted).
//!
//! The file has 24 bytes: `CWKVMARK`, the number as u64, CRC-32C of these 16 bytes as u32 and four zeros, little-endian. A
//! file that is not like that counts as absent, since a power cut can leave it so.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::disk::{Disk, RealDisk};

const MAGIC: &[u8; 8] = b"CWKVMARK";
const NAME: &str = "persisted";

/// The file, open.
#[derive(Debug)]
pub(super) struct Mark(File);

impl Mark {
    /// Opens or creates the file in the folder of a store; with the number that it holds, 0 if none.
    pub(super) fn open(folder: &Path) -> io::Result<(Self, u64)> {
        let path = folder.join(NAME);
        let fresh = !path.exists();
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        if fresh {
            file.write_all_at(&encode(0), 0)?;
            file.sync_all()?;
            RealDisk.sync_dir(folder)?;
        }
        let mut bytes = [0; 24];
        let number = file.read_exact_at(&mut bytes, 0).ok().and_then(|()| decode(&bytes)).unwrap_or(0);
        Ok((Self(file), number))
    }

    /// Notes that all batches up to this one are durable.
    pub(super) fn set(&self, number: u64) {
        // Only the notice of a loss depends on it.
        if let Err(error) = self.0.write_all_at(&encode(number), 0) {
            tracing::warn!(%error, "cannot note how much was persisted");
        }
    }
}

fn encode(number: u64) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..16]);
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; 24]) -> Option<u64> {
    let number = u64::from_le_bytes(bytes[8..16].try_into().ok()?);
    (encode(number) == *bytes).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_comes_back_and_a_broken_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let (mark, before) = Mark::open(folder.path()).unwrap();
        assert_eq!(before, 0);
        mark.set(77);
        assert_eq!(Mark::open(folder.path()).unwrap().1, 77);
        mark.0.write_all_at(&[1], 10).unwrap();
        assert_eq!(Mark::open(folder.path()).unwrap().1, 0);
    }
}
